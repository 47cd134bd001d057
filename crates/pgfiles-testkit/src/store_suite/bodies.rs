//! Cases: bodies in rows of their own, and reading parts of rows.
#![allow(missing_docs)] // the names say it

use super::*;
use pgfiles_store::batch::Grown;
use pgfiles_store::layout::{CHUNK_BYTES, SMALL_CHUNK_BYTES};
use pgfiles_store::store::{HEARTBEAT_EXPIRY_SECONDS, Maintenance, Part, PurgeScope};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const CHUNK: u32 = 4096;

/// Chunks with holes and short rows, and the bytes that they stand for.
fn random_body(rng: &mut StdRng, count: usize, filled: f64) -> (Vec<Option<Bytes>>, Vec<u8>) {
    let mut bytes = vec![0; count * CHUNK as usize];
    let mut chunks = vec![None; count];
    for (slot, place) in chunks.iter_mut().zip(bytes.chunks_mut(CHUNK as usize)) {
        if rng.random_bool(filled) {
            let len = if rng.random_bool(0.3) { rng.random_range(1..=CHUNK as usize) } else { CHUNK as usize };
            rng.fill(&mut place[..len]);
            *slot = Some(Bytes::copy_from_slice(&place[..len]));
        }
    }
    bytes.truncate(bytes.len() - rng.random_range(0..CHUNK as usize));
    if let (Some(Some(last)), cut) = (chunks.last_mut(), count * CHUNK as usize - bytes.len()) {
        last.truncate(last.len().min(CHUNK as usize - cut));
    }
    (chunks, bytes)
}

async fn reads_back(t: &Tester, rng: &mut StdRng, path: &str, bytes: &[u8]) {
    let head = t.file(path).await.unwrap();
    let body = Body::open(&*t.store, &head).await.unwrap();
    assert_eq!(body.size(), bytes.len() as u64);
    for _ in 0..40 {
        let offset = rng.random_range(0..bytes.len() + 10);
        let len = rng.random_range(0..5 * CHUNK as usize);
        let end = (offset + len).min(bytes.len());
        let read = body.read(&*t.store, offset as u64, len as u64).await.unwrap();
        assert!(read == bytes[offset.min(end)..end], "{len} bytes from {offset}");
    }
    assert!(body.read(&*t.store, 0, u64::MAX).await.unwrap() == bytes);
}

pub async fn chunked_bodies_read_back(t: Tester) {
    let mut rng = StdRng::seed_from_u64(1);
    for count in [1, 2, 30] {
        let (chunks, bytes) = random_body(&mut rng, count, 0.7);
        let path = format!("d/{count}");
        let (mut ops, put) = chunked(&path, SystemClock.lineage(), CHUNK, bytes.len() as u64, &chunks);
        ops.push(Op::Put(put));
        t.run_all(ops).await.unwrap();
        reads_back(&t, &mut rng, &path, &bytes).await;
    }
    assert_eq!(t.tree().await.len(), 3, "body rows are not files");
    assert_eq!(t.names("", 10).await, ["d/"]);
}

pub async fn two_levels_read_back(t: Tester) {
    let mut rng = StdRng::seed_from_u64(2);
    let (chunks, bytes) = random_body(&mut rng, 1300, 0.02);
    let (ops, put) = chunked("sparse", SystemClock.lineage(), CHUNK, bytes.len() as u64, &chunks);
    t.run_all(ops).await.unwrap();
    let head = t.must(Op::Put(put)).await.head.unwrap();
    assert_eq!(head.meta.layout.map(|layout| layout.levels), Some(2));
    reads_back(&t, &mut rng, "sparse", &bytes).await;
    t.must(Op::Rename(rename("sparse", "d/sparse"))).await;
    reads_back(&t, &mut rng, "d/sparse", &bytes).await;
}

/// A committed chunk row of a fresh lineage and a file that uses it.
async fn one_chunk(t: &Tester, path: &str) -> (Lineage, VersionId) {
    let lineage = SystemClock.lineage();
    let (mut ops, put) = chunked(path, lineage, CHUNK, 5, &[Some(Bytes::from_static(b"12345"))]);
    let Op::Body(row) = &ops[0] else { panic!("a body row") };
    let id = row.id;
    ops.push(Op::Put(put));
    t.run_all(ops).await.unwrap();
    (lineage, id)
}

