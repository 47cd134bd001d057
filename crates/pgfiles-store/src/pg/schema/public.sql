-- The public names (docs/schema.md): what a backend uses by SQL. Views and functions run with the rights of who calls them.

CREATE OR REPLACE VIEW @schema@.pgfiles_live AS
  SELECT p.key, (p.meta->>'version')::bigint AS version, coalesce(p.meta->>'kind', 'file') AS kind, @schema@.pgfiles_size(p.meta) AS size,
    p.meta->>'etag' AS etag, p.meta->>'content_type' AS content_type, @schema@.pgfiles_time(p.meta->>'mtime') AS mtime,
    @schema@.pgfiles_time(p.meta->>'created_at') AS created_at, p.meta->'by' AS by, p.meta->'tags' AS tags, p.id, p.meta,
    CASE WHEN NOT p.meta ?| '{layout,body}' THEN p.data END AS data
  -- An outer join and IS NOT DISTINCT FROM rather than a subquery in WHERE: that way the planner remembers the newest row
  -- of a key (Memoize) instead of looking it up for each of its versions.
  FROM @schema@.pgfiles p
  LEFT JOIN LATERAL (
    SELECT h.id FROM @schema@.pgfiles h WHERE h.key = p.key ORDER BY (h.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) newest ON true
  WHERE NOT p.meta @> '{"deleted":true}' AND left(p.key, 1) <> '/' AND right(p.key, 1) <> '/'
    AND p.id IS NOT DISTINCT FROM newest.id;
COMMENT ON VIEW @schema@.pgfiles_live IS 'The files: the newest version of every key that is not deleted. data is NULL where the bytes are in other rows: pgfiles_read(key) has them.';

CREATE OR REPLACE VIEW @schema@.pgfiles_versions AS
  SELECT p.key, (p.meta->>'version')::bigint AS version, coalesce((p.meta->'deleted')::text = 'true', false) AS deleted,
    coalesce(p.meta->>'kind', 'file') AS kind, @schema@.pgfiles_size(p.meta) AS size, p.meta->>'etag' AS etag,
    p.meta->>'content_type' AS content_type, @schema@.pgfiles_time(p.meta->>'mtime') AS mtime,
    @schema@.pgfiles_time(p.meta->>'created_at') AS created_at, p.meta->'by' AS by, p.meta->'tags' AS tags, p.id, p.meta,
    CASE WHEN NOT p.meta ?| '{layout,body}' THEN p.data END AS data
  FROM @schema@.pgfiles p WHERE left(p.key, 1) <> '/';
COMMENT ON VIEW @schema@.pgfiles_versions IS 'Every version of every key, deletions and directory markers included.';

DO $$
BEGIN
  -- On 14 a view reads with its owner's rights, past row security: there it is for the owner alone.
  IF current_setting('server_version_num')::int >= 150000 THEN
    ALTER VIEW @schema@.pgfiles_live SET (security_invoker = true);
    ALTER VIEW @schema@.pgfiles_versions SET (security_invoker = true);
  END IF;
END $$;

-- The bytes of a row, whatever its layout. References are followed within the row's own lineage only.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_bytes(m jsonb, own bytea) RETURNS bytea LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET jit = off AS $$
DECLARE manifest bytea := own; r record; chunk int; size bigint := @schema@.pgfiles_size(m); lin text := m->>'lin';
BEGIN
  IF m ? 'body' THEN
    SELECT b.data INTO own FROM @schema@.pgfiles b WHERE b.id = (m->>'body')::uuid AND b.meta->>'lin' = lin;
    IF NOT FOUND THEN RAISE EXCEPTION 'the row that holds the bytes is missing' USING ERRCODE = 'data_corrupted'; END IF;
    RETURN own;
  ELSIF NOT m ? 'layout' THEN
    RETURN own;
  ELSIF m #>> '{layout,codec}' IS DISTINCT FROM 'chunks' OR NOT (m #>> '{layout,chunk}') ~ '^[0-9]{4,7}$' THEN
    RAISE EXCEPTION 'unknown layout %', m->'layout' USING ERRCODE = 'feature_not_supported';
  END IF;
  chunk := (m #>> '{layout,chunk}')::int;
  -- What string_agg makes of whole chunks must fit into one value (MaxAllocSize).
  IF ceil(size::numeric / chunk) * chunk > 1073741820 THEN
    RAISE EXCEPTION 'a file of % bytes is too large for one value of SQL, which is below 1 GiB', size USING ERRCODE = 'program_limit_exceeded',
      HINT = 'Read it through a mount.';
  END IF;
  IF m #>> '{layout,levels}' = '2' THEN
    -- A leaf of zeros is a hole of 256 chunks.
    SELECT string_agg(coalesce(l.data, decode(repeat('00', 4096), 'hex')), ''::bytea ORDER BY s.ord),
      count(*) FILTER (WHERE s.entry IS NOT NULL AND l.id IS NULL) AS missing INTO r
      FROM @schema@.pgfiles_slots(own) s LEFT JOIN @schema@.pgfiles l ON l.id = s.entry AND l.meta->>'lin' = lin;
    IF r.missing > 0 THEN RAISE EXCEPTION '% leaves of the manifest are missing', r.missing USING ERRCODE = 'data_corrupted'; END IF;
    manifest := r.string_agg;
  END IF;
  SELECT string_agg(CASE WHEN b.data IS NULL THEN z.zeros WHEN octet_length(b.data) >= chunk THEN b.data
      ELSE b.data || substring(z.zeros FROM 1 FOR chunk - octet_length(b.data)) END, ''::bytea ORDER BY s.ord) AS bytes,
    count(*) FILTER (WHERE s.entry IS NOT NULL AND b.id IS NULL) AS missing INTO r
    FROM @schema@.pgfiles_slots(manifest) s LEFT JOIN LATERAL (SELECT b.id,
        CASE WHEN s.slice IS NULL THEN b.data ELSE substring(b.data FROM s.slice * chunk + 1 FOR chunk) END AS data
      FROM @schema@.pgfiles b WHERE b.id = s.entry AND b.meta->>'lin' = lin) b ON true,
      (SELECT decode(repeat('00', chunk), 'hex') AS zeros OFFSET 0) z
    WHERE s.ord < ceil(size::numeric / chunk);
  IF r.missing > 0 THEN RAISE EXCEPTION '% chunks are missing', r.missing USING ERRCODE = 'data_corrupted'; END IF;
  RETURN substring(coalesce(r.bytes, '') FROM 1 FOR size::int);
END $$;

-- The bytes of a file, or of one of its versions; NULL where there is none (or a deletion). A file of 1 GiB or
-- more is refused (54000): no value of SQL holds it.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_read(key text, version bigint DEFAULT NULL) RETURNS bytea LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE r record;
BEGIN
  SELECT p.meta, p.data INTO r FROM @schema@.pgfiles p
    WHERE p.key = pgfiles_read.key AND (pgfiles_read.version IS NULL OR (p.meta->>'version')::bigint = pgfiles_read.version)
    ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
  IF NOT FOUND OR r.meta @> '{"deleted":true}' OR left(key, 1) = '/' THEN RETURN NULL; END IF;
  RETURN @schema@.pgfiles_bytes(r.meta, r.data);
END $$;

-- Whether a version was there at a moment: a time, or exactly a snapshot (pg_current_snapshot() taken then, on this server).
CREATE OR REPLACE FUNCTION @schema@.pgfiles_was(meta jsonb, moment timestamptz, seen pg_snapshot) RETURNS bool LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN seen IS NOT NULL THEN CASE WHEN meta->>'xid' ~ '^[0-9]{1,19}$' THEN pg_visible_in_snapshot((meta->>'xid')::xid8, seen) ELSE false END
         ELSE coalesce(@schema@.pgfiles_time(meta->>'created_at') <= moment, false) END
$$;

-- What was in a directory at a moment, at most lim names, in the order of keys. Walks over the versions of flat names that are
-- newer than the moment, and jumps over subdirectories and older versions; `own` is the meta of a file or marker of that moment,
-- else NULL, and mtime that of a key below.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_dir_at(dir text, moment timestamptz, seen pg_snapshot, lim int)
RETURNS TABLE(name text, is_dir bool, own jsonb, mtime text)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  r record; lo text := dir || E'\001'; hi text := @schema@.pgfiles_hi(dir); n int := length(dir); s int; last text; stale int;
  found_one bool; jumped bool; shown record;
BEGIN
  LOOP
    jumped := false;
    FOR r IN SELECT t.key k, t.meta m FROM @schema@.pgfiles t WHERE t.key ~>=~ lo AND t.key ~<~ hi
             ORDER BY t.key USING ~<~, (t.meta->>'version')::bigint DESC NULLS LAST LOOP
      IF r.k IS DISTINCT FROM last THEN last := r.k; found_one := false; stale := 0; END IF;
      s := strpos(substr(r.k, n + 1), '/');
      IF s > 0 THEN
        lo := left(r.k, n + s - 1) || '0'; jumped := true;
        EXIT WHEN s = 1; -- reserved '/…', or 'a//b'
        SELECT a.* INTO shown FROM @schema@.pgfiles_shown_at(left(r.k, n + s), moment, seen) a;
        EXIT WHEN NOT shown.alive;
        name := substr(r.k, n + 1, s - 1); is_dir := true; own := shown.own; mtime := shown.mtime;
      ELSIF found_one THEN
        stale := stale + 1;
        IF stale > 6 THEN lo := last || E'\001'; jumped := true; EXIT; END IF;
        CONTINUE;
      ELSE
        CONTINUE WHEN NOT @schema@.pgfiles_was(r.m, moment, seen);
        found_one := true;
        CONTINUE WHEN r.m @> '{"deleted":true}';
        name := substr(r.k, n + 1); is_dir := false; own := r.m; mtime := r.m->>'mtime';
      END IF;
      RETURN NEXT;
      lim := lim - 1;
      IF lim <= 0 THEN RETURN; END IF;
      EXIT WHEN jumped;
    END LOOP;
    EXIT WHEN NOT jumped;
  END LOOP;
END $$;

-- Whether a directory was alive at a moment, by the same rules as now (read.sql): its marker was live; or it had none and
-- something in it was; or its marker was a tombstone and a key below was live that says revive.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_shown_at(dir text, moment timestamptz, seen pg_snapshot, OUT alive bool, OUT own jsonb, OUT mtime text)
LANGUAGE plpgsql STABLE AS $$
DECLARE r record; below text; last text;
BEGIN
  own := @schema@.pgfiles_meta_at(dir, moment, seen);
  IF own IS NULL THEN
    SELECT d.mtime INTO mtime FROM @schema@.pgfiles_dir_at(dir, moment, seen, 1) d;
    alive := FOUND;
  ELSIF NOT own @> '{"deleted":true}' THEN
    alive := true; mtime := own->>'mtime';
  ELSE
    alive := false; own := NULL;
    FOR below IN SELECT t.key FROM @schema@.pgfiles t WHERE t.meta ? 'revive' AND t.key ~>=~ dir AND t.key ~<~ @schema@.pgfiles_hi(dir)
                 ORDER BY t.key USING ~<~ LOOP
      CONTINUE WHEN below = last;
      last := below;
      SELECT @schema@.pgfiles_meta_at(below, moment, seen) AS meta INTO r;
      CONTINUE WHEN r.meta IS NULL OR r.meta @> '{"deleted":true}';
      alive := true; mtime := r.meta->>'mtime';
      RETURN;
    END LOOP;
  END IF;
END $$;

-- The meta of a key's version of that moment, a tombstone's too; NULL where it had none.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_meta_at(k text, moment timestamptz, seen pg_snapshot) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE m jsonb;
BEGIN
  FOR m IN SELECT p.meta FROM @schema@.pgfiles p WHERE p.key = k ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LOOP
    IF @schema@.pgfiles_was(m, moment, seen) THEN RETURN m; END IF;
  END LOOP;
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgfiles_read_at(k text, moment timestamptz, seen pg_snapshot) RETURNS bytea LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE r record;
BEGIN
  FOR r IN SELECT p.meta, p.data FROM @schema@.pgfiles p WHERE p.key = k AND left(k, 1) <> '/'
           ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LOOP
    CONTINUE WHEN NOT @schema@.pgfiles_was(r.meta, moment, seen);
    RETURN CASE WHEN NOT r.meta @> '{"deleted":true}' THEN @schema@.pgfiles_bytes(r.meta, r.data) END;
  END LOOP;
  RETURN NULL;
END $$;

-- The bytes that a file had at a moment: a time by the server's clock, or a snapshot, which is exact and repeatable.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_read_as_of(key text, moment timestamptz) RETURNS bytea LANGUAGE sql STABLE AS
$$ SELECT @schema@.pgfiles_read_at(key, moment, NULL) $$;
CREATE OR REPLACE FUNCTION @schema@.pgfiles_read_as_of(key text, moment pg_snapshot) RETURNS bytea LANGUAGE sql STABLE AS
$$ SELECT @schema@.pgfiles_read_at(key, NULL, moment) $$;

-- A directory's path as SQL users spell it: with or without the last '/'.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_as_dir(prefix text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN prefix = '' OR right(prefix, 1) = '/' THEN prefix ELSE prefix || '/' END $$;

-- What is in a directory, at most lim names (a file and a directory of one name come as two rows). Go on with after = the last
-- row's next.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_list(prefix text DEFAULT '', after text DEFAULT NULL, lim int DEFAULT 10000)
RETURNS TABLE(name text, is_dir bool, key text, version bigint, size bigint, etag text, content_type text, mtime timestamptz, meta jsonb, next text)
LANGUAGE sql STABLE AS $$
  SELECT d.name, d.is_dir, CASE WHEN d.is_dir THEN @schema@.pgfiles_as_dir(prefix) || d.name || '/' ELSE d.key END,
    (d.meta->>'version')::bigint, CASE WHEN NOT d.is_dir THEN @schema@.pgfiles_size(d.meta) END, d.meta->>'etag', d.meta->>'content_type',
    @schema@.pgfiles_time(coalesce(d.meta->>'mtime', d.mtime)), d.meta, d.next_pos
  FROM @schema@.pgfiles_dir(@schema@.pgfiles_as_dir(prefix), after, lim, 0) d
$$;

CREATE OR REPLACE FUNCTION @schema@.pgfiles_list_at(prefix text, moment timestamptz, seen pg_snapshot)
RETURNS TABLE(name text, is_dir bool, key text, version bigint, size bigint, etag text, content_type text, mtime timestamptz, meta jsonb)
LANGUAGE sql STABLE AS $$
  SELECT d.name, d.is_dir, @schema@.pgfiles_as_dir(prefix) || d.name || CASE WHEN d.is_dir THEN '/' ELSE '' END,
    (d.own->>'version')::bigint, CASE WHEN NOT d.is_dir THEN @schema@.pgfiles_size(d.own) END, d.own->>'etag', d.own->>'content_type',
    @schema@.pgfiles_time(d.mtime), d.own
  FROM @schema@.pgfiles_dir_at(@schema@.pgfiles_as_dir(prefix), moment, seen, 2147483647) d
$$;
-- What was in a directory at a moment: a time by the server's clock, or a snapshot, which is exact and repeatable.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_list_as_of(prefix text, moment timestamptz)
RETURNS TABLE(name text, is_dir bool, key text, version bigint, size bigint, etag text, content_type text, mtime timestamptz, meta jsonb)
LANGUAGE sql STABLE AS $$ SELECT * FROM @schema@.pgfiles_list_at(prefix, moment, NULL) $$;
CREATE OR REPLACE FUNCTION @schema@.pgfiles_list_as_of(prefix text, moment pg_snapshot)
RETURNS TABLE(name text, is_dir bool, key text, version bigint, size bigint, etag text, content_type text, mtime timestamptz, meta jsonb)
LANGUAGE sql STABLE AS $$ SELECT * FROM @schema@.pgfiles_list_at(prefix, NULL, moment) $$;

-- Writes a file: a new version with these bytes; fields of meta (tags, mode, content_type …) win over the ones before. The
-- number of the version. A key that ends in '/' makes a directory.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_write(key text, data bytea, meta jsonb DEFAULT '{}') RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  at text := @schema@.pgfiles_now(); marker bool := right(key, 1) = '/'; made jsonb; given jsonb;
  srv jsonb := jsonb_build_object('created_at', at, 'xid', pg_current_xact_id()::text, 'by',
    CASE jsonb_typeof(meta->'by') WHEN 'object' THEN meta->'by' ELSE '{}' END || jsonb_build_object('role', session_user));
BEGIN
  PERFORM @schema@.pgfiles_check_key(key);
  IF jsonb_typeof(meta) IS DISTINCT FROM 'object' THEN meta := '{}'; END IF;
  given := meta - '{version,created_at,xid,by,deleted,size,etag,from,to,restored_from,layout,lin,body,revive,op,hard_link,nlink,twin,allocated,alias}'::text[];
  made := @schema@.pgfiles_put(gen_random_uuid(), key,
    CASE WHEN marker THEN '{"kind":"dir","size":0}' ELSE jsonb_build_object('kind', 'file', 'size', coalesce(octet_length(data), 0), 'etag',
      encode(sha256(coalesce(data, '')), 'hex')) END || jsonb_build_object('mtime', at, 'ctime', at) || given,
    CASE WHEN marker THEN '{}' ELSE jsonb_build_object('ino', @schema@.pgfiles_new_ino(), 'content_type', @schema@.pgfiles_content_type(key)) END,
    CASE WHEN NOT marker THEN coalesce(data, '') END, NULL, NULL, NULL, @schema@.pgfiles_revives(key), srv, 0);
  IF @schema@.pgfiles_heard() THEN PERFORM @schema@.pgfiles_notify(ARRAY[@schema@.pgfiles_parent(key)]); END IF;
  RETURN (made #>> '{meta,version}')::bigint;
END $$;

-- Deletes a file (an empty directory, where the key ends in '/'). The number of the tombstone; NULL where nothing was there.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_delete(key text) RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  made jsonb; tombstone uuid := gen_random_uuid();
  srv jsonb := jsonb_build_object('created_at', @schema@.pgfiles_now(), 'xid', pg_current_xact_id()::text, 'by',
    jsonb_build_object('role', session_user));
BEGIN
  PERFORM @schema@.pgfiles_check_key(key);
  BEGIN
    IF right(key, 1) = '/' THEN PERFORM @schema@.pgfiles_remove_dir(tombstone, key, false, srv, 0);
    ELSE PERFORM @schema@.pgfiles_remove(tombstone, key, NULL, srv, 0);
    END IF;
  EXCEPTION WHEN SQLSTATE 'PF001' THEN RETURN NULL;
  END;
  IF @schema@.pgfiles_heard() THEN PERFORM @schema@.pgfiles_notify(ARRAY[@schema@.pgfiles_parent(key)]); END IF;
  RETURN (SELECT (p.meta->>'version')::bigint FROM @schema@.pgfiles p WHERE p.id = tombstone);
END $$;
