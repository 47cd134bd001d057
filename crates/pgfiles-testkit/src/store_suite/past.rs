//! Cases: history, restore, copy, purge.
#![allow(missing_docs)] // the names say it

use super::*;
use pgfiles_store::batch::{Copy, Restore, RestoreDir};
use pgfiles_store::store::{Purge, PurgeReport, PurgeScope};

/// A copy of a version (`None`: the head).
pub fn copy(from: &str, version: Option<u64>, to: &str) -> Copy {
    let version = version.map(VersionNo);
    Copy { id: id(), from: key(from), version, to: key(to), expect: Precondition::Any, meta: Map::new() }
}

/// A restore of a version.
pub fn restore(path: &str, version: u64) -> Restore {
    Restore { id: id(), key: key(path), version: VersionNo(version), expect: Precondition::Any }
}

/// A purge of a whole key or of all keys under a directory.
pub fn purge(scope: PurgeScope) -> Purge {
    Purge { scope, keep: None, older_than: None, dead: false, dry_run: false }
}

/// Carries out a purge in as many slices as it takes.
pub async fn purge_all(t: &Tester, mut purge: Purge) -> PurgeReport {
    let mut sum = PurgeReport::default();
    loop {
        let report = t.store.purge(&purge).await.unwrap();
        sum.rows += report.rows;
        sum.body_rows += report.body_rows;
        sum.bytes += report.bytes;
        match (&mut purge.scope, report.next) {
            (PurgeScope::Prefix(_, after), Some(next)) => *after = Some(next),
            _ => return sum,
        }
    }
}

pub async fn a_restore_is_a_new_version(t: Tester) {
    let mut first = put("a", &[1; 5000]);
    first.defaults = map(json!({"mode": "0600", "ino": "9"}));
    t.must(Op::Put(first)).await;
    t.write("a", b"second").await;
    t.must(Op::SetAttr(set_attr("a", AttrPatch { mode: Some(0o644), ..AttrPatch::default() }))).await;
    let head = t.must(Op::Restore(restore("a", 1))).await.head.unwrap();
    assert_eq!((head.version, head.meta.restored_from.clone()), (VersionNo(3), Some(json!(1))));
    assert_eq!((head.meta.mode, head.meta.ino, head.meta.size), (Some(0o644), Some(9), 5000));
    assert_eq!(t.text("a").await.unwrap(), [1; 5000]);
    t.must(delete("a")).await;
    t.must(Op::Restore(restore("a", 2))).await;
    assert_eq!(t.text("a").await.unwrap(), b"second");
    assert_eq!(t.file("a").await.unwrap().version, VersionNo(5));
    for (number, text) in [(1, vec![1; 5000]), (2, b"second".to_vec()), (3, vec![1; 5000])] {
        assert_eq!(t.bytes(&t.version("a", number).await.unwrap()).await, text, "version {number}");
    }
}

pub async fn what_cannot_be_restored_is_refused(t: Tester) {
    t.write("a", b"1").await;
    t.must(delete("a")).await;
    assert_eq!(refused(t.run(Op::Restore(restore("a", 2))).await), Kind::Invalid);
    assert_eq!(refused(t.run(Op::Restore(restore("a", 9))).await), Kind::NotFound);
    assert_eq!(refused(t.run(Op::Restore(restore("never", 1))).await), Kind::NotFound);
    assert_eq!(refused(t.run(Op::Copy(copy("a", Some(2), "b"))).await), Kind::Invalid);
    assert_eq!(refused(t.run(Op::Copy(copy("a", None, "b"))).await), Kind::NotFound);
    let stale = Restore { expect: Precondition::Version(VersionNo(1)), ..restore("a", 1) };
    assert_eq!(refused(t.run(Op::Restore(stale)).await), Kind::Conflict);
    let absent = Restore { expect: Precondition::Absent, ..restore("a", 1) };
    t.must(Op::Restore(absent)).await;
}

pub async fn a_copy_has_the_content(t: Tester) {
    let mut source = put("a", &[1; 5000]);
    source.meta.extend(map(json!({"ino": "9", "mode": "0755", "content_type": "x/y"})));
    t.must(Op::Put(source)).await;
    t.write("a", b"small").await;
    let own = map(json!({"ino": "10"}));
    let head = t.must(Op::Copy(Copy { meta: own, ..copy("a", Some(1), "d/b") })).await.head.unwrap();
    assert_eq!((head.version, head.meta.ino, head.meta.size), (VersionNo(1), Some(10), 5000));
    assert_eq!((head.meta.mode, head.meta.content_type.as_deref()), (Some(0o755), Some("x/y")));
    t.must(Op::Copy(copy("a", None, "c"))).await;
    assert_eq!((t.text("d/b").await.unwrap(), t.text("c").await.unwrap()), (vec![1; 5000], b"small".to_vec()));
    t.write("a", b"later").await;
    t.must(delete("a")).await;
    assert_eq!((t.text("d/b").await.unwrap(), t.text("c").await.unwrap()), (vec![1; 5000], b"small".to_vec()));
    // Onto a file that is there: a version of that file.
    t.must(Op::Copy(copy("c", None, "d/b"))).await;
    let head = t.file("d/b").await.unwrap();
    assert_eq!((head.version, head.meta.size), (VersionNo(2), 5));
    let absent = Copy { expect: Precondition::Absent, ..copy("c", None, "d/b") };
    assert_eq!(refused(t.run(Op::Copy(absent)).await), Kind::Conflict);
    // A chunked body is shared, not copied.
    let (mut ops, put) = chunked("big", SystemClock.lineage(), 4096, 8192, &[Some(Bytes::from(vec![7; 4096])), None]);
    ops.push(Op::Put(put));
    t.run_all(ops).await.unwrap();
    t.must(Op::Copy(copy("big", None, "big2"))).await;
    assert_eq!(t.text("big2").await, t.text("big").await);
}

