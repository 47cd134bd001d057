//! Rows and batches: from the wire to our types and back.
//!
//! Rows are other people's input: whatever they hold, reading one ends with a value or an error, never a panic.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type, accepts};
use uuid::Uuid;

use crate::batch::{Batch, Durability, Op, Outcome, Precondition};
use crate::error::{Kind, Result, StoreError};
use crate::key::Key;
use crate::layout;
use crate::store::{Dir, Entry, Moment, PurgeReport, Usage};
use crate::version::{Head, RowMeta, Timestamp, VersionId, VersionNo};

/// A column by its name.
pub(super) fn column<'r, T: FromSql<'r>>(row: &'r Row, name: &str) -> Result<T> {
    row.try_get(name)
        .map_err(|e| StoreError::new(Kind::Other, format!("the server's answer has no usable {name}")).with_source(e))
}

/// The only column of the only row.
pub(super) fn single<T: for<'r> FromSql<'r>>(rows: &[Row]) -> Result<T> {
    let missing = || StoreError::new(Kind::Other, "the server's answer has no row");
    rows.first().ok_or_else(missing)?.try_get(0).map_err(|e| missing().with_source(e))
}

/// A row with key, id and meta, and data where the statement has it.
pub(super) fn head(row: &Row) -> Result<Head> {
    let data = if row.columns().iter().any(|column| column.name() == "data") {
        column::<Option<&[u8]>>(row, "data")?.map(Bytes::copy_from_slice)
    } else {
        None
    };
    build_head(column(row, "key")?, column(row, "id")?, column(row, "meta")?, data)
}

fn build_head(key: &str, id: Uuid, row: RowMeta, data: Option<Bytes>) -> Result<Head> {
    let key = Key::new(key).map_err(|e| StoreError::new(Kind::Corrupt, format!("row {id}: {e}")))?;
    Ok(Head { key, id: VersionId(id), version: VersionNo(row.version), meta: row.meta, data })
}

impl<'a> FromSql<'a> for RowMeta {
    fn from_sql(_: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // One byte says how the text that follows is written (`jsonb_send`).
        let Some((1, json)) = raw.split_first().map(|(form, json)| (*form, json)) else {
            return Err("unknown form of jsonb".into());
        };
        Ok(Self::read(json))
    }

    accepts!(JSONB);
}

/// A row of `pgfiles_stat` or `pgfiles_dir`.
pub(super) fn entry(row: &Row) -> Result<Entry> {
    if !column::<bool>(row, "is_dir")? {
        return Ok(Entry::File(head(row)?));
    }
    let marker = match column::<Option<Uuid>>(row, "id")? {
        Some(_) => Some(head(row)?),
        None => None,
    };
    let mtime = column::<Option<&str>>(row, "mtime")?.and_then(Timestamp::parse);
    Ok(Entry::Dir(Dir { marker, mtime }))
}

/// A row of `pgfiles_history`.
pub(super) fn moment(row: &Row) -> Result<Moment> {
    let count = |name: &str| column::<i64>(row, name).map(|n| u64::try_from(n).unwrap_or(0));
    let at: Value = column(row, "at")?;
    // A row that plain SQL wrote may say anything: it hides no other moment.
    let at = at.as_str().and_then(Timestamp::parse).unwrap_or_default();
    Ok(Moment { number: count("number")?, at, versions: count("versions")?, by: column(row, "by")? })
}

/// The answer of `pgfiles_purge`.
pub(super) fn purge_report(value: &Value) -> PurgeReport {
    let count = |name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
    let next = value.get("next").and_then(Value::as_str).and_then(|key| Key::new(key).ok());
    PurgeReport { rows: count("rows"), body_rows: count("body_rows"), bytes: count("bytes"), next }
}

/// The answer of `pgfiles_usage`.
pub(super) fn usage(value: &Value) -> Usage {
    let count = |name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
    Usage {
        files: count("files"),
        bytes: count("bytes"),
        dirs: count("dirs"),
        history_rows: count("history_rows"),
        history_bytes: count("history_bytes"),
        body_rows: count("body_rows"),
        body_bytes: count("body_bytes"),
    }
}

/// The answer of `pgfiles_commit`: one per operation.
pub(super) fn outcomes(value: Value, expected: usize) -> Result<Vec<Outcome>> {
    let odd = || StoreError::new(Kind::Other, "the server's answer does not fit the batch").unknown_outcome();
    let Value::Array(results) = value else { return Err(odd()) };
    if results.len() != expected {
        return Err(odd());
    }
    results.into_iter().map(outcome).collect()
}

/// One of them.
pub(super) fn outcome(mut result: Value) -> Result<Outcome> {
    let meta = result.get_mut("meta").map(Value::take).filter(|meta| !meta.is_null());
    let id = result.get("id").and_then(Value::as_str).and_then(|id| id.parse().ok());
    let head = match (result.get("key").and_then(Value::as_str), id, meta) {
        (Some(key), Some(id), Some(meta)) => Some(build_head(key, id, RowMeta::parse(meta), None)?),
        _ => None,
    };
    let files = result.get("files").and_then(Value::as_u64).unwrap_or(0);
    let moved = result.get("moved").and_then(Value::as_bool).unwrap_or(false);
    let keys = result.get("also").and_then(Value::as_array).into_iter().flatten();
    let also = keys.filter_map(|key| Key::new(key.as_str()?).ok()).collect();
    Ok(Outcome { head, files, moved, also, resent: false })
}

