//! Cases: what operations on one file do.
#![allow(missing_docs)] // the names say it

use super::*;
use pgfiles_store::version::{Kind as FileKind, Timestamp};

pub async fn a_put_is_seen_and_numbered(t: Tester) {
    assert!(t.entry("a").await.is_none());
    let first = t.write("a", b"one").await;
    assert_eq!(first.version, VersionNo(1));
    let second = t.write("a", b"two").await;
    assert_eq!(second.version, VersionNo(2));
    let head = t.file("a").await.unwrap();
    assert_eq!((head.version, head.id, head.meta.size), (VersionNo(2), second.id, 3));
    assert_eq!(head.key, key("a"));
    assert_eq!(t.text("a").await.unwrap(), b"two");
    assert_eq!(t.write("b", b"").await.version, VersionNo(1));
    let found = t.store.lookup(&[key("b"), key("nothing"), key("a")], 0).await.unwrap();
    assert!(matches!(&found[..], [Some(Entry::File(b)), None, Some(Entry::File(a))] if b.key == key("b") && a.key == key("a")));
}

pub async fn versions_come_newest_first_in_pages(t: Tester) {
    for text in ["1", "2", "3", "4"] {
        t.write("a", text.as_bytes()).await;
    }
    let numbers = |heads: Vec<Head>| heads.iter().map(|head| head.version.0).collect::<Vec<_>>();
    assert_eq!(numbers(t.versions("a").await), [4, 3, 2, 1]);
    assert_eq!(numbers(t.store.versions(&key("a"), Some(VersionNo(4)), 2).await.unwrap()), [3, 2]);
    assert_eq!(numbers(t.store.versions(&key("a"), Some(VersionNo(1)), 2).await.unwrap()), [0_u64; 0]);
    assert!(t.versions("nothing").await.is_empty());
    assert_eq!(t.bytes(&t.version("a", 2).await.unwrap()).await, b"2");
}

pub async fn small_bodies_come_along(t: Tester) {
    t.write("small", &[7; 100]).await;
    t.write("large", &[7; 101]).await;
    let found = t.store.lookup(&[key("small"), key("large")], 100).await.unwrap();
    let data = |entry: &Option<Entry>| match entry {
        Some(Entry::File(head)) => head.data.clone(),
        _ => panic!("a file"),
    };
    assert_eq!(data(&found[0]).unwrap(), &[7; 100][..]);
    assert_eq!(data(&found[1]), None);
    let page = t.store.list(&dir(""), None, 10, 100).await.unwrap();
    let with_data: Vec<_> = page.entries.iter().map(|(_, entry)| data(&Some(entry.clone())).is_some()).collect();
    assert_eq!(with_data, [false, true]);
}

pub async fn a_version_inherits_what_is_not_content(t: Tester) {
    let mut first = put("a", b"one");
    first.defaults = map(json!({"mode": "0640", "uid": 5, "gid": 6, "ino": "77", "ctime": "2020-01-01T00:00:00Z"}));
    first.meta.extend(map(json!({"mtime": "2020-01-01T00:00:00Z", "colour": {"r": 1}, "tags": {"x": "1", "y": "2"}})));
    let head = t.must(Op::Put(first)).await.head.unwrap();
    assert_eq!((head.meta.mode, head.meta.uid, head.meta.gid, head.meta.ino), (Some(0o640), Some(5), Some(6), Some(77)));
    let mut second = put("a", b"two!");
    second.defaults = map(json!({"mode": "0777", "uid": 9, "atime": "2021-01-01T00:00:00Z", "ino": "78"}));
    second.meta.insert("gid".into(), 60.into());
    second.meta.insert("tags".into(), json!({"x": "9"}));
    t.must(Op::Put(second)).await;
    let meta = t.file("a").await.unwrap().meta;
    assert_eq!((meta.mode, meta.uid, meta.gid, meta.ino), (Some(0o640), Some(5), Some(60), Some(77)));
    assert_eq!(meta.other.get("colour"), Some(&json!({"r": 1})));
    assert_eq!((meta.size, meta.mtime), (4, None));
    assert_eq!(meta.atime, Timestamp::parse("2021-01-01T00:00:00Z"));
    assert_eq!(meta.tags.into_iter().collect::<Vec<_>>(), [("x".to_owned(), "9".to_owned())]);
    t.must(delete("a")).await;
    t.write("a", b"again").await;
    let meta = t.file("a").await.unwrap().meta;
    assert_eq!((meta.mode, meta.uid), (None, None), "the dead pass nothing on");
}

