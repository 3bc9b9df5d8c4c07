-- Install check: one row a check, ok or what to do.

create function relief._try_runtime()
  returns text
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- One split at 0: a row left of it falls into a leaf of path length 1, one right of it into one of path length 3.
  document constant text := '{"format":1,"features":[{"name":"x","expression":"x","kind":"number"}],"encoders":{},"samples":2,'
    '"average_path_length":1.0,"trees":[{"feature":[0,-1,-1],"value":[0.0,1.0,3.0],"missing_left":[0,0,0],"rows":[2,1,1]}],'
    '"threshold":{"value":0.5,"origin":"fixed"}}';
  forest constant bytea := relief._pack(relief._start(), encode(sha256(convert_to(document, 'UTF8')), 'hex'), document);
  key constant text := encode(sha256(forest), 'hex');
  scores double precision[];
begin
  perform relief._load(relief._start(), key, forest);
  scores := array[relief._score(key, '', '{-1}', null), relief._score(key, '', '{1}', null)];
  return case when scores = '{0.5, 0.125}' then null else format('scores are %s, not {0.5,0.125}', scores) end;
exception when others then
  return regexp_replace(sqlerrm, '^plpy[.]Error: ', '');
end
$$;
comment on function relief._try_runtime() is 'Returns NULL if PL/Python loads and scores a model of one split as it should, else what went wrong.';

create function relief._check_detector(d relief.detector)
  returns setof text
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  owner oid;
begin
  return query select * from relief._check_table(d);
  select relowner into owner from pg_class where oid = d.relation;
  if not found then
    return;
  end if;
  return query
    select format('function %s belongs to %I, not to the table''s owner; alter function %s owner to %I;',
                  p.oid::regprocedure, pg_get_userbyid(p.proowner), p.oid::regprocedure, pg_get_userbyid(owner))
    from pg_proc as p
    where p.oid in (select relief._generated(d, kind) from unnest(relief._kinds(d)) as kind where kind not in ('trigger', 'event', 'gate', 'shadow', 'score', 'explain')
                    union all
                    select unnest(array[relief._trigger_function(d), relief._event_function(d), relief._gate_function(d), relief._shadow_function(d)]))
      and p.proowner <> owner;
  return query
    select format('row-level security is forced on the owner of table %s: training, histories and backfill know only the rows that its '
                  'policies show; alter table %s no force row level security;', d.relation, d.relation)
    from pg_class as c
    join pg_roles as r on r.oid = c.relowner and not r.rolsuper and not r.rolbypassrls
    where c.oid = d.relation and c.relrowsecurity and c.relforcerowsecurity;
  return query
    select format('it reads column %I, which Relief writes; %s', c.name, relief._creation(d))
    from unnest(relief._results_among(d.relation, d.columns || d.entity || d.time_column)) as c (name)
    limit 1;
  if d.generated_by is distinct from relief.version() then
    return next format('its functions were made by Relief %s; select relief.regenerate(%L);', coalesce(d.generated_by, '0.1.0'), d.name);
  end if;
  return query select * from relief._check_jobs(d);
  if d.promoted_version is null then
    return next format('no model is promoted; relief train %s --promote', relief._shell_quoted(d.name));
  end if;
  return query
    select format('version %s: %s', m.version, r.reason)
    from relief.model as m
    cross join lateral (
      select case when m.version = d.promoted_version or exists (select from relief.shadow as s where s.detector_id = d.id and s.version = m.version)
                  then relief._damaged(d, m) end
      -- Or it would be asked twice.
      offset 0) as r (reason)
    where m.detector_id = d.id and r.reason is not null;
  if relief._trigger_function(d) is not null then
    return query select * from relief._check_attached(d);
  end if;
end
$$;
comment on function relief._check_detector(relief.detector) is 'Returns what is wrong with a detector, each with what to do.';

