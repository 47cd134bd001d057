-- What this schema is, and the oldest pgfiles that may read and write it. An additive change raises `version` alone.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_schema() RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT '{"version":2,"min_reader":1,"min_writer":1}'::jsonb
$$;
