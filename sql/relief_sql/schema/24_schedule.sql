-- Schedules that relief worker keeps, without pg_cron: what is due becomes a job. Missed while no worker ran, it is done once.

create table relief.schedule (
  detector     text not null references relief.detector (name) on update cascade on delete cascade,
  kind         text not null,
  cron         text not null,
  options      jsonb not null default '{}',
  next_at      timestamptz not null,
  scheduled_by name not null default current_user,
  primary key (detector, kind),
  constraint kind_is_known check (kind in ('train', 'refresh'))
);
comment on table relief.schedule is 'When relief worker trains and refreshes.';
comment on column relief.schedule.cron is 'Minute, hour, day of the month, month and day of the week, in the detector''s time zone.';
comment on column relief.schedule.options is 'As in relief.job.';
comment on column relief.schedule.next_at is 'When it is due next. In the past: no worker has come by since.';

alter table relief.schedule enable row level security;
create policy owner on relief.schedule using (exists (select from relief.detector as d where d.name = detector));
comment on policy owner on relief.schedule is 'Follows the detector.';

create function relief.schedule(
    detector text,
    train text default null,
    refresh text default null,
    promote boolean default false,
    promote_if_better boolean default false,
    if_drifted boolean default false,
    max_age interval default null,
    settings jsonb default '{}')
  returns setof relief.schedule
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_detector(detector);
  options constant jsonb := relief._training_options(promote, promote_if_better, if_drifted, max_age, settings);
begin
  if train is null and options <> '{}' then
    raise exception 'no training of detector "%" is scheduled that could take %', d.name, options
      using errcode = 'invalid_parameter_value', hint = 'Say when to train: train => ''0 3 * * *''.';
  end if;
  perform relief._require_job_options(d.name, 'train', options);
  if refresh is not null and relief._is_refreshed_by_pg_cron(d) then
    raise exception 'pg_cron refreshes detector "%" already', d.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Leave refresh out, or first: select cron.unschedule(%L);', relief._refresh_job_name(d));
  end if;
  delete from relief.schedule as s where s.detector = d.name;
  return query
    insert into relief.schedule (detector, kind, cron, options, next_at)
    select d.name, w.kind, w.cron, w.options, relief._require_next_time(d, w.cron)
    from (values ('train', train, options), ('refresh', refresh, '{}')) as w (kind, cron, options)
    where w.cron is not null
    returning *;
end
$$;
comment on function relief.schedule(text, text, text, boolean, boolean, boolean, interval, jsonb) is
  'Has relief worker train and refresh a detector, each as a crontab says, in the detector''s time zone, and returns what is scheduled from '
  'now on: what is NULL or left out is taken off. The other options are those of relief.request_training.';

create function relief._queue_due(moment timestamptz default pg_catalog.now())
  returns bigint[]
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  due relief.schedule;
  d relief.detector;
  jobs bigint[] := '{}';
begin
  -- What another session has locked, it queues.
  for due in select * from relief.schedule as s where s.next_at <= moment order by s.next_at for update skip locked loop
    select * into strict d from relief.detector as e where e.name = due.detector;
    jobs := jobs || relief._request(d, due.kind, due.options, due.next_at);
    update relief.schedule as s
    set next_at = coalesce(relief._next_time(due.cron, moment, d.time_zone), 'infinity')
    where s.detector = due.detector and s.kind = due.kind;
  end loop;
  return jobs;
end
$$;
comment on function relief._queue_due(timestamptz) is 'Makes jobs of what is due, and returns their ids.';

create function relief._require_next_time(d relief.detector, cron text)
  returns timestamptz
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  next_at constant timestamptz := relief._next_time(cron, now(), d.time_zone);
begin
  if next_at is null then
    raise exception 'schedule "%" of detector "%" is not valid, or never comes', cron, d.name
      using errcode = 'invalid_parameter_value',
            hint = 'It is minute, hour, day of the month, month and day of the week, as in a crontab: ''*/15 * * * *''.';
  end if;
  return next_at;
end
$$;
comment on function relief._require_next_time(relief.detector, text) is 'Returns when a schedule is due next, or raises an error.';

create function relief._next_time(cron text, after timestamptz, time_zone text)
  returns timestamptz
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  fields constant text[] := regexp_split_to_array(lower(btrim(cron)), '[[:space:]]+');
  minutes constant integer[] := relief._cron_numbers(fields[1], 0, 59);
  hours constant integer[] := relief._cron_numbers(fields[2], 0, 23);
  days constant integer[] := relief._cron_numbers(fields[3], 1, 31);
  months constant integer[] := relief._cron_numbers(fields[4], 1, 12, '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}');
  -- Sunday is 0 and 7.
  weekdays constant integer[] := relief._cron_numbers(fields[5], 0, 7, '{sun,mon,tue,wed,thu,fri,sat}', 0);
  today constant timestamp := date_trunc('day', after at time zone time_zone);
  day timestamp;
  next_at timestamptz;
