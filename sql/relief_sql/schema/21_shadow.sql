-- Shadow: a candidate scores what is inserted, beside the promoted version, which alone decides. It costs what it costs, so it is asked for.

create table relief.shadow (
  detector_id integer primary key references relief.detector on delete cascade,
  version     integer not null,
  sample      double precision not null,
  started_at  timestamptz not null default pg_catalog.now(),
  started_by  name not null default current_user,
  constraint model_is_kept foreign key (detector_id, version) references relief.model (detector_id, version),
  constraint sample_is_a_share check (sample > 0 and sample <= 1)
);
comment on table relief.shadow is 'The version that scores beside the promoted one, where there is any.';
comment on column relief.shadow.sample is 'The share of inserted rows that it scores.';

alter table relief.shadow enable row level security;
create policy owner on relief.shadow using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.shadow is 'Follows the detector.';

create table relief.shadow_score (
  id                  bigint generated always as identity primary key,
  detector            text not null,
  relation            regclass not null,
  version             integer not null,
  promoted_version    integer,
  key                 jsonb,
  score               double precision,
  promoted_score      double precision,
  is_anomaly          boolean,
  promoted_is_anomaly boolean,
  happened_at         timestamptz not null default pg_catalog.clock_timestamp(),
  created_by          name not null default current_user
);
create index shadow_score_detector_idx on relief.shadow_score (detector, id);
comment on table relief.shadow_score is 'What a version in shadow said of inserted rows, and what the promoted one said.';
comment on column relief.shadow_score.key is 'The row''s primary key: column -> value; NULL where the table has none.';
comment on column relief.shadow_score.created_by is 'The owner of the table, in whose name its trigger writes.';

alter table relief.shadow_score enable row level security;
create policy owner on relief.shadow_score using (relief._owns(relation, created_by));
comment on policy owner on relief.shadow_score is 'Whoever has the rights of the table''s owner.';

create function relief.shadow(detector text, version integer, sample double precision default 1)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_with_table(detector);
  m relief.model;
begin
  if version is null then
    perform relief._end_shadow(d);
    return;
  end if;
  m := relief._model_of(d, version);
  perform relief._require_shadow(d, m, sample);
  insert into relief.shadow as s (detector_id, version, sample) values (d.id, m.version, $3)
  on conflict on constraint shadow_pkey do update
    set version = excluded.version, sample = excluded.sample, started_at = now(), started_by = current_user;
  perform relief._create_shadow_trigger(d);
  perform relief._audit(d, 'shadow', m.version, details => jsonb_build_object('sample', sample));
end
$$;
comment on function relief.shadow(text, integer, double precision) is
  'Has a version score what is inserted from now on, or a share of it, beside the promoted one, into relief.shadow_score; what is flagged stays as '
  'it is. One version at a time; NULL ends it. No insert ever fails of it. Of a statement that inserts more than 10,000 rows, about so many are scored.';

create function relief._require_shadow(d relief.detector, m relief.model, sample double precision)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if sample is null or not (sample > 0 and sample <= 1) then
    raise exception 'sample % of detector "%" is not in (0, 1]', sample, d.name
      using errcode = 'numeric_value_out_of_range', hint = 'It is the share of inserted rows to score in shadow, such as 0.1; 1 for all.';
  end if;
  if d.promoted_version is null then
    perform relief._no_model(d.name);
  end if;
  if m.version = d.promoted_version then
    raise exception 'version % of detector "%" is the promoted one', m.version, d.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'It scores every row. ' || relief._way_to_shadow(d);
  end if;
  if relief._trigger_function(d) is null then
    raise exception 'detector "%" is not attached', d.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Attach it: select relief.attach(%L); or compare on rows that are there: select * from relief.backtest(%L, %s);',
                          d.name, d.name, m.version);
  end if;
  perform relief._require_features(d, m);
  perform relief._require_generated(d);
end
$$;
comment on function relief._require_shadow(relief.detector, relief.model, double precision) is 'Raises an error if a version can''t score beside the promoted one.';

create function relief._way_to_shadow(d relief.detector, version integer default null)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case when v.spare = '{}' then format('Train another version first: relief train %s', relief._shell_quoted(d.name))
              else format('Put one in shadow: select relief.shadow(%L, %s);', d.name, case when version = any (v.spare) then version else v.spare[1] end) end
  from (values (relief._spare_versions(d))) as v (spare)
$$;
comment on function relief._way_to_shadow(relief.detector, integer) is 'Returns how a version, the given one if it can be, comes to score in shadow, for a hint.';

