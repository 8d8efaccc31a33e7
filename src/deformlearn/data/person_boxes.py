"""Images of data sets and the boxes of people in them: found, measured, cut to the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from deformlearn.data.images import require_eight_bits
from deformlearn.errors import InputError

Box = tuple[float, float, float, float]
"""Left, top, width, height (px)."""

HULL_MARGIN = 0.1
"""A person reaches this much farther than their key points, in parts of the hull's longer side."""

OUTSIDE_PX = 1.0
"""A label farther outside its image than this is wrong; nearer, it was rounded."""


def image_size(path: Path) -> tuple[int, int]:
    """Width and height by the file's header; missing and foreign files are InputErrors."""
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"its image {path} is missing") from error
    try:
        return _header(path, stat.st_mtime_ns, stat.st_size)
    except InputError:
        raise
    except Exception as error:  # a damaged file may fail anywhere in Pillow
        raise InputError(f"its image {path} cannot be read") from error


@lru_cache(4096)
def _header(path: Path, modified: int, length: int) -> tuple[int, int]:
    """Decoding all images of a large set only to check them would take hours."""
    with Image.open(path) as image:
        require_eight_bits(image, f"its image {path}")
        return image.size


def given_box(values: Any) -> Box | None:
    """A box [x, y, width, height] with an extent; None for anything else."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 4:
        return None
    numbers = [finite(value) for value in values]
    if any(number is None for number in numbers):
        return None
    x, y, width, height = (float(number) for number in numbers if number is not None)
    # Beyond this, sums lose whole pixels; no image is so large.
    small = max(abs(x), abs(y), width, height) < 1e7
    return (x, y, width, height) if width > 0 and height > 0 and small else None


def finite(value: Any) -> float | None:
    """The value as a finite number; None for anything else, also for truth values."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def hull_box(points: Float[np.ndarray, "n 2"]) -> Box:
    """The box about these key points and the flesh around them."""
    low, high = points.min(0), points.max(0)
    margin = HULL_MARGIN * max(float((high - low).max()), 1.0)
    left, top = (low - margin).tolist()
    width, height = (high - low + 2 * margin).tolist()
    return left, top, width, height


def box_about(box: Box, points: Float[np.ndarray, "n 2"]) -> Box:
    """The box, made larger where points lie outside it."""
    low = np.minimum(points.min(0, initial=np.inf), box[:2])
    high = np.maximum(points.max(0, initial=-np.inf), np.add(box[:2], box[2:]))
    left, top = low.tolist()
    width, height = (high - low).tolist()
    return left, top, width, height


def box_in_image(box: Box, size: tuple[int, int]) -> tuple[Box, tuple[str, ...]]:
    """The part of the box inside an image, and a note where more than a rounding was cut off."""
    left, top, width, height = box
    right, bottom = left + width, top + height
    inside = max(left, 0.0), max(top, 0.0), min(right, size[0]), min(bottom, size[1])
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise InputError(
            f"its box {_short(box)} lies outside its image of {size[0]}x{size[1]} pixels"
        )
    beyond = max(-left, -top, right - size[0], bottom - size[1])
    note = (f"its box reached {beyond:.0f} px beyond the image and was cut",)
    cut = inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1]
    return cut, note if beyond > OUTSIDE_PX else ()


def require_inside(points: Float[np.ndarray, "n 2"], size: tuple[int, int]) -> None:
    """Key points outside their image are wrong labels, or labels of another image."""
    if len(points) and (np.maximum(-points, points - size) > OUTSIDE_PX).any():
        raise InputError(f"a key point lies outside its image of {size[0]}x{size[1]} pixels")


def _short(box: Box) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
