//! What the server will make of an operation, if nobody else writes. Pure.
//!
//! Only successes are foretold: what looks like a refusal, or depends on more than single names, is left to the server.
//! The server's own fields (`created_at`, `xid`, `by`) are unknown, and so is the number that a deleted name left off
//! at; both are corrected when the outcome is there.

use serde_json::Value;

use crate::batch::{Delete, Op, Outcome, Precondition, Put, RemoveDir, Rename, SetAttr};
use crate::key::{Key, Prefix};
use crate::store::{Dir, Entry};
use crate::version::{Head, Kind, Meta, VersionId, VersionNo};

/// What is known before the operation.
pub trait Known {
    /// What stands at a path; `None`: nothing is known.
    fn entry(&self, path: &Key) -> Option<Option<Entry>>;

    /// Whether nothing is in a directory; `None`: nothing is known.
    fn is_empty(&self, dir: &Prefix) -> Option<bool>;
}

/// Whether the outcome may be foretold at all.
pub fn may_be(op: &Op) -> bool {
    let known = |expect: &Precondition| !matches!(expect, Precondition::Version(_) | Precondition::Etag(_));
    match op {
        Op::Put(op) => known(&op.expect),
        Op::Body(_) => true,
        Op::SetAttr(op) => known(&op.expect),
        Op::Delete(op) => known(&op.expect),
        Op::RemoveDir(op) => !op.recursive,
        Op::Rename(op) => known(&op.expect_from) && known(&op.expect_to) && op.from != op.to,
        Op::RenameDir(_) | Op::Copy(_) | Op::Restore(_) | Op::RestoreDir(_) => false,
    }
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
        Op::Rename(op) => head(rename(op, known)?),
        Op::RenameDir(_) | Op::Copy(_) | Op::Restore(_) | Op::RestoreDir(_) => None,
    }
}

/// The row at a key; `Some(None)`: nothing live. `None` where the other kind of thing stands there, too.
fn row(known: &dyn Known, key: &Key) -> Option<Option<Head>> {
    match (known.entry(&key.as_file())?, key.is_marker()) {
        (None, _) => Some(None),
        (Some(Entry::File(head)), false) => Some(Some(head)),
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

fn next(head: Option<&Head>) -> VersionNo {
    VersionNo(head.map_or(1, |head| head.version.0 + 1))
}

fn put(op: &Put, by: &Value, known: &dyn Known) -> Option<Head> {
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
    let extended = before.as_ref().filter(|head| op.extends == Some(head.id));
    let version = extended.map_or_else(|| next(before.as_ref()), |head| head.version);
    Some(Head { key: op.key.clone(), id: op.id, version, meta: Meta::parse(Value::Object(fields)), data: None })
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
    let before = row(known, &op.key)??;
    holds(&op.expect, Some(&before)).then(|| tombstone(op.id, before))
}

fn tombstone(id: VersionId, before: Head) -> Head {
    let meta = Meta { deleted: true, kind: before.meta.kind, ino: before.meta.ino, ..Meta::default() };
    Head { version: next(Some(&before)), key: before.key, id, meta, data: None }
}

fn remove_dir(op: &RemoveDir, known: &dyn Known) -> Option<Outcome> {
    let path = op.dir.marker()?.as_file();
    let is_dir = matches!(known.entry(&path)?, Some(Entry::Dir(_)));
    (is_dir && !op.recursive && known.is_empty(&op.dir)?).then(Outcome::default)
}

/// The row that holds the bytes moves to the new name with its id.
fn rename(op: &Rename, known: &dyn Known) -> Option<Head> {
    let source = row(known, &op.from)??;
    let target = row(known, &op.to)?;
    if !holds(&op.expect_from, Some(&source)) || !holds(&op.expect_to, target.as_ref()) {
        return None;
    }
    let mut head = Head { key: op.to.clone(), version: next(target.as_ref()), data: None, ..source };
    if op.ctime.is_some() {
        head.meta.ctime = op.ctime;
    }
    Some(head)
}
