"""Judging one row by its history: bounds, scales, verdict rules, severity, sentences. No server."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from relief_runtime.judgement import FARTHEST, FIGURES, LEVELS, VERDICTS, Feature, Rule, deviation
from relief_runtime.ordinary import PROBABILITIES, tail
from relief_runtime.telling import tell

SCORES = [0.3 + 0.4 * p for p in PROBABILITIES]
DEVIATIONS = [8.0 * p for p in PROBABILITIES]
EXTREMES = [None, float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 5e-324, 0.0, -0.0, 1.0]

any_number = st.none() | st.sampled_from(EXTREMES) | st.floats()
finite = st.floats(allow_nan=False, allow_infinity=False)
place = st.floats(-1e150, 1e150)
size = st.none() | st.floats(0, 1e150) | st.sampled_from([float("inf"), float("nan"), 1e308])
figures = st.tuples(st.none() | st.integers(0, 10**12), place | any_number, size, place | any_number, size, size)


def feature(name: str = "x", transform: str = "linear", unit: float = 1.0, origin: float = 0.0, **tolerances: Any):
    told = {"direction": "both", "min_absolute": 0.0, "min_relative": 0.0}
    return {
        "name": name,
        "transform": transform,
        "unit": unit,
        "origin": origin,
        "tolerances": {entity: told | changes for entity, changes in tolerances.get("tolerances", {}).items()},
    }


def rule(*features: dict[str, Any], **changes: Any) -> Rule:
    content = {
        "threshold": 0.5,
        "version": 7,
        "verdict": "either",
        "history": None,
        "deviation_threshold": 6.0,
        "min_history": 30,
        "entity": ["carrier"],
        "season": "hour_of_day",
        "ordinary_scores": SCORES,
        "ordinary_deviations": DEVIATIONS,
        "features": list(features) or [feature()],
    }
    return Rule(json.dumps(content | changes))


def level(number: int, *histories: tuple[float | None, ...]) -> list[float | None]:
    """Return one level as the server sends it: its number, then each figure of all features."""
    return [float(number), *(history[figure] for figure in range(FIGURES) for history in histories)]


def judge(
    made: Rule, score: float | None, numbers: list[float | None], entity: str | None, levels: list[float | None] | None
) -> dict[str, Any]:
    """Return what a rule makes of a row, without the prefix of the companion columns."""

    def refuse_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    told = json.loads(made.judge(score, numbers, entity, levels, True), parse_constant=refuse_constant)
    companions = json.loads(made.judge(score, numbers, entity, levels))
    assert companions == {name: part for name, part in told.items() if name.startswith("relief_")}
    assert (told["relief_anomaly_score"], told["relief_model_version"], told["threshold"]) == (score, 7, made.threshold)
    return {name.removeprefix("relief_"): part for name, part in told.items()}


NORMAL = (342, 10.0, 2.0, 10.0, 2.0, 0.2)


@given(
    st.lists(st.tuples(any_number, figures), min_size=1, max_size=3),
    st.none() | st.floats(0, 1),
    st.sampled_from(VERDICTS),
    st.sampled_from(["linear", "log"]),
    st.floats(5e-324, 1e150),
    place,
)
def test_whatever_a_row_holds_the_answer_is_bounded_and_is_json(
    columns, score, verdict, transform, unit, origin
) -> None:
    made = rule(*(feature(f"f{n}", transform, unit, origin) for n in range(len(columns))), verdict=verdict)
    numbers = [value for value, _ in columns]
    levels = level(0, *(history for _, history in columns))
    judged = judge(made, score, numbers, None, levels)
    told = tell(made, [6.0, *(-0.5 for _ in columns)], numbers, None, None, levels)
    json.dumps([judged, told], allow_nan=False)
    assert judged["severity"] is None or 0 <= judged["severity"] <= 1
    assert judged["is_anomaly"] in (True, False, None)
    for part in judged["deviation"].values():
        assert part is None or type(part) is str or max(abs(part["z"]), abs(part["robust"])) <= FARTHEST
    assert [part["feature"] for part in sorted(told, key=lambda part: part["feature"])] == [
        f"f{n}" for n in range(len(columns))
    ]


@given(finite, finite, st.floats(0, 1e308))
def test_a_deviation_is_signed_and_bounded_and_zero_just_where_nothing_differs(here, center, spread) -> None:
    found = deviation(here, center, spread)
    assert -FARTHEST <= found <= FARTHEST
    assert found * (here - center) >= 0
    assert deviation(center, center, spread) == 0
    if here != center and spread == 0:
        assert abs(found) == FARTHEST


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e6), st.floats(-20, 20))
def test_the_scales_can_be_undone(value, unit, origin) -> None:
    for transform in ("linear", "log"):
        made = Feature(feature(transform=transform, unit=unit, origin=origin))
        assert made.unscaled(made.scaled(value)) == pytest.approx(value, rel=1e-9, abs=max(1e-9, 1e-9 * unit))


@given(st.floats(-1e150, 1e150), st.floats(-1e150, 1e150), st.floats(1e-150, 1e150))
def test_both_scales_keep_the_order_of_values(one, other, unit) -> None:
    low, high = sorted((one, other))
    for transform in ("linear", "log"):
        made = Feature(feature(transform=transform, unit=unit))
        assert made.scaled(low) <= made.scaled(high)


def test_a_huge_place_on_the_log_scale_keeps_its_sign() -> None:
    made = Feature(feature(transform="log", unit=1.0))
    assert made.unscaled(800.0) > 1e300
    assert made.unscaled(-800.0) < -1e300


def test_a_constant_history_calls_any_other_value_farthest_and_the_same_value_ordinary() -> None:
    constant = level(0, (100, 5.0, 0.0, 5.0, 0.0, 0.0))
    same = judge(rule(), 0.4, [5.0], None, constant)
    assert (same["is_anomaly"], same["deviation"]["x"]["z"], same["deviation"]["x"]["robust"]) == (False, 0, 0)
    other = judge(rule(), 0.4, [5.0000001], None, constant)
    assert (other["is_anomaly"], other["verdict"]) == (True, "deviation")
    assert other["deviation"]["x"] == {"z": FARTHEST, "robust": FARTHEST, "expected": 5.0, "level": "global"}


def test_the_floor_stands_in_for_a_spread_that_is_smaller() -> None:
    found = judge(rule(), None, [7.0], None, level(0, (100, 5.0, 0.0, 5.0, 0.0, 0.5)))["deviation"]["x"]
    assert (found["z"], found["robust"]) == (4.0, 4.0)


def test_mean_and_median_must_agree_before_a_feature_fires() -> None:
    heavy_tail = level(0, (100, 10.0, 50.0, 10.0, 1.0, 0.1))
    judged = judge(rule(), None, [60.0], None, heavy_tail)
    assert judged["deviation"]["x"] == {"z": 1.0, "robust": 50.0, "expected": 10.0, "level": "global"}
    assert judged["verdict"] is None
    assert judge(rule(), None, [400.0], None, heavy_tail)["verdict"] == "deviation"


@pytest.mark.parametrize(
    ("tolerance", "firing"),
    [
        ({}, [-100.0, 100.0]),
        ({"direction": "up"}, [100.0]),
        ({"direction": "down"}, [-100.0]),
        ({"min_absolute": 95.0}, [-100.0]),
        ({"min_absolute": 111.0}, []),
        ({"min_relative": 9.0}, [-100.0, 100.0]),
        ({"min_relative": 9.5}, [-100.0]),
        ({"min_relative": 11.5}, []),
    ],
)
def test_a_tolerance_lets_departures_pass(tolerance, firing) -> None:
    made = rule(feature(tolerances={"": tolerance}))
    fired = [x for x in (-100.0, 10.0, 100.0) if judge(made, 0.1, [x], None, level(0, NORMAL))["is_anomaly"]]
    assert fired == firing


def test_an_entity_with_a_tolerance_of_its_own_leaves_that_of_all() -> None:
    made = rule(feature(tolerances={"": {"min_absolute": 1000.0}, '["HA"]': {"direction": "up"}}))
    flagged = {
        (entity, x): judge(made, 0.1, [x], entity, level(2, NORMAL))["is_anomaly"]
        for entity, x in product(['["HA"]', '["UA"]', ""], [-200.0, 200.0, 2000.0])
    }
    assert [case for case, is_anomaly in flagged.items() if is_anomaly] == [
        ('["HA"]', 200.0),
        ('["HA"]', 2000.0),
        ('["UA"]', 2000.0),
        ("", 2000.0),
    ]


def test_an_infinite_value_passes_no_minimum_unseen() -> None:
    made = rule(feature(tolerances={"": {"min_absolute": 5.0, "min_relative": 2.0}}))
    for value in (float("inf"), float("-inf"), 1e308):
        assert judge(made, None, [value], None, level(0, NORMAL))["is_anomaly"] is True


# score: high, low, unknown; deviation: far, near, unknown (no history)
UNKNOWN = None
RULES = {
    "score": [[True, True, True], [False, False, False], [UNKNOWN, UNKNOWN, UNKNOWN]],
    "deviation": [[True, False, UNKNOWN], [True, False, UNKNOWN], [True, False, UNKNOWN]],
    "either": [[True, True, True], [True, False, False], [True, UNKNOWN, UNKNOWN]],
    "both": [[True, False, UNKNOWN], [False, False, False], [UNKNOWN, False, UNKNOWN]],
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_rule_decides_by_what_is_known(verdict) -> None:
    halves = [
        [
            judge(rule(verdict=verdict), score, [value], None, levels)["is_anomaly"]
            for value, levels in ((100.0, level(0, NORMAL)), (10.0, level(0, NORMAL)), (10.0, []))
        ]
        for score in (0.9, 0.1, None)
    ]
    assert halves == RULES[verdict]


def test_the_verdict_says_which_half_is_high() -> None:
    found = [
        judge(rule(), score, [value], None, level(0, NORMAL))["verdict"]
        for score, value in product((0.9, 0.1), (100.0, 10.0))
    ]
    assert found == ["both", "score", "deviation", None]


def test_the_threshold_itself_is_high_for_score_and_deviation() -> None:
    assert judge(rule(), 0.5, [10.0], None, level(0, NORMAL))["verdict"] == "score"
    assert judge(rule(), 0.1, [22.0], None, level(0, NORMAL))["verdict"] == "deviation"


def test_without_history_the_row_says_that_the_profile_is_warming_up() -> None:
    for levels in (None, [], level(0, (29, *NORMAL[1:])), level(0, (None,) * FIGURES)):
        judged = judge(rule(), 0.9, [1e9], None, levels)
        assert judged["deviation"] == {"state": "warming up"}
        assert judged["is_anomaly"] is True
        assert judged["severity"] == tail(SCORES, 0.9)
    assert judge(rule(), 0.9, [10.0], None, level(0, (30, *NORMAL[1:])))["deviation"]["x"]["z"] == 0


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_value_deviates_from_nothing(missing) -> None:
    judged = judge(rule(), 0.4, [missing], None, level(0, NORMAL))
    assert (judged["is_anomaly"], judged["deviation"]) == (False, {"x": None})
    assert rule().farthest([missing], level(0, NORMAL)) is None


def test_each_feature_takes_the_finest_level_that_has_enough_of_its_values() -> None:
    made = rule(feature("x"), feature("y"), feature("z"))
    few = (29, *NORMAL[1:])
    levels = [*level(3, NORMAL, few, few), *level(2, NORMAL, NORMAL, few), *level(0, NORMAL, NORMAL, NORMAL)]
    told = judge(made, 0.4, [10.0, 10.0, 10.0], '["HA"]', levels)["deviation"]
    assert {name: part["level"] for name, part in told.items()} == {
        "x": "entity and season",
        "y": "entity",
        "z": "global",
    }


def test_the_history_of_all_rows_stands_in_where_no_level_has_enough() -> None:
    made = rule(history=level(0, NORMAL))
    assert judge(made, 0.4, [12.0], "", None)["deviation"]["x"]["level"] == "global"
    assert judge(made, 0.4, [12.0], '["HA"]', level(2, (29, *NORMAL[1:])))["deviation"]["x"]["level"] == "global"
    assert judge(made, 0.4, [12.0], '["HA"]', level(2, NORMAL))["deviation"]["x"]["level"] == "entity"


@given(place, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0.001, 20))
def test_what_is_told_is_what_decides(value, stddev, spread, threshold) -> None:
    made = rule(verdict="deviation", deviation_threshold=threshold)
    told = judge(made, None, [value], None, level(0, (100, 0.0, stddev, 0.0, spread, 0.0)))
    part = told["deviation"]["x"]
    assert told["is_anomaly"] == (min(abs(part["z"]), abs(part["robust"])) >= threshold)


@given(st.lists(finite, min_size=2, max_size=2), st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_a_tail_is_a_share_and_never_falls(values, ordinary) -> None:
    quantiles = [sorted(ordinary)[int(p * (len(ordinary) - 1))] for p in PROBABILITIES]
    low, high = (tail(quantiles, value) for value in sorted(values))
    assert 0 <= low <= high <= 1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=300), st.integers(-1, 21))
def test_a_tail_is_the_share_of_ordinary_values_below(ordinary, value) -> None:
    ranked = sorted(ordinary)
    quantiles = [ranked[round(p * (len(ranked) - 1))] for p in PROBABILITIES]
    below = sum(other < value for other in ranked) / len(ranked)
    step = 1 / max(1, len(ranked) - 1) + 0.011
    # Between two values that occur, the tail lies between their shares.
    assert below - step <= tail(quantiles, value) <= sum(other <= value for other in ranked) / len(ranked) + step


def test_a_row_as_all_others_is_not_severe() -> None:
    same = rule(
        threshold=0.6, ordinary_scores=[0.5] * len(PROBABILITIES), ordinary_deviations=[0.0] * len(PROBABILITIES)
    )
    assert judge(same, 0.5, [10.0], None, level(0, NORMAL))["severity"] == 0
    assert judge(same, 0.6, [10.0], None, level(0, NORMAL))["severity"] == 1


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_severity_grows_with_score_and_with_deviation(score, other_score, away, other_away) -> None:
    assume(abs(away) <= abs(other_away))
    low, high = sorted((score, other_score))

    def severity(score: float, away: float) -> float:
        return judge(rule(), score, [10.0 + away], None, level(0, NORMAL))["severity"]

    assert 0 <= severity(low, away) <= severity(high, away) <= 1
    assert severity(low, away) <= severity(low, other_away) + 1e-9


def test_severity_is_the_larger_tail_and_unknown_without_any() -> None:
    assert judge(rule(), 0.699, [10.0], None, level(0, NORMAL))["severity"] == pytest.approx(0.9975, abs=1e-3)
    assert judge(rule(), 0.1, [10.0 + 2 * 7.96], None, level(0, NORMAL))["severity"] == pytest.approx(0.995)
    assert judge(rule(), None, [None], None, [])["severity"] is None
    assert judge(rule(ordinary_scores=None), 0.9, [None], None, [])["severity"] is None


def sentence(made: Rule, value: float | None, levels: list[float | None], entity: str | None = None) -> str:
    (told,) = tell(made, [8.0, -3.0], [value], None, entity, levels)
    return told["sentence"]


def test_a_sentence_says_how_far_from_whose_mean() -> None:
    ending = "; contributes 100 % of the anomaly score"
    far = (1342, 12.6, 4.0, 12.0, 3.0, 0.2)
    assert sentence(rule(feature("dep_delay")), 1301.0, level(2, far), '["HA"]') == (
        "dep_delay 1301 is 322 deviations above the mean 12.6 of carrier HA (n=1,342)" + ending
    )
    assert sentence(rule(), 1.0, level(3, far), '["HA"]') == (
        "x 1 is 2.9 deviations below the mean 12.6 of carrier HA in this hour_of_day (n=1,342)" + ending
    )
    assert "above the mean 12.6 of all rows (n=1,342)" in sentence(rule(), 13.0, level(0, far))
    assert "above the mean 12.6 of this hour_of_day (n=1,342)" in sentence(rule(), 13.0, level(1, far))
    assert "over a million deviations below" in sentence(rule(), float("-inf"), level(0, far))
    assert sentence(rule(), None, level(0, far)) == "x is missing" + ending
    assert sentence(rule(), 5.0, []) == "x 5" + ending


def test_what_is_told_of_a_row_is_most_telling_first_and_shares_add_up() -> None:
    made = rule(feature("a"), feature("b"), feature("c"))
    told = tell(made, [8.0, -1.0, -3.0, 2.0], [10.0, 1000.0, None], None, None, level(0, NORMAL, NORMAL, NORMAL))
    assert [(part["feature"], part["share"]) for part in told] == [("b", 0.75), ("a", 0.25), ("c", 0.0)]
    assert all(part["baseline"] == 8.0 for part in told)
    assert [(part["value"], part["level"]) for part in told] == [
        (1000.0, "global"),
        (10.0, "global"),
        (None, None),
    ]


def test_every_level_has_a_name() -> None:
    for number, name in enumerate(LEVELS):
        found = judge(rule(), 0.4, [10.0], '["HA"]', level(number, NORMAL))["deviation"]["x"]
        assert found["level"] == name
