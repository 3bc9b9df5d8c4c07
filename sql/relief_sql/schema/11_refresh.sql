-- Refresh: bring a profile up to date at the cost of what is new. Days are made again as a whole, the newest ones always, so that
-- rows that committed late are found; a refresh that is killed has done nothing, and one that is repeated changes nothing.

create function relief._calibrate(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  share double precision;
  chosen bigint;
begin
  if not exists (select from relief.feature as f where f.detector_id = d.id and f.bin_width is null) then
    return;
  end if;
  perform relief._lock_profile(d.id);
  select 100 * least(1, 30000 / greatest(1, case when c.reltuples > 0 then c.reltuples else 50 * relief._blocks(c.oid) end)) into share
  from pg_class as c where c.oid = d.relation;
  -- A sample that holds no value at all, of a table that has shrunk, is none.
  foreach share in array array[share, 100] loop
    execute format($sql$
      with number as (
        select v.position, case when abs(v.value) < 1e-140 then 0 else v.value end as value
        from (select %1$s as numbers from %2$s as o %3$s) as drawn
        cross join lateral unnest(drawn.numbers) with ordinality as v (value, position)
        where abs(v.value) < 1e150
      ), shape as (
        select n.position, min(n.value) as minimum, avg(n.value) as mean, coalesce(stddev_pop(n.value), 0) as stddev,
               coalesce(greatest(percentile_cont(0.05) within group (order by n.value) filter (where n.value > 0), 1e-100), 1) as unit
        from number as n
        group by n.position
      ), chosen as materialized (
        select s.position, s.unit,
               case
                 when f.scale <> 'auto' then f.scale
                 -- Skewness beyond 1 of what is never negative: such numbers vary by factors, not by differences.
                 when s.minimum >= 0 and s.stddev > 0
                      and (select avg(((n.value - s.mean) / s.stddev) ^ 3) from number as n where n.position = s.position) > 1 then 'log'
                 else 'linear'
               end as transform
        from shape as s
        join relief.feature as f on f.detector_id = $1 and f.position = s.position
      ), placed as (
        select c.position, c.unit, c.transform,
               percentile_cont(0.5) within group (order by relief._scaled(n.value, c.transform, c.unit, 0)) as origin,
               percentile_cont(0.75) within group (order by relief._scaled(n.value, c.transform, c.unit, 0))
                 - percentile_cont(0.25) within group (order by relief._scaled(n.value, c.transform, c.unit, 0)) as quartiles,
               coalesce(stddev_pop(relief._scaled(n.value, c.transform, c.unit, 0)), 0) as stddev
        from chosen as c
        join number as n on n.position = c.position
        group by c.position, c.unit, c.transform
      )
      update relief.feature as f
      set transform = p.transform, unit = p.unit, origin = p.origin,
          -- Some fifty bins across the bulk of the values.
          bin_width = coalesce(nullif(coalesce(nullif(p.quartiles, 0), p.stddev) / 32, 0), 1)
      from placed as p
      where f.detector_id = $1 and f.position = p.position and f.bin_width is null
    $sql$, relief._guarded_call(d, 'o'), d.relation,
           case when share < 100 and (select relkind in ('r', 'p', 'm') from pg_class where oid = d.relation)
                then format('tablesample system (%s) repeatable (0)', share) else '' end)
    using d.id;
    get diagnostics chosen = row_count;
    exit when chosen > 0;
  end loop;
  -- What has no value yet gets bins all the same, so that refreshing goes on; that it has no transform tells that they are a guess.
  update relief.feature as f
  set unit = 1, origin = 0, bin_width = 1
  where f.detector_id = d.id and f.bin_width is null and exists (select from relief.feature as g where g.detector_id = d.id and g.bin_width is not null);
  -- A model that was stored or promoted before its features had a scale judges on this one from now on.
  if chosen > 0 then
    delete from relief.profile as p where p.detector_id = d.id;
  end if;
end
$$;
comment on function relief._calibrate(relief.detector) is
  'Chooses the scale, origin and bin width of features that have none yet, from a sample of the table.';

create function relief._drop_guessed_scales(d relief.detector)
  returns boolean
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  update relief.feature as f
  set bin_width = null
  where f.detector_id = d.id and f.transform is null
    and exists (select from relief.bucket as b where b.detector_id = d.id and b.position = f.position and b.entity = '' and b.count > 0);
  return found;
end
$$;
comment on function relief._drop_guessed_scales(relief.detector) is
  'Takes the scale from features that had no value when it was chosen and have some now, and returns whether there were any.';

create function relief._ordinary_text(d relief.detector)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('coalesce(not (select l.is_anomaly from relief.label as l where l.detector_id = %s and l.key = %s), %s)',
                d.id,
                coalesce(relief._key_text(d, 'o'), 'null'),
                case
                  when exists (select from pg_attribute
                               where attrelid = d.relation and attname = 'relief_is_anomaly' and atttypid = 'boolean'::regtype and not attisdropped)
                  then 'o.relief_is_anomaly is not true'
                  else 'true'
                end)
$$;
comment on function relief._ordinary_text(relief.detector) is
  'Returns the condition for rows, called o, that belong to the baseline: a label decides, else the flag.';

create function relief._days_text(d relief.detector, from_day date, stale date[])
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case when from_day is null then 'true' else
    format('(o.%I >= %s%s)', d.time_column, relief._instant_text(d, from_day),
           coalesce((select string_agg(format(case when day = '-infinity' then ' or o.%1$I is null or o.%1$I = ''-infinity'''
                                                   else ' or o.%1$I >= %2$s and o.%1$I < %3$s' end,
                                              d.time_column, relief._instant_text(d, day), relief._instant_text(d, day + 1)), '')
                     from unnest(stale) as day), ''))
  end
$$;
comment on function relief._days_text(relief.detector, date, date[]) is
  'Returns the condition for rows, called o, from a day on or of the days given, such that an index on the time column serves.';

create function relief._instant_text(d relief.detector, day date)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case a.atttypid
    -- Where clocks show midnight twice, the first counts.
    when 'timestamptz'::regtype then format('(((%L::timestamp - interval ''1 second'') at time zone %L) + interval ''1 second'')', day, d.time_zone)
    else format('%L::timestamp', day)
  end
  from pg_attribute as a
  where a.attrelid = d.relation and a.attname = d.time_column and not a.attisdropped
$$;
comment on function relief._instant_text(relief.detector, date) is 'Returns the expression of a day''s beginning, to be compared with the time column.';

create function relief._fill_buckets(d relief.detector, days text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  statement constant text := $sql$
    insert into relief.bucket (detector_id, entity, season, day, position, rows, count, mean, m2, minimum, maximum, bins, bin_counts)
    with placed as (
      select s.day, s.entity, s.season, v.position::integer as position, v.value, f.bin_width,
             case when abs(v.value) < 1e150 then relief._scaled(v.value, f.transform, f.unit, f.origin) end as place
      from (%1$s) as s
      cross join lateral unnest(s.given) with ordinality as v (value, position)
      join relief.feature as f on f.detector_id = $1 and f.position = v.position and f.kind = 'number'
    ), binned as (
      select p.day, p.entity, p.season, p.position, b.bin, count(*) as rows,
             avg(p.place) as mean, var_pop(p.place) * count(*) as m2, min(p.value) as minimum, max(p.value) as maximum
      from placed as p
      -- Beyond these ends no bin's edges could be told apart.
      cross join lateral (
        select case when p.place is not null then greatest(-1e15, least(1e15, floor(p.place / p.bin_width)))::bigint end) as b (bin)
      group by p.day, p.entity, p.season, p.position, b.bin
    ), centered as (
      select b.*,
             sum(b.rows * b.mean) over one / nullif(sum(b.rows) filter (where b.bin is not null) over one, 0) as center
      from binned as b
      window one as (partition by b.day, b.entity, b.season, b.position)
    )
    select $1, c.entity, c.season, c.day, c.position, sum(c.rows), coalesce(sum(c.rows) filter (where c.bin is not null), 0),
           min(c.center), sum(c.m2 + c.rows * (c.mean - c.center) ^ 2),
           min(c.minimum) filter (where c.bin is not null), max(c.maximum) filter (where c.bin is not null),
           coalesce(array_agg(c.bin order by c.bin) filter (where c.bin is not null), '{}'),
           coalesce(array_agg(c.rows order by c.bin) filter (where c.bin is not null), '{}')
    from centered as c
    group by c.entity, c.season, c.day, c.position
  $sql$;
  missing constant double precision[] := array(select null::double precision from relief.feature as f where f.detector_id = d.id);
begin
  begin
    execute format(statement, relief._history_text(d, days, format('coalesce(%s, $2)', relief._features_call(d, 'o')))) using d.id, missing;
  exception when data_exception or integrity_constraint_violation or plpgsql_error or external_routine_exception then
    -- Some row's features fail: guard each row, which is slower; that row's values are missing.
    execute format(statement, relief._history_text(d, days, format('coalesce(%s, $2)', relief._guarded_call(d, 'o')))) using d.id, missing;
  end;
end
$$;
comment on function relief._fill_buckets(relief.detector, text) is
  'Makes the buckets of the numbers of the days that a condition on rows, called o, picks.';

create function relief._merge_buckets(d relief.detector)
  returns bigint
  language plpgsql
  set search_path = pg_catalog, pg_temp
  -- Of what the query makes on its way nothing is known beforehand: taken for few rows, it would be joined in quadratic time.
  set enable_nestloop = off
  set jit = off
as $$
declare
  category_positions constant integer[] := array(select f.position from relief.feature as f where f.detector_id = d.id and f.kind = 'category');
  names constant text[] := array(select f.name from relief.feature as f where f.detector_id = d.id order by f.position);
  merged bigint;
begin
  delete from relief.profile as p
  using pg_temp.relief_touched as t
  where p.detector_id = d.id and p.entity = t.entity and p.season = t.season;
  insert into relief.profile (detector_id, entity, season, rows, complete, count, mean, stddev, median, spread, spread_floor,
                              p01, p99, minimum, maximum, null_rate, frequencies)
  with centered as (
    select p.*, sum(p.count * p.mean) over one / nullif(sum(p.count) over one, 0) as center
    from pg_temp.relief_part as p
    window one as (partition by p.entity, p.season, p.position)
  ), moment as (
    select c.entity, c.season, c.position, sum(c.rows) as rows, sum(c.count) as count, min(c.center) as mean,
           sqrt(sum(c.m2 + c.count * (c.mean - c.center) ^ 2) / nullif(sum(c.count) - 1, 0)) as stddev,
           min(c.minimum) as minimum, max(c.maximum) as maximum
    from centered as c
    group by c.entity, c.season, c.position
  ), bin as (
    select p.entity, p.season, p.position, h.bin, sum(h.count) as count
    from pg_temp.relief_part as p
    cross join lateral unnest(p.bins, p.bin_counts) as h (bin, count)
    group by p.entity, p.season, p.position, h.bin
  ), ranked as (
    select b.*, f.bin_width,
           sum(b.count) over (partition by b.entity, b.season, b.position order by b.bin) as upto,
           sum(b.count) over (partition by b.entity, b.season, b.position) as total
    from bin as b
    join relief.feature as f on f.detector_id = d.id and f.position = b.position
  ), quantile as (
    select r.entity, r.season, r.position,
           min((r.bin + (0.01 * r.total - r.upto + r.count) / r.count) * r.bin_width) filter (where r.upto >= 0.01 * r.total and r.upto - r.count < 0.01 * r.total) as p01,
           min((r.bin + (0.5 * r.total - r.upto + r.count) / r.count) * r.bin_width) filter (where r.upto >= 0.5 * r.total and r.upto - r.count < 0.5 * r.total) as median,
           min((r.bin + (0.99 * r.total - r.upto + r.count) / r.count) * r.bin_width) filter (where r.upto >= 0.99 * r.total and r.upto - r.count < 0.99 * r.total) as p99
    from ranked as r
    group by r.entity, r.season, r.position
  ), bounded as (
    -- No quantile lies beyond the extremes: that of a constant is the constant.
    select q.entity, q.season, q.position,
           greatest(edge.low, least(edge.high, q.p01)) as p01,
           greatest(edge.low, least(edge.high, q.median)) as median,
           greatest(edge.low, least(edge.high, q.p99)) as p99
    from quantile as q
    join moment as m using (entity, season, position)
    join relief.feature as f on f.detector_id = d.id and f.position = q.position
    cross join lateral (values (relief._scaled(m.minimum, f.transform, f.unit, f.origin),
                                relief._scaled(m.maximum, f.transform, f.unit, f.origin))) as edge (low, high)
  ), distance as (
    select r.entity, r.season, r.position, r.total, a.away,
           sum(r.count) over (partition by r.entity, r.season, r.position order by a.away) as upto
    from ranked as r
    join bounded as q using (entity, season, position)
    cross join lateral (select case when floor(q.median / r.bin_width) = r.bin then 0
                                    else abs((r.bin + 0.5) * r.bin_width - q.median) end) as a (away)
  ), deviation as (
    select a.entity, a.season, a.position, 1.4826 * min(a.away) filter (where a.upto >= 0.5 * a.total) as spread
    from distance as a
    group by a.entity, a.season, a.position
  ), everywhere as (
    select m.position, 0.1 * coalesce(nullif(v.spread, 0), m.stddev) as spread_floor
    from moment as m
    left join deviation as v using (entity, season, position)
    where m.entity = '' and m.season = -1
  ), category as (
    select p.entity, p.season, p.position, c.category, sum(c.count) as count,
           row_number() over (partition by p.entity, p.season, p.position order by c.category is null, sum(c.count) desc, c.category collate "C") as rank
    from pg_temp.relief_part as p
    cross join lateral unnest(p.categories, p.category_counts) as c (category, count)
    where category_positions <> '{}' and p.position = any (category_positions)
    group by p.entity, p.season, p.position, c.category
  ), frequency as (
    select c.entity, c.season, c.position, jsonb_object_agg(c.category, c.count) filter (where c.category is not null and c.rank <= 20) as categories,
           sum(c.count) filter (where c.category is not null and c.rank <= 20) as told, sum(c.count) filter (where c.category is null) as missing
    from category as c
    group by c.entity, c.season, c.position
  )
  select d.id, m.entity, m.season, max(m.rows), bool_and(m.count >= d.min_history or m.position = any (category_positions)),
         array_agg(m.count order by m.position), array_agg(m.mean order by m.position), array_agg(m.stddev order by m.position),
         array_agg(q.median order by m.position), array_agg(v.spread order by m.position), array_agg(e.spread_floor order by m.position),
         array_agg(q.p01 order by m.position), array_agg(q.p99 order by m.position),
         array_agg(m.minimum order by m.position), array_agg(m.maximum order by m.position),
         array_agg(case when m.position = any (category_positions) then coalesce(y.missing, 0) / nullif(m.rows, 0)
                        else 1 - m.count / nullif(m.rows, 0) end order by m.position),
         jsonb_object_agg(names[m.position], jsonb_build_object(
           'values', coalesce(y.categories, '{}'), 'missing', coalesce(y.missing, 0),
           'other', m.rows - coalesce(y.told, 0) - coalesce(y.missing, 0))) filter (where m.position = any (category_positions))
  from moment as m
  left join bounded as q using (entity, season, position)
  left join deviation as v using (entity, season, position)
  left join everywhere as e using (position)
  left join frequency as y using (entity, season, position)
  group by m.entity, m.season;
  get diagnostics merged = row_count;
  return merged;
end
$$;
comment on function relief._merge_buckets(relief.detector) is
  'Makes the profiles of the entities and seasons in the temporary table relief_touched anew from their buckets, in relief_part.';

create function relief.refresh_profile(detector text, "full" boolean default false)
  returns bigint
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._present_detector(detector);
  newest date;
  stale date[];
  from_day date;
  merged bigint;
begin
  perform relief._refuse_foreign_superuser(d);
  newest := relief._lock_profile(d.id);
  perform relief._calibrate(d);
  if d.time_column is not null and not "full" then
    -- The newest days again: rows may have arrived, and late transactions committed.
    from_day := newest - d.refresh_lag;
  end if;
  with gone as (delete from relief.stale_day as s where s.detector_id = d.id returning s.day)
  select coalesce(array_agg(g.day) filter (where g.day < from_day), '{}') into stale from gone as g;
  if d.profile_window is null then
    -- Rows without a time are never behind the newest day.
    stale := stale || date '-infinity';
  end if;

  create temporary table relief_touched (entity text, season smallint, unique (entity, season)) on commit drop;
  with gone as (
    delete from relief.bucket as b
    where b.detector_id = d.id and (from_day is null or b.day >= from_day or b.day = any (stale))
    returning b.entity, b.season
  )
  insert into pg_temp.relief_touched select g.entity, g.season from gone as g on conflict do nothing;
  perform relief._fill_buckets(d, relief._days_text(d, from_day, stale));
  perform relief._fill_category_buckets(d, relief._days_text(d, from_day, stale));
  if relief._drop_guessed_scales(d) then
    drop table pg_temp.relief_touched;
    return relief.refresh_profile(detector, true);
  end if;
  insert into pg_temp.relief_touched
  select distinct b.entity, b.season
  from relief.bucket as b
  where b.detector_id = d.id and (from_day is null or b.day >= from_day or b.day = any (stale))
  on conflict do nothing;

  -- One row from the future must not make an end of all that come before it.
  select max(least(b.day, (now() at time zone d.time_zone)::date)) into newest
  from relief.bucket as b where b.detector_id = d.id and b.day > '-infinity';
  with gone as (
    delete from relief.bucket as b
    where b.detector_id = d.id and b.day < (newest - d.profile_window)::date
    returning b.entity, b.season
  )
  insert into pg_temp.relief_touched select g.entity, g.season from gone as g on conflict do nothing;
  analyze pg_temp.relief_touched;
  create temporary table relief_part on commit drop as
    select b.*
    from relief.bucket as b
    join pg_temp.relief_touched as t on t.entity = b.entity and t.season = b.season
    where b.detector_id = d.id;
  analyze pg_temp.relief_part;
  merged := relief._merge_buckets(d);
  drop table pg_temp.relief_touched, pg_temp.relief_part;
  update relief.refresh as r set newest_day = newest, refreshed_at = now() where r.detector_id = d.id;
  if relief._trigger_function(d) is not null then
    perform relief._note_partitions(d.name, false);
  end if;
  perform relief._renew_judgement(d.name);
  return merged;
end
$$;
comment on function relief.refresh_profile(text, boolean) is
  'Brings a detector''s profile up to date and returns how many profiles of entities and seasons changed. Without a time column, or '
  'with "full" => true, the whole table is read; else the newest days and those whose labels changed.';
