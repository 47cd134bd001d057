//! Locks on a server: see [`crate::lock`]. Each call is one function that `pgfiles init` made.

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio_postgres::types::Type;

use super::pool::Params;
use super::{PgStore, row, sql};
use crate::error::{Kind, Result, StoreError};
use crate::lock::{Change, Lease, LeaseCall, LeaseReply, Lock, LockKind, LockReply, Locks};

/// For sentences about failures.
const WHAT: &str = "locking";

#[async_trait]
impl Locks for PgStore {
    async fn lease(&self, lease: &Lease, call: LeaseCall) -> Result<LeaseReply> {
        let what = match call {
            LeaseCall::Renew => "renew",
            LeaseCall::Next => "next",
            LeaseCall::Settle => "settle",
            LeaseCall::End => "end",
        };
        let (prefix, mount, number) = (lease.prefix.as_str(), &*lease.mount, number(lease)?);
        let params: Params<'_> = &[(&prefix, Type::TEXT), (&mount, Type::TEXT), (&number, Type::INT8), (&what, Type::TEXT)];
        let rows = self.writer().await?.query(WHAT, sql::LEASE, params, self.options.request_timeout).await?;
        let answer: Value = row::single(&rows)?;
        match (answer["kept"].as_bool(), answer["life"].as_str()) {
            (Some(kept), Some(life)) => Ok(LeaseReply { kept, life: life.to_owned() }),
            _ => Err(odd(&answer)),
        }
    }

    async fn lock(&self, lease: &Lease, ino: u64, changes: &[Change]) -> Result<LockReply> {
        let (prefix, mount, number, ino) = (lease.prefix.as_str(), &*lease.mount, number(lease)?, ino.to_string());
        let changes = Value::Array(changes.iter().map(json_of).collect());
        let params: Params<'_> =
            &[(&prefix, Type::TEXT), (&mount, Type::TEXT), (&number, Type::INT8), (&ino, Type::TEXT), (&changes, Type::JSONB)];
        let rows = self.writer().await?.query(WHAT, sql::LOCK, params, self.options.request_timeout).await?;
        let answer: Value = row::single(&rows)?;
        if let Some(held) = answer.get("held") {
            return Ok(LockReply::Held(lock_of(held)?));
        }
        Ok(match (answer["full"].as_bool(), answer["lost"].as_bool()) {
            (Some(true), _) => LockReply::Full,
            (_, Some(true)) => LockReply::LeaseLost,
            _ => LockReply::Granted,
        })
    }

    async fn lock_test(&self, lease: &Lease, ino: u64, change: &Change) -> Result<Option<Lock>> {
        let (prefix, mount, ino, change) = (lease.prefix.as_str(), &*lease.mount, ino.to_string(), json_of(change));
        let params: Params<'_> = &[(&prefix, Type::TEXT), (&mount, Type::TEXT), (&ino, Type::TEXT), (&change, Type::JSONB)];
        let rows = self.ask(WHAT, sql::LOCK_TEST, params).await?;
        row::single::<Option<Value>>(&rows)?.as_ref().map(lock_of).transpose()
    }
}

fn number(lease: &Lease) -> Result<i64> {
    i64::try_from(lease.number).map_err(|_| StoreError::new(Kind::Invalid, "number of a lease"))
}

/// Owners are any 64 bits, which neither JavaScript nor bigint holds.
fn json_of(change: &Change) -> Value {
    let kind = match change.kind {
        None => "u",
        Some(LockKind::Shared) => "r",
        Some(LockKind::Exclusive) => "w",
    };
    json!({"owner": change.owner.to_string(), "start": change.start, "end": change.end, "type": kind, "pid": change.pid})
}

fn lock_of(value: &Value) -> Result<Lock> {
    let read = || {
        Some(Lock {
            owner: value["owner"].as_str()?.parse().ok()?,
            start: value["start"].as_u64()?,
            end: value["end"].as_u64()?,
            kind: if value["type"].as_str()? == "w" { LockKind::Exclusive } else { LockKind::Shared },
            pid: u32::try_from(value["pid"].as_u64()?).ok()?,
        })
    };
    read().ok_or_else(|| odd(value))
}

fn odd(value: &Value) -> StoreError {
    StoreError::new(Kind::Corrupt, format!("a row of locks is damaged: {value}"))
}
