-- Notifications: in mode notify, an anomaly is told to whoever listens. They wake; what counts is in relief.event.

create function relief.channel(detector text)
  returns name
  language sql
  immutable
  strict
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select (case when octet_length('relief_' || detector) <= 63 then 'relief_' || detector else 'relief_md5_' || md5(detector) end)::name
$$;
comment on function relief.channel(text) is
  'Returns the channel on which a detector notifies of anomalies, to be quoted in LISTEN: relief_<detector>, where that has up to 63 bytes.';

create function relief._notification(told jsonb)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- As in src/backend/commands/async.c: a block, less what each entry of the queue takes.
  too_long constant integer := current_setting('block_size')::integer - 192;
  part text;
begin
  foreach part in array '{columns, sentence, key}'::text[] loop
    exit when octet_length(told::text) < too_long;
    if told ? part then
      told := jsonb_set(told - part, '{cut}', coalesce(told -> 'cut', '[]') || to_jsonb(part));
    end if;
  end loop;
  return told;
end
$$;
comment on function relief._notification(jsonb) is
  'Returns a notification that is short enough to be sent: what is too long is left out, columns first, then sentence, then key, and named in cut.';

create function relief._notifying_step(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format($body$
    perform pg_notify(%1$L, relief._notification(jsonb_build_object(
      'event', event_id, 'detector', %2$L, 'key', row_key, 'score', new.relief_anomaly_score, 'severity', judgement -> 'severity',
      'verdict', judgement -> 'verdict', 'sentence', explanation #> '{0,sentence}')%3$s));$body$,
    relief.channel(d.name),
    d.name,
    (select format(' || jsonb_build_object(''columns'', %s)',
                   string_agg(format('jsonb_build_object(%L, new.%I)', c.name, c.name), ' || ' order by c.n))
     from unnest(d.notify_columns) with ordinality as c (name, n)
     having count(*) > 0))
$$;
comment on function relief._notifying_step(relief.detector) is 'Returns the statement by which a trigger function notifies of an anomaly.';