pub async fn references_stay_in_their_lineage(t: Tester) {
    let (lineage, id) = one_chunk(&t, "a").await;
    let part = Part { id, lineage: Some(lineage), offset: 0, len: 10 };
    assert_eq!(t.store.read(&[part]).await.unwrap()[0], "12345");
    let forged = Part { lineage: Some(SystemClock.lineage()), ..part };
    assert_eq!(refused(t.store.read(&[forged]).await), Kind::Corrupt);
    // The refusal holds also where the bytes are in a cache by now.
    assert_eq!(t.store.read(&[part]).await.unwrap()[0], "12345");
    assert_eq!(refused(t.store.read(&[forged]).await), Kind::Corrupt);
    let secret = t.write("secret", &[1; 5000]).await;
    let mut thief = put("thief", b"");
    thief.meta.extend(map(json!({"size": 5000, "body": secret.id.to_string(), "lin": lineage.0.to_string()})));
    thief.data = None;
    match t.run(Op::Put(thief)).await {
        Ok(outcome) => assert_eq!(refused(t.try_bytes(&outcome.head.unwrap()).await), Kind::Corrupt),
        Err(error) => assert_eq!(error.kind(), Kind::BodyGone),
    }
}

pub async fn missing_rows_are_corrupt(t: Tester) {
    let missing = Part { id: id(), lineage: None, offset: 0, len: 1 };
    assert_eq!(refused(t.store.read(&[missing]).await), Kind::Corrupt);
    let head = t.write("a", b"1").await;
    let there = Part { id: head.id, ..missing };
    assert_eq!(t.store.read(&[there]).await.unwrap()[0], "1");
    assert_eq!(refused(t.store.read(&[there, missing]).await), Kind::Corrupt);
}

pub async fn a_body_that_is_gone_is_refused(t: Tester) {
    let manifest = Manifest { chunk: CHUNK, entries: vec![Some(id())] };
    let put = put_of_manifest("a", SystemClock.lineage(), &manifest, 10, layout::encode(&manifest.entries));
    assert_eq!(refused(t.run(Op::Put(put)).await), Kind::BodyGone);
    assert!(t.entry("a").await.is_none());
    // Of what a manifest grew out of, only what was added is looked for, if that is the head; else all of it.
    let (lineage, old) = one_chunk(&t, "d/a").await;
    let head = t.file("d/a").await.unwrap();
    let (new, missing) = (id(), id());
    let grown_to = |last: VersionId, base: VersionId, added: Vec<VersionId>| {
        let manifest = Manifest { chunk: CHUNK, entries: vec![Some(old), Some(last)] };
        let put = put_of_manifest("d/a", lineage, &manifest, u64::from(CHUNK) + 5, layout::encode(&manifest.entries));
        Op::Put(Put { grown: Some(Grown { base, added }), ..put })
    };
    assert_eq!(refused(t.run(grown_to(missing, head.id, vec![missing])).await), Kind::BodyGone);
    assert_eq!(refused(t.run(grown_to(missing, id(), vec![])).await), Kind::BodyGone);
    let row = BodyRow { id: new, lineage, dir: dir("d"), data: Bytes::from_static(b"67890"), mount: "m".into() };
    t.run_all(vec![Op::Body(row), grown_to(new, head.id, vec![])]).await.unwrap();
    let whole = t.text("d/a").await.unwrap();
    assert_eq!((&whole[..5], &whole[CHUNK as usize..]), (&b"12345"[..], &b"67890"[..]));
}

