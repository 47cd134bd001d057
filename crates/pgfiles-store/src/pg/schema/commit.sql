-- The one write path.

-- What comes before any change: the server is the one that earlier commits went to, the commit is as durable as asked, and a
-- batch that is sent again (by the id of one of its rows) while its first sending is still under way waits for its end.
-- Inlined into one expression. Not NULL without an id either: what is joined to a NULL would not be carried out.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_begin(opts jsonb, id text) RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT CASE
      WHEN opts->>'life' <> extract(epoch FROM pg_postmaster_start_time())::text
        THEN @schema@.pgfiles_fail('PF005', NULL, 'the server was restarted since earlier commits')::text
      WHEN NOT (opts->>'sync')::bool IS TRUE THEN set_config('synchronous_commit', 'off', true)
      WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'local', true) ELSE '' END
    || coalesce(pg_advisory_xact_lock(hashtextextended(id, 7104))::text, '')
$$;

-- What the server says of every row of a batch.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_srv(opts jsonb) RETURNS jsonb LANGUAGE sql VOLATILE AS $$
  SELECT jsonb_build_object('created_at', @schema@.pgfiles_now(), 'xid', pg_current_xact_id()::text, 'by', opts->'by')
$$;

-- Carries out operations in order, all or nothing (one statement, one transaction). ops, and what they answer: DESIGN in
-- docs/schema.md. bodies[i] are the bytes that op.body = i names. opts: by, sync, again, life.
-- Statements over arrays look cheaper for the array at hand than for any: without force_generic_plan they are planned at each call.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_commit(ops jsonb, bodies bytea[], opts jsonb) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  op jsonb := ops->0; n int; kind text; k text := op->>'key'; dir text; last_dir text; revives bool; alive bool; body bytea; made jsonb;
  made_all jsonb[]; again bool; notices text[]; listened bool; heard bool; srv jsonb;
  done text; -- what is called for its effect: an assignment is an expression, PERFORM a query of ten times its cost
BEGIN
  done := @schema@.pgfiles_begin(opts, coalesce(op->>'id', ops #>> '{-1,id}'));
  IF (opts->>'again')::bool THEN
    made := @schema@.pgfiles_applied(ops);
    IF made IS NOT NULL THEN RETURN made; END IF;
  END IF;
  srv := @schema@.pgfiles_srv(opts);
  again := (opts->>'again')::bool IS TRUE; made_all := '{}'; notices := '{}';
  FOR n IN 0 .. jsonb_array_length(ops) - 1 LOOP
    op := ops->n;
    kind := op->>'op';
    IF kind IN ('put', 'setattr', 'delete', 'rename') THEN
      k := coalesce(op->>'key', op->>'from');
      dir := @schema@.pgfiles_parent(k);
      IF dir IS DISTINCT FROM last_dir THEN
        -- The usual parent has a live marker, which the lock keeps: what pgfiles_revives and pgfiles_keep_dir do where it
        -- has none is not needed then.
        alive := dir = '';
        IF NOT alive AND dir <> '/' THEN
          done := pg_advisory_xact_lock_shared(7101, hashtext(dir) & 1023)::text;
          SELECT (SELECT NOT p.meta @> '{"deleted":true}' FROM @schema@.pgfiles p WHERE p.key = dir
              ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1),
            coalesce(listened, EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.meta ? 'listen')) INTO alive, listened;
        END IF;
        revives := CASE WHEN alive THEN false END;
        last_dir := dir;
      END IF;
    END IF;
    CASE kind
    WHEN 'put' THEN
      IF revives IS NULL THEN revives := @schema@.pgfiles_revives(k); END IF;
      IF left(k, 1) = '/' OR k = '' THEN
        PERFORM @schema@.pgfiles_fail('PF004', n, format('%s cannot be a file: such keys are reserved', to_json(k)));
      END IF;
      body := CASE WHEN jsonb_typeof(op->'body') = 'number' THEN bodies[(op->>'body')::int] END;
      made := @schema@.pgfiles_put((op->>'id')::uuid, k, op->'meta', coalesce(op->'defaults', '{}'), body,
        CASE WHEN jsonb_typeof(op->'expect') = 'object' THEN op->'expect' END, (op->>'extends')::uuid,
        CASE WHEN jsonb_typeof(op->'drops') = 'array' AND op->'drops' <> '[]'
             THEN ARRAY(SELECT d::uuid FROM jsonb_array_elements_text(op->'drops') d) END, revives, srv, n,
        (op->>'base')::uuid, CASE WHEN op ? 'base' THEN ARRAY(SELECT d::uuid FROM jsonb_array_elements_text(op->'added') d) END);
      -- A marker that comes to life changes what the next name in it needs.
      IF right(k, 1) = '/' THEN last_dir := NULL; END IF;
    WHEN 'body' THEN
      made := @schema@.pgfiles_put_body(op, bodies[(op->>'body')::int], n);
    WHEN 'setattr' THEN
      made := @schema@.pgfiles_setattr(op->>'key', op->'patch', CASE WHEN jsonb_typeof(op->'expect') = 'object' THEN op->'expect' END,
        op->'explicit', again, srv, n, alive);
    WHEN 'delete' THEN
      made := @schema@.pgfiles_remove((op->>'id')::uuid, op->>'key',
        CASE WHEN jsonb_typeof(op->'expect') = 'object' THEN op->'expect' END, srv, n, alive);
    WHEN 'rmdir' THEN
      made := @schema@.pgfiles_remove_dir((op->>'id')::uuid, op->>'dir', coalesce((op->>'recursive')::bool, false), srv, n);
    WHEN 'rename' THEN
      made := @schema@.pgfiles_rename(op, srv, n, alive, again);
    WHEN 'renamedir' THEN
      made := @schema@.pgfiles_rename_dir(op, srv, n);
    WHEN 'link' THEN
      made := @schema@.pgfiles_link(op, srv, n);
    WHEN 'exchange' THEN
      made := @schema@.pgfiles_exchange(op, srv, n);
    WHEN 'copy' THEN
      made := @schema@.pgfiles_copy(op, srv, n);
    WHEN 'restore' THEN
      made := @schema@.pgfiles_restore(op, srv, n);
    WHEN 'restoredir' THEN
      made := @schema@.pgfiles_restore_dir(op, srv, n);
    ELSE
      PERFORM @schema@.pgfiles_fail('PF004', n, format('unknown operation %s', op->'op'));
    END CASE;
    -- None of these takes the life of a marker.
    IF NOT (kind = 'body' OR kind = 'put' OR alive AND kind IN ('setattr', 'delete', 'rename')) THEN last_dir := NULL; END IF;
    IF heard IS NULL AND kind <> 'body' THEN
      -- Usually nobody listens: a probe of an empty index. A listener above a role's prefix is hidden from the role.
      IF listened IS NULL THEN listened := EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.meta ? 'listen'); END IF;
      heard := listened OR row_security_active('@schema@.pgfiles'::regclass);
      heard := heard AND @schema@.pgfiles_heard();
    END IF;
    IF heard AND kind <> 'body' THEN
      FOREACH k IN ARRAY ARRAY[op->>'key', op->>'dir', op->>'from', op->>'to'] LOOP
        dir := @schema@.pgfiles_parent(k);
        IF NOT dir = ANY (notices) THEN notices := notices || dir; END IF;
      END LOOP;
    END IF;
    made_all[n + 1] := made;
  END LOOP;
  IF heard THEN PERFORM @schema@.pgfiles_notify(notices); END IF;
  RETURN to_jsonb(made_all);
