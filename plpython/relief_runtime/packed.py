"""The form in which the server keeps a forest for scoring: made from a validated model document, read in an instant.

A document takes 10 ms to parse and to validate, too long for the first score of a session. The packed form holds what
scoring needs of it, as plain arrays in the machine's byte order: a header, the number of nodes of each tree, and of
all nodes the features, ``missing_left``, steps and thresholds of `relief_runtime.trees.Trees`, then JSON with what
encodes categories. It is made where it is read, never moves between machines, and is made again from the document
wherever that is restored.
"""

from __future__ import annotations

from array import array

from relief_runtime.light import sha256
from relief_runtime.trees import Trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from relief_runtime.document import Document

MAGIC = b"relief forest 1\n"


class PackedError(ValueError):
    """The bytes are not a packed forest that this version of Relief can score with."""


class Packed:
    """A forest as it is kept: its trees, its number of features, and the divisor of a row's total path length."""

    def __init__(self, trees: Trees, feature_count: int, path_length_divisor: float) -> None:
        self.trees = trees
        self.feature_count = feature_count
        self.path_length_divisor = path_length_divisor


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a packed forest, as 64 hexadecimal digits."""
    return sha256(content)


def pack(document: Document) -> bytes:
    """Return the packed form of a document's forest.

    Raises
    ------
    PackedError
        If the forest takes categories.
    """
    if "category" in document.kinds:
        raise PackedError("this version of Relief scores numbers alone, and the model takes a category")
    trees = document.trees
    ends = [*trees.roots[1:], len(trees.features)]
    sizes = [end - root for root, end in zip(trees.roots, ends)]
    return MAGIC + b"".join(
        [
            array("d", [document.path_length_divisor]).tobytes(),
            array("I", [len(document.kinds), len(sizes), len(trees.features)]).tobytes(),
            array("I", sizes).tobytes(),
            array("h", trees.features).tobytes(),
            array("b", trees.missing_left).tobytes(),
            array("I", trees.steps).tobytes(),
            array("d", trees.thresholds).tobytes(),
        ]
    )


def unpack(content: bytes, expected_checksum: str) -> Packed:
    """Return what `pack` has packed.

    Raises
    ------
    PackedError
        If the bytes don't have the expected checksum, or weren't packed by this version on such a machine.
    """
    if checksum(content) != expected_checksum:
        raise PackedError(f"packed forest has checksum {checksum(content)}, not {expected_checksum}")
    if content[: len(MAGIC)] != MAGIC:
        raise PackedError("packed forest has an unknown format")
    reader = _Reader(content, len(MAGIC))
    (divisor,) = reader.read("d", 1)
    feature_count, tree_count, nodes = reader.read("I", 3)
    sizes = reader.read("I", tree_count)
    features = reader.read("h", nodes)
    missing_left = reader.read("b", nodes)
    steps = reader.read("I", nodes)
    thresholds = reader.read("d", nodes)
    # With each step leading on, no walk goes round for ever, whatever the bytes are.
    if not reader.at_end() or sum(sizes) != nodes or 0 in steps:
        raise PackedError("packed forest is damaged")
    roots, root = [], 0
    for size in sizes:
        roots.append(root)
        root += size
    return Packed(Trees(roots, features, thresholds, steps, missing_left), feature_count, divisor)


class _Reader:
    def __init__(self, content: bytes, position: int) -> None:
        self._content = content
        self._position = position

    def read(self, kind: str, count: int) -> Sequence[int]:
        """Return the next numbers, of a kind that the module array knows."""
        numbers = array(kind)
        end = self._position + count * numbers.itemsize
        if end > len(self._content):
            raise PackedError("packed forest is cut off")
        numbers.frombytes(self._content[self._position : end])
        self._position = end
        return numbers

    def at_end(self) -> bool:
        """Return whether everything has been read."""
        return self._position == len(self._content)
