"""What one database session keeps in memory: the few models and rules that it used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from relief_runtime import document, judgement
from relief_runtime.explain import Explainer
from relief_runtime.forest import Forest

Kept = TypeVar("Kept")


class Cache(Generic[Kept]):
    """The values used last, by their keys; what was used longest ago is forgotten."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[str, Kept] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Kept:
        """Return a value that is kept."""
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: str, value: Kept) -> Kept:
        """Keep a value."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._size:
            self._values.popitem(last=False)
        return value


MODELS_KEPT = 16

_forests: Cache[Forest] = Cache(MODELS_KEPT)
_explainers: Cache[Explainer] = Cache(4)
_rules: Cache[judgement.Rule] = Cache(64)


def have(key: str) -> bool:
    """Return whether this session holds the model whose document has this checksum."""
    return key in _forests


def load(key: str, text: str) -> None:
    """Validate a model document and keep its forest under its checksum.

    Raises
    ------
    relief_runtime.document.DocumentError
        If the text isn't a valid document with this checksum; nothing is kept then.
    """
    _forests.put(key, Forest(document.read(text, key)))


def score(key: str, numbers: Sequence[float | None], categories: Sequence[str | None] | None) -> float | None:
    """Score one row with a model that this session holds; see `Forest.score`."""
    return _forests.get(key).score(numbers, categories)


def have_explainer(key: str) -> bool:
    """Return whether this session can explain scores of the model whose document has this checksum."""
    return key in _explainers


def load_explainer(key: str, text: str) -> None:
    """Validate a model document and keep what explains its scores; raises as `load` does."""
    _explainers.put(key, Explainer(key, text))


def explain(key: str, numbers: Sequence[float | None]) -> list[float]:
    """Explain the score of one row; see `Explainer.contributions`."""
    return _explainers.get(key).contributions(numbers)


def judge(rule: str, *row: Any) -> dict[str, Any]:
    """Judge one row by a rule given as JSON; see `judgement.judge`."""
    return judgement.judge(_rule(rule), *row)


def tell(rule: str, *row: Any) -> list[dict[str, Any]]:
    """Explain one row by a rule given as JSON; see `judgement.tell`."""
    return judgement.tell(_rule(rule), *row)


def _rule(text: str) -> judgement.Rule:
    return _rules.get(text) if text in _rules else _rules.put(text, judgement.Rule(text))
