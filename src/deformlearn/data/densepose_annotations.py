"""People annotated by DensePose's annotators: DensePose-COCO's json files.

Fields and conventions as in facebookresearch/DensePose (challenge/2018_COCO_DensePose/data_format.md)
and detectron2's DensePose project (structures/data_relative.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from deformlearn.data.coco import HIDDEN
from deformlearn.data.coco_file import (
    Labelled,
    entries,
    header,
    image_of,
    keypoints_of,
    labels,
)
from deformlearn.data.person_boxes import (
    OUTSIDE_PX,
    Box,
    box_about,
    box_in_image,
    given_box,
    hull_box,
    require_inside,
)
from deformlearn.data.rle import decode_mask
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import DensePoints, Entry, Person, Source
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set

FINE_TO_COARSE = np.array(
    [0, 1, 1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 8, 9, 10, 11, 10, 11, 12, 13, 12, 13, 14, 14]
)
"""The mask (1..14) that each of the 24 parts lies on; 0 is background."""

_MASKS = 14
_FRAME = 256
"""Side of the frame that masks are drawn in, stretched over the person's box."""

_STRAY = 2.0
"""A point may lie this much outside its box (parts of 256)."""


@dataclass(frozen=True)
class PointRules:
    """How DensePose points are read, and who has enough of them."""

    scale: Literal[255, 256] = 256
    """Points are given in parts of their box's side: 256 of them as detectron2 and the training code
    read them, 255 as the notebooks and the official evaluation do. They differ by 0.4 % of the side."""
    min_points: int = 10
    """Sound points a person needs."""
    min_agreement: float = 0.0
    """Share of a person's points that must lie on the mask of their part; 0 does not look."""
    keypoints_only: bool = False
    """Also take people who have key points but no DensePose points."""


@dataclass(frozen=True)
class DensePoseCoco(Source):
    """People of densepose_coco_2014_{train,valminusminival,minival}.json, under any of their names."""

    annotations: Path
    images: Path
    """The folder of the images, or the one that holds train2014 and val2014."""
    points: PointRules = field(default_factory=PointRules)

    @property
    def joints(self) -> str:
        return header(self.annotations, assumed="coco17").order.joints

    @property
    def description(self) -> str:
        return f"DensePose annotations of {self.annotations.name}, scaled by {self.points.scale}"

    def entries(self) -> Iterator[Entry | Rejected]:
        head = header(self.annotations, assumed="coco17")
        # The official minival files list some people twice (detectron2 lets them pass as well).
        copies = "minival" in self.annotations.name
        return entries(labels(self.annotations, head, copies=copies))

    def people(self, entry: Entry) -> list[Person | Rejected]:
        label: Labelled = entry.content
        path, size = image_of(label, self.images)
        found = labelled_person(label, size, self.points)
        return [
            Person(
                label.key, path, found.box, found.keypoints, found.weights, found.dense,
                notes=found.notes,
            )
        ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class LabelledPerson:
    """What an annotation says of its person, in source pixels."""

    box: Box
    keypoints: Float[np.ndarray, "k 2"]
    weights: Float[np.ndarray, "k"]
    dense: DensePoints | None
    notes: tuple[str, ...]


def labelled_person(
    label: Labelled, size: tuple[int, int], rules: PointRules, *, hidden: float = HIDDEN
) -> LabelledPerson:
    """Box, key points and dense points of an annotation; the InputError says what is wrong with it.

    `size` is the image's; `hidden` is the weight of key points with v = 1.
    """
    annotation = label.annotation
    keypoints, weights = _keypoints(label, hidden)
    seen = keypoints[weights > 0]
    require_inside(seen, size)
    given = given_box(annotation.get("bbox"))
    if not _has_points(annotation):
        if not rules.keypoints_only:
            raise InputError("has no DensePose annotation: no dp_x")
        if not len(seen):
            raise InputError("has neither DensePose points nor key points")
        box, notes = box_in_image(given or hull_box(seen), size)
        return LabelledPerson(box_about(box, seen), keypoints, weights, None, notes)
    if given is None:
        raise InputError(
            f"its box {str(annotation.get('bbox'))[:80]} has no extent; DensePose points are parts of it"
        )
    box, notes = box_in_image(given, size)
    dense, good, left_out = dense_points(annotation, given, size, rules.scale)
    if len(dense.part) < rules.min_points:
        raise InputError(
            f"{len(dense.part)} DensePose points are sound, {rules.min_points} are needed"
            + "".join(f"; {note}" for note in left_out)
        )
    if rules.min_agreement > 0:
        share = mask_agreement(annotation, good)
        if share < rules.min_agreement:
            raise InputError(
                f"{100 * share:.0f} % of its points lie on the mask of their part, "
                f"{100 * rules.min_agreement:.0f} % are needed"
            )
    return LabelledPerson(box_about(box, seen), keypoints, weights, dense, (*notes, *left_out))


def dense_points(
    annotation: dict[str, Any], box: Box, size: tuple[int, int], scale: int
) -> tuple[DensePoints, Bool[np.ndarray, "all"], tuple[str, ...]]:
    """The sound points in source pixels, which of all they are, and notes on those left out.

    dp_x and dp_y are parts of the box's sides. COCO's boxes are continuous (they bound polygons whose
    (0, 0) is the corner of the first pixel), so a part of a box is continuous too, and no half pixel is
    added, unlike with key points; detectron2 does the same. What the annotators' own clicks were
    rounded to is not documented; it is at most half of 1/256 of the box.
    """
    columns = {
        name: _numbers(annotation, name) for name in ("dp_x", "dp_y", "dp_I", "dp_U", "dp_V")
    }
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"its DensePose fields differ in length: {listed}")
    x, y, part, u, v = columns.values()
    left, top, width, height = box
    with np.errstate(invalid="ignore", over="ignore"):
        pixels = np.stack([left + x * (width / scale), top + y * (height / scale)], 1)
        checks = {
            "not finite": np.isfinite(np.stack([x, y, part, u, v])).all(0),
            "of no part 1..24": (part >= 1) & (part <= 24) & (part == np.round(part)),
            "with U or V outside [0, 1]": (np.minimum(u, v) >= 0) & (np.maximum(u, v) <= 1),
            "outside the box": (np.minimum(x, y) >= -_STRAY)
            & (np.maximum(x, y) <= _FRAME + _STRAY),
            "outside the image": (np.maximum(-pixels, pixels - size) <= OUTSIDE_PX).all(1),
        }
    good = np.ones(len(x), bool)
    notes = []
    for name, passed in checks.items():
        if count := int((good & ~passed).sum()):
            notes.append(f"{count} of {len(x)} DensePose points left out: {name}")
        good &= passed
    uv = np.stack([u, v], 1)[good]
    dense = DensePoints(pixels[good], part[good].astype(np.int64), uv, np.ones(len(uv)))
    return dense, good, tuple(notes)


