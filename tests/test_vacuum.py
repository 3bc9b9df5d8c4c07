"""Retention: what is past its limit is dropped, what is needed never."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, constant
from helpers.shop import FEATURES, make_orders
from helpers.world import World, told
from psycopg import Connection

VERSIONS = "select version from relief.model order by version"
VACUUM = "select what, dropped, kept from relief.vacuum('orders') order by what"


@pytest.fixture
def versions(orders: Connection) -> Connection:
    """Return a database with six versions of "orders"."""
    _train(orders, 6)
    # What it leaves in these tests is years old.
    query(orders, "update relief.detector set created_at = now() - interval '10 years'")
    return orders


def _train(connection: Connection, versions: int) -> None:
    for _ in range(versions):
        add_model(connection, "orders", constant(FEATURES, 0.5, 0.9))


def _leave(connection: Connection, table: str, *ages: str) -> None:
    """Have the detector "orders" leave events or entries of the log of these ages."""
    column, text = ("verdict", "score") if table == "event" else ("action", "test")
    for age in ages:
        query(
            connection,
            f"insert into relief.{table} (detector, relation, created_by, {column}, happened_at) "
            "select name, relation, created_by, %s, now() - %s::interval from relief.detector where name = 'orders'",
            text,
            age,
        )


def _vacuum(connection: Connection) -> dict[str, tuple[int, int]]:
    return {what: (dropped, kept) for what, dropped, kept in query(connection, VACUUM)}


def test_old_versions_are_dropped_but_what_is_promoted_and_what_rollback_goes_back_to(versions: Connection) -> None:
    query(versions, "select relief.promote('orders', n) from unnest('{1, 3, 2}'::integer[]) as n")
    query(versions, "select relief.set_retention('orders', versions => 2)")
    assert _vacuum(versions)["versions"] == (2, 4)
    assert query(versions, VERSIONS) == [2, 3, 5, 6]
    assert _vacuum(versions)["versions"] == (0, 4)
    assert value(versions, "select relief.rollback('orders')") == 3
    assert _vacuum(versions)["versions"] == (1, 3)
    assert query(versions, VERSIONS) == [3, 5, 6]


def test_what_was_dropped_is_logged_and_nothing_if_nothing_was(versions: Connection) -> None:
    _leave(versions, "event", "2 years", "3 years", "1 day")
    query(versions, "select relief.set_retention('orders', versions => 4)")
    logged = "select details from relief.audit where action = 'vacuum'"
    for _ in range(2):
        _vacuum(versions)
        assert query(versions, logged) == [{"versions": [1, 2], "events": 2}]


def test_events_and_entries_of_the_log_are_dropped_by_age(versions: Connection) -> None:
    _leave(versions, "event", "364 days", "367 days", "10 years")
    _leave(versions, "audit", "4 years", "6 years", "2 days")
    logged = value(versions, "select count(*) from relief.audit")
    told = _vacuum(versions)
    assert told["events"] == (2, 1)
    assert told["audit"] == (1, logged - 1)
    query(versions, "select relief.set_retention('orders', events => '1 hour', audit => '31 days')")
    told = _vacuum(versions)
    assert told["events"] == (1, 0)
    assert told["audit"][0] == 1
    _leave(versions, "audit", "30 days")
    assert _vacuum(versions)["audit"][0] == 0


def test_jobs_are_dropped_by_when_they_ended_and_open_ones_never(versions: Connection) -> None:
    query(
        versions,
        "insert into relief.job (detector, kind, state, requested_at, finished_at) values "
        "('orders', 'train', 'done', now() - interval '1 year', now() - interval '91 days'), "
        "('orders', 'train', 'failed', now() - interval '1 year', now() - interval '89 days'), "
        "('orders', 'train', 'queued', now() - interval '1 year', null)",
    )
    assert _vacuum(versions)["jobs"] == (1, 2)
    assert query(versions, "select state from relief.job order by id") == ["failed", "queued"]


def test_failures_have_a_limit_of_their_own(versions: Connection) -> None:
    query(
        versions,
        "insert into relief.event (detector, relation, error, happened_at) "
        "select 'orders', 'shop.orders', 'division by zero', now() - n * interval '1 day' "
        "from unnest('{1, 89, 91}'::integer[]) as n",
    )
    _leave(versions, "event", "91 days")
    told = _vacuum(versions)
    assert (told["failures"], told["events"]) == ((1, 2), (0, 1))


def test_quarantined_rows_are_dropped_by_when_they_were_resolved_and_held_ones_never(versions: Connection) -> None:
    query(
        versions,
        "insert into relief.quarantine "
        "(detector, detector_id, relation, row_values, state, held_at, resolved_at, resolved_by) "
        "select d.name, d.id, d.relation, '{}', state, now() - interval '3 years', now() - resolved, "
        "case when state <> 'held' then current_user end from relief.detector as d, "
        "(values ('held', null), ('released', interval '2 years'), ('discarded', '1 day')) as q (state, resolved)",
    )
    assert _vacuum(versions)["quarantine"] == (1, 2)
    assert query(versions, "select state from relief.quarantine order by id") == ["held", "discarded"]


def test_limits_are_those_said_last_and_else_the_defaults(versions: Connection) -> None:
    told = "select versions_kept, events_kept::text, failures_kept::text, jobs_kept::text, audit_kept::text "
    said = told + "from relief.set_retention('orders'{})"
    assert query(versions, said.format("")) == [(20, "1 year", "90 days", "90 days", "5 years")]
    assert query(versions, said.format(", events => '2 mons', jobs => '7 days'")) == [
        (20, "2 mons", "90 days", "7 days", "5 years")
    ]
    changed = [(3, "2 mons", "1 day", "7 days", "31 days")]
    assert query(versions, said.format(", 3, failures => '1 day', audit => '31 days'")) == changed
    assert query(versions, said.format("")) == changed
    assert query(versions, "select version, details from relief.audit where action = 'set_retention' order by id") == [
        (
            None,
            {"versions": 20, "events": "2 mons", "failures": "90 days", "jobs": "7 days", "audit": "5 years"},
        ),
        (None, {"versions": 3, "events": "2 mons", "failures": "1 day", "jobs": "7 days", "audit": "31 days"}),
    ]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("versions => 0", 'versions 0 of detector "orders" is not at least 1'),
        ("events => '0'", 'events 00:00:00 of detector "orders" is not between 00:00:00 and 1000 years'),
        ("failures => '-1 day'", 'failures -1 days of detector "orders" is not between 00:00:00 and 1000 years'),
        ("jobs => '1001 years'", 'jobs 1001 years of detector "orders" is not between 00:00:00 and 1000 years'),
        ("audit => '29 days'", 'audit 29 days of detector "orders" is not between 30 days and 1000 years'),
    ],
)
def test_limits_that_cannot_be_are_refused(orders: Connection, limit: str, message: str) -> None:
    with refused("22003", message, "such as "):
        query(orders, f"select relief.set_retention('orders', {limit})")
    assert query(orders, "select * from relief.retention") == []


def test_one_call_drops_no_more_rows_of_a_kind_than_it_is_told(versions: Connection) -> None:
    _leave(versions, "event", "2 years", "4 years", "3 years", "1 day")
    _leave(versions, "audit", "6 years", "7 years")
    query(
        versions,
        "insert into relief.shadow_score (detector, relation, version) select name, relation, 1 "
        "from relief.detector, generate_series(1, 100003)",
    )
    told = "select what, dropped, kept from relief.vacuum('orders', max_rows => 2) where what = any (%s)"
    for events, audit, shadow in (((2, 2), 2, (2, 100001)), ((1, 1), 0, (1, 100000)), ((0, 1), 0, (0, 100000))):
        dropped = {what: counts for what, *counts in query(versions, told, ["events", "audit", "shadow_scores"])}
        assert (dropped["events"], dropped["audit"][0], dropped["shadow_scores"]) == ([*events], audit, [*shadow])
    with refused("22003", "max_rows is 0, not at least 1", "such as 100000; NULL for all."):
        query(versions, "select relief.vacuum('orders', 0)")


def _subscribe(connection: Connection, name: str, moved: str, since: str = "-infinity") -> None:
    """Have a reader subscribed from a moment on that confirmed anything so long ago for the last time."""
    query(connection, "select relief.subscribe('orders', %s, %s)", name, since)
    moved_at = "update relief.subscription set moved_at = now() - %s::interval where name = %s"
    query(connection, moved_at, moved, name)


def _read(connection: Connection, name: str, count: int, confirmed: int) -> None:
    """Have a reader read so many events and confirm some of them."""
    events = query(connection, "select batch::text, event from relief.next_events('orders', %s, %s)", name, count)
    query(connection, "select relief.confirm('orders', %s, %s, %s)", name, *events[confirmed - 1])


def test_events_that_a_reader_still_has_to_read_stay_until_it_has(versions: Connection) -> None:
    _leave(versions, "event", *["2 years"] * 4)
    query(versions, "insert into relief.event (detector, relation, error) values ('orders', 'shop.orders', 'x')")
    query(versions, "update relief.event set happened_at = now() - interval '2 years' where error is not null")
    _subscribe(versions, "mailer", "364 days")
    _subscribe(versions, "new", "1 day", since="now")
    assert told(versions, "select relief.vacuum('orders')") == []
    assert _vacuum(versions)["events"] == (0, 4)
    _read(versions, "mailer", 5, 2)
    assert _vacuum(versions)["events"] == (2, 2)
    # In the midst of a batch, and after it; what comes meanwhile is of the next one.
    _read(versions, "mailer", 1, 1)
    _leave(versions, "event", "3 years")
    assert _vacuum(versions)["events"] == (1, 2)
    for _ in range(2):
        _read(versions, "mailer", 2, 1)
    dropped = _vacuum(versions)
    assert (dropped["events"], dropped["failures"]) == ((1, 1), (1, 0))
    _read(versions, "mailer", 1, 1)
    assert _vacuum(versions)["events"] == (1, 0)


def test_a_reader_that_is_gone_is_not_waited_for_and_what_it_misses_is_told(versions: Connection) -> None:
    _leave(versions, "event", *["2 years"] * 3, "1 day")
    _subscribe(versions, "gone", "367 days")
    _subscribe(versions, "O'Hara", "400 days")
    _read(versions, "O'Hara", 3, 2)
    query(versions, "update relief.subscription set moved_at = '2020-01-02 03:04:05+00' where name = 'O''Hara'")
    warnings: list[tuple[str, str]] = []
    versions.add_notice_handler(lambda said: warnings.append((said.message_primary or "", said.message_hint or "")))
    query(versions, "set timezone = 'UTC'")
    _subscribe(versions, "mailer", "1 day")
    assert _vacuum(versions)["events"] == (0, 4)
    assert warnings == []
    query(versions, "select relief.unsubscribe('orders', 'mailer')")
    assert _vacuum(versions)["events"] == (3, 1)
    (ohara, hint), (gone, _) = warnings
    assert ohara == (
        '1 events are dropped that subscription "O\'Hara" of detector "orders" has not read: '
        "it has confirmed nothing since 2020-01-02 03:04:05+00"
    )
    assert gone.startswith('3 events are dropped that subscription "gone" of detector "orders" has not read: ')
    query(versions, hint.removeprefix("If nobody reads it any more: "))
    assert query(versions, "select name from relief.subscription") == ["gone"]
    assert len(warnings) == 2
    # It goes on with what is left.
    assert len(query(versions, "select event from relief.next_events('orders', 'gone')")) == 1


def test_unknown_detectors_are_refused(orders: Connection) -> None:
    for statement in ("select relief.vacuum('order')", "select relief.set_retention('order', 3)"):
        with refused("42704", 'detector "order" does not exist', "List the detectors"):
            query(orders, statement)


def test_vacuum_of_all_takes_every_detector_and_what_those_left_that_are_gone(versions: Connection) -> None:
    query(versions, "create table shop.other (x float8)")
    query(versions, "select relief.create_detector('other', 'shop.other', '{x}')")
    _leave(versions, "event", "2 years", "1 day")
    _leave(versions, "audit", "6 years")
    query(versions, "select relief.drop_detector('orders')")
    told = query(versions, "select name, what, dropped, kept from relief.vacuum() order by 1, 2")
    gone = {what: (dropped, kept) for name, what, dropped, kept in told if name == "orders"}
    logged = value(versions, "select count(*) from relief.audit where detector = 'orders'")
    nothing = dict.fromkeys(("quarantine", "failures", "jobs"), (0, 0))
    assert gone == {"events": (1, 1), "audit": (1, logged), **nothing}
    assert [row for row in told if row[0] == "other"] == [
        ("other", "audit", 0, 1),
        ("other", "events", 0, 0),
        ("other", "failures", 0, 0),
        ("other", "jobs", 0, 0),
        ("other", "quarantine", 0, 0),
        ("other", "versions", 0, 0),
    ]


def test_unread_events_of_a_table_that_was_made_anew_stay_for_the_reader(versions: Connection) -> None:
    _subscribe(versions, "mailer", "1 day")
    _leave(versions, "event", "2 years")
    query(versions, "create table shop.other (like shop.orders including all)")
    query(versions, "drop table shop.orders cascade")
    query(versions, "alter table shop.other rename to orders")
    query(versions, "select relief.regenerate('orders')")
    all_events = "select sum(dropped), sum(kept) from relief.vacuum() where what = 'events'"
    assert query(versions, all_events) == [(0, 1)]
    _read(versions, "mailer", 1, 1)
    assert query(versions, all_events) == [(1, 0)]


def test_events_of_a_namesake_that_is_gone_are_kept_for_nobody_who_begins_later(versions: Connection) -> None:
    _leave(versions, "event", "2 years", "1 day")
    query(versions, "select relief.drop_detector('orders')")
    query(versions, "create table shop.other (x float8)")
    query(versions, "select relief.create_detector('orders', 'shop.other', '{x}')")
    _subscribe(versions, "mailer", "1 day", since="now")
    assert query(versions, "select sum(dropped), sum(kept) from relief.vacuum() where what = 'events'") == [(1, 1)]
    assert query(versions, "select event from relief.next_events('orders', 'mailer')") == []


def test_a_detector_of_the_same_name_on_another_table_is_left_alone(versions: Connection) -> None:
    _leave(versions, "event", "2 years")
    query(versions, "select relief.drop_detector('orders')")
    query(versions, "create table shop.other (x float8)")
    query(versions, "select relief.create_detector('orders', 'shop.other', '{x}')")
    assert _vacuum(versions)["events"] == (0, 0)
    assert value(versions, "select count(*) from relief.event") == 1


def test_the_log_loses_by_hand_what_is_past_its_limit_and_nothing_else(world: World) -> None:
    _leave(world.database.superuser, "audit", "6 years", "4 years")
    kept = query(
        world.app, "select action from relief.audit where happened_at > now() - interval '5 years' order by id"
    )
    query(world.mallory, "delete from relief.audit")
    assert value(world.app, "select count(*) from relief.audit") == len(kept) + 1
    with refused("42501", "entries of relief.audit cannot be changed or deleted", "select * from relief.vacuum();"):
        world.database.query("delete from relief.audit")
    query(world.app, "delete from relief.audit")
    assert query(world.app, "select action from relief.audit order by id") == kept


def test_only_the_owner_of_the_table_vacuums_and_says_what_is_kept(world: World) -> None:
    _train(world.app, 3)
    for statement in ("select relief.vacuum('orders')", "select relief.set_retention('orders', 1)"):
        with refused("42704", 'detector "orders" does not exist'):
            query(world.mallory, statement)
        with refused("42501"):
            query(world.scorer, statement)
    assert query(world.mallory, "select * from relief.vacuum()") == []
    query(world.app, "select relief.set_retention('orders', 1)")
    assert query(world.mallory, "select * from relief.retention") == []
    assert _vacuum(world.app)["versions"] == (2, 1)


def test_a_version_that_is_being_promoted_is_not_dropped(database: Database) -> None:
    make_orders(database.superuser)
    _train(database.superuser, 5)
    database.query("select relief.set_retention('orders', 1)")
    promoter, vacuumer = database.connect(autocommit=False), database.connect()
    query(promoter, "select relief.promote('orders', 2)")
    told: dict[str, Any] = {}
    waiting = threading.Thread(target=lambda: told.update(_vacuum(vacuumer)))
    waiting.start()
    database.wait_until_blocked(vacuumer)
    promoter.commit()
    waiting.join()
    assert told["versions"] == (3, 2)
    assert database.query(VERSIONS) == [2, 5]


def test_a_detector_whose_table_is_gone_is_vacuumed_too(versions: Connection) -> None:
    query(versions, "select relief.set_retention('orders', 1)")
    query(versions, "drop table shop.orders cascade")
    assert _vacuum(versions)["versions"] == (5, 1)
