-- Rename of a file: the row that holds the bytes moves, with its id; its old place keeps a version that refers to it, and a
-- tombstone.

-- Bodies up to this many bytes are copied into the history row: they lie in the heap tuple anyway.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_small() RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 2000';

-- Whether a version stays at its place by reference to the row that moves with the bytes, instead of having them copied.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_by_ref(meta jsonb, data bytea) RETURNS bool LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT NOT meta ?| '{layout,body}' AND octet_length(data) > @schema@.pgfiles_small()
$$;

-- Whether a row was written by that mount a moment ago.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_is_recent(meta jsonb, young jsonb) RETURNS bool LANGUAGE sql VOLATILE AS $$
  SELECT (jsonb_typeof(young) = 'object' AND (young->>'seconds')::bigint > 0 AND meta #>> '{by,mount}' = young->>'mount'
    AND @schema@.pgfiles_time(meta->>'created_at') >= clock_timestamp() - make_interval(secs => (young->>'seconds')::bigint)) IS TRUE
$$;

-- Whether a temporary name leaves nothing behind: the only row of its key, written by that mount a moment ago.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_is_young(k text, id uuid, meta jsonb, young jsonb) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
  RETURN @schema@.pgfiles_is_recent(meta, young)
    AND NOT EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.key = k AND p.id <> pgfiles_is_young.id);
END $$;

-- meta of a row that moves over what is at its target (`over`), which is linked to where it came `from` if that is not NULL.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_moved(meta jsonb, over jsonb, op jsonb, origin jsonb, by_ref bool, revives bool, srv jsonb)
RETURNS jsonb LANGUAGE sql VOLATILE AS $$
  SELECT meta - '{from,to,restored_from,revive,op}'::text[] || (srv
    || jsonb_build_object('version', coalesce((over->>'version')::bigint, 0) + 1, 'op', op->'id')
    || CASE WHEN by_ref AND NOT meta ? 'lin' THEN jsonb_build_object('lin', gen_random_uuid()) ELSE '{}' END
    || CASE WHEN jsonb_typeof(op->'ctime') = 'string' THEN jsonb_build_object('ctime', op->'ctime') ELSE '{}' END
    || CASE WHEN revives THEN '{"revive":true}'::jsonb ELSE '{}' END
    || CASE WHEN origin IS NULL THEN '{}' ELSE jsonb_build_object('from', origin) END)
$$;

-- What stays at the old place of a row that moved: the version that it was, and a tombstone.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_leave(op jsonb, id uuid, old jsonb, body bytea, made jsonb, by_ref bool, srv jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO @schema@.pgfiles(id, key, meta, data) VALUES ((op->>'history')::uuid, op->>'from', old - 'revive'
      || CASE WHEN by_ref THEN jsonb_build_object('lin', made->'lin', 'body', pgfiles_leave.id) ELSE '{}' END, CASE WHEN by_ref THEN NULL ELSE body END),
    ((op->>'id')::uuid, op->>'from', @schema@.pgfiles_tombstone(op->>'from', old, jsonb_build_object('key', op->>'to', 'version', made->'version'))
      || srv, NULL)
    ON CONFLICT DO NOTHING;
END $$;

-- What a rename answered that was carried out before: its tombstone is there, or the row says that it moved by it. NULL: it
-- was not.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_renamed(new_id uuid, src text, dst text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE t record;
BEGIN
  SELECT p.id, p.meta INTO t FROM @schema@.pgfiles p WHERE p.key = dst ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
  IF t.meta->>'op' = new_id::text THEN
    RETURN jsonb_build_object('id', t.id, 'key', dst, 'meta', t.meta,
      'moved', NOT EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.id = new_id));
  ELSIF EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.id = new_id AND p.key = src) THEN
    RETURN jsonb_build_object('id', t.id, 'key', dst, 'meta', t.meta, 'moved', false);
  END IF;
  RETURN NULL;
END $$;

