"""The commands of a model's life: promote by force, rollback, retire, log; and vacuum."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from helpers.database import Database
from helpers.forests import add_model, constant
from helpers.shop import FEATURES, make_orders

from relief_trainer.cli import main


@pytest.fixture
def shop(database: Database) -> Database:
    """Return a database with three versions of "orders", the first two promoted one after the other."""
    make_orders(database.superuser, rows=50)
    for version in range(1, 4):
        document = constant(FEATURES, version / 10, 0.9)
        add_model(database.superuser, "orders", document if version < 3 else {**document, "parity": None})
    for version in (1, 2):
        database.query("select relief.promote('orders', %s)", version)
    return database


def relief(database: Database, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--dsn", database.dsn()], catch_exceptions=False)


def succeeds(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(result: Result) -> list[str]:
    assert result.exit_code == 1
    return result.stderr.splitlines()


def test_rollback_and_retire_tell_what_they_did(shop: Database) -> None:
    assert succeeds(relief(shop, "rollback", "orders")) == "orders: version 1 is promoted again\n"
    assert succeeds(relief(shop, "retire", "orders", "3")) == "orders: version 3 is retired\n"
    error, hint = fails(relief(shop, "rollback", "orders"))
    assert error == 'error: detector "orders" has no version to go back to from version 1'
    assert hint.startswith("hint: See which there are: select version, stage, promoted_at from relief.model_stage")


def test_a_promotion_that_is_refused_says_how_to_force_it(shop: Database) -> None:
    error, hint = fails(relief(shop, "promote", "orders"))
    told = "its document tells of no comparison with scikit-learn"
    assert error == f'error: version 3 of detector "orders" fails its check: {told}'
    assert hint.endswith("promote it nevertheless: select relief.promote('orders', 3, force => true);")
    assert succeeds(relief(shop, "promote", "orders", "--force")) == "orders: version 3 is promoted\n"


def test_their_results_can_be_piped(shop: Database) -> None:
    for arguments, version in ((["rollback", "orders"], 1), (["retire", "orders", "3"], 3)):
        told = json.loads(succeeds(relief(shop, *arguments, "--json")))
        assert told == {"detector": "orders", "version": version}


def test_the_log_tells_who_did_what_and_why(shop: Database) -> None:
    succeeds(relief(shop, "promote", "orders", "3", "--force", "--reason", "made by hand"))
    succeeds(relief(shop, "rollback", "orders", "--reason", "too many alarms"))
    succeeds(relief(shop, "retire", "orders", "1", "--reason", "too old"))
    role = shop.superuser.info.user
    entries = json.loads(succeeds(relief(shop, "log", "orders", "--json")))
    assert [(entry["role"], entry["action"], entry["version"], entry["reason"]) for entry in entries[-3:]] == [
        (role, "promote", 3, "made by hand"),
        (role, "rollback", 2, "too many alarms"),
        (role, "retire", 1, "too old"),
    ]
    header, *lines = succeeds(relief(shop, "log", "orders")).splitlines()
    assert header.split() == ["happened_at", "role", "action", "version", "reason", "details"]
    assert len(lines) == len(entries)
    forced = "made by hand     forced its document tells of no comparison with scikit-learn, previous 2"
    assert lines[-3].endswith(f"{role}  promote   3        {forced}")


def test_the_log_of_a_detector_that_was_dropped_is_still_there(shop: Database) -> None:
    shop.query("select relief.drop_detector('orders')")
    assert json.loads(succeeds(relief(shop, "log", "orders", "--json")))[-1]["action"] == "drop"


def test_the_log_of_an_unknown_detector_is_refused(shop: Database) -> None:
    told = ['error: nothing is logged of a detector "order"', "hint: List the detectors: relief list"]
    assert fails(relief(shop, "log", "order")) == told


def test_show_tells_the_stage_of_each_version(shop: Database) -> None:
    succeeds(relief(shop, "retire", "orders", "3"))
    told = json.loads(succeeds(relief(shop, "show", "orders", "--json")))
    assert [(version["version"], version["stage"]) for version in told["versions"]] == [
        (1, "candidate"),
        (2, "promoted"),
        (3, "retired"),
    ]
    assert "2        promoted" in succeeds(relief(shop, "show", "orders"))


def test_rollback_tells_what_speaks_against_the_version(shop: Database) -> None:
    succeeds(relief(shop, "promote", "orders", "3", "--force"))
    succeeds(relief(shop, "promote", "orders", "1"))
    rolled_back = relief(shop, "rollback", "orders")
    assert succeeds(rolled_back) == "orders: version 3 is promoted again\n"
    assert rolled_back.stderr.startswith('warning: version 3 of detector "orders" fails its check: ')


def _leave_events(shop: Database, detector: str, count: int) -> None:
    shop.query(
        "insert into relief.event (detector, relation, happened_at) "
        "select %s, 'shop.orders', now() - interval '2 years' from generate_series(1, %s)",
        detector,
        count,
    )


def test_vacuum_goes_on_until_nothing_is_past_its_limit(shop: Database) -> None:
    _leave_events(shop, "orders", 5)
    _leave_events(shop, "gone", 3)
    told = json.loads(succeeds(relief(shop, "vacuum", "orders", "--max-rows", "2", "--json")))
    assert told[0] == {"name": "orders", "what": "events", "dropped": 5, "kept": 0}
    assert {row["what"] for row in told} == {"events", "quarantine", "failures", "jobs", "audit", "versions"}
    logged = shop.query("select details -> 'events' from relief.audit where action = 'vacuum' order by id")
    assert logged == [2, 2, 1]
    header, *lines = succeeds(relief(shop, "vacuum")).splitlines()
    assert header.split() == ["name", "what", "dropped", "kept"]
    assert ["gone", "events", "3", "0"] in [line.split() for line in lines]
    assert shop.query("select id from relief.event") == []


def test_vacuum_tells_who_has_missed_what_and_unknown_detectors(shop: Database) -> None:
    _leave_events(shop, "orders", 2)
    shop.query("update relief.detector set created_at = '2000-01-01'")
    shop.query("select relief.subscribe('orders', 'mailer', '-infinity')")
    shop.query("update relief.subscription set moved_at = '2020-01-02'")
    warning, hint = relief(shop, "vacuum", "orders", "--json").stderr.splitlines()
    assert warning.startswith('warning: 2 events are dropped that subscription "mailer" of detector "orders" has not')
    assert hint == "hint: If nobody reads it any more: select relief.unsubscribe('orders', 'mailer');"
    assert fails(relief(shop, "vacuum", "order"))[0] == 'error: detector "order" does not exist'
