-- Rename of a directory: what rename does to a file, for all that lives below, in one statement.

CREATE OR REPLACE FUNCTION @schema@.pgfiles_rename_dir(op jsonb, srv jsonb, n int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  src text := op->>'from'; dst text := op->>'to'; new_id uuid := (op->>'id')::uuid; there record; files bigint; revives bool;
  young jsonb := op->'young'; implied text[]; fenced bool;
BEGIN
  IF src = '' OR dst = '' OR left(src, 1) = '/' OR left(dst, 1) = '/' OR right(src, 1) <> '/' OR right(dst, 1) <> '/'
     OR starts_with(dst, src) THEN
    PERFORM @schema@.pgfiles_fail('PF004', n, format('%s cannot be moved to %s', to_json(src), to_json(dst)));
  END IF;
  IF EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.id = new_id AND p.key = src) THEN
    RETURN @schema@.pgfiles_marker(dst) || '{"files":0}';
  END IF;
  PERFORM @schema@.pgfiles_lock_dirs(ARRAY[src, dst], true);
  PERFORM @schema@.pgfiles_revives(src); -- for its lock on the parent
  revives := @schema@.pgfiles_revives(dst);
  IF NOT @schema@.pgfiles_dir_alive(src) THEN
    PERFORM @schema@.pgfiles_fail('PF001', n, to_json(src) || ' does not exist');
  END IF;
  SELECT s.is_dir INTO there FROM @schema@.pgfiles_stat(ARRAY[left(dst, -1)], 0) s;
  IF FOUND THEN
    IF NOT there.is_dir THEN
      PERFORM @schema@.pgfiles_fail('PF002', n, to_json(left(dst, -1)) || ' is a file');
    ELSIF coalesce((op->>'to_absent')::bool, false) THEN
      PERFORM @schema@.pgfiles_fail('PF002', n, to_json(dst) || ' exists');
    ELSIF EXISTS (SELECT FROM @schema@.pgfiles_dir(dst, NULL, 1, 0)) THEN
      PERFORM @schema@.pgfiles_fail('PF003', n, to_json(dst) || ' is not empty');
    END IF;
  END IF;
  implied := ARRAY(SELECT DISTINCT d FROM @schema@.pgfiles_dirs_below(src) d WHERE NOT EXISTS (
    SELECT FROM (SELECT p.meta FROM @schema@.pgfiles p WHERE p.key = d ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) h
    WHERE NOT h.meta @> '{"deleted":true}'));
  fenced := @schema@.pgfiles_crosses(src, dst);
  IF fenced OR @schema@.pgfiles_limited() THEN
    files := @schema@.pgfiles_move_by_copy(new_id, src, dst, fenced, revives, srv);
  ELSE
    files := @schema@.pgfiles_move_rows(new_id, src, dst, young, revives, srv);
  END IF;
  PERFORM @schema@.pgfiles_move_implied(new_id, src, dst, implied, revives, srv);
  PERFORM @schema@.pgfiles_keep_dir(@schema@.pgfiles_parent(src), srv, n);
  RETURN @schema@.pgfiles_marker(dst) || jsonb_build_object('files', files);
END $$;

