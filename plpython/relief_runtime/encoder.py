"""Put numbers in the place of categories: how rare each was among the training rows.

A category that c of n rows had, where d different ones were seen, stands at -ln((c + 1) / (n + d + 1)): one is added to
every count (Laplace), and one more for whatever was never seen. NULL is a category of its own. What an encoder doesn't
list, because it was never seen or was too rare to be kept, stands at one number.

Trainer and server encode by this module alone.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# What an encoder lists at most: so many categories, each of so many characters.
MAX_CATEGORIES = 1_000
MAX_LENGTH = 200


class Encoder:
    """The encoder of the feature at one position: the numbers of listed categories, of NULL, and of all others."""

    def __init__(self, position: int, values: dict[str, float], missing: float, other: float) -> None:
        self.position = position
        self.values = values
        self.missing = missing
        self.other = other


def encode(
    encoders: Sequence[Encoder], numbers: Sequence[float | None], categories: Sequence[str | None] | None
) -> Sequence[float | None]:
    """Return a row's numbers with those of its categories in their places; all missing if nothing was given.

    Parameters
    ----------
    numbers
        One value a feature, in the order of the model document, ``None`` in the place of each category.
    categories
        One text a feature of kind ``category``, in their order; ``None`` is NULL.

    Raises
    ------
    ValueError
        If the number of categories isn't the model's.
    """
    categories = categories or ()
    if len(categories) != len(encoders):
        raise ValueError(f"model takes {len(encoders)} categories, not {len(categories)}")
    if not any(category is not None for category in categories) and all(
        number is None or number != number for number in numbers
    ):
        return [None] * len(numbers)
    row = list(numbers)
    for encoder, category in zip(encoders, categories):
        row[encoder.position] = encoder.missing if category is None else encoder.values.get(category, encoder.other)
    return row
