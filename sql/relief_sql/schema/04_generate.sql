-- Generated functions: what Relief makes beside a detector's table, owned by the table's owner.
--   _relief_features_<detector>(columns...)          the only holder of the owner's expressions that give numbers
--   _relief_categories_<detector>(columns...)        the only holder of those that give categories, where there are any
--   _relief_verdict_<detector>(numbers, categories)   {score, threshold, version} by the promoted model; replaced by promote
--   _relief_guarded_<detector>(columns...)           the same, NULL where an expression fails
--   _relief_judgement_<detector>(...)                score, flag, deviations by the profile; replaced by promote and refresh
--   _relief_contributions_<detector>(numbers, categories)  each feature's part in the score; replaced by promote
--   relief_score(row), relief_explain(row)         of the table's row type

create function relief._object_name(kind text, detector text)
  returns name
  language sql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select (case
    when octet_length('_relief_' || kind || '_' || detector) <= 63 then '_relief_' || kind || '_' || detector
    else '_relief_md5_' || kind || '_' || md5(detector)
  end)::name
$$;
comment on function relief._object_name(text, text) is 'Returns the name of a detector''s generated function of a kind; long detector names are hashed.';

create function relief._schema_of(relation regclass)
  returns name
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select nspname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace where c.oid = relation
$$;
comment on function relief._schema_of(regclass) is 'Returns the schema of a relation.';

