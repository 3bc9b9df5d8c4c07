"""Jobs: what may be asked of the worker, by whom, and who sees it."""

from __future__ import annotations

import pytest
from helpers.database import query, refused, value
from helpers.forests import add_model, stump
from helpers.sessions import running
from helpers.shop import FEATURES
from helpers.world import World

REQUEST = "select relief.request_training('orders')"

# Arguments that are refused: with this SQLSTATE, and these parts of message and hint.
REFUSED = (
    ("settings => '[]'", "22023", 'settings of detector "orders" are not a JSON object', '{"trees": 200'),
    (
        """settings => '{"where": "true"}'""",
        "22023",
        'setting "where" of detector "orders" is not known',
        "trees, s",
    ),
    (
        """settings => '{"full": true}'""",
        "22023",
        'setting "full" of detector "orders" is not known',
        "A training takes",
    ),
    ("""settings => '{"trees": "x"}'""", "22023", '"trees" of detector "orders" is "x", not a number', "a number."),
    ("""settings => '{"promote": null}'""", "22023", '"promote" of detector "orders" is null', "It is a boolean."),
    ("""settings => '{"trees": 2001}'""", "22003", '"trees" of detector "orders" is 2001', "from 1 to 2000."),
    ("""settings => '{"samples": 1}'""", "22003", '"samples" of detector "orders" is 1', "from 2 to 1000000."),
    ("""settings => '{"seed": 1.5}'""", "22003", '"seed" of detector "orders" is 1.5', "a whole number from 0"),
    (
        """settings => '{"contamination": 0}'""",
        "22003",
        '"contamination" of detector "orders" is 0',
        "at most 0.5.",
    ),
    ("""settings => '{"max_features": 2}'""", "22003", '"max_features" of detector "orders" is 2', "at most 1."),
    ("""settings => '{"sample_rows": 9}'""", "22003", '"sample_rows" of detector "orders" is 9', "from 10 to"),
    ("""settings => '{"since": 5}'""", "22023", '"since" of detector "orders" is 5, not a string', "at most 100"),
    (
        "settings => jsonb_build_object('since', repeat('1', 101))",
        "22023",
        '"since" of detector "orders" is "111',
        "100 characters",
    ),
    (
        """settings => '{"since": "soon"}'""",
        "22007",
        'setting "since" of detector "orders" is "soon", not a time',
        'such as "2013-06-01" or "yesterday"',
    ),
    (
        """settings => '{"max_age": "5parsecs"}'""",
        "22007",
        'setting "max_age" of detector "orders" is "5parsecs", not an interval',
        'such as "30 days"',
    ),
    ("max_age => '0'", "22003", 'max_age 00:00:00 of detector "orders" is not positive', "such as '30 days'"),
    (
        "promote => true, promote_if_better => true",
        "22023",
        "promoted in any case, and only if better",
        "Give one of",
    ),
)


def test_request_is_a_job_that_tells_who_asked_for_what(world: World) -> None:
    job = value(
        world.app,
        "select relief.request_training('orders', if_drifted => true, max_age => '30 days', promote_if_better => true, "
        """settings => '{"trees": 200, "since": "2013-06-01"}')""",
    )
    rows = query(world.app, "select id, detector, kind, state, requested_by, attempts, options from relief.job")
    options = {"if_drifted": True, "max_age": "30 days", "promote_if_better": True, "trees": 200, "since": "2013-06-01"}
    assert rows == [(job, "orders", "train", "queued", world.app.info.user, 0, options)]


def test_request_wakes_whoever_listens(world: World) -> None:
    query(world.scorer, "listen relief_job")
    query(world.app, REQUEST)
    assert [notice.payload for notice in world.scorer.notifies(timeout=30, stop_after=1)] == [""]


def test_same_request_is_one_job_until_it_begins(world: World) -> None:
    first = value(world.app, REQUEST)
    assert value(world.app, REQUEST) == first
    assert value(world.app, "select relief.request_training('orders', promote => true)") != first
    query(world.app, "select relief._start_job(%s)", first)
    assert value(world.app, REQUEST) != first


def test_request_that_cannot_be_is_refused(world: World) -> None:
    for arguments, sqlstate, message, hint in REFUSED:
        for call in ("relief.request_training('orders', {})", "relief.schedule('orders', train => '0 3 * * *', {})"):
            with refused(sqlstate, message, hint):
                query(world.app, f"select {call.format(arguments)}")
    assert query(world.app, "select * from relief.job") == []
    assert query(world.app, "select * from relief.schedule") == []