pub async fn replaced_chunks_are_dropped(t: Tester) {
    let (lineage, old) = one_chunk(&t, "d/a").await;
    let first = t.file("d/a").await.unwrap();
    let (mut ops, put) = chunked("d/a", lineage, CHUNK, 3, &[Some(Bytes::from_static(b"abc"))]);
    ops.push(Op::Put(Put { extends: Some(first.id), drops: vec![old], ..put }));
    t.run_all(ops).await.unwrap();
    assert_eq!(t.text("d/a").await.unwrap(), b"abc");
    assert_eq!(t.server.present(&[old, first.id]).await.unwrap(), [false, false]);
    // Not extended because somebody else wrote: nothing is dropped.
    let mine = t.file("d/a").await.unwrap();
    let chunk = manifest_of(&t, &mine).await[0].unwrap();
    t.write("d/a", b"other").await;
    let (mut ops, put) = chunked("d/a", lineage, CHUNK, 3, &[Some(Bytes::from_static(b"xyz"))]);
    ops.push(Op::Put(Put { extends: Some(mine.id), drops: vec![chunk], ..put }));
    t.run_all(ops).await.unwrap();
    assert_eq!(t.bytes(&t.version("d/a", 1).await.unwrap()).await, b"abc");
    assert_eq!(t.text("d/a").await.unwrap(), b"xyz");
    // What a copy of the version in progress uses by now stays, and what only history older than it uses is no matter.
    let (lineage, old) = one_chunk(&t, "d/b").await;
    let first = t.file("d/b").await.unwrap();
    t.must(Op::Copy(past::copy("d/b", None, "d/copy"))).await;
    let (mut ops, put) = chunked("d/b", lineage, CHUNK, 3, &[Some(Bytes::from_static(b"abc"))]);
    ops.push(Op::Put(Put { extends: Some(first.id), drops: vec![old], ..put }));
    t.run_all(ops).await.unwrap();
    assert_eq!((t.text("d/b").await.unwrap(), t.text("d/copy").await.unwrap()), (b"abc".to_vec(), b"12345".to_vec()));
    let second = t.file("d/b").await.unwrap();
    let chunk = manifest_of(&t, &second).await[0].unwrap();
    let (mut ops, put) = chunked("d/b", lineage, CHUNK, 3, &[Some(Bytes::from_static(b"xyz"))]);
    ops.push(Op::Put(Put { extends: Some(second.id), drops: vec![chunk], ..put }));
    t.run_all(ops).await.unwrap();
    assert_eq!(t.server.present(&[old, chunk]).await.unwrap(), [true, false]);
    assert_eq!((t.text("d/b").await.unwrap(), t.text("d/copy").await.unwrap()), (b"xyz".to_vec(), b"12345".to_vec()));
}

pub async fn slices_are_read_and_kept(t: Tester) {
    let whole: Vec<u8> = (0..200_000_u32).map(|n| (n / 700) as u8).collect();
    let (size, lineage) = (whole.len() as u64, SystemClock.lineage());
    let rows: Vec<_> = whole.chunks(CHUNK_BYTES as usize).map(|row| Some(Bytes::copy_from_slice(row))).collect();
    let (mut ops, put) = chunked("d/a", lineage, CHUNK_BYTES, size, &rows);
    ops.push(Op::Put(put));
    t.run_all(ops).await.unwrap();
    let first = t.file("d/a").await.unwrap();
    let Body::Chunked { manifest, .. } = Body::open(&*t.store, &first).await.unwrap() else { panic!("a chunked body") };
    let rows: Vec<VersionId> = manifest.entries.iter().flatten().copied().collect();

    // One slice of each row is replaced.
    let mut cut = manifest.cut(size).unwrap();
    let mut expected = whole.clone();
    let mut ops = Vec::new();
    for slice in [2, 12] {
        let row = BodyRow { id: id(), lineage, dir: dir("d"), data: Bytes::from_static(b"short"), mount: "m".into() };
        cut.entries[slice] = Some(row.id);
        let start = slice * SMALL_CHUNK_BYTES as usize;
        let end = whole.len().min(start + SMALL_CHUNK_BYTES as usize);
        expected[start..end].fill(0);
        expected[start..start + 5].copy_from_slice(b"short");
        ops.push(Op::Body(row));
    }
    let put = put_of_manifest("d/a", lineage, &cut, size, layout::encode(&cut.entries));
    ops.push(Op::Put(Put { grown: Some(Grown { base: first.id, added: rows.clone() }), ..put }));
    t.run_all(ops).await.unwrap();
    let second = t.file("d/a").await.unwrap();
    assert!(t.bytes(&second).await == expected && t.bytes(&first).await == whole);
    let body = Body::open(&*t.store, &second).await.unwrap();
    for (offset, len) in [(0, 7), (32_760, 20), (49_150, 4), (131_070, 5), (196_600, 4_000), (16_384, 100_000)] {
        let end = (offset + len).min(expected.len());
        assert!(body.read(&*t.store, offset as u64, len as u64).await.unwrap() == expected[offset..end], "{len} from {offset}");
    }

    // The rows stay for as long as a version has a slice of them.
    t.must(Op::Copy(past::copy("d/a", None, "copied"))).await;
    assert!(t.text("copied").await.unwrap() == expected);
    past::purge_all(&t, past::purge(PurgeScope::Key(key("d/a")))).await;
    assert_eq!(t.server.present(&rows).await.unwrap(), [true, true]);
    assert!(t.text("copied").await.unwrap() == expected);
    past::purge_all(&t, past::purge(PurgeScope::Key(key("copied")))).await;
    assert_eq!(t.server.present(&rows).await.unwrap(), [false, false]);
}

