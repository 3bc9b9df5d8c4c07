"""Read a model document: JSON text in, validated trees out.

A document (format 1) is one JSON object:

``format``                1
``features``              ``[{"name": str, "expression": str, "kind": "number" | "category"}, ...]``
``encoders``              ``{feature name: encoder}`` for the features of kind ``category``
``samples``               rows that each tree was grown on
``average_path_length``   c(samples), the divisor of a mean path length (Liu, Ting, Zhou 2008, section 2, equation 1)
``trees``                 a list of trees
``threshold``             ``{"value": float, "origin": "contamination" | "fixed", ...}``
``ordinary``              ``{"scores": [...], "deviations": [...]}`` or null for either, or left out: what ordinary rows
                          have at `PROBABILITIES`, ascending
``parity``                ``{"rows": int, "probes": [probe, ...]}`` or null, or left out: how many rows were compared
                          with scikit-learn, and some to be compared again, see `relief_runtime.proof`
``profile``, ``provenance``  what the trainer saw; not read here

A tree lists its nodes in preorder, a node's left child right behind it, in four lists of one length:

``feature``       position of the feature that a node splits on; -1 marks a leaf
``value``         of a split, the threshold: a row goes left if its value <= threshold, and null sends every value left
                  that isn't missing; of a leaf, the path length that it adds
``missing_left``  1 where a missing value goes left, else 0
``rows``          how many training rows reached the node, at least 1

An encoder, see `relief_runtime.encoder`, gives each category a number:

``values``   ``{category: number}``
``missing``  the number of NULL
``other``    the number of every category that isn't listed

A probe is a row with the score that scikit-learn gives it:

``numbers``     one number a feature, null where it is missing or a category
``categories``  one text a category, or null
``score``       the score, null if every feature is missing

Preorder fixes every right child, so a document can hold neither a cycle nor a shared subtree.
"""

from __future__ import annotations

from math import isfinite

from relief_runtime.encoder import MAX_CATEGORIES, MAX_LENGTH, Encoder
from relief_runtime.light import parse_json, sha256
from relief_runtime.ordinary import PROBABILITIES
from relief_runtime.trees import INFINITY, Trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FORMAT = 1
# How large a model may be: it is refused when it is trained or stored, never when it is used.
LIMITS = {"characters": 64 * 1024 * 1024, "features": 1_600, "trees": 2_000, "nodes": 2_000_000}
MAX_ROWS = 2**40
MAX_RARITY = 1_000
MAX_PROBES = 100
MAX_NUMBER = 1.7976931348623157e308
KINDS = ("number", "category")
ORIGINS = ("contamination", "fixed")


class DocumentError(ValueError):
    """The text is not a model document that this version of Relief can score with."""


class LimitError(DocumentError):
    """The model has more of something than `LIMITS` says; ``hint`` tells what to do."""

    def __init__(self, what: str, count: int) -> None:
        super().__init__(f"model document has {count} {what}, more than {LIMITS[what]}")
        self.hint = (
            "Choose the features that tell most, or make several detectors."
            if what == "features"
            else "Train with fewer trees, or smaller ones: relief train <detector> --trees 100 --samples 256"
        )


class Document:
    """What a model document tells of its forest: trees, each node's training rows, the features' kinds and encoders.

    ``probes`` are rows with scikit-learn's scores, None where the document tells of no comparison.
    """

    def __init__(
        self,
        trees: Trees,
        rows: list[int],
        kinds: list[str],
        encoders: list[Encoder],
        path_length_divisor: float,
        probes: list[dict[str, Any]] | None = None,
    ) -> None:
        self.trees = trees
        self.rows = rows
        self.kinds = kinds
        self.encoders = encoders
        self.path_length_divisor = path_length_divisor
        self.probes = probes


def checksum(text: str) -> str:
    """Return the SHA-256 of a document's text, as 64 hexadecimal digits."""
    return sha256(text.encode("utf-8", "surrogatepass"))


def refuse_more(what: str, count: int) -> None:
    """Raise a `LimitError` if a model has more characters, features, trees or nodes than it may."""
    if count > LIMITS[what]:
        raise LimitError(what, count)


