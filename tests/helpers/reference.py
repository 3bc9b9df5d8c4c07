"""What scikit-learn makes of a detector's rows, encoded by the trainer: the scores that the server must give."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from helpers.database import Database
from relief_trainer import archive, parity, rarity
from relief_trainer import detector as detectors
from relief_trainer.connection import connect


def expected_scores(database: Database, name: str) -> npt.NDArray[np.float64]:
    """Return scikit-learn's scores of all rows of a detector's table, by its newest model, in the rows' order."""
    with connect(database.dsn()) as connection:
        detector = detectors.fetch(connection, name)
        stored = json.loads(archive.fetch(connection, name).document)
    numbers = f"select {detector.guarded_call} from {detector.relation} as o order by ctid"
    texts = f"select {detector.guarded_categories_call} from {detector.relation} as o order by ctid"
    missing = [None] * len(detector.features)
    rows = np.array([row or missing for row in database.query(numbers)], dtype=np.float64)
    absent = [None] * len(stored["encoders"])
    categories = [row or absent for row in database.query(texts)]
    encoded = rarity.encoded(stored["encoders"], detector.features, rows, categories)
    return parity.scikit_scores(archive.to_estimator(stored), encoded)


def assert_same_scores(expected: npt.NDArray[np.float64], found: Sequence[float | None]) -> None:
    """Assert that scores are missing in the same rows, and elsewhere the same to one unit in the last place."""
    actual = np.array(found, dtype=np.float64)
    assert np.array_equal(np.isnan(actual), np.isnan(expected))
    assert parity.ulps(expected, actual) <= 1