pub async fn preconditions_hold_or_conflict(t: Tester) {
    let head = t.write("a", b"one").await;
    let expecting = |expect| Op::Put(Put { expect, ..put("a", b"two") });
    for wrong in [
        Precondition::Absent,
        Precondition::Version(VersionNo(2)),
        Precondition::Etag(layout::etag(b"other")),
        Precondition::Head(id()),
    ] {
        assert_eq!(refused(t.run(expecting(wrong.clone())).await), Kind::Conflict, "{wrong:?}");
    }
    assert_eq!(t.versions("a").await.len(), 1);
    t.must(expecting(Precondition::Head(head.id))).await;
    t.must(expecting(Precondition::Version(VersionNo(2)))).await;
    t.must(expecting(Precondition::Etag(layout::etag(b"two")))).await;
    assert_eq!(t.versions("a").await.len(), 4);
    let absent = |path: &str| Op::Put(Put { expect: Precondition::Absent, ..put(path, b"x") });
    t.must(absent("b")).await;
    t.must(delete("b")).await;
    t.must(absent("b")).await;
    assert_eq!(t.file("b").await.unwrap().version, VersionNo(3));
    for wrong in [Precondition::Version(VersionNo(1)), Precondition::Etag("x".into())] {
        let nothing_there = Op::Put(Put { expect: wrong, ..put("c", b"x") });
        assert_eq!(refused(t.run(nothing_there).await), Kind::Conflict);
    }
    let stale = Op::Delete(Delete { id: id(), key: key("a"), expect: Precondition::Version(VersionNo(1)) });
    assert_eq!(refused(t.run(stale).await), Kind::Conflict);
    let stale = SetAttr {
        expect: Precondition::Version(VersionNo(1)),
        ..set_attr("a", AttrPatch { mode: Some(1), ..AttrPatch::default() })
    };
    assert_eq!(refused(t.run(Op::SetAttr(stale)).await), Kind::Conflict);
}

pub async fn absent_means_no_directory_either(t: Tester) {
    t.make_dir("d").await;
    t.write("implied/x", b"").await;
    t.write("f", b"").await;
    for path in ["d", "implied"] {
        let file = Op::Put(Put { expect: Precondition::Absent, ..put(path, b"") });
        assert_eq!(refused(t.run(file).await), Kind::Conflict, "a file at {path}");
    }
    for path in ["d", "implied", "f"] {
        let marker = Op::Put(Put { expect: Precondition::Absent, ..mkdir(path) });
        assert_eq!(refused(t.run(marker).await), Kind::Conflict, "a directory at {path}");
    }
    t.must(Op::Put(Put { expect: Precondition::Absent, ..mkdir("e") })).await;
}

pub async fn a_deletion_is_a_version(t: Tester) {
    let mut first = put("a", b"one");
    first.defaults = map(json!({"ino": "77"}));
    t.must(Op::Put(first)).await;
    let tombstone = t.must(delete("a")).await.head.unwrap();
    assert!(!tombstone.is_live());
    assert_eq!((tombstone.version, tombstone.meta.ino), (VersionNo(2), Some(77)));
    assert!(t.entry("a").await.is_none());
    assert_eq!(refused(t.run(delete("a")).await), Kind::NotFound);
    assert_eq!(refused(t.run(delete("never")).await), Kind::NotFound);
    assert_eq!(t.write("a", b"two").await.version, VersionNo(3));
    let live: Vec<_> = t.versions("a").await.iter().map(Head::is_live).collect();
    assert_eq!(live, [true, false, true]);
    assert_eq!(t.bytes(&t.version("a", 1).await.unwrap()).await, b"one");
}

