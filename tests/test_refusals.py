"""What Relief refuses: every error names both sides, has an SQLSTATE, and a hint of what to do."""

from __future__ import annotations

import shlex

import psycopg
import pytest
from helpers.database import Database, query, refused
from helpers.shop import make_orders
from psycopg import Connection

COLUMNS = "The columns are: id, a, b, note, at, gen, day, body."
ONE_ROW = "A feature is one expression over one row: columns, operators, and functions that are immutable or stable."


@pytest.fixture(scope="module")
def shop(module_database: Database) -> Connection:
    connection = module_database.superuser
    make_orders(connection, rows=10)
    query(
        connection,
        "alter table shop.orders add column at timestamptz, add column gen integer generated always as (a + 1) stored, "
        "add column day date, add column body jsonb",
    )
    query(connection, "create table shop.empty ()")
    wide = ", ".join(f"c{number} integer" for number in range(101))
    query(connection, f"create table shop.wide ({wide})")
    query(connection, "create domain shop.holiday as date")
    query(connection, "set timezone = 'Europe/Berlin'")
    return connection


FEATURE_REFUSALS = [
    ("zz", "42703", 'feature "zz" cannot be computed on table shop.orders: column "zz" does not exist', COLUMNS),
    ("a +", "42601", 'feature "a +" cannot be computed on table shop.orders: syntax error', COLUMNS),
    ("a; select 1", "42601", "cannot be computed on table shop.orders: syntax error", COLUMNS),
    ("ln(note)", "42883", "cannot be computed on table shop.orders: function ln(text) does not exist", COLUMNS),
    ("a) as value, (b", "42701", 'shop.orders: column "value" specified more than once', COLUMNS),
    ("a), (b", "42P17", 'feature "a), (b" of table shop.orders is more than one expression', ONE_ROW),
    ("a) from only shop.orders union select (b", "42P17", "of table shop.orders is more than an expression", ONE_ROW),
    ("a) as x from only shop.orders where a > 1 intersect select (b", "42P17", "is more than an expression", ONE_ROW),
    ("sum(a)", "42P17", 'feature "sum(a)" of table shop.orders calls an aggregate function', ONE_ROW),
    ("sum(a) over ()", "42P17", "of table shop.orders calls a window function", ONE_ROW),
    ("generate_series(1, a)", "42P17", "of table shop.orders calls a set-returning function", ONE_ROW),
    ("(select 1)", "42P17", 'feature "(select 1)" of table shop.orders contains a subquery', ONE_ROW),
    ("a + (select count(*) from pg_authid)", "42P17", "of table shop.orders contains a subquery", ONE_ROW),
    (
        "a + (select sum(i) from generate_series(1, a) as i)",
        "42P17",
        "of table shop.orders contains a subquery",
        ONE_ROW,
    ),
    ("case when exists (select) then a end", "42P17", "of table shop.orders contains a subquery", ONE_ROW),
    ("a * (array(select 1))[1]", "42P17", "of table shop.orders contains a subquery", ONE_ROW),
    ("a + random()", "42P17", "of table shop.orders calls the volatile function random()", ONE_ROW),
    ("orders", "0A000", 'feature "orders" of table shop.orders reads the whole row or a system column', COLUMNS[16:-1]),
    ("tableoid::bigint", "0A000", "of table shop.orders reads the whole row or a system column", "Name columns: id, a"),
    (
        "at",
        "42804",
        'feature "at" of table shop.orders is of type timestamp with time zone, neither a number nor a category',
        "A moment never comes again; write what recurs: extract(hour from at at time zone 'Europe/Berlin') AS hour",
    ),
    (
        "at + interval '1 h'",
        "42804",
        "is of type timestamp with time zone, neither a number nor a category",
        "extract(hour from (at + interval '1 h') at time zone 'Europe/Berlin') AS hour",
    ),
    (
        "day + time '1:00'",
        "42804",
        "is of type timestamp without time zone, neither a number nor a category",
        "extract(hour from (day + time '1:00')) AS hour",
    ),
    ("day", "42804", "is of type date, neither a number nor a category", "extract(isodow from day) AS weekday"),
    ("day::shop.holiday", "42804", "is of type shop.holiday", "extract(isodow from (day::shop.holiday)) AS weekday"),
    ("body", "42804", "is of type jsonb, neither a number nor a category", "(body ->> 'key')::numeric AS key"),
    (
        "body::json",
        "42804",
        "is of type json, neither a number nor a category",
        "((body::json) ->> 'key')::numeric AS key",
    ),
    ("array[a]", "42804", "is of type integer[], neither a number nor a category", "cardinality((array[a])) AS count"),
    (
        "int4range(a, a)",
        "42804",
        "is of type int4range, neither",
        "Take its width: upper((int4range(a, a))) - lower((int4range(a, a))) AS width",
    ),
    ("a AS " + "x" * 64, "42602", "of table shop.orders needs a name of 1 to 63 bytes", "Name it: a AS short_name"),
    ("a + " * 20 + "a", "42602", "of table shop.orders needs a name of 1 to 63 bytes", "a AS short_name"),
    ("a AS error", "42939", 'a feature of table shop.orders is named "error"', "write: a AS another_name"),
]


