//! The store on a Postgres server: [`PgStore`].
//!
//! Thin on purpose: a batch, a listing, a lookup is one call of a function that `pgfiles init` made, so that it costs
//! one round trip and is one transaction. What is decided here: how the server is reached ([`dsn`], [`connect`]), how
//! long a request may take, and what an error means ([`sqlstate`]). Nothing is retried and nothing cached: that is for
//! the layers above.

pub mod connect;
pub mod dsn;
mod dsn_text;
pub mod listen;
mod lock;
mod passfile;
mod pool;
mod row;
pub mod schema;
mod sql;
pub mod sqlstate;
mod tls;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio_postgres::types::Type;
use uuid::Uuid;

use self::connect::{Connector, Hello, WRITER};
use self::dsn::{Dsn, Environment};
use self::listen::Listener;
use self::pool::{Lease, Limits, Params, Pool};
use crate::batch::{Batch, Op, Outcome};
use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, Name, Prefix};
use crate::store::{
    Cursor, Entry, Maintenance, Moment, Page, Part, Position, Purge, PurgeReport, PurgeScope, Server, Store, Usage,
};
use crate::version::{Head, VersionId, VersionNo};

/// The most bytes that one answer carries; longer reads go as several requests at once.
pub const READ_BYTES: usize = 8 << 20;
/// The most bytes that one request carries. A batch of more goes as several in one transaction; callers that are in a
/// hurry stay below [`READ_BYTES`].
pub const REQUEST_BYTES_MAX: usize = 64 << 20;
/// The most bytes that one operation carries: Postgres holds no value of 1 GiB, nor what is needed to make one.
pub const OPERATION_BYTES_MAX: usize = 256 << 20;
/// How many keys a slice of a purge takes.
const PURGE_SLICE: i64 = 1_000;
/// What a slow line needs for each MiB, on top of a request's time.
const PER_MIB: Duration = Duration::from_secs(1);

/// How a [`PgStore`] uses its server.
#[derive(Debug, Clone)]
pub struct PgOptions {
    /// The most connections at a time.
    pub pool_size: usize,
    /// How a session calls itself, where the DSN does not say.
    pub application_name: String,
    /// How long an ordinary request may take, one second more for each MiB that it carries. Past it, the outcome is
    /// unknown, and the server is asked to stop.
    pub request_timeout: Duration,
    /// The same for what takes as long as a directory is large: recursive removal, rename, restore, purge, history.
    pub long_timeout: Duration,
    /// After how long an unused connection is closed.
    pub idle_timeout: Duration,
}

impl Default for PgOptions {
    fn default() -> Self {
        Self {
            pool_size: 10,
            application_name: "pgfiles".into(),
            request_timeout: Duration::from_secs(10),
            long_timeout: Duration::from_secs(3600),
            idle_timeout: Duration::from_secs(20),
        }
    }
}

/// The table on a server.
#[derive(Debug)]
pub struct PgStore {
    pool: Arc<Pool>,
    options: PgOptions,
    /// The control file may not be read: [`sql::POSITION`] was refused once.
    no_control: AtomicBool,
    /// A commit was sent.
    wrote: AtomicBool,
}

impl PgStore {
    /// Understands a DSN, with what the environment adds to it, and makes a first connection.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for the DSN, else as [`Connector::open`].
    pub async fn connect(dsn: &str, options: PgOptions) -> Result<Self> {
        let store = Self::lazy(Dsn::parse(dsn, &Environment::of_process())?, options);
        store.hello().await?;
        Ok(store)
    }

    /// A store that connects when it is first asked something.
    pub fn lazy(dsn: Dsn, options: PgOptions) -> Self {
        let connector = Connector::new(dsn, &options.application_name);
        let limits = Limits { size: options.pool_size, idle: options.idle_timeout, wait: options.request_timeout };
        Self { pool: Pool::new(connector, limits), options, no_control: AtomicBool::new(false), wrote: AtomicBool::new(false) }
    }

    /// What the server said when the connection at hand was made.
    ///
    /// # Errors
    /// As [`Connector::open`].
    pub async fn hello(&self) -> Result<Hello> {
        Ok(self.pool.get().await?.hello().cloned().unwrap_or_default())
    }

    /// Hears of changes that others make below a prefix, over a connection of its own. `mount` names the listener.
    ///
    /// # Errors
    /// As [`Connector::open`]; [`Kind::Unsupported`] behind a pooler that delivers no notifications.
    pub async fn listen(self: &Arc<Self>, prefix: &Prefix, mount: &str) -> Result<Listener> {
        Listener::start(self.clone(), prefix.clone(), mount.to_owned()).await
    }

