-- Quarantine: in mode quarantine, an anomaly waits here until somebody releases it into its table or discards it.

create table relief.quarantine (
  id            bigint generated always as identity primary key,
  detector      text not null,
  detector_id   integer not null,
  relation      regclass not null,
  key           jsonb,
  row_values    jsonb not null,
  state         text not null default 'held',
  held_at       timestamptz not null default pg_catalog.clock_timestamp(),
  inserted_by   name not null default session_user,
  created_by    name not null default current_user,
  model_version integer,
  score         double precision,
  severity      double precision,
  sentence      text,
  resolved_at   timestamptz,
  resolved_by   name,
  reason        text,
  releasing_in  xid8,
  constraint state_is_known check (state in ('held', 'released', 'discarded')),
  constraint resolved_rows_say_by_whom check ((state = 'held') = (resolved_at is null) and (state = 'held') = (resolved_by is null))
);
create index quarantine_held_idx on relief.quarantine (detector_id, id) where state = 'held';
create index quarantine_releasing_idx on relief.quarantine (detector_id) where releasing_in is not null;
comment on table relief.quarantine is
  'Anomalies that were kept out of their table, and what became of them. A row that was to be inserted is here before the table''s '
  'constraints and policies have seen it: they judge it when it is released, for the role that releases it.';
comment on column relief.quarantine.key is 'The row''s primary key: column -> value; NULL where the table has none.';
comment on column relief.quarantine.row_values is 'The row as it was to be inserted: column -> its text; without generated columns and Relief''s.';
comment on column relief.quarantine.state is 'held, released into the table, or discarded.';
comment on column relief.quarantine.inserted_by is 'As whom the session had logged in that tried to insert the row.';
comment on column relief.quarantine.created_by is 'The owner of the table, in whose name its trigger writes.';
comment on column relief.quarantine.releasing_in is 'The transaction that is just inserting the row again, for the triggers to let it pass.';

alter table relief.quarantine enable row level security;
create policy owner on relief.quarantine using (relief._owns(relation, created_by));
comment on policy owner on relief.quarantine is 'Whoever has the rights of the table''s owner.';

create function relief._row_values(o anyelement)
  returns jsonb
  language plpgsql
  stable
  -- As input reads them back, whatever the session prefers; each type's own text is the one form that loses nothing.
  set search_path = pg_catalog, pg_temp
  set extra_float_digits = 1
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'postgres'
  set lc_monetary = 'C'
as $$
declare
  told jsonb;
begin
  execute (
    select format('select jsonb_object(array[%s]::text[], array[%s]::text[])',
                  string_agg(quote_literal(a.attname), ', ' order by a.attnum),
                  string_agg(format('case when num_nulls(($1).%1$I) = 0 then format(''%%s'', ($1).%1$I) end', a.attname), ', ' order by a.attnum))
    from pg_type as t
    join pg_attribute as a on a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                           and a.attname not in (select c.name from relief._companion_columns() as c)
    where t.oid = pg_typeof(o))
    into told using o;
  return told;
end
$$;
comment on function relief._row_values(anyelement) is 'Returns a row of a table as texts: column -> its text, without generated columns and Relief''s.';

create function relief.release(id bigint, reason text default null, is_anomaly boolean default false)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'postgres'
  set lc_monetary = 'C'
  set xmloption = 'content'
as $$
declare
  q constant relief.quarantine := relief._lock_held(id);
  d constant relief.detector := relief._releasing_detector(q);
  statement text;
  gone text;
  inserted bigint;
begin
  perform relief._refuse_foreign_superuser(d);
  select format('insert into %s (%s) overriding system value values (%s)', d.relation,
                string_agg(format('%I', a.attname), ', ' order by a.attnum) filter (where a.attname is not null),
                -- Literals of no type, which become their column's by its own input function.
                string_agg(coalesce(quote_literal(r.value), 'null'), ', ' order by a.attnum) filter (where a.attname is not null)),
         string_agg(quote_ident(r.name), ', ' order by r.name) filter (where relief._column_now(d, r.name) is null)
    into statement, gone
  from jsonb_each_text(q.row_values) as r (name, value)
  left join pg_attribute as a on a.attrelid = d.relation and a.attname = relief._column_now(d, r.name) and a.attgenerated = '';
  if gone is not null then
    raise warning 'row % is released without its values of %, which table % has no more', q.id, gone, d.relation;
  end if;
  update relief.quarantine as e set releasing_in = pg_current_xact_id() where e.id = q.id;
  execute statement;
  get diagnostics inserted = row_count;
  if inserted = 0 then
    raise exception 'row % was not taken by table %', q.id, d.relation
      using errcode = 'triggered_action_exception', hint = format('A trigger or rule kept it out. Discard it: select relief.discard(%s);', q.id);
  end if;
  perform relief._resolve(d, q, 'released', reason);
  if is_anomaly is not null and q.key is not null and relief._key_text(d, 'o') is not null then
    perform relief.label(d.name, (select jsonb_object_agg(relief._column_now(d, k.name), k.value) from jsonb_each(q.key) as k (name, value)),
                         is_anomaly, reason);
  end if;
