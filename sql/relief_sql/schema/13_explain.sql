-- Explanations: what made a row strange, a feature a row.

create function relief._explanation(
    rule_key text,
    loaded text,
    contributions double precision[],
    numbers double precision[],
    categories text[],
    entity text,
    levels double precision[])
  returns jsonb
  language plpython3u
  stable
  parallel safe
  cost 1000
as $python$
    try:
        return {{runtime}}.tell(rule_key, contributions, numbers, categories, entity, levels)
    except MemoryError:
        plpy.error("out of memory", sqlstate="53200")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        plpy.error("row cannot be explained: %s" % error, sqlstate="22023")
$python$;
comment on function relief._explanation(text, text, double precision[], double precision[], text[], text, double precision[]) is
  'Returns, as a JSON array of one object a feature, the most telling first, what is strange about a row.';

create function relief._create_explain_function(d relief.detector, label text, again boolean default false)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._change_catalog(array[format($sql$
create %s function %I.relief_explain(o %s)
  returns table (
    feature pg_catalog.text, value pg_catalog.float8, expected pg_catalog.float8, z pg_catalog.float8, robust pg_catalog.float8,
    level pg_catalog.text, contribution pg_catalog.float8, share pg_catalog.float8, baseline pg_catalog.float8, sentence pg_catalog.text)
  language sql
  stable
  parallel %s
as %L$sql$,
    case when again then 'or replace' else '' end,
    relief._schema_of(d.relation), d.relation, label, relief._explain_query(d, 'o'))]);
  perform relief._adopt_function(
    d, relief._row_function(d.relation, 'relief_explain'), 'what is strange about a row, a feature a row, the most telling first.');
end
$$;
comment on function relief._create_explain_function(relief.detector, text, boolean) is 'Makes relief_explain(row) of a detector''s table.';

create function relief._explain_query(d relief.detector, row_name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select told.* from (select %s as numbers, %s as categories) as f'
    ' cross join lateral pg_catalog.jsonb_to_recordset(%s(f.numbers, f.categories, %s, %s)) as told'
    ' (feature pg_catalog.text, value pg_catalog.float8, expected pg_catalog.float8, z pg_catalog.float8, robust pg_catalog.float8,'
    ' level pg_catalog.text, contribution pg_catalog.float8, share pg_catalog.float8, baseline pg_catalog.float8, sentence pg_catalog.text)',
    relief._features_call(d, row_name), relief._categories_call(d, row_name), relief._function_name(d, 'explanation'),
    relief._entity_text(d, row_name), relief._season_text(d, row_name))
$$;
comment on function relief._explain_query(relief.detector, text) is 'Returns the query that explains a row.';

create function relief.explain(detector text, row_values jsonb)
  returns table (
    feature text, value double precision, expected double precision, z double precision, robust double precision, level text,
    contribution double precision, share double precision, baseline double precision, sentence text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  target constant relief._target := relief._find(detector);
begin
  perform relief._require_columns(target, row_values);
  return query execute format('select e.* from %s as o cross join lateral (%s) as e', target.source, target.explanation)
    using row_values;
end
$$;
comment on function relief.explain(text, jsonb) is
  'Explains one row, given as column names and values: a feature a row, the most telling first, with its value, the expected one, its '
  'deviations from the history of a level, its contribution to the mean path length (negative = more anomalous; with the baseline they '
  'sum to it), its share of what makes the row anomalous, and a sentence.';