@pytest.mark.parametrize(
    ("feature", "sqlstate", "message", "hint"), FEATURE_REFUSALS, ids=[row[0] for row in FEATURE_REFUSALS]
)
def test_what_can_not_be_a_feature_is_refused(
    shop: Connection, feature: str, sqlstate: str, message: str, hint: str
) -> None:
    with refused(sqlstate, message, hint):
        query(shop, "select relief.create_detector('x', 'shop.orders', %s, score_function => false)", [feature])


DETECTOR_REFUSALS: dict[str, tuple[str, str, str, str]] = {
    "no name": ("'', 'shop.orders', '{a}'", "42602", 'detector name "" is not of 1 to 63 bytes', "as its table"),
    "null name": ("null, 'shop.orders', '{a}'", "22004", "the name of the detector is NULL", "as its table"),
    "long name": ("repeat('é', 32), 'shop.orders', '{a}'", "42602", "is not of 1 to 63 bytes", "as its table"),
    "no table": ("'x', null, '{a}'", "22004", 'detector "x" has no table', "such as 'public.orders'"),
    "unknown table": ("'x', 'shop.order', '{a}'", "42P01", 'relation "shop.order" does not exist', ""),
    "no features": ("'x', 'shop.orders', '{}'", "22023", 'detector "x" has no features', "table shop.orders: id, a"),
    "nothing to suggest": (
        "'x', 'shop.empty'",
        "22023",
        'table shop.empty has no column that makes a feature of detector "x"',
        "See why: select * from relief.suggest_features('shop.empty');",
    ),
    "a null feature": ("'x', 'shop.orders', '{a, null}'", "22004", 'feature 2 of detector "x" is NULL', "orders: id"),
    "both": (
        "'x', 'shop.orders', '{a}', contamination => 0.1, threshold => 0.6",
        "22023",
        'detector "x" is given both contamination 0.1 and threshold 0.6',
        "Give one of them",
    ),
    "contamination 0": ("'x', 'shop.orders', '{a}', 0", "22003", '0 of detector "x" is not in (0, 0.5]', "as 0.01"),
    "contamination 0.6": ("'x', 'shop.orders', '{a}', 0.6", "22003", "contamination 0.6 of", "share of rows to flag"),
    "contamination NaN": ("'x', 'shop.orders', '{a}', 'NaN'", "22003", "contamination NaN of", "share of rows to flag"),
    "threshold 0": (
        "'x', 'shop.orders', '{a}', threshold => 0",
        "22003",
        'threshold 0 of detector "x" is not in (0, 1]',
        "higher = more anomalous",
    ),
    "threshold 2": ("'x', 'shop.orders', '{a}', threshold => 2", "22003", "threshold 2 of", "such as 0.6"),
    "policy": (
        "'x', 'shop.orders', '{a}', on_error => 'ignore'",
        "22023",
        'on_error of detector "x" is "ignore", not "pass" or "raise"',
        "raise refuses it",
    ),
    "null policy": ("'x', 'shop.orders', '{a}', on_error => null", "22023", 'is "<NULL>", not "pass"', "pass lets"),
    "time column that is a number": (
        "'x', 'shop.orders', '{a}', time_column => 'a'",
        "42703",
        'time column "a" of detector "x" is not a date or timestamp column of table shop.orders',
        "The date and timestamp columns are: at, day.",
    ),
    "unknown time column": ("'x', 'shop.orders', '{a}', time_column => 'zz'", "42703", 'time column "zz"', "at, day."),
    "time column of a table without any": (
        "'x', 'shop.wide', '{c1}', time_column => 'c1'",
        "42703",
        'time column "c1" of detector "x" is not a date or timestamp column of table shop.wide',
        "The table has none: leave time_column out.",
    ),
    "two features of a name": (
        "'x', 'shop.orders', '{a, b AS a}', score_function => false",
        "42701",
        'two features of table shop.orders are named "a"',
        "Name one of them: b AS another_name",
    ),
    "no column": (
        "'x', 'shop.orders', '{1}', score_function => false",
        "22023",
        'the features of detector "x" read no column of table shop.orders',
        "The columns are: id, a, b",
    ),
    "a feature of 101 columns": (
        "'x', 'shop.wide', array[(select string_agg('c' || n, ' + ') || ' AS all' from generate_series(0, 100) as n)]",
        "54023",
        'feature "all" of table shop.wide reads 101 columns, more than 100',
        "Write several features, each of some of the columns.",
    ),
    "score function of another": (
        "'x', 'shop.orders', '{a}'",
        "42723",
        'function relief_score(shop.orders) already exists for detector "orders"',
        "score_function => false",
    ),
    "name that is taken": (
        "'orders', 'shop.orders', '{a}', score_function => false",
        "42710",
        'detector "orders" already exists',
        "select relief.drop_detector('orders');",
    ),
    "name that is taken, and other mistakes": (
        "'orders', 'shop.orders', '{zz}'",
        "42710",
        'detector "orders" already exists',
        "Choose another name, or first: select relief.drop_detector('orders');",
    ),
    "feature's mistake before another's score function": (
        "'x', 'shop.orders', '{zz}'",
        "42703",
        'feature "zz" cannot be computed on table shop.orders',
        COLUMNS,
    ),
    "unknown option": ("'x', 'shop.orders', '{a}', contaminaton => 0.1", "42883", "does not exist", ""),
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sqlstate", "message", "hint"), DETECTOR_REFUSALS.values(), ids=DETECTOR_REFUSALS.keys()
)
def test_what_can_not_be_a_detector_is_refused(
    shop: Connection, arguments: str, sqlstate: str, message: str, hint: str
) -> None:
    with refused(sqlstate, message, hint):
        query(shop, f"select relief.create_detector({arguments})")
    assert query(shop, "select name from relief.detector") == ["orders"]


