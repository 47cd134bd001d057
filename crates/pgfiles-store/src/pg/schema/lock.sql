-- Locks of files across the mounts of one prefix (PGFILES_SHARED). Rows of ours, one version each:
-- '/a//lock/<ino>'    meta.locks: [{"mount","lease","owner","start","end","type","pid"}], type r or w, both ends included
-- '/a//lease/<mount>' meta.lease: the number of the mount's lease; meta.beat: when it was last renewed; meta.kept: the lease
--                     before was still there when this one began, and its locks count until the mount has taken them anew
-- A lease that was not renewed for 15 s is revoked by who meets a lock of it (its beat becomes 1970), and then never renewed.
-- Rows are emptied, not deleted: a fenced role may do that too. The sweep deletes them.

-- What the server's memory hangs on: changes when commits that were not flushed may be forgotten.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_life() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT extract(epoch FROM pg_postmaster_start_time())::text || '/' || coalesce((SELECT extract(epoch FROM stats_reset)::text FROM pg_stat_wal), '')
$$;

-- Whether the locks of a lease count. With revoke, one that has expired is ended first: renewing it waits for this transaction,
-- or this for the renewal and then finds it alive.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_lease_alive(prefix text, mount text, lease bigint, revoke bool) RETURNS bool
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE k text := '/' || prefix || '/lease/' || mount; now_is jsonb;
BEGIN
  SELECT p.meta INTO now_is FROM @schema@.pgfiles p WHERE p.key = k;
  IF now_is IS NULL OR NOT ((now_is->>'lease')::bigint = lease OR (now_is->>'lease')::bigint = lease + 1 AND (now_is->>'kept')::bool) THEN
    RETURN false;
  END IF;
  IF @schema@.pgfiles_time(now_is->>'beat') > clock_timestamp() - interval '15 seconds' THEN RETURN true; END IF;
  IF NOT revoke THEN RETURN false; END IF;
  UPDATE @schema@.pgfiles p SET meta = p.meta || '{"beat":"1970-01-01T00:00:00Z"}' WHERE p.key = k AND p.meta->'lease' = now_is->'lease'
    AND NOT coalesce(@schema@.pgfiles_time(p.meta->>'beat') > clock_timestamp() - interval '15 seconds', false);
  RETURN NOT FOUND;
END $$;

-- what: renew; next: the lease becomes the one with the next number; settle: the locks of the one before are taken anew or
-- given up; end. kept: whether the lease was still there. Sent twice,
-- it answers the same.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_lease(prefix text, mount text, lease bigint, what text) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
  k text := '/' || prefix || '/lease/' || mount; dead text := '1970-01-01T00:00:00Z'; was jsonb; kept bool; made jsonb;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  CASE what
  WHEN 'renew' THEN
    UPDATE @schema@.pgfiles p SET meta = p.meta || jsonb_build_object('beat', @schema@.pgfiles_now())
      WHERE p.key = k AND (p.meta->>'lease')::bigint = lease AND p.meta->>'beat' <> dead;
    kept := FOUND;
  WHEN 'next' THEN
    PERFORM pg_advisory_xact_lock(hashtextextended(k, 7105));
    SELECT p.meta INTO was FROM @schema@.pgfiles p WHERE p.key = k FOR UPDATE;
    kept := coalesce(was->>'beat' <> dead AND CASE (was->>'lease')::bigint WHEN lease THEN true
      WHEN lease + 1 THEN (was->>'kept')::bool ELSE false END, false);
    made := jsonb_build_object('version', 1, 'beat', @schema@.pgfiles_now(), 'lease', lease + 1, 'kept', kept);
    UPDATE @schema@.pgfiles p SET meta = made WHERE p.key = k;
    IF NOT FOUND THEN INSERT INTO @schema@.pgfiles(key, meta) VALUES (k, made); END IF;
  WHEN 'settle' THEN
    UPDATE @schema@.pgfiles p SET meta = p.meta || '{"kept":false}' WHERE p.key = k AND (p.meta->>'lease')::bigint = lease AND p.meta->>'beat' <> dead;
    kept := FOUND;
  WHEN 'end' THEN
    UPDATE @schema@.pgfiles p SET meta = p.meta || jsonb_build_object('beat', dead)
      WHERE p.key = k AND (p.meta->>'lease')::bigint = lease AND p.meta->>'beat' <> dead;
    kept := FOUND;
  ELSE
    RAISE EXCEPTION 'unknown call of a lease: %', what USING ERRCODE = 'PF004';
  END CASE;
  RETURN jsonb_build_object('kept', kept, 'life', @schema@.pgfiles_life());
END $$;

-- Carries out changes in the locks of a file, all or none. changes: [{"owner","start","end","type","pid"}], type r, w, or u
-- for unlocked. Answers {} when done, {"held": lock} where somebody else's is in the way, {"full": true}, {"lost": true} where
-- the lease is not there any more. A lock that is granted is flushed: the next holder after a crash must not be told that it
-- is free. What is unlocked need not be: a mount takes its locks anew when the server's life changes.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_lock(prefix text, mount text, lease bigint, ino text, changes jsonb) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  k text := '/' || prefix || '/lock/' || ino; was jsonb; locks jsonb; c jsonb; r record; hit jsonb; before int;
  lo numeric; hi numeric; s numeric; e numeric; kind text;