    /// What it connects to.
    pub fn dsn(&self) -> &Dsn {
        self.pool.connector().dsn()
    }

    /// Statements sent so far, each a round trip unless sent together with others; those that make a connection not counted.
    pub fn round_trips(&self) -> u64 {
        self.pool.requests.load(Ordering::Relaxed)
    }

    /// Connections made so far.
    pub fn connections_made(&self) -> u64 {
        self.pool.opened.load(Ordering::Relaxed)
    }

    /// Connections that are open and unused at this moment.
    pub fn connections_idle(&self) -> usize {
        self.pool.idle_count()
    }

    /// One ordinary request.
    async fn ask(&self, what: &str, text: &str, params: Params<'_>) -> Result<Vec<tokio_postgres::Row>> {
        self.pool.get().await?.query(what, text, params, self.options.request_timeout).await
    }

    /// One that takes as long as a directory is large.
    async fn ask_long(&self, what: &str, text: &str, params: Params<'_>) -> Result<Vec<tokio_postgres::Row>> {
        self.pool.get().await?.query(what, text, params, self.options.long_timeout).await
    }

    /// A connection on which this release may write.
    async fn writer(&self) -> Result<Lease> {
        let lease = self.pool.get().await?;
        match lease.hello() {
            Some(hello) if hello.min_writer > WRITER => {
                let message = format!(
                    "the pgfiles schema on {} asks for a newer pgfiles to write (writer {}, this one is {WRITER}): upgrade it; reading goes on",
                    self.dsn(),
                    hello.min_writer
                );
                Err(StoreError::new(Kind::Unsupported, message))
            }
            _ => Ok(lease),
        }
    }

    /// `beat`, `leave`, `sweep` of a mount; `listen`, `deaf` of a listener.
    async fn housekeeping(&self, prefix: &Prefix, mount: &str, what: &str) -> Result<u64> {
        let prefix = prefix.as_str();
        let params: Params<'_> = &[(&prefix, Type::TEXT), (&mount, Type::TEXT), (&what, Type::TEXT)];
        let rows = self.writer().await?.query("housekeeping", sql::MAINTAIN, params, self.options.long_timeout).await?;
        Ok(u64::try_from(row::single::<i64>(&rows)?).unwrap_or(0))
    }

    /// Flushes the log; the life of the server that did. `None`: it is a standby to which nothing was written here.
    async fn synced(&self) -> Result<Option<String>> {
        let mut lease = self.writer().await?;
        let standby = lease.hello().is_some_and(|hello| hello.in_recovery);
        match lease.query("syncing", sql::SYNC, &[], self.options.request_timeout).await {
            // A standby takes no write, this one neither; nothing of ours waits there.
            Err(error) if standby && !error.is_retryable() && !self.wrote.load(Ordering::Acquire) => Ok(None),
            Err(error) if standby && !error.is_retryable() => {
                let message = format!("syncing: {} is a standby now and accepts no writes", self.dsn());
                Err(StoreError::new(Kind::ReadOnly, message).with_source(error))
            }
            result => result?.first().map(|row| row::column(row, "life")).transpose(),
        }
    }

    /// One page, which may hold nothing that can be shown and still have a next one.
    async fn page(&self, dir: &Prefix, from: Option<&str>, limit: u32, inline_max: u32) -> Result<Page> {
        let (dir, limit, inline_max) = (dir.as_str(), int4(limit.max(1)), int4(inline_max));
        let params: Params<'_> = &[(&dir, Type::TEXT), (&from, Type::TEXT), (&limit, Type::INT4), (&inline_max, Type::INT4)];
        let rows = self.ask("listing", sql::LIST, params).await?;
        let mut page = Page::default();
        for row in &rows {
            let name: &str = row::column(row, "name")?;
            if Name::from_component(name).is_some() {
                page.entries.push((name.to_owned(), row::entry(row)?));
            }
        }
        if let Some(last) = rows.last().filter(|_| rows.len() >= limit as usize) {
            page.next = Some(Cursor(row::column(last, "next_pos")?));
        }
        Ok(page)
    }