create function relief._end_shadow(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  ended integer;
begin
  delete from relief.shadow as s where s.detector_id = d.id returning s.version into ended;
  if not found and relief._shadow_function(d) is null then
    raise exception 'detector "%" has no version in shadow', d.name
      using errcode = 'object_not_in_prerequisite_state', hint = relief._way_to_shadow(d);
  end if;
  perform relief._drop_trigger(d, '~relief_shadow', relief._shadow_function(d));
  perform relief._audit(d, 'end_shadow', ended);
end
$$;
comment on function relief._end_shadow(relief.detector) is 'Ends that a version scores beside the promoted one.';

create function relief._shadow_function(d relief.detector)
  returns regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select relief._attached_function(d, 'shadow', '~relief_shadow')
$$;
comment on function relief._shadow_function(relief.detector) is 'Returns the function that scores inserted rows in shadow, NULL where there is none.';

create function relief._create_shadow_trigger(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  owner constant name := (select pg_get_userbyid(relowner) from pg_class where oid = d.relation);
begin
  if exists (select from pg_trigger where tgrelid = d.relation and tgname = '~relief_shadow' and tgfoid = relief._shadow_function(d)) then
    perform relief._replace_shadow(d);
    return;
  end if;
  -- One for a statement, not for a row: what fails is undone and told once, by one subtransaction.
  perform relief._create_trigger(d, 'shadow', '~relief_shadow', 'after insert on %s referencing new table as inserted for each statement',
                                 relief._shadow_body(d), 'scores inserted rows by a version in shadow.');
  -- The trigger writes as the table's owner, who needs no other right on Relief's tables.
  if not has_table_privilege(owner, 'relief.shadow_score', 'insert') then
    perform relief._change_catalog(array[
      format('grant usage on schema relief to %I', owner),
      format('grant insert on relief.shadow_score to %I', owner),
      format('grant execute on function relief._owns(oid, name) to %I', owner)]);
  end if;
end
$$;
comment on function relief._create_shadow_trigger(relief.detector) is 'Makes the trigger that scores inserted rows in shadow, or its function anew.';

create function relief._replace_shadow(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._change_catalog(array[format($sql$
create or replace function %s()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as %L$sql$,
    relief._function_name(d, 'shadow'), relief._shadow_body(d))]);
  perform relief._adopt_function(d, relief._shadow_function(d), 'scores inserted rows by a version in shadow.');
end
$$;
comment on function relief._replace_shadow(relief.detector) is 'Makes the function anew that scores inserted rows in shadow. The table isn''t touched.';

create function relief._renew_shadow(d relief.detector, promoted integer)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- What is promoted has nothing to be compared with any more. To drop its trigger would lock the table: it idles.
  delete from relief.shadow as s where s.detector_id = d.id and s.version = promoted;
  if relief._shadow_function(d) is not null then
    perform relief._replace_shadow(d);
  end if;
end
$$;
comment on function relief._renew_shadow(relief.detector, integer) is
  'Makes what scores in shadow follow the profile and the promoted version; that of the version itself ends it.';

create function relief._resume_shadow(d relief.detector)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from relief.shadow as s where s.detector_id = d.id) then
    perform relief._create_shadow_trigger(d);
  end if;
end
$$;
comment on function relief._resume_shadow(relief.detector) is 'Has a version score in shadow again after its detector was detached.';

create function relief._shadow_body(d relief.detector)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  s relief.shadow;
  m relief.model;
begin
  select * into s from relief.shadow as e where e.detector_id = d.id;
  if not found then
    return E'\nbegin\n  return null;\nend\n';
  end if;
  select * into m from relief.model as e where e.detector_id = d.id and e.version = s.version;
  -- No text but quoted identifiers and literals goes in here.
  return format($body$
#variable_conflict use_column
<<shadow>>
declare
  share double precision;
begin
  select least(%1$s, 10000.0 / greatest(1, count(*))) into share from inserted;
  insert into relief.shadow_score (detector, relation, version, promoted_version, key, score, promoted_score, is_anomaly, promoted_is_anomaly)
  select %2$L, tg_relid, %3$s, j.promoted_version, j.key, (j.judgement ->> 'relief_anomaly_score')::double precision, j.promoted_score,
         (j.judgement ->> 'relief_is_anomaly')::boolean, j.promoted_is_anomaly
  from (
    select r.promoted_version, r.key, r.promoted_score, r.promoted_is_anomaly, %4$s as judgement
    from (
      select %5$s as numbers, %6$s as categories, %7$s as entity, %8$s as season, false as in_full, %9$s as key,
             i.relief_model_version as promoted_version, i.relief_anomaly_score as promoted_score, i.relief_is_anomaly as promoted_is_anomaly
      from inserted as i
      cross join lateral %10$s as o
      where shadow.share >= 1 or random() < shadow.share
      offset 0
    ) as r
    where r.numbers is not null
    offset 0
  ) as j;
  return null;
exception when others then
  raise warning 'rows were stored but not scored by version %3$s in shadow: %%', sqlerrm;
  return null;
end
$body$,
    s.sample, d.name, m.version, relief._judge_text(d, m, relief._rule(d, m)), relief._guarded_call(d, 'o'), relief._guarded_categories_call(d, 'o'),
    relief._entity_text(d, 'o'), relief._season_text(d, 'o'), coalesce(relief._key_text(d, 'i'), 'null::jsonb'), relief._completed(d, '(select i.*)'));
end
$$;
comment on function relief._shadow_body(relief.detector) is
  'Returns the body of the function that scores inserted rows in shadow; it does nothing where no version is in shadow.';

create function relief._check_shadow(d relief.detector)
  returns setof text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('trigger "~relief_shadow" on table %s is missing; select relief.regenerate(%L);', d.relation, d.name)
  where exists (select from relief.shadow as s where s.detector_id = d.id)
    and not exists (select from pg_trigger where tgrelid = d.relation and tgfoid = relief._shadow_function(d))
  union all
  select format('the trigger "~relief_shadow" was made for the table as it was; select relief.regenerate(%L);', d.name)
  where exists (select from pg_proc where oid = relief._shadow_function(d) and prosrc <> relief._shadow_body(d))
    -- Else the cause is told, with what mends that.
    and not exists (select from relief._check_table(d))
  union all
  select format('no version is in shadow any more, but trigger "~relief_shadow" on table %s is still there; select relief.shadow(%L, null);',
                d.relation, d.name)
  where not exists (select from relief.shadow as s where s.detector_id = d.id) and relief._shadow_function(d) is not null
$$;
comment on function relief._check_shadow(relief.detector) is 'Returns what is wrong with the trigger that scores in shadow.';

create function relief.shadow_report(detector text, version integer default null, k integer default null)
  returns table (figure text, candidate double precision, promoted double precision, meaning text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  d constant relief.detector := relief._present_detector(detector);
  last record;
begin
  perform relief._require_k(k);
  -- What the version was compared with last; what came before is another comparison.
  select s.version, s.promoted_version into last
  from relief.shadow_score as s
  where s.detector = d.name and s.relation = d.relation
    and s.version = coalesce($2, (select e.version from relief.shadow as e where e.detector_id = d.id), s.version)
  order by s.id desc
  limit 1;
  if not found then
    raise exception 'no row of detector "%" was scored in shadow%', d.name, coalesce(' by version ' || version, '')
      using errcode = 'object_not_in_prerequisite_state',
            hint = case when exists (select from relief.shadow as e where e.detector_id = d.id and e.version = coalesce($2, e.version))
                     then 'Wait until rows are inserted.'
                     else relief._way_to_shadow(d, version) end;
  end if;
  return query select f.* from relief._shadow_comparison(d, last.version, last.promoted_version) as c cross join lateral relief._figures(c, $3) as f;
end
$$;
comment on function relief.shadow_report(text, integer, integer) is
  'Tells how the version in shadow, or one that was, compares with the promoted one on what was inserted meanwhile: the figures of relief.backtest.';

create function relief._shadow_comparison(d relief.detector, version integer, promoted_version integer)
  returns relief._comparison
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select row(
    $2, $3, (select m.threshold from relief.model as m where m.detector_id = d.id and m.version = $2),
    (select m.threshold from relief.model as m where m.detector_id = d.id and m.version = $3),
    format('rows inserted since %s', min(s.happened_at)), null,
    array_agg(s.score order by s.id), array_agg(s.promoted_score order by s.id),
    array_agg(s.is_anomaly order by s.id), array_agg(s.promoted_is_anomaly order by s.id),
    array_agg(l.is_anomaly order by s.id) filter (where l.key is not null and s.score is not null),
    array_agg(s.score order by s.id) filter (where l.key is not null and s.score is not null),
    array_agg(s.promoted_score order by s.id) filter (where l.key is not null and s.score is not null))::relief._comparison
  from relief.shadow_score as s
  left join relief.label as l on l.detector_id = d.id and l.key = s.key
  where s.detector = d.name and s.relation = d.relation and s.version = $2 and s.promoted_version is not distinct from $3
$$;
comment on function relief._shadow_comparison(relief.detector, integer, integer) is
  'Returns what a version in shadow and the one that was promoted said of the same inserted rows.';

create function relief._vacuum_shadow(d relief.detector, kept integer default 100000, max_rows bigint default null)
  returns bigint
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  dropped bigint;
begin
  delete from relief.shadow_score as s
  where s.id in (
    select o.id
    from relief.shadow_score as o
    where o.detector = d.name
      and (o.relation <> d.relation
           or o.id <= (select e.id from relief.shadow_score as e where e.detector = d.name and e.relation = d.relation order by e.id desc offset $2 limit 1))
    order by o.id
    limit $3);
  get diagnostics dropped = row_count;
  return dropped;
end
$$;
comment on function relief._vacuum_shadow(relief.detector, integer, bigint) is
  'Drops all but the newest rows that a detector''s versions have scored in shadow, at most so many at once, and returns how many it dropped.';
