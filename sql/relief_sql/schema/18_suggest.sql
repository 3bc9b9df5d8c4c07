-- Suggestions: which features a table offers, by the types of its columns and by a sample of its rows. Statistics of ANALYZE would
-- say less (nothing of skew), and a view, a foreign table or a table loaded just now has none.

create type relief._candidate as (
  position    integer,
  column_name name,
  expression  text,
  name        text,
  kind        text,
  value       text,
  remark      text,
  size        text
);
comment on type relief._candidate is
  'What may become a feature: expression, name and kind, what computes its number or category, and what it is, or, without an expression, why it may not; and '
  'of what the logarithm may be taken.';

create function relief._key_remark(relation regclass, attribute smallint)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (select 'a key: each row has its own'
     from pg_index where indrelid = relation and indisunique and indnkeyatts = 1 and indkey[0] = attribute limit 1),
    (select 'numbered by the database'
     from pg_attribute as a
     left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where a.attrelid = relation and a.attnum = attribute
       and (a.attidentity <> '' or pg_get_expr(d.adbin, d.adrelid) ~ '^nextval[(]')),
    (select format('a reference to table %s, whose size means nothing', confrelid::regclass)
     from pg_constraint where conrelid = relation and contype = 'f' and conkey = array[attribute] limit 1))
$$;
comment on function relief._key_remark(regclass, smallint) is 'Returns why a column is a key, whose values can''t be compared; NULL where it isn''t one.';

create function relief._candidates(relation regclass, time_zone text)
  returns setof relief._candidate
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with attribute as (
    select a.attnum, a.attname, a.atttypid, a.base, a.is_category, a.conversion, a.quoted,
           case
             when a.attname in (select c.name from relief._companion_columns() as c) then 'written by Relief'
             else relief._key_remark(relation, a.attnum)
           end as obstacle,
           -- What is read off a clock on the wall.
           case when a.base = 'timestamptz'::regtype then format('%s at time zone %L', a.quoted, time_zone) else a.quoted end as local_time
    from (select *, quote_ident(attname) as quoted, relief._base_type(atttypid) as base, relief._conversion(atttypid) as conversion,
                 relief._is_category(atttypid) as is_category
          from pg_attribute) as a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
  )
  select a.attnum::integer, a.attname, c.expression, c.name, case when c.n = 1 and a.is_category then 'category' else 'number' end,
         format(c.conversion, c.expression), c.remark, c.size
  from attribute as a
  cross join lateral (
    select 0 as n, null as expression, null::text as name, null as conversion, a.obstacle as remark, null as size
    where a.obstacle is not null
    union all
    select 1, a.quoted, case when a.attname in ('error', 'state') then a.attname || '_value' else a.attname::text end, a.conversion,
           case when a.is_category then 'a category' when a.base = 'boolean'::regtype then 'true is 1'
                when a.base = any ('{interval, time, timetz}'::regtype[]) then 'in seconds' else 'a number' end,
           case when a.base = 'interval'::regtype then format('extract(epoch from %s)', a.quoted)
                when not a.is_category and a.base <> all ('{boolean, money, time, timetz}'::regtype[]) then a.quoted end
    where a.obstacle is null and a.conversion is not null
    union all
    select 2, format('extract(hour from %s)', a.local_time), a.attname || '_hour', '(%s)::pg_catalog.float8', 'hour of day', null
    where a.obstacle is null and a.base = any ('{timestamp, timestamptz}'::regtype[])
    union all
    select 3, format('extract(isodow from %s)', a.local_time), a.attname || '_weekday', '(%s)::pg_catalog.float8', 'day of week, Monday is 1', null
    where a.obstacle is null and relief._is_moment(a.base)
    union all
    select 4, null, null, null, format('of type %s: write an expression that gives a number or text', format_type(a.atttypid, null)), null
    where a.obstacle is null and a.conversion is null and not relief._is_moment(a.base)
  ) as c
  order by a.attnum, c.n
$$;
comment on function relief._candidates(regclass, text) is 'Returns what the columns of a table offer by their types.';

create function relief._sample_clause(relation regclass, rows bigint)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (select format('tablesample system (%s) repeatable (0)', least(100, 100.0 * relief._blocks_of_rows(relation, rows) / sum(relief._blocks(c.oid))))
     from pg_class as c
     where c.relkind in ('r', 'm') and (c.oid = relation or c.oid in (select tree.relid from pg_partition_tree(relation) as tree))
     having sum(relief._blocks(c.oid)) > 0),
    -- What limits a sample cuts off the table's end: only what can't be sampled, and what has more rows a block than was thought.
    '') || format(' limit %s', 4 * rows)
$$;
comment on function relief._sample_clause(regclass, bigint) is 'Returns what, after a relation''s name, makes a query read no more than about a number of rows, from all over it.';

create function relief._measure_candidates(relation regclass, candidates relief._candidate[])
  returns table (n bigint, rows bigint, count bigint, distinct_count bigint, example text, skewed boolean, unit double precision)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  numbers text;
  texts text;
