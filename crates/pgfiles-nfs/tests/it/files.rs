//! What a kernel does with files, compound by compound.

use std::time::{Duration, Instant};

use pgfiles_testkit::nfs_client::{ANONYMOUS, CURRENT, Claim, Client, Compound, Got, How, STAT, StateId, Xdr, attr, op};

use crate::served::served;

const NOENT: u32 = 2;
const ACCESS: u32 = 13;
const EXIST: u32 = 17;
const STALE: u32 = 70;
const OPENMODE: u32 = 10_038;
const SHARE_DENIED: u32 = 10_015;
const BAD_STATEID: u32 = 10_025;
const OLD_STATEID: u32 = 10_024;
const SAME: u32 = 10_009;
const NOT_SAME: u32 = 10_027;

fn mode(mode: u32) -> Vec<(u32, Xdr)> {
    vec![(attr::MODE, Xdr::default().u32(mode))]
}

/// OPEN with creation, as macOS sends it, and its handle and stateid.
fn create(client: &mut Client, name: &str) -> (Vec<u8>, StateId) {
    let how = How::Create(mode(0o644));
    let reply =
        client.run(|all| all.root().save().open(b"owner", (3, 0), &how, Claim::Name(name.as_bytes())).getfh().getattr(STAT)).ok();
    (reply.handle(), reply.state())
}

fn read(client: &mut Client, path: &str) -> Vec<u8> {
    let reply = client.ask(|all| all.path(path).read(ANONYMOUS, 0, 1 << 20)).ok();
    match reply.of(op::READ) {
        Got::Read { eof: true, data } => data.clone(),
        other => panic!("{other:?}"),
    }
}

/// NFS.md §2: OPEN, WRITE unstable, COMMIT, CLOSE is one save and one version (§18.3, §18.32).
#[test]
fn a_save_is_one_version() {
    let served = served();
    let mut client = served.client();
    let (file, id) = create(&mut client, "f");
    let reply = client.run(|all| all.handle(&file).write(id, 0, 0, b"hello ").getattr(STAT)).ok();
    let Got::Written { count: 6, how: 0, verifier } = *reply.of(op::WRITE) else { panic!("{reply:?}") };
    assert_eq!(reply.attrs().number(attr::SIZE), 6, "attributes are never older than the write before them");
    client.run(|all| all.handle(&file).write(id, 6, 0, b"world")).ok();
    assert_eq!(served.versions("f"), 1, "its creation, which the writes go on with");
    let committed = client.run(|all| all.handle(&file).commit()).ok();
    assert_eq!(*committed.of(op::COMMIT), Got::Verifier(verifier));
    assert_eq!(served.versions("f"), 1);
    client.run(|all| all.handle(&file).write(id, 11, 0, b"!").commit()).ok();
    client.run(|all| all.handle(&file).close(id)).ok();
    assert_eq!(served.versions("f"), 1, "of one open");
    assert_eq!(read(&mut client, "f"), b"hello world!");
    assert_eq!(client.run(|all| all.handle(&file).close(id)).status, BAD_STATEID);
}

/// CLOSE without COMMIT, as Linux sends it late: what is left is published (§18.2).
#[test]
fn a_close_publishes_what_is_left() {
    let served = served();
    let mut client = served.client();
    let (file, id) = create(&mut client, "f");
    client.run(|all| all.handle(&file).write(id, 0, 0, b"x").close(id)).ok();
    assert_eq!(served.versions("f"), 1);
    let (empty, id) = create(&mut client, "empty");
    client.run(|all| all.handle(&empty).close(id)).ok();
    assert_eq!(served.versions("empty"), 1);
}

