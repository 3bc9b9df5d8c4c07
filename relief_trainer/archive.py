"""Take models out of the database and bring them back: as JSON, or as a scikit-learn estimator for Python users."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from relief_runtime import document as runtime_document
from sklearn.ensemble import IsolationForest
from sklearn.tree import ExtraTreeRegressor
from sklearn.tree._tree import Tree

from relief_trainer import detector as detectors
from relief_trainer import document, parity
from relief_trainer.connection import Connection
from relief_trainer.errors import ReliefError
from relief_trainer.queries import query


@dataclass(frozen=True)
class Stored:
    """A model as it is stored: the detector's name, the version, the document's text and its SHA-256."""

    detector: str
    version: int
    document: str
    checksum: str


def fetch(connection: Connection, name: str, version: int | None = None) -> Stored:
    """Return a detector's model, the newest unless a version is given."""
    detector = detectors.fetch(connection, name)
    row = connection.execute(query("document", detector_id=detector.id, version=version)).fetchone()
    if row is None:
        versions = [str(model["version"]) for model in connection.execute(query("models", detector_id=detector.id))]
        raise ReliefError(
            f'detector "{name}" has no model' + (f" of version {version}" if version is not None else ""),
            f"The versions are: {', '.join(versions)}." if versions else f"Train one: relief train {shlex.quote(name)}",
        )
    return Stored(name, **row)


def to_json(stored: Stored) -> str:
    """Return a file's content that `from_json` reads: the document, with the detector's name and the checksum."""
    content = {"detector": stored.detector, "checksum": stored.checksum, "document": json.loads(stored.document)}
    return json.dumps(content, ensure_ascii=False, indent=None, sort_keys=True) + "\n"


