-- Grants: a database role fenced to prefixes by row security. One policy per grant, with constant ranges for the
-- prefix and for the body rows that lie under '/' and the prefix; one open policy for all roles without a grant.
--
-- A policy is named pgfiles_fence_<16 hex of the prefix's md5>_<oid of the role>; its comment is the prefix.

-- Whether the current role is fenced. Through pg_shdepend, which has an index by role; roles that belong to others are looked
-- at one grant after the other.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_is_fenced() RETURNS bool LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE me oid := current_user::regrole;
BEGIN
  RETURN EXISTS (SELECT FROM pg_shdepend d JOIN pg_policy p ON p.oid = d.objid
      WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = me AND d.classid = 'pg_policy'::regclass
        AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND p.polrelid = '@schema@.pgfiles'::regclass AND starts_with(p.polname, 'pgfiles_fence_'))
    OR (EXISTS (SELECT FROM pg_auth_members m WHERE m.member = me)
      AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = '@schema@.pgfiles'::regclass
        AND starts_with(p.polname, 'pgfiles_fence_') AND pg_has_role(me, p.polroles[1], 'USAGE')));
END $$;

-- Whether row security binds the current role to prefixes: such a role changes attributes of heads, and no other existing row.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_limited() RETURNS bool LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN row_security_active('@schema@.pgfiles'::regclass) AND @schema@.pgfiles_is_fenced();
END $$;

-- Whether a granted prefix holds one of two keys and not the other: then bytes are copied, not referred to.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_crosses(a text, b text) RETURNS bool LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE k text; other text; dir text; name text;
BEGIN
  IF NOT (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = '@schema@.pgfiles'::regclass) THEN RETURN false; END IF;
  FOREACH k IN ARRAY ARRAY[a, b] LOOP
    other := CASE k WHEN a THEN b ELSE a END;
    dir := CASE WHEN right(k, 1) = '/' THEN k ELSE @schema@.pgfiles_parent(k) END;
    WHILE dir <> '' AND NOT starts_with(other, dir) LOOP
      name := 'pgfiles_fence_' || left(md5(dir), 16);
      IF EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = '@schema@.pgfiles'::regclass
                 AND p.polname >= (name || '_')::name AND p.polname < (name || '`')::name) THEN
        RETURN true;
      END IF;
      dir := @schema@.pgfiles_parent(dir);
    END LOOP;
  END LOOP;
  RETURN false;
END $$;

-- The guard of what a fenced role may change in a row that is there.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_on_update_by_limited() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE f text;
BEGIN
  IF NOT @schema@.pgfiles_is_fenced() THEN RETURN NEW; END IF;
  IF left(OLD.key, 1) = '/' AND NEW.id = OLD.id AND NEW.key = OLD.key AND NEW.data IS NULL AND OLD.data IS NULL
     AND OLD.meta ?| '{beat,locks}' AND NEW.meta - '{beat,lease,kept,locks}'::text[] = OLD.meta - '{beat,lease,kept,locks}'::text[] THEN
    RETURN NEW;
  END IF;
  IF NEW.id <> OLD.id OR NEW.key <> OLD.key OR NEW.data IS DISTINCT FROM OLD.data OR left(OLD.key, 1) = '/' THEN
    RAISE EXCEPTION 'a role with a grant may change attributes of %, not its content', to_json(OLD.key)
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  FOREACH f IN ARRAY '{version,kind,size,etag,created_at,xid,by,deleted,target,rdev,from,to,restored_from,layout,lin,body,revive,op,ino,mount,sum,beat,listen}'::text[] LOOP
    IF NEW.meta->f IS DISTINCT FROM OLD.meta->f THEN
      RAISE EXCEPTION 'a role with a grant may not change meta.% of %', f, to_json(OLD.key) USING ERRCODE = 'insufficient_privilege';
    END IF;
  END LOOP;
  IF OLD.id IS DISTINCT FROM (SELECT p.id FROM @schema@.pgfiles p WHERE p.key = OLD.key
      ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1) THEN
    RAISE EXCEPTION 'a role with a grant may change attributes of the newest version of % only', to_json(OLD.key)
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$;

