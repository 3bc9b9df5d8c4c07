-- Backfill: score the rows that were there before. A row is touched, and the trigger scores it: with the owner's rights and
-- under the detector's policy, as any row. Rows already scored by the promoted version are passed over, so a backfill that was
-- stopped is resumed by calling it again.

create function relief._backfill_tables(detector text)
  returns regclass[]
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._detector(detector);
begin
  if d.promoted_version is null then
    perform relief._no_model(d.name);
  end if;
  if relief._schema_of(d.relation) is null
     or not exists (select from pg_trigger
                    where tgrelid = d.relation and tgfoid = relief._trigger_function(d) and tgenabled in ('O', 'A')) then
    raise exception 'detector "%" is not attached, or its trigger is disabled', d.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Attach it: select relief.attach(%L); or: alter table %s enable trigger "~relief";', d.name, d.relation);
  end if;
  return array(
    select tree.relid
    from pg_partition_tree(d.relation) as tree
    join pg_class as c on c.oid = tree.relid and c.relkind = 'r'
    union
    select d.relation from pg_class as c where c.oid = d.relation and c.relkind = 'r');
end
$$;
comment on function relief._backfill_tables(text) is 'Returns the tables that hold a detector''s rows: the table, or the leaves of a partitioned one.';

create function relief._backfill_batch(detector text, relation regclass, first_block bigint, end_block bigint, retry_failed boolean)
  returns bigint
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._detector(detector);
  scored bigint;
begin
  -- A row that somebody has locked is left for later, so that a batch of locked rows never waits and can't deadlock.
  execute format($sql$
    with touched as (
      update only %1$s as t
      set relief_model_version = case when t.relief_model_version is null then 0 end
      where t.ctid = any (array(
        select s.ctid
        from only %1$s as s
        where s.ctid >= format('(%%s,0)', $1)::tid and s.ctid < format('(%%s,0)', $2)::tid and %2$s
        for update skip locked))
      returning t.relief_model_version
    )
    select count(*) from touched where relief_model_version = $3
  $sql$, relation, relief._stale_condition(retry_failed))
  into scored using first_block, end_block, d.promoted_version;
  return scored;
end
$$;
comment on function relief._backfill_batch(text, regclass, bigint, bigint, boolean) is
  'Touches the rows of a range of blocks that the promoted version hasn''t scored, and returns how many it scored.';

create function relief._backfill_row(detector text, relation regclass, place tid)
  returns bigint
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._detector(detector);
  scored bigint;
begin
  execute format($sql$
    with touched as (
      update only %1$s as s
      set relief_model_version = case when s.relief_model_version is null then 0 end
      where s.ctid = $2 and %2$s
      returning s.relief_model_version
    )
    select count(*) from touched where relief_model_version = $3
  $sql$, relation, relief._stale_condition(false))
  into scored using null::bigint, place, d.promoted_version;
  return scored;
end
$$;
comment on function relief._backfill_row(text, regclass, tid) is 'Touches one row, waiting for whoever has it locked, and returns whether it was scored: 1 or 0.';

create function relief._stale_condition(retry_failed boolean)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select 's.relief_model_version is distinct from $3'
         || case when retry_failed then '' else ' and not coalesce(s.relief_deviation ? ''error'', false)' end
$$;
comment on function relief._stale_condition(boolean) is 'Returns the condition for rows, called s, that version $3 has yet to score.';

create function relief._backfill_stragglers(detector text, relation regclass)
  returns tid[]
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._detector(detector);
  places tid[];
begin
  execute format('select array(select s.ctid from only %s as s where ($1 is null and $2 is null) and %s limit 1000)',
                 relation, relief._stale_condition(false))
    into places using null::bigint, null::tid, d.promoted_version;
  return places;
end
$$;
comment on function relief._backfill_stragglers(text, regclass) is 'Returns where rows are that a pass over a table left: locked by others, or moved meanwhile.';

create function relief._blocks(relation regclass)
  returns bigint
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_relation_size(relation) / current_setting('block_size')::bigint
$$;
comment on function relief._blocks(regclass) is 'Returns the size of a table in blocks.';

create function relief._blocks_of_rows(relation regclass, rows bigint)
  returns bigint
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select greatest(1, rows / greatest(1, coalesce((select reltuples / nullif(relpages, 0) from pg_class where oid = relation), 50))::bigint)::bigint
$$;
comment on function relief._blocks_of_rows(regclass, bigint) is 'Returns about how many blocks hold a number of rows.';

-- A procedure that commits can neither pin its search_path nor have definer rights: every name in it is qualified.
create procedure relief.backfill(detector text, batch_rows integer default 10000)
  language plpgsql
as $$
declare
  relation pg_catalog.regclass;
  place pg_catalog.tid;
  places pg_catalog.tid[];
  next_block bigint;
  end_block bigint;
  batch_blocks bigint;
  scored bigint := 0;
  progress bigint;
  reported timestamptz := pg_catalog.clock_timestamp();
begin
  if batch_rows operator(pg_catalog.<) 1 then
    raise exception 'batch_rows is %, not at least 1', batch_rows
      using errcode = 'numeric_value_out_of_range', hint = 'A batch is committed at a time; 10000 rows is the default.';
  end if;
  foreach relation in array relief._backfill_tables(detector) loop
    next_block := 0;
    end_block := relief._blocks(relation);
    batch_blocks := relief._blocks_of_rows(relation, batch_rows);
    while next_block operator(pg_catalog.<) end_block loop
      progress := relief._backfill_batch(detector, relation, next_block, next_block operator(pg_catalog.+) batch_blocks, true);
      scored := scored operator(pg_catalog.+) progress;
      next_block := next_block operator(pg_catalog.+) batch_blocks;
      commit;
      if pg_catalog.clock_timestamp() operator(pg_catalog.-) reported operator(pg_catalog.>) interval '10 seconds' then
        reported := pg_catalog.clock_timestamp();
        raise notice 'backfill of detector "%": % rows scored, block % of % of table %', detector, scored, next_block, end_block, relation;
      end if;
    end loop;
    loop
      progress := 0;
      places := relief._backfill_stragglers(detector, relation);
      foreach place in array places loop
        progress := progress operator(pg_catalog.+) relief._backfill_row(detector, relation, place);
        commit;
      end loop;
      scored := scored operator(pg_catalog.+) progress;
      exit when progress operator(pg_catalog.=) 0;
    end loop;
  end loop;
  raise notice 'backfill of detector "%": % rows scored', detector, scored;
end
$$;
comment on procedure relief.backfill(text, integer) is
  'Scores the rows of an attached detector''s table that the promoted version hasn''t scored, about batch_rows in each transaction. '
  'Stopped at any moment, it goes on where it was when called again. Rows inserted or updated meanwhile are scored by the trigger.';
