-- What makes every row that plain SQL writes a file (docs/semantics.md, SQL). The triggers are created by triggers_on.sql.

-- Whether a live row written at key now lies under a tombstoned marker, and so has to say of itself that it revives the
-- directory. Until the transaction ends, the answer stays true: the directories that it rests on are locked (shared; a
-- removal of a directory takes the lock exclusively before it looks whether it is empty). Buckets, since a transaction may
-- write 100,000 keys and the lock table is small. SECURITY DEFINER: a fenced role does not see the directories above its
-- prefix; only a boolean comes out.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_revives(k text) RETURNS bool LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE dir text := @schema@.pgfiles_parent(k); dead bool;
BEGIN
  WHILE dir <> '' AND dir <> '/' LOOP
    PERFORM pg_advisory_xact_lock_shared(7101, hashtext(dir) & 1023);
    SELECT p.meta @> '{"deleted":true}' INTO dead FROM @schema@.pgfiles p WHERE p.key = dir
      ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
    IF FOUND THEN RETURN dead; END IF;
    dir := @schema@.pgfiles_parent(dir);
  END LOOP;
  RETURN false;
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgfiles_content_type(k text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE lower(substring(k FROM '\.([^./]+)$'))
    WHEN 'txt' THEN 'text/plain' WHEN 'log' THEN 'text/plain' WHEN 'md' THEN 'text/markdown' WHEN 'csv' THEN 'text/csv'
    WHEN 'html' THEN 'text/html' WHEN 'htm' THEN 'text/html' WHEN 'css' THEN 'text/css' WHEN 'js' THEN 'text/javascript'
    WHEN 'json' THEN 'application/json' WHEN 'xml' THEN 'application/xml' WHEN 'yaml' THEN 'application/yaml'
    WHEN 'yml' THEN 'application/yaml' WHEN 'pdf' THEN 'application/pdf' WHEN 'zip' THEN 'application/zip'
    WHEN 'gz' THEN 'application/gzip' WHEN 'tar' THEN 'application/x-tar' WHEN 'png' THEN 'image/png'
    WHEN 'jpg' THEN 'image/jpeg' WHEN 'jpeg' THEN 'image/jpeg' WHEN 'gif' THEN 'image/gif' WHEN 'svg' THEN 'image/svg+xml'
    WHEN 'webp' THEN 'image/webp' WHEN 'mp3' THEN 'audio/mpeg' WHEN 'mp4' THEN 'video/mp4' WHEN 'wasm' THEN 'application/wasm'
    WHEN 'sql' THEN 'application/sql' WHEN 'toml' THEN 'application/toml' WHEN 'py' THEN 'text/x-python'
    WHEN 'rs' THEN 'text/x-rust' WHEN 'sh' THEN 'application/x-sh' ELSE 'application/octet-stream' END
$$;

-- What a key must be that SQL brings.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_check_key(k text) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF left(k, 1) = '/' THEN
    RAISE EXCEPTION 'key % begins with "/", which is reserved for pgfiles', to_json(left(k, 200)) USING ERRCODE = 'PF004',
      HINT = 'Write the key without its leading "/".';
  ELSIF k = '' THEN
    RAISE EXCEPTION 'a key must not be empty' USING ERRCODE = 'PF004';
  ELSIF octet_length(k) > 2600 THEN
    RAISE EXCEPTION 'key of % bytes: at most 2600 fit', octet_length(k) USING ERRCODE = 'PF004';
  END IF;
END $$;

-- meta of a row that plain SQL inserts: the attributes of a live head, then what the server knows, then what the user said,
-- then what only the server may say.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_filled(k text, given jsonb, body bytea) RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  head jsonb; made jsonb; at text := @schema@.pgfiles_now(); dead bool; kind text; marker bool := right(k, 1) = '/';
BEGIN
  IF jsonb_typeof(given) <> 'object' THEN given := '{}'; END IF;
  -- Marks of ours, and a layout, mean nothing on a row that does not come from us.
  IF given::text LIKE '%null%' THEN
    given := (SELECT coalesce(jsonb_object_agg(f.key, f.value), '{}') FROM jsonb_each(given) f WHERE f.value <> 'null');
  END IF;
  given := given - '{version,created_at,xid,lin,body,layout,revive,op,hard_link,nlink,twin,allocated,alias}'::text[];
  SELECT p.meta INTO head FROM @schema@.pgfiles p WHERE p.key = k ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
  IF jsonb_typeof(head) <> 'object' THEN head := NULL; END IF;
  dead := given @> '{"deleted":true}';
  made := jsonb_build_object('version', coalesce((head->>'version')::bigint, 0) + 1, 'created_at', at,
    'xid', pg_current_xact_id()::text, 'by', CASE jsonb_typeof(given->'by') WHEN 'object' THEN given->'by' ELSE '{}' END
    || jsonb_build_object('role', session_user));
  kind := CASE WHEN marker THEN 'dir' ELSE coalesce(given->>'kind', 'file') END;
  IF dead THEN
    PERFORM @schema@.pgfiles_revives(k); -- only for its lock
    RETURN jsonb_build_object('kind', kind) || given || made || CASE WHEN head ? 'ino' THEN jsonb_build_object('ino', head->'ino') ELSE '{}' END;
  END IF;
  made := made || CASE WHEN @schema@.pgfiles_revives(k) THEN '{"revive":true}'::jsonb ELSE '{}' END;
  IF marker THEN
    made := made || '{"kind":"dir","size":0}';
  ELSE
    made := made || jsonb_build_object('size', octet_length(CASE kind WHEN 'symlink' THEN convert_to(coalesce(given->>'target', ''), 'UTF8')
      ELSE coalesce(body, '') END), 'etag', encode(sha256(coalesce(body, ''::bytea)), 'hex'));
  END IF;
  RETURN jsonb_build_object('kind', kind, 'mtime', at, 'ctime', at)
    || CASE WHEN marker THEN '{}' ELSE jsonb_build_object('content_type', @schema@.pgfiles_content_type(k), 'ino', @schema@.pgfiles_new_ino()) END
    -- A row that is written for one name of several alone is another file: the trigger writes no other row.
    || CASE WHEN head @> '{"deleted":true}' OR head IS NULL THEN '{}'
       ELSE @schema@.pgfiles_attributes(head) - CASE WHEN head ? 'hard_link' THEN '{ctime,hard_link,nlink,ino}' ELSE '{ctime}' END::text[] END
    || given || made;
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgfiles_on_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM @schema@.pgfiles_check_key(NEW.key);
  NEW.meta := @schema@.pgfiles_filled(NEW.key, NEW.meta, NEW.data);
  IF NEW.meta @> '{"deleted":true}' OR right(NEW.key, 1) = '/' THEN NEW.data := NULL;
  ELSIF NEW.data IS NULL AND NEW.meta->>'kind' = 'file' THEN NEW.data := '';
  END IF;
  RETURN NEW;
END $$;

-- An UPDATE of data by SQL: another content must have another id, or a cache would be wrong. What referred to the old
-- bytes gets them first. Our own hand-over (a row that loses meta.body) is left alone.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_on_update_data() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF left(OLD.key, 1) = '/' THEN
    RAISE EXCEPTION 'key % is reserved for pgfiles', to_json(OLD.key) USING ERRCODE = 'PF004';
  END IF;
  IF OLD.meta ? 'lin' AND NOT OLD.meta ?| '{layout,body}' THEN
    PERFORM @schema@.pgfiles_hand_over(OLD.id, OLD.meta->>'lin', OLD.data);
  END IF;
  NEW.id := gen_random_uuid();
  NEW.meta := (NEW.meta - '{layout,body,lin,allocated}'::text[]) || jsonb_build_object('size', coalesce(octet_length(NEW.data), 0),
    'etag', encode(sha256(coalesce(NEW.data, ''::bytea)), 'hex'), 'mtime', @schema@.pgfiles_now());
  RETURN NEW;
END $$;

-- An UPDATE of key by SQL: reserved keys stay reserved, and the row rests on other directories now.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_on_update_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF left(OLD.key, 1) = '/' AND left(NEW.key, 1) = '/' THEN RETURN NEW; END IF;
  PERFORM @schema@.pgfiles_check_key(NEW.key);
  PERFORM @schema@.pgfiles_check_key(OLD.key);
  NEW.meta := NEW.meta - 'revive';
  IF @schema@.pgfiles_revives(NEW.key) AND NOT NEW.meta @> '{"deleted":true}' THEN NEW.meta := NEW.meta || '{"revive":true}'; END IF;
  RETURN NEW;
END $$;

-- Gives the bytes of a row that is about to change or go to the first row that refers to them; the others refer to that.
-- Only rows of the same lineage are meant: a forged reference leads nowhere. SECURITY DEFINER: the referrers may lie outside
-- what the caller sees; they already had these bytes.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_hand_over(holder uuid, lin text, body bytea) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE heir uuid;
BEGIN
  SELECT r.id INTO heir FROM @schema@.pgfiles r WHERE r.meta ? 'body' AND (r.meta->>'body')::uuid = holder AND r.meta->>'lin' = lin
    ORDER BY r.id LIMIT 1 FOR UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  UPDATE @schema@.pgfiles r SET data = body, meta = r.meta - 'body' WHERE r.id = heir;
  UPDATE @schema@.pgfiles r SET meta = jsonb_set(r.meta, '{body}', to_jsonb(heir::text))
    WHERE r.meta ? 'body' AND (r.meta->>'body')::uuid = holder AND r.meta->>'lin' = lin;
END $$;
REVOKE ALL ON FUNCTION @schema@.pgfiles_hand_over(uuid, text, bytea) FROM PUBLIC;

-- The same for a version in progress that is about to go on in place: the name that it was renamed from refers to it, maybe.
-- Whoever calls it otherwise makes history hold bytes of its own, which changes nothing else.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_make_way(holder uuid) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  IF EXISTS (SELECT FROM @schema@.pgfiles r WHERE r.meta ? 'body' AND (r.meta->>'body')::uuid = holder) THEN
    PERFORM @schema@.pgfiles_hand_over(p.id, p.meta->>'lin', p.data) FROM @schema@.pgfiles p WHERE p.id = holder;
  END IF;
END $$;
