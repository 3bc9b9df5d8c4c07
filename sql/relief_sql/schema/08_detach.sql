-- Detaching: finding the triggers of a detector, and dropping them with their functions.

create function relief.detach(detector text, drop_columns boolean default false)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_with_table(detector);
begin
  if relief._trigger_function(d) is null then
    raise exception 'detector "%" is not attached', d.name
      using errcode = 'object_not_in_prerequisite_state', hint = format('Attach it: select relief.attach(%L);', d.name);
  end if;
  perform relief._detach(d, drop_columns);
  perform relief._tell_held(d);
  perform relief._audit(d, 'detach', details => jsonb_build_object('drop_columns', drop_columns));
end
$$;
comment on function relief.detach(text, boolean) is
  'Drops the trigger of a detector from its table, and with drop_columns => true the companion columns with what is in them.';

create function relief._attached_function(d relief.detector, kind text, trigger_name name)
  returns regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- By the trigger first: a table that was moved to another schema has left its functions behind.
  select coalesce(
    (select t.tgfoid
     from pg_trigger as t
     join pg_proc as p on p.oid = t.tgfoid
     where t.tgrelid = d.relation and t.tgname = trigger_name and p.proname = relief._object_name(kind, d.name)),
    relief._generated(d, kind))
$$;
comment on function relief._attached_function(relief.detector, text, name) is
  'Returns the function of a trigger of an attached detector, NULL where it isn''t attached.';

create function relief._trigger_function(d relief.detector)
  returns regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select relief._attached_function(d, 'trigger', '~relief')
$$;
comment on function relief._trigger_function(relief.detector) is 'Returns the function that scores rows of an attached detector, NULL where it isn''t attached.';

create function relief._event_function(d relief.detector)
  returns regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select relief._attached_function(d, 'event', '~relief_event')
$$;
comment on function relief._event_function(relief.detector) is 'Returns the function that records anomalies of an attached detector, NULL where there is none.';

create function relief._gate_function(d relief.detector)
  returns regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select relief._attached_function(d, 'gate', '~relief_gate')
$$;
comment on function relief._gate_function(relief.detector) is
  'Returns the function that keeps anomalies out of an attached detector''s table, NULL where none does.';

create function relief._drop_trigger(d relief.detector, trigger_name name, trigger_function regprocedure)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from pg_trigger where tgrelid = d.relation and tgname = trigger_name and tgfoid = trigger_function) then
    execute format('drop trigger %I on %s', trigger_name, d.relation);
  end if;
  if trigger_function is not null then
    perform relief._change_catalog(array[format('drop function %s', trigger_function)]);
  end if;
end
$$;
comment on function relief._drop_trigger(relief.detector, name, regprocedure) is 'Drops a trigger of a detector and its function, as far as they are there.';

create function relief._detach(d relief.detector, drop_columns boolean)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  drops text;
begin
  perform relief._drop_trigger(d, '~relief', relief._trigger_function(d));
  perform relief._drop_trigger(d, '~relief_event', relief._event_function(d));
  perform relief._drop_trigger(d, '~relief_gate', relief._gate_function(d));
  perform relief._drop_trigger(d, '~relief_shadow', relief._shadow_function(d));
  -- The columns may be in use by another detector that is attached to the same table.
  if drop_columns and not exists (select from pg_trigger where tgrelid = d.relation and tgname = '~relief') then
    select string_agg(format('drop column if exists %I', c.name), ', ') into drops from relief._companion_columns() as c;
    execute format('alter table %s %s', d.relation, drops);
  end if;
end
$$;
comment on function relief._detach(relief.detector, boolean) is 'Drops what attach made, as far as it is there.';
