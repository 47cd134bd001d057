//! Cases: several operations at once, sent again, and by many at the same time.
#![allow(missing_docs)] // the names say it

use std::time::Duration;

use super::*;
use futures_util::future::join_all;

pub async fn a_batch_is_all_or_nothing(t: Tester) {
    t.write("a", b"1").await;
    let ops = vec![
        Op::Put(put("a", b"2")),
        Op::Put(put("b", b"2")),
        delete("a"),
        Op::Put(mkdir("d")),
        delete("nothing"),
        Op::Put(put("c", b"2")),
    ];
    let error = t.run_all(ops).await.unwrap_err();
    assert_eq!((error.kind(), error.op()), (Kind::NotFound, Some(4)));
    assert_eq!(t.tree().await, ["a"]);
    assert_eq!(t.text("a").await.unwrap(), b"1");
    assert_eq!(t.versions("a").await.len(), 1);
    let conflict = vec![Op::Put(put("b", b"")), Op::Put(Put { expect: Precondition::Absent, ..put("a", b"") })];
    let error = t.run_all(conflict).await.unwrap_err();
    assert_eq!((error.kind(), error.op()), (Kind::Conflict, Some(1)));
    assert!(t.entry("b").await.is_none());
}

pub async fn operations_see_earlier_ones(t: Tester) {
    let first = put("a", b"1");
    let ops = vec![
        Op::Put(first.clone()),
        Op::Put(put("a", b"2")),
        Op::SetAttr(set_attr("a", AttrPatch { mode: Some(0o600), ..AttrPatch::default() })),
        Op::Rename(rename("a", "b")),
        Op::Put(Put { expect: Precondition::Absent, ..put("a", b"3") }),
        delete("a"),
        Op::Put(mkdir("d")),
        Op::Rename(rename("b", "d/b")),
        Op::RenameDir(rename_dir("d", "e")),
        Op::Copy(past::copy("e/b", None, "c")),
    ];
    let outcomes = t.run_all(ops).await.unwrap();
    assert_eq!(outcomes.len(), 10);
    let versions: Vec<_> = outcomes[..3].iter().map(|outcome| outcome.head.as_ref().unwrap().version.0).collect();
    assert_eq!(versions[..2], [1, 2]);
    assert_eq!(t.tree().await, ["c", "e/", "e/b"]);
    assert_eq!(t.text("e/b").await.unwrap(), b"2");
    assert_eq!(t.text("c").await.unwrap(), b"2");
    assert_eq!(t.file("e/b").await.unwrap().meta.mode, Some(0o600));
    assert_eq!(t.versions("a").await.len(), 5);
    let xids: std::collections::BTreeSet<_> =
        t.versions("c").await.into_iter().chain([t.file("e/b").await.unwrap()]).map(|h| h.meta.xid).collect();
    assert_eq!(xids.len(), 1);
}