def test_job_that_is_stored_by_hand_is_checked_too(world: World) -> None:
    insert = "insert into relief.job (detector, kind, options) values ('orders', %s, %s)"
    with refused("22023", 'setting "where" of detector "orders" is not known', "A training takes: promote, "):
        query(world.app, insert, "train", '{"where": "evil()"}')
    with refused("22023", 'setting "trees" of detector "orders" is not known', "A refresh takes: full."):
        query(world.app, insert, "refresh", '{"trees": 5}')
    with refused("23514", "kind_is_known"):
        query(world.app, insert, "drop", "{}")


def test_nobody_asks_sees_or_cancels_in_anothers_place(world: World) -> None:
    job = value(world.app, REQUEST)
    query(world.app, "select relief.schedule('orders', train => '0 3 * * *')")
    mallory = world.mallory
    for statement in (REQUEST, "select relief.schedule('orders', train => '0 3 * * *')"):
        with refused("42704", 'detector "orders" does not exist', "detectors of tables that you own"):
            query(mallory, statement)
    with refused("42704", f"job {job} does not exist", "select id, detector, kind, state from relief.job"):
        query(mallory, "select relief.cancel_job(%s)", job)
    for statement in (
        "insert into relief.job (detector, kind) values ('orders', 'train')",
        "insert into relief.schedule (detector, kind, cron, next_at) values ('orders', 'refresh', '', now())",
    ):
        with refused("42501", "new row violates row-level security policy"):
            query(mallory, statement)
    with refused("42501", "permission denied for table job"):
        query(world.app, "insert into relief.job (detector, kind, requested_by) values ('orders', 'train', 'postgres')")
    for table in ("job", "schedule"):
        assert query(mallory, f"select * from relief.{table}") == []
        query(mallory, f"delete from relief.{table}")
        assert len(query(world.app, f"select * from relief.{table}")) == 1
    assert query(mallory, "select relief._queue_due('infinity')") == [[]]
    query(mallory, "update relief.job set state = 'done'")
    assert value(mallory, "select (relief._start_job(%s)).id", job) is None
    assert value(world.app, "select state from relief.job") == "queued"


def test_cancelled_job_cannot_be_begun_or_cancelled_again(world: World) -> None:
    job = value(world.app, REQUEST)
    query(world.app, "select relief.cancel_job(%s)", job)
    assert query(world.app, "select state, finished_at is not null from relief.job") == [("cancelled", True)]
    assert value(world.app, "select (relief._start_job(%s)).id", job) is None
    with refused("55000", f"job {job} is cancelled already", "what has not ended"):
        query(world.app, "select relief.cancel_job(%s)", job)


def test_attempt_that_does_not_count_any_more_can_say_nothing(world: World) -> None:
    job = value(world.app, REQUEST)
    assert value(world.app, "select (relief._start_job(%s)).attempts", job) == 1
    for statement in (
        "select relief._finish_job(%s, 2, 'done')",
        "select relief._note_version(%s, 2, 1, null)",
    ):
        with refused(
            "55000", f"job {job} is not this session's any more: it was begun again", "Nothing of this attempt"
        ):
            query(world.app, statement, job)
    assert value(world.app, "select relief._fail_job(%s, 2, 'x', null, true)", job) is None
    assert value(world.app, "select relief._fail_job(%s, 1, 'x', null, true)", job) == "waiting"
    with refused("55000", "it is waiting"):
        query(world.app, "select relief._finish_job(%s, 1, 'done')", job)


def test_jobs_and_schedule_go_with_their_detector(world: World) -> None:
    query(world.app, REQUEST)
    query(world.app, "select relief.schedule('orders', refresh => '*/15 * * * *')")
    query(world.app, "select relief.drop_detector('orders')")
    assert world.database.query("select id from relief.job") == []
    assert world.database.query("select kind from relief.schedule") == []


def test_training_is_asked_for_by_drift_or_age_alone(world: World) -> None:
    consider = "select train, reason from relief._consider_training('orders', %s, %s)"
    assert query(world.app, consider, True, None) == [(True, "no model is promoted")]
    add_model(world.app, "orders", stump(FEATURES))
    query(world.app, "select relief.promote('orders')")
    (train, reason) = query(world.app, consider, False, "1 day")[0]
    assert (train, "not older than 1 day" in reason) == (False, True)
    world.database.query("update relief.model set created_at = now() - interval '2 days'")
    (train, reason) = query(world.app, consider, False, "1 day")[0]
    assert (train, "older than 1 day" in reason) == (True, True)
    with refused("22003", 'max_age -1 days of detector "orders" is not positive', "such as '30 days'"):
        query(world.app, consider, True, "-1 day")
    with refused("42704", 'detector "orders" does not exist'):
        query(world.mallory, consider, True, None)
    logged = query(
        world.app, "select version, details -> 'train' from relief.audit where action = 'consider' order by id"
    )
    assert logged == [(None, True), (1, False), (1, True)]


