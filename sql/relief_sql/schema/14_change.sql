-- Changes: how a table differs by now from what a detector was made for, and the statement that mends it.

create function relief._note_attributes(detector text)
  returns void
  language sql
  set search_path = pg_catalog, pg_temp
as $$
  -- What was noted of the table as it is stays: under a name of then there may be another column by now. Columns come in addition.
  update relief.detector as d
  set attributes = noted.attributes, attributes_of = d.relation
  from (
    select e.id, jsonb_object_agg(a.attname, a.attnum) || case when e.attributes_of = e.relation then e.attributes else '{}' end as attributes
    from relief.detector as e
    join pg_attribute as a on a.attrelid = e.relation and a.attnum > 0 and not a.attisdropped
                             and a.attname not in (select c.name from relief._companion_columns() as c)
    where e.name = detector
    group by e.id
  ) as noted
  where d.id = noted.id and (d.attributes_of is distinct from d.relation::oid or d.attributes <> noted.attributes)
$$;
comment on function relief._note_attributes(text) is
  'Notes the numbers of a table''s columns, by which those that a detector reads are found again under other names.';

create function relief._column_now(d relief.detector, name name)
  returns name
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select a.attname
  from pg_attribute as a
  where a.attrelid = d.relation and a.attnum > 0 and not a.attisdropped
    and (a.attname = name or a.attnum = (d.attributes ->> name)::smallint and d.attributes_of = d.relation)
  order by a.attnum = (d.attributes ->> name)::smallint and d.attributes_of = d.relation desc nulls last
  limit 1
$$;
comment on function relief._column_now(relief.detector, name) is
  'Returns what a column of a detector''s table is called by now, NULL if it is gone. Numbers that a restored dump has brought along tell nothing.';

create function relief._retyped(d relief.detector)
  returns table (name name, type_now oid, type_then oid)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select distinct c.name, a.atttypid, p.proargtypes[(c.n - 1)::integer]
  from relief._parts(d) as q
  join pg_proc as p on p.oid = relief._generated(d, relief._part_kind('features', q.part))
  cross join unnest(q.columns) with ordinality as c (name, n)
  join pg_attribute as a on a.attrelid = d.relation and a.attname = relief._column_now(d, c.name) and not a.attisdropped
  where a.atttypid <> p.proargtypes[(c.n - 1)::integer]
$$;
comment on function relief._retyped(relief.detector) is 'Returns the columns that a detector reads whose types have changed since its features function was made.';

create function relief._find_again(d relief.detector)
  returns regclass
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- The functions of the old table tell whose it was: nobody else's table of that name inherits the models.
  select c.oid
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  join pg_proc as p on p.oid = relief._generated_in(n.nspname, d, 'features')
  where n.nspname = d.schema_name and c.relname = d.table_name and c.relkind in ('r', 'p', 'v', 'm', 'f') and p.proowner = c.relowner
$$;
comment on function relief._find_again(relief.detector) is
  'Returns the table that has the name of a detector''s table that was dropped, if it belongs to the same role.';

