-- Copy and restore: a new row with the content of another.

-- Bodies up to this many bytes that are inline are copied, so that a live inline file has its bytes in `data` for SQL
-- readers; larger ones (only SQL writes them) are referred to. As layout::INLINE_BYTES_MAX.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_inline_max() RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 262144';

-- What a new row at dst needs to have the content of a row: fields of meta, and data. `fenced`: nothing may be referred to.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_content(source uuid, dst text, fenced bool, OUT part jsonb, OUT body bytea)
LANGUAGE plpgsql AS $$
DECLARE r record; holder uuid := source; lin jsonb;
BEGIN
  SELECT p.meta, p.data INTO r FROM @schema@.pgfiles p WHERE p.id = source;
  part := (SELECT coalesce(jsonb_object_agg(f, r.meta->f), '{}')
    FROM unnest('{kind,size,allocated,etag,mtime,target,rdev,layout}'::text[]) f WHERE r.meta ? f);
  body := r.data;
  IF r.meta ? 'layout' THEN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(r.meta->>'lin', 7103));
    part := part || jsonb_build_object('lin', r.meta->'lin');
    IF fenced THEN SELECT c.lin, c.manifest INTO lin, body FROM @schema@.pgfiles_clone_bodies(r.meta, r.data, dst) c;
      part := part || jsonb_build_object('lin', lin);
    END IF;
    RETURN;
  END IF;
  IF r.meta ? 'body' THEN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(r.meta->>'lin', 7103));
    -- Read again under the lock: the bytes may have been handed over.
    SELECT p.id, b.data INTO holder, body FROM @schema@.pgfiles p JOIN @schema@.pgfiles b
      ON b.id = coalesce((p.meta->>'body')::uuid, p.id) AND b.meta->>'lin' = p.meta->>'lin' WHERE p.id = source;
    IF NOT FOUND THEN RAISE EXCEPTION 'the bytes of row % are gone', source USING ERRCODE = 'PF004'; END IF;
    holder := coalesce((SELECT (p.meta->>'body')::uuid FROM @schema@.pgfiles p WHERE p.id = source), source);
  END IF;
  IF octet_length(body) <= @schema@.pgfiles_inline_max() OR body IS NULL OR fenced
     OR @schema@.pgfiles_limited() THEN
    RETURN;
  END IF;
  lin := coalesce(r.meta->'lin', to_jsonb(gen_random_uuid()));
  IF NOT r.meta ? 'lin' THEN
    UPDATE @schema@.pgfiles p SET meta = p.meta || jsonb_build_object('lin', lin) WHERE p.id = holder;
  END IF;
  part := part || jsonb_build_object('lin', lin, 'body', holder);
  body := NULL;
END $$;

-- Copies the body rows of a manifest to the directory of dst, in a lineage of their own.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_clone_bodies(meta jsonb, source bytea, dst text, OUT lin jsonb, OUT manifest bytea)
LANGUAGE plpgsql AS $$
DECLARE lineage uuid := gen_random_uuid(); leaf record; fresh uuid; entries bytea;
  zeros bytea := '\x00000000000000000000000000000000';
BEGIN
  lin := to_jsonb(lineage);
  IF meta #>> '{layout,levels}' = '1' THEN
    manifest := @schema@.pgfiles_clone_rows(source, meta->>'lin', lineage, dst);
    RETURN;
  END IF;
  manifest := '';
  FOR leaf IN SELECT s.ord, b.data FROM @schema@.pgfiles_slots(source) s
              LEFT JOIN @schema@.pgfiles b ON b.id = s.entry AND b.meta->>'lin' = pgfiles_clone_bodies.meta->>'lin' ORDER BY s.ord LOOP
    IF leaf.data IS NULL THEN manifest := manifest || zeros; CONTINUE; END IF;
    entries := @schema@.pgfiles_clone_rows(leaf.data, meta->>'lin', lineage, dst);
    fresh := gen_random_uuid();
    INSERT INTO @schema@.pgfiles(id, key, meta, data) VALUES (fresh, @schema@.pgfiles_body_key(dst, lineage, fresh),
      jsonb_build_object('version', 1, 'lin', lineage, 'sum', encode(sha256(entries), 'hex')), entries);
    manifest := manifest || uuid_send(fresh);
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgfiles_body_key(file text, lineage uuid, id uuid) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT '/' || @schema@.pgfiles_parent(file) || replace(lineage::text, '-', '') || '/' || replace(id::text, '-', '')
$$;

