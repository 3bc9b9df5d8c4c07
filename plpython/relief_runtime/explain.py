"""Say which features made a forest's verdict: the additive contributions of Saabas.

Every node has an expected path length: that of the training rows that reached it. Along a row's path the change of it
at each split goes to the feature split on, so the forest's baseline plus all contributions is the row's mean path
length, exactly.
Method: A. Saabas, "Interpreting random forests" (2014), and Palczewska et al., "Interpreting random forest
classification models using a feature contribution method" (2013), section 2; here with path lengths for values.
A negative contribution shortens the path: it makes the row more anomalous.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

from relief_runtime import packed
from relief_runtime.encoder import encode
from relief_runtime.forest import NAN
from relief_runtime.trees import Blocks, Leaves, literal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from relief_runtime.document import Document
    from relief_runtime.trees import Trees

MAGIC = b"relief explainer 1\n"


def pack(document: Document, checksum: str) -> bytes:
    """Return what explains a document's forest, in the form in which the server keeps it.

    From the document a session would take 40 ms to make it. The document's checksum comes first, then that of what
    follows: the expected path length of each node, and the forest.
    """
    expected = _expected_path_lengths(document.trees, document.rows)
    content = array("I", [len(expected)]).tobytes() + array("d", expected).tobytes() + packed.pack(document)
    return MAGIC + f"{checksum}{packed.checksum(content)}".encode() + content


class Explainer:
    """A forest, ready to explain rows in one session.

    Parameters
    ----------
    checksum, content
        Of a document, and what `pack` has packed.

    Raises
    ------
    relief_runtime.packed.PackedError
        If the bytes aren't of that document, are damaged, or weren't packed by this version on such a machine.
    """

    def __init__(self, checksum: str, content: bytes) -> None:
        reader = packed.Reader(content, MAGIC, "explainer")
        told, body_checksum = (bytes(reader.read("B", 64)).decode("ascii", "replace") for _ in range(2))
        if told != checksum:
            raise packed.PackedError(f"packed explainer is of the document with checksum {told}, not {checksum}")
        packed.require_checksum(reader.rest(), body_checksum, "explainer")
        (nodes,) = reader.read("I", 1)
        expected: Sequence[float] = reader.read("d", nodes)
        forest = packed.read(reader.rest())
        self._feature_count = forest.feature_count
        self._encoders = forest.encoders
        self._tree_count = len(forest.trees.roots)
        self._baseline = sum(expected[root] for root in forest.trees.roots) / self._tree_count
        totals = ", ".join(f"t{feature}" for feature in range(self._feature_count))
        leaves = Leaves(
            of=_Changes(forest.trees, expected),
            add=_add_changes,
            unpack=f"[{totals}] = total",
            write=_change_lines,
            result=f"[{totals}]",
        )
        self._blocks = Blocks(forest.trees, leaves)

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


class _Changes:
    """What each leaf holds: by feature, the change of the expected path length on the way to it; found when needed."""

    def __init__(self, trees: Trees, expected: Sequence[float]) -> None:
        self._trees = trees
        self._expected = expected
        self._found: dict[int, list[tuple[int, float]]] = {}

    def __getitem__(self, leaf: int) -> list[tuple[int, float]]:
        changes = self._found.get(leaf)
        if changes is None:
            changes = self._found[leaf] = self._find(leaf)
        return changes

    def _find(self, leaf: int) -> list[tuple[int, float]]:
        features, steps, expected = self._trees.features, self._trees.steps, self._expected
        changes: dict[int, float] = {}
        node = self._trees.roots[bisect_right(self._trees.roots, leaf) - 1]
        while node < leaf:
            right = node + steps[node]
            child = right if right <= leaf else node + 1
            feature = features[node]
            changes[feature] = changes.get(feature, 0.0) + expected[child] - expected[node]
            node = child
        return list(changes.items())
