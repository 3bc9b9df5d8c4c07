-- Attaching: companion columns, and the trigger that fills them in the row's own transaction.

create function relief._companion_columns()
  returns table (name name, type regtype, description text)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  values
    ('relief_anomaly_score'::name, 'double precision'::regtype, 'Relief: anomaly score, in (0, 1], higher = more anomalous; NULL if not scored.'),
    ('relief_is_anomaly', 'boolean', 'Relief: whether the row is an anomaly, by the detector''s verdict; NULL if that can''t be told.'),
    ('relief_deviation', 'jsonb', 'Relief: feature -> deviation from its history; {"state": ...} without history, {"error": reason} if that failed.'),
    ('relief_model_version', 'integer', 'Relief: the version of the model that scored the row.')
$$;
comment on function relief._companion_columns() is 'Returns the columns that attach adds to a table.';

create function relief.attach(
    detector text,
    on_replica boolean default false,
    mode text default 'flag',
    notify_columns name[] default '{}',
    events_per_second integer default 100)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d relief.detector := relief._lock_with_table(detector);
  publications text;
begin
  perform relief._require_attachable(d);
  -- Another detector may be about to be attached to the same table.
  execute format('lock table only %s in access exclusive mode', d.relation);
  perform relief._require_attachable(d);
  perform relief._require_generated(d);
  d := relief._set_mode(d, mode, notify_columns, events_per_second, on_replica);
  select string_agg(quote_ident(p.pubname), ', ') into publications
  from pg_publication_tables as p
  where p.schemaname = relief._schema_of(d.relation) and p.tablename = (select relname from pg_class where oid = d.relation);
  perform relief._attach(d, on_replica);
  perform relief._audit(d, 'attach', details => jsonb_build_object('on_replica', on_replica, 'mode', mode));
  if publications is not null then
    raise warning 'table % is published by %: replication stops until its subscribers have the new columns', d.relation, publications
      using hint = format('On each subscriber: alter table %s %s;', d.relation,
                          (select string_agg(format('add column %I %s', c.name, c.type), ', ') from relief._companion_columns() as c));
  end if;
  if d.promoted_version is null then
    raise notice 'detector "%" has no promoted model yet: rows get a NULL score until it has', d.name
      using hint = format('Train one: relief train %s --promote', relief._shell_quoted(d.name));
  end if;
end
$$;
comment on function relief.attach(text, boolean, text, name[], integer) is
  'Adds the companion columns to a detector''s table, without rewriting it, and the trigger that scores every inserted row and every '
  'row whose features change; with on_replica => true those too that a subscription applies. Inserted anomalies are flagged; in mode '
  'notify also told on relief.channel(detector), with notify_columns beside the primary key; in mode quarantine held back; in mode reject '
  'refused. Beyond events_per_second, events are told in one. Takes an ACCESS EXCLUSIVE lock for an instant.';

create function relief._attach(d relief.detector, on_replica boolean)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._add_companion_columns(d);
  perform relief._create_scoring_trigger(d);
  perform relief._create_event_trigger(d);
  perform relief._create_gate(d);
  perform relief._resume_shadow(d);
  perform relief._note_partitions(d.name, true);
  if on_replica then
    execute format('alter table %s enable always trigger "~relief", enable always trigger "~relief_event"', d.relation);
  end if;
end
$$;
comment on function relief._attach(relief.detector, boolean) is 'Makes what attach makes; detach before makes it anew.';

