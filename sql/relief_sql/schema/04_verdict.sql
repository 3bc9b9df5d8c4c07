-- Verdict: the generated functions that promote replaces, made of identifiers, numbers and quoted literals alone.

create function relief._replaced_by_promote(d relief.detector)
  returns table (kind text, signature text, without_model text, description text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select kind,
         format('%s(%s) returns %s language sql stable parallel safe', relief._function_name(d, kind), arguments, result),
         format(without_model, format('relief._no_model(%L)', d.name)),
         description
  from (values
    ('verdict', 'numbers pg_catalog.float8[], categories pg_catalog.text[]', 'pg_catalog.float8[]', '%s',
     'score, threshold and version by the promoted model.'),
    ('contributions', 'numbers pg_catalog.float8[], categories pg_catalog.text[]', 'pg_catalog.float8[]', '%s',
     'each feature''s part in the score by the promoted model.'),
    ('judgement', 'numbers pg_catalog.float8[], categories pg_catalog.text[], entity pg_catalog.text, season pg_catalog.int2, in_full pg_catalog.bool',
     'pg_catalog.jsonb', 'pg_catalog.to_jsonb(%s)', 'score, flag, and deviations from the profile, by the promoted model.'),
    ('explanation', 'numbers pg_catalog.float8[], categories pg_catalog.text[], entity pg_catalog.text, season pg_catalog.int2',
     'pg_catalog.jsonb', 'pg_catalog.to_jsonb(%s)', 'what is strange about a row, a feature an element.')
  ) as f (kind, arguments, result, without_model, description)
$$;
comment on function relief._replaced_by_promote(relief.detector) is
  'Returns the functions that promote replaces: their signatures, what they return without a model, what they are for.';

create function relief._create_verdict(d relief.detector, kinds text[] default '{verdict, contributions, judgement, explanation}')
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  f record;
begin
  for f in select * from relief._replaced_by_promote(d) as r where r.kind = any (kinds) loop
    execute format('create function %s return %s', f.signature, f.without_model);
    perform relief._adopt_function(d, relief._generated(d, f.kind), f.description);
  end loop;
end
$$;
comment on function relief._create_verdict(relief.detector, text[]) is 'Makes the functions that promote replaces, for a detector without a promoted model.';

create function relief._rule(d relief.detector, m relief.model)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'threshold', m.threshold,
    'version', m.version,
    'verdict', d.verdict,
    'entity', d.entity,
    'season', d.season,
    'deviation_threshold', d.deviation_threshold,
    'min_history', d.min_history,
    'history', (
      select to_jsonb(p.figures)
      from relief.profile as p
      where p.detector_id = d.id and p.entity = '' and p.season = -1),
    'ordinary_scores', m.document::jsonb #> '{ordinary,scores}',
    'ordinary_deviations', m.document::jsonb #> '{ordinary,deviations}',
    'features', (
      select jsonb_agg(jsonb_build_object(
        'name', f.name, 'kind', f.kind, 'transform', coalesce(f.transform, 'linear'), 'unit', coalesce(f.unit, 1), 'origin', coalesce(f.origin, 0),
        'tolerances', coalesce((
          select jsonb_object_agg(t.entity, jsonb_build_object(
            'direction', t.direction, 'min_absolute', t.min_absolute, 'min_relative', t.min_relative))
          from relief.tolerance as t
          where t.detector_id = d.id and t.feature = f.name), '{}')) order by f.position)
      from relief.feature as f
      where f.detector_id = d.id))::text
$$;
comment on function relief._rule(relief.detector, relief.model) is 'Returns, as JSON, what makes a row an anomaly, and the history of all rows together, for the runtime.';

create function relief._rule_key(rule text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select encode(sha256(convert_to(rule, 'UTF8')), 'hex')
$$;
comment on function relief._rule_key(text) is 'Returns the checksum by which a session keeps a rule.';

create function relief._rule_text(m relief.model, rule text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select format('coalesce(relief._have_rule(%1$L, %2$L), relief._fetch_with_rule(%1$L, %2$L, %3$L))', m.forest_checksum, relief._rule_key(rule), rule)
$$;
comment on function relief._rule_text(relief.model, text) is
  'Returns the text that brings a model and a rule into a session, where it lacks them.';

create function relief._levels_text(d relief.detector)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case when d.entity = '{}' and d.season is null then 'null::pg_catalog.float8[]'
              else format('relief._levels(%s, entity, season)', d.id) end
$$;
comment on function relief._levels_text(relief.detector) is 'Returns the text of the histories of what is called entity and season.';

create function relief._judge_text(d relief.detector, m relief.model, rule text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select format('relief._judge(%L, %L, %s, numbers, categories, entity, %s, in_full)',
                m.forest_checksum, relief._rule_key(rule), relief._rule_text(m, rule), relief._levels_text(d))
$$;
comment on function relief._judge_text(relief.detector, relief.model, text) is
  'Returns the text that judges, by a model and a rule, what is called numbers, categories, entity, season and in_full.';

create function relief._replace_verdict(d relief.detector, m relief.model)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  rule constant text := relief._rule(d, m);
  rule_key constant text := relief._rule_key(rule);
begin
  perform relief._change_catalog(array(
    select format('create or replace function %s return %s', f.signature, case f.kind
      when 'verdict' then
        format('array[relief._score(%1$L, coalesce(relief._have(%1$L), relief._fetch(%1$L)), numbers, categories), '
               '%2$L::pg_catalog.float8, %3$s::pg_catalog.float8]', m.forest_checksum, m.threshold, m.version)
      when 'contributions' then
        format('relief._contributions(%1$L, coalesce(relief._have_explainer(%1$L), relief._fetch_explainer(%1$L)), numbers, categories)',
               m.checksum)
      when 'judgement' then relief._judge_text(d, m, rule)
      when 'explanation' then
        format('relief._explanation(%1$L, coalesce(relief._have_telling(%1$L), relief._fetch_telling(%1$L, %2$L)), '
               '%3$s(numbers, categories), numbers, categories, entity, %4$s)',
               rule_key, rule, relief._function_name(d, 'contributions'), relief._levels_text(d))
    end)
    from relief._replaced_by_promote(d) as f)
    -- CREATE OR REPLACE forgets that DROP EXTENSION takes them along. Both in one go: a GRANT that gets in between is waited for.
    || array(select format('alter function %s depends on extension relief', relief._generated(d, f.kind))
             from relief._replaced_by_promote(d) as f
             where exists (select from pg_extension where extname = 'relief')));
  perform relief._renew_shadow(d, m.version);
end
$$;
comment on function relief._replace_verdict(relief.detector, relief.model) is 'Makes a detector''s verdict and judgement those of one model.';

create function relief._renew_judgement(detector text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._lock_detector(detector);
  m relief.model;
begin
  select * into m from relief.model as e where e.detector_id = d.id and e.version = d.promoted_version;
  if found then
    perform relief._require_generated(d);
    perform relief._replace_verdict(d, m);
  end if;
end
$$;
comment on function relief._renew_judgement(text) is 'Makes the judgement of a detector''s promoted model follow what it depends on: profile, scales, tolerances.';