def read(text: str, expected_checksum: str) -> Document:
    """Validate a model document wholly and return what scoring needs of it.

    Raises
    ------
    DocumentError
        If the text doesn't have the expected checksum, or isn't a document of a known format with
        well-formed trees of finite numbers; a `LimitError` if it is one, but too large.
    """
    refuse_more("characters", len(text))
    if checksum(text) != expected_checksum:
        raise DocumentError(f"model document has checksum {checksum(text)}, not {expected_checksum}")
    content = _parse(text)
    names, kinds = _read_features(content)
    encoders = _read_encoders(_member(content, "encoders", dict), names, kinds)
    trees = _member(content, "trees", list)
    _refuse_none("trees", trees)
    refuse_more("trees", len(trees))
    divisor = _number(content, "average_path_length", minimum=0.0)
    threshold = _member(content, "threshold", dict)
    _number(threshold, "value", minimum=0.0, maximum=1.0)
    if threshold.get("origin") not in ORIGINS:
        raise DocumentError(f"the threshold's origin {threshold.get('origin')!r} is not one of {', '.join(ORIGINS)}")
    _check_ordinary(content.get("ordinary"))
    probes = _read_probes(content.get("parity"), kinds)
    roots: list[int] = []
    parts: tuple[list[Any], ...] = ([], [], [], [], [])
    for position, tree in enumerate(trees):
        if type(tree) is not dict:
            raise DocumentError(f"tree {position} of the model document is not an object")
        roots.append(len(parts[0]))
        for part, of_tree in zip(parts, _read_tree(tree, position, len(kinds))):
            part += of_tree
        refuse_more("nodes", len(parts[0]))
    *nodes, rows = parts
    return Document(Trees(roots, *nodes), rows, kinds, encoders, divisor * len(trees), probes)


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


def _refuse_none(what: str, found: list[Any]) -> None:
    if not found:
        raise DocumentError(f"model document has no {what}")


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


def _check_ordinary(ordinary: Any) -> None:
    if ordinary is None:
        return
    if type(ordinary) is not dict:
        raise DocumentError('"ordinary" of the model document is not a dict')
    for name in ("scores", "deviations"):
        quantiles = ordinary.get(name)
        if quantiles is None:
            continue
        if type(quantiles) is not list or len(quantiles) != len(PROBABILITIES):
            raise DocumentError(f'"{name}" of ordinary rows is not a list of {len(PROBABILITIES)} quantiles')
        if not set(map(type, quantiles)) <= {int, float} or not all(-1e300 <= value <= 1e300 for value in quantiles):
            raise DocumentError(f'"{name}" of ordinary rows is not all numbers')
        if sorted(quantiles) != quantiles:
            raise DocumentError(f'"{name}" of ordinary rows does not ascend')


def _read_probes(parity: Any, kinds: list[str]) -> list[dict[str, Any]] | None:
    if parity is None:
        return None
    if type(parity) is not dict or type(parity.get("rows")) is not int or type(parity.get("probes")) is not list:
        raise DocumentError('"parity" of the model document is not an object with rows and probes')
    probes: list[dict[str, Any]] = parity["probes"]
    if not 1 <= len(probes) <= MAX_PROBES:
        raise DocumentError(f"model document has {len(probes)} probes, not 1 to {MAX_PROBES}")
    for position, probe in enumerate(probes):
        if type(probe) is not dict or not (
            _all_of(probe.get("numbers"), len(kinds), lambda number: _is_number(number, -MAX_NUMBER, MAX_NUMBER))
            and _all_of(probe.get("categories"), kinds.count("category"), lambda text: type(text) is str)
            and _all_of([probe.get("score")], 1, lambda score: _is_number(score, 0, 1))
        ):
            raise DocumentError(f"probe {position} of the model document is not numbers, categories and a score")
    return probes


def _all_of(values: Any, count: int, holds: Callable[[Any], bool]) -> bool:
    """Return whether this is a list of so many values of which each is None or holds."""
    return type(values) is list and len(values) == count and all(value is None or holds(value) for value in values)


