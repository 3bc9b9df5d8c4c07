-- Finding a detector by its name: to read, to lock, or to say why it can't be acted on.

create function relief._detector(name text)
  returns relief.detector
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  found_detector relief.detector;
begin
  select * into found_detector from relief.detector as d where d.name = $1;
  if not found then
    perform relief._raise_no_detector($1);
  end if;
  return found_detector;
end
$$;
comment on function relief._detector(text) is 'Returns a detector that the caller may act on, or raises an error.';

create function relief._present_detector(name text)
  returns relief.detector
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._detector(name);
begin
  perform relief._require_table(d);
  return d;
end
$$;
comment on function relief._present_detector(text) is 'Returns a detector that the caller may act on and whose table is there, or raises an error.';

create function relief._require_table(d relief.detector)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if relief._schema_of(d.relation) is null then
    raise exception 'table %.% of detector "%" does not exist any more', d.schema_name, d.table_name, d.name
      using errcode = 'undefined_table',
            hint = format('Drop the detector: select relief.drop_detector(%L);', d.name);
  end if;
end
$$;
comment on function relief._require_table(relief.detector) is 'Raises an error if a detector''s table is gone.';

create function relief._require_primary()
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if pg_is_in_recovery() then
    raise exception 'this server is a standby, which takes no changes'
      using errcode = 'read_only_sql_transaction', hint = 'Connect to its primary server: what is done there arrives here too.';
  end if;
end
$$;
comment on function relief._require_primary() is 'Raises an error on a standby, for what changes something.';

create function relief._lock_detector(name text)
  returns relief.detector
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  locked relief.detector;
begin
  perform relief._require_primary();
  select * into locked from relief.detector as d where d.name = $1 for no key update;
  if not found then
    perform relief._raise_no_detector($1);
  end if;
  perform relief._require_table(locked);
  return locked;
end
$$;
comment on function relief._lock_detector(text) is
  'Returns a detector, locked: whoever makes, replaces or drops generated objects waits here, as concurrent CREATE OR REPLACE fails.';

create function relief._lock_with_table(name text)
  returns relief.detector
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._lock_profile((relief._detector($1)).id);
  return relief._lock_detector($1);
end
$$;
comment on function relief._lock_with_table(text) is
  'Returns a detector, locked for whoever locks its table next: a refresh, which reads the table before it locks the detector, has ended or waits.';

create function relief._refuse_foreign_superuser(d relief.detector)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- SET ROLE protects no login: an expression can undo it.
  superuser constant name := (
    select r.rolname from pg_roles as r where r.rolname in (current_user, session_user) and r.rolsuper
    order by r.rolname = current_user desc limit 1);
  owner name;
begin
  select r.rolname into owner
  from pg_class as c
  join pg_roles as r on r.oid = c.relowner
  where c.oid = d.relation and not r.rolsuper;
  if found and superuser is not null then
    raise exception 'role "%" is a superuser, and table % belongs to "%", whose expressions would run with a superuser''s rights', superuser, d.relation, owner
      using errcode = 'insufficient_privilege', hint = format('Connect as a role that has the rights of "%s".', owner);
  end if;
end
$$;
comment on function relief._refuse_foreign_superuser(relief.detector) is
  'Raises an error where a superuser, or a session that began as one, would run the expressions of a table''s owner who is none.';

create function relief._raise_no_detector(name text)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'detector "%" does not exist', name
    using errcode = 'undefined_object',
          hint = 'List the detectors of tables that you own: select name from relief.detector;';
end
$$;
comment on function relief._raise_no_detector(text) is 'Raises the error for a detector that isn''t there, or isn''t the caller''s.';
