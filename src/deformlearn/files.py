"""Files that are whole or absent, on disk or in an object store.

Data sets may lie anywhere that fsspec reaches (s3://, gs://, memory://, ...). Run folders, locks and
what is written bit by bit stay on local disks.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import fsspec
from fsspec.registry import known_implementations
from upath import UPath

from deformlearn.errors import InputError, remedy

AnyPath = Path | UPath
"""A local path, or a place in an object store."""

_PART = re.compile(r"\..+\.\d+\.part")
"""What `whole_file` calls a file that is not whole yet: by its name and the writing process's number."""


def place(text: str | AnyPath) -> AnyPath:
    """Where a user means: a local path, or for a URL such as s3://bucket/set a place in that store.

    A protocol that fsspec does not know, or whose package is not installed, is an InputError.
    """
    protocol, separator, _ = str(text).partition("://")
    if not isinstance(text, str) or not separator:
        return Path(text) if isinstance(text, str) else text
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = known_implementations.get(protocol, {}).get("class", protocol).split(".")[0]
        package = f"fsspec[{protocol}]" if package == "fsspec" else package
        raise InputError(
            f"{protocol}:// needs the package {package}; pip install {package}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{text} is no place that can be read: nothing is known of {protocol}://; "
            f"give a local path, or s3://, gs://, az://, http:// ..."
        ) from error
    found = UPath(text)
    return Path(found.path) if found.protocol in ("file", "local") else found


def require_local(folder: Path) -> None:
    """Refuse a URL where only a folder of this machine will do; pathlib takes it for one called "s3:"."""
    scheme, separator, _ = str(folder).partition(":/")
    if separator and len(scheme) > 1 and "/" not in scheme:
        raise InputError(
            f"{folder} is a URL, but this is written to a folder of this machine; give one, and copy it to "
            f"the store afterwards"
        )


def write_atomically(path: AnyPath, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    No space, no permission and the like are InputErrors; what was there before stays as it was. Object
    stores replace whole objects, so there nothing more is needed.
    """
    if isinstance(path, Path):
        with whole_file(path) as file:
            file.write(content)
        return
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes its place, flushed to the disk, when the block ends well.

    Errors are those of `write_atomically`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


@contextlib.contextmanager
def naming(path: AnyPath, verb: Literal["read", "write"] = "write") -> Iterator[None]:
    """What the system refuses inside is an InputError that names the file."""
    try:
        yield
    except OSError as error:
        what_to_do = "see that it can be read" if verb == "read" else remedy(error)
        raise InputError(
            f"cannot {verb} {path}: {error.strerror or error}; {what_to_do}"
        ) from error


def refuse_data_set(out: Path) -> None:
    """Refuse the folder of a data set for results: they would lie among its own files."""
    with naming(out):
        there = (out / "dataset.json").exists()
    if there:
        raise InputError(f"{out} is a data set, and results would mix with it; give another --out")


def clear_parts(folder: Path) -> None:
    """Remove what writers that were killed have left; nobody may be writing there now.

    What lies in a folder with a lock of its own is other work, whose writers may well be there.
    """
    for where, inside, names in os.walk(folder):
        inside[:] = [one for one in inside if not any(Path(where, one).glob(".*lock"))]
        for name in filter(_PART.fullmatch, names):
            with contextlib.suppress(OSError):
                Path(where, name).unlink()
