-- Vacuum: dropping what is past its limit. Whatever is kept for a time has its line in relief._kept_for_a_time.

create table relief.retention (
  detector_id integer primary key references relief.detector on delete cascade,
  versions    integer not null,
  events      interval not null,
  failures    interval not null,
  jobs        interval not null,
  audit       interval not null,
  constraint versions_are_at_least_one check (versions >= 1),
  constraint nothing_is_kept_for_no_time check (least(events, failures, jobs) > interval '0'),
  constraint no_log_is_emptied_at_once check (audit >= interval '30 days'),
  constraint times_are_those_of_people check (greatest(events, failures, jobs, audit) <= interval '1000 years')
);
comment on table relief.retention is 'How much a detector keeps; one without a row keeps what relief._default_retention says.';
comment on column relief.retention.versions is 'How many versions of models, the newest; beside those that are promoted or otherwise needed.';
comment on column relief.retention.events is 'How long events of anomalies are kept, and rows of relief.quarantine after they were released or discarded.';
comment on column relief.retention.failures is 'How long it is kept which rows could not be scored.';
comment on column relief.retention.jobs is 'How long finished jobs are kept.';
comment on column relief.retention.audit is 'How long entries of the log are kept: at least 30 days.';

alter table relief.retention enable row level security;
create policy owner on relief.retention using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.retention is 'Follows the detector.';

create function relief._default_retention()
  returns relief.retention
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select row(null, 20, '1 year', '90 days', '90 days', '5 years')::relief.retention
$$;
comment on function relief._default_retention() is 'Returns how much is kept of a detector for which nothing else was said, or that is dropped.';

create function relief._retention(detector text, relation oid)
  returns relief.retention
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (select r
     from relief.retention as r
     join relief.detector as d on d.id = r.detector_id
     where d.name = $1 and d.relation = $2),
    relief._default_retention())
$$;
comment on function relief._retention(text, oid) is 'Returns how much is kept of a detector, as named by what it left.';

create function relief.set_retention(
    detector text,
    versions integer default null,
    events interval default null,
    failures interval default null,
    jobs interval default null,
    audit interval default null)
  returns table (versions_kept integer, events_kept interval, failures_kept interval, jobs_kept interval, audit_kept interval)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  d constant relief.detector := relief._lock_detector(detector);
  r relief.retention := relief._retention(d.name, d.relation);
begin
  perform relief._require_retention(d.name, $2, $3, $4, $5, $6);
  if num_nonnulls($2, $3, $4, $5, $6) > 0 then
    insert into relief.retention as kept
    values (d.id, coalesce($2, r.versions), coalesce($3, r.events), coalesce($4, r.failures), coalesce($5, r.jobs), coalesce($6, r.audit))
    on conflict on constraint retention_pkey do update
      set versions = excluded.versions, events = excluded.events, failures = excluded.failures, jobs = excluded.jobs, audit = excluded.audit
    returning * into r;
    perform relief._audit(d, 'set_retention', details => to_jsonb(r) - 'detector_id');
  end if;
  return query select r.versions, r.events, r.failures, r.jobs, r.audit;
end
$$;
comment on function relief.set_retention(text, integer, interval, interval, interval, interval) is
  'Says how much of a detector relief.vacuum keeps: so many versions, and what else for how long; what is NULL stays as it is. Returns '
  'what holds by now.';

create function relief._require_retention(
    name text, versions integer, events interval, failures interval, jobs interval, audit interval)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  wrong record;
begin
  if versions < 1 then
    raise exception 'versions % of detector "%" is not at least 1', versions, name
      using errcode = 'numeric_value_out_of_range', hint = 'It is how many of the newest versions are kept, such as 20.';
  end if;
  select l.what, l.given, l.least into wrong
  from (values ('events', events, interval '0'), ('failures', failures, '0'), ('jobs', jobs, '0'), ('audit', audit, '30 days'))
    as l (what, given, least)
  where l.given <= l.least and (l.given < l.least or l.least = '0') or l.given > '1000 years'
  limit 1;
  if found then
    raise exception '% % of detector "%" is not between % and 1000 years', wrong.what, wrong.given, name, wrong.least
      using errcode = 'numeric_value_out_of_range', hint = 'It is how long they are kept, such as ''1 year''.';
  end if;
