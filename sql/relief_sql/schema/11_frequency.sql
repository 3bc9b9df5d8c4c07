-- Frequencies: the history of categories, for people to read. Rows are judged by how rare a category was in training.

create function relief._fill_category_buckets(d relief.detector, days text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  statement constant text := $sql$
    insert into relief.bucket (detector_id, entity, season, day, position, rows, count, bins, bin_counts, categories, category_counts)
    with placed as (
      -- Told apart by their bytes, whatever the column's collation takes for equal.
      select s.day, s.entity, s.season, f.position, s.given[f.n] collate "C" as category
      from (%s) as s
      cross join unnest($2) with ordinality as f (position, n)
    ), counted as (
      select p.day, p.entity, p.season, p.position, p.category, count(*) as rows,
             row_number() over (partition by p.day, p.entity, p.season, p.position
                                order by p.category is null, length(p.category) > 200, count(*) desc, p.category) as rank
      from placed as p
      group by p.day, p.entity, p.season, p.position, p.category
    ), bounded as (
      select c.*, c.category is null or c.rank <= 100 and length(c.category) <= 200 as told from counted as c
    )
    select $1, b.entity, b.season, b.day, b.position, sum(b.rows), 0, '{}', '{}',
           coalesce(array_agg(b.category order by b.rank) filter (where b.told), '{}'),
           coalesce(array_agg(b.rows order by b.rank) filter (where b.told), '{}')
    from bounded as b
    group by b.day, b.entity, b.season, b.position
  $sql$;
  positions constant integer[] := array(
    select f.position from relief.feature as f where f.detector_id = d.id and f.kind = 'category' order by f.position);
begin
  if positions = '{}' then
    return;
  end if;
  begin
    -- Where one feature of a row fails none of them counts: the numbers have to be asked too.
    execute format(statement, relief._history_text(d, days, format('case when %s is not null then %s end', relief._features_call(d, 'o'),
                                                                   relief._categories_call(d, 'o')))) using d.id, positions;
  exception when data_exception or integrity_constraint_violation or plpgsql_error or external_routine_exception then
    -- Some row's features fail: guard each row, which is slower; that row's categories are missing.
    execute format(statement, relief._history_text(d, days, relief._guarded_categories_call(d, 'o'))) using d.id, positions;
  end;
end
$$;
comment on function relief._fill_category_buckets(relief.detector, text) is
  'Makes the buckets of the categories, if there are any, of the days that a condition on rows, called o, picks.';