-- alive: the directory of the source has a live marker and is locked.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_rename(op jsonb, srv jsonb, n int, alive bool DEFAULT NULL, again bool DEFAULT true)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  src text := op->>'from'; dst text := op->>'to'; h record; t record; made jsonb; moves bool;
  revives bool; by_ref bool; new_id uuid := (op->>'id')::uuid; fenced bool; also jsonb := '[]';
BEGIN
  IF right(src, 1) = '/' OR right(dst, 1) = '/' OR left(src, 1) = '/' OR left(dst, 1) = '/' THEN
    PERFORM @schema@.pgfiles_fail('PF004', n, format('%s cannot be renamed to %s', to_json(src), to_json(dst)));
  END IF;
  IF alive IS NOT TRUE THEN PERFORM @schema@.pgfiles_revives(src); END IF; -- for its lock
  IF alive AND @schema@.pgfiles_parent(dst) = @schema@.pgfiles_parent(src) THEN revives := false;
  ELSE revives := @schema@.pgfiles_revives(dst);
  END IF;
  IF again THEN
    made := @schema@.pgfiles_renamed(new_id, src, dst);
    IF made IS NOT NULL THEN RETURN made; END IF;
  END IF;
  LOOP
    SELECT p.id, p.meta, p.data INTO h FROM @schema@.pgfiles p WHERE p.key = src
      ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1 FOR UPDATE;
    EXIT WHEN NOT FOUND;
    -- A newer version may have come while we waited for the lock; and what is at the target.
    SELECT newest.id AS newest, d.id, d.meta INTO t
      FROM (SELECT p.id FROM @schema@.pgfiles p WHERE p.key = src ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) newest
      LEFT JOIN (SELECT p.id, p.meta FROM @schema@.pgfiles p WHERE p.key = dst
        ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) d ON true;
    EXIT WHEN t.newest = h.id;
  END LOOP;
  IF jsonb_typeof(op->'expect_from') = 'object' THEN
    PERFORM @schema@.pgfiles_expect(op->'expect_from', src, h.id, h.meta, n);
  END IF;
  IF h.id IS NULL OR h.meta @> '{"deleted":true}' THEN
    made := @schema@.pgfiles_renamed(new_id, src, dst);
    IF made IS NOT NULL THEN RETURN made; END IF;
    PERFORM @schema@.pgfiles_fail('PF001', n, to_json(src) || ' does not exist');
  END IF;
  IF src = dst THEN RETURN jsonb_build_object('id', h.id, 'key', dst, 'meta', h.meta, 'moved', false); END IF;
  IF h.meta ? 'hard_link' THEN
    PERFORM @schema@.pgfiles_lock_links(h.meta->>'hard_link');
    SELECT h.id AS newest, p.id, p.meta INTO t FROM (SELECT) one LEFT JOIN (SELECT p.id, p.meta FROM @schema@.pgfiles p WHERE p.key = dst
      ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) p ON true;
  END IF;
  moves := @schema@.pgfiles_is_young(src, h.id, h.meta, op->'young');
  fenced := @schema@.pgfiles_parent(src) <> @schema@.pgfiles_parent(dst) AND @schema@.pgfiles_crosses(src, dst);
  <<race>> LOOP
  IF jsonb_typeof(op->'expect_to') = 'object' THEN
    PERFORM @schema@.pgfiles_expect(op->'expect_to', dst, t.id, t.meta, n);
  END IF;
  -- man 2 rename: two names of one inode stay as they are.
  IF h.meta ? 'hard_link' AND t.meta->>'hard_link' = h.meta->>'hard_link' AND NOT t.meta @> '{"deleted":true}' THEN
    RETURN jsonb_build_object('id', t.id, 'key', dst, 'meta', t.meta, 'moved', false, 'also', jsonb_build_array(src, dst));
  END IF;
  by_ref := NOT moves AND NOT fenced AND @schema@.pgfiles_by_ref(h.meta, h.data);
  made := @schema@.pgfiles_moved(h.meta, t.meta, op,
    CASE WHEN moves THEN NULL ELSE jsonb_build_object('key', src, 'version', h.meta->'version') END, by_ref, revives, srv);
  IF fenced OR @schema@.pgfiles_limited() THEN
    IF fenced THEN made := @schema@.pgfiles_unlinked(made); END IF;
    made := @schema@.pgfiles_rename_by_copy(new_id, src, dst, h.id, h.meta, made, fenced, srv);
    PERFORM @schema@.pgfiles_keep_dir(@schema@.pgfiles_parent(src), srv, n);
    RETURN made || jsonb_build_object('also', @schema@.pgfiles_renamed_links(h.meta, t.meta, dst, op->>'ctime', srv));
  END IF;
  BEGIN
    UPDATE @schema@.pgfiles p SET key = dst, meta = made WHERE p.id = h.id;
    EXIT race;
  EXCEPTION WHEN unique_violation THEN
    -- Somebody wrote the target at this instant: queue, and take the number after theirs.
    PERFORM pg_advisory_xact_lock(hashtextextended(dst, 7102));
    SELECT h.id AS newest, p.id, p.meta INTO t FROM @schema@.pgfiles p WHERE p.key = dst
      ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
  END;
  END LOOP;
  IF NOT moves THEN PERFORM @schema@.pgfiles_leave(op, h.id, h.meta, h.data, made, by_ref, srv); END IF;
  IF alive IS NOT TRUE THEN PERFORM @schema@.pgfiles_keep_dir(@schema@.pgfiles_parent(src), srv, n); END IF;
  IF h.meta ? 'hard_link' OR t.meta ? 'hard_link' THEN
    also := @schema@.pgfiles_renamed_links(h.meta, t.meta, dst, op->>'ctime', srv);
    SELECT p.meta INTO made FROM @schema@.pgfiles p WHERE p.id = h.id;
  END IF;
  RETURN jsonb_build_object('id', h.id, 'key', dst, 'meta', made, 'moved', moves, 'also', also);
