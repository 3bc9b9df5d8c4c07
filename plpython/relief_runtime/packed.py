"""The form in which the server keeps a forest for scoring: made from a validated model document, read in an instant.

A document takes 10 ms to parse and to validate, too long for the first score of a session. The packed form holds what
scoring needs of it, as plain arrays in the machine's byte order: a header, the number of nodes of each tree, and of
all nodes the features, ``missing_left``, steps and thresholds of `relief_runtime.trees.Trees`, then JSON with what
encodes categories. It is made where it is read, never moves between machines, and is made again from the document
wherever that is restored.
"""

from __future__ import annotations

from array import array

from relief_runtime.light import parse_json, sha256
from relief_runtime.trees import Trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from relief_runtime.document import Document
    from relief_runtime.encoder import Encoder

MAGIC = b"relief forest 1\n"


class PackedError(ValueError):
    """The bytes are not a packed forest that this version of Relief can score with."""


class Packed:
    """A forest as it is kept: its trees, number of features, encoders, and the divisor of a row's total path length."""

    def __init__(self, trees: Trees, feature_count: int, encoders: list[Encoder], path_length_divisor: float) -> None:
        self.trees = trees
        self.feature_count = feature_count
        self.encoders = encoders
        self.path_length_divisor = path_length_divisor


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a packed forest, as 64 hexadecimal digits."""
    return sha256(content)


def pack(document: Document) -> bytes:
    """Return the packed form of a document's forest."""
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
            _pack_encoders(document.encoders),
        ]
    )


def _pack_encoders(encoders: Sequence[Encoder]) -> bytes:
    if not encoders:
        return b""
    import json  # takes some 10 ms to import, which only storing a model has to spend

    return json.dumps([[e.position, e.values, e.missing, e.other] for e in encoders], ensure_ascii=False).encode()


def _unpack_encoders(content: bytes, feature_count: int) -> list[Encoder]:
    if not content:
        return []
    from relief_runtime.encoder import Encoder  # a session that scores numbers alone does without

    try:
        encoders = [Encoder(*parts) for parts in parse_json(content.decode(), float)]
        if all(0 <= encoder.position < feature_count and type(encoder.values) is dict for encoder in encoders):
            return encoders
    except (TypeError, ValueError, RecursionError):
        pass
    raise PackedError("packed forest is damaged")


def unpack(content: bytes, expected_checksum: str) -> Packed:
    """Return what `pack` has packed.

    Raises
    ------
    PackedError
        If the bytes don't have the expected checksum, or weren't packed by this version on such a machine.
    """
    require_checksum(content, expected_checksum, "forest")
    return read(content)


def require_checksum(content: bytes, expected_checksum: str, what: str) -> None:
    """Raise a `PackedError` unless bytes have the checksum that they are kept under."""
    if checksum(content) != expected_checksum:
        raise PackedError(f"packed {what} has checksum {checksum(content)}, not {expected_checksum}")


def read(content: bytes) -> Packed:
    """Return what `pack` has packed, of bytes that are known to be those; raises as `unpack` does."""
    reader = Reader(content, MAGIC, "forest")
    (divisor,) = reader.read("d", 1)
    feature_count, tree_count, nodes = reader.read("I", 3)
    sizes = reader.read("I", tree_count)
    features = reader.read("h", nodes)
    missing_left = reader.read("b", nodes)
    steps = reader.read("I", nodes)
    thresholds = reader.read("d", nodes)
    # With each step leading on, no walk goes round for ever, whatever the bytes are.
    encoders = _unpack_encoders(reader.rest(), feature_count)
    if sum(sizes) != nodes or 0 in steps:
        raise PackedError("packed forest is damaged")
    roots, root = [], 0
    for size in sizes:
        roots.append(root)
        root += size
    return Packed(Trees(roots, features, thresholds, steps, missing_left), feature_count, encoders, divisor)


class Reader:
    """Reads what was packed, which begins with a mark of its format."""

    def __init__(self, content: bytes, magic: bytes, what: str) -> None:
        if content[: len(magic)] != magic:
            raise PackedError(f"packed {what} has an unknown format")
        self._content = content
        self._position = len(magic)
        self._what = what

    def read(self, kind: str, count: int) -> Sequence[int]:
        """Return the next numbers, of a kind that the module array knows."""
        numbers = array(kind)
        end = self._position + count * numbers.itemsize
        if end > len(self._content):
            raise PackedError(f"packed {self._what} is cut off")
        numbers.frombytes(self._content[self._position : end])
        self._position = end
        return numbers

    def rest(self) -> bytes:
        """Return what hasn't been read."""
        return self._content[self._position :]
