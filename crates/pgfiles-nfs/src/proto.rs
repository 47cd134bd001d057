//! The numbers of NFS v4.1 (RFC 8881, RFC 5662): operations, statuses, attributes, flags, and the bounds of what is
//! accepted.

/// Operations by their numbers (RFC 8881 §16.2). Those of other minor versions are not here: OP_ILLEGAL.
#[allow(missing_docs)]
pub mod op {
    pub const ACCESS: u32 = 3;
    pub const CLOSE: u32 = 4;
    pub const COMMIT: u32 = 5;
    pub const CREATE: u32 = 6;
    pub const DELEGPURGE: u32 = 7;
    pub const DELEGRETURN: u32 = 8;
    pub const GETATTR: u32 = 9;
    pub const GETFH: u32 = 10;
    pub const LINK: u32 = 11;
    pub const LOCK: u32 = 12;
    pub const LOCKT: u32 = 13;
    pub const LOCKU: u32 = 14;
    pub const LOOKUP: u32 = 15;
    pub const LOOKUPP: u32 = 16;
    pub const NVERIFY: u32 = 17;
    pub const OPEN: u32 = 18;
    pub const OPENATTR: u32 = 19;
    pub const OPEN_CONFIRM: u32 = 20;
    pub const OPEN_DOWNGRADE: u32 = 21;
    pub const PUTFH: u32 = 22;
    pub const PUTPUBFH: u32 = 23;
    pub const PUTROOTFH: u32 = 24;
    pub const READ: u32 = 25;
    pub const READDIR: u32 = 26;
    pub const READLINK: u32 = 27;
    pub const REMOVE: u32 = 28;
    pub const RENAME: u32 = 29;
    pub const RENEW: u32 = 30;
    pub const RESTOREFH: u32 = 31;
    pub const SAVEFH: u32 = 32;
    pub const SECINFO: u32 = 33;
    pub const SETATTR: u32 = 34;
    pub const SETCLIENTID: u32 = 35;
    pub const SETCLIENTID_CONFIRM: u32 = 36;
    pub const VERIFY: u32 = 37;
    pub const WRITE: u32 = 38;
    pub const RELEASE_LOCKOWNER: u32 = 39;
    pub const BACKCHANNEL_CTL: u32 = 40;
    pub const BIND_CONN_TO_SESSION: u32 = 41;
    pub const EXCHANGE_ID: u32 = 42;
    pub const CREATE_SESSION: u32 = 43;
    pub const DESTROY_SESSION: u32 = 44;
    pub const FREE_STATEID: u32 = 45;
    pub const GET_DIR_DELEGATION: u32 = 46;
    pub const GETDEVICEINFO: u32 = 47;
    pub const GETDEVICELIST: u32 = 48;
    pub const LAYOUTCOMMIT: u32 = 49;
    pub const LAYOUTGET: u32 = 50;
    pub const LAYOUTRETURN: u32 = 51;
    pub const SECINFO_NO_NAME: u32 = 52;
    pub const SEQUENCE: u32 = 53;
    pub const SET_SSV: u32 = 54;
    pub const TEST_STATEID: u32 = 55;
    pub const WANT_DELEGATION: u32 = 56;
    pub const DESTROY_CLIENTID: u32 = 57;
    pub const RECLAIM_COMPLETE: u32 = 58;
    pub const ILLEGAL: u32 = 10_044;
}

/// nfsstat4 (RFC 8881 §15.1). Each is answered by some line of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum Status {
    Ok = 0,
    Perm = 1,
    NoEnt = 2,
    Io = 5,
    Nxio = 6,
    Access = 13,
    Exist = 17,
    XDev = 18,
    NotDir = 20,
    IsDir = 21,
    Inval = 22,
    FBig = 27,
    NoSpc = 28,
    RoFs = 30,
    MLink = 31,
    NameTooLong = 63,
    NotEmpty = 66,
    Stale = 70,
    BadHandle = 10_001,
    BadCookie = 10_003,
    NotSupp = 10_004,
    TooSmall = 10_005,
    ServerFault = 10_006,
    BadType = 10_007,
    Delay = 10_008,
    Same = 10_009,
    Denied = 10_010,
    Expired = 10_011,
    Locked = 10_012,
    Grace = 10_013,
    ShareDenied = 10_015,
    ClidInUse = 10_017,
    NoFileHandle = 10_020,
    MinorVersMismatch = 10_021,
    StaleClientId = 10_022,
    OldStateId = 10_024,
    BadStateId = 10_025,
    NotSame = 10_027,
    Symlink = 10_029,
    AttrNotSupp = 10_032,
    NoGrace = 10_033,
    ReclaimBad = 10_034,
    BadXdr = 10_036,
    LocksHeld = 10_037,
    OpenMode = 10_038,
    BadOwner = 10_039,
    BadName = 10_041,
    OpIllegal = 10_044,
    BadSession = 10_052,
    BadSlot = 10_053,
    CompleteAlready = 10_054,
    SeqMisordered = 10_063,
    SequencePos = 10_064,
    ReqTooBig = 10_065,
    RepTooBig = 10_066,
    RepTooBigToCache = 10_067,
    RetryUncachedRep = 10_068,
    TooManyOps = 10_070,
    OpNotInSession = 10_071,
    ClientIdBusy = 10_074,
    SeqFalseRetry = 10_076,
    NotOnlyOp = 10_081,
    WrongType = 10_083,
}

