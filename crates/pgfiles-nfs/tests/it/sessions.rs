//! Clients, sessions, and that each request is carried out once.

use pgfiles_testkit::nfs_client::{Claim, Client, Compound, Connection, Got, How, Xdr, attr, create_session, exchange_id, op};

use crate::served::served;

const NOT_ONLY_OP: u32 = 10_081;
const OP_NOT_IN_SESSION: u32 = 10_071;
const RETRY_UNCACHED_REP: u32 = 10_068;
const SEQ_FALSE_RETRY: u32 = 10_076;
const SEQ_MISORDERED: u32 = 10_063;
const SEQUENCE_POS: u32 = 10_064;
const BAD_SESSION: u32 = 10_052;
const TOO_MANY_OPS: u32 = 10_070;
const MINOR_VERS_MISMATCH: u32 = 10_021;
const OP_ILLEGAL: u32 = 10_044;
const NOT_SUPP: u32 = 10_004;

/// What macOS asks for and gets (§18.36): its slots, no flag that it did not set, its sequence back.
#[test]
fn a_session_is_as_the_client_asks_within_bounds() {
    let served = served();
    let mut connection = served.connect();
    let reply = connection.compound(&exchange_id(b"mac", 1, 0)).ok();
    let Got::Client { id, sequence, flags } = *reply.of(op::EXCHANGE_ID) else { panic!("{reply:?}") };
    assert_eq!(flags, 0x0001_0000, "EXCHGID4_FLAG_USE_NON_PNFS and nothing else");
    let reply = connection.compound(&create_session(id, sequence)).ok();
    let Got::Session { sequence: answered, flags, fore, .. } = *reply.of(op::CREATE_SESSION) else { panic!("{reply:?}") };
    assert_eq!((answered, flags), (sequence, 0));
    let [request, response, cached, operations, slots] = fore;
    assert!(request > 1 << 20 && response > 1 << 20, "reads and writes of 1 MiB");
    assert_eq!((cached, operations, slots), (8192, 20, 64));
}

/// §2.10.6.1: the connection is lost after the request was sent; sent again in the same slot over another one, it is answered
/// as it was, and was carried out once.
#[test]
fn a_request_whose_connection_was_lost_is_carried_out_once() {
    let served = served();
    let mut client = served.client();
    let made = client.next(true, |all| all.root().mkdir(b"d", 0o755));
    client.connection.send(&made).unwrap();
    let first = client.connection.reply().ok();
    client.connection = served.connect();
    assert_eq!(client.connection.compound(&made), first, "the same reply, not NFS4ERR_EXIST");
    // Something else under the same number.
    let other = Compound::new().sequence(client.session, 0, client.sequence, true).root().mkdir(b"e", 0o755);
    assert_eq!(client.connection.compound(&other).status, SEQ_FALSE_RETRY);
    let far = Compound::new().sequence(client.session, 0, client.sequence + 2, true).root();
    assert_eq!(client.connection.compound(&far).status, SEQ_MISORDERED);
    client.run(|all| all.root().remove(b"d")).ok();
}

/// §2.10.6.1.3: what nobody wanted kept is not carried out again either.
#[test]
fn a_reply_that_was_not_kept_is_said_to_be_lost() {
    let served = served();
    let mut client = served.client();
    let asked = client.next(false, |all| all.root().getfh());
    client.connection.compound(&asked).ok();
    let again = client.connection.compound(&asked);
    assert_eq!(again.status, RETRY_UNCACHED_REP);
    assert_eq!((again.answers.len(), again.answers[0].status, again.last().op), (2, 0, op::PUTROOTFH));
    client.ask(|all| all.root().getfh()).ok();
}

