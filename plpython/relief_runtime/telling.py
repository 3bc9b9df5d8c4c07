"""Tell what is strange about a row, in figures and in words."""

from __future__ import annotations

from math import isfinite

from relief_runtime.judgement import FARTHEST
from relief_runtime.light import parse_json

SHOWN_CHARACTERS = 60

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from relief_runtime.judgement import Comparison, History, Rule


def tell(
    rule: Rule,
    contributions: Sequence[float],
    numbers: Sequence[float | None],
    categories: Sequence[str | None] | None,
    entity: str | None,
    levels: Sequence[float | None] | None,
) -> list[dict[str, Any]]:
    """Explain a row: one object a feature, the most telling first.

    Parameters
    ----------
    contributions
        The forest's baseline and each feature's contribution, in path lengths; negative = more anomalous.
    numbers, entity, levels
        As in `judgement.Rule.judge`.
    categories
        One text a feature that is a category, in their order.

    Returns
    -------
    list of dict
        ``feature``, ``value``, ``expected``, ``z``, ``robust``, ``level``, ``contribution``, ``share`` (of what makes
        the row anomalous to the forest, in [0, 1]), ``baseline``, and ``sentence``.
    """
    histories = rule.histories(levels)
    anomalous = -sum(min(0.0, contribution) for contribution in contributions[1:])
    texts = iter(categories or ())
    told: list[dict[str, Any]] = []
    for feature, contribution, value, history, comparison in zip(
        rule.features, contributions[1:], numbers, histories, rule.compare(numbers, histories)
    ):
        z, robust = (None, None) if comparison is None else (round(comparison[0], 3), round(comparison[1], 3))
        share = round(max(0.0, -contribution) / anomalous, 4) if anomalous else 0.0
        departure = (
            _category(feature.name, next(texts, None))
            if feature.is_category
            else _departure(rule, feature.name, value, history, comparison, entity)
        )
        told.append(
            {
                "feature": feature.name,
                "value": value if value is not None and isfinite(value) else None,
                "expected": None if history is None or comparison is None else parse_json(history.shown, float),
                "z": z,
                "robust": robust,
                "level": None if history is None or comparison is None else history.level,
                "contribution": contribution,
                "share": share,
                "baseline": contributions[0],
                "sentence": f"{departure}; contributes {round(100 * share)} % of the anomaly score",
            }
        )
    # Most telling: what is far from its history, and what the forest isolates the row by.
    far = max([abs(part["robust"] or 0.0) for part in told], default=0.0) or 1.0
    return sorted(told, key=lambda part: abs(part["robust"] or 0.0) / far + part["share"], reverse=True)


def _category(name: str, text: str | None) -> str:
    """Return in words what a category is."""
    if text is None:
        return f"{name} is missing"
    return f"{name} {text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + '...'}"


def _departure(
    rule: Rule,
    name: str,
    value: float | None,
    history: History | None,
    comparison: Comparison | None,
    entity: str | None,
) -> str:
    """Return in words how far a feature lies from its history."""
    if value is None or value != value:
        return f"{name} is missing"
    if history is None or comparison is None:
        return f"{name} {value:.6g}"
    z = round(comparison[0], 3)
    where = {
        "global": "all rows",
        "season": f"this {rule.season}",
        "entity": _entity_name(rule, entity),
        "entity and season": f"{_entity_name(rule, entity)} in this {rule.season}",
    }[history.level]
    size = "over a million" if abs(z) >= FARTHEST else f"{abs(z):.3g}"
    how = f"{size} deviations {'above' if z > 0 else 'below'}" if z else "at"
    return f"{name} {value:.6g} is {how} the mean {history.expected:.4g} of {where} (n={history.rows:,.0f})"


def _entity_name(rule: Rule, entity: str | None) -> str:
    """Return an entity in words: its columns, each with its value."""
    return ", ".join(f"{column} {value}" for column, value in zip(rule.entity, parse_json(entity or "[]", float)))
