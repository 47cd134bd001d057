//! Keys, prefixes and names: the only place that knows how a path becomes a key.
//!
//! A key is `prefix + path`, components separated by `/`, compared as bytes. A name is any 1 to 255 bytes but `/` and
//! NUL, as on a local disk; inside a key it is text, because the table's column is `TEXT`. The escape between the two
//! is total and reversible: a byte that is not part of valid UTF-8 becomes `U+F700 + byte`, a name that already holds
//! a character of `U+F780..=U+F7FF` is escaped byte by byte, every other name is stored as it is.
//!
//! Pure: no I/O, no clock.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest key in bytes: an index entry of Postgres ends at 2,704 bytes.
pub const KEY_BYTES_MAX: usize = 2_600;
/// The longest name in bytes, as on ext4 and in `NAME_MAX`.
pub const NAME_BYTES_MAX: usize = 255;

const ESCAPE_BASE: u32 = 0xF700;
const ESCAPED: std::ops::RangeInclusive<char> = '\u{F780}'..='\u{F7FF}';

/// Why bytes or text are not a key or a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing between two slashes, or an empty key.
    #[error("a name must not be empty")]
    Empty,
    /// `.` or `..`, which no directory entry can be.
    #[error("{0:?} is not a name")]
    Dot(String),
    /// A slash or a NUL byte inside a name, a NUL inside a key.
    #[error("a name must not contain '/' or NUL")]
    Forbidden,
    /// Over [`NAME_BYTES_MAX`].
    #[error("name of {0} bytes: at most 255 fit")]
    NameTooLong(usize),
    /// Over [`KEY_BYTES_MAX`].
    #[error("key of {0} bytes: at most 2600 fit")]
    KeyTooLong(usize),
    /// Begins with `/`: pgfiles' own rows live there.
    #[error("key {0:?} begins with '/', which is reserved for pgfiles")]
    Reserved(String),
}

/// One component of a path, as the program in the sandbox spells it: 1 to 255 bytes without `/` and NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks the bytes of one component.
    ///
    /// # Errors
    /// [`KeyError`] naming the rule that the bytes break.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.is_empty() {
            return Err(KeyError::Empty);
        }
        if bytes == b"." || bytes == b".." {
            return Err(KeyError::Dot(String::from_utf8_lossy(bytes).into_owned()));
        }
        if bytes.iter().any(|&b| b == b'/' || b == 0) {
            return Err(KeyError::Forbidden);
        }
        if bytes.len() > NAME_BYTES_MAX {
            return Err(KeyError::NameTooLong(bytes.len()));
        }
        Ok(Self(bytes.into()))
    }

    /// The name behind one component of a key; `None` for a component that no path can have (empty, `.`, `..`,
    /// too long, or an escape that [`Name::component`] would never write).
    pub fn from_component(component: &str) -> Option<Self> {
        let name = Self::new(&unescape(component)).ok()?;
        (name.component() == component).then_some(name)
    }

    /// The bytes, as `readdir` shows them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How the name is written inside a key.
    pub fn component(&self) -> Cow<'_, str> {
        escape(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

/// Writes any bytes as text, reversibly, also used for the targets of symlinks.
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
    let holds_escapes = |text: &str| text.chars().any(|c| ESCAPED.contains(&c));
    match std::str::from_utf8(bytes) {
        Ok(text) if !holds_escapes(text) => Cow::Borrowed(text),
        Ok(_) => Cow::Owned(bytes.iter().map(|&b| escape_byte(b)).collect()),
        Err(_) if bytes.utf8_chunks().any(|chunk| holds_escapes(chunk.valid())) => {
            Cow::Owned(bytes.iter().map(|&b| escape_byte(b)).collect())
        }
        Err(_) => {
            let mut out = String::with_capacity(bytes.len() + 8);
            for chunk in bytes.utf8_chunks() {
                out.push_str(chunk.valid());
                out.extend(chunk.invalid().iter().map(|&b| escape_byte(b)));
            }
            Cow::Owned(out)
        }
    }
}

/// The bytes behind text written by [`escape`]. Total: any text yields some bytes.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut utf8 = [0; 4];
    for c in text.chars() {
        if ESCAPED.contains(&c) {
            out.push((u32::from(c) - ESCAPE_BASE) as u8);
        } else {
            out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
        }
    }
    out
}

/// Bytes below 0x80 are always valid alone, so only the high half is ever escaped.
fn escape_byte(byte: u8) -> char {
    if byte < 0x80 { char::from(byte) } else { char::from_u32(ESCAPE_BASE + u32::from(byte)).unwrap_or('\u{FFFD}') }
}

/// The whole key of a row: never empty, no NUL. A marker's key ends in `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(Arc<str>);

impl Key {
    /// Checks a key that a user or a row brings. Accepts what the table may hold, reserved and odd keys included.
    ///
    /// # Errors
    /// [`KeyError::Empty`], [`KeyError::Forbidden`] for NUL, [`KeyError::KeyTooLong`].
    pub fn new(key: &str) -> Result<Self, KeyError> {
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        if key.contains('\0') {
            return Err(KeyError::Forbidden);
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(KeyError::KeyTooLong(key.len()));
        }
        Ok(Self(key.into()))
    }