create function relief._why_not_attachable(relation regclass)
  returns table (reason text, advice text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select r.reason, ' ' || r.advice
  from pg_class as c
  cross join lateral (
    select format('is a %s', case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table' else 'relation' end),
           null
    where c.relkind not in ('r', 'p')
    union all
    select format('is a typed table, which takes no columns but those of type %s', c.reloftype::regtype),
           format('Or loosen it from its type: alter table %s not of;', c.oid::regclass)
    where c.reloftype <> 0
    union all
    select format('is a partition of %s', pg_partition_root(c.oid))
           || case when exists (select from pg_attribute
                                where attrelid = pg_partition_root(c.oid) and attname = 'relief_anomaly_score' and not attisdropped)
                then ', which has the columns' else '' end,
           format('Or make a detector of %s.', pg_partition_root(c.oid))
    where c.relispartition
    union all
    select format('has the foreign table %s for a partition', min(leaf.relid::text)), null
    from pg_partition_tree(c.oid) as leaf
    join pg_class as f on f.oid = leaf.relid and f.relkind = 'f'
    having count(*) > 0
    union all
    select format('has rows in child tables, such as %s, which a trigger on it doesn''t see', min(i.inhrelid::regclass::text)),
           'Or make detectors of the child tables.'
    from pg_inherits as i
    where i.inhparent = c.oid and c.relkind = 'r'
    having count(*) > 0
  ) as r (reason, advice)
  where c.oid = relation
  limit 1
$$;
comment on function relief._why_not_attachable(regclass) is
  'Returns why a relation can''t have companion columns and a trigger that sees all its rows, and what else to do; no row if it can.';

create function relief._score_query(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case when d.score_function then format('select %I.relief_score(o) from %s as o;', relief._schema_of(d.relation), d.relation)
              else format('select relief.score(%L, to_jsonb(o)) from %s as o;', d.name, d.relation) end
$$;
comment on function relief._score_query(relief.detector) is 'Returns a statement that scores what is in a detector''s table, for a hint.';

create function relief._require_attachable(d relief.detector)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  reason text;
  advice text;
  holder text;
begin
  select r.reason, r.advice into reason, advice from relief._why_not_attachable(d.relation) as r;
  if found then
    raise exception 'detector "%" cannot be attached: % %', d.name, d.relation, reason
      using errcode = 'wrong_object_type', hint = concat('Score it in queries: ', relief._score_query(d), advice);
  end if;
  select t.tgname into holder
  from pg_trigger as t
  where t.tgrelid = d.relation and t.tgname = '~relief';
  if found then
    raise exception 'a detector is attached to table % already', d.relation
      using errcode = 'duplicate_object',
            hint = coalesce(
              (select concat(case e.id when d.id then format('For another mode alone: select relief.set_mode(%L, ''notify''); else d', e.name) else 'D' end,
                             format('etach it first: select relief.detach(%L);', e.name))
               from relief.detector as e
               where e.relation = d.relation and relief._trigger_function(e) is not null
               limit 1),
              format('Drop the trigger first: drop trigger "~relief" on %s;', d.relation));
  end if;
end
$$;
comment on function relief._require_attachable(relief.detector) is 'Raises an error if a detector''s relation can''t take a trigger, or has one of Relief''s.';

create function relief._add_companion_columns(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  clash text;
  additions text;
  companion record;
begin
  select format('column "%s" of table %s is of type %s, not %s', c.name, d.relation, format_type(a.atttypid, a.atttypmod), c.type) into clash
  from relief._companion_columns() as c
  join pg_attribute as a on a.attrelid = d.relation and a.attname = c.name and not a.attisdropped
  where a.atttypid <> c.type
  limit 1;
  if found then
    raise exception '%', clash
      using errcode = 'duplicate_column', hint = 'Relief writes its results into columns of these names; rename yours.';
  end if;
  select format('column "%s" of table %s is %s', c.name, d.relation, case when a.attnotnull then 'not null' else 'generated' end) into clash
  from relief._companion_columns() as c
  join pg_attribute as a on a.attrelid = d.relation and a.attname = c.name and not a.attisdropped
  where a.attnotnull or a.attgenerated <> ''
  limit 1;
  if found then
    raise exception '%', clash
      using errcode = 'invalid_table_definition', hint = 'Relief writes NULL there for a row that it cannot score; rename yours, or alter it.';
  end if;
  select string_agg(format('add column %I %s', c.name, c.type), ', ') into additions
  from relief._companion_columns() as c
  where not exists (select from pg_attribute as a where a.attrelid = d.relation and a.attname = c.name and not a.attisdropped);
  if additions is null then
    return;
  end if;
  execute format('alter table %s %s', d.relation, additions);
  for companion in select * from relief._companion_columns() loop
    execute format('comment on column %s.%I is %L', d.relation, companion.name, companion.description);
  end loop;
end
$$;
comment on function relief._add_companion_columns(relief.detector) is 'Adds those companion columns that a detector''s table lacks.';

create function relief._create_trigger(d relief.detector, kind text, trigger_name name, fires text, body text, description text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  execute format($sql$
create function %s()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as %L$sql$,
    relief._function_name(d, kind), body);
  execute format('revoke execute on function %s from public', relief._generated(d, kind));
  perform relief._adopt_function(d, relief._generated(d, kind), description);
  execute format('create trigger %I %s execute function %s()', trigger_name, format(fires, d.relation), relief._function_name(d, kind));
  execute format('comment on trigger %I on %s is %L', trigger_name, d.relation, format('Relief, detector "%s": %s', d.name, description));
  if exists (select from pg_extension where extname = 'relief') then
    execute format('alter trigger %I on %s depends on extension relief', trigger_name, d.relation);
  end if;
end
$$;
comment on function relief._create_trigger(relief.detector, text, name, text, text, text) is
  'Makes a trigger of a detector, which fires as the text says that has a place for the table, and its function.';

create function relief._create_scoring_trigger(d relief.detector)
  returns void
  language sql
  set search_path = pg_catalog, pg_temp
as $$
  -- BEFORE triggers fire in the order of their names: "~" sorts this one behind those with ordinary names.
  select relief._create_trigger(d, 'trigger', '~relief', 'before insert or update on %s for each row',
                                relief._trigger_body(d), 'scores a row as it is written.')
$$;
comment on function relief._create_scoring_trigger(relief.detector) is 'Makes the trigger that scores rows, and its function.';

create function relief._trigger_body(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- No text but quoted identifiers goes in here. Under policy pass, what fails is caught: a row is never lost to its score.
  select format(case d.on_error when 'pass' then $body$
#variable_conflict use_column
declare
  numbers double precision[];
begin
  begin
%s
  exception when others then
    begin
      new := jsonb_populate_record(new, jsonb_build_object(
        'relief_anomaly_score', null, 'relief_is_anomaly', null, 'relief_model_version', null,
        'relief_deviation', jsonb_build_object('error', regexp_replace(sqlerrm, '^plpy[.]Error: ', ''))));
    exception when others then
      null;  -- a companion column is of another type by now; relief.check() tells
    end;
  end;
  return new;
end
$body$ else $body$
#variable_conflict use_column
declare
  numbers double precision[];
begin
%s
  return new;
end
$body$ end,
    relief._scoring_steps(d))
$$;
comment on function relief._trigger_body(relief.detector) is 'Returns the body of a detector''s trigger function.';

create function relief._scoring_steps(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- An update is compared column by column as it is stored: a WHEN clause would forbid to retype or drop the columns in it.
  -- The companion columns are filled by name: one that is gone is passed over, and relief.check() tells.
  select format($body$
    if tg_op = 'UPDATE' then
      if row(%1$s)::record operator(pg_catalog.*=) row(%2$s)::record then
        return new;
      end if;
    end if;
    numbers := %3$s;
    new := jsonb_populate_record(new, %4$s);$body$,
    string_agg(format('new.%I', watched.name), ', ' order by watched.n),
    string_agg(format('old.%I', watched.name), ', ' order by watched.n),
    relief._new_features(d),
    relief._judgement_call(d, 'new', 'numbers', relief._new_categories(d), false))
  from unnest(relief._written_columns(d) || d.entity || d.time_column || array(select c.name from relief._companion_columns() as c))
    with ordinality as watched (name, n)
  where watched.name is not null
$$;
comment on function relief._scoring_steps(relief.detector) is 'Returns the statements of the trigger function that score and judge a row.';
