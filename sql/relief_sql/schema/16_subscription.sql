-- Subscriptions: how far a reader of events has come, so that each is read at least once. Numbers of events don't tell: they are
-- given out before their transactions commit, and one that commits late would be passed over. Snapshots do: what is new is what the
-- one before doesn't show and this one does.

create table relief.subscription (
  detector_id integer not null references relief.detector on delete cascade,
  name        text not null,
  since       timestamptz not null,
  seen        pg_snapshot,
  reading     pg_snapshot,
  confirmed   bigint not null default 0,
  moved_at    timestamptz not null default pg_catalog.now(),
  primary key (detector_id, name)
);
comment on table relief.subscription is 'Readers of a detector''s events, and how far each has come.';
comment on column relief.subscription.since is 'What happened before isn''t read.';
comment on column relief.subscription.seen is 'What this snapshot shows was read; NULL: nothing yet.';
comment on column relief.subscription.reading is 'What this one shows, and seen doesn''t, is being read, in the order of the events'' numbers.';
comment on column relief.subscription.confirmed is 'The last event of what is being read that the reader has confirmed.';
comment on column relief.subscription.moved_at is 'When the reader last confirmed anything.';

alter table relief.subscription enable row level security;
create policy owner on relief.subscription using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.subscription is 'Follows the detector.';

create function relief._restart_subscription()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- One that a dump has brought along: snapshots of another server tell nothing here. Who was in the midst of a transaction then is late by less.
  if new.moved_at < now() then
    new.seen := null;
    new.reading := null;
    new.confirmed := 0;
    new.since := greatest(new.since, new.moved_at - interval '1 hour');
  end if;
  return new;
end
$$;
comment on function relief._restart_subscription() is 'Lets a subscription that was restored from a dump begin an hour before it last moved.';

create trigger restart
  before insert on relief.subscription
  for each row execute function relief._restart_subscription();
comment on trigger restart on relief.subscription is 'A restored subscription reads some events again, rather than too few.';

create function relief.subscribe(detector text, subscription text, since timestamptz default null)
  returns boolean
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._detector(detector);
begin
  perform relief._require_primary();
  if subscription is null or subscription = '' then
    raise exception 'the name of the subscription is empty'
      using errcode = 'invalid_parameter_value', hint = 'Name it as what reads: ''mailer''.';
  end if;
  -- Events outlive their detector: those before this one are of another that had its name.
  insert into relief.subscription as s (detector_id, name, since, seen)
  values (d.id, subscription, greatest($3, d.created_at), case when $3 is null then pg_current_snapshot() end)
  on conflict do nothing;
  return found;
end
$$;
comment on function relief.subscribe(text, text, timestamptz) is
  'Has a reader of a detector''s events noted under a name: it reads what comes from now on, or what has happened since a time. Returns '
  'false for one that is noted already, which goes on where it was.';

