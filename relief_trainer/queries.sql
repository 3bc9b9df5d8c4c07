-- What the trainer asks of the database. A query begins with "-- name:"; braces are filled in by psycopg.sql, which quotes.

-- name: detector
select d.id, d.name, d.relation::text as relation, d.schema_name, d.table_name, d.time_column, d.contamination, d.threshold,
       d.promoted_version, d.on_error,
       relief._guarded_call(d, 'o') as guarded_call, relief._features_call(d, 'o') as features_call,
       relief._guarded_categories_call(d, 'o') as guarded_categories_call, relief._categories_call(d, 'o') as categories_call,
       relief._entity_text(d, 'o') as entity_text, relief._season_text(d, 'o') as season_text,
       d.entity <> '{{}}' or d.season is not null as has_levels,
       relief._generated(d, 'features') is not null as is_whole,
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
select m.version, s.stage, m.threshold, m.threshold_origin, m.created_at, m.created_by, m.checksum
from relief.model as m
join relief.detector as d on d.id = m.detector_id
join relief.model_stage as s on s.detector = d.name and s.version = m.version
where d.id = {detector_id}
order by m.version;

-- name: document
select version, document, checksum
from relief.model
where detector_id = {detector_id} and version = coalesce({version}::integer, version)
order by version desc
limit 1;

-- name: changed_column
select c.name, relief._column_now(d, c.name) as name_now
from relief.detector as d
cross join lateral unnest(d.columns || d.entity || d.time_column) as c (name)
where d.id = {detector_id} and c.name is not null and relief._column_now(d, c.name) is distinct from c.name
order by relief._column_now(d, c.name) is not null, c.name
limit 1;

-- name: owner_and_login
select pg_catalog.pg_get_userbyid(c.relowner) as owner,
       (select r.rolsuper from pg_catalog.pg_roles as r where r.oid = c.relowner) as owner_is_superuser,
       session_user as login,
       (select r.rolsuper from pg_catalog.pg_roles as r where r.rolname = session_user) as login_is_superuser
from pg_catalog.pg_class as c
where c.oid = {relation}::pg_catalog.regclass;

-- name: column_list
select relief._column_list({relation}::pg_catalog.regclass);

-- name: time_option
select relief._time_option({relation}::pg_catalog.regclass);

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
select {features} as numbers, {categories} as categories, {entity} as entity, {season} as season
-- Drawn within, as a foreign data wrapper might send the order to a server that has another random(), or none.
from (select o.*, pg_catalog.random() as relief_draw from {relation} as o {tablesample} where {condition}) as o
order by o.relief_draw
limit {rows};

-- name: empty_sample
create temporary table relief_sample (numbers float8[], entity text default '', season pg_catalog.int2 default -1) on commit drop;

-- name: load_sample
copy relief_sample (numbers) from stdin;

-- name: sample_counts
select count(*) as drawn, count(numbers) as computed from relief_sample;

-- name: sample_rows
copy (select numbers, categories from relief_sample where numbers is not null) to stdout (format binary);

-- name: calibrate
select relief._calibrate(relief._present_detector({name}));

-- name: profile
-- NaN counts as missing. What is infinite, or so large that its square would be, has no place in a mean; it stays a value.
-- What is called scaled is on the feature's scale, from its origin, as in relief.profile.
with value as (
  select element.position, nullif(element.number, 'NaN') as number,
         case when abs(nullif(element.number, 'NaN')) < 1e150 then element.number end as finite,
         case when abs(nullif(element.number, 'NaN')) < 1e150
              then relief._scaled(element.number, f.transform, f.unit, coalesce(f.origin, 0)) end as place
  from relief_sample
  cross join lateral unnest(numbers) with ordinality as element (number, position)
  join relief.feature as f on f.detector_id = {detector_id} and f.position = element.position
  where numbers is not null
), statistic as (
  select position, count(number) as count, avg(finite) as mean, stddev_samp(finite) as stddev,
         min(finite) as minimum, max(finite) as maximum, 1 - count(number)::double precision / count(*) as null_rate,
         avg(place) as scaled_mean, stddev_samp(place) as scaled_stddev,
         percentile_cont(0.5) within group (order by place) as scaled_median,
         percentile_cont(0.01) within group (order by place) as scaled_p01,
         percentile_cont(0.99) within group (order by place) as scaled_p99
  from value
  group by position
)
select s.*, (select 1.4826 * percentile_cont(0.5) within group (order by abs(v.place - s.scaled_median))
             from value as v where v.position = s.position) as scaled_spread,
       f.transform as scaled_transform, f.unit as scaled_unit, f.origin as scaled_origin
from statistic as s
join relief.feature as f on f.detector_id = {detector_id} and f.position = s.position
order by s.position;

-- name: rule
select relief._rule(d, null::relief.model) as rule,
       exists (select from relief.profile as p where p.detector_id = d.id and p.entity = '' and p.season = -1) as has_history,
       (select r.refreshed_at from relief.refresh as r where r.detector_id = d.id) is null as never_refreshed
