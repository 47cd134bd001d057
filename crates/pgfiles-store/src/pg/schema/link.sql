-- Hard links: names that share one inode's content, attributes and history from the link on. The head of each name carries
-- meta.hard_link, the group (a random uuid, so that nobody joins one by guessing), and meta.nlink, how many live names it has.
-- What is written to one name is written to all in the same transaction; a row that was written for another name says so
-- in meta.twin (the id of that row), by which a version in progress is recognised under every name.

-- The most names of one inode: every write commits a row for each.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_links_max() RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 1000';

-- Whoever changes a group has it alone until the transaction ends.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_lock_links(hard_link text) RETURNS void LANGUAGE sql VOLATILE AS
$$ SELECT pg_advisory_xact_lock(hashtextextended(hard_link, 7106)) $$;

-- The live names of a group in byte order, with their heads: two index probes a name, however long the histories are.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_links(hard_link text) RETURNS TABLE(key text, id uuid, meta jsonb) LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE k text := ''; h record;
BEGIN
  LOOP
    SELECT t.key INTO k FROM @schema@.pgfiles t WHERE t.meta ? 'hard_link' AND t.meta->>'hard_link' = pgfiles_links.hard_link AND t.key ~>~ k
      ORDER BY t.key USING ~<~ LIMIT 1;
    IF NOT FOUND THEN RETURN; END IF;
    SELECT t.id, t.meta INTO h FROM @schema@.pgfiles t WHERE t.key = k ORDER BY (t.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
    IF NOT h.meta @> '{"deleted":true}' AND h.meta->>'hard_link' = hard_link THEN
      key := k; id := h.id; meta := h.meta; RETURN NEXT;
    END IF;
  END LOOP;
END $$;

-- Counts the names of a group again after one came or went, and says so in the head of each. The names.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_relink(hard_link text, ctime text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE ids uuid[]; keys text[]; many int;
BEGIN
  PERFORM @schema@.pgfiles_lock_links(hard_link);
  SELECT array_agg(l.id), array_agg(l.key), count(*) INTO ids, keys, many FROM @schema@.pgfiles_links(hard_link) l;
  UPDATE @schema@.pgfiles p SET meta = @schema@.pgfiles_patched(CASE WHEN many = 1 THEN p.meta - '{hard_link,nlink}'::text[]
      ELSE p.meta || jsonb_build_object('nlink', many) END, jsonb_build_object('ctime', coalesce(ctime, @schema@.pgfiles_now())))
    WHERE p.id = ANY (ids) AND (p.meta->>'nlink')::int IS DISTINCT FROM many;
  RETURN coalesce(to_jsonb(keys), '[]');
END $$;

-- Writes the version that was just written for one name for the others: `made` and `body` as they stand at `k`. Where the
-- other name's head is the version that is being extended, it is extended too. The other names.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_put_twins(new_id uuid, k text, made jsonb, body bytea, extends uuid) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE l record; twin jsonb; revives bool; keys text[] := '{}'; in_place bool;
BEGIN
  FOR l IN SELECT * FROM @schema@.pgfiles_links(made->>'hard_link') t WHERE t.key <> k LOOP
    revives := @schema@.pgfiles_revives(l.key);
    twin := (made - '{version,revive,from,to,restored_from,op,twin}'::text[]) || jsonb_build_object('twin', new_id)
      || CASE WHEN revives THEN '{"revive":true}'::jsonb ELSE '{}' END;
    in_place := (l.id = extends OR l.meta->>'twin' = extends::text) AND NOT @schema@.pgfiles_limited();
    IF in_place THEN
      IF l.meta ? 'lin' THEN PERFORM @schema@.pgfiles_make_way(l.id); END IF;
      UPDATE @schema@.pgfiles p SET id = @schema@.pgfiles_twin_id(new_id, l.key), data = body,
        meta = twin || jsonb_build_object('version', l.meta->'version') || @schema@.pgfiles_origin(l.meta) WHERE p.id = l.id;
    ELSE
      INSERT INTO @schema@.pgfiles(id, key, meta, data) VALUES (@schema@.pgfiles_twin_id(new_id, l.key), l.key,
        twin || jsonb_build_object('version', coalesce((l.meta->>'version')::bigint, 0) + 1), body);
    END IF;
    keys := keys || l.key;
  END LOOP;
  RETURN to_jsonb(keys);
END $$;

-- One more name for a file.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_link(op jsonb, srv jsonb, n int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  src text := op->>'from'; dst text := op->>'to'; new_id uuid := (op->>'id')::uuid; h record; d record; made jsonb; many int;
  body bytea; hard_link text; revives bool; also jsonb;
BEGIN
  IF right(src, 1) = '/' OR right(dst, 1) = '/' OR left(src, 1) = '/' OR left(dst, 1) = '/' OR src = dst THEN
    PERFORM @schema@.pgfiles_fail('PF004', n, format('%s cannot be a name of %s', to_json(dst), to_json(src)));
  END IF;
  PERFORM @schema@.pgfiles_revives(src); -- for its lock
  revives := @schema@.pgfiles_revives(dst);
  SELECT p.id, p.meta INTO d FROM @schema@.pgfiles p WHERE p.id = new_id AND p.key = dst;
  IF FOUND THEN RETURN jsonb_build_object('id', d.id, 'key', dst, 'meta', d.meta); END IF;
  LOOP
    SELECT p.id, p.meta INTO h FROM @schema@.pgfiles p WHERE p.key = src ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
    IF h.id IS NULL OR h.meta @> '{"deleted":true}' THEN
      PERFORM @schema@.pgfiles_fail('PF001', n, to_json(src) || ' does not exist');
    END IF;
    hard_link := coalesce(h.meta->>'hard_link', gen_random_uuid()::text);
    PERFORM @schema@.pgfiles_lock_links(hard_link);
    SELECT p.meta, p.data INTO made, body FROM @schema@.pgfiles p WHERE p.id = h.id AND p.key = src FOR UPDATE;
    CONTINUE WHEN NOT FOUND OR made->>'hard_link' IS DISTINCT FROM h.meta->>'hard_link';
    -- A newer version may have come while we waited for the lock.
    EXIT WHEN h.id = (SELECT p.id FROM @schema@.pgfiles p WHERE p.key = src ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1);
  END LOOP;
  IF @schema@.pgfiles_crosses(src, dst) THEN
    PERFORM @schema@.pgfiles_fail('PF009', n, format('%s and %s lie on two sides of the edge of a grant', to_json(src), to_json(dst)));
  END IF;
  SELECT count(*) INTO many FROM @schema@.pgfiles_links(hard_link);
  many := greatest(many, 1) + 1;
  IF many > @schema@.pgfiles_links_max() THEN
    PERFORM @schema@.pgfiles_fail('PF008', n, format('%s has %s names, more cannot be had', to_json(src), many - 1));
  END IF;
  SELECT p.id, p.meta INTO d FROM @schema@.pgfiles p WHERE p.key = dst ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
  PERFORM @schema@.pgfiles_expect('{"absent":true}', dst, d.id, d.meta, n);
  IF NOT made ? 'ino' THEN
    made := made || jsonb_build_object('ino', @schema@.pgfiles_implied_ino(src || '/'));
  END IF;
  made := @schema@.pgfiles_patched(made || jsonb_build_object('hard_link', hard_link, 'nlink', many),
    CASE WHEN jsonb_typeof(op->'ctime') = 'string' THEN jsonb_build_object('ctime', op->'ctime') ELSE '{}' END);
  UPDATE @schema@.pgfiles p SET meta = made WHERE p.id = h.id;
  INSERT INTO @schema@.pgfiles(id, key, meta, data) VALUES (new_id, dst,
    (made - '{from,to,restored_from,revive,op,twin}'::text[]) || srv
      || jsonb_build_object('version', coalesce((d.meta->>'version')::bigint, 0) + 1, 'twin', coalesce(made->'twin', to_jsonb(h.id)))
      || CASE WHEN revives THEN '{"revive":true}'::jsonb ELSE '{}' END, body) ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN PERFORM @schema@.pgfiles_fail('PF002', n, to_json(dst) || ' was made at this moment'); END IF;
  also := @schema@.pgfiles_relink(hard_link, made->>'ctime');
  SELECT p.meta INTO made FROM @schema@.pgfiles p WHERE p.id = new_id;
  RETURN jsonb_build_object('id', new_id, 'key', dst, 'meta', made, 'also', also);
END $$;