/// NFS.md §2, an editor's save: a temporary file that is renamed over the old one, which keeps its own number (§18.26).
#[test]
fn an_atomic_save_replaces_a_file() {
    let served = served();
    let mut client = served.client();
    for (name, text) in [("f", "old"), (".f.tmp", "new")] {
        let (file, id) = create(&mut client, name);
        client.run(|all| all.handle(&file).write(id, 0, 2, text.as_bytes()).close(id)).ok();
    }
    let temporary = client.ask(|all| all.path(".f.tmp").getattr(STAT)).ok();
    let old = client.ask(|all| all.path("f").getfh()).ok().handle();
    client.run(|all| all.root().save().root().rename(b".f.tmp", b"f")).ok();
    let now = client.ask(|all| all.path("f").getattr(STAT)).ok();
    assert_eq!(now.attrs().number(attr::FILEID), temporary.attrs().number(attr::FILEID));
    assert!(now.attrs().number(attr::CHANGE) >= temporary.attrs().number(attr::CHANGE), "it never goes back");
    assert_eq!(read(&mut client, "f"), b"new");
    assert_eq!(client.ask(|all| all.handle(&old).getattr(STAT)).status, STALE);
    assert_eq!(client.ask(|all| all.path(".f.tmp")).status, NOENT);
}

/// §18.16, OPEN4_RESULT_PRESERVE_UNLINKED: a plain REMOVE, and the file lives until its last CLOSE; so it does when it is replaced.
#[test]
fn a_removed_file_lives_until_it_is_closed() {
    let served = served();
    let mut client = served.client();
    let (file, id) = create(&mut client, "f");
    let Got::Open { flags, .. } =
        *client.run(|all| all.root().open(b"owner", (1, 0), &How::Existing, Claim::Name(b"f"))).ok().of(op::OPEN)
    else {
        panic!()
    };
    assert_eq!(flags & 8, 8);
    let id = StateId::try_from([&2_u32.to_be_bytes()[..], &id[4..]].concat()).unwrap();
    client.run(|all| all.handle(&file).write(id, 0, 0, b"kept").commit()).ok();
    client.run(|all| all.root().remove(b"f")).ok();
    assert_eq!(client.ask(|all| all.path("f")).status, NOENT);
    let reply = client.ask(|all| all.handle(&file).read(id, 0, 10).getattr(STAT)).ok();
    assert_eq!(*reply.of(op::READ), Got::Read { eof: true, data: b"kept".to_vec() });
    assert_eq!(reply.attrs().number(attr::NUMLINKS), 0);
    client.run(|all| all.handle(&file).write(id, 4, 0, b" still").close(id)).ok();
    assert_eq!(client.ask(|all| all.handle(&file).getattr(STAT)).status, STALE);
    assert_eq!(served.server.status().open_files, 0);
}

/// §9.7, §9.11, §18.16.3, §18.18.
#[test]
fn opens_are_upgraded_and_downgraded() {
    let served = served();
    let mut client = served.client();
    let (file, writer) = create(&mut client, "f");
    client.run(|all| all.handle(&file).write(writer, 0, 0, b"abc").close(writer)).ok();
    let open = |client: &mut Client, owner: &[u8], access, deny| {
        client.run(|all| all.root().open(owner, (access, deny), &How::Existing, Claim::Name(b"f")))
    };
    let reader = open(&mut client, b"o", 1, 0).ok().state();
    assert_eq!(client.run(|all| all.handle(&file).write(reader, 0, 0, b"x")).status, OPENMODE);
    let both = open(&mut client, b"o", 2, 1).ok().state();
    assert_eq!(both[4..], reader[4..], "one stateid for an owner and file");
    assert_eq!(client.run(|all| all.handle(&file).read(reader, 0, 9)).status, OLD_STATEID);
    assert_eq!(open(&mut client, b"p", 1, 0).status, SHARE_DENIED);
    assert_eq!(client.run(|all| all.handle(&file).read(ANONYMOUS, 0, 9)).status, 10_012, "NFS4ERR_LOCKED");
    client.run(|all| all.handle(&file).write(both, 3, 0, b"def")).ok();
    let less = client.run(|all| all.handle(&file).downgrade(both, 1, 0)).ok().state();
    assert_eq!(client.run(|all| all.handle(&file).write(less, 0, 0, b"x")).status, OPENMODE);
    open(&mut client, b"p", 1, 0).ok();
    client.run(|all| all.handle(&file).close(less)).ok();
    assert_eq!(read(&mut client, "f"), b"abcdef");
}

