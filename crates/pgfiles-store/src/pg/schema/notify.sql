-- Change notices (PGFILES_NOTIFY): off unless somebody listens, since NOTIFY serialises commits.

-- Whether any mount listens and has said so within the last ten minutes: one probe of an index that is usually empty.
-- SECURITY DEFINER: a listener above a role's prefix is not seen by that role; only a boolean comes out.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_heard() RETURNS bool LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
  RETURN EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.meta ? 'listen'
    AND @schema@.pgfiles_time(p.meta->>'beat') > clock_timestamp() - interval '10 minutes');
END $$;

-- Tells listeners which directories changed: channel 'pgfiles', payload the directory; only where a listener's prefix holds
-- the directory or lies below it.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_notify(dirs text[]) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
  -- A payload ends at 8,000 bytes; keys are shorter.
  PERFORM pg_notify('pgfiles', d) FROM (SELECT DISTINCT d FROM unnest(dirs) d WHERE d IS NOT NULL) changed
    WHERE EXISTS (SELECT FROM @schema@.pgfiles p, substr(p.key, 2, strpos(p.key, '/listen/') - 2) prefix WHERE p.meta ? 'listen'
      AND @schema@.pgfiles_time(p.meta->>'beat') > clock_timestamp() - interval '10 minutes'
      AND (starts_with(d, prefix) OR starts_with(prefix, d)));
END $$;
