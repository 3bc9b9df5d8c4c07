"""Score rows with an isolation forest."""

from __future__ import annotations

from relief_runtime.trees import Blocks, Leaves, literal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from relief_runtime.packed import Packed
    from relief_runtime.trees import Trees

NAN = float("nan")


class Forest:
    """An isolation forest, ready to score rows in one session."""

    def __init__(self, packed: Packed) -> None:
        self._feature_count = packed.feature_count
        self._encoders = packed.encoders
        self._divisor = packed.path_length_divisor
        self._blocks = Blocks(packed.trees, _path_lengths(packed.trees))

    def score(self, numbers: Sequence[float | None], categories: Sequence[str | None] | None = None) -> float | None:
        """Return the anomaly score of one row, in (0, 1], higher = more anomalous.

        The score is 2 ** (-E(h(x)) / c(n)) of Liu, Ting, Zhou, "Isolation Forest" (ICDM 2008), section 2,
        equation 2, equal to ``-score_samples`` of scikit-learn's IsolationForest.

        Parameters
        ----------
        numbers
            One value a feature, in the order of the model document, ``None`` in the place of a category. ``None`` and
            NaN are missing and follow each split's ``missing_left``; infinities are the extreme values that they are.
        categories
            One text a feature of kind ``category``, in their order; ``None`` where a model has none of them.

        Returns
        -------
        float or None
            ``None`` if every feature is missing.

        Raises
        ------
        ValueError
            If the number of values isn't the model's number of features, or that of texts its number of categories.
        """
        if len(numbers) != self._feature_count:
            raise ValueError(f"model takes {self._feature_count} features, not {len(numbers)}")
        if self._encoders or categories:
            from relief_runtime.encoder import encode  # a session that scores numbers alone does without

            numbers = encode(self._encoders, numbers, categories)
        row: Sequence[float] = numbers  # type: ignore[assignment]
        if None in numbers:
            row = [NAN if value is None else value for value in numbers]
        if row[0] != row[0] and all(value != value for value in row):
            return None
        length = self._blocks.add(0.0, row)
        # One training row: depth and divisor are both 0, and scikit-learn answers 2 ** -1.
        return 2.0 ** -(length / self._divisor) if self._divisor else 0.5


def _path_lengths(trees: Trees) -> Leaves:
    return Leaves(
        of=trees.thresholds,
        add=lambda length, path_length: length + path_length,
        unpack="length = total",
        write=lambda path_length: [f"length += {literal(path_length)}"],
        result="length",
    )
