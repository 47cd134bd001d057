//! A small client of NFS v4.1 (RFC 8881), written apart from the server: compounds as a kernel sends them, replies taken apart.
//! It panics where a reply does not follow the protocol.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ChildStderr;
use std::time::Duration;

/// How long a reply may take.
const REPLY_WAIT: Duration = Duration::from_secs(60);

/// Attributes by number.
#[allow(missing_docs)]
pub mod attr {
    pub const SUPPORTED: u32 = 0;
    pub const TYPE: u32 = 1;
    pub const CHANGE: u32 = 3;
    pub const SIZE: u32 = 4;
    pub const FSID: u32 = 8;
    pub const LEASE_TIME: u32 = 10;
    pub const FILEHANDLE: u32 = 19;
    pub const FILEID: u32 = 20;
    pub const MODE: u32 = 33;
    pub const NUMLINKS: u32 = 35;
    pub const OWNER: u32 = 36;
    pub const OWNER_GROUP: u32 = 37;
    pub const SPACE_USED: u32 = 45;
    pub const TIME_ACCESS_SET: u32 = 48;
    pub const TIME_METADATA: u32 = 52;
    pub const TIME_MODIFY: u32 = 53;
    pub const TIME_MODIFY_SET: u32 = 54;
    pub const MOUNTED_ON_FILEID: u32 = 55;
    pub const EXCLCREAT: u32 = 75;
}

/// What `stat` needs.
pub const STAT: &[u32] = &[
    attr::TYPE,
    attr::CHANGE,
    attr::SIZE,
    attr::FILEID,
    attr::MODE,
    attr::NUMLINKS,
    attr::OWNER,
    attr::OWNER_GROUP,
    attr::SPACE_USED,
    attr::TIME_METADATA,
    attr::TIME_MODIFY,
];

/// A stateid as it came.
pub type StateId = [u8; 16];
/// Stands for no open.
pub const ANONYMOUS: StateId = [0; 16];
/// Stands for the stateid of the operation before.
pub const CURRENT: StateId = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where `pgfiles serve-nfs` says that it serves; what it says later goes to this process' stderr.
///
/// # Panics
/// Where it says something else.
pub fn address_said(stderr: ChildStderr) -> SocketAddr {
    let mut lines = BufReader::new(stderr).lines();
    let said = lines.next().expect("it says where it serves").unwrap();
    let address = said.strip_prefix("pgfiles: serving NFS v4.1 on ").and_then(|rest| rest.split(": ").next());
    let address = address.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
    address
}

/// Who a client says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl User {
    /// The superuser.
    pub fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new() }
    }
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A connection, with the user of its calls.
pub struct Connection {
    wire: Box<dyn Wire>,
    xid: u32,
    /// Sent with each call; `None`: AUTH_NONE.
    pub user: Option<User>,
}

/// XDR that is being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Xdr(pub Vec<u8>);

#[allow(missing_docs)]
impl Xdr {
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub fn opaque(self, bytes: &[u8]) -> Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }

    pub fn bitmap(self, numbers: &[u32]) -> Self {
        let mut words = [0_u32; 3];
        for number in numbers {
            words[(number / 32) as usize] |= 1 << (number % 32);
        }
        words.iter().fold(self.u32(3), |out, word| out.u32(*word))
    }

    /// fattr4 of values that are XDR already, ascending by number.
    pub fn attrs(self, values: &[(u32, Xdr)]) -> Self {
        let numbers: Vec<u32> = values.iter().map(|(number, _)| *number).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|(_, value)| value.0.clone()).collect();
        self.bitmap(&numbers).opaque(&bytes)
    }
}

/// XDR that is being read.
#[derive(Debug, Clone)]
pub struct Reading {
    bytes: Vec<u8>,
    at: usize,
}

#[allow(missing_docs)]
impl Reading {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn raw(&mut self, len: usize) -> Vec<u8> {
        let bytes = self.bytes[self.at..self.at + len].to_vec();
        self.at += len.next_multiple_of(4);
        assert!(self.at <= self.bytes.len(), "padding is missing");
        bytes
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        self.raw(N).try_into().unwrap()
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    pub fn bool(&mut self) -> bool {
        match self.u32() {
            0 => false,
            1 => true,
            other => panic!("{other} is no boolean"),
        }
    }

