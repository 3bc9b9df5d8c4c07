-- Conversions: which types a feature may have, and the number that stands for a value.

create function relief._base_type(type oid)
  returns oid
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with recursive based as (
    select t.oid, t.typbasetype from pg_type as t where t.oid = type
    union all
    select t.oid, t.typbasetype from based as b join pg_type as t on t.oid = b.typbasetype
  )
  select b.oid from based as b where b.typbasetype = 0
$$;
comment on function relief._base_type(oid) is 'Returns the type that a domain is over, through domains over domains; any other type itself.';

-- A body by return is inlined; a setting would forbid that. NaN comes first: numeric sorts it above everything.
create function relief._float8(value numeric)
  returns double precision
  language sql
  immutable
  parallel safe
return case
  when value = 'NaN' then 'NaN'
  when value > 1.7976931348623157e308 then 'Infinity'
  when value < -1.7976931348623157e308 then '-Infinity'
  when abs(value) < 1e-300 then 0
  else value::double precision
end;
comment on function relief._float8(numeric) is
  'Returns a numeric as a double, where the cast would fail: beyond the largest double as infinity, too small for one as 0.';

create function relief._float8(value double precision)
  returns double precision
  language sql
  immutable
  parallel safe
return value;
comment on function relief._float8(double precision) is
  'Returns the number: what was written for a numeric goes on when its column is given another type.';

create function relief._is_category(value_type oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Of category S are all kinds of text, extensions' as well.
  select t.typcategory = 'S' or t.typtype = 'e' or t.oid = any ('{"char", uuid, inet, cidr, macaddr, macaddr8}'::regtype[])
  from pg_type as t
  where t.oid = relief._base_type(value_type)
$$;
comment on function relief._is_category(oid) is
  'Returns whether values of a type, or of a domain over it, are compared by how rare they are: texts, enums, and what names things.';

create function relief._conversion(value_type oid)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- The line break ends a comment that the expression may end with.
  select case
    when base = any ('{smallint, integer, bigint, real, double precision}'::regtype[]) then E'(%s\n)::pg_catalog.float8'
    when base = 'numeric'::regtype then E'relief._float8((%s\n))'
    when base = 'boolean'::regtype then E'(%s\n)::pg_catalog.int4::pg_catalog.float8'
    when base = 'money'::regtype then E'(%s\n)::pg_catalog.numeric::pg_catalog.float8'
    when base = any ('{interval, time, timetz}'::regtype[]) then E'pg_catalog.date_part(''epoch'', (%s\n))'
    when relief._is_category(base) then E'(%s\n)::pg_catalog.text'
  end
  from relief._base_type(value_type) as base
$$;
comment on function relief._conversion(oid) is
  'Returns, for format(), what makes a number of an expression of a type, or the text of a category: true is 1, an interval or time of day '
  'its seconds; NULL where nothing does.';

create function relief._is_moment(value_type oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select relief._base_type(value_type) = any ('{date, timestamp, timestamptz}'::regtype[])
$$;
comment on function relief._is_moment(oid) is 'Returns whether a type is a date or timestamp, or a domain over one.';

create function relief._converted(feature text, relation regclass, expression text, value_type oid)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  conversion constant text := relief._conversion(value_type);
  base constant regtype := relief._base_type(value_type);
  operand constant text := case when expression ~ '^("([^"]|"")+"|[[:alpha:]_][[:alnum:]_$]*)$' then expression else '(' || expression || ')' end;
begin
  if conversion is not null then
    return format(conversion, expression);
  end if;
  raise exception 'feature "%" of table % is of type %, neither a number nor a category', feature, relation, format_type(value_type, null)
    using errcode = 'datatype_mismatch',
          hint = case
            when base = 'date'::regtype then
              format('A date never comes again; write what recurs: extract(isodow from %s) AS weekday', operand)
            when base = 'timestamp'::regtype then
              format('A moment never comes again; write what recurs: extract(hour from %s) AS hour', operand)
            when base = 'timestamptz'::regtype then
              format('A moment never comes again; write what recurs: extract(hour from %s at time zone %L) AS hour', operand, current_setting('TimeZone'))
            when base in ('json', 'jsonb') then format('Take a number out of it: (%s ->> ''key'')::numeric AS key', operand)
            when base::oid in (select typarray from pg_type) then format('Take a number out of it: cardinality(%s) AS count', operand)
            when (select typtype from pg_type where oid = base) in ('r', 'm') then format('Take its width: upper(%1$s) - lower(%1$s) AS width', operand)
            else 'Write an expression that gives a number, or leave the column out.'
          end;
end
$$;
comment on function relief._converted(text, regclass, text, oid) is 'Returns the text that computes a feature''s number or category, or raises an error where its type has none.';
