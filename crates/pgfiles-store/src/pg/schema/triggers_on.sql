-- Binds the triggers where they are missing: creating one locks the table, so an upgrade does not do it again.
DO $$
DECLARE missing text;
BEGIN
  FOR missing IN SELECT ddl FROM (VALUES
    ('pgfiles_insert', $ddl$CREATE TRIGGER pgfiles_insert BEFORE INSERT ON @schema@.pgfiles FOR EACH ROW
      WHEN (NEW.meta->>'version' IS NULL) EXECUTE FUNCTION @schema@.pgfiles_on_insert()$ddl$),
    ('pgfiles_update_data', $ddl$CREATE TRIGGER pgfiles_update_data BEFORE UPDATE OF data ON @schema@.pgfiles FOR EACH ROW
      WHEN (NEW.id = OLD.id AND NEW.data IS DISTINCT FROM OLD.data AND NOT (OLD.meta ? 'body' AND NOT NEW.meta ? 'body'))
      EXECUTE FUNCTION @schema@.pgfiles_on_update_data()$ddl$),
    ('pgfiles_update_key', $ddl$CREATE TRIGGER pgfiles_update_key BEFORE UPDATE OF key ON @schema@.pgfiles FOR EACH ROW
      WHEN (NEW.key <> OLD.key AND NEW.meta->'op' IS NOT DISTINCT FROM OLD.meta->'op')
      EXECUTE FUNCTION @schema@.pgfiles_on_update_key()$ddl$),
    ('pgfiles_update_by_limited', $ddl$CREATE TRIGGER pgfiles_update_by_limited BEFORE UPDATE ON @schema@.pgfiles FOR EACH ROW
      WHEN (row_security_active('@schema@.pgfiles'::regclass)) EXECUTE FUNCTION @schema@.pgfiles_on_update_by_limited()$ddl$),
    ('pgfiles_unchunk', $ddl$CREATE TRIGGER pgfiles_unchunk AFTER UPDATE OF data ON @schema@.pgfiles FOR EACH ROW
      WHEN (OLD.meta ? 'layout' AND NEW.meta->>'lin' IS DISTINCT FROM OLD.meta->>'lin')
      EXECUTE FUNCTION @schema@.pgfiles_on_unchunk()$ddl$),
    ('pgfiles_delete', $ddl$CREATE TRIGGER pgfiles_delete AFTER DELETE ON @schema@.pgfiles REFERENCING OLD TABLE AS gone
      FOR EACH STATEMENT EXECUTE FUNCTION @schema@.pgfiles_on_delete()$ddl$)
  ) AS wanted(name, ddl)
  WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = '@schema@.pgfiles'::regclass AND tgname = name) LOOP
    EXECUTE missing;
  END LOOP;
END $$;
