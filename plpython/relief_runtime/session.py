"""What one database session keeps in memory: the few models and rules that it used last."""

from __future__ import annotations

import gc

from relief_runtime import document
from relief_runtime.forest import Forest

# What explains and judges is imported when first needed: a session that only scores does without.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from relief_runtime.explain import Explainer
    from relief_runtime.judgement import Rule

MODELS_KEPT = 16
EXPLAINERS_KEPT = 4
RULES_KEPT = 64

# In the order of their last use: a dict keeps the order of insertion.
_forests: dict[str, Forest] = {}
_explainers: dict[str, Explainer] = {}
_rules: dict[str, Rule] = {}
_last_scored = ""


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
    _keep(_forests, MODELS_KEPT, key, _without_collecting(lambda: Forest(document.read(text, key))))


def score(key: str, numbers: Sequence[float | None], categories: Sequence[str | None] | None) -> float | None:
    """Score one row with a model that this session holds; see `Forest.score`."""
    global _last_scored
    forest = _forests[key]
    if key != _last_scored:
        _forests[key] = _forests.pop(key)
        _last_scored = key
    return forest.score(numbers, categories)


def have_explainer(key: str) -> bool:
    """Return whether this session can explain scores of the model whose document has this checksum."""
    return key in _explainers


def load_explainer(key: str, text: str) -> None:
    """Validate a model document and keep what explains its scores; raises as `load` does."""
    from relief_runtime.explain import Explainer

    _keep(_explainers, EXPLAINERS_KEPT, key, _without_collecting(lambda: Explainer(key, text)))


def explain(key: str, numbers: Sequence[float | None]) -> list[float]:
    """Explain the score of one row; see `Explainer.contributions`."""
    explainer = _explainers[key] = _explainers.pop(key)
    return explainer.contributions(numbers)


def judge(rule: str, *row: Any) -> dict[str, Any]:
    """Judge one row by a rule given as JSON; see `judgement.judge`."""
    from relief_runtime import judgement

    return judgement.judge(_rule(rule), *row)


def tell(rule: str, *row: Any) -> list[dict[str, Any]]:
    """Explain one row by a rule given as JSON; see `judgement.tell`."""
    from relief_runtime import judgement

    return judgement.tell(_rule(rule), *row)


def _rule(text: str) -> Rule:
    if text not in _rules:
        from relief_runtime.judgement import Rule

        _keep(_rules, RULES_KEPT, text, Rule(text))
    return _rules[text]


def _keep(kept: dict[str, Any], count: int, key: str, value: object) -> None:
    """Keep a value as the one used last, and forget those used longest ago beyond a count."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > count:
        del kept[next(iter(kept))]


def _without_collecting(make: Callable[[], object]) -> object:
    """Return what a function makes; of its thousands of new tuples the garbage collector would find none to collect."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return make()
    finally:
        if collecting:
            gc.enable()
