-- Only by script: is there what this upgrades? From here on as whoever installed it, to whom what is new is to belong.
do $upgrade$
declare
  owner regrole;
  is_superuser boolean;
  installed text := '0.1.0';
begin
  if exists (select from pg_extension where extname = 'relief') then
    raise exception 'Relief was installed in this database by CREATE EXTENSION'
      using errcode = 'object_not_in_prerequisite_state', hint = 'Upgrade it so too: alter extension relief update;';
  end if;
  select r.oid, r.rolsuper into owner, is_superuser
  from pg_namespace as n join pg_roles as r on r.oid = n.nspowner
  where n.nspname = 'relief';
  if not found or to_regclass('relief.detector') is null then
    raise exception 'Relief is not installed in this database'
      using errcode = 'undefined_object', hint = 'Install it: psql -v ON_ERROR_STOP=1 -f relief-{{version}}-install.sql';
  end if;
  -- What another role calls so is not to be run with a superuser's rights.
  if not is_superuser then
    raise exception 'schema relief belongs to %, which is not a superuser', owner
      using errcode = 'insufficient_privilege', hint = 'A superuser installed Relief. If it is Relief, give it back to one: alter schema relief owner to ...;';
  end if;
  perform set_config('role', pg_get_userbyid(owner), true);
  if to_regprocedure('relief.version()') is not null then
    installed := relief.version();
  end if;
  if installed <> '{{previous_version}}' then
    raise exception 'Relief % is installed in this database, and this upgrades {{previous_version}}', installed
      using errcode = 'object_not_in_prerequisite_state',
            hint = case installed when '{{version}}' then 'It is upgraded already. Make what it generated anew: select relief.regenerate();'
                   else format('Take the script that upgrades %s: relief-%s-...-upgrade.sql', installed, installed) end;
  end if;
end
$upgrade$;
