-- Purge, and what a mount does for its own rows. Removing is a plain DELETE; the trigger (delete.sql) hands over what survivors
-- refer to and removes body rows.

-- Which rows of a range of keys (from < key <= upto) a purge means. keep: not the newest of a key; older_than: only what
-- stopped being the head that many seconds ago; dead: only keys whose head is a tombstone, which stopped when it was written.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_doomed(lo text, upto text, keep int, older_than bigint, dead bool)
RETURNS SETOF uuid LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE r record; last text; nth int; stopped timestamptz; head_dead bool; now_at timestamptz := clock_timestamp();
BEGIN
  FOR r IN SELECT p.id, p.key, p.meta FROM @schema@.pgfiles p WHERE p.key ~>=~ lo AND p.key ~<=~ upto AND left(p.key, 1) <> '/'
           ORDER BY p.key USING ~<~, (p.meta->>'version')::bigint DESC NULLS LAST LOOP
    IF r.key IS DISTINCT FROM last THEN
      last := r.key; nth := 0; head_dead := r.meta @> '{"deleted":true}';
      stopped := CASE WHEN dead AND head_dead THEN coalesce(@schema@.pgfiles_time(r.meta->>'created_at'), '-infinity') END;
    END IF;
    nth := nth + 1;
    IF (NOT dead OR head_dead) AND nth > coalesce(keep, 0)
       AND (older_than IS NULL OR coalesce(stopped <= now_at - make_interval(secs => older_than), false))
       AND NOT (keep IS NULL AND older_than IS NOT NULL AND nth = 1 AND NOT head_dead) THEN
      RETURN NEXT r.id;
    END IF;
    stopped := coalesce(@schema@.pgfiles_time(r.meta->>'created_at'), '-infinity');
  END LOOP;
END $$;

-- scope: {"key"}, or {"prefix","after","limit"}: a slice of about that many keys, each whole. dry: count and change nothing.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_purge(scope jsonb, keep int, older_than bigint, dead bool, dry bool) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  prefix text := scope->>'prefix'; lo text; upto text; next text; doomed uuid[]; answer jsonb; most int := coalesce((scope->>'limit')::int, 1000);
BEGIN
  IF scope ? 'key' THEN
    lo := scope->>'key'; upto := lo;
    IF left(lo, 1) = '/' THEN RAISE EXCEPTION 'key % is reserved for pgfiles', to_json(lo) USING ERRCODE = 'PF004'; END IF;
  ELSE
    IF left(prefix, 1) = '/' THEN RAISE EXCEPTION 'prefix % is reserved for pgfiles', to_json(prefix) USING ERRCODE = 'PF004'; END IF;
    lo := CASE WHEN jsonb_typeof(scope->'after') = 'string' THEN (scope->>'after') || E'\001' ELSE prefix END;
    -- Rows stand in for keys: a slice is bounded in both, and the last key is whole.
    SELECT p.key INTO upto FROM @schema@.pgfiles p WHERE p.key ~>=~ lo AND p.key ~<~ @schema@.pgfiles_hi(prefix) AND left(p.key, 1) <> '/'
      ORDER BY p.key USING ~<~, (p.meta->>'version')::bigint DESC NULLS LAST OFFSET most LIMIT 1;
    next := upto;
    IF upto IS NULL THEN -- the last slice ends with the last key of the prefix: its upper bound 'd0' is a key that others may have
      SELECT p.key INTO upto FROM @schema@.pgfiles p WHERE p.key ~>=~ lo AND p.key ~<~ @schema@.pgfiles_hi(prefix) AND left(p.key, 1) <> '/'
        ORDER BY p.key USING ~>~ LIMIT 1;
    END IF;
  END IF;
  doomed := ARRAY(SELECT @schema@.pgfiles_doomed(lo, upto, keep, older_than, coalesce(dead, false)));
  BEGIN
    answer := @schema@.pgfiles_erase(doomed);
    IF dry THEN RAISE EXCEPTION 'only counted' USING ERRCODE = 'PF0DR'; END IF;
  EXCEPTION WHEN SQLSTATE 'PF0DR' THEN NULL; -- what was removed is back; the numbers stay
  END;
  IF NOT dry AND NOT scope ? 'key' AND next IS NULL THEN PERFORM @schema@.pgfiles_rehome(prefix); END IF;
  RETURN answer || jsonb_build_object('next', next);