create function relief._function_name(d relief.detector, kind text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('%I.%I', relief._schema_of(d.relation), relief._object_name(kind, d.name))
$$;
comment on function relief._function_name(relief.detector, text) is 'Returns the qualified, quoted name of a generated function.';

create function relief._generated_in(schema name, d relief.detector, kind text)
  returns regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Whoever may create functions in the schema may overload these names: the arguments, and for features the owner, tell ours.
  select p.oid
  from pg_proc as p
  where p.pronamespace = (select oid from pg_namespace where nspname = schema)
    and p.proname = case kind when 'score' then 'relief_score' when 'explain' then 'relief_explain' else relief._object_name(kind, d.name) end
    and case
          when relief._part_number(kind) is not null then
            p.proargnames = (select q.arguments from relief._parts(d) as q where q.part = relief._part_number(kind))::text[]
          when kind = 'score' then p.proargtypes = (select reltype::text::oidvector from pg_class where oid = d.relation)
          when kind = 'explain' then p.proargtypes = (select reltype::text::oidvector from pg_class where oid = d.relation)
          when kind = 'trigger' then p.pronargs = 0
          when kind in ('event', 'gate', 'shadow') then p.pronargs = 0
          when kind = 'judgement' then p.pronargs = 5
          when kind = 'explanation' then p.pronargs = 4
          else p.proargtypes = format('%s %s', 'double precision[]'::regtype::oid, 'text[]'::regtype::oid)::oidvector
        end
  order by p.proowner = (select relowner from pg_class where oid = d.relation) desc nulls last, p.oid
  limit 1
$$;
comment on function relief._generated_in(name, relief.detector, text) is 'Returns a detector''s generated function of a kind in a schema, NULL where there is none.';

create function relief._generated(d relief.detector, kind text)
  returns regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select relief._generated_in(relief._schema_of(d.relation), d, kind)
$$;
comment on function relief._generated(relief.detector, text) is 'Returns a detector''s generated function of a kind beside its table, NULL where there is none.';

create function relief._row_function(relation regclass, name text)
  returns regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select p.oid
  from pg_proc as p
  join pg_class as c on c.relnamespace = p.pronamespace
  where c.oid = relation and p.proname = name and p.proargtypes = c.reltype::text::oidvector
$$;
comment on function relief._row_function(regclass, text) is 'Returns a function of a relation''s row type beside it, NULL where there is none.';

create function relief._score_function(relation regclass)
  returns regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select relief._row_function(relation, 'relief_score')
$$;
comment on function relief._score_function(regclass) is 'Returns the function relief_score of a relation''s row type, NULL where there is none.';

create function relief._adopt_function(d relief.detector, signature regprocedure, description text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  owner name;
begin
  perform relief._lock_catalog();
  select pg_get_userbyid(relowner) into strict owner from pg_class where oid = d.relation;
  if (select pg_get_userbyid(proowner) from pg_proc where oid = signature) <> owner then
    execute format('alter function %s owner to %I', signature, owner);
  end if;
  -- Then DROP EXTENSION takes the function along instead of failing; CREATE OR REPLACE forgets it each time.
  if exists (select from pg_extension where extname = 'relief') then
    execute format('alter function %s depends on extension relief', signature);
  end if;
  execute format('comment on function %s is %L', signature, format('Relief, detector "%s": %s', d.name, description));
end
$$;
comment on function relief._adopt_function(relief.detector, regprocedure, text) is
  'Gives a generated function to the table''s owner, ties it to the extension, and says in a comment what it is.';

create function relief._create_features(d relief.detector, features relief._feature[], name_path text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  label constant text := relief._parallel_label(features);
  held record;
begin
  for held in
    -- Among the numbers a category has its place, empty; among the categories there are only categories.
    select g.part,
           string_agg('  ' || case f.kind when 'number' then f.value else 'null' end, E',\n' order by f.n) as numbers,
           string_agg('  ' || f.value, E',\n' order by f.n) filter (where f.kind = 'category') as categories
    from unnest(features) with ordinality as f (name, expression, kind, value, columns, parallel_safe, n)
    join relief.feature as g on g.detector_id = d.id and g.position = f.n
    group by g.part
    order by g.part
  loop
    perform relief._define_expressions(d, relief._part_kind('features', held.part), format(E'return array[\n%s\n]::pg_catalog.float8[]', held.numbers),
                                       label, name_path);
    if held.categories is not null then
      perform relief._define_expressions(d, relief._part_kind('categories', held.part), format(E'return array[\n%s\n]', held.categories), label, name_path);
    end if;
    perform relief._define_guarded(d, held.part);
  end loop;
end
$$;
comment on function relief._create_features(relief.detector, relief._feature[], text) is
  'Makes the functions that hold a detector''s expressions, which relief._check_feature has passed, and the one that guards them.';

create function relief._argument_types(d relief.detector, part integer)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select string_agg(format('%I %s', c.argument, format_type(a.atttypid, -1)), ', ' order by c.n)
  from relief._parts(d) as p
  cross join unnest(p.columns, p.arguments) with ordinality as c (name, argument, n)
  join pg_attribute as a on a.attrelid = d.relation and a.attname = c.name
  where p.part = $2
$$;
comment on function relief._argument_types(relief.detector, integer) is
  'Returns the arguments of the functions that hold a part of a detector''s expressions, as they are declared, by the types that the columns have now.';

create function relief._define_expressions(d relief.detector, kind text, body text, label text, name_path text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  statement text;
begin
  -- CREATE, never OR REPLACE: a function that is there already is somebody's.
  statement := format($sql$
create function %s(%s)
  returns %s
  language sql
  stable
  parallel %s
%s$sql$,
    relief._function_name(d, kind), relief._argument_types(d, relief._part_number(kind)),
    case when kind ~ '^features' then 'pg_catalog.float8[]' else 'pg_catalog.text[]' end, label, body);
  perform set_config('search_path', name_path, true);
  execute statement;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  perform relief._adopt_function(d, relief._generated(d, kind), format('its %s, computed from the columns of a row.', substring(kind from '[a-z]+')));
end
$$;
comment on function relief._define_expressions(relief.detector, text, text, text, text) is
  'Makes the features or the categories function of a detector, of a parsed body whose names are looked up in name_path.';

create function relief._guarded_body(d relief.detector, part integer)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format($body$
begin%s
  return %s(%s);
exception when others then
  return null;
end
$body$,
    case when p.has_categories then format(E'\n  perform %s(%s);', relief._function_name(d, relief._part_kind('categories', part)), a.arguments) else '' end,
    relief._function_name(d, relief._part_kind('features', part)), a.arguments)
  from relief._parts(d) as p
  cross join lateral (select string_agg('$' || n, ', ' order by n) from generate_series(1, cardinality(p.columns)) as n) as a (arguments)
  where p.part = $2
$$;
comment on function relief._guarded_body(relief.detector, integer) is
  'Returns the body of the function that gives a part of a detector''s features where none of its expressions fails.';

create function relief._define_guarded(d relief.detector, part integer)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- The body is a literal: between dollars, a name might end it.
  execute format($sql$
create function %s(%s)
  returns pg_catalog.float8[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as %L$sql$,
    relief._function_name(d, relief._part_kind('guarded', part)), relief._argument_types(d, part), relief._guarded_body(d, part));
  perform relief._adopt_function(d, relief._generated(d, relief._part_kind('guarded', part)), 'its features, NULL where an expression fails.');
end
$$;
comment on function relief._define_guarded(relief.detector, integer) is
  'Makes the function that gives a part of a detector''s features where none of its expressions fails.';

create function relief._parallel_label(features relief._feature[])
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case when bool_and(f.parallel_safe) then 'safe' else 'unsafe' end from unnest(features) as f
$$;
comment on function relief._parallel_label(relief._feature[]) is 'Returns safe if everything that the features call is, else unsafe.';

create function relief._score_body(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('select (%s(%s, %s))[1]', relief._function_name(d, 'verdict'), relief._features_call(d, 'o'), relief._categories_call(d, 'o'))
$$;
comment on function relief._score_body(relief.detector) is 'Returns the body of relief_score(row).';

create function relief._create_score_function(d relief.detector, label text, again boolean default false)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A string body: with a parsed one, ALTER TABLE ... ALTER TYPE would fail because a function uses the row type.
  perform relief._change_catalog(array[format($sql$
create %s function %I.relief_score(o %s)
  returns pg_catalog.float8
  language sql
  stable
  parallel %s
as %L$sql$,
    -- Again: the detector's own, which views may have come to depend on.
    case when again then 'or replace' else '' end,
    relief._schema_of(d.relation), d.relation, label, relief._score_body(d))]);
  perform relief._adopt_function(
    d, relief._score_function(d.relation), 'the anomaly score of a row, in (0, 1], higher = more anomalous.');
end
$$;
comment on function relief._create_score_function(relief.detector, text, boolean) is 'Makes relief_score(row) of a detector''s table.';

create function relief._require_generated(d relief.detector)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  missing text;
begin
  select relief._function_name(d, kind) into missing
  from unnest(relief._kinds(d)) as kind
  where kind not in ('trigger', 'event', 'gate', 'shadow', 'score', 'explain') and relief._generated(d, kind) is null;
  if found then
    raise exception 'function % of detector "%" does not exist any more', missing, d.name
      using errcode = 'undefined_function',
            hint = format('It was dropped, or table %s was moved to another schema: select relief.regenerate(%L);', d.relation, d.name);
  end if;
end
$$;
comment on function relief._require_generated(relief.detector) is
  'Raises an error if a generated function is gone.';
