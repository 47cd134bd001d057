//! Cases: renames of files.
#![allow(missing_docs)] // the names say it

use super::*;
use pgfiles_store::batch::Young;
use pgfiles_store::version::Timestamp;

fn young(mount: &str, seconds: u32) -> Option<Young> {
    Some(Young { mount: mount.into(), seconds })
}

pub async fn a_rename_moves_bytes_and_leaves_links(t: Tester) {
    t.write("a", b"first").await;
    let mut second = put("a", &[5; 6000]);
    second.meta.extend(map(json!({"ino": "42", "mode": "0600", "tags": {"k": "v"}})));
    let source = t.must(Op::Put(second)).await.head.unwrap();
    let ctime = Timestamp { seconds: 1_700_000_000, nanos: 5 };
    let outcome = t.must(Op::Rename(Rename { ctime: Some(ctime), ..rename("a", "d/b") })).await;
    assert!(!outcome.moved);
    let head = outcome.head.unwrap();
    assert_eq!((head.key.clone(), head.version, head.id), (key("d/b"), VersionNo(1), source.id));
    let found = t.file("d/b").await.unwrap();
    assert_eq!(found.data.as_deref(), Some(&[5; 6000][..]), "the live name has its bytes in its row");
    assert_eq!((found.meta.ino, found.meta.mode, found.meta.ctime), (Some(42), Some(0o600), Some(ctime)));
    assert_eq!(found.meta.tags.len(), 1);
    assert_eq!(found.meta.from, Some(json!({"key": key("a").as_str(), "version": 2})));
    assert!(t.entry("a").await.is_none());
    let left = t.versions("a").await;
    assert_eq!(left.iter().map(|head| (head.version.0, head.is_live())).collect::<Vec<_>>(), [(3, false), (2, true), (1, true)]);
    assert_eq!(left[0].meta.to, Some(json!({"key": key("d/b").as_str(), "version": 1})));
    assert_eq!(t.bytes(&left[1]).await, [5; 6000]);
    assert_eq!(left[1].meta.created_at, source.meta.created_at, "history keeps its moment");
    assert_eq!(t.bytes(&left[2]).await, b"first");
    // On and on: every stop keeps its version readable.
    t.must(Op::Rename(rename("d/b", "c"))).await;
    t.must(Op::Rename(rename("c", "a"))).await;
    assert_eq!(t.file("a").await.unwrap().version, VersionNo(4));
    for (path, number) in [("a", 4), ("c", 1), ("d/b", 1), ("a", 2)] {
        assert_eq!(t.bytes(&t.version(path, number).await.unwrap()).await, [5; 6000], "{path} version {number}");
    }
    assert!(t.is_dir("d").await);
}

pub async fn a_rename_makes_the_target_history(t: Tester) {
    t.write("a", b"new").await;
    t.write("b", b"old").await;
    t.must(Op::Rename(rename("a", "b"))).await;
    assert_eq!(t.file("b").await.unwrap().version, VersionNo(2));
    assert_eq!(t.text("b").await.unwrap(), b"new");
    assert_eq!(t.bytes(&t.version("b", 1).await.unwrap()).await, b"old");
    t.write("e", b"").await;
    t.must(Op::Rename(rename("e", "b"))).await;
    assert_eq!(t.text("b").await.unwrap(), b"");
}

pub async fn a_young_file_just_moves(t: Tester) {
    t.write("target", b"old").await;
    for round in 0..3_u64 {
        let source = t.write("x.tmp", format!("{round}").as_bytes()).await;
        assert_eq!(source.version, VersionNo(1));
        let outcome = t.must(Op::Rename(Rename { young: young(MOUNT, 60), ..rename("x.tmp", "target") })).await;
        assert!(outcome.moved);
        let head = outcome.head.unwrap();
        assert_eq!((head.id, head.version, head.meta.from), (source.id, VersionNo(round + 2), None));
        assert!(t.versions("x.tmp").await.is_empty());
        assert_eq!(t.text("target").await.unwrap(), format!("{round}").as_bytes());
    }
    assert_eq!(t.versions("target").await.len(), 4);
}

pub async fn an_older_file_does_not_just_move(t: Tester) {
    let cases =
        [("two", 2, young(MOUNT, 60)), ("other", 1, young("other-mount", 60)), ("never", 1, young(MOUNT, 0)), ("none", 1, None)];
    for (path, versions, young) in cases {
        for _ in 0..versions {
            t.write(path, b"x").await;
        }
        let outcome = t.must(Op::Rename(Rename { young, ..rename(path, "target") })).await;
        assert!(!outcome.moved, "{path}");
        assert_eq!(t.versions(path).await.len(), versions + 1, "{path}");
    }
}

pub async fn renames_check_both_ends(t: Tester) {
    assert_eq!(refused(t.run(Op::Rename(rename("nothing", "b"))).await), Kind::NotFound);
    let head = t.write("a", b"a").await;
    t.write("b", b"b").await;
    let absent = Rename { expect_to: Precondition::Absent, ..rename("a", "b") };
    assert_eq!(refused(t.run(Op::Rename(absent)).await), Kind::Conflict);
    let stale = Rename { expect_from: Precondition::Version(VersionNo(2)), ..rename("a", "b") };
    assert_eq!(refused(t.run(Op::Rename(stale)).await), Kind::Conflict);
    assert_eq!((t.text("a").await.unwrap(), t.text("b").await.unwrap()), (b"a".to_vec(), b"b".to_vec()));
    let right =
        Rename { expect_from: Precondition::Head(head.id), expect_to: Precondition::Version(VersionNo(1)), ..rename("a", "b") };
    t.must(Op::Rename(right)).await;
    let absent = Rename { expect_to: Precondition::Absent, ..rename("b", "a") };
    t.must(Op::Rename(absent)).await;
    t.must(delete("a")).await;
    assert_eq!(refused(t.run(Op::Rename(rename("a", "b"))).await), Kind::NotFound);
}

pub async fn a_young_directory_just_moves(t: Tester) {
    t.make_dir("tmp").await;
    t.write("tmp/a", b"1").await;
    t.write("tmp/b/c", b"2").await;
    t.write("tmp/two", b"1").await;
    t.write("tmp/two", b"2").await;
    t.must(Op::RenameDir(RenameDir { young: young(MOUNT, 60), ..rename_dir("tmp", "d") })).await;
    assert_eq!(t.names("d", 10).await, ["a", "b/", "two"]);
    assert!(t.entry("tmp").await.is_none());
    assert!(t.versions("tmp/a").await.is_empty() && t.versions("tmp/b/c").await.is_empty());
    assert_eq!(t.versions("tmp/two").await.len(), 3);
    assert_eq!(t.text("d/b/c").await.unwrap(), b"2");
}

pub async fn chunked_files_move(t: Tester) {
    let chunks: Vec<_> = (0..5_u8).map(|n| Some(Bytes::from(vec![n; 4096]))).collect();
    let (mut ops, put) = chunked("d/big", SystemClock.lineage(), 4096, 5 * 4096, &chunks);
    ops.push(Op::Put(put));
    t.run_all(ops).await.unwrap();
    let bytes = t.text("d/big").await.unwrap();
    assert_eq!(bytes.len(), 5 * 4096);
    t.must(Op::Rename(rename("d/big", "e/big"))).await;
    t.must(Op::RenameDir(rename_dir("e", "f"))).await;
    for (path, number) in [("d/big", 1), ("e/big", 1), ("f/big", 1)] {
        assert_eq!(t.bytes(&t.version(path, number).await.unwrap()).await, bytes, "{path}");
    }
}