/// Attributes by their numbers (RFC 8881 §5.8).
#[allow(missing_docs)]
pub mod attr {
    pub const SUPPORTED_ATTRS: u32 = 0;
    pub const TYPE: u32 = 1;
    pub const FH_EXPIRE_TYPE: u32 = 2;
    pub const CHANGE: u32 = 3;
    pub const SIZE: u32 = 4;
    pub const LINK_SUPPORT: u32 = 5;
    pub const SYMLINK_SUPPORT: u32 = 6;
    pub const NAMED_ATTR: u32 = 7;
    pub const FSID: u32 = 8;
    pub const UNIQUE_HANDLES: u32 = 9;
    pub const LEASE_TIME: u32 = 10;
    pub const RDATTR_ERROR: u32 = 11;
    pub const CANSETTIME: u32 = 15;
    pub const CASE_INSENSITIVE: u32 = 16;
    pub const CASE_PRESERVING: u32 = 17;
    pub const CHOWN_RESTRICTED: u32 = 18;
    pub const FILEHANDLE: u32 = 19;
    pub const FILEID: u32 = 20;
    pub const FILES_AVAIL: u32 = 21;
    pub const FILES_FREE: u32 = 22;
    pub const FILES_TOTAL: u32 = 23;
    pub const HOMOGENEOUS: u32 = 26;
    pub const MAXFILESIZE: u32 = 27;
    pub const MAXLINK: u32 = 28;
    pub const MAXNAME: u32 = 29;
    pub const MAXREAD: u32 = 30;
    pub const MAXWRITE: u32 = 31;
    pub const MODE: u32 = 33;
    pub const NO_TRUNC: u32 = 34;
    pub const NUMLINKS: u32 = 35;
    pub const OWNER: u32 = 36;
    pub const OWNER_GROUP: u32 = 37;
    pub const RAWDEV: u32 = 41;
    pub const SPACE_AVAIL: u32 = 42;
    pub const SPACE_FREE: u32 = 43;
    pub const SPACE_TOTAL: u32 = 44;
    pub const SPACE_USED: u32 = 45;
    pub const TIME_ACCESS: u32 = 47;
    pub const TIME_ACCESS_SET: u32 = 48;
    pub const TIME_DELTA: u32 = 51;
    pub const TIME_METADATA: u32 = 52;
    pub const TIME_MODIFY: u32 = 53;
    pub const TIME_MODIFY_SET: u32 = 54;
    pub const MOUNTED_ON_FILEID: u32 = 55;
    pub const SUPPATTR_EXCLCREAT: u32 = 75;
}

/// nfs_ftype4.
#[allow(missing_docs)]
pub mod file_type {
    pub const REG: u32 = 1;
    pub const DIR: u32 = 2;
    pub const BLK: u32 = 3;
    pub const CHR: u32 = 4;
    pub const LNK: u32 = 5;
    pub const SOCK: u32 = 6;
    pub const FIFO: u32 = 7;
    pub const ATTRDIR: u32 = 8;
    pub const NAMEDATTR: u32 = 9;
}

/// Bits of ACCESS.
#[allow(missing_docs)]
pub mod access {
    pub const READ: u32 = 0x01;
    pub const LOOKUP: u32 = 0x02;
    pub const MODIFY: u32 = 0x04;
    pub const EXTEND: u32 = 0x08;
    pub const DELETE: u32 = 0x10;
    pub const EXECUTE: u32 = 0x20;
}

/// Bits of share_access and share_deny; what a client wants of delegations is above them and not granted.
#[allow(missing_docs)]
pub mod share {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const BOTH: u32 = 3;
}

/// Flags of EXCHANGE_ID.
#[allow(missing_docs)]
pub mod exchange {
    pub const USE_NON_PNFS: u32 = 0x0001_0000;
    pub const UPD_CONFIRMED_REC_A: u32 = 0x4000_0000;
    pub const CONFIRMED_R: u32 = 0x8000_0000;
    /// All that a client may set.
    pub const MASK: u32 = 0x4007_0103;
}

/// Result flags of OPEN.
pub mod open_result {
    /// Byte-range locks are POSIX's.
    pub const LOCKTYPE_POSIX: u32 = 4;
    /// A removed file lives until its last CLOSE: a client need not rename it.
    pub const PRESERVE_UNLINKED: u32 = 8;
}

/// How WRITE and COMMIT leave the data.
#[allow(missing_docs)]
pub mod stable {
    pub const UNSTABLE: u32 = 0;
    pub const FILE_SYNC: u32 = 2;
}

/// `NFS4_OPAQUE_LIMIT`.
pub const OPAQUE_MAX: usize = 1024;
/// `NFS4_FHSIZE`.
pub const FILEHANDLE_MAX: usize = 128;
/// Longer names are refused; read up to this so that the refusal names the right reason.
pub const NAME_READ_MAX: usize = 4096;
/// Bytes of a name, as everywhere here.
pub const NAME_MAX: usize = 255;
/// Words of a bitmap that are read; the highest attribute of 4.1 is in the third.
pub const BITMAP_WORDS_MAX: usize = 8;
/// Bytes of a READ or a WRITE.
pub const IO_BYTES_MAX: u32 = 1 << 20;
/// What a request may add to the data that it carries.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;
/// A record; a longer one closes the connection.
pub const RECORD_BYTES_MAX: usize = (IO_BYTES_MAX + HEADER_BYTES_MAX) as usize;
/// Operations of a COMPOUND.
pub const OPERATIONS_MAX: u32 = 64;
/// Slots of a session.
pub const SLOTS_MAX: u32 = 64;
/// A reply that a slot keeps.
pub const CACHED_BYTES_MAX: u32 = 8 << 10;
