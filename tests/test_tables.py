"""Every kind of statement on every kind of table: rows are scored as they are written, or the table is refused."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump, told
from helpers.shop import COMPANIONS, FEATURES
from helpers.tables import ATTACHED, REFUSED, Kind

from relief_trainer.cluster import find_server
from relief_trainer.connection import connect
from relief_trainer.errors import ReliefError
from relief_trainer.sample import Request
from relief_trainer.train import Settings, train

# By the stump with threshold 0.4: a <= 0 is an anomaly of score 0.5, a > 0 is none with 0.125; mean 0, deviation 2.
ANOMALY = (0.5, True, {"a": told(-1.0), "log_b": told(0.0)}, 1)
ORDINARY = (0.125, False, {"a": told(1.0), "log_b": told(0.0)}, 1)
UNSCORED = (None, None, None, None)


class Cell:
    """A table of some kind in a database, and what statements do to it."""

    def __init__(self, kind: Kind, database: Database) -> None:
        self.kind = kind
        self.database = database
        self.connection = database.superuser

    def __call__(self, statement: str) -> list[object]:
        """Run a statement in which {T}, {K}, {A}, {B}, {NOTE}, {COLUMNS} are the table's, {LOW} is an anomaly."""
        kind = self.kind
        names = {"T": kind.table, "K": kind.k, "A": kind.a, "B": kind.b, "NOTE": kind.note, "COLUMNS": kind.columns}
        numbers = {"LOW": kind.anomaly, "HIGH": -kind.anomaly}
        return query(self.connection, statement.format(**names, **numbers))

    def scores(self) -> list[object]:
        """Return what a query of its row type gives for each row."""
        return self(f"select {self.kind.schema}.relief_score(o) from {{T}} as o order by o.{{K}}")

    def companions(self) -> list[object]:
        """Return what the trigger wrote."""
        return self(f"select {COMPANIONS} from {{T}} order by {{K}}")

    def promote_another(self) -> None:
        """Promote a version by which all rows score 0.5."""
        add_model(self.connection, "orders", stump(FEATURES, split=9.0))
        query(self.connection, "select relief.promote('orders')")


def _made(kind: Kind, server: str, template: str) -> Iterator[Cell]:
    database = Database(server, template)
    try:
        kind.make(database.superuser, database.dsn())
        yield Cell(kind, database)
    finally:
        database.drop()


@pytest.fixture(scope="module", params=ATTACHED, ids=str)
def attached(request: pytest.FixtureRequest, server: str, template: str) -> Iterator[Cell]:
    """Return a table with its detector attached, of each kind that takes a trigger."""
    yield from _made(request.param, server, template)


@pytest.fixture(scope="module", params=REFUSED, ids=str)
def unattached(request: pytest.FixtureRequest, server: str, template: str) -> Iterator[Cell]:
    """Return a table with a detector, of each kind that can't be attached to."""
    yield from _made(request.param, server, template)


def _insert(cell: Cell) -> None:
    cell("insert into {T} ({COLUMNS}) values (1001, {LOW}, 1)")
    cell("insert into {T} ({COLUMNS}) values (1002, {HIGH}, 1)")


def _insert_rows(cell: Cell) -> None:
    cell("insert into {T} ({COLUMNS}) values (1001, {LOW}, 1), (1002, {HIGH}, 1)")


def _insert_select(cell: Cell) -> None:
    cell("insert into {T} ({COLUMNS}) select k, v, 1 from (values (1001, {LOW}), (1002, {HIGH})) as s (k, v)")


def _copy(cell: Cell) -> None:
    kind = cell.kind
    with cell.connection.cursor().copy(f"copy {kind.table} ({kind.columns}) from stdin") as copy:
        copy.write_row((1001, kind.anomaly, 1))
        copy.write_row((1002, -kind.anomaly, 1))


def _upsert(cell: Cell) -> None:
    cell("insert into {T} ({COLUMNS}) values (1001, {HIGH}, 1)")
    if cell.kind.unique:
        cell(
            "insert into {T} ({COLUMNS}) values (1001, {LOW}, 1), (1002, {HIGH}, 1) "
            "on conflict ({K}) do update set {A} = excluded.{A}, {B} = 1"
        )
    else:
        cell("delete from {T}")
        cell("insert into {T} ({COLUMNS}) values (1001, {LOW}, 1), (1002, {HIGH}, 1) on conflict do nothing")


def _update(cell: Cell) -> None:
    cell("insert into {T} ({COLUMNS}) values (1001, {HIGH}, 1), (1002, {LOW}, 1)")
    cell("update {T} set {A} = -{A}")


def _merge(cell: Cell) -> None:
    cell("insert into {T} ({COLUMNS}) values (1001, {HIGH}, 1)")
    cell(
        "merge into {T} as t using (values (1001, {LOW}), (1002, {HIGH})) as s (k, v) on t.{K} = s.k "
        "when matched then update set {A} = s.v when not matched then insert ({COLUMNS}) values (s.k, s.v, 1)"
    )


