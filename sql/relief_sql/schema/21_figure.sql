-- Figures: how two versions of a detector compare on the same rows, and how well each ranks rows that people have labelled.

create type relief._comparison as (
  version                integer,
  promoted_version       integer,
  threshold              double precision,
  promoted_threshold     double precision,
  source                 text,
  failed                 bigint,
  scores                 double precision[],
  promoted_scores        double precision[],
  flags                  boolean[],
  promoted_flags         boolean[],
  labels                 boolean[],
  labelled_scores        double precision[],
  promoted_labelled_scores double precision[]
);
comment on type relief._comparison is
  'What two versions say of the same rows: scores and verdicts in arrays over the rows, scores in arrays over the labelled rows.';

create function relief._auroc(scores double precision[], labels boolean[])
  returns double precision
  language sql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  -- Tied rows share the mean of their ranks. Ranks are halves, so the sum of them is exact.
  with ranked as (
    select u.label, rank() over (order by u.score) + (count(*) over (partition by u.score) - 1) / 2.0 as rank
    from unnest(scores, labels) as u (score, label)
    where u.score is not null and u.label is not null
  ), counted as (
    select sum(r.rank) filter (where r.label) as ranks, count(*) filter (where r.label) as anomalies, count(*) filter (where not r.label) as ordinary
    from ranked as r
  )
  select (c.ranks - c.anomalies * (c.anomalies + 1) / 2.0)::double precision / nullif(c.anomalies * c.ordinary, 0) from counted as c
$$;
comment on function relief._auroc(double precision[], boolean[]) is
  'Returns the area under the ROC curve (Mann and Whitney 1947): how often an anomaly has a higher score than an ordinary row, a tie being '
  'half; NULL without rows of both kinds. Rows without a score or a label don''t count.';

create function relief._score_steps(scores double precision[], labels boolean[])
  returns table (score double precision, anomalies bigint, rows bigint, anomalies_from double precision, rows_from double precision)
  language sql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select s.score, s.anomalies, s.rows, (sum(s.anomalies) over from_here)::double precision, (sum(s.rows) over from_here)::double precision
  from (select u.score, count(*) filter (where u.label) as anomalies, count(*) as rows
        from unnest(scores, labels) as u (score, label)
        where u.score is not null and u.label is not null
        group by u.score) as s
  window from_here as (order by s.score desc)
$$;
comment on function relief._score_steps(double precision[], boolean[]) is
  'Returns each score that labelled rows have, highest first: how many have it, and how many have at least it, anomalies and all.';

create function relief._average_precision(scores double precision[], labels boolean[])
  returns double precision
  language sql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select case when sum(s.rows) > sum(s.anomalies) then sum(s.anomalies * s.anomalies_from / s.rows_from) / nullif(sum(s.anomalies), 0) end
  from relief._score_steps(scores, labels) as s
$$;
comment on function relief._average_precision(double precision[], boolean[]) is
  'Returns the mean of the precisions at the scores of all anomalies, as scikit-learn''s average_precision_score does; NULL without rows of both kinds.';

create function relief._precision_at(scores double precision[], labels boolean[], k bigint)
  returns double precision
  language sql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select sum(s.anomalies * least(1, greatest(0, (k - (s.rows_from - s.rows)) / s.rows))) / nullif(least(k, sum(s.rows)), 0)
  from relief._score_steps(scores, labels) as s
$$;
comment on function relief._precision_at(double precision[], boolean[], bigint) is
  'Returns the share of anomalies among the k labelled rows with the highest scores; of tied rows, as many as there is room for count in part.';

create function relief._figures(c relief._comparison, k integer default null)
  returns table (figure text, candidate double precision, promoted double precision, meaning text)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  with judged as (
    select count(*)::double precision as rows,
           count(*) filter (where u.flag) as flagged,
           count(*) filter (where u.promoted_flag) as promoted_flagged,
           count(*) filter (where u.flag and u.promoted_flag is not true) as alone,
           count(*) filter (where u.promoted_flag and u.flag is not true) as promoted_alone,
           count(*) filter (where u.score >= c.threshold) as high,
           count(*) filter (where u.promoted_score >= c.promoted_threshold) as promoted_high
    from unnest(c.scores, c.promoted_scores, c.flags, c.promoted_flags) as u (score, promoted_score, flag, promoted_flag)
  ), known as (
    select count(*) filter (where l.label) as anomalies, count(*) filter (where not l.label) as ordinary
    from unnest(c.labels) as l (label)
  ), measured as (
    select j.*, n.*, coalesce(k, n.anomalies) as k, n.anomalies > 0 and n.ordinary > 0 as both_kinds,
           case when c.promoted_version is not null then 1 - (j.alone + j.promoted_alone) / nullif(j.rows, 0) end as agreement
    from judged as j
    cross join known as n
  )
  select f.figure, round(f.candidate::numeric, 6)::double precision,
         case when c.promoted_version is not null then round(f.promoted::numeric, 6)::double precision end, f.meaning
  from measured as m
  cross join lateral (values
    (1, 'version', c.version, c.promoted_version, 'the versions that are compared'),
    (2, 'rows', m.rows, m.rows, c.source),
    (3, 'failed', c.failed, c.failed, 'rows whose features fail: not compared'),
    (4, 'agreement', m.agreement, m.agreement, 'share of rows that both flag, or neither'),
    (5, 'flagged_alone', case when c.promoted_version is not null then m.alone end, m.promoted_alone, 'rows that this version flags and the other doesn''t'),
    (6, 'alert_rate', m.flagged / nullif(m.rows, 0), m.promoted_flagged / nullif(m.rows, 0), 'share of rows flagged, by the detector''s verdict'),
    (7, 'above_threshold', m.high / nullif(m.rows, 0), m.promoted_high / nullif(m.rows, 0), 'share of rows whose score reaches the threshold'),
    (8, 'labelled_anomalies', m.anomalies, m.anomalies, 'rows labelled as anomalies'),
    (9, 'labelled_ordinary', m.ordinary, m.ordinary, 'rows labelled as ordinary'),
    (10, 'auroc', relief._auroc(c.labelled_scores, c.labels), relief._auroc(c.promoted_labelled_scores, c.labels),
     'how often a labelled anomaly scores higher than a labelled ordinary row'),
    (11, 'average_precision', relief._average_precision(c.labelled_scores, c.labels),
     relief._average_precision(c.promoted_labelled_scores, c.labels), 'mean precision at the scores of the labelled anomalies'),
    (12, 'precision_at_k', case when m.both_kinds then relief._precision_at(c.labelled_scores, c.labels, m.k) end,
     case when m.both_kinds then relief._precision_at(c.promoted_labelled_scores, c.labels, m.k) end,
     format('share of anomalies among the %s labelled rows with the highest scores', least(m.k, m.anomalies + m.ordinary)))
  ) as f (n, figure, candidate, promoted, meaning)
  order by f.n
$$;
comment on function relief._figures(relief._comparison, integer) is
  'Returns the figures of a comparison, one a row: the candidate''s, the promoted version''s, what it means. Those of labels are NULL without labels of both kinds.';

create function relief._require_k(k integer)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if k < 1 then
    raise exception 'k is %, not at least 1', k
      using errcode = 'numeric_value_out_of_range',
            hint = 'It is how many alerts somebody can look at, such as 100; NULL for as many as there are labelled anomalies.';
  end if;
end
$$;
comment on function relief._require_k(integer) is 'Raises an error unless so many rows can be looked at.';
