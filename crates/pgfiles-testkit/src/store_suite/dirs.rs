//! Cases: directories, explicit and implied.
#![allow(missing_docs)] // the names say it

use super::*;
use pgfiles_store::key::implied_ino;
use pgfiles_store::version::Timestamp;

pub async fn a_marker_makes_a_directory(t: Tester) {
    t.make_dir("d").await;
    assert!(t.is_dir("d").await);
    assert!(t.names("d", 10).await.is_empty());
    assert_eq!(t.names("", 10).await, ["d/"]);
    let mut marked = mkdir("e");
    marked.meta.extend(map(json!({"mode": "0700", "ino": "5"})));
    t.must(Op::Put(marked)).await;
    let Some(Entry::Dir(found)) = t.entry("e").await else { panic!("a directory") };
    let marker = found.marker.unwrap();
    assert_eq!((marker.meta.mode, marker.meta.ino, marker.key), (Some(0o700), Some(5), key("e/")));
}

pub async fn an_implied_directory_stays_when_its_last_name_leaves(t: Tester) {
    let mut file = put("d/e/a", b"");
    file.meta.insert("mtime".into(), "2020-02-02T00:00:00Z".into());
    t.must(Op::Put(file)).await;
    let Some(Entry::Dir(implied)) = t.entry("d").await else { panic!("a directory") };
    assert_eq!((implied.marker, implied.mtime), (None, Timestamp::parse("2020-02-02T00:00:00Z")));
    t.must(delete("d/e/a")).await;
    assert!(t.is_dir("d/e").await && t.is_dir("d").await);
    assert!(t.names("d/e", 10).await.is_empty());
    t.write("x/a", b"").await;
    t.must(Op::Rename(rename("x/a", "y/a"))).await;
    assert!(t.is_dir("x").await && t.is_dir("y").await);
    t.write("p/q/a", b"").await;
    t.must(rmdir("p/q", true)).await;
    assert!(t.is_dir("p").await && !t.is_dir("p/q").await);
}

pub async fn a_live_key_is_always_reachable(t: Tester) {
    t.make_dir("d").await;
    t.make_dir("d/e").await;
    t.must(rmdir("d", true)).await;
    assert!(t.entry("d").await.is_none() && t.entry("d/e").await.is_none());
    t.write("d/e/f/a", b"1").await;
    for (path, names) in [("", vec!["d/"]), ("d", vec!["e/"]), ("d/e", vec!["f/"]), ("d/e/f", vec!["a"])] {
        assert_eq!(t.names(path, 10).await, names, "{path:?}");
    }
    assert!(t.is_dir("d").await && t.is_dir("d/e").await);
    assert_eq!(refused(t.run(rmdir("d/e", false)).await), Kind::NotEmpty);
    // The same by a rename, a copy and a restore into what was removed.
    t.must(rmdir("d", true)).await;
    t.write("a", b"2").await;
    t.must(Op::Copy(past::copy("a", None, "d/e/copied"))).await;
    assert_eq!(t.names("d/e", 10).await, ["copied"]);
    t.must(rmdir("d", true)).await;
    t.must(Op::Rename(rename("a", "d/e/moved"))).await;
    assert_eq!(t.names("d/e", 10).await, ["moved"]);
    t.must(rmdir("d", true)).await;
    t.must(Op::Restore(past::restore("d/e/f/a", 1))).await;
    assert_eq!(t.names("d/e", 10).await, ["f/"]);
    assert_eq!(t.text("d/e/f/a").await.unwrap(), b"1");
    t.must(rmdir("d", true)).await;
    t.write("z/a", b"3").await;
    t.must(Op::RenameDir(rename_dir("z", "d/e/z"))).await;
    assert_eq!(t.names("d/e", 10).await, ["z/"]);
    assert_eq!(t.text("d/e/z/a").await.unwrap(), b"3");
}

pub async fn removing_a_directory(t: Tester) {
    t.make_dir("d").await;
    t.write("d/a", b"").await;
    assert_eq!(refused(t.run(rmdir("d", false)).await), Kind::NotEmpty);
    t.must(delete("d/a")).await;
    t.must(rmdir("d", false)).await;
    assert!(t.entry("d").await.is_none());
    assert_eq!(refused(t.run(rmdir("d", false)).await), Kind::NotFound);
    assert_eq!(refused(t.run(rmdir("never", true)).await), Kind::NotFound);
    t.write("implied/a", b"").await;
    assert_eq!(refused(t.run(rmdir("implied", false)).await), Kind::NotEmpty);
    t.make_dir("parent").await;
    t.make_dir("parent/child").await;
    assert_eq!(refused(t.run(rmdir("parent", false)).await), Kind::NotEmpty);
    t.make_dir("d").await;
    assert!(t.is_dir("d").await);
    assert_eq!(t.versions("d/").await[0].version, VersionNo(3));
}

