-- Pure helpers: keys, times, manifests. Inlined or immutable; they read no table.

-- The directory that holds a key: everything up to and with the last '/' that ends a parent; '' at the top.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_parent(k text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE strpos(reverse(rtrim(k, '/')), '/') WHEN 0 THEN ''
         ELSE left(rtrim(k, '/'), length(rtrim(k, '/')) - strpos(reverse(rtrim(k, '/')), '/') + 1) END
$$;

-- The end (excluded) of the range of keys below a prefix. '/' is 0x2F and '0' is 0x30: exact in byte order.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_hi(p text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE p WHEN '' THEN U&'\+10FFFF' ELSE left(p, -1) || '0' END
$$;

-- The server's clock as meta has it: RFC 3339, UTC, microseconds.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_now() RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- A time of meta; NULL where it is absurd (a row may hold anything), so that one row never fails a query over many.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_time(t text) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN t ~ ('^(?!0000)([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))'
    || '|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?Z$')
    THEN t::timestamptz END
$$;

-- meta.size as a number; 0 where it is absurd.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_size(m jsonb) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN m->>'size' ~ '^[0-9]{1,18}$' THEN (m->>'size')::bigint ELSE 0 END
$$;

-- The inode number of an implied directory: a hash of its key with the top bit set. The key ends in '/'.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_implied_ino(dir text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (9223372036854775808::numeric
          + (('x' || encode(substr(sha256(convert_to(dir, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint & 9223372036854775807))::text
$$;

-- A new inode number: 63 random bits, not 0.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_new_ino() RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT greatest(1, ('x' || left(replace(gen_random_uuid()::text, '-', ''), 12)
    || right(replace(gen_random_uuid()::text, '-', ''), 4))::bit(64)::bigint & 9223372036854775807)::text
$$;

-- The id of the row that a version has under another name of its inode (VersionId::twin): the time of the one, a hash of
-- both, and the version and variant bits of a UUIDv7.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_twin_id(id uuid, key text) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT encode(set_byte(set_byte(b, 6, get_byte(b, 6) & 15 | 112), 8, get_byte(b, 8) & 63 | 128), 'hex')::uuid
  FROM (SELECT substr(uuid_send(id), 1, 6) || substr(sha256(convert_to(id::text || key, 'UTF8')), 1, 10) AS b OFFSET 0) made
$$;

-- The slots of a manifest in order: the row of each and, where the entry names an eighth of the row, which (0 to 7; then the
-- digit that is 7 in the row's id is 8 to f). A hole is NULL.
DROP FUNCTION IF EXISTS @schema@.pgfiles_slots(bytea);
CREATE FUNCTION @schema@.pgfiles_slots(manifest bytea) RETURNS TABLE(ord int, entry uuid, slice int) LANGUAGE sql IMMUTABLE AS $$
  SELECT i, nullif(encode(CASE WHEN digit < 8 THEN e ELSE set_byte(e, 6, get_byte(e, 6) & 15 | 112) END, 'hex')::uuid,
    '00000000-0000-0000-0000-000000000000'), CASE WHEN digit >= 8 THEN digit - 8 END
  FROM (SELECT i, e, get_byte(e, 6) >> 4 AS digit
    FROM (SELECT manifest || ''::bytea AS d OFFSET 0) flat, generate_series(0, octet_length(manifest) / 16 - 1) i,
      LATERAL (SELECT substring(d FROM i * 16 + 1 FOR 16) AS e OFFSET 0) cut) slots
$$;

-- The rows that a manifest names, holes left out; as often as it does.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_entries(manifest bytea) RETURNS SETOF uuid LANGUAGE sql IMMUTABLE AS $$
  SELECT s.entry FROM @schema@.pgfiles_slots(manifest) s WHERE s.entry IS NOT NULL
$$;

-- What the fields of content are: a new version takes none of them from its predecessor (Meta::OF_CONTENT, and our own marks).
CREATE OR REPLACE FUNCTION @schema@.pgfiles_attributes(m jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT m - '{version,kind,size,allocated,etag,created_at,xid,by,mtime,deleted,target,rdev,from,to,restored_from,layout,lin,body,revive,op,twin}'::text[]
$$;

-- Where a version came from: what a version that extends it keeps. STABLE as jsonb_build_object is: else it is not inlined,
-- which makes it a hundred times slower.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_origin(m jsonb) RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN m ?| '{from,restored_from,op}' THEN jsonb_strip_nulls(jsonb_build_object(
    'from', m->'from', 'restored_from', m->'restored_from', 'op', m->'op')) ELSE '{}' END
$$;