create function relief._creation(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Without what needs a column that is gone. Only what isn't the default is said.
  select case when kept.features is null then format('select relief.drop_detector(%L);', d.name) else
    format('select relief.drop_detector(%L); select relief.create_detector(%L, %L, array[%s]%s);%s',
           d.name, d.name, d.relation, kept.features,
           (select string_agg(format(', %s => %s', o.name, o.value), '' order by o.n)
            from (values
              (1, 'contamination', d.contamination::text), (2, 'threshold', d.threshold::text),
              (3, 'time_column', quote_literal(kept.time_column)), (4, 'on_error', quote_literal(nullif(d.on_error, 'pass'))),
              (5, 'entity', 'array[' || kept.entity || ']'), (6, 'season', case when kept.time_column is not null then quote_literal(d.season) end),
              (7, 'verdict', quote_literal(nullif(d.verdict, 'either'))), (8, 'deviation_threshold', nullif(d.deviation_threshold, 6)::text),
              (9, 'min_history', nullif(d.min_history, 30)::text),
              (10, 'profile_window', case when kept.time_column is not null then quote_literal(d.profile_window) end),
              (11, 'time_zone', quote_literal(d.time_zone)), (12, 'score_function', case when not d.score_function then 'false' end)
            ) as o (n, name, value)
            where o.value is not null),
           concat(case when relief._trigger_function(d) is not null then format(' select relief.attach(%L);', d.name) end,
                  ' -- ' || kept.outdated || ': write the column''s name of now'))
    end
  from (
    select f.features, f.outdated,
           (select string_agg(quote_literal(relief._column_now(d, c)), ', ' order by n)
            from unnest(d.entity) with ordinality as e (c, n)
            where relief._column_now(d, c) is not null and relief._results_among(d.relation, array[c]) = '{}') as entity,
           case when relief._results_among(d.relation, array[d.time_column]) = '{}' then relief._column_now(d, d.time_column) end as time_column
    from (
      select string_agg(quote_literal(case when w.expression = quote_ident(f.name) then w.expression
                                      else w.expression || ' AS ' || quote_ident(f.name) end), ', ' order by f.position),
             string_agg(format('%I reads %s', f.name, o.names), ', ' order by f.position) filter (where o.names is not null)
      from relief.feature as f
      -- An expression is kept as it was written: of a column that was renamed since, it has the older name. What is a column alone is told
      -- by the name of now.
      cross join lateral (select cardinality(f.columns) = 1 and f.expression ~ '^("([^"]|"")+"|[[:alpha:]_][[:alnum:]_$]*)$') as b (is_column)
      cross join lateral (select case when b.is_column then quote_ident(relief._column_now(d, f.columns[1])) else f.expression end) as w (expression)
      cross join lateral (select string_agg(quote_ident(relief._column_now(d, c)), ', ') from unnest(f.columns) as c
                          where not b.is_column and strpos(lower(f.expression), lower(relief._column_now(d, c))) = 0) as o (names)
      where f.detector_id = d.id and not exists (select from unnest(f.columns) as c where relief._column_now(d, c) is null)
        and relief._results_among(d.relation, f.columns) = '{}'
    ) as f (features, outdated)
  ) as kept
$$;
comment on function relief._creation(relief.detector) is
  'Returns the statements that make a detector anew for its table as it is, without the features, entity and times of which columns are gone or Relief''s.';

create function relief._kinds(d relief.detector)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array(select relief._part_kind(kind, p.part)
               from relief._parts(d) as p
               cross join unnest('{features, categories, guarded}'::text[]) with ordinality as k (kind, n)
               where kind <> 'categories' or p.has_categories
               order by p.part, n)
         || '{verdict, contributions, judgement, explanation, trigger, event, gate, shadow}'::text[]
         || case when d.score_function then '{score, explain}'::text[] else '{}' end
$$;
comment on function relief._kinds(relief.detector) is 'Returns the kinds of functions that a detector has, as far as it is attached.';

create function relief._check_table(d relief.detector)
  returns setof text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if relief._schema_of(d.relation) is null then
    return query
      select format(case when relief._find_again(d) is null then 'table %I.%I is gone; select relief.drop_detector(%L);'
                         else 'table %I.%I was dropped and created again; select relief.regenerate(%L);' end,
                    d.schema_name, d.table_name, d.name);
    return;
  end if;
  return query
    select format('column %I of table %s is gone; %s', min(c.name), d.relation, relief._creation(d))
    from unnest(d.columns || d.entity || d.time_column) as c (name)
    where c.name is not null and relief._column_now(d, c.name) is null
    having count(*) > 0
    union all
    select format('column %I of table %s is called %I by now; select relief.regenerate(%L);', c.name, d.relation, relief._column_now(d, c.name), d.name)
    from (select distinct unnest(d.columns || d.entity || d.time_column)) as c (name)
    where relief._column_now(d, c.name) <> c.name
    union all
    select format('column %I of table %s is of type %s, not %s as when the detector was made; select relief.regenerate(%L);',
                  r.name, d.relation, format_type(r.type_now, null), format_type(r.type_then, null), d.name)
    from relief._retyped(d) as r;
  if found then
    return;
  elsif relief._schema_of(d.relation) <> d.schema_name then
    return next format('table %s was in schema %I when the detector was made; select relief.regenerate(%L);', d.relation, d.schema_name, d.name);
    return;
  end if;
  return query
    select format('function %s is gone; %s', relief._function_name(d, kind),
                  case when kind ~ '^(features|categories)' then relief._creation(d) else format('select relief.regenerate(%L);', d.name) end)
    from unnest(relief._kinds(d)) with ordinality as k (kind, n)
    where kind not in ('trigger', 'event', 'gate', 'shadow', 'score', 'explain') and relief._generated(d, kind) is null
    order by n;
  return query
    select format('function %s(%s) is gone; select relief.regenerate(%L);', f.name, d.relation, d.name)
    from (values ('relief_score'), ('relief_explain')) as f (name)
    where d.score_function and relief._row_function(d.relation, f.name) is null;
  return query
    select format('function %s calls functions by names that they don''t have any more; select relief.regenerate(%L);', p.oid::regprocedure, d.name)
    from pg_proc as p
    where d.score_function and (p.oid = relief._score_function(d.relation) and p.prosrc <> relief._score_body(d)
                                or p.oid = relief._row_function(d.relation, 'relief_explain') and p.prosrc <> relief._explain_query(d, 'o'));
end
$$;
comment on function relief._check_table(relief.detector) is
  'Returns how a detector''s table differs from what its functions were made for, each with the statement that mends it.';
