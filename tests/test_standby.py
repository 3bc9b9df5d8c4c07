"""A streaming standby scores, says that it takes no changes, follows promotions, and goes on after a failover."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result
from helpers.clusters import Standby
from helpers.database import query, refused, value
from helpers.forests import add_model, constant, proven, stump
from helpers.kernel import give_library, without_library
from helpers.rights import FILLED, FORBIDDEN, FUNCTIONS
from helpers.server import install
from helpers.shop import COMPANIONS, FEATURES, make_orders
from psycopg import Connection
from relief_runtime.document import checksum

from relief_trainer.cli import main
from relief_trainer.cluster import Cluster, throwaway_cluster
from relief_trainer.document import serialize

pytestmark = [pytest.mark.libpqwalreceiver, pytest.mark.server]

DOCUMENT = serialize(proven(stump(FEATURES)))
READING = {"backtest", "check", "detect", "drift", "explain", "score", "suggest_features", "version"}
STATE = (
    f"select id, shop.relief_score(o), {COMPANIONS} from shop.orders as o where b > 0 order by id",
    "select id, t from shop.orders as o, relief.detect('orders', to_jsonb(o)) as t where id < 4 order by id",
    "select id, t from shop.orders as o, shop.relief_explain(o) as t where id < 4 order by id, t.feature",
    "select * from relief.status",
    "select * from relief.check()",
)


@pytest.fixture(scope="module")
def primary() -> Iterator[Cluster]:
    with throwaway_cluster({"max_connections": "60"}) as cluster, _connect(cluster) as superuser:
        install(superuser, by_extension=False)
        query(
            superuser, "create role app login; create schema shop authorization app; select relief.grant_admin('app')"
        )
        with _connect(cluster, "app") as app:
            make_orders(app, rows=20, schema=False)
            add_model(app, "orders", DOCUMENT)
            query(app, "select relief.promote('orders'), relief.attach('orders')")
            query(app, "call relief.backfill('orders')")
            for statement in FILLED:
                query(app, statement)
        yield cluster


@pytest.fixture(scope="module")
def standby(primary: Cluster) -> Iterator[Standby]:
    made = Standby(primary)
    yield made
    made.remove()


def _connect(cluster: Cluster, role: str | None = None) -> Connection:
    return psycopg.connect(cluster.dsn(user=role), autocommit=True)


def _relief(cluster: Cluster, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--dsn", cluster.dsn(user="app")], catch_exceptions=False)


def test_a_standby_scores_as_its_primary_and_checks_itself(primary: Cluster, standby: Standby) -> None:
    standby.catch_up()
    with _connect(primary, "app") as there, _connect(standby, "app") as here:
        assert value(here, "select pg_is_in_recovery()")
        for statement in STATE:
            rows = query(here, statement)
            assert rows == query(there, statement)
            assert rows
        assert query(here, "select result from relief.check() where result <> 'ok'") == []


def test_a_standby_scores_by_the_kernel_where_it_has_it_and_says_where_not(
    primary: Cluster, standby: Standby, kernel_library: Path
) -> None:
    with _connect(primary) as superuser, _connect(standby, "app") as opened, _connect(standby, "app") as another:
        by_python = [query(opened, statement) for statement in STATE[:3]]
        give_library(superuser, kernel_library)
        query(superuser, "select relief.use_kernel()")
        standby.catch_up()
        for session in (opened, another):
            assert [query(session, statement) for statement in STATE[:3]] == by_python
            assert query(session, "select result from relief.check() where result <> 'ok'") == []
        with without_library(superuser), _connect(standby, "app") as without:
            with refused("58P01", "could not access file"):
                query(without, STATE[0])
            told = value(
                without, "select result from relief.check() where \"check\" = 'the kernel scores as it should'"
            )
            assert "needs the kernel: install it on this server" in told
            assert told.endswith("or score without it: select relief.use_kernel(false); on its primary")
        with _connect(standby) as there, refused("25006", "this server is a standby", "Connect to its primary"):
            query(there, "select relief.use_kernel(false)")
        query(superuser, "select relief.use_kernel(false)")
        standby.catch_up()
        assert [query(opened, statement) for statement in STATE[:3]] == by_python


def test_what_changes_something_says_that_it_is_on_a_standby(standby: Standby) -> None:
    values = {"document": DOCUMENT, "checksum": checksum(DOCUMENT), "role": "app"}
    with _connect(standby, "app") as app:
        told = {}
        for name, (statement, expected) in FUNCTIONS.items():
            try:
                app.execute(statement.encode(), values)
            except psycopg.Error as refusal:
                if expected["owner"] != FORBIDDEN:
                    told[name] = (refusal.diag.message_primary, refusal.diag.message_hint)
        message = "this server is a standby, which takes no changes"
        hint = "Connect to its primary server: what is done there arrives here too."
        assert {name: words for name, words in told.items() if words != (message, hint)} == {}
        assert told.keys().isdisjoint(READING)
        assert told.keys() >= {"promote", "refresh_profile", "attach", "backfill", "label", "create_detector"}
        with refused("25006", "cannot execute INSERT in a read-only transaction"):
            query(app, "insert into shop.orders (a, b) values (1, 1)")


@pytest.mark.parametrize(
    "command",
    [
        ["train", "orders"],
        ["train", "orders", "--if-drifted"],
        ["refresh", "orders"],
        ["promote", "orders"],
        ["backfill", "orders", "--jobs", "2"],
        ["import", "FILE", "--detector", "orders"],
        ["vacuum", "orders"],
        ["worker", "--once"],
        ["watch", "orders", "--json"],
    ],
    ids=" ".join,
)
def test_commands_that_change_something_say_that_it_is_on_a_standby(
    standby: Standby, command: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "model.json"
    assert _relief(standby, "export", "orders", "--json", str(file)).exit_code == 0
    done = _relief(standby, *[str(file) if word == "FILE" else word for word in command])
    assert done.exit_code == 1
    error, hint = done.stderr.splitlines()[-2:]
    assert error in (
        "error: this server is a standby, which takes no changes",
        "error: cannot execute DROP TABLE in a read-only transaction",
        "error: cannot execute CREATE SCHEMA in a read-only transaction",
        "error: cannot execute LISTEN during recovery",
    )
    assert hint.startswith("hint: Connect to ")
    assert "primary server" in hint


def test_a_promotion_reaches_open_sessions_and_a_failover_loses_nothing(primary: Cluster, standby: Standby) -> None:
    version = """select model_version from relief.detect('orders', '{"a": -2, "b": 1}')"""
    with _connect(primary, "app") as there, _connect(standby, "app") as here:
        query(here, "prepare score as select shop.relief_score(o) from shop.orders as o where id = 1")
        assert (value(here, version), value(here, "execute score") in (0.5, 0.125)) == (value(there, version), True)
        promoted = add_model(there, "orders", constant(FEATURES, 0.25, 0.2))
        query(there, "select relief.promote('orders', %s)", promoted)
        standby.catch_up()
        assert (value(here, version), value(here, "execute score")) == (promoted, 0.25)
        rows = value(there, "select count(*) from shop.orders")
        primary.stop(signal.SIGQUIT)

        with _connect(standby) as superuser:
            assert value(superuser, "select pg_promote()")
        # The session that was open on the standby writes now.
        inserted = query(here, f"insert into shop.orders (a, b) values (1, 1) returning id, {COMPANIONS}")
        assert [(row[1], row[2], row[4]) for row in inserted] == [(0.25, True, promoted)]
        assert query(here, "select (key ->> 'id')::integer from relief.event order by id desc limit 1") == [
            inserted[0][0]
        ]
        assert value(here, "select count(*) from shop.orders") == rows + 1
        assert value(here, "select relief.refresh_profile('orders')") == 1
        assert value(here, "select relief.promote('orders', 1)") == 1
        assert query(here, "select result from relief.check() where result <> 'ok'") == []
        query(here, "select relief.detach('orders'), relief.attach('orders')")
        query(here, "call relief.backfill('orders')")
        assert query(here, "select distinct relief_model_version from shop.orders where b > 0") == [1]
