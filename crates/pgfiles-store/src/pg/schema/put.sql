-- The write path, operation by operation: one function each, called by pgfiles_commit (commit.sql) in order. `srv` is what
-- the server says of every row of a batch: {"created_at","xid","by"}; `n` the operation's index, for errors; results are
-- {"id","key","meta","files","moved"}.

-- Earlier forms, which a call with fewer arguments would still find.
DROP FUNCTION IF EXISTS @schema@.pgfiles_put(uuid, text, jsonb, jsonb, bytea, jsonb, uuid, uuid[], bool, jsonb, int);
DROP FUNCTION IF EXISTS @schema@.pgfiles_check_bodies(text, jsonb, bytea, int),
  @schema@.pgfiles_setattr(text, jsonb, jsonb, jsonb, bool, jsonb, int), @schema@.pgfiles_remove(uuid, text, jsonb, jsonb, int),
  @schema@.pgfiles_rename(jsonb, jsonb, int), @schema@.pgfiles_put_new(jsonb, bytea[], jsonb);

CREATE OR REPLACE FUNCTION @schema@.pgfiles_fail(code text, n int, message text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message, DETAIL = json_build_object('op', n)::text;
END $$;

-- Whether a precondition holds. `id` and `meta` are of the newest row of the key, NULL where there is none.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_expect(expect jsonb, k text, id uuid, meta jsonb, n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE live bool := id IS NOT NULL AND NOT meta @> '{"deleted":true}';
BEGIN
  IF jsonb_typeof(expect) <> 'object' THEN RETURN; END IF;
  IF expect ? 'absent' THEN
    IF live OR EXISTS (SELECT FROM @schema@.pgfiles_stat(ARRAY[rtrim(k, '/')], 0)) THEN
      PERFORM @schema@.pgfiles_fail('PF002', n, to_json(k) || ' exists');
    END IF;
  ELSIF expect ? 'version' THEN
    IF NOT live OR (meta->>'version')::bigint IS DISTINCT FROM (expect->>'version')::bigint THEN
      PERFORM @schema@.pgfiles_fail('PF002', n, format('%s is not at version %s but %s', to_json(k), expect->>'version',
        CASE WHEN live THEN 'at ' || coalesce(meta->>'version', 'none') ELSE 'not there' END));
    END IF;
  ELSIF expect ? 'etag' THEN
    IF NOT live OR meta->>'etag' IS DISTINCT FROM expect->>'etag' THEN
      PERFORM @schema@.pgfiles_fail('PF002', n, format('%s has not the etag %s but %s', to_json(k), expect->>'etag',
        CASE WHEN live THEN coalesce(meta->>'etag', 'none') ELSE 'is not there' END));
    END IF;
  ELSIF expect ? 'head' THEN
    IF id IS DISTINCT FROM (expect->>'head')::uuid AND meta->>'twin' IS DISTINCT FROM expect->>'head' THEN
      PERFORM @schema@.pgfiles_fail('PF002', n, format('the newest version of %s is another than %s', to_json(k), expect->>'head'));
    END IF;
  ELSE
    PERFORM @schema@.pgfiles_fail('PF004', n, 'unknown precondition ' || expect);
  END IF;
END $$;

-- Whether the body rows are there that a manifest names (of two levels, the leaves); with `added`, those among them.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_check_bodies(k text, lineage text, manifest bytea, added uuid[], n int) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE missing bigint;
BEGIN
  SELECT count(*) INTO missing FROM unnest(coalesce(added, ARRAY(SELECT @schema@.pgfiles_entries(manifest)))) e
    WHERE NOT EXISTS (SELECT FROM @schema@.pgfiles b WHERE b.id = e AND b.meta->>'lin' = lineage);
  IF missing > 0 THEN
    PERFORM @schema@.pgfiles_fail('PF007', n, format('body rows are gone: %s of %s', missing, to_json(k)));
  END IF;
END $$;

-- A body is not shared across the edge of a grant: whoever refers to one of the other side is told that its rows are gone,
-- and writes it whole.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_check_edges(k text, lineage text, n int) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off AS $$
BEGIN
  IF NOT (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = '@schema@.pgfiles'::regclass) THEN RETURN; END IF;
  IF EXISTS (SELECT FROM (SELECT DISTINCT v.key FROM @schema@.pgfiles v
      WHERE v.meta ? 'lin' AND (v.meta->>'lin')::uuid = lineage::uuid AND left(v.key, 1) <> '/' AND v.key <> k) sharing
      WHERE @schema@.pgfiles_crosses(sharing.key, k)) THEN
    PERFORM @schema@.pgfiles_fail('PF007', n, format('%s cannot share the body of a file beyond the edge of a grant', to_json(k)));
  END IF;
END $$;

-- A new version, or a version in progress extended. Of a chunked one the caller may say from which row it started (`base`)
-- and which entries of its manifest that one has not and this batch does not bring (`added`): if that is the head, the others
-- are known to be there.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_put(new_id uuid, k text, set_meta jsonb, defaults jsonb, body bytea, expect jsonb,
  extends uuid, drops uuid[], revives bool, srv jsonb, n int, base uuid DEFAULT NULL, added uuid[] DEFAULT NULL)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE h record; made jsonb; lost int := 0; in_place bool; locked text; also jsonb; checked bool := false; is_base bool; done text;
BEGIN
  -- Whoever removes body rows locks their lineage exclusively: those that are there stay until this commits.
  IF set_meta ? 'lin' THEN done := pg_advisory_xact_lock_shared(hashtextextended(set_meta->>'lin', 7103))::text; END IF;
  LOOP
    -- KEY SHARE: a change of attributes that is under way is waited for, so that the new version inherits it; and the next
    -- one waits for us and goes to the new version.
    SELECT p.id, p.meta, NOT p.meta @> '{"deleted":true}' AS live INTO h FROM @schema@.pgfiles p WHERE p.key = k
      ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1 FOR KEY SHARE;
    IF h.id = new_id THEN RETURN jsonb_build_object('id', new_id, 'key', k, 'meta', h.meta); END IF;
    IF h.live AND h.meta->>'hard_link' IS DISTINCT FROM locked AND h.meta ? 'hard_link' THEN
      locked := h.meta->>'hard_link';
      PERFORM @schema@.pgfiles_lock_links(locked);
      CONTINUE;
    END IF;
    IF expect IS NOT NULL THEN PERFORM @schema@.pgfiles_expect(expect, k, h.id, h.meta, n); END IF;
    IF set_meta ? 'layout' THEN
      IF h.meta->>'lin' IS DISTINCT FROM set_meta->>'lin' THEN
        PERFORM @schema@.pgfiles_check_edges(k, set_meta->>'lin', n);
      END IF;
      IF NOT checked AND body IS NOT NULL THEN
        is_base := h.live AND (h.id = base OR h.meta->>'twin' = base::text) AND h.meta ? 'layout' AND h.meta->>'lin' = set_meta->>'lin';
        IF is_base IS NOT TRUE OR added IS DISTINCT FROM '{}' THEN
          PERFORM @schema@.pgfiles_check_bodies(k, set_meta->>'lin', body, CASE WHEN is_base THEN added END, n);
        END IF;
        -- Against a head that another client replaces meanwhile, all of it is checked the next time.
        checked := is_base IS NOT TRUE;
      END IF;
    END IF;
    in_place := (h.id = extends OR h.meta->>'twin' = extends::text) AND h.live AND NOT @schema@.pgfiles_limited();
    made := CASE WHEN h.live THEN defaults || @schema@.pgfiles_attributes(h.meta) || set_meta ELSE defaults || set_meta END || srv;
    IF revives THEN made := made || '{"revive":true}'; END IF;
    IF NOT made ? 'kind' THEN
      made := made || CASE WHEN right(k, 1) = '/' THEN '{"kind":"dir"}'::jsonb ELSE '{"kind":"file"}' END;
    END IF;
    IF in_place THEN
      IF h.meta ? 'lin' THEN PERFORM @schema@.pgfiles_make_way(h.id); END IF;
      made := made || jsonb_build_object('version', h.meta->'version') || @schema@.pgfiles_origin(h.meta);
      UPDATE @schema@.pgfiles p SET id = new_id, meta = made, data = body WHERE p.id = h.id AND p.key = k;
      IF FOUND THEN
        IF h.meta ? 'hard_link' THEN also := @schema@.pgfiles_put_twins(new_id, k, made, body, extends); END IF;
        IF cardinality(drops) > 0 THEN PERFORM @schema@.pgfiles_drop_bodies(h.meta->>'lin', drops, new_id); END IF;
        RETURN jsonb_build_object('id', new_id, 'key', k, 'meta', made, 'also', also);
      END IF;
    ELSE
      made := made || jsonb_build_object('version', coalesce((h.meta->>'version')::bigint, 0) + 1);
      INSERT INTO @schema@.pgfiles(id, key, meta, data) VALUES (new_id, k, made, body) ON CONFLICT DO NOTHING;
      IF FOUND THEN
        IF h.live AND h.meta ? 'hard_link' THEN also := @schema@.pgfiles_put_twins(new_id, k, made, body, extends); END IF;
        RETURN jsonb_build_object('id', new_id, 'key', k, 'meta', made, 'also', also);
      END IF;
      SELECT p.meta INTO made FROM @schema@.pgfiles p WHERE p.id = new_id AND p.key = k;
      IF FOUND THEN RETURN jsonb_build_object('id', new_id, 'key', k, 'meta', made); END IF;
      IF EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.id = new_id) THEN
        PERFORM @schema@.pgfiles_fail('PF004', n, format('the id %s for %s is taken by another key', new_id, to_json(k)));
      END IF;
    END IF;
    -- A lost race. From the second on stand in a queue, so that everybody's turn comes.
    lost := lost + 1;
    IF lost > 1 THEN PERFORM pg_advisory_xact_lock(hashtextextended(k, 7102)); END IF;
  END LOOP;
END $$;

-- Removes body rows of a lineage that only a version just replaced used. Those that other versions may use stay: of these, all
-- that were written by the transaction that wrote the row, or later (a version is never older than what it refers to);
-- usually there is none. Of rows that say less, as after the restore of a cluster, those that no version names go.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_drop_bodies(lineage text, drops uuid[], replaced_by uuid) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE n int;
BEGIN
  DELETE FROM @schema@.pgfiles b WHERE b.id = ANY (drops) AND b.meta->>'lin' = lineage AND left(b.key, 1) = '/'
    AND (b.meta->>'xid')::bigint <= pg_current_xact_id()::text::bigint
    AND NOT EXISTS (SELECT FROM @schema@.pgfiles v WHERE v.meta ? 'lin' AND (v.meta->>'lin')::uuid = lineage::uuid AND left(v.key, 1) <> '/'
      AND (v.meta->>'xid')::bigint >= (b.meta->>'xid')::bigint AND v.id <> replaced_by);
  GET DIAGNOSTICS n = ROW_COUNT;
  IF n < cardinality(drops) THEN
    DELETE FROM @schema@.pgfiles b WHERE b.id = ANY (drops) AND b.meta->>'lin' = lineage AND left(b.key, 1) = '/'
      AND NOT EXISTS (SELECT FROM @schema@.pgfiles_used(lineage) u WHERE u = b.id);
  END IF;
END $$;

-- The body rows that versions of a lineage use: chunks and leaves.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_used(lineage text) RETURNS SETOF uuid LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
  RETURN QUERY
    WITH versions AS MATERIALIZED (
      SELECT v.data, v.meta #>> '{layout,levels}' AS levels FROM @schema@.pgfiles v
      WHERE v.meta ? 'lin' AND (v.meta->>'lin')::uuid = lineage::uuid AND v.meta ? 'layout' AND left(v.key, 1) <> '/'),
    top AS MATERIALIZED (SELECT DISTINCT e, levels FROM versions, @schema@.pgfiles_entries(versions.data) e)
    SELECT e FROM top
    UNION
    SELECT c FROM top JOIN @schema@.pgfiles leaf ON leaf.id = top.e AND leaf.meta->>'lin' = lineage, @schema@.pgfiles_entries(leaf.data) c
    WHERE top.levels = '2';
END $$;

-- A body row. Its key lies under '/'. When it was written says how long it is safe without a heartbeat (pgfiles_sweep).
CREATE OR REPLACE FUNCTION @schema@.pgfiles_put_body(op jsonb, body bytea, n int) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  IF left(op->>'key', 1) IS DISTINCT FROM '/' THEN
    PERFORM @schema@.pgfiles_fail('PF004', n, format('%s is not the key of a body row', op->'key'));
  END IF;
  INSERT INTO @schema@.pgfiles(id, key, meta, data) VALUES ((op->>'id')::uuid, op->>'key',
    jsonb_build_object('version', 1, 'lin', op->'lin', 'mount', op->'mount', 'sum', op->'sum', 'created_at', @schema@.pgfiles_now(),
      'xid', pg_current_xact_id()::text), body)
    ON CONFLICT DO NOTHING;
  RETURN jsonb_build_object('id', op->'id');
END $$;

-- Attributes, merged into whichever row is head now. alive: the directory has a live marker and is locked.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_setattr(k text, patch jsonb, expect jsonb, explicit jsonb, again bool, srv jsonb, n int,
  alive bool DEFAULT NULL) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE h record; made jsonb; newest uuid; also jsonb;
BEGIN
  -- For its lock: a directory that is being renamed moves its rows as it read them.
  IF alive IS NOT TRUE THEN PERFORM @schema@.pgfiles_revives(k); END IF;
  LOOP
    SELECT p.id, p.meta INTO h FROM @schema@.pgfiles p WHERE p.key = k
      ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1 FOR UPDATE;
    IF FOUND THEN
      -- A newer version may have come while we waited for the lock.
      SELECT p.id INTO newest FROM @schema@.pgfiles p WHERE p.key = k ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
      CONTINUE WHEN newest IS DISTINCT FROM h.id;
    END IF;
    EXIT;
  END LOOP;
  IF expect IS NOT NULL THEN PERFORM @schema@.pgfiles_expect(expect, k, h.id, h.meta, n); END IF;
  IF h.id IS NULL OR h.meta @> '{"deleted":true}' THEN
    IF jsonb_typeof(explicit) = 'object' AND @schema@.pgfiles_dir_alive(k) THEN
      made := @schema@.pgfiles_patched(explicit->'meta', patch) - 'rev';
      RETURN @schema@.pgfiles_put((explicit->>'id')::uuid, k, made, '{}', NULL, NULL, NULL, NULL,
        @schema@.pgfiles_revives(k), srv, n);
    END IF;
    PERFORM @schema@.pgfiles_fail('PF001', n, to_json(k) || ' does not exist');
  END IF;
  made := @schema@.pgfiles_patched(h.meta, patch);
  IF again AND made - 'rev' = h.meta - 'rev' THEN made := h.meta;
  ELSE UPDATE @schema@.pgfiles p SET meta = made WHERE p.id = h.id;
  END IF;
  IF h.meta ? 'hard_link' THEN also := @schema@.pgfiles_patch_twins(h.meta->>'hard_link', k, patch); END IF;
  RETURN jsonb_build_object('id', h.id, 'key', k, 'meta', made, 'also', also);
END $$;

-- The same attributes for the other names of an inode. The other names.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_patch_twins(hard_link text, k text, patch jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE ids uuid[]; keys text[];
BEGIN
  PERFORM @schema@.pgfiles_lock_links(hard_link);
  SELECT array_agg(l.id), array_agg(l.key) INTO ids, keys FROM @schema@.pgfiles_links(hard_link) l WHERE l.key <> k;
  UPDATE @schema@.pgfiles p SET meta = @schema@.pgfiles_patched(p.meta, patch) WHERE p.id = ANY (ids);
  RETURN coalesce(to_jsonb(keys), '[]');
END $$;

-- meta with a patch merged in that has tags or xattrs, which merge by name (null removes).
CREATE OR REPLACE FUNCTION @schema@.pgfiles_patched_names(meta jsonb, patch jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE made jsonb := meta || (patch - '{tags,xattrs}'::text[]); field text; merged jsonb;
BEGIN
  FOREACH field IN ARRAY '{tags,xattrs}'::text[] LOOP
    CONTINUE WHEN NOT patch ? field;
    merged := jsonb_strip_nulls(CASE jsonb_typeof(meta->field) WHEN 'object' THEN meta->field ELSE '{}' END || (patch->field));
    made := CASE merged WHEN '{}' THEN made - field ELSE made || jsonb_build_object(field, merged) END;
  END LOOP;
  RETURN made;
END $$;

-- meta with a patch merged in: fields replace, rev counts. STABLE as
-- jsonb_build_object is: so that it is inlined.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_patched(meta jsonb, patch jsonb) RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN patch ?| '{tags,xattrs}' THEN @schema@.pgfiles_patched_names(meta, patch) ELSE meta || patch END
    || jsonb_build_object('rev', CASE WHEN meta->>'rev' ~ '^[0-9]{1,15}$' THEN (meta->>'rev')::bigint ELSE 0 END + 1)
$$;
