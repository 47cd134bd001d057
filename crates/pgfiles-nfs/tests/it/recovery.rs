//! A restart of the daemon under clients that have files open (§8.4.2).

use pgfiles_testkit::nfs_client::{Claim, Client, Got, How, attr, op};

use crate::served::{served, served_again_later};

const BAD_SESSION: u32 = 10_052;
const GRACE: u32 = 10_013;
const NO_GRACE: u32 = 10_033;
const COMPLETE_ALREADY: u32 = 10_054;

/// NFS.md §2, full recovery: EXCHANGE_ID, CREATE_SESSION, each file and lock taken back, RECLAIM_COMPLETE; nobody gets between.
#[test]
fn a_client_takes_back_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let mut served = served_again_later(dir.path());
    let mut client = served.client_of("one");
    let reply = client.run(|all| all.root().open(b"o", (3, 0), &How::Create(vec![]), Claim::Name(b"f")).getfh()).ok();
    let (file, id) = (reply.handle(), reply.state());
    client.run(|all| all.handle(&file).write(id, 0, 0, b"before").commit()).ok();
    client.run(|all| all.handle(&file).lock_new(2, false, (0, 5), id, b"p")).ok();
    let before = client.ask(|all| all.handle(&file).getattr(&[attr::FILEID])).ok();
    served = served.restart();
    client.connection = served.connect();
    assert_eq!(client.run(|all| all.handle(&file)).status, BAD_SESSION);
    // Somebody else is first at the door.
    let mut other = served.client_of("two");
    assert_eq!(other.run(|all| all.root().open(b"o", (1, 0), &How::Existing, Claim::Name(b"f"))).status, GRACE);
    let mut client = Client::before_reclaim(served.connect(), b"one", 1);
    let reply = client.run(|all| all.handle(&file).open(b"o", (3, 0), &How::Existing, Claim::Previous)).ok();
    let id = reply.state();
    client.run(|all| all.handle(&file).lock_new(2, true, (0, 5), id, b"p")).ok();
    client.reclaim_complete();
    let again = client.run(|all| all.op(op::RECLAIM_COMPLETE, pgfiles_testkit::nfs_client::Xdr::default().u32(0)));
    assert_eq!(again.status, COMPLETE_ALREADY);
    client.run(|all| all.handle(&file).write(id, 6, 0, b" after").commit()).ok();
    let after = client.ask(|all| all.handle(&file).getattr(&[attr::FILEID]).read(id, 0, 100)).ok();
    assert_eq!(*after.of(op::READ), Got::Read { eof: true, data: b"before after".to_vec() });
    assert_eq!(after.attrs(), before.attrs());
    // All are back: the grace is over.
    let theirs = other.run(|all| all.root().open(b"o", (3, 0), &How::Existing, Claim::Name(b"f"))).ok().state();
    assert_eq!(other.run(|all| all.path("f").lock_new(2, false, (4, 1), theirs, b"q")).status, 10_010);
    let late = client.run(|all| all.handle(&file).open(b"x", (1, 0), &How::Existing, Claim::Previous));
    assert_eq!(late.status, NO_GRACE);
}

/// A handle means the same file after a restart, wherever it is by then (§4.2.3, persistent handles).
#[test]
fn handles_outlive_the_daemon() {
    let mut served = served();
    let mut client = served.client();
    client.run(|all| all.root().mkdir(b"a", 0o755)).ok();
    client.run(|all| all.path("a").mkdir(b"b", 0o755)).ok();
    client.run(|all| all.path("a/b").open(b"o", (2, 0), &How::Create(vec![]), Claim::Name(b"f"))).ok();
    let file = client.ask(|all| all.path("a/b/f").getfh()).ok().handle();
    let dir = client.ask(|all| all.path("a/b").getfh()).ok().handle();
    let gone = client.run(|all| all.root().mkdir(b"gone", 0o755).getfh()).ok().handle();
    client.run(|all| all.root().save().root().rename(b"a", b"moved")).ok();
    client.run(|all| all.root().remove(b"gone")).ok();
    served = served.restart();
    let mut client = served.client();
    client.ask(|all| all.handle(&file).getattr(&[attr::FILEID])).ok();
    let parent = client.ask(|all| all.handle(&dir).lookup_parent().getfh()).ok().handle();
    assert_eq!(client.ask(|all| all.path("moved").getfh()).ok().handle(), parent);
    assert_eq!(client.ask(|all| all.handle(&dir).lookup(b"f").getfh()).ok().handle(), file);
    assert_eq!(client.ask(|all| all.handle(&gone).getattr(&[attr::FILEID])).status, 70, "NFS4ERR_STALE");
}

/// A file that was made and not written to yet when the daemon was killed is there: its client has it open (§18.16).
#[test]
fn a_new_file_outlives_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let mut served = served_again_later(dir.path());
    let mut client = served.client_of("one");
    let reply = client.run(|all| all.root().open(b"o", (3, 0), &How::Create(vec![]), Claim::Name(b"new")).getfh()).ok();
    let file = reply.handle();
    served = served.killed();
    let mut client = Client::before_reclaim(served.connect(), b"one", 1);
    let id = client.run(|all| all.handle(&file).open(b"o", (3, 0), &How::Existing, Claim::Previous)).ok().state();
    client.reclaim_complete();
    client.run(|all| all.handle(&file).write(id, 0, 0, b"now").close(id)).ok();
    // Another daemon's save is another version.
    assert_eq!(served.versions("new"), 2);
}

/// Without a note of who had what, nobody waits for anybody.
#[test]
fn a_first_start_has_no_grace() {
    let dir = tempfile::tempdir().unwrap();
    let served = served_again_later(dir.path());
    let mut client = served.client();
    client.run(|all| all.root().open(b"o", (3, 0), &How::Create(vec![]), Claim::Name(b"f"))).ok();
    let reclaim = client.run(|all| all.path("f").open(b"p", (3, 0), &How::Existing, Claim::Previous));
    assert_eq!(reclaim.status, NO_GRACE);
}
