//! Which nodes of a tree are meant: patterns of paths and names, sizes, times, tags.

use globset::{GlobBuilder, GlobMatcher};
use pgfiles_store::version::Timestamp;
use pgfiles_store::{Entry, Kind};

use super::Node;
use crate::config::units;
use crate::exit::{Failure, Result};

/// What `find` looks for; everything that is given must hold.
#[derive(Debug, Default)]
pub struct Filter {
    name: Option<GlobMatcher>,
    path: Option<GlobMatcher>,
    kind: Option<Kind>,
    size: Option<(std::cmp::Ordering, u64)>,
    newer: Option<Timestamp>,
    older: Option<Timestamp>,
    tags: Vec<(String, Option<String>)>,
    content_type: Option<GlobMatcher>,
}

/// Whether text has a character of a pattern.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// A pattern of a path: `*` stays within a component, `**` does not.
///
/// # Errors
/// What is wrong with it.
pub fn pattern(text: &str) -> Result<GlobMatcher> {
    let built = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
    built.map(|glob| glob.compile_matcher()).map_err(|error| Failure::usage(format!("pattern {text:?}: {}", error.kind())))
}

impl Filter {
    /// Only names that a pattern matches.
    ///
    /// # Errors
    /// What is wrong with the pattern; so too below.
    pub fn name(&mut self, text: &str) -> Result<()> {
        self.name = Some(pattern(text)?);
        Ok(())
    }

    /// Only paths that a pattern matches.
    ///
    /// # Errors
    /// As [`Filter::name`].
    pub fn path(&mut self, text: &str) -> Result<()> {
        self.path = Some(pattern(text)?);
        Ok(())
    }

    /// `f`, `d`, `l` and the like, or a word of `meta.kind`.
    ///
    /// # Errors
    /// It is none.
    pub fn kind(&mut self, text: &str) -> Result<()> {
        const LETTERS: [(&str, Kind); 7] = [
            ("f", Kind::File),
            ("d", Kind::Dir),
            ("l", Kind::Symlink),
            ("p", Kind::Fifo),
            ("s", Kind::Socket),
            ("c", Kind::Char),
            ("b", Kind::Block),
        ];
        let kind = LETTERS.iter().find(|(letter, _)| *letter == text).map(|(_, kind)| *kind).or_else(|| Kind::parse(text));
        self.kind = Some(kind.ok_or_else(|| Failure::usage(format!("--type {text:?}: there are f, d, l, p, s, c and b")))?);
        Ok(())
    }

    /// `+1M` over, `-1M` under, `1M` exactly.
    ///
    /// # Errors
    /// It is no size.
    pub fn size(&mut self, text: &str) -> Result<()> {
        let (order, number) = match text.split_at_checked(1) {
            Some(("+", rest)) => (std::cmp::Ordering::Greater, rest),
            Some(("-", rest)) => (std::cmp::Ordering::Less, rest),
            _ => (std::cmp::Ordering::Equal, text),
        };
        let bytes = units::bytes(number)
            .or_else(|| units::bytes(&format!("{number}iB")))
            .ok_or_else(|| Failure::usage(format!("--size {text:?}: a size such as +1MB, -64KiB or 0")))?;
        self.size = Some((order, bytes));
        Ok(())
    }

    /// Changed since a moment, or within a span before `now`.
    ///
    /// # Errors
    /// It is neither.
    pub fn newer(&mut self, text: &str, now: Timestamp) -> Result<()> {
        self.newer = Some(moment(text, now)?);
        Ok(())
    }

    /// Not changed since then.
    ///
    /// # Errors
    /// As [`Filter::newer`].
    pub fn older(&mut self, text: &str, now: Timestamp) -> Result<()> {
        self.older = Some(moment(text, now)?);
        Ok(())
    }

    /// With a tag, `name` or `name=value`.
    pub fn tag(&mut self, text: &str) {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
        self.tags.push((name.to_owned(), value));
    }

    /// Of a content type: a pattern such as `text/*`.
    ///
    /// # Errors
    /// As [`Filter::name`].
    pub fn content_type(&mut self, text: &str) -> Result<()> {
        self.content_type = Some(pattern(text)?);
        Ok(())
    }