def mask_agreement(annotation: dict[str, Any], good: Bool[np.ndarray, "all"]) -> float:
    """Share of the good points that lie on the mask of their part (or on a single mask)."""
    x, y, part = (
        _numbers(annotation, name)[good].astype(np.int64) for name in ("dp_x", "dp_y", "dp_I")
    )
    masks = annotation.get("dp_masks")
    here = masks_to_labels(masks)[np.clip(y, 0, _FRAME - 1), np.clip(x, 0, _FRAME - 1)]
    on_mask = here > 0 if isinstance(masks, dict) else here == FINE_TO_COARSE[part]
    return float(on_mask.mean()) if len(on_mask) else 0.0


def masks_to_labels(masks: Any) -> Int[np.ndarray, "256 256"]:
    """Part 1..14 of every pixel of the box's frame; 0 is background.

    Later parts are drawn over earlier ones. Files with one mask of the whole person (chimpanzees) give 1.
    """
    labels = np.zeros((_FRAME, _FRAME), np.int64)
    listed = [masks] if isinstance(masks, dict) else masks
    if not isinstance(listed, list) or len(listed) not in (1, _MASKS):
        raise InputError(f"has no dp_masks: wanted {_MASKS} run-length masks")
    for number, mask in enumerate(listed, start=1):
        if mask == [] or mask is None:
            continue
        drawn = decode_mask(mask)
        if drawn.shape != labels.shape:
            raise InputError(f"a mask is {drawn.shape[0]} x {drawn.shape[1]}, wanted 256 x 256")
        labels[drawn] = number
    return labels


def _has_points(annotation: dict[str, Any]) -> bool:
    if annotation.get("dp_vertex") is not None:
        raise InputError(
            f"is labelled with vertices (dp_vertex) of the mesh {annotation.get('ref_model')!r}, whose "
            f"order is not public; give the files with dp_I, dp_U and dp_V"
        )
    return annotation.get("dp_x") not in (None, [])


def _numbers(annotation: dict[str, Any], name: str) -> Float[np.ndarray, "n"]:
    values = annotation.get(name)
    if not isinstance(values, list):
        raise InputError(f"has no list {name}")
    try:
        numbers = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} holds something that is no number") from error
    if numbers.ndim != 1:
        raise InputError(f"{name} is not a plain list of numbers")
    return numbers


def _keypoints(
    label: Labelled, hidden: float
) -> tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, "k"]]:
    """Key points, all missing where the annotation has none."""
    if label.annotation.get("keypoints"):
        return keypoints_of(label.annotation, label.order, hidden=hidden)
    count = len(joint_set(label.order.joints))
    return np.zeros((count, 2)), np.zeros(count)
