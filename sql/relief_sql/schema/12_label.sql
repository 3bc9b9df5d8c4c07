-- Labels and tolerances: what people know better.

create function relief.label(detector text, key jsonb, is_anomaly boolean, note text default null)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._present_detector(detector);
  found_key jsonb;
  found_day date;
begin
  perform relief._require_primary();
  perform relief._require_key(d, key);
  -- The detector before the table, as whoever drops it does.
  perform from relief.detector as e where e.id = d.id for key share;
  begin
    execute format('select %s, %s from %s as o join %s on %s',
                   relief._key_text(d, 'o'), relief._day_text(d, 'o'), d.relation,
                   relief._record_text(d.relation, array(select jsonb_object_keys(key)), 'k'),
                   (select string_agg(format('o.%1$I = k.%1$I', column_name), ' and ') from jsonb_object_keys(key) as column_name))
      into found_key, found_day using key;
  exception when data_exception then
    raise exception 'key % is not that of table %: %', key, d.relation, sqlerrm
      using errcode = sqlstate, hint = 'Give a value of its column''s type for each column of the primary key.';
  end;
  if found_key is null then
    raise exception 'table % of detector "%" has no row with key %', d.relation, d.name, key
      using errcode = 'no_data_found', hint = format('Give the primary key of a row as JSON, such as %L.', relief._some_key(d));
  end if;
  if is_anomaly is null then
    delete from relief.label as l where l.detector_id = d.id and l.key = found_key;
  else
    insert into relief.label as l (detector_id, key, is_anomaly, note) values (d.id, found_key, $3, $4)
    on conflict on constraint label_pkey do update
      set is_anomaly = excluded.is_anomaly, note = excluded.note, labelled_at = now(), labelled_by = current_user;
  end if;
  -- Where the day is marked already, a refresh that takes the mark waits for this label.
  insert into relief.stale_day as s (detector_id, day) values (d.id, found_day)
  on conflict on constraint stale_day_pkey do update set day = excluded.day;
end
$$;
comment on function relief.label(text, jsonb, boolean, text) is
  'Says that the row with a primary key is an anomaly (true), ordinary (false), or takes back what was said (NULL). The next refresh '
  'of the profile leaves it out of the baseline, or lets it in.';

create function relief._record_text(relation regclass, columns name[], row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Not the whole row type: others of its columns may forbid NULL.
  select format('jsonb_to_record($1) as %I (%s)', row_name,
                string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '))
  from pg_attribute as a
  where a.attrelid = relation and a.attname = any (columns) and not a.attisdropped
$$;
comment on function relief._record_text(regclass, name[], text) is 'Returns the text that reads columns of a relation from a JSON object, parameter 1.';

create function relief._require_key(d relief.detector, key jsonb)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  columns constant text[] := array(
    select a.attname::text
    from pg_index as i
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey::smallint[])
    where i.indrelid = d.relation and i.indisprimary
    order by a.attname::text collate "C");
begin
  if columns = '{}' then
    raise exception 'table % of detector "%" has no primary key', d.relation, d.name
      using errcode = 'feature_not_supported', hint = 'Labels name rows by their primary key' || relief._way_to_a_key(d.relation);
  end if;
  if jsonb_typeof(key) is distinct from 'object' or array(select k from jsonb_object_keys(key) as k order by k collate "C") <> columns then
    raise exception 'key % is not that of table %', coalesce(key::text, 'NULL'), d.relation
      using errcode = 'invalid_parameter_value',
            hint = format('Give a JSON object with: %s, such as %L.', array_to_string(columns, ', '), relief._some_key(d));
  end if;
end
$$;
comment on function relief._require_key(relief.detector, jsonb) is 'Raises an error unless a JSON object names just the primary key''s columns.';

create function relief._some_key(d relief.detector)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  key jsonb;
begin
  execute format('select %s from %s as o limit 1', relief._key_text(d, 'o'), d.relation) into key;
  return coalesce(key, (select jsonb_object_agg(a.attname, 1)
                        from pg_index as i
                        join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey::smallint[])
                        where i.indrelid = d.relation and i.indisprimary));
