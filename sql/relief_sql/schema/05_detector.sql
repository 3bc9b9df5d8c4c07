-- Detectors: create, drop. Everything here runs with the caller's rights; row-level security decides on whose detectors.

create function relief.create_detector(
    name text,
    relation regclass,
    features text[] default null,
    contamination double precision default null,
    threshold double precision default null,
    time_column name default null,
    on_error text default 'pass',
    entity name[] default '{}',
    season text default null,
    verdict text default 'either',
    deviation_threshold double precision default 6,
    min_history integer default 30,
    profile_window interval default null,
    scale text[] default null,
    time_zone text default pg_catalog.current_setting('TimeZone'),
    score_function boolean default true,
    name_path text default pg_catalog.current_setting('search_path'))
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
  checked relief._feature[];
  attributes smallint[];
  parts integer[];
  d relief.detector;
begin
  perform relief._require_detector_options(name, relation, features, contamination, threshold, time_column, on_error);
  features := coalesce(features, relief._suggested_features(name, relation, time_zone));
  perform relief._require_fewer_features(name, features);
  perform relief._require_profile_options(
    name, relation, time_column, entity, season, verdict, deviation_threshold, min_history, profile_window, scale, time_zone, cardinality(features));
  checked := array(select relief._check_feature(relation, f.feature, name_path) from unnest(features) with ordinality as f (feature, n) order by f.n);
  perform relief._require_distinct_names(checked, relation);
  attributes := array(select distinct a from unnest(checked) as f, unnest(f.columns) as a order by a);
  if attributes = '{}' then
    raise exception 'the features of detector "%" read no column of table %', name, relation
      using errcode = 'invalid_parameter_value', hint = format('The columns are: %s.', relief._column_list(relation));
  end if;
  if score_function then
    perform relief._require_free_score_function(relation);
  end if;
  parts := relief._parts_of(checked, relation);

  insert into relief.detector (name, relation, schema_name, table_name, columns, arguments, time_column, time_zone, entity, season, contamination,
                               threshold, on_error, verdict, deviation_threshold, min_history, profile_window, refresh_lag, score_function,
                               generated_by)
  select name, relation, relief._schema_of(relation), c.relname,
         read.columns, read.columns, time_column, time_zone, entity, season,
         case when threshold is null then coalesce(contamination, 0.01) end, threshold, on_error,
         verdict, deviation_threshold, min_history, profile_window, 1, score_function, relief.version()
  from pg_class as c,
       (select array(select attname from pg_attribute where attrelid = relation and attnum = any (attributes) order by attnum)) as read (columns)
  where c.oid = relation
  on conflict do nothing
  returning * into d;
  if not found then
    perform relief._raise_detector_exists(name);
  end if;
  perform relief._note_attributes(name);
  insert into relief.feature (detector_id, position, name, expression, columns, part, kind, scale, transform, unit, origin, bin_width)
  select d.id, f.n, f.name, f.expression,
         array(select attname from pg_attribute where attrelid = relation and attnum = any (f.columns) order by attnum),
         parts[f.n], f.kind, coalesce(scale[f.n], 'auto'), c.transform, c.unit, c.origin, c.bin_width
  from unnest(checked) with ordinality as f (name, expression, kind, value, columns, parallel_safe, n)
  -- There is no scale to choose for a category.
  left join (values ('category', 'linear', 1, 0, 1)) as c (kind, transform, unit, origin, bin_width) on c.kind = f.kind;

  perform relief._create_features(d, checked, name_path);
  perform relief._create_verdict(d);
  if score_function then
    perform relief._create_score_function(d, relief._parallel_label(checked));
    perform relief._create_explain_function(d, relief._parallel_label(checked));
  end if;
  perform relief._audit(d, 'create', details => jsonb_build_object('features', features));
end
$$;
comment on function relief.create_detector(text, regclass, text[], double precision, double precision, name, text, name[], text, text,
                                           double precision, integer, interval, text[], text, boolean, text) is
  'Makes a detector: a name for a table and the features by which its rows are compared, each an expression, AS a name where it isn''t '
  'a column (without one, it is called as it is written); those of relief.suggest_features if none are given. contamination is the share of rows to flag (0.01 unless a fixed threshold is given). on_error is pass or raise. '
  'entity names the columns of the thing a row is about, season is hour_of_day, day_of_week or hour_of_week of time_column: rows are '
  'compared with the history of the same. verdict is score, deviation, either or both. scale gives each feature auto, linear or log. '
  'score_function => false leaves relief_score(row) to another detector of the table. Names in expressions are looked up in name_path.';

create function relief.drop_detector(name text, drop_columns boolean default false)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d relief.detector;
  generated regprocedure;
begin
  perform relief._require_primary();
  perform relief._lock_profile(e.id) from relief.detector as e where e.name = $1;
  select * into d from relief.detector as e where e.name = $1 for update;
  if not found then
    perform relief._raise_no_detector($1);
  end if;
  if relief._schema_of(d.relation) is not null then
    perform relief._detach(d, drop_columns);
  end if;
  perform relief._require_none_held(d);
  -- A table that was moved to another schema has left its functions behind. What was made later may call what was made before.
  for generated in
    select made
    from unnest(array[d.schema_name, relief._schema_of(d.relation)]) as place,
         unnest(relief._kinds(d)) as kind,
         relief._generated_in(place, d, kind) as made
    where made is not null
    group by made
    order by made::oid desc
  loop
    perform relief._change_catalog(array[format('drop function %s', generated)]);
  end loop;
  perform relief._unschedule_refresh(d);
  perform relief._audit(d, 'drop', details => jsonb_build_object('drop_columns', drop_columns));
  delete from relief.shadow_score as s where s.detector = d.name;
  delete from relief.detector as e where e.id = d.id;
end
$$;
comment on function relief.drop_detector(text, boolean) is
  'Drops a detector with its models, profiles, labels, schedule and functions, and detaches it. Companion columns stay unless '
  'drop_columns is true, and so do events.';
