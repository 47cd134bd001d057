//! What pending operations make of paths and rows, to be laid over the answers of the server. Pure.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::batch::{Batch, Op, Outcome};
use crate::key::Key;
use crate::store::{Dir, Entry, Part};
use crate::version::{Lineage, Meta, VersionId};

/// Paths and rows, each with the number of the last pending batch that touches it.
#[derive(Default)]
pub struct Overlay {
    paths: BTreeMap<Key, (u64, Option<Entry>)>,
    rows: HashMap<VersionId, Row>,
}

struct Row {
    seq: u64,
    lineage: Option<Lineage>,
    data: Bytes,
}

/// What an operation with that outcome leaves at paths (without trailing `/`).
pub fn effects(op: &Op, outcome: &Outcome) -> Vec<(Key, Option<Entry>)> {
    let head = || outcome.head.clone();
    let file = |key: &Key| (key.clone(), head().map(Entry::File));
    let dir = |key: &Key| (key.as_file(), head().map(|head| Entry::Dir(Dir { marker: Some(head), mtime: None })));
    match op {
        Op::Put(put) if put.key.is_marker() => vec![dir(&put.key)],
        Op::Put(put) => vec![file(&put.key)],
        Op::SetAttr(set) if set.key.is_marker() => vec![dir(&set.key)],
        Op::SetAttr(set) => vec![file(&set.key)],
        Op::Delete(op) => vec![(op.key.clone(), None)],
        Op::RemoveDir(op) => op.dir.marker().map(|key| (key.as_file(), None)).into_iter().collect(),
        Op::Rename(op) => vec![(op.from.clone(), None), file(&op.to)],
        Op::Body(_) | Op::RenameDir(_) | Op::Exchange(_) | Op::Link(_) | Op::Copy(_) | Op::Restore(_) | Op::RestoreDir(_) => {
            vec![]
        }
    }
}

impl Overlay {
    /// A batch is pending, and will have these outcomes.
    pub fn add(&mut self, seq: u64, batch: &Batch, outcomes: &[Outcome]) {
        for (op, outcome) in batch.ops.iter().zip(outcomes) {
            self.paths.extend(effects(op, outcome).into_iter().map(|(path, entry)| (path, (seq, entry))));
            match op {
                Op::Put(put) => {
                    let lineage = put.meta.get("lin").and_then(|lineage| lineage.as_str()?.parse().ok()).map(Lineage);
                    self.rows.insert(put.id, Row { seq, lineage, data: put.data.clone().unwrap_or_default() });
                }
                Op::Body(row) => {
                    self.rows.insert(row.id, Row { seq, lineage: Some(row.lineage), data: row.data.clone() });
                }
                _ => {}
            }
        }
    }

    /// A batch is on the server.
    pub fn remove(&mut self, seq: u64, batch: &Batch, outcomes: &[Outcome]) {
        for (op, outcome) in batch.ops.iter().zip(outcomes) {
            for (path, _) in effects(op, outcome) {
                if self.paths.get(&path).is_some_and(|(last, _)| *last == seq) {
                    self.paths.remove(&path);
                }
            }
            if let Some(id) = op.witness().filter(|id| self.rows.get(id).is_some_and(|row| row.seq == seq)) {
                self.rows.remove(&id);
            }
        }
    }

    /// What is pending at a path; `None`: nothing is.
    pub fn path(&self, path: &Key) -> Option<Option<Entry>> {
        self.paths.get(path).map(|(_, entry)| entry.clone())
    }

    /// The directory that pending files below a path imply.
    pub fn implied(&self, path: &Key) -> Option<Entry> {
        let dir = path.as_dir();
        let from = dir.marker()?;
        let mut below = self.paths.range(from..).take_while(|(key, _)| dir.contains(key));
        let meta = below.find_map(|(_, (_, entry))| entry.as_ref().map(mtime_of))?;
        Some(Entry::Dir(Dir { marker: None, mtime: meta.and_then(|meta| meta.mtime) }))
    }

    /// The bytes of a pending row.
    pub fn read(&self, part: &Part) -> Option<Bytes> {
        let row = self.rows.get(&part.id)?;
        if part.lineage.is_some() && part.lineage != row.lineage {
            return None;
        }
        let start = usize::try_from(part.offset).unwrap_or(usize::MAX).min(row.data.len());
        let end = start.saturating_add(part.len as usize).min(row.data.len());
        Some(row.data.slice(start..end))
    }
}

fn mtime_of(entry: &Entry) -> Option<&Meta> {
    match entry {
        Entry::File(head) => Some(&head.meta),
        Entry::Dir(dir) => dir.marker.as_ref().map(|head| &head.meta),
    }
}
