"""Run-length masks of COCO files: the text of `counts` and the mask it stands for.

The format is pycocotools' (which the tests compare with). Its C code trusts what it reads and goes on
past the end of a crafted text; masks come with downloaded files, so they are decoded here, checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool

from deformlearn.errors import InputError

_LARGEST = 1 << 26
"""Pixels of a mask; a larger one is a wrong size."""


def decode_mask(rle: Any) -> Bool[np.ndarray, "h w"]:
    """The mask of {"size": [height, width], "counts": text or list of runs}."""
    size = rle.get("size") if isinstance(rle, dict) else None
    sound = isinstance(size, list) and len(size) == 2
    if not sound or not all(type(side) is int and side > 0 for side in size):  # type: ignore[union-attr]
        raise InputError("a mask is not run-length encoded: wanted {size: [height, width], counts}")
    height, width = size  # type: ignore[misc]
    if height * width > _LARGEST:
        raise InputError(f"a mask of {height} x {width} pixels is no mask of a person")
    counts = rle.get("counts")
    if isinstance(counts, str):
        counts = _runs(counts)
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts):
        raise InputError("a mask's counts are neither its text nor a list of runs")
    if sum(counts) != height * width:
        raise InputError(
            f"a mask's runs cover {sum(counts)} pixels, its size is {height} x {width}"
        )
    values = np.arange(len(counts)) % 2 == 1  # the first run is background
    return np.repeat(values, counts).reshape(width, height).T


def _runs(text: str) -> list[int]:
    """Run lengths of the compressed form.

    A number is a row of characters from "0" on: five bits each, the lowest first, a sixth bit says that
    more follow, and the highest of the five is the sign. From the fourth number on, each is the
    difference to the number two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise InputError("a mask's counts are not text as COCO's tools write it")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise InputError("a mask's counts end in the middle of a number")
    return runs
