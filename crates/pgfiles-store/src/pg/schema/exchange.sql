-- Exchange of two names (man 2 renameat2, RENAME_EXCHANGE): three renames over a name that no path can have, of which nothing
-- stays.

CREATE OR REPLACE FUNCTION @schema@.pgfiles_exchange(op jsonb, srv jsonb, n int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  a text := op->>'from'; b text := op->>'to'; via text; new_id uuid := (op->>'id')::uuid; a_dir bool; b_dir bool; files bigint := 0;
  step record; made jsonb; also jsonb := '[]'; ends text[];
BEGIN
  IF right(a, 1) = '/' OR right(b, 1) = '/' OR left(a, 1) = '/' OR left(b, 1) = '/' OR a = b
     OR starts_with(b, a || '/') OR starts_with(a, b || '/') THEN
    PERFORM @schema@.pgfiles_fail('PF004', n, format('%s cannot be exchanged with %s', to_json(a), to_json(b)));
  END IF;
  IF EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.id = new_id AND p.key IN (a, a || '/')) THEN
    RETURN jsonb_build_object('id', new_id, 'files', 0);
  END IF;
  SELECT bool_or(s.is_dir) FILTER (WHERE s.ord = 1), bool_or(s.is_dir) FILTER (WHERE s.ord = 2) INTO a_dir, b_dir
    FROM @schema@.pgfiles_stat(ARRAY[a, b], 0) s;
  IF a_dir IS NULL OR b_dir IS NULL THEN
    PERFORM @schema@.pgfiles_fail('PF001', n, to_json(CASE WHEN a_dir IS NULL THEN a ELSE b END) || ' does not exist');
  END IF;
  -- Beside a, so that no edge of a grant is crossed on the way; a component that no path has (`.` or empty).
  via := CASE @schema@.pgfiles_parent(a) WHEN '' THEN './' ELSE @schema@.pgfiles_parent(a) || '/' END || replace(new_id::text, '-', '');
  FOR step IN SELECT * FROM (VALUES (a, via, a_dir, new_id), (b, a, b_dir, gen_random_uuid()), (via, b, a_dir, gen_random_uuid()))
              AS s(src, dst, is_dir, id) LOOP
    IF step.is_dir THEN
      made := @schema@.pgfiles_rename_dir(jsonb_build_object('id', step.id, 'from', step.src || '/', 'to', step.dst || '/'), srv, n);
      files := files + (made->>'files')::bigint;
    ELSE
      made := @schema@.pgfiles_rename(jsonb_build_object('id', step.id, 'history', gen_random_uuid(), 'from', step.src, 'to', step.dst,
        'ctime', op->'ctime'), srv, n);
      also := also || coalesce(made->'also', '[]');
    END IF;
  END LOOP;
  -- A role that may not remove rows leaves the way itself in history.
  IF NOT @schema@.pgfiles_limited() THEN
    ends := CASE WHEN a_dir THEN ARRAY[a || '/', via || '/', b || '/'] ELSE ARRAY[a, via, b] END;
    PERFORM @schema@.pgfiles_exchanged(ends[1], ends[2], ends[3], a_dir);
  END IF;
  RETURN jsonb_build_object('id', new_id, 'files', files, 'also', also);
END $$;

-- Forgets the way that an exchange took: what came from a says so at b, what left a says where to.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_exchanged(a text, via text, b text, is_dir bool) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE upto text := CASE WHEN is_dir THEN @schema@.pgfiles_hi(b) ELSE b || E'\001' END; r record;
BEGIN
  FOR r IN SELECT p.id, p.key, p.meta, a || substr(p.key, length(b) + 1) AS was FROM @schema@.pgfiles p
           WHERE p.key ~>=~ b AND p.key ~<~ upto AND starts_with(p.meta #>> '{from,key}', via) LOOP
    UPDATE @schema@.pgfiles p SET meta = jsonb_set(p.meta, '{to}', jsonb_build_object('key', r.key, 'version', r.meta->'version'))
      WHERE p.key = r.was AND starts_with(p.meta #>> '{to,key}', via);
    UPDATE @schema@.pgfiles p SET meta = jsonb_set(p.meta, '{from}', jsonb_build_object('key', r.was, 'version', coalesce((
        SELECT (t.meta->>'version')::bigint - 1 FROM @schema@.pgfiles t WHERE t.key = r.was AND t.meta #>> '{to,key}' = r.key
        ORDER BY (t.meta->>'version')::bigint DESC NULLS LAST LIMIT 1), 1)))
      WHERE p.id = r.id;
  END LOOP;
  DELETE FROM @schema@.pgfiles p WHERE p.key ~>=~ via AND p.key ~<~ CASE WHEN is_dir THEN @schema@.pgfiles_hi(via) ELSE via || E'\001' END;
END $$;
