"""Judge one row: how far each feature lies from its history, whether the row is an anomaly, and how severe.

A feature is compared on its own scale: ``linear``, or ``log`` for positive, skewed ones, where a value x stands at
``asinh(x / unit)``: near zero linear, far from it logarithmic, defined for every number. The history of a feature at
one level (global, season, entity, entity and season) is six figures, on that scale, counted from the feature's origin.
"""

from __future__ import annotations

from math import asinh, copysign, exp, isfinite, log, sinh

from relief_runtime.light import parse_json, quote
from relief_runtime.ordinary import tail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    # How many standard deviations a feature lies from the mean, the same from the median, signed.
    Comparison = tuple[float, float]

LEVELS = ("global", "season", "entity", "entity and season")
# The spread is 1.4826 MAD; its floor is that of the standard deviation too.
FIGURE_NAMES = ("count", "mean", "stddev", "median", "spread", "spread_floor")
FIGURES = len(FIGURE_NAMES)
# Stands for anything farther, for infinities, and for any departure from a history that is constant everywhere.
FARTHEST = 1e6
# Smaller values count as 0: PostgreSQL refuses to square what then vanishes.
NEAREST = 1e-140
VERDICTS = ("score", "deviation", "either", "both")
# Of a deviation, in what is told and in what is decided by it.
DECIMALS = 3
_WARMING_UP = '"state": "warming up"'


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
        self.is_category = content.get("kind") == "category"
        self.opening = f"{quote(self.name)}: "
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


class History:
    """What a feature is compared with: figures of one level, on the feature's scale."""

    __slots__ = ("ending", "expected", "level", "mean", "median", "rows", "shown", "spread", "stddev")

    def __init__(
        self,
        feature: Feature,
        level: str,
        rows: float,
        mean: float,
        stddev: float | None,
        median: float,
        spread: float | None,
        floor: float | None,
    ) -> None:
        # What is unknown or NaN spreads no wider than anything.
        least = floor if floor is not None and floor > 0 else 0.0
        self.level = level
        self.rows = rows
        self.mean = mean
        self.median = median
        self.stddev = stddev if stddev is not None and stddev > least else least
        self.spread = spread if spread is not None and spread > least else least
        self.expected = feature.unscaled(mean)
        # To six significant digits: more would pretend.
        self.shown = f"{self.expected:.6g}" if isfinite(self.expected) else "null"
        self.ending = f', "expected": {self.shown}, "level": "{level}"}}'