begin
  select string_agg(coalesce(case c.kind when 'number' then c.value end, 'null'), ', ' order by c.n),
         string_agg(coalesce(case c.kind when 'category' then c.value end, 'null'), ', ' order by c.n)
  into numbers, texts
  from unnest(candidates) with ordinality as c (position, column_name, expression, name, kind, value, remark, size, n);
  if numbers is null then
    return;
  end if;
  return query execute format($sql$
    with drawn as (
      select array[%s]::float8[] as numbers, array[%s]::text[] as texts from %s as o %s
    ), value as materialized (
      select v.n, nullif(v.number, 'NaN') as number, v.text
      from drawn as d
      cross join lateral unnest(d.numbers, d.texts) with ordinality as v (number, text, n)
    ), measured as (
      select v.n, count(*) as rows, count(v.number) + count(v.text) as count,
             count(distinct v.number) + count(distinct v.text) as distinct_count, min(v.number) as minimum, min(v.text) as text,
             avg(v.number) filter (where abs(v.number) < 1e100) as mean,
             stddev_pop(v.number) filter (where abs(v.number) < 1e100) as stddev,
             percentile_disc(0.1) within group (order by v.number) filter (where v.number > 0) as unit
      from value as v
      group by v.n
    ), skew as (
      select v.n, avg(((v.number - m.mean) / m.stddev) ^ 3) as skewness
      from value as v
      join measured as m on m.n = v.n
      where m.stddev > 0 and abs(v.number) < 1e100
      group by v.n
    )
    select m.n, m.rows, m.count, m.distinct_count, coalesce(m.text, m.minimum::text), m.minimum >= 0 and s.skewness > 2, m.unit
    from measured as m
    left join skew as s on s.n = m.n
  $sql$, numbers, texts, relation, relief._sample_clause(relation, greatest(1000, 500000 / greatest(50, cardinality(candidates)))));
end
$$;
comment on function relief._measure_candidates(regclass, relief._candidate[]) is
  'Returns, of a sample of rows, how many values each candidate has, how many different ones, and whether they are positive and vary by factors.';

create function relief._suggestions(relation regclass, time_zone text)
  returns table (column_name name, expression text, name text, kind text, reason text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  candidates constant relief._candidate[] := array(select c from relief._candidates($1, $2) as c);
begin
  return query
  select c.column_name,
         case
           when c.expression is null or not varies or too_many or unknown then null
           -- Defined everywhere, near zero linear, far from it logarithmic.
           when m.skewed and c.size is not null then format('asinh(%s%s)', c.size, case when m.unit < 1 then format(' / %s', (10 ^ floor(log(m.unit)))::numeric) end)
           else c.expression
         end,
         case when m.skewed and c.size is not null then 'log_' || c.name else c.name end,
         c.kind,
         case
           when c.expression is null then c.remark
           when too_many then format('%s different values in %s rows: too many to compare by how rare they are', m.distinct_count, m.rows)
           when unknown then c.remark || ' if it has few values; the table is empty'
           when m.rows is null then c.remark || '; the table is empty'
           when m.count = 0 then format('NULL in all %s rows looked at', m.rows)
           when not varies then format('%s: always %s', c.remark, m.example)
           when m.skewed and c.size is not null then c.remark || ', skewed: on a logarithmic scale'
           else c.remark
         end
  from unnest(candidates) with ordinality as c (position, column_name, expression, name, kind, value, remark, size, n)
  left join relief._measure_candidates($1, candidates) as m on m.n = c.n
  cross join lateral (
    -- To a category, NULL is one more value.
    select m.distinct_count + (c.kind = 'category' and m.count < m.rows)::integer > 1 as varies,
           c.kind = 'category' and m.distinct_count > greatest(2, m.count / 5) as too_many,
           -- Of an enum, the type tells.
           c.kind = 'category' and m.rows is null and not exists (
             select from pg_attribute as a
             join pg_type as t on t.oid = relief._base_type(a.atttypid)
             where a.attrelid = $1 and a.attnum = c.position and t.typtype = 'e') as unknown
  ) as told
  order by c.n;
end
$$;
comment on function relief._suggestions(regclass, text) is 'Returns what suggest_features tells, with expressions and names apart.';

create function relief._require_time_zone(time_zone text)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if (now() at time zone time_zone) is null then
    raise invalid_parameter_value;
  end if;
exception when invalid_parameter_value then
  raise exception 'time zone "%" is not known', coalesce(time_zone, 'NULL')
    using errcode = 'invalid_parameter_value', hint = 'The names are in pg_timezone_names, such as UTC or Europe/Berlin.';
end
$$;
comment on function relief._require_time_zone(text) is 'Raises an error if PostgreSQL doesn''t know a time zone.';

create function relief.suggest_features(relation regclass, time_zone text default pg_catalog.current_setting('TimeZone'))
  returns table (column_name name, feature text, kind text, reason text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform relief._require_owner($1);
  perform relief._require_time_zone($2);
  return query
  with suggestion as (
    select s.column_name, s.expression, s.kind, s.reason, s.n,
           -- Names that are taken or too long get a part of their own.
           case
             when octet_length(s.name) <= 63 and not exists (
               select from pg_attribute as a where a.attrelid = $1 and a.attname = s.name and s.name <> s.column_name)
             then s.name
             else left(s.name, 13) || '_' || left(md5(s.expression), 8)
           end as name
    from relief._suggestions($1, $2) with ordinality as s (column_name, expression, name, kind, reason, n)
  )
  select s.column_name,
         case
           when s.expression = quote_ident(s.column_name) and s.name = s.column_name then s.expression
           else s.expression || ' AS ' || quote_ident(s.name)
         end,
         case when s.expression is not null then s.kind end,
         s.reason
  from suggestion as s
  order by s.n;
end
$$;
comment on function relief.suggest_features(regclass, text) is
  'Returns, for each column of a table, what it would give as a feature of a detector, and why, or why it gives none, by its type and a '
  'sample of rows. The column feature is what create_detector takes, and uses where no features are given. Local times are those of time_zone.';
