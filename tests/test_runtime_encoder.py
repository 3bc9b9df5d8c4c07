"""Categories, without a server: how rare each is, from counting training rows to the numbers that trees compare."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from helpers.forests import explainer_of, stump
from hypothesis import given
from hypothesis import strategies as st
from relief_runtime.document import checksum, read
from relief_runtime.encoder import MAX_CATEGORIES, MAX_LENGTH
from relief_runtime.forest import Forest
from relief_runtime.packed import checksum as packed_checksum
from relief_runtime.packed import pack, unpack

from relief_trainer import rarity
from relief_trainer.document import Feature
from relief_trainer.rarity import Rarity

FEATURES = [
    Feature("x", "x"),
    Feature("color", "color", "category"),
    Feature("y", "y"),
    Feature("size", "s", "category"),
]
texts = st.none() | st.sampled_from(["", "red", "blue", "NULL", "é🌊", "a\nb", '"', "\\"]) | st.text(max_size=5)


def _rarities(values: list[str | None]) -> dict[str | None, float]:
    """Return -ln of the smoothed share of each value, and of one that was never seen under its own name."""
    distinct = set(values)
    total = len(values) + len(distinct) + 1
    return {value: -math.log((values.count(value) + 1) / total) for value in distinct | {"never seen before"}}


@given(st.lists(texts, min_size=1, max_size=40))
def test_an_encoder_is_the_negative_logarithm_of_the_smoothed_share(values: list[str | None]) -> None:
    expected = _rarities(values)
    encoder = Rarity(values).encoder()
    listed = {value: number for value, number in expected.items() if value is not None and value in values}
    assert encoder["values"] == pytest.approx(listed)
    assert encoder["other"] == pytest.approx(expected["never seen before"])
    assert encoder["missing"] == pytest.approx(expected.get(None, encoder["other"]))
    # Shares that sum to one, with a place for what was never seen.
    shares = [math.exp(-number) for number in expected.values()]
    assert sum(shares) == pytest.approx(1)
    assert all(encoder["other"] > number for number in listed.values())


def test_an_encoder_lists_the_most_frequent_and_puts_the_rest_at_their_mean() -> None:
    frequent = [f"f{n}" for n in range(MAX_CATEGORIES)] * 3
    rest = [f"r{n}" for n in range(99)] + ["r0"] * 1
    found = Rarity([*frequent, *rest, None])
    encoder = found.encoder()
    assert set(encoder["values"]) == set(frequent)
    total = 3101 + 1100 + 1
    assert encoder["other"] == pytest.approx(-math.log((100 / 100 + 1) / total))
    assert found.profile() == {
        "count": 3100,
        "null_rate": 1 / 3101,
        "distinct": 1099,
        "listed": 1000,
        "other_rate": 100 / 3101,
        "categories": sorted(frequent)[:60:3],
        "shares": [100 / 3100, *[3 / 3100] * 20, pytest.approx(2940 / 3100)],
    }
    assert rarity.notes({"color": found.profile(), "x": {"mean": 1.0}}) == [
        'feature "color" has 1,099 different values: the 1,000 most frequent are told apart, '
        "all others, 3% of the rows, count as one"
    ]


def test_an_encoder_of_a_hundred_thousand_categories_stays_small() -> None:
    encoder = Rarity([f"category number {n}" for n in range(100_000)]).encoder()
    assert len(json.dumps(encoder)) < 60_000
    assert all(encoder["other"] > number for number in encoder["values"].values())


def test_a_category_too_long_to_be_listed_counts_as_any_other() -> None:
    long = "x" * (MAX_LENGTH + 1)
    assert set(Rarity([long, long, "y"]).encoder()["values"]) == {"y"}


def _document(encoders: dict[str, Any]) -> dict[str, Any]:
    features = [{"name": f.name, "expression": f.expression, "kind": f.kind} for f in FEATURES]
    # A tree of four splits that all rows pass through, one a feature, with two leaves apart at each.
    tree = {
        "feature": [0, -1, 1, -1, 2, -1, 3, -1, -1],
        "value": [0.0, 1.0, 1.5, 2.0, 0.0, 3.0, 1.5, 4.0, 5.0],
        "missing_left": [0, 0, 0, 0, 0, 0, 0, 0, 0],
    }
    return {**stump(["x"], trees=[tree]), "features": features, "encoders": encoders}


@given(st.lists(st.tuples(st.none() | st.floats(), texts, st.none() | st.floats(), texts), min_size=1, max_size=20))
def test_trainer_and_runtime_give_the_same_numbers(rows: list[tuple[Any, Any, Any, Any]]) -> None:
    numbers = np.array([[row[0], None, row[2], None] for row in rows], dtype=np.float64)
    categories = [[row[1], row[3]] for row in rows]
    encoders = {name: found.encoder() for name, found in rarity.fit(FEATURES, numbers, categories).items()}
    encoded = rarity.encoded(encoders, FEATURES, numbers, categories)
    kept = [row for row in rows if any(part is not None and part == part for part in row)]
    plain = json.dumps({**_document({}), "features": [{"name": f.name, "kind": "number"} for f in FEATURES]})
    text = json.dumps(_document(encoders), ensure_ascii=False)
    server, reference = _forest(text), _forest(plain)
    explainer = explainer_of(text)
    reference_explainer = explainer_of(plain)
    for row, number, category, given_number in zip(rows, encoded.tolist(), categories, numbers.tolist(), strict=True):
        if row not in kept:
            assert np.isnan(number).all()
            assert server.score(given_number, category) is None
            continue
        assert [number[1], number[3]] == pytest.approx(
            [_rarities([other[place] for other in kept])[row[place]] for place in (1, 3)]
        )
        assert server.score(given_number, category) == reference.score(number)
        assert explainer.contributions(given_number, category) == reference_explainer.contributions(number)


def _forest(text: str) -> Forest:
    content = pack(read(text, checksum(text)))
    return Forest(unpack(content, packed_checksum(content)))


def test_what_was_never_seen_is_rarer_than_all_that_was() -> None:
    text = json.dumps(
        {
            **stump(["c"], split=2.5),
            "features": [{"name": "c", "kind": "category"}],
            "encoders": {"c": Rarity(["red"] * 9 + ["blue"] + [None] * 3).encoder()},
        }
    )
    forest = _forest(text)
    assert [forest.score([None], [category]) for category in ("red", "blue", "green")] == [0.5, 0.5, 0.125]
    # Alone, NULL is nothing to tell by.
    assert forest.score([None], [None]) is None
