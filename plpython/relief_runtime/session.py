"""What one database session keeps in memory: the few models that it used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from relief_runtime import document
from relief_runtime.forest import Forest

MODELS_KEPT = 16

_forests: OrderedDict[str, Forest] = OrderedDict()


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
    _forests[key] = Forest(document.read(text, key))
    _forests.move_to_end(key)
    while len(_forests) > MODELS_KEPT:
        _forests.popitem(last=False)


def score(key: str, numbers: Sequence[float | None], categories: Sequence[str | None] | None) -> float | None:
    """Score one row with a model that this session holds; see `Forest.score`."""
    forest = _forests[key]
    _forests.move_to_end(key)
    return forest.score(numbers, categories)
