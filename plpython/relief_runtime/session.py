"""What one database session keeps in memory: the few models that it used last."""

from __future__ import annotations

import gc

from relief_runtime import document
from relief_runtime.forest import Forest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MODELS_KEPT = 16

# In the order of their last use: a dict keeps the order of insertion.
_forests: dict[str, Forest] = {}
_last_used = ""


def have(key: str) -> bool:
    """Return whether this session holds the model whose document has this checksum."""
    return key in _forests


def load(key: str, text: str) -> None:
    """Validate a model document and keep its forest under its checksum, forgetting the model used longest ago.

    Raises
    ------
    relief_runtime.document.DocumentError
        If the text isn't a valid document with this checksum; nothing is kept then.
    """
    # Thousands of new tuples would have the garbage collector look through them again and again, and find nothing.
    collecting = gc.isenabled()
    gc.disable()
    try:
        forest = Forest(document.read(text, key))
    finally:
        if collecting:
            gc.enable()
    _forests.pop(key, None)
    _forests[key] = forest
    while len(_forests) > MODELS_KEPT:
        del _forests[next(iter(_forests))]


def score(key: str, numbers: Sequence[float | None], categories: Sequence[str | None] | None) -> float | None:
    """Score one row with a model that this session holds; see `Forest.score`."""
    global _last_used
    forest = _forests[key]
    if key != _last_used:
        _forests[key] = _forests.pop(key)
        _last_used = key
    return forest.score(numbers, categories)
