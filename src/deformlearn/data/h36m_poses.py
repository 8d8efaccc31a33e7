"""Positions of Human3.6M's 32 joints: the official .cdf files, and VideoPose3D's common .npz."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from deformlearn.errors import InputError
from deformlearn.unpickle import load_npz

JOINTS = 32
"""Joints of the official skeleton; several stand twice."""

_MOST_PARTS, _MOST_FRAMES = 1000, 100_000
"""More than any file of the data set has: a damaged header must not cost hours or gigabytes."""

RIGHT_FIRST = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
"""Which of the 32 are the 17 that move, in the order of the joint set h36m17 (Martinez et al.)."""

LEFT_FIRST = (11, 6, 7, 8, 1, 2, 3, 12, 24, 14, 15, 17, 18, 19, 25, 26, 27)
"""The same in the order of h36m17_left_first (SPIN); 11 and 24 repeat 0 and 13."""


def read_positions(path: Path, axes: int) -> Float[np.ndarray, "frames 32 axes"]:
    """The joints of every frame of a .cdf: mm for 3 axes, pixels for 2.

    A file that is cut short, of another kind, or of other joints is an InputError. The last few
    files are remembered: runs of frames come one after the other.
    """
    return _read_positions(path, axes, _stamp(path))


def count_frames(path: Path) -> int:
    """Frames of a .cdf of positions, from its header."""
    return _frames(path, _opened(path))


def archive_poses(
    path: Path,
) -> dict[str, dict[str, Float[np.ndarray, "frames 32 3"]]]:
    """positions_3d of a data_3d_h36m.npz, by subject and take: metres, world axes.

    The archive is one compressed object: it is held in memory as a whole (some 250 MB).
    """
    return _archive_poses(path, _stamp(path))


@lru_cache(maxsize=4)
def _read_positions(
    path: Path, axes: int, stamp: tuple[int, int]
) -> Float[np.ndarray, "frames 32 axes"]:
    """`stamp` is only there to notice that a file was replaced."""
    file = _opened(path)
    _frames(path, file)
    try:
        values = np.asarray(file.varget("Pose"), np.float64)
    except Exception as error:
        raise _damaged(path, error) from error
    if values.shape[-1] != JOINTS * axes:
        raise InputError(
            f"{path} has {values.shape[-1]} numbers a frame, wanted {JOINTS * axes} "
            f"({JOINTS} joints, {axes} numbers each)"
        )
    return values.reshape(-1, JOINTS, axes)


@lru_cache(maxsize=1)
def _archive_poses(
    path: Path, stamp: tuple[int, int]
) -> dict[str, dict[str, Float[np.ndarray, "frames 32 3"]]]:
    wanted = "VideoPose3D's data_3d_h36m.npz"
    found = load_npz(path, what=wanted).get("positions_3d")
    if not isinstance(found, dict):
        raise InputError(f"{path} has no positions_3d by subject; give {wanted}")
    poses: dict[str, dict[str, np.ndarray]] = {}
    for subject, takes in found.items():
        if not isinstance(takes, dict):
            raise InputError(f"{path}: {subject} has no takes by name; give {wanted}")
        poses[str(subject)] = {str(name): _checked(path, name, a) for name, a in takes.items()}
    return poses


def _checked(path: Path, name: Any, values: Any) -> Float[np.ndarray, "frames 32 3"]:
    if not isinstance(values, np.ndarray) or values.ndim != 3 or values.shape[1:] != (JOINTS, 3):
        shape = getattr(values, "shape", type(values).__name__)
        raise InputError(f"{path}: {name} has shape {shape}, wanted frames x {JOINTS} x 3")
    return values.astype(np.float64)


def _opened(path: Path) -> Any:
    import cdflib

    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        if max(_counts(path.read_bytes()), default=0) > _MOST_PARTS:
            raise ValueError("its header counts things by the thousand")
        file = cdflib.CDF(path)
        names = file.cdf_info().zVariables + file.cdf_info().rVariables
    except Exception as error:  # the parser meets a damaged file anywhere
        raise _damaged(path, error) from error
    if "Pose" not in names:
        raise InputError(f"{path} has no Pose but {', '.join(names) or 'nothing'}; wanted poses")
    return file


def _counts(content: bytes) -> Iterator[int]:
    """How many variables, attributes, dimensions and index entries a file claims to have.

    cdflib counts up to these without looking whether they are there. Offsets are those of version 3
    of the format without file compression; other files are left to cdflib.
    """
    if content[:8] != b"\xcd\xf3\x00\x01\x00\x00\xff\xff":
        return

    def number(place: int, size: int = 4) -> int:
        return int.from_bytes(content[place : place + size], "big")

    header = number(20, 8)
    variables = [number(header + 44), number(header + 60)]
    yield from (*variables, number(header + 48), number(header + 56))
    for first, several in zip((header + 12, header + 20), variables, strict=True):
        variable = number(first, 8)
        for _ in range(min(several, _MOST_PARTS)):
            yield number(variable + 340)
            index = number(variable + 28, 8)
            for _ in range(_MOST_PARTS):
                if not 0 < index < len(content):
                    break
                yield from (number(index + 20), number(index + 24))
                index = number(index + 12, 8)
            else:
                yield _MOST_PARTS + 1
            variable = number(variable + 12, 8)


def _frames(path: Path, file: Any) -> int:
    """Frames of Pose, by its header: frames x numbers, whichever way the writer put a 1 before them."""
    try:
        inquiry = file.varinq("Pose")
        shape = [int(inquiry.Last_Rec) + 1, *(int(size) for size in inquiry.Dim_Sizes)]
    except Exception as error:
        raise _damaged(path, error) from error
    before, frames, numbers = shape[:-2], *([0, 0, *shape][-2:])
    sound = all(size == 1 for size in before) and inquiry.Num_Elements == 1
    if not sound or not 0 < frames <= _MOST_FRAMES or not 0 < numbers <= 3 * JOINTS:
        sizes = " x ".join(map(str, shape))
        raise InputError(f"{path} holds a Pose of {sizes}, wanted 1 x frames x {3 * JOINTS}")
    return frames


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path} is no CDF, or is cut short ({reason}); unpack it again")


def _stamp(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"{path} does not exist") from error
    return state.st_size, state.st_mtime_ns
