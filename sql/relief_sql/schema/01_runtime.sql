-- Runtime: the only PL/Python of Relief. It is fixed, reads no table and never calls plpy.execute, so it is safe in parallel workers.
-- A session keeps what it scores and judges with, each by the checksum of what it was made from. A call reads
--   relief._score(key, coalesce(relief._have(key), relief._fetch(key)), numbers, categories)
-- so the forest is fetched only when the session doesn't hold it yet, and Python's modules are loaded only then.

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

create function relief._have_rule(key text, rule_key text)
  returns text
  language plpython3u
  stable
  strict
  parallel safe
  cost 50
as $python$
    runtime = GD.get("{{runtime_key}}")
    return "" if runtime is not None and runtime.have_rule(key, rule_key) else None
$python$;
comment on function relief._have_rule(text, text) is
  'Returns an empty text if this session holds the model and the rule with these checksums, else NULL.';

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

create function relief._start()
  returns text
  language plpython3u
  stable
  parallel safe
  cost 1
as $python$
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
    return ""
$python$;
comment on function relief._start() is 'Starts the runtime in this session, where it hasn''t been, and returns an empty text.';

create function relief._start_scoring()
  returns text
  language sql
  stable
  parallel safe
  cost 1
  set search_path = pg_catalog, pg_temp
return relief._start();
comment on function relief._start_scoring() is 'Starts what scores in this session, where it hasn''t been, and returns an empty text.';

create function relief._load(started text, key text, forest bytea)
  returns text
  language plpython3u
  stable
  parallel safe
  cost 1
as $python$
    if forest is None:
        plpy.error(
            'model with checksum "%s" is not stored any more' % key,
            hint="Promote a stored version: select relief.promote('<detector>');",
            sqlstate="02000",
        )
    try:
        {{runtime}}.load(key, forest)
    except MemoryError:
        plpy.error("out of memory", sqlstate="53200")
    except (KeyError, TypeError, ValueError) as error:
        plpy.error("model cannot be loaded: %s" % error, sqlstate="22023")
    return ""
$python$;
comment on function relief._load(text, text, bytea) is
  'Keeps a packed forest under its checksum in this session, and returns an empty text.';

create function relief._load_rule(rule_key text, rule text, loaded text)
  returns text
  language plpython3u
  stable
  parallel safe
  cost 1
as $python$
    try:
        {{runtime}}.load_rule(rule_key, rule)
    except MemoryError:
        plpy.error("out of memory", sqlstate="53200")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        plpy.error("rule cannot be loaded: %s" % error, sqlstate="22023")
    return ""
$python$;
comment on function relief._load_rule(text, text, text) is
  'Keeps a rule under the checksum of its text in this session, and returns an empty text.';

create function relief._have_telling(rule_key text)
  returns text
  language plpython3u
  stable
  strict
  parallel safe
  cost 50
as $python$
    runtime = GD.get("{{runtime_key}}")
    return "" if runtime is not None and runtime.have_telling(rule_key) else None
$python$;
comment on function relief._have_telling(text) is
  'Returns an empty text if this session can tell what is strange by the rule with this checksum, else NULL.';

create function relief._load_telling(started text, rule_key text, rule text)
  returns text
  language plpython3u
  stable
  parallel safe
  cost 1
as $python$
    try:
        GD["{{runtime_key}}"].load_rule(rule_key, rule)
    except MemoryError:
        plpy.error("out of memory", sqlstate="53200")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        plpy.error("rule cannot be loaded: %s" % error, sqlstate="22023")
    return ""
$python$;
comment on function relief._load_telling(text, text, text) is
  'Keeps a rule under the checksum of its text in this session, to tell by what is strange, and returns an empty text.';

create function relief._load_explainer(started text, key text, explainer bytea)
  returns text
  language plpython3u
  stable
  parallel safe
  cost 1
as $python$
    if explainer is None:
        plpy.error(
            'model with checksum "%s" is not stored any more' % key,
            hint="Promote a stored version: select relief.promote('<detector>');",
            sqlstate="02000",
        )
    try:
        {{runtime}}.load_explainer(key, explainer)
    except MemoryError:
        plpy.error("out of memory", sqlstate="53200")
    except (KeyError, TypeError, ValueError) as error:
        plpy.error("model cannot be explained: %s" % error, sqlstate="22023")
    return ""
$python$;
comment on function relief._load_explainer(text, text, bytea) is
  'Keeps what explains the scores of the model with this checksum in this session, and returns an empty text.';

create function relief._pack(started text, checksum text, document text)
  returns bytea
  language plpython3u
  stable
  parallel safe
  cost 1
