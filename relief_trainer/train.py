"""Train a detector: draw a sample, fit a forest, prove it, store it."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import sklearn
from relief_runtime import __version__
from sklearn.ensemble import IsolationForest

from relief_trainer import archive, document, limits, parity, rarity, sample, source_sample
from relief_trainer import detector as detectors
from relief_trainer.connection import Connection
from relief_trainer.detector import Detector
from relief_trainer.document import Feature, Threshold
from relief_trainer.errors import ReliefError
from relief_trainer.progress import Progress
from relief_trainer.queries import query
from relief_trainer.sources import Source

Floats = npt.NDArray[np.float64]

MINIMUM_ROWS = 10
CHECKED_ROWS = 3_000


@dataclass(frozen=True)
class Settings:
    """How to grow the forest; the defaults are those of Liu, Ting, Zhou (2008) and of scikit-learn.

    Parameters
    ----------
    trees
        Trees of the forest.
    samples
        Rows that each tree is grown on.
    max_features
        The share, in (0, 1], of the features that each tree is grown on.
    seed
        Draws the same sample and grows the same trees again.
    contamination
        The share of sample rows to flag, in (0, 0.5]; None takes the detector's contamination or fixed threshold.
    jobs
        Processes that grow trees; -1 takes all cores.
    """

    trees: int = 100
    samples: int = 256
    max_features: float = 1.0
    seed: int = 0
    contamination: float | None = None
    jobs: int = 1
    request: sample.Request = field(default_factory=sample.Request)

    def __post_init__(self) -> None:
        limits.refuse_more("trees", self.trees)
        if self.jobs == 0:
            raise ReliefError("0 processes grow no trees", "Give --jobs 1, or --jobs -1 for one a core.")


@dataclass(frozen=True)
class Trained:
    """A stored model, and what came out of training it."""

    detector: str
    version: int
    promoted: bool
    threshold: float
    threshold_origin: str
    rows: int
    failed: int
    table_rows: int
    table_rows_counted: bool
    warnings: list[str]


def train(
    connection: Connection,
    name: str,
    settings: Settings,
    *,
    promote: bool = False,
    source: Source | None = None,
    stored: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a detector by name and store the model as its next version; commits.

    With ``promote`` the model is committed first, and promoted then. With a ``source``, its rows are trained on instead
    of the table's: columns of the features' names hold their values. ``stored`` is called with the version in the
    transaction that stores it, which is the one that the connection is in, if it is in one.

    Raises
    ------
    ReliefError
        If the detector doesn't exist or may not be trained by this role, if there are too few rows or nothing varies in
        them, if the model grows beyond a limit, or if the runtime's scores differ from scikit-learn's. Nothing is
        stored then.
    """
    progress = progress or Progress.silent()
    detector = detectors.fetch(connection, name)
    detectors.refuse_foreign_superuser(connection, detector.relation)
    detectors.refuse_changed_columns(connection, detector)
    _prepare_profile(connection, detector, progress)
    place = source.name if source else f"table {detector.relation}"
    with progress.step(f"drawing about {settings.request.rows:,} rows of {place}"):
        if source:
            drawn = source_sample.draw_from(connection, detector, source, settings.request)
        else:
            drawn = sample.draw(connection, detector, settings.request)
    rows, notes = usable_rows(detector.name, detector.features, drawn, place)
    if source:
        notes += _notes_on_expressions(detector)
    deviations = sample.deviations(connection, detector, drawn.profile)
    origin = _origin(connection, detector, source)
    # Nobody is to wait for the table while trees grow; and whoever attaches locks the detector before the table.
    connection.commit()
    with progress.step(f"growing {settings.trees} trees"):
        forest = fit(rows, [feature.name for feature in detector.features], settings)
    with progress.step("finding the threshold"):
        threshold = find_threshold(detector, forest, rows, settings.contamination)
    content = document.build(
        forest,
        detector.features,
        threshold,
        drawn.profile,
        document.Ordinary(parity.scikit_scores(forest, rows), deviations),
        origin | provenance(settings, drawn, len(rows)),
        drawn.encoders,
    )
    limits.refuse_more("characters", len(document.serialize(content)))
    with progress.step("comparing with scikit-learn"):
        content["parity"] = parity.check(forest, content, drawn.rows[:CHECKED_ROWS], drawn.categories[:CHECKED_ROWS])
    with progress.step("storing the model"):
        version = archive.store(connection, name, document.serialize(content))
        if stored:
            stored(version)
        connection.commit()
    if promote:
        with progress.step(f"promoting version {version}"):
            connection.execute(query("promote", detector=name, version=version, force=False, reason=None))
            connection.commit()
    return Trained(
        name,
        version,
        promote,
        threshold.value,
        threshold.origin,
        len(rows),
        drawn.failed,
        drawn.table_rows,
        drawn.counted,
        notes,
    )


