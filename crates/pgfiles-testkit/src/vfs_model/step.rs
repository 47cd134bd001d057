//! One operation of a run, as data: made by the generator, carried out by the runner, left out by the shrinker, and kept
//! as a line of text in a regression test.

use std::fmt;
use std::str::FromStr;

/// Names in the tree; a path in a [`Step`] is a letter for each: `cab` is `NAMES[2]/NAMES[0]/NAMES[1]`.
pub const NAMES: [&[u8]; 8] = [b"a", b"b", b"c.db", b"a-b", b"a.txt", "\u{fc}".as_bytes(), b"\xff\xfe", "\u{F780}x".as_bytes()];

macro_rules! whats {
    ($($(#[$doc:meta])* $what:ident $word:literal,)*) => {
        /// What is done; `n` stands for [`Step::n`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum What { $($(#[$doc])* $what,)* }

        impl What {
            const ALL: &[(What, &str)] = &[$((What::$what, $word),)*];
        }
    };
}

whats! {
    /// Opens a name, creating it: n0 has the bits 1 write, 2 append, 4 truncate, 8 exclusive.
    Create "create",
    /// Opens a name that is there; n0 as for create.
    Open "open",
    /// At offset n0, n1 bytes, from seed n2.
    Write "write",
    /// At offset n0, n1 bytes.
    Read "read",
    /// A descriptor is closed n0 times, then the description.
    Close "close",
    /// A duplicate of the descriptor is closed.
    Dup "dup",
    /// fsync.
    Fsync "fsync",
    /// Through the description: to n0.
    Ftruncate "ftruncate",
    /// By name: to n0.
    Truncate "truncate",
    /// n0: 0 reserve, 1 reserve and keep the size, 2 zero, 3 zero and keep the size, 4 punch; from n1, n2 bytes.
    Allocate "allocate",
    /// From the slot at n0 to the slot n3 at n1, n2 bytes.
    Copy "copy",
    /// Walks over data and holes.
    Seek "seek",
    /// mkdir.
    Mkdir "mkdir",
    /// symlink.
    Symlink "symlink",
    /// mknod of a pipe.
    Fifo "fifo",
    /// unlink.
    Unlink "unlink",
    /// rmdir.
    Rmdir "rmdir",
    /// rename; n0: RENAME_NOREPLACE.
    Rename "rename",
    /// RENAME_EXCHANGE.
    Exchange "exchange",
    /// link.
    Link "link",
    /// link of an open file, maybe one without a name.
    LinkOpen "linkopen",
    /// n0 has the bits 1 mode n1, 2 owner n2, 4 mtime n3, 8 atime n3, 16 group n2.
    SetAttr "setattr",
    /// The attribute n0 is set to n2 bytes of seed n3 (n1 = 0) or removed.
    Xattr "xattr",
    /// Pages of n0, with attributes if n1.
    ReadDir "readdir",
    /// Publishes everything.
    Flush "flush",
    /// Gives back all lookups, as a kernel short of memory does.
    Forget "forget",
    /// An orderly end of the mount, and another one.
    Remount "remount",
    /// The mount dies, and another one starts.
    Kill "kill",
    /// n0 milliseconds pass.
    Wait "wait",
    /// All but n0 versions of a name go; 0: all.
    Purge "purge",
    /// The same below a directory; n0 is not 0.
    PurgeDir "purgedir",
    /// Version n0 of a name comes back.
    Restore "restore",
    /// Another client writes a file of n1 bytes, from seed n2.
    Put "put",
    /// Another client deletes a file.
    Delete "delete",
    /// INSERT of a row of n1 bytes, from seed n2.
    Insert "insert",
    /// UPDATE of the head's data to n1 bytes, from seed n2.
    Update "update",
    /// DELETE of the head.
    DeleteRow "deleterow",
}

/// An operation. What it does not apply to, by then, it leaves alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub what: What,
    /// On which mount.
    pub at: usize,
    /// Which of the mount's open files.
    pub slot: usize,
    /// Letters of names; empty is the root.
    pub path: String,
    /// The other path of a rename, exchange or link.
    pub to: String,
    /// See [`What`].
    pub n: [u64; 4],
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = What::ALL.iter().find(|(what, _)| *what == self.what).map_or("?", |(_, word)| word);
        write!(f, "{word} {} {} /{} /{}", self.at, self.slot, self.path, self.to)?;
        self.n.iter().try_for_each(|n| write!(f, " {n}"))
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let bad = || format!("{line:?} is no step");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [word, at, slot, path, to, n @ ..] = words.as_slice() else { return Err(bad()) };
        let what = What::ALL.iter().find(|(_, name)| name == word).ok_or_else(bad)?.0;
        let number = |text: &str| text.parse::<u64>().map_err(|_| bad());
        let letters = |text: &str| {
            let path = text.strip_prefix('/').ok_or_else(bad)?;
            if path.bytes().all(|letter| name(letter).is_some()) { Ok(path.to_owned()) } else { Err(bad()) }
        };
        let n: Vec<u64> = n.iter().map(|text| number(text)).collect::<Result<_, _>>()?;
        Ok(Self {
            what,
            at: number(at)? as usize,
            slot: number(slot)? as usize,
            path: letters(path)?,
            to: letters(to)?,
            n: n.try_into().map_err(|_| bad())?,
        })
    }
}

/// The name that a letter stands for.
pub fn name(letter: u8) -> Option<&'static [u8]> {
    NAMES.get(usize::from(letter.checked_sub(b'a')?)).copied()
}

/// Steps, one a line; empty lines do not count.
///
/// # Panics
/// Where a line is none.
pub fn parse(text: &str) -> Vec<Step> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| line.parse().expect("a step")).collect()
}

/// The bytes that a seed stands for.
pub fn bytes(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len as usize + 8);
    while bytes.len() < len as usize {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}
