do $uninstall$
declare
  is_extension constant boolean := exists (select from pg_extension where extname = 'relief');
  drop_columns constant boolean := coalesce(nullif(current_setting('relief.drop_columns', true), ''), 'off')::boolean;
  owner name;
  is_superuser boolean;
  dependents text;
  one record;
begin
  select r.rolname, r.rolsuper into owner, is_superuser
  from pg_namespace as n join pg_roles as r on r.oid = n.nspowner
  where n.nspname = 'relief';
  if not found or to_regclass('relief.detector') is null then
    raise exception 'Relief is not installed in this database'
      using errcode = 'undefined_object', hint = 'List the databases: psql --list';
  end if;
  -- What another role calls so is not to be run with a superuser's rights.
  if not is_superuser then
    raise exception 'schema relief belongs to %, which is not a superuser', owner
      using errcode = 'insufficient_privilege', hint = 'A superuser installed Relief. If it is Relief, give it back to one: alter schema relief owner to ...;';
  end if;

  -- With each detector go its triggers, its functions, and its jobs of pg_cron, which DROP EXTENSION would leave behind.
  for one in select name from unnest(array(select d.name from relief.detector as d order by d.id)) as name loop
    perform relief.drop_detector(one.name, drop_columns);
  end loop;
  if is_extension then
    drop extension relief;
    drop schema relief;
    return;
  end if;

  -- Without CASCADE, so that what others built on it stops this instead of going along: kind by kind, what needs others first.
  for one in
    select 1 as place, format('drop policy %I on %s', p.polname, c.oid::regclass) as statement
    from pg_policy as p join pg_class as c on c.oid = p.polrelid
    where c.relnamespace = 'relief'::regnamespace
    union all
    select 2, format('drop trigger %I on %s', t.tgname, c.oid::regclass)
    from pg_trigger as t join pg_class as c on c.oid = t.tgrelid
    where c.relnamespace = 'relief'::regnamespace and not t.tgisinternal
    union all
    select 3, 'drop view ' || string_agg(oid::regclass::text, ', ') from pg_class where relnamespace = 'relief'::regnamespace and relkind = 'v'
    union all
    select 4, 'drop routine ' || string_agg(oid::regprocedure::text, ', ') from pg_proc where pronamespace = 'relief'::regnamespace
    union all
    select 5, 'drop table ' || string_agg(oid::regclass::text, ', ') from pg_class where relnamespace = 'relief'::regnamespace and relkind = 'r'
    union all
    select 6, 'drop type ' || string_agg(reltype::regtype::text, ', ') from pg_class where relnamespace = 'relief'::regnamespace and relkind = 'c'
    union all
    select 7, 'drop schema relief'
    order by place
  loop
    execute one.statement;
  end loop;
exception when dependent_objects_still_exist then
  get stacked diagnostics dependents = pg_exception_detail;
  raise exception 'cannot uninstall Relief because other objects depend on it'
    using errcode = 'dependent_objects_still_exist', detail = dependents, hint = 'Drop those first.';
end
$uninstall$;

-- A worker's queue is that of the role that it logs in as, and may be in use: dropping it is for whoever stops the worker.
do $queues$
declare
  queue record;
begin
  for queue in
    select n.nspname, pg_get_userbyid(n.nspowner) as worker
    from pg_namespace as n
    where n.nspname ^@ 'relief_queue_' and obj_description(n.oid, 'pg_namespace') ^@ 'Queue of relief worker,'
    order by n.nspname
  loop
    raise warning 'schema "%" is left, the queue of relief worker as "%"', queue.nspname, queue.worker
      using hint = format('Stop that worker, and: drop schema %I cascade;', queue.nspname);
  end loop;
end
$queues$;