def fit(rows: Floats, names: list[str], settings: Settings) -> IsolationForest:
    """Fit scikit-learn's IsolationForest to rows of shape (rows, features), NaN = missing.

    Raises
    ------
    ReliefError
        If the trees have more nodes than a model may have.
    """
    forest = IsolationForest(
        n_estimators=settings.trees,
        max_samples=min(settings.samples, len(rows)),
        max_features=settings.max_features,
        random_state=settings.seed,
        n_jobs=settings.jobs,
    )
    forest.fit(pd.DataFrame(parity.to_float32(rows), columns=names))
    limits.refuse_more_nodes(forest)
    return forest


def find_threshold(detector: Detector, forest: IsolationForest, rows: Floats, contamination: float | None) -> Threshold:
    """Return the score from which a row is an anomaly: fixed, or such that at most a share of the rows reach it."""
    share = contamination if contamination is not None else detector.contamination
    if share is None:
        if detector.threshold is None:
            raise ReliefError(f'detector "{detector.name}" has neither contamination nor threshold')
        return Threshold(detector.threshold, "fixed")
    return threshold_of_share(forest, rows, share)


def threshold_of_share(forest: IsolationForest, rows: Floats, share: float) -> Threshold:
    """Return the lowest score that at most a share of the rows reach."""
    scores = parity.scikit_scores(forest, rows)
    return Threshold(float(np.quantile(scores, 1.0 - share, method="higher")), "contamination", share)


def _prepare_profile(connection: Connection, detector: Detector, progress: Progress) -> None:
    """Choose the features' scales; make a first profile where rows are compared with entities or seasons."""
    connection.execute(query("calibrate", name=detector.name))
    row = connection.execute(query("rule", name=detector.name)).fetchone() or {}
    if detector.has_levels and row["never_refreshed"]:
        with progress.step(f"making a first profile of {detector.relation}"):
            connection.execute(query("refresh", name=detector.name, full=False))


def usable_rows(
    name: str, features: Sequence[Feature], drawn: sample.Sample, place: str, *, own_table: bool = True
) -> tuple[Floats, list[str]]:
    """Return the rows that have any value, and what the user should know about them."""
    rows = drawn.rows[~np.isnan(drawn.rows).all(axis=1)]
    if len(rows) < MINIMUM_ROWS:
        raise ReliefError(
            f'detector "{name}" has {len(rows)} rows to train on in {place}, fewer than {MINIMUM_ROWS}',
            "Wait for more rows, or widen --where and --since." if own_table else "Give a source that has more rows.",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a feature that is missing everywhere has no extremes
        varies = np.nanmin(rows, axis=0) < np.nanmax(rows, axis=0)
    constant = [feature.name for feature, varied in zip(features, varies, strict=True) if not varied]
    even = rarity.evenly_frequent(drawn.encoders) & set(constant)
    if len(constant) == len(features):
        raise ReliefError(
            f'every feature of detector "{name}" is constant or missing in the {len(rows)} rows drawn'
            + (", or a category whose values are equally frequent" if even else ""),
            "Choose features that vary, or widen --where and --since.",
        )
    notes = [
        f'the values of feature "{constant_name}" are equally frequent in the rows drawn: none is rarer than another'
        if constant_name in even
        else f'feature "{constant_name}" is constant or missing in the rows drawn'
        for constant_name in constant
    ]
    if drawn.failed:
        notes.append(f"{drawn.failed} of the rows drawn have features that fail to compute and were left out")
    return rows, notes + rarity.notes(drawn.profile)


def _notes_on_expressions(detector: Detector) -> list[str]:
    return [
        f'column "{feature.name}" of the source is taken for what {feature.expression} gives in the table'
        for feature in detector.features
        if feature.expression.strip('"').replace('""', '"') != feature.name
    ]


def _origin(connection: Connection, detector: Detector, source: Source | None) -> dict[str, Any]:
    row = connection.execute(query("provenance")).fetchone() or {}
    return {
        "detector": detector.name,
        "table": detector.relation,
        "source": source.name if source else None,
        "database": row["database"],
        "role": row["role"],
        "trained_at": row["trained_at"].isoformat(),
        "versions": versions() | {"postgresql": row["server_version"]},
    }


def provenance(settings: Settings, drawn: sample.Sample, used: int) -> dict[str, Any]:
    """Return what a model's provenance holds wherever it was trained."""
    request = settings.request
    return {
        "rows": used,
        "rows_asked": request.rows,
        "rows_failed": drawn.failed,
        "table_rows_estimate": drawn.table_rows,
        "table_percent": drawn.percent,
        "where": request.where,
        "since": request.since,
        "seed": settings.seed,
        "trees": settings.trees,
        "samples": min(settings.samples, used),
        "max_features": settings.max_features,
    }


def versions() -> dict[str, str]:
    """Return the versions that a model depends on."""
    return {
        "relief": __version__,
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
    }
