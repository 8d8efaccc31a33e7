"""Disks that are full or fail, and folders that belong to somebody else, for real (tests/test_disks.py)."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

NOBODY = 65534
"""A user to whom nothing belongs."""


@contextlib.contextmanager
def no_larger_file(most: int | None) -> Iterator[None]:
    """Refuse this process to write files larger than so many bytes; needs no rights.

    Python ignores the signal that comes with it, so that a write fails in its middle as on a full disk.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, of 64 MB in memory; skips the test where one may not be mounted."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True)
        reason = done.stderr.strip() if done.returncode else None
    except OSError as error:
        reason = str(error)
    if reason is not None:
        pytest.skip(f"a file system may not be mounted here: {reason}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave(disk: Path, free: int) -> None:
    """Fill a small disk until so many bytes are left."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    state = os.statvfs(disk)
    surplus = state.f_bavail * state.f_frsize - free
    with open(ballast, "wb") as file:
        if surplus > 0:
            os.posix_fallocate(file.fileno(), 0, surplus)


@contextlib.contextmanager
def somebody_else(folder: Path, mode: int) -> Iterator[None]:
    """Be a user to whom a folder and what is in it do not belong: `mode` is what others may do there.

    Root may do anything, so it becomes nobody; any other user has the rights of others for a while.
    """
    root = os.geteuid() == 0
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    if root:
        folder.chmod(mode)
    else:
        for path in sorted(modes, reverse=True):
            path.chmod(0o111 * ((mode if path == folder else modes[path]) & 0o7))
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in sorted(modes):
            path.chmod(modes[path])


def spoil_column(shard: Path, column: str) -> None:
    """Change eight bytes of a column as a failing disk might: size and footer stay what they were."""
    group = pq.ParquetFile(shard).metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    (pages,) = (one for one in columns if one.path_in_schema.split(".")[0] == column)
    content = bytearray(shard.read_bytes())
    middle = pages.data_page_offset + pages.total_compressed_size // 2
    content[middle : middle + 8] = b"nonsense"
    shard.write_bytes(content)
