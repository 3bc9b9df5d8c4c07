"""What one database session keeps in memory: the few models and rules that it used last."""

from __future__ import annotations

from relief_runtime.forest import Forest
from relief_runtime.light import sha256
from relief_runtime.packed import unpack

# What explains and judges is imported when first needed: a session that only scores does without.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from relief_runtime.allowance import Allowance
    from relief_runtime.explain import Explainer
    from relief_runtime.judgement import Rule

MODELS_KEPT = 16
EXPLAINERS_KEPT = 4
RULES_KEPT = 64
ALLOWANCES_KEPT = 256

# In the order of their last use: a dict keeps the order of insertion.
_forests: dict[str, Forest] = {}
_explainers: dict[str, Explainer] = {}
_rules: dict[str, Rule] = {}
_allowances: dict[str, Allowance] = {}
_last_scored = ""


def have(key: str) -> bool:
    """Return whether this session holds the forest whose packed form has this checksum."""
    return key in _forests


def load(key: str, packed: bytes) -> None:
    """Keep a packed forest under its checksum, forgetting the one used longest ago.

    Raises
    ------
    relief_runtime.packed.PackedError
        If the bytes aren't a packed forest with this checksum; nothing is kept then.
    """
    _keep(_forests, MODELS_KEPT, key, Forest(unpack(packed, key)))


def pack(checksum: str, text: str) -> bytes:
    """Validate a model document wholly and return its forest, packed.

    Raises
    ------
    relief_runtime.document.DocumentError
        If the text isn't a valid document with this checksum.
    """
    from relief_runtime import document, packed

    return packed.pack(document.read(text, checksum))


def pack_explainer(checksum: str, text: str) -> bytes:
    """Validate a model document wholly and return what explains its scores, packed; raises as `pack` does."""
    from relief_runtime import document, explain

    return explain.pack(document.read(text, checksum), checksum)


def problem(checksum: str, text: str, packed_checksum: str, packed: bytes, explainer: bytes | None) -> str | None:
    """Return what is wrong with a stored model, None if nothing is; see `proof.problem`."""
    from relief_runtime import proof

    try:
        return proof.problem(checksum, text, packed_checksum, packed, explainer)
    except ValueError as error:
        return str(error)


def damage(checksum: str, packed_checksum: str, packed: bytes, explainer: bytes | None) -> str | None:
    """Return why a stored forest, or what explains it where that is stored, can't be loaded, None if it can."""
    from relief_runtime.explain import Explainer

    try:
        unpack(packed, packed_checksum)
        if explainer is not None:
            Explainer(checksum, explainer)
    except ValueError as error:
        return str(error)
    return None


def have_rule(key: str, rule_key: str) -> bool:
    """Return whether this session holds a forest and the rule whose text has this checksum."""
    return key in _forests and rule_key in _rules


def have_telling(rule_key: str) -> bool:
    """Return whether this session holds the rule whose text has this checksum."""
    return rule_key in _rules


def load_rule(rule_key: str, text: str) -> None:
    """Keep a rule under the checksum of its text, forgetting the one used longest ago.

    Raises
    ------
    ValueError
        If the text has another checksum, or is no rule.
    """
    from relief_runtime.judgement import Rule

    checksum = sha256(text.encode())
    if checksum != rule_key:
        raise ValueError(f"rule has checksum {checksum}, not {rule_key}")
    _keep(_rules, RULES_KEPT, rule_key, Rule(text))


def score(key: str, numbers: Sequence[float | None], categories: Sequence[str | None] | None) -> float | None:
    """Score one row with a forest that this session holds; see `Forest.score`."""
    global _last_scored
    forest = _forests[key]
    if key != _last_scored:
        _forests[key] = _forests.pop(key)
        _last_scored = key
    return forest.score(numbers, categories)


def have_explainer(key: str) -> bool:
    """Return whether this session can explain scores of the model whose document has this checksum."""
    return key in _explainers


def load_explainer(key: str, packed: bytes) -> None:
    """Keep what explains the scores of the model whose document has this checksum; raises as `load` does."""
    from relief_runtime.explain import Explainer

    _keep(_explainers, EXPLAINERS_KEPT, key, Explainer(key, packed))


def explain(key: str, numbers: Sequence[float | None], categories: Sequence[str | None] | None) -> list[float]:
    """Explain the score of one row; see `Explainer.contributions`."""
    explainer = _explainers[key] = _explainers.pop(key)
    return explainer.contributions(numbers, categories)


def judge(
    key: str, rule_key: str, numbers: Sequence[float | None], categories: Sequence[str | None] | None, *row: Any
) -> str:
    """Score and judge one row with a forest and a rule that this session holds; see `judgement.judge`."""
    rule = _rules[rule_key]
    return rule.judge(score(key, numbers, categories), numbers, *row)


def tell(rule_key: str, *row: Any) -> str:
    """Explain one row, as JSON, with a rule that this session holds; see `telling.tell`."""
    import json

    from relief_runtime.telling import tell

    return json.dumps(tell(_rules[rule_key], *row), ensure_ascii=False, allow_nan=False)


def spend(key: str, transaction: str, moment: float, per_second: int) -> int:
    """Take one event off what this session may leave of a kind; see `Allowance.spend`."""
    allowance = _allowances.get(key)
    if allowance is None:
        from relief_runtime.allowance import Allowance

        allowance = Allowance(per_second, moment)
        _keep(_allowances, ALLOWANCES_KEPT, key, allowance)
    return allowance.spend(transaction, moment, per_second)


def note_summary(key: str, summary: int) -> None:
    """Note which event stands for what is over the allowance of a kind, unless that is settled already."""
    if _allowances[key].over:
        _allowances[key].summary = summary


def settle_summary(key: str) -> int | None:
    """Return how many rows are over the allowance of a kind and begin to count anew; ``None`` if there are none."""
    allowance = _allowances.get(key)
    if allowance is None or not allowance.over:
        return None
    over = allowance.over
    allowance.forget_summary()
    return over


def _keep(kept: dict[str, Any], count: int, key: str, value: object) -> None:
    """Keep a value as the one used last, and forget those used longest ago beyond a count."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > count:
        del kept[next(iter(kept))]
