-- Regenerate: follow a table that was renamed, moved, altered, or dropped and created again. Models, profile and labels stay.

create function relief._follow_table(d relief.detector)
  returns relief.detector
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  found_again regclass;
  old_schema constant name := d.schema_name;
  missing text;
begin
  if relief._schema_of(d.relation) is null then
    found_again := relief._find_again(d);
    if found_again is null then
      perform relief._require_table(d);
    end if;
    d.relation := found_again;
  end if;
  perform relief._require_owner(d.relation);
  select c into missing from unnest(d.columns || d.entity || d.time_column) as c where c is not null and relief._column_now(d, c) is null limit 1;
  if found then
    raise exception 'column "%" of table %, which detector "%" reads, is gone', missing, d.relation, d.name
      using errcode = 'undefined_column', hint = format('Make the detector again without it: %s', relief._creation(d));
  end if;
  update relief.feature as f
  set columns = array(select relief._column_now(d, c) from unnest(f.columns) with ordinality as u (c, n) order by n)
  where f.detector_id = d.id;
  update relief.label as l
  set key = (select jsonb_object_agg(coalesce(relief._column_now(d, k.key), k.key), k.value) from jsonb_each(l.key) as k)
  where l.detector_id = d.id and exists (select from jsonb_object_keys(l.key) as k where relief._column_now(d, k) <> k);
  perform relief._rename_held(d);
  update relief.detector as e
  set relation = d.relation,
      schema_name = relief._schema_of(d.relation),
      table_name = c.relname,
      columns = array(select relief._column_now(d, u.name) from unnest(d.columns) with ordinality as u (name, n) order by n),
      entity = array(select relief._column_now(d, u.name) from unnest(d.entity) with ordinality as u (name, n) order by n),
      time_column = relief._column_now(d, d.time_column),
      notify_columns = array(select relief._column_now(d, u.name) from unnest(d.notify_columns) with ordinality as u (name, n)
                             where relief._column_now(d, u.name) is not null order by n),
      attributes_of = null
  from pg_class as c
  where e.id = d.id and c.oid = d.relation;
  perform relief._note_attributes(d.name);
  select * into strict d from relief.detector as e where e.id = d.id;
  perform relief._bring_functions(d, old_schema);
  return d;
end
$$;
comment on function relief._follow_table(relief.detector) is
  'Notes where a detector''s table is and what its columns are called by now, and returns the detector.';

create function relief._bring_functions(d relief.detector, old_schema name)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  left_behind regprocedure;
begin
  for left_behind in
    select relief._generated_in(old_schema, d, kind)
    from unnest(relief._kinds(d)) as kind
    where old_schema <> d.schema_name and relief._generated(d, kind) is null and relief._generated_in(old_schema, d, kind) is not null
  loop
    perform relief._change_catalog(array[format('alter function %s set schema %I', left_behind, d.schema_name)]);
  end loop;
end
$$;
comment on function relief._bring_functions(relief.detector, name) is 'Moves the generated functions that a table left behind in its old schema to the new one.';

