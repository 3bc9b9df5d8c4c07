"""Train a model on a source without a database: a document that ``relief import`` and ``relief score`` take."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from relief_trainer import document, limits, parity, sample, source_sample, train
from relief_trainer.document import Feature
from relief_trainer.errors import ReliefError
from relief_trainer.progress import Progress
from relief_trainer.sources import Source
from relief_trainer.train import CHECKED_ROWS, Settings, Trained

Floats = npt.NDArray[np.float64]

# As relief.create_detector has it.
CONTAMINATION = 0.01


def train_document(
    source: Source, name: str, features: Sequence[Feature], settings: Settings, progress: Progress | None = None
) -> tuple[str, Trained]:
    """Return the text of a model document trained on columns of a source, and what came out of it, with version 0.

    Raises
    ------
    ReliefError
        If there are too few rows, nothing varies in them, a column is missing or holds no numbers, or if the runtime's
        scores differ from scikit-learn's.
    """
    progress = progress or Progress.silent()
    with progress.step(f"drawing about {settings.request.rows:,} rows of {source.name}"):
        numbers, categories, total = source_sample.draw_columns(source, features, settings.request)
        profile = _profile(features, numbers)
        drawn = source_sample.encoded_sample(features, numbers, categories, total, settings.request.rows, profile)
    rows, notes = train.usable_rows(name, features, drawn, source.name, own_table=False)
    with progress.step(f"growing {settings.trees} trees"):
        forest = train.fit(rows, [feature.name for feature in features], settings)
    with progress.step("finding the threshold"):
        share = CONTAMINATION if settings.contamination is None else settings.contamination
        threshold = train.threshold_of_share(forest, rows, share)
    content = document.build(
        forest,
        features,
        threshold,
        drawn.profile,
        document.Ordinary(parity.scikit_scores(forest, rows), np.array([])),
        _origin(source, name) | train.provenance(settings, drawn, len(rows)),
        drawn.encoders,
    )
    limits.refuse_more("characters", len(document.serialize(content)))
    with progress.step("comparing with scikit-learn"):
        content["parity"] = parity.check(forest, content, drawn.rows[:CHECKED_ROWS], drawn.categories[:CHECKED_ROWS])
    told = Trained(name, 0, False, threshold.value, threshold.origin, len(rows), 0, total, drawn.counted, notes)
    return document.serialize(content), told


def column_features(columns: Sequence[str], categories: Sequence[str] = ()) -> list[Feature]:
    """Return features that are columns: numbers, and the categories named.

    Raises
    ------
    ReliefError
        If a column is named twice, a category isn't among the columns, or there are more than a model takes.
    """
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise ReliefError(f'feature "{twice}" is given twice', "Give each column once: --features a,b,c")
    other = next((category for category in categories if category not in columns), None)
    if other is not None:
        raise ReliefError(
            f'category "{other}" is not one of the features',
            f"Add it: --features {shlex.quote(','.join([*columns, other]))}",
        )
    limits.refuse_more("features", len(columns))
    return [
        Feature(column, '"' + column.replace('"', '""') + '"', "category" if column in categories else "number")
        for column in columns
    ]


def _profile(features: Sequence[Feature], rows: Floats) -> dict[str, dict[str, Any]]:
    """Return each number's statistics, as the trainer's query "profile" makes them, on a linear scale."""
    return {
        feature.name: _statistics(values)
        for feature, values in zip(features, rows.T, strict=True)
        if feature.kind == "number"
    }


def _statistics(values: Floats) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    # What is so large that its square would be infinite has no place in a mean; it stays a value.
    finite = known[np.abs(known) < 1e150]
    null_rate = 1.0 - len(known) / len(values)
    plain: dict[str, Any] = {"count": len(known), "null_rate": null_rate}
    if not len(finite):
        return plain
    plain |= {
        "mean": float(finite.mean()),
        "stddev": float(finite.std(ddof=1)) if len(finite) > 1 else None,
        "minimum": float(finite.min()),
        "maximum": float(finite.max()),
    }
    median = float(np.median(finite))
    scale = {
        "median": median,
        "spread": 1.4826 * float(np.median(np.abs(finite - median))),
        "p01": float(np.quantile(finite, 0.01)),
        "p99": float(np.quantile(finite, 0.99)),
        "transform": "linear",
        "unit": 1.0,
        "origin": 0.0,
    }
    return {**plain, **sample.histogram(values), "scaled": plain | scale}


def _origin(source: Source, name: str) -> dict[str, Any]:
    return {
        "detector": name,
        "source": source.name,
        "trained_at": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "versions": train.versions(),
    }
