-- What the trainer asks of the database. A query begins with "-- name:"; braces are filled in by psycopg.sql, which quotes.

-- name: detector
select d.id, d.name, d.relation::text as relation, d.schema_name, d.table_name, d.time_column, d.contamination, d.threshold,
       d.promoted_version, d.columns, d.on_error, relief._function_name(d, 'features') as features_function,
       pg_catalog.pg_get_function_arguments(relief._generated(d, 'features')) as features_arguments,
       coalesce(t.tgenabled in ('O', 'A'), false) as attached
from relief.detector as d
left join pg_catalog.pg_trigger as t on t.tgrelid = d.relation and t.tgfoid = relief._trigger_function(d)
where d.name = {name};

-- name: detectors
select d.name, d.relation::text as relation, d.promoted_version, d.on_error,
       (select count(*) from relief.feature as f where f.detector_id = d.id) as features,
       (select count(*) from relief.model as m where m.detector_id = d.id) as versions,
       relief._trigger_function(d) is not null as attached
from relief.detector as d
order by d.name;

-- name: features
select name, expression, kind from relief.feature where detector_id = {detector_id} order by position;

-- name: models
select version, threshold, threshold_origin, created_at, created_by, checksum
from relief.model
where detector_id = {detector_id}
order by version;

-- name: document
select version, document, checksum
from relief.model
where detector_id = {detector_id} and version = coalesce({version}::integer, version)
order by version desc
limit 1;

-- name: owner_and_login
select pg_catalog.pg_get_userbyid(c.relowner) as owner,
       (select r.rolsuper from pg_catalog.pg_roles as r where r.oid = c.relowner) as owner_is_superuser,
       session_user as login,
       (select r.rolsuper from pg_catalog.pg_roles as r where r.rolname = session_user) as login_is_superuser
from pg_catalog.pg_class as c
where c.oid = {relation}::pg_catalog.regclass;

-- name: time_column_type
select pg_catalog.format_type(atttypid, null)
from pg_catalog.pg_attribute
where attrelid = {relation}::pg_catalog.regclass and attname = {time_column} and not attisdropped;

-- name: estimate_rows
explain (format json) select from {relation};

-- name: seed
select pg_catalog.setseed({fraction});

-- name: sample
create temporary table relief_sample on commit drop as
select {features_function}({columns}) as numbers
from {relation} as o {tablesample}
where {condition}
order by pg_catalog.random()
limit {rows};

-- name: guard
-- A row whose expression fails has no features, instead of ending the sample.
create function pg_temp.relief_guard({arguments})
  returns double precision[]
  language plpgsql
as {body};

-- name: guard_body
begin
  return {features_function}({parameters});
exception when data_exception or raise_exception then
  return null;
end

-- name: sample_counts
select count(*) as drawn, count(numbers) as computed from relief_sample;

-- name: sample_rows
copy (select numbers from relief_sample where numbers is not null) to stdout (format binary);

-- name: profile
-- NaN counts as missing. What is infinite, or so large that its square would be, has no place in a mean; it stays a value.
select value.position,
       count(value.number) as count,
       avg(value.number) filter (where abs(value.number) < 1e150) as mean,
       stddev_samp(value.number) filter (where abs(value.number) < 1e150) as stddev,
       min(value.number) filter (where abs(value.number) < 1e150) as minimum,
       max(value.number) filter (where abs(value.number) < 1e150) as maximum,
       1 - count(value.number)::double precision / count(*) as null_rate
from relief_sample
cross join lateral (
  select position, nullif(number, 'NaN') as number
  from unnest(numbers) with ordinality as element (number, position)) as value
where numbers is not null
group by value.position
order by value.position;

-- name: provenance
select pg_catalog.now() as trained_at, session_user as role, pg_catalog.current_database() as database,
       pg_catalog.current_setting('server_version') as server_version;

-- name: add_model
select relief.add_model({detector}, {document}, {checksum});

-- name: promote
select relief.promote({detector}, {version}::integer);

-- name: installation
select pg_catalog.to_regclass('relief.detector') is not null as installed,
       exists (select from pg_catalog.pg_available_extensions where name = 'plpython3u') as plpython_available,
       (select rolsuper from pg_catalog.pg_roles where rolname = current_user) as is_superuser,
       current_user as login,
       pg_catalog.current_setting('server_version_num')::integer / 10000 as major;

-- name: check
select * from relief.check();