END $$;

-- Whether a batch sent again was applied: the row that the first of its operations leaves is there. Then what its
-- operations answered, as far as can be told now; else NULL.
CREATE OR REPLACE FUNCTION @schema@.pgfiles_applied(ops jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE op jsonb; found_at int; r record; made_all jsonb[] := '{}'; made jsonb; n int;
BEGIN
  FOR n IN 0 .. jsonb_array_length(ops) - 1 LOOP
    op := ops->n;
    CONTINUE WHEN NOT op ? 'id';
    EXIT WHEN EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.id = (op->>'id')::uuid)
      OR op->>'op' = 'rename' AND EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.key = op->>'to' AND p.meta->>'op' = op->>'id');
    RETURN NULL;
  END LOOP;
  IF NOT op ? 'id' THEN RETURN NULL; END IF;
  FOR n IN 0 .. jsonb_array_length(ops) - 1 LOOP
    op := ops->n;
    made := '{}';
    IF op->>'op' = 'renamedir' THEN
      made := @schema@.pgfiles_marker(op->>'to');
    ELSIF op->>'op' IN ('body', 'rmdir', 'exchange', 'restoredir') THEN
      made := jsonb_build_object('id', op->'id', 'files', 0);
    ELSE
      -- Where the row itself went on (extended, moved), the head of its key is the nearest thing to say.
      SELECT p.id, p.key, p.meta INTO r FROM @schema@.pgfiles p
        WHERE p.id = (op->>'id')::uuid AND op->>'op' <> 'rename';
      IF NOT FOUND THEN
        SELECT p.id, p.key, p.meta INTO r FROM @schema@.pgfiles p WHERE p.key = coalesce(op->>'to', op->>'key')
          ORDER BY (p.meta->>'version')::bigint DESC NULLS LAST LIMIT 1;
      END IF;
      made := jsonb_build_object('id', r.id, 'key', r.key, 'meta', r.meta, 'moved',
        op->>'op' = 'rename' AND NOT EXISTS (SELECT FROM @schema@.pgfiles p WHERE p.id = (op->>'id')::uuid),
        'also', CASE WHEN r.meta ? 'hard_link' THEN (SELECT jsonb_agg(l.key) FROM @schema@.pgfiles_links(r.meta->>'hard_link') l) END);
    END IF;
    made_all[n + 1] := made;
  END LOOP;
  RETURN to_jsonb(made_all);
END $$;
