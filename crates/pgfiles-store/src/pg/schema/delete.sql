-- What a DELETE by whomever must not break: bytes that survivors refer to are handed over to them, and body rows go with the
-- last version that used them. Purge is a DELETE and leaves all of this to the trigger.

CREATE OR REPLACE FUNCTION @schema@.pgfiles_on_delete() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE r record;
BEGIN
  IF NOT EXISTS (SELECT FROM gone g WHERE left(g.key, 1) <> '/') THEN RETURN NULL; END IF;
  -- What a deletion of tombstones brings to light may lie under a tombstoned marker, and a marker's last life may be what
  -- went: live keys below have to say that they revive the directory.
  FOR r IN SELECT DISTINCT g.key FROM gone g WHERE (g.meta ? 'deleted' OR right(g.key, 1) = '/') AND left(g.key, 1) <> '/' LOOP
    PERFORM @schema@.pgfiles_uncover(r.key);
  END LOOP;
  -- An older version that is the head now was a name of an inode that went on without it: it is a file of its own.
  IF EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.meta ? 'hard_link') THEN
    UPDATE @schema@.pgfiles p SET meta = @schema@.pgfiles_unlinked(p.meta)
      FROM (SELECT g.key, max((g.meta->>'version')::bigint) AS was FROM gone g WHERE left(g.key, 1) <> '/' GROUP BY g.key) k
        CROSS JOIN LATERAL (SELECT p.id, p.meta FROM @schema@.pgfiles p WHERE p.key = k.key
          ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) h
      WHERE p.id = h.id AND h.meta ? 'hard_link' AND NOT h.meta @> '{"deleted":true}' AND (h.meta->>'version')::bigint < k.was;
  END IF;
  FOR r IN SELECT DISTINCT g.meta->>'hard_link' AS hard_link FROM gone g WHERE g.meta ? 'hard_link' LOOP
    PERFORM @schema@.pgfiles_relink(r.hard_link, @schema@.pgfiles_now());
  END LOOP;
  IF NOT EXISTS (SELECT FROM gone g WHERE g.meta ? 'lin' AND left(g.key, 1) <> '/') THEN RETURN NULL; END IF;
  PERFORM pg_advisory_xact_lock(h) FROM (SELECT DISTINCT hashtextextended(g.meta->>'lin', 7103) h FROM gone g
    WHERE g.meta ? 'lin' AND left(g.key, 1) <> '/' ORDER BY 1) sorted;
  FOR r IN SELECT g.id, g.meta->>'lin' AS lin, g.data FROM gone g
           WHERE g.meta ? 'lin' AND NOT g.meta ?| '{layout,body}' AND left(g.key, 1) <> '/' LOOP
    PERFORM @schema@.pgfiles_hand_over(r.id, r.lin, r.data);
  END LOOP;
  SELECT array_agg(g.meta->>'lin') AS lins, array_agg(g.meta #>> '{layout,levels}') AS levels, array_agg(g.data) AS manifests
    INTO r FROM gone g WHERE g.meta ? 'lin' AND g.meta ? 'layout' AND g.data IS NOT NULL AND left(g.key, 1) <> '/';
  IF r.lins IS NOT NULL THEN PERFORM @schema@.pgfiles_release(r.lins, r.levels, r.manifests); END IF;
  RETURN NULL;
END $$;

-- Marks the live keys that a deletion of rows of k left under a tombstoned marker.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_uncover(k text) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE h record;
BEGIN
  SELECT p.id, p.meta INTO h FROM @schema@.pgfiles p WHERE p.key = k ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
  IF NOT FOUND THEN
    -- No marker any more: an implied directory, as alive as what is below; but a marker above may be dead.
    IF right(k, 1) = '/' AND @schema@.pgfiles_revives(k) THEN
      UPDATE @schema@.pgfiles p SET meta = p.meta || '{"revive":true}' FROM @schema@.pgfiles_tree(k, NULL, 2147483647) t WHERE p.id = t.id;
    END IF;
  ELSIF NOT h.meta @> '{"deleted":true}' THEN
    IF NOT h.meta ? 'revive' AND @schema@.pgfiles_revives(k) THEN
      UPDATE @schema@.pgfiles p SET meta = p.meta || '{"revive":true}' WHERE p.id = h.id;
    END IF;
  ELSIF right(k, 1) = '/' THEN
    UPDATE @schema@.pgfiles p SET meta = p.meta || '{"revive":true}' FROM @schema@.pgfiles_tree(k, NULL, 2147483647) t
      WHERE p.id = t.id AND NOT p.meta ? 'revive';
  END IF;
END $$;
REVOKE ALL ON FUNCTION @schema@.pgfiles_uncover(text) FROM PUBLIC;

-- A chunked row that an UPDATE by SQL made an inline one.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_on_unchunk() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM @schema@.pgfiles_release(ARRAY[OLD.meta->>'lin'], ARRAY[OLD.meta #>> '{layout,levels}'], ARRAY[OLD.data]);
  RETURN NULL;
END $$;

-- Removes the body rows of manifests that are gone, but for those that a surviving version of the same lineage uses. Rows that
-- no version ever used are not touched: a mount may be about to publish them.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_release(lins text[], levels text[], manifests bytea[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(h) FROM (SELECT DISTINCT hashtextextended(l, 7103) h FROM unnest(lins) l WHERE l IS NOT NULL ORDER BY 1) sorted;
  WITH gone AS MATERIALIZED (SELECT * FROM unnest(lins, levels, manifests) AS g(lin, level, manifest) WHERE lin IS NOT NULL),
  top AS MATERIALIZED (SELECT DISTINCT g.lin, g.level, e FROM gone g, @schema@.pgfiles_entries(g.manifest) e),
  candidates AS MATERIALIZED (
    SELECT lin, e FROM top
    UNION
    SELECT t.lin, c FROM top t JOIN @schema@.pgfiles leaf ON leaf.id = t.e AND leaf.meta->>'lin' = t.lin,
      @schema@.pgfiles_entries(leaf.data) c WHERE t.level = '2'),
  used AS MATERIALIZED (SELECT u FROM (SELECT DISTINCT lin FROM gone) l, @schema@.pgfiles_used(l.lin) u)
  DELETE FROM @schema@.pgfiles b USING (SELECT c.lin, c.e FROM candidates c WHERE NOT EXISTS (SELECT FROM used WHERE u = c.e)) x
  WHERE b.id = x.e AND b.meta->>'lin' = x.lin AND left(b.key, 1) = '/';
END $$;
REVOKE ALL ON FUNCTION @schema@.pgfiles_release(text[], text[], bytea[]) FROM PUBLIC;