/// Operations as `pgfiles_commit` takes them, and the bodies that they number from 1.
pub(super) fn operations(ops: &[Op]) -> (Vec<Value>, Vec<&[u8]>) {
    let mut bodies = Vec::new();
    let ops = ops.iter().map(|op| operation(op, &mut bodies)).collect();
    (ops, bodies)
}

/// What `pgfiles_commit` is told about the whole batch.
pub(super) fn commit_options(batch: &Batch) -> Value {
    // The part before the slash is the postmaster's start: the rest cannot be had cheaply inside a commit, and a crash
    // of one backend is noticed by the next look at the position.
    let life = batch.life.as_deref().map(|life| life.split('/').next().unwrap_or(life));
    json!({"by": &*batch.by, "sync": batch.durability == Durability::Sync, "again": batch.again, "life": life})
}

fn operation<'b>(op: &'b Op, bodies: &mut Vec<&'b [u8]>) -> Value {
    let mut add = |data: &'b [u8]| {
        bodies.push(data);
        bodies.len()
    };
    let id = |id: VersionId| id.0.to_string();
    match op {
        Op::Put(op) => {
            let ids = |ids: &[VersionId]| Value::from_iter(ids.iter().map(|&row| id(row)));
            let mut put = json!({
                "op": "put", "id": id(op.id), "key": op.key.as_str(), "meta": op.meta, "defaults": op.defaults,
                "body": op.data.as_ref().map(|data| add(data)), "expect": precondition(&op.expect),
                "extends": op.extends.map(id), "drops": ids(&op.drops),
            });
            if let Some(grown) = &op.grown {
                put["base"] = id(grown.base).into();
                put["added"] = ids(&grown.added);
            }
            put
        }
        Op::Body(op) => json!({
            "op": "body", "id": id(op.id), "key": body_key(op), "lin": op.lineage.0.to_string(), "mount": &*op.mount,
            "sum": layout::etag(&op.data), "body": add(&op.data),
        }),
        Op::SetAttr(op) => json!({
            "op": "setattr", "key": op.key.as_str(), "patch": op.patch.to_json(), "expect": precondition(&op.expect),
            "explicit": op.explicit.as_ref().map(|(marker, meta)| json!({"id": id(*marker), "meta": meta})),
        }),
        Op::Delete(op) => json!({"op": "delete", "id": id(op.id), "key": op.key.as_str(), "expect": precondition(&op.expect)}),
        Op::RemoveDir(op) => json!({"op": "rmdir", "id": id(op.id), "dir": op.dir.as_str(), "recursive": op.recursive}),
        Op::Rename(op) => json!({
            "op": "rename", "id": id(op.id), "history": id(op.history), "from": op.from.as_str(), "to": op.to.as_str(),
            "expect_from": precondition(&op.expect_from), "expect_to": precondition(&op.expect_to),
            "young": young(op.young.as_ref()), "ctime": op.ctime.map(|at| at.to_string()),
        }),
        Op::RenameDir(op) => json!({
            "op": "renamedir", "id": id(op.id), "from": op.from.as_str(), "to": op.to.as_str(), "to_absent": op.to_absent,
            "young": young(op.young.as_ref()),
        }),
        Op::Exchange(op) => json!({
            "op": "exchange", "id": id(op.id), "from": op.from.as_str(), "to": op.to.as_str(),
            "ctime": op.ctime.map(|at| at.to_string()),
        }),
        Op::Link(op) => json!({
            "op": "link", "id": id(op.id), "from": op.from.as_str(), "to": op.to.as_str(),
            "ctime": op.ctime.map(|at| at.to_string()),
        }),
        Op::Copy(op) => json!({
            "op": "copy", "id": id(op.id), "from": op.from.as_str(), "version": op.version.map(|version| version.0),
            "to": op.to.as_str(), "expect": precondition(&op.expect), "meta": op.meta,
        }),
        Op::Restore(op) => json!({
            "op": "restore", "id": id(op.id), "key": op.key.as_str(), "version": op.version.0, "expect": precondition(&op.expect),
        }),
        Op::RestoreDir(op) => json!({"op": "restoredir", "id": id(op.id), "dir": op.dir.as_str(), "at": op.at.to_string()}),
    }
}

/// Body rows lie under `/` and the directory that they were written for.
fn body_key(op: &crate::batch::BodyRow) -> String {
    format!("/{}{}/{}", op.dir, op.lineage.0.simple(), op.id.0.simple())
}

fn young(young: Option<&crate::batch::Young>) -> Value {
    young.map_or(Value::Null, |young| json!({"mount": &*young.mount, "seconds": young.seconds}))
}

fn precondition(expect: &Precondition) -> Value {
    let mut out = Map::new();
    match expect {
        Precondition::Any => return Value::Null,
        Precondition::Absent => out.insert("absent".into(), true.into()),
        Precondition::Version(version) => out.insert("version".into(), version.0.into()),
        Precondition::Etag(etag) => out.insert("etag".into(), etag.clone().into()),
        Precondition::Head(id) => out.insert("head".into(), id.0.to_string().into()),
    };
    Value::Object(out)
}