def test_check_tells_what_no_worker_does_and_what_failed(world: World) -> None:
    add_model(world.app, "orders", stump(FEATURES))
    query(world.app, "select relief.promote('orders')")
    query(world.app, "set timezone = 'UTC'")
    check = "select result from relief.check() where \"check\" = 'detector orders'"
    job = value(world.app, REQUEST)
    query(world.app, "select relief.schedule('orders', refresh => '0 3 * * *')")
    assert value(world.app, check) == "ok"
    world.database.query("update relief.schedule set next_at = '2024-01-01 03:00+00'")
    world.database.query("update relief.job set requested_at = '2024-01-01 04:00+00'")
    assert value(world.app, check).splitlines() == [
        "refresh is due since 2024-01-01 03:00:00+00, and no worker came by; relief worker",
        f"job {job} waits since 2024-01-01 04:00:00+00, and no worker has it; relief worker",
    ]
    query(world.app, "select relief.schedule('orders')")
    query(world.app, "select relief._start_job(%s)", job)
    assert value(world.app, check) == "ok"
    query(world.app, "select relief._fail_job(%s, 1, 'table shop.orders is empty', null, false)", job)
    told = f"job {job}, the last train, has failed: table shop.orders is empty; relief jobs orders"
    assert value(world.app, check) == told
    job = value(world.app, REQUEST)
    query(world.app, "select relief._start_job(%s)", job)
    query(world.app, "select relief._finish_job(%s, 1, 'skipped')", job)
    assert value(world.app, check) == "ok"


def _judged(world: World, version: int) -> tuple[bool, str]:
    """Return what becomes of a version if it is better, which the log says too."""
    decided = "select promoted, reason from relief._promote_if_better('orders', %s)"
    ((promoted, reason),) = query(world.app, decided, version)
    logged = "select version, reason, details from relief.audit where action = 'compare' order by id desc limit 1"
    assert query(world.app, logged) == [(version, reason, {"better": promoted})]
    return promoted, reason


@pytest.mark.parametrize("promoted", [None, 1])
def test_candidate_that_promote_refuses_is_not_promoted_and_the_log_says_why(
    world: World, promoted: int | None
) -> None:
    for _ in range(2):
        add_model(world.app, "orders", stump(FEATURES))
    if promoted:
        query(world.app, "select relief.promote('orders', %s)", promoted)
    query(world.app, "select relief.retire('orders', 2)")
    judged, reason = _judged(world, 2)
    assert (judged, reason.startswith("version 2 fails its check: it was retired on ")) == (False, True)
    add_model(world.app, "orders", {**stump(FEATURES), "parity": None})
    unproven = "its document tells of no comparison with scikit-learn"
    assert _judged(world, 3) == (False, f"version 3 fails its check: {unproven}")
    add_model(world.app, "orders", stump(FEATURES))
    world.database.query("update relief.feature set name = 'other' where name = 'a'")
    renamed = 'version 4 takes the features {a,log_b}, but detector "orders" has {other,log_b}'
    assert _judged(world, 4) == (False, renamed)
    world.database.query("update relief.feature set name = 'a' where name = 'other'")
    query(world.app, "alter table shop.orders alter a type text")
    judged, reason = _judged(world, 4)
    assert (judged, "column a of table shop.orders" in reason) == (False, True)
    assert value(world.app, "select promoted_version from relief.detector") == promoted


def test_candidate_that_is_retired_while_it_is_compared_is_not_promoted(world: World) -> None:
    for _ in range(2):
        add_model(world.app, "orders", stump(FEATURES))
    other = world.database.connect(world.app.info.user, autocommit=False)
    judging = world.database.connect(world.app.info.user)
    query(other, "select relief.retire('orders', 2)")
    judged: list[tuple[bool, str]] = []

    def judge(_: object) -> None:
        judged.extend(query(judging, "select promoted, reason from relief._promote_if_better('orders', 2)"))

    with running(judge):
        world.database.wait_until_blocked(judging)
        other.commit()
    refusal = 'version 2 of detector "orders" fails its check: it was retired on'
    assert [(promoted, reason.startswith(refusal)) for promoted, reason in judged] == [(False, True)]
