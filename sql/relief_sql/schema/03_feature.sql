-- Features: what an owner may write as an expression, proven on the parse tree of a temporary view, as the caller.

create type relief._feature as (
  name          text,
  expression    text,
  kind          text,
  value         text,
  columns       smallint[],
  parallel_safe boolean
);
comment on type relief._feature is 'A feature that passed every check, with the text that computes its number or category, and the columns that it reads.';

create function relief._column_list(relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select string_agg(quote_ident(attname), ', ' order by attnum)
  from pg_attribute
  where attrelid = relation and attnum > 0 and not attisdropped and attname not in (select c.name from relief._companion_columns() as c)
$$;
comment on function relief._column_list(regclass) is 'Returns the names of a relation''s own columns, without those that attach adds, for a hint.';

create function relief._column_names(relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select string_agg(attname, ', ' order by attnum)
  from pg_attribute
  where attrelid = relation and attnum > 0 and not attisdropped and attname not in (select c.name from relief._companion_columns() as c)
$$;
comment on function relief._column_names(regclass) is
  'Returns what _column_list returns, for a hint about an option that takes names as they are, not as SQL writes them.';

create function relief._require_own_columns(what text, relation regclass, columns name[])
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  result name;
begin
  select c into result from unnest(relief._results_among(relation, columns)) as c limit 1;
  if found then
    raise exception '% of table % reads column "%", which Relief writes', what, relation, result
      using errcode = 'invalid_object_definition',
            hint = format('The table''s own columns are: %s.', relief._column_list(relation));
  end if;
end
$$;
comment on function relief._require_own_columns(text, regclass, name[]) is
  'Raises an error if a part of a detector reads what Relief writes: a verdict isn''t to follow from the one before it.';

create function relief._results_among(relation regclass, columns name[])
  returns name[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array(select c.name from relief._companion_columns() as c where c.name = any (relief._written_columns(relation, columns)))
$$;
comment on function relief._results_among(regclass, name[]) is
  'Returns which of Relief''s companion columns are among columns of a relation, or are what those are generated from.';

create function relief._probe_feature(relation regclass, expression text, name_path text)
  returns pg_node_tree
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  one_statement refcursor;
  tree pg_node_tree;
begin
  perform set_config('search_path', name_path, true);
  begin
    -- A cursor takes one statement alone; the line break ends a comment that the expression may end with.
    open one_statement no scroll for execute format(E'select (%s\n) as value from only %s limit 0', expression, relation);
    close one_statement;
    execute format(E'create temporary view _relief_probe as select (%s\n) as value from only %s', expression, relation);
  exception when others then
    raise exception 'feature "%" cannot be computed on table %: %', expression, relation, sqlerrm
      using errcode = sqlstate,
            hint = pg_catalog.format('The columns are: %s.', relief._column_list(relation));
  end;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  select ev_action into strict tree from pg_rewrite where ev_class = 'pg_temp._relief_probe'::regclass;
  return tree;
end
$$;
comment on function relief._probe_feature(regclass, text, text) is
  'Makes the temporary view _relief_probe of one expression, names looked up in name_path, and returns its parse tree.';

create function relief._check_feature(relation regclass, feature text, name_path text)
  returns relief._feature
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- No backslash in a pattern: sessions may read them as escapes. expression AS name, at the very end; what isn't of this form is an expression alone
  parts constant text[] := regexp_match(feature, '^(.*[^[:space:]])[[:space:]]+as[[:space:]]+("(?:[^"]|"")+"|[[:alpha:]_][[:alnum:]_$]*)[[:space:]]*$', 'i');
  expression constant text := coalesce(parts[1], feature);
  tree text;
  refusal text;
  value_type oid;
  checked relief._feature;
begin
  tree := relief._probe_feature(relation, expression, name_path);
  checked.expression := btrim(expression, E' \t\n\r');
  -- Without a name, a column alone is called as it is called in its table, and anything else as it is written.
  checked.name := case
    when parts is not null then (parse_ident(parts[2]))[1]
    when checked.expression ~ '^("([^"]|"")+"|[[:alpha:]_][[:alnum:]_$]*)$' then (parse_ident(checked.expression))[1]
    else checked.expression
  end;

  -- Of a subquery, the tree holds a second set of these marks, with values of its own: none may be true, and one must be false.
  refusal := case
    when (select count(*) from pg_attribute where attrelid = 'pg_temp._relief_probe'::regclass and attnum > 0) <> 1
      then 'is more than one expression'
    when tree ~ ':hasSubLinks true' or tree !~ ':hasSubLinks false' then 'contains a subquery'
    when tree ~ ':hasAggs true' or tree !~ ':hasAggs false' then 'calls an aggregate function'
    when tree ~ ':hasWindowFuncs true' or tree !~ ':hasWindowFuncs false' then 'calls a window function'
    when tree ~ ':hasTargetSRFs true' or tree !~ ':hasTargetSRFs false' then 'calls a set-returning function'
    when tree ~ ':(quals|setOperations|havingQual|limitCount|limitOffset) [{]' or tree !~ ':quals <>' or tree !~ ':setOperations <>'
      or tree ~ ':(groupClause|distinctClause|sortClause|cteList|rowMarks) [(]' or tree !~ ':groupClause <>' then 'is more than an expression'
  end;
  if refusal is null then
    select 'calls the volatile function ' || called.oid::regprocedure into refusal
    from relief._called_functions(tree) as called
    where called.provolatile = 'v'
    limit 1;
  end if;
  if refusal is not null then
    raise exception 'feature "%" of table % %', feature, relation, refusal
      using errcode = 'invalid_object_definition',
            hint = 'A feature is one expression over one row: columns, operators, and functions that are immutable or stable.';
  end if;

  checked.columns := array(
    select distinct m[1]::smallint from regexp_matches(tree, '[{]VAR :varno [0-9]+ :varattno (-?[0-9]+)', 'g') as m order by 1);
  if checked.columns[1] <= 0 then
    raise exception 'feature "%" of table % reads the whole row or a system column', feature, relation
      using errcode = 'feature_not_supported',
            hint = format('Name columns: %s.', relief._column_list(relation));
  end if;
  perform relief._require_own_columns(
    format('feature "%s"', feature), relation, array(select attname from pg_attribute where attrelid = relation and attnum = any (checked.columns)));

  select atttypid into strict value_type
  from pg_attribute
  where attrelid = 'pg_temp._relief_probe'::regclass and attnum = 1;
  checked.kind := case when relief._is_category(value_type) then 'category' else 'number' end;
  checked.value := relief._converted(feature, relation, checked.expression, value_type);
  perform relief._warn_of_stable_functions(feature, relation, tree, checked.columns);
  -- The conditions of a domain may call anything.
  checked.parallel_safe := tree !~ '[{]COERCETODOMAIN '
    and not exists (select from relief._called_functions(tree) as called where called.proparallel <> 's');
  if length(checked.name) = 0 or octet_length(checked.name) > 63 then
    raise exception 'feature "%" of table % needs a name of 1 to 63 bytes', feature, relation
      using errcode = 'invalid_name', hint = format('Name it: %s AS short_name', checked.expression);
  end if;
  drop view pg_temp._relief_probe;
  return checked;
end
$$;
comment on function relief._check_feature(regclass, text, text) is
  'Returns a feature, written as expression [AS name], or raises an error that says why it can''t be one.';

create function relief._called_functions(tree text)
  returns setof pg_proc
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select p.*
  from pg_proc as p
  where p.oid in (select m[1]::oid from regexp_matches(tree, ':(?:funcid|opfuncid) ([0-9]+)', 'g') as m)
$$;
comment on function relief._called_functions(text) is 'Returns the functions, those behind operators included, that a parse tree calls.';

create function relief._warn_of_stable_functions(feature text, relation regclass, tree text, columns smallint[])
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  called text;
  moment text;
begin
  select f.oid::regprocedure into called from relief._called_functions(tree) as f where f.provolatile = 's' limit 1;
  if not found then
    return;
  end if;
  select quote_ident(a.attname) into moment
  from pg_attribute as a
  where a.attrelid = relation and a.attnum = any (columns) and relief._base_type(a.atttypid) = 'timestamptz'::regtype
  order by a.attnum
  limit 1;
  raise warning 'feature "%" of table % calls %, which is not immutable: its value may depend on the session', feature, relation, called
    using hint = case
      when moment is not null then
        format('Say where the clock hangs: %s at time zone %L instead of %s.', moment, current_setting('TimeZone'), moment)
      else 'The same row may get another score in another session, or later; an immutable function gives it the same one always.'
    end;
end
$$;
comment on function relief._warn_of_stable_functions(text, regclass, text, smallint[]) is
  'Warns of a feature that calls a stable function, such as one that looks at the session''s time zone.';