    /// Whether a node is meant.
    pub fn matches(&self, node: &Node) -> bool {
        let head = node.head();
        let meta = head.map(|head| &head.meta);
        let kind = match &node.entry {
            Entry::Dir(_) => Kind::Dir,
            Entry::File(head) => head.meta.kind,
        };
        let bytes = |text: &str| {
            use std::os::unix::ffi::OsStringExt as _;
            std::path::PathBuf::from(std::ffi::OsString::from_vec(pgfiles_store::key::unescape(text)))
        };
        let named = |glob: &GlobMatcher, text: &str| glob.is_match(bytes(text));
        let changed = head.map(super::export::mtime);
        self.name.as_ref().is_none_or(|glob| named(glob, node.name()))
            && self.path.as_ref().is_none_or(|glob| named(glob, &node.path))
            && self.kind.is_none_or(|wanted| wanted == kind)
            && self.size.is_none_or(|(order, size)| kind == Kind::File && meta.is_some_and(|meta| meta.size.cmp(&size) == order))
            && self.newer.is_none_or(|moment| changed.is_some_and(|changed| changed > moment))
            && self.older.is_none_or(|moment| changed.is_some_and(|changed| changed <= moment))
            && self.tags.iter().all(|(name, value)| {
                let has = meta.and_then(|meta| meta.tags.get(name));
                has.is_some_and(|has| value.as_ref().is_none_or(|value| value == has))
            })
            && self
                .content_type
                .as_ref()
                .is_none_or(|glob| meta.and_then(|meta| meta.content_type.as_deref()).is_some_and(|kind| glob.is_match(kind)))
    }
}

/// A moment in RFC 3339, a day, or a span before now.
///
/// # Errors
/// It is none of these.
pub fn moment(text: &str, now: Timestamp) -> Result<Timestamp> {
    let day = || Timestamp::parse(&format!("{text}T00:00:00Z"));
    let span = || {
        let span = units::span(text)?;
        Some(Timestamp { seconds: now.seconds.saturating_sub(i64::try_from(span.as_secs()).ok()?), ..now })
    };
    Timestamp::parse(text).or_else(day).or_else(span).ok_or_else(|| {
        Failure::usage(format!("{text:?} is no moment: a time such as 2026-01-31T12:00:00Z, a day, or a span such as 2h"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgfiles_store::{Head, Key, Meta, VersionId, VersionNo};

    fn node(path: &str, size: u64) -> Node {
        let meta = Meta {
            size,
            content_type: Some("text/plain".into()),
            mtime: Timestamp::parse("2026-01-31T12:00:00Z"),
            tags: [("run".to_owned(), "7".to_owned())].into(),
            ..Meta::default()
        };
        let head =
            Head { key: Key::new(path).unwrap(), id: VersionId(uuid::Uuid::nil()), version: VersionNo(1), meta, data: None };
        Node { path: path.into(), entry: Entry::File(head) }
    }

    #[test]
    fn filters_hold_together() {
        let now = Timestamp::parse("2026-01-31T13:00:00Z").unwrap();
        let check = |set: &dyn Fn(&mut Filter)| {
            let mut filter = Filter::default();
            set(&mut filter);
            filter.matches(&node("a/b.txt", 2_000))
        };
        assert!(check(&|f| f.name("*.txt").unwrap()));
        assert!(!check(&|f| f.name("a*").unwrap()));
        assert!(check(&|f| f.path("a/*.txt").unwrap()));
        assert!(!check(&|f| f.path("*.txt").unwrap()), "a star stays within a component");
        assert!(check(&|f| f.path("**/*.txt").unwrap()));
        assert!(
            check(&|f| f.size("+1kB").unwrap()) && !check(&|f| f.size("-1kB").unwrap()) && check(&|f| f.size("2000").unwrap())
        );
        assert!(check(&|f| f.newer("2h", now).unwrap()) && !check(&|f| f.newer("30m", now).unwrap()));
        assert!(check(&|f| f.older("2026-02-01", now).unwrap()));
        assert!(check(&|f| f.tag("run")) && check(&|f| f.tag("run=7")) && !check(&|f| f.tag("run=8")));
        assert!(check(&|f| f.content_type("text/*").unwrap()) && !check(&|f| f.kind("d").unwrap()));
        assert!(check(&|f| {
            f.tag("run");
            f.name("b.*").unwrap();
        }));
        let mut filter = Filter::default();
        assert!(filter.size("big").is_err() && filter.kind("x").is_err() && filter.newer("yesterday", now).is_err());
        assert!(filter.name("[a").is_err());
    }
}
