-- Jobs: what is asked of the worker, and what became of it. relief.job alone is the truth: the worker's queue may be lost and is made
-- again from it. A worker carries a job out in attempts; whatever an attempt stores, it stores in one transaction with what it says here,
-- and only while the attempt is the job's last: so a job is done once in effect, however often its worker is killed.

create table relief.job (
  id              bigint generated always as identity primary key,
  detector        text not null references relief.detector (name) on update cascade on delete cascade,
  kind            text not null,
  options         jsonb not null default '{}',
  state           text not null default 'queued',
  requested_by    name not null default current_user,
  requested_at    timestamptz not null default pg_catalog.clock_timestamp(),
  scheduled_for   timestamptz,
  attempts        integer not null default 0,
  max_attempts    integer not null default 5,
  worker          name,
  backend         integer,
  backend_started timestamptz,
  started_at      timestamptz,
  finished_at     timestamptz,
  version         integer,
  promoted        boolean,
  reason          text,
  error           text,
  hint            text,
  constraint kind_is_known check (kind in ('train', 'refresh')),
  constraint state_is_known check (state in ('queued', 'running', 'waiting', 'done', 'skipped', 'failed', 'cancelled')),
  constraint options_are_an_object check (jsonb_typeof(options) = 'object')
);
-- Asked for twice before it began, a job is done once.
create unique index job_queued_idx on relief.job (detector, kind, options) where state = 'queued';
create index job_open_idx on relief.job (id) where state in ('queued', 'running', 'waiting');
create index job_detector_idx on relief.job (detector, id);
comment on table relief.job is 'What relief worker is asked to do, does and has done.';
comment on column relief.job.kind is 'train or refresh.';
comment on column relief.job.options is 'What relief.request_training was given, checked: data, never SQL.';
comment on column relief.job.state is
  'queued; running; waiting to be tried again; done; skipped, for a reason; failed, with an error; cancelled.';
comment on column relief.job.requested_by is 'Who asked for it: the worker itself, where a schedule did.';
comment on column relief.job.scheduled_for is 'When the schedule wanted it; NULL where somebody asked for it.';
comment on column relief.job.attempts is 'How often a worker has begun; what an earlier attempt would still store is refused.';
comment on column relief.job.max_attempts is 'After so many attempts that ended with a lost worker or server, the job has failed.';
comment on column relief.job.worker is 'The role of the worker that began last.';
comment on column relief.job.backend is 'The server process of that worker''s session, with backend_started: while it is there, nobody else begins.';
comment on column relief.job.version is 'The version of the model that the job has stored.';
comment on column relief.job.promoted is 'Whether the job has promoted it.';
comment on column relief.job.reason is 'Why it trained or didn''t, promoted or didn''t.';
comment on column relief.job.error is 'Why it failed, or is to be tried again.';
comment on column relief.job.hint is 'What mends it.';

alter table relief.job enable row level security;
create policy owner on relief.job using (exists (select from relief.detector as d where d.name = detector));
comment on policy owner on relief.job is 'Follows the detector.';

create function relief._check_job()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._require_job_options(new.detector, new.kind, new.options);
  return new;
end
$$;
comment on function relief._check_job() is 'Refuses options that no job takes.';

create trigger check_job
  before insert on relief.job
  for each row execute function relief._check_job();
comment on trigger check_job on relief.job is 'No job is stored whose options were not checked.';

create function relief._announce_job()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_notify('relief_job', '');
  return null;
end
$$;
comment on function relief._announce_job() is 'Wakes the workers.';

create trigger announce_job
  after insert on relief.job
  for each statement execute function relief._announce_job();
comment on trigger announce_job on relief.job is 'Workers listen: a job is begun at once, where one is free.';

create function relief._training_options(
    promote boolean, promote_if_better boolean, if_drifted boolean, max_age interval, settings jsonb)
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- What is false is as if it were left out: one way to say a thing, so that the same request is recognized.
  select jsonb_strip_nulls(jsonb_build_object(
           'promote', nullif(promote, false), 'promote_if_better', nullif(promote_if_better, false),
           'if_drifted', nullif(if_drifted, false), 'max_age', max_age::text)) || coalesce(settings, '{}')
$$;
comment on function relief._training_options(boolean, boolean, boolean, interval, jsonb) is 'Returns the options of a training as a job holds them.';

create function relief._require_job_options(detector text, kind text, options jsonb)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  given record;
  max_age interval;
  known constant text[] := case kind
    when 'train' then '{promote,promote_if_better,if_drifted,max_age,trees,samples,max_features,seed,contamination,sample_rows,since}'
    else '{full}' end;
