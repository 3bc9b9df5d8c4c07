"""Make features of a source's values, by the rules that the server has for its own types."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from relief_trainer.errors import ReliefError

# What is smaller counts as 0, as in relief._float8.
SMALLEST = 1e-300


def matrix(rows: Sequence[Sequence[Any]], columns: Mapping[str, type], source_name: str) -> npt.NDArray[np.float64]:
    """Return the numbers of rows that begin with columns, shape (rows, columns); NaN is missing, or a category's place.

    Raises
    ------
    ReliefError
        If a value is no number.
    """
    made = np.full((len(rows), len(columns)), np.nan)
    for position, (name, kind) in enumerate(columns.items()):
        if kind is float:
            column = [row[position] for row in rows]
            if not set(map(type, column)) <= {float, type(None)}:
                column = [None if value is None else _named(value, name, source_name) for value in column]
            made[:, position] = np.array(column, dtype=np.float64)
    return made


def texts(row: Sequence[Any], columns: Mapping[str, type]) -> list[str | None]:
    """Return the categories of a row that begins with columns, one a column of ``str``; None is missing."""
    return [text(value) for value, kind in zip(row, columns.values(), strict=False) if kind is str]


def _named(value: Any, column: str, source_name: str) -> float:
    try:
        return number(value)
    except TypeError:
        raise not_a_number(value, column, source_name) from None


def not_a_number(value: Any, column: str, source_name: str) -> ReliefError:
    """Return the error that tells of a column whose values can't be a feature."""
    if isinstance(value, datetime.date):
        hint = "A moment never comes again; give a column of what recurs, such as the hour of day."
    else:
        hint = f"Leave it out of the features, or train with it as a category: --categories {shlex.quote(column)}"
    shown = str(value)
    shown = shown if len(shown) <= 40 else shown[:40] + "…"
    return ReliefError(f'column "{column}" of {source_name} holds "{shown}", which is not a number', hint)


def number(value: Any) -> float:
    """Return a value as the double that the server takes it for: true is 1, an interval or a time of day its seconds.

    Raises
    ------
    TypeError
        If it is no number.
    """
    if isinstance(value, Real):
        return _double(value)
    if isinstance(value, Decimal):
        # A signalling NaN, which no database has, would raise an error.
        as_double = float(value)
        return 0.0 if abs(as_double) < SMALLEST else as_double
    if isinstance(value, datetime.timedelta):
        return value / datetime.timedelta(seconds=1)
    if isinstance(value, datetime.time):
        return value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
    raise TypeError(f"{type(value).__name__} is no number")


def _double(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def text(value: Any) -> str | None:
    """Return a value as the text that PostgreSQL writes of it, which names a category."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def plain(value: Any) -> Any:
    """Return a value as every file format can hold it: what isn't a number, a text or a date becomes a text."""
    if value is None or isinstance(value, (bool, int, float, str, datetime.date)):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
