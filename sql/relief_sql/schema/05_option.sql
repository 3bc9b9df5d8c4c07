-- Options of a detector: what can't be is refused before anything is made, with what could be.

create function relief._raise_detector_exists(name text)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'detector "%" already exists', name
    using errcode = 'duplicate_object', hint = format('Choose another name, or first: select relief.drop_detector(%L);', name);
end
$$;
comment on function relief._raise_detector_exists(text) is 'Raises the error for a detector whose name is taken.';

create function relief._require_detector_options(
    name text, relation regclass, features text[], contamination double precision, threshold double precision, time_column name, on_error text)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
  perform relief._require_primary();
  if name is null then
    raise exception 'the name of the detector is NULL'
      using errcode = 'null_value_not_allowed', hint = 'Name the detector as its table.';
  end if;
  if name = '' or octet_length(name) > 63 then
    raise exception 'detector name "%" is not of 1 to 63 bytes', name
      using errcode = 'invalid_name', hint = 'Name the detector as its table.';
  end if;
  if relation is null then
    raise exception 'detector "%" has no table', name
      using errcode = 'null_value_not_allowed', hint = 'Give the table as the second argument, such as ''public.orders''.';
  end if;
  perform relief._require_owner(relation);
  if exists (select from relief.detector as d where d.name = $1) then
    perform relief._raise_detector_exists(name);
  end if;
  perform relief._require_place(relation);
  if array_position(features, null) is not null then
    raise exception 'feature % of detector "%" is NULL', array_position(features, null), name
      using errcode = 'null_value_not_allowed',
            hint = format('Name columns or expressions of table %s: %s.', relation, relief._column_list(relation));
  end if;
  if cardinality(features) = 0 then
    raise exception 'detector "%" has no features', name
      using errcode = 'invalid_parameter_value',
            hint = format('Name columns or expressions of table %s: %s. Or leave features out: those of relief.suggest_features(%L) are taken.',
                          relation, relief._column_list(relation), relation);
  end if;
  if contamination is not null and threshold is not null then
    raise exception 'detector "%" is given both contamination % and threshold %', name, contamination, threshold
      using errcode = 'invalid_parameter_value', hint = 'Give one of them: the share of rows to flag, or the score from which to flag.';
  end if;
  if not contamination > 0 or contamination > 0.5 then
    raise exception 'contamination % of detector "%" is not in (0, 0.5]', contamination, name
      using errcode = 'numeric_value_out_of_range', hint = 'It is the share of rows to flag, such as 0.01.';
  end if;
  if not threshold > 0 or threshold > 1 then
    raise exception 'threshold % of detector "%" is not in (0, 1]', threshold, name
      using errcode = 'numeric_value_out_of_range', hint = 'It is a score, higher = more anomalous, such as 0.6.';
  end if;
  if on_error is null or on_error not in ('pass', 'raise') then
    raise exception 'on_error of detector "%" is "%", not "pass" or "raise"', name, on_error
      using errcode = 'invalid_parameter_value', hint = 'pass lets a row in that cannot be scored, raise refuses it.';
  end if;
  if time_column is not null and not exists (
      select from pg_attribute
      where attrelid = relation and attname = time_column and attnum > 0 and not attisdropped
        and atttypid = any ('{date, timestamp, timestamptz}'::regtype[])) then
    raise exception 'time column "%" of detector "%" is not a date or timestamp column of table %', time_column, name, relation
      using errcode = 'undefined_column',
            hint = coalesce('The date and timestamp columns are: ' || array_to_string(relief._time_columns(relation), ', ') || '.',
                            'The table has none: leave time_column out.');
  end if;
end
$$;
comment on function relief._require_detector_options(text, regclass, text[], double precision, double precision, name, text) is
  'Raises an error for the first option of create_detector that can''t be.';

