"""Fit the encoders of categories: how rare each was among the training rows; see `relief_runtime.encoder`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt
from relief_runtime.encoder import MAX_CATEGORIES, MAX_LENGTH, Encoder, encode

from relief_trainer.document import Feature

Floats = npt.NDArray[np.float64]
Categories = Sequence[Sequence[str | None]]

FREQUENT = 20


class Rarity:
    """The categories of one feature, counted.

    Parameters
    ----------
    values
        The feature's value in each training row; None is NULL.
    """

    def __init__(self, values: Sequence[str | None]) -> None:
        counts = Counter(values)
        self.rows = len(values)
        self.distinct = len(counts)
        self.missing = counts.pop(None, 0)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0] or ""))
        listed = [
            (category, count) for category, count in ranked if category is not None and len(category) <= MAX_LENGTH
        ]
        self.listed = dict(listed[:MAX_CATEGORIES])
        self.unlisted = len(counts) - len(self.listed)
        self.unlisted_rows = sum(counts.values()) - sum(self.listed.values())

    def encoder(self) -> dict[str, Any]:
        """Return the encoder, as it is written into a model document.

        What isn't listed stands where the mean of the rest stands, a category that was never seen among them: so what
        was never seen is rarer than all that is listed.
        """
        return {
            "values": {category: self._rarity(count) for category, count in self.listed.items()},
            "missing": self._rarity(self.missing),
            "other": self._rarity(self.unlisted_rows / (self.unlisted + 1)),
        }

    def profile(self) -> dict[str, Any]:
        """Return what a model document tells of the feature beside the encoder."""
        known = max(1, self.rows - self.missing)
        frequent = dict(list(self.listed.items())[:FREQUENT])
        listed_rows = self.rows - self.missing - self.unlisted_rows
        return {
            "count": self.rows - self.missing,
            "null_rate": self.missing / max(1, self.rows),
            "distinct": self.distinct - (self.missing > 0),
            "listed": len(self.listed),
            "other_rate": self.unlisted_rows / max(1, self.rows),
            # What drift is measured against: of what isn't listed, of each frequent category, of the other listed ones.
            "categories": list(frequent),
            "shares": [
                self.unlisted_rows / known,
                *(count / known for count in frequent.values()),
                (listed_rows - sum(frequent.values())) / known,
            ],
        }

    def _rarity(self, count: float) -> float:
        return -log((count + 1) / (self.rows + self.distinct + 1))


def fit(features: Sequence[Feature], rows: Floats, categories: Categories) -> dict[str, Rarity]:
    """Return the rarity of the categories of each feature of kind ``category``, by the feature's name.

    Parameters
    ----------
    rows
        Shape (rows, features), NaN = missing or a category.
    categories
        Each row's texts, one a feature of kind ``category``, in their order. A row without any value doesn't count.
    """
    names = [feature.name for feature in features if feature.kind == "category"]
    if not names:
        return {}
    with_numbers = set(np.flatnonzero(~np.isnan(rows).all(axis=1)).tolist())
    counted = [
        texts
        for position, texts in enumerate(categories)
        if position in with_numbers or any(text is not None for text in texts)
    ]
    return {name: Rarity([texts[number] for texts in counted]) for number, name in enumerate(names)}


def evenly_frequent(encoders: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the features with several listed categories of which none is rarer than another."""
    return {
        name
        for name, encoder in encoders.items()
        if len(encoder["values"]) > 1 and len(set(encoder["values"].values())) == 1
    }


def notes(profile: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what the user should know about categories that are too many to be told apart."""
    return [
        f'feature "{name}" has {told["distinct"]:,} different values: the {told["listed"]:,} most frequent are told '
        f"apart, all others, {told['other_rate']:.0%} of the rows, count as one"
        for name, told in profile.items()
        if told.get("other_rate")
    ]


def encoded(
    encoders: Mapping[str, Mapping[str, Any]], features: Sequence[Feature], rows: Floats, categories: Categories
) -> Floats:
    """Return rows, of shape (rows, features), with the numbers of categories where the runtime puts them."""
    if not encoders:
        return rows
    ready = [
        Encoder(position, **encoders[feature.name])
        for position, feature in enumerate(features)
        if feature.kind == "category"
    ]
    numbers = (encode(ready, row, texts) for row, texts in zip(rows.tolist(), categories, strict=True))
    return np.array([[np.nan if number is None else number for number in row] for row in numbers], dtype=np.float64)
