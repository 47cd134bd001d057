//! Cases: hard links, and the exchange of two names.
#![allow(missing_docs)] // the names say it

use super::*;
use pgfiles_store::batch::{Copy, Exchange, LINKS_MAX, Link, Restore};
use pgfiles_store::store::{Purge, PurgeScope};

fn link(from: &str, to: &str) -> Op {
    Op::Link(Link { id: id(), from: key(from), to: key(to), ctime: None })
}

fn exchange(from: &str, to: &str) -> Op {
    Op::Exchange(Exchange { id: id(), from: key(from), to: key(to), ctime: None })
}

fn whole(scope: PurgeScope) -> Purge {
    Purge { scope, keep: None, older_than: None, dead: false, dry_run: false }
}

async fn linked(t: &Tester, names: &[&str]) {
    let mut first = put(names[0], b"one");
    first.meta.extend(map(json!({"ino": "77", "mode": "0640"})));
    t.must(Op::Put(first)).await;
    for name in &names[1..] {
        t.must(link(names[0], name)).await;
    }
}

/// How many names the head at a path says that its inode has.
async fn nlink(t: &Tester, path: &str) -> u32 {
    t.file(path).await.unwrap_or_else(|| panic!("{path} is there")).meta.nlink.unwrap_or(1)
}

pub async fn a_link_is_another_name_of_the_same_inode(t: Tester) {
    linked(&t, &["a", "d/b"]).await;
    let (a, b) = (t.file("a").await.unwrap(), t.file("d/b").await.unwrap());
    assert_eq!((a.meta.ino, a.meta.mode, a.meta.nlink), (Some(77), Some(0o640), Some(2)));
    assert_eq!((b.meta.ino, b.meta.mode, b.meta.nlink, b.version), (Some(77), Some(0o640), Some(2), VersionNo(1)));
    assert!(a.meta.hard_link.is_some() && a.meta.hard_link == b.meta.hard_link);
    assert_eq!(t.text("d/b").await.unwrap(), b"one");
    let third = t.must(link("d/b", "c")).await;
    assert_eq!(third.head.unwrap().meta.nlink, Some(3));
    assert!([key("a"), key("d/b")].iter().all(|name| third.also.contains(name)), "{:?}", third.also);
    for name in ["a", "d/b", "c"] {
        assert_eq!(nlink(&t, name).await, 3, "{name}");
    }
}

pub async fn what_is_written_to_one_name_is_written_to_all(t: Tester) {
    linked(&t, &["a", "b", "c"]).await;
    let outcome = t.must(Op::Put(put("b", b"two"))).await;
    let mut also = outcome.also;
    also.sort();
    assert_eq!(also, [key("a"), key("c")]);
    for (name, versions) in [("a", 2), ("b", 2), ("c", 2)] {
        assert_eq!(t.text(name).await.unwrap(), b"two", "{name}");
        assert_eq!(t.versions(name).await.len(), versions, "{name}");
        assert_eq!(t.bytes(&t.version(name, 1).await.unwrap()).await, b"one", "{name}");
        assert_eq!(nlink(&t, name).await, 3, "{name}");
    }
    let patch = AttrPatch { mode: Some(0o600), ..AttrPatch::default() };
    t.must(Op::SetAttr(set_attr("c", patch))).await;
    for name in ["a", "b", "c"] {
        let head = t.file(name).await.unwrap();
        assert_eq!((head.meta.mode, head.version), (Some(0o600), VersionNo(2)), "{name}");
    }
}

pub async fn a_version_in_progress_is_one_under_every_name(t: Tester) {
    linked(&t, &["a", "b"]).await;
    let first = t.must(Op::Put(put("a", b"two"))).await.head.unwrap();
    // Extended by the name that it was begun under, then by the other one.
    let second = t.must(Op::Put(Put { extends: Some(first.id), ..put("a", b"three") })).await.head.unwrap();
    let third = Put { extends: Some(second.id), expect: Precondition::Head(second.id), ..put("b", b"four") };
    t.must(Op::Put(third.clone())).await;
    assert_eq!(t.file("b").await.unwrap().id, third.id);
    assert_eq!(t.file("a").await.unwrap().id, third.id.twin(&key("a")), "the same whoever commits it, and when");
    for name in ["a", "b"] {
        assert_eq!(t.text(name).await.unwrap(), b"four", "{name}");
        assert_eq!(t.versions(name).await.len(), 2, "{name}");
    }
}

