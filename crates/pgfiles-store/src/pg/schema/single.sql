-- The commonest changes, each where it is alone in its batch: what pgfiles_commit does with it, in as few statements and
-- expressions as can be. PL/pgSQL makes every expression ready anew in each transaction, and a statement of its own costs as
-- much as several of its parts: so whatever is to be known is asked by the statement that changes the row.
--
-- Each knows one case: the directory has a live marker (or it is the top), nobody listens, no row security, no hard links,
-- no precondition. In any other nothing is done, and pgfiles_commit takes the operation. So does whoever gets 23505 from
-- one of these, since somebody came first: here nobody waits in a queue. Never for a batch that is sent again.
--
-- op: as in ops of pgfiles_commit; opts: the same. The answer is the one element of its answer.

CREATE OR REPLACE FUNCTION @schema@.pgfiles_create(op jsonb, body bytea, opts jsonb) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE k text := op->>'key'; dir text := @schema@.pgfiles_parent(k); done text; made jsonb;
BEGIN
  done := @schema@.pgfiles_begin(opts, op->>'id') || pg_advisory_xact_lock_shared(7101, hashtext(dir) & 1023)::text;
  -- A new file, or an empty directory, where there is nothing at all: the same row as of pgfiles_put.
  INSERT INTO @schema@.pgfiles(id, key, meta, data)
    SELECT (op->>'id')::uuid, k, coalesce(op->'defaults', '{}') || (op->'meta') || ('{"version":1}' || @schema@.pgfiles_srv(opts)), body
    WHERE left(k, 1) <> '/' AND k NOT IN ('', './') AND op->'meta' ?& '{kind,ino}' AND NOT op->'meta' ? 'lin'
      AND (op->'expect' IN ('null', '{"absent":true}')) IS NOT FALSE AND jsonb_typeof(op->'extends') IS DISTINCT FROM 'string'
      AND NOT row_security_active('@schema@.pgfiles'::regclass) AND NOT EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.meta ? 'listen')
      AND (dir = '' OR (SELECT NOT p.meta @> '{"deleted":true}' FROM @schema@.pgfiles p WHERE p.key = dir
        ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1))
      AND NOT EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.key = rtrim(k, '/'))
      AND NOT EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.key ~>=~ (rtrim(k, '/') || '/') AND p.key ~<~ (rtrim(k, '/') || '0'))
    RETURNING jsonb_build_object('id', id, 'key', key, 'meta', meta) INTO made;
  RETURN coalesce(made, @schema@.pgfiles_commit(jsonb_build_array(op), ARRAY[body], opts)->0);
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgfiles_unlink(op jsonb, opts jsonb) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE k text := op->>'key'; dir text := @schema@.pgfiles_parent(k); done text; made jsonb;
BEGIN
  done := @schema@.pgfiles_begin(opts, op->>'id') || pg_advisory_xact_lock_shared(7101, hashtext(dir) & 1023)::text;
  -- A tombstone over a live file.
  INSERT INTO @schema@.pgfiles(id, key, meta)
    SELECT (op->>'id')::uuid, k, @schema@.pgfiles_tombstone(k, h.meta, NULL) || @schema@.pgfiles_srv(opts)
    FROM (SELECT p.meta FROM @schema@.pgfiles p WHERE p.key = k ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) h
    WHERE left(k, 1) <> '/' AND right(k, 1) <> '/' AND NOT h.meta ?| '{deleted,hard_link}'
      AND jsonb_typeof(op->'expect') IS DISTINCT FROM 'object'
      AND NOT row_security_active('@schema@.pgfiles'::regclass) AND NOT EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.meta ? 'listen')
      AND (dir = '' OR (SELECT NOT p.meta @> '{"deleted":true}' FROM @schema@.pgfiles p WHERE p.key = dir
        ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1))
    RETURNING jsonb_build_object('id', id, 'key', key, 'meta', meta) INTO made;
  RETURN coalesce(made, @schema@.pgfiles_commit(jsonb_build_array(op), '{}', opts)->0);
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgfiles_chmod(op jsonb, opts jsonb) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE k text := op->>'key'; dir text := @schema@.pgfiles_parent(k); done text; head uuid; made jsonb;
BEGIN
  done := @schema@.pgfiles_begin(opts, op->>'id') || pg_advisory_xact_lock_shared(7101, hashtext(dir) & 1023)::text;
  SELECT p.id INTO head FROM @schema@.pgfiles p WHERE p.key = k ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1 FOR UPDATE;
  -- Attributes of the head; a newer version may have come while we waited for the lock.
  UPDATE @schema@.pgfiles p SET meta = @schema@.pgfiles_patched(p.meta, op->'patch')
    WHERE p.id = head AND NOT p.meta ?| '{deleted,hard_link}' AND jsonb_typeof(op->'expect') IS DISTINCT FROM 'object'
      AND head = (SELECT newest.id FROM @schema@.pgfiles newest WHERE newest.key = k
        ORDER BY (newest.meta->>'version')::bigint DESC NULLS LAST LIMIT 1)
      AND NOT row_security_active('@schema@.pgfiles'::regclass) AND NOT EXISTS (SELECT FROM @schema@.pgfiles l WHERE l.meta ? 'listen')
      AND (dir = '' OR (SELECT NOT d.meta @> '{"deleted":true}' FROM @schema@.pgfiles d WHERE d.key = dir
        ORDER BY (d.meta->>'version')::bigint DESC NULLS LAST LIMIT 1))
    RETURNING jsonb_build_object('id', p.id, 'key', p.key, 'meta', p.meta) INTO made;
  RETURN coalesce(made, @schema@.pgfiles_commit(jsonb_build_array(op), '{}', opts)->0);