def test_what_relief_writes_is_neither_a_feature_nor_an_entity_nor_a_time(database: Database) -> None:
    make_orders(database.superuser, rows=10)
    database.query("alter table shop.orders add column relief_deviation timestamptz")
    query(
        database.superuser,
        "alter table shop.orders add column relief_anomaly_score float8, add column relief_is_anomaly boolean, "
        "add column twice float8 generated always as (2 * relief_anomaly_score) stored",
    )
    for options, what, column in (
        ("'{a, ln(relief_anomaly_score) AS l}'", 'feature "ln(relief_anomaly_score) AS l"', "relief_anomaly_score"),
        ("'{a, twice}'", 'feature "twice"', "relief_anomaly_score"),
        ("'{a}', entity => '{b, relief_is_anomaly}'", 'the entity of detector "x"', "relief_is_anomaly"),
        ("'{a}', time_column => 'relief_deviation'", 'the time column of detector "x"', "relief_deviation"),
    ):
        with refused(
            "42P17",
            f'{what} of table shop.orders reads column "{column}", which Relief writes',
            "The table's own columns are: id, a, b, note, twice.",
        ):
            database.query(f"select relief.create_detector('x', 'shop.orders', {options}, score_function => false)")
    assert query(database.superuser, "select name from relief.detector") == ["orders"]


