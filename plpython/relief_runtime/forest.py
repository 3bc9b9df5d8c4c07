"""Score rows with an isolation forest."""

from __future__ import annotations

from relief_runtime.trees import Blocks, Source, compile_block

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from relief_runtime.document import Document
    from relief_runtime.trees import Block

NAN = float("nan")


class Forest:
    """An isolation forest of a model document, ready to score rows in one session."""

    def __init__(self, document: Document) -> None:
        self._feature_count = len(document.kinds)
        self._categories = [position for position, kind in enumerate(document.kinds) if kind == "category"]
        self._divisor = document.path_length_divisor
        self._blocks = Blocks(document.trees, document.nodes, lambda length, leaf: length + leaf, _SOURCE)

    def score(self, numbers: Sequence[float | None], categories: Sequence[str | None] | None = None) -> float | None:
        """Return the anomaly score of one row, in (0, 1], higher = more anomalous.

        The score is 2 ** (-E(h(x)) / c(n)) of Liu, Ting, Zhou, "Isolation Forest" (ICDM 2008), section 2,
        equation 2, equal to ``-score_samples`` of scikit-learn's IsolationForest.

        Parameters
        ----------
        numbers
            One value a feature, in the order of the model document. ``None`` and NaN are missing and follow each
            split's ``missing_left``; infinities are the extreme values that they are.
        categories
            Texts of the features of kind ``category``; ``None`` as long as a model has none.

        Returns
        -------
        float or None
            ``None`` if every feature is missing.

        Raises
        ------
        ValueError
            If the number of values isn't the model's number of features.
        """
        if self._categories or categories:
            raise ValueError("this version of Relief scores numbers alone, and was given a category")
        if len(numbers) != self._feature_count:
            raise ValueError(f"model takes {self._feature_count} features, not {len(numbers)}")
        row: Sequence[float] = numbers  # type: ignore[assignment]
        if None in numbers:
            row = [NAN if value is None else value for value in numbers]
        if row[0] != row[0] and all(value != value for value in row):
            return None
        length = self._blocks.add(0.0, row)
        # One training row: depth and divisor are both 0, and scikit-learn answers 2 ** -1.
        return 2.0 ** -(length / self._divisor) if self._divisor else 0.5


def compile_scoring(trees: Sequence[object]) -> Block:
    """Compile trees to one function that adds their path lengths to a total, in tree order."""
    return compile_block(trees, _SOURCE)


_SOURCE = Source("length = total", lambda path_length: [f"length += {float(path_length)!r}"], "length")
