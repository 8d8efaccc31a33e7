"""DensePose's predictions by image, whatever the format they are in."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deformlearn.data.densepose import (
    MIN_PIXELS,
    DetectedPerson,
    draw_pixels,
    read_iuv,
)
from deformlearn.data.densepose_dumps import read_dump
from deformlearn.data.densepose_labels import ChallengeImage, ImagePrediction, read_challenge
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import DensePoints, Frame
from deformlearn.errors import InputError

_WANTED = (
    "DensePose's results: *_IUV.png or a folder of them, a challenge json, or a dump of "
    "apply_net.py"
)

_SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff .gif .ppm .jp2".split())
"""What is cut off an image's name. Other dots are part of it: S9_Directions_1.60457274_000005."""


@dataclass(frozen=True)
class IuvImage(ImagePrediction):
    """An IUV image and its INDS image."""

    iuv: Path
    inds: Path | None

    def people(
        self, size: tuple[int, int] | None, min_pixels: int = MIN_PIXELS
    ) -> tuple[list[DetectedPerson], list[Rejected]]:
        """See `ImagePrediction`."""
        return read_iuv(self.iuv, self.inds, size, min_pixels=min_pixels), []


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a file or a folder says of which image. Labels stay in the file until they are asked for."""

    path: Path
    images: Mapping[str, ImagePrediction]
    """By the name that the file gives the image, without its suffix; challenge files give numbers."""
    rejected: tuple[Rejected, ...] = ()
    """Rows that name no image or hold nothing to read."""
    numbered: bool = False
    """Names are the numbers that COCO's image names end with."""

    def of(self, image: Path | Frame) -> ImagePrediction | None:
        """The prediction of an image; None where there is none.

        Images are known by the last parts of their paths, suffixes aside: the name alone where it is
        unique, else as many folders as it takes. Two that fit equally well are an InputError.
        """
        parts = _parts(image)
        if self.numbered:
            number = re.search(r"\d+$", parts[-1])
            return self.images.get(str(int(number[0]))) if number else None
        fitting = self._by_stem.get(parts[-1], [])
        if len(fitting) > 1:
            shared = [_shared(parts, Path(name).parts) for name in fitting]
            fitting = [name for name, n in zip(fitting, shared, strict=True) if n == max(shared)]
            if len(fitting) > 1:
                raise InputError(
                    f"{self.path} has {len(fitting)} images that could be {'/'.join(parts[-3:])} "
                    f"({fitting[0]}, {fitting[1]}); keep the folders that tell them apart"
                )
        return self.images[fitting[0]] if fitting else None

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for name in self.images:
            found[Path(name).name].append(name)
        return dict(found)


def open_predictions(
    path: Path, inds: Path | None = None, image_list: Path | None = None
) -> Predictions:
    """Predictions of an `*_IUV.png`, a folder of them, a challenge json or a detectron2 dump.

    The kind is told by the content. `inds` is the INDS image of a single IUV image, or the folder of
    them (else `*_INDS.png` beside each IUV image is taken). `image_list` is a
    COCO-style json whose `images` name the ids of a challenge json, which otherwise are the numbers
    that image names end with. Anything else is an InputError.
    """
    path = Path(path)
    if path.is_dir():
        return Predictions(path, _iuv_images(path, inds))
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; wanted {_WANTED}") from error
    if head.startswith(b"\x89PNG"):
        name = path.stem.removesuffix("_IUV")
        if inds is None or inds.is_dir():
            inds = _inds_of(path, inds or path.parent)
        return Predictions(path, {name: IuvImage(path, inds)})
    if inds is not None:
        raise InputError(
            f"an INDS image goes with an IUV png; {path} tells its people apart itself"
        )
    if head.lstrip()[:1] in (b"[", b"{"):
        return _challenge(path, image_list)
    if head[:2] != b"PK" and not _may_be_pickle(head):
        raise InputError(f"{path} is none of {_WANTED}")
    found: list[_Named] = []
    rejected: list[Rejected] = []
    for one in read_dump(path):
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            found.append((one[0], one[1], [one[1].where]))
    images, nameless = _by_name(found)
    return Predictions(path, images, (*rejected, *nameless))


_Named = tuple[str, ImagePrediction, Sequence[str]]
"""An image's name in the file, what is said of it, and where."""


