"""The labelled data sets in tests/data; see the README there."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psycopg

from helpers.database import query, value

NAMES = ("mammography", "cardio", "thyroid", "shuttle")
_DIRECTORY = Path(__file__).parent.parent / "data"


def reference(name: str) -> dict[str, str]:
    """Return what is known about a data set."""
    with open(_DIRECTORY / "reference.csv", newline="") as file:
        return next(row for row in csv.DictReader(file) if row["set"] == name)


def read(name: str) -> npt.NDArray[np.float64]:
    """Return a data set: the features, then the label, 1 for an anomaly."""
    return np.loadtxt(_DIRECTORY / f"{name}.csv.gz", delimiter=",", skiprows=1)


def load(connection: psycopg.Connection, name: str) -> list[str]:
    """Make a table public.<name> of a data set, with a detector of its name, and return the feature columns."""
    labelled = read(name)
    columns = [f"f{number}" for number in range(labelled.shape[1] - 1)]
    create_table(connection, name, columns, labelled[:, :-1], labelled[:, -1])
    return columns


def create_table(
    connection: psycopg.Connection,
    name: str,
    columns: list[str],
    rows: npt.NDArray[np.float64],
    labels: npt.NDArray[np.float64] | None = None,
) -> None:
    """Make a table of float8 columns, in the order of rows, with a detector of its name."""
    definitions = ", ".join(f"{column} float8" for column in columns)
    query(connection, f"create table public.{name} (id integer primary key, {definitions}, label integer)")
    append(connection, name, columns, rows, labels)
    query(connection, "select relief.create_detector(%s, %s::regclass, %s)", name, f"public.{name}", columns)


def append(
    connection: psycopg.Connection,
    name: str,
    columns: list[str],
    rows: npt.NDArray[np.float64],
    labels: npt.NDArray[np.float64] | None = None,
) -> None:
    """Add rows behind those that are there; NaN goes in as NULL in every other row, and as NaN in the others."""
    first = value(connection, f"select coalesce(max(id), -1) + 1 from public.{name}")
    names = ", ".join(("id", *columns, "label"))
    with connection.cursor().copy(f"copy public.{name} ({names}) from stdin") as copy:
        for number, row in enumerate(rows.tolist()):
            values = [None if x != x and number % 2 else x for x in row]
            copy.write_row((first + number, *values, None if labels is None else int(labels[number])))