end
$$;
comment on function relief._require_retention(text, integer, interval, interval, interval, interval) is
  'Raises an error for the first limit that can''t be.';

create function relief._kept_for_a_time()
  returns table (what text, by_limit text, relation text, moment text, whose text, awaited text)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  with reader (awaits) as (values ('exists (select from unnest($3) as s where relief._is_unread(o, s))'))
  select k.*
  from reader as r
  cross join lateral (values
    ('events', 'events', 'relief.event', 'happened_at', 'o.detector = $1 and o.relation = $2 and o.error is null', r.awaits),
    ('quarantine', 'events', 'relief.quarantine', 'resolved_at', 'o.detector = $1 and o.relation = $2', null),
    ('failures', 'failures', 'relief.event', 'happened_at', 'o.detector = $1 and o.relation = $2 and o.error is not null', r.awaits),
    ('jobs', 'jobs', 'relief.job', 'finished_at', 'o.detector = $1', null),
    ('audit', 'audit', 'relief.audit', 'happened_at', 'o.detector = $1 and o.relation = $2', null)) as k
$$;
comment on function relief._kept_for_a_time() is
  'Returns what is dropped when its moment is longer ago than a limit in relief.retention says: the table, called o, which of its rows '
  'are those of the detector named $1 on the relation $2, and which of them the subscriptions $3 wait for; these stay. So does what has no such '
  'moment yet, such as an open job.';

create function relief._drop_aged(detector text, relation oid, max_rows bigint)
  returns table (what text, dropped bigint, kept bigint)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  limits constant jsonb := to_jsonb(relief._retention($1, $2));
  -- A reader that has confirmed nothing for as long as events are kept isn't waited for.
  reads_since constant timestamptz := now() - (limits ->> 'events')::interval;
  readers constant relief.subscription[] := array(
    select s from relief.subscription as s join relief.detector as d on d.id = s.detector_id where d.name = $1);
  reading constant relief.subscription[] := array(select s from unnest(readers) as s where s.moved_at >= reads_since);
  late constant relief.subscription[] := array(select s from unnest(readers) as s where s.moved_at < reads_since);
  aged record;
  past_limit text;
  missed record;
begin
  for aged in select * from relief._kept_for_a_time() loop
    what := aged.what;
    past_limit := format('select o.id from %s as o where %s and o.%I < now() - $4::interval and not %s order by o.id limit $5',
                         aged.relation, aged.whose, aged.moment, coalesce(aged.awaited, 'false'));
    if aged.awaited is not null and cardinality(late) > 0 then
      for missed in
        execute format('select s.name, s.moved_at, count(*) as events from unnest($6) as s join %s as o on relief._is_unread(o, s) '
                       'where o.id in (%s) group by 1, 2 order by 1', aged.relation, past_limit)
        using $1, $2, reading, limits ->> aged.by_limit, max_rows, late
      loop
        raise warning '% % are dropped that subscription "%" of detector "%" has not read: it has confirmed nothing since %',
            missed.events, aged.what, missed.name, $1, missed.moved_at::timestamptz(0)
          using hint = format('If nobody reads it any more: select relief.unsubscribe(%L, %L);', $1, missed.name);
      end loop;
    end if;
    execute format('delete from %s as o where o.id in (%s)', aged.relation, past_limit)
      using $1, $2, reading, limits ->> aged.by_limit, max_rows;
    get diagnostics dropped = row_count;
    execute format('select count(*) from %s as o where %s', aged.relation, aged.whose) into kept using $1, $2;
    return next;
  end loop;