END $$;

-- After a rename: the inode that lost the name at the target has one less, the one that moved has another ctime under all of
-- its names. All names of both.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_renamed_links(moved jsonb, replaced jsonb, dst text, ctime text, srv jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE also jsonb := '[]';
BEGIN
  IF replaced ? 'hard_link' AND NOT replaced @> '{"deleted":true}' THEN
    also := also || @schema@.pgfiles_relink(replaced->>'hard_link', srv->>'created_at');
  END IF;
  IF moved ? 'hard_link' THEN
    also := also || @schema@.pgfiles_relink(moved->>'hard_link', srv->>'created_at');
    IF ctime IS NOT NULL THEN
      PERFORM @schema@.pgfiles_patch_twins(moved->>'hard_link', dst, jsonb_build_object('ctime', ctime));
    END IF;
  END IF;
  RETURN also;
END $$;

-- meta of a name that leaves its group: another inode.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_unlinked(m jsonb) RETURNS jsonb LANGUAGE sql VOLATILE AS $$
  SELECT CASE WHEN m ? 'hard_link' THEN m - '{hard_link,nlink,twin}'::text[] || jsonb_build_object('ino', @schema@.pgfiles_new_ino()) ELSE m END
$$;

-- For a role that may not change rows, and across the edge of a granted prefix: a new row with the bytes, and a tombstone.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_rename_by_copy(new_id uuid, src text, dst text, source uuid, old jsonb, made jsonb,
  fenced bool, srv jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE content record; copy_id uuid := gen_random_uuid();
BEGIN
  SELECT * INTO content FROM @schema@.pgfiles_content(source, dst, fenced);
  made := (made - '{layout,lin,body}'::text[]) || content.part
    || jsonb_build_object('from', jsonb_build_object('key', src, 'version', old->'version'));
  INSERT INTO @schema@.pgfiles(id, key, meta, data) VALUES (copy_id, dst, made, content.body);
  IF @schema@.pgfiles_bury(new_id, src, old, jsonb_build_object('key', dst, 'version', made->'version'), srv) IS NULL THEN
    RAISE EXCEPTION '% was written at this moment', to_json(src) USING ERRCODE = 'serialization_failure';
  END IF;
  RETURN jsonb_build_object('id', copy_id, 'key', dst, 'meta', made, 'moved', false);
END $$;
