"""Draw a sample of a source's rows, in the place of a detector's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from relief_trainer import rarity
from relief_trainer.connection import Connection
from relief_trainer.detector import Detector
from relief_trainer.document import Feature
from relief_trainer.errors import ReliefError
from relief_trainer.queries import query
from relief_trainer.sample import Request, Sample, profile_of
from relief_trainer.sources import Source, values

Floats = npt.NDArray[np.float64]


def draw_from(connection: Connection, detector: Detector, source: Source, request: Request) -> Sample:
    """Draw a sample of a source's rows, whose columns of the features' names hold the features' values."""
    drawn, categories, total = draw_columns(source, detector.features, request)
    connection.execute(query("empty_sample"))
    with connection.cursor() as cursor, cursor.copy(query("load_sample")) as copy:
        for row in drawn.tolist():
            copy.write_row([row])
    profile = profile_of(connection, detector, drawn)
    return encoded_sample(detector.features, drawn, categories, total, request.rows, profile)


def encoded_sample(
    features: Sequence[Feature],
    drawn: Floats,
    categories: list[list[str | None]],
    total: int,
    asked: int,
    profile: dict[str, dict[str, Any]],
) -> Sample:
    """Return a sample of what `draw_columns` has drawn, given the profile of its numbers."""
    rarities = rarity.fit(features, drawn, categories)
    encoders = {name: found.encoder() for name, found in rarities.items()}
    return Sample(
        rows=rarity.encoded(encoders, features, drawn, categories),
        profile=profile | {name: found.profile() for name, found in rarities.items()},
        failed=0,
        table_rows=total,
        percent=100.0 * len(drawn) / max(1, total),
        # What a source says of its number of rows may be an estimate, but there are none beyond those asked for.
        counted=len(drawn) < asked and total == len(drawn),
        categories=categories,
        encoders=encoders,
    )


def draw_columns(
    source: Source, features: Sequence[Feature], request: Request
) -> tuple[Floats, list[list[str | None]], int]:
    """Return numbers and categories of a sample of a source's rows, and of how many rows it is.

    The numbers have shape (rows, features), NaN = missing or a category; the categories are texts, one a feature of
    kind ``category``.

    Raises
    ------
    ReliefError
        If the source has no rows, lacks a column, or has values in it that aren't numbers.
    """
    columns: dict[str, type] = {feature.name: str if feature.kind == "category" else float for feature in features}
    source.require(list(columns))
    drawn, total = source.sample(columns, request.rows, request.seed)
    if not drawn:
        raise ReliefError(f"{source.name} has no rows", "Give a source that has rows to train on.")
    rows = values.matrix(drawn, columns, source.name)
    return rows, [values.texts(row, columns) for row in drawn], max(total, len(drawn))
