-- Profiles: the historical normal of a detector's features. Moments and histograms are kept a day at a time, in buckets that can be
-- made again; what a row is judged by is merged from them: one row of relief.profile for an entity and season.
-- All figures are on the feature's own scale, counted from its origin: far from zero nothing cancels. Categories have frequencies instead.

create table relief.bucket (
  detector_id integer not null references relief.detector on delete cascade,
  entity      text not null,
  season      smallint not null,
  day         date not null,
  position    integer not null,
  rows        bigint not null,
  count       bigint not null,
  mean        double precision,
  m2          double precision,
  minimum     double precision,
  maximum     double precision,
  bins        bigint[] not null,
  bin_counts  bigint[] not null,
  categories  text[],
  category_counts bigint[],
  primary key (detector_id, entity, season, day, position)
);
create index bucket_day_idx on relief.bucket (detector_id, day);
comment on table relief.bucket is 'What one day adds to the history of one feature, for an entity and season: mergeable moments and a histogram.';
comment on column relief.bucket.entity is 'The entity''s key as a JSON array; empty for all entities together.';
comment on column relief.bucket.season is 'The hour or day that the season counts; -1 for all of them together.';
comment on column relief.bucket.day is 'In the detector''s time zone; -infinity where a row has no time, or the detector no time column.';
comment on column relief.bucket.m2 is 'Sum of squared differences from the mean (Chan, Golub, LeVeque 1983), to be merged without cancellation.';
comment on column relief.bucket.bins is 'The bins that hold values: bin b spans b to b + 1 times the feature''s bin width.';
comment on column relief.bucket.categories is
  'Of a category alone: the 100 most frequent of the day of up to 200 characters each, and NULL where it was missing; all others are the rest of the rows.';

create table relief.profile (
  detector_id  integer not null references relief.detector on delete cascade,
  entity       text not null,
  season       smallint not null,
  rows         bigint not null,
  complete     boolean not null,
  count        double precision[] not null,
  mean         double precision[] not null,
  stddev       double precision[] not null,
  median       double precision[] not null,
  spread       double precision[] not null,
  spread_floor double precision[] not null,
  p01          double precision[] not null,
  p99          double precision[] not null,
  minimum      double precision[] not null,
  maximum      double precision[] not null,
  null_rate    double precision[] not null,
  frequencies  jsonb,
  figures      double precision[] not null generated always as (
    (case when entity <> '' then 2 else 0 end + case when season >= 0 then 1 else 0 end)::double precision
    || count || mean || stddev || median || spread || spread_floor) stored,
  refreshed_at timestamptz not null default pg_catalog.now(),
  primary key (detector_id, entity, season)
);
comment on table relief.profile is 'The history that rows are judged by, in arrays over the features: global, per entity, per season, per both.';
comment on column relief.profile.entity is 'See relief.bucket.';
comment on column relief.profile.season is 'See relief.bucket.';
comment on column relief.profile.complete is 'Whether every feature has min_history values, so that no coarser level needs to be read.';
comment on column relief.profile.count is 'Values: neither NULL, NaN nor infinite.';
comment on column relief.profile.frequencies is
  'For people to read: {"feature": {"values": {"category": rows, ...}, "other": rows, "missing": rows}, ...} with the 20 most frequent; NULL without categories.';
comment on column relief.profile.spread is '1.4826 times the median absolute deviation, which for a normal distribution is the standard deviation.';
comment on column relief.profile.figures is 'What the runtime compares with: the level''s number, then six figures of all features.';
comment on column relief.profile.spread_floor is 'A tenth of the global spread: no history is taken for more constant than that.';
comment on column relief.profile.minimum is 'In the feature''s own unit, as maximum is.';

create table relief.refresh (
  detector_id  integer primary key references relief.detector on delete cascade,
  newest_day   date,
  refreshed_at timestamptz
);
comment on table relief.refresh is 'How far a detector''s profile has come; its row is locked while one session refreshes.';

create table relief.stale_day (
  detector_id integer not null references relief.detector on delete cascade,
  day         date not null,
  primary key (detector_id, day)
);
comment on table relief.stale_day is 'Days whose buckets the next refresh makes again, because a label changed.';

