-- Schedule: refreshing by pg_cron, where that is installed. Without it, or to train too: relief.schedule and relief worker.

create function relief.schedule_refresh(detector text, schedule text default '*/15 * * * *')
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._present_detector(detector);
begin
  perform relief._require_primary();
  -- The job runs as whoever schedules it.
  perform relief._refuse_foreign_superuser(d);
  if exists (select from relief.schedule as s where s.detector = d.name and s.kind = 'refresh') then
    raise exception 'relief worker refreshes detector "%" already', d.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('One of both is enough. To take that off, and with it what else is scheduled: select relief.schedule(%L);', d.name);
  end if;
  -- A schema of this name may be anybody's.
  if not exists (select from pg_extension where extname = 'pg_cron') then
    raise exception 'pg_cron is not installed in this database'
      using errcode = 'feature_not_supported',
            hint = format('Let any cron run: %s relief refresh %s', schedule, d.name);
  end if;
  if not has_schema_privilege('cron', 'usage') then
    raise exception 'permission denied for schema cron'
      using errcode = 'insufficient_privilege', hint = format('As a superuser: grant usage on schema cron to %I;', current_user);
  end if;
  begin
    execute 'select cron.schedule($1, $2, $3)' using relief._refresh_job_name(d), coalesce(schedule, ''), relief._refresh_command(d);
  exception when invalid_parameter_value then
    raise exception 'schedule "%" of detector "%" is not valid', coalesce(schedule, 'NULL'), d.name
      using errcode = 'invalid_parameter_value',
            hint = 'It is minute, hour, day of the month, month and day of the week, as in a crontab: ''*/15 * * * *''.';
  end;
end
$$;
comment on function relief.schedule_refresh(text, text) is
  'Has pg_cron refresh a detector''s profile, every quarter of an hour unless told otherwise, as the role that calls this. '
  'Dropping the detector ends it.';

create function relief._refresh_job_name(d relief.detector)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select 'relief refresh ' || d.name
$$;
comment on function relief._refresh_job_name(relief.detector) is 'Returns what the job of pg_cron is called.';

create function relief._is_refreshed_by_pg_cron(d relief.detector)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  refreshed boolean := false;
begin
  -- Whoever can't see the jobs has none.
  if exists (select from pg_extension where extname = 'pg_cron') and has_schema_privilege('cron', 'usage') then
    execute 'select exists (select from cron.job as j where j.command = $1 and j.database = current_database())'
      into refreshed using relief._refresh_command(d);
  end if;
  return refreshed;
end
$$;
comment on function relief._is_refreshed_by_pg_cron(relief.detector) is 'Whether a job of pg_cron that the caller sees refreshes a detector.';

create function relief._refresh_command(d relief.detector)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select format('select relief.refresh_profile(%L)', d.name)
$$;
comment on function relief._refresh_command(relief.detector) is 'Returns the statement that pg_cron runs.';

create function relief._unschedule_refresh(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Whoever can't see the jobs has none.
  if exists (select from pg_extension where extname = 'pg_cron') and has_schema_privilege('cron', 'usage') then
    execute 'select cron.unschedule(j.jobid) from cron.job as j where j.command = $1 and j.database = current_database()'
      using relief._refresh_command(d);
  end if;
end
$$;
comment on function relief._unschedule_refresh(relief.detector) is 'Ends the jobs of pg_cron that refresh a detector, as far as the caller may.';
