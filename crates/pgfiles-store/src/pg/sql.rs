//! Every statement that the store sends. What they call is made by `pgfiles init` (the schema's own SQL).
//!
//! Statements are unnamed and set nothing beyond their own transaction, so that a pooler in transaction mode may stand
//! in between. Parameters carry all values.

/// Who is there. Also for a server without pgfiles.
pub(super) const HELLO: &str = "SELECT version() AS product, current_setting('server_version_num')::int AS version, \
     current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS in_recovery, \
     current_setting('transaction_read_only') = 'on' AS read_only";

/// The same, and which schema.
pub(super) const HELLO_SCHEMA: &str = "SELECT version() AS product, current_setting('server_version_num')::int AS version, \
     current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS in_recovery, \
     current_setting('transaction_read_only') = 'on' AS read_only, pgfiles_schema() AS schema";

/// $1 paths without trailing `/`, $2 the most bytes of a body that comes along.
pub(super) const LOOKUP: &str = "SELECT ord, is_dir, id, key, meta, data, mtime FROM pgfiles_stat($1, $2)";

/// $1 directory, $2 cursor or NULL, $3 limit, $4 as in [`LOOKUP`].
pub(super) const LIST: &str = "SELECT name, is_dir, id, key, meta, data, mtime, next_pos FROM pgfiles_dir($1, $2, $3, $4)";

/// $1 prefix, $2 key to go on after or NULL, $3 limit.
pub(super) const TREE: &str = "SELECT key, id, meta FROM pgfiles_tree($1, $2, $3)";

/// $1 prefix, $2 key to go on after or NULL, $3 limit. Reads the index of all versions of the keys that it passes.
pub(super) const DELETED: &str = "SELECT key, id, meta FROM (SELECT DISTINCT ON (t.key) t.key, t.id, t.meta FROM pgfiles t \
     WHERE t.key ~>=~ coalesce($2 || E'\\001', $1) AND t.key ~<~ pgfiles_hi($1) AND NOT ($1 = '' AND left(t.key, 1) = '/') \
     ORDER BY t.key USING ~<~, (t.meta->>'version')::bigint DESC NULLS LAST) AS newest \
     WHERE meta @> '{\"deleted\":true}' LIMIT $3";

/// $1 ids, $2 offsets, $3 lengths, $4 lineages or NULLs. A row for each that is there; the join cannot be turned into a scan.
pub(super) const READ: &str = "SELECT p.ord, t.bytes FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS p(id, off, len, lin, ord), \
     LATERAL (SELECT substring(b.data FROM p.off + 1 FOR p.len) AS bytes FROM pgfiles b \
     WHERE b.id = p.id AND (p.lin IS NULL OR b.meta->>'lin' = p.lin::text) LIMIT 1) AS t";

/// $1 operations, $2 bodies, $3 options.
pub(super) const COMMIT: &str = "SELECT pgfiles_commit($1, $2, $3)";

/// One operation that is alone in its batch: $1 the operation, $2 options, $3 body.
pub(super) const CREATE: &str = "SELECT pgfiles_create($1, $3, $2)";

/// $1 the operation, $2 options.
pub(super) const UNLINK: &str = "SELECT pgfiles_unlink($1, $2)";

/// As [`UNLINK`].
pub(super) const CHMOD: &str = "SELECT pgfiles_chmod($1, $2)";

/// As [`UNLINK`].
pub(super) const MOVE: &str = "SELECT pgfiles_move($1, $2)";

/// $1 key, $2 number to stay below or NULL, $3 limit.
pub(super) const VERSIONS: &str = "SELECT key, id, meta FROM pgfiles \
     WHERE key = $1 AND ($2 IS NULL OR (meta->>'version')::bigint < $2) \
     ORDER BY (meta->>'version')::bigint DESC NULLS LAST LIMIT $3";

/// $1 directory, $2 limit.
pub(super) const HISTORY: &str = "SELECT number::bigint, to_jsonb(at) AS at, versions::bigint, by FROM pgfiles_history($1, $2)";

/// $1 prefix.
pub(super) const USAGE: &str = "SELECT pgfiles_usage($1)";

/// $1 scope, $2 versions to keep, $3 seconds, $4 dead keys only, $5 count only.
pub(super) const PURGE: &str = "SELECT pgfiles_purge($1, $2, $3, $4, $5)";

/// $1 prefix, $2 mount, $3 `beat`, `leave`, `sweep`, `listen` or `deaf`.
pub(super) const MAINTAIN: &str = "SELECT pgfiles_maintain($1, $2, $3)::bigint";

/// $1 prefix, $2 mount, $3 number, $4 `renew`, `next`, `settle` or `end`.
pub(super) const LEASE: &str = "SELECT pgfiles_lease($1, $2, $3, $4)";

/// $1 prefix, $2 mount, $3 number of its lease, $4 inode number, $5 changes.
pub(super) const LOCK: &str = "SELECT pgfiles_lock($1, $2, $3, $4, $5)";

/// $1 prefix, $2 mount, $3 inode number, $4 a change.
pub(super) const LOCK_TEST: &str = "SELECT pgfiles_lock_test($1, $2, $3, $4)";

/// $1 ids.
pub(super) const PRESENT: &str = "SELECT EXISTS (SELECT FROM pgfiles b WHERE b.id = p.id) \
     FROM unnest($1) WITH ORDINALITY AS p(id, ord) ORDER BY p.ord";

/// Which of its lives the server is in.
macro_rules! life {
    () => {
        "extract(epoch FROM pg_postmaster_start_time())::text || '/' || \
         coalesce((SELECT extract(epoch FROM stats_reset)::text FROM pg_stat_wal), '')"
    };
}

/// A commit that is flushed even where the server's own `synchronous_commit` is off, and the life of [`POSITION`]. An empty
/// transaction would flush nothing, so this one writes a message to the log. All earlier commits lie before it.
pub(super) const SYNC: &str = concat!(
    "WITH c AS MATERIALIZED (SELECT CASE WHEN current_setting('synchronous_commit') = 'off' \
     THEN set_config('synchronous_commit', 'local', true) END AS was) SELECT ",
    life!(),
    " AS life, pg_logical_emit_message(true, 'pgfiles', left(coalesce(c.was, ''), 0)) FROM c"
);

/// Where the server stands. `life` changes when the postmaster starts and when its statistics do, which they also do
/// after a crash of one backend. A standby's log is what it has received.
pub(super) const POSITION: &str = concat!(
    "SELECT ",
    life!(),
    " AS life, \
     (SELECT system_identifier::text FROM pg_control_system()) || '/' || CASE WHEN pg_is_in_recovery() \
     THEN (SELECT timeline_id::text FROM pg_control_checkpoint()) \
     ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END AS cluster, \
     (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0')::bigint AS written, \
     (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0')::bigint AS flushed"
);

/// The same where the control file may not be read (some managed servers).
pub(super) const POSITION_WITHOUT_CONTROL: &str = concat!(
    "SELECT ",
    life!(),
    " AS life, \
     '?/' || CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END AS cluster, \
     (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0')::bigint AS written, \
     (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0')::bigint AS flushed"
);

/// Session state, on a listener's own connection only.
pub(super) const LISTEN: &str = "LISTEN pgfiles; LISTEN pgfiles_probe";

/// $1 something to be heard again.
pub(super) const PROBE: &str = "SELECT pg_notify('pgfiles_probe', $1)";
