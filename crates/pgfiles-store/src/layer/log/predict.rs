//! What the server will make of an operation, if nobody else writes. Pure.
//!
//! Only successes are foretold: what looks like a refusal, or depends on more than names in live directories, is left
//! to the server. Not known are the transaction (`xid`), the exact `created_at`, and the number that a name left off at
//! which was not deleted here; they are corrected when the outcome is there.

use serde_json::Value;

use crate::batch::{Delete, Op, Outcome, Precondition, Put, RemoveDir, Rename, SetAttr};
use crate::key::{Key, Prefix};
use crate::layer::cache::heads::touched;
use crate::layout::CHUNK_BYTES_MAX;
use crate::store::{Dir, Entry};
use crate::version::{Head, Kind, Meta, Timestamp, VersionNo};

/// How far the server's clock may be from ours where the age of a row decides.
const CLOCK_SKEW_SECONDS: i64 = 5;

/// What is known before the operation.
pub trait Known {
    /// What stands at a path; `None`: nothing is known.
    fn entry(&self, path: &Key) -> Option<Option<Entry>>;

    /// Whether nothing is in a directory; `None`: nothing is known.
    fn is_empty(&self, dir: &Prefix) -> Option<bool>;

    /// The number of the newest version of a name that is not live.
    fn last_number(&self, key: &Key) -> u64;

    /// Our clock.
    fn now(&self) -> Timestamp;
}

/// The paths whose state decides.
pub fn depends_on(op: &Op) -> Vec<Key> {
    let parent = |key: &Key| key.parent().marker().map(|marker| marker.as_file());
    touched(op).iter().flat_map(|key| [Some(key.as_file()), parent(key)]).flatten().collect()
}

/// Whether the outcome may be foretold at all.
pub fn may_be(op: &Op) -> bool {
    let known = |expect: &Precondition| !matches!(expect, Precondition::Version(_) | Precondition::Etag(_));
    match op {
        Op::Put(op) => known(&op.expect) && !op.key.is_reserved(),
        Op::Body(op) => op.data.len() <= CHUNK_BYTES_MAX as usize,
        Op::SetAttr(op) => known(&op.expect),
        Op::Delete(op) => known(&op.expect) && !op.key.is_marker(),
        Op::RemoveDir(op) => !op.recursive,
        Op::Rename(op) => {
            known(&op.expect_from) && known(&op.expect_to) && op.from != op.to && is_file(&op.from) && is_file(&op.to)
        }
        Op::RenameDir(_) | Op::Exchange(_) | Op::Link(_) | Op::Copy(_) | Op::Restore(_) | Op::RestoreDir(_) => false,
    }
}

fn is_file(key: &Key) -> bool {
    !key.is_marker() && !key.is_reserved()
}

/// The outcome; `None`: the server must be asked.
pub fn outcome(op: &Op, by: &Value, known: &dyn Known) -> Option<Outcome> {
    let head = |head| Some(Outcome { head: Some(head), ..Outcome::default() });
    match op {
        Op::Put(op) => head(put(op, by, known)?),
        Op::Body(_) => Some(Outcome::default()),
        Op::SetAttr(op) => head(set_attr(op, known)?),
        Op::Delete(op) => head(delete(op, known)?),
        Op::RemoveDir(op) => remove_dir(op, known),
        Op::Rename(op) => rename(op, by, known),
        Op::RenameDir(_) | Op::Exchange(_) | Op::Link(_) | Op::Copy(_) | Op::Restore(_) | Op::RestoreDir(_) => None,
    }
}

/// The row at a key; `Some(None)`: nothing live. `None` where the other kind of thing stands there, or a file with other
/// names, whose heads are not foretold.
fn row(known: &dyn Known, key: &Key) -> Option<Option<Head>> {
    match (known.entry(&key.as_file())?, key.is_marker()) {
        (None, _) => Some(None),
        (Some(Entry::File(head)), false) => head.meta.hard_link.is_none().then_some(Some(head)),
        (Some(Entry::Dir(Dir { marker: Some(head), .. })), true) => Some(Some(head)),
        _ => None,
    }
}

fn holds(expect: &Precondition, head: Option<&Head>) -> bool {
    match expect {
        Precondition::Any => true,
        Precondition::Absent => head.is_none(),
        Precondition::Head(id) => head.is_some_and(|head| head.id == *id),
        Precondition::Version(_) | Precondition::Etag(_) => false,
    }
}

/// A live directory: a name in it may come. `explicit`: it has a marker, so one may go.
fn parent_is_live(known: &dyn Known, key: &Key, explicit: bool) -> Option<()> {
    let Some(marker) = key.parent().marker() else { return Some(()) };
    match known.entry(&marker.as_file())?? {
        Entry::Dir(dir) => (dir.marker.is_some() || !explicit).then_some(()),
        Entry::File(_) => None,
    }
}

