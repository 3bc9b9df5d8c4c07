"""The life of models against a small model of it: any steps leave the stages, scores and log that they should."""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg
import pytest
from helpers.database import Database, query, value
from helpers.forests import add_model, constant
from helpers.shop import FEATURES, make_orders
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import Connection

PROVEN = constant(FEATURES, 0.5, 0.9)
UNPROVEN = {**PROVEN, "parity": None}
LOG = """
    select action, version, (details ->> 'previous')::integer, details ? 'forced' from relief.audit
    where detector = 'orders' and action in ('train', 'promote', 'rollback', 'retire')
    order by id
"""

numbers = st.integers(1, 7)
steps = st.one_of(
    st.tuples(st.just("train"), st.sampled_from([True, True, True, False])),
    st.tuples(st.just("promote"), st.none() | numbers, st.sampled_from([False, False, True])),
    st.tuples(st.just("rollback")),
    st.tuples(st.just("retire"), numbers),
    st.tuples(st.just("vacuum"), st.integers(1, 4)),
)


class RefusedError(Exception):
    """What the server is to refuse."""


@dataclass
class Life:
    """What should be: the versions that are stored, whether they are proven, in the order of their last promotion."""

    proven: dict[int, bool] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    retired: set[int] = field(default_factory=set)
    promoted: int | None = None
    log: list[tuple[str, int, int | None, bool | None]] = field(default_factory=list)

    def train(self, proven: bool) -> None:
        version = max(self.proven, default=0) + 1
        self.proven[version] = proven
        self.log.append(("train", version, None, False))

    def promote(self, version: int | None, force: bool) -> None:
        version = max(set(self.proven) - self.retired, default=None) if version is None else version
        if version not in self.proven:
            raise RefusedError
        passes = self.proven[version] and version not in self.retired
        if not passes and not force:
            raise RefusedError
        self.log.append(("promote", version, self.promoted, not passes))
        self._serve(version)

    def rollback(self) -> None:
        before = self._before()
        if self.promoted is None or before is None:
            raise RefusedError
        self.log.append(("rollback", before, self.promoted, False))
        self.retired.add(self.promoted)
        self._serve(before)

    def retire(self, version: int) -> None:
        if version not in self.proven or version in self.retired or version == self.promoted:
            raise RefusedError
        self.log.append(("retire", version, None, None))
        self.retired.add(version)

    def vacuum(self, keep: int) -> None:
        needed = {*sorted(self.proven)[-keep:], self.promoted, self._before()}
        self.proven = {version: proven for version, proven in self.proven.items() if version in needed}
        self.order = [version for version in self.order if version in needed]
        self.retired &= needed

    def stages(self) -> list[tuple[int, str]]:
        return [
            (version, "promoted" if version == self.promoted else "retired" if version in self.retired else "candidate")
            for version in sorted(self.proven)
        ]

    def _before(self) -> int | None:
        served = [version for version in self.order if version not in self.retired and version != self.promoted]
        return served[-1] if served else None

    def _serve(self, version: int) -> None:
        self.order = [*(other for other in self.order if other != version), version]
        self.retired.discard(version)
        self.promoted = version


def _do(connection: Connection, verb: str, *arguments: object) -> None:
    if verb == "train":
        add_model(connection, "orders", PROVEN if arguments[0] else UNPROVEN)
    elif verb == "vacuum":
        query(connection, "select relief.set_retention('orders', %s)", arguments[0])
        query(connection, "select relief.vacuum('orders')")
    else:
        query(connection, f"select relief.{verb}('orders'{', %s' * len(arguments)})", *arguments)


@pytest.fixture(scope="module")
def connection(module_database: Database) -> Connection:
    make_orders(module_database.superuser, rows=10)
    query(module_database.superuser, "select relief.attach('orders')")
    return module_database.superuser


@settings(max_examples=30)
@given(st.lists(steps, max_size=25))
def test_any_life_leaves_the_stages_the_score_and_the_log_that_it_should(connection: Connection, life: list) -> None:
    expected = Life()
    with connection.transaction(force_rollback=True):
        for verb, *arguments in life:
            refused = False
            try:
                getattr(expected, verb)(*arguments)
            except RefusedError:
                refused = True
            try:
                with connection.transaction():
                    _do(connection, verb, *arguments)
            except psycopg.Error as error:
                assert refused, (verb, arguments, str(error))
            else:
                assert not refused, (verb, arguments)
            assert query(connection, "select version, stage from relief.model_stage order by 1") == expected.stages()
        assert query(connection, LOG) == expected.log
        inserted = "insert into shop.orders (a, b) values (1, 1) returning relief_model_version"
        assert value(connection, inserted) == expected.promoted
