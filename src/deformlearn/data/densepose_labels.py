"""DensePose's labels in the boxes of detections, and the challenge's json files of them.

Whatever the format, a detection is a box and a window of labels whose first pixel is the box's corner,
rounded down, as the tools that write them paste it.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from deformlearn.data.densepose import (
    MIN_PIXELS,
    DetectedPerson,
    decoded,
    part_channels,
    person_of_labels,
)
from deformlearn.data.json_stream import read_places
from deformlearn.data.soundness import Rejected
from deformlearn.densepose_charts import PARTS
from deformlearn.errors import InputError

MIN_SCORE = 0.65
"""Detections below are left out, as DensePose's own tool leaves them out of IUV images."""

_VARIANCE_FLOOR = 0.01
"""What detectron2 adds to every variance (UV_CONFIDENCE.EPSILON)."""

_SINGLE = 1e-5
"""Of 255 steps: what 32 bits lose of a label of eight bits. Such a label is given back as it was, so
that it is the same person whichever format it came through."""

_LARGEST = 1 << 26
"""Pixels of a box beyond which a shape is taken for damage."""


@dataclass(frozen=True, eq=False)
class Window:
    """Labels of every pixel of a box."""

    part: Int[np.ndarray, "h w"]
    """0 (background) to 24."""
    uv: Float[np.ndarray, "2 h w"]
    """Chart coordinates in [0, 1]."""
    weights: Float[np.ndarray, "h w"]


@dataclass(frozen=True, eq=False)
class Detection:
    """One person of an image as a file of detections lists it."""

    where: str
    """File and row."""
    score: float | None
    box: tuple[float, float, float, float]
    """Left, top, width, height (source px)."""
    window: Window


class ImagePrediction(ABC):
    """What a file says of one image; small until it is asked for its people, and can be sent away."""

    @abstractmethod
    def people(
        self, size: tuple[int, int] | None, min_pixels: int = MIN_PIXELS
    ) -> tuple[list[DetectedPerson], list[Rejected]]:
        """Everyone in the image, by ascending score, and the detections that make no sense.

        `size` is the image's width and height; None where it is not known.
        """


def people_of(
    detections: Sequence[Detection | Rejected],
    size: tuple[int, int] | None,
    min_pixels: int = MIN_PIXELS,
    min_score: float = MIN_SCORE,
) -> tuple[list[DetectedPerson], list[Rejected]]:
    """The people of one image's detections, by ascending score, and those that could not be used."""
    rejected = [one for one in detections if isinstance(one, Rejected)]
    sound = [one for one in detections if isinstance(one, Detection)]
    sound.sort(key=lambda one: 0.0 if one.score is None else one.score)
    people = []
    for index, one in enumerate(sound):
        if one.score is not None and one.score < min_score:
            rejected.append(
                Rejected(one.where, f"score {one.score:.2f}, at least {min_score} is asked for")
            )
            continue
        try:
            people.append(_person(index, one, size, min_pixels))
        except InputError as error:
            rejected.append(Rejected(one.where, str(error)))
    return people, rejected


def _person(
    index: int, one: Detection, size: tuple[int, int] | None, min_pixels: int
) -> DetectedPerson:
    window = one.window
    sound = (window.part > 0) & np.isfinite(window.uv).all(0) & (window.weights > 0)
    y, x = np.nonzero(sound)
    pixels = np.stack([x + math.floor(one.box[0]), y + math.floor(one.box[1])], -1)
    if not len(pixels):
        raise InputError("no pixel of its box is labelled")
    inside = (pixels >= 0).all(-1)
    if size is not None:
        inside &= (pixels < size).all(-1)
    if not inside.any():
        raise InputError(f"its box {_numbers(one.box)} lies outside the image, {size}")
    y, x = y[inside], x[inside]
    u, v = window.uv[:, y, x].astype(np.float64).clip(0, 1)
    labels = (window.part[y, x].astype(np.int64), u, v, window.weights[y, x].astype(np.float64))
    return person_of_labels(index, one.score, pixels[inside], labels, size, min_pixels)


def window_of_bytes(iuv: UInt8[np.ndarray, "3 h w"]) -> Window:
    """Labels of eight bits: part, 255 u, 255 v."""
    return Window(_parts(iuv[0]), iuv[1:] / 255.0, np.ones(iuv.shape[1:]))