pub async fn a_version_in_progress_goes_on_after_renames(t: Tester) {
    let first = t.write("a", &[5; 6000]).await;
    t.must(Op::Rename(rename("a", "b"))).await;
    t.write("c", b"other").await;
    t.must(exchange("b", "c")).await;
    t.must(Op::Put(Put { extends: Some(first.id), ..put("c", &[6; 7000]) })).await;
    // Behind what was there, and the tombstone that its move left.
    assert_eq!(t.file("c").await.unwrap().version, VersionNo(3));
    assert_eq!(t.bytes(&t.version("c", 1).await.unwrap()).await, b"other");
    assert_eq!(t.bytes(&t.version("c", 3).await.unwrap()).await, [6; 7000]);
    for path in ["a", "b"] {
        assert_eq!(t.bytes(&t.version(path, 1).await.unwrap()).await, [5; 6000], "{path}");
    }
}

pub async fn a_name_that_goes_leaves_the_others(t: Tester) {
    linked(&t, &["a", "b", "c"]).await;
    let outcome = t.must(delete("a")).await;
    assert!([key("b"), key("c")].iter().all(|name| outcome.also.contains(name)), "{:?}", outcome.also);
    assert_eq!((nlink(&t, "b").await, nlink(&t, "c").await), (2, 2));
    assert_eq!(t.text("b").await.unwrap(), b"one");
    t.must(delete("b")).await;
    let last = t.file("c").await.unwrap();
    assert_eq!((last.meta.nlink, last.meta.hard_link, last.meta.ino), (None, None, Some(77)));
    // What was one of several names comes back as a file of its own: its inode lives on.
    let back = Op::Restore(Restore { id: id(), key: key("a"), version: VersionNo(1), expect: Precondition::Any });
    let back = t.must(back).await.head.unwrap();
    assert!(back.meta.ino != Some(77) && back.meta.hard_link.is_none());
    t.must(Op::Put(put("a", b"mine"))).await;
    assert_eq!(t.text("c").await.unwrap(), b"one");
}

pub async fn links_survive_renames(t: Tester) {
    linked(&t, &["a", "b"]).await;
    t.make_dir("d").await;
    t.must(Op::Rename(rename("a", "d/a"))).await;
    t.must(Op::RenameDir(rename_dir("d", "e"))).await;
    t.must(Op::Put(put("b", b"two"))).await;
    assert_eq!(t.text("e/a").await.unwrap(), b"two");
    assert_eq!((nlink(&t, "e/a").await, nlink(&t, "b").await), (2, 2));
    // Over another inode's name, which that one loses; over a name of its own nothing happens.
    linked(&t, &["x", "y"]).await;
    t.must(Op::Rename(rename("b", "x"))).await;
    assert_eq!((nlink(&t, "x").await, nlink(&t, "e/a").await, nlink(&t, "y").await), (2, 2, 1));
    assert_eq!((t.text("x").await.unwrap(), t.text("y").await.unwrap()), (b"two".to_vec(), b"one".to_vec()));
    t.must(Op::Rename(rename("x", "e/a"))).await;
    assert!(t.file("x").await.is_some() && t.file("e/a").await.is_some());
    t.must(rmdir("e", true)).await;
    assert_eq!((nlink(&t, "x").await, t.text("x").await.unwrap()), (1, b"two".to_vec()));
}

pub async fn a_restore_reaches_all_names_a_copy_none(t: Tester) {
    linked(&t, &["a", "b"]).await;
    t.must(Op::Put(put("a", b"two"))).await;
    t.must(Op::Restore(Restore { id: id(), key: key("b"), version: VersionNo(1), expect: Precondition::Any })).await;
    assert_eq!((t.text("a").await.unwrap(), t.text("b").await.unwrap()), (b"one".to_vec(), b"one".to_vec()));
    let copy = Copy { id: id(), from: key("a"), version: None, to: key("c"), expect: Precondition::Any, meta: Map::new() };
    let copied = t.must(Op::Copy(copy)).await.head.unwrap();
    assert!(copied.meta.hard_link.is_none() && copied.meta.nlink.is_none());
    assert_eq!((nlink(&t, "a").await, nlink(&t, "c").await), (2, 1));
}

pub async fn a_purge_of_one_name_leaves_the_others_whole(t: Tester) {
    let lineage = SystemClock.lineage();
    let chunk = 4096;
    let chunks: Vec<Option<Bytes>> = (0..3).map(|n| Some(Bytes::from(vec![n + 1; chunk as usize]))).collect();
    let (mut ops, put_a) = chunked("a", lineage, chunk, 3 * u64::from(chunk), &chunks);
    ops.push(Op::Put(put_a));
    t.run_all(ops).await.unwrap();
    t.must(link("a", "b")).await;
    let expected = t.text("a").await.unwrap();
    t.store.purge(&whole(PurgeScope::Key(key("a")))).await.unwrap();
    assert_eq!(t.text("b").await.unwrap(), expected);
    assert_eq!(nlink(&t, "b").await, 1);
    let report = t.store.purge(&whole(PurgeScope::Key(key("b")))).await.unwrap();
    assert_eq!(report.body_rows, 3, "the last name takes the chunks with it");
}

