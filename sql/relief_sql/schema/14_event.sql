-- Events: an inserted row that is an anomaly, or can't be scored, leaves one, once the row has really arrived. Ordinary rows cost nothing.

create table relief.event (
  id            bigint generated always as identity primary key,
  detector      text not null,
  relation      regclass not null,
  key           jsonb,
  happened_at   timestamptz not null default pg_catalog.clock_timestamp(),
  model_version integer,
  score         double precision,
  severity      double precision,
  verdict       text,
  contributions jsonb,
  sentence      text,
  created_by    name not null default current_user,
  error         text,
  is_summary    boolean not null default false,
  rows          bigint not null default 1,
  scoring_ms    double precision,
  quarantine_id bigint,
  transaction   xid8 not null default pg_catalog.pg_current_xact_id(),
  constraint rows_are_counted check (rows = 1 or is_summary)
);
create index event_detector_idx on relief.event (detector, id);
create index event_transaction_idx on relief.event (detector, transaction);
comment on table relief.event is 'The anomalies that were inserted, with what made them strange, and the rows that couldn''t be scored.';
comment on column relief.event.key is 'The row''s primary key: column -> value; NULL where the table has none.';
comment on column relief.event.severity is 'The share of ordinary rows that are less strange: comparable between detectors.';
comment on column relief.event.verdict is 'What called it: score, deviation, or both.';
comment on column relief.event.contributions is 'The three features that tell most.';
comment on column relief.event.created_by is 'The owner of the table, in whose name its trigger writes.';
comment on column relief.event.error is 'Why the row couldn''t be scored; NULL for an anomaly.';
comment on column relief.event.is_summary is 'Whether it stands for those rows of a transaction that were more than the detector''s events_per_second.';
comment on column relief.event.rows is 'How many rows it stands for: 1, unless it is a summary.';
comment on column relief.event.scoring_ms is 'How long it took to compute the row''s features and to judge it, in milliseconds.';
comment on column relief.event.quarantine_id is 'The row of relief.quarantine in which the anomaly is held; NULL for one that is in the table.';
comment on column relief.event.transaction is 'Which transaction wrote it: readers tell by it which events they haven''t seen.';

alter table relief.event enable row level security;
create policy owner on relief.event using (relief._owns(relation, created_by));
comment on policy owner on relief.event is 'Whoever has the rights of the table''s owner.';

create constraint trigger settle
  after insert on relief.event
  deferrable initially deferred
  for each row when (new.is_summary)
  execute function relief._settle_event();
alter table relief.event enable always trigger settle;
comment on trigger settle on relief.event is 'A summary''s rows are counted when no more can come.';

create function relief._stamp_event()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A dump brings numbers of transactions along that mean nothing here, and nobody is to write in the name of another one.
  new.transaction := pg_current_xact_id();
  return new;
end
$$;
comment on function relief._stamp_event() is 'Notes in an event which transaction writes it.';

create trigger stamp
  before insert on relief.event
  for each row execute function relief._stamp_event();
comment on trigger stamp on relief.event is 'By its transaction, readers find an event that commits late.';

