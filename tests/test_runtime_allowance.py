"""How many events a session may leave: counted by when transactions begin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from relief_runtime import session
from relief_runtime.allowance import Allowance


def test_a_transaction_leaves_as_many_as_are_allowed_a_second_and_counts_the_others() -> None:
    allowance = Allowance(3, 10.0)
    assert [allowance.spend("1", 10.0, 3) for _ in range(5)] == [0, 0, 0, -1, -1]
    assert allowance.over == 2
    allowance.summary = 77
    assert allowance.spend("1", 10.0, 3) == 77
    assert allowance.over == 3


def test_a_later_transaction_may_leave_what_has_come_since() -> None:
    allowance = Allowance(10, 0.0)
    assert [allowance.spend("1", 0.0, 10) for _ in range(11)] == [0] * 10 + [-1]
    assert [allowance.spend("2", 0.25, 10) for _ in range(3)] == [0, 0, -1]
    assert allowance.over == 1
    assert [allowance.spend("3", 100.0, 10) for _ in range(11)] == [0] * 10 + [-1]


def test_a_clock_that_is_set_back_gives_nothing_and_takes_nothing() -> None:
    allowance = Allowance(2, 100.0)
    assert [allowance.spend("1", 100.0, 2) for _ in range(2)] == [0, 0]
    assert allowance.spend("2", 50.0, 2) == -1
    assert allowance.spend("3", 50.5, 2) == 0


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 30)), max_size=20),
    st.integers(1, 20),
)
def test_no_more_is_left_than_is_allowed_and_every_row_is_counted(
    transactions: list[tuple[float, int]], per_second: int
) -> None:
    allowance, moment, told = Allowance(per_second, 0.0), 0.0, 0
    for number, (later, rows) in enumerate(transactions):
        moment += later
        outcomes = [allowance.spend(str(number), moment, per_second) for _ in range(rows)]
        left = outcomes.count(0)
        assert left <= per_second
        assert left + (allowance.over if rows else 0) == rows
        # What is over comes after what is left.
        assert outcomes == [0] * left + [-1] * (rows - left)
        told += left
    assert told <= per_second * (1 + moment) + 1e-6


def test_a_session_settles_its_own_summaries_once() -> None:
    assert session.spend("some kind", "1", 0.0, 1) == 0
    assert session.spend("some kind", "1", 0.0, 1) == -1
    session.note_summary("some kind", 12345)
    assert session.spend("some kind", "1", 0.0, 1) == 12345
    assert session.settle_summary("another kind") is None
    assert session.settle_summary("some kind") == 2
    assert session.settle_summary("some kind") is None
    # What was settled as soon as it was made stands for no more.
    session.note_summary("some kind", 12345)
    assert session.spend("some kind", "1", 0.0, 1) == -1


def test_a_session_keeps_few_kinds() -> None:
    for number in range(1000):
        session.spend(f"kind {number}", "1", 0.0, 1)
    assert len(session._allowances) <= session.ALLOWANCES_KEPT