    pub fn opaque(&mut self) -> Vec<u8> {
        let len = self.u32() as usize;
        self.raw(len)
    }

    pub fn bitmap(&mut self) -> Vec<u32> {
        let words: Vec<u32> = (0..self.u32()).map(|_| self.u32()).collect();
        (0..words.len() as u32 * 32).filter(|number| words[(number / 32) as usize] & (1 << (number % 32)) != 0).collect()
    }

    pub fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn attrs(&mut self) -> Attrs {
        let numbers = self.bitmap();
        let mut values = Reading::new(self.opaque());
        let mut out = BTreeMap::new();
        for number in numbers {
            let value = match number {
                attr::SUPPORTED | attr::EXCLCREAT => values.bitmap().iter().flat_map(|number| number.to_be_bytes()).collect(),
                // 32 bits, booleans included.
                1 | 2 | 5..=7 | 9..=11 | 15..=18 | 26 | 28 | 29 | 33..=35 => values.raw(4),
                attr::FSID => values.raw(16),
                attr::FILEHANDLE | attr::OWNER | attr::OWNER_GROUP => values.opaque(),
                41 => values.raw(8),
                // Times.
                47 | 51 | 52 | 53 => values.raw(12),
                _ => values.raw(8),
            };
            out.insert(number, value);
        }
        assert!(values.is_done(), "attributes are followed by bytes of none");
        Attrs(out)
    }
}

/// Attributes of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attrs(pub BTreeMap<u32, Vec<u8>>);

#[allow(missing_docs)]
impl Attrs {
    /// A number of 32 or 64 bits.
    pub fn number(&self, number: u32) -> u64 {
        self.0[&number].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    pub fn time(&self, number: u32) -> (i64, u32) {
        let mut value = Reading::new(self.0[&number].clone());
        (value.u64() as i64, value.u32())
    }

    /// A decimal number that came as text.
    pub fn owner(&self, number: u32) -> u32 {
        String::from_utf8(self.0[&number].clone()).unwrap().parse().unwrap()
    }
}

/// One name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DirEntry {
    pub cookie: u64,
    pub name: Vec<u8>,
    pub attrs: Attrs,
}

/// What an operation answered behind its status.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Got {
    Nothing,
    Handle(Vec<u8>),
    Attrs(Attrs),
    Set(Vec<u32>),
    Access { supported: u32, held: u32 },
    Open { id: StateId, flags: u32, set: Vec<u32> },
    Created { set: Vec<u32> },
    StateId(StateId),
    Denied { offset: u64, length: u64, kind: u32, client: u64, owner: Vec<u8> },
    Read { eof: bool, data: Vec<u8> },
    Written { count: u32, how: u32, verifier: [u8; 8] },
    Verifier([u8; 8]),
    Names { verifier: [u8; 8], names: Vec<DirEntry>, eof: bool },
    Target(Vec<u8>),
    Client { id: u64, sequence: u32, flags: u32 },
    Session { id: [u8; 16], sequence: u32, flags: u32, fore: [u32; 5] },
    Slot { sequence: u32, slot: u32, flags: u32 },
    Words(Vec<u32>),
}

/// An operation of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Answer {
    pub op: u32,
    pub status: u32,
    pub got: Got,
}

/// A reply to a COMPOUND.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Reply {
    pub status: u32,
    pub answers: Vec<Answer>,
}

impl Reply {
    /// Of the last operation.
    pub fn last(&self) -> &Answer {
        self.answers.last().expect("an operation was answered")
    }

    /// What the first answer of an operation holds.
    ///
    /// # Panics
    /// Where there is none.
    pub fn of(&self, op: u32) -> &Got {
        &self.answers.iter().find(|answer| answer.op == op).unwrap_or_else(|| panic!("no answer of {op}: {self:?}")).got
    }

