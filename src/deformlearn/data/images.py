"""Person crops as pixels: decoded, cut, resized, in memory or mapped; the unreadable ones listed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from deformlearn.camera import Crop
from deformlearn.data.shards import People, read_images, shards
from deformlearn.data.tables import facts
from deformlearn.errors import InputError
from deformlearn.files import AnyPath, whole_file, write_atomically

_LARGEST_CROP = 20_000
"""Longest side of a crop (px); beyond it a box is a mistake, and cutting it would fill the memory."""

_IN_FLIGHT = 1024
"""Encoded images held at once."""

_CONTAINER = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how much memory a container has ("max": as much as the machine)."""


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
    folder: AnyPath,
    split: str,
    people: People,
    size: int,
    *,
    workers: int | None = None,
    cache: Path | None = None,
    in_memory: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Images:
    """The crop of each of these people of a split as `size` x `size` RGB, decoded by `workers` threads.

    Images that are stored whole, beside the data set, are cut by `people.crop`. A truncated, missing or
    foreign image costs its row, not the run; not one readable image is an InputError.

    More than `in_memory` bytes of pixels (a quarter of the machine's memory) are decoded into a file in
    the folder `cache`, if one is given, and mapped from there: they may be more than the memory holds.
    The next call takes the file as it is, unless a shard or the people have changed. `progress` is told
    how many people were looked for.
    """
    source = _Source(folder, split, people, size, workers, progress)
    limit = _memory() // 4 if in_memory is None else in_memory
    if cache is not None and len(people) * source.image_bytes > limit:
        return _mapped(source, cache)
    pixels = torch.empty(len(people), 3, size, size, dtype=torch.uint8)
    count = 0
    failures: dict[int, str] = {}
    for _, several in source.decoded(failures):
        pixels[count : count + len(several)] = several
        count += len(several)
    source.require_some(failures)
    return source.images(pixels[:count], failures)


def stream_images(
    folder: AnyPath, split: str, people: People, size: int, *, workers: int | None = None
) -> Iterator[Images]:
    """What `load_images` loads, at most a thousand at a time; the last part names the unreadable."""
    source = _Source(folder, split, people, size, workers)
    failures: dict[int, str] = {}
    for rows, pixels in source.decoded(failures):
        yield Images(pixels, torch.tensor(rows), ())
    none = torch.empty(0, 3, size, size, dtype=torch.uint8)
    yield Images(none, torch.empty(0, dtype=torch.long), source.unreadable(failures))


@dataclass(frozen=True)
class _Source:
    """Where the pixels of a split come from."""

    folder: AnyPath
    split: str
    people: People
    size: int
    workers: int | None
    progress: Callable[[int], None] = lambda done: None

    @property
    def image_bytes(self) -> int:
        return 3 * self.size * self.size

    def decoded(
        self, failures: dict[int, str]
    ) -> Iterator[tuple[list[int], UInt8[Tensor, "some 3 size size"]]]:
        """The readable images and their rows, some at a time; `failures` is told why others are not."""
        row_of: dict[str, int] = {}
        for row, key in enumerate(self.people.keys):
            row_of.setdefault(key, row)
        missing = set(range(len(self.people)))

        def decode(stored: tuple[str, bytes | None, str | None]) -> Tensor | str:
            key, image, path = stored
            row = row_of[key]
            try:
                crop = None if image is not None else self.people.crop[row]
                return decode_image(stored_image(self.folder, image, path), self.size, crop)
            except InputError as error:
                return str(error)

        broken: list[str] = []
        stored = read_images(self.folder, self.split, self.people.keys, unreadable=broken)
        with ThreadPoolExecutor(self.workers) as pool:
            while several := list(islice(stored, _IN_FLIGHT)):
                rows, good = [], []
                for (key, _, _), found in zip(several, pool.map(decode, several), strict=True):
                    row = row_of[key]
                    if row not in missing:
                        continue  # of two people with one key the first has the image
                    missing.discard(row)
                    if isinstance(found, str):
                        failures[row] = found
                    else:
                        rows.append(row)
                        good.append(found)
                self.progress(len(self.people) - len(missing))
                if good:
                    yield rows, torch.stack(good)
        gone = "its shard has gone, or holds another image by that key"
        failures |= dict.fromkeys(missing, "; ".join(broken) or gone)

    def require_some(self, failures: dict[int, str]) -> None:
        """Not one readable image is an InputError."""
        if len(failures) == len(self.people):
            first = min(failures)
            raise InputError(
                f"{self.folder} has no readable image in the split {self.split!r}; "
                f"{self.people.keys[first]}: {failures[first]}"
            )

    def images(self, pixels: Tensor, failures: dict[int, str]) -> Images:
        """The decoded pixels, and which people they are of."""
        rows = torch.tensor([row for row in range(len(self.people)) if row not in failures])
        return Images(pixels, rows, self.unreadable(failures))

    def unreadable(self, failures: dict[int, str]) -> tuple[Unreadable, ...]:
        """Whose images they are, in order."""
        return tuple(Unreadable(self.people.keys[row], failures[row]) for row in sorted(failures))

    def digest(self) -> str:
        """Changes with the people, their crops and the shards their images are in."""
        found = hashlib.sha256("\0".join(self.people.keys).encode())
        for tensor in self.people.crop.tensors():
            found.update(tensor.contiguous().numpy().tobytes())
        # Not the time of a change: copies of a data set may differ in it.
        for shard in shards(self.folder, "observations", self.split):
            found.update(f"{shard.name} {facts(shard)}\0".encode())
        return found.hexdigest()[:16]