def from_json(text: str, path: str | None = None) -> Stored:
    """Read what `to_json` wrote; the version is that of the next model, 0 until it is stored.

    Parameters
    ----------
    path
        Where the text came from, for a hint.

    Raises
    ------
    ReliefError
        If the text isn't such a file, or its document isn't the one with that checksum or can't be scored with.
    """
    try:
        content = json.loads(text)
        name, checksum, body = content["detector"], content["checksum"], document.serialize(content["document"])
        runtime_document.read(body, checksum)
    except runtime_document.LimitError as error:
        raise ReliefError(str(error), error.hint) from None
    except runtime_document.DocumentError as error:
        raise ReliefError(str(error), f"Export it again: {_export(path, str(name))}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ReliefError("the file is not an exported model", f"Export one: {_export(path)}") from None
    return Stored(str(name), 0, body, str(checksum))


def read_file(path: str) -> Stored:
    """Read a file that holds what `to_json` wrote; raises as `from_json` does, and if the file can't be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ReliefError(f"cannot read {path}: {reason}", f"Export a model first: {_export(path)}") from None
    return from_json(text, path)


def _export(path: str | None, name: str | None = None) -> str:
    """Return the command that exports a model to a file, of which some is known."""
    return (
        f"relief export {shlex.quote(name) if name else '<detector>'} --json {shlex.quote(path) if path else '<file>'}"
    )


def write_file(path: str, stored: Stored) -> None:
    """Write a file that `read_file` reads."""
    try:
        Path(path).write_text(to_json(stored), encoding="utf-8")
    except OSError as error:
        raise ReliefError(f"cannot write {path}: {error.strerror}", "Name a folder that you may write to.") from None


def to_joblib(stored: Stored, path: str) -> None:
    """Write a model as scikit-learn's IsolationForest, to be read with joblib.load by the same scikit-learn version.

    Whoever loads such a file runs what is in it: the database never does, and keeps JSON.
    """
    joblib.dump(to_estimator(json.loads(stored.document)), path)


def to_estimator(content: dict[str, Any]) -> IsolationForest:
    """Return the IsolationForest of a model document: same leaves and scores; ``predict`` is -1 from the threshold on.

    It takes numbers. Those of categories are in its ``relief_encoders_``: see `relief_runtime.encoder`.

    Raises
    ------
    ReliefError
        If the installed scikit-learn builds other trees from it.
    """
    names = [feature["name"] for feature in content["features"]]
    forest = IsolationForest(n_estimators=len(content["trees"]), max_samples=content["samples"])
    # Fitted on nothing that matters: what follows replaces all that was learned.
    forest.fit(np.zeros((max(2, content["samples"]), len(names)), dtype=np.float32))
    forest.feature_names_in_ = np.array(names, dtype=object)
    forest.relief_encoders_ = content["encoders"]
    forest.max_samples_ = forest._max_samples = content["samples"]
    forest.offset_ = -np.nextafter(content["threshold"]["value"], 0.0)
    forest.estimators_features_ = [np.arange(len(names))] * len(content["trees"])
    forest.estimators_ = [_estimator(tree, len(names)) for tree in content["trees"]]
    lengths = [np.array([0.0 if v is None else v for v in tree["value"]]) for tree in content["trees"]]
    # scikit-learn adds depth + c(rows in the leaf) - 1; the document holds the sum.
    forest._decision_path_lengths = [length + 1.0 for length in lengths]
    forest._average_path_length_per_tree = [np.zeros_like(length) for length in lengths]
    rows = np.random.default_rng(0).normal(size=(200, len(names)))
    if parity.count_wrong_leaves(forest, content, parity.rows_beside_thresholds(content, rows, 200)):
        raise ReliefError("the installed scikit-learn cannot take the model's trees", "Export it as --json instead.")
    return forest


def _estimator(tree: dict[str, Any], feature_count: int) -> ExtraTreeRegressor:
    estimator = ExtraTreeRegressor(max_features=1, splitter="random")
    estimator.n_features_in_ = feature_count
    estimator.n_outputs_ = 1
    estimator.tree_ = Tree(feature_count, np.array([1], dtype=np.intp), 1)
    estimator.tree_.__setstate__(_tree_state(tree))
    return estimator


def _tree_state(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a tree as scikit-learn pickles it."""
    probe = ExtraTreeRegressor(max_depth=1).fit(np.array([[0.0], [1.0]]), [0.0, 1.0]).tree_.__getstate__()
    count = len(tree["feature"])
    nodes: npt.NDArray[Any] = np.zeros(count, dtype=probe["nodes"].dtype)
    nodes["left_child"], nodes["right_child"], depth = _children(tree["feature"])
    nodes["feature"] = np.where(np.array(tree["feature"]) < 0, -2, tree["feature"])
    nodes["threshold"] = [np.inf if value is None else value for value in tree["value"]]
    nodes["missing_go_to_left"] = tree["missing_left"]
    nodes["n_node_samples"] = nodes["weighted_n_node_samples"] = tree["rows"]
    return {**probe, "max_depth": depth, "node_count": count, "nodes": nodes, "values": np.zeros((count, 1, 1))}


def _children(features: list[int]) -> tuple[list[int], list[int], int]:
    """Return the left and right child of each node of a tree in preorder, -1 for leaves, and the tree's depth."""
    left, right = [-1] * len(features), [-1] * len(features)
    heights = [0] * len(features)
    stack: list[int] = []
    for node in range(len(features) - 1, -1, -1):
        if features[node] >= 0:
            left[node], right[node] = stack.pop(), stack.pop()
            heights[node] = 1 + max(heights[left[node]], heights[right[node]])
        stack.append(node)
    return left, right, heights[0]


def store(connection: Connection, name: str, document_text: str) -> int:
    """Store a model document as a detector's next version, without committing, and return the version."""
    checksum = runtime_document.checksum(document_text)
    row = connection.execute(query("add_model", detector=name, document=document_text, checksum=checksum)).fetchone()
    return int(row["add_model"]) if row else 0
