"""Read a model document: JSON text in, validated trees out.

A document (format 1) is one JSON object:

``format``                1
``features``              ``[{"name": str, "expression": str, "kind": "number" | "category"}, ...]``
``encoders``              ``{feature name: ...}`` for the features of kind ``category``
``samples``               rows that each tree was grown on
``average_path_length``   c(samples), the divisor of a mean path length (Liu, Ting, Zhou 2008, section 2, equation 1)
``trees``                 a list of trees
``threshold``             ``{"value": float, "origin": "contamination" | "fixed", ...}``
``profile``, ``provenance``  what the trainer saw; not read here

A tree lists its nodes in preorder, a node's left child right behind it, in three lists of one length:

``feature``       position of the feature that a node splits on; -1 marks a leaf
``value``         of a split, the threshold: a row goes left if its value <= threshold, and null sends every value left
                  that isn't missing; of a leaf, the path length that it adds
``missing_left``  1 where a missing value goes left, else 0

Preorder fixes every right child, so a document can hold neither a cycle nor a shared subtree.
"""

from __future__ import annotations

from math import isfinite

from relief_runtime.light import parse_json, sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # A leaf is the path length that it adds; a split is (feature, threshold, left, right, missing goes left).
    Node = float | tuple[int, float, Any, Any, int]

FORMAT = 1
MAX_CHARACTERS = 64 * 1024 * 1024
MAX_TREES = 2_000
MAX_NODES = 2_000_000
MAX_FEATURES = 1_600
KINDS = ("number", "category")
ORIGINS = ("contamination", "fixed")
INFINITY = float("inf")


class DocumentError(ValueError):
    """The text is not a model document that this version of Relief can score with."""


class Document:
    """What scoring needs of a model document: trees, their number of nodes, the features' kinds and encoders."""

    def __init__(
        self, trees: list[Node], nodes: int, kinds: list[str], encoders: dict[str, Any], path_length_divisor: float
    ) -> None:
        self.trees = trees
        self.nodes = nodes
        self.kinds = kinds
        self.encoders = encoders
        self.path_length_divisor = path_length_divisor


def checksum(text: str) -> str:
    """Return the SHA-256 of a document's text, as 64 hexadecimal digits."""
    return sha256(text.encode("utf-8", "surrogatepass"))


def read(text: str, expected_checksum: str) -> Document:
    """Validate a model document wholly and return what scoring needs of it.

    Raises
    ------
    DocumentError
        If the text doesn't have the expected checksum, or isn't a document of a known format with
        well-formed trees of finite numbers within the limits of this module.
    """
    if checksum(text) != expected_checksum:
        raise DocumentError(f"model document has checksum {checksum(text)}, not {expected_checksum}")
    if len(text) > MAX_CHARACTERS:
        raise DocumentError(f"model document has {len(text)} characters, more than {MAX_CHARACTERS}")
    content = _parse(text)
    kinds = _read_features(content)
    encoders = _member(content, "encoders", dict)
    trees = _member(content, "trees", list)
    if not 1 <= len(trees) <= MAX_TREES:
        raise DocumentError(f"model document has {len(trees)} trees, not 1 to {MAX_TREES}")
    divisor = _number(content, "average_path_length", minimum=0.0)
    threshold = _member(content, "threshold", dict)
    _number(threshold, "value", minimum=0.0, maximum=1.0)
    if threshold.get("origin") not in ORIGINS:
        raise DocumentError(f"the threshold's origin {threshold.get('origin')!r} is not one of {', '.join(ORIGINS)}")
    nodes = 0
    roots = []
    for position, tree in enumerate(trees):
        if type(tree) is not dict:
            raise DocumentError(f"tree {position} of the model document is not an object")
        root, size = _read_tree(tree, position, len(kinds))
        nodes += size
        if nodes > MAX_NODES:
            raise DocumentError(f"model document has more than {MAX_NODES} nodes")
        roots.append(root)
    return Document(roots, nodes, kinds, encoders, divisor * len(roots))


