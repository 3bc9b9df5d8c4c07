-- The gate: in the modes quarantine and reject a second trigger keeps out what the first has found to be an anomaly. Ordinary rows
-- cost its condition alone.

create function relief._create_gate(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if d.mode = 'quarantine' then
    perform relief._create_trigger(d, 'gate', '~relief_gate', 'before insert on %s for each row when (new.relief_is_anomaly)',
                                   relief._gate_body(d), 'holds an anomaly back in quarantine.');
  elsif d.mode = 'reject' then
    perform relief._create_trigger(d, 'gate', '~relief_gate', 'before insert or update on %s for each row when (new.relief_is_anomaly)',
                                   relief._gate_body(d), 'refuses an anomaly.');
  end if;
end
$$;
comment on function relief._create_gate(relief.detector) is 'Makes the trigger that keeps anomalies out, in the modes that do, and its function.';

create function relief._gate_body(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case d.mode when 'quarantine' then relief._holding_body(d) when 'reject' then relief._refusing_body(d) end
$$;
comment on function relief._gate_body(relief.detector) is 'Returns the body of the function that keeps anomalies out; NULL for a mode that doesn''t.';

create function relief._holding_body(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format($body$%1$s
  held bigint;
begin
  -- A row with a key that is there is no new one: it is an error, passed over, or updates that one, as the statement says.
  if %2$s or %3$s then
    return new;
  end if;
  row_key := %4$s;%5$s
  insert into relief.quarantine (detector, detector_id, relation, key, row_values, model_version, score, severity, sentence)
  values (%6$L, %7$s, source, row_key, relief._row_values(new), new.relief_model_version, new.relief_anomaly_score,
          (judgement ->> 'severity')::double precision, explanation #>> '{0,sentence}')
  returning id into held;
  if relief._is_told(%6$L, source, null, %8$s, null) then%9$s
  end if;
  return null;
%10$s
end
$body$,
    relief._declarations(),
    relief._releasing_text(d),
    relief._key_exists_text(d),
    coalesce(relief._key_text(d, 'new'), 'null'),
    relief._judging_steps(d),
    d.name,
    d.id,
    d.events_per_second,
    relief._recording_step(d, 'held'),
    case d.on_error when 'pass' then
$body$exception when others then
  raise warning 'anomaly was stored, not held in quarantine: %', sqlerrm;
  return new;$body$ else '' end)
$$;
comment on function relief._holding_body(relief.detector) is 'Returns the body of the function that holds anomalies back.';

create function relief._refusing_body(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format($body$%1$s
begin
  if tg_op = 'INSERT' then
    if %2$s or %3$s then
      return new;
    end if;
  elsif row(%4$s)::record operator(pg_catalog.*=) row(%5$s)::record then
    return new;
  end if;
  begin%6$s
  exception when others then
    null;  -- it is refused all the same, without what is strange about it
  end;
  raise exception 'anomaly is refused by detector "%%": %%', %7$L, coalesce(explanation #>> '{0,sentence}', 'it can''t be explained')
    using errcode = 'check_violation',
          detail = format('The score is %%s, the threshold %%s, the severity %%s, by version %%s.', new.relief_anomaly_score, judgement ->> 'threshold',
                          judgement ->> 'severity', new.relief_model_version),
          hint = %8$L,
          schema = tg_table_schema, table = tg_table_name, constraint = tg_name;
end
$body$,
    relief._declarations(),
    relief._releasing_text(d),
    relief._key_exists_text(d),
    string_agg(format('new.%I', watched.name), ', ' order by watched.n),
    string_agg(format('old.%I', watched.name), ', ' order by watched.n),
    relief._judging_steps(d),
    d.name,
    format('The owner of the table may let such rows in, flagged: select relief.set_mode(%L, ''flag'');', d.name))
  from unnest(relief._written_columns(d) || d.entity || d.time_column) with ordinality as watched (name, n)
  where watched.name is not null
$$;
comment on function relief._refusing_body(relief.detector) is 'Returns the body of the function that refuses anomalies.';

create function relief._releasing_text(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- A mark that no ordinary user can write, where a setting could be set by anybody.
  select format('exists (select from relief.quarantine as q where q.detector_id = %s and q.releasing_in = pg_current_xact_id())', d.id)
$$;
comment on function relief._releasing_text(relief.detector) is 'Returns the condition that a row of a detector is just being released from quarantine.';

create function relief._key_exists_text(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (select format('exists (select from %s as o where %s)', d.relation,
                   string_agg(format('o.%1$I operator(%2$I.%3$s) new.%1$I', a.attname, n.nspname, o.oprname), ' and ' order by k.n))
     from pg_index as i
     cross join lateral unnest(i.indkey::smallint[], i.indclass::oid[]) with ordinality as k (attnum, opclass, n)
     join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
     join pg_opclass as c on c.oid = k.opclass
     -- 3 is equality, of a B-tree
     join pg_amop as m on m.amopfamily = c.opcfamily and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype and m.amopstrategy = 3
     join pg_operator as o on o.oid = m.amopopr
     join pg_namespace as n on n.oid = o.oprnamespace
     where i.indrelid = d.relation and i.indisprimary
     having count(*) > 0),
    'false')
$$;
comment on function relief._key_exists_text(relief.detector) is 'Returns the condition that a row with the primary key of a trigger''s new row is there.';