create function relief._check_attached(d relief.detector)
  returns setof text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('companion column %I is missing; alter table %s add column %I %s;', c.name, d.relation, c.name, c.type)
  from relief._companion_columns() as c
  where not exists (select from pg_attribute where attrelid = d.relation and attname = c.name and not attisdropped)
  union all
  select format('trigger "~relief" on table %s is missing; select relief.detach(%L); select relief.attach(%L);', d.relation, d.name, d.name)
  where not exists (select from pg_trigger where tgrelid = d.relation and tgfoid = relief._trigger_function(d))
  union all
  select format('trigger "~relief_event" on table %s is missing; select relief.detach(%L); select relief.attach(%L);', d.relation, d.name, d.name)
  where not exists (select from pg_trigger where tgrelid = d.relation and tgfoid = relief._event_function(d))
  union all
  select format('trigger "~relief_gate" on table %s is missing; select relief.regenerate(%L);', d.relation, d.name)
  where d.mode in ('quarantine', 'reject')
    and not exists (select from pg_trigger where tgrelid = d.relation and tgfoid = relief._gate_function(d))
  union all
  select format('the trigger was made for the table as it was; select relief.regenerate(%L);', d.name)
  where (exists (select from pg_proc where oid = relief._trigger_function(d) and prosrc <> relief._trigger_body(d))
         or exists (select from pg_proc where oid = relief._event_function(d) and prosrc <> relief._event_body(d))
         or exists (select from pg_proc where oid = relief._gate_function(d) and prosrc <> relief._gate_body(d)))
    -- Else the cause is told, with what mends that.
    and not exists (select from relief._check_table(d))
  union all
  select format('trigger "%1$s" is disabled; alter table %2$s enable trigger "%1$s";', tgname, d.relation)
  from pg_trigger
  where tgrelid = d.relation and tgfoid in (relief._trigger_function(d), relief._event_function(d), relief._gate_function(d)) and tgenabled = 'D'
  union all
  select format('trigger %I on table %s fires after "~relief"; alter trigger %I on %s rename to %I;',
                t.tgname, t.tgrelid::regclass, t.tgname, t.tgrelid::regclass, 'a_' || substr(t.tgname, 1, 30))
  from pg_trigger as t
  left join pg_trigger as parent on parent.oid = t.tgparentid
  where t.tgrelid = any (relief._leaves(d) || d.relation) and (not t.tgisinternal or parent.oid is not null) and t.tgenabled <> 'D'
    -- of tgtype, 1: for each row, 2: before, 4: insert, 16: update
    and t.tgtype & 3 = 3 and t.tgtype & 20 <> 0 and t.tgname collate "C" > '~relief'
    and t.tgfoid is distinct from relief._gate_function(d)
    -- A partition's follows its parent's; before PostgreSQL 15 it kept its name when that was renamed.
    and (parent.tgname collate "C" > '~relief') is not true
  union all
  select format('what is written to table %s, which inherits from table %s, isn''t scored; alter table %s no inherit %s;',
                i.inhrelid::regclass, d.relation, i.inhrelid::regclass, d.relation)
  from pg_inherits as i
  join pg_class as c on c.oid = i.inhparent and c.relkind = 'r'
  where c.oid = d.relation
  union all
  select * from relief._check_partitions(d)
  union all
  select * from relief._check_shadow(d)
$$;
comment on function relief._check_attached(relief.detector) is 'Returns what is wrong with the columns and the trigger of an attached detector.';

create function relief.check()
  returns table ("check" text, result text)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query values
    (format('Relief %s', relief.version()),
     coalesce(
       (select format('the files on the server are those of %s; alter extension relief update; select relief.regenerate();', e.default_version)
        from pg_available_extensions as e
        where e.name = 'relief' and e.installed_version <> e.default_version), 'ok')),
    ('PostgreSQL 14 or later',
     case when current_setting('server_version_num')::integer >= 140000 then 'ok'
          else format('this is %s; upgrade the server', current_setting('server_version')) end),
    ('plpython3u is installed',
     case when exists (select from pg_extension where extname = 'plpython3u') then 'ok'
          else 'create extension plpython3u; -- on Debian first: apt install postgresql-plpython3-' || current_setting('server_version_num')::integer / 10000 end),
    (case when relief._kernel_is_used() then 'the kernel scores as it should' else 'PL/Python scores as it should' end,
     coalesce(relief._try_runtime() || relief._kernel_remedy(), 'ok')),
    ('no other Python shares the server',
     case when not exists (select from pg_extension where extname = 'pgml') then 'ok'
          else 'pgml and plpython3u in one session can crash it: keep them in different databases' end);
  return query
    select format('detector %s', d.name), coalesce(string_agg(found.problem, E'\n'), 'ok')
    from relief.detector as d
    left join lateral relief._check_detector(d) as found (problem) on true
    group by d.name
    order by d.name;
end
$$;
comment on function relief.check() is 'Checks the installation and every detector that the caller may act on: ok, or what is wrong and what to do.';
