"""Score many rows at once outside the server, to the bit as the runtime does.

scikit-learn finds the leaves, several times as fast as the runtime; what is made of them is the runtime's arithmetic.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
from relief_runtime.encoder import encode
from relief_runtime.forest import Forest

from relief_trainer import archive, parity
from relief_trainer.document import exact_thresholds
from relief_trainer.errors import ReliefError

Floats = npt.NDArray[np.float64]
Categories = Sequence[Sequence[str | None]]


class BatchForest:
    """The forest of a model document on scikit-learn's trees; threads may share it, and work at the same time.

    Raises
    ------
    ReliefError
        If scikit-learn can't take the document's trees: none that the trainer made.
    """

    def __init__(self, document_text: str) -> None:
        packed = parity.as_server_keeps(document_text)
        self._encoders = packed.encoders
        self._divisor = packed.path_length_divisor
        content = json.loads(document_text)
        if not all(map(_is_exact, content["trees"])):
            raise ReliefError("scikit-learn would compare with other thresholds than the document's")
        self._trees = [
            (estimator.tree_, np.array(tree["value"], dtype=np.float64))
            for estimator, tree in zip(archive.to_estimator(content).estimators_, content["trees"], strict=True)
        ]

    def score(self, numbers: Floats, categories: Categories | None = None) -> list[float | None]:
        """Return each row's score, as `relief_runtime.forest.Forest.score` does for one.

        Parameters
        ----------
        numbers
            Shape (rows, features), NaN where a value is missing and in the place of a category.
        categories
            Each row's texts, one a feature of kind ``category``; ``None`` where a model has none of them.
        """
        if categories is not None:
            pairs = zip(numbers.tolist(), categories, strict=True)
            encoded = [encode(self._encoders, row, texts) for row, texts in pairs]
            numbers = np.array(encoded, dtype=np.float64).reshape(numbers.shape)
        with np.errstate(over="ignore"):
            # What float32 can't hold is infinite, beyond the same thresholds as the double.
            narrow = numbers.astype(np.float32)
        lengths: Floats = np.zeros(len(numbers))
        for tree, path_lengths in self._trees:
            # Tree after tree, as the runtime adds: in another order the last digits would differ.
            lengths += path_lengths[tree.apply(narrow)]
        missing = np.asarray(np.isnan(numbers).all(axis=1))
        return [
            None if none else 2.0 ** -(length / self._divisor) if self._divisor else 0.5
            for none, length in zip(missing.tolist(), lengths.tolist(), strict=True)
        ]


class RowForest:
    """The forest of a model document as the runtime walks it, row by row; threads that share it wait for each other."""

    def __init__(self, document_text: str) -> None:
        self._forest = Forest(parity.as_server_keeps(document_text))
        self._lock = threading.Lock()

    def score(self, numbers: Floats, categories: Categories | None = None) -> list[float | None]:
        """Return each row's score; see `BatchForest.score`."""
        with self._lock:
            return [
                self._forest.score(row, texts)
                for row, texts in zip(numbers.tolist(), categories or repeat(None), strict=False)
            ]


def _is_exact(tree: dict[str, Any]) -> bool:
    """Return whether a tree's thresholds tell doubles apart as they tell the float32s apart that doubles round to."""
    thresholds = [
        v for v, feature in zip(tree["value"], tree["feature"], strict=True) if feature >= 0 and v is not None
    ]
    given: Floats = np.array(thresholds, dtype=np.float64)
    return bool(np.array_equal(exact_thresholds(given), given))