as $python$
    try:
        return {{runtime}}.pack(checksum, document)
    except MemoryError:
        plpy.error("out of memory", sqlstate="53200")
    except (KeyError, TypeError, ValueError) as error:
        too_large = getattr(error, "hint", None)
        plpy.error(
            str(error),
            hint=too_large or "Store models with the trainer: relief train <detector>, or relief import <file>.",
            sqlstate="54000" if too_large else "22023",
        )
$python$;
comment on function relief._pack(text, text, text) is
  'Validates a model document wholly, against its checksum, and returns its forest in the form that sessions score with.';

create function relief._pack_explainer(started text, checksum text, document text)
  returns bytea
  language plpython3u
  stable
  strict
  parallel safe
  cost 1
as $python$
    try:
        return {{runtime}}.pack_explainer(checksum, document)
    except MemoryError:
        plpy.error("out of memory", sqlstate="53200")
    except (KeyError, TypeError, ValueError) as error:
        too_large = getattr(error, "hint", None)
        plpy.error(
            str(error),
            hint=too_large or "Store models with the trainer: relief train <detector>, or relief import <file>.",
            sqlstate="54000" if too_large else "22023",
        )
$python$;
comment on function relief._pack_explainer(text, text, text) is
  'Validates a model document wholly, against its checksum, and returns what explains its scores, in the form that sessions explain with.';

create function relief._problem(started text, checksum text, document text, forest_checksum text, forest bytea, explainer bytea)
  returns text
  language plpython3u
  stable
  parallel safe
  cost 1
as $python$
    return GD["{{runtime_key}}"].problem(checksum, document, forest_checksum, forest, explainer)
$python$;
comment on function relief._problem(text, text, text, text, bytea, bytea) is
  'Returns NULL if a stored forest, and what explains it where that is stored, are those of its document, and it scores the document''s probes as '
  'scikit-learn did, else what is wrong.';

create function relief._damage(started text, checksum text, forest_checksum text, forest bytea, explainer bytea)
  returns text
  language plpython3u
  stable
  parallel safe
  cost 1
as $python$
    return GD["{{runtime_key}}"].damage(checksum, forest_checksum, forest, explainer)
$python$;
comment on function relief._damage(text, text, text, bytea, bytea) is
  'Returns NULL if a stored forest, and what explains it where that is stored, are whole, else what is wrong.';

create function relief._score(key text, loaded text, numbers double precision[], categories text[])
  returns double precision
  language plpython3u
  stable
  parallel safe
  cost 1000
as $python$
    try:
        return {{runtime}}.score(key, numbers, categories)
    except MemoryError:
        plpy.error("out of memory", sqlstate="53200")
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
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
        return {{runtime}}.explain(key, numbers, categories)
    except MemoryError:
        plpy.error("out of memory", sqlstate="53200")
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        plpy.error("score cannot be explained: %s" % error, sqlstate="22023")
$python$;
comment on function relief._contributions(text, text, double precision[], text[]) is
  'Returns the forest''s baseline and each feature''s contribution to one row''s mean path length; negative = more anomalous.';

create function relief._judge(
    key text,
    rule_key text,
    loaded text,
    numbers double precision[],
    categories text[],
    entity text,
    levels double precision[],
    in_full boolean)
  returns jsonb
  language plpython3u
  stable
  parallel safe
  cost 1500
as $python$
    try:
        return {{runtime}}.judge(key, rule_key, numbers, categories, entity, levels, in_full)
    except MemoryError:
        plpy.error("out of memory", sqlstate="53200")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        plpy.error("row cannot be judged: %s" % error, sqlstate="22023")
$python$;
comment on function relief._judge(text, text, text, double precision[], text[], text, double precision[], boolean) is
  'Scores a row by a model and judges it by a rule that this session holds: returns the companion columns, and in full also threshold, '
  'verdict and severity.';

create function relief._shell_quoted(word text)
  returns text
  language sql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  -- No backslash: not every session reads one in a literal as itself.
  select case when word ~ '^[A-Za-z0-9_.,:@%+/-]+$' then word else '''' || replace(word, '''', '''"''"''') || '''' end
$$;
comment on function relief._shell_quoted(text) is 'Returns a word as a shell takes it, quoted where it must be, for a hint.';

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
          hint = format('Train one: relief train %s --promote, or promote one: select relief.promote(%L);', relief._shell_quoted(detector), detector);
end
$$;
comment on function relief._no_model(text) is 'Stands in for a verdict until a first model is promoted: raises an error that says so.';