BEGIN
  IF NOT jsonb_path_exists(changes, '$[*] ? (@.type != "u")') THEN
    PERFORM set_config('synchronous_commit', 'off', true);
  ELSIF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'local', true);
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended(k, 7105));
  PERFORM FROM @schema@.pgfiles p WHERE p.key = '/' || prefix || '/lease/' || mount
    AND (p.meta->>'lease')::bigint = lease AND p.meta->>'beat' <> '1970-01-01T00:00:00Z';
  IF NOT FOUND THEN RETURN '{"lost":true}'; END IF;
  SELECT p.meta->'locks' INTO was FROM @schema@.pgfiles p WHERE p.key = k;
  locks := CASE jsonb_typeof(was) WHEN 'array' THEN was ELSE '[]' END;
  FOR r IN SELECT DISTINCT l->>'mount' AS m, (l->>'lease')::bigint AS n FROM jsonb_array_elements(locks) l ORDER BY 1, 2 LOOP
    CONTINUE WHEN CASE WHEN r.m = mount THEN r.n = lease ELSE @schema@.pgfiles_lease_alive(prefix, r.m, r.n, true) END;
    locks := (SELECT coalesce(jsonb_agg(l), '[]') FROM jsonb_array_elements(locks) l
              WHERE NOT (l->>'mount' = r.m AND (l->>'lease')::bigint = r.n));
  END LOOP;
  FOR c IN SELECT * FROM jsonb_array_elements(changes) LOOP
    kind := c->>'type'; s := (c->>'start')::numeric; e := (c->>'end')::numeric; lo := s; hi := e; before := jsonb_array_length(locks);
    IF kind <> 'u' THEN
      SELECT l INTO hit FROM jsonb_array_elements(locks) l WHERE NOT (l->>'mount' = mount AND l->>'owner' = c->>'owner')
        AND (kind = 'w' OR l->>'type' = 'w') AND (l->>'start')::numeric <= e AND (l->>'end')::numeric >= s
        ORDER BY (l->>'start')::numeric LIMIT 1;
      IF FOUND THEN RETURN jsonb_build_object('held', hit); END IF;
      -- Joined with what is locked in the same way beside it.
      SELECT least(s, min((l->>'start')::numeric)), greatest(e, max((l->>'end')::numeric)) INTO lo, hi FROM jsonb_array_elements(locks) l
        WHERE l->>'mount' = mount AND l->>'owner' = c->>'owner' AND l->>'type' = kind
          AND (l->>'start')::numeric <= e + 1 AND (l->>'end')::numeric >= s - 1;
    END IF;
    SELECT coalesce(jsonb_agg(x.l ORDER BY x.l->>'mount', x.l->>'owner', (x.l->>'start')::numeric), '[]') INTO locks FROM (
      SELECT part.l FROM jsonb_array_elements(locks) AS one(l),
        LATERAL (SELECT one.l->>'mount' = mount AND one.l->>'owner' = c->>'owner' AND (one.l->>'start')::numeric <= hi
          AND (one.l->>'end')::numeric >= lo AS cut) AS how,
        LATERAL (SELECT one.l WHERE NOT how.cut
          UNION ALL SELECT one.l || jsonb_build_object('end', lo - 1) WHERE how.cut AND (one.l->>'start')::numeric < lo
          UNION ALL SELECT one.l || jsonb_build_object('start', hi + 1) WHERE how.cut AND (one.l->>'end')::numeric > hi) AS part(l)
      UNION ALL SELECT jsonb_build_object('mount', mount, 'lease', lease, 'owner', c->'owner', 'start', lo, 'end', hi, 'type', kind,
        'pid', c->'pid') WHERE kind <> 'u') AS x(l);
    IF jsonb_array_length(locks) > 250 AND jsonb_array_length(locks) > before THEN RETURN '{"full":true}'; END IF;
  END LOOP;
  IF locks IS DISTINCT FROM was AND (was IS NOT NULL OR locks <> '[]') THEN
    UPDATE @schema@.pgfiles p SET meta = p.meta || jsonb_build_object('locks', locks) WHERE p.key = k;
    IF NOT FOUND THEN INSERT INTO @schema@.pgfiles(key, meta) VALUES (k, jsonb_build_object('version', 1, 'locks', locks)); END IF;
  END IF;
  RETURN '{}';
END $$;

-- The first lock that is in the way of a change; NULL where there is none.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_lock_test(prefix text, mount text, ino text, c jsonb) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE hit jsonb;
BEGIN
  SELECT l INTO hit FROM @schema@.pgfiles p, jsonb_array_elements(p.meta->'locks') l
    WHERE p.key = '/' || prefix || '/lock/' || ino AND jsonb_typeof(p.meta->'locks') = 'array'
      AND NOT (l->>'mount' = mount AND l->>'owner' = c->>'owner') AND (c->>'type' = 'w' OR l->>'type' = 'w') AND c->>'type' <> 'u'
      AND (l->>'start')::numeric <= (c->>'end')::numeric AND (l->>'end')::numeric >= (c->>'start')::numeric
      AND @schema@.pgfiles_lease_alive(prefix, l->>'mount', (l->>'lease')::bigint, false)
    ORDER BY (l->>'start')::numeric LIMIT 1;
  RETURN hit;
END $$;

-- Removes the rows of files in which nobody has locked anything, or only mounts whose lease is gone for good (the sweep has
-- removed those that were silent for a day).
CREATE OR REPLACE FUNCTION @schema@.pgfiles_sweep_locks(prefix text) RETURNS void LANGUAGE sql AS $$
  DELETE FROM @schema@.pgfiles p WHERE p.key ~>=~ ('/' || prefix || '/lock/') AND p.key ~<~ ('/' || prefix || '/lock0')
    AND NOT EXISTS (SELECT FROM jsonb_array_elements(CASE jsonb_typeof(p.meta->'locks') WHEN 'array' THEN p.meta->'locks' ELSE '[]' END) l
      JOIN @schema@.pgfiles m ON m.key = '/' || prefix || '/lease/' || (l->>'mount') AND (m.meta->>'lease' = l->>'lease' OR m.meta @> '{"kept":true}'))
$$;