class Rule:
    """What a detector makes of score and deviations; made from the JSON that is written into its functions.

    Raises
    ------
    LookupError, TypeError, ValueError
        If the text is no rule.
    """

    def __init__(self, text: str) -> None:
        content = parse_json(text, float)
        self.features = [Feature(feature) for feature in content["features"]]
        # These have no history to wait for.
        self._categories_alone = all(feature.is_category for feature in self.features)
        self.threshold: float = content["threshold"]
        self.version: int | None = content["version"]
        self.verdict: str = content["verdict"]
        self.deviation_threshold: float = content["deviation_threshold"]
        self.nearly_far = self.deviation_threshold - 10.0**-DECIMALS
        self.min_history: int = content["min_history"]
        self.entity: list[str] = content["entity"]
        self.season: str | None = content["season"]
        self.ordinary_scores: list[float] | None = content["ordinary_scores"]
        self.ordinary_deviations: list[float] | None = content["ordinary_deviations"]
        # The history of all rows together, as a level; it comes with the rule, so that most rows need no other.
        # What JSON has no number for comes as a text, such as "Infinity".
        history: list[float | str | None] = content["history"] or []
        self._everywhere = [None if figure is None else float(figure) for figure in history]
        self._histories_everywhere = self._choose(self._everywhere)

    def histories(self, levels: Sequence[float | None] | None) -> list[History | None]:
        """Return of each feature the history to compare with; ``None`` where no level has enough."""
        return self._choose(levels, self._everywhere) if levels else self._histories_everywhere

    def _choose(self, *groups: Sequence[float | None]) -> list[History | None]:
        features, min_history = self.features, self.min_history
        count = len(features)
        width = 1 + FIGURES * count
        chosen: list[History | None] = [None] * count
        for levels in groups:
            for start in range(0, len(levels), width):
                level = LEVELS[int(levels[start] or 0)]
                end = start + width
                for position in range(count):
                    rows, mean, stddev, median, spread, floor = levels[start + 1 + position : end : count]
                    # Not even NaN rows are enough.
                    if rows is None or not rows >= min_history or chosen[position] is not None:
                        continue
                    # From what isn't finite nothing lies any number of deviations away.
                    if mean is not None and median is not None and isfinite(mean) and isfinite(median):
                        chosen[position] = History(features[position], level, rows, mean, stddev, median, spread, floor)
                if None not in chosen:
                    return chosen
        return chosen

    def compare(self, numbers: Sequence[float | None], histories: Sequence[History | None]) -> list[Comparison | None]:
        """Compare each feature of a row with its history; ``None`` where its value is missing, or there is none."""
        compared: list[Comparison | None] = []
        for feature, value, history in zip(self.features, numbers, histories):
            if history is None or value is None or value != value:
                compared.append(None)
            else:
                place = feature.scaled(value)
                compared.append(
                    (deviation(place, history.mean, history.stddev), deviation(place, history.median, history.spread))
                )
        return compared

    def judge(
        self,
        score: float | None,
        numbers: Sequence[float | None],
        entity: str | None,
        levels: Sequence[float | None] | None,
        full: bool = False,
    ) -> str:
        """Judge a row.

        Parameters
        ----------
        score
            The forest's, in (0, 1], higher = more anomalous; ``None`` if every feature is missing.
        numbers
            The row's features; ``None`` and NaN are missing, and a category's place is ``None``.
        entity
            The key of the row's entity, empty without one.
        levels
            The histories to choose from before the global one, finest first: each the level's number in `LEVELS`,
            then the counts of all features, their means, and so on through `FIGURES` figures; ``None`` is unknown.
        full
            Whether to add what an ordinary row's companion columns don't hold.

        Returns
        -------
        str
            A JSON object of the companion columns: the score, ``relief_is_anomaly`` (``null``: can't be told), the
            version, and ``relief_deviation``: a feature's name -> ``null`` where its value is missing or no level has
            history, else ``z`` (standard deviations from the mean, signed, to three decimals), ``robust`` (the same
            from the median by the MAD), ``expected`` (the mean, in the feature's unit), ``level``. Where no level has
            history for any feature, it is ``{"state": "warming up"}``. In full also ``threshold``, ``verdict`` (which
            of ``score``, ``deviation`` and ``both`` is high), and ``severity`` in [0, 1].
        """
        histories = self.histories(levels)
        told, known, fires, far = [], self._categories_alone, False, None
        for feature, value, history, comparison in zip(
            self.features, numbers, histories, self.compare(numbers, histories)
        ):
            known = known or history is not None
            if comparison is None or history is None or value is None:
                told.append(feature.opening + "null")
                continue
            z, robust = comparison
            told.append(f'{feature.opening}{{"z": {z:.3f}, "robust": {robust:.3f}{history.ending}')
            agreed = agreement(comparison)
            if far is None or agreed > far:
                far = agreed
            if agreed > self.nearly_far and round(agreed, DECIMALS) >= self.deviation_threshold:
                fires = fires or feature.counts(value, history.expected, entity or "")
        high = None if score is None else score >= self.threshold
        is_anomaly = _verdict(self.verdict, high, fires if known else None)
        companions = (
            f'"relief_anomaly_score": {_json(score)}, "relief_is_anomaly": {_json(is_anomaly)}, '
            f'"relief_model_version": {_json(self.version)}, '
            f'"relief_deviation": {{{", ".join(told) if known else _WARMING_UP}}}'
        )
        if not full:
            return f"{{{companions}}}"
        calls = "both" if high and fires else "score" if high else "deviation" if fires else None
        severity = _severity(self, score, None if far is None else round(far, DECIMALS))
        return (
            f'{{{companions}, "threshold": {_json(self.threshold)}, "verdict": {_json(calls)}, '
            f'"severity": {_json(severity)}}}'
        )

    def farthest(self, numbers: Sequence[float | None], levels: Sequence[float | None] | None) -> float | None:
        """Return how far a row's farthest feature lies, by mean and median; ``None`` where none is known."""
        compared = self.compare(numbers, self.histories(levels))
        far = max([agreement(comparison) for comparison in compared if comparison is not None], default=None)
        return None if far is None else round(far, DECIMALS)


def agreement(comparison: Comparison) -> float:
    """Return how far mean and median agree that a feature lies from its history: the smaller deviation, unsigned."""
    z, robust = abs(comparison[0]), abs(comparison[1])
    return z if z < robust else robust


def deviation(place: float, center: float, spread: float) -> float:
    """Return how many spreads a place lies from a center, signed, never beyond `FARTHEST`."""
    difference = place - center
    if spread > 0:
        spreads = difference / spread
        # Unless both are infinite.
        if spreads == spreads:
            return FARTHEST if spreads > FARTHEST else -FARTHEST if spreads < -FARTHEST else spreads
    return FARTHEST if difference > 0 else -FARTHEST if difference < 0 else 0.0


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


def _json(value: float | bool | str | None) -> str:
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)