async fn manifest_of(t: &Tester, head: &Head) -> Vec<Option<VersionId>> {
    match Body::open(&*t.store, head).await.unwrap() {
        Body::Chunked { manifest, .. } => manifest.entries.clone(),
        Body::Inline { .. } => panic!("a chunked body"),
    }
}

pub async fn parts_are_cut_as_asked(t: Tester) {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let head = t.write("big", &bytes).await;
    let small = t.write("small", b"0123456789").await;
    let part = |id, offset, len| Part { id, lineage: None, offset, len };
    let asked = [
        part(small.id, 3, 4),
        part(head.id, 1_048_570, 20),
        part(small.id, 8, 100),
        part(small.id, 10, 1),
        part(small.id, 1 << 40, 1),
        part(head.id, 2_999_999, 7),
        part(small.id, 0, 0),
        part(head.id, 0, 3_000_000),
    ];
    let read = t.store.read(&asked).await.unwrap();
    assert_eq!(&read[0][..], b"3456");
    assert_eq!(&read[1][..], &bytes[1_048_570..1_048_590]);
    assert_eq!((&read[2][..], &read[3][..], &read[4][..]), (&b"89"[..], &b""[..], &b""[..]));
    assert_eq!(&read[5][..], &bytes[2_999_999..]);
    assert!(read[6].is_empty());
    assert!(read[7] == bytes);
    assert!(t.store.read(&[]).await.unwrap().is_empty());
}

/// More than a heartbeat's life.
const LONG: u32 = HEARTBEAT_EXPIRY_SECONDS as u32 + 1;

/// A body row of a mount that no version refers to yet.
fn unused(mount: &str) -> BodyRow {
    let data = Bytes::from_static(b"unused");
    BodyRow { id: id(), lineage: SystemClock.lineage(), dir: dir("d"), data, mount: mount.into() }
}

pub async fn unused_bodies_are_swept(t: Tester) {
    let (_, used) = one_chunk(&t, "d/a").await;
    let (alive, dead) = (unused("alive"), unused("dead"));
    let ids = [alive.id, dead.id, used];
    let root = dir("");
    t.run_all(vec![Op::Body(alive), Op::Body(dead)]).await.unwrap();
    t.time.pass(LONG).await;
    t.server.maintain(&root, "alive", Maintenance::Beat).await.unwrap();
    assert_eq!(t.server.maintain(&root, "third", Maintenance::Sweep).await.unwrap(), 1);
    assert_eq!(t.server.present(&ids).await.unwrap(), [true, false, true]);
    t.server.maintain(&root, "alive", Maintenance::Leave).await.unwrap();
    assert_eq!(t.server.maintain(&root, "third", Maintenance::Sweep).await.unwrap(), 1);
    assert_eq!(t.server.present(&ids).await.unwrap(), [false, false, true]);
    assert_eq!(t.text("d/a").await.unwrap(), b"12345");
}

pub async fn fresh_bodies_are_safe_before_the_first_heartbeat(t: Tester) {
    let root = dir("");
    let row = unused("just begun");
    let ids = [row.id];
    t.run(Op::Body(row)).await.unwrap();
    assert_eq!(t.server.maintain(&root, "third", Maintenance::Sweep).await.unwrap(), 0);
    t.time.pass(LONG - 30).await;
    assert_eq!(
        t.server.maintain(&root, "third", Maintenance::Sweep).await.unwrap(),
        0,
        "whoever wrote it has half a minute more"
    );
    assert_eq!(t.server.present(&ids).await.unwrap(), [true]);
    t.time.pass(60).await;
    assert_eq!(t.server.maintain(&root, "third", Maintenance::Sweep).await.unwrap(), 1, "it never beat, so it died");
    assert_eq!(t.server.present(&ids).await.unwrap(), [false]);
}