pub async fn a_directory_is_restored_to_a_moment(t: Tester) {
    t.write("d/changed", b"then").await;
    t.write("d/deleted", &[2; 5000]).await;
    t.write("d/sub/moved", &[3; 5000]).await;
    t.write("d/same", b"same").await;
    let at = t.write("d/last", b"then").await.meta.created_at.unwrap();
    t.write("d/changed", b"now").await;
    t.must(delete("d/deleted")).await;
    t.must(Op::Rename(rename("d/sub/moved", "d/elsewhere"))).await;
    t.write("d/later", b"stays").await;
    let back = RestoreDir { dir: dir("d"), at, id: id() };
    assert_eq!(t.must(Op::RestoreDir(back)).await.files, 3);
    assert_eq!(t.names("d", 10).await, ["changed", "deleted", "elsewhere", "last", "later", "same", "sub/"]);
    assert_eq!(t.text("d/changed").await.unwrap(), b"then");
    assert_eq!(t.text("d/deleted").await.unwrap(), [2; 5000]);
    assert_eq!(t.text("d/sub/moved").await.unwrap(), [3; 5000]);
    assert_eq!(t.text("d/elsewhere").await.unwrap(), [3; 5000]);
    assert_eq!(t.versions("d/same").await.len(), 1);
    assert_eq!(t.file("d/deleted").await.unwrap().meta.restored_from, Some(json!(1)));
    // A directory that was removed comes back.
    let at = t.write("d/last", b"again").await.meta.created_at.unwrap();
    t.must(rmdir("d", true)).await;
    t.must(Op::RestoreDir(RestoreDir { dir: dir("d"), at, id: id() })).await;
    assert_eq!(t.names("d", 10).await, ["changed", "deleted", "elsewhere", "last", "later", "same", "sub/"]);
}

pub async fn moments_are_transactions(t: Tester) {
    t.run_all(vec![Op::Put(put("d/a", b"")), Op::Put(put("d/b", b""))]).await.unwrap();
    t.write("d/a", b"2").await;
    t.write("other", b"").await;
    t.must(delete("d/b")).await;
    let moments = t.store.history(&dir("d"), 10).await.unwrap();
    let numbers: Vec<_> = moments.iter().map(|moment| moment.number).collect();
    assert_eq!(numbers, [3, 2, 1]);
    assert_eq!((moments[1].versions, moments[2].versions), (1, 2));
    assert_eq!(moments[2].by.as_ref(), Some(&*by()));
    assert!(moments.windows(2).all(|pair| pair[0].at >= pair[1].at));
    let two = t.store.history(&dir("d"), 2).await.unwrap();
    assert_eq!(two.iter().map(|moment| moment.number).collect::<Vec<_>>(), [3, 2]);
    assert!(t.store.history(&dir("nothing"), 2).await.unwrap().is_empty());
}

pub async fn a_purged_key_is_gone(t: Tester) {
    let lineage = SystemClock.lineage();
    let (mut ops, put) = chunked("d/a", lineage, 4096, 4100, &[Some(Bytes::from(vec![7; 4096])), Some(Bytes::from(vec![8; 4]))]);
    let bodies: Vec<VersionId> = ops.iter().filter_map(Op::witness).collect();
    ops.push(Op::Put(put));
    t.run_all(ops).await.unwrap();
    t.write("d/a", b"123").await;
    t.write("d/b", b"other").await;
    let all = purge(PurgeScope::Key(key("d/a")));
    let report = t.store.purge(&Purge { dry_run: true, ..all.clone() }).await.unwrap();
    assert_eq!((report.rows, report.body_rows), (2, 2));
    assert_eq!(t.versions("d/a").await.len(), 2);
    assert_eq!(t.store.purge(&all).await.unwrap(), report);
    assert!(report.bytes >= 4103, "{report:?}");
    assert!(t.entry("d/a").await.is_none() && t.versions("d/a").await.is_empty());
    assert_eq!(t.server.present(&bodies).await.unwrap(), [false, false]);
    assert_eq!(t.text("d/b").await.unwrap(), b"other");
    assert_eq!(t.store.purge(&all).await.unwrap().rows, 0);
    assert_eq!(t.write("d/a", b"new").await.version, VersionNo(1));
}

