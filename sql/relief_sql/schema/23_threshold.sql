-- Thresholds: what each would flag of the rows that people have labelled. Nothing is applied by itself: a threshold belongs to a version.

create function relief._threshold_figures(scores double precision[], labels boolean[], drawn double precision[], in_use double precision)
  returns table (threshold double precision, "precision" double precision, recall double precision, f1 double precision,
                 alert_rate double precision, remark text)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  with known as (
    select u.score, u.label from unnest(scores, labels) as u (score, label) where u.score is not null and u.label is not null
  ), candidate as (
    -- Recall changes at the scores of anomalies alone; four digits are enough to tell, and to type.
    select distinct greatest(floor(k.score * 10000) / 10000, 0.0001) as threshold from known as k where k.label
    union
    select in_use
  ), counted as (
    select c.threshold,
           (select count(*) from known as k where k.label and k.score >= c.threshold)::double precision as hits,
           (select count(*) from known as k where k.score >= c.threshold)::double precision as alerts,
           (select count(*) from known as k where k.label)::double precision as anomalies
    from candidate as c
    where c.threshold is not null
  ), told as (
    select c.*, c.hits / nullif(c.alerts, 0) as "precision", c.hits / nullif(c.anomalies, 0) as recall,
           2 * c.hits / nullif(c.alerts + c.anomalies, 0) as f1
    from counted as c
  ), ranked as (
    select t.*, row_number() over (order by t.f1 desc nulls last, t.threshold desc) = 1 as is_best, t.threshold = in_use as is_in_use,
           row_number() over (order by t.threshold) as n, count(*) over () as candidates
    from told as t
  )
  -- Some twenty, spread evenly over the recall.
  select r.threshold, r."precision", r.recall, r.f1,
         (select avg((s.score >= r.threshold)::integer)::double precision from unnest(drawn) as s (score) where s.score is not null),
         nullif(concat_ws(', ', case when r.is_in_use then 'in use' end, case when r.is_best then 'best F1' end), '')
  from ranked as r
  where r.is_best or r.is_in_use or r.n = 1 or (r.n * 18) / r.candidates > ((r.n - 1) * 18) / r.candidates
  order by r.threshold
$$;
comment on function relief._threshold_figures(double precision[], boolean[], double precision[], double precision) is
  'Returns, for some twenty thresholds, what they would flag of labelled rows with these scores, and of rows drawn from all.';

create function relief.suggest_threshold(detector text, version integer default null, max_rows integer default 20000)
  returns table (threshold double precision, "precision" double precision, recall double precision, f1 double precision,
                 alert_rate double precision, remark text)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  d constant relief.detector := relief._present_detector(detector);
  m constant relief.model := relief._model_of(d, coalesce($2, d.promoted_version));
  c constant relief._comparison := relief._compare(d, m, null, $3);
  anomalies bigint;
  ordinary bigint;
begin
  select count(*) filter (where l.label), count(*) filter (where not l.label) into anomalies, ordinary from unnest(c.labels) as l (label);
  if anomalies = 0 or ordinary = 0 then
    raise exception 'of the rows of detector "%", % are labelled as anomalies and % as ordinary: both kinds are needed', d.name, anomalies, ordinary
      using errcode = 'object_not_in_prerequisite_state',
            hint = case when relief._key_text(d, 'o') is null then 'Labels name rows by their primary key' || relief._way_to_a_key(d.relation)
                        else format('Label some of both, such as what was flagged: select relief.label(%L, %L, %s);',
                                    d.name, relief._some_key(d), (anomalies = 0)::text) end;
  end if;
  return query
    select round(t.threshold::numeric, 6)::double precision, round(t."precision"::numeric, 4)::double precision,
           round(t.recall::numeric, 4)::double precision, round(t.f1::numeric, 4)::double precision,
           round(t.alert_rate::numeric, 6)::double precision, t.remark
    from relief._threshold_figures(c.labelled_scores, c.labels, c.scores, m.threshold) as t;
end
$$;
comment on function relief.suggest_threshold(text, integer, integer) is
  'Tells for some twenty thresholds of a version, the promoted one unless one is given, which share of what they flag among labelled rows is an '
  'anomaly (precision), which share of the labelled anomalies they flag (recall), the harmonic mean of both (f1), and which share of at most max_rows '
  'rows they flag (alert_rate). By scores alone. Nothing is changed: relief.set_threshold does that.';

create function relief.set_threshold(detector text, threshold double precision, version integer default null)
  returns integer
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_detector(detector);
  m constant relief.model := relief._model_of(d, coalesce(version, d.promoted_version));
  document text;
  made integer;
begin
  if threshold is null or not (threshold > 0 and threshold <= 1) then
    raise exception 'threshold % of detector "%" is not in (0, 1]', threshold, d.name
      using errcode = 'numeric_value_out_of_range', hint = format('See what each would flag: select * from relief.suggest_threshold(%L);', d.name);
  end if;
  document := jsonb_set(m.document::jsonb, '{threshold}', jsonb_build_object('value', threshold, 'origin', 'fixed'));
  made := relief.add_model(d.name, document, encode(sha256(convert_to(document, 'UTF8')), 'hex'));
  perform relief._audit(d, 'set_threshold', made, details => jsonb_build_object('threshold', threshold, 'of_version', m.version));
  return made;
end
$$;
comment on function relief.set_threshold(text, double precision, integer) is
  'Makes a new version with the forest of another one, the promoted one unless one is given, and another threshold, and returns its number. It '
  'scores once it is promoted. The next training finds a threshold of its own again.';