def _mapped(source: _Source, cache: Path) -> Images:
    """The images in a file: taken as it is if it is this split's, else decoded into it."""
    name = f"{source.split}-{source.size}px"
    pixels, notes = cache / f"{name}.pixels", cache / f"{name}.json"
    digest = source.digest()
    kept = _read_notes(notes)
    wanted = kept.get("images", 0) * source.image_bytes
    whole = wanted and pixels.exists() and pixels.stat().st_size == wanted
    if kept.get("digest") != digest or not whole:
        failures: dict[int, str] = {}
        count = 0
        notes.unlink(missing_ok=True)
        for left_over in cache.glob(f".{name}.pixels.*.part"):
            left_over.unlink(missing_ok=True)
        with whole_file(pixels) as file:
            for _, several in source.decoded(failures):
                file.write(several.numpy().data)
                count += len(several)
            source.require_some(failures)
        kept = {"digest": digest, "images": count, "failures": failures}
        # Last: while there are no notes, the pixels are not believed.
        write_atomically(notes, json.dumps(kept).encode())
    count = kept["images"]
    failures = {int(row): reason for row, reason in kept["failures"].items()}
    return source.images(_in_file(pixels, (count, 3, source.size, source.size)), failures)


def _in_file(path: Path, shape: tuple[int, int, int, int]) -> UInt8[Tensor, "images 3 size size"]:
    """The bytes of a file that are read when they are used. They must not be written to.

    Linux refuses a mapping that could be written to where it is larger than the memory.
    """
    mapped = np.memmap(path, np.uint8, "r", shape=shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(mapped)


def _read_notes(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


_UNKNOWN_MEMORY = 8 << 30
"""What a machine is taken to have that does not say."""


def _memory() -> int:
    """Bytes of memory that this process may have: the machine's, or its container's."""
    sizes = [_UNKNOWN_MEMORY]
    if hasattr(os, "sysconf"):  # not on Windows
        sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):
        sizes.append(int(_CONTAINER.read_text()))
    return min(sizes)


def decode_image(
    source: bytes | AnyPath, size: int, crop: Crop | None = None
) -> UInt8[Tensor, "3 size size"]:
    """One image, or the square `crop` of it, as `size` x `size` RGB; black beyond the image.

    Anything wrong with the file or the square is an InputError with the reason.
    """
    return to_pixels(open_image(source), size, crop)


def stored_image(folder: AnyPath, image: bytes | None, path: str | None) -> bytes | AnyPath:
    """Where the pixels of a row are: its own encoded crop, or an image beside the data set."""
    if image is None and not path:
        raise InputError("it has no image and no image_path")
    return folder / str(path) if image is None else image


def open_image(source: bytes | AnyPath, *, upright: bool = False) -> Image.Image:
    """The decoded RGB image; `upright` obeys the camera's orientation tag (EXIF).

    Labels of public data sets refer to the pixels as stored, so only new photographs are turned.
    """
    name = "the image" if isinstance(source, bytes) else str(source)
    try:
        if not isinstance(source, (bytes, Path)):
            source = source.read_bytes()  # an object store
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            require_eight_bits(image, name)
            return (_turned(image) if upright else image).convert("RGB")
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist") from error
    except UnidentifiedImageError as error:  # its own message would name an address in memory
        raise InputError(f"{name} cannot be decoded (no known image format)") from error
    except Exception as error:  # a damaged file may fail anywhere in Pillow, also as a struct.error
        reason = str(error) or type(error).__name__
        raise InputError(f"{name} cannot be decoded ({reason})") from error


def require_eight_bits(image: Image.Image, name: str) -> None:
    """Numbers beyond 255 are an InputError: as colours they would all be white, or black."""
    if image.mode.startswith(("I", "F")):
        kind = "floating-point" if image.mode == "F" else "16 or 32-bit"
        raise InputError(f"{name} has {kind} pixels; save it with 8 bits a channel")


def _turned(image: Image.Image) -> Image.Image:
    """The image as its camera was held. Pillow's own way fails where any other EXIF tag is damaged."""
    image.load()  # turns a TIFF, and takes the tag away
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the EXIF orientation: what makes an image upright."""


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
