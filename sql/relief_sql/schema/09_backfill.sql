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
  perform relief._require_scoring(d);
  return relief._leaves(d) || array(select c.oid::regclass from pg_class as c where c.oid = d.relation and c.relkind = 'r');
end
$$;
comment on function relief._backfill_tables(text) is 'Returns the tables that hold a detector''s rows: the table, or the leaves of a partitioned one.';

create function relief._require_scoring(d relief.detector)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  enabled "char";
  reason text;
begin
  perform relief._require_table(d);
  select tgenabled into enabled from pg_trigger where tgrelid = d.relation and tgfoid = relief._trigger_function(d);
  if not found then
    select r.reason into reason from relief._why_not_attachable(d.relation) as r;
    if found then
      raise exception 'detector "%" cannot be backfilled: % %', d.name, d.relation, reason
        using errcode = 'wrong_object_type', hint = format('Score it in queries: %s', relief._score_query(d));
    end if;
  end if;
  if d.promoted_version is null then
    perform relief._no_model(d.name);
  end if;
  if enabled is null or enabled not in ('O', 'A') then
    raise exception 'detector "%" is not attached, or its trigger is disabled', d.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = case when enabled is null then format('Attach it: select relief.attach(%L);', d.name)
                        else format('Enable it: alter table %s enable trigger "~relief";', d.relation) end;
  end if;
end
$$;
comment on function relief._require_scoring(relief.detector) is 'Raises an error unless what is written to a detector''s table is scored.';

create function relief._lock_stale(
    detector text, relation regclass, started xid, how text, first_block bigint default null, end_block bigint default null)
  returns tid[]
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._detector(detector);
  places tid[];
begin
  -- Between two batches it may have been detached.
  execute format('lock table only %s in row exclusive mode', relation);
  perform relief._require_scoring(relief._detector(detector));
  -- A row that failed counts as done if it was written since the backfill started: age() counts transactions backwards from now.
  execute format($sql$
    select array(
      select s.ctid
      from only %s as s
      where s.relief_model_version is distinct from $1
        and not (coalesce(s.relief_deviation ? 'error', false) and age(s.xmin) <= age($2))
        and %s
      %s)
  $sql$,
    relation,
    case when first_block is null then '($3 is null and $4 is null)'
         else 's.ctid >= format(''(%s,0)'', $3)::tid and s.ctid < format(''(%s,0)'', $4)::tid' end,
    case how
      when 'all that are free' then 'for update skip locked'
      when 'some that are free' then 'limit 1000 for update skip locked'
      -- One alone: to wait while holding other rows is how deadlocks come about.
      when 'one, waiting for it' then 'limit 1 for update'
    end)
  into places using d.promoted_version, started, first_block, end_block;
  return places;
end
$$;
comment on function relief._lock_stale(text, regclass, xid, text, bigint, bigint) is
  'Locks rows of a table, or of a range of its blocks, that the promoted version has yet to score, and returns where they are.';

create function relief._backfill_rows(
    detector text,
    relation regclass,
    started xid,
    how text,
    first_block bigint default null,
    end_block bigint default null,
    out scored bigint,
    out settled bigint)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  places constant tid[] := relief._lock_stale(detector, relation, started, how, first_block, end_block);
begin
  -- A statement of its own: it sees the newest version of a row, which nobody can move as it is locked.
  execute format($sql$
    with touched as (
      update only %s as s
      set relief_model_version = case when s.relief_model_version is null then 0 end
      where s.ctid = any ($1)
      returning s.relief_model_version, s.relief_deviation
    )
    select count(*) filter (where relief_model_version > 0), count(*) filter (where relief_model_version > 0 or relief_deviation ? 'error')
    from touched
  $sql$, relation)
  into scored, settled using places;
end
$$;
comment on function relief._backfill_rows(text, regclass, xid, text, bigint, bigint) is
  'Touches rows that the promoted version has yet to score, and returns how many were scored, and how many were scored or failed for good.';

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

