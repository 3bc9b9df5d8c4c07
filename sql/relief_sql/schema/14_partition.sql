-- Partitions: a trigger on the parent reaches those that are made or attached later, but not the rows that these bring along,
-- nor what is written to one after it was detached. PostgreSQL tells nobody of either, so the partitions are noted.

create function relief._leaves(d relief.detector)
  returns regclass[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array(
    select tree.relid
    from pg_class as c
    cross join pg_partition_tree(c.oid) as tree
    join pg_class as leaf on leaf.oid = tree.relid and leaf.relkind = 'r'
    where c.oid = d.relation and c.relkind = 'p'
    order by tree.relid::oid)
$$;
comment on function relief._leaves(relief.detector) is 'Returns the partitions, of any depth, that hold rows of a detector''s table.';

create function relief._brought_rows(leaf regclass)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  found_one boolean;
begin
  if (select count(*) from pg_attribute as a join relief._companion_columns() as c on a.attname = c.name
      where a.attrelid = leaf and not a.attisdropped) < 4 then
    return false;
  end if;
  -- The oldest rows are in the first blocks. The trigger leaves a score or a reason in every row that it sees.
  execute format('select exists (select from only %s where ctid < ''(8,0)'' and relief_model_version is null and relief_deviation is null)', leaf)
    into found_one;
  return found_one;
end
$$;
comment on function relief._brought_rows(regclass) is 'Whether a partition begins with rows that no trigger has seen.';

create function relief._note_partitions(detector text, with_their_rows boolean)
  returns void
  language sql
  set search_path = pg_catalog, pg_temp
as $$
  update relief.detector as e
  set partitions = noted.partitions
  from (
    select d.id, case when with_their_rows then relief._leaves(d)
                      else d.partitions || array(select leaf from unnest(relief._leaves(d)) as leaf
                                                 where leaf <> all (d.partitions) and not relief._brought_rows(leaf)) end
    from relief.detector as d
    where d.name = detector
  ) as noted (id, partitions)
  where e.id = noted.id and e.partitions <> noted.partitions
$$;
comment on function relief._note_partitions(text, boolean) is
  'Notes the partitions of an attached detector''s table: all that there are now, or also those whose rows the trigger has seen.';

create function relief._check_partitions(d relief.detector)
  returns setof text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('partition %s of table %s has brought rows that aren''t scored; call relief.backfill(%L);', leaf, d.relation, d.name)
  from unnest(relief._leaves(d)) as leaf
  where leaf <> all (d.partitions) and relief._brought_rows(leaf)
  union all
  select format('table %s was detached from table %s: what is written to it isn''t scored; call relief.backfill(%L); -- takes the partitions as they are',
                c.oid::regclass, d.relation, d.name)
  from unnest(d.partitions) as noted
  join pg_class as c on c.oid = noted
  where noted <> all (relief._leaves(d))
    and exists (select from pg_attribute where attrelid = c.oid and attname = 'relief_is_anomaly' and not attisdropped)
    and not exists (select from pg_trigger where tgrelid = c.oid and tgname = '~relief')
$$;
comment on function relief._check_partitions(relief.detector) is 'Returns which partitions were attached or detached since they were noted.';