-- Slices stay slices, for which the ids of the copies have the digit 7.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_clone_rows(source bytea, old_lin text, lineage uuid, dst text) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE manifest bytea;
BEGIN
  WITH slots AS MATERIALIZED (SELECT * FROM @schema@.pgfiles_slots(source)),
  fresh AS MATERIALIZED (SELECT d.entry, set_byte(b, 6, get_byte(b, 6) & 15 | 112) AS id
    FROM (SELECT DISTINCT s.entry FROM slots s) d, LATERAL (SELECT uuid_send(gen_random_uuid()) AS b WHERE d.entry IS NOT NULL OFFSET 0) made),
  copied AS (INSERT INTO @schema@.pgfiles(id, key, meta, data)
    SELECT c.id, @schema@.pgfiles_body_key(dst, lineage, c.id), b.meta || jsonb_build_object('lin', lineage), b.data
    FROM (SELECT f.entry, encode(f.id, 'hex')::uuid AS id FROM fresh f) c JOIN @schema@.pgfiles b ON b.id = c.entry AND b.meta->>'lin' = old_lin
    RETURNING id)
  SELECT string_agg(CASE WHEN c.id IS NULL THEN '\x00000000000000000000000000000000'
      WHEN s.slice IS NULL THEN f.id ELSE set_byte(f.id, 6, get_byte(f.id, 6) & 15 | (8 + s.slice) << 4) END, ''::bytea ORDER BY s.ord)
    INTO manifest FROM slots s LEFT JOIN fresh f ON f.entry = s.entry LEFT JOIN copied c ON uuid_send(c.id) = f.id;
  RETURN coalesce(manifest, '');
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgfiles_copy(op jsonb, srv jsonb, n int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE src text := op->>'from'; dst text := op->>'to'; r record; content record; attributes jsonb;
BEGIN
  IF right(dst, 1) = '/' OR left(dst, 1) = '/' THEN
    PERFORM @schema@.pgfiles_fail('PF004', n, to_json(dst) || ' is not the key of a file');
  END IF;
  IF jsonb_typeof(op->'version') = 'number' THEN
    r := @schema@.pgfiles_kept(src, (op->>'version')::bigint, n);
  ELSE
    SELECT p.* INTO r FROM @schema@.pgfiles p WHERE p.key = src ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
    IF NOT FOUND OR r.meta @> '{"deleted":true}' OR left(src, 1) = '/' THEN
      PERFORM @schema@.pgfiles_fail('PF001', n, to_json(src) || ' does not exist');
    END IF;
  END IF;
  SELECT * INTO content FROM @schema@.pgfiles_content(r.id, dst, @schema@.pgfiles_crosses(src, dst));
  attributes := @schema@.pgfiles_attributes(r.meta) - '{ino,rev,hard_link,nlink}'::text[];
  IF NOT coalesce(op->'meta' ? 'ino', false) THEN
    attributes := attributes || jsonb_build_object('ino', @schema@.pgfiles_new_ino());
  END IF;
  RETURN @schema@.pgfiles_put((op->>'id')::uuid, dst, content.part || coalesce(op->'meta', '{}'), attributes, content.body,
    CASE WHEN jsonb_typeof(op->'expect') = 'object' THEN op->'expect' END, NULL, NULL, @schema@.pgfiles_revives(dst), srv, n);
END $$;

-- A version that is kept and has content.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_kept(k text, number bigint, n int) RETURNS @schema@.pgfiles LANGUAGE plpgsql AS $$
DECLARE r @schema@.pgfiles;
BEGIN
  SELECT p.* INTO r FROM @schema@.pgfiles p WHERE p.key = k AND (p.meta->>'version')::bigint = number LIMIT 1;
  IF NOT FOUND OR left(k, 1) = '/' THEN
    PERFORM @schema@.pgfiles_fail('PF001', n, format('%s has no version %s', to_json(k), number));
  ELSIF r.meta @> '{"deleted":true}' THEN
    PERFORM @schema@.pgfiles_fail('PF004', n, format('version %s of %s is a deletion', number, to_json(k)));
  END IF;
  RETURN r;
END $$;

-- A new version of a key with the content of one of its rows. Its attributes are those of a live head; else the old ones,
-- but for the inode number where the file that was here last lives on under another name, or was another than the row's, whose
-- number may be in use elsewhere.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_bring_back(new_id uuid, k text, source uuid, old jsonb, expect jsonb, srv jsonb, n int)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE content record; attributes jsonb := @schema@.pgfiles_attributes(old) - '{rev,hard_link,nlink}'::text[]; head jsonb;
BEGIN
  SELECT p.meta INTO head FROM @schema@.pgfiles p WHERE p.key = k ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
  IF NOT head @> '{"deleted":true}' THEN
    attributes := '{}';
  ELSIF head ?| '{to,hard_link}' OR head->'ino' IS DISTINCT FROM old->'ino' THEN
    attributes := attributes || jsonb_build_object('ino', @schema@.pgfiles_new_ino());
  END IF;
  SELECT * INTO content FROM @schema@.pgfiles_content(source, k, false);
  RETURN @schema@.pgfiles_put(new_id, k, content.part || jsonb_build_object('restored_from', old->'version'), attributes,
    content.body, expect, NULL, NULL, @schema@.pgfiles_revives(k), srv, n);
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgfiles_restore(op jsonb, srv jsonb, n int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
  r := @schema@.pgfiles_kept(op->>'key', (op->>'version')::bigint, n);
  RETURN @schema@.pgfiles_bring_back((op->>'id')::uuid, op->>'key', r.id, r.meta,
    CASE WHEN jsonb_typeof(op->'expect') = 'object' THEN op->'expect' END, srv, n);
END $$;

-- New versions of all keys below a directory that then had other content than now; what came later stays. One ordered walk
-- over the versions, newest first: the first of a key that is old enough is what stood there then.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_restore_dir(op jsonb, srv jsonb, n int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  dir text := op->>'dir'; at timestamptz := (op->>'at')::timestamptz; r record; head record; last text; decided bool;
  fields text[] := '{kind,size,etag,target,rdev}'; files bigint := 0; same bool; made jsonb;
BEGIN
  IF left(dir, 1) = '/' THEN PERFORM @schema@.pgfiles_fail('PF004', n, to_json(dir) || ' is reserved'); END IF;
  IF EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.id = (op->>'id')::uuid) THEN
    RETURN jsonb_build_object('id', op->'id', 'files', 0);
  END IF;
  IF dir <> '' THEN
    SELECT p.meta INTO r FROM @schema@.pgfiles p WHERE p.key = dir ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
    made := @schema@.pgfiles_put((op->>'id')::uuid, dir, '{"kind":"dir","size":0}',
      CASE WHEN FOUND THEN @schema@.pgfiles_attributes(r.meta) ELSE '{}' END, NULL, NULL, NULL, NULL,
      @schema@.pgfiles_revives(dir), srv, n);
  END IF;
  FOR r IN SELECT p.id, p.key, p.meta FROM @schema@.pgfiles p WHERE p.key ~>~ dir AND p.key ~<~ @schema@.pgfiles_hi(dir)
             AND left(p.key, 1) <> '/'
           ORDER BY p.key USING ~<~, (p.meta->>'version')::bigint DESC NULLS LAST LOOP
    IF r.key IS DISTINCT FROM last THEN last := r.key; head := r; decided := false; END IF;
    CONTINUE WHEN decided OR NOT coalesce(@schema@.pgfiles_time(r.meta->>'created_at') <= at, false);
    decided := true;
    CONTINUE WHEN r.meta @> '{"deleted":true}';
    same := NOT head.meta @> '{"deleted":true}' AND (head.id = r.id OR right(r.key, 1) = '/'
      OR (SELECT bool_and((head.meta->f) IS NOT DISTINCT FROM (r.meta->f)) FROM unnest(fields) f));
    CONTINUE WHEN same;
    PERFORM @schema@.pgfiles_bring_back(gen_random_uuid(), r.key, r.id, r.meta, NULL, srv, n);
    files := files + CASE WHEN right(r.key, 1) = '/' THEN 0 ELSE 1 END;
  END LOOP;
  RETURN jsonb_build_object('id', op->'id', 'files', files);
END $$;
