"""Follow a row through trees: walk them at first, compile them once that pays.

A session that sees a handful of rows walks the trees, which needs no preparation. After ``WALKED_ROWS`` rows each
further row also compiles one block of trees to Python source (nested ``if``), until all are: several times as fast,
and no single row waits for the whole compilation. A block is twenty trees: one code object for a hundred trees takes
several times the memory at the same speed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    # (total so far, row) -> total with this block's trees added, in tree order
    Block = Callable[[Any, Sequence[float]], Any]

    class Indexed(Protocol):
        """What gives a value for the number of a node."""

        def __getitem__(self, node: int, /) -> Any: ...


WALKED_ROWS = 300
TREES_PER_BLOCK = 20
# Python's parser takes 100 levels of indentation; grown trees have ceil(log2(samples)) levels.
MAX_COMPILED_DEPTH = 60
MAX_COMPILED_NODES = 200_000
INFINITY = float("inf")


class Trees:
    """The nodes of all trees of a forest, tree after tree, each in preorder: a node's left child is the next node.

    Parameters
    ----------
    roots
        The node where each tree begins.
    features
        Of each node, the position of the feature that it splits on; -1 marks a leaf.
    thresholds
        A row goes left if its value <= threshold; of a leaf, the path length that it adds.
    steps
        How many nodes further the right child is, at least 1.
    missing_left
        Whether a missing value goes left.
    """

    def __init__(
        self,
        roots: Sequence[int],
        features: Sequence[int],
        thresholds: Sequence[float],
        steps: Sequence[int],
        missing_left: Sequence[int],
    ) -> None:
        self.roots = roots
        self.features = features
        self.thresholds = thresholds
        self.steps = steps
        self.missing_left = missing_left

    def find_leaf(self, node: int, row: Sequence[float]) -> int:
        """Walk the tree below a node and return the leaf that a row of floats (NaN = missing) falls into."""
        features, thresholds, steps = self.features, self.thresholds, self.steps
        feature = features[node]
        while feature >= 0:
            value = row[feature]
            if value <= thresholds[node] or (value != value and self.missing_left[node]):
                node += 1
            else:
                node += steps[node]
            feature = features[node]
        return node

    def depth(self, root: int) -> int:
        """Return the number of levels of a tree.

        Raises
        ------
        ValueError
            If it is none, as two ways lead to one node.
        """
        deepest, stack, ways = 0, [(root, 1)], 0
        while stack:
            node, level = stack.pop()
            ways += 1
            if ways > len(self.features):
                raise ValueError("nodes are shared between subtrees")
            deepest = max(deepest, level)
            if self.features[node] >= 0:
                stack += [(node + 1, level + 1), (node + self.steps[node], level + 1)]
        return deepest

    def size(self, node: int) -> int:
        """Return the number of nodes of a tree, from its root on."""
        first = node
        while self.features[node] >= 0:
            node += self.steps[node]
        return node + 1 - first


class Leaves:
    """What a row adds up over the leaves that it falls into: as a function, and as statements that do the same.

    Parameters
    ----------
    of
        What each node holds, if it is a leaf.
    add
        Adds what a leaf holds to a total and returns the total.
    unpack, write, result
        A statement that takes ``total`` apart, the statements of a leaf, the expression that is returned.
    """

    def __init__(
        self,
        of: Indexed,
        add: Callable[[Any, Any], Any],
        unpack: str,
        write: Callable[[Any], list[str]],
        result: str,
    ) -> None:
        self.of = of
        self.add = add
        self.unpack = unpack
        self.write = write
        self.result = result


class Blocks:
    """The trees of a forest in blocks, each a function that adds what a row meets in its trees to a total."""

    def __init__(self, trees: Trees, leaves: Leaves) -> None:
        self._trees = trees
        self._leaves = leaves
        roots = trees.roots
        groups = [roots[start : start + TREES_PER_BLOCK] for start in range(0, len(roots), TREES_PER_BLOCK)]
        self._blocks: list[Block] = [_walker(trees, group, leaves) for group in groups]
        self._uncompiled = list(enumerate(groups)) if len(trees.features) <= MAX_COMPILED_NODES else []
        self._rows_until_compiled = WALKED_ROWS

    def add(self, total: Any, row: Sequence[float]) -> Any:
        """Return a total with what a row of floats (NaN = missing) meets in all trees added, in tree order."""
        if self._uncompiled:
            self._rows_until_compiled -= 1
            if self._rows_until_compiled < 0:
                self._compile_next()
        for add_block in self._blocks:
            total = add_block(total, row)
        return total

    def _compile_next(self) -> None:
        position, roots = self._uncompiled.pop(0)
        if max(map(self._trees.depth, roots)) > MAX_COMPILED_DEPTH:
            return
        try:
            compiled = compile_block(self._trees, roots, self._leaves)
        except MemoryError:
            return  # walking goes on, which takes longer and no memory
        self._blocks[position] = compiled


def _walker(trees: Trees, roots: Sequence[int], leaves: Leaves) -> Block:
    def add_block(total: Any, row: Sequence[float]) -> Any:
        for root in roots:
            total = leaves.add(total, leaves.of[trees.find_leaf(root, row)])
        return total

    return add_block


def compile_block(trees: Trees, roots: Sequence[int], leaves: Leaves) -> Block:
    """Compile trees to one function of a total and a row; see `Blocks`."""
    namespace: dict[str, Any] = {"__builtins__": {}}
    exec(compile(block_source(trees, roots, leaves), "<relief forest>", "exec"), namespace)
    # Taken out, or function and namespace would hold each other until the garbage collector happens by.
    return namespace.pop("add_block")  # type: ignore[no-any-return]


def block_source(trees: Trees, roots: Sequence[int], leaves: Leaves) -> str:
    """Return the Python source of a block: of all that trees hold, nothing but numbers may reach it."""
    used: set[int] = set()
    lines: list[str] = []
    for root in roots:
        _write_tree(trees, root, trees.size(root), 1, lines, used, leaves)
    values = [f" x{feature} = row[{feature}]" for feature in sorted(used)]
    return "\n".join(["def add_block(total, row):", f" {leaves.unpack}", *values, *lines, f" return {leaves.result}"])


def literal(number: float) -> str:
    """Return a number as Python reads it: infinities have no literal of their own, but 1e999 reads as one."""
    number = float(number)
    if number != number:
        return "(1e999 - 1e999)"
    return repr(number) if abs(number) != INFINITY else "1e999" if number > 0 else "-1e999"


def _write_tree(
    trees: Trees, node: int, size: int, level: int, lines: list[str], used: set[int], leaves: Leaves
) -> None:
    indent = " " * level
    feature = trees.features[node]
    if feature < 0:
        lines += [indent + line for line in leaves.write(leaves.of[node])]
        return
    used.add(feature)
    threshold = literal(trees.thresholds[node])
    step = trees.steps[node]
    left, right = (node + 1, step - 1), (node + step, size - step)
    # The larger subtree comes first, right behind the comparison: most rows go there, and find it in the cache.
    # Every comparison with NaN is false, which decides how the condition is put.
    if left[1] >= right[1]:
        first, second = left, right
        condition = (
            f"not x{int(feature)} > {threshold}" if trees.missing_left[node] else f"x{int(feature)} <= {threshold}"
        )
    else:
        first, second = right, left
        condition = (
            f"x{int(feature)} > {threshold}" if trees.missing_left[node] else f"not x{int(feature)} <= {threshold}"
        )
    lines.append(f"{indent}if {condition}:")
    _write_tree(trees, *first, level + 1, lines, used, leaves)
    lines.append(f"{indent}else:")
    _write_tree(trees, *second, level + 1, lines, used, leaves)
