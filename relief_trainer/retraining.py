"""Decide whether to train again, and whether a new version takes the promoted one's place; both are logged."""

from __future__ import annotations

from dataclasses import dataclass

from relief_trainer.connection import Connection
from relief_trainer.queries import query


@dataclass(frozen=True)
class Decision:
    """What was decided, and why, in a sentence."""

    yes: bool
    reason: str


def consider(connection: Connection, name: str, *, if_drifted: bool, max_age: str | None) -> Decision:
    """Decide whether drift, or the age of the newest model, asks for a training; doesn't commit.

    Parameters
    ----------
    max_age
        An interval of PostgreSQL's, such as ``30 days``.
    """
    asked = query("consider_training", detector=name, if_drifted=if_drifted, max_age=max_age)
    row = connection.execute(asked).fetchone() or {}
    return Decision(row["train"], row["reason"])


def promote_if_better(connection: Connection, name: str, version: int) -> Decision:
    """Promote a version if it passes the comparison with the promoted one; doesn't commit."""
    row = connection.execute(query("promote_if_better", detector=name, version=version)).fetchone() or {}
    return Decision(row["promoted"], row["reason"])