    /// One request with some of a batch's operations.
    async fn commit_part(&self, lease: &mut Lease, batch: &Batch, part: Range<usize>) -> Result<Vec<Outcome>> {
        let ops = &batch.ops[part.clone()];
        let (operations, bodies) = row::operations(ops);
        let options = row::commit_options(batch);
        let limit = if ops.iter().any(is_long) {
            self.options.long_timeout
        } else {
            self.time_for(bodies.iter().map(|body| body.len()).sum()) + Duration::from_millis(ops.len() as u64)
        };
        if let ([op], [operation], false) = (&*batch.ops, operations.as_slice(), batch.again)
            && let Some(text) = alone(op).filter(|_| lease.knows(schema::WITH_SINGLE))
        {
            let body = bodies.first();
            let params: Params<'_> = &[(operation, Type::JSONB), (&options, Type::JSONB), (&body, Type::BYTEA)];
            let params = if text == sql::CREATE { params } else { &params[..2] };
            match lease.query("writing", text, params, limit).await {
                // Somebody came first: pgfiles_commit queues.
                Err(error) if error.kind() == Kind::Retry => {}
                answer => return Ok(vec![row::outcome(row::single(&answer?)?)?]),
            }
        }
        let operations = Value::Array(operations);
        let params: Params<'_> = &[(&operations, Type::JSONB), (&bodies, Type::BYTEA_ARRAY), (&options, Type::JSONB)];
        let rows = lease.query("writing", sql::COMMIT, params, limit).await.map_err(|error| match error.op() {
            Some(index) => error.at_op(part.start + index),
            None => error,
        })?;
        row::outcomes(row::single(&rows)?, ops.len())
    }

    fn time_for(&self, bytes: usize) -> Duration {
        self.options.request_timeout + PER_MIB * u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
    }
}

/// A count as the server takes it; what is greater than that means all.
fn int4(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn texts(keys: &[Key]) -> Vec<&str> {
    keys.iter().map(Key::as_str).collect()
}

/// Whether it takes as long as a directory is large.
fn is_long(op: &Op) -> bool {
    match op {
        Op::RenameDir(_) | Op::Exchange(_) | Op::RestoreDir(_) => true,
        Op::RemoveDir(op) => op.recursive,
        Op::Put(_)
        | Op::Body(_)
        | Op::SetAttr(_)
        | Op::Delete(_)
        | Op::Rename(_)
        | Op::Link(_)
        | Op::Copy(_)
        | Op::Restore(_) => false,
    }
}

/// The statement for an operation that is alone in its batch and of a common kind. What is not the common case is passed on
/// by the server; a file without an inode number is one that is there already.
fn alone(op: &Op) -> Option<&'static str> {
    match op {
        Op::Put(op) => (op.meta.contains_key("ino") && op.extends.is_none()).then_some(sql::CREATE),
        Op::Delete(_) => Some(sql::UNLINK),
        Op::SetAttr(_) => Some(sql::CHMOD),
        Op::Rename(_) => Some(sql::MOVE),
        Op::Body(_)
        | Op::RemoveDir(_)
        | Op::RenameDir(_)
        | Op::Exchange(_)
        | Op::Link(_)
        | Op::Copy(_)
        | Op::Restore(_)
        | Op::RestoreDir(_) => None,
    }
}

