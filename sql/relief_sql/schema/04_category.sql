-- Categories: the calls that give a row's texts, beside those that give its numbers.

create function relief._has_categories(d relief.detector)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (select from relief.feature as f where f.detector_id = d.id and f.kind = 'category')
$$;
comment on function relief._has_categories(relief.detector) is 'Returns whether a detector has a feature that is a category.';

create function relief._categories_call(d relief.detector, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- NULL has its type: of an unknown one, somebody's overload might be the better match.
  select case
    when relief._has_categories(d) then
      format('%s(%s)', relief._function_name(d, 'categories'),
             (select string_agg(format('%s.%I', row_name, c.name), ', ' order by c.n) from unnest(d.columns) with ordinality as c (name, n)))
    else 'null::pg_catalog.text[]'
  end
$$;
comment on function relief._categories_call(relief.detector, text) is
  'Returns the text of a call that gives a row''s categories, NULL for a detector without any.';

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