fn next(known: &dyn Known, key: &Key, head: Option<&Head>) -> VersionNo {
    VersionNo(head.map_or_else(|| known.last_number(key), |head| head.version.0) + 1)
}

fn put(op: &Put, by: &Value, known: &dyn Known) -> Option<Head> {
    parent_is_live(known, &op.key, false)?;
    let before = row(known, &op.key)?;
    if !holds(&op.expect, before.as_ref()) {
        return None;
    }
    let mut fields = op.defaults.clone();
    if let Some(head) = &before {
        let mut passed_on = head.meta.to_json();
        passed_on.retain(|name, _| !Meta::OF_CONTENT.contains(&name.as_str()) && name != "revive" && name != "op");
        fields.extend(passed_on);
    }
    fields.extend(op.meta.clone());
    fields.insert("by".into(), by.clone());
    let mut meta = Meta::parse(Value::Object(fields));
    meta.created_at = Some(known.now());
    let extended = before.as_ref().filter(|head| op.extends == Some(head.id));
    let version = extended.map_or_else(|| next(known, &op.key, before.as_ref()), |head| head.version);
    Some(Head { key: op.key.clone(), id: op.id, version, meta, data: None })
}

fn set_attr(op: &SetAttr, known: &dyn Known) -> Option<Head> {
    let implied = matches!(known.entry(&op.key.as_file())?, Some(Entry::Dir(Dir { marker: None, .. })));
    let mut head = match &op.explicit {
        Some((id, fields)) if implied && op.key.is_marker() => {
            let meta = Meta { kind: Kind::Dir, ..Meta::parse(Value::Object(fields.clone())) };
            Head { key: op.key.clone(), id: *id, version: VersionNo(1), meta, data: None }
        }
        _ => row(known, &op.key)??,
    };
    if !holds(&op.expect, Some(&head)) {
        return None;
    }
    op.patch.apply(&mut head.meta);
    head.meta.rev += u64::from(!implied);
    Some(head)
}

fn delete(op: &Delete, known: &dyn Known) -> Option<Head> {
    parent_is_live(known, &op.key, true)?;
    let before = row(known, &op.key)??;
    let version = VersionNo(before.version.0 + 1);
    let created_at = Some(known.now());
    let meta = Meta { deleted: true, kind: before.meta.kind, ino: before.meta.ino, created_at, ..Meta::default() };
    holds(&op.expect, Some(&before)).then(|| Head { version, key: before.key, id: op.id, meta, data: None })
}

fn remove_dir(op: &RemoveDir, known: &dyn Known) -> Option<Outcome> {
    let marker = op.dir.marker()?;
    parent_is_live(known, &marker, true)?;
    let is_dir = matches!(known.entry(&marker.as_file())?, Some(Entry::Dir(_)));
    (is_dir && !op.recursive && known.is_empty(&op.dir)?).then(Outcome::default)
}

/// The row that holds the bytes moves to the new name with its id.
fn rename(op: &Rename, by: &Value, known: &dyn Known) -> Option<Outcome> {
    parent_is_live(known, &op.from, true)?;
    parent_is_live(known, &op.to, false)?;
    let source = row(known, &op.from)??;
    let target = row(known, &op.to)?;
    if !holds(&op.expect_from, Some(&source)) || !holds(&op.expect_to, target.as_ref()) {
        return None;
    }
    let moved = just_moves(op, &source, known.now())?;
    let link = serde_json::json!({"key": op.from.as_str(), "version": source.version.0});
    let mut head = Head { key: op.to.clone(), version: next(known, &op.to, target.as_ref()), data: None, ..source };
    head.meta.from = (!moved).then_some(link);
    (head.meta.restored_from, head.meta.created_at, head.meta.by) = (None, Some(known.now()), Some(by.clone()));
    if op.ctime.is_some() {
        head.meta.ctime = op.ctime;
    }
    Some(Outcome { head: Some(head), moved, ..Outcome::default() })
}

/// Whether the source leaves nothing behind; `None`: the clocks are too close to tell.
fn just_moves(op: &Rename, source: &Head, now: Timestamp) -> Option<bool> {
    let Some(young) = op.young.as_ref().filter(|young| young.seconds > 0) else { return Some(false) };
    let mount = source.meta.by.as_ref().and_then(|by| by.get("mount")?.as_str());
    if source.version.0 != 1 || mount != Some(&*young.mount) {
        return Some(false);
    }
    let age = now.seconds - source.meta.created_at?.seconds;
    let limit = i64::from(young.seconds);
    match age {
        age if age <= limit - CLOCK_SKEW_SECONDS => Some(true),
        age if age > limit + CLOCK_SKEW_SECONDS => Some(false),
        _ => None,
    }
}
