-- Life of models: candidate, promoted, retired; the check before a promotion, and the way back.

create view relief.model_stage
  with (security_barrier)
as
select
  d.name as detector,
  m.version,
  case when m.version = d.promoted_version then 'promoted' when m.retired_at is not null then 'retired' else 'candidate' end as stage,
  m.created_at,
  m.created_by,
  m.promoted_at,
  m.retired_at,
  m.threshold,
  m.threshold_origin
from relief.model as m
join relief.detector as d on d.id = m.detector_id
where relief._owns(d.relation, d.created_by);
comment on view relief.model_stage is 'The stage of each version: promoted, the one that scores; candidate, which may become it; retired, put out of service.';
comment on column relief.model_stage.promoted_at is 'When it was last promoted: relief.rollback goes back in this order.';

create function relief._damaged(d relief.detector, m relief.model)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select relief._damage(relief._start(), m.checksum, m.forest_checksum, m.forest, m.explainer) || format('; select relief.regenerate(%L);', d.name)
$$;
comment on function relief._damaged(relief.detector, relief.model) is
  'Returns what is wrong with what a model is stored as beside its document, with what makes it anew of that; NULL if nothing is.';

create function relief._check_candidate(d relief.detector, m relief.model)
  returns setof text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  damage constant text := relief._damaged(d, m);
  parity constant text := coalesce(damage, relief._problem(relief._start(), m.checksum, m.document, m.forest_checksum, m.forest, m.explainer));
begin
  return query
    select format('it was retired on %s', m.retired_at::date) where m.retired_at is not null
    union all
    select parity where parity is not null;
  return query select * from relief._check_table(d);
  if not found then
    return query
      select format('column %I of table %s was of type %s when it was trained, and is of type %s', c.name, d.relation, c.type_then, c.type_now)
      from unnest(d.columns, m.column_types, relief._column_types(d)) as c (name, type_then, type_now)
      where c.type_then <> c.type_now;
  end if;
end
$$;
comment on function relief._check_candidate(relief.detector, relief.model) is
  'Returns why a model shouldn''t be promoted: retired, not proven to score as scikit-learn does, trained on the table as it was.';

create function relief.promote(detector text, version integer default null, force boolean default false, reason text default null)
  returns integer
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_detector(detector);
  m constant relief.model := relief._model_of(d, version);
  problems text[];
begin
  perform relief._require_features(d, m);
  perform relief._require_generated(d);
  problems := array(select relief._check_candidate(d, m));
  if problems <> '{}' and force is not true then
    raise exception 'version % of detector "%" fails its check: %', m.version, d.name, problems[1]
      using errcode = 'object_not_in_prerequisite_state',
            detail = array_to_string(problems, E'\n'),
            hint = format('Train another: relief train %s, or promote it nevertheless: select relief.promote(%L, %s, force => true);',
                          relief._shell_quoted(d.name), d.name, m.version);
  end if;
  perform relief._put_into_service(d, m);
  perform relief._audit(d, 'promote', m.version, reason,
                        jsonb_build_object('previous', d.promoted_version)
                        || case when problems = '{}' then '{}' else jsonb_build_object('forced', problems) end);
  return m.version;
end
$$;
comment on function relief.promote(text, integer, boolean, text) is
  'Makes a version, the newest that isn''t retired unless one is given, the one that scores: for every transaction that starts after '
  'this one commits. One that fails its check is refused, unless by force; the log has why, and what was overruled.';

create function relief._version_before(d relief.detector)
  returns integer
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select m.version
  from relief.model as m
  where m.detector_id = d.id and m.promoted_at is not null and m.retired_at is null and m.version is distinct from d.promoted_version
  order by m.promoted_at desc
  limit 1
$$;
comment on function relief._version_before(relief.detector) is
  'Returns the version that rollback goes back to: of those in service before, and not retired since, the one promoted last; NULL for none.';

create function relief._spare_versions(d relief.detector)
  returns integer[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array(
    select m.version
    from relief.model as m
    where m.detector_id = d.id and m.retired_at is null and m.version is distinct from d.promoted_version
      and not exists (select from relief.shadow as s where s.detector_id = d.id and s.version = m.version)
    order by m.version desc)
$$;
comment on function relief._spare_versions(relief.detector) is
  'Returns the versions, the newest first, that could be retired or put in shadow: neither promoted nor retired nor in shadow.';

create function relief._referenced(d relief.detector, version integer)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case version when d.promoted_version then 'it is promoted'
                      when relief._version_before(d) then 'rollback goes back to it'
                      when (select s.version from relief.shadow as s where s.detector_id = d.id) then 'it is in shadow' end
$$;
comment on function relief._referenced(relief.detector, integer) is 'Returns why a version is needed and mustn''t be dropped, NULL if it may be.';

create function relief.rollback(detector text, reason text default null)
  returns integer
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_detector(detector);
  version constant integer := relief._version_before(d);
  m relief.model;
  problem text;
begin
  if d.promoted_version is null then
    perform relief._no_model(d.name);
  end if;
  if version is null then
    raise exception 'detector "%" has no version to go back to from version %', d.name, d.promoted_version
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('See which there are: select version, stage, promoted_at from relief.model_stage where detector = %L;', d.name);
  end if;
  m := relief._model_of(d, version);
  perform relief._require_features(d, m);
  perform relief._require_generated(d);
  -- It was in service once, and what is in service now is worse: what speaks against it is told, and stops nobody.
  for problem in select relief._check_candidate(d, m) loop
    raise warning 'version % of detector "%" fails its check: %', m.version, d.name, problem;
  end loop;
  update relief.model as e set retired_at = clock_timestamp() where e.detector_id = d.id and e.version = d.promoted_version;
  perform relief._put_into_service(d, m);
  perform relief._audit(d, 'rollback', m.version, reason, jsonb_build_object('previous', d.promoted_version));
  return m.version;
end
$$;
comment on function relief.rollback(text, text) is
  'Retires the promoted version and promotes the one that scored before it, and returns that. Called again it goes back farther, never to a '
  'version that is retired; with none left it is refused.';

create function relief.retire(detector text, version integer, reason text default null)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_detector(detector);
  spare constant integer[] := relief._spare_versions(d);
  m relief.model;
begin
  if version is null then
    raise exception 'the version of detector "%" to retire is NULL', d.name
      using errcode = 'null_value_not_allowed',
            hint = case when spare = '{}' then format('None can be retired by now; train another first: relief train %s', relief._shell_quoted(d.name))
                        else format('Name one of %s: select relief.retire(%L, %s);', array_to_string(spare, ', '), d.name, spare[1]) end;
  end if;
  m := relief._model_of(d, version);
  if m.version = d.promoted_version then
    raise exception 'version % of detector "%" is promoted', m.version, d.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Promote another first, or go back: select relief.rollback(%L);', d.name);
  end if;
  if m.retired_at is not null then
    raise exception 'version % of detector "%" is retired already', m.version, d.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('To have it back: select relief.promote(%L, %s, force => true);', d.name, m.version);
  end if;
  if exists (select from relief.shadow as s where s.detector_id = d.id and s.version = m.version) then
    raise exception 'version % of detector "%" is in shadow', m.version, d.name
      using errcode = 'object_not_in_prerequisite_state', hint = format('End that first: select relief.shadow(%L, null);', d.name);
  end if;
  update relief.model as e set retired_at = clock_timestamp() where e.id = m.id;
  perform relief._audit(d, 'retire', m.version, reason);
end
$$;
comment on function relief.retire(text, integer, text) is
  'Puts a version out of service that isn''t promoted: neither promote takes it, unless by force, nor rollback.';