create function relief._atomic_refusal()
  returns text
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  commit;
  return null;
exception when invalid_transaction_termination then
  return sqlerrm;
end
$$;
comment on function relief._atomic_refusal() is
  'Returns what the server says, in the language of its messages, to a commit where none can be: in a function there never can.';

-- A procedure that commits can neither pin its search_path nor have definer rights: every name in it is qualified.
create procedure relief.backfill(detector text, batch_rows integer default 10000)
  language plpgsql
as $$
declare
  relation pg_catalog.regclass;
  started pg_catalog.xid;
  next_block bigint;
  end_block bigint;
  batch_blocks bigint;
  scored bigint := 0;
  failed bigint := 0;
  progress record;
  reported timestamp with time zone := pg_catalog.clock_timestamp();
begin
  perform relief._require_primary();
  started := pg_catalog.xid(pg_catalog.pg_current_xact_id());
  -- Under a handler a commit fails always; but inside a transaction block, or a function, with a message of its own.
  begin
    commit;
  exception when invalid_transaction_termination then
    if sqlerrm operator(pg_catalog.=) relief._atomic_refusal() then
      raise exception 'relief.backfill commits and cannot run inside a transaction block or a function'
        using errcode = 'invalid_transaction_termination',
              hint = pg_catalog.format('Call it on its own, with autocommit: call relief.backfill(%L);', detector);
    end if;
  end;
  if batch_rows operator(pg_catalog.<) 1 then
    raise exception 'batch_rows is %, not at least 1', batch_rows
      using errcode = 'numeric_value_out_of_range', hint = 'A batch is committed at a time; 10000 rows is the default.';
  end if;
  foreach relation in array relief._backfill_tables(detector) loop
    next_block := 0;
    end_block := relief._blocks(relation);
    batch_blocks := relief._blocks_of_rows(relation, batch_rows);
    while next_block operator(pg_catalog.<) end_block loop
      progress := relief._backfill_rows(
        detector, relation, started, 'all that are free', next_block, next_block operator(pg_catalog.+) batch_blocks);
      scored := scored operator(pg_catalog.+) progress.scored;
      failed := failed operator(pg_catalog.+) progress.settled operator(pg_catalog.-) progress.scored;
      next_block := next_block operator(pg_catalog.+) batch_blocks;
      commit;
      if pg_catalog.clock_timestamp() operator(pg_catalog.-) reported operator(pg_catalog.>) interval '10 seconds' then
        reported := pg_catalog.clock_timestamp();
        raise notice 'backfill of detector "%": % rows scored, block % of % of table %', detector, scored, next_block, end_block, relation;
      end if;
    end loop;
    -- What the pass has left: rows that others had locked, or have moved meanwhile.
    loop
      progress := relief._backfill_rows(detector, relation, started, 'some that are free');
      commit;
      if progress.settled operator(pg_catalog.=) 0 then
        progress := relief._backfill_rows(detector, relation, started, 'one, waiting for it');
        commit;
      end if;
      scored := scored operator(pg_catalog.+) progress.scored;
      failed := failed operator(pg_catalog.+) progress.settled operator(pg_catalog.-) progress.scored;
      exit when progress.settled operator(pg_catalog.=) 0;
    end loop;
  end loop;
  perform relief._note_partitions(detector, true);
  raise notice 'backfill of detector "%": % rows scored', detector, scored;
  if failed operator(pg_catalog.>) 0 then
    raise warning 'backfill of detector "%": % rows could not be scored; their relief_deviation says why', detector, failed;
  end if;
end
$$;
comment on procedure relief.backfill(text, integer) is
  'Scores the rows of an attached detector''s table that the promoted version hasn''t scored, about batch_rows in each transaction. '
  'Stopped at any moment, it goes on where it was when called again. Rows inserted or updated meanwhile are scored by the trigger.';
