-- The table (docs/schema.md) and its storage parameters. Run on every init; locks the table only where something is
-- missing. @schema@ is replaced by the quoted name of the schema that init chose.

CREATE TABLE IF NOT EXISTS @schema@.pgfiles (
  id   UUID  PRIMARY KEY DEFAULT gen_random_uuid(),
  key  TEXT  NOT NULL,
  meta JSONB NOT NULL DEFAULT '{}',
  data BYTEA
);

DO $$
DECLARE t pg_class;
BEGIN
  SELECT * INTO t FROM pg_class WHERE oid = '@schema@.pgfiles'::regclass;
  -- EXTERNAL: no compression, so that a slice of a body costs a slice, and pglz (5 times slower on text) is never met.
  IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = t.oid AND attname = 'data' AND attstorage = 'x') THEN
    ALTER TABLE @schema@.pgfiles ALTER COLUMN data SET STORAGE EXTERNAL;
  END IF;
  -- Rows are mostly inserted and never changed: freeze early, keep the visibility map and statistics fresh.
  IF t.reloptions IS NULL THEN
    ALTER TABLE @schema@.pgfiles SET (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05,
      autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_scale_factor = 0.02);
  END IF;
END $$;
