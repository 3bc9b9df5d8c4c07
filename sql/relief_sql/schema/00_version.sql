-- Version: which release is installed.

create function relief.version()
  returns text
  language sql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select '{{version}}'
$$;
comment on function relief.version() is 'Returns the version of Relief that is installed in this database.';