-- What is answered about a directory that was renamed: the marker that it has now.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_marker(dir text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  RETURN coalesce((SELECT jsonb_build_object('id', p.id, 'key', p.key, 'meta', p.meta) FROM @schema@.pgfiles p WHERE p.key = dir
    ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1), '{}');
END $$;

-- Where a directory with a long path keeps its names (meta.alias) after a directory above was moved.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_moved_alias(alias text, src text, dst text) RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN starts_with(alias, src) THEN jsonb_build_object('alias', dst || substr(alias, length(src) + 1)) ELSE '{}' END
$$;

-- Moves every live row below src (and its marker) to dst. The source keeps a version that refers to each and a tombstone, but
-- for young ones; the marker of src itself always does, since its tombstone's id recognises a resent request.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_move_rows(new_id uuid, src text, dst text, young jsonb, revives bool, srv jsonb)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE files bigint;
BEGIN
  WITH heads AS MATERIALIZED (
    SELECT t.id, t.key, t.meta, dst || substr(t.key, length(src) + 1) AS dst_key,
      t.key <> src AND @schema@.pgfiles_is_young(t.key, t.id, t.meta, young) AS moves
    FROM @schema@.pgfiles_tree(src, NULL, 2147483647) t),
  old AS MATERIALIZED (
    SELECT h.*, f.data, r.by_ref, CASE WHEN r.by_ref AND NOT h.meta ? 'lin' THEN to_jsonb(gen_random_uuid()) ELSE h.meta->'lin' END AS lin,
      coalesce((SELECT (d.meta->>'version')::bigint FROM @schema@.pgfiles d WHERE d.key = h.dst_key
        ORDER BY (d.meta->>'version')::bigint DESC NULLS LAST LIMIT 1), 0) + 1 AS dst_version
    FROM heads h JOIN @schema@.pgfiles f ON f.id = h.id,
      LATERAL (SELECT NOT h.moves AND NOT h.meta ?| '{layout,body}'
        AND coalesce(octet_length(f.data), 0) > @schema@.pgfiles_small() AS by_ref) r),
  moved AS (
    UPDATE @schema@.pgfiles p SET key = o.dst_key,
      meta = (o.meta - '{from,to,restored_from,revive}'::text[]) || jsonb_build_object('version', o.dst_version, 'op', new_id) || srv
        || CASE WHEN o.lin IS NULL THEN '{}' ELSE jsonb_build_object('lin', o.lin) END
        || CASE WHEN o.moves THEN '{}' ELSE jsonb_build_object('from', jsonb_build_object('key', o.key, 'version', o.meta->'version')) END
        || CASE WHEN revives AND o.key = src THEN '{"revive":true}'::jsonb ELSE '{}' END
        || CASE WHEN o.meta ? 'alias' THEN @schema@.pgfiles_moved_alias(o.meta->>'alias', src, dst) ELSE '{}' END
    FROM old o WHERE p.id = o.id RETURNING p.id),
  left_behind AS (
    INSERT INTO @schema@.pgfiles(id, key, meta, data)
    SELECT gen_random_uuid(), o.key,
      (o.meta - 'revive') || CASE WHEN o.lin IS NULL THEN '{}' ELSE jsonb_build_object('lin', o.lin) END
        || CASE WHEN o.by_ref THEN jsonb_build_object('body', o.id) ELSE '{}' END,
      CASE WHEN o.by_ref THEN NULL ELSE o.data END
    FROM moved m JOIN old o ON o.id = m.id WHERE NOT o.moves
    UNION ALL
    SELECT CASE WHEN o.key = src THEN new_id ELSE gen_random_uuid() END, o.key,
      jsonb_strip_nulls(jsonb_build_object('version', coalesce((o.meta->>'version')::bigint, 0) + 1, 'deleted', true,
        'kind', coalesce(o.meta->>'kind', CASE WHEN right(o.key, 1) = '/' THEN 'dir' ELSE 'file' END), 'ino', o.meta->'ino',
        'to', jsonb_build_object('key', o.dst_key, 'version', o.dst_version))) || srv, NULL
    FROM old o WHERE NOT o.moves)
  SELECT count(*) INTO files FROM heads WHERE right(key, 1) <> '/';
  RETURN files;
END $$;

-- The same for a role that may not change rows, and across the edge of a granted prefix.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_move_by_copy(new_id uuid, src text, dst text, fenced bool, revives bool, srv jsonb)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE r record; files bigint := 0; to_key text; made jsonb;
BEGIN
  FOR r IN SELECT t.id, t.key, t.meta FROM @schema@.pgfiles_tree(src, NULL, 2147483647) t LOOP
    to_key := dst || substr(r.key, length(src) + 1);
    made := (r.meta - '{from,to,restored_from,revive}'::text[]) || jsonb_build_object('op', new_id, 'version',
      coalesce((SELECT (d.meta->>'version')::bigint FROM @schema@.pgfiles d WHERE d.key = to_key
        ORDER BY (d.meta->>'version')::bigint DESC NULLS LAST LIMIT 1), 0) + 1) || srv
      || CASE WHEN revives AND r.key = src THEN '{"revive":true}'::jsonb ELSE '{}' END
      || CASE WHEN r.meta ? 'alias' THEN @schema@.pgfiles_moved_alias(r.meta->>'alias', src, dst) ELSE '{}' END;
    IF fenced THEN made := @schema@.pgfiles_unlinked(made); END IF;
    PERFORM @schema@.pgfiles_rename_by_copy(CASE WHEN r.key = src THEN new_id ELSE gen_random_uuid() END, r.key, to_key, r.id,
      r.meta, made, fenced, srv);
    IF fenced AND r.meta ? 'hard_link' THEN PERFORM @schema@.pgfiles_relink(r.meta->>'hard_link', srv->>'created_at'); END IF;
    files := files + CASE WHEN right(r.key, 1) = '/' THEN 0 ELSE 1 END;
  END LOOP;
  RETURN files;
END $$;

-- Directories without a live marker become explicit at dst, with the inode number that they had, and get a tombstone at src.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_move_implied(new_id uuid, src text, dst text, implied text[], revives bool, srv jsonb)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO @schema@.pgfiles(id, key, meta)
  SELECT gen_random_uuid(), i.dst_key, jsonb_build_object('kind', 'dir', 'size', 0, 'ino', @schema@.pgfiles_implied_ino(i.d), 'op', new_id,
      'version', i.dst_version) || srv || CASE WHEN revives AND i.d = src THEN '{"revive":true}'::jsonb ELSE '{}' END
  FROM (SELECT d, dst || substr(d, length(src) + 1) AS dst_key, coalesce((SELECT (p.meta->>'version')::bigint FROM @schema@.pgfiles p
      WHERE p.key = dst || substr(d, length(src) + 1) ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1), 0) + 1 AS dst_version
    FROM unnest(implied) d) i;
  INSERT INTO @schema@.pgfiles(id, key, meta)
  SELECT CASE WHEN d = src THEN new_id ELSE gen_random_uuid() END, d, jsonb_build_object('kind', 'dir', 'deleted', true,
      'to', jsonb_build_object('key', dst || substr(d, length(src) + 1)),
      'version', coalesce((SELECT (p.meta->>'version')::bigint FROM @schema@.pgfiles p
        WHERE p.key = d ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1), 0) + 1) || srv
  FROM unnest(implied) d;
END $$;