-- A prefix as it is stored: ending in '/'.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_prefix(prefix text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE p text := rtrim(prefix, '/') || '/';
BEGIN
  IF p = '/' OR left(p, 1) = '/' OR p ~ '//|(^|/)\.\.?/' THEN
    RAISE EXCEPTION '% is not a prefix that can be granted', to_json(prefix) USING ERRCODE = 'PF004',
      HINT = 'Name a directory, such as agents/7/.';
  END IF;
  RETURN p;
END $$;

-- Fences a role to a prefix (and to each other prefix granted to it). For the table's owner.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_grant(role text, prefix text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE p text := @schema@.pgfiles_prefix(prefix); who oid := quote_ident(role)::regrole; policy text; ranges text;
BEGIN
  IF (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.oid = who)
     OR pg_has_role(who, (SELECT c.relowner FROM pg_class c WHERE c.oid = '@schema@.pgfiles'::regclass), 'MEMBER') THEN
    RAISE EXCEPTION 'role % is not bound by row security: it is a superuser, may bypass it, or belongs to the table''s owner', role
      USING ERRCODE = 'PF004', HINT = 'Grant to an ordinary role.';
  END IF;
  policy := 'pgfiles_fence_' || left(md5(p), 16) || '_' || who;
  EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', '@schema@', role);
  EXECUTE format('REVOKE ALL ON @schema@.pgfiles FROM %I', role);
  EXECUTE format('GRANT SELECT, INSERT ON @schema@.pgfiles TO %I', role);
  EXECUTE format('GRANT UPDATE (meta) ON @schema@.pgfiles TO %I', role);
  IF current_setting('server_version_num')::int >= 150000 THEN
    EXECUTE format('GRANT SELECT ON @schema@.pgfiles_live, @schema@.pgfiles_versions TO %I', role);
  END IF;
  IF NOT EXISTS (SELECT FROM pg_policy q WHERE q.polrelid = '@schema@.pgfiles'::regclass AND q.polname = 'pgfiles_open') THEN
    CREATE POLICY pgfiles_open ON @schema@.pgfiles USING ((SELECT NOT @schema@.pgfiles_is_fenced()))
      WITH CHECK ((SELECT NOT @schema@.pgfiles_is_fenced()));
  END IF;
  IF NOT EXISTS (SELECT FROM pg_policy q WHERE q.polrelid = '@schema@.pgfiles'::regclass AND q.polname = policy) THEN
    ranges := format('(key ~>=~ %1$L AND key ~<~ %2$L) OR (key ~>=~ %3$L AND key ~<~ %4$L)', p, @schema@.pgfiles_hi(p), '/' || p, @schema@.pgfiles_hi('/' || p));
    EXECUTE format('CREATE POLICY %I ON @schema@.pgfiles TO %I USING (%s) WITH CHECK (%s)', policy, role, ranges, ranges);
    EXECUTE format('COMMENT ON POLICY %I ON @schema@.pgfiles IS %L', policy, p);
  END IF;
  IF NOT (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = '@schema@.pgfiles'::regclass) THEN
    ALTER TABLE @schema@.pgfiles ENABLE ROW LEVEL SECURITY;
  END IF;
END $$;

-- Takes a prefix from a role; with its last one, all rights on the table. Says whether it had it.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_revoke(role text, prefix text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE p text := @schema@.pgfiles_prefix(prefix); who oid := quote_ident(role)::regrole; policy text;
BEGIN
  policy := 'pgfiles_fence_' || left(md5(p), 16) || '_' || who;
  IF NOT EXISTS (SELECT FROM pg_policy q WHERE q.polrelid = '@schema@.pgfiles'::regclass AND q.polname = policy) THEN RETURN false; END IF;
  -- Rights first: without its last policy a role would count as one without a grant.
  IF (SELECT count(*) FROM @schema@.pgfiles_grants() g WHERE g.role = pgfiles_revoke.role) = 1 THEN
    EXECUTE format('REVOKE ALL ON @schema@.pgfiles, @schema@.pgfiles_live, @schema@.pgfiles_versions FROM %I', role);
    EXECUTE format('REVOKE ALL (meta) ON @schema@.pgfiles FROM %I', role);
  END IF;
  EXECUTE format('DROP POLICY %I ON @schema@.pgfiles', policy);
  RETURN true;
END $$;

-- Who is fenced to what.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_grants() RETURNS TABLE(role text, prefix text) LANGUAGE sql STABLE AS $$
  SELECT r.rolname::text, d.description FROM pg_policy p JOIN pg_roles r ON r.oid = p.polroles[1]
    JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_policy'::regclass AND d.objsubid = 0
  WHERE p.polrelid = '@schema@.pgfiles'::regclass AND starts_with(p.polname, 'pgfiles_fence_') ORDER BY 1, 2
$$;