#[async_trait]
impl Store for PgStore {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        let mut found = vec![None; paths.len()];
        if paths.is_empty() {
            return Ok(found);
        }
        let (names, inline_max) = (texts(paths), int4(inline_max));
        let rows = self.ask("looking up", sql::LOOKUP, &[(&names, Type::TEXT_ARRAY), (&inline_max, Type::INT4)]).await?;
        for row in &rows {
            let at = usize::try_from(row::column::<i32>(row, "ord")?).unwrap_or(0);
            if let Some(slot) = at.checked_sub(1).and_then(|at| found.get_mut(at)) {
                *slot = Some(row::entry(row)?);
            }
        }
        Ok(found)
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        let mut page = self.page(dir, from.map(|cursor| cursor.0.as_str()), limit, inline_max).await?;
        // A page of nothing but components that no path can have is not worth showing.
        while let (true, Some(next)) = (page.entries.is_empty(), &page.next) {
            page = self.page(dir, Some(&next.0), limit, inline_max).await?;
        }
        Ok(page)
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        let (under, after, limit) = (under.as_str(), after.map(Key::as_str), int4(limit));
        let params: Params<'_> = &[(&under, Type::TEXT), (&after, Type::TEXT), (&limit, Type::INT4)];
        self.ask("reading a tree", sql::TREE, params).await?.iter().map(row::head).collect()
    }

    async fn deleted(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        let (under, after, limit) = (under.as_str(), after.map(Key::as_str), int4(limit));
        let params: Params<'_> = &[(&under, Type::TEXT), (&after, Type::TEXT), (&limit, Type::INT4)];
        self.ask("reading what is deleted", sql::DELETED, params).await?.iter().map(row::head).collect()
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        let pieces = pieces(parts);
        let windows = windows(&pieces);
        let columns: Vec<Columns> = windows.iter().map(|window| Columns::of(window)).collect();
        let mut params = Vec::with_capacity(columns.len());
        for columns in &columns {
            params.push(columns.params());
        }
        let requests: Vec<(&str, Params<'_>)> = params.iter().map(|params| (sql::READ, params.as_slice())).collect();
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let limit = self.time_for(pieces.iter().map(|(_, part)| part.len as usize).sum());
        let answers = self.pool.get().await?.pipeline("reading", &requests, limit).await?;
        let mut out: Vec<Vec<Bytes>> = vec![Vec::new(); parts.len()];
        for (window, rows) in windows.iter().zip(&answers) {
            let mut found: Vec<Option<Bytes>> = vec![None; window.len()];
            for row in rows {
                let at = usize::try_from(row::column::<i64>(row, "ord")?).unwrap_or(0);
                let bytes = row::column::<Option<&[u8]>>(row, "bytes")?.map_or_else(Bytes::new, Bytes::copy_from_slice);
                if let Some(slot) = at.checked_sub(1).and_then(|at| found.get_mut(at)) {
                    *slot = Some(bytes);
                }
            }
            for ((index, part), bytes) in window.iter().zip(found) {
                let bytes = bytes.filter(|bytes| bytes.len() <= part.len as usize);
                out[*index].push(bytes.ok_or_else(|| missing(part))?);
            }
        }
        Ok(out.into_iter().map(join).collect())
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<Outcome>> {
        if let Some(index) = batch.ops.iter().position(|op| op.payload() > OPERATION_BYTES_MAX) {
            let message = format!("more than {OPERATION_BYTES_MAX} bytes in one row: split it into chunks");
            return Err(StoreError::new(Kind::Invalid, message).at_op(index));
        }
        let parts = requests(&batch.ops);
        let mut lease = if parts.is_empty() { return Ok(Vec::new()) } else { self.writer().await? };
        self.wrote.store(true, Ordering::Release);
        if parts.len() == 1 {
            return self.commit_part(&mut lease, &batch, 0..batch.ops.len()).await;
        }
        lease.begin(self.options.request_timeout).await?;
        let mut outcomes = Vec::with_capacity(batch.ops.len());
        for part in parts {
            outcomes.extend(self.commit_part(&mut lease, &batch, part).await?);
        }
        lease.commit(self.options.request_timeout).await?;
        Ok(outcomes)
    }

    async fn sync(&self) -> Result<()> {
        self.synced().await.map(drop)
    }

    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>> {
        let (key, limit) = (key.as_str(), i64::from(limit));
        let before = before.map(|version| i64::try_from(version.0).unwrap_or(i64::MAX));
        let params: Params<'_> = &[(&key, Type::TEXT), (&before, Type::INT8), (&limit, Type::INT8)];
        self.ask("reading the versions", sql::VERSIONS, params).await?.iter().map(row::head).collect()
    }

    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>> {
        let (dir, limit) = (dir.as_str(), int4(limit));
        let params: Params<'_> = &[(&dir, Type::TEXT), (&limit, Type::INT4)];
        self.ask_long("reading the history", sql::HISTORY, params).await?.iter().map(row::moment).collect()
    }

    async fn purge(&self, purge: &Purge) -> Result<PurgeReport> {
        let scope = match &purge.scope {
            PurgeScope::Key(key) => json!({"key": key.as_str()}),
            PurgeScope::Prefix(prefix, after) => {
                json!({"prefix": prefix.as_str(), "after": after.as_ref().map(Key::as_str), "limit": PURGE_SLICE})
            }
        };
        let keep = purge.keep.map(int4);
        let older_than = purge.older_than.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
        let params: Params<'_> = &[
            (&scope, Type::JSONB),
            (&keep, Type::INT4),
            (&older_than, Type::INT8),
            (&purge.dead, Type::BOOL),
            (&purge.dry_run, Type::BOOL),
        ];
        let rows = self.writer().await?.query("purging", sql::PURGE, params, self.options.long_timeout).await?;
        Ok(row::purge_report(&row::single::<Value>(&rows)?))
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        let prefix = prefix.as_str();
        let rows = self.ask_long("counting", sql::USAGE, &[(&prefix, Type::TEXT)]).await?;
        Ok(row::usage(&row::single::<Value>(&rows)?))
    }
}

