-- Change notices (SPEC §6, PGFILES_NOTIFY): off unless somebody listens, since NOTIFY serialises commits.

-- Prefixes of mounts that listen and have said so within the last ten minutes. Usually none: one probe of an empty index.
-- SECURITY DEFINER: a listener above a role's prefix is not seen by that role.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_heard() RETURNS SETOF text LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
  RETURN QUERY SELECT substr(p.key, 2, strpos(p.key, '/listen/') - 1) FROM @schema@.pgfiles p
    WHERE p.meta ? 'listen' AND @schema@.pgfiles_time(p.meta->>'beat') > clock_timestamp() - interval '10 minutes';
END $$;

-- Tells listeners which directories changed: channel 'pgfiles', payload the directory.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_notify(dirs text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('pgfiles', d) FROM (SELECT DISTINCT d FROM unnest(dirs) d WHERE d IS NOT NULL) changed
    WHERE EXISTS (SELECT FROM @schema@.pgfiles_heard() prefix WHERE starts_with(d, prefix) OR starts_with(prefix, d));
END $$;
