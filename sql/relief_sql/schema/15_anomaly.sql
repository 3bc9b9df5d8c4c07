-- What an application or a dashboard reads: anomalies, failures; and what it says of them.

create view relief.anomaly
  with (security_barrier)
as
select
  e.id as event,
  e.happened_at,
  e.detector,
  e.relation,
  e.key,
  e.model_version,
  e.score,
  e.severity,
  e.verdict,
  e.sentence,
  e.rows,
  e.is_summary,
  e.quarantine_id,
  q.state as quarantine,
  l.is_anomaly,
  l.note
from relief.event as e
left join relief.detector as d on d.name = e.detector and d.relation = e.relation
left join relief.label as l on l.detector_id = d.id and l.key = e.key
left join relief.quarantine as q on q.id = e.quarantine_id
where e.error is null and relief._owns(e.relation, e.created_by);
comment on view relief.anomaly is 'The anomalies that were inserted into your tables, with what made them strange and what was said of them.';
comment on column relief.anomaly.rows is 'How many rows it stands for: 1, unless it is a summary of those beyond the detector''s events_per_second.';
comment on column relief.anomaly.quarantine is 'What became of a row that was kept out of its table: held, released or discarded.';
comment on column relief.anomaly.is_anomaly is 'Its label: true, false for a false alarm, NULL if nobody has said.';

create view relief.failure
  with (security_barrier)
as
select
  e.id as event,
  e.happened_at,
  e.detector,
  e.relation,
  e.key,
  e.error as reason,
  e.rows,
  e.is_summary,
  l.is_anomaly,
  l.note
from relief.event as e
left join relief.detector as d on d.name = e.detector and d.relation = e.relation
left join relief.label as l on l.detector_id = d.id and l.key = e.key
where e.error is not null and relief._owns(e.relation, e.created_by);
comment on view relief.failure is 'The rows that were inserted into your tables and couldn''t be scored, with the reason.';
comment on column relief.failure.is_anomaly is 'Its label: NULL if nobody has said.';
comment on column relief.failure.rows is 'How many rows it stands for: 1, unless it is a summary, whose reason is that of the first of them.';

create function relief.label_event(event bigint, is_anomaly boolean, note text default null)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  e relief.event;
begin
  select * into e from relief.event as f where f.id = $1;
  if not found then
    raise exception 'event % does not exist', coalesce($1::text, 'NULL')
      using errcode = 'no_data_found', hint = 'List the events of tables that you own: select event, sentence from relief.anomaly order by event desc;';
  end if;
  if e.key is null then
    raise exception 'event % names no row', e.id
      using errcode = 'feature_not_supported',
            hint = case when e.is_summary then 'It is a summary of many: label rows by their key, with relief.label.'
                        else format('Table %s has no primary key, by which labels name rows: add one.', e.relation) end;
  end if;
  if exists (select from relief.quarantine as q where q.id = e.quarantine_id and q.state <> 'released') then
    raise exception 'the row of event % is not in table %', e.id, e.relation
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('It is in quarantine. Release it, and it is labelled as ordinary: select relief.release(%s);', e.quarantine_id);
  end if;
  perform relief.label(e.detector, e.key, is_anomaly, note);
end
$$;
comment on function relief.label_event(bigint, boolean, text) is
  'Says that what an event tells of is an anomaly (true), a false alarm (false), or takes back what was said (NULL); as relief.label.';
