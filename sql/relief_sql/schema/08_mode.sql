-- Modes: what becomes of an anomaly that is inserted.

create function relief.set_mode(
    detector text,
    mode text,
    notify_columns name[] default '{}',
    events_per_second integer default null)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d relief.detector := relief._lock_with_table(detector);
begin
  if relief._trigger_function(d) is null then
    raise exception 'detector "%" is not attached', d.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Attach it: select relief.attach(%L, mode => %L);', d.name,
                          case when mode in ('flag', 'notify', 'quarantine', 'reject') then mode else 'flag' end);
  end if;
  d := relief._set_mode(d, mode, notify_columns, coalesce(events_per_second, d.events_per_second), relief._is_on_replica(d));
  perform relief._reattach(d);
  if mode <> 'quarantine' then
    perform relief._tell_held(d);
  end if;
  perform relief._audit(d, 'set_mode', details => jsonb_build_object('mode', mode));
end
$$;
comment on function relief.set_mode(text, text, name[], integer) is
  'Changes what becomes of anomalies that are inserted into an attached detector''s table: flag, notify, quarantine or reject; see '
  'relief.attach. Rows in quarantine stay there. Takes an ACCESS EXCLUSIVE lock for an instant.';

create function relief._set_mode(d relief.detector, mode text, notify_columns name[], events_per_second integer, on_replica boolean)
  returns relief.detector
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._require_mode(d, mode, notify_columns, events_per_second, on_replica);
  update relief.detector as e
  set mode = $2, notify_columns = $3, events_per_second = $4
  where e.id = d.id;
  perform relief._note_attributes(d.name);
  select * into strict d from relief.detector as e where e.id = d.id;
  return d;
end
$$;
comment on function relief._set_mode(relief.detector, text, name[], integer, boolean) is 'Stores a mode and its options, and returns the detector.';

create function relief._require_mode(d relief.detector, mode text, notify_columns name[], events_per_second integer, on_replica boolean)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  unknown text;
begin
  if mode is null or mode not in ('flag', 'notify', 'quarantine', 'reject') then
    raise exception 'mode of detector "%" is "%"', d.name, coalesce(mode, 'NULL')
      using errcode = 'invalid_parameter_value', hint = 'It is one of flag, notify, quarantine and reject.';
  end if;
  if on_replica and mode in ('quarantine', 'reject') then
    raise exception 'detector "%" cannot % what a subscription applies', d.name, case mode when 'reject' then 'reject' else 'hold back' end
      using errcode = 'feature_not_supported',
            hint = 'What is missing here would stop the subscription: take mode flag or notify, or attach without on_replica.';
  end if;
  if notify_columns is null or notify_columns <> '{}' and mode <> 'notify' then
    raise exception 'notify_columns of detector "%" are %, and its mode is "%"', d.name, coalesce(notify_columns::text, 'NULL'), mode
      using errcode = 'invalid_parameter_value', hint = 'Take mode => ''notify'', or leave them out.';
  end if;
  select coalesce(c, 'NULL') into unknown
  from unnest(notify_columns) as c
  where not exists (select from pg_attribute where attrelid = d.relation and attname = c and attnum > 0 and not attisdropped)
  limit 1;
  if found then
    raise exception 'notify column "%" of detector "%" is not a column of table %', unknown, d.name, d.relation
      using errcode = 'undefined_column', hint = format('The columns are: %s.', relief._column_names(d.relation));
  end if;
  if events_per_second is null or events_per_second not between 1 and 10000 then
    raise exception 'events_per_second of detector "%" is %, not between 1 and 10000', d.name, coalesce(events_per_second::text, 'NULL')
      using errcode = 'numeric_value_out_of_range', hint = 'It is how many anomalies a session may tell one by one; 100 is the default.';
  end if;
end
$$;
comment on function relief._require_mode(relief.detector, text, name[], integer, boolean) is 'Raises an error for the first option of a mode that can''t be.';

create function relief._is_on_replica(d relief.detector)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_or(t.tgenabled = 'A'), false)
  from pg_trigger as t
  where t.tgrelid = d.relation and t.tgfoid = relief._trigger_function(d)
$$;
comment on function relief._is_on_replica(relief.detector) is 'Returns whether a detector was attached with on_replica => true.';

create function relief._reattach(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  on_replica constant boolean := relief._is_on_replica(d);
begin
  perform relief._detach(d, false);
  if (select relkind in ('r', 'p') from pg_class where oid = d.relation) then
    perform relief._attach(d, on_replica);
  end if;
end
$$;
comment on function relief._reattach(relief.detector) is 'Makes the triggers of an attached detector anew.';
