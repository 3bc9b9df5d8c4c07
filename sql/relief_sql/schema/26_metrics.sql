-- Metrics: each detector in numbers, for monitoring. Nothing is written for them where rows are scored: they come from events, from what
-- training, refreshing and measuring drift have stored, and from the statistics that the server keeps anyway.

-- Counting the newest events reads no older ones; writing one pays next to nothing for it.
create index event_happened_idx on relief.event using brin (happened_at);

create table relief.measured_drift (
  detector_id    integer not null references relief.detector on delete cascade,
  feature        text not null,
  model_version  integer not null,
  psi            double precision,
  ks             double precision,
  null_rate_then double precision,
  null_rate_now  double precision,
  rows           bigint not null,
  verdict        text not null,
  measured_at    timestamptz not null default pg_catalog.now(),
  primary key (detector_id, feature)
);
comment on table relief.measured_drift is 'What relief.measure_drift found last: it takes time, so relief.metrics tells what was found.';
comment on column relief.measured_drift.model_version is 'The version that was the promoted one then: of another one the figures tell nothing.';

alter table relief.measured_drift enable row level security;
create policy owner on relief.measured_drift using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.measured_drift is 'Follows the detector.';

create function relief.measure_drift(detector text, since timestamptz default null, max_rows integer default 100000)
  returns setof relief.measured_drift
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._present_detector(detector);
begin
  perform relief._require_primary();
  return query
    insert into relief.measured_drift as m
      (detector_id, feature, model_version, psi, ks, null_rate_then, null_rate_now, rows, verdict)
    select d.id, f.feature, d.promoted_version, f.psi, f.ks, f.null_rate_then, f.null_rate_now, f.rows, f.verdict
    from relief.drift(d.name, since, max_rows) as f
    on conflict on constraint measured_drift_pkey do update
      set model_version = excluded.model_version, psi = excluded.psi, ks = excluded.ks, null_rate_then = excluded.null_rate_then,
          null_rate_now = excluded.null_rate_now, rows = excluded.rows, verdict = excluded.verdict, measured_at = excluded.measured_at
    returning m.*;
end
$$;
comment on function relief.measure_drift(text, timestamptz, integer) is
  'Does what relief.drift does, and keeps what it finds for relief.metrics, until it is called again.';

-- With definer rights, as whoever monitors sees no detector. It tells no more than two bits.
create function relief._health(detector integer, out attached boolean, out broken boolean)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select relief._trigger_function(d) is not null, exists (select from relief._check_table(d))
  from relief.detector as d
  where d.id = detector
$$;
comment on function relief._health(integer) is
  'Returns whether a detector, by its number, is attached, and whether its table has changed such that rows aren''t scored.';

create view relief.metrics
  with (security_barrier)
as
with recent as (
  select e.detector, e.relation,
         sum(e.rows) filter (where e.error is null and h.in_hour) as anomalies_in_hour,
         sum(e.rows) filter (where e.error is null) as anomalies_in_day,
         sum(e.rows) filter (where e.error is not null and h.in_hour) as failures_in_hour,
         sum(e.rows) filter (where e.error is not null) as failures_in_day,
         percentile_cont(array[0.5, 0.95, 0.99]) within group (order by e.scoring_ms) filter (where h.in_hour) as scoring_ms
  from relief.event as e
  cross join lateral (select e.happened_at > now() - interval '1 hour') as h (in_hour)
  where e.happened_at > now() - interval '1 day'
  group by e.detector, e.relation
)
select
  d.name as detector,
  h.attached,
  h.broken,
  d.promoted_version,
  extract(epoch from now() - p.created_at)::double precision as model_age_seconds,
  extract(epoch from now() - r.refreshed_at)::double precision as profile_age_seconds,
  t.inserted as rows_inserted,
  t.updated as rows_updated,
  coalesce(e.anomalies_in_hour, 0)::bigint as anomalies_last_hour,
  coalesce(e.anomalies_in_day, 0)::bigint as anomalies_last_day,
  coalesce(e.failures_in_hour, 0)::bigint as failures_last_hour,
  coalesce(e.failures_in_day, 0)::bigint as failures_last_day,
  (select count(*) from relief.quarantine as q where q.detector_id = d.id and q.state = 'held') as held_rows,
  e.scoring_ms[1] as scoring_ms_p50,
  e.scoring_ms[2] as scoring_ms_p95,
  e.scoring_ms[3] as scoring_ms_p99,
  a.flagged as flagged_share,
  a.unscored as unscored_share,
  m.psi as drift_psi,
  m.drifted as drifted_features,
  extract(epoch from now() - m.measured_at)::double precision as drift_age_seconds,
  j.open as jobs_open,
  j.failed as jobs_failed_last_day