    /// The reply, of a compound that was carried out whole.
    ///
    /// # Panics
    /// Where it was not.
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }

    /// The attributes that the last GETATTR answered.
    pub fn attrs(&self) -> &Attrs {
        let attrs = self.answers.iter().rev().find_map(|answer| match &answer.got {
            Got::Attrs(attrs) => Some(attrs),
            _ => None,
        });
        attrs.expect("attributes were answered")
    }

    /// The handle that GETFH answered.
    pub fn handle(&self) -> Vec<u8> {
        match self.of(op::GETFH) {
            Got::Handle(handle) => handle.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The stateid that an operation answered last.
    pub fn state(&self) -> StateId {
        let state = self.answers.iter().rev().find_map(|answer| match answer.got {
            Got::Open { id, .. } | Got::StateId(id) => Some(id),
            _ => None,
        });
        state.expect("a stateid was answered")
    }
}

/// Numbers of operations.
#[allow(missing_docs)]
pub mod op {
    pub const ACCESS: u32 = 3;
    pub const CLOSE: u32 = 4;
    pub const COMMIT: u32 = 5;
    pub const CREATE: u32 = 6;
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
    pub const OPEN_DOWNGRADE: u32 = 21;
    pub const PUTFH: u32 = 22;
    pub const PUTROOTFH: u32 = 24;
    pub const READ: u32 = 25;
    pub const READDIR: u32 = 26;
    pub const READLINK: u32 = 27;
    pub const REMOVE: u32 = 28;
    pub const RENAME: u32 = 29;
    pub const RESTOREFH: u32 = 31;
    pub const SAVEFH: u32 = 32;
    pub const SECINFO: u32 = 33;
    pub const SETATTR: u32 = 34;
    pub const VERIFY: u32 = 37;
    pub const WRITE: u32 = 38;
    pub const BIND_CONN_TO_SESSION: u32 = 41;
    pub const EXCHANGE_ID: u32 = 42;
    pub const CREATE_SESSION: u32 = 43;
    pub const DESTROY_SESSION: u32 = 44;
    pub const FREE_STATEID: u32 = 45;
    pub const SECINFO_NO_NAME: u32 = 52;
    pub const SEQUENCE: u32 = 53;
    pub const TEST_STATEID: u32 = 55;
    pub const DESTROY_CLIENTID: u32 = 57;
    pub const RECLAIM_COMPLETE: u32 = 58;
}

/// A COMPOUND that is being put together.
#[derive(Debug, Clone, Default)]
pub struct Compound {
    ops: Vec<u8>,
    count: u32,
    /// Instead of 1.
    pub minor: Option<u32>,
}

/// How a file is opened.
#[derive(Debug, Clone)]
pub enum How {
    /// It must be there.
    Existing,
    /// UNCHECKED4, with attributes.
    Create(Vec<(u32, Xdr)>),
    /// GUARDED4.
    Guarded(Vec<(u32, Xdr)>),
    /// EXCLUSIVE4_1.
    Exclusive([u8; 8], Vec<(u32, Xdr)>),
}

/// Which file is opened.
#[derive(Debug, Clone, Copy)]
pub enum Claim<'n> {
    /// A name in the current directory.
    Name(&'n [u8]),
    /// The current file, which was open before the server was restarted.
    Previous,
    /// The current file.
    Handle,
}

#[allow(missing_docs)]
impl Compound {
    pub fn new() -> Self {
        Self::default()
    }

    /// Any operation.
    pub fn op(mut self, number: u32, arguments: Xdr) -> Self {
        self.ops.extend(number.to_be_bytes());
        self.ops.extend(arguments.0);
        self.count += 1;
        self
    }

    fn plain(self, number: u32) -> Self {
        self.op(number, Xdr::default())
    }

    pub fn sequence(self, session: [u8; 16], slot: u32, sequence: u32, keep: bool) -> Self {
        self.op(op::SEQUENCE, Xdr::default().raw(&session).u32(sequence).u32(slot).u32(63).u32(u32::from(keep)))
    }

    pub fn root(self) -> Self {
        self.plain(op::PUTROOTFH)
    }

    pub fn handle(self, handle: &[u8]) -> Self {
        self.op(op::PUTFH, Xdr::default().opaque(handle))
    }

    pub fn save(self) -> Self {
        self.plain(op::SAVEFH)
    }

    pub fn restore(self) -> Self {
        self.plain(op::RESTOREFH)
    }

    pub fn lookup(self, name: &[u8]) -> Self {
        self.op(op::LOOKUP, Xdr::default().opaque(name))
    }

    /// From the root, name by name.
    pub fn path(self, path: &str) -> Self {
        path.split('/').filter(|name| !name.is_empty()).fold(self.root(), |all, name| all.lookup(name.as_bytes()))
    }

    pub fn lookup_parent(self) -> Self {
        self.plain(op::LOOKUPP)
    }

    pub fn getfh(self) -> Self {
        self.plain(op::GETFH)
    }

    pub fn getattr(self, numbers: &[u32]) -> Self {
        self.op(op::GETATTR, Xdr::default().bitmap(numbers))
    }

    pub fn setattr(self, id: StateId, values: &[(u32, Xdr)]) -> Self {
        self.op(op::SETATTR, Xdr::default().raw(&id).attrs(values))
    }

    pub fn verify(self, equal: bool, values: &[(u32, Xdr)]) -> Self {
        self.op(if equal { op::VERIFY } else { op::NVERIFY }, Xdr::default().attrs(values))
    }

    pub fn access(self, bits: u32) -> Self {
        self.op(op::ACCESS, Xdr::default().u32(bits))
    }

    /// `access` and `deny`: 1 to read, 2 to write.
    pub fn open(self, owner: &[u8], (access, deny): (u32, u32), how: &How, claim: Claim<'_>) -> Self {
        let start = Xdr::default().u32(0).u32(access).u32(deny).u64(0).opaque(owner);
        let made = match how {
            How::Existing => start.u32(0),
            How::Create(values) => start.u32(1).u32(0).attrs(values),
            How::Guarded(values) => start.u32(1).u32(1).attrs(values),
            How::Exclusive(verifier, values) => start.u32(1).u32(3).raw(verifier).attrs(values),
        };
        let all = match claim {
            Claim::Name(name) => made.u32(0).opaque(name),
            Claim::Previous => made.u32(1).u32(0),
            Claim::Handle => made.u32(4),
        };
        self.op(op::OPEN, all)
    }

    pub fn downgrade(self, id: StateId, access: u32, deny: u32) -> Self {
        self.op(op::OPEN_DOWNGRADE, Xdr::default().raw(&id).u32(0).u32(access).u32(deny))
    }

    pub fn close(self, id: StateId) -> Self {
        self.op(op::CLOSE, Xdr::default().u32(0).raw(&id))
    }

    pub fn read(self, id: StateId, offset: u64, count: u32) -> Self {
        self.op(op::READ, Xdr::default().raw(&id).u64(offset).u32(count))
    }

    /// `how`: 0 unstable, 1 and 2 on the server's disk.
    pub fn write(self, id: StateId, offset: u64, how: u32, data: &[u8]) -> Self {
        self.op(op::WRITE, Xdr::default().raw(&id).u64(offset).u32(how).opaque(data))
    }

    pub fn commit(self) -> Self {
        self.op(op::COMMIT, Xdr::default().u64(0).u32(0))
    }

    pub fn mkdir(self, name: &[u8], mode: u32) -> Self {
        self.op(op::CREATE, Xdr::default().u32(2).opaque(name).attrs(&[(attr::MODE, Xdr::default().u32(mode))]))
    }

    pub fn symlink(self, name: &[u8], target: &[u8]) -> Self {
        self.op(op::CREATE, Xdr::default().u32(5).opaque(target).opaque(name).attrs(&[]))
    }

    /// 6 is a socket, 7 a FIFO; 3 and 4 are devices, with numbers.
    pub fn node(self, kind: u32, numbers: Option<(u32, u32)>, name: &[u8], mode: u32) -> Self {
        let start = Xdr::default().u32(kind);
        let start = numbers.into_iter().fold(start, |out, (major, minor)| out.u32(major).u32(minor));
        self.op(op::CREATE, start.opaque(name).attrs(&[(attr::MODE, Xdr::default().u32(mode))]))
    }

    pub fn remove(self, name: &[u8]) -> Self {
        self.op(op::REMOVE, Xdr::default().opaque(name))
    }

    pub fn rename(self, from: &[u8], to: &[u8]) -> Self {
        self.op(op::RENAME, Xdr::default().opaque(from).opaque(to))
    }

    pub fn link(self, name: &[u8]) -> Self {
        self.op(op::LINK, Xdr::default().opaque(name))
    }

    pub fn readlink(self) -> Self {
        self.plain(op::READLINK)
    }

    pub fn readdir(self, cookie: u64, verifier: [u8; 8], bytes: u32, numbers: &[u32]) -> Self {
        self.op(op::READDIR, Xdr::default().u64(cookie).raw(&verifier).u32(bytes).u32(bytes).bitmap(numbers))
    }

    /// `kind`: 1 shared, 2 exclusive. By an owner that has no lock of the file yet.
    pub fn lock_new(self, kind: u32, reclaim: bool, range: (u64, u64), open: StateId, owner: &[u8]) -> Self {
        let start = Xdr::default().u32(kind).u32(u32::from(reclaim)).u64(range.0).u64(range.1).u32(1);
        self.op(op::LOCK, start.u32(0).raw(&open).u32(0).u64(0).opaque(owner))
    }

    /// By one that has.
    pub fn lock(self, kind: u32, range: (u64, u64), id: StateId) -> Self {
        self.op(op::LOCK, Xdr::default().u32(kind).u32(0).u64(range.0).u64(range.1).u32(0).raw(&id).u32(0))
    }

    pub fn lockt(self, kind: u32, range: (u64, u64), owner: &[u8]) -> Self {
        self.op(op::LOCKT, Xdr::default().u32(kind).u64(range.0).u64(range.1).u64(0).opaque(owner))
    }

    pub fn locku(self, range: (u64, u64), id: StateId) -> Self {
        self.op(op::LOCKU, Xdr::default().u32(1).u32(0).raw(&id).u64(range.0).u64(range.1))
    }

    pub fn openattr(self) -> Self {
        self.op(op::OPENATTR, Xdr::default().u32(1))
    }

    /// The arguments of the procedure.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Xdr::default().opaque(b"test").u32(self.minor.unwrap_or(1)).u32(self.count).0;
        out.extend(&self.ops);
        out
    }
}