/// §2.10.2.1 and the sections of the operations.
#[test]
fn operations_are_where_they_belong() {
    let served = served();
    let mut client = served.client();
    assert_eq!(client.connection.compound(&Compound::new().root()).status, OP_NOT_IN_SESSION);
    let two = exchange_id(b"x", 1, 0).root();
    assert_eq!(client.connection.compound(&two).status, NOT_ONLY_OP);
    let (session, sequence) = (client.session, client.sequence);
    assert_eq!(client.run(|all| all.sequence(session, 0, sequence + 1, false)).status, SEQUENCE_POS);
    let reply = client.run(|all| all.op(2, Xdr::default()));
    assert_eq!((reply.status, reply.last().op), (OP_ILLEGAL, OP_ILLEGAL));
    assert_eq!(client.run(|all| all.op(59, Xdr::default())).status, OP_ILLEGAL, "of version 4.2");
    assert_eq!(client.run(|all| all.op(50, Xdr::default())).status, NOT_SUPP, "LAYOUTGET");
    let many = client.next(true, |all| (0..20).fold(all, |all, _| all.root()));
    assert_eq!(client.connection.compound(&many).status, TOO_MANY_OPS);
    // The slot is used; the session goes on.
    client.run(|all| all.root()).ok();
    assert_eq!(client.connection.compound(&Compound::new()).status, 0, "nothing at all is done");
}

/// §2.7, §16.2.3.
#[test]
fn other_minor_versions_are_told_so() {
    let served = served();
    let mut client = served.client();
    for minor in [0, 2, 3] {
        let mut compound = client.next(true, |all| all.root());
        client.sequence -= 1;
        compound.minor = Some(minor);
        let reply = client.connection.compound(&compound);
        assert_eq!((reply.status, reply.answers.len()), (MINOR_VERS_MISMATCH, 0));
    }
}

/// §18.35: a client that was started anew gets another id, and what it had is gone with its first session.
#[test]
fn a_client_that_was_restarted_starts_with_nothing() {
    let served = served();
    let mut before = served.client_of("one");
    before.run(|all| all.root().open(b"o", (3, 3), &How::Create(vec![]), Claim::Name(b"f"))).ok();
    let mut after = Client::new(served.connect(), b"one", 2);
    assert_ne!(before.id, after.id);
    assert_eq!(before.run(|all| all.root()).status, BAD_SESSION);
    // Nothing denies it any more.
    after.run(|all| all.root().open(b"o", (3, 0), &How::Existing, Claim::Name(b"f"))).ok();
    assert_eq!(served.server.status().open_files, 1);
}

/// §18.37, §18.50.
#[test]
fn a_client_says_goodbye() {
    let served = served();
    let mut client = served.client();
    let opened = client.run(|all| all.root().open(b"o", (3, 0), &How::Create(vec![]), Claim::Name(b"f"))).ok();
    let (id, session) = (client.id, client.session);
    let end = Compound::new().op(op::DESTROY_SESSION, Xdr::default().raw(&session));
    let forget = Compound::new().op(op::DESTROY_CLIENTID, Xdr::default().u64(id));
    assert_eq!(client.connection.compound(&forget).status, 10_074, "NFS4ERR_CLIENTID_BUSY");
    let state = opened.state();
    client.run(|all| all.path("f").close(state)).ok();
    client.connection.compound(&end).ok();
    assert_eq!(client.connection.compound(&end).status, BAD_SESSION);
    client.connection.compound(&forget).ok();
    assert_eq!(client.connection.compound(&forget).status, 10_022, "NFS4ERR_STALE_CLIENTID");
    assert_eq!(served.server.status().clients, 0);
}

/// §18.34: any connection carries any session; there is no back channel.
#[test]
fn a_second_connection_is_bound() {
    let served = served();
    let client = served.client();
    let mut second: Connection = served.connect();
    let bind =
        |direction| Compound::new().op(op::BIND_CONN_TO_SESSION, Xdr::default().raw(&client.session).u32(direction).u32(0));
    let reply = second.compound(&bind(3)).ok();
    assert_eq!(*reply.of(op::BIND_CONN_TO_SESSION), Got::Words(vec![1, 0]), "the fore channel");
    assert_eq!(second.compound(&bind(2)).status, 22);
    let mut beside = client.beside(second, 5);
    beside.run(|all| all.root().getattr(&[attr::TYPE])).ok();
}
