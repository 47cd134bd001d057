//! READDIR (§18.23).

use std::collections::BTreeSet;

use pgfiles_testkit::nfs_client::{Client, Got, STAT, attr, op};

use crate::served::served;

/// Cookies and names, whether they are the last, and the verifier.
type Page = (Vec<(u64, Vec<u8>)>, bool, [u8; 8]);

fn page(client: &mut Client, cookie: u64, verifier: [u8; 8], bytes: u32, wanted: &[u32]) -> Page {
    let reply = client.ask(|all| all.path("dir").readdir(cookie, verifier, bytes, wanted)).ok();
    let Got::Names { verifier, names, eof } = reply.of(op::READDIR).clone() else { panic!("{reply:?}") };
    (names.into_iter().map(|name| (name.cookie, name.name)).collect(), eof, verifier)
}

/// NFS.md §2: 10,000 names while others come and go; none that was there throughout is skipped or repeated.
#[test]
fn a_directory_is_read_while_it_changes() {
    let served = served();
    let mut client = served.client();
    client.run(|all| all.root().mkdir(b"dir", 0o755)).ok();
    let dir = client.ask(|all| all.path("dir").getfh()).ok().handle();
    let stays: BTreeSet<Vec<u8>> = (0..10_000).map(|n| format!("stays-{n:05}").into_bytes()).collect();
    for some in stays.iter().collect::<Vec<_>>().chunks(8) {
        let names = some.iter().map(|name| name.as_slice());
        client.run(|all| names.fold(all.handle(&dir).save(), |all, name| all.restore().symlink(name, b"x"))).ok();
    }
    let (mut seen, mut cookie, mut verifier) = (Vec::new(), 0, [0; 8]);
    for n in 0.. {
        let (names, eof, now) = page(&mut client, cookie, verifier, 16_384, if n % 2 == 0 { STAT } else { &[attr::FILEID] });
        assert!(n == 0 || now == verifier, "the verifier is constant");
        verifier = now;
        let name = format!("goes-{n}").into_bytes();
        client.run(|all| all.handle(&dir).symlink(&name, b"y")).ok();
        client.run(|all| all.handle(&dir).remove(&name)).ok();
        client.run(|all| all.handle(&dir).symlink(format!("comes-{n}").as_bytes(), b"y")).ok();
        cookie = names.last().map_or(cookie, |last| last.0);
        seen.extend(names.into_iter().map(|(_, name)| name));
        if eof {
            break;
        }
    }
    let unique: BTreeSet<Vec<u8>> = seen.iter().cloned().collect();
    assert_eq!(unique.len(), seen.len(), "a name came twice");
    assert!(stays.is_subset(&unique), "a name was skipped");
}

/// A cookie means the same after a restart of the daemon, and there is none that is not one.
#[test]
fn cookies_outlive_the_daemon() {
    let mut served = served();
    let mut client = served.client();
    client.run(|all| all.root().mkdir(b"dir", 0o755)).ok();
    for n in 0..100 {
        client.run(|all| all.path("dir").symlink(format!("{n}").as_bytes(), b"x")).ok();
    }
    let (first, eof, verifier) = page(&mut client, 0, [0; 8], 2000, &[attr::FILEID]);
    assert!(!eof && !first.is_empty());
    served = served.restart();
    let mut client = served.client();
    let (rest, eof, _) = page(&mut client, first.last().unwrap().0, verifier, 1 << 20, &[attr::FILEID]);
    let names: BTreeSet<Vec<u8>> = first.iter().chain(&rest).map(|(_, name)| name.clone()).collect();
    assert!(eof && names.len() == 100 && first.len() + rest.len() == 100);
    let status = |client: &mut Client, cookie, verifier, bytes| {
        client.ask(|all| all.path("dir").readdir(cookie, verifier, bytes, &[attr::FILEID])).status
    };
    assert_eq!(status(&mut client, 2, verifier, 1000), 10_003, "NFS4ERR_BAD_COOKIE");
    assert_eq!(status(&mut client, 77, [9; 8], 1000), 10_027, "NFS4ERR_NOT_SAME");
    assert_eq!(status(&mut client, 0, [0; 8], 20), 10_005, "NFS4ERR_TOOSMALL");
}
