//! `batch`: JSON Lines in, one transaction, an answer per line out.
//!
//! [`Step::parse`] reads one line and says what is wrong with it; a [`Steps`] collects them into operations within the
//! bounds; [`Service::batch`] commits. Lines are counted from 1, blank ones included.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use pgfiles_store::alias::DIR_BYTES_MAX;
use pgfiles_store::batch::{Batch, Copy, Delete, Durability, Op, Outcome, Put, RemoveDir, Rename, RenameDir, Restore, SetAttr};
use pgfiles_store::version::AttrPatch;
use pgfiles_store::{Key, Kind, Meta, Precondition, Prefix, VersionId, VersionNo};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::content::{self, Content};
use super::{Answer, Service};
use crate::exit::{Failure, Result};

/// The most operations in a batch: they are one transaction, and all in memory.
pub const STEPS_MAX: usize = 250_000;
/// The most bytes of contents in a batch.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// Ids that are looked up in one request.
const IDS_MAX: usize = 5_000;

/// One line of a batch, as a user writes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// put, delete, move, copy, mkdir, restore, tag or attr.
    pub op: String,
    /// Under the prefix. Ending in `/` where a directory is deleted or moved.
    pub path: String,
    /// move, copy: under the prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// put: the content as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// put: the content in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// put: a local path. Read by the command, never by a daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// put: the MIME type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// restore: which; copy: of which (the head where missing).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// tag: to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, Option<String>>>,
    /// delete of a directory: with all below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recursive: Option<bool>,
    /// put, mkdir, attr: attributes to set, as `meta` has them: mode, uid, gid, mtime, atime, xattrs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attrs: Option<Map<String, Value>>,
    /// The id of the row to be made: where it has been made already, the line changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// The live head must have this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<u64>,
    /// The live head must have this etag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_etag: Option<String>,
    /// Nothing may be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_absent: Option<bool>,
}

/// The operations with the fields that each may have besides op, path and the conditions.
const FIELDS: [(&str, &[&str]); 8] = [
    ("put", &["data", "data_base64", "file", "content_type", "attrs", "id"]),
    ("delete", &["recursive", "id"]),
    ("move", &["to", "id"]),
    ("copy", &["to", "version", "id"]),
    ("mkdir", &["attrs", "id"]),
    ("restore", &["version", "id"]),
    ("tag", &["tags"]),
    ("attr", &["attrs"]),
];

impl Step {
    /// Reads a line. Any text yields a step or a reason.
    ///
    /// # Errors
    /// Why the line is no step, in words.
    pub fn parse(line: &str) -> std::result::Result<Self, String> {
        let step: Step = serde_json::from_str(line).map_err(|error| {
            let text = error.to_string();
            // Within a line of its own the parser's line number would only confuse.
            text.split(" at line ").next().map_or(text.clone(), |why| format!("{why} (column {})", error.column()))
        })?;
        let Some((_, allowed)) = FIELDS.iter().find(|(name, _)| *name == step.op) else {
            let all: Vec<_> = FIELDS.iter().map(|(name, _)| *name).collect();
            return Err(format!("unknown op {:?}: there are {}", step.op, all.join(", ")));
        };
        for (name, given) in step.given() {
            if given && !allowed.contains(&name) {
                return Err(format!("op {:?} does not take {name:?}", step.op));
            }
        }
        step.complete()?;
        Ok(step)
    }