impl Connection {
    /// To a port.
    ///
    /// # Panics
    /// Where nobody listens.
    pub fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(REPLY_WAIT)).unwrap();
        Self::over(stream)
    }

    /// To a socket.
    ///
    /// # Panics
    /// Where nobody listens.
    pub fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(REPLY_WAIT)).unwrap();
        Self::over(stream)
    }

    fn over(wire: impl Read + Write + Send + 'static) -> Self {
        Self { wire: Box::new(wire), xid: 1, user: Some(User::root()) }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// What the system says.
    pub fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.wire.write_all(bytes)
    }

    /// A record, without its header.
    ///
    /// # Errors
    /// What the system says; the end.
    pub fn receive(&mut self) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        loop {
            let mut header = [0; 4];
            self.wire.read_exact(&mut header)?;
            let word = u32::from_be_bytes(header);
            let start = out.len();
            out.resize(start + (word & 0x7fff_ffff) as usize, 0);
            self.wire.read_exact(&mut out[start..])?;
            if word >> 31 == 1 {
                return Ok(out);
            }
        }
    }

    /// A call of any program.
    pub fn call_record(&mut self, (program, version, procedure): (u32, u32, u32), arguments: &[u8]) -> Vec<u8> {
        self.xid += 1;
        let header = Xdr::default().u32(self.xid).u32(0).u32(2).u32(program).u32(version).u32(procedure);
        let header = match &self.user {
            None => header.u32(0).u32(0),
            Some(user) => {
                let body = Xdr::default().u32(0).opaque(b"test").u32(user.uid).u32(user.gid);
                let body = user.groups.iter().fold(body.u32(user.groups.len() as u32), |out, group| out.u32(*group));
                header.u32(1).opaque(&body.0)
            }
        };
        let mut record = header.u32(0).u32(0).0;
        record.extend(arguments);
        record
    }

    /// Sends a COMPOUND; the reply is to be received.
    ///
    /// # Errors
    /// What the system says.
    pub fn send(&mut self, compound: &Compound) -> std::io::Result<()> {
        let record = self.call_record((100_003, 4, 1), &compound.encode());
        let mut framed = (record.len() as u32 | 1 << 31).to_be_bytes().to_vec();
        framed.extend(record);
        self.wire.write_all(&framed)
    }

    /// The reply to the COMPOUND that was sent.
    ///
    /// # Panics
    /// Where it is none.
    pub fn reply(&mut self) -> Reply {
        let mut reply = Reading::new(self.receive().expect("a reply"));
        reply.u32();
        assert_eq!([reply.u32(), reply.u32(), reply.u32(), reply.u32(), reply.u32()], [1, 0, 0, 0, 0], "not carried out");
        decode(reply)
    }

    /// One COMPOUND.
    ///
    /// # Panics
    /// As [`Connection::reply`].
    pub fn compound(&mut self, compound: &Compound) -> Reply {
        self.send(compound).unwrap();
        self.reply()
    }
}

