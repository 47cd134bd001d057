//! Who may do what. Over FUSE the kernel checks modes; a client of NFS believes the server, so they are checked here, as the
//! kernel does it for a local disk (`man 7 path_resolution`, `man 7 credentials`).

use pgfiles_store::version::Kind;
use pgfiles_vfs::{Attr, Caller, SetAttr, SetTime};

use crate::proto::{Status, access};
use crate::rpc::{Credential, Sys};

/// Permission to read a file or list a directory.
pub(crate) const READ: u32 = 4;
/// Permission to write a file or change the names in a directory.
pub(crate) const WRITE: u32 = 2;
/// Permission to execute a file or look names up in a directory.
pub(crate) const EXECUTE: u32 = 1;

const STICKY: u32 = 0o1000;
const SET_GROUP_ID: u32 = 0o2000;
/// Who makes a call without a credential.
const NOBODY: u32 = 65_534;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Who {
    pub fn of(credential: &Credential) -> Self {
        match credential {
            Credential::Sys(Sys { uid, gid, groups }) => Self { uid: *uid, gid: *gid, groups: groups.clone() },
            Credential::None => Self { uid: NOBODY, gid: NOBODY, groups: Vec::new() },
        }
    }

    pub fn caller(&self) -> Caller {
        Caller { uid: self.uid, gid: self.gid }
    }

    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }

    fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    fn owns(&self, attr: &Attr) -> bool {
        self.is_root() || self.uid == attr.uid
    }

    /// Whether all that is wanted is allowed.
    pub fn may(&self, attr: &Attr, want: u32) -> bool {
        if self.is_root() {
            // Root may all but execute what nobody may.
            return want & EXECUTE == 0 || attr.kind == Kind::Dir || attr.mode & 0o111 != 0;
        }
        let granted = if self.uid == attr.uid {
            attr.mode >> 6
        } else if self.is_in(attr.gid) {
            attr.mode >> 3
        } else {
            attr.mode
        };
        granted & want == want
    }

    /// The same, as a result.
    ///
    /// # Errors
    /// [`Status::Access`].
    pub fn check(&self, attr: &Attr, want: u32) -> Result<(), Status> {
        if self.may(attr, want) { Ok(()) } else { Err(Status::Access) }
    }

    /// Whether names may come and go in a directory.
    ///
    /// # Errors
    /// [`Status::Access`].
    pub fn check_names(&self, dir: &Attr) -> Result<(), Status> {
        self.check(dir, WRITE | EXECUTE)
    }

    /// Whether this name may go from a directory: out of a sticky one only the owner's, of either.
    ///
    /// # Errors
    /// [`Status::Access`], [`Status::Perm`].
    pub fn check_removal(&self, dir: &Attr, file: &Attr) -> Result<(), Status> {
        self.check_names(dir)?;
        if dir.mode & STICKY != 0 && !self.owns(dir) && !self.owns(file) { Err(Status::Perm) } else { Ok(()) }
    }

    /// Which of the asked bits of ACCESS hold.
    pub fn access(&self, attr: &Attr, asked: u32) -> u32 {
        let is_dir = attr.kind == Kind::Dir;
        let bits = [
            (access::READ, READ),
            (access::LOOKUP, if is_dir { EXECUTE } else { 0 }),
            (access::MODIFY, WRITE),
            (access::EXTEND, WRITE),
            (access::DELETE, if is_dir { WRITE } else { 0 }),
            (access::EXECUTE, if is_dir { 0 } else { EXECUTE }),
        ];
        let held = bits.iter().filter(|(_, want)| *want != 0 && self.may(attr, *want)).fold(0, |held, (bit, _)| held | bit);
        held & asked
    }

    /// The bits of ACCESS that mean something for a kind of file.
    pub fn supported_access(kind: Kind) -> u32 {
        let both = access::READ | access::MODIFY | access::EXTEND;
        if kind == Kind::Dir { both | access::LOOKUP | access::DELETE } else { both | access::EXECUTE }
    }

    /// Whether attributes may be set as wished, and what is to be set then: set-group-id goes where who sets the mode is not of
    /// the group (`man 2 chmod`). `open`: it is for a file that is open for writing, which may get another size.
    ///
    /// # Errors
    /// [`Status::Perm`], [`Status::Access`].
    pub fn check_set(&self, attr: &Attr, mut set: SetAttr, open: bool) -> Result<SetAttr, Status> {
        if set.size.is_some() && !open {
            self.check(attr, WRITE)?;
        }
        if self.is_root() {
            return Ok(set);
        }
        if set.mode.is_some() && !self.owns(attr) {
            return Err(Status::Perm);
        }
        if set.uid.is_some_and(|uid| uid != attr.uid || !self.owns(attr)) {
            return Err(Status::Perm);
        }
        if set.gid.is_some_and(|gid| !self.owns(attr) || (gid != attr.gid && !self.is_in(gid))) {
            return Err(Status::Perm);
        }
        for time in [set.atime, set.mtime].into_iter().flatten() {
            match time {
                SetTime::At(_) if !self.owns(attr) => return Err(Status::Perm),
                SetTime::Now if !self.owns(attr) => self.check(attr, WRITE)?,
                _ => {}
            }
        }
        if let Some(mode) = set.mode
            && attr.kind != Kind::Dir
            && mode & SET_GROUP_ID != 0
            && !self.is_in(set.gid.unwrap_or(attr.gid))
        {
            set.mode = Some(mode & !SET_GROUP_ID);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use pgfiles_store::version::Timestamp;
    use pgfiles_vfs::InodeNo;

    use super::*;

    fn attr(kind: Kind, mode: u32, uid: u32, gid: u32) -> Attr {
        let at = Timestamp::default();
        Attr { ino: InodeNo(2), kind, size: 0, allocated: 0, mode, nlink: 1, uid, gid, rdev: 0, atime: at, mtime: at, ctime: at }
    }

    fn who(uid: u32, gid: u32, groups: &[u32]) -> Who {
        Who { uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn one_class_decides() {
        let file = attr(Kind::File, 0o047, 10, 20);
        assert!(!who(10, 20, &[]).may(&file, READ), "the owner has no right that others have");
        assert!(who(11, 1, &[20]).may(&file, READ), "by a supplementary group");
        assert!(!who(11, 20, &[]).may(&file, WRITE));
        assert!(who(11, 1, &[]).may(&file, READ | WRITE | EXECUTE));
        assert!(who(0, 0, &[]).may(&file, READ | WRITE | EXECUTE));
        assert!(!who(0, 0, &[]).may(&attr(Kind::File, 0o666, 10, 20), EXECUTE));
    }

    #[test]
    fn out_of_a_sticky_directory_only_by_an_owner() {
        let dir = attr(Kind::Dir, 0o1777, 1, 1);
        let file = attr(Kind::File, 0o666, 10, 20);
        assert_eq!(who(11, 20, &[]).check_removal(&dir, &file), Err(Status::Perm));
        for owner in [0, 1, 10] {
            assert_eq!(who(owner, 5, &[]).check_removal(&dir, &file), Ok(()));
        }
    }

    #[test]
    fn set_group_id_goes_with_who_is_not_of_the_group() {
        let file = attr(Kind::File, 0o644, 10, 20);
        let set = SetAttr { mode: Some(0o2755), ..SetAttr::default() };
        assert_eq!(who(10, 1, &[]).check_set(&file, set, false).unwrap().mode, Some(0o755));
        assert_eq!(who(10, 20, &[]).check_set(&file, set, false).unwrap().mode, Some(0o2755));
        assert_eq!(who(11, 20, &[]).check_set(&file, set, false), Err(Status::Perm));
    }
}
