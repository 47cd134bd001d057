-- One statement per index, and each begins with CREATE [UNIQUE] INDEX <name>: init adds CONCURRENTLY on a filled table and
-- rebuilds an index that a broken build left INVALID.

-- The one that matters: head of a key, its versions, ordered ranges. text_pattern_ops serves `key = 'x'` and LIKE 'x%' in
-- any collation and is in byte order whatever the locale's library becomes. NULLS LAST makes a row without a number the
-- oldest, so that it never hides a later write.
CREATE UNIQUE INDEX pgfiles_key_version ON @schema@.pgfiles (key text_pattern_ops, ((meta->>'version')::bigint) DESC NULLS LAST);
-- Who refers to a row's bytes.
CREATE INDEX pgfiles_body ON @schema@.pgfiles (((meta->>'body')::uuid)) WHERE meta ? 'body';
-- The family of a chunked body: versions and body rows.
CREATE INDEX pgfiles_lineage ON @schema@.pgfiles (((meta->>'lin')::uuid)) WHERE meta ? 'lin';
-- The versions among them, in the order in which they were written: which of them may use a body row.
CREATE INDEX pgfiles_family ON @schema@.pgfiles (((meta->>'lin')::uuid), ((meta->>'xid')::bigint)) WHERE meta ? 'lin' AND left(key, 1) <> '/';
-- Live rows under tombstoned markers.
CREATE INDEX pgfiles_revive ON @schema@.pgfiles (key text_pattern_ops) WHERE meta ? 'revive';
-- Who listens for changes (usually nobody).
CREATE INDEX pgfiles_listen ON @schema@.pgfiles (key text_pattern_ops) WHERE meta ? 'listen';
-- Mounts that say that they live.
CREATE INDEX pgfiles_beat ON @schema@.pgfiles (key text_pattern_ops) WHERE meta ? 'beat';
-- The names of an inode that has several.
CREATE INDEX pgfiles_hard_link ON @schema@.pgfiles ((meta->>'hard_link'), key text_pattern_ops) WHERE meta ? 'hard_link';
