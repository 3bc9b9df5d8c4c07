"""Judge one row: how far each feature lies from its history, whether the row is an anomaly, and how severe.

A feature is compared on its own scale: ``linear``, or ``log`` for positive, skewed ones, where a value x stands at
``asinh(x / unit)``: near zero linear, far from it logarithmic, defined for every number. The history of a feature at
one level (global, season, entity, entity and season) is six figures, on that scale, counted from the feature's origin.
"""

from __future__ import annotations

from bisect import bisect_left
from math import asinh, copysign, exp, isfinite, log, sinh

from relief_runtime.document import PROBABILITIES
from relief_runtime.light import parse_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

LEVELS = ("global", "season", "entity", "entity and season")
# The spread is 1.4826 MAD; its floor is that of the standard deviation too.
FIGURE_NAMES = ("count", "mean", "stddev", "median", "spread", "spread_floor")
FIGURES = len(FIGURE_NAMES)
# Stands for anything farther, for infinities, and for any departure from a history that is constant everywhere.
FARTHEST = 1e6
# Smaller values count as 0: PostgreSQL refuses to square what then vanishes.
NEAREST = 1e-140
VERDICTS = ("score", "deviation", "either", "both")


class Tolerance:
    """Departures of a feature that don't count, however many standard deviations they are."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.direction: str = content["direction"]
        self.min_absolute: float = content["min_absolute"]
        self.min_relative: float = content["min_relative"]

    def passes(self, value: float, expected: float) -> bool:
        """Return whether a departure is in the direction, and of the size, that the detector's owner cares for."""
        change = value - expected
        if (self.direction == "up" and change < 0) or (self.direction == "down" and change > 0):
            return False
        return abs(change) >= self.min_absolute and abs(change) >= self.min_relative * abs(expected)


class Feature:
    """How a feature is compared, and which departures of it count, for an entity by its key or else for all."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.name: str = content["name"]
        self.unit: float | None = content["unit"] if content["transform"] == "log" else None
        self.origin: float = content["origin"]
        self.tolerances = {entity: Tolerance(told) for entity, told in content["tolerances"].items()}

    def scaled(self, value: float) -> float:
        """Return a value's place on the feature's scale, from its origin."""
        if abs(value) < NEAREST:
            value = 0.0
        return (value if self.unit is None else asinh(value / self.unit)) - self.origin

    def unscaled(self, place: float) -> float:
        """Return the value at a place on the feature's scale."""
        place += self.origin
        if self.unit is None:
            return place
        if abs(place) < 300:
            return self.unit * sinh(place)
        # Far out sinh is half of exp; what no double can hold ends at the largest power that one can.
        return copysign(exp(min(abs(place) + log(self.unit) - log(2), 709.0)), place)

    def counts(self, value: float, expected: float, entity: str) -> bool:
        """Return whether a departure counts for an entity."""
        tolerance = self.tolerances.get(entity) or self.tolerances.get("")
        return tolerance is None or tolerance.passes(value, expected)


class Rule:
    """What a detector makes of score and deviations; made from the JSON that promote writes into its functions."""

    def __init__(self, text: str) -> None:
        content = parse_json(text, float)
        self.features = [Feature(feature) for feature in content["features"]]
        self.verdict: str = content["verdict"]
        self.deviation_threshold: float = content["deviation_threshold"]
        self.min_history: int = content["min_history"]
        self.entity: list[str] = content["entity"]
        self.season: str | None = content["season"]
        self.ordinary_scores: list[float] | None = content["ordinary_scores"]
        self.ordinary_deviations: list[float] | None = content["ordinary_deviations"]