end
$$;
comment on function relief.release(bigint, text, boolean) is
  'Inserts a row that is held in quarantine into its table after all, as it was to be inserted, and labels it as ordinary, or as '
  'is_anomaly says; NULL for no label. The trigger scores and flags it; it isn''t held again.';

create function relief.discard(id bigint, reason text default null)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  q constant relief.quarantine := relief._lock_held(id);
begin
  perform relief._resolve(relief._detector(q.detector), q, 'discarded', reason);
end
$$;
comment on function relief.discard(bigint, text) is 'Gives up a row that is held in quarantine: it stays there, as discarded.';

create function relief._lock_held(id bigint)
  returns relief.quarantine
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  q relief.quarantine;
begin
  perform relief._require_primary();
  select * into q from relief.quarantine as e where e.id = $1 for update;
  if not found then
    raise exception 'row % is not in quarantine', coalesce($1::text, 'NULL')
      using errcode = 'no_data_found', hint = 'List the rows of tables that you own: select * from relief.quarantine where state = ''held'';';
  end if;
  if q.state <> 'held' then
    raise exception 'row % was % by "%" already', q.id, q.state, q.resolved_by
      using errcode = 'object_not_in_prerequisite_state', hint = format('See when and why: select * from relief.quarantine where id = %s;', q.id);
  end if;
  return q;
end
$$;
comment on function relief._lock_held(bigint) is 'Returns a row that is held in quarantine, locked: of two who resolve it, one is told.';

create function relief._releasing_detector(q relief.quarantine)
  returns relief.detector
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  d relief.detector;
begin
  select * into d from relief.detector as e where e.id = q.detector_id;
  if not found then
    perform relief._raise_no_detector(q.detector);
  end if;
  perform relief._require_table(d);
  return d;
end
$$;
comment on function relief._releasing_detector(relief.quarantine) is 'Returns the detector that holds a row, whose table is there.';

create function relief._resolve(d relief.detector, q relief.quarantine, state text, reason text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  update relief.quarantine as e
  set state = $3, reason = $4, resolved_at = clock_timestamp(), resolved_by = current_user, releasing_in = null
  where e.id = q.id;
  perform relief._audit(d, case state when 'released' then 'release' else 'discard' end, null, reason,
                        jsonb_build_object('quarantine', q.id, 'key', q.key));
end
$$;
comment on function relief._resolve(relief.detector, relief.quarantine, text, text) is 'Notes what became of a row in quarantine, there and in the log.';

create function relief._tell_held(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  held constant bigint := (select count(*) from relief.quarantine as q where q.detector_id = d.id and q.state = 'held');
begin
  if held > 0 then
    raise notice 'detector "%" holds % rows in quarantine', d.name, held
      using hint = format('Release them: select relief.release(id) from relief.quarantine where detector = %L and state = ''held'';', d.name);
  end if;
end
$$;
comment on function relief._tell_held(relief.detector) is 'Tells of rows that a detector holds in quarantine.';

create function relief._require_none_held(d relief.detector)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  held constant bigint := (select count(*) from relief.quarantine as q where q.detector_id = d.id and q.state = 'held');
begin
  if held > 0 then
    raise exception 'detector "%" holds % rows in quarantine', d.name, held
      using errcode = 'object_in_use',
            hint = format('Release or discard them first: select relief.discard(id) from relief.quarantine where detector = %L and state = ''held'';', d.name);
  end if;
end
$$;
comment on function relief._require_none_held(relief.detector) is 'Raises an error if a detector holds rows in quarantine.';

create function relief._rename_held(d relief.detector)
  returns void
  language sql
  set search_path = pg_catalog, pg_temp
as $$
  update relief.quarantine as q
  set relation = d.relation,
      key = (select jsonb_object_agg(coalesce(relief._column_now(d, k.name), k.name), k.value) from jsonb_each(q.key) as k (name, value)),
      row_values = (select jsonb_object_agg(coalesce(relief._column_now(d, k.name), k.name), k.value) from jsonb_each(q.row_values) as k (name, value))
  where q.detector_id = d.id and q.state = 'held'
    and (q.relation <> d.relation or exists (select from jsonb_object_keys(q.row_values) as k (name) where relief._column_now(d, k.name) <> k.name))
$$;
comment on function relief._rename_held(relief.detector) is 'Lets the rows that a detector holds in quarantine follow its table and the names of its columns.';