fn decode(mut reply: Reading) -> Reply {
    let status = reply.u32();
    assert_eq!(reply.opaque(), b"test", "the tag comes back");
    let count = reply.u32();
    let answers: Vec<Answer> = (0..count).map(|_| answer(&mut reply)).collect();
    assert!(reply.is_done(), "bytes behind the reply");
    if let Some(last) = answers.last() {
        assert_eq!(last.status, status, "the status is that of the last operation");
        assert!(answers.iter().rev().skip(1).all(|answer| answer.status == 0), "nothing follows a failure");
    }
    Reply { status, answers }
}

fn answer(reply: &mut Reading) -> Answer {
    let (op, status) = (reply.u32(), reply.u32());
    const DENIED: u32 = 10_010;
    let got = match (op, status) {
        (op::SETATTR, _) => Got::Set(reply.bitmap()),
        (op::LOCK | op::LOCKT, DENIED) => Got::Denied {
            offset: reply.u64(),
            length: reply.u64(),
            kind: reply.u32(),
            client: reply.u64(),
            owner: reply.opaque(),
        },
        (_, 0) => carried_out(op, reply),
        _ => Got::Nothing,
    };
    Answer { op, status, got }
}

fn carried_out(op: u32, reply: &mut Reading) -> Got {
    match op {
        op::ACCESS => Got::Access { supported: reply.u32(), held: reply.u32() },
        op::CLOSE | op::LOCK | op::LOCKU | op::OPEN_DOWNGRADE => Got::StateId(reply.array()),
        op::COMMIT => Got::Verifier(reply.array()),
        op::CREATE => {
            change_info(reply);
            Got::Created { set: reply.bitmap() }
        }
        op::GETATTR => Got::Attrs(reply.attrs()),
        op::GETFH => Got::Handle(reply.opaque()),
        op::LINK | op::REMOVE => {
            change_info(reply);
            Got::Nothing
        }
        op::RENAME => {
            change_info(reply);
            change_info(reply);
            Got::Nothing
        }
        op::OPEN => {
            let id = reply.array();
            change_info(reply);
            let got = Got::Open { id, flags: reply.u32(), set: reply.bitmap() };
            assert_eq!(reply.u32(), 0, "no delegation was asked for");
            got
        }
        op::READ => Got::Read { eof: reply.bool(), data: reply.opaque() },
        op::READDIR => {
            let verifier = reply.array();
            let mut names = Vec::new();
            while reply.bool() {
                names.push(DirEntry { cookie: reply.u64(), name: reply.opaque(), attrs: reply.attrs() });
            }
            Got::Names { verifier, names, eof: reply.bool() }
        }
        op::READLINK => Got::Target(reply.opaque()),
        op::WRITE => Got::Written { count: reply.u32(), how: reply.u32(), verifier: reply.array() },
        op::SECINFO | op::SECINFO_NO_NAME | op::TEST_STATEID => Got::Words((0..reply.u32()).map(|_| reply.u32()).collect()),
        op::SEQUENCE => {
            reply.array::<16>();
            let (sequence, slot, _highest, _target, flags) = (reply.u32(), reply.u32(), reply.u32(), reply.u32(), reply.u32());
            Got::Slot { sequence, slot, flags }
        }
        op::EXCHANGE_ID => {
            let got = Got::Client { id: reply.u64(), sequence: reply.u32(), flags: reply.u32() };
            assert_eq!(reply.u32(), 0, "SP4_NONE");
            reply.u64();
            reply.opaque();
            reply.opaque();
            for _ in 0..reply.u32() {
                reply.opaque();
                reply.opaque();
                reply.u64();
                reply.u32();
            }
            got
        }
        op::CREATE_SESSION => {
            let (id, sequence, flags) = (reply.array(), reply.u32(), reply.u32());
            let fore = channel(reply);
            channel(reply);
            Got::Session { id, sequence, flags, fore }
        }
        op::BIND_CONN_TO_SESSION => {
            reply.array::<16>();
            Got::Words(vec![reply.u32(), reply.u32()])
        }
        _ => Got::Nothing,
    }
}

