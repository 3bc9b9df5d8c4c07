-- Kernel: C functions in the place of the runtime's, where the server has their library. Scores and judgements are the same.
-- The functions that everything calls stay: use_kernel() only changes what is behind them. What was is kept beside it, for the way back.

create function relief._kernel_functions()
  returns table (signature regprocedure, name name, kept name, is_kernel boolean, definition text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- The number at a symbol's end is that of its contract: a library that keeps another isn't called in a wrong way, but not at all.
  select p.oid, p.proname, ('_python' || p.proname)::name, l.lanname = 'c',
         format('create or replace function relief.%I(%s) returns %s language c stable %s parallel safe cost %s as %L, %L',
                p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), case when p.proisstrict then 'strict' else '' end,
                f.cost, '$libdir/relief_kernel', f.symbol)
  from (values
    ('relief._have(text)', 'relief_have_1', 1),
    ('relief._have_rule(text, text)', 'relief_have_rule_1', 1),
    ('relief._start_scoring()', 'relief_start_1', 1),
    ('relief._load(text, text, bytea)', 'relief_load_1', 1),
    ('relief._load_rule(text, text, text)', 'relief_load_rule_1', 1),
    ('relief._score(text, text, double precision[], text[])', 'relief_score_1', 100),
    ('relief._judge(text, text, text, double precision[], text[], text, double precision[], boolean)', 'relief_judge_1', 500),
    ('relief._levels(integer, text, smallint)', 'relief_levels_1', 50)
  ) as f (signature, symbol, cost)
  join pg_proc as p on p.oid = f.signature::regprocedure
  join pg_language as l on l.oid = p.prolang
$$;
comment on function relief._kernel_functions() is
  'Returns the functions that the kernel can take over: whether it has, what it makes them, and where what they were is kept.';

create function relief._kernel_is_used()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select bool_or(f.is_kernel) from relief._kernel_functions() as f
$$;
comment on function relief._kernel_is_used() is 'Returns whether the kernel scores.';

create function relief._kernel_advice()
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('install it on this server, where Relief''s sources are: make install-kernel PG_CONFIG=<its pg_config>, '
                'or make deb, then apt install ./build/postgresql-%s-relief_*.deb', current_setting('server_version_num')::integer / 10000)
$$;
comment on function relief._kernel_advice() is 'Returns how to put the kernel''s library onto this server.';

create function relief._kernel_remedy()
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case when not relief._kernel_is_used() then '' else
    format(E'\nserver %s needs the kernel: %s; or score without it: select relief.use_kernel(false);%s',
           coalesce(nullif(current_setting('cluster_name'), ''), host(inet_server_addr()) || ':' || inet_server_port(),
                    'at port ' || current_setting('port')),
           relief._kernel_advice(), case when pg_is_in_recovery() then ' on its primary' else '' end)
  end
$$;
comment on function relief._kernel_remedy() is 'Returns what to do where the kernel is used and can''t be: which server lacks it, and both ways out.';

create function relief.use_kernel(used boolean default true)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._require_primary();
  if used is null then
    raise exception 'whether the kernel is to be used is NULL'
      using errcode = 'null_value_not_allowed', hint = 'Give true or false: select relief.use_kernel(true);';
  end if;
  perform relief._lock_catalog();
  if used then
    perform relief._take_kernel();
  else
    perform relief._put_runtime_back();
  end if;
end
$$;
comment on function relief.use_kernel(boolean) is
  'Scores and judges by the compiled kernel, which must be installed on the server, or with false by PL/Python again: for every '
  'transaction that starts after this one commits. Scores are the same.';

create function relief._drop_kept(kept name)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- After an upgrade, or in a database that was restored, it may be there without the kernel, and have other arguments than today's.
  if to_regproc(format('relief.%I', kept)) is not null then
    execute format('drop function relief.%I', kept);
  end if;
end
$$;
comment on function relief._drop_kept(name) is 'Drops what a function was without the kernel, if that is kept.';

create function relief._take_kernel()
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  f record;
  detail text;
begin
  for f in select * from relief._kernel_functions() loop
    if not f.is_kernel then
      perform relief._drop_kept(f.kept);
      execute replace(pg_get_functiondef(f.signature), format('FUNCTION relief.%I(', f.name), format('FUNCTION relief.%I(', f.kept));
      execute format('revoke execute on function relief.%I from public', f.kept);
      execute format('comment on function relief.%I is %L', f.kept, format('What relief.%I is without the kernel.', f.name));
      if exists (select from pg_extension where extname = 'relief') then
        execute format('alter function relief.%I depends on extension relief', f.kept);
      end if;
    end if;
    -- Also where the kernel is used: the library may be gone since.
    execute f.definition;
  end loop;
exception when undefined_file or undefined_function or system_error or internal_error or insufficient_privilege then
  get stacked diagnostics detail = pg_exception_detail;
  raise exception 'the kernel cannot be used: %', sqlerrm
    using errcode = 'undefined_file', detail = coalesce(nullif(detail, ''), 'The library is relief_kernel in the folder that pg_config --pkglibdir names.'),
          hint = format('First %s', relief._kernel_advice());
end
$$;
comment on function relief._take_kernel() is 'Puts the kernel''s functions into the place of the runtime''s.';

create function relief._put_runtime_back()
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  f record;
begin
  for f in select * from relief._kernel_functions() loop
    if f.is_kernel then
      execute replace(pg_get_functiondef(format('relief.%I', f.kept)::regproc), format('FUNCTION relief.%I(', f.kept), format('FUNCTION relief.%I(', f.name));
    end if;
    perform relief._drop_kept(f.kept);
  end loop;
end
$$;
comment on function relief._put_runtime_back() is 'Makes the functions that the kernel took over what they were.';