pub async fn removing_a_tree(t: Tester) {
    for path in ["d/a", "d/b/c", "d/b/d", "e"] {
        t.write(path, b"x").await;
    }
    t.make_dir("d/empty").await;
    t.write("d/gone", b"").await;
    t.must(delete("d/gone")).await;
    let outcome = t.must(rmdir("d", true)).await;
    assert_eq!(outcome.files, 3);
    assert_eq!(t.tree().await, ["e"]);
    assert_eq!(t.versions("d/b/c").await.len(), 2);
    assert_eq!(t.versions("d/gone").await.len(), 2);
    assert!(t.entry("d/b").await.is_none());
    assert!(t.names("d", 10).await.is_empty());
}

pub async fn an_implied_directory_becomes_explicit(t: Tester) {
    t.write("d/a", b"").await;
    let patch = AttrPatch { mode: Some(0o711), ..AttrPatch::default() };
    assert_eq!(refused(t.run(Op::SetAttr(set_attr("d/", patch.clone()))).await), Kind::NotFound);
    let explicit = || Some((id(), map(json!({"kind": "dir", "ino": "9", "mode": "0755"}))));
    t.must(Op::SetAttr(SetAttr { explicit: explicit(), ..set_attr("d/", patch.clone()) })).await;
    let Some(Entry::Dir(found)) = t.entry("d").await else { panic!("a directory") };
    let marker = found.marker.unwrap();
    assert_eq!((marker.meta.mode, marker.meta.ino, marker.version), (Some(0o711), Some(9), VersionNo(1)));
    // A marker that is there takes the patch alone.
    let patch = AttrPatch { uid: Some(3), ..AttrPatch::default() };
    let marker = t.must(Op::SetAttr(SetAttr { explicit: explicit(), ..set_attr("d/", patch.clone()) })).await.head.unwrap();
    assert_eq!((marker.meta.mode, marker.meta.uid, marker.version), (Some(0o711), Some(3), VersionNo(1)));
    let nothing = SetAttr { explicit: explicit(), ..set_attr("nothing/", patch) };
    assert_eq!(refused(t.run(Op::SetAttr(nothing)).await), Kind::NotFound);
}

pub async fn renaming_a_directory_moves_all(t: Tester) {
    t.make_dir("d").await;
    t.make_dir("d/empty").await;
    t.write("d/a", b"old").await;
    t.write("d/a", &[3; 5000]).await;
    t.write("d/b/c", b"c").await;
    t.write("d0", b"").await;
    t.write("d/dead", b"").await;
    t.must(delete("d/dead")).await;
    let outcome = t.must(Op::RenameDir(rename_dir("d", "x/y"))).await;
    assert_eq!(outcome.files, 2);
    assert_eq!(t.names("", 10).await, ["d0", "x/"]);
    assert_eq!(t.names("x/y", 10).await, ["a", "b/", "empty/"]);
    assert_eq!(t.text("x/y/a").await.unwrap(), [3; 5000]);
    assert_eq!(t.text("x/y/b/c").await.unwrap(), b"c");
    let head = t.file("x/y/a").await.unwrap();
    assert_eq!((head.version, head.meta.from), (VersionNo(1), Some(json!({"key": key("d/a").as_str(), "version": 2}))));
    let left = t.versions("d/a").await;
    assert_eq!(left.iter().map(Head::is_live).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(left[0].meta.to, Some(json!({"key": key("x/y/a").as_str(), "version": 1})));
    assert_eq!(t.bytes(&left[1]).await, [3; 5000]);
    assert_eq!(t.bytes(&left[2]).await, b"old");
    // Onto an empty directory, which it replaces.
    t.make_dir("target").await;
    t.must(Op::RenameDir(rename_dir("x/y", "target"))).await;
    assert_eq!(t.names("target", 10).await, ["a", "b/", "empty/"]);
    assert!(t.is_dir("x").await && t.entry("x/y").await.is_none());
    // And back to where it was.
    t.must(Op::RenameDir(rename_dir("target", "d"))).await;
    assert_eq!(t.text("d/a").await.unwrap(), [3; 5000]);
    assert_eq!(t.file("d/a").await.unwrap().version, VersionNo(4));
}

pub async fn renaming_a_directory_is_refused(t: Tester) {
    t.write("d/a", b"").await;
    t.write("full/a", b"").await;
    t.make_dir("empty").await;
    t.write("file", b"").await;
    for (from, to, kind) in [
        ("never", "x", Kind::NotFound),
        ("d", "full", Kind::NotEmpty),
        ("d", "file", Kind::Conflict),
        ("d", "d/sub", Kind::Invalid),
    ] {
        assert_eq!(refused(t.run(Op::RenameDir(rename_dir(from, to))).await), kind, "{from} to {to}");
    }
    let absent = RenameDir { to_absent: true, ..rename_dir("d", "empty") };
    assert_eq!(refused(t.run(Op::RenameDir(absent)).await), Kind::Conflict);
    assert_eq!(t.tree().await, ["d/a", "empty/", "file", "full/a"]);
}

pub async fn an_implied_directory_keeps_its_number(t: Tester) {
    t.write("d/a", b"").await;
    t.must(Op::RenameDir(rename_dir("d", "e"))).await;
    let Some(Entry::Dir(found)) = t.entry("e").await else { panic!("a directory") };
    assert_eq!(found.marker.and_then(|marker| marker.meta.ino), Some(implied_ino(&dir("d"))));
    assert!(t.entry("d").await.is_none());
}