pub async fn what_cannot_be_linked_is_refused(t: Tester) {
    t.write("a", b"x").await;
    t.write("there", b"x").await;
    t.make_dir("d").await;
    assert_eq!(refused(t.run(link("a", "there")).await), Kind::Conflict);
    assert_eq!(refused(t.run(link("a", "d")).await), Kind::Conflict);
    assert_eq!(refused(t.run(link("missing", "b")).await), Kind::NotFound);
    assert_eq!(refused(t.run(link("a", "a")).await), Kind::Invalid);
    assert_eq!(nlink(&t, "a").await, 1);
}

pub async fn many_names_share_one_inode(t: Tester) {
    t.write("a", b"x").await;
    t.run_all((1..40).map(|n| link("a", &format!("n/{n}"))).collect()).await.unwrap();
    assert_eq!((nlink(&t, "n/7").await, nlink(&t, "a").await), (40, 40));
    t.run_all((1..30).map(|n| delete(&format!("n/{n}"))).collect()).await.unwrap();
    t.must(Op::Put(put("n/39", b"y"))).await;
    assert_eq!((nlink(&t, "n/30").await, t.text("a").await.unwrap()), (11, b"y".to_vec()));
}

/// For a store that is quick enough.
pub async fn an_inode_has_a_thousand_names_at_most(t: Tester) {
    t.write("a", b"x").await;
    t.run_all((1..LINKS_MAX).map(|n| link("a", &format!("n/{n}"))).collect()).await.unwrap();
    assert_eq!(nlink(&t, "n/7").await, LINKS_MAX);
    assert_eq!(refused(t.run(link("n/7", "one-more")).await), Kind::TooManyLinks);
    t.must(delete("n/1")).await;
    t.must(link("n/7", "one-more")).await;
}

pub async fn a_link_sent_twice_is_made_once(t: Tester) {
    t.write("a", b"x").await;
    let op = link("a", "b");
    t.must(op.clone()).await;
    let again = t.store.commit(Batch { again: true, ..Batch::one(op, &by()) }).await.unwrap();
    assert_eq!(again[0].head.as_ref().map(|head| head.key.clone()), Some(key("b")));
    assert_eq!((nlink(&t, "a").await, t.versions("b").await.len()), (2, 1));
}

pub async fn files_change_places(t: Tester) {
    t.write("a", b"of a").await;
    t.write("d/b", &[7; 5000]).await;
    let (a, b) = (t.file("a").await.unwrap(), t.file("d/b").await.unwrap());
    let op = exchange("a", "d/b");
    t.must(op.clone()).await;
    t.store.commit(Batch { again: true, ..Batch::one(op, &by()) }).await.unwrap();
    assert_eq!((t.text("a").await.unwrap(), t.text("d/b").await.unwrap()), (vec![7; 5000], b"of a".to_vec()));
    let (now_a, now_b) = (t.file("a").await.unwrap(), t.file("d/b").await.unwrap());
    assert_eq!((now_a.meta.ino, now_b.meta.ino), (b.meta.ino, a.meta.ino));
    assert_eq!(now_b.meta.from, Some(json!({"key": key("a").as_str(), "version": 1})));
    assert_eq!(t.bytes(&t.version("a", 1).await.unwrap()).await, b"of a", "history stays where it was");
    let left = t.version("a", 2).await.unwrap();
    assert_eq!(left.meta.to, Some(json!({"key": key("d/b").as_str(), "version": now_b.version.0})));
    assert_eq!(t.tree().await, ["a", "d/", "d/b"], "nothing stays of the way");
}

pub async fn directories_change_places(t: Tester) {
    for (path, data) in [("x/1", "x1"), ("x/s/2", "x2"), ("y/3", "y3")] {
        t.write(path, data.as_bytes()).await;
    }
    t.make_dir("y").await;
    t.must(exchange("x", "y")).await;
    assert_eq!(t.names("", 10).await, ["x/", "y/"]);
    assert_eq!(
        (t.text("y/1").await.unwrap(), t.text("y/s/2").await.unwrap(), t.text("x/3").await.unwrap()),
        (b"x1".to_vec(), b"x2".to_vec(), b"y3".to_vec())
    );
    t.write("f", b"file").await;
    t.must(exchange("f", "y")).await;
    assert_eq!((t.text("y").await.unwrap(), t.text("f/s/2").await.unwrap()), (b"file".to_vec(), b"x2".to_vec()));
    assert_eq!(refused(t.run(exchange("f", "f/s")).await), Kind::Invalid);
    assert_eq!(refused(t.run(exchange("f", "missing")).await), Kind::NotFound);
    assert_eq!(t.text("f/1").await.unwrap(), b"x1");
}