create function relief._rebuild_features(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  kinds constant text[] := array(select k from unnest(relief._kinds(d)) as k where k ~ '^(features|categories)');
  bodies constant text[] := array(select pg_get_function_sqlbody(relief._generated(d, k)) from unnest(kinds) with ordinality as u (k, n) order by n);
  label constant text := (select case proparallel when 's' then 'safe' else 'unsafe' end from pg_proc where oid = relief._generated(d, 'features'));
  missing constant integer := array_position(bodies, null);
  old regprocedure;
begin
  if missing is not null then
    raise exception 'function % of detector "%", which holds its expressions, is gone', relief._function_name(d, kinds[missing]), d.name
      using errcode = 'undefined_function', hint = format('Make the detector again: %s', relief._creation(d));
  end if;
  for old in
    select relief._generated(d, k) from unnest(relief._kinds(d)) as k where relief._part_number(k) is not null and relief._generated(d, k) is not null
  loop
    perform relief._change_catalog(array[format('drop function %s', old)]);
  end loop;
  begin
    -- The bodies are PostgreSQL's own text of what was parsed once. Nothing of them is computed here.
    perform relief._define_expressions(d, u.kind, u.body, label, 'pg_catalog, pg_temp') from unnest(kinds, bodies) as u (kind, body);
    perform relief._define_guarded(d, p.part) from relief._parts(d) as p;
  exception when undefined_function or datatype_mismatch or cannot_coerce or indeterminate_datatype or ambiguous_function then
    raise exception 'the features of detector "%" can''t be computed from the types of the columns of table %: %', d.name, d.relation, sqlerrm
      using errcode = 'datatype_mismatch', hint = format('Make the detector again: %s', relief._creation(d));
  end;
end
$$;
comment on function relief._rebuild_features(relief.detector) is
  'Makes the functions that hold a detector''s expressions anew, for the types that the columns have by now.';

create function relief._require_own_functions(d relief.detector)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  strange record;
begin
  select p.oid::regprocedure as signature, pg_get_userbyid(p.proowner) as holder, pg_get_userbyid(c.relowner) as owner into strange
  from unnest(relief._kinds(d)) as kind
  join pg_proc as p on p.oid = relief._generated(d, kind)
  join pg_class as c on c.oid = d.relation and c.relowner <> p.proowner
  limit 1;
  if found then
    raise exception 'function % belongs to "%", not to the owner of table %', strange.signature, strange.holder, d.relation
      using errcode = 'insufficient_privilege',
            hint = format('If you know it, give it to the owner: alter function %s owner to %I;', strange.signature, strange.owner);
  end if;
end
$$;
comment on function relief._require_own_functions(relief.detector) is 'Raises an error if a function in the place of a generated one is somebody else''s.';

create function relief._lock_to_regenerate(detector text)
  returns integer[]
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d relief.detector;
  locked integer[] := '{}';
begin
  for d in select * from relief.detector as e where detector is null or e.name = detector order by e.id loop
    begin
      perform relief._lock_profile(d.id);
      locked := locked || d.id;
    exception when undefined_object then
      null;  -- dropped by another session
    end;
  end loop;
  for d in select * from relief.detector as e where e.id = any (locked) order by e.id for no key update loop
    begin
      if relief._trigger_function(d) is not null then
        execute format('lock table only %s in access exclusive mode', d.relation);
      end if;
    exception when lock_not_available or insufficient_privilege or wrong_object_type then
      null;  -- told when its turn has come
    end;
  end loop;
  return locked;
end
$$;
comment on function relief._lock_to_regenerate(text) is
  'Locks what regenerating a detector, or all, locks, in the order in which all that do lock it: profiles, detectors, tables, the catalog. '
  'Returns the detectors: one that is made meanwhile needs no regenerating.';

create function relief._renew_guarded(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  outdated record;
begin
  -- They call the features by the name of the schema, which is another one by now.
  for outdated in
    select p.part, g.oid::regprocedure as signature
    from relief._parts(d) as p
    join pg_proc as g on g.oid = relief._generated(d, relief._part_kind('guarded', p.part)) and g.prosrc <> relief._guarded_body(d, p.part)
  loop
    perform relief._change_catalog(array[format('drop function %s', outdated.signature)]);
    perform relief._define_guarded(d, outdated.part);
  end loop;
end
$$;
comment on function relief._renew_guarded(relief.detector) is 'Makes the functions that guard a detector''s expressions anew, where they call them by an older name.';

create function relief._regenerate(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  m relief.model;
  label text;
begin
  d := relief._follow_table(d);
  perform relief._require_own_functions(d);
  if exists (select from unnest(relief._kinds(d)) as kind where relief._part_number(kind) is not null and relief._generated(d, kind) is null)
     or exists (select from relief._retyped(d)) then
    perform relief._rebuild_features(d);
  end if;
  perform relief._renew_guarded(d);
  perform relief._create_verdict(d, array(select kind from unnest(relief._kinds(d)) as kind where relief._generated(d, kind) is null));
  -- The trigger makes both packed forms of the document, whatever is written.
  update relief.model as e
  set explainer = null
  where e.detector_id = d.id and relief._damage(relief._start(), e.checksum, e.forest_checksum, e.forest, e.explainer) is not null;
  select * into m from relief.model as e where e.detector_id = d.id and e.version = d.promoted_version;
  if found then
    perform relief._replace_verdict(d, m);
  end if;
  if d.score_function then
    select case proparallel when 's' then 'safe' else 'unsafe' end into strict label from pg_proc where oid = relief._generated(d, 'features');
    perform relief._create_score_function(d, label, relief._score_function(d.relation) is not null);
    perform relief._create_explain_function(d, label, relief._row_function(d.relation, 'relief_explain') is not null);
  end if;
  if relief._trigger_function(d) is not null then
    perform relief._reattach(d);
  end if;
  update relief.detector as e set generated_by = relief.version() where e.id = d.id;
end
$$;
comment on function relief._regenerate(relief.detector) is 'Makes what is generated for a detector anew.';

create function relief._renew_grants()
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  role regrole;
begin
  if not pg_has_role((select nspowner from pg_namespace where nspname = 'relief'), 'usage') then
    return;
  end if;
  for role in
    select a.grantee from pg_class as c, aclexplode(c.relacl) as a
    where c.oid = 'relief.detector'::regclass and a.privilege_type = 'INSERT' and a.grantee not in (0, c.relowner)
  loop
    perform relief.grant_admin(role);
  end loop;
  for role in
    select a.grantee from pg_proc as p, aclexplode(p.proacl) as a
    where p.oid = 'relief.score(text, jsonb)'::regprocedure and a.grantee not in (0, p.proowner)
  loop
    perform relief.grant_usage(role);
  end loop;
  for role in
    select a.grantee from pg_class as c, aclexplode(c.relacl) as a
    where c.oid = 'relief.metrics'::regclass and a.grantee not in (0, c.relowner)
      and pg_has_role(a.grantee, 'pg_read_all_stats', 'usage')
      and not has_table_privilege(a.grantee, 'relief.detector', 'insert')
  loop
    perform relief.grant_monitor(role);
  end loop;
end
$$;
comment on function relief._renew_grants() is
  'Grants anew, where whoever installed Relief calls it, what grant_admin, grant_usage and grant_monitor have given to roles: an upgrade made functions since.';

create function relief.regenerate(detector text default null)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  locked integer[];
  d relief.detector;
  advice text;
begin
  perform relief._require_primary();
  locked := relief._lock_to_regenerate(detector);
  if detector is null then
    perform relief._renew_grants();
  end if;
  for d in
    select * from relief.detector as e where e.id = any (locked) order by e.id for no key update
  loop
    begin
      perform relief._regenerate(d);
    exception when others then
      if detector is not null then
        raise;
      end if;
      -- Of all detectors, one that can't be mended keeps none of the others from it.
      get stacked diagnostics advice = pg_exception_hint;
      raise warning 'detector "%" stays as it is: %', d.name, sqlerrm using errcode = sqlstate, hint = advice;
    end;
  end loop;
  if not found and detector is not null then
    perform relief._raise_no_detector(detector);
  end if;
end
$$;
comment on function relief.regenerate(text) is
  'Makes the functions and triggers of a detector, of all without a name, anew for its table as it is: moved, its columns renamed or '
  'retyped, dropped and created again, or its functions lost; and what is damaged of that into which models were packed. Models, profile and labels stay. An upgrade of Relief is followed by this, without a name, '
  'by whoever installed it: then what is new is granted too.';