begin
  if jsonb_typeof(options) <> 'object' then
    raise exception 'settings of detector "%" are not a JSON object', detector
      using errcode = 'invalid_parameter_value', hint = 'They are such as ''{"trees": 200, "since": "2013-06-01"}''.';
  end if;
  for given in
    select e.key, e.value, jsonb_typeof(e.value) as type, r.type as wanted, r.lowest, r.highest, r.whole
    from jsonb_each(options) as e
    left join (values
      ('promote', 'boolean', null::numeric, null::numeric, false), ('promote_if_better', 'boolean', null, null, false),
      ('if_drifted', 'boolean', null, null, false), ('full', 'boolean', null, null, false), ('max_age', 'string', null, null, false),
      ('trees', 'number', 1, 2000, true), ('samples', 'number', 2, 1000000, true), ('max_features', 'number', 1e-9, 1, false),
      ('seed', 'number', 0, 2147483647, true), ('contamination', 'number', 1e-9, 0.5, false),
      ('sample_rows', 'number', 10, 100000000, true), ('since', 'string', null, null, false)
    ) as r (key, type, lowest, highest, whole) on r.key = e.key and r.key = any (known)
    order by e.key
  loop
    if given.wanted is null then
      raise exception 'setting "%" of detector "%" is not known', given.key, detector
        using errcode = 'invalid_parameter_value', hint = format('A %s takes: %s.', case kind when 'train' then 'training' else kind end, array_to_string(known, ', '));
    end if;
    if given.type <> given.wanted or given.type = 'string' and length(given.value #>> '{}') > 100 then
      raise exception 'setting "%" of detector "%" is %, not a %', given.key, detector, left(given.value::text, 120), given.wanted
        using errcode = 'invalid_parameter_value',
              hint = case given.wanted when 'string' then 'It is a text of at most 100 characters.' else format('It is a %s.', given.wanted) end;
    end if;
    if given.wanted = 'number' and ((given.value::numeric not between given.lowest and given.highest)
                                    or given.whole and given.value::numeric % 1 <> 0) then
      raise exception 'setting "%" of detector "%" is %', given.key, detector, given.value
        using errcode = 'numeric_value_out_of_range',
              hint = case when given.whole then format('It is a whole number from %s to %s.', given.lowest, given.highest)
                          else format('It is above 0 and at most %s.', given.highest) end;
    end if;
  end loop;
  if options @> '{"promote": true, "promote_if_better": true}' then
    raise exception 'detector "%" is to be promoted in any case, and only if better', detector
      using errcode = 'invalid_parameter_value', hint = 'Give one of promote and promote_if_better.';
  end if;
  begin
    max_age := options ->> 'max_age';
  exception when data_exception then
    raise exception 'setting "max_age" of detector "%" is "%", not an interval', detector, options ->> 'max_age'
      using errcode = sqlstate, hint = 'It is the age from which a model is trained again, such as "30 days".';
  end;
  begin
    perform (options ->> 'since')::timestamptz;
  exception when data_exception then
    raise exception 'setting "since" of detector "%" is "%", not a time', detector, options ->> 'since'
      using errcode = sqlstate, hint = 'It is the time from which on rows are taken, such as "2013-06-01" or "yesterday".';
  end;
  if max_age <= interval '0' then
    raise exception 'max_age % of detector "%" is not positive', options ->> 'max_age', detector
      using errcode = 'numeric_value_out_of_range', hint = 'It is the age from which a model is trained again, such as ''30 days''.';
  end if;
end
$$;
comment on function relief._require_job_options(text, text, jsonb) is 'Raises an error for the first option of a job that can''t be.';

create function relief.request_training(
    detector text,
    promote boolean default false,
    promote_if_better boolean default false,
    if_drifted boolean default false,
    max_age interval default null,
    settings jsonb default '{}')
  returns bigint
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._present_detector(detector);
begin
  return relief._request(d, 'train', relief._training_options(promote, promote_if_better, if_drifted, max_age, settings));
end
$$;
comment on function relief.request_training(text, boolean, boolean, boolean, interval, jsonb) is
  'Asks relief worker to train a detector, and returns the job''s id; see relief.job. if_drifted and max_age: only if a feature has '
  'drifted, or no model is as young; promote, or promote_if_better than the promoted model. settings are those of relief train.';

create function relief._request(d relief.detector, kind text, options jsonb, scheduled_for timestamptz default null)
  returns bigint
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  job bigint;
begin
  perform relief._require_primary();
  -- The same job may begin, or end, between the two statements.
  loop
    insert into relief.job (detector, kind, options, scheduled_for) values (d.name, $2, $3, $4)
    on conflict do nothing
    returning id into job;
    exit when found;
    select j.id into job from relief.job as j where j.detector = d.name and j.kind = $2 and j.options = $3 and j.state = 'queued';
    exit when found;
  end loop;
  return job;
end
$$;
comment on function relief._request(relief.detector, text, jsonb, timestamptz) is
  'Stores a job and returns its id, or that of the same one which hasn''t begun yet.';

create function relief.cancel_job(job bigint)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  j relief.job;
begin
  perform relief._require_primary();
  select * into j from relief.job as e where e.id = $1 for update;
  if not found then
    raise exception 'job % does not exist', job
      using errcode = 'undefined_object', hint = 'List the jobs: select id, detector, kind, state from relief.job;';
  end if;
  if j.finished_at is not null then
    raise exception 'job % is % already', job, j.state
      using errcode = 'object_not_in_prerequisite_state', hint = 'Only what has not ended can be cancelled.';
  end if;
  update relief.job as e set state = 'cancelled', finished_at = clock_timestamp() where e.id = j.id;
end
$$;
comment on function relief.cancel_job(bigint) is 'Cancels a job that hasn''t ended. One that is running stores nothing more.';

-- What the worker says.

create function relief._is_carried_out(j relief.job)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- When another role's session began isn't told; nobody but the same role can have taken its place unnoticed.
  select j.state = 'running' and exists (
    select from pg_stat_activity as a
    where a.pid = j.backend and a.usename = j.worker and coalesce(a.backend_start = j.backend_started, true))
$$;
comment on function relief._is_carried_out(relief.job) is 'Whether the session that began a job is still there.';

create function relief._start_job(job bigint)
  returns relief.job
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  j relief.job;
begin
  -- Whoever is at the row may be at it for long: the worker tries again later.
  select * into j from relief.job as e where e.id = $1 for update nowait;
  if not found or j.finished_at is not null or relief._is_carried_out(j) then
    return null;
  end if;
  if j.attempts >= j.max_attempts then
    update relief.job as e
    set state = 'failed', finished_at = clock_timestamp(), error = coalesce(e.error, 'the worker was lost each time')
    where e.id = j.id;
    return null;
  end if;
  update relief.job as e
  set state = 'running', attempts = e.attempts + 1, worker = session_user, backend = pg_backend_pid(),
      backend_started = (select a.backend_start from pg_stat_activity as a where a.pid = pg_backend_pid()),
      started_at = clock_timestamp(), error = null, hint = null
  where e.id = j.id
  returning * into j;
  return j;
end
$$;
comment on function relief._start_job(bigint) is
  'Begins an attempt at a job by this session and returns it; NULL if it has ended, is another session''s, or was tried too often.';

create function relief._note_version(job bigint, attempt integer, version integer, reason text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  update relief.job as e set version = $3, reason = $4 where e.id = $1 and e.state = 'running' and e.attempts = $2;
  if not found then
    perform relief._raise_lost_job(job);
  end if;
end
$$;
comment on function relief._note_version(bigint, integer, integer, text) is
  'Notes, in the transaction that stores it, the model of a job: whoever tries again goes on from there.';

create function relief._finish_job(
    job bigint, attempt integer, state text, reason text default null, promoted boolean default null)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  update relief.job as e
  set state = $3, reason = coalesce($4, e.reason), promoted = $5, finished_at = clock_timestamp()
  where e.id = $1 and e.state = 'running' and e.attempts = $2;
  if not found then
    perform relief._raise_lost_job(job);
  end if;
end
$$;
comment on function relief._finish_job(bigint, integer, text, text, boolean) is
  'Ends a job, in the transaction of its last effect, if this attempt is still the one that counts.';

create function relief._fail_job(job bigint, attempt integer, error text, hint text, again boolean)
  returns text
  language sql
  set search_path = pg_catalog, pg_temp
as $$
  update relief.job as e
  set state = case when again and e.attempts < e.max_attempts then 'waiting' else 'failed' end,
      finished_at = case when again and e.attempts < e.max_attempts then null else clock_timestamp() end, error = $3, hint = $4
  where e.id = $1 and e.state = 'running' and e.attempts = $2
  returning e.state
$$;
comment on function relief._fail_job(bigint, integer, text, text, boolean) is
  'Ends an attempt that failed: the job has failed too or, if it may come right, waits for another; returns which, NULL if the attempt doesn''t count.';

create function relief._raise_lost_job(job bigint)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'job % is not this session''s any more: it %', job,
      coalesce((select case j.state when 'running' then 'was begun again' else 'is ' || j.state end from relief.job as j where j.id = job), 'is gone')
    using errcode = 'object_not_in_prerequisite_state', hint = 'Nothing of this attempt was stored.';
end
$$;
comment on function relief._raise_lost_job(bigint) is 'Raises the error for an attempt at a job that doesn''t count any more.';
