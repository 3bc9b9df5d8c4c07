-- Events: an inserted row that is an anomaly leaves one, once the row has really arrived. Ordinary rows cost nothing.

create table relief.event (
  id            bigint generated always as identity primary key,
  detector      text not null,
  relation      regclass not null,
  key           jsonb,
  happened_at   timestamptz not null default pg_catalog.clock_timestamp(),
  model_version integer,
  score         double precision,
  severity      double precision,
  verdict       text not null,
  contributions jsonb,
  sentence      text,
  created_by    name not null default current_user
);
create index event_detector_idx on relief.event (detector, id);
comment on table relief.event is 'The anomalies that were inserted, with what made them strange.';
comment on column relief.event.key is 'The row''s primary key: column -> value; NULL where the table has none.';
comment on column relief.event.severity is 'The share of ordinary rows that are less strange: comparable between detectors.';
comment on column relief.event.verdict is 'What called it: score, deviation, or both.';
comment on column relief.event.contributions is 'The three features that tell most.';
comment on column relief.event.created_by is 'The owner of the table, in whose name its trigger writes.';

alter table relief.event enable row level security;
create policy owner on relief.event using (relief._owns(relation, created_by));
comment on policy owner on relief.event is 'Whoever has the rights of the table''s owner.';

create function relief._create_event_trigger(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  owner constant name := (select pg_get_userbyid(relowner) from pg_class where oid = d.relation);
begin
  perform relief._create_trigger(d, 'event', '~relief_event', 'after insert on %s for each row when (new.relief_is_anomaly)',
                                 relief._event_body(d), 'records an anomaly that was inserted.');
  -- The trigger writes as the table's owner, who needs no other right on Relief's tables.
  if not has_table_privilege(owner, 'relief.event', 'insert') then
    execute format('grant usage on schema relief to %I', owner);
    execute format('grant insert on relief.event to %I', owner);
    execute format('grant execute on function relief._owns(oid, name) to %I', owner);
  end if;
end
$$;
comment on function relief._create_event_trigger(relief.detector) is 'Makes the trigger that records anomalies, and its function.';

create function relief._event_body(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format($body$
#variable_conflict use_column
declare
  numbers double precision[];
  categories text[];
  judgement jsonb;
  explanation jsonb;
begin
  numbers := %1$s;
  categories := %9$s;
  judgement := %2$s;
  explanation := %3$s(numbers, categories, %4$s, %5$s);
  insert into relief.event (detector, relation, key, model_version, score, severity, verdict, contributions, sentence)
  values (%6$L, coalesce(pg_partition_root(tg_relid), tg_relid), %7$s, new.relief_model_version, new.relief_anomaly_score, (judgement ->> 'severity')::double precision,
          judgement ->> 'verdict', jsonb_path_query_array(explanation, '$[0 to 2]'), explanation #>> '{0,sentence}');
  return null;
%8$s
end
$body$,
    relief._new_features(d),
    relief._judgement_call(d, 'new', 'numbers', 'categories', true),
    relief._function_name(d, 'explanation'),
    relief._entity_text(d, 'new'),
    relief._season_text(d, 'new'),
    d.name,
    coalesce(relief._key_text(d, 'new'), 'null'),
    case d.on_error when 'pass' then
$body$exception when others then
  raise warning 'anomaly was stored but its event was not: %', sqlerrm;
  return null;$body$ else '' end,
    relief._new_categories(d))
$$;
comment on function relief._event_body(relief.detector) is 'Returns the body of the function that records anomalies.';
