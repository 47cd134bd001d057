-- What there is and what happened, counted.

-- The moments of a directory, newest first: the versions that one transaction wrote below it. number counts from the oldest.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_history(dir text, lim int) RETURNS TABLE(number bigint, at text, versions bigint, by jsonb)
LANGUAGE sql STABLE SET jit = off AS $$
  WITH moments AS (
    SELECT coalesce(p.meta->>'xid', '') AS xid, max(p.meta->>'created_at') AS at, count(*) AS versions,
      (array_agg(p.meta->'by' ORDER BY p.id))[1] AS by
    FROM @schema@.pgfiles p WHERE p.key ~>=~ dir AND p.key ~<~ @schema@.pgfiles_hi(dir) AND left(p.key, 1) <> '/' GROUP BY 1)
  SELECT row_number() OVER (ORDER BY m.at NULLS FIRST, length(m.xid), m.xid) AS number, coalesce(m.at, '1970-01-01T00:00:00Z'), m.versions, m.by
  FROM moments m ORDER BY number DESC LIMIT lim
$$;

-- Rows and bytes under a prefix, in one ordered walk.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_usage(prefix text) RETURNS jsonb LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE
  r record; last text; files bigint := 0; bytes bigint := 0; dirs bigint := 0; history_rows bigint := 0; history_bytes bigint := 0;
  body record;
BEGIN
  FOR r IN SELECT p.key, p.meta @> '{"deleted":true}' AS dead, @schema@.pgfiles_size(p.meta) AS size FROM @schema@.pgfiles p
           WHERE p.key ~>=~ prefix AND p.key ~<~ @schema@.pgfiles_hi(prefix) AND left(p.key, 1) <> '/'
           ORDER BY p.key USING ~<~, (p.meta->>'version')::bigint DESC NULLS LAST LOOP
    IF r.key IS NOT DISTINCT FROM last OR r.dead THEN history_rows := history_rows + 1; history_bytes := history_bytes + r.size;
    ELSIF right(r.key, 1) = '/' THEN dirs := dirs + 1;
    ELSE files := files + 1; bytes := bytes + r.size;
    END IF;
    last := r.key;
  END LOOP;
  SELECT count(*) AS n, coalesce(sum(octet_length(b.data)), 0) AS bytes INTO body FROM @schema@.pgfiles b
    WHERE b.key ~>=~ ('/' || prefix) AND b.key ~<~ @schema@.pgfiles_hi('/' || prefix) AND b.meta ? 'lin';
  RETURN jsonb_build_object('files', files, 'bytes', bytes, 'dirs', dirs, 'history_rows', history_rows, 'history_bytes', history_bytes,
    'body_rows', body.n, 'body_bytes', body.bytes);
END $$;