#[async_trait]
impl Server for PgStore {
    async fn position(&self) -> Result<Position> {
        let what = "asking for the position";
        let rows = if self.no_control.load(Ordering::Relaxed) {
            self.ask(what, sql::POSITION_WITHOUT_CONTROL, &[]).await?
        } else {
            match self.ask(what, sql::POSITION, &[]).await {
                Err(error) if matches!(error.kind(), Kind::Forbidden | Kind::NotInitialised | Kind::Unsupported) => {
                    self.no_control.store(true, Ordering::Relaxed);
                    self.ask(what, sql::POSITION_WITHOUT_CONTROL, &[]).await?
                }
                result => result?,
            }
        };
        let row = rows.first().ok_or_else(|| StoreError::new(Kind::Other, "the server does not say where it stands"))?;
        let bytes =
            |name: &str| row::column::<Option<i64>>(row, name).map(|n| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0));
        Ok(Position {
            life: row::column(row, "life")?,
            cluster: row::column::<Option<String>>(row, "cluster")?.unwrap_or_default(),
            written: bytes("written")?,
            flushed: bytes("flushed")?,
        })
    }

    // The life is told before the flush, and whoever tells it and then answers has not been restarted in between.
    async fn sync_in(&self, life: &str) -> Result<bool> {
        match self.synced().await? {
            Some(now) => Ok(now == life),
            None => Ok(self.position().await?.life == life),
        }
    }

    async fn present(&self, ids: &[VersionId]) -> Result<Vec<bool>> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = self.ask("looking up rows", sql::PRESENT, &[(&ids, Type::UUID_ARRAY)]).await?;
        rows.iter().map(|row| row::column(row, "exists")).collect()
    }

    async fn maintain(&self, prefix: &Prefix, mount: &str, what: Maintenance) -> Result<u64> {
        self.housekeeping(
            prefix,
            mount,
            match what {
                Maintenance::Beat => "beat",
                Maintenance::Leave => "leave",
                Maintenance::Sweep => "sweep",
            },
        )
        .await
    }
}

/// Operations in runs that carry no more than [`REQUEST_BYTES_MAX`], or one operation each.
fn requests(ops: &[Op]) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, op) in ops.iter().enumerate() {
        if bytes + op.payload() > REQUEST_BYTES_MAX && at > start {
            out.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += op.payload();
    }
    if start < ops.len() {
        out.push(start..ops.len());
    }
    out
}

/// Parts no longer than [`READ_BYTES`], each with the index of the part that it comes from.
fn pieces(parts: &[Part]) -> Vec<(usize, Part)> {
    let mut out = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let mut rest = *part;
        while rest.len as usize > READ_BYTES {
            out.push((index, Part { len: READ_BYTES as u32, ..rest }));
            rest.offset = rest.offset.saturating_add(READ_BYTES as u64);
            rest.len -= READ_BYTES as u32;
        }
        out.push((index, rest));
    }
    out
}

/// Runs of pieces that add up to no more than [`READ_BYTES`].
fn windows(pieces: &[(usize, Part)]) -> Vec<&[(usize, Part)]> {
    let mut out = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, (_, part)) in pieces.iter().enumerate() {
        if bytes + part.len as usize > READ_BYTES && at > start {
            out.push(&pieces[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += part.len as usize;
    }
    if start < pieces.len() {
        out.push(&pieces[start..]);
    }
    out
}

fn join(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop().unwrap_or_default();
    }
    pieces
        .iter()
        .fold(BytesMut::new(), |mut all, piece| {
            all.extend_from_slice(piece);
            all
        })
        .freeze()
}

fn missing(part: &Part) -> StoreError {
    let of = part.lineage.map_or_else(String::new, |lineage| format!(" of lineage {}", lineage.0));
    StoreError::new(Kind::Corrupt, format!("row {}{of} is not there", part.id))
}

/// The parameters of [`sql::READ`].
struct Columns {
    ids: Vec<Uuid>,
    offsets: Vec<i32>,
    lens: Vec<i32>,
    lineages: Vec<Option<Uuid>>,
}

impl Columns {
    fn of(window: &[(usize, Part)]) -> Self {
        let parts = || window.iter().map(|(_, part)| part);
        Self {
            ids: parts().map(|part| part.id.0).collect(),
            // `substring` counts from 1; nothing lies beyond 1 GiB, so that a clamped offset finds nothing either.
            offsets: parts().map(|part| i32::try_from(part.offset).unwrap_or(i32::MAX).min(i32::MAX - 1)).collect(),
            lens: parts().map(|part| int4(part.len)).collect(),
            lineages: parts().map(|part| part.lineage.map(|lineage| lineage.0)).collect(),
        }
    }

    fn params(&self) -> [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] {
        [
            (&self.ids, Type::UUID_ARRAY),
            (&self.offsets, Type::INT4_ARRAY),
            (&self.lens, Type::INT4_ARRAY),
            (&self.lineages, Type::UUID_ARRAY),
        ]
    }
}
