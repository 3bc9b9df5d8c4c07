-- Runtime: the only PL/Python of Relief. It is fixed, reads no table and never calls plpy.execute, so it is safe in parallel workers.
-- A call reads: relief._score(key, coalesce(relief._have(key), relief._load(key, relief._document(key))), numbers, categories),
-- where key is the checksum of a model's document: the document is fetched only when the session doesn't hold the model yet.

create function relief._have(key text)
  returns text
  language plpython3u
  stable
  strict
  parallel safe
  cost 50
as $python$
    runtime = GD.get("{{runtime_key}}")
    return "" if runtime is not None and runtime.have(key) else None
$python$;
comment on function relief._have(text) is
  'Returns an empty text if this session holds the model with this checksum, else NULL.';

create function relief._have_explainer(key text)
  returns text
  language plpython3u
  stable
  strict
  parallel safe
  cost 50
as $python$
    runtime = GD.get("{{runtime_key}}")
    return "" if runtime is not None and runtime.have_explainer(key) else None
$python$;
comment on function relief._have_explainer(text) is
  'Returns an empty text if this session can explain scores of the model with this checksum, else NULL.';

create function relief._load(key text, document text, explain boolean default false)
  returns text
  language plpython3u
  stable
  parallel safe
  cost 1
as $python$
    if document is None:
        plpy.error(
            'model with checksum "%s" is not stored any more' % key,
            hint="Promote a stored version: select relief.promote('<detector>');",
            sqlstate="02000",
        )
    if "{{runtime_key}}" not in GD:
        import sys
        from importlib.machinery import ModuleSpec

        sources = {{runtime_sources}}

        class Runtime:
            """Finds and loads the modules above, each when it is first imported."""

            relief_runtime = True

            def find_spec(self, name, path=None, target=None):
                if name in sources:
                    return ModuleSpec(name, self, origin="relief", is_package=name == "relief_runtime")

            def create_module(self, spec):
                return None

            def exec_module(self, module):
                exec(compile(sources[module.__name__], "<%s>" % module.__name__, "exec"), module.__dict__)

        # Of a session that is open across an upgrade, the modules before it go.
        sys.meta_path[:] = [Runtime()] + [finder for finder in sys.meta_path if not hasattr(finder, "relief_runtime")]
        for name in [name for name in sys.modules if name.partition(".")[0] == "relief_runtime"]:
            del sys.modules[name]
        import relief_runtime.session

        GD["{{runtime_key}}"] = relief_runtime.session
    try:
        if explain:
            GD["{{runtime_key}}"].load_explainer(key, document)
        else:
            GD["{{runtime_key}}"].load(key, document)
    except ValueError as error:
        plpy.error(
            str(error),
            hint="Store models with the trainer: relief train <detector>, or relief import <file>.",
            sqlstate="22023",
        )
    return ""
$python$;
comment on function relief._load(text, text, boolean) is
  'Validates a model document against its checksum, keeps the model, or what explains its scores, in this session, and returns '
  'an empty text.';

create function relief._score(key text, loaded text, numbers double precision[], categories text[])
  returns double precision
  language plpython3u
  stable
  parallel safe
  cost 1000
as $python$
    try:
        return GD["{{runtime_key}}"].score(key, numbers, categories)
    except (KeyError, TypeError, ValueError) as error:
        plpy.error("row cannot be scored: %s" % error, sqlstate="22023")
$python$;
comment on function relief._score(text, text, double precision[], text[]) is
  'Returns the anomaly score, in (0, 1] and higher = more anomalous, of one row''s features by a model that this session holds; '
  'NULL if every feature is missing.';

create function relief._contributions(key text, loaded text, numbers double precision[], categories text[])
  returns double precision[]
  language plpython3u
  stable
  parallel safe
  cost 2000
as $python$
    try:
        return GD["{{runtime_key}}"].explain(key, numbers)
    except (KeyError, TypeError, ValueError) as error:
        plpy.error("score cannot be explained: %s" % error, sqlstate="22023")
$python$;
comment on function relief._contributions(text, text, double precision[], text[]) is
  'Returns the forest''s baseline and each feature''s contribution to one row''s mean path length; negative = more anomalous.';

create function relief._judge(
    rule text,
    loaded text,
    score double precision,
    threshold double precision,
    numbers double precision[],
    entity text,
    levels double precision[])
  returns text
  language plpython3u
  stable
  parallel safe
  cost 1000
as $python$
    import json

    try:
        judged = GD["{{runtime_key}}"].judge(rule, score, threshold, numbers, entity, levels)
        return json.dumps(judged, ensure_ascii=False, allow_nan=False)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        plpy.error("row cannot be judged: %s" % error, sqlstate="22023")
$python$;
comment on function relief._judge(text, text, double precision, double precision, double precision[], text, double precision[]) is
  'Returns, as JSON, whether a row is an anomaly, how severe, and how far each feature lies from its history.';

create function relief._no_model(detector text)
  returns double precision[]
  language plpgsql
  stable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'detector "%" has no promoted model', detector
    using errcode = 'object_not_in_prerequisite_state',
          hint = format('Train one: relief train %s --promote, or promote one: select relief.promote(%L);', detector, detector);
end
$$;
comment on function relief._no_model(text) is 'Stands in for a verdict until a first model is promoted: raises an error that says so.';