begin
  if cardinality(fields) <> 5 or num_nulls(minutes, hours, days, months, weekdays) > 0 then
    return null;
  end if;
  -- Where days of the month and of the week are both given, either counts. The 29th of February may be eight years away.
  for day in
    select g.day
    from generate_series(today, today + interval '3000 days', interval '1 day') as g (day)
    where date_part('month', g.day)::integer = any (months)
      and case
            when fields[3] = '*' then date_part('dow', g.day)::integer = any (weekdays) or date_part('isodow', g.day)::integer = any (weekdays)
            when fields[5] = '*' then date_part('day', g.day)::integer = any (days)
            else date_part('day', g.day)::integer = any (days) or date_part('dow', g.day)::integer = any (weekdays)
                 or date_part('isodow', g.day)::integer = any (weekdays)
          end
    order by g.day
  loop
    -- An hour that summer time leaves out is taken an hour later; one that comes twice counts the second time.
    select min(t.moment) into next_at
    from unnest(hours) as h (hour)
    cross join unnest(minutes) as m (minute)
    cross join lateral (select (day + make_interval(hours => h.hour, mins => m.minute)) at time zone time_zone) as t (moment)
    where t.moment > after;
    exit when next_at is not null;
  end loop;
  return next_at;
end
$$;
comment on function relief._next_time(text, timestamptz, text) is
  'Returns the first moment after another that a crontab''s five fields name in a time zone; NULL if they are not valid, or none comes.';

create function relief._cron_numbers(field text, lowest integer, highest integer, names text[] default '{}', first_name integer default 1)
  returns integer[]
  language plpgsql
  immutable
  strict
  set search_path = pg_catalog, pg_temp
as $$
declare
  part text;
  bounds text[];
  numbers integer[] := '{}';
begin
  foreach part in array string_to_array(field, ',') loop
    -- From, to, step. Two digits each, as no number is longer.
    bounds := regexp_match(part, '^([*]|[0-9]{1,2}|[a-z]{3})(?:-([0-9]{1,2}|[a-z]{3}))?(?:/([0-9]{1,2}))?$');
    bounds[1] := coalesce((array_position(names, bounds[1]) - 1 + first_name)::text, bounds[1]);
    bounds[2] := coalesce((array_position(names, bounds[2]) - 1 + first_name)::text, bounds[2]);
    if bounds[1] is null or bounds[1] ~ '[a-z]' or bounds[2] ~ '[a-z]' or bounds[1] = '*' and bounds[2] is not null
       or bounds[1] <> '*' and bounds[2] is null and bounds[3] is not null then
      return null;
    end if;
    if bounds[1] = '*' then
      bounds[1:2] := array[lowest::text, highest::text];
    end if;
    bounds[2] := coalesce(bounds[2], bounds[1]);
    if bounds[1]::integer < lowest or bounds[2]::integer > highest or bounds[1]::integer > bounds[2]::integer or bounds[3]::integer < 1 then
      return null;
    end if;
    numbers := numbers || array(select generate_series(bounds[1]::integer, bounds[2]::integer, coalesce(bounds[3]::integer, 1)));
  end loop;
  return nullif(numbers, '{}');
end
$$;
comment on function relief._cron_numbers(text, integer, integer, text[], integer) is
  'Returns the numbers that a field of a crontab names: lists of numbers, names, ranges, * and steps; NULL if it isn''t valid.';

create function relief._check_jobs(d relief.detector)
  returns setof text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('%s is due since %s, and no worker came by; relief worker', s.kind, s.next_at::timestamptz(0))
  from relief.schedule as s
  where s.detector = d.name and s.next_at < now() - interval '10 minutes'
  union all
  select format('job %s waits since %s, and no worker has it; relief worker', min(j.id), min(j.requested_at)::timestamptz(0))
  from relief.job as j
  where j.detector = d.name and j.state = 'queued'
  having min(j.requested_at) < now() - interval '10 minutes'
         and not exists (select from relief.job as r where r.detector = d.name and r.state in ('running', 'waiting'))
  union all
  select format('job %s, the last %s, has failed: %s; relief jobs %s', j.id, j.kind, j.error, relief._shell_quoted(d.name))
  from (select distinct on (e.kind) e.* from relief.job as e
        where e.detector = d.name and e.finished_at is not null and e.state <> 'cancelled' order by e.kind, e.id desc) as j
  where j.state = 'failed'
$$;
comment on function relief._check_jobs(relief.detector) is 'Returns what no worker has done though it is due, and what has failed, each with what to do.';