/// §18.16.3: GUARDED4 refuses, EXCLUSIVE4_1 knows its own.
#[test]
fn creations_that_must_be_new() {
    let served = served();
    let mut client = served.client();
    let open = |client: &mut Client, how: &How| client.run(|all| all.root().open(b"o", (2, 0), how, Claim::Name(b"f")));
    open(&mut client, &How::Exclusive([1; 8], mode(0o640))).ok();
    open(&mut client, &How::Exclusive([1; 8], mode(0o640))).ok();
    assert_eq!(open(&mut client, &How::Exclusive([2; 8], mode(0o640))).status, EXIST);
    assert_eq!(open(&mut client, &How::Guarded(mode(0o640))).status, EXIST);
    let stat = client.ask(|all| all.path("f").getattr(STAT)).ok();
    assert_eq!(stat.attrs().number(attr::MODE), 0o640, "the attributes came with it");
}

/// §18.16.3: UNCHECKED4 of an existing file takes its emptiness and nothing else.
#[test]
fn an_existing_file_is_emptied_by_its_creation() {
    let served = served();
    let mut client = served.client();
    let (file, id) = create(&mut client, "f");
    client.run(|all| all.handle(&file).write(id, 0, 2, b"abc").close(id)).ok();
    let wishes = vec![(attr::SIZE, Xdr::default().u64(0)), (attr::MODE, Xdr::default().u32(0o600))];
    let reply = client.run(|all| all.root().open(b"o", (2, 0), &How::Create(wishes), Claim::Name(b"f")).getattr(STAT)).ok();
    assert_eq!((reply.attrs().number(attr::SIZE), reply.attrs().number(attr::MODE)), (0, 0o644));
    let Got::Open { set, .. } = reply.of(op::OPEN) else { panic!() };
    assert_eq!(set, &[attr::SIZE]);
}

/// §16.2.3.1.2: the current stateid.
#[test]
fn one_compound_opens_writes_and_closes() {
    let served = served();
    let mut client = served.client();
    let how = How::Create(mode(0o644));
    let save = |all: pgfiles_testkit::nfs_client::Compound| {
        all.root().open(b"o", (2, 0), &how, Claim::Name(b"f")).write(CURRENT, 0, 0, b"at once").close(CURRENT)
    };
    client.run(save).ok();
    assert_eq!(read(&mut client, "f"), b"at once");
    assert_eq!(client.run(|all| all.path("f").write(CURRENT, 0, 0, b"x")).status, BAD_STATEID);
}

/// `man 7 path_resolution`, by the server: a client of NFS believes it.
#[test]
fn who_may_not_does_not() {
    let served = served();
    let mut root = served.client();
    root.run(|all| all.root().mkdir(b"theirs", 0o750)).ok();
    let owner = |uid: u32| Xdr::default().opaque(uid.to_string().as_bytes());
    root.run(|all| all.path("theirs").setattr(ANONYMOUS, &[(attr::OWNER, owner(10)), (attr::OWNER_GROUP, owner(20))])).ok();
    let mut other = served.client_as("other", 11, 21, &[]);
    let mut member = served.client_as("member", 12, 22, &[30, 20]);
    let mut them = served.client_as("them", 10, 20, &[]);
    let how = How::Create(mode(0o600));
    them.run(|all| all.path("theirs").open(b"o", (2, 0), &how, Claim::Name(b"f")).write(CURRENT, 0, 2, b"x").close(CURRENT)).ok();
    assert_eq!(other.run(|all| all.path("theirs/f")).status, ACCESS);
    assert_eq!(member.run(|all| all.path("theirs/f").read(ANONYMOUS, 0, 1)).status, ACCESS);
    assert_eq!(member.run(|all| all.path("theirs").remove(b"f")).status, ACCESS);
    assert_eq!(member.run(|all| all.path("theirs").open(b"o", (1, 0), &How::Existing, Claim::Name(b"f"))).status, ACCESS);
    assert_eq!(member.run(|all| all.path("theirs/f").setattr(ANONYMOUS, &mode(0o666))).status, 1);
    let reply = member.run(|all| all.path("theirs").access(0x3f)).ok();
    assert_eq!(*reply.of(op::ACCESS), Got::Access { supported: 0x1f, held: 0x03 });
    let by_handle = them.ask(|all| all.path("theirs/f").getfh()).ok().handle();
    assert_eq!(other.run(|all| all.handle(&by_handle).read(ANONYMOUS, 0, 1)).status, ACCESS, "a handle opens nothing");
    them.run(|all| all.path("theirs").remove(b"f")).ok();
}