def _other_trigger(cell: Cell) -> None:
    query(
        cell.connection,
        f"create function pg_temp.negate() returns trigger language plpgsql as "
        f"$$ begin new.{cell.kind.a} := -new.{cell.kind.a}; return new; end $$",
    )
    cell("create trigger another before insert or update on {T} for each row execute function pg_temp.negate()")
    cell("insert into {T} ({COLUMNS}) values (1001, {HIGH}, 1), (1002, {LOW}, 1)")


STATEMENTS: dict[str, Callable[[Cell], None]] = {
    "insert": _insert,
    "insert_rows": _insert_rows,
    "insert_select": _insert_select,
    "copy": _copy,
    "upsert": _upsert,
    "update": _update,
    "merge": _merge,
    "other_trigger": _other_trigger,
}


def _refused_by_postgres(cell: Cell, statement: str) -> str | None:
    """Return the SQLSTATE with which PostgreSQL itself refuses a statement on this kind of table."""
    version = cell.connection.info.server_version
    if statement == "merge" and statement not in cell.kind.cannot and version < cell.kind.merge_since:
        return "42601" if version < 150000 else "0A000"  # before 15 a syntax error, not for views before 17
    return cell.kind.cannot.get(statement)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_rows_are_scored_as_they_are_written(attached: Cell, statement: str) -> None:
    with attached.connection.transaction(force_rollback=True):
        if (reason := _refused_by_postgres(attached, statement)) is not None:
            with refused(reason):
                STATEMENTS[statement](attached)
            return
        STATEMENTS[statement](attached)
        assert attached.companions() == [ANOMALY, ORDINARY]
        assert attached.scores() == [0.5, 0.125]
        assert query(attached.connection, "select result from relief.check() where result <> 'ok'") == []


def test_anomalies_are_held_back_and_released(attached: Cell) -> None:
    with attached.connection.transaction(force_rollback=True):
        attached("select relief.set_mode('orders', 'quarantine')")
        _insert_rows(attached)
        _copy_others(attached)
        assert attached.companions() == [ORDINARY, ORDINARY]
        assert attached("select count(*) from relief.quarantine where state = 'held'") == [2]
        attached("select relief.release(id) from relief.quarantine")
        assert attached.companions() == [ANOMALY, ORDINARY, ANOMALY, ORDINARY]
        assert attached("select quarantine from relief.anomaly") == ["released", "released"]
        assert query(attached.connection, "select result from relief.check() where result <> 'ok'") == []


def test_anomalies_are_refused(attached: Cell) -> None:
    with attached.connection.transaction(force_rollback=True):
        attached("select relief.set_mode('orders', 'reject')")
        for statement in (_insert_rows, _copy_others, _update):
            with refused("23514", 'anomaly is refused by detector "orders"'), attached.connection.transaction():
                statement(attached)
        attached("insert into {T} ({COLUMNS}) values (1001, {HIGH}, 1), (1002, {HIGH}, -6)")
        assert [row[0] for row in attached.companions()] == [0.125, None]
        assert query(attached.connection, "select result from relief.check() where result <> 'ok'") == []


def _copy_others(cell: Cell) -> None:
    kind = cell.kind
    with cell.connection.cursor().copy(f"copy {kind.table} ({kind.columns}) from stdin") as copy:
        copy.write_row((1003, kind.anomaly, 1))
        copy.write_row((1004, -kind.anomaly, 1))


def test_update_of_another_column_does_not_score_again(attached: Cell) -> None:
    with attached.connection.transaction(force_rollback=True):
        _insert(attached)
        attached.promote_another()
        attached("update {T} set {NOTE} = 'x', {A} = {A}")
        assert attached.companions() == [ANOMALY, ORDINARY]
        attached("update {T} set {B} = 2")
        assert [row[0] for row in attached.companions()] == [0.5, 0.5]
        assert {row[3] for row in attached.companions()} == {2}


def test_applied_rows_are_scored_where_that_was_asked_for(attached: Cell) -> None:
    with attached.connection.transaction(force_rollback=True):
        query(attached.connection, "set local session_replication_role = replica")
        _insert(attached)
        assert attached.companions() == [UNSCORED, UNSCORED]
        attached("delete from {T}")
        query(attached.connection, "set local session_replication_role = origin")
        query(attached.connection, "select relief.detach('orders'); select relief.attach('orders', on_replica => true)")
        query(attached.connection, "set local session_replication_role = replica")
        _insert(attached)
        _in_new_partition(attached)
        assert attached.companions() == [ANOMALY, ORDINARY]
        assert value(attached.connection, "select count(*) from relief.event") == 1


