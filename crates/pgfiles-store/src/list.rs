//! Grouping of sorted keys by the delimiter: which name of a directory a key belongs to, and where the next one starts.
//! Pure.

use crate::key::{Name, Prefix};

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child<'k> {
    /// The component as stored.
    pub component: &'k str,
    /// Whether the key goes on below it.
    pub is_dir: bool,
}

/// The name of `dir` that a key belongs to; `None` for a key outside, for the directory's own marker, and for pgfiles'
/// own rows at the top.
pub fn child<'k>(dir: &Prefix, key: &'k str) -> Option<Child<'k>> {
    let rest = key.strip_prefix(dir.as_str()).filter(|rest| !rest.is_empty())?;
    if dir.as_str().is_empty() && key.starts_with('/') {
        return None;
    }
    Some(match rest.find('/') {
        Some(at) => Child { component: &rest[..at], is_dir: true },
        None => Child { component: rest, is_dir: false },
    })
}

/// Whether a path can have that component: what cannot be named is not listed.
pub fn is_shown(component: &str) -> bool {
    Name::from_component(component).is_some()
}

/// The first text, in byte order, after all that begins with `prefix`; `None` if that is everything. For a directory
/// `a/` it is `a0`, since `0` follows `/`.
pub fn after(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            char::MAX => None,
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_group_by_their_next_component() {
        let dir = Prefix::new("a/b").unwrap();
        let of = |key| child(&dir, key).map(|child| (child.component, child.is_dir));
        assert_eq!(of("a/b/c"), Some(("c", false)));
        assert_eq!(of("a/b/c/"), Some(("c", true)));
        assert_eq!(of("a/b/c/d/e"), Some(("c", true)));
        assert_eq!(of("a/b//e"), Some(("", true)));
        assert_eq!(of("a/b/"), None);
        assert_eq!(of("a/bc"), None);
        assert_eq!(child(&Prefix::default(), "/x"), None);
        assert_eq!(after("a/").as_deref(), Some("a0"));
        assert_eq!(after(""), None);
    }

    proptest! {
        #[test]
        fn after_is_after_all_that_begins_so(prefix in ".{1,8}", rest in ".{0,8}", other in ".{0,8}") {
            let Some(end) = after(&prefix) else { return Ok(()) };
            let below = format!("{prefix}{rest}");
            prop_assert!(below < end);
            prop_assert_eq!(other >= prefix && other < end, other.starts_with(&prefix));
        }
    }
}
