"""Suggestions: what a table's columns would give as features, with a reason for each, and detectors made of them."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.database import Database, query, refused, value
from psycopg import Connection

EVERYTHING = """
    create table public.thing (
      id integer primary key, code text unique, serial bigserial, kind integer references public.kind,
      small smallint, amount numeric(10, 2), price money, factor real, yes boolean,
      span interval, clock time, day date, at timestamp, at_zone timestamptz,
      constant integer, nothing integer, tags text[], body jsonb,
      state text, note text, mood public.mood, maker uuid, same varchar, maybe text,
      gen integer generated always as (small + 1) stored, relief_is_anomaly boolean
    )
"""


@pytest.fixture
def shop(database: Database) -> Connection:
    connection = database.superuser
    query(connection, "set timezone = 'Europe/Berlin'")
    query(connection, "create table public.kind (id integer primary key)")
    query(connection, "create type public.mood as enum ('good', 'bad')")
    query(connection, "insert into public.kind values (1)")
    query(connection, EVERYTHING)
    return connection


def fill(connection: Connection, rows: int = 2000) -> None:
    query(
        connection,
        """
        insert into public.thing
        select n, 'c' || n, n, 1, n %% 7, n * 0.25, (n %% 90)::numeric::money, n / 3.0, n %% 2 = 0,
               make_interval(mins => n), time '00:00' + make_interval(secs => n), date '2026-01-01' + n %% 50,
               timestamp '2026-01-01' + make_interval(hours => n),
               timestamptz '2026-01-01 00:00Z' + make_interval(hours => n), 3, null, '{a}', '{}',
               's' || n %% 30, 'note ' || n, (array['good', 'bad'])[1 + n %% 2]::public.mood, gen_random_uuid(), 'x',
               case when n %% 2 = 0 then 'yes' end
        from generate_series(1, %s) as n
        """,
        rows,
    )


def suggested(connection: Connection, relation: str = "public.thing", *arguments: object) -> dict[str, tuple[str, str]]:
    """Return features, or columns left out, with their reasons."""
    marks = ", %s" * len(arguments)
    rows = query(connection, f"select * from relief.suggest_features(%s{marks})", relation, *arguments)
    assert all((feature is None) == (kind is None) for _, feature, kind, _ in rows)
    return {feature or f"-{column}": reason for column, feature, _, reason in rows}


def test_each_column_is_told_what_it_gives_or_why_it_is_left_out(shop: Connection) -> None:
    fill(shop)
    assert suggested(shop) == {
        "-id": "a key: each row has its own",
        "-code": "a key: each row has its own",
        "-serial": "numbered by the database",
        "-kind": "a reference to table public.kind, whose size means nothing",
        "small": "a number",
        "amount": "a number",
        "price": "a number",
        "factor": "a number",
        "yes": "true is 1",
        "span": "in seconds",
        "clock": "in seconds",
        "extract(isodow from day) AS day_weekday": "day of week, Monday is 1",
        "extract(hour from at) AS at_hour": "hour of day",
        "extract(isodow from at) AS at_weekday": "day of week, Monday is 1",
        "extract(hour from at_zone at time zone 'Europe/Berlin') AS at_zone_hour": "hour of day",
        "extract(isodow from at_zone at time zone 'Europe/Berlin') AS at_zone_weekday": "day of week, Monday is 1",
        "-constant": "a number: always 3",
        "-nothing": "NULL in all 2000 rows looked at",
        "-tags": "of type text[]: write an expression that gives a number or text",
        "-body": "of type jsonb: write an expression that gives a number or text",
        "state AS state_value": "a category",
        "-note": "2000 different values in 2000 rows: too many to compare by how rare they are",
        "mood": "a category",
        "-maker": "2000 different values in 2000 rows: too many to compare by how rare they are",
        "-same": "a category: always x",
        "maybe": "a category",
        "gen": "a number",
        "-relief_is_anomaly": "written by Relief",
    }
    elsewhere = suggested(shop, "public.thing", "Asia/Tokyo")
    assert "extract(hour from at_zone at time zone 'Asia/Tokyo') AS at_zone_hour" in elsewhere


def test_a_detector_without_features_takes_the_suggested_ones_and_tells_them(shop: Connection) -> None:
    fill(shop)
    told: list[tuple[str, str]] = []
    shop.add_notice_handler(lambda notice: told.append((notice.message_primary or "", notice.message_hint or "")))
    query(shop, "select relief.create_detector('thing', 'public.thing', time_zone => 'Asia/Tokyo')")
    made = query(
        shop, "select expression || case name when expression then '' else ' AS ' || name end from relief.feature"
    )
    assert made == [feature for feature in suggested(shop, "public.thing", "Asia/Tokyo") if not feature.startswith("-")]
    assert told == [
        (
            f'detector "thing" compares {", ".join(made)}',
            "See why: select * from relief.suggest_features('public.thing');",
        )
    ]


def test_an_empty_table_is_judged_by_its_types(shop: Connection) -> None:
    found = suggested(shop)
    assert found["small"] == "a number; the table is empty"
    assert found["constant"] == "a number; the table is empty"
    assert found["mood"] == "a category; the table is empty"
    assert found["-note"] == "a category if it has few values; the table is empty"
    query(shop, "select relief.create_detector('thing', 'public.thing')")


def test_a_table_of_two_rows_gives_what_differs_in_them(shop: Connection) -> None:
    fill(shop, 2)
    found = suggested(shop)
    assert "small" in found
    assert found["-at"] == "day of week, Monday is 1: always 4"
    query(shop, "select relief.create_detector('thing', 'public.thing')")


@pytest.mark.parametrize(
    ("expression", "feature"),
    [
        ("exp(n % 100 / 10.0)", "asinh(x) AS log_x"),
        ("exp(n % 100 / 10.0) / 1000", "asinh(x / 0.001) AS log_x"),
        ("exp(n % 100 / 10.0) - 2", "x"),
        ("n", "x"),
        ("'Infinity'::float8 * (n % 2 - 0.5)", "x"),
        ("1e300 * (n % 2)", "x"),
    ],
)
def test_what_is_positive_and_varies_by_factors_is_suggested_on_a_logarithmic_scale(
    shop: Connection, expression: str, feature: str
) -> None:
    query(shop, f"create table public.skewed as select {expression} as x from generate_series(0, 999) as n")
    assert list(suggested(shop, "public.skewed")) == [feature]
    query(shop, "select relief.create_detector('skewed', 'public.skewed')")


def test_intervals_and_numerics_are_suggested_on_a_logarithmic_scale_too(shop: Connection) -> None:
    query(
        shop,
        "create table public.skewed as select make_interval(secs => x) as i, x::numeric as n, x::numeric::money as m "
        "from (select exp(n % 100 / 10.0) as x from generate_series(0, 999) as n) as s",
    )
    assert list(suggested(shop, "public.skewed")) == ["asinh(extract(epoch from i)) AS log_i", "asinh(n) AS log_n", "m"]
    query(shop, "select relief.create_detector('skewed', 'public.skewed')")


LONG = "ö" * 31


def test_names_that_are_taken_reserved_or_too_long_are_replaced(shop: Connection) -> None:
    query(
        shop,
        'create table public."Odd ""t" (at timestamp, at_hour integer, error integer, "x as y" real, "select" real, '
        f'"{LONG}" date)',
    )
    found = list(suggested(shop, 'public."Odd ""t"'))
    assert found == [
        "extract(hour from at) AS at_hour_2aa153b3",
        "extract(isodow from at) AS at_weekday",
        "at_hour",
        "error AS error_value",
        '"x as y"',
        '"select"',
        f'extract(isodow from "{LONG}") AS "{"ö" * 13}_a0ac70b8"',
    ]
    query(shop, """select relief.create_detector('odd', 'public."Odd ""t"')""")


def test_views_and_other_relations_are_looked_at_as_well(shop: Connection) -> None:
    fill(shop)
    query(shop, "create view public.seen as select small, constant from public.thing")
    assert list(suggested(shop, "public.seen")) == ["small", "-constant"]
    query(shop, "create materialized view public.kept as select * from public.seen")
    assert list(suggested(shop, "public.kept")) == ["small", "-constant"]
    query(shop, "create table public.parted (a integer, b integer) partition by list (b)")
    query(shop, "create table public.part partition of public.parted default")
    query(shop, "insert into public.parted select n, 1 from generate_series(1, 1000) as n")
    assert list(suggested(shop, "public.parted")) == ["a", "-b"]


def test_a_sample_is_read_from_all_over_a_large_table(shop: Connection) -> None:
    query(
        shop,
        "create table public.large as "
        "select n as a, n / 100000 as b, repeat('x', 50) as c from generate_series(1, 200000) as n",
    )
    found = suggested(shop, "public.large")
    assert list(found)[:2] == ["a", "b"]
    candidates = "array(select c from relief._candidates('public.large', 'UTC') as c)"
    looked_at = f"select max(rows) from relief._measure_candidates('public.large', {candidates})"
    assert value(shop, looked_at) < 60_000


def test_only_whoever_has_the_owners_rights_is_told(database: Database) -> None:
    stranger = database.role("stranger")
    database.query(f"select relief.grant_admin('{stranger}')")
    database.query("create table public.secret (a integer)")
    owner = database.value("select current_user")
    with refused("42501", "must be owner of table", f'Connect as a role that has the rights of "{owner}".'):
        query(database.connect(stranger), "select * from relief.suggest_features('public.secret')")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", None])
def test_a_time_zone_that_is_not_known_is_refused(shop: Connection, zone: str | None) -> None:
    with refused(
        "22023", f'time zone "{"NULL" if zone is None else zone}" is not known', "such as UTC or Europe/Berlin"
    ):
        query(shop, "select * from relief.suggest_features('public.thing', %s)", zone)


def test_a_table_without_columns_suggests_nothing(shop: Connection) -> None:
    query(shop, "create table public.bare ()")
    assert suggested(shop, "public.bare") == {}


Notice = tuple[str, str]


def notices(connection: Connection, statement: str) -> list[Notice]:
    told: list[Notice] = []

    def listen(notice: Any) -> None:
        told.append((notice.message_primary or "", notice.message_hint or ""))

    connection.add_notice_handler(listen)
    query(connection, statement)
    connection.remove_notice_handler(listen)
    return told


def test_a_feature_whose_value_depends_on_the_session_is_warned_of(shop: Connection) -> None:
    create = "select relief.create_detector('thing', 'public.thing', array[$x$%s AS x$x$])"
    warned = notices(shop, create % "extract(hour from at_zone)")
    assert warned == [
        (
            'feature "extract(hour from at_zone) AS x" of table public.thing calls '
            '"extract"(text,timestamp with time zone), which is not immutable: its value may depend on the session',
            "Say where the clock hangs: at_zone at time zone 'Europe/Berlin' instead of at_zone.",
        )
    ]
    query(shop, "select relief.drop_detector('thing')")
    warned = notices(shop, create % "length(concat(small, amount))")
    assert 'calls concat("any"), which is not immutable' in warned[0][0]
    assert "an immutable function gives it the same one always" in warned[0][1]
    query(shop, "select relief.drop_detector('thing')")
    assert notices(shop, create % "extract(hour from at_zone at time zone 'Europe/Berlin')") == []


def test_a_session_that_reads_backslashes_in_its_own_way_is_told_the_same(shop: Connection) -> None:
    fill(shop)
    expected = suggested(shop)
    query(shop, "select relief.create_detector('thing', 'public.thing')")
    query(shop, "set standard_conforming_strings = off; set escape_string_warning = off")
    assert suggested(shop) == expected
    query(shop, "select relief.drop_detector('thing')")
    assert value(shop, "select count(*) from pg_proc where proname like '%thing%'") == 0
