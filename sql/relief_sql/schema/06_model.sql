-- Models: store, choose, put into service.

create function relief.add_model(detector text, document text, checksum text)
  returns integer
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d relief.detector := relief._detector(detector);
  m relief.model;
  profile jsonb;
begin
  perform relief._lock_profile(d.id);
  d := relief._lock_detector(detector);
  insert into relief.model (detector_id, version, document, checksum, column_types)
  select d.id, coalesce(max(e.version), 0) + 1, $2, $3, relief._column_types(d)
  from relief.model as e where e.detector_id = d.id
  returning * into strict m;
  perform relief._require_features(d, m);
  profile := m.document::jsonb -> 'profile';
  -- Until a first refresh, the rows that the model was trained on are all the history there is.
  insert into relief.profile (detector_id, entity, season, rows, complete, count, mean, stddev, median, spread, spread_floor,
                              p01, p99, minimum, maximum, null_rate)
  select d.id, '', -1, max(p.count / nullif(1 - p.null_rate, 0)), bool_and(p.count >= d.min_history),
         array_agg(p.count order by n), array_agg(p.mean order by n), array_agg(p.stddev order by n),
         array_agg(p.median order by n), array_agg(p.spread order by n), array_agg(0.1 * coalesce(nullif(p.spread, 0), p.stddev) order by n),
         array_agg(p.p01 order by n), array_agg(p.p99 order by n), array_agg(p.minimum order by n), array_agg(p.maximum order by n),
         array_agg(p.null_rate order by n)
  from unnest(m.features) with ordinality as f (name, n)
  cross join lateral jsonb_to_record(nullif(profile #> array[f.name, 'scaled'], 'null')) as p (
    count float8, mean float8, stddev float8, median float8, spread float8, p01 float8, p99 float8, minimum float8, maximum float8,
    null_rate float8, transform text, unit float8, origin float8)
  join relief.feature as g on g.detector_id = d.id and g.position = f.n
  -- A model from another database was trained on another scale.
  having max(p.count / nullif(1 - p.null_rate, 0)) is not null
         and bool_and((coalesce(p.transform, 'linear'), coalesce(p.unit, 1), coalesce(p.origin, 0))
                      = (coalesce(g.transform, 'linear'), coalesce(g.unit, 1), coalesce(g.origin, 0)))
  on conflict do nothing;
  perform relief._audit(d, 'train', m.version, details => jsonb_build_object('checksum', m.checksum));
  return m.version;
end
$$;
comment on function relief.add_model(text, text, text) is
  'Stores a model document, with its SHA-256, as a detector''s next version, and returns the version. The trainer calls it.';

create function relief._require_features(d relief.detector, m relief.model)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  features constant text[] := array(select f.name from relief.feature as f where f.detector_id = d.id order by f.position);
  other record;
begin
  if m.features <> features then
    raise exception 'version % takes the features %, but detector "%" has %', m.version, m.features, d.name, features
      using errcode = 'object_not_in_prerequisite_state', hint = format('Train the detector: relief train %s', relief._shell_quoted(d.name));
  end if;
  select f.name, f.kind, g.value ->> 'kind' as trained_kind into other
  from relief.feature as f
  join jsonb_array_elements(m.document::jsonb -> 'features') with ordinality as g (value, position) using (position)
  where f.detector_id = d.id and f.kind <> g.value ->> 'kind'
  limit 1;
  if found then
    raise exception 'version % takes "%" for a %, but for detector "%" it is a %', m.version, other.name, other.trained_kind, d.name, other.kind
      using errcode = 'object_not_in_prerequisite_state', hint = format('Train the detector: relief train %s', relief._shell_quoted(d.name));
  end if;
end
$$;
comment on function relief._require_features(relief.detector, relief.model) is 'Raises an error if a model takes other features than its detector has.';

create function relief._column_types(d relief.detector)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array(
    select format_type(a.atttypid, null)
    from unnest(d.columns) with ordinality as c (name, n)
    left join pg_attribute as a on a.attrelid = d.relation and a.attname = relief._column_now(d, c.name) and not a.attisdropped
    order by c.n)
$$;
comment on function relief._column_types(relief.detector) is 'Returns the types of the columns that a detector reads, in their order; NULL for one that is gone.';

create function relief._model_of(d relief.detector, version integer)
  returns relief.model
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  m relief.model;
begin
  select * into m
  from relief.model as e
  where e.detector_id = d.id and (e.version = $2 or $2 is null and e.retired_at is null)
  order by e.version desc
  limit 1;
  if found then
    return m;
  end if;
  select * into m from relief.model as e where e.detector_id = d.id order by e.version desc limit 1;
  if not found then
    raise exception 'detector "%" has no model', d.name
      using errcode = 'undefined_object', hint = format('Train one: relief train %s', relief._shell_quoted(d.name));
  elsif version is null then
    raise exception 'all versions of detector "%" are retired', d.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Train another: relief train %s', relief._shell_quoted(d.name));
  end if;
  raise exception 'detector "%" has no model of version %', d.name, version
    using errcode = 'undefined_object',
          hint = format('The versions are: %s.',
                        (select string_agg(e.version::text, ', ' order by e.version) from relief.model as e where e.detector_id = d.id));
end
$$;
comment on function relief._model_of(relief.detector, integer) is
  'Returns a version of a detector''s models, the newest that isn''t retired unless one is given, or raises an error.';

create function relief._put_into_service(d relief.detector, m relief.model)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._replace_verdict(d, m);
  update relief.detector as e set promoted_version = m.version where e.id = d.id;
  -- A clock may stand still or go back; the order in which versions were promoted doesn't.
  update relief.model as e
  set promoted_at = greatest(
        clock_timestamp(), (select max(other.promoted_at) + interval '1 microsecond' from relief.model as other where other.detector_id = d.id)),
      retired_at = null
  where e.id = m.id;
  perform relief._note_attributes(d.name);
end
$$;
comment on function relief._put_into_service(relief.detector, relief.model) is 'Makes a model the one that scores.';