pub async fn a_batch_sent_twice_is_applied_once(t: Tester) {
    for path in ["renamed", "copied", "restored", "deleted", "attrs", "moved-dir/a", "removed/a", "young"] {
        t.write(path, b"1").await;
    }
    t.write("restored", b"2").await;
    let young = Some(pgfiles_store::batch::Young { mount: MOUNT.into(), seconds: 600 });
    let batches: Vec<Vec<Op>> = vec![
        vec![Op::Put(put("put", b"1")), Op::Put(put("put", b"2"))],
        vec![delete("deleted")],
        vec![Op::Rename(rename("renamed", "target"))],
        vec![Op::Rename(Rename { young, ..rename("young", "old") })],
        vec![Op::Copy(past::copy("copied", None, "copy"))],
        vec![Op::Restore(past::restore("restored", 1))],
        vec![Op::RenameDir(rename_dir("moved-dir", "dir"))],
        vec![rmdir("removed", true)],
        vec![Op::SetAttr(set_attr("attrs", AttrPatch { mode: Some(0o600), ..AttrPatch::default() }))],
        vec![Op::Put(Put { expect: Precondition::Absent, ..put("exclusive", b"") })],
    ];
    for ops in batches {
        let what = format!("{ops:?}");
        let batch = Batch { ops, ..Batch::one(delete("unused"), &by()) };
        let first = t.server.commit(batch.clone()).await.unwrap();
        let before = state(&t).await;
        let second = t.server.commit(Batch { again: true, ..batch }).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(state(&t).await, before, "{what}");
        let ids = |outcomes: &[Outcome]| {
            outcomes.iter().map(|outcome| outcome.head.as_ref().map(|head| (head.id, head.version))).collect::<Vec<_>>()
        };
        assert_eq!(ids(&first), ids(&second), "{what}");
        assert_eq!(
            first.iter().map(|o| o.moved).collect::<Vec<_>>(),
            second.iter().map(|o| o.moved).collect::<Vec<_>>(),
            "{what}"
        );
    }
    let never_sent = Batch { again: true, ..Batch::one(Op::Put(put("fresh", b"1")), &by()) };
    t.server.commit(never_sent).await.unwrap();
    assert_eq!(t.versions("fresh").await.len(), 1);
}

/// Every version of every live key and of the keys that the test deletes.
async fn state(t: &Tester) -> Vec<(String, u64, VersionId, u64)> {
    let mut state = Vec::new();
    let mut paths = t.tree().await;
    paths.extend(["deleted", "renamed", "young", "moved-dir/", "moved-dir/a", "removed/", "removed/a"].map(str::to_owned));
    for path in paths {
        let versions = t.server.versions(&key(&path), None, 100).await.unwrap();
        state.extend(versions.into_iter().map(|head| (path.clone(), head.version.0, head.id, head.meta.rev)));
    }
    state
}

pub async fn a_lost_reply_is_made_up_for(t: Tester) {
    // The second half of a batch was applied by nobody else: a resent batch is recognised by its first row alone, however
    // much has happened since.
    let batch = Batch { ops: vec![Op::Put(put("a", b"mine"))], ..Batch::one(delete("unused"), &by()) };
    t.server.commit(batch.clone()).await.unwrap();
    t.write("a", b"other").await;
    t.server.commit(Batch { again: true, ..batch.clone() }).await.unwrap();
    assert_eq!(t.text("a").await.unwrap(), b"other");
    t.must(delete("a")).await;
    t.server.commit(Batch { again: true, ..batch }).await.unwrap();
    assert!(t.entry("a").await.is_none());
    assert_eq!(t.versions("a").await.len(), 3);
}

pub async fn a_deletion_sent_again_behind_something_newer_changes_nothing(t: Tester) {
    t.write("a", b"1").await;
    let gone = delete("a");
    t.server.commit(Batch::one(gone.clone(), &by())).await.unwrap();
    t.write("a", b"2").await;
    let again = t.server.commit(Batch { ops: vec![Op::Put(put("b", b"")), gone], ..Batch::one(delete("unused"), &by()) });
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("an answer").unwrap();
    assert_eq!(t.text("a").await.unwrap(), b"2");
    assert_eq!(t.versions("a").await.len(), 3);
}

pub async fn another_life_is_refused(t: Tester) {
    let position = t.server.position().await.unwrap();
    let alive = Batch { life: Some(position.life.as_str().into()), ..Batch::one(Op::Put(put("a", b"")), &by()) };
    t.server.commit(alive).await.unwrap();
    let other = Batch { life: Some("another".into()), ..Batch::one(Op::Put(put("b", b"")), &by()) };
    assert_eq!(refused(t.server.commit(other).await), Kind::ServerChanged);
    assert!(t.entry("b").await.is_none());
    // Not through the layers: they have nothing of this to sync.
    t.server.sync().await.unwrap();
    let later = t.server.position().await.unwrap();
    assert!(later.flushed >= position.written);
    assert_eq!((later.life, later.cluster), (position.life, position.cluster));
    let durable = Batch { durability: pgfiles_store::batch::Durability::Sync, ..Batch::one(Op::Put(put("c", b"")), &by()) };
    t.server.commit(durable).await.unwrap();
    assert!(t.server.position().await.unwrap().flushed > position.written);
}

