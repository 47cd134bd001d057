//! Named attributes (§5.3, §18.17), as macOS uses them for extended ones.

use pgfiles_testkit::nfs_client::{ANONYMOUS, Claim, Got, How, STAT, Xdr, attr, op};

use crate::served::served;

#[test]
fn an_attribute_is_a_small_file() {
    let served = served();
    let mut client = served.client();
    client.run(|all| all.root().mkdir(b"d", 0o755)).ok();
    let name = b"com.apple.FinderInfo";
    let empty = How::Create(vec![(attr::SIZE, Xdr::default().u64(0))]);
    let reply = client.run(|all| all.path("d").openattr().open(b"o", (3, 0), &empty, Claim::Name(name)).getfh()).ok();
    let (file, id) = (reply.handle(), reply.state());
    client.run(|all| all.handle(&file).write(id, 0, 2, b"0123456789").write(id, 4, 0, b"xx")).ok();
    let reply = client.ask(|all| all.handle(&file).read(id, 2, 100).getattr(STAT)).ok();
    assert_eq!(*reply.of(op::READ), Got::Read { eof: true, data: b"23xx6789".to_vec() });
    assert_eq!((reply.attrs().number(attr::TYPE), reply.attrs().number(attr::SIZE)), (9, 10));
    client.run(|all| all.handle(&file).setattr(id, &[(attr::SIZE, Xdr::default().u64(3))]).close(id)).ok();
    // The same that FUSE shows.
    let ino = pgfiles_vfs::InodeNo(client.ask(|all| all.path("d").getattr(STAT)).ok().attrs().number(attr::FILEID));
    let value = served.runtime.block_on(served.vfs.getxattr(ino, b"user.com.apple.FinderInfo")).unwrap();
    assert_eq!(value, b"012");
    let listed = client.ask(|all| all.path("d").openattr().readdir(0, [0; 8], 8192, STAT)).ok();
    let Got::Names { names, eof: true, .. } = listed.of(op::READDIR) else { panic!("{listed:?}") };
    assert_eq!(names.iter().map(|name| &name.name[..]).collect::<Vec<_>>(), [name]);
    let dir = client.ask(|all| all.path("d").openattr().getattr(STAT)).ok();
    assert_eq!(dir.attrs().number(attr::TYPE), 8);
    assert_ne!(dir.attrs().number(attr::FILEID), ino.0);
    client.run(|all| all.path("d").openattr().save().path("d").openattr().rename(name, b"other")).ok();
    client.run(|all| all.path("d").openattr().remove(b"other")).ok();
    assert_eq!(client.run(|all| all.path("d").openattr().lookup(b"other")).status, 2);
    assert_eq!(client.run(|all| all.handle(&file).read(ANONYMOUS, 0, 1)).status, 70, "NFS4ERR_STALE");
}