def judge(
    rule: Rule,
    score: float | None,
    threshold: float,
    numbers: Sequence[float | None],
    entity: str | None,
    levels: Sequence[float | None] | None,
) -> dict[str, Any]:
    """Judge a row.

    Parameters
    ----------
    score, threshold
        The forest's, in (0, 1], higher = more anomalous; ``None`` if every feature is missing.
    numbers
        The row's features; ``None`` and NaN are missing.
    entity
        The key of the row's entity, empty without one.
    levels
        The histories to choose from, finest first: each the level's number in `LEVELS`, then the counts of all
        features, their means, and so on through `FIGURES` figures; ``None`` is unknown.

    Returns
    -------
    dict
        ``is_anomaly`` (``None``: can't be told), ``verdict`` (which of ``score``, ``deviation`` and ``both`` is high),
        ``severity`` in [0, 1], and ``deviation``: a feature's name ->
        ``None`` where its value is missing or no level has history, else ``z`` (standard deviations from the mean,
        signed), ``robust`` (the same from the median by the MAD), ``expected`` (the mean, in the feature's unit),
        ``level``. Where no level has history for any feature, ``deviation`` is ``{"state": "warming up"}``.
    """
    deviations: dict[str, Any] = {}
    fires, far, known = False, None, False
    for position, feature in enumerate(rule.features):
        history = _history(rule, levels, position, len(rule.features))
        value = numbers[position]
        known = known or history is not None
        if history is None or value is None or value != value:
            deviations[feature.name] = None
            continue
        level, mean, stddev, median, spread, floor = history
        place = feature.scaled(value)
        z = deviation(place, mean, max(stddev, floor))
        robust = deviation(place, median, max(spread, floor))
        expected = feature.unscaled(mean)
        deviations[feature.name] = {"z": z, "robust": robust, "expected": _rounded(expected), "level": LEVELS[level]}
        if min(abs(z), abs(robust)) >= rule.deviation_threshold and feature.counts(value, expected, entity or ""):
            fires = True
        far = max(far or 0.0, min(abs(z), abs(robust)))
    high = None if score is None else score >= threshold
    return {
        "is_anomaly": _verdict(rule.verdict, high, fires if known else None),
        "verdict": "both" if high and fires else "score" if high else "deviation" if fires else None,
        "severity": _severity(rule, score, far),
        "deviation": deviations if known else {"state": "warming up"},
    }


def farthest(rule: Rule, numbers: Sequence[float | None], levels: Sequence[float | None] | None) -> float | None:
    """Return the largest deviation of a row's features on which mean and median agree; ``None`` where none is known."""
    told = judge(rule, None, 1.0, numbers, None, levels)["deviation"].values()
    return max([min(abs(part["z"]), abs(part["robust"])) for part in told if type(part) is dict], default=None)


def tell(
    rule: Rule,
    contributions: Sequence[float],
    score: float | None,
    threshold: float,
    numbers: Sequence[float | None],
    entity: str | None,
    levels: Sequence[float | None] | None,
) -> list[dict[str, Any]]:
    """Explain a row: one object a feature, the most telling first.

    Parameters
    ----------
    contributions
        The forest's baseline and each feature's contribution, in path lengths; negative = more anomalous.
    score, threshold, numbers, entity, levels
        As in `judge`.

    Returns
    -------
    list of dict
        ``feature``, ``value``, ``expected``, ``z``, ``robust``, ``level``, ``contribution``, ``share`` (of what makes
        the row anomalous to the forest, in [0, 1]), ``baseline``, and ``sentence``.
    """
    deviations = judge(rule, score, threshold, numbers, entity, levels)["deviation"]
    anomalous = -sum(min(0.0, contribution) for contribution in contributions[1:])
    told = []
    for position, feature in enumerate(rule.features):
        contribution = contributions[1 + position]
        value = numbers[position]
        told.append(
            {
                "feature": feature.name,
                "value": value if value is not None and isfinite(value) else None,
                **(deviations.get(feature.name) or {"z": None, "robust": None, "expected": None, "level": None}),
                "contribution": contribution,
                "share": round(max(0.0, -contribution) / anomalous, 4) if anomalous else 0.0,
                "baseline": contributions[0],
            }
        )
    # Most telling: what is far from its history, and what the forest isolates the row by.
    far = max([abs(part["robust"] or 0.0) for part in told], default=0.0) or 1.0
    told.sort(key=lambda part: abs(part["robust"] or 0.0) / far + part["share"], reverse=True)
    for part in told:
        part["sentence"] = _sentence(rule, part, numbers, entity, levels)
    return told


