//! Paths that are longer than a key can be: a directory whose keys would grow too long keeps its names elsewhere.
//!
//! Its marker, which lies at its path as every marker does, says so in `meta.alias`: the prefix that the keys of its names have
//! instead. An alias lies in a directory above (the deepest whose key has at most [`ANCHOR_BYTES_MAX`] bytes), so that grants and
//! purges of a prefix hold for it, under an empty component, which no path has; the inode number makes it one of a kind. Renaming a
//! directory above moves both and rewrites the alias; the path of what lies below does not matter.
//!
//! [`alias_of`] is pure; [`resolve`] asks the store.

use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, Name, Prefix};
use crate::store::{Entry, Store};

/// The most bytes that the key of a directory has whose names have keys below it: with the longest name, escaped, a key still
/// fits ([`crate::key::KEY_BYTES_MAX`]).
pub const DIR_BYTES_MAX: usize = 1_800;
/// The most bytes of the directory in which an alias lies.
pub const ANCHOR_BYTES_MAX: usize = 1_000;

/// Where a new directory keeps its names, given where its path would have them; `None`: there.
pub fn alias_of(dir: &Prefix, ino: u64) -> Option<Prefix> {
    let text = dir.as_str();
    if text.len() <= DIR_BYTES_MAX {
        return None;
    }
    // A directory that lies in an aliased one stays in the same place.
    let end = text.find("//").map_or(ANCHOR_BYTES_MAX, |at| at.min(ANCHOR_BYTES_MAX));
    let anchor = text.bytes().take(end + 1).rposition(|byte| byte == b'/')?;
    Key::new(&format!("{}/{ino}/", &text[..=anchor])).ok().map(|key| key.as_dir())
}

/// Whether text is an alias that a directory below `root` may have: rows are other people's input.
pub fn parse(alias: &str, root: &Prefix) -> Option<Prefix> {
    let (anchor, rest) = alias.split_once("//")?;
    let number = rest.strip_suffix('/')?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let dir = Prefix::new(anchor).ok().filter(|anchor| !anchor.as_str().is_empty())?;
    let inside = dir.as_str().starts_with(root.as_str());
    (digits && inside).then(|| Key::new(alias).ok()).flatten().map(|key| key.as_dir())
}

/// The key of a path that may be too long for one: `path` is the whole key as it would be, a directory's with its last `/` or
/// without. One round trip for each directory on the way that keeps its names elsewhere or might.
///
/// # Errors
/// [`Kind::NotFound`] where a directory on the way is not there; [`Kind::Invalid`] for what no path can be; what
/// [`Store::lookup`] says.
pub async fn resolve(store: &dyn Store, path: &str) -> Result<Key> {
    let invalid = |error: crate::key::KeyError| StoreError::new(Kind::Invalid, error.to_string());
    let mut base = String::new();
    let body = path.strip_suffix('/').unwrap_or(path);
    let (above, last) = body.rsplit_once('/').unwrap_or(("", body));
    for component in above.split('/').filter(|_| !above.is_empty()) {
        if Name::from_component(component).is_none() {
            return Err(StoreError::new(Kind::Invalid, format!("{component:?} is not a name")));
        }
        base.push_str(component);
        base.push('/');
        if base.len() > DIR_BYTES_MAX {
            let key = Key::new(&base).map_err(invalid)?.as_file();
            match store.lookup(std::slice::from_ref(&key), 0).await?.pop().flatten() {
                Some(Entry::Dir(dir)) => {
                    if let Some(alias) = dir.marker.and_then(|marker| marker.meta.alias) {
                        base = parse(&alias, &Prefix::default())
                            .ok_or_else(|| StoreError::new(Kind::Corrupt, format!("{key:?} has an absurd alias")))?
                            .to_string();
                    }
                }
                _ => return Err(StoreError::new(Kind::NotFound, "a directory on the way to it does not exist")),
            }
        }
    }
    let slash = if path.ends_with('/') { "/" } else { "" };
    Key::new(&format!("{base}{last}{slash}")).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deep(components: usize) -> Prefix {
        Key::new(&format!("{}/", vec!["x".repeat(100); components].join("/"))).unwrap().as_dir()
    }

    #[test]
    fn short_directories_have_none() {
        assert_eq!(alias_of(&deep(17), 7), None);
        assert_eq!(alias_of(&Prefix::default(), 7), None);
    }

    #[test]
    fn it_lies_in_a_directory_above() {
        let alias = alias_of(&deep(18), 7).unwrap();
        assert_eq!(alias.as_str(), format!("{}/7/", deep(9)));
        assert_eq!(parse(alias.as_str(), &deep(3)), Some(alias.clone()));
        assert_eq!(parse(alias.as_str(), &Prefix::new("elsewhere").unwrap()), None);
        let below = Key::new(&format!("{alias}{}/", vec!["y".repeat(220); 5].join("/"))).unwrap().as_dir();
        assert_eq!(alias_of(&below, 8).unwrap().as_str(), format!("{}/8/", deep(9)));
    }

    #[test]
    fn absurd_ones_are_none() {
        for absurd in ["", "a/", "a//", "a//x/", "//7/", "a//7", "a/../b//7/", "a//7/x/"] {
            assert_eq!(parse(absurd, &Prefix::default()), None, "{absurd}");
        }
    }
}
