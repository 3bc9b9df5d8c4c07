"""Draw a sample of a detector's rows: PostgreSQL computes the features and their statistics, memory stays flat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import errors, sql
from relief_runtime import judgement

from relief_trainer import rarity
from relief_trainer.connection import Connection, require_moment
from relief_trainer.detector import Detector, trusted_sql
from relief_trainer.errors import ReliefError
from relief_trainer.queries import query

Floats = npt.NDArray[np.float64]

# TABLESAMPLE gives about the share that is asked for; what is too much is cut off at random.
MARGIN = 1.1
JUDGED_ROWS = 20_000
SCALE = ("transform", "unit", "origin")
SCALED = ("count", "mean", "stddev", "median", "spread", "p01", "p99", "minimum", "maximum", "null_rate", *SCALE)
STATISTICS = ("count", "mean", "stddev", "minimum", "maximum", "null_rate")


@dataclass(frozen=True)
class Request:
    """Which rows to draw: about ``rows`` of those that fulfil ``where`` and aren't older than ``since``."""

    rows: int = 100_000
    where: str | None = None
    since: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """Drawn rows.

    ``rows`` has shape (rows, features), NaN = missing, with the numbers of categories in their places; ``profile``
    holds each feature's statistics by its name; ``failed`` counts drawn rows whose features couldn't be computed;
    ``percent`` of the table was read; ``table_rows`` is an estimate unless ``counted``. ``categories`` has the texts of
    each row, one a feature of kind ``category``, and ``encoders`` what gave them their numbers.
    """

    rows: Floats
    profile: dict[str, dict[str, Any]]
    failed: int
    table_rows: int
    percent: float
    counted: bool = False
    categories: Sequence[Sequence[str | None]] = ()
    encoders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def draw(connection: Connection, detector: Detector, request: Request) -> Sample:
    """Draw a sample in the connection's transaction, the same one for the same seed and table.

    Raises
    ------
    ReliefError
        If ``since`` is given and the detector has no time column.
    """
    relation = trusted_sql(detector.relation)
    table_rows = _estimate_rows(connection, relation)
    condition = _condition(connection, detector, request)
    percent = 100.0
    if _can_be_sampled(connection, detector):
        percent = min(percent, 100.0 * MARGIN * request.rows / max(1, table_rows))
    # A condition leaves fewer rows than asked for: read more of the table, at last all of it.
    for _ in range(4):
        drawn, computed = _fill(connection, detector, request, condition, percent)
        if drawn >= request.rows or percent >= 100.0:
            break
        if drawn >= 0.9 * request.rows:
            break
        percent = min(100.0, MARGIN * percent * request.rows / max(1, drawn))
    else:
        percent = 100.0
        drawn, computed = _fill(connection, detector, request, condition, percent)
    counted = percent >= 100.0 and drawn < request.rows and not (request.where or request.since)
    rows, categories = _fetch(connection, computed, len(detector.features))
    rarities = rarity.fit(detector.features, rows, categories)
    encoders = {name: found.encoder() for name, found in rarities.items()}
    return Sample(
        rows=rarity.encoded(encoders, detector.features, rows, categories),
        profile=profile_of(connection, detector, rows) | {name: found.profile() for name, found in rarities.items()},
        failed=drawn - computed,
        # An estimate may be old; that there are as many rows as were drawn is certain.
        table_rows=drawn if counted else max(table_rows, drawn),
        percent=percent,
        counted=counted,
        categories=categories,
        encoders=encoders,
    )


def _estimate_rows(connection: Connection, relation: sql.SQL) -> int:
    """Return the planner's estimate, which follows the table's size even where it was never analyzed."""
    row = connection.execute(query("estimate_rows", relation=relation)).fetchone()
    return int(row["QUERY PLAN"][0]["Plan"]["Plan Rows"]) if row else 0


def _can_be_sampled(connection: Connection, detector: Detector) -> bool:
    """Return whether TABLESAMPLE takes the relation: of views and foreign tables, all rows are read."""
    row = connection.execute(query("source_relation", relation=detector.relation)).fetchone()
    return row is not None and row["can_be_sampled"]


def _condition(connection: Connection, detector: Detector, request: Request) -> sql.Composable:
    conditions: list[sql.Composable] = [sql.SQL("true")]
    if request.where:
        # The line break ends a comment that the condition may end with.
        condition = sql.SQL("({}\n)").format(trusted_sql(request.where))
        _require_condition(connection, detector, condition)
        conditions.append(condition)
    if request.since:
        if detector.time_column is None:
            row = connection.execute(query("time_option", relation=detector.relation)).fetchone() or {}
            option = f", or create the detector with {row['_time_option']}" if row["_time_option"] else ""
            raise ReliefError(
                f'detector "{detector.name}" has no time column to compare --since with', f"Use --where{option}."
            )
        found = connection.execute(
            query("time_column_type", relation=detector.relation, time_column=detector.time_column)
        ).fetchone()
        kind = trusted_sql(found["format_type"] if found else "timestamptz")
        require_moment(connection, request.since, kind)
        conditions.append(
            sql.SQL("o.{} >= {}::{}").format(sql.Identifier(detector.time_column), sql.Literal(request.since), kind)
        )
    return sql.SQL(" and ").join(conditions)


