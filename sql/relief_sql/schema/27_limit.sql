-- Limits of a database, checked when something is stored. Those of a model are the runtime's: LIMITS of relief_runtime/document.py.

create function relief._max_features()
  returns integer
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select 1600
$$;
comment on function relief._max_features() is 'Returns how many features a detector may have: as many as its models.';

create function relief._max_detectors()
  returns integer
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select 10000
$$;
comment on function relief._max_detectors() is 'Returns how many detectors a database may have.';

create function relief._require_fewer_features(name text, features text[])
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if cardinality(features) > relief._max_features() then
    raise exception 'detector "%" is given % features, more than %', name, cardinality(features), relief._max_features()
      using errcode = 'program_limit_exceeded', hint = 'Choose the features that tell most, or make several detectors.';
  end if;
end
$$;
comment on function relief._require_fewer_features(text, text[]) is 'Raises an error for more features than a detector may have.';

-- With definer rights, as a role sees its own detectors alone. It tells but their number.
create function relief._check_detector_count()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  detectors constant bigint := (select count(*) from relief.detector);
begin
  if detectors > relief._max_detectors() then
    raise exception 'database "%" would have % detectors, more than %', current_database(), detectors, relief._max_detectors()
      using errcode = 'program_limit_exceeded', hint = 'Drop what isn''t needed, with relief.drop_detector; list them: select name, relation from relief.detector order by name;';
  end if;
  return null;
end
$$;
comment on function relief._check_detector_count() is 'Refuses a detector beyond as many as a database may have.';

create trigger check_count
  after insert on relief.detector
  for each statement execute function relief._check_detector_count();
comment on trigger check_count on relief.detector is 'No database has more detectors than relief._max_detectors().';