/// §18.15, §18.31.
#[test]
fn attributes_are_compared() {
    let served = served();
    let mut client = served.client();
    let kind = |number: u32| vec![(attr::TYPE, Xdr::default().u32(number))];
    client.ask(|all| all.root().verify(true, &kind(2)).getfh()).ok();
    assert_eq!(client.ask(|all| all.root().verify(true, &kind(1))).status, NOT_SAME);
    assert_eq!(client.ask(|all| all.root().verify(false, &kind(2))).status, SAME);
    client.ask(|all| all.root().verify(false, &kind(1)).getfh()).ok();
}

/// §5.8.2.19 and NFS.md §2: a number of 0 anywhere is a panic of the kernel.
#[test]
fn numbers_of_files_are_never_zero() {
    let served = served();
    let mut client = served.client();
    let (file, _) = create(&mut client, "f");
    for handle in [None, Some(&file)] {
        let numbers = [attr::FILEID, attr::MOUNTED_ON_FILEID, attr::FSID, attr::LEASE_TIME, attr::SUPPORTED, attr::EXCLCREAT];
        let reply =
            client.ask(|all| handle.map_or_else(|| all.clone().root(), |file| all.clone().handle(file)).getattr(&numbers)).ok();
        for number in [attr::FILEID, attr::MOUNTED_ON_FILEID] {
            assert_ne!(reply.attrs().number(number), 0);
        }
        assert!(reply.attrs().0[&attr::FSID].iter().any(|byte| *byte != 0));
        assert_eq!(reply.attrs().0.len(), numbers.len(), "all are told");
    }
}

/// A large read and write, without a piece missing.
#[test]
fn a_mebibyte_at_a_time() {
    let served = served();
    let mut client = served.client();
    let (file, id) = create(&mut client, "f");
    let piece: Vec<u8> = (0..1_u32 << 20).map(|n| ((n * 7) >> 3) as u8).collect();
    for n in 0..5 {
        client.run(|all| all.handle(&file).write(id, n << 20, 0, &piece)).ok();
    }
    client.run(|all| all.handle(&file).commit()).ok();
    for n in 0..5 {
        let reply = client.ask(|all| all.handle(&file).read(id, n << 20, 1 << 20)).ok();
        assert_eq!(*reply.of(op::READ), Got::Read { eof: n == 4, data: piece.clone() });
    }
    let reply = client.ask(|all| all.handle(&file).read(id, 5 << 20, 1 << 20)).ok();
    assert_eq!(*reply.of(op::READ), Got::Read { eof: true, data: vec![] });
    client.run(|all| all.handle(&file).close(id)).ok();
}