    fn given(&self) -> [(&'static str, bool); 10] {
        [
            ("to", self.to.is_some()),
            ("data", self.data.is_some()),
            ("data_base64", self.data_base64.is_some()),
            ("file", self.file.is_some()),
            ("content_type", self.content_type.is_some()),
            ("version", self.version.is_some()),
            ("tags", self.tags.is_some()),
            ("recursive", self.recursive.is_some()),
            ("attrs", self.attrs.is_some()),
            ("id", self.id.is_some()),
        ]
    }

    fn complete(&self) -> std::result::Result<(), String> {
        let bodies = [self.data.is_some(), self.data_base64.is_some(), self.file.is_some()];
        let missing = match self.op.as_str() {
            "put" if bodies.iter().filter(|given| **given).count() != 1 => "exactly one of data, data_base64 and file",
            "move" | "copy" if self.to.is_none() => "to",
            "restore" if self.version.is_none() => "version",
            "tag" if self.tags.is_none() => "tags",
            "attr" if self.attrs.is_none() => "attrs",
            _ => "",
        };
        if !missing.is_empty() {
            return Err(format!("op {:?} needs {missing}", self.op));
        }
        let conditions = [self.if_version.is_some(), self.if_etag.is_some(), self.if_absent == Some(true)];
        if conditions.iter().filter(|given| **given).count() > 1 {
            return Err("at most one of if_version, if_etag and if_absent".into());
        }
        Ok(())
    }

    /// Replaces `file` by its content, so that whoever carries the step out needs no file.
    ///
    /// # Errors
    /// The file cannot be read, in words.
    pub fn load(&mut self) -> std::result::Result<(), String> {
        if let Some(file) = self.file.take() {
            let size = std::fs::metadata(&file).map_or(0, |meta| meta.len());
            if size > PAYLOAD_BYTES_MAX as u64 {
                return Err(format!("{file} has {size} bytes, and a batch carries at most 1 GiB: write it through a mount"));
            }
            let data = std::fs::read(&file).map_err(|error| format!("cannot read {file}: {}", crate::exit::plain(&error)))?;
            self.data_base64 = Some(BASE64.encode(data));
        }
        Ok(())
    }

    fn bytes(&self) -> std::result::Result<Bytes, String> {
        match (&self.data, &self.data_base64) {
            (Some(text), _) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (_, Some(text)) => BASE64.decode(text).map(Bytes::from).map_err(|error| format!("data_base64: {error}")),
            _ => Err("file is not read here".into()),
        }
    }

    fn attributes(&self) -> std::result::Result<AttrPatch, String> {
        self.attrs.as_ref().map_or(Ok(AttrPatch::default()), AttrPatch::parse)
    }

    fn condition(&self) -> Precondition {
        match (self.if_version, &self.if_etag, self.if_absent) {
            (Some(version), _, _) => Precondition::Version(VersionNo(version)),
            (_, Some(etag), _) => Precondition::Etag(etag.clone()),
            (_, _, Some(true)) => Precondition::Absent,
            _ => Precondition::Any,
        }
    }
}

/// Steps as operations of one batch, with the line of each.
#[derive(Debug, Default)]
pub struct Steps {
    ops: Vec<Op>,
    /// The line of each operation.
    lines: Vec<u64>,
    /// What to say of each line.
    said: Vec<Said>,
    payload: usize,
    changed: Vec<Key>,
}

/// A line, as far as its answer needs it.
#[derive(Debug)]
struct Said {
    line: u64,
    op: String,
    path: String,
    /// The id that the line names.
    id: Option<VersionId>,
    /// Its operations among all; the answer is about the last.
    ops: Range<usize>,
}

impl Steps {
    /// Adds what line `number` asks for.
    ///
    /// # Errors
    /// Why it cannot be done, with the line; the batch is over its bounds.
    pub fn add(&mut self, number: u64, step: &Step, service: &Service) -> Result<()> {
        let ops = operations(step, service).map_err(|why| at_line(number, Failure::usage(why)))?;
        self.payload += ops.iter().map(Op::payload).sum::<usize>();
        self.lines.extend(std::iter::repeat_n(number, ops.len()));
        let count = ops.len();
        self.ops.extend(ops);
        let ops = self.ops.len() - count..self.ops.len();
        self.said.push(Said { line: number, op: step.op.clone(), path: step.path.clone(), id: step.id.map(VersionId), ops });
        for path in [Some(&step.path), step.to.as_ref()].into_iter().flatten() {
            self.changed.extend(Key::new(&format!("{}{path}", service.fence)));
        }
        if self.said.len() > STEPS_MAX {
            return Err(at_line(number, Failure::usage(format!("a batch has at most {STEPS_MAX} operations: split it"))));
        }
        if self.payload > PAYLOAD_BYTES_MAX {
            return Err(at_line(number, Failure::usage("a batch carries at most 1 GiB: split it")));
        }
        Ok(())
    }
}

/// The failure as one of that line.
pub fn at_line(number: u64, failure: Failure) -> Failure {
    let message = format!("line {number}: {}", failure.message);
    Failure { message, line: Some(number), ..failure }
}

impl Service {
    /// Commits the steps, all or none, but for those whose id says that they were carried out before.
    ///
    /// # Errors
    /// What the store says, with the line.
    pub async fn batch(&self, steps: Steps) -> Result<Answer> {
        let Steps { ops, lines, said, changed, .. } = steps;
        let done = self.done_before(&said).await?;
        let mut wanted = vec![true; ops.len()];
        for said in said.iter().filter(|said| said.is_among(&done)) {
            wanted[said.ops.clone()].fill(false);
        }
        // Where each operation went in what is committed.
        let place: Vec<usize> =
            wanted.iter().scan(0, |next, wanted| Some(std::mem::replace(next, *next + usize::from(*wanted)))).collect();
        let keep = |at: &usize| wanted[*at];
        let lines: Vec<u64> = (0..ops.len()).filter(keep).map(|at| lines[at]).collect();
        let ops: Vec<Op> = ops.into_iter().enumerate().filter(|(at, _)| keep(at)).map(|(_, op)| op).collect();
        if ops.is_empty() {
            let value = said.iter().map(|said| answer(said, None)).collect();
            return Ok(Answer { value, changed });
        }
        let durability = Durability::Sync;
        let batch = Batch { ops, durability, by: self.by.clone(), life: None, again: false };
        let outcomes = self.store.commit(batch).await.map_err(|error| {
            let line = error.op().and_then(|index| lines.get(index)).copied();
            let failure = Failure::from(error);
            line.map_or(failure.clone(), |line| at_line(line, failure))
        })?;
        let outcome = |said: &Said| outcomes.get(*place.get(said.ops.end.checked_sub(1)?)?);
        let value = said.iter().map(|said| answer(said, outcome(said).filter(|_| !said.is_among(&done)))).collect();
        Ok(Answer { value, changed })
    }

