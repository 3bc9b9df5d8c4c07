-- Scoring by name: a row given as jsonb, whether it is stored anywhere or not.

create type relief._target as (
  detector  text,
  relation  regclass,
  source    text,
  features  text,
  categories text,
  judgement text,
  explanation text,
  on_error  text,
  columns   name[]
);
comment on type relief._target is 'What a caller who doesn''t own a detector''s table needs to score a row: names of functions, and the policy.';

create function relief._find(detector text)
  returns relief._target
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  d relief.detector;
begin
  select * into d from relief.detector as e where e.name = detector;
  if not found or relief._schema_of(d.relation) is null then
    perform relief._raise_no_detector(detector);
  end if;
  return row(d.name, d.relation, relief._completed(d, format('jsonb_populate_record(null::%s, $1)', d.relation)), relief._features_call(d, 'o'),
             relief._categories_call(d, 'o'), relief._judgement_call(d, 'o', '$1', '$2', true), relief._explain_query(d, 'o'),
             d.on_error, array(select distinct c from unnest(d.columns || d.entity || d.time_column) as c where c is not null order by c))::relief._target;
end
$$;
comment on function relief._find(text) is 'Returns where a detector''s functions are; whoever may score may know.';

create function relief._table_changed()
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select 'The table has changed since the detector was made. What mends it is told to the table''s owner: select * from relief.check();'
$$;
comment on function relief._table_changed() is 'Returns the hint for a detector that reads columns which aren''t there any more.';

create function relief._require_columns(target relief._target, row_values jsonb)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  unknown text;
  populate constant text := format('select from jsonb_populate_record(null::%s, $1)', target.relation);
  given record;
begin
  if row_values is null or jsonb_typeof(row_values) <> 'object' then
    raise exception 'row for detector "%" is %, not a JSON object', target.detector, coalesce(jsonb_typeof(row_values), 'NULL')
      using errcode = 'invalid_parameter_value', hint = 'Give column names and values: ''{"amount": 12.5}''.';
  end if;
  select key into unknown
  from jsonb_object_keys(row_values) as key
  where not exists (
    select from pg_attribute where attrelid = target.relation and attname = key and attnum > 0 and not attisdropped)
  limit 1;
  if found then
    raise exception 'column "%" of table % does not exist', unknown, target.relation
      using errcode = 'undefined_column',
            hint = case when unknown = any (target.columns) then relief._table_changed()
                        else format('The detector reads: %s.', array_to_string(target.columns, ', ')) end;
  end if;
  -- A value that isn't of its column's type is the caller's mistake, whatever the policy. Which one it is, PostgreSQL doesn't say.
  begin
    execute populate using row_values;
  exception when data_exception or integrity_constraint_violation or datatype_mismatch or raise_exception then
    for given in select * from jsonb_each(row_values) loop
      begin
        execute populate using jsonb_build_object(given.key, given.value);
      exception when others then
        raise exception 'value of column "%" of table % cannot be taken: %', given.key, target.relation, sqlerrm
          using errcode = sqlstate,
                hint = format('Give one of type %s, or leave the column out.', (
                  select format_type(atttypid, atttypmod) from pg_attribute where attrelid = target.relation and attname = given.key));
      end;
    end loop;
    raise;
  end;
end
$$;
comment on function relief._require_columns(relief._target, jsonb) is
  'Raises an error for a row that isn''t an object of columns of the detector''s table, each with a value of its type.';

create function relief.detect(
    detector text,
    row_values jsonb,
    out score double precision,
    out threshold double precision,
    out is_anomaly boolean,
    out deviation jsonb,
    out model_version integer,
    out severity double precision)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  target constant relief._target := relief._find(detector);
  numbers double precision[];
  categories text[];
  judgement jsonb;
begin
  perform relief._require_columns(target, row_values);
  -- An expression that fails is the row's fault: the policy decides.
  begin
    execute format('select %s, %s from %s as o', target.features, target.categories, target.source)
      into numbers, categories using row_values;
  exception when data_exception or integrity_constraint_violation or plpgsql_error or external_routine_exception then
    if target.on_error = 'raise' then
      raise;
    end if;
    deviation := jsonb_build_object('error', sqlerrm);
    return;
  when undefined_column or undefined_function or datatype_mismatch then
    raise exception 'rows of table % can''t be scored by detector "%": %', target.relation, target.detector, sqlerrm
      using errcode = sqlstate,
            hint = relief._table_changed();
  end;
  execute format('select %s from jsonb_populate_record(null::%s, $3) as o', target.judgement, target.relation)
    into judgement using numbers, categories, row_values;
  score := (judgement ->> 'relief_anomaly_score')::double precision;
  threshold := (judgement ->> 'threshold')::double precision;
  is_anomaly := (judgement ->> 'relief_is_anomaly')::boolean;
  deviation := judgement -> 'relief_deviation';
  model_version := (judgement ->> 'relief_model_version')::integer;
  severity := (judgement ->> 'severity')::double precision;
end
$$;
comment on function relief.detect(text, jsonb) is
  'Scores one row, given as column names and values (left out = NULL): score in (0, 1] with higher = more anomalous, the threshold from '
  'which a row is an anomaly, whether this one is, how far each feature lies from its history, the version that judged, and the '
  'severity: the share of ordinary rows that are less strange. Under policy pass, a row whose features fail has a NULL score and the reason as "error" in deviation.';

create function relief.score(detector text, row_values jsonb)
  returns double precision
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  detected constant record := relief.detect(detector, row_values);
begin
  if detected.deviation ? 'error' then
    raise warning 'row for detector "%" has no score: %', detector, detected.deviation ->> 'error';
  end if;
  return detected.score;
end
$$;
comment on function relief.score(text, jsonb) is
  'Returns the anomaly score, in (0, 1] and higher = more anomalous, of one row given as column names and values; see relief.detect.';
