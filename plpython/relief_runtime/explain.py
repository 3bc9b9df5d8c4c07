"""Say which features made a forest's verdict: the additive contributions of Saabas.

Every node has an expected path length: that of the training rows that reached it. Along a row's path the change of it
at each split goes to the feature split on, so the forest's baseline plus all contributions is the row's mean path
length, exactly.
Method: A. Saabas, "Interpreting random forests" (2014), and Palczewska et al., "Interpreting random forest
classification models using a feature contribution method" (2013), section 2; here with path lengths for values.
A negative contribution shortens the path: it makes the row more anomalous.
"""

from __future__ import annotations

from relief_runtime import document
from relief_runtime.encoder import encode
from relief_runtime.forest import NAN
from relief_runtime.trees import MAX_COMPILED_DEPTH, Blocks, Leaves, literal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from relief_runtime.trees import Trees


class Explainer:
    """The forest of a model document, ready to explain rows in one session.

    Raises
    ------
    relief_runtime.document.DocumentError
        If the document isn't valid, or its trees are deeper than any that is grown.
    """

    def __init__(self, key: str, text: str) -> None:
        read = document.read(text, key)
        trees = read.trees
        if max(map(trees.depth, trees.roots)) > MAX_COMPILED_DEPTH:
            raise document.DocumentError(f"trees of more than {MAX_COMPILED_DEPTH} levels can't be explained")
        self._feature_count = len(read.kinds)
        self._encoders = read.encoders
        self._tree_count = len(trees.roots)
        expected = _expected_path_lengths(trees, read.rows)
        self._baseline = sum(expected[root] for root in trees.roots) / self._tree_count
        totals = ", ".join(f"t{feature}" for feature in range(self._feature_count))
        leaves = Leaves(
            of=_changes(trees, expected),
            add=_add_changes,
            unpack=f"[{totals}] = total",
            write=_change_lines,
            result=f"[{totals}]",
        )
        self._blocks = Blocks(trees, leaves)

    def contributions(
        self, numbers: Sequence[float | None], categories: Sequence[str | None] | None = None
    ) -> list[float]:
        """Return the forest's baseline and each feature's contribution: path lengths that sum to the row's mean path.

        Parameters
        ----------
        numbers, categories
            As in `Forest.score`.
        """
        if len(numbers) != self._feature_count:
            raise ValueError(f"model takes {self._feature_count} features, not {len(numbers)}")
        if self._encoders or categories:
            numbers = encode(self._encoders, numbers, categories)
        row = [NAN if value is None else value for value in numbers]
        totals = self._blocks.add([0.0] * self._feature_count, row)
        return [self._baseline, *(total / self._tree_count for total in totals)]


def _add_changes(totals: list[float], changes: list[tuple[int, float]]) -> list[float]:
    for feature, change in changes:
        totals[feature] += change
    return totals


def _change_lines(changes: list[tuple[int, float]]) -> list[str]:
    return [f"t{int(feature)} += {literal(change)}" for feature, change in changes] or ["pass"]


def _expected_path_lengths(trees: Trees, rows: Sequence[int]) -> list[float]:
    """Return each node's expected path length: a leaf's own, a split's the mean of its children's by training rows."""
    expected = list(trees.thresholds)
    for node in range(len(expected) - 1, -1, -1):
        if trees.features[node] >= 0:
            left, right = node + 1, node + trees.steps[node]
            expected[node] = (rows[left] * expected[left] + rows[right] * expected[right]) / (rows[left] + rows[right])
    return expected


def _changes(trees: Trees, expected: Sequence[float]) -> list[list[tuple[int, float]]]:
    """Return what each leaf holds: by feature, the change of the expected path length on the way to it."""
    changes: list[dict[int, float]] = [{} for _ in expected]
    for node, feature in enumerate(trees.features):
        if feature >= 0:
            for child in (node + 1, node + trees.steps[node]):
                changes[child] = dict(changes[node])
                changes[child][feature] = changes[child].get(feature, 0.0) + expected[child] - expected[node]
            changes[node] = {}
    return [list(of_leaf.items()) for of_leaf in changes]
