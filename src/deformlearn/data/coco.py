"""COCO key point annotations (person_keypoints json), as a source and as rows of our data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deformlearn.data.coco_file import (
    Labelled,
    entries,
    header,
    image_of,
    keypoints_of,
    labels,
)
from deformlearn.data.person_boxes import (
    Box,
    box_about,
    box_in_image,
    given_box,
    hull_box,
    require_inside,
)
from deformlearn.data.shards import Row
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Person, Source, require_keypoints
from deformlearn.errors import InputError

_MARGIN = 0.1
"""A crop is this much larger than the longer side of the person's box."""

HIDDEN = 0.5
"""Confidence of a key point that is labelled but not visible (v = 1): placed by a guess."""


@dataclass(frozen=True)
class CocoKeypoints(Source):
    """People with key points in a json like COCO's person_keypoints_val2017.json.

    Key points of other joint sets are told by the names in `categories`; without names they are COCO's.
    """

    annotations: Path
    images: Path
    """The folder that file names are in."""
    min_keypoints: int = 10
    """Labelled key points a person needs."""

    def __post_init__(self) -> None:
        require_keypoints(self.min_keypoints)

    @property
    def joints(self) -> str:
        return header(self.annotations, assumed="coco17").order.joints

    @property
    def description(self) -> str:
        return (
            f"key points of {self.annotations.name}, people with at least {self.min_keypoints}; "
            f"hidden ones weigh {HIDDEN:g}"
        )

    def entries(self) -> Iterator[Entry | Rejected]:
        head = header(self.annotations, assumed="coco17")
        return entries(labels(self.annotations, head))

    def people(self, entry: Entry) -> list[Person | Rejected]:
        label: Labelled = entry.content
        keypoints, weights = keypoints_of(label.annotation, label.order, hidden=HIDDEN)
        labelled = weights > 0
        if not labelled.any():
            raise InputError("no key point is labelled")
        if labelled.sum() < self.min_keypoints:
            raise InputError(
                f"{labelled.sum()} key points are labelled, {self.min_keypoints} are needed"
            )
        path, size = image_of(label, self.images)
        require_inside(keypoints[labelled], size)
        if not np.ptp(keypoints[labelled], axis=0).any():
            raise InputError("its key points all lie in one place")
        box, notes = person_box(label, keypoints[labelled], size)
        return [Person(label.key, path, box, keypoints, weights, notes=notes)]


def person_box(
    label: Labelled, points: Float[np.ndarray, "n 2"], size: tuple[int, int]
) -> tuple[Box, tuple[str, ...]]:
    """The annotated box about these points too, cut to the image; without one, the points' hull."""
    given = given_box(label.annotation.get("bbox"))
    if given is None:
        box, notes = box_in_image(hull_box(points), size)
        return box, (*notes, "has no sound box: taken from its key points")
    cut, notes = box_in_image(given, size)
    return box_about(cut, points), notes


def read_keypoints(
    annotations: Path, images: Path, *, min_keypoints: int = 10
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Rows of all good annotations of COCO's 17 key points, and (id, reason) of those that are not.

    A person needs `min_keypoints` labelled key points and an image that is there. Rows have no dense
    correspondences. A file without COCO's key points is an InputError.
    """
    source = CocoKeypoints(Path(annotations), Path(images), min_keypoints)
    if source.joints != "coco17":
        raise InputError(
            f"{annotations} has key points of {source.joints}; wanted COCO's 17 (`coco17`)"
        )
    rows: list[Row] = []
    rejected: list[tuple[str, str]] = []
    for entry in source.entries():
        identity = entry.where.removeprefix(f"{source.annotations}: annotation ")
        if isinstance(entry, Rejected):
            rejected.append((identity, entry.reason))
            continue
        try:
            found = source.people(entry)
        except InputError as error:
            rejected.append((identity, str(error)))
            continue
        rows += [_row(person) for person in found if isinstance(person, Person)]
    return rows, rejected


def _row(person: Person) -> Row:
    left, top, width, height = person.box
    half = max(width, height, 2.0) / 2 * (1 + _MARGIN)
    return Row(
        key=person.key,
        crop=(left + width / 2, top + height / 2, half),
        points=np.zeros((0, 2)),
        faces=np.zeros(0, np.int64),
        barycentric=np.zeros((0, 3)),
        point_weights=np.zeros(0),
        keypoints=person.keypoints,
        keypoint_weights=person.keypoint_weights,
        image_path=str(person.image),
    )