def _sentence(
    rule: Rule,
    part: dict[str, Any],
    numbers: Sequence[float | None],
    entity: str | None,
    levels: Sequence[float | None] | None,
) -> str:
    """Return what is strange about one feature in words."""
    position = next(n for n, feature in enumerate(rule.features) if feature.name == part["feature"])
    value = numbers[position]
    shown = "missing" if value is None or value != value else f"{value:.6g}"
    ending = f"contributes {part['share']:.0%} of the anomaly score".replace("%", " %")
    history = _history(rule, levels, position, len(rule.features))
    if history is None or part["z"] is None:
        return (
            f"{part['feature']} is {shown}; {ending}" if shown == "missing" else f"{part['feature']} {shown}; {ending}"
        )
    level, rows = LEVELS[history[0]], _count(rule, levels, position, history[0])
    where = {
        "global": "all rows",
        "season": f"this {rule.season}",
        "entity": _entity_name(rule, entity),
        "entity and season": f"{_entity_name(rule, entity)} in this {rule.season}",
    }[level]
    side = "above" if part["z"] >= 0 else "below"
    size = "over a million" if abs(part["z"]) >= FARTHEST else f"{abs(part['z']):.3g}"
    how = f"{size} deviations {side}" if part["z"] else "at"
    return f"{part['feature']} {shown} is {how} the mean {part['expected']:.4g} of {where} (n={rows:,}); {ending}"


def _entity_name(rule: Rule, entity: str | None) -> str:
    """Return an entity in words: its columns, each with its value."""
    return ", ".join(f"{column} {value}" for column, value in zip(rule.entity, parse_json(entity or "[]", float)))


def _count(rule: Rule, levels: Sequence[float | None] | None, position: int, level: int) -> int:
    width = 1 + FIGURES * len(rule.features)
    for start in range(0, len(levels or ()), width):
        assert levels is not None
        if levels[start] == level:
            return int(levels[start + 1 + position] or 0)
    return 0


def deviation(place: float, center: float, spread: float) -> float:
    """Return how many spreads a place lies from a center, signed, to three decimals, never beyond `FARTHEST`."""
    difference = place - center
    if difference == 0:
        return 0.0
    if spread > 0 and abs(difference) < FARTHEST * spread:
        return round(difference / spread, 3)
    return FARTHEST if difference > 0 else -FARTHEST


def tail(ordinary: Sequence[float], value: float) -> float:
    """Return the share of ordinary values that lie below a value, from their quantiles at `PROBABILITIES`."""
    above = bisect_left(ordinary, value)
    if above == 0:
        return 0.0
    if above == len(ordinary):
        return 1.0
    low, high = ordinary[above - 1], ordinary[above]
    share = (value - low) / (high - low)
    return PROBABILITIES[above - 1] + share * (PROBABILITIES[above] - PROBABILITIES[above - 1])


def _history(
    rule: Rule, levels: Sequence[float | None] | None, position: int, count: int
) -> tuple[int, float, float, float, float, float] | None:
    """Return the finest level with enough history of a feature, and its figures behind the count."""
    width = 1 + FIGURES * count
    for start in range(0, len(levels or ()), width):
        assert levels is not None
        at = start + 1 + position
        rows, mean, stddev, median, spread, floor = levels[at : start + width : count]
        if rows is not None and rows >= rule.min_history and mean is not None and median is not None:
            return int(levels[start] or 0), mean, stddev or 0.0, median, spread or 0.0, floor or 0.0
    return None


def _verdict(rule: str, high: bool | None, fires: bool | None) -> bool | None:
    if rule == "score":
        return high
    if rule == "deviation":
        return fires
    if rule == "either":
        # Without history, the forest decides alone; the state in the deviation says so.
        return True if high or fires else high
    # As SQL's AND: one half that is known not to be high decides.
    return False if high is False or fires is False else (high and fires) or None


def _severity(rule: Rule, score: float | None, far: float | None) -> float | None:
    tails = []
    if score is not None and rule.ordinary_scores:
        tails.append(tail(rule.ordinary_scores, score))
    if far is not None and rule.ordinary_deviations:
        tails.append(tail(rule.ordinary_deviations, far))
    return round(max(tails), 6) if tails else None


def _rounded(value: float) -> float | None:
    """Return a value to six significant digits: more would pretend."""
    return float(f"{value:.6g}") if isfinite(value) else None