from relief.detector as d
where d.name = {name};

-- name: sample_levels
select numbers, entity, relief._levels({detector_id}, entity, season) as levels
from relief_sample
where numbers is not null
limit {rows};

-- name: refresh
select relief.refresh_profile({name}, {full});

-- name: provenance
select pg_catalog.now() as trained_at, session_user as role, pg_catalog.current_database() as database,
       pg_catalog.current_setting('server_version') as server_version;

-- name: add_model
select relief.add_model({detector}, {document}, {checksum});

-- name: promote
select relief.promote({detector}, {version}::integer, {force}, {reason}::text);

-- name: rollback
select relief.rollback({detector}, {reason}::text);

-- name: retire
select relief.retire({detector}, {version}, {reason}::text);

-- name: vacuum
select name, what, dropped, kept from relief.vacuum({detector}::text, {max_rows});

-- name: log
select happened_at, role, action, version, reason, details
from relief.audit
where detector = {detector}
order by id;

-- name: installation
-- Without to_regclass, which fails for roles without rights on the schema.
select exists (select from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
               where n.nspname = 'relief' and c.relname = 'detector') as installed,
       coalesce(pg_catalog.has_schema_privilege(pg_catalog.to_regnamespace('relief')::pg_catalog.oid, 'usage'), false) as may_use,
       exists (select from pg_catalog.pg_available_extensions where name = 'plpython3u') as plpython_available,
       (select extversion from pg_catalog.pg_extension where extname = 'relief') as extension_version,
       exists (select from pg_catalog.pg_available_extension_versions where name = 'relief' and version = {version}) as has_extension_files,
       (select rolsuper from pg_catalog.pg_roles where rolname = current_user) as is_superuser,
       current_user as login,
       pg_catalog.current_setting('server_version_num')::integer / 10000 as major;

-- name: no_rows
select from {relation} as o where {condition} limit 0;

-- name: value
select {value}::{type};

-- name: regenerate
select relief.regenerate();

-- name: check
select * from relief.check();

-- name: source_relation
select c.oid::pg_catalog.regclass::text as relation, c.reltuples as rows, c.relkind in ('r', 'm', 'p') as can_be_sampled,
       array(select a.attname::text
             from pg_catalog.pg_index as i
             cross join lateral unnest(i.indkey::smallint[]) with ordinality as k (attnum, n)
             join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
             where i.indrelid = c.oid and i.indisprimary
             order by k.n) as keys
from pg_catalog.pg_class as c
where c.oid = pg_catalog.to_regclass({relation}) and c.relkind in ('r', 'm', 'p', 'v', 'f');

-- name: source_columns
-- Conversions as in relief._conversion, which the source's database may lack; what has none, the trainer converts.
with recursive base as (
  select a.attnum, a.attname, a.atttypid as type
  from pg_catalog.pg_attribute as a
  where a.attrelid = {relation}::pg_catalog.regclass and a.attnum > 0 and not a.attisdropped
  union all
  select b.attnum, b.attname, t.typbasetype from base as b join pg_catalog.pg_type as t on t.oid = b.type where t.typtype = 'd'
)
select b.attname as name,
       case
         when b.type = 'real'::pg_catalog.regtype then '{{}}::pg_catalog.float8'
         when b.type = 'money'::pg_catalog.regtype then '{{}}::pg_catalog.numeric'
         when b.type in ('interval'::pg_catalog.regtype, 'time'::pg_catalog.regtype, 'timetz'::pg_catalog.regtype) then 'pg_catalog.date_part(''epoch'', {{}})'
       end as conversion
from base as b
join pg_catalog.pg_type as t on t.oid = b.type
where t.typtype <> 'd'
order by b.attnum;

-- name: source_rows
select {columns} from {relation} as o;

-- name: source_sample
select {columns}
from (select o.*, pg_catalog.random() as relief_draw from {relation} as o {tablesample}) as o
order by o.relief_draw
limit {rows};

-- name: consider_training
select train, reason from relief._consider_training({detector}, {if_drifted}, {max_age}::interval);

-- name: promote_if_better
select promoted, reason from relief._promote_if_better({detector}, {version}::integer);

-- name: jobs
select j.id, j.detector, j.kind, j.state, j.attempts, j.requested_by, j.requested_at, j.scheduled_for, j.started_at, j.finished_at,
       j.worker, j.version, j.promoted, j.reason, j.error, j.hint, j.options
from relief.job as j
where j.detector = coalesce({detector}, j.detector)
order by j.id desc
limit {rows};

-- name: open_jobs
select id, detector from relief.job where state in ('queued', 'running', 'waiting') order by id;

-- name: queue_due
select relief._queue_due();

-- name: start_job
select (j).* from relief._start_job({job}::bigint) as j;

-- name: note_version
select relief._note_version({job}::bigint, {attempt}, {version}::integer, {reason});

