"""Score rows with a forest: walk it at first, compile it once that pays.

A session that scores a handful of rows walks the trees, which needs no preparation. After ``WALKED_ROWS`` rows each
further row also compiles one block of trees to Python source (nested ``if``), until all are: several times as fast,
and no single row waits for the whole compilation. A block is ten trees: one code object for a hundred trees takes
several times the memory at the same speed.
"""

from __future__ import annotations

from relief_runtime.document import INFINITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from relief_runtime.document import Document, Node

    # (path length so far, row) -> path length with this block's trees added, in tree order
    Block = Callable[[float, Sequence[float]], float]

WALKED_ROWS = 300
TREES_PER_BLOCK = 10
# Python's parser takes 100 levels of indentation; grown trees have ceil(log2(samples)) levels.
MAX_COMPILED_DEPTH = 60
MAX_COMPILED_NODES = 200_000
NAN = float("nan")


class Forest:
    """An isolation forest of a model document, ready to score rows in one session."""

    def __init__(self, document: Document) -> None:
        self._feature_count = len(document.kinds)
        self._categories = [position for position, kind in enumerate(document.kinds) if kind == "category"]
        self._divisor = document.path_length_divisor
        groups = [document.trees[i : i + TREES_PER_BLOCK] for i in range(0, len(document.trees), TREES_PER_BLOCK)]
        self._blocks: list[Block] = [_walker(group) for group in groups]
        self._rows_until_compiled = WALKED_ROWS
        self._uncompiled = list(enumerate(groups))
        if document.nodes > MAX_COMPILED_NODES:
            self._uncompiled = []

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
        if self._uncompiled:
            self._rows_until_compiled -= 1
            if self._rows_until_compiled < 0:
                self._compile_next()
        length = 0.0
        for add_path_lengths in self._blocks:
            length = add_path_lengths(length, row)
        # One training row: depth and divisor are both 0, and scikit-learn answers 2 ** -1.
        return 2.0 ** -(length / self._divisor) if self._divisor else 0.5

    def _compile_next(self) -> None:
        position, trees = self._uncompiled.pop(0)
        if max(map(_depth, trees)) <= MAX_COMPILED_DEPTH:
            self._blocks[position] = compile_block(trees)


def leaf_value(node: Node, row: Sequence[float]) -> float:
    """Walk one tree and return the value of the leaf that a row of floats (NaN = missing) falls into."""
    while type(node) is tuple:
        feature, threshold, left, right, left_if_missing = node
        value = row[feature]
        goes_left = value <= threshold or (left_if_missing and value != value)
        node = left if goes_left else right
    return node  # type: ignore[return-value]


def _walker(trees: Sequence[Node]) -> Block:
    def add_path_lengths(length: float, row: Sequence[float]) -> float:
        for node in trees:
            length += leaf_value(node, row)
        return length

    return add_path_lengths


def compile_block(trees: Sequence[Node]) -> Block:
    """Compile trees to one function that adds their path lengths, in tree order.

    Nothing but the numbers of a validated document reaches the source.
    """
    used: set[int] = set()
    lines: list[str] = []
    for tree in trees:
        _write_tree(tree, 1, lines, used)
    unpack = [f" x{feature} = row[{feature}]" for feature in sorted(used)]
    source = "\n".join(["def add_path_lengths(length, row):", *unpack, *lines, " return length"])
    namespace: dict[str, Any] = {"__builtins__": {}}
    exec(compile(source, "<relief forest>", "exec"), namespace)
    return namespace["add_path_lengths"]  # type: ignore[no-any-return]


def _write_tree(node: Node, depth: int, lines: list[str], used: set[int]) -> None:
    indent = " " * depth
    if type(node) is not tuple:
        lines.append(f"{indent}length += {float(node)!r}")  # type: ignore[arg-type]
        return
    feature, threshold, left, right, left_if_missing = node
    used.add(feature)
    # An infinite threshold has no literal, but 1e999 reads as one.
    literal = "1e999" if threshold == INFINITY else repr(float(threshold))
    # Every comparison with NaN is false, so the branch that missing values take is written as the else.
    if left_if_missing:
        lines.append(f"{indent}if x{int(feature)} > {literal}:")
        first, second = right, left
    else:
        lines.append(f"{indent}if x{int(feature)} <= {literal}:")
        first, second = left, right
    _write_tree(first, depth + 1, lines, used)
    lines.append(f"{indent}else:")
    _write_tree(second, depth + 1, lines, used)


def _depth(root: Node) -> int:
    deepest, stack = 0, [(root, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        if type(node) is tuple:
            stack += [(node[2], depth + 1), (node[3], depth + 1)]
    return deepest
