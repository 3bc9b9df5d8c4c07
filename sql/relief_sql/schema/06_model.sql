-- Models: store, promote.

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
  insert into relief.model (detector_id, version, document, checksum)
  select d.id, coalesce(max(e.version), 0) + 1, $2, $3
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
  where e.detector_id = d.id and e.version = coalesce($2, e.version)
  order by e.version desc
  limit 1;
  if not found then
    raise exception 'detector "%" has no model%', d.name, coalesce(' of version ' || $2, '')
      using errcode = 'undefined_object',
            hint = coalesce(
              (select 'The versions are: ' || string_agg(e.version::text, ', ' order by e.version) || '.' from relief.model as e where e.detector_id = d.id),
              format('Train one: relief train %s', relief._shell_quoted(d.name)));
  end if;
  return m;
end
$$;
comment on function relief._model_of(relief.detector, integer) is 'Returns a version of a detector, the newest without a number, or raises an error.';

create function relief.promote(detector text, version integer default null)
  returns integer
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_detector(detector);
  m constant relief.model := relief._model_of(d, version);
begin
  perform relief._require_features(d, m);
  perform relief._require_generated(d);
  perform relief._replace_verdict(d, m);
  update relief.detector as e set promoted_version = m.version where e.id = d.id;
  perform relief._note_attributes(d.name);
  perform relief._audit(d, 'promote', m.version, details => jsonb_build_object('previous', d.promoted_version));
  return m.version;
end
$$;
comment on function relief.promote(text, integer) is
  'Makes a version, the newest unless one is given, the one that scores: for every transaction that starts after this one commits.';
