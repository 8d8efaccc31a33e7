"""Files that are whole or absent: what is written is written atomically."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from deformlearn.errors import InputError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    No space, no permission and the like are InputErrors; what was there before stays as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another place"
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
