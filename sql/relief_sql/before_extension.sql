-- Only as an extension: a schema may be there already, Relief may not.
do $before$
begin
  if pg_catalog.to_regclass('relief.detector') is not null then
    raise exception 'Relief is installed in this database already, by its script'
      using errcode = 'object_not_in_prerequisite_state', hint = 'See how it is: select * from relief.check();';
  end if;
end
$before$;
