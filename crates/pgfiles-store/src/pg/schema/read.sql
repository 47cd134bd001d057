-- Stat, list, tree: the newest row of keys, whatever the number of versions and tombstones around them.
--
-- Every range scan walks pgfiles_key_version in its own order. Without the SET clauses a plan made while the table was
-- small, or with stale statistics, sorts or scans it whole (measured: seconds instead of microseconds); they cost 2 µs a call.
--
-- When a directory is alive: its marker is live; or it has no marker and a live key lies below; or its marker is a
-- tombstone and a live key below was written after it, which such a row says of itself (meta.revive).

-- A live key under a tombstoned marker: one probe of the small index pgfiles_revive, usually empty there. For pgfiles_stat and
-- pgfiles_dir, whose settings hold here as well.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_revived(dir text) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
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

-- Whether a directory is alive: NULL if it is dead, else the meta whose mtime it shows, its marker's or a live key's below. `k` and
-- `m` are of the first row of its range, which is its marker's head if it has a marker, for '<dir>/' sorts before all below;
-- `revived`: whether any row below may say revive, where that was looked up. Inlined.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_shown(dir text, k text, m jsonb, revived bool) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN NOT m @> '{"deleted":true}' THEN m
              WHEN k <> dir THEN @schema@.pgfiles_implied(dir)
              WHEN k = dir AND revived THEN @schema@.pgfiles_revived(dir) END
$$;

-- What stands at each path (without trailing '/'); no row where nothing is live. A directory wins over a file of its name.
-- Two index probes a path. For an implied directory id, key and meta are NULL and mtime is that of its first live key.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_stat(paths text[], inline_max int)
RETURNS TABLE(ord int, is_dir bool, id uuid, key text, meta jsonb, data bytea, mtime text)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE r record; p text; below jsonb;
BEGIN
  FOR i IN 1 .. cardinality(paths) LOOP
    p := paths[i]; ord := i;
    SELECT t.id i, t.key k, t.meta m INTO r FROM @schema@.pgfiles t WHERE t.key ~>=~ (p || '/') AND t.key ~<~ (p || '0')
      ORDER BY t.key USING ~<~, (t.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
    below := @schema@.pgfiles_shown(p || '/', r.k, r.m, true);
    IF below IS NOT NULL THEN
      is_dir := true; data := NULL;
      IF r.k = p || '/' AND NOT r.m @> '{"deleted":true}' THEN id := r.i; key := r.k; meta := r.m; mtime := NULL;
      ELSE id := NULL; key := NULL; meta := NULL; mtime := below->>'mtime';
      END IF;
      RETURN NEXT;
      CONTINUE;
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

-- A page of a directory. Names are walked over while they are flat, dead or alive. From a subdirectory, or a name with many
-- versions, on the walk hops from name to name, one descent of the index each (hop), until some names in a row were flat; what
-- lies below subdirectories is never walked. Measured: a hop costs about as much as two names that are walked over; a walk
-- that begins, as much as fifteen. next_pos of the last row is where the next page starts.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_dir(dir text, pos text, lim int, inline_max int)
RETURNS TABLE(name text, is_dir bool, id uuid, key text, meta jsonb, data bytea, mtime text, next_pos text)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  r record; lo text := coalesce(pos, dir || E'\001'); hi text := @schema@.pgfiles_hi(dir); n int := length(dir);
  last text; stale int; jumped bool; below jsonb;
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
      IF strpos(substr(r.k, n + 1), '/') > 0 THEN lo := r.k; jumped := true; EXIT; END IF;
      CONTINUE WHEN r.m @> '{"deleted":true}';
      name := substr(r.k, n + 1); is_dir := false; id := r.i; key := r.k; meta := r.m; mtime := NULL;
      data := CASE WHEN octet_length(r.d) <= inline_max AND NOT r.m ?| '{layout,body}' THEN r.d END;
      next_pos := r.k || E'\001'; RETURN NEXT;
      lim := lim - 1;
      IF lim <= 0 THEN RETURN; END IF;
    END LOOP;
    EXIT WHEN NOT jumped;
    jumped := false;
    -- s: where the '/' of a subdirectory is, 0 in a flat name, 1 in '/…' (reserved) and 'a//b', which have no name here. flat: how
    -- many flat names of few versions in a row. The first row of each name that is alive, and the last.
    FOR r IN
      WITH RECURSIVE hop AS (
        SELECT h.*, 0 AS flat FROM (SELECT t.key k, t.id i, t.meta m, t.data d, strpos(substr(t.key, n + 1), '/') s
          FROM @schema@.pgfiles t WHERE t.key ~>=~ lo AND t.key ~<~ hi
          ORDER BY t.key USING ~<~, (t.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) h
        UNION ALL
        SELECT x.*, CASE WHEN x.s > 0 OR (x.m->>'version')::bigint > 6 THEN 0 ELSE h.flat + 1 END
        FROM hop h, LATERAL (SELECT t.key k, t.id i, t.meta m,
            CASE WHEN octet_length(t.data) <= inline_max THEN t.data END d, strpos(substr(t.key, n + 1), '/') s
          FROM @schema@.pgfiles t
          WHERE t.key ~>=~ CASE h.s WHEN 0 THEN h.k || E'\001' ELSE left(h.k, n + h.s - 1) || '0' END AND t.key ~<~ hi
          ORDER BY t.key USING ~<~, (t.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) x
        WHERE h.flat < 6)
      SELECT h.*, below.rv FROM hop h, LATERAL (SELECT h.s > 1 AND h.m @> '{"deleted":true}' AND EXISTS (SELECT FROM @schema@.pgfiles v
          WHERE v.meta ? 'revive' AND v.key ~>=~ left(h.k, n + h.s) AND v.key ~<~ (left(h.k, n + h.s - 1) || '0')) rv OFFSET 0) below
      WHERE h.flat >= 6 OR h.s <> 1 AND (below.rv OR NOT h.m @> '{"deleted":true}' OR h.s > 0 AND length(h.k) > n + h.s)
    LOOP
      IF r.flat >= 6 THEN lo := r.k || E'\001'; jumped := true; END IF;
      mtime := NULL;
      IF r.s = 0 THEN
        CONTINUE WHEN r.m @> '{"deleted":true}';
        name := substr(r.k, n + 1); is_dir := false; id := r.i; key := r.k; meta := r.m; next_pos := r.k || E'\001';
        data := CASE WHEN octet_length(r.d) <= inline_max AND NOT r.m ?| '{layout,body}' THEN r.d END;
      ELSE
        below := @schema@.pgfiles_shown(left(r.k, n + r.s), r.k, r.m, r.rv);
        CONTINUE WHEN below IS NULL;
        name := substr(r.k, n + 1, r.s - 1); is_dir := true; data := NULL; next_pos := left(r.k, n + r.s - 1) || '0';
        IF length(r.k) = n + r.s AND NOT r.m @> '{"deleted":true}' THEN id := r.i; key := r.k; meta := r.m;
        ELSE id := NULL; key := NULL; meta := NULL; mtime := below->>'mtime';
        END IF;
      END IF;
      RETURN NEXT;
      lim := lim - 1;
      IF lim <= 0 THEN RETURN; END IF;
    END LOOP;
    EXIT WHEN NOT jumped;
  END LOOP;
END $$;

-- Whether a directory ('' or ending in '/') is alive.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_dir_alive(dir text) RETURNS bool LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN dir = '' OR coalesce((SELECT s.is_dir FROM @schema@.pgfiles_stat(ARRAY[left(dir, -1)], 0) s), false);
END $$;