create table relief.label (
  detector_id integer not null references relief.detector on delete cascade,
  key         jsonb not null,
  is_anomaly  boolean not null,
  note        text,
  labelled_at timestamptz not null default pg_catalog.now(),
  labelled_by name not null default current_user,
  primary key (detector_id, key)
);
comment on table relief.label is 'What people say of rows: anomalous rows stay out of the baseline, ordinary ones are in it though they were flagged.';
comment on column relief.label.key is 'The row''s primary key: column -> value.';

alter table relief.bucket enable row level security;
create policy owner on relief.bucket using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.bucket is 'Follows the detector.';
alter table relief.profile enable row level security;
create policy owner on relief.profile using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.profile is 'Follows the detector.';
alter table relief.refresh enable row level security;
create policy owner on relief.refresh using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.refresh is 'Follows the detector.';
alter table relief.stale_day enable row level security;
create policy owner on relief.stale_day using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.stale_day is 'Follows the detector.';
alter table relief.label enable row level security;
create policy owner on relief.label using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.label is 'Follows the detector.';

-- Where a row belongs. These texts are made of quoted identifiers and literals alone.

create function relief._stable_text(relation regclass, column_name name, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format(case relief._base_type(a.atttypid)
    -- As a session at UTC writes it. No backslash: not every session reads one in a literal as itself.
    when 'timestamptz'::regtype then
      'case when pg_catalog.isfinite(%1$s.%2$I) then pg_catalog.replace(pg_catalog.concat(pg_catalog.btrim('
      'pg_catalog.to_json(%1$s.%2$I at time zone ''UTC'')::pg_catalog.text, ''"''), ''+00:00''), '' BC+00:00'', ''+00:00 BC'') '
      'else %1$s.%2$I::pg_catalog.text end'
    when 'bytea'::regtype then 'pg_catalog.concat(pg_catalog.chr(92), ''x'', pg_catalog.encode(%1$s.%2$I, ''hex''))'
    else '%1$s.%2$I'
  end, row_name, a.attname)
  from pg_attribute as a
  where a.attrelid = relation and a.attname = column_name and not a.attisdropped
$$;
comment on function relief._stable_text(regclass, name, text) is
  'Returns the expression of a column as part of a key: its JSON is the same whatever the session''s time zone and formats are.';

create function relief._entity_text(d relief.detector, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case when d.entity = '{}' then '''''::text' else
    format('case when %s then '''' else pg_catalog.jsonb_build_array(%s)::text end',
           string_agg(format('%s.%I is null', row_name, c.name), ' or ' order by c.n),
           string_agg(relief._stable_text(d.relation, c.name, row_name), ', ' order by c.n))
  end
  from unnest(d.entity) with ordinality as c (name, n)
$$;
comment on function relief._entity_text(relief.detector, text) is
  'Returns the expression of a row''s entity key: a JSON array of its columns, empty where one is NULL or the detector has none.';

create function relief._lock_profile(detector integer)
  returns date
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  newest date;
begin
  perform relief._require_primary();
  select r.newest_day into newest from relief.refresh as r where r.detector_id = detector for update;
  if not found then
    begin
      insert into relief.refresh (detector_id) values (detector) on conflict do nothing;
    exception when foreign_key_violation then
      null;
    end;
    select r.newest_day into newest from relief.refresh as r where r.detector_id = detector for update;
    if not found then
      raise exception 'the detector was dropped by another session'
        using errcode = 'undefined_object', hint = 'List the detectors of tables that you own: select name from relief.detector;';
    end if;
  end if;
  return newest;
end
$$;
comment on function relief._lock_profile(integer) is
  'Locks a detector''s profile, and returns its newest day: whoever locks the detector too locks the profile first, and the table last.';

create function relief._local_time_text(d relief.detector, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case a.atttypid
    when 'timestamptz'::regtype then format('(%s.%I at time zone %L)', row_name, a.attname, d.time_zone)
    else format('%s.%I::timestamp', row_name, a.attname)
  end
  from pg_attribute as a
  where a.attrelid = d.relation and a.attname = d.time_column and not a.attisdropped
$$;
comment on function relief._local_time_text(relief.detector, text) is 'Returns the expression of a row''s time in the detector''s time zone; NULL without a time column.';

create function relief._season_text(d relief.detector, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format(
    coalesce('coalesce(' || case d.season
      when 'hour_of_day' then 'extract(hour from %1$s)'
      when 'day_of_week' then 'extract(isodow from %1$s) - 1'
      when 'hour_of_week' then '(extract(isodow from %1$s) - 1) * 24 + extract(hour from %1$s)'
    end || ', -1)::pg_catalog.int2', '(-1)::pg_catalog.int2'),
    relief._local_time_text(d, row_name))
$$;
comment on function relief._season_text(relief.detector, text) is 'Returns the expression of a row''s season: the hour or day that it counts, -1 without one.';

create function relief._day_text(d relief.detector, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce('coalesce(' || relief._local_time_text(d, row_name) || '::pg_catalog.date, ''-infinity'')', '''-infinity''::pg_catalog.date')
$$;
comment on function relief._day_text(relief.detector, text) is 'Returns the expression of the day whose bucket a row is in.';

create function relief._history_text(d relief.detector, days text, given text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format($sql$
    select r.day, level.entity, level.season, r.given
    from (select %1$s as day, %2$s as entity, %3$s as season, %4$s as given from %5$s as o where %6$s and %7$s) as r
    cross join lateral (values (3, r.entity, r.season), (2, r.entity, -1::smallint), (1, '', r.season), (0, '', -1::smallint)) as level (number, entity, season)
    where level.number = any (%8$L) and (level.number < 2 or r.entity <> '') and (mod(level.number, 2) = 0 or r.season >= 0)
    $sql$,
    relief._day_text(d, 'o'), relief._entity_text(d, 'o'), relief._season_text(d, 'o'), given, d.relation, days, relief._ordinary_text(d),
    case
      when d.entity <> '{}' and d.season is not null then '{3, 2, 0}'
      when d.entity <> '{}' then '{2, 0}'
      when d.season is not null then '{1, 0}'
      else '{0}'
    end)
$$;
comment on function relief._history_text(relief.detector, text, text) is
  'Returns the query for the baseline''s rows of the days that a condition on rows, called o, picks: what an expression gives of each, '
  'once for each entity and season that it counts for.';

create function relief._key_text(d relief.detector, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('pg_catalog.jsonb_build_object(%s)', string_agg(format('%L, %s', a.attname, relief._stable_text(d.relation, a.attname, row_name)), ', ' order by k.n))
  from pg_index as i
  cross join lateral unnest(i.indkey::smallint[]) with ordinality as k (attnum, n)
  join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
  where i.indrelid = d.relation and i.indisprimary
  having count(*) > 0
$$;
comment on function relief._key_text(relief.detector, text) is 'Returns the expression of a row''s primary key as JSON; NULL where the table has none.';

create function relief._scaled(value double precision, transform text, unit double precision, origin double precision)
  returns double precision
  language sql
  immutable
  parallel safe
return case when abs(value) < 1e-140 then 0 when transform = 'log' then asinh(value / unit) else value end - origin;
comment on function relief._scaled(double precision, text, double precision, double precision) is
  'Returns a value''s place on a feature''s scale, from the feature''s origin; what is too small to be squared counts as 0.';

create function relief._levels(detector integer, entity text, season smallint)
  returns double precision[]
  language plpgsql
  stable
  security definer
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
declare
  finest double precision[];
  enough boolean;
  coarser double precision[];
begin
  -- The key of the finest level is the row's own: an entity or a season that the detector hasn't is empty, or -1.
  if entity = '' and season < 0 then
    return null;
  end if;
  select p.figures, p.complete into finest, enough
  from relief.profile as p
  where p.detector_id = detector and p.entity = $2 and p.season = $3;
  if entity <> '' and season >= 0 and enough is not true then
    select p.figures into coarser
    from relief.profile as p
    where p.detector_id = detector and p.entity = $2 and p.season = -1::smallint;
    return finest || coarser;
  end if;
  return finest;
end
$$;
comment on function relief._levels(integer, text, smallint) is
  'Returns the histories to judge a row by before that of all rows, finest first, down to the first that is complete: each the level''s '
  'number and six figures a feature.';