create function relief.unsubscribe(detector text, subscription text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  s constant relief.subscription := relief._lock_subscription(detector, subscription);
begin
  delete from relief.subscription as e where e.detector_id = s.detector_id and e.name = s.name;
end
$$;
comment on function relief.unsubscribe(text, text) is 'Forgets a reader of a detector''s events.';

create function relief._lock_subscription(detector text, subscription text)
  returns relief.subscription
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._detector(detector);
  s relief.subscription;
begin
  perform relief._require_primary();
  select * into s from relief.subscription as e where e.detector_id = d.id and e.name = $2 for update;
  if not found then
    raise exception 'detector "%" has no subscription "%"', d.name, coalesce($2, 'NULL')
      using errcode = 'undefined_object', hint = format('Make it: select relief.subscribe(%L, %L);', d.name, coalesce($2, 'mailer'));
  end if;
  return s;
end
$$;
comment on function relief._lock_subscription(text, text) is 'Returns a subscription, locked, or raises an error.';

create function relief._unread(
    detector text, since timestamptz, seen pg_snapshot, reading pg_snapshot, confirmed bigint, max_events integer)
  returns setof relief.event
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if seen is null then
    return query
      select e.*
      from relief.event as e
      where e.detector = $1 and e.id > $5 and e.happened_at >= $2 and pg_visible_in_snapshot(e.transaction, $4)
      order by e.id
      limit $6;
  else
    return query
      select u.*
      -- By transaction: of what is new there is little, and its numbers may lie before those of what was read.
      from (select e.* from relief.event as e where e.detector = $1 and e.transaction >= pg_snapshot_xmin($3) offset 0) as u
      where u.id > $5 and u.happened_at >= $2 and not pg_visible_in_snapshot(u.transaction, $3) and pg_visible_in_snapshot(u.transaction, $4)
      order by u.id
      limit $6;
  end if;
end
$$;
comment on function relief._unread(text, timestamptz, pg_snapshot, pg_snapshot, bigint, integer) is
  'Returns events of a detector that one snapshot doesn''t show and another does, after one that was confirmed.';

create function relief._is_unread(e relief.event, s relief.subscription)
  returns boolean
  language sql
  immutable
return
  e.happened_at >= s.since
  and pg_visible_in_snapshot(e.transaction, s.seen) is not true
  and (e.id <= s.confirmed and pg_visible_in_snapshot(e.transaction, s.reading)) is not true;
comment on function relief._is_unread(relief.event, relief.subscription) is
  'Whether an event of a subscription''s detector is still to be returned by relief.next_events, or to be confirmed.';

create function relief._event_content(e relief.event)
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'event', e.id, 'kind', case when e.error is null then 'anomaly' else 'failure' end, 'detector', e.detector, 'relation', e.relation::text,
    'key', e.key, 'happened_at', to_char(e.happened_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'model_version', e.model_version,
    'score', e.score, 'severity', e.severity, 'verdict', e.verdict, 'sentence', e.sentence, 'contributions', e.contributions,
    'error', e.error, 'rows', e.rows, 'is_summary', e.is_summary, 'quarantine_id', e.quarantine_id)
$$;
comment on function relief._event_content(relief.event) is 'Returns an event as it is told to applications.';

create function relief._move(s relief.subscription, seen pg_snapshot, reading pg_snapshot)
  returns relief.subscription
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  update relief.subscription as e
  set seen = $2, reading = $3, confirmed = 0
  where e.detector_id = s.detector_id and e.name = s.name
  returning * into strict s;
  return s;
end
$$;
comment on function relief._move(relief.subscription, pg_snapshot, pg_snapshot) is 'Notes what a subscription has read and what it is reading, and returns it.';

create function relief.next_events(detector text, subscription text, max_events integer default 100)
  returns table (batch pg_snapshot, event bigint, content jsonb)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  s relief.subscription := relief._lock_subscription(detector, subscription);
  now_shown constant pg_snapshot := pg_current_snapshot();
begin
  if max_events is null or max_events < 1 then
    raise exception 'max_events is %, not at least 1', coalesce(max_events::text, 'NULL')
      using errcode = 'numeric_value_out_of_range', hint = '100 is the default.';
  end if;
  if s.reading is not null then
    return query
      select s.reading, u.id, relief._event_content(u) from relief._unread($1, s.since, s.seen, s.reading, s.confirmed, $3) as u;
    if found then
      return;
    end if;
    s := relief._move(s, s.reading, null);
  end if;
  return query
    select now_shown, u.id, relief._event_content(u) from relief._unread($1, s.since, s.seen, now_shown, 0, $3) as u;
  -- Where there is nothing new, nothing is written: asking every second costs little.
  if found then
    perform relief._move(s, s.seen, now_shown);
  elsif s.seen is null then
    perform relief._move(s, now_shown, null);
  end if;
end
$$;
comment on function relief.next_events(text, text, integer) is
  'Returns events that a subscription hasn''t confirmed, as JSON, in the order of their numbers, of a batch. Until they are confirmed '
  'they are returned again. Whatever has committed by the time of a batch is in it, however late.';

create function relief.confirm(detector text, subscription text, batch pg_snapshot, event bigint)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  s constant relief.subscription := relief._lock_subscription(detector, subscription);
begin
  if s.reading is null or s.reading::text is distinct from batch::text then
    raise exception 'subscription "%" of detector "%" is not reading batch %', s.name, detector, coalesce(batch::text, 'NULL')
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Another reader has moved it: give each a subscription of its own, or let one read.';
  end if;
  update relief.subscription as e
  set confirmed = greatest(e.confirmed, event), moved_at = now()
  where e.detector_id = s.detector_id and e.name = s.name;
end
$$;
comment on function relief.confirm(text, text, pg_snapshot, bigint) is
  'Confirms that a subscription''s reader has done with all events of a batch up to one: they aren''t returned again.';
