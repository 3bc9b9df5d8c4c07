"""Detectors with profiles: made on small tables, read back, and recomputed from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import asinh, sqrt
from typing import Any

import psycopg
import pytest
from psycopg import sql

from helpers.database import query
from relief_trainer.connection import connect
from relief_trainer.train import Settings, Trained, train

ARRAYS = (
    "count",
    "mean",
    "stddev",
    "median",
    "spread",
    "spread_floor",
    "p01",
    "p99",
    "minimum",
    "maximum",
    "null_rate",
)


def create(connection: psycopg.Connection, name: str, relation: str, features: Sequence[str], **options: Any) -> None:
    """Make a detector, with options by name."""
    named = sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(o), value) for o, value in options.items())
    connection.execute(
        sql.SQL("select relief.create_detector({}, {}::regclass, {}{}{})").format(
            name, relation, list(features), sql.SQL(", ") if options else sql.SQL(""), named
        )
    )


def train_small(dsn: str, name: str, **settings: Any) -> Trained:
    """Train and promote a small forest with the trainer itself."""
    with connect(dsn) as connection:
        return train(connection, name, Settings(**{"trees": 20, "samples": 64, **settings}), promote=True)


def refresh(connection: psycopg.Connection, name: str, full: bool = False) -> int:
    """Refresh a profile."""
    return query(connection, 'select relief.refresh_profile(%s, "full" => %s)', name, full)[0]


def profile(connection: psycopg.Connection, name: str, entity: str = "", season: int = -1) -> dict[str, Any] | None:
    """Return one profile: its rows, and each figure over the features; None where there is none."""
    return profiles(connection, name).get((entity, season))


def profiles(connection: psycopg.Connection, name: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Return all profiles of a detector by entity and season."""
    found = query(
        connection,
        f"select p.entity, p.season, p.rows, p.complete, {', '.join('p.' + name for name in ARRAYS)} "
        "from relief.profile as p join relief.detector as d on d.id = p.detector_id where d.name = %s",
        name,
    )
    return {(row[0], row[1]): dict(zip(("rows", "complete", *ARRAYS), row[2:], strict=True)) for row in found}


def buckets(connection: psycopg.Connection, name: str) -> list[Any]:
    """Return all buckets of a detector, in order."""
    return query(
        connection,
        "select b.entity, b.season, b.day::text, b.position, b.rows, b.count, b.mean, b.m2, b.minimum, b.maximum, "
        "b.bins, b.bin_counts "
        "from relief.bucket as b join relief.detector as d on d.id = b.detector_id "
        "where d.name = %s order by 1, 2, 3, 4",
        name,
    )


def scale(connection: psycopg.Connection, name: str, position: int = 1) -> tuple[str, float, float, float]:
    """Return a feature's transform, unit, origin and bin width."""
    (found,) = query(
        connection,
        "select f.transform, f.unit, f.origin, f.bin_width from relief.feature as f "
        "join relief.detector as d on d.id = f.detector_id where d.name = %s and f.position = %s",
        name,
        position,
    )
    return found


def placed(values: Sequence[float], scale: tuple[str, float, float, float]) -> list[float]:
    """Return where values stand on a feature's scale: the tiniest at 0."""
    transform, unit, origin, _ = scale
    values = [0.0 if abs(value) < 1e-140 else value for value in values]
    return [(asinh(value / unit) if transform == "log" else value) - origin for value in values]


def exact_moments(places: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation, in exact arithmetic until the end."""
    numbers = [Fraction(place) for place in places]
    mean = sum(numbers) / len(numbers)
    if len(numbers) < 2:
        return float(mean), None
    return float(mean), sqrt(sum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1))


def exact_quantile(places: Sequence[float], share: float) -> float:
    """Return the smallest value that at least a share of the values doesn't exceed."""
    ranked = sorted(places)
    return ranked[max(0, next(n for n in range(1, len(ranked) + 1) if n >= share * len(ranked)) - 1)]


def same_figures(one: dict[Any, dict[str, Any]], other: dict[Any, dict[str, Any]]) -> None:
    """Assert that two sets of profiles are the same, but for the share of the global spread as it was when merged."""
    assert one.keys() == other.keys()
    for key, figures in one.items():
        for name in set(ARRAYS) - {"spread_floor"}:
            expected = [None if x is None else pytest.approx(x, rel=1e-9, abs=1e-9) for x in other[key][name]]
            assert figures[name] == expected, name


def same_buckets(some: list[Any], others: list[Any]) -> None:
    """Assert that buckets are the same, but for the order in which their values were added up."""
    assert [[*bucket[:6], *bucket[8:]] for bucket in some] == [[*bucket[:6], *bucket[8:]] for bucket in others]
    for bucket, other in zip(some, others, strict=True):
        for one, another in zip(bucket[6:8], other[6:8], strict=True):
            assert one == (None if another is None else pytest.approx(another, rel=1e-9, abs=1e-9))