fn change_info(reply: &mut Reading) {
    reply.bool();
    let (before, after) = (reply.u64(), reply.u64());
    assert!(before <= after, "a directory's change attribute never goes back");
}

/// Bytes of a request, of a reply, of one that is kept; operations; slots.
fn channel(reply: &mut Reading) -> [u32; 5] {
    reply.u32();
    let channel = [reply.u32(), reply.u32(), reply.u32(), reply.u32(), reply.u32()];
    for _ in 0..reply.u32() {
        reply.u32();
    }
    channel
}

/// A client with one session, which uses one slot.
pub struct Client {
    /// What it speaks over.
    pub connection: Connection,
    /// Its id.
    pub id: u64,
    /// Its session.
    pub session: [u8; 16],
    /// Of the slot's last request.
    pub sequence: u32,
    /// Which slot.
    pub slot: u32,
}

/// EXCHANGE_ID as a kernel sends it.
pub fn exchange_id(owner: &[u8], verifier: u64, flags: u32) -> Compound {
    let start = Xdr::default().u64(verifier).opaque(owner).u32(flags).u32(0);
    let implementation = start.u32(1).opaque(b"example.org").opaque(b"test").u64(0).u32(0);
    Compound::new().op(op::EXCHANGE_ID, implementation)
}

/// CREATE_SESSION as macOS sends it: 64 slots, 20 operations, 8 KiB of a reply kept.
pub fn create_session(client: u64, sequence: u32) -> Compound {
    let channel =
        |out: Xdr, slots: u32| out.u32(0).u32((1 << 20) + 4096).u32((1 << 20) + 4096).u32(8192).u32(20).u32(slots).u32(0);
    let start = channel(Xdr::default().u64(client).u32(sequence).u32(0), 64);
    Compound::new().op(op::CREATE_SESSION, channel(start, 4).u32(0).u32(1).u32(0))
}

