"""How many events a session may leave: so many a second, and no more in one transaction.

A transaction's events are seen at one moment, when it commits. So time is that at which the transaction began, and
stands still while it lasts: a load of a million rows leaves as many events as one of a thousand, and one that counts
the others.
"""

from __future__ import annotations


class Allowance:
    """What one session may leave of one kind."""

    __slots__ = ("_left", "_moment", "_transaction", "over", "summary")

    def __init__(self, per_second: int, moment: float) -> None:
        self._left = float(per_second)
        self._moment = moment
        self._transaction = ""
        self.over = 0
        self.summary = -1

    def spend(self, transaction: str, moment: float, per_second: int) -> int:
        """Take one event off: return 0 or, where nothing is left, count it and return the transaction's summary.

        Parameters
        ----------
        transaction
            What tells the session's transactions apart.
        moment
            When the transaction began, in seconds.
        per_second
            How many events are allowed a second, which is also the most that are saved up.
        """
        if transaction != self._transaction:
            # A clock that is set back gives nothing.
            self._left += max(0.0, moment - self._moment) * per_second
            self._moment = moment
            self._transaction = transaction
            self.forget_summary()
        self._left = min(self._left, float(per_second))
        if self._left >= 1:
            self._left -= 1
            return 0
        self.over += 1
        return self.summary

    def forget_summary(self) -> None:
        """Begin to count anew what is over."""
        self.over, self.summary = 0, -1
