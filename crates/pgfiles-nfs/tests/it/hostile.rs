//! What no client sends: malformed records, forged handles and sessions, too much of everything. The protocol's error or a closed
//! connection, and every other client goes on.

use std::io::Read as _;
use std::net::TcpStream;

use pgfiles_nfs::NfsConfig;
use pgfiles_testkit::nfs_client::{Client, Compound, Connection, Xdr, attr, op};

use crate::served::{Served, served, served_with};

fn goes_on(served: &Served, client: &mut Client) {
    client.ask(|all| all.root().getattr(&[attr::TYPE])).ok();
    let mut fresh = served.client_of("fresh");
    fresh.ask(|all| all.root().getattr(&[attr::TYPE])).ok();
}

fn framed(record: &[u8]) -> Vec<u8> {
    [&(record.len() as u32 | 1 << 31).to_be_bytes()[..], record].concat()
}

/// Whether the server closes the connection.
fn is_closed(connection: &mut Connection) -> bool {
    connection.receive().is_err()
}

/// RFC 5531 §9: each refusal by its name.
#[test]
fn calls_of_others_are_refused_by_name() {
    let served = served();
    let mut client = served.client();
    let mut connection = served.connect();
    let mut refusal = |call: (u32, u32, u32), arguments: &[u8]| {
        let record = connection.call_record(call, arguments);
        connection.send_raw(&framed(&record)).unwrap();
        let reply = connection.receive().unwrap();
        reply[8..].chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(refusal((100_003, 4, 0), &[]), [0, 0, 0, 0], "the null procedure");
    assert_eq!(refusal((100_005, 3, 1), &[]), [0, 0, 0, 1], "PROG_UNAVAIL");
    assert_eq!(refusal((100_003, 3, 1), &[]), [0, 0, 0, 2, 4, 4], "PROG_MISMATCH");
    assert_eq!(refusal((100_003, 4, 2), &[]), [0, 0, 0, 3], "PROC_UNAVAIL");
    assert_eq!(refusal((100_003, 4, 1), &[1, 2, 3]), [0, 0, 0, 4], "GARBAGE_ARGS");
    let mut rpc3 = connection.call_record((100_003, 4, 0), &[]);
    rpc3[8..12].copy_from_slice(&3_u32.to_be_bytes());
    connection.send_raw(&framed(&rpc3)).unwrap();
    assert_eq!(connection.receive().unwrap()[8..], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2], "RPC_MISMATCH");
    let mut kerberos = connection.call_record((100_003, 4, 0), &[]);
    kerberos[24..28].copy_from_slice(&6_u32.to_be_bytes());
    connection.send_raw(&framed(&kerberos)).unwrap();
    assert_eq!(connection.receive().unwrap()[8..], [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1], "AUTH_BADCRED");
    goes_on(&served, &mut client);
}

#[test]
fn records_that_are_none_close_the_connection() {
    let served = served();
    let mut client = served.client();
    // Longer than any record; a reply; nothing that can be answered.
    for bytes in [&[0xff; 100][..], &framed(&[0, 0, 0, 1, 0, 0, 0, 1])[..], &framed(&[1])[..]] {
        let mut connection = served.connect();
        connection.send_raw(bytes).unwrap();
        assert!(is_closed(&mut connection), "{bytes:?}");
    }
    // In many fragments, of which all but one hold nothing, a record is one all the same.
    let mut connection = served.connect();
    let record = connection.call_record((100_003, 4, 0), &[]);
    for byte in &record[..record.len() - 1] {
        connection.send_raw(&[0, 0, 0, 0, 0, 0, 0, 1, *byte]).unwrap();
    }
    connection.send_raw(&[0x80, 0, 0, 1, record[record.len() - 1]]).unwrap();
    assert_eq!(connection.receive().unwrap().len(), 24);
    goes_on(&served, &mut client);
}

/// §2.10.6.1, §15.1.11.
#[test]
fn forged_sessions_slots_and_stateids() {
    let served = served();
    let mut client = served.client();
    let mut connection = served.connect();
    let mut status = |session: [u8; 16], slot, sequence| {
        connection.compound(&Compound::new().sequence(session, slot, sequence, true).root()).status
    };
    assert_eq!(status([0; 16], 0, 1), 10_052, "NFS4ERR_BADSESSION");
    assert_eq!(status(client.session, 64, 1), 10_053, "NFS4ERR_BADSLOT");
    assert_eq!(status(client.session, u32::MAX, 1), 10_053);
    assert_eq!(status(client.session, 7, 0), 10_063, "NFS4ERR_SEQ_MISORDERED");
    assert_eq!(status(client.session, 7, u32::MAX), 10_063);
    let ids = [[1; 16], [0xfe; 16]];
    for id in ids {
        assert_eq!(client.run(|all| all.root().close(id)).status, 10_025, "NFS4ERR_BAD_STATEID");
        assert_eq!(client.run(|all| all.root().locku((0, 1), id)).status, 10_025);
    }
    goes_on(&served, &mut client);
}

