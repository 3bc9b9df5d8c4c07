"""Prove a stored model again, where it is going to score: the forest is its document's, and scores as scikit-learn's.

The trainer compares thousands of rows with scikit-learn before it stores a model. The server has no scikit-learn: the
document brings some rows along with scikit-learn's scores, the probes, whose values lie on and beside its thresholds.
"""

from __future__ import annotations

from relief_runtime import explain
from relief_runtime.document import read
from relief_runtime.forest import Forest
from relief_runtime.packed import pack, unpack

# Scores of one leaf are equal but for the last bit of 2 ** x; another leaf in one of 2,000 trees moves a score by more.
TOLERANCE = 1e-12


def problem(checksum: str, text: str, packed_checksum: str, packed: bytes, explainer: bytes | None) -> str | None:
    """Return what is wrong with a stored model, None if nothing is.

    Parameters
    ----------
    checksum, text
        The model document.
    packed_checksum, packed
        Its forest as it is stored.
    explainer
        What explains its scores as it is stored; None where it is made of the document when it is needed.

    Raises
    ------
    ValueError
        If either isn't what its checksum says, or can't be read.
    """
    document = read(text, checksum)
    forest = Forest(unpack(packed, packed_checksum))
    if pack(document) != packed:
        return "its packed forest is not that of its document"
    if explainer is not None and explain.pack(document, checksum) != explainer:
        return "its packed explainer is not that of its document"
    if document.probes is None:
        return "its document tells of no comparison with scikit-learn"
    for probe in document.probes:
        score, expected = forest.score(probe["numbers"], probe["categories"]), probe["score"]
        if (score is None) != (expected is None) or abs((score or 0.0) - (expected or 0.0)) > TOLERANCE:
            return f"it gives a row the score {score!r} that had {expected!r} by scikit-learn"
    return None
