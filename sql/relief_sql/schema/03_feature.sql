-- Features: what an owner may write as an expression, proven on the parse tree of a temporary view, as the caller.

create type relief._feature as (
  name          text,
  expression    text,
  columns       smallint[],
  parallel_safe boolean
);
comment on type relief._feature is 'A feature that passed every check, with the columns that it reads.';

create function relief._column_list(relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select string_agg(quote_ident(attname), ', ' order by attnum)
  from pg_attribute
  where attrelid = relation and attnum > 0 and not attisdropped
$$;
comment on function relief._column_list(regclass) is 'Returns the names of a relation''s columns, for a hint.';

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
  -- expression AS name, at the very end; what isn't of this form is an expression alone
  parts constant text[] := regexp_match(feature, '^(.*\S)\s+as\s+("(?:[^"]|"")+"|[[:alpha:]_][[:alnum:]_$]*)\s*$', 'i');
  expression constant text := coalesce(parts[1], feature);
  tree text;
  refusal text;
  value_type oid;
  generated text;
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
    when tree ~ ':(quals|setOperations|havingQual|limitCount|limitOffset) \{' or tree !~ ':quals <>' or tree !~ ':setOperations <>'
      or tree ~ ':(groupClause|distinctClause|sortClause|cteList|rowMarks) \(' or tree !~ ':groupClause <>' then 'is more than an expression'
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
    select distinct m[1]::smallint from regexp_matches(tree, '\{VAR :varno \d+ :varattno (-?\d+)', 'g') as m order by 1);
  if checked.columns[1] <= 0 then
    raise exception 'feature "%" of table % reads the whole row or a system column', feature, relation
      using errcode = 'feature_not_supported',
            hint = format('Name columns: %s.', relief._column_list(relation));
  end if;

  select string_agg(quote_ident(attname), ', ') into generated
  from pg_attribute
  where attrelid = relation and attnum = any (checked.columns) and attgenerated <> '';
  if generated is not null then
    raise exception 'feature "%" of table % reads the generated column %', feature, relation, generated
      using errcode = 'feature_not_supported',
            hint = 'A generated column has no value yet when the trigger scores the row; write its expression instead.';
  end if;

  select atttypid into strict value_type
  from pg_attribute
  where attrelid = 'pg_temp._relief_probe'::regclass and attnum = 1;
  perform relief._require_number(feature, relation, value_type);
  -- The conditions of a domain may call anything.
  checked.parallel_safe := tree !~ '\{COERCETODOMAIN '
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
  where p.oid in (select m[1]::oid from regexp_matches(tree, ':(?:funcid|opfuncid) (\d+)', 'g') as m)
$$;
comment on function relief._called_functions(text) is 'Returns the functions, those behind operators included, that a parse tree calls.';

create function relief._require_number(feature text, relation regclass, value_type oid)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  base_type oid := value_type;
begin
  while (select typtype = 'd' from pg_type where oid = base_type) loop
    select typbasetype into strict base_type from pg_type where oid = base_type;
  end loop;
  if base_type = any ('{smallint, integer, bigint, numeric, real, double precision}'::regtype[]) then
    return;
  end if;
  raise exception 'feature "%" of table % is of type %, not a number', feature, relation, format_type(value_type, null)
    using errcode = 'datatype_mismatch',
          hint = case
            when base_type = 'boolean'::regtype then format('Write (%s)::integer.', feature)
            when base_type = any ('{date, timestamp, timestamptz, time, timetz, interval}'::regtype[])
              then format('Write a number that means something, such as extract(hour from %s) AS hour.', feature)
            else 'Write an expression that gives a number, such as length(…), or leave the column out.'
          end;
end
$$;
comment on function relief._require_number(text, regclass, oid) is 'Raises an error unless a feature''s type is a number or a domain over one.';
