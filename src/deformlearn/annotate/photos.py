"""The photographs to annotate: found in a folder, measured, and sent to the browser.

Everything is in pixels as they are stored. A camera's orientation tag (EXIF) only says how the page
shows them; labels, crops and training all refer to the stored grid (data/images.py). A TIFF alone has
none: Pillow decodes it upright.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from deformlearn.data.images import open_image, require_eight_bits
from deformlearn.data.soundness import Rejected
from deformlearn.errors import InputError

_SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff".split())

_AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats every browser shows, by Pillow's names."""

_PLAIN_MODES = ("RGB", "L")
"""Colours that need no conversion; others (CMYK, 16 bit, palettes) are converted as for training."""

_LOSSLESS_UP_TO = 4_000_000
"""Converted images up to this many pixels are sent as png, larger ones as a fine JPEG."""

_LONGEST_NAME = 230
"""Bytes of a file's name. Its journal's is longer, and most file systems take 255."""

UPRIGHT = {
    1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1),
    5: (0, 1, 1, 0), 6: (0, -1, 1, 0), 7: (0, -1, -1, 0), 8: (0, 1, -1, 0),
}  # fmt: skip
"""EXIF orientation: the matrix (rows) that takes stored x, y to x, y as shown, about the middle."""


@dataclass(frozen=True)
class Photo:
    """One photograph."""

    name: str
    """Path relative to the folder, with forward slashes."""
    path: Path
    width: int
    """Stored pixels."""
    height: int
    upright: tuple[int, int, int, int] = (1, 0, 0, 1)
    """How it is shown (see UPRIGHT)."""

    @property
    def key(self) -> str:
        """The name as part of a row's key."""
        return self.name.replace("/", "--")


def find_photos(folder: Path, besides: Path | None = None) -> tuple[list[Photo], list[Rejected]]:
    """All photographs of a folder and its sub-folders, by name, and the files that cannot be used.

    Those are the ones that cannot be read, and the ones whose name no label could be saved under. The
    folder `besides` is passed over: the results may lie among the images. Not one usable image is an
    InputError.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder your photographs are in")
    if besides is not None and folder.resolve().is_relative_to(besides.resolve()):
        raise InputError(
            f"the results would lie in {besides}, which holds the photographs; give another --out"
        )
    photos: list[Photo] = []
    rejected: list[Rejected] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() not in _SUFFIXES or hidden or not path.is_file():
            continue
        if besides is not None and path.resolve().is_relative_to(besides.resolve()):
            continue
        try:
            photos.append(_measured(relative.as_posix(), path))
        except InputError as error:
            rejected.append(Rejected(_printable(relative.as_posix()), str(error)))
    if not photos:
        first = f"; {rejected[0].where}: {rejected[0].reason}" if rejected else ""
        raise InputError(f"{folder} has no readable image ({', '.join(sorted(_SUFFIXES))}){first}")
    twice = [key for key, count in Counter(photo.key for photo in photos).items() if count > 1]
    if twice:
        raise InputError(f"{folder} has two images that would be called {twice[0]}; rename one")
    return photos, rejected


def encoded(photo: Photo) -> tuple[str, bytes]:
    """Media type and bytes that show a photograph's stored pixels in a browser.

    A file that cannot be read to its end is an InputError.
    """
    image = open_image(photo.path)
    if image.size != (photo.width, photo.height):
        raise InputError(f"{photo.name} is another image than at the start; start again")
    with Image.open(photo.path) as stored:
        kind = _AS_THEY_ARE.get(stored.format or "")
        plain = stored.mode in _PLAIN_MODES and photo.upright == UPRIGHT[1]
    if kind and plain:
        # Without an orientation tag the browser shows the pixels as they are.
        return kind, photo.path.read_bytes()
    buffer = io.BytesIO()
    if image.width * image.height <= _LOSSLESS_UP_TO:
        image.save(buffer, "png", compress_level=1)
        return "image/png", buffer.getvalue()
    image.save(buffer, "jpeg", quality=95)
    return "image/jpeg", buffer.getvalue()


def _measured(name: str, path: Path) -> Photo:
    """A photograph's size and orientation, without decoding its pixels."""
    # Rows and json name the whole path, and hold Unicode; a file system takes any bytes for a name.
    if _printable(where := str(path.absolute())) != where:
        raise InputError("its name, or that of a folder it is in, is not UTF-8; rename it")
    if len(path.name.encode()) > _LONGEST_NAME:
        raise InputError(f"its name has more than {_LONGEST_NAME} bytes; rename it")
    try:
        with Image.open(path) as image:
            require_eight_bits(image, "it")
            # Pillow decodes a whole png to look for a tag behind its pixels, where no camera puts it.
            tagged = image.format != "PNG" or "exif" in image.info
            tag = image.getexif().get(ExifTags.Base.Orientation, 1) if tagged else 1
            if image.format == "TIFF" and tag in UPRIGHT and tag != 1:
                # Pillow turns a TIFF as it decodes it, for training as well: nothing is left to be turned.
                image.load()
                tag = 1
            width, height = image.size
    except Exception as error:  # a damaged file may fail anywhere in Pillow
        raise InputError(f"cannot be read as an image ({error})") from error
    return Photo(name, path, width, height, UPRIGHT.get(tag, UPRIGHT[1]))


def _printable(name: str) -> str:
    """The name with the bytes that are no UTF-8 as escapes."""
    return name.encode(errors="backslashreplace").decode()