    async fn done_before(&self, said: &[Said]) -> Result<HashSet<VersionId>> {
        let ids: Vec<VersionId> = said.iter().filter_map(|said| said.id).collect();
        let mut done = HashSet::new();
        for ids in ids.chunks(IDS_MAX) {
            let there = self.server.present(ids).await?;
            done.extend(ids.iter().zip(there).filter(|(_, there)| *there).map(|(id, _)| *id));
        }
        Ok(done)
    }
}

impl Said {
    fn is_among(&self, done: &HashSet<VersionId>) -> bool {
        self.id.is_some_and(|id| done.contains(&id))
    }
}

/// `None`: it was carried out before.
fn answer(said: &Said, outcome: Option<&Outcome>) -> Value {
    let mut out = json!({"line": said.line, "op": said.op, "path": said.path});
    if let Some(head) = outcome.and_then(|outcome| outcome.head.as_ref()) {
        out["version"] = head.version.0.into();
        out["id"] = head.id.to_string().into();
        if let Some(etag) = &head.meta.etag {
            out["etag"] = etag.as_str().into();
        }
    } else if let Some(outcome) = outcome {
        out["files"] = outcome.files.into();
    } else if let Some(id) = said.id {
        out["id"] = id.to_string().into();
        out["before"] = true.into();
    }
    out
}

/// One step as operations; the last is the one that the answer is about.
fn operations(step: &Step, service: &Service) -> std::result::Result<Vec<Op>, String> {
    let key = key_of(&service.fence, &step.path)?;
    let id = step.id.map_or_else(|| service.clock.version_id(), VersionId);
    let expect = step.condition();
    let attributes = step.attributes()?;
    let no_condition = |what: &str| match expect {
        Precondition::Any => Ok(()),
        _ => Err(format!("{what} takes no if_version, if_etag or if_absent")),
    };
    let of_file = |key: &Key| match key.is_marker() {
        true => Err(format!("op {:?} is for files: {:?} ends in /", step.op, step.path)),
        false => Ok(key.clone()),
    };
    let op = match step.op.as_str() {
        "put" => {
            let content = Content { key: of_file(&key)?, data: step.bytes()?, content_type: step.content_type.clone(), expect };
            let mut ops = content::put(content, &service.mount, &*service.clock);
            if let Some(Op::Put(put)) = ops.last_mut() {
                put.id = id;
                put.meta.extend(attributes.to_json());
            }
            return Ok(ops);
        }
        "delete" if key.is_marker() => {
            no_condition("delete of a directory")?;
            Op::RemoveDir(RemoveDir { id, dir: key.as_dir(), recursive: step.recursive == Some(true) })
        }
        "delete" => Op::Delete(Delete { id, key, expect }),
        "move" => return move_or_copy(step, service, id, &key).map(|op| vec![op]),
        "copy" => {
            of_file(&key)?;
            return move_or_copy(step, service, id, &key).map(|op| vec![op]);
        }
        "mkdir" => {
            let mut put = Put { id, ..directory(service, &key, expect)? };
            put.meta.extend(attributes.to_json());
            Op::Put(put)
        }
        "restore" => {
            let version = VersionNo(step.version.unwrap_or_default());
            Op::Restore(Restore { id, key: of_file(&key)?, version, expect })
        }
        "tag" => {
            let patch = AttrPatch { tags: step.tags.clone().unwrap_or_default(), ..AttrPatch::default() };
            Op::SetAttr(SetAttr { key, patch, expect, explicit: None })
        }
        "attr" => {
            let patch = AttrPatch { ctime: Some(service.clock.now()), ..attributes };
            let explicit = match key.is_marker() {
                true => Some((id, directory(service, &key, Precondition::Absent)?.meta)),
                false => None,
            };
            Op::SetAttr(SetAttr { key, patch, expect, explicit })
        }
        other => return Err(format!("unknown op {other:?}")),
    };
    Ok(vec![op])
}

/// For `move`, if_version and if_etag are about the source and if_absent about the target; for `copy`, all are about
/// the target.
fn move_or_copy(step: &Step, service: &Service, id: VersionId, from: &Key) -> std::result::Result<Op, String> {
    let to = key_of(&service.fence, step.to.as_deref().unwrap_or_default())?;
    let history = service.clock.version_id();
    let condition = step.condition();
    if step.op == "copy" {
        let ino = Meta { ino: Some(service.clock.ino()), ..Meta::default() };
        let meta = pgfiles_store::batch::fields(&ino, &["ino"]);
        let version = step.version.map(VersionNo);
        if to.is_marker() {
            return Err(format!("copy is for files: {to:?} ends in /"));
        }
        return Ok(Op::Copy(Copy { id, from: from.clone(), version, to, expect: condition, meta }));
    }
    if from.is_marker() {
        let to_absent = condition == Precondition::Absent;
        if !to_absent && condition != Precondition::Any {
            return Err("move of a directory takes no if_version or if_etag".into());
        }
        let (from, to) = (from.as_dir(), to.as_dir());
        return Ok(Op::RenameDir(RenameDir { id, from, to, young: None, to_absent }));
    }
    if to.is_marker() {
        return Err(format!("{to:?} ends in /: name the file that it becomes"));
    }
    let (expect_from, expect_to) = match condition {
        Precondition::Absent => (Precondition::Any, Precondition::Absent),
        other => (other, Precondition::Any),
    };
    let ctime = Some(service.clock.now());
    let from = from.clone();
    Ok(Op::Rename(Rename { id, history, from, to, expect_from, expect_to, young: None, ctime }))
}

fn directory(service: &Service, key: &Key, expect: Precondition) -> std::result::Result<Put, String> {
    let now = service.clock.now();
    let meta = Meta { kind: Kind::Dir, mtime: Some(now), ctime: Some(now), ..Meta::default() };
    let defaults = Meta { ino: Some(service.clock.ino()), ..Meta::default() };
    Ok(Put {
        id: service.clock.version_id(),
        key: key.as_dir().marker().ok_or("the prefix itself is there already")?,
        meta: pgfiles_store::batch::fields(&meta, &["kind", "mtime", "ctime"]),
        defaults: pgfiles_store::batch::fields(&defaults, &["ino"]),
        data: None,
        // A directory that is there stays as it is only if it is asked for: without a condition mkdir wants a new one.
        expect: if expect == Precondition::Any { Precondition::Absent } else { expect },
        extends: None,
        drops: Vec::new(),
        grown: None,
    })
}

fn key_of(fence: &Prefix, path: &str) -> std::result::Result<Key, String> {
    let dir = path.trim_end_matches('/').rsplit_once('/').map_or("", |(dir, _)| dir);
    if fence.as_str().len() + dir.len() > DIR_BYTES_MAX {
        return Err(format!("path {path:?}: its directory lies over {DIR_BYTES_MAX} bytes deep, which only a mount can name"));
    }
    Key::from_path(fence, path).map_err(|error| format!("path {path:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wrong_lines_are_explained() {
        for (line, why) in [
            ("{", "EOF"),
            ("[]", "invalid"),
            (r#"{"op":"put","path":"a"}"#, "needs exactly one of data"),
            (r#"{"op":"put","path":"a","data":"x","file":"y"}"#, "needs exactly one of data"),
            (r#"{"op":"putt","path":"a"}"#, "unknown op \"putt\""),
            (r#"{"op":"put","path":"a","data":"x","colour":1}"#, "colour"),
            (r#"{"op":"delete","path":"a","data":"x"}"#, "does not take \"data\""),
            (r#"{"op":"move","path":"a"}"#, "needs to"),
            (r#"{"op":"restore","path":"a"}"#, "needs version"),
            (r#"{"op":"tag","path":"a"}"#, "needs tags"),
            (r#"{"op":"attr","path":"a"}"#, "needs attrs"),
            (r#"{"op":"tag","path":"a","tags":{},"id":"00000000-0000-0000-0000-000000000001"}"#, "does not take \"id\""),
            (r#"{"op":"delete","path":"a","if_version":1,"if_absent":true}"#, "at most one"),
        ] {
            let error = Step::parse(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_step_or_refused(line in ".{0,80}") {
            let _ = Step::parse(&line);
        }

        #[test]
        fn a_step_survives_the_wire(path in "[a-z/]{0,9}", version in proptest::option::of(any::<u64>())) {
            let step = Step { op: "restore".into(), path, version: version.or(Some(1)), ..Step::default() };
            prop_assert_eq!(Step::parse(&serde_json::to_string(&step).unwrap()), Ok(step));
        }
    }
}
