"""Schedules that the worker keeps: when they are due, and what is made of what is due."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest
from croniter import CroniterBadDateError, croniter
from helpers.database import Database, query, refused, value
from helpers.world import World
from hypothesis import given, settings
from hypothesis import strategies as st

UTC = datetime.timezone.utc
NEXT = "select relief._next_time(%s, %s, %s)"


def field(lowest: int, highest: int, *, steps: bool = True) -> st.SearchStrategy[str]:
    """Return fields of a crontab: numbers, ranges, lists, steps, all."""
    numbers = st.integers(lowest, highest)
    ranges = st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: f"{pair[0]}-{pair[1]}")
    stepped = st.tuples(ranges, st.integers(1, 9)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    lists = st.lists(st.one_of(numbers.map(str), ranges, stepped), min_size=1, max_size=3).map(",".join)
    every = st.integers(1, highest).map(lambda step: f"*/{step}") if steps else st.nothing()
    return st.one_of(st.just("*"), every, lists)


# croniter takes */2 in a day for all days, where another restricts them.
CRONTABS = st.tuples(field(0, 59), field(0, 23), field(1, 31, steps=False), field(1, 12), field(0, 6, steps=False)).map(
    " ".join
)
NO_CRONTABS = (
    "", "x", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * * 8",
    "*/0 * * * *", "5-1 * * * *", "1/5 * * * *", "*-5 * * * *", "1,,2 * * * *", ", * * * *", "* * * foo *",
    "-1 * * * *", "* * 30 2 *", "@daily", "1;2 * * * *", "* * * * mon;",
)  # fmt: skip
MOMENTS = st.datetimes(datetime.datetime(2024, 1, 1), datetime.datetime(2030, 1, 1), timezones=st.just(UTC))


@pytest.fixture(scope="module")
def clock(module_database: Database) -> Iterator[Database]:
    yield module_database


@settings(max_examples=150)
@given(crontab=CRONTABS, moment=MOMENTS)
def test_next_time_is_croniters(clock: Database, crontab: str, moment: datetime.datetime) -> None:
    try:
        expected = croniter(crontab, moment.replace(microsecond=0)).get_next(datetime.datetime)
    except CroniterBadDateError:
        expected = None
    assert clock.value(NEXT, crontab, moment, "UTC") == expected


@pytest.mark.parametrize(
    ("crontab", "after", "expected"),
    [
        ("0 3 * * mon-fri", "2024-03-01 04:00+00", "2024-03-04 03:00+00"),
        ("0 0 29 feb *", "2096-03-01 00:00+00", "2104-02-29 00:00+00"),
        ("0 0 * * 7", "2024-03-01 00:00+00", "2024-03-03 00:00+00"),
        ("  */15\t* * * * ", "2024-03-01 00:07+00", "2024-03-01 00:15+00"),
        ("0 0 13 * FRI", "2024-03-02 00:00+00", "2024-03-08 00:00+00"),
    ],
)
def test_names_sundays_and_leap_years_are_known(clock: Database, crontab: str, after: str, expected: str) -> None:
    assert clock.value("select relief._next_time(%s, %s, 'UTC') = %s::timestamptz", crontab, after, expected) is True


def test_hours_that_summer_time_leaves_out_or_repeats_come_once_a_day(clock: Database) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    at = datetime.datetime(2024, 3, 29, 12, tzinfo=berlin)
    times = []
    for _ in range(4):
        at = clock.value(NEXT, "30 2 * * *", at, "Europe/Berlin")
        times.append(at.astimezone(berlin).strftime("%d %H:%M"))
    assert times == ["30 02:30", "31 03:30", "01 02:30", "02 02:30"]
    at = datetime.datetime(2024, 10, 26, 12, tzinfo=berlin)
    times = []
    for _ in range(2):
        at = clock.value(NEXT, "30 2 * * *", at, "Europe/Berlin")
        times.append(at.astimezone(berlin).strftime("%d %H:%M"))
    assert times == ["27 02:30", "28 02:30"]


def test_schedule_that_is_none_is_refused(world: World) -> None:
    hint = "as in a crontab: '*/15 * * * *'."
    for crontab in NO_CRONTABS:
        for kind in ("train", "refresh"):
            with refused("22023", f'schedule "{crontab}" of detector "orders" is not valid, or never comes', hint):
                query(world.app, f"select * from relief.schedule('orders', {kind} => %s)", crontab)


def test_schedule_is_visible_and_the_next_call_says_all_anew(world: World) -> None:
    shown = "kind, cron, options, next_at > now(), scheduled_by"
    rows = query(
        world.app,
        f"select {shown} from relief.schedule('orders', train => '0 3 * * *', refresh => '*/15 * * * *', "
        "if_drifted => true, promote_if_better => true)",
    )
    me = world.app.info.user
    assert rows == [
        ("train", "0 3 * * *", {"if_drifted": True, "promote_if_better": True}, True, me),
        ("refresh", "*/15 * * * *", {}, True, me),
    ]
    assert query(world.app, f"select {shown} from relief.schedule") == rows
    query(world.app, "select relief.schedule('orders', refresh => '0 * * * *')")
    assert query(world.app, "select kind, cron from relief.schedule") == [("refresh", "0 * * * *")]
    assert query(world.app, "select relief.schedule('orders')") == []
    assert query(world.app, "select * from relief.schedule") == []


def test_options_without_a_training_that_takes_them_are_refused(world: World) -> None:
    with refused(
        "22023", 'no training of detector "orders" is scheduled that could take {"if_drifted"', "train => '0 3"
    ):
        query(world.app, "select relief.schedule('orders', refresh => '0 3 * * *', if_drifted => true)")


def test_schedule_follows_the_detectors_time_zone(world: World) -> None:
    query(
        world.app,
        "select relief.create_detector('tz', 'shop.orders', '{a}', time_zone => 'Asia/Tokyo', score_function => false)",
    )
    query(world.app, "select relief.schedule('tz', train => '0 3 * * *')")
    assert value(world.app, "select next_at at time zone 'Asia/Tokyo' from relief.schedule").hour == 3


def test_what_is_due_becomes_one_job_however_late_it_is(world: World) -> None:
    query(
        world.app, "select relief.schedule('orders', train => '0 3 * * *', refresh => '*/15 * * * *', promote => true)"
    )
    times = dict(query(world.app, "select kind, next_at from relief.schedule"))
    queue = "select cardinality(relief._queue_due(%s))"
    assert value(world.app, queue, min(times.values()) - datetime.timedelta(seconds=1)) == 0
    late = max(times.values()) + datetime.timedelta(days=3)
    assert value(world.app, queue, late) == 2
    assert value(world.app, queue, late) == 0
    jobs = query(world.app, "select kind, options, scheduled_for from relief.job order by kind")
    assert jobs == [("refresh", {}, times["refresh"]), ("train", {"promote": True}, times["train"])]
    # What still waits isn't asked for again.
    assert value(world.app, queue, late + datetime.timedelta(days=3)) == 2
    assert value(world.app, "select count(*) from relief.job") == 2
    assert value(world.app, "select bool_and(next_at > %s) from relief.schedule", late) is True