impl Client {
    /// Introduces itself, makes a session, and has nothing to take back.
    ///
    /// # Panics
    /// Where the server does not answer as it has to.
    pub fn new(connection: Connection, owner: &[u8], verifier: u64) -> Self {
        let mut client = Self::before_reclaim(connection, owner, verifier);
        client.reclaim_complete();
        client
    }

    /// The same of a client that may have something to take back.
    pub fn before_reclaim(mut connection: Connection, owner: &[u8], verifier: u64) -> Self {
        let reply = connection.compound(&exchange_id(owner, verifier, 0)).ok();
        let Got::Client { id, sequence, .. } = *reply.of(op::EXCHANGE_ID) else { panic!("{reply:?}") };
        let reply = connection.compound(&create_session(id, sequence)).ok();
        let Got::Session { id: session, flags, .. } = *reply.of(op::CREATE_SESSION) else { panic!("{reply:?}") };
        assert_eq!(flags, 0, "macOS refuses what it did not ask for");
        Self { connection, id, session, sequence: 0, slot: 0 }
    }

    /// RECLAIM_COMPLETE.
    pub fn reclaim_complete(&mut self) {
        self.run(|all| all.op(op::RECLAIM_COMPLETE, Xdr::default().u32(0))).ok();
    }

    /// A further slot of the session, over a connection of its own.
    pub fn beside(&self, connection: Connection, slot: u32) -> Self {
        Self { connection, id: self.id, session: self.session, sequence: 0, slot }
    }

    /// SEQUENCE, and what is put behind it.
    pub fn next(&mut self, keep: bool, rest: impl FnOnce(Compound) -> Compound) -> Compound {
        self.sequence += 1;
        rest(Compound::new().sequence(self.session, self.slot, self.sequence, keep))
    }

    /// Carries out a compound; its reply is kept by the server.
    pub fn run(&mut self, rest: impl FnOnce(Compound) -> Compound) -> Reply {
        let compound = self.next(true, rest);
        self.connection.compound(&compound)
    }

    /// The same of what only asks.
    pub fn ask(&mut self, rest: impl FnOnce(Compound) -> Compound) -> Reply {
        let compound = self.next(false, rest);
        self.connection.compound(&compound)
    }
}