def _by_name(found: Iterable[_Named]) -> tuple[dict[str, ImagePrediction], list[Rejected]]:
    """Predictions by their images' names without suffixes, and those that this does not tell apart."""
    images: dict[str, ImagePrediction] = {}
    rejected: list[Rejected] = []
    together: dict[str, list[_Named]] = defaultdict(list)
    for one in found:
        if (name := _without_suffix(one[0])) is None:
            rejected += [Rejected(where, f"{one[0]!r} names no image") for where in one[2]]
        else:
            together[name].append(one)
    for name, (first, *others) in together.items():
        given = list(dict.fromkeys(one[0] for one in (first, *others)))
        reason = f"{given[0]} stands in the file twice"
        if len(given) == 1:
            images[name] = first[1]
        else:
            others = [first, *others]
            reason = (
                f"{given[0]} and {given[1]} differ in their suffix alone; rename one of the images"
            )
        rejected += [Rejected(where, reason) for one in others for where in one[2]]
    return images, rejected


def _challenge(path: Path, image_list: Path | None) -> Predictions:
    names = {} if image_list is None else _image_names(image_list)
    rows: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    rejected: list[Rejected] = []
    for one in read_challenge(path):
        if isinstance(one, Rejected):
            rejected.append(one)
            continue
        identity, place = one
        if image_list is None:
            rows[str(identity)].append(place)
        elif identity in names:
            rows[names[identity]].append(place)
        else:
            where = f"{path}: result {place[0]}"
            rejected.append(Rejected(where, f"{image_list} has no image with the id {identity}"))
    numbered = image_list is None and all(name.isdigit() for name in rows)
    found = {name: ChallengeImage(path.absolute(), tuple(places)) for name, places in rows.items()}
    if numbered:
        return Predictions(path, found, tuple(rejected), numbered)
    images, nameless = _by_name(
        (name, one, [f"{path}: result {number}" for number, _, _ in one.rows])
        for name, one in found.items()
    )
    return Predictions(path, images, (*rejected, *nameless))


def _image_names(path: Path) -> dict[Any, str]:
    try:
        images = json.loads(path.read_bytes())["images"]
        return {one["id"]: str(one["file_name"]) for one in images}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is no COCO-style json with a list `images` of id and file_name"
        ) from error


def _iuv_images(folder: Path, inds: Path | None) -> dict[str, ImagePrediction]:
    root = folder.absolute()
    if inds is not None and not inds.is_dir():
        raise InputError(f"{folder} is a folder of IUV images; {inds} is no folder of INDS images")
    beside = (inds or folder).absolute()
    found: dict[str, ImagePrediction] = {}
    for file in sorted(root.rglob("*_IUV.png")):
        within = file.parent.relative_to(root)
        name = str(within / file.stem.removesuffix("_IUV"))
        found[name] = IuvImage(file, _inds_of(file, beside / within))
    if not found:
        raise InputError(f"{folder} has no *_IUV.png in it; wanted {_WANTED}")
    return found


def _inds_of(iuv: Path, folder: Path) -> Path | None:
    inds = folder / f"{iuv.stem.removesuffix('_IUV')}_INDS.png"
    return inds if inds != iuv and inds.is_file() else None


def _may_be_pickle(head: bytes) -> bool:
    """Pickles of protocol 2 and later begin with it; older ones with a mark or an empty list."""
    return head[:1] in (b"\x80", b"(", b"]")


def _without_suffix(name: str) -> str | None:
    """An image's name without the suffix of its format; None for what names nothing, as "." or "/"."""
    path = Path(name)
    if path.name in ("", ".."):
        return None
    return str(path.with_suffix("") if path.suffix.lower() in _SUFFIXES else path)


def _parts(image: Path | Frame) -> tuple[str, ...]:
    if isinstance(image, Frame):
        return (*image.video.parent.parts, image.name)
    return image.with_suffix("").parts


def _shared(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """How many last parts two paths share."""
    count = 0
    for a, b in zip(reversed(first), reversed(second), strict=False):
        if a != b:
            break
        count += 1
    return count


def dense_points(person: DetectedPerson, points: int, seed: int) -> DensePoints:
    """Up to `points` of a person's labelled pixels; see `draw_pixels`."""
    chosen = draw_pixels(person, points, seed)
    return DensePoints(
        person.pixels[chosen] + 0.5,
        person.part[chosen],
        np.stack([person.u[chosen], person.v[chosen]], -1),
        person.weights[chosen],
    )
