"""Parts of work that may stop anywhere: files in a folder that belongs to one piece of work alone."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deformlearn.agreement import differences, said
from deformlearn.distributed import Team
from deformlearn.errors import InputError, remedy
from deformlearn.files import write_atomically

_RESTART = 10.0
"""Seconds that a team waits for the folder: those whom torchrun restarts may find it about to be freed."""


@contextlib.contextmanager
def parts_folder(parts: Path, recipe: dict[str, Any], team: Team) -> Iterator[None]:
    """A folder for the parts of this work alone, which is gone when all has gone well.

    `recipe` says what the work is, as plain numbers and words: parts of other work are refused, and so is
    another process that is at it. What is in the folder when the work is cut off is there the next time.
    """
    lock = FileLock(parts / ".lock")
    try:
        with team.refuse_together():
            if team.leads:
                _own(parts, lock, recipe, patience=0.0 if team.size == 1 else _RESTART)
        yield
        lock.release()  # a file that is open cannot be removed everywhere
        if team.leads:
            shutil.rmtree(parts, ignore_errors=True)
    finally:
        lock.release()


def _own(parts: Path, lock: FileLock, recipe: dict[str, Any], *, patience: float) -> None:
    try:
        parts.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience)
    except Timeout:
        raise InputError(
            f"another process is working in {parts}; wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot write in {parts}: {error.strerror or error}; {remedy(error)}"
        ) from error
    path = parts / "recipe.json"
    if not path.exists():
        write_atomically(path, json.dumps(recipe, indent=1).encode())
        return
    try:
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, OSError) as error:
        raise InputError(f"cannot read {path} ({error}); delete {parts}") from error
    if changes := differences(found, recipe):
        raise InputError(
            f"{parts} holds parts of other work ({said(changes)}); "
            f"give the same data and options to go on with it, delete it, or give another --out"
        )