pub async fn ten_writers_leave_no_gap(t: Tester) {
    let t = Arc::new(t);
    let writers = (0..10).map(|writer| {
        let t = t.clone();
        tokio::spawn(async move {
            for round in 0..12 {
                t.write("a", format!("{writer} {round}").as_bytes()).await;
            }
        })
    });
    for ended in join_all(writers).await {
        ended.unwrap();
    }
    let numbers: Vec<_> = t.versions("a").await.iter().map(|head| head.version.0).collect();
    assert_eq!(numbers, (1..=120).rev().collect::<Vec<_>>());
}

pub async fn one_of_many_creators_wins(t: Tester) {
    for (path, make) in [("file", put as fn(&str, &[u8]) -> Put), ("dir", |path, _| mkdir(path))] {
        let attempts =
            (0..10).map(|_| t.server.commit(Batch::one(Op::Put(Put { expect: Precondition::Absent, ..make(path, b"") }), &by())));
        let results = join_all(attempts).await;
        let won = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(won, 1, "{path}");
        for lost in results.into_iter().filter(Result::is_err) {
            assert_eq!(refused(lost), Kind::Conflict, "{path}");
        }
    }
}

pub async fn removal_and_creation_never_hide_a_file(t: Tester) {
    for round in 0..25 {
        let (parent, file) = (format!("d{round}"), format!("d{round}/sub/f"));
        t.make_dir(&parent).await;
        t.make_dir(&format!("{parent}/sub")).await;
        let remove = t.server.commit(Batch::one(rmdir(&parent, round % 2 == 0), &by()));
        let remove_sub = t.server.commit(Batch::one(rmdir(&format!("{parent}/sub"), false), &by()));
        let create = t.server.commit(Batch::one(Op::Put(put(&file, b"1")), &by()));
        let (_, _, created) = tokio::join!(remove, remove_sub, create);
        created.unwrap();
        let entries = t.server.lookup(&[key(&file), key(&parent), key(&format!("{parent}/sub"))], 0).await.unwrap();
        if matches!(entries[0], Some(Entry::File(_))) {
            assert!(matches!((&entries[1], &entries[2]), (Some(Entry::Dir(_)), Some(Entry::Dir(_)))), "round {round}");
            let page = t.server.list(&dir(&parent), None, 10, 0).await.unwrap();
            assert_eq!(page.entries.len(), 1, "round {round}");
        }
    }
}

pub async fn many_puts_in_one_batch(t: Tester) {
    let ops = (0..600).map(|n| Op::Put(put(&format!("d{}/f{n:03}", n % 7), format!("{n}").as_bytes()))).collect();
    let outcomes = t.run_all(ops).await.unwrap();
    assert_eq!(outcomes.len(), 600);
    for (n, outcome) in outcomes.iter().enumerate() {
        let head = outcome.head.as_ref().unwrap();
        assert_eq!((head.key.clone(), head.version), (key(&format!("d{}/f{n:03}", n % 7)), VersionNo(1)));
    }
    assert_eq!(t.text("d3/f360").await.unwrap(), b"360");
    assert_eq!(t.names("d0", 1000).await.len(), 86);
    assert!(t.run_all(Vec::new()).await.unwrap().is_empty());
}

pub async fn rows_are_present_or_not(t: Tester) {
    let head = t.write("a", b"").await;
    t.store.sync().await.unwrap();
    assert_eq!(t.server.present(&[id(), head.id, id()]).await.unwrap(), [false, true, false]);
    assert!(t.server.present(&[]).await.unwrap().is_empty());
}
