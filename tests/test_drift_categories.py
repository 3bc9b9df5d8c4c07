"""Drift of categories: whether they are as frequent as they were, and how many of them were never seen."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.database import Database
from helpers.profiles import train_small

STABLE, DRIFTED = "stable", "drifted: train again"


@pytest.fixture
def sales(database: Database) -> Database:
    database.query("create table sale (at timestamptz, x float8, city text, code text)")
    database.query("select setseed(0.5)")
    _add(database, "2024-01-01", "'city ' || (r * r * 30)::integer")
    database.query("select relief.create_detector('s', 'sale', '{city,x,code}', time_column => 'at')")
    train_small(database.dsn(), "s")
    return database


def _add(database: Database, day: str, city: str, rows: int = 2000) -> None:
    """Add rows of one day: city is an expression of a random number r and the row's number n."""
    database.query(
        f"insert into sale select timestamptz '{day} 00:00Z' + n * interval '10 seconds', r, {city}, 'c' || n % 5 "
        f"from (select n, random() as r from generate_series(1, {rows}) as n) as s"
    )


def _drift(database: Database) -> dict[str, dict[str, Any]]:
    return {row["feature"]: row for row in database.query("select to_jsonb(d) from relief.drift('s') as d")}


def test_categories_of_the_same_kind_are_stable(sales: Database) -> None:
    _add(sales, "2024-03-01", "'city ' || (r * r * 30)::integer")
    found = _drift(sales)
    assert list(found) == ["city", "x", "code"]
    assert {row["verdict"] for row in found.values()} == {STABLE}
    assert found["city"]["ks"] is None
    assert found["x"]["ks"] >= 0
    assert 0 <= found["city"]["psi"] < 0.05


def test_the_rows_that_were_trained_on_do_not_drift(sales: Database) -> None:
    assert _drift(sales)["city"]["psi"] == 0


@pytest.mark.parametrize(
    "city",
    [
        "case when n % 10 = 0 then 'new city ' || n else 'city ' || (r * r * 30)::integer end",
        "'city ' || (r * 30)::integer",
        "'city 1'",
        "'CITY ' || (r * r * 30)::integer",
        "case when n % 5 > 0 then 'city ' || (r * r * 30)::integer end",
    ],
    ids=["a tenth never seen", "as frequent as the others", "one alone", "all never seen", "a fifth missing"],
)
def test_other_shares_and_categories_that_were_never_seen_have_drifted(sales: Database, city: str) -> None:
    _add(sales, "2024-03-01", city)
    found = _drift(sales)
    assert {name: row["verdict"] for name, row in found.items()} == {"city": DRIFTED, "x": STABLE, "code": STABLE}


def test_a_category_that_is_missing_everywhere_is_told(sales: Database) -> None:
    _add(sales, "2024-03-01", "null")
    row = _drift(sales)["city"]
    assert (row["verdict"], row["null_rate_then"], row["null_rate_now"]) == ("missing everywhere", 0, 1)
