-- Catalog: changing it beside others who do. PostgreSQL locks no function or schema whose rights or body change: the second of two
-- sessions waits for the first, and then fails with "tuple concurrently updated". So whoever changes functions of Relief's, or rights
-- on them, locks the catalog first, as the last of all locks: profile, detector, table, catalog.

create function relief._lock_catalog()
  returns void
  language sql
  set search_path = pg_catalog, pg_temp
as $$
  -- The schema as an object of the catalog: nobody else's number.
  select pg_advisory_xact_lock('pg_namespace'::regclass::oid::integer, (select oid from pg_namespace where nspname = 'relief')::integer)
$$;
comment on function relief._lock_catalog() is
  'Waits until no other session changes generated functions or grants rights on what is in schema relief, until the end of the transaction.';

create function relief._change_catalog(statements text[])
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  statement text;
  deadlocks integer := 0;
begin
  perform relief._lock_catalog();
  for attempt in 1..100 loop
    begin
      foreach statement in array statements loop
        execute statement;
      end loop;
      return;
    exception
      -- A GRANT or REVOKE on the same functions, which knows of no lock, has just been committed and is seen now,
      when internal_error then
        if attempt = 100 then
          raise;
        end if;
      -- or waits for what is given free here.
      when deadlock_detected then
        deadlocks := deadlocks + 1;
        if deadlocks = 30 then
          raise;
        end if;
        perform pg_sleep(0.1);
    end;
  end loop;
end
$$;
comment on function relief._change_catalog(text[]) is
  'Executes statements that replace or drop generated functions, again where a GRANT of another session gets in between.';
