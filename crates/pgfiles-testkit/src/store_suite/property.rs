//! A property: after any operations, every live file and every kept version reads back as a model of plain maps says.
#![allow(missing_docs)] // the names say it

use super::*;
use std::collections::BTreeMap;

use pgfiles_store::store::{Purge, PurgeScope};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// The versions of each key: number and bytes, `None` for a tombstone.
type Model = BTreeMap<&'static str, BTreeMap<u64, Option<Vec<u8>>>>;

const PATHS: [&str; 7] = ["a", "b", "c", "d/a", "d/b", "d/e/a", "f/a"];
const STEPS: usize = 400;
const CHUNK: usize = 4096;

pub async fn random_operations_match_the_model(t: Tester) {
    let seed = std::env::var("PGFILES_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("PGFILES_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut model = Model::new();
    for step in 0..STEPS {
        let what = change(&t, &mut rng, &mut model).await;
        if step % 20 == 19 || what.starts_with("purge") {
            check(&t, &model, &format!("step {step}: {what}")).await;
        }
    }
}

fn live<'m>(model: &'m Model, path: &str) -> Option<&'m Vec<u8>> {
    model.get(path)?.values().next_back()?.as_ref()
}

fn add(model: &mut Model, path: &'static str, bytes: Option<Vec<u8>>) {
    let versions = model.entry(path).or_default();
    let number = versions.keys().next_back().map_or(1, |last| last + 1);
    versions.insert(number, bytes);
}

async fn change(t: &Tester, rng: &mut StdRng, model: &mut Model) -> String {
    let path = PATHS[rng.random_range(0..PATHS.len())];
    let other = PATHS[rng.random_range(0..PATHS.len())];
    let size = if rng.random_bool(0.5) { rng.random_range(0..20) } else { rng.random_range(0..9000) };
    let mut bytes = vec![0; size];
    rng.fill(&mut bytes[..]);
    match rng.random_range(0..100) {
        0..25 => {
            t.write(path, &bytes).await;
            add(model, path, Some(bytes));
            format!("put {path}")
        }
        25..35 => {
            put_chunks(t, path, &bytes).await;
            add(model, path, Some(bytes));
            format!("put chunks {path}")
        }
        35..45 => {
            let there = live(model, path).is_some();
            assert_eq!(t.run(delete(path)).await.is_ok(), there, "delete {path}");
            if there {
                add(model, path, None);
            }
            format!("delete {path}")
        }
        45..65 if path != other => {
            let source = live(model, path).cloned();
            assert_eq!(t.run(Op::Rename(rename(path, other))).await.is_ok(), source.is_some(), "rename {path} {other}");
            if source.is_some() {
                add(model, path, None);
                add(model, other, source);
            }
            format!("rename {path} {other}")
        }
        65..75 => {
            let source = live(model, path).cloned();
            assert_eq!(t.run(Op::Copy(past::copy(path, None, other))).await.is_ok(), source.is_some(), "copy {path} {other}");
            if source.is_some() {
                add(model, other, source);
            }
            format!("copy {path} {other}")
        }
        75..85 => {
            let versions = model.get(path).cloned().unwrap_or_default();
            let number = rng.random_range(1..=versions.len().max(1) as u64 + 1);
            let source = versions.get(&number).cloned().flatten();
            assert_eq!(
                t.run(Op::Restore(past::restore(path, number))).await.is_ok(),
                source.is_some(),
                "restore {path} {number}"
            );
            if source.is_some() {
                add(model, path, source);
            }
            format!("restore {path} {number}")
        }
        85..93 => {
            let keep = if rng.random_bool(0.3) { None } else { Some(rng.random_range(1..4)) };
            let report = t.store.purge(&Purge { keep, ..past::purge(PurgeScope::Key(key(path))) }).await.unwrap();
            let removed = cut(model, path, keep);
            assert_eq!(report.rows, removed, "purge {path} keep {keep:?}");
            format!("purge {path} keep {keep:?}")
        }
        93..96 => {
            let dead: Vec<_> = PATHS.into_iter().filter(|path| model.contains_key(path) && live(model, path).is_none()).collect();
            past::purge_all(t, Purge { dead: true, ..past::purge(PurgeScope::Prefix(dir(""), None)) }).await;
            dead.into_iter().for_each(|path| _ = cut(model, path, None));
            "purge the dead".into()
        }
        _ => {
            past::purge_all(t, past::purge(PurgeScope::Prefix(dir("d"), None))).await;
            model.retain(|path, _| !path.starts_with("d/"));
            "purge d/".into()
        }
    }
}

/// Keeps the newest versions of a key; how many went.
fn cut(model: &mut Model, path: &str, keep: Option<u32>) -> u64 {
    let Some(versions) = model.get_mut(path) else { return 0 };
    let mut removed = 0;
    while versions.len() > keep.unwrap_or(0) as usize {
        versions.pop_first();
        removed += 1;
    }
    if versions.is_empty() {
        model.remove(path);
    }
    removed
}

/// Writes a chunked version: every other time it shares the chunks of the head that are the same.
async fn put_chunks(t: &Tester, path: &str, bytes: &[u8]) {
    let chunks: Vec<_> = bytes.chunks(CHUNK).map(|chunk| Some(Bytes::copy_from_slice(chunk))).collect();
    let lineage = match t.file(path).await {
        Some(head) => head.meta.lineage.unwrap_or_else(|| SystemClock.lineage()),
        None => SystemClock.lineage(),
    };
    let (mut ops, put) = chunked(path, lineage, CHUNK as u32, bytes.len() as u64, &chunks);
    ops.push(Op::Put(put));
    t.run_all(ops).await.unwrap();
}

async fn check(t: &Tester, model: &Model, when: &str) {
    for path in PATHS {
        let expected: Vec<_> = model.get(path).into_iter().flatten().rev().collect();
        let found = t.versions(path).await;
        let numbers: Vec<_> = found.iter().map(|head| (head.version.0, head.is_live())).collect();
        assert_eq!(
            numbers,
            expected.iter().map(|(number, bytes)| (**number, bytes.is_some())).collect::<Vec<_>>(),
            "{path} after {when}"
        );
        for (head, (number, bytes)) in found.iter().zip(&expected) {
            if let Some(bytes) = bytes {
                let read = t.try_bytes(head).await.unwrap_or_else(|error| panic!("{path} {number} after {when}: {error}"));
                assert!(read == *bytes, "{path} version {number} after {when}");
            }
        }
        assert_eq!(t.text(path).await.as_ref(), live(model, path), "{path} after {when}");
    }
    let expected: Vec<_> = PATHS.into_iter().filter(|path| live(model, path).is_some()).collect();
    let mut files = t.tree().await;
    files.retain(|path| !path.ends_with('/'));
    assert_eq!(files, expected, "after {when}");
}
