"""A folder in which one process, or one team, works at a time."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from deformlearn.distributed import ALONE, Team
from deformlearn.errors import InputError, remedy
from deformlearn.files import require_local

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_RESTART = 10.0
"""Seconds that a team waits: those whom torchrun restarts may find the folder about to be freed."""


def held(folder: Path, *, team: Team = ALONE, otherwise: str = "choose another folder") -> FileLock:
    """The lock of a folder, which is made if need be; held until it is released or this process ends.

    Of a team, rank 0 alone takes it. Somebody else's work there is an InputError, and so is a folder
    that cannot be written in.
    """
    require_local(folder)
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0 if team.size == 1 else _RESTART)
    except Timeout:
        raise InputError(
            f"another process is working in {folder}; wait for it, or {otherwise}"
        ) from None
    except (OSError, NotImplementedError) as error:
        if not isinstance(error, OSError) or error.errno in _NO_LOCKS:
            raise InputError(
                f"{folder} is on a file system without locks, which keep a second process off it; "
                f"{otherwise}"
            ) from error
        raise InputError(
            f"cannot write in {folder}: {error.strerror or error}; {remedy(error)}"
        ) from error
    return lock


def let_go(lock: FileLock) -> None:
    """Release the lock of a folder; one in which nothing was written is gone, as if never made."""
    path = Path(lock.lock_file)
    with contextlib.suppress(OSError):  # Windows removes no open file
        if list(path.parent.iterdir()) == [path]:
            path.unlink()
    lock.release()
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # only if there is nothing in it


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """A block in which nobody else works in a folder; its lock is gone afterwards.

    So is a folder in which nothing was written. Somebody else's work there is an InputError.
    """
    lock = held(folder, otherwise="give another --out")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()  # while it is held: nobody can have taken it since
        let_go(lock)