/// §15.1.2: handles that nobody gave out lead nowhere, of another prefix neither.
#[test]
fn forged_handles_lead_nowhere() {
    let served = served();
    let mut client = served.client();
    let root = client.ask(|all| all.root().getfh()).ok().handle();
    assert_eq!(root.len(), 32);
    for at in 0..root.len() {
        for flip in [1, 0x80] {
            let mut forged = root.clone();
            forged[at] ^= flip;
            let status = client.ask(|all| all.handle(&forged).getattr(&[attr::TYPE]).lookup(b"x")).status;
            // NFS4ERR_BADHANDLE, NFS4ERR_STALE; the directory of the root's attributes is one that may be had: NFS4ERR_NOENT.
            assert!([10_001, 70, 2].contains(&status), "byte {at}: {status}");
        }
    }
    for len in [0, 1, 31, 33, 128] {
        assert_eq!(client.ask(|all| all.handle(&vec![1; len])).status, 10_001);
    }
    assert_eq!(client.ask(|all| all.handle(&[1; 129])).status, 10_036, "NFS4ERR_BADXDR");
    assert_eq!(client.ask(|all| all.root().lookup_parent()).status, 2, "there is nothing above the root");
    for name in ["..", ".", "a/b", "../x", "a\0b"] {
        assert_eq!(client.ask(|all| all.root().lookup(name.as_bytes())).status, 10_041, "NFS4ERR_BADNAME");
        assert_eq!(client.run(|all| all.root().mkdir(name.as_bytes(), 0o755)).status, 10_041);
    }
    assert_eq!(client.ask(|all| all.root().lookup(b"")).status, 22);
    assert_eq!(client.ask(|all| all.root().lookup(&[b'x'; 256])).status, 63);
    goes_on(&served, &mut client);
}

#[test]
fn ten_thousand_connections_keep_nobody_out_who_is_in() {
    let served = served();
    let mut client = served.client();
    let (mut held, mut closed) = (Vec::new(), 0);
    for n in 0..10_000 {
        let Ok(mut stream) = TcpStream::connect(served.address) else { continue };
        if n % 100 == 0 {
            client.ask(|all| all.root().getattr(&[attr::TYPE])).ok();
        }
        // Those that the server takes are held until it closes them for their silence; the others are closed at once.
        if held.len() < 300 {
            held.push(stream);
        } else {
            stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)), "nothing is said to who is one too many");
            closed += 1;
            if closed % 200 == 0 {
                // Still more than the server takes.
                held.extend((0..50).filter_map(|_| TcpStream::connect(served.address).ok()));
            }
        }
    }
    assert!(closed > 9_000, "{closed}");
    client.ask(|all| all.root().getattr(&[attr::TYPE])).ok();
    drop(held);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while served.server.status().connections > 5 && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    goes_on(&served, &mut client);
}

/// Requests of another user than the mount's are refused before anything of them is looked at.
#[test]
fn lengths_that_lie_allocate_nothing() {
    let served = served();
    let mut client = served.client();
    for number in 3..=58 {
        // An array or opaque of four billion, at each place of the arguments.
        for words in 0..8 {
            let lie = (0..words).fold(Xdr::default(), |out, _| out.u32(1)).u32(u32::MAX);
            let reply = client.run(|all| all.root().op(number, lie));
            assert_ne!(reply.last().op, op::GETFH + 100);
            assert!(reply.status != 0 || number == op::GETFH || reply.answers.len() >= 2);
        }
        if client.sequence.is_multiple_of(50) {
            goes_on(&served, &mut client);
        }
    }
}

/// A mount's port where the system does not say who connects: nobody speaks beside the client, and another one may when it is gone.
#[test]
fn one_connection_alone_is_served_where_that_is_asked_for() {
    let served = served_with(NfsConfig { one_connection: true, ..NfsConfig::default() });
    let mut client = served.client();
    // As the client's own, whose session it has guessed.
    let ask = |connection: &mut Connection| {
        let _ = connection.send(&Compound::new().sequence([7; 16], 0, 1, false));
        is_closed(connection)
    };
    let mut stranger = served.connect();
    assert!(ask(&mut stranger));
    client.run(|all| all.root()).ok();
    drop(client);
    let begun = std::time::Instant::now();
    while ask(&mut served.connect()) {
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "nobody is let in any more");
    }
}