def _in_new_partition(cell: Cell) -> None:
    if cell.kind.name == "partitioned":
        cell("delete from {T} where {K} = 1002")
        cell("alter table shop.orders detach partition shop.orders_odd")
        cell("create table shop.orders_new partition of {T} for values from (1002) to (1003)")
        cell("insert into {T} ({COLUMNS}) values (1002, {HIGH}, 1)")


def test_backfill_reaches_rows_that_were_there_before(attached: Cell) -> None:
    query(attached.connection, "select relief.detach('orders')")
    _insert(attached)
    query(attached.connection, "select relief.attach('orders')")
    assert attached.companions() == [UNSCORED, UNSCORED]
    query(attached.connection, "call relief.backfill('orders')")
    assert attached.companions() == [ANOMALY, ORDINARY]
    attached("delete from {T}")


def test_restored_rows_are_scored_anew_into_a_table_that_is_attached(attached: Cell, tmp_path: Path) -> None:
    _insert(attached)
    _restore(attached, tmp_path)
    # What belongs to a session is in no dump.
    assert attached.companions() == ([] if attached.kind.name == "temporary" else [ANOMALY, ORDINARY])
    attached("delete from {T}")


def test_forest_is_trained_on_a_sample(attached: Cell) -> None:
    _fill(attached, attached.kind.table)
    if attached.kind.name == "temporary":
        with pytest.raises(ReliefError, match="cannot access temporary tables of other sessions"):
            _train(attached)
    else:
        _train(attached)
    attached("delete from {T}")


@pytest.mark.parametrize("statement", STATEMENTS)
def test_statements_go_on_where_nothing_is_attached_and_queries_score(unattached: Cell, statement: str) -> None:
    with unattached.connection.transaction(force_rollback=True):
        if (reason := _refused_by_postgres(unattached, statement)) is not None:
            with refused(reason):
                STATEMENTS[statement](unattached)
            return
        STATEMENTS[statement](unattached)
        assert unattached.scores() == [0.5, 0.125]


def test_attach_is_refused_with_the_reason(unattached: Cell) -> None:
    assert unattached.kind.refused is not None
    sqlstate, reason, hint = unattached.kind.refused
    with refused(sqlstate, f'detector "orders" cannot be attached: {reason}', hint):
        query(unattached.connection, "select relief.attach('orders')")
    columns = (
        "select count(*) from pg_attribute where attname = 'relief_is_anomaly' and attrelid = 'shop.orders'::regclass"
    )
    assert value(unattached.connection, columns) == 0


def test_forest_is_trained_on_a_sample_where_nothing_is_attached(unattached: Cell) -> None:
    source = _source(unattached)
    _fill(unattached, source)
    _train(unattached)
    query(unattached.connection, f"delete from {source}")


def _source(cell: Cell) -> str:
    """Return the table that is written to."""
    return "shop.base" if cell.kind.name.endswith("view") else cell.kind.table


def _fill(cell: Cell, source: str) -> None:
    kind = cell.kind
    query(
        cell.connection,
        f"insert into {source} ({kind.columns}) select n, n, 1 + n from generate_series(1, 500) as n",
    )
    query(cell.connection, "analyze")
    if kind.name == "materialized_view":
        query(cell.connection, "refresh materialized view shop.orders")


def _train(cell: Cell) -> None:
    """Train on about a tenth of the rows, and see that every row has its score."""
    with connect(cell.database.dsn()) as connection:
        trained = train(connection, "orders", Settings(trees=5, request=Request(rows=50)), promote=True)
    assert trained.version >= 2
    assert cell(f"select count({cell.kind.schema}.relief_score(o)) from {{T}} as o") == [500]
    query(cell.connection, "select relief.promote('orders', 1)")


def test_restored_rows_are_scored_by_queries(unattached: Cell, tmp_path: Path) -> None:
    source = _source(unattached)
    query(unattached.connection, f"insert into {source} (k, a, b) values (1001, -2, 1), (1002, 2, 1)")
    _restore(unattached, tmp_path, source)
    assert unattached.scores() == [0.5, 0.125]
    query(unattached.connection, f"delete from {source}")


def _restore(cell: Cell, folder: Path, source: str | None = None) -> None:
    """Dump the data of the table's schema, delete them, and restore them."""
    dump = str(folder / "dump")
    schema = "shop" if cell.kind.schema == "pg_temp" else cell.kind.schema
    common = ["--data-only", "--dbname", cell.database.dsn()]
    _run("pg_dump", *common, "--schema", schema, "--format", "custom", "--file", dump)
    query(cell.connection, f"delete from {source or cell.kind.table}")
    _run("pg_restore", *common, "--exit-on-error", dump)
    if cell.kind.name == "materialized_view":
        query(cell.connection, "refresh materialized view shop.orders")


def _run(program: str, *arguments: str) -> None:
    finished = subprocess.run([find_server() / program, *arguments], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