end
$$;
comment on function relief._some_key(relief.detector) is 'Returns the primary key of some row of a table that has one, for a hint.';

create function relief._way_to_a_key(relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when c.relkind in ('r', 'p') then
      coalesce(
        (select format(': alter table %s add primary key (%s);', relation, string_agg(quote_ident(a.attname), ', ' order by k.n))
         from pg_index as i
         cross join unnest(i.indkey::smallint[]) with ordinality as k (attnum, n)
         join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
         where i.indrelid = relation and i.indisunique and i.indimmediate and i.indpred is null and i.indexprs is null and k.n <= i.indnkeyatts
         group by i.indexrelid
         order by count(*), i.indexrelid
         limit 1),
        ': add one.')
    else
      format(', which a %s can''t have%s.', case when c.relkind = 'f' then 'foreign table' else 'view' end,
             ': make a detector of ' || (
               select string_agg(t.oid::regclass::text, ' or ' order by t.oid)
               from pg_class as t
               where t.oid in (select u.refobjid from pg_rewrite as r join pg_depend as u on u.classid = 'pg_rewrite'::regclass and u.objid = r.oid
                               where r.ev_class = relation and u.refclassid = 'pg_class'::regclass)
                 and exists (select from pg_index as i where i.indrelid = t.oid and i.indisprimary)))
  end
  from pg_class as c
  where c.oid = relation
$$;
comment on function relief._way_to_a_key(regclass) is
  'Returns how rows of a relation without a primary key come to have one, for a hint: by what is unique already, or where a view''s rows come from.';

create function relief.set_tolerance(
    detector text,
    feature text,
    direction text default 'both',
    min_absolute double precision default 0,
    min_relative double precision default 0,
    entity jsonb default null)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_detector(detector);
  entity_key text := '';
begin
  if not exists (select from relief.feature as f where f.detector_id = d.id and f.name = set_tolerance.feature) then
    raise exception 'detector "%" has no feature "%"', d.name, feature
      using errcode = 'undefined_column',
            hint = format('The features are: %s.', (select string_agg(f.name, ', ' order by f.position) from relief.feature as f where f.detector_id = d.id));
  end if;
  if direction is null or direction not in ('up', 'down', 'both') then
    raise exception 'direction "%" is not up, down or both', direction
      using errcode = 'invalid_parameter_value', hint = 'up lets only values above the expected one make an anomaly.';
  end if;
  -- NaN is greater than infinity here.
  if not coalesce(min_absolute >= 0 and min_absolute < 'Infinity' and min_relative >= 0 and min_relative < 'Infinity', false) then
    raise exception 'min_absolute % or min_relative % is negative, infinite or NULL', min_absolute, min_relative
      using errcode = 'numeric_value_out_of_range', hint = 'They are the smallest departures that count; 0 lets all count.';
  end if;
  if entity is not null then
    if d.entity = '{}' or jsonb_typeof(entity) <> 'object'
       or array(select k from jsonb_each_text(entity) as e (k, v) where v is not null order by k collate "C")
          <> array(select c::text from unnest(d.entity) as c order by c::text collate "C") then
      raise exception 'entity % is not one of detector "%"', entity, d.name
        using errcode = 'invalid_parameter_value',
              hint = case d.entity when '{}' then 'The detector has no entities.' else format('Give a JSON object with: %s.', array_to_string(d.entity, ', ')) end;
    end if;
    execute format('select %s from %s', relief._entity_text(d, 'o'), relief._record_text(d.relation, d.entity, 'o'))
      into entity_key using entity;
  end if;
  insert into relief.tolerance as t (detector_id, feature, entity, direction, min_absolute, min_relative)
  values (d.id, $2, entity_key, $3, $4, $5)
  on conflict on constraint tolerance_pkey do update
    set direction = excluded.direction, min_absolute = excluded.min_absolute, min_relative = excluded.min_relative;
  perform relief._renew_judgement(d.name);
end
$$;
comment on function relief.set_tolerance(text, text, text, double precision, double precision, jsonb) is
  'Says which departures of a feature may make an anomaly: up, down or both, of at least min_absolute and of at least min_relative times '
  'the expected value; for one entity, given as an object of its columns, or for all.';