def _parse(text: str) -> dict[str, Any]:
    def refuse_constant(name: str) -> None:
        raise DocumentError(f"model document contains {name}")

    try:
        content = parse_json(text, refuse_constant)
    except DocumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"model document is not JSON: {error}") from None
    if type(content) is not dict:
        raise DocumentError("model document is not a JSON object")
    if content.get("format") != FORMAT or type(content["format"]) is not int:
        raise DocumentError(f"model document has format {content.get('format')!r}, not {FORMAT}")
    return content


def _member(content: dict[str, Any], name: str, kind: type) -> Any:
    value = content.get(name)
    if type(value) is not kind:
        raise DocumentError(f'"{name}" of the model document is not a {kind.__name__}')
    return value


def _number(content: dict[str, Any], name: str, minimum: float, maximum: float = 1e300) -> float:
    value: Any = content.get(name)
    if type(value) not in (int, float) or not minimum <= value <= maximum:
        raise DocumentError(f'"{name}" of the model document is not a number from {minimum:g} to {maximum:g}')
    return float(value)


def _read_features(content: dict[str, Any]) -> list[str]:
    features = _member(content, "features", list)
    if not 1 <= len(features) <= MAX_FEATURES:
        raise DocumentError(f"model document has {len(features)} features, not 1 to {MAX_FEATURES}")
    kinds = []
    for position, feature in enumerate(features):
        if type(feature) is not dict or type(feature.get("name")) is not str or feature.get("kind") not in KINDS:
            raise DocumentError(f"feature {position} of the model document has no name or no known kind")
        kinds.append(feature["kind"])
    return kinds


def _read_values(features: list[int], values: list[Any], position: int) -> list[float]:
    kinds = set(map(type, values))
    if not kinds <= {int, float, type(None)}:
        raise DocumentError(f'"value" of tree {position} is not all numbers')
    lengths = [value for feature, value in zip(features, values) if feature < 0]
    if None in lengths or min(lengths, default=0) < 0:
        raise DocumentError(f"a leaf of tree {position} has no path length, or a negative one")
    try:
        finite = all(map(isfinite, [value for value in values if value is not None] if None in values else values))
    except OverflowError:
        finite = False
    if not finite:
        raise DocumentError(f'"value" of tree {position} is not all finite')
    return values if kinds == {float} else [INFINITY if value is None else float(value) for value in values]


def _read_tree(tree: dict[str, Any], position: int, feature_count: int) -> tuple[Node, int]:
    """Return the root of a tree as nested tuples, and its number of nodes."""
    features, values, missing = tree.get("feature"), tree.get("value"), tree.get("missing_left")
    if not (type(features) is type(values) is type(missing) is list):
        raise DocumentError(f'tree {position} lacks a list "feature", "value" or "missing_left"')
    if not len(features) == len(values) == len(missing) > 0:
        raise DocumentError(f"the lists of tree {position} are empty or differ in length")
    if set(map(type, features)) != {int} or min(features) < -1 or max(features) >= feature_count:
        raise DocumentError(f"tree {position} splits on a feature that is not one of {feature_count}")
    if set(map(type, missing)) != {int} or not set(missing) <= {0, 1}:
        raise DocumentError(f'"missing_left" of tree {position} is not all 0 or 1')
    values = _read_values(features, values, position)
    # Read backwards, a split finds its two subtrees, whole, on top of the stack: the left one last.
    stack: list[Node] = []
    pop, push = stack.pop, stack.append
    try:
        for feature, value, left_if_missing in zip(reversed(features), reversed(values), reversed(missing)):
            push(value if feature < 0 else (feature, value, pop(), pop(), left_if_missing))
    except IndexError:
        raise DocumentError(f"tree {position} has a split without two children") from None
    if len(stack) != 1:
        raise DocumentError(f"tree {position} is {len(stack)} trees")
    return stack[0], len(features)