pub async fn a_purge_hands_bytes_over(t: Tester) {
    // Copies of copies, renames, restores: the row that holds the bytes goes first.
    t.write("a", &[1; 5000]).await;
    t.must(Op::Copy(copy("a", None, "b"))).await;
    t.must(Op::Copy(copy("b", None, "c"))).await;
    t.must(Op::Rename(rename("a", "d"))).await;
    t.must(Op::Restore(restore("a", 1))).await;
    for gone in ["d", "a", "b"] {
        t.store.purge(&purge(PurgeScope::Key(key(gone)))).await.unwrap();
        assert!(t.versions(gone).await.is_empty());
        assert_eq!(t.text("c").await.unwrap(), [1; 5000], "after the purge of {gone}");
    }
    assert_eq!(t.tree().await, ["c"]);
    // Chunks that two files share, the purged one first, and by its prefix.
    let (mut ops, put) = chunked("x/big", SystemClock.lineage(), 4096, 8192, &[Some(Bytes::from(vec![7; 4096])), None]);
    ops.push(Op::Put(put));
    t.run_all(ops).await.unwrap();
    t.must(Op::Copy(copy("x/big", None, "y/big"))).await;
    let bytes = t.text("x/big").await.unwrap();
    purge_all(&t, purge(PurgeScope::Prefix(dir("x"), None))).await;
    assert_eq!(t.text("y/big").await.unwrap(), bytes);
    assert!(t.entry("x").await.is_none());
    let report = purge_all(&t, purge(PurgeScope::Prefix(dir("y"), None))).await;
    assert_eq!((report.rows, report.body_rows), (1, 1));
}

pub async fn parts_of_a_history_are_purged(t: Tester) {
    for text in ["1", "2", "3", "4"] {
        t.write("a", text.as_bytes()).await;
        t.write("dead", text.as_bytes()).await;
    }
    t.must(delete("dead")).await;
    let numbers = async |path: &str| t.versions(path).await.iter().map(|head| head.version.0).collect::<Vec<_>>();
    let key_a = || PurgeScope::Key(key("a"));
    let young = Purge { older_than: Some(3600), ..purge(key_a()) };
    assert_eq!(t.store.purge(&young).await.unwrap().rows, 0);
    let keep = Purge { keep: Some(3), ..purge(key_a()) };
    assert_eq!(t.store.purge(&keep).await.unwrap().rows, 1);
    assert_eq!(numbers("a").await, [4, 3, 2]);
    let old = Purge { older_than: Some(0), ..purge(key_a()) };
    assert_eq!(t.store.purge(&old).await.unwrap().rows, 2);
    assert_eq!(numbers("a").await, [4]);
    assert_eq!(t.text("a").await.unwrap(), b"4");
    let dead = Purge { dead: true, ..purge(PurgeScope::Prefix(dir(""), None)) };
    assert_eq!(purge_all(&t, dead).await.rows, 5);
    assert_eq!((numbers("a").await, numbers("dead").await), (vec![4], vec![]));
    assert_eq!(t.write("a", b"5").await.version, VersionNo(5));
}

pub async fn a_prefix_is_purged_in_slices(t: Tester) {
    let ops = (0..230).map(|n| Op::Put(put(&format!("d/{n:03}/f"), b"x"))).collect();
    t.run_all(ops).await.unwrap();
    t.write("d0", b"stays").await;
    let all = purge(PurgeScope::Prefix(dir("d"), None));
    let report = purge_all(&t, Purge { dry_run: true, ..all.clone() }).await;
    assert_eq!(report.rows, 230);
    assert_eq!(purge_all(&t, all).await, report);
    assert_eq!(t.tree().await, ["d0"]);
    assert!(t.entry("d").await.is_none());
}

pub async fn usage_counts(t: Tester) {
    t.make_dir("d").await;
    t.write("d/a", b"12345").await;
    t.write("d/a", b"123").await;
    t.write("d/b", b"12").await;
    t.must(delete("d/b")).await;
    t.write("elsewhere", b"1").await;
    let usage = t.store.usage(&dir("d")).await.unwrap();
    assert_eq!((usage.files, usage.bytes, usage.dirs), (1, 3, 1));
    assert_eq!((usage.history_rows, usage.history_bytes, usage.body_rows), (3, 7, 0));
    let (mut ops, put) = chunked("d/big", SystemClock.lineage(), 4096, 8192, &[Some(Bytes::from(vec![7; 4096])), None]);
    ops.push(Op::Put(put));
    t.run_all(ops).await.unwrap();
    let usage = t.store.usage(&dir("d")).await.unwrap();
    assert_eq!((usage.files, usage.bytes, usage.body_rows, usage.body_bytes), (2, 8195, 1, 4096));
}
