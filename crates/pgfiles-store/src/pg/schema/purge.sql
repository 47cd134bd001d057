-- Rows that another tool wrote without a number, in order of key, after a key, at most lim of them: each becomes the next
-- version of its key, as if inserted now. `next` is where to go on; NULL at the end.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_backfill(after text, lim int, OUT done bigint, OUT next text) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE r record; seen int := 0;
BEGIN
  done := 0;
  FOR r IN SELECT p.id, p.key, p.meta, p.data FROM @schema@.pgfiles p WHERE p.key ~>~ after
           ORDER BY p.key USING ~<~, (p.meta->>'version')::bigint DESC NULLS LAST LOOP
    seen := seen + 1;
    IF seen > lim * 50 AND r.key <> next OR done >= lim AND r.key <> next THEN RETURN; END IF;
    next := r.key;
    CONTINUE WHEN r.meta->>'version' IS NOT NULL OR left(r.key, 1) = '/';
    UPDATE @schema@.pgfiles p SET meta = @schema@.pgfiles_filled(r.key, r.meta, r.data) WHERE p.id = r.id;
    done := done + 1;
  END LOOP;
  next := NULL;
END $$;
