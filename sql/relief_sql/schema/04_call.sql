-- Calls of the functions that hold a detector's expressions. A function takes at most 100 arguments: features that read more columns
-- are parted over several functions of a kind, features, features2, features3 and so on, whose arrays are joined.

create function relief._has_categories(d relief.detector)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (select from relief.feature as f where f.detector_id = d.id and f.kind = 'category')
$$;
comment on function relief._has_categories(relief.detector) is 'Returns whether a detector has a feature that is a category.';

create function relief._parts_of(features relief._feature[], relation regclass)
  returns integer[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant integer := 100;
  part integer := 1;
  read smallint[] := '{}';
  parts integer[] := '{}';
  feature relief._feature;
begin
  foreach feature in array features loop
    if cardinality(feature.columns) > most then
      raise exception 'feature "%" of table % reads % columns, more than %', feature.name, relation, cardinality(feature.columns), most
        using errcode = 'too_many_arguments', hint = 'Write several features, each of some of the columns.';
    end if;
    read := array(select distinct c from unnest(read || feature.columns) as c);
    if cardinality(read) > most then
      part := part + 1;
      read := feature.columns;
    end if;
    parts := parts || part;
  end loop;
  return parts;
end
$$;
comment on function relief._parts_of(relief._feature[], regclass) is 'Returns for each feature the number of the function that holds it.';

create function relief._parts(d relief.detector)
  returns table (part integer, columns name[], arguments name[], has_categories boolean)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select f.part, array_agg(c.name order by c.n), array_agg(c.argument order by c.n), f.has_categories
  from (select g.part, bool_or(g.kind = 'category') as has_categories from relief.feature as g where g.detector_id = d.id group by g.part) as f
  join unnest(d.columns, d.arguments) with ordinality as c (name, argument, n)
    on exists (select from relief.feature as g where g.detector_id = d.id and g.part = f.part and c.name = any (g.columns))
  group by f.part, f.has_categories
$$;
comment on function relief._parts(relief.detector) is
  'Returns the functions that a detector''s features are parted over: the columns that each reads, its arguments, whether it holds categories.';

create function relief._part_kind(kind text, part integer)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case part when 1 then kind else format('%s%s', kind, part) end
$$;
comment on function relief._part_kind(text, integer) is 'Returns what the kind of the function is called that holds a part of the features.';

create function relief._part_number(kind text)
  returns integer
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- No backslash: not every session reads one in a literal as itself.
  select case when kind ~ '^(features|categories|guarded)[0-9]*$' then coalesce(substring(kind from '[0-9]+$')::integer, 1) end
$$;
comment on function relief._part_number(text) is 'Returns which part of the features a function of this kind holds; NULL for kinds that hold none.';

create function relief._part_calls(d relief.detector, kind text, row_name text)
  returns setof text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('%s(%s)', relief._function_name(d, relief._part_kind(kind, p.part)),
                (select string_agg(format('%s.%I', row_name, c.name), ', ' order by c.n) from unnest(p.columns) with ordinality as c (name, n)))
  from relief._parts(d) as p
  where kind <> 'categories' or p.has_categories
  order by p.part
$$;
comment on function relief._part_calls(relief.detector, text, text) is 'Returns the texts of the calls of a kind on a row''s columns, a part each.';

create function relief._features_call(d relief.detector, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case count(*) when 1 then min(call) else '(' || string_agg(call, ' || ' order by n) || ')' end
  from relief._part_calls(d, 'features', row_name) with ordinality as c (call, n)
$$;
comment on function relief._features_call(relief.detector, text) is 'Returns the text of a call of the features function on a row''s columns.';

create function relief._categories_call(d relief.detector, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- NULL has its type: of an unknown one, somebody's overload might be the better match.
  select case count(*) when 0 then 'null::pg_catalog.text[]' when 1 then min(call) else '(' || string_agg(call, ' || ' order by n) || ')' end
  from relief._part_calls(d, 'categories', row_name) with ordinality as c (call, n)
$$;
comment on function relief._categories_call(relief.detector, text) is
  'Returns the text of a call that gives a row''s categories, NULL for a detector without any.';

create function relief._guarded_call(d relief.detector, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- To join NULL to an array would give the array: a part that fails makes all of them NULL.
  select case count(*) when 1 then min(call) else
    format('(select case when %s then %s end from (select %s offset 0) as g)', string_agg(format('g.p%s is not null', n), ' and ' order by n),
           string_agg(format('g.p%s', n), ' || ' order by n), string_agg(format('%s as p%s', call, n), ', ' order by n))
  end
  from relief._part_calls(d, 'guarded', row_name) with ordinality as c (call, n)
$$;
comment on function relief._guarded_call(relief.detector, text) is
  'Returns the text of a call that gives a row''s features, NULL where an expression fails.';

create function relief._guarded_categories_call(d relief.detector, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when relief._has_categories(d) then
      format('case when %s is not null then %s end', relief._guarded_call(d, row_name), relief._categories_call(d, row_name))
    else relief._categories_call(d, row_name)
  end
$$;
comment on function relief._guarded_categories_call(relief.detector, text) is
  'Returns the text of an expression that gives a row''s categories, NULL where any of its expressions fails.';
