-- Delete and RemoveDir: tombstones, and the rule that a directory stays when its last name leaves.

-- Makes an implied directory explicit, so that it stays. Nothing where it has a live marker, or at the top.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_keep_dir(dir text, srv jsonb, n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE dead bool;
BEGIN
  IF dir IN ('', './') OR right(dir, 2) = '//' THEN RETURN; END IF; -- no path leads to the latter two: the way of an exchange
  SELECT p.meta @> '{"deleted":true}' INTO dead FROM @schema@.pgfiles p WHERE p.key = dir
    ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
  IF FOUND AND NOT dead THEN RETURN; END IF;
  PERFORM @schema@.pgfiles_put(gen_random_uuid(), dir, '{"kind":"dir","size":0}', '{}', NULL, NULL, NULL, NULL,
    @schema@.pgfiles_revives(dir), srv, n);
END $$;

-- meta of the tombstone that follows a head.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_tombstone(k text, head jsonb, link jsonb) RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT jsonb_strip_nulls(jsonb_build_object('version', coalesce((head->>'version')::bigint, 0) + 1, 'deleted', true,
    'kind', coalesce(head->>'kind', CASE WHEN right(k, 1) = '/' THEN 'dir' ELSE 'file' END), 'ino', head->'ino',
    'hard_link', head->'hard_link', 'to', link))
$$;

-- Writes the tombstone of a key whose newest row is known. NULL: a race was lost.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_bury(new_id uuid, k text, head jsonb, link jsonb, srv jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE made jsonb;
BEGIN
  made := @schema@.pgfiles_tombstone(k, head, link) || srv;
  INSERT INTO @schema@.pgfiles(id, key, meta) VALUES (new_id, k, made) ON CONFLICT DO NOTHING;
  RETURN CASE WHEN FOUND THEN made END;
END $$;

-- alive: the directory has a live marker and is locked.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_remove(new_id uuid, k text, expect jsonb, srv jsonb, n int, alive bool DEFAULT NULL)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE h record; made jsonb; also jsonb;
BEGIN
  IF right(k, 1) = '/' OR left(k, 1) = '/' THEN
    PERFORM @schema@.pgfiles_fail('PF004', n, to_json(k) || ' is not the key of a file');
  END IF;
  IF alive AND expect IS NULL THEN
    -- The commonest in one statement: a live file of one name. Anything else, and a race that is lost, inserts nothing.
    INSERT INTO @schema@.pgfiles(id, key, meta)
      SELECT new_id, k, @schema@.pgfiles_tombstone(k, f.meta, NULL) || srv
      FROM (SELECT p.id, p.meta FROM @schema@.pgfiles p WHERE p.key = k ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) f
      WHERE NOT f.meta ?| '{deleted,hard_link}'
      ON CONFLICT DO NOTHING RETURNING meta INTO made;
    IF FOUND THEN RETURN jsonb_build_object('id', new_id, 'key', k, 'meta', made, 'also', NULL); END IF;
  END IF;
  IF alive IS NOT TRUE THEN PERFORM @schema@.pgfiles_revives(k); END IF; -- for its lock
  LOOP
    SELECT p.id, p.meta INTO h FROM @schema@.pgfiles p WHERE p.key = k
      ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
    IF h.id = new_id THEN RETURN jsonb_build_object('id', new_id, 'key', k, 'meta', h.meta); END IF;
    IF expect IS NOT NULL THEN PERFORM @schema@.pgfiles_expect(expect, k, h.id, h.meta, n); END IF;
    IF h.id IS NULL OR h.meta @> '{"deleted":true}' THEN
      PERFORM @schema@.pgfiles_fail('PF001', n, to_json(k) || ' does not exist');
    END IF;
    made := @schema@.pgfiles_bury(new_id, k, h.meta, NULL, srv);
    EXIT WHEN made IS NOT NULL;
    -- Sent again, with something newer there already.
    SELECT p.meta INTO made FROM @schema@.pgfiles p WHERE p.id = new_id AND p.key = k;
    IF FOUND THEN RETURN jsonb_build_object('id', new_id, 'key', k, 'meta', made); END IF;
  END LOOP;
  IF h.meta ? 'hard_link' THEN also := @schema@.pgfiles_relink(h.meta->>'hard_link', srv->>'created_at'); END IF;
  IF alive IS NOT TRUE THEN PERFORM @schema@.pgfiles_keep_dir(@schema@.pgfiles_parent(k), srv, n); END IF;
  RETURN jsonb_build_object('id', new_id, 'key', k, 'meta', made, 'also', also);
END $$;

-- All directories at and below `dir` that hold a live key, or are live markers: what must be locked before a whole tree
-- goes, and what gets a tombstone.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_dirs_below(dir text) RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$
DECLARE r record; d text; before text; last text := '';
BEGIN
  RETURN NEXT dir;
  FOR r IN SELECT t.key FROM @schema@.pgfiles_tree(dir, dir, 2147483647) t LOOP
    d := CASE WHEN right(r.key, 1) = '/' THEN r.key ELSE @schema@.pgfiles_parent(r.key) END;
    CONTINUE WHEN d = last;
    before := last; last := d;
    -- Keys come in order: what lies above the directory before has been named with it.
    WHILE length(d) > length(dir) AND NOT starts_with(before, d) LOOP
      RETURN NEXT d;
      d := @schema@.pgfiles_parent(d);
    END LOOP;
  END LOOP;
END $$;

-- Locks directories exclusively, in the order of their buckets; with `deep`, all below as well, until no more appear.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_lock_dirs(dirs text[], deep bool) RETURNS void LANGUAGE plpgsql AS $$
DECLARE held int[] := '{}'; wanted int[];
BEGIN
  LOOP
    wanted := (SELECT array_agg(DISTINCT hashtext(b) & 1023) FROM
      (SELECT unnest(dirs) AS b UNION ALL SELECT x FROM unnest(dirs) d, @schema@.pgfiles_dirs_below(d) x WHERE deep) all_dirs);
    EXIT WHEN wanted <@ held;
    PERFORM pg_advisory_xact_lock(7101, b) FROM (SELECT b FROM unnest(wanted) b ORDER BY b) sorted;
    held := held || wanted;
    EXIT WHEN NOT deep;
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgfiles_remove_dir(new_id uuid, dir text, recursive bool, srv jsonb, n int) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE h record; gone bigint := 0; made jsonb; below text[]; groups text[]; aliases text[]; also jsonb := '[]';
BEGIN
  SELECT p.meta INTO made FROM @schema@.pgfiles p WHERE p.id = new_id AND p.key = dir;
  IF FOUND THEN RETURN jsonb_build_object('id', new_id, 'files', 0); END IF;
  PERFORM @schema@.pgfiles_revives(dir); -- for its lock on the parent
  PERFORM @schema@.pgfiles_lock_dirs(ARRAY[dir], recursive);
  IF dir = '' OR left(dir, 1) = '/' OR right(dir, 1) <> '/' THEN
    PERFORM @schema@.pgfiles_fail('PF004', n, format('%s cannot be removed as a directory', to_json(dir)));
  END IF;
  IF NOT @schema@.pgfiles_dir_alive(dir) THEN
    PERFORM @schema@.pgfiles_fail('PF001', n, to_json(dir) || ' does not exist');
  END IF;
  IF recursive THEN
    below := ARRAY(SELECT DISTINCT d FROM @schema@.pgfiles_dirs_below(dir) d WHERE d <> dir);
    aliases := ARRAY(SELECT t.meta->>'alias' FROM @schema@.pgfiles_tree(dir, NULL, 2147483647) t WHERE t.meta ? 'alias');
    groups := ARRAY(SELECT DISTINCT t.meta->>'hard_link' FROM @schema@.pgfiles_tree(dir, dir, 2147483647) t WHERE t.meta ? 'hard_link');
    -- Implied directories get a tombstone too: a listing above must not have to look below them.
    WITH heads AS MATERIALIZED (SELECT t.key, t.meta FROM @schema@.pgfiles_tree(dir, dir, 2147483647) t),
    implied AS (SELECT d AS key, (SELECT p.meta FROM @schema@.pgfiles p WHERE p.key = d
        ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) AS meta
      FROM unnest(below) d WHERE NOT EXISTS (SELECT FROM heads WHERE heads.key = d)),
    buried AS (INSERT INTO @schema@.pgfiles(id, key, meta)
      SELECT gen_random_uuid(), a.key, jsonb_strip_nulls(jsonb_build_object('version', coalesce((a.meta->>'version')::bigint, 0) + 1,
        'deleted', true, 'kind', coalesce(a.meta->>'kind', CASE WHEN right(a.key, 1) = '/' THEN 'dir' ELSE 'file' END),
        'ino', a.meta->'ino')) || srv
      FROM (SELECT * FROM heads UNION ALL SELECT * FROM implied) a RETURNING key)
    SELECT count(*) INTO gone FROM buried WHERE right(key, 1) <> '/';
    -- Directories with long paths keep their names elsewhere.
    FOR h IN SELECT DISTINCT a AS alias FROM unnest(aliases) a WHERE NOT starts_with(a, dir) AND @schema@.pgfiles_dir_alive(a) LOOP
      made := @schema@.pgfiles_remove_dir(gen_random_uuid(), h.alias, true, srv, n);
      gone := gone + (made->>'files')::bigint;
    END LOOP;
    also := (SELECT coalesce(jsonb_agg(k), '[]') FROM unnest(groups) g, jsonb_array_elements(@schema@.pgfiles_relink(g, srv->>'created_at')) k);
  ELSIF EXISTS (SELECT FROM @schema@.pgfiles_dir(dir, NULL, 1, 0)) THEN
    PERFORM @schema@.pgfiles_fail('PF003', n, to_json(dir) || ' is not empty');
  END IF;
  LOOP
    SELECT p.meta INTO h FROM @schema@.pgfiles p WHERE p.key = dir ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
    EXIT WHEN @schema@.pgfiles_bury(new_id, dir, h.meta, NULL, srv) IS NOT NULL;
  END LOOP;
  PERFORM @schema@.pgfiles_keep_dir(@schema@.pgfiles_parent(dir), srv, n);
  RETURN jsonb_build_object('id', new_id, 'files', gone, 'also', also);
END $$;
