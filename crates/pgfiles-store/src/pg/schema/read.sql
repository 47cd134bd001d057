-- Stat, list, tree: the newest row of keys, whatever the number of versions and tombstones around them.
--
-- Every range scan walks pgfiles_key_version in its own order. Without the SET clauses a plan made while the table was
-- small, or with stale statistics, sorts or scans it whole (measured: seconds instead of microseconds); they cost 2 µs a call.
--
-- When a directory is alive: its marker is live; or it has no marker and a live key lies below; or its marker is a
-- tombstone and a live key below was written after it, which such a row says of itself (meta.revive).

-- A live key under a tombstoned marker: one probe of the small index pgfiles_revive, usually empty there.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_revived(dir text) RETURNS jsonb LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE r record; head jsonb; seen text;
BEGIN
  FOR r IN SELECT t.key k FROM @schema@.pgfiles t WHERE t.meta ? 'revive' AND t.key ~>=~ dir AND t.key ~<~ @schema@.pgfiles_hi(dir)
           ORDER BY t.key USING ~<~ LOOP
    CONTINUE WHEN r.k = seen;
    seen := r.k;
    SELECT p.meta INTO head FROM @schema@.pgfiles p WHERE p.key = r.k ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
    IF FOUND AND NOT head @> '{"deleted":true}' THEN RETURN head; END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- Live heads of all keys below a prefix, markers included, in byte order, strictly after a key. Reserved rows are none.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_tree(under text, after text, lim int) RETURNS TABLE(key text, id uuid, meta jsonb)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  r record; lo text := CASE WHEN after IS NULL THEN under ELSE after || E'\001' END; hi text := @schema@.pgfiles_hi(under);
  last text; stale int; jumped bool;
BEGIN
  IF lim <= 0 THEN RETURN; END IF;
  LOOP
    jumped := false;
    FOR r IN SELECT t.key k, t.id i, t.meta m FROM @schema@.pgfiles t WHERE t.key ~>=~ lo AND t.key ~<~ hi
             ORDER BY t.key USING ~<~, (t.meta->>'version')::bigint DESC NULLS LAST LOOP
      IF r.k = last THEN
        stale := stale + 1;
        -- A jump costs about as much as six rows that are walked over.
        IF stale > 6 THEN lo := last || E'\001'; jumped := true; EXIT; END IF;
        CONTINUE;
      END IF;
      IF under = '' AND left(r.k, 1) = '/' THEN lo := '0'; jumped := true; EXIT; END IF;
      last := r.k; stale := 0;
      IF NOT r.m @> '{"deleted":true}' THEN
        key := r.k; id := r.i; meta := r.m; RETURN NEXT;
        lim := lim - 1;
        IF lim <= 0 THEN RETURN; END IF;
      END IF;
    END LOOP;
    EXIT WHEN NOT jumped;
  END LOOP;
END $$;

-- Something live in a directory without a marker; NULL where there is nothing. Looks at its own names only, so that what was
-- removed below one of them costs nothing.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_implied(dir text) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN (SELECT jsonb_build_object('mtime', coalesce(d.meta->>'mtime', d.mtime)) FROM @schema@.pgfiles_dir(dir, NULL, 1, 0) d);
END $$;