END $$;

-- A rename within one directory.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_move(op jsonb, opts jsonb) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE
  src text := op->>'from'; dst text := op->>'to'; dir text := @schema@.pgfiles_parent(src); srv jsonb; h record; m record; done text;
BEGIN
  -- Before the UPDATE of key: a role with a grant may not even try.
  IF row_security_active('@schema@.pgfiles'::regclass) THEN RETURN @schema@.pgfiles_commit(jsonb_build_array(op), '{}', opts)->0; END IF;
  done := @schema@.pgfiles_begin(opts, op->>'id') || pg_advisory_xact_lock_shared(7101, hashtext(dir) & 1023)::text;
  SELECT p.id, p.meta, p.data INTO h FROM @schema@.pgfiles p WHERE p.key = src
    ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1 FOR UPDATE;
  srv := @schema@.pgfiles_srv(opts);
  -- The row moves, if it is the head still, with its bytes; what is at the target becomes history.
  UPDATE @schema@.pgfiles p SET key = dst, meta = @schema@.pgfiles_moved(h.meta, t.meta, op,
      CASE WHEN t.moves THEN NULL ELSE jsonb_build_object('key', src, 'version', h.meta->'version') END, t.by_ref, false, srv)
    FROM (SELECT s.*, NOT s.moves AND @schema@.pgfiles_by_ref(h.meta, h.data) AS by_ref
      FROM (SELECT (SELECT newest.id FROM @schema@.pgfiles newest WHERE newest.key = src
            ORDER BY (newest.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) AS newest,
          (SELECT d.meta FROM @schema@.pgfiles d WHERE d.key = dst ORDER BY (d.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) AS meta,
          @schema@.pgfiles_is_recent(h.meta, op->'young')
            AND NOT EXISTS (SELECT FROM @schema@.pgfiles other WHERE other.key = src AND other.id <> h.id) AS moves OFFSET 0) s OFFSET 0) t
    WHERE p.id = h.id AND t.newest = h.id AND src <> dst AND dir = @schema@.pgfiles_parent(dst)
      AND left(src, 1) <> '/' AND right(src, 1) <> '/' AND left(dst, 1) <> '/' AND right(dst, 1) <> '/'
      AND NOT h.meta ?| '{deleted,hard_link}' AND (t.meta ? 'hard_link') IS NOT TRUE
      AND jsonb_typeof(op->'expect_from') IS DISTINCT FROM 'object' AND jsonb_typeof(op->'expect_to') IS DISTINCT FROM 'object'
      AND NOT EXISTS (SELECT FROM @schema@.pgfiles l WHERE l.meta ? 'listen')
      AND (dir = '' OR (SELECT NOT d.meta @> '{"deleted":true}' FROM @schema@.pgfiles d WHERE d.key = dir
        ORDER BY (d.meta->>'version')::bigint DESC NULLS LAST LIMIT 1))
    RETURNING p.meta, t.moves, t.by_ref INTO m;
  IF m.meta IS NULL THEN RETURN @schema@.pgfiles_commit(jsonb_build_array(op), '{}', opts)->0; END IF;
  IF NOT m.moves THEN done := @schema@.pgfiles_leave(op, h.id, h.meta, h.data, m.meta, m.by_ref, srv)::text; END IF;
  RETURN jsonb_build_object('id', h.id, 'key', dst, 'meta', m.meta, 'moved', m.moves);
END $$;
