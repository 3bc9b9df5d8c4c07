"""What an installation consists of: the same by extension and by script, all of it commented, pinned and closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.catalog import CATALOG, catalog, differences
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.rights import OPEN_TO_ALL
from helpers.server import install
from helpers.shop import COMPANIONS, FEATURES, make_orders

# Functions that can't pin their search_path, and why.
UNPINNED = {
    "relief._have": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._have_rule": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._start": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._load": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._load_rule": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._have_telling": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._load_telling": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._load_explainer": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._pack_explainer": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._pack": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._damage": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._problem": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._score": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._have_explainer": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._spend": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._note_summary": "pure Python, no SQL",
    "relief._settle_summary": "pure Python, no SQL",
    "relief._contributions": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._judge": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._explanation": "pure Python, no SQL; a setting would cost a microsecond a row",
    "relief._float8": "a parsed body, whose names are resolved; a setting would forbid to inline it",
    "relief._allowance": "a parsed body, whose names are resolved; a setting would forbid to inline it",
    "relief._is_unread": "a parsed body, whose names are resolved; a setting would forbid to inline it",
    "relief._scaled": "a parsed body, whose names are resolved; a setting would forbid to inline it",
    "relief.backfill": "a procedure that commits can't have a setting",
}


@pytest.fixture(scope="module", params=[pytest.param("extension", marks=pytest.mark.extension), "script"])
def installed(request: pytest.FixtureRequest, server: str) -> Iterator[Database]:
    """Return a fresh database with Relief installed in either way."""
    made = Database(server)
    install(made.superuser, by_extension=request.param == "extension")
    yield made
    made.drop()


@pytest.mark.extension
def test_extension_and_script_install_the_same(server: str) -> None:
    by_extension, by_script = Database(server), Database(server)
    try:
        install(by_extension.superuser, by_extension=True)
        install(by_script.superuser, by_extension=False)
        one, other = catalog(by_extension), catalog(by_script)
        assert differences(one, other, ("by extension", "by script")) == []
        assert {thing.split()[0] for thing in one} == set(CATALOG)
    finally:
        by_extension.drop()
        by_script.drop()


def test_every_object_has_a_comment(installed: Database) -> None:
    uncommented = """
        select p.oid::regprocedure::text from pg_proc as p
        where pronamespace = 'relief'::regnamespace and obj_description(oid, 'pg_proc') is null
        union all
        select relname from pg_class
        where relnamespace = 'relief'::regnamespace and relkind = 'r' and obj_description(oid, 'pg_class') is null
        union all
        select oid::regtype::text from pg_type as t
        where typnamespace = 'relief'::regnamespace and obj_description(oid, 'pg_type') is null
          and exists (select from pg_class where oid = t.typrelid and relkind = 'c')
        union all
        select polname from pg_policy where obj_description(oid, 'pg_policy') is null
        union all
        select tgname from pg_trigger where not tgisinternal and obj_description(oid, 'pg_trigger') is null
        union all
        select nspname from pg_namespace where nspname = 'relief' and obj_description(oid, 'pg_namespace') is null
    """
    assert installed.query(uncommented) == []


def test_every_function_pins_its_search_path_or_has_a_reason_not_to(installed: Database) -> None:
    unpinned = """
        select format('%I.%I', n.nspname, p.proname) from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
        where nspname = 'relief' and 'search_path=pg_catalog, pg_temp' = any (proconfig) is not true
    """
    assert set(installed.query(unpinned)) == set(UNPINNED)


def test_nothing_more_is_open_to_everybody_than_what_scoring_calls(installed: Database) -> None:
    open_to_all = """
        select p.oid::regprocedure::text from pg_proc as p
        where pronamespace = 'relief'::regnamespace and has_function_privilege('public', oid, 'execute')
    """
    assert set(installed.query(open_to_all)) == OPEN_TO_ALL
    relations = """
        select relname from pg_class where relnamespace = 'relief'::regnamespace and relkind in ('r', 'v', 'S')
          and (case relkind when 'S' then has_sequence_privilege('public', oid, 'usage, select, update')
               else has_any_column_privilege('public', oid, 'select, insert, update, references')
                    or has_table_privilege('public', oid, 'delete, truncate, trigger') end)
    """
    assert installed.query(relations) == []
    assert installed.value("select has_schema_privilege('public', 'relief', 'usage, create')") is False


def test_definer_rights_are_where_they_are_the_point(installed: Database) -> None:
    definers = "select proname::text from pg_proc where pronamespace = 'relief'::regnamespace and prosecdef order by 1"
    assert installed.query(definers) == [
        "_check_detector_count",
        "_document",
        "_explainer",
        "_find",
        "_forest",
        "_health",
        "_levels",
        "_settle_event",
    ]


def test_what_is_parallel_safe_reaches_no_python_that_queries(installed: Database) -> None:
    labels = dict(
        installed.query(
            "select proname::text, proparallel from pg_proc as p join pg_language as l on l.oid = p.prolang "
            "where pronamespace = 'relief'::regnamespace and lanname = 'plpython3u'"
        )
    )
    assert set(labels) == {name.removeprefix("relief.") for name, why in UNPINNED.items() if "Python" in why}
    # Those that count what a session leaves are called by triggers alone.
    counting = {"_spend", "_note_summary", "_settle_summary"}
    assert labels == {name: "u" if name in counting else "s" for name in labels}
    assert (
        installed.query(
            "select proname::text from pg_proc where prosrc like '%plpy.execute%' or prosrc like '%plpy.prepare%'"
        )
        == []
    )


def test_whatever_depends_on_the_promoted_model_is_stable(database: Database) -> None:
    _attach(database)
    labels = database.query(
        "select distinct provolatile from pg_proc "
        "where pronamespace = 'shop'::regnamespace and prorettype <> 'trigger'::regtype"
    )
    assert labels == ["s"]
    with refused("42P17", "functions in index expression must be marked IMMUTABLE"):
        database.query("create index on shop.orders (shop.relief_score(orders))")


def _attach(database: Database) -> None:
    make_orders(database.superuser)
    add_model(database.superuser, "orders", stump(FEATURES))
    database.query("select relief.promote('orders')")
    database.query("select relief.attach('orders')")


def test_generated_functions_have_comments_costs_and_no_definer_rights_but_the_triggers(installed: Database) -> None:
    _attach(installed)
    generated = """
        select p.proname::text, prosecdef, proconfig is not null,
               obj_description(oid, 'pg_proc') like 'Relief, detector "orders": %',
               has_function_privilege('public', oid, 'execute')
        from pg_proc as p where pronamespace = 'shop'::regnamespace order by 1
    """
    assert installed.query(generated) == [
        ("_relief_contributions_orders", False, False, True, True),
        ("_relief_event_orders", True, True, True, False),
        ("_relief_explanation_orders", False, False, True, True),
        ("_relief_features_orders", False, False, True, True),
        # PL/pgSQL, for its exception block.
        ("_relief_guarded_orders", False, True, True, True),
        ("_relief_judgement_orders", False, False, True, True),
        ("_relief_trigger_orders", True, True, True, False),
        ("_relief_verdict_orders", False, False, True, True),
        ("relief_explain", False, False, True, True),
        ("relief_score", False, False, True, True),
    ]
    comments = "select obj_description(oid, 'pg_trigger') from pg_trigger where tgname like '~relief%'"
    assert [text.split(":")[0] for text in installed.query(comments)] == ['Relief, detector "orders"'] * 2
    installed.query("select relief.drop_detector('orders', true)")
    installed.query("drop schema shop cascade")


def test_second_installation_is_refused(installed: Database) -> None:
    with refused():
        install(installed.superuser, by_extension=False)
    installed.superuser.rollback()
    assert installed.value("select count(*) from relief.detector") == 0


DEPENDENTS = """
    select coalesce(objid::regprocedure::text, '') from pg_depend
    where classid = 'pg_proc'::regclass and deptype = 'x' and refclassid = 'pg_extension'::regclass
    union all
    select tgname from pg_depend join pg_trigger on pg_trigger.oid = objid
    where classid = 'pg_trigger'::regclass and deptype = 'x'
    order by 1