END $$;

-- Removes rows of versions and says what went with them.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_erase(doomed uuid[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE lins uuid[]; n bigint; bytes bigint; before record; after record;
BEGIN
  SELECT array_agg(DISTINCT (p.meta->>'lin')::uuid) FILTER (WHERE p.meta ? 'lin' AND p.meta ? 'layout'),
    sum(octet_length(p.data)) FILTER (WHERE NOT (p.meta ? 'lin' AND NOT p.meta ?| '{layout,body}' AND EXISTS (
      SELECT FROM @schema@.pgfiles r WHERE r.meta ? 'body' AND (r.meta->>'body')::uuid = p.id AND NOT r.id = ANY (doomed))))
    INTO lins, bytes FROM @schema@.pgfiles p WHERE p.id = ANY (doomed);
  SELECT count(*) AS n, coalesce(sum(octet_length(b.data)), 0) AS bytes INTO before FROM @schema@.pgfiles b
    WHERE b.meta ? 'lin' AND (b.meta->>'lin')::uuid = ANY (lins) AND left(b.key, 1) = '/';
  DELETE FROM @schema@.pgfiles p WHERE p.id = ANY (doomed);
  GET DIAGNOSTICS n = ROW_COUNT;
  SELECT count(*) AS n, coalesce(sum(octet_length(b.data)), 0) AS bytes INTO after FROM @schema@.pgfiles b
    WHERE b.meta ? 'lin' AND (b.meta->>'lin')::uuid = ANY (lins) AND left(b.key, 1) = '/';
  RETURN jsonb_build_object('rows', n, 'body_rows', before.n - after.n, 'bytes', coalesce(bytes, 0) + before.bytes - after.bytes);
END $$;

-- Body rows that lie under a purged prefix and are used elsewhere only move to where they are used.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_rehome(prefix text) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE lin text; home text;
BEGIN
  IF prefix = '' THEN RETURN; END IF;
  FOR lin IN SELECT DISTINCT b.meta->>'lin' FROM @schema@.pgfiles b
             WHERE b.key ~>=~ ('/' || prefix) AND b.key ~<~ @schema@.pgfiles_hi('/' || prefix) AND b.meta ? 'lin' LOOP
    SELECT min(v.key) INTO home FROM @schema@.pgfiles v WHERE v.meta ? 'lin' AND (v.meta->>'lin')::uuid = lin::uuid AND left(v.key, 1) <> '/'
      HAVING NOT bool_or(starts_with(v.key, prefix));
    CONTINUE WHEN home IS NULL;
    PERFORM pg_advisory_xact_lock(hashtextextended(lin, 7103));
    UPDATE @schema@.pgfiles b SET key = @schema@.pgfiles_body_key(home, lin::uuid, b.id)
      WHERE b.meta ? 'lin' AND (b.meta->>'lin')::uuid = lin::uuid AND b.key ~>=~ ('/' || prefix) AND b.key ~<~ @schema@.pgfiles_hi('/' || prefix)
        AND b.id IN (SELECT @schema@.pgfiles_used(lin));
  END LOOP;
END $$;

-- Whether a mount has beaten within the last ten minutes. SECURITY DEFINER: its row may lie above a role's prefix.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_mount_alive(mount text) RETURNS bool LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  RETURN EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.meta ? 'beat' AND right(p.key, length(mount) + 7) = '/mount/' || mount
    AND @schema@.pgfiles_time(p.meta->>'beat') > clock_timestamp() - interval '600 seconds');
END $$;

-- A mount's own rows. beat: this mount has body rows that no version refers to yet, keep them. leave: it has none any more.
-- sweep: removes the body rows of silent mounts that no version refers to. listen, deaf: whether it wants change notices.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_maintain(prefix text, mount text, what text) RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
  k text := '/' || prefix || CASE WHEN what IN ('listen', 'deaf') THEN '/listen/' ELSE '/mount/' END || mount;
  made jsonb := jsonb_build_object('version', 1, 'beat', @schema@.pgfiles_now()); n bigint := 0;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  CASE what
  WHEN 'beat', 'listen' THEN
    IF what = 'listen' THEN made := made || '{"listen":true}'; END IF;
    UPDATE @schema@.pgfiles p SET meta = made WHERE p.key = k;
    IF NOT FOUND THEN INSERT INTO @schema@.pgfiles(key, meta) VALUES (k, made) ON CONFLICT DO NOTHING; END IF;
  WHEN 'leave', 'deaf' THEN
    IF @schema@.pgfiles_limited() THEN -- may not delete
      UPDATE @schema@.pgfiles p SET meta = p.meta || '{"beat":"1970-01-01T00:00:00Z"}' WHERE p.key = k;
    ELSE
      DELETE FROM @schema@.pgfiles p WHERE p.key = k;
    END IF;
    GET DIAGNOSTICS n = ROW_COUNT;
  WHEN 'sweep' THEN
    IF NOT @schema@.pgfiles_limited() THEN
      n := @schema@.pgfiles_sweep(prefix);
      PERFORM @schema@.pgfiles_sweep_locks(prefix);
    END IF;
  ELSE
    RAISE EXCEPTION 'unknown housekeeping %', what USING ERRCODE = 'PF004';
  END CASE;
  RETURN n;
END $$;

-- A mount that has just begun has not beaten yet: rows that are younger than a heartbeat's life, by the server's clock, are safe
-- whoever wrote them. (Rows without `created_at`, of older binaries, have the heartbeat alone.)
CREATE OR REPLACE FUNCTION @schema@.pgfiles_sweep(prefix text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE r record; n bigint; total bigint := 0; lo text := '/' || prefix; hi text := @schema@.pgfiles_hi('/' || prefix);
BEGIN
  DELETE FROM @schema@.pgfiles p WHERE p.meta ? 'beat' AND p.key ~>=~ lo AND p.key ~<~ hi
    AND NOT coalesce(@schema@.pgfiles_time(p.meta->>'beat') > clock_timestamp() - interval '1 day', false);
  FOR r IN SELECT b.meta->>'lin' AS lin, array_agg(b.id) AS ids FROM @schema@.pgfiles b
           WHERE b.key ~>=~ lo AND b.key ~<~ hi AND b.meta ? 'lin' GROUP BY 1, b.meta->>'mount'
           HAVING NOT coalesce(@schema@.pgfiles_mount_alive(b.meta->>'mount'), false) LOOP
    PERFORM pg_advisory_xact_lock(hashtextextended(r.lin, 7103));
    DELETE FROM @schema@.pgfiles b WHERE b.id = ANY (r.ids) AND left(b.key, 1) = '/'
      AND NOT coalesce(@schema@.pgfiles_time(b.meta->>'created_at') > clock_timestamp() - interval '600 seconds', false)
      AND NOT b.id IN (SELECT @schema@.pgfiles_used(r.lin));
    GET DIAGNOSTICS n = ROW_COUNT;
    total := total + n;
  END LOOP;
  RETURN total;
END $$;

-- Rows that another tool wrote without a number, in order of key, after a key, at most lim of them: each becomes the next
-- version of its key, as if inserted now. `next` is where to go on; NULL at the end.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_backfill(after text, lim int, OUT done bigint, OUT next text) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE r record; seen int := 0;
BEGIN
  done := 0;
  PERFORM pg_advisory_xact_lock(7100); -- as init: two that number at once would number twice
  FOR r IN SELECT p.id, p.key, p.meta, p.data FROM @schema@.pgfiles p WHERE p.key ~>~ after
           ORDER BY p.key USING ~<~, (p.meta->>'version')::bigint DESC NULLS LAST LOOP
    seen := seen + 1;
    IF seen > lim * 50 AND r.key <> next OR done >= lim AND r.key <> next THEN RETURN; END IF;
    next := r.key;
    CONTINUE WHEN r.meta->>'version' IS NOT NULL OR left(r.key, 1) = '/';
    UPDATE @schema@.pgfiles p SET meta = @schema@.pgfiles_filled(r.key, r.meta, r.data) WHERE p.id = r.id AND p.meta->>'version' IS NULL;
    done := done + 1;
  END LOOP;
  next := NULL;
END $$;
