-- Drift: whether recent rows still look like those that the promoted model was trained on.

create function relief.drift(detector text, since timestamptz default null, max_rows integer default 100000)
  returns table (
    feature text, psi double precision, ks double precision, null_rate_then double precision, null_rate_now double precision,
    rows bigint, verdict text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  d constant relief.detector := relief._present_detector(detector);
  content jsonb;
  recent text := 'true';
begin
  perform relief._refuse_foreign_superuser(d);
  select m.document::jsonb into content from relief.model as m where m.detector_id = d.id and m.version = d.promoted_version;
  if not found then
    perform relief._no_model(d.name);
  end if;
  if max_rows is null or max_rows < 1 then
    raise exception 'max_rows is %, not at least 1', max_rows
      using errcode = 'numeric_value_out_of_range', hint = 'It is how many of the recent rows to look at, such as 100000.';
  end if;
  if d.time_column is not null then
    recent := format('o.%I >= coalesce($3::timestamptz, (select max(n.%I) - interval ''7 days'' from %s as n))',
                     d.time_column, d.time_column, d.relation);
  elsif since is not null then
    raise exception 'detector "%" has no time column to compare since with', d.name
      using errcode = 'invalid_parameter_value',
            hint = concat('Leave since out', ', or create the detector with ' || relief._time_option(d.relation), '.');
  end if;
  return query execute format($sql$
    with drawn as materialized (
      select %1$s as numbers, %4$s as categories from %2$s as o where %3$s limit $2
    ), known as (
      -- A number's bins lie below, between and above its edges. Bin 0 of a category is all that isn't told apart, and so what was
      -- never seen; then comes one for each frequent category, and one for the others that are told apart.
      select f.position, count(*) filter (where f.kind = 'category') over (order by f.position) as category, f.name, p.edges, p.categories,
             $1 #> array['encoders', f.name, 'values'] as told_apart, coalesce(cardinality(p.edges), cardinality(p.categories) + 1) as bins,
             p.shares, p.null_rate, p.count
      from relief.feature as f
      cross join lateral jsonb_to_record($1 -> 'profile' -> f.name) as p (
        edges float8[], categories text[], shares float8[], null_rate float8, count float8)
      where f.detector_id = $4
    ), placed as (
      select k.position,
             case
               when k.edges is not null then width_bucket(nullif(r.numbers[k.position], 'NaN'), k.edges)
               when r.categories[k.category] is not null then
                 coalesce(array_position(k.categories, r.categories[k.category]), case when k.told_apart ? r.categories[k.category] then k.bins end, 0)
             end as bin
      from drawn as r
      join known as k on k.bins is not null
      -- Rows whose features fail weren't trained on either.
      where r.numbers is not null
    ), counted as (
      select p.position, p.bin, count(*) as count from placed as p where p.bin is not null group by p.position, p.bin
    ), compared as (
      select k.position, b.bin, k.shares[b.bin + 1] as before,
             coalesce(c.count, 0) / nullif(sum(c.count) over one, 0) as now,
             sum(c.count) over one as rows, 1 / sum(c.count) over one + 1 / k.count as one_row, k.bins as edges
      from known as k
      cross join lateral generate_series(0, k.bins) as b (bin)
      left join counted as c on c.position = k.position and c.bin = b.bin
      window one as (partition by k.position)
    ), summed as (
      select x.*, sum(x.now - x.before) over (partition by x.position order by x.bin) as gap
      from compared as x
    ), measured as (
      -- Population stability index, with a share of 0.0001, or of half a row, for what was never seen; Kolmogorov-Smirnov over the
      -- same bins. Chance alone makes an index that is distributed as chi squared, here with three standard deviations on top.
      select s.position, sum((x.now - x.before) * ln(x.now / x.before))::float8 as psi, max(abs(s.gap))::float8 as ks,
             max((s.edges + 3 * sqrt(2 * s.edges)) * s.one_row) as chance
      from summed as s
      cross join lateral (
        values (greatest(s.now, 1e-4, 0.5 / s.rows)::float8, greatest(s.before, 1e-4, 0.5 / s.rows)::float8)) as x (now, before)
      where s.now is not null
      group by s.position
    ), missing as (
      select p.position, count(*) as rows, avg((p.bin is null)::integer)::float8 as share from placed as p group by p.position
    )
    select k.name, round(m.psi::numeric, 4)::float8, case when k.edges is not null then round(m.ks::numeric, 4)::float8 end,
           round(k.null_rate::numeric, 6)::float8, round(n.share::numeric, 6)::float8, coalesce(n.rows, 0),
           case
             when n.rows is null then 'no recent rows'
             when m.psi is null then 'missing everywhere'
             when m.psi >= 0.25 + m.chance or abs(n.share - k.null_rate) >= 0.1 + n.chance then 'drifted: train again'
             when m.psi >= 0.1 + m.chance or abs(n.share - k.null_rate) >= 0.02 + n.chance then 'shifted: watch it'
             else 'stable'
           end
    from known as k
    left join measured as m on m.position = k.position
    left join (select x.*, 3 * sqrt(x.share * (1 - x.share) / x.rows) as chance from missing as x) as n on n.position = k.position
    where k.bins is not null
    order by k.position
  $sql$, relief._guarded_call(d, 'o'), d.relation, recent, relief._guarded_categories_call(d, 'o'))
  using content, max_rows, since, d.id;
end
$$;
comment on function relief.drift(text, timestamptz, integer) is
  'Compares recent rows (of the last seven days of data, or since a time; the whole table without a time column) with those that the '
  'promoted model was trained on: for each feature the population stability index, the Kolmogorov-Smirnov distance (of numbers), the null rates, and a '
  'verdict: stable, shifted (psi from 0.1) or drifted (psi from 0.25), each with what chance alone makes of so few rows on top.';