def _require_condition(connection: Connection, detector: Detector, condition: sql.Composable) -> None:
    try:
        with connection.transaction():
            connection.execute(query("no_rows", relation=trusted_sql(detector.relation), condition=condition))
    except psycopg.ProgrammingError as error:
        row = connection.execute(query("column_list", relation=detector.relation)).fetchone() or {}
        raise ReliefError(
            f"--where: {error.diag.message_primary}",
            f"Give a condition over columns of table {detector.relation}: {row['_column_list']}.",
        ) from None


def _fill(
    connection: Connection, detector: Detector, request: Request, condition: sql.Composable, percent: float
) -> tuple[int, int]:
    """Fill the temporary table relief_sample and return how many rows it has, and how many with features."""
    connection.execute("drop table if exists pg_temp.relief_sample")
    try:
        with connection.transaction():
            _create(connection, detector, request, condition, percent, detector.features_call, detector.categories_call)
    except (errors.DataError, errors.RaiseException):
        # Some row's expression fails: compute each row on its own, which is slower, and go without that one.
        _create(
            connection, detector, request, condition, percent, detector.guarded_call, detector.guarded_categories_call
        )
    counts = connection.execute(query("sample_counts")).fetchone() or {}
    return counts["drawn"], counts["computed"]


def _create(
    connection: Connection,
    detector: Detector,
    request: Request,
    condition: sql.Composable,
    percent: float,
    features_call: str,
    categories_call: str,
) -> None:
    tablesample: sql.Composable = sql.SQL("")
    if percent < 100.0:
        tablesample = sql.SQL("tablesample system ({}) repeatable ({})").format(percent, request.seed)
    # Workers would hand over their rows in any order, and the same seed would draw other rows.
    connection.execute("set local max_parallel_workers_per_gather = 0")
    connection.execute(query("seed", fraction=(request.seed % 2**31) / 2**31))
    connection.execute(
        query(
            "sample",
            features=trusted_sql(features_call),
            categories=trusted_sql(categories_call),
            entity=trusted_sql(detector.entity_text),
            season=trusted_sql(detector.season_text),
            relation=trusted_sql(detector.relation),
            tablesample=tablesample,
            condition=condition,
            rows=request.rows,
        )
    )


def _fetch(connection: Connection, count: int, feature_count: int) -> tuple[Floats, list[Sequence[str | None]]]:
    rows: Floats = np.empty((count, feature_count))
    categories: list[Sequence[str | None]] = [()] * count
    with connection.cursor() as cursor, cursor.copy(query("sample_rows")) as copy:
        copy.set_types(["float8[]", "text[]"])
        for position, (numbers, texts) in enumerate(copy.rows()):
            rows[position] = numbers
            categories[position] = texts or ()
    return rows, categories


def profile_of(connection: Connection, detector: Detector, rows: Floats) -> dict[str, dict[str, Any]]:
    """Return the statistics of each feature, by its name, of the rows in the temporary table relief_sample."""
    found = connection.execute(query("profile", detector_id=detector.id)).fetchall()
    return {
        feature.name: {
            **{statistic: row[statistic] for statistic in STATISTICS},
            **histogram(values),
            "scaled": {statistic: row.get(f"scaled_{statistic}", row.get(statistic)) for statistic in SCALED},
        }
        for feature, row, values in zip(detector.features, found, rows.T, strict=bool(found))
        if feature.kind == "number"
    }


def histogram(values: Floats) -> dict[str, list[float]]:
    """Return what drift is measured against: up to twenty edges with about as many values between each, and the shares.

    The share at position i is that of values from edge i - 1 on and below edge i, as PostgreSQL's width_bucket counts.
    """
    known = values[~np.isnan(values)]
    finite = known[np.isfinite(known)]
    if not len(finite):
        return {}
    # The last edge is just above all values: what comes to lie beyond was never seen.
    highest = np.nextafter(finite.max(), np.finfo(np.float64).max)
    # A quarter of each is as exact, and the difference of the two largest is a number then.
    edges = np.unique([*np.quantile(finite / 4.0, np.linspace(0.05, 0.95, 19)) * 4.0, highest])
    counts = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1)
    return {"edges": edges.tolist(), "shares": (counts / len(known)).tolist()}


def deviations(connection: Connection, detector: Detector, profile: dict[str, dict[str, Any]]) -> Floats:
    """Return how far up to `JUDGED_ROWS` drawn rows lie from their history, each by its farthest feature; NaN: unknown.

    The history is the detector's profile, or that of the sample itself as long as there is no other.
    """
    row = connection.execute(query("rule", name=detector.name)).fetchone() or {}
    rule = judgement.Rule(row["rule"])
    own = [
        0.0,
        *(
            profile[f.name].get("scaled", {}).get(figure)
            for figure in judgement.FIGURE_NAMES
            for f in detector.features
        ),
    ]
    farthest = []
    with connection.cursor() as cursor:
        for drawn in cursor.execute(query("sample_levels", detector_id=detector.id, rows=JUDGED_ROWS)):
            farthest.append(rule.farthest(drawn["numbers"], drawn["levels"] if row["has_history"] else own))
    return np.array([np.nan if far is None else far for far in farthest], dtype=np.float64)