def window_of_floats(
    labels: Shaped[np.ndarray, "h w"],
    uv: Shaped[np.ndarray, "2 h w"],
    sigma: Shaped[np.ndarray, "h w"] | None,
    kappas: Sequence[Shaped[np.ndarray, "h w"]] = (),
) -> Window:
    """Labels of detectron2's chart results; `sigma_2` and both kappas become weights.

    The network's sigma_2 s and kappas k say that (u, v) has the covariance (softplus(s) + 0.01) I +
    k k^T; the weight is 0.01 over its mean variance softplus(s) + 0.01 + |k|^2 / 2.
    """
    weights = np.ones(labels.shape)
    if sigma is not None:
        with np.errstate(invalid="ignore", over="ignore"):
            variance = np.logaddexp(0, sigma.astype(np.float64)) + _VARIANCE_FLOOR
            for kappa in kappas:
                variance = variance + kappa.astype(np.float64) ** 2 / 2
        weights = np.where(np.isfinite(variance), _VARIANCE_FLOOR / variance, 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        exact = uv.astype(np.float64)
        whole = (exact * 255).round()
        same = np.abs(exact * 255 - whole) < _SINGLE
    return Window(_parts(labels), np.where(same, whole / 255, exact), weights)


def _parts(labels: Shaped[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    if labels.size and not 0 <= labels.min() <= labels.max() <= PARTS:
        raise InputError(
            f"its parts go from {labels.min()} to {labels.max()}, not from 0 to {PARTS}"
        )
    return labels.astype(np.int64)


def bytes_of_png(text: Any, shape: Any) -> UInt8[np.ndarray, "3 h w"]:
    """Labels written as a base64 PNG, whose shape stands beside it (channels, height, width)."""
    if not isinstance(text, str):
        raise InputError(f"its PNG is no text but a {type(text).__name__}")
    if not (
        isinstance(shape, (list, tuple))
        and len(shape) == 3
        and all(isinstance(side, int) and side > 0 for side in shape)
        and shape[0] == 3
        and shape[1] * shape[2] <= _LARGEST
    ):
        raise InputError(f"its shape is {_numbers(shape)}; wanted 3, height, width")
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"its PNG is not base64 ({error})") from error
    image = decoded(content, "its PNG", size=(shape[2], shape[1]))
    if image.mode != "RGB":
        raise InputError(f"its PNG has mode {image.mode}; wanted three 8-bit channels")
    return np.moveaxis(np.asarray(image), -1, 0)


def numbers(values: Any, count: int, what: str) -> tuple[float, ...]:
    """So many finite numbers; anything else is an InputError about `what`."""
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"its {what} is {_numbers(values)}; wanted {count} numbers") from error
    if len(found) != count or not all(math.isfinite(value) for value in found):
        raise InputError(f"its {what} is {_numbers(values)}; wanted {count} finite numbers")
    return found


def require_window(shape: tuple[int, ...], box: tuple[float, float, float, float]) -> None:
    """Labels are as large as the box they fill, to the pixel that tools round differently."""
    height, width = shape
    if not max(map(abs, box)) < _LARGEST:
        raise InputError(f"its box {_numbers(box)} is larger than any image")
    if abs(max(int(box[2]), 1) - width) > 1 or abs(max(int(box[3]), 1) - height) > 1:
        raise InputError(
            f"its labels are {width}x{height} pixels but its box is {box[2]:.0f}x{box[3]:.0f}"
        )


def _numbers(values: Any) -> str:
    return " ".join(str(values).split())[:60]


# The challenge's json


@dataclass(frozen=True)
class ChallengeImage(ImagePrediction):
    """The results of one image in a challenge json."""

    path: Path
    rows: tuple[tuple[int, int, int], ...]
    """Number of the result in the file, its first byte and its length."""

    def people(
        self, size: tuple[int, int] | None, min_pixels: int = MIN_PIXELS
    ) -> tuple[list[DetectedPerson], list[Rejected]]:
        """See `ImagePrediction`."""
        found: list[Detection | Rejected] = []
        with open(self.path, "rb") as file:
            for number, start, length in self.rows:
                file.seek(start)
                where = f"{self.path}: result {number}"
                try:
                    found.append(_detection(where, json.loads(file.read(length))))
                except InputError as error:
                    found.append(Rejected(where, str(error)))
                except ValueError as error:
                    raise InputError(f"{self.path} changed while it was read") from error
        return people_of(found, size, min_pixels)


def _detection(where: str, result: dict[str, Any]) -> Detection:
    if missing := [name for name in ("bbox", "uv_shape", "uv_data") if name not in result]:
        raise InputError(f"it has no {', '.join(missing)}")
    x, y, width, height = numbers(result["bbox"], 4, "bbox")
    if width <= 0 or height <= 0:
        raise InputError(f"its bbox has no size: {_numbers(result['bbox'])}")
    score = None if result.get("score") is None else numbers([result["score"]], 1, "score")[0]
    iuv = bytes_of_png(result["uv_data"], result["uv_shape"])
    require_window(iuv.shape[1:], (x, y, width, height))
    # Officially part, U, V; files written through OpenCV have them the other way round.
    if part_channels(np.moveaxis(iuv, 0, -1)) == [2]:
        iuv = iuv[::-1]
    return Detection(where, score, (x, y, width, height), window_of_bytes(iuv))


def read_challenge(path: Path) -> Iterator[tuple[str | int, tuple[int, int, int]] | Rejected]:
    """Image id and place of every result of a challenge json; only a part of it is in memory.

    A file that is no list of results, or that ends too early, is an InputError.
    """
    wanted = "DensePose's challenge json: a list of results with image_id, bbox, uv_shape, uv_data"
    try:
        for number, (value, start, length) in enumerate(read_places(path)):
            where = f"{path}: result {number}"
            identity = value.get("image_id") if isinstance(value, dict) else None
            if not isinstance(value, dict):
                yield Rejected(where, f"it is no result but a {type(value).__name__}")
            elif isinstance(identity, bool) or not isinstance(identity, (int, str)):
                yield Rejected(where, "it has no image_id")
            else:
                yield identity, (number, start, length)
    except InputError as error:
        raise InputError(f"{error}; wanted {wanted}") from error
