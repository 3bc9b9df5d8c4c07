"""What ordinary rows have: quantiles of a figure over the training rows, and where in them a value lies."""

from __future__ import annotations

from bisect import bisect_left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Where the quantiles of scores and deviations of ordinary rows are taken: finer towards the top, where severity counts.
PROBABILITIES = (
    *(i / 100 for i in range(99)),
    *(0.99 + i / 1000 for i in range(9)),
    *(0.999 + i / 10000 for i in range(10)),
    1.0,
)


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