"""
EXPECTED_DEPENDENTS = [
    "shop._relief_contributions_orders(double precision[],text[])",
    "shop._relief_event_orders()",
    "shop._relief_explanation_orders(double precision[],text[],text,smallint)",
    "shop._relief_features_orders(integer,double precision)",
    "shop._relief_guarded_orders(integer,double precision)",
    "shop._relief_judgement_orders(double precision[],text[],text,smallint,boolean)",
    "shop._relief_trigger_orders()",
    "shop._relief_verdict_orders(double precision[],text[])",
    "shop.relief_explain(shop.orders)",
    "shop.relief_score(shop.orders)",
    "~relief",
    "~relief_event",
]


@pytest.mark.extension
def test_generated_objects_depend_on_the_extension_after_every_promotion(database: Database) -> None:
    _attach(database)
    for _ in range(3):
        assert database.query(DEPENDENTS) == EXPECTED_DEPENDENTS
        add_model(database.superuser, "orders", stump(FEATURES))
        database.query("select relief.promote('orders')")


@pytest.mark.extension
def test_extension_can_be_dropped_and_inserts_go_on(database: Database) -> None:
    _attach(database)
    sessions = [database.connect(), database.connect()]
    for session in sessions:
        query(session, "insert into shop.orders (a, b) values (-1, 1)")
    database.query("drop extension relief")
    for session in (*sessions, database.connect()):
        query(session, "insert into shop.orders (a, b) values (-1, 1)")
        query(session, "update shop.orders set a = 3 where id = 501")
    assert database.query("select proname from pg_proc where pronamespace = 'shop'::regnamespace") == []
    assert database.value("select count(*) from pg_trigger where tgname like '~relief%'") == 0
    assert query(database.superuser, f"select {COMPANIONS} from shop.orders where id = 502")[0][0] == 0.5
    database.query("create extension relief cascade")
    database.query("select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}')")
    database.query("select relief.attach('orders')")


@pytest.mark.extension
def test_extension_with_an_attached_partitioned_table_can_be_dropped(database: Database) -> None:
    database.query("create table public.part (a integer, b float8) partition by list (a)")
    database.query("create table public.part_1 partition of public.part default")
    database.query("select relief.create_detector('part', 'public.part', '{a, ln(b) AS log_b}')")
    database.query("select relief.attach('part')")
    database.query("insert into public.part values (1, 1)")
    database.query("drop extension relief")
    database.query("insert into public.part values (1, 1)")
    assert database.value("select count(*) from pg_trigger where tgname like '~relief%'") == 0


def test_schema_installed_by_script_can_be_dropped_and_inserts_go_on(empty_database: Database) -> None:
    install(empty_database.superuser, by_extension=False)
    _attach(empty_database)
    with refused("2BP01", "cannot drop schema relief because other objects depend on it"):
        empty_database.query("drop schema relief")
    empty_database.query("drop schema relief cascade")
    session = empty_database.connect()
    reason = value(session, "insert into shop.orders (a, b) values (-1, 1) returning relief_deviation ->> 'error'")
    assert "_relief_judgement_orders" in reason
