//! How a [`super::MemStore`] removes rows for good.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::rows::{Row, Rows};
use crate::key::{Key, Prefix};
use crate::store::{HEARTBEAT_EXPIRY_SECONDS, Purge, PurgeReport, PurgeScope};
use crate::version::{Timestamp, VersionId};

/// Carries out a purge, of at most `keys_max` keys where it covers a prefix.
pub(super) fn purge(rows: &mut Rows, now: Timestamp, purge: &Purge, keys_max: usize) -> PurgeReport {
    let mut next = None;
    let keys: Vec<Arc<str>> = match &purge.scope {
        PurgeScope::Key(key) => vec![key.as_str().into()],
        PurgeScope::Prefix(prefix, after) => {
            let from = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_str()));
            let all = rows.keys(prefix.as_str(), from).filter(|key| !key.starts_with('/'));
            let some: Vec<_> = all.take(keys_max + 1).cloned().collect();
            if some.len() > keys_max {
                next = Key::new(&some[keys_max - 1]).ok();
            }
            some.into_iter().take(keys_max).collect()
        }
    };
    let doomed: Vec<VersionId> = keys.iter().flat_map(|key| doomed(rows, now, purge, key)).collect();
    let mark = rows.mark();
    let gone: Vec<Arc<Row>> = doomed.iter().filter_map(|id| rows.get(*id).cloned()).collect();
    let removed = rows.remove_versions(&doomed);
    rows.relink(&gone.iter().collect::<Vec<_>>(), now);
    match &purge.scope {
        _ if purge.dry_run => rows.roll_back(mark),
        PurgeScope::Prefix(prefix, _) if next.is_none() => rows.rehome_bodies(prefix),
        _ => {}
    }
    PurgeReport { rows: removed.rows, body_rows: removed.body_rows, bytes: removed.bytes, next }
}

/// The versions of one key that a purge removes.
fn doomed(rows: &Rows, now: Timestamp, purge: &Purge, key: &str) -> Vec<VersionId> {
    if purge.dead && rows.live(key).is_some() {
        return Vec::new();
    }
    let created = |row: &Row| row.text("created_at").and_then(Timestamp::parse).unwrap_or_default();
    let whole = purge.keep.is_none() && purge.older_than.is_none();
    let mut doomed = Vec::new();
    // When the version at hand stopped being the head; a tombstone never shows anything, so it stops at once.
    let mut stopped = rows.newest(key).filter(|row| purge.dead && !row.is_live()).map(|row| created(row));
    for (index, row) in rows.versions(key).enumerate() {
        let surplus = purge.keep.is_none_or(|keep| index >= keep as usize);
        let age = stopped.map(|at| now.seconds.saturating_sub(at.seconds));
        let old = purge.older_than.is_none_or(|limit| age.is_some_and(|age| age >= i64::try_from(limit).unwrap_or(i64::MAX)));
        if whole || (surplus && old) {
            doomed.push(row.id);
        }
        stopped = Some(created(row));
    }
    doomed
}

/// Removes body rows under a prefix that no version refers to, that are older than a heartbeat's life, and whose mount has not
/// been heard of for as long.
pub(super) fn sweep(rows: &mut Rows, beats: &mut HashMap<(String, String), Timestamp>, now: Timestamp, prefix: &Prefix) -> u64 {
    let expiry = i64::try_from(HEARTBEAT_EXPIRY_SECONDS).unwrap_or(i64::MAX);
    let recent = |at: Timestamp| now.seconds.saturating_sub(at.seconds) <= expiry;
    beats.retain(|_, beat| recent(*beat));
    let alive: BTreeSet<&str> = beats.keys().map(|(_, mount)| mount.as_str()).collect();
    let own = format!("/{prefix}");
    let bodies = rows.keys(&own, Bound::Unbounded).filter_map(|key| rows.newest(key));
    let unheard = bodies.filter(|row| row.text("mount").is_none_or(|mount| !alive.contains(mount)));
    let old = unheard.filter(|row| !row.text("created_at").and_then(Timestamp::parse).is_some_and(recent));
    let unused = old.filter(|row| row.uuid("lin").is_none_or(|lineage| !rows.referred(lineage).contains(&row.id)));
    let doomed: Vec<VersionId> = unused.map(|row| row.id).collect();
    for id in &doomed {
        rows.set(*id, None);
    }
    doomed.len() as u64
}