    /// A key that a path below `root` can have: every component is a [`Name`]; a trailing `/` makes it a marker's.
    ///
    /// # Errors
    /// [`KeyError`] naming the component and the rule.
    pub fn from_path(root: &Prefix, path: &str) -> Result<Self, KeyError> {
        if path.starts_with('/') {
            return Err(KeyError::Reserved(path.to_owned()));
        }
        let body = path.strip_suffix('/').unwrap_or(path);
        for component in body.split('/') {
            if Name::from_component(component).is_none() {
                Name::new(component.as_bytes())?;
                return Err(KeyError::Forbidden);
            }
        }
        Self::new(&format!("{root}{path}"))
    }

    /// The text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the key of a directory's marker row.
    pub fn is_marker(&self) -> bool {
        self.0.ends_with('/')
    }

    /// Whether pgfiles keeps its own rows there (bodies, mounts).
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('/')
    }

    /// The directory that holds this key: everything up to and with the last `/` that ends a parent; "" at the top.
    pub fn parent(&self) -> Prefix {
        let body = self.0.strip_suffix('/').unwrap_or(&self.0);
        Prefix(body.rfind('/').map_or("", |at| &body[..=at]).into())
    }

    /// The last component, as text, without a marker's `/`.
    pub fn component(&self) -> &str {
        let body = self.0.strip_suffix('/').unwrap_or(&self.0);
        body.rfind('/').map_or(body, |at| &body[at + 1..])
    }

    /// The same place as a directory: `a/b` and `a/b/` both give `a/b/`.
    pub fn as_dir(&self) -> Prefix {
        if self.is_marker() { Prefix(self.0.clone()) } else { Prefix(format!("{}/", self.0).into()) }
    }

    /// The same place as a file's key: without a trailing `/`.
    pub fn as_file(&self) -> Key {
        if self.is_marker() { Key(self.0[..self.0.len() - 1].into()) } else { self.clone() }
    }
}

/// What a mount is scoped to, and any directory: "" or text that ends in `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// The prefix that a user names: `agents/7` and `agents/7/` are the same; "" is the whole table.
    ///
    /// # Errors
    /// [`KeyError::Reserved`] for a leading `/`, and what [`Name`] refuses in a component.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        Ok(Key::from_path(&Self::default(), text)?.as_dir())
    }

    /// The text: "" or ending in `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of a file of that name in this directory.
    ///
    /// # Errors
    /// [`KeyError::KeyTooLong`].
    pub fn file(&self, name: &Name) -> Result<Key, KeyError> {
        Key::new(&format!("{}{}", self.0, name.component()))
    }

    /// The directory of that name in this one.
    ///
    /// # Errors
    /// [`KeyError::KeyTooLong`].
    pub fn dir(&self, name: &Name) -> Result<Prefix, KeyError> {
        Ok(Key::new(&format!("{}{}/", self.0, name.component()))?.as_dir())
    }

    /// The key of this directory's marker row; `None` for "", which needs none.
    pub fn marker(&self) -> Option<Key> {
        (!self.0.is_empty()).then(|| Key(self.0.clone()))
    }

    /// Whether a key lies below this prefix or is its marker.
    pub fn contains(&self, key: &Key) -> bool {
        key.0.starts_with(&*self.0)
    }

    /// The part of a key after this prefix.
    pub fn strip<'k>(&self, key: &'k Key) -> Option<&'k str> {
        key.0.strip_prefix(&*self.0)
    }
}

/// The inode number of a directory (or file) whose row names none: the first 8 bytes of SHA-256 of its key with the
/// trailing `/`, big endian, the top bit set. Numbers that are given out have that bit clear.
pub fn implied_ino(place: &Prefix) -> u64 {
    let hash = <sha2::Sha256 as sha2::Digest>::digest(place.0.as_bytes());
    hash.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte)) | 1 << 63
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::new(&text)
    }
}

/// Any directory, one of pgfiles' own and one of an alias included.
impl TryFrom<String> for Prefix {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        if text.is_empty() { Ok(Self::default()) } else { Ok(Key::new(&text)?.as_dir()) }
    }
}

macro_rules! text {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl From<$t> for String {
            fn from(text: $t) -> Self { text.0.as_ref().to_owned() }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:?}", &*self.0) }
        }
    )*};
}
text!(Key, Prefix);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_names_are_stored_as_they_are() {
        for name in ["a", "über", "日本", "a b", ".x", "..."] {
            assert_eq!(Name::new(name.as_bytes()).unwrap().component(), name);
        }
    }

    #[test]
    fn parents_and_components() {
        let key = Key::new("agents/7/a.txt").unwrap();
        assert_eq!(key.parent().as_str(), "agents/7/");
        assert_eq!(key.component(), "a.txt");
        let marker = Key::new("agents/7/").unwrap();
        assert_eq!(marker.parent().as_str(), "agents/");
        assert_eq!(marker.component(), "7");
        assert_eq!(Key::new("top").unwrap().parent().as_str(), "");
    }

    #[test]
    fn a_prefix_has_one_spelling() {
        assert_eq!(Prefix::new("agents/7").unwrap(), Prefix::new("agents/7/").unwrap());
        for bad in ["/x", "a//b", "../x", "a/./b"] {
            assert!(Prefix::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn escape_is_reversible(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(unescape(&escape(&bytes)), bytes);
        }

        #[test]
        fn two_names_never_share_a_component(a in proptest::collection::vec(1u8.., 1..12), b in proptest::collection::vec(1u8.., 1..12)) {
            prop_assert_eq!(escape(&a) == escape(&b), a == b);
        }

        #[test]
        fn any_component_is_a_name_or_refused(text in ".{0,80}") {
            if let Some(name) = Name::from_component(&text) {
                prop_assert_eq!(name.component(), text);
            }
        }
    }
}
