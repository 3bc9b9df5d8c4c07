-- Backtest: what a version would have said of the rows that are there, beside what the promoted one says.

create function relief._source_text(d relief.detector, since timestamptz, max_rows integer, out source text, out told text)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- Not a stable function: EXPLAIN isn't allowed there.
  condition constant text := relief._since_text(d, since);
  plan json;
  estimate bigint;
  sampled constant boolean := (select relkind in ('r', 'p', 'm') from pg_class where oid = d.relation);
  percent double precision := 100;
begin
  execute format('explain (format json) select from %s as o where %s', d.relation, condition) into plan using since;
  estimate := (plan #>> '{0,Plan,Plan Rows}')::bigint;
  if sampled and estimate > max_rows then
    -- About the share that is asked for; what is too much is cut off, in an order that the next call repeats.
    percent := 110.0 * max_rows / estimate;
  end if;
  source := format('(select o.* from %s as o%s where %s order by %s limit %s)', d.relation,
                   case when percent < 100 then format(' tablesample system (%s) repeatable (0)', percent) else '' end,
                   condition, case when sampled then 'hashtextextended(o.ctid::text, 0)' else 'random()' end, max_rows);
  told := case when estimate > max_rows then format('rows drawn from about %s', estimate) else 'rows' end
          || coalesce(' since ' || since, '');
end
$$;
comment on function relief._source_text(relief.detector, timestamptz, integer) is
  'Returns the text of at most as many of a detector''s rows, drawn at random, $1 being the time since when, and how to tell of them.';

create function relief._since_text(d relief.detector, since timestamptz)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if since is not null and d.time_column is null then
    raise exception 'detector "%" has no time column to compare since with', d.name
      using errcode = 'invalid_parameter_value',
            hint = concat('Leave since out', ', or create the detector with ' || relief._time_option(d.relation), '.');
  end if;
  return case when since is null then '$1::timestamptz is null' else format('o.%I >= $1::timestamptz', d.time_column) end;
end
$$;
comment on function relief._since_text(relief.detector, timestamptz) is
  'Returns the condition for rows, called o, since a time, which is parameter 1, or raises an error if the detector has no times.';

create function relief._labelled_text(d relief.detector, since timestamptz, max_rows integer)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- By the labels' keys into the table: they are few, and the table may be large. Without a primary key there are none.
  select coalesce(
    (select format('(select o.*, l.is_anomaly as "~relief_label" from relief.label as l cross join lateral jsonb_to_record(l.key) as k (%s) '
                   'join %s as o on %s where l.detector_id = %s and %s order by l.labelled_at desc limit %s)',
                   string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '), d.relation,
                   string_agg(format('o.%1$I = k.%1$I', a.attname), ' and '), d.id, relief._since_text(d, since), max_rows)
     from pg_index as i
     join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey::smallint[])
     where i.indrelid = d.relation and i.indisprimary
     having count(*) > 0),
    format('(select o.*, null::boolean as "~relief_label" from %s as o where false)', d.relation))
$$;
comment on function relief._labelled_text(relief.detector, timestamptz, integer) is
  'Returns the text of the labelled rows of a detector''s table, $1 being the time since when: their columns and, as "~relief_label", the label.';