create function relief._time_columns(relation regclass)
  returns name[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg(attname order by attnum)
  from pg_attribute
  where attrelid = relation and attnum > 0 and not attisdropped and attgenerated = '' and atttypid = any ('{date, timestamp, timestamptz}'::regtype[])
$$;
comment on function relief._time_columns(regclass) is 'Returns the columns of a relation that can tell when a row happened; NULL if there are none.';

create function relief._time_option(relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('time_column => %L', (relief._time_columns(relation))[1]) where relief._time_columns(relation) is not null
$$;
comment on function relief._time_option(regclass) is 'Returns the option of create_detector that names such a column, for a hint; NULL if there is none.';

create function relief._require_owner(relation regclass)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not relief._owns(relation, current_user) then
    raise exception 'must be owner of table %', relation
      using errcode = 'insufficient_privilege',
            hint = format('Connect as a role that has the rights of "%s".', (select pg_get_userbyid(relowner) from pg_class where oid = relation));
  end if;
end
$$;
comment on function relief._require_owner(regclass) is 'Raises an error unless the current role has the rights of a table''s owner.';

create function relief._require_place(relation regclass)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  lacking name;
begin
  -- Whoever makes a function must be allowed to, and whoever is given it as well; unless by a superuser.
  select r.rolname into lacking
  from pg_class as c
  join pg_roles as r on r.rolname in (current_user, pg_get_userbyid(c.relowner))
  where c.oid = relation and not has_schema_privilege(r.oid, c.relnamespace, 'create')
    and not (select rolsuper from pg_roles where rolname = current_user)
  order by r.rolname = current_user desc
  limit 1;
  if found then
    raise exception 'role "%" may not create functions in schema %, where those of a detector of table % must be',
                    lacking, quote_ident(relief._schema_of(relation)), relation
      using errcode = 'insufficient_privilege',
            hint = format('As the owner of the schema: grant create on schema %I to %I;', relief._schema_of(relation), lacking);
  end if;
end
$$;
comment on function relief._require_place(regclass) is 'Raises an error unless the generated functions can be made beside a table.';

create function relief._suggested_features(name text, relation regclass, time_zone text)
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  suggested constant text[] := array(select s.feature from relief.suggest_features(relation, time_zone) as s where s.feature is not null);
begin
  if suggested = '{}' then
    raise exception 'table % has no column that makes a feature of detector "%"', relation, name
      using errcode = 'invalid_parameter_value', hint = format('See why: select * from relief.suggest_features(%L);', relation);
  end if;
  raise notice 'detector "%" compares %', name, array_to_string(suggested, ', ')
    using hint = format('See why: select * from relief.suggest_features(%L);', relation);
  return suggested;
end
$$;
comment on function relief._suggested_features(text, regclass, text) is 'Returns the features of a detector for which none are given, and tells them.';

create function relief._require_profile_options(
    name text, relation regclass, time_column name, entity name[], season text, verdict text, deviation_threshold double precision,
    min_history integer, profile_window interval, scale text[], time_zone text, feature_count integer)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
  unknown text;
begin
  select coalesce(c, 'NULL') into unknown
  from unnest(entity) as c
  where not exists (select from pg_attribute where attrelid = relation and attname = c and attnum > 0 and not attisdropped)
  limit 1;
  if found or entity is null then
    raise exception 'entity column "%" of detector "%" is not a column of table %', coalesce(unknown, 'NULL'), name, relation
      using errcode = 'undefined_column', hint = format('The columns are: %s.', relief._column_names(relation));
  end if;
  select c into unknown from unnest(entity) as c group by c having count(*) > 1 limit 1;
  if found then
    raise exception 'entity column "%" of detector "%" is given twice', unknown, name
      using errcode = 'duplicate_column', hint = 'Give each column once.';
  end if;
  perform relief._require_own_columns(format('the entity of detector "%s"', name), relation, entity);
  perform relief._require_own_columns(format('the time column of detector "%s"', name), relation, array[time_column]);
  select attname into unknown
  from pg_attribute
  where attrelid = relation and (attname = any (entity) or attname = time_column) and attgenerated <> '' and not attisdropped
  limit 1;
  if found then
    raise exception 'column "%" of detector "%" is generated', unknown, name
      using errcode = 'feature_not_supported',
            hint = 'A generated column has no value yet when the trigger judges the row; take the columns that it is made of.';
  end if;
  select a.attname into unknown
  from pg_attribute as a
  join pg_type as t on t.oid = relief._base_type(a.atttypid)
  where a.attrelid = relation and a.attname = any (entity) and not a.attisdropped
    and (t.typcategory in ('A', 'C', 'R', 'T') or t.oid = 'money'::regtype or t.typinput::regproc::text like 'reg%')
  limit 1;
  if found then
    raise exception 'entity column "%" of detector "%" is of a type that each session writes in its own way', unknown, name
      using errcode = 'feature_not_supported', hint = 'Take a column that names the thing: a number, a text, a uuid, a time.';
  end if;
  if season not in ('hour_of_day', 'day_of_week', 'hour_of_week') then
    raise exception 'season of detector "%" is "%"', name, season
      using errcode = 'invalid_parameter_value', hint = 'It is one of hour_of_day, day_of_week and hour_of_week.';
  end if;
  if season is not null and time_column is null then
    raise exception 'detector "%" has season "%" but no time column', name, season
      using errcode = 'invalid_parameter_value',
            hint = coalesce('Say which column tells when a row happened: ' || relief._time_option(relation) || '.',
                            'The table has no date or timestamp column: leave season out.');
  end if;
  if season in ('hour_of_day', 'hour_of_week') and exists (
      select from pg_attribute where attrelid = relation and attname = time_column and atttypid = 'date'::regtype) then
    raise exception 'time column "%" of detector "%" is a date, which has no hour', time_column, name
      using errcode = 'invalid_parameter_value', hint = 'Take season => ''day_of_week'', or a timestamp column.';
  end if;
  if profile_window is not null and time_column is null then
    raise exception 'detector "%" has a profile window but no time column', name
      using errcode = 'invalid_parameter_value',
            hint = coalesce('Say which column tells when a row happened: ' || relief._time_option(relation) || '.',
                            'The table has no date or timestamp column: leave profile_window out.');
  end if;
  if profile_window <= interval '0' then
    raise exception 'profile window % of detector "%" is not positive', profile_window, name
      using errcode = 'numeric_value_out_of_range', hint = 'It is how far back the profile reaches, such as ''90 days''.';
  end if;
  if profile_window > interval '1000 years' then
    raise exception 'profile window % of detector "%" is longer than 1000 years', profile_window, name
      using errcode = 'numeric_value_out_of_range', hint = 'It is how far back the profile reaches, such as ''90 days''; NULL for all.';
  end if;
  if verdict is null or verdict not in ('score', 'deviation', 'either', 'both') then
    raise exception 'verdict of detector "%" is "%"', name, verdict
      using errcode = 'invalid_parameter_value', hint = 'It is one of score, deviation, either and both.';
  end if;
  if deviation_threshold is null or not deviation_threshold > 0 or deviation_threshold >= 'Infinity' then
    raise exception 'deviation threshold % of detector "%" is not a positive number', deviation_threshold, name
      using errcode = 'numeric_value_out_of_range', hint = 'It is a number of standard deviations, such as 6.';
  end if;
  if min_history is null or min_history < 2 then
    raise exception 'min_history % of detector "%" is not at least 2', min_history, name
      using errcode = 'numeric_value_out_of_range', hint = 'It is how many values make a history, such as 30.';
  end if;
  if scale is not null and (cardinality(scale) <> feature_count or exists (
      select from unnest(scale) as s where s is null or s not in ('auto', 'linear', 'log'))) then
    raise exception 'scale of detector "%" is %, not auto, linear or log for each of % features', name, scale, feature_count
      using errcode = 'invalid_parameter_value', hint = 'Leave it out, and the data choose.';
  end if;
  if time_zone is null or not exists (select from pg_timezone_names as z where z.name = time_zone) and time_zone <> current_setting('TimeZone') then
    raise exception 'time zone "%" of detector "%" is not known', time_zone, name
      using errcode = 'invalid_parameter_value', hint = 'The names are in pg_timezone_names, such as UTC or Europe/Berlin.';
  end if;
end
$$;
comment on function relief._require_profile_options(text, regclass, name, name[], text, text, double precision, integer, interval, text[], text, integer) is
  'Raises an error for the first option of create_detector about profiles that can''t be.';

create function relief._require_free_score_function(relation regclass)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  holder text;
begin
  if relief._score_function(relation) is null then
    return;
  end if;
  select format(' for detector "%s"', d.name) into holder
  from relief.detector as d
  where d.relation = $1 and d.score_function;
  raise exception 'function relief_score(%) already exists%', relation, coalesce(holder, '')
    using errcode = 'duplicate_function',
          hint = 'Leave it to that detector with score_function => false; relief.score(name, row) reaches every detector.';
end
$$;
comment on function relief._require_free_score_function(regclass) is 'Raises an error if relief_score of a relation''s row type exists.';

create function relief._require_distinct_names(features relief._feature[], relation regclass)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  twice text;
  expression text;
begin
  select f.name, max(f.expression) into twice, expression from unnest(features) as f group by f.name having count(*) > 1 limit 1;
  if found then
    raise exception 'two features of table % are named "%"', relation, twice
      using errcode = 'duplicate_column', hint = format('Name one of them: %s AS another_name', expression);
  end if;
  select f.name, f.expression into twice, expression from unnest(features) as f where f.name in ('error', 'state') limit 1;
  if found then
    raise exception 'a feature of table % is named "%"', relation, twice
      using errcode = 'reserved_name', hint = format('relief_deviation tells of failures under that name; write: %s AS another_name', expression);
  end if;
end
$$;
comment on function relief._require_distinct_names(relief._feature[], regclass) is 'Raises an error if two features share a name, or one takes a reserved one.';