-- name: finish_job
select relief._finish_job({job}::bigint, {attempt}, {state}, {reason}, {promoted}::boolean);

-- name: fail_job
select relief._fail_job({job}::bigint, {attempt}, {error}, {hint}, {again}) as state;

-- name: check_client
-- A server that works for a worker that is gone notices, where it can. Not all platforms let it.
select pg_catalog.set_config('client_connection_check_interval', '5s', false);

-- name: owners
select distinct r.rolname as owner
from relief.detector as d
join pg_catalog.pg_class as c on c.oid = d.relation
join pg_catalog.pg_roles as r on r.oid = c.relowner
order by 1;

-- name: queue_schema
select u.name, n.oid is not null as exists, pg_catalog.pg_get_userbyid(n.nspowner) = session_user as is_own,
       pg_catalog.pg_get_userbyid(n.nspowner) as owner, pg_catalog.obj_description(n.oid, 'pg_namespace') as comment,
       session_user as login, pg_catalog.current_database() as database,
       exists (select from pg_catalog.pg_class as c where c.relnamespace = n.oid and c.relname = 'procrastinate_workers') as has_workers,
       array(select pg_catalog.format('drop %s if exists %s cascade;', o.kind, o.name)
             from (select 'table', c.oid::pg_catalog.regclass::text from pg_catalog.pg_class as c where c.relnamespace = n.oid and c.relkind = 'r'
                   union all
                   select 'routine', p.oid::pg_catalog.regprocedure::text from pg_catalog.pg_proc as p where p.pronamespace = n.oid
                   union all
                   select 'type', t.oid::pg_catalog.regtype::text from pg_catalog.pg_type as t
                   left join pg_catalog.pg_class as c on c.oid = t.typrelid
                   where t.typnamespace = n.oid and (t.typtype = 'e' or c.relkind = 'c')) as o (kind, name)) as drops
from (select ('relief_queue_' || session_user)::pg_catalog.name) as u (name)
left join pg_catalog.pg_namespace as n on n.nspname = u.name;

-- name: live_workers
select count(*) as count from {schema}.procrastinate_workers where last_heartbeat > pg_catalog.now() - interval '1 minute';

-- name: create_queue_schema
create schema {schema};

-- name: use_schema
select pg_catalog.set_config('search_path', pg_catalog.quote_ident({schema}) || ', pg_temp', {local});

-- name: comment_on_queue_schema
comment on schema {schema} is {text};

-- name: listen
listen relief_job;

-- name: backfill_start
select relief._require_primary(), pg_catalog.xid(pg_catalog.pg_current_xact_id())::text as started;

-- name: backfill_tables
select t.relation::oid::bigint as relation, relief._blocks(t.relation) as blocks, relief._blocks_of_rows(t.relation, {batch_rows}) as batch,
       greatest(c.reltuples, 0)::bigint as rows
from unnest(relief._backfill_tables({name})) as t (relation)
join pg_catalog.pg_class as c on c.oid = t.relation;

-- name: backfill_rows
select b.scored, b.settled
from relief._backfill_rows({name}, {relation}::bigint::oid::regclass, {started}::xid, {how}, {first}::bigint, {end}::bigint) as b;

-- name: backfill_end
select relief._note_partitions({name}, true);

-- name: channel
select relief.channel(name) from relief._detector({detector}::text);

-- name: subscribe
select relief.subscribe({detector}, {subscription}, {since}::timestamptz);

-- name: next_events
select batch::text, event, content from relief.next_events({detector}, {subscription}, {count}) order by event;

-- name: confirm
select relief.confirm({detector}, {subscription}, {batch}, {event});

-- name: snapshot
select pg_catalog.pg_current_snapshot()::text as snapshot;

-- name: begin_watch
select pg_catalog.pg_current_snapshot()::text as snapshot, {since}::timestamptz from relief._detector({detector}::text);

-- name: unread
select u.id as event, relief._event_content(u) as content
from relief._unread({detector}, coalesce({since}::timestamptz, '-infinity'), {seen}::pg_catalog.pg_snapshot, {reading}, {last}, {count}) as u
order by u.id;

-- name: identity
select pg_catalog.current_database() as database, (select system_identifier::text from pg_catalog.pg_control_system()) as server;

-- name: backtest
select figure, candidate, promoted, meaning from relief.backtest({detector}, {version}::integer, {since}::timestamptz, {rows}::integer, {k}::integer);

-- name: compared_scores
select c.version, c.promoted_version, c.threshold, c.promoted_threshold, c.scores, c.promoted_scores,
       c.labels, c.labelled_scores, c.promoted_labelled_scores
from relief._present_detector({detector}) as d
cross join lateral relief._compare(d, relief._model_of(d, {version}::integer), {since}::timestamptz, {rows}::integer) as c;

-- name: suggest_threshold
select threshold, "precision", recall, f1, alert_rate, remark from relief.suggest_threshold({detector}, {version}::integer, {rows}::integer);
