"""Person crops as pixels: decoded, cut, resized, and the unreadable ones listed."""

from __future__ import annotations

import io
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from deformlearn.camera import Crop
from deformlearn.data.shards import People, read_images
from deformlearn.errors import InputError

_LARGEST_CROP = 20_000
"""Longest side of a crop (px); beyond it a box is a mistake, and cutting it would fill the memory."""

_IN_FLIGHT = 1024
"""Encoded images held at once."""


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be used, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Images:
    """The crops of a split that could be read."""

    pixels: UInt8[Tensor, "images 3 size size"]
    """RGB."""
    rows: Int[Tensor, "images"]
    """Which row of the split each one is."""
    unreadable: tuple[Unreadable, ...]
    """What became of the other rows."""


def load_images(
    folder: Path, split: str, people: People, size: int, *, workers: int | None = None
) -> Images:
    """The crop of each of these people of a split as `size` x `size` RGB, decoded by `workers` threads.

    Images that are stored whole, beside the data set, are cut by `people.crop`. A truncated, missing or
    foreign image costs its row, not the run; not one readable image is an InputError.
    """
    pixels = torch.empty(len(people), 3, size, size, dtype=torch.uint8)
    row_of = {key: row for row, key in enumerate(people.keys)}
    failures: dict[int, Unreadable] = {}

    def decode(stored: tuple[str, bytes | None, str]) -> None:
        key, image, path = stored
        row = row_of[key]
        try:
            if image is not None:
                pixels[row] = decode_image(image, size)
            else:
                pixels[row] = decode_image(folder / path, size, people.crop[row])
        except InputError as error:
            failures[row] = Unreadable(key, str(error))

    stored = read_images(folder, split, people.keys)
    with ThreadPoolExecutor(workers) as pool:
        while several := list(islice(stored, _IN_FLIGHT)):
            list(pool.map(decode, several))
    rows = torch.tensor([row for row in range(len(people)) if row not in failures])
    unreadable = tuple(failures[row] for row in sorted(failures))
    if len(rows) == 0:
        first = f"; {unreadable[0].key}: {unreadable[0].reason}" if unreadable else ""
        raise InputError(f"{folder} has no readable image in the split {split!r}{first}")
    return Images(pixels[rows] if failures else pixels, rows, unreadable)


def decode_image(
    source: bytes | Path, size: int, crop: Crop | None = None
) -> UInt8[Tensor, "3 size size"]:
    """One image, or the square `crop` of it, as `size` x `size` RGB; black beyond the image.

    Anything wrong with the file or the square is an InputError with the reason.
    """
    return to_pixels(open_image(source), size, crop)


def open_image(source: bytes | Path, *, upright: bool = False) -> Image.Image:
    """The decoded RGB image; `upright` obeys the camera's orientation tag (EXIF).

    Labels of public data sets refer to the pixels as stored, so only new photographs are turned.
    """
    name = "the image" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            turned = ImageOps.exif_transpose(image) if upright else image
            return turned.convert("RGB")
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow reports broken files by any of these.
        raise InputError(f"{name} cannot be decoded ({error})") from error


def to_pixels(
    image: Image.Image, size: int, crop: Crop | None = None
) -> UInt8[Tensor, "3 size size"]:
    """The image, or the square `crop` of it, resized with a filter that does not alias."""
    if crop is None:
        left, top, right, bottom = 0.0, 0.0, float(image.width), float(image.height)
    else:
        (x, y), half = crop.centre.tolist(), crop.half.item()
        if not (math.isfinite(x + y) and 0 < 2 * half <= _LARGEST_CROP):
            raise InputError(
                f"a crop of {2 * half:g} px about ({x:g}, {y:g}) cannot be cut; "
                f"its side must be between 0 and {_LARGEST_CROP} px"
            )
        left, top, right, bottom = x - half, y - half, x + half, y + half
        # Pillow resizes from fractional boxes, but only inside an image: first cut whole pixels.
        outer = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
        image = image.crop(outer)
        left, right = left - outer[0], right - outer[0]
        top, bottom = top - outer[1], bottom - outer[1]
    small = image.resize((size, size), Image.Resampling.BILINEAR, (left, top, right, bottom))
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()
