"""The photographs that estimates were made from, cut to their crops: of a data set, or of new pictures."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from deformlearn.camera import Crop
from deformlearn.data.estimates import Estimates
from deformlearn.data.images import decode_image, open_image, stored_image, to_pixels
from deformlearn.data.shards import read_images
from deformlearn.data.video import is_video, read_frames
from deformlearn.errors import InputError
from deformlearn.exports.people import frame_of, safe_name
from deformlearn.files import AnyPath

_PICTURES = frozenset(Image.registered_extensions())
"""Endings of pictures that can be read."""

_PERSON = re.compile(r"(_p[^_]*|-\d\d+)$")
"""What is added to a picture's name for each of its people: by `predict`, by `fit_photograph`."""

_LARGEST = 2048
"""Side of a crop beyond which it is made smaller (px); a texture holds no more."""


class Photos(ABC):
    """Where photographs are found by key."""

    @abstractmethod
    def of(self, one: Estimates) -> UInt8[Tensor, "3 size size"]:
        """The crop of the one person; if there is none, an InputError with the reason."""


class StoredPhotos(Photos):
    """The photographs of a split, read once and in its order, however people are asked for."""

    def __init__(self, data: AnyPath, split: str, keys: Sequence[str]) -> None:
        self._data = data
        self._stored = read_images(data, split, keys)
        self._waiting: dict[str, tuple[bytes | None, str]] = {}

    def of(self, one: Estimates) -> UInt8[Tensor, "3 size size"]:
        image, path = self._find(one.keys[0])
        if image is not None:
            return decode_image(image, min(open_image(image).width, _LARGEST))
        return to_pixels(open_image(stored_image(self._data, image, path)), _side(one), one.crop[0])

    def _find(self, key: str) -> tuple[bytes | None, str]:
        while key not in self._waiting:
            found = next(self._stored, None)
            if found is None:
                raise InputError(f"{self._data} holds no photograph of {key!r}")
            self._waiting.setdefault(found[0], found[1:])
        return self._waiting.pop(key)


class NewPhotos(Photos):
    """Pictures and videos that `predict` was given: a file, or a folder of them."""

    def __init__(self, place: Path, keys: Sequence[str]) -> None:
        if not place.exists():
            raise InputError(f"there is nothing at {place}; --images wants pictures or a video")
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        known = [file for file in files if is_video(file) or file.suffix.lower() in _PICTURES]
        self._place = place
        # A key is the picture's name, or what `predict` made of it.
        own = {file.stem: file for file in reversed(known)}
        self._files = {safe_name(name): file for name, file in own.items()} | own
        if not any(self._pictures(key) or self._video(key) for key in keys):
            raise InputError(
                f"{place} holds no picture of {keys[0]!r} or of anyone else who is wanted, and no video "
                f"that they are from; a picture is called as the person's key"
            )

    def of(self, one: Estimates) -> UInt8[Tensor, "3 size size"]:
        key = one.keys[0]
        pictures, video = self._pictures(key), self._video(key)
        if pictures:
            image = open_image(pictures[0], upright=True)
            if len(pictures) > 1 and not _is_whole(one.crop, image):
                names = " and ".join(file.name for file in pictures)
                raise InputError(
                    f"{self._place} holds {names}, and either may show {key!r}; take one away"
                )
        elif video is not None:
            path, frame = video
            image = next(image for _, image in read_frames(path, [frame]))
        else:
            raise InputError(
                f"{self._place} holds no picture of {key!r}, and no video that it is from"
            )
        return to_pixels(image, _side(one), one.crop[0])

    def _pictures(self, key: str) -> list[Path]:
        """The picture that is called so, and the one whose person may be called so."""
        names = dict.fromkeys((key, _PERSON.sub("", key)))
        files = [self._files[name] for name in names if name in self._files]
        return [file for file in files if not is_video(file)]

    def _video(self, key: str) -> tuple[Path, int] | None:
        """The video that a frame is of, and its number."""
        frame = frame_of(key)
        found = None if frame is None else self._files.get(frame.video)
        if frame is None or found is None or not is_video(found):
            return None
        return found, frame.number


def _is_whole(crop: Crop, image: Image.Image) -> bool:
    """Whether a person fills the picture, as `predict` takes it who is given no boxes."""
    whole = torch.tensor([image.width / 2, image.height / 2, max(image.size) / 2])
    return torch.equal(torch.cat([crop.centre[0], crop.half]), whole)


def _side(one: Estimates) -> int:
    return min(max(round(2 * one.crop.half.item()), 16), _LARGEST)
