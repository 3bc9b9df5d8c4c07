"""A table that changes under its detector, and what status and check say of it."""

from __future__ import annotations

from psycopg import Connection

from helpers.database import query, value
from helpers.forests import add_model, stump, told
from helpers.shop import FEATURES

ANOMALY = (0.5, True, {"a": told(-1.0), "log_b": told(0.0)}, 1)
CHECK = "select result from relief.check() where \"check\" = 'detector orders'"
STATE = "select state, problems from relief.status"


def attach(orders: Connection) -> Connection:
    """Attach "orders" to shop.orders, with a stump promoted and a row labelled."""
    add_model(orders, "orders", stump(FEATURES))
    query(orders, "select relief.promote('orders')")
    query(orders, "select relief.attach('orders')")
    query(orders, """select relief.label('orders', '{"id": 7}', true)""")
    return orders


def advice(problem: str) -> str:
    """Return the statements that a problem ends with."""
    return problem[problem.index("; ") + 2 :]


def broken(connection: Connection) -> str:
    """Return the one problem that status and check tell of."""
    ((state, problem),) = query(connection, STATE)
    assert state == "broken"
    assert problem in value(connection, CHECK)
    return problem