create function relief._let_record(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  owner constant name := (select pg_get_userbyid(relowner) from pg_class where oid = d.relation);
begin
  if not has_function_privilege(owner, 'relief._is_told(text, regclass, text, integer, text)', 'execute') then
    perform relief._lock_catalog();
    execute format('grant usage on schema relief to %I', owner);
    execute format('grant insert, select (id) on relief.event to %I', owner);
    execute format('grant insert (detector, detector_id, relation, key, row_values, model_version, score, severity, sentence), '
                   'select (id, detector_id, relation, created_by, releasing_in) on relief.quarantine to %I', owner);
    execute format('grant execute on function relief._owns(oid, name), relief._is_told(text, regclass, text, integer, text), '
                   'relief._spend(text, text, text, double precision, integer), relief._note_summary(text, text, bigint), '
                   'relief._notification(jsonb), relief._row_values(anyelement), relief._companion_columns(), relief._allowance(text, text) to %I', owner);
  end if;
end
$$;
comment on function relief._let_record(relief.detector) is
  'Lets the owner of a detector''s table, as whom its triggers run, record anomalies and hold them back.';

create function relief._create_event_trigger(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._let_record(d);
  -- A row that can't be scored has no verdict; nor has one without any history, of which the function makes nothing.
  perform relief._create_trigger(d, 'event', '~relief_event', 'after insert on %s for each row when (new.relief_is_anomaly is not false)',
                                 relief._event_body(d), 'records what was inserted and is an anomaly, or can''t be scored.');
end
$$;
comment on function relief._create_event_trigger(relief.detector) is 'Makes the trigger that records anomalies, and its function.';

create function relief._judging_steps(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format($body$
  began := clock_timestamp();
  numbers := %1$s;
  categories := %2$s;
  judgement := %3$s;
  scoring_ms := extract(epoch from clock_timestamp() - began) * 1000;
  explanation := %4$s(numbers, categories, %5$s, %6$s);$body$,
    relief._new_features(d),
    relief._new_categories(d),
    relief._judgement_call(d, 'new', 'numbers', 'categories', true),
    relief._function_name(d, 'explanation'),
    relief._entity_text(d, 'new'),
    relief._season_text(d, 'new'))
$$;
comment on function relief._judging_steps(relief.detector) is 'Returns the statements by which a trigger function judges and explains an anomaly.';

create function relief._recording_step(d relief.detector, quarantine_id text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format($body$
    insert into relief.event (detector, relation, key, model_version, score, severity, verdict, contributions, sentence, scoring_ms, quarantine_id)
    values (%1$L, source, row_key, new.relief_model_version, new.relief_anomaly_score, (judgement ->> 'severity')::double precision,
            judgement ->> 'verdict', jsonb_path_query_array(explanation, '$[0 to 2]'), explanation #>> '{0,sentence}', scoring_ms, %2$s)
    returning id into event_id;$body$,
    d.name, quarantine_id)
$$;
comment on function relief._recording_step(relief.detector, text) is 'Returns the statement by which a trigger function records an anomaly.';

create function relief._declarations()
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select $body$
#variable_conflict use_column
declare
  source constant regclass := coalesce(pg_partition_root(tg_relid), tg_relid);
  row_key jsonb;
  began timestamptz;
  scoring_ms double precision;
  numbers double precision[];
  categories text[];
  judgement jsonb;
  explanation jsonb;
  event_id bigint;$body$
$$;
comment on function relief._declarations() is 'Returns what the trigger functions that record and hold back anomalies declare.';

create function relief._event_body(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format($body$%1$s
  reason text;
begin
  if new.relief_is_anomaly is not true then
    reason := new.relief_deviation ->> 'error';
    if reason is null then
      return null;
    end if;
  end if;%2$s
  if not relief._is_told(%3$L, source, reason, %4$s, %5$L) then
    return null;
  end if;
  row_key := %6$s;
  if reason is not null then
    insert into relief.event (detector, relation, key, error) values (%3$L, source, row_key, left(reason, 2000));
  else%7$s%8$s%9$s
  end if;
  return null;
%10$s
end
$body$,
    relief._declarations(),
    -- What is released was told when it was held.
    case d.mode when 'quarantine' then format(E'\n  if %s then\n    return null;\n  end if;', relief._releasing_text(d)) else '' end,
    d.name,
    d.events_per_second,
    case d.mode when 'notify' then relief.channel(d.name) end,
    coalesce(relief._key_text(d, 'new'), 'null'),
    relief._judging_steps(d),
    relief._recording_step(d, 'null'),
    case d.mode when 'notify' then relief._notifying_step(d) else '' end,
    case d.on_error when 'pass' then
$body$exception when others then
  raise warning 'anomaly was stored but its event was not: %', sqlerrm;
  return null;$body$ else '' end)
$$;
comment on function relief._event_body(relief.detector) is 'Returns the body of the function that records anomalies.';
