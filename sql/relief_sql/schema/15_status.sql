-- Status: how each detector is, and how much history it lacks.

create view relief.status
  with (security_barrier)
as
select
  d.name as detector,
  d.relation,
  d.promoted_version,
  relief._trigger_function(d) is not null as attached,
  r.refreshed_at as profile_refreshed_at,
  r.newest_day as profile_newest_day,
  coalesce(g.rows, 0) as baseline_rows,
  d.min_history,
  (select count(*) from relief.profile as p where p.detector_id = d.id and p.entity <> '' and p.season = -1) as entities,
  (select count(*) from relief.profile as p where p.detector_id = d.id and p.entity <> '' and p.season = -1 and not p.complete)
    as entities_warming_up,
  greatest(0, d.min_history - coalesce(h.count, 0))::bigint as rows_missing,
  case
    when b.problems is not null then 'broken'
    when d.promoted_version is null then 'no model'
    when h.count is null or h.count < d.min_history then 'warming up'
    else 'ready'
  end as state,
  b.problems,
  d.mode,
  (select count(*) from relief.quarantine as q where q.detector_id = d.id and q.state = 'held') as held_rows
from relief.detector as d
left join relief.refresh as r on r.detector_id = d.id
left join relief.profile as g on g.detector_id = d.id and g.entity = '' and g.season = -1
cross join lateral (select max(c) from unnest(g.count) as c) as h (count)
cross join lateral (select string_agg(t.problem, E'\n') from relief._check_table(d) as t (problem)) as b (problems)
where relief._owns(d.relation, d.created_by);
comment on view relief.status is 'How each detector is that you may act on: model, trigger, profile, and how much history is missing.';
comment on column relief.status.held_rows is 'How many rows are in quarantine that nobody has released or discarded.';
comment on column relief.status.problems is 'How the table has changed such that rows aren''t scored, with the statement that mends it.';
comment on column relief.status.rows_missing is 'How many ordinary rows with a value the profile lacks before any row can be judged by it.';
comment on column relief.status.entities_warming_up is 'Entities with too little history of their own, judged by a coarser level.';