/// Requests of one connection wait for the store beside one another: all of them are there before the first is answered.
#[test]
fn slots_wait_beside_one_another() {
    use pgfiles_testkit::fault::{Call, Fault};
    const SLOTS: u32 = 8;
    let served = served();
    let client = served.client();
    let mut connection = served.connect();
    let how = How::Create(mode(0o644));
    let mut send = |sequence: u32, all: &dyn Fn(Compound, &[u8]) -> Compound| {
        for slot in 1..=SLOTS {
            let name = format!("f{slot}");
            let compound = all(Compound::new().sequence(client.session, slot, sequence, true).root(), name.as_bytes());
            connection.send(&compound).unwrap();
        }
    };
    served.faults.reset_counts();
    served.faults.plan(Some(Call::Commit), 0, Fault::Hold, SLOTS.into());
    send(1, &|all, name| all.open(name, (2, 0), &how, Claim::Name(name)).write(CURRENT, 0, 0, b"x").close(CURRENT));
    let until = Instant::now() + Duration::from_secs(30);
    while served.faults.calls(Call::Commit) < SLOTS.into() {
        assert!(Instant::now() < until, "only {} commits are under way", served.faults.calls(Call::Commit));
        std::thread::sleep(Duration::from_millis(5));
    }
    served.faults.release();
    for _ in 0..SLOTS {
        connection.reply().ok();
    }
}

/// NFS.md §2: a store that is away is a delay; what was asked for is not done later, and may be asked for again.
#[test]
fn a_store_that_is_away_is_a_delay() {
    use pgfiles_store::error::Kind;
    use pgfiles_testkit::fault::{Call, Fault};
    let served = served();
    let mut client = served.client();
    served.faults.plan(Some(Call::Commit), 0, Fault::Fail(Kind::Unavailable), 1000);
    assert_eq!(client.run(|all| all.root().mkdir(b"d", 0o755)).status, 10_008, "NFS4ERR_DELAY");
    served.faults.heal();
    assert_eq!(client.ask(|all| all.path("d")).status, NOENT);
    client.run(|all| all.root().mkdir(b"d", 0o755)).ok();
    served.faults.plan(Some(Call::Commit), 0, Fault::Fail(Kind::Unavailable), 1000);
    let open =
        |client: &mut Client| client.run(|all| all.root().open(b"o", (3, 0), &How::Guarded(mode(0o644)), Claim::Name(b"f")));
    assert_eq!(open(&mut client).status, 10_008);
    served.faults.heal();
    assert_eq!(client.ask(|all| all.path("f")).status, NOENT);
    open(&mut client).ok();
    // In one COMPOUND with what is done to it: that ends at the OPEN.
    let save = |client: &mut Client| {
        let how = How::Guarded(mode(0o644));
        client.run(|all| all.root().open(b"o", (2, 0), &how, Claim::Name(b"g")).write(CURRENT, 0, 0, b"x").close(CURRENT))
    };
    served.faults.plan(Some(Call::Commit), 0, Fault::Fail(Kind::Unavailable), 1000);
    let refused = save(&mut client);
    assert_eq!((refused.status, refused.answers.len()), (10_008, 3), "{refused:?}");
    served.faults.heal();
    assert_eq!(client.ask(|all| all.path("g")).status, NOENT);
    save(&mut client).ok();
}

/// A file is committed before anybody is told of it, and once for all that its COMPOUND does.
#[test]
fn a_file_of_one_compound_is_one_commit() {
    use pgfiles_testkit::fault::Call;
    let served = served();
    let mut client = served.client();
    let how = How::Create(mode(0o644));
    let mut commits = |all: &dyn Fn(Compound) -> Compound| {
        served.faults.reset_counts();
        client.run(|compound| all(compound.root())).ok();
        served.faults.calls(Call::Commit)
    };
    let open = |all: Compound, name: &'static [u8]| all.open(name, (2, 0), &how, Claim::Name(name));
    assert_eq!(commits(&|all| open(all, b"a").write(CURRENT, 0, 0, b"x").close(CURRENT)), 1);
    assert_eq!(commits(&|all| open(all, b"b").close(CURRENT)), 1);
    assert_eq!(commits(&|all| open(all, b"c").getfh()), 1, "its client may go on with it after a restart");
    assert_eq!(commits(&|all| open(open(all, b"d").root(), b"e").write(CURRENT, 0, 0, b"x").close(CURRENT)), 2);
}