def _is_number(value: Any, minimum: float, maximum: float) -> bool:
    return type(value) in (int, float) and minimum <= value <= maximum


def _read_features(content: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names and the kinds of the features."""
    features = _member(content, "features", list)
    _refuse_none("features", features)
    refuse_more("features", len(features))
    for position, feature in enumerate(features):
        if type(feature) is not dict or type(feature.get("name")) is not str or feature.get("kind") not in KINDS:
            raise DocumentError(f"feature {position} of the model document has no name or no known kind")
    return [feature["name"] for feature in features], [feature["kind"] for feature in features]


def _read_encoders(encoders: dict[str, Any], names: list[str], kinds: list[str]) -> list[Encoder]:
    """Return the encoders of the features of kind ``category``, in their order."""
    positions = [position for position, kind in enumerate(kinds) if kind == "category"]
    if len(encoders) != len(positions) or set(encoders) != {names[position] for position in positions}:
        raise DocumentError('"encoders" of the model document are not one for each category')
    return [_read_encoder(position, encoders[names[position]]) for position in positions]


def _read_encoder(position: int, content: Any) -> Encoder:
    if type(content) is not dict or type(content.get("values")) is not dict:
        raise DocumentError(f"the encoder of feature {position} is not an object with values")
    values: dict[str, Any]
    missing: Any
    other: Any
    values, missing, other = content["values"], content.get("missing"), content.get("other")
    if len(values) > MAX_CATEGORIES or max(map(len, values), default=0) > MAX_LENGTH:
        raise DocumentError(
            f"the encoder of feature {position} lists more than {MAX_CATEGORIES} categories, "
            f"or one of more than {MAX_LENGTH} characters"
        )
    numbers = [*values.values(), missing, other]
    if not set(map(type, numbers)) <= {int, float} or not all(0 <= number <= MAX_RARITY for number in numbers):
        raise DocumentError(f"the encoder of feature {position} holds what is not a number from 0 to {MAX_RARITY}")
    return Encoder(position, values, missing, other)


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


def _read_tree(tree: dict[str, Any], position: int, feature_count: int) -> tuple[list[Any], ...]:
    """Return of each node of a tree the feature, the threshold, the step, where missing values go, and the rows."""
    lists: list[Any] = [tree.get(name) for name in ("feature", "value", "missing_left", "rows")]
    if any(type(part) is not list for part in lists):
        raise DocumentError(f'tree {position} lacks a list "feature", "value", "missing_left" or "rows"')
    features, values, missing, rows = lists
    if not len(features) == len(values) == len(missing) == len(rows) > 0:
        raise DocumentError(f"the lists of tree {position} are empty or differ in length")
    if set(map(type, features)) != {int} or min(features) < -1 or max(features) >= feature_count:
        raise DocumentError(f"tree {position} splits on a feature that is not one of {feature_count}")
    if set(map(type, missing)) != {int} or not set(missing) <= {0, 1}:
        raise DocumentError(f'"missing_left" of tree {position} is not all 0 or 1')
    if set(map(type, rows)) != {int} or min(rows) < 1 or max(rows) > MAX_ROWS:
        raise DocumentError(f'"rows" of tree {position} is not all from 1 to {MAX_ROWS}')
    return features, _read_values(features, values, position), _steps(features, position), missing, rows


def _steps(features: list[int], position: int) -> list[int]:
    """Return how many nodes behind each split of a tree in preorder its right child is; 1 for a leaf."""
    steps = [1] * len(features)
    # Read backwards, a split finds the roots of its two subtrees on top of the stack: the left one last.
    stack: list[int] = []
    try:
        for node in range(len(features) - 1, -1, -1):
            if features[node] >= 0:
                stack.pop()
                steps[node] = stack.pop() - node
            stack.append(node)
    except IndexError:
        raise DocumentError(f"tree {position} has a split without two children") from None
    if len(stack) != 1:
        raise DocumentError(f"tree {position} is {len(stack)} trees")
    return steps
