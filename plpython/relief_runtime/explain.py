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
from relief_runtime.forest import NAN
from relief_runtime.light import parse_json
from relief_runtime.trees import MAX_COMPILED_DEPTH, Blocks, Source, depth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Explainer:
    """The forest of a model document, ready to explain rows in one session.

    Raises
    ------
    relief_runtime.document.DocumentError
        If the document isn't valid, or its trees are deeper than any that is grown.
    """

    def __init__(self, key: str, text: str) -> None:
        read = document.read(text, key)
        if max(map(depth, read.trees)) > MAX_COMPILED_DEPTH:
            raise document.DocumentError(f"trees of more than {MAX_COMPILED_DEPTH} levels can't be explained")
        trees = parse_json(text, float)["trees"]
        self._feature_count = len(read.kinds)
        self._tree_count = len(trees)
        expected = [_expected_path_lengths(tree) for tree in trees]
        self._baseline = sum(lengths[0] for lengths in expected) / len(trees)
        roots = [_with_changes(tree, lengths) for tree, lengths in zip(trees, expected)]
        totals = ", ".join(f"t{feature}" for feature in range(self._feature_count))
        source = Source(f"[{totals}] = total", _change_lines, f"[{totals}]")
        self._blocks = Blocks(roots, read.nodes, _add_changes, source)

    def contributions(self, numbers: Sequence[float | None]) -> list[float]:
        """Return the forest's baseline and each feature's contribution: path lengths that sum to the row's mean path.

        Parameters
        ----------
        numbers
            One value a feature, in the order of the model document; ``None`` and NaN are missing.
        """
        if len(numbers) != self._feature_count:
            raise ValueError(f"model takes {self._feature_count} features, not {len(numbers)}")
        row = [NAN if value is None else value for value in numbers]
        totals = self._blocks.add([0.0] * self._feature_count, row)
        return [self._baseline, *(total / self._tree_count for total in totals)]


def _add_changes(totals: list[float], changes: list[tuple[int, float]]) -> list[float]:
    for feature, change in changes:
        totals[feature] += change
    return totals


def _change_lines(changes: list[tuple[int, float]]) -> list[str]:
    return [f"t{int(feature)} += {float(change)!r}" for feature, change in changes] or ["pass"]


def _expected_path_lengths(tree: dict[str, Any]) -> list[float]:
    """Return each node's expected path length: a leaf's own, a split's the mean of its children's by training rows."""
    features, rows = tree["feature"], tree["rows"]
    expected = [0.0 if value is None else float(value) for value in tree["value"]]
    stack: list[int] = []
    for node in range(len(features) - 1, -1, -1):
        if features[node] >= 0:
            left, right = stack.pop(), stack.pop()
            expected[node] = (rows[left] * expected[left] + rows[right] * expected[right]) / (rows[left] + rows[right])
        stack.append(node)
    return expected


def _with_changes(tree: dict[str, Any], expected: list[float]) -> Any:
    """Return a tree whose leaves hold the changes of the expected path length on the way to them."""
    features, values, missing = tree["feature"], tree["value"], tree["missing_left"]

    def build(node: int, changes: dict[int, float]) -> tuple[Any, int]:
        feature = features[node]
        if feature < 0:
            return list(changes.items()), node + 1
        children = []
        following = node + 1
        for _ in range(2):
            changed = dict(changes)
            changed[feature] = changed.get(feature, 0.0) + expected[following] - expected[node]
            child, following = build(following, changed)
            children.append(child)
        threshold = document.INFINITY if values[node] is None else float(values[node])
        return (feature, threshold, children[0], children[1], missing[node]), following

    return build(0, {})[0]
