"""The one error a user should ever see: what was wanted, what came, what to do."""

from __future__ import annotations

import errno
from collections.abc import Sequence

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""No space left, or none that this user may have (Windows knows no quota)."""
_OF_THE_SYSTEM = _FULL | {errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO}
"""What whoever looks after the machine can mend, and we cannot."""


_TORCH_HAS_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""How torch says it, by a mere RuntimeError."""


class InputError(ValueError):
    """Bad input. The command line prints its message as one line and exits with code 2."""


class NotFiniteError(InputError):
    """A loss or a gradient was not finite; `rows` are the likely reason."""

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows

    def __reduce__(self) -> tuple[type[NotFiniteError], tuple[str, list[int]]]:
        """It may come from another process."""
        return NotFiniteError, (str(self), self.rows)


def listed(rows: Sequence[object], most: int = 8) -> str:
    """The first rows by number, or other things by name, for a message."""
    return ", ".join(map(str, rows[:most])) + (" and more" if len(rows) > most else "")


def told(error: Exception) -> str | None:
    """What a user is told of an error; None of an error of our own, whose traceback we want to see.

    Most are InputErrors, which say it themselves. That a file may not be used, that its name is no text,
    or that a disk or the memory is full can come to light anywhere.
    """
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError) or _TORCH_HAS_NO_MEMORY in str(error):
        return (
            f"out of memory ({str(error).partition(_TORCH_HAS_NO_MEMORY)[2].strip(' :') or error}); "
            f"what is finished stays; end other programs, or take fewer people or images at a time"
        )
    if isinstance(error, UnicodeEncodeError) and "surrogates not allowed" in error.reason:
        # Bytes of a file's name that are no UTF-8; Python can use them, Parquet and a terminal cannot.
        return f"{error.object!a} is not UTF-8; rename that file or folder"
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
        where = "go on" if error.filename is None else f"use {error.filename}"
        return f"cannot {where}: {error.strerror}; {remedy(error)}"
    return None


def remedy(error: OSError) -> str:
    """What to do where something cannot be written."""
    if error.errno == errno.ENAMETOOLONG:
        return "give it a shorter name"
    return f"{'free space or ' if error.errno in _FULL else ''}choose another place"
