"""The one error a user should ever see: what was wanted, what came, what to do."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The command line prints its message as one line and exits with code 2."""


class NotFiniteError(InputError):
    """A loss or a gradient was not finite; `rows` are the likely reason."""

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows


def listed(rows: list[int]) -> str:
    """The first rows by number, for a message."""
    return ", ".join(map(str, rows[:8])) + (" and more" if len(rows) > 8 else "")