end
$$;
comment on function relief._drop_aged(text, oid, bigint) is
  'Drops what is too old of what a detector, which may be gone, has left, at most so many rows of each kind, and returns how much. Of events that '
  'a subscription waits for, it drops those alone whose reader hasn''t moved for as long as events are kept, and warns.';

create function relief._drop_versions(d relief.detector)
  returns integer[]
  language sql
  set search_path = pg_catalog, pg_temp
as $$
  with dropped as (
    delete from relief.model as m
    where m.detector_id = d.id
      and m.version not in (
        select e.version from relief.model as e where e.detector_id = d.id order by e.version desc limit (relief._retention(d.name, d.relation)).versions)
      and relief._referenced(d, m.version) is null
    returning m.version)
  select coalesce(array_agg(version order by version), '{}') from dropped
$$;
comment on function relief._drop_versions(relief.detector) is 'Drops the versions beyond those that a detector keeps and nothing needs, and returns them.';

create function relief.vacuum(detector text default null, max_rows bigint default null)
  returns table (name text, what text, dropped bigint, kept bigint)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  d relief.detector;
  left_behind record;
  versions integer[];
  counts jsonb;
begin
  perform relief._require_primary();
  if max_rows < 1 then
    raise exception 'max_rows is %, not at least 1', max_rows
      using errcode = 'numeric_value_out_of_range', hint = 'It is how many rows of each kind to drop in one call, such as 100000; NULL for all.';
  end if;
  for d in select * from relief.detector as e where $1 is null or e.name = $1 order by e.id loop
    counts := '{}';
    for name, what, dropped, kept in select d.name, a.* from relief._drop_aged(d.name, d.relation, $2) as a loop
      return next;
      counts := counts || case when dropped > 0 then jsonb_build_object(what, dropped) else '{}' end;
    end loop;
    dropped := relief._vacuum_shadow(d, max_rows => $2);
    select count(*) into kept from relief.shadow_score as s where s.detector = d.name;
    if dropped + kept > 0 then
      what := 'shadow_scores';
      return next;
      counts := counts || case when dropped > 0 then jsonb_build_object(what, dropped) else '{}' end;
    end if;
    -- Locked as late as can be: promotions wait. By now it may be gone, or have another version promoted.
    select * into d from relief.detector as e where e.id = d.id for no key update;
    continue when not found;
    versions := relief._drop_versions(d);
    return query
      select d.name, 'versions', cardinality(versions)::bigint, (select count(*) from relief.model as m where m.detector_id = d.id);
    counts := counts || case when versions <> '{}' then jsonb_build_object('versions', versions) else '{}' end;
    if counts <> '{}' then
      perform relief._audit(d, 'vacuum', details => counts);
    end if;
  end loop;
  if $1 is not null and d.id is null then
    perform relief._raise_no_detector($1);
  end if;
  if $1 is null then
    for left_behind in
      select o.detector, o.relation from relief.event as o
      union
      select o.detector, o.relation from relief.quarantine as o
      union
      select o.detector, o.relation from relief.audit as o
      except
      select e.name, e.relation from relief.detector as e
      order by 1, 2
    loop
      return query select left_behind.detector, a.* from relief._drop_aged(left_behind.detector, left_behind.relation, $2) as a;
    end loop;
  end if;
end
$$;
comment on function relief.vacuum(text, bigint) is
  'Drops what is past its limit, of one detector, or of all and of those that are gone: old versions of models, events, jobs, failures and '
  'entries of the log, and what was scored in shadow, of whatever age, beyond 100,000 rows; never a version that is promoted, in shadow, or that '
  'rollback goes back to, nor an event that a subscription still has to read, unless its reader hasn''t moved for as long as events are kept: then a '
  'warning tells. At most max_rows of each kind, or all: called again until nothing is dropped, it does in short transactions what would be one long one. '
  'Returns how much it dropped and how much there is.';