from relief.detector as d
cross join lateral relief._health(d.id) as h
left join relief.model as p on p.detector_id = d.id and p.version = d.promoted_version
left join relief.refresh as r on r.detector_id = d.id
left join recent as e on e.detector = d.name and e.relation = d.relation
left join lateral (
  select sum(pg_stat_get_tuples_inserted(l.relid))::bigint, sum(pg_stat_get_tuples_updated(l.relid))::bigint
  from (select d.relation union select p.relid from pg_partition_tree(d.relation) as p) as l (relid)) as t (inserted, updated) on true
left join lateral (
  -- What ANALYZE knows of the companion columns: the frequency of true is what NULL and false, its most common value, leave over.
  select max(case when b.attname = 'relief_is_anomaly' and s.stakind1 = 1 then greatest(0, 1 - s.stanullfrac - (
               select coalesce(sum(v.frequency), 0)
               from unnest(s.stavalues1::text::boolean[], s.stanumbers1) as v (value, frequency)
               where not v.value)) end),
         max(case when b.attname = 'relief_anomaly_score' then s.stanullfrac end)
  from pg_attribute as b
  join pg_class as c on c.oid = b.attrelid
  join pg_statistic as s on s.starelid = b.attrelid and s.staattnum = b.attnum and s.stainherit = (c.relkind = 'p')
  where b.attrelid = d.relation and b.attname in ('relief_is_anomaly', 'relief_anomaly_score')) as a (flagged, unscored) on true
left join lateral (
  select max(f.psi), count(*) filter (where f.verdict like 'drifted%'), min(f.measured_at)
  from relief.measured_drift as f
  where f.detector_id = d.id and f.model_version = d.promoted_version
  having count(*) > 0) as m (psi, drifted, measured_at) on true
cross join lateral (
  select count(*) filter (where k.state in ('queued', 'running', 'waiting')),
         count(*) filter (where k.state = 'failed' and k.finished_at > now() - interval '1 day')
  from relief.job as k
  where k.detector = d.name) as j (open, failed)
where relief._owns(d.relation, d.created_by) or pg_has_role('pg_read_all_stats', 'usage');
comment on view relief.metrics is
  'Each detector in numbers: of those that you may act on or, for members of pg_read_all_stats such as pg_monitor, of all. Ages are in seconds.';
comment on column relief.metrics.attached is 'Whether rows are scored as they are written.';
comment on column relief.metrics.broken is 'Whether the table has changed such that rows aren''t scored: relief.check() tells its owner what mends that.';
comment on column relief.metrics.promoted_version is 'The version that scores; NULL where there is none.';
comment on column relief.metrics.model_age_seconds is 'How long ago the promoted version was stored.';
comment on column relief.metrics.profile_age_seconds is 'How long ago the profile was refreshed; NULL if never.';
comment on column relief.metrics.rows_inserted is
  'Rows inserted into the table since the server''s statistics were reset, of transactions that failed too: while attached, so many were scored.';
comment on column relief.metrics.rows_updated is 'Rows updated, likewise: scored again if a column that a feature reads had changed.';
comment on column relief.metrics.anomalies_last_hour is 'Inserted rows of the last hour that were anomalies, by their events.';
comment on column relief.metrics.failures_last_hour is 'Inserted rows of the last hour that couldn''t be scored, by their events.';
comment on column relief.metrics.held_rows is 'Anomalies that wait in relief.quarantine.';
comment on column relief.metrics.scoring_ms_p50 is
  'How many milliseconds computing the features and judging them took for half of the rows of the last hour that left an event; of others it isn''t '
  'measured. p95 and p99: for so many in a hundred.';
comment on column relief.metrics.flagged_share is 'The share of the table''s rows that are flagged, as its last ANALYZE estimated it.';
comment on column relief.metrics.unscored_share is 'The share of the table''s rows without a score, likewise: before attach, or failed, or without any feature.';
comment on column relief.metrics.drift_psi is
  'The largest population stability index of a feature, as relief.measure_drift found it for the promoted version; NULL if it wasn''t called.';
comment on column relief.metrics.drifted_features is 'How many features had drifted then: train again.';
comment on column relief.metrics.jobs_open is 'Jobs of relief worker that are queued, running, or waiting to be tried again.';
comment on column relief.metrics.jobs_failed_last_day is 'Jobs of relief worker that ended in failure during the last day.';