pub async fn attributes_merge_into_the_head(t: Tester) {
    let before = t.write("a", b"one").await;
    let time = Timestamp { seconds: 1_600_000_000, nanos: 123_456_789 };
    let mut patch = AttrPatch { mode: Some(0o4755), uid: Some(1), mtime: Some(time), ..AttrPatch::default() };
    patch.tags.insert("k".into(), Some("v".into()));
    patch.xattrs.insert("user.x".into(), Some(vec![0, 255]));
    patch.xattrs.insert("user.y".into(), Some(vec![]));
    let head = t.must(Op::SetAttr(set_attr("a", patch))).await.head.unwrap();
    assert_eq!((head.id, head.version, head.meta.rev), (before.id, before.version, 1));
    let mut patch = AttrPatch { gid: Some(2), ..AttrPatch::default() };
    patch.tags.insert("k".into(), None);
    patch.tags.insert("never".into(), None);
    patch.xattrs.insert("user.x".into(), None);
    t.must(Op::SetAttr(set_attr("a", patch))).await;
    let head = t.file("a").await.unwrap();
    assert_eq!((head.meta.mode, head.meta.uid, head.meta.gid), (Some(0o4755), Some(1), Some(2)));
    assert_eq!((head.meta.mtime, head.meta.rev, head.meta.size), (Some(time), 2, 3));
    assert!(head.meta.tags.is_empty());
    assert_eq!(head.meta.xattrs.into_iter().collect::<Vec<_>>(), [("user.y".to_owned(), vec![])]);
    assert_eq!(t.versions("a").await.len(), 1);
    t.write("a", b"two").await;
    assert_eq!(t.file("a").await.unwrap().meta.mode, Some(0o4755));
    let patch = AttrPatch { mode: Some(0), ..AttrPatch::default() };
    assert_eq!(refused(t.run(Op::SetAttr(set_attr("nothing", patch.clone()))).await), Kind::NotFound);
    t.must(delete("a")).await;
    assert_eq!(refused(t.run(Op::SetAttr(set_attr("a", patch))).await), Kind::NotFound);
}

pub async fn an_extended_version_keeps_its_number(t: Tester) {
    t.write("a", b"old").await;
    let first = t.write("a", b"1").await;
    let longer = t.must(Op::Put(Put { extends: Some(first.id), ..put("a", b"12") })).await.head.unwrap();
    assert_eq!((longer.version, longer.id == first.id), (VersionNo(2), false));
    assert_eq!(t.versions("a").await.len(), 2);
    assert_eq!(t.text("a").await.unwrap(), b"12");
    // Somebody else wrote meanwhile: both versions stay.
    t.write("a", b"other").await;
    let last = t.must(Op::Put(Put { extends: Some(longer.id), ..put("a", b"123") })).await.head.unwrap();
    assert_eq!(last.version, VersionNo(4));
    assert_eq!(t.bytes(&t.version("a", 2).await.unwrap()).await, b"12");
    assert_eq!(t.text("a").await.unwrap(), b"123");
    // An extended version whose bytes another key refers to: they stay.
    let source = t.write("big", &[1; 5000]).await;
    t.must(Op::Copy(past::copy("big", None, "copied"))).await;
    t.must(Op::Put(Put { extends: Some(source.id), ..put("big", &[2; 5000]) })).await;
    assert_eq!(t.text("copied").await.unwrap(), [1; 5000]);
    assert_eq!(t.text("big").await.unwrap(), [2; 5000]);
    assert_eq!(t.versions("big").await.len(), 1);
}

pub async fn special_files_keep_what_they_are(t: Tester) {
    let special = |path: &str, meta| Op::Put(Put { meta: map(meta), data: None, ..put(path, b"") });
    t.must(special("link", json!({"kind": "symlink", "target": "../x", "size": 4}))).await;
    t.must(special("pipe", json!({"kind": "fifo"}))).await;
    t.must(special("null", json!({"kind": "char", "rdev": 259}))).await;
    let link = t.file("link").await.unwrap().meta;
    assert_eq!((link.kind, link.target.as_deref()), (FileKind::Symlink, Some("../x")));
    assert_eq!(t.file("pipe").await.unwrap().meta.kind, FileKind::Fifo);
    assert_eq!(t.file("null").await.unwrap().meta.rdev, Some(259));
    t.must(Op::Rename(rename("link", "moved"))).await;
    assert_eq!(t.file("moved").await.unwrap().meta.target.as_deref(), Some("../x"));
    assert_eq!(t.version("link", 1).await.unwrap().meta.target.as_deref(), Some("../x"));
}

pub async fn a_version_says_who_and_when(t: Tester) {
    let first = t.write("a", b"1").await.meta;
    let second = t.write("a", b"2").await.meta;
    assert_eq!(first.by.as_ref(), Some(&*by()));
    assert!(first.created_at.is_some() && first.created_at <= second.created_at);
    assert!(first.xid.is_some() && first.xid != second.xid);
    let at = first.created_at.unwrap().seconds;
    assert!((SystemClock.now().seconds - at).abs() < 3600);
}

pub async fn reserved_keys_are_refused(t: Tester) {
    let reserved = Put { key: Key::new("/suite/x").unwrap(), ..put("a", b"") };
    assert_eq!(refused(t.run(Op::Put(reserved)).await), Kind::Invalid);
}
