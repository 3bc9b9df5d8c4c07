"""What goes wrong because of how Relief was called, told in one line and a hint."""

from __future__ import annotations


class ReliefError(Exception):
    """A mistake or a missing condition that the user can mend.

    Parameters
    ----------
    message
        One sentence in PostgreSQL's style: lower case, quoted names, no full stop.
    hint
        What to do, ready to paste where it is a command.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