def test_options_that_take_names_are_told_bare_names(database: Database) -> None:
    database.query('create table odd ("At" timestamptz, "Who is it" text, amount integer)')
    with refused("42703", 'time column "at" of detector "x"', "The date and timestamp columns are: At."):
        database.query("select relief.create_detector('x', 'odd', '{amount}', time_column => 'at')")
    with refused("42703", 'entity column "who" of detector "x"', "The columns are: At, Who is it, amount."):
        database.query("select relief.create_detector('x', 'odd', '{amount}', entity => '{who}')")
    database.query(
        "select relief.create_detector('x', 'odd', '{amount}', time_column => 'At', entity => '{Who is it}')"
    )


def test_role_that_may_not_create_functions_in_the_schema_is_told_the_grant(database: Database) -> None:
    app, stranger = database.role("app"), database.role("My App")
    for role in (app, stranger):
        database.query(f"select relief.grant_admin('\"{role}\"')")
    database.query(f'create schema "My Shop"; grant usage on schema "My Shop" to "{app}", "{stranger}"')
    database.query(f'create table "My Shop".orders (a integer); alter table "My Shop".orders owner to "{app}"')
    database.query(f'grant "{app}" to "{stranger}"')
    creation = """select relief.create_detector('orders', '"My Shop".orders', '{a}')"""
    message = f'role "{stranger}" may not create functions in schema "My Shop", where those of a detector of table'
    grant = 'As the owner of the schema: grant create on schema "My Shop" to {};'
    for role, quoted in ((app, app), (stranger, f'"{stranger}"')):
        with refused("42501", message.replace(stranger, role), grant.format(quoted)):
            query(database.connect(role), creation)
    # What is made is given to the table's owner, who must be allowed to have it there.
    database.query(f'grant create on schema "My Shop" to "{stranger}"')
    with refused("42501", message.replace(stranger, app), grant.format(app)):
        query(database.connect(stranger), creation)
    database.query(f'grant create on schema "My Shop" to {app}')
    query(database.connect(stranger), creation)


@pytest.mark.parametrize("name", ["My Detector", "it's", "$(date)", "Käufe", "orders-2.eu"])
def test_names_in_commands_are_quoted_for_a_shell(database: Database, name: str) -> None:
    database.query("create table plain (a integer)")
    database.query("select relief.create_detector(%s, 'plain', '{a}')", name)
    (problem,) = database.query("select result from relief.check() where \"check\" like 'detector %'")
    command = problem.removeprefix("no model is promoted; ")
    with refused("42704", "has no model", f"Train one: {command.removesuffix(' --promote')}"):
        database.query("select relief.promote(%s)", name)
    assert shlex.split(command) == ["relief", "train", name, "--promote"]
    # The command is as it would be typed.
    assert (name in command.split()) == (name == "orders-2.eu")
    with pytest.raises(psycopg.Error) as failure:
        database.query("select relief.score(%s, '{}')", name)
    assert failure.value.sqlstate == "55000"
    hint = failure.value.diag.message_hint or ""
    assert hint.startswith(f"Train one: {command}, or promote one: ")


def test_feature_without_a_name_is_called_as_it_is_written(database: Database) -> None:
    database.query("create table plain (a integer)")
    database.query("select relief.create_detector('plain', 'plain', array['a * 2', 'A', 'a+1 AS next'])")
    assert database.query("select name from relief.feature order by position") == ["a * 2", "a", "next"]


def test_function_that_is_not_reliefs_is_told_without_a_detector(shop: Connection) -> None:
    query(shop, "create function shop.relief_score(shop.wide) returns float8 language sql as 'select 1.0::float8'")
    with refused("42723", "function relief_score(shop.wide) already exists", "score_function => false") as _:
        query(shop, "select relief.create_detector('x', 'shop.wide', '{c1}')")
    query(shop, "drop function shop.relief_score(shop.wide)")


def test_grants_to_unknown_roles_are_refused(orders: Connection) -> None:
    for verb in ("grant_usage", "grant_admin"):
        with refused("42704", 'role "nobody_at_all" does not exist'):
            query(orders, f"select relief.{verb}('nobody_at_all')")
    for verb in ("grant_usage", "grant_admin", "grant_monitor"):
        with refused("22004", "the role is NULL", "Name a role that is there, such as '"):
            query(orders, f"select relief.{verb}(null)")