create function relief._judged_text(d relief.detector, m relief.model, p relief.model, source text, label text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- OFFSET 0 keeps the planner from computing the features, and a judgement, once for each time that they are named.
  select format($sql$
    select j.is_whole, (j.judgement ->> 'relief_anomaly_score')::float8 as score, (j.judgement ->> 'relief_is_anomaly')::boolean as flag,
           (j.promoted ->> 'relief_anomaly_score')::float8 as promoted_score, (j.promoted ->> 'relief_is_anomaly')::boolean as promoted_flag, j.label
    from (
      select r.numbers is not null as is_whole, r.label,
             case when r.numbers is not null then %s end as judgement, case when r.numbers is not null then %s end as promoted
      from (select %s as numbers, %s as categories, %s as entity, %s as season, false as in_full, %s as label from %s as o offset 0) as r
      offset 0
    ) as j
  $sql$,
    relief._judge_text(d, m, relief._rule(d, m)), case when p.version is null then 'null::jsonb' else relief._judge_text(d, p, relief._rule(d, p)) end,
    relief._guarded_call(d, 'o'), relief._guarded_categories_call(d, 'o'), relief._entity_text(d, 'o'), relief._season_text(d, 'o'), label, source)
$$;
comment on function relief._judged_text(relief.detector, relief.model, relief.model, text, text) is
  'Returns the query that judges rows, called o, by two models: scores, verdicts, and the label that an expression gives.';

create function relief._compare(d relief.detector, m relief.model, since timestamptz, max_rows integer)
  returns relief._comparison
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  p relief.model;
  drawn record;
  judged record;
  labelled record;
begin
  perform relief._refuse_foreign_superuser(d);
  if max_rows is null or max_rows < 1 then
    raise exception 'max_rows is %, not at least 1', max_rows
      using errcode = 'numeric_value_out_of_range', hint = 'It is how many rows to look at, such as 20000.';
  end if;
  perform relief._require_generated(d);
  perform relief._require_features(d, m);
  select * into p from relief.model as e where e.detector_id = d.id and e.version = d.promoted_version;
  begin
    drawn := relief._source_text(d, since, max_rows);
    execute format($sql$
      select count(*) filter (where not s.is_whole) as failed,
             array_agg(s.score) filter (where s.is_whole) as scores, array_agg(s.promoted_score) filter (where s.is_whole) as promoted_scores,
             array_agg(s.flag) filter (where s.is_whole) as flags, array_agg(s.promoted_flag) filter (where s.is_whole) as promoted_flags
      from (%s) as s
    $sql$, relief._judged_text(d, m, p, drawn.source, 'null::boolean'))
      into judged using since;
    execute format('select array_agg(s.label) as labels, array_agg(s.score) as scores, array_agg(s.promoted_score) as promoted_scores '
                   'from (%s) as s where s.score is not null',
                   relief._judged_text(d, m, p, relief._labelled_text(d, since, max_rows), 'o."~relief_label"'))
      into labelled using since;
  exception when undefined_column or undefined_function or datatype_mismatch then
    raise exception 'rows of table % can''t be scored by detector "%": %', d.relation, d.name, sqlerrm
      using errcode = sqlstate, hint = relief._table_changed();
  end;
  return row(m.version, p.version, m.threshold, p.threshold, drawn.told, judged.failed, judged.scores, judged.promoted_scores, judged.flags,
             judged.promoted_flags, labelled.labels, labelled.scores, labelled.promoted_scores)::relief._comparison;
end
$$;
comment on function relief._compare(relief.detector, relief.model, timestamptz, integer) is
  'Judges a detector''s rows since a time, a sample where they are many, and all that are labelled, by a model and by the promoted one.';

create function relief.backtest(
    detector text,
    version integer default null,
    since timestamptz default null,
    max_rows integer default 20000,
    k integer default null)
  returns table (figure text, candidate double precision, promoted double precision, meaning text)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  d constant relief.detector := relief._present_detector(detector);
begin
  perform relief._require_k(k);
  return query select * from relief._figures(relief._compare(d, relief._model_of(d, $2), $3, $4), $5);
end
$$;
comment on function relief.backtest(text, integer, timestamptz, integer, integer) is
  'Judges rows of the table, those since a time, at most max_rows drawn at random, by a version, the newest unless one is given, and by the '
  'promoted one, and tells how they compare, a figure a row. What is flagged follows the detector''s whole verdict, histories as they are today '
  'included; what labels tell (AUROC, average precision, precision at k) follows from the scores of all labelled rows. k is as many as there are '
  'labelled anomalies unless given.';

create function relief._better(detector text, version integer, since timestamptz default null, out better boolean, out reason text)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- The rules, decided once. A version that flags three times more or less than was asked for, chance aside, is out of tune.
  most_times constant double precision := 3;
  -- With as many labels of each kind, labels decide: by average precision, which may be lower by what another seed makes of it.
  fewest_labels constant integer := 10;
  least_gain constant double precision := -0.01;
  -- Without them a version must say what the promoted one says, unless that is out of tune itself.
  least_agreement constant double precision := 0.9;
  d constant relief.detector := relief._present_detector(detector);
  m constant relief.model := relief._model_of(d, version);
  c relief._comparison;
  f jsonb;
  rows double precision;
  expected double precision;
  promoted_in_tune boolean;
begin
  if d.promoted_version is null then
    better := true;
    reason := format('no version of detector "%s" is promoted', d.name);
    return;
  elsif m.version = d.promoted_version then
    better := false;
    reason := format('version %s is the promoted one', m.version);
    return;
  end if;
  c := relief._compare(d, m, since, 20000);
  select jsonb_object_agg(g.figure, to_jsonb(g)) into f from relief._figures(c) as g;
  rows := f #>> '{rows,candidate}';
  if rows = 0 then
    better := false;
    reason := format('detector "%s" has no rows%s to compare versions %s and %s on', d.name, coalesce(' since ' || since, ''), m.version, d.promoted_version);
    return;
  end if;
  expected := coalesce((m.document::jsonb #>> '{threshold,contamination}')::float8, d.contamination, (f #>> '{above_threshold,promoted}')::float8);
  promoted_in_tune := relief._in_tune((f #>> '{above_threshold,promoted}')::float8, expected, most_times, rows);
  if not relief._in_tune((f #>> '{above_threshold,candidate}')::float8, expected, most_times, rows) then
    better := false;
    reason := format('version %s puts %s of %s rows above its threshold, where %s were expected', m.version,
                     relief._percent((f #>> '{above_threshold,candidate}')::float8), rows, relief._percent(expected));
  elsif least((f #>> '{labelled_anomalies,candidate}')::float8, (f #>> '{labelled_ordinary,candidate}')::float8) >= fewest_labels then
    better := (f #>> '{average_precision,candidate}')::float8 - (f #>> '{average_precision,promoted}')::float8 >= least_gain;
    reason := format('average precision on labelled rows is %s by version %s and %s by version %s', f #>> '{average_precision,candidate}', m.version,
                     f #>> '{average_precision,promoted}', d.promoted_version);
  elsif not promoted_in_tune then
    better := true;
    reason := format('version %s puts %s of %s rows above its threshold, where %s were expected, and version %s %s', d.promoted_version,
                     relief._percent((f #>> '{above_threshold,promoted}')::float8), rows, relief._percent(expected), m.version,
                     relief._percent((f #>> '{above_threshold,candidate}')::float8));
  else
    better := (f #>> '{agreement,candidate}')::float8 >= least_agreement;
    reason := format('versions %s and %s agree on %s of %s rows%s', m.version, d.promoted_version, relief._percent((f #>> '{agreement,candidate}')::float8), rows,
                     case when better then '' else format(', less than %s, and too few rows are labelled to tell which is right', relief._percent(least_agreement)) end);
  end if;
end
$$;
comment on function relief._better(text, integer, timestamptz) is
  'Returns whether a version may take the promoted one''s place, and why, in a sentence. The share of rows above its threshold must be within '
  'three times, either way, of what was expected. Where ten anomalies and ten ordinary rows are labelled, average precision must not fall by over 0.01; '
  'else the versions must agree on nine rows in ten, unless the promoted one''s share is out of those bounds itself.';

create function relief._in_tune(share double precision, expected double precision, most_times double precision, rows double precision)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- Of so few rows chance alone makes more or less: three standard deviations.
  select rows * share between rows * expected / most_times - 3 * sqrt(rows * expected / most_times)
                          and rows * expected * most_times + 3 * sqrt(rows * expected * most_times)
$$;
comment on function relief._in_tune(double precision, double precision, double precision, double precision) is
  'Returns whether a share of rows is what was expected, or so many times more or less, chance aside.';

create function relief._percent(share double precision)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select trim_scale(round(100 * share::numeric, 2)) || ' %'
$$;
comment on function relief._percent(double precision) is 'Returns a share as people read it.';