-- What stands at each path (without trailing '/'); no row where nothing is live. A directory wins over a file of its name.
-- Two index probes a path. For an implied directory id, key and meta are NULL and mtime is that of its first live key.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_stat(paths text[], inline_max int)
RETURNS TABLE(ord int, is_dir bool, id uuid, key text, meta jsonb, data bytea, mtime text)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE r record; p text; below jsonb;
BEGIN
  FOR i IN 1 .. cardinality(paths) LOOP
    p := paths[i]; ord := i; below := NULL;
    -- The first row of the directory's range is its marker's head, if it has a marker: '<dir>/' sorts before all below.
    SELECT t.id i, t.key k, t.meta m INTO r FROM @schema@.pgfiles t WHERE t.key ~>=~ (p || '/') AND t.key ~<~ (p || '0')
      ORDER BY t.key USING ~<~, (t.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
    IF r.k IS NOT NULL THEN
      IF length(r.k) > length(p) + 1 THEN
        IF NOT r.m @> '{"deleted":true}' THEN below := r.m;
        ELSE below := @schema@.pgfiles_implied(p || '/'); END IF;
      ELSIF NOT r.m @> '{"deleted":true}' THEN
        is_dir := true; id := r.i; key := r.k; meta := r.m; data := NULL; mtime := NULL; RETURN NEXT;
        CONTINUE;
      ELSE
        below := @schema@.pgfiles_revived(p || '/');
      END IF;
      IF below IS NOT NULL THEN
        is_dir := true; id := NULL; key := NULL; meta := NULL; data := NULL; mtime := below->>'mtime'; RETURN NEXT;
        CONTINUE;
      END IF;
    END IF;
    SELECT t.id i, t.meta m, t.data d INTO r FROM @schema@.pgfiles t WHERE t.key = p
      ORDER BY (t.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
    IF FOUND AND NOT r.m @> '{"deleted":true}' THEN
      is_dir := false; id := r.i; key := p; meta := r.m; mtime := NULL;
      data := CASE WHEN octet_length(r.d) <= inline_max AND NOT r.m ?| '{layout,body}' THEN r.d END;
      RETURN NEXT;
    END IF;
  END LOOP;
END $$;

-- A page of a directory. Costs 3 µs a name while names are flat, a jump (40 µs) per subdirectory, 3 µs per dead name of
-- this very directory; what lies below subdirectories is never walked. next_pos of the last row is where the next page starts.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_dir(dir text, pos text, lim int, inline_max int)
RETURNS TABLE(name text, is_dir bool, id uuid, key text, meta jsonb, data bytea, mtime text, next_pos text)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  r record; lo text := coalesce(pos, dir || E'\001'); hi text := @schema@.pgfiles_hi(dir); n int := length(dir);
  s int; last text; stale int; jumped bool; below jsonb;
BEGIN
  IF lim <= 0 THEN RETURN; END IF;
  LOOP
    jumped := false;
    FOR r IN SELECT t.key k, t.id i, t.meta m, t.data d FROM @schema@.pgfiles t WHERE t.key ~>=~ lo AND t.key ~<~ hi
             ORDER BY t.key USING ~<~, (t.meta->>'version')::bigint DESC NULLS LAST LOOP
      IF r.k = last THEN
        stale := stale + 1;
        IF stale > 6 THEN lo := last || E'\001'; jumped := true; EXIT; END IF;
        CONTINUE;
      END IF;
      last := r.k; stale := 0;
      s := strpos(substr(r.k, n + 1), '/');
      IF s = 1 THEN lo := left(r.k, n) || '0'; jumped := true; EXIT; END IF; -- reserved '/…', or 'a//b'
      IF s = 0 THEN
        IF NOT r.m @> '{"deleted":true}' THEN
          name := substr(r.k, n + 1); is_dir := false; id := r.i; key := r.k; meta := r.m; mtime := NULL;
          data := CASE WHEN octet_length(r.d) <= inline_max AND NOT r.m ?| '{layout,body}' THEN r.d END;
          next_pos := r.k || E'\001'; RETURN NEXT;
          lim := lim - 1;
          IF lim <= 0 THEN RETURN; END IF;
        END IF;
        CONTINUE;
      END IF;
      lo := left(r.k, n + s - 1) || '0';
      id := NULL; key := NULL; meta := NULL; below := NULL;
      IF length(r.k) > n + s THEN
        IF NOT r.m @> '{"deleted":true}' THEN below := r.m;
        ELSE below := @schema@.pgfiles_implied(left(r.k, n + s)); END IF;
      ELSIF NOT r.m @> '{"deleted":true}' THEN
        id := r.i; key := r.k; meta := r.m;
      ELSE
        below := @schema@.pgfiles_revived(r.k);
      END IF;
      IF id IS NOT NULL OR below IS NOT NULL THEN
        name := substr(r.k, n + 1, s - 1); is_dir := true; data := NULL; mtime := below->>'mtime'; next_pos := lo; RETURN NEXT;
        lim := lim - 1;
        IF lim <= 0 THEN RETURN; END IF;
      END IF;
      jumped := true; EXIT;
    END LOOP;
    EXIT WHEN NOT jumped;
  END LOOP;
END $$;

-- Whether a directory ('' or ending in '/') is alive.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_dir_alive(dir text) RETURNS bool LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN dir = '' OR coalesce((SELECT s.is_dir FROM @schema@.pgfiles_stat(ARRAY[left(dir, -1)], 0) s), false);
END $$;
