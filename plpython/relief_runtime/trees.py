"""Follow a row through trees: walk them at first, compile them once that pays.

A session that sees a handful of rows walks the trees, which needs no preparation. After ``WALKED_ROWS`` rows each
further row also compiles one block of trees to Python source (nested ``if``), until all are: several times as fast,
and no single row waits for the whole compilation. A block is twenty trees: one code object for a hundred trees takes
several times the memory at the same speed.

A split is a tuple (feature, threshold, left, right, missing goes left); anything else is a leaf.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    # (total so far, row) -> total with this block's trees added, in tree order
    Block = Callable[[Any, Sequence[float]], Any]

WALKED_ROWS = 300
TREES_PER_BLOCK = 20
# Python's parser takes 100 levels of indentation; grown trees have ceil(log2(samples)) levels.
MAX_COMPILED_DEPTH = 60
MAX_COMPILED_NODES = 200_000
INFINITY = float("inf")


class Source:
    """How compiled code adds up leaves: a line that takes ``total`` apart, the lines of a leaf, what is returned."""

    def __init__(self, unpack: str, leaf_lines: Callable[[Any], list[str]], result: str) -> None:
        self.unpack = unpack
        self.leaf_lines = leaf_lines
        self.result = result


class Blocks:
    """The trees of a forest in blocks, each a function that adds what a row meets in its trees to a total.

    Parameters
    ----------
    add_leaf
        Adds a leaf to a total and returns the total.
    source
        Writes the statements that do the same.
    """

    def __init__(
        self,
        trees: Sequence[Any],
        nodes: int,
        add_leaf: Callable[[Any, Any], Any],
        source: Source,
    ) -> None:
        groups = [trees[start : start + TREES_PER_BLOCK] for start in range(0, len(trees), TREES_PER_BLOCK)]
        self._blocks: list[Block] = [_walker(group, add_leaf) for group in groups]
        self._source = source
        self._uncompiled = list(enumerate(groups)) if nodes <= MAX_COMPILED_NODES else []
        self._rows_until_compiled = WALKED_ROWS

    def add(self, total: Any, row: Sequence[float]) -> Any:
        """Return a total with what a row of floats (NaN = missing) meets in all trees added, in tree order."""
        if self._uncompiled:
            self._rows_until_compiled -= 1
            if self._rows_until_compiled < 0:
                position, trees = self._uncompiled.pop(0)
                if max(map(depth, trees)) <= MAX_COMPILED_DEPTH:
                    self._blocks[position] = compile_block(trees, self._source)
        for add_block in self._blocks:
            total = add_block(total, row)
        return total


def find_leaf(node: Any, row: Sequence[float]) -> Any:
    """Walk one tree and return the leaf that a row of floats (NaN = missing) falls into."""
    while type(node) is tuple:
        feature, threshold, left, right, left_if_missing = node
        value = row[feature]
        goes_left = value <= threshold or (left_if_missing and value != value)
        node = left if goes_left else right
    return node


def _walker(trees: Sequence[Any], add_leaf: Callable[[Any, Any], Any]) -> Block:
    def add_block(total: Any, row: Sequence[float]) -> Any:
        for node in trees:
            total = add_leaf(total, find_leaf(node, row))
        return total

    return add_block


def compile_block(trees: Sequence[Any], source: Source) -> Block:
    """Compile trees to one function of a total and a row; see `Blocks`.

    Nothing but the numbers of a validated document may reach the source.
    """
    used: set[int] = set()
    lines: list[str] = []
    for tree in trees:
        _write_tree(tree, 1, lines, used, source.leaf_lines)
    values = [f" x{feature} = row[{feature}]" for feature in sorted(used)]
    text = "\n".join(["def add_block(total, row):", f" {source.unpack}", *values, *lines, f" return {source.result}"])
    namespace: dict[str, Any] = {"__builtins__": {}}
    exec(compile(text, "<relief forest>", "exec"), namespace)
    return namespace["add_block"]  # type: ignore[no-any-return]


def _write_tree(
    node: Any, level: int, lines: list[str], used: set[int], leaf_lines: Callable[[Any], list[str]]
) -> None:
    indent = " " * level
    if type(node) is not tuple:
        lines += [indent + line for line in leaf_lines(node)]
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
    _write_tree(first, level + 1, lines, used, leaf_lines)
    lines.append(f"{indent}else:")
    _write_tree(second, level + 1, lines, used, leaf_lines)


def depth(root: Any) -> int:
    """Return the number of levels of a tree."""
    deepest, stack = 0, [(root, 1)]
    while stack:
        node, level = stack.pop()
        deepest = max(deepest, level)
        if type(node) is tuple:
            stack += [(node[2], level + 1), (node[3], level + 1)]
    return deepest
