"""Parts of work that may stop anywhere: files in a folder that belongs to one piece of work alone."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deformlearn.agreement import differences, said
from deformlearn.distributed import Team
from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.locks import held


@contextlib.contextmanager
def parts_folder(parts: Path, recipe: dict[str, Any], team: Team) -> Iterator[None]:
    """A folder for the parts of this work alone, which is gone when all has gone well.

    `recipe` says what the work is, as plain numbers and words: finished parts (*.parquet) of other work are
    refused, and so is another process that is at it. What is in the folder when the work is cut off is
    there the next time.
    """
    with contextlib.ExitStack() as stack:
        with team.refuse_together():
            if team.leads:
                lock = held(parts, team=team, otherwise="give another --out")
                stack.callback(lock.release)
                _claim(parts, recipe)
        yield
        stack.close()  # a file that is open cannot be removed everywhere
        if team.leads:
            shutil.rmtree(parts, ignore_errors=True)


def _claim(parts: Path, recipe: dict[str, Any]) -> None:
    """Note what the parts are of, or refuse those of other work; where none is finished, any may begin."""
    path = parts / "recipe.json"
    if not path.exists() or not any(parts.glob("*.parquet")):
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
