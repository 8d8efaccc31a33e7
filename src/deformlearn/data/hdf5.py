"""Arrays of HDF5 files (MATLAB's .mat from version 7.3 on), read by a process of its own.

The HDF5 library believes the sizes that a damaged file claims and takes gigabytes before it refuses. So
a child with bounded memory reads the file; what happens to it does not happen to us.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from deformlearn.errors import InputError

_MEMORY = 3 << 30
"""Bytes of address space the child may have, libraries included (where the system can bound it)."""

_SECONDS = 120


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named arrays of a file; whatever is wrong with it is an InputError.

    The last few files are held, so that reading one in parts costs one reading.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"there is no {path}") from error
    return _read(path.absolute(), tuple(names), changed)


@lru_cache(maxsize=2)
def _read(path: Path, names: tuple[str, ...], changed: int) -> dict[str, np.ndarray]:
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    try:
        done = subprocess.run(
            # -P: no module from the folder we were started in, which may be the data set's.
            [sys.executable, "-P", "-m", __name__, str(path), *names],
            capture_output=True, timeout=_SECONDS, env=os.environ | one_thread,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{path} cannot be read as HDF5 in {_SECONDS} s: it is damaged") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else "it ended the process that read it"
        raise InputError(f"{path} cannot be read as MATLAB v7.3 ({reason})")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as found:
        return dict(found)


def _dump(path: str, names: Sequence[str]) -> None:
    """What the child does: the arrays as an .npz on stdout, or one line on stderr."""
    import h5py

    # Reading needs no lock, and some network disks have none.
    with h5py.File(path, "r", locking=False) as file:
        missing = [name for name in names if not isinstance(file.get(name), h5py.Dataset)]
        if missing:
            raise ValueError(f"it has no field {', '.join(missing)}")
        for name in names:
            if file[name].dtype.hasobject:
                raise ValueError(f"{name} holds {file[name].dtype}, which is no array of numbers")
        content = io.BytesIO()
        np.savez(content, **{name: file[name][()] for name in names})
    sys.stdout.buffer.write(content.getvalue())


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such bound
        return
    _, highest = resource.getrlimit(resource.RLIMIT_AS)
    bound = _MEMORY if highest == resource.RLIM_INFINITY else min(_MEMORY, highest)
    resource.setrlimit(resource.RLIMIT_AS, (bound, highest))


if __name__ == "__main__":
    _bound_memory()
    try:
        _dump(sys.argv[1], sys.argv[2:])
    except MemoryError:
        sys.exit("it asks for more memory than any such file needs")
    except Exception as error:  # h5py reports damage by whatever its parser met
        sys.exit(" ".join(str(error).split())[:300] or type(error).__name__)
