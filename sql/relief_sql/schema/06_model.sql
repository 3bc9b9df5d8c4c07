-- Models: store, promote.

create function relief.add_model(detector text, document text, checksum text)
  returns integer
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_detector(detector);
  m relief.model;
begin
  insert into relief.model (detector_id, version, document, checksum)
  select d.id, coalesce(max(e.version), 0) + 1, $2, $3
  from relief.model as e where e.detector_id = d.id
  returning * into strict m;
  perform relief._require_features(d, m);
  insert into relief.profile (model_id, feature, count, mean, stddev, minimum, maximum, null_rate)
  select m.id,
         array_agg(f.name order by n),
         array_agg((p ->> 'count')::bigint order by n),
         array_agg((p ->> 'mean')::float8 order by n),
         array_agg((p ->> 'stddev')::float8 order by n),
         array_agg((p ->> 'minimum')::float8 order by n),
         array_agg((p ->> 'maximum')::float8 order by n),
         array_agg((p ->> 'null_rate')::float8 order by n)
  -- The document is parsed once, not once a feature.
  from (select m.document::jsonb -> 'profile' as profile offset 0) as content
  cross join unnest(m.features) with ordinality as f (name, n)
  cross join lateral (select content.profile -> f.name as p) as profile;
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
begin
  if m.features <> features then
    raise exception 'version % takes the features %, but detector "%" has %', m.version, m.features, d.name, features
      using errcode = 'object_not_in_prerequisite_state', hint = format('Train the detector: relief train %s', d.name);
  end if;
end
$$;
comment on function relief._require_features(relief.detector, relief.model) is 'Raises an error if a model takes other features than its detector has.';

create function relief.promote(detector text, version integer default null)
  returns integer
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_detector(detector);
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
              format('Train one: relief train %s', d.name));
  end if;
  perform relief._require_features(d, m);
  perform relief._require_generated(d);
  perform relief._replace_verdict(d, m);
  update relief.detector as e set promoted_version = m.version where e.id = d.id;
  return m.version;
end
$$;
comment on function relief.promote(text, integer) is
  'Makes a version, the newest unless one is given, the one that scores: for every transaction that starts after this one commits.';
