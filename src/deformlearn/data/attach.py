"""DensePose's predictions for people whom another data set describes: matched by image and by box."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deformlearn.data.densepose import DetectedPerson, photo_size
from deformlearn.data.predictions import Predictions, dense_points, open_predictions
from deformlearn.data.sources import Frame, Person
from deformlearn.errors import InputError

MIN_OVERLAP = 0.5
"""Intersection over union from which two boxes are the same person."""

Box = tuple[float, float, float, float]


def attach(
    people: Sequence[Person],
    predictions: Predictions,
    *,
    points: int = 400,
    seed: int = 0,
    min_overlap: float = MIN_OVERLAP,
) -> list[Person]:
    """The same people in the same order, with dense points of the predictions that fit their boxes.

    Each prediction goes to one person, the best overlaps first. Who gets none has a note that says
    why, and no dense points.
    """
    found: dict[int, Person] = {}
    together: dict[Path | Frame, list[int]] = defaultdict(list)
    for row, person in enumerate(people):
        together[person.image].append(row)
    for image, rows in together.items():
        try:
            seen = _seen(image, predictions)
            reason = f"no DensePose prediction overlaps the box by {min_overlap:.0%}"
            reason = reason if seen else "DensePose saw nobody large enough in the image"
        except InputError as error:
            seen, reason = [], str(error)
        overlaps = _overlaps([people[row].box for row in rows], [_box(one) for one in seen])
        partners = _best_pairs(overlaps, min_overlap)
        for place, row in enumerate(rows):
            person = people[row]
            if place in partners:
                dense = dense_points(seen[partners[place]], points, seed)
                found[row] = replace(person, dense=dense)
            else:
                found[row] = replace(person, dense=None, notes=(*person.notes, reason))
    return [found[row] for row in range(len(people))]


@dataclass(frozen=True)
class WithPredictions:
    """`attach` as the importer wants it: predictions are opened once in each process."""

    path: Path
    inds: Path | None = None
    image_list: Path | None = None
    points: int = 400
    seed: int = field(default=0, kw_only=True)

    def __call__(self, people: list[Person]) -> list[Person]:
        """See `attach`."""
        opened = _opened(self.path, self.inds, self.image_list)
        return attach(people, opened, points=self.points, seed=self.seed)


@lru_cache(maxsize=2)
def _opened(path: Path, inds: Path | None, image_list: Path | None) -> Predictions:
    return open_predictions(path, inds, image_list)


def _seen(image: Path | Frame, predictions: Predictions) -> list[DetectedPerson]:
    prediction = predictions.of(image)
    if prediction is None:
        name = image.name
        raise InputError(f"{predictions.path} has no DensePose prediction of {name}")
    # A frame's size is not known before its video is decoded.
    size = None if isinstance(image, Frame) else photo_size(image)
    seen, _ = prediction.people(size)
    return [one for one in seen if one.usable]


def _box(person: DetectedPerson) -> Box:
    left, top, right, bottom = person.box
    return left, top, right - left, bottom - top


def _overlaps(first: Sequence[Box], second: Sequence[Box]) -> Float[np.ndarray, "first second"]:
    """Intersection over union of every pair of boxes."""
    a, b = (np.reshape(np.asarray(boxes, float), (-1, 4)) for boxes in (first, second))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    either = a[:, None, 2:].prod(-1) + b[None, :, 2:].prod(-1) - shared
    return shared / np.maximum(either, 1e-9)


def _best_pairs(overlaps: Float[np.ndarray, "people seen"], least: float) -> dict[int, int]:
    """Person to prediction, each used once, best overlaps first."""
    pairs: dict[int, int] = {}
    for flat in np.argsort(-overlaps, axis=None, kind="stable").tolist():
        person, one = divmod(flat, overlaps.shape[1])
        if overlaps[person, one] < least:
            break
        if person not in pairs and one not in pairs.values():
            pairs[person] = one
    return pairs
