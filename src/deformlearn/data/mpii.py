"""MPII Human Pose: its official MATLAB file, and the list of people that many projects made of it as json.

Andriluka et al. 2014. Only training images have public labels. Both files count pixels from 1, as
MATLAB does, so the middle of the first pixel, (0.5, 0.5) for us, is (1, 1) there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deformlearn.data.coco import HIDDEN
from deformlearn.data.json_stream import read_list
from deformlearn.data.person_boxes import (
    box_in_image,
    finite,
    hull_box,
    image_size,
    require_inside,
)
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Person, Source, require_keypoints
from deformlearn.errors import InputError
from deformlearn.matlab import Matrix, read_variable
from deformlearn.skeleton import joint_set

_JOINTS = "mpii16"
_TO_CORNER = -0.5
"""From MATLAB's pixels to ours: one less, and to the pixel's middle."""


@dataclass(frozen=True)
class MpiiPerson:
    """A person of the files, as plain numbers."""

    image: str
    key: str
    points: tuple[tuple[float, float, float], ...]
    """x, y (the file's pixels) and weight of each of the 16."""


@dataclass(frozen=True)
class Mpii(Source):
    """People of mpii_human_pose_v1_u12_1.mat, or of a json with joints, joints_vis and image.

    The MATLAB file is held whole, but only one image of it is decoded at a time; json passes by.
    """

    annotations: Path
    images: Path
    min_keypoints: int = 10
    """Labelled key points a person needs."""

    def __post_init__(self) -> None:
        require_keypoints(self.min_keypoints)

    @property
    def joints(self) -> str:
        return _JOINTS

    @property
    def description(self) -> str:
        return f"MPII key points of {self.annotations.name}; hidden ones weigh {HIDDEN:g}"

    def entries(self) -> Iterator[Entry | Rejected]:
        if self.annotations.suffix.lower() == ".mat":
            return _of_matlab(self.annotations)
        return _of_json(self.annotations)

    def people(self, entry: Entry) -> list[Person | Rejected]:
        person: MpiiPerson = entry.content
        table = np.array(person.points, np.float64)
        weights = table[:, 2]
        labelled = weights > 0
        if labelled.sum() < self.min_keypoints:
            raise InputError(
                f"{labelled.sum()} key points are labelled, {self.min_keypoints} are needed"
            )
        points = np.where(labelled[:, None], table[:, :2] + _TO_CORNER, 0.0)
        path = (self.images / person.image).absolute()
        size = image_size(path)
        require_inside(points[labelled], size)
        box, notes = box_in_image(hull_box(points[labelled]), size)
        return [Person(person.key, path, box, points, weights, notes=notes)]


def _of_json(path: Path) -> Iterator[Entry | Rejected]:
    for number, row in enumerate(read_list(path)):
        where = f"{path}: person {number}"
        try:
            yield Entry(where, _json_person(row, number))
        except InputError as error:
            yield Rejected(where, str(error))


def _json_person(row: Any, number: int) -> MpiiPerson:
    if not isinstance(row, dict):
        raise InputError("is not a person: wanted {joints, joints_vis, image, ...}")
    for name in ("image", "joints"):
        if name not in row:
            raise InputError(f"has no {name} (test images have no public key points)")
    image, joints = row["image"], row["joints"]
    seen = row.get("joints_vis", [1] * len(joint_set(_JOINTS)))
    if not isinstance(image, str) or not Path(image).name:
        raise InputError("its image is no file name")
    count = len(joint_set(_JOINTS))
    for name, values in (("joints", joints), ("joints_vis", seen)):
        if not isinstance(values, list) or len(values) != count:
            raise InputError(f"{name} must be a list of {count}")
    points = []
    for joint, visible in zip(joints, seen, strict=True):
        pair = joint[:2] if isinstance(joint, list) and len(joint) > 1 else (None, None)
        x, y, known = finite(pair[0]), finite(pair[1]), finite(visible)
        if x is None or y is None or known is None:
            raise InputError("a key point is not a finite number")
        # Missing ones stand at (-1, -1) or (0, 0), neither of which MATLAB counts to.
        missing = known <= 0 or (x <= 0 and y <= 0)
        points.append((x, y, 0.0 if missing else 1.0))
    return MpiiPerson(image, f"{Path(image).stem}-{number:06d}", tuple(points))


_WANTED = "wanted MPII's mpii_human_pose_v1_u12_1.mat with RELEASE.annolist and .img_train"


def _of_matlab(path: Path) -> Iterator[Entry | Rejected]:
    try:
        release = next(read_variable(path, "RELEASE").structs(), {})
    except InputError as error:
        raise InputError(f"{error}; {_WANTED}") from error
    try:
        yield from _of_release(path, release)
    except InputError as error:
        # What is found while decoding does not know its file.
        said = str(error)
        raise InputError(said if str(path) in said else f"{path}: {said}") from error


def _of_release(path: Path, release: dict[str, Matrix]) -> Iterator[Entry | Rejected]:
    if "annolist" not in release or "img_train" not in release:
        raise InputError(f"{path} is another MATLAB file; {_WANTED}")
    annolist, training = release["annolist"], release["img_train"].numbers().ravel()
    if annolist.size != len(training):
        raise InputError(f"{path} lists {annolist.size} images but {len(training)} flags img_train")
    unlabelled = 0
    for number, (picture, flag) in enumerate(zip(annolist.structs(), training, strict=True)):
        if flag != 1:
            unlabelled += 1
            continue
        yield from _people_of(picture, f"{path}: image {number + 1}")
    if unlabelled:
        yield Rejected(str(path), f"{unlabelled} test images have no public key points")


def _people_of(picture: dict[str, Matrix], where: str) -> Iterator[Entry | Rejected]:
    """Everyone of one image."""
    try:
        name = _field(picture.get("image"), "name")
        called = "" if name is None else name.text()
        if not Path(called).name:
            raise InputError("has no image name")
        people = list(_structs(picture.get("annorect")))
    except InputError as error:
        yield Rejected(where, str(error))
        return
    for index, person in enumerate(people):
        row = f"{where} ({called}), person {index + 1}"
        try:
            key = f"{Path(called).stem}-{index:02d}"
            yield Entry(row, MpiiPerson(called, key, _matlab_points(person)))
        except InputError as error:
            yield Rejected(row, str(error))


def _structs(matrix: Matrix | None) -> Iterator[dict[str, Matrix]]:
    """The structs of a field; MATLAB writes an empty array of numbers where there is nothing."""
    return iter(()) if matrix is None or not matrix.size else matrix.structs()


def _field(matrix: Matrix | None, name: str) -> Matrix | None:
    return next(_structs(matrix), {}).get(name)


def _matlab_points(person: dict[str, Matrix]) -> tuple[tuple[float, float, float], ...]:
    """The labelled points of an annorect, in MPII's order."""
    listed = list(_structs(_field(person.get("annopoints"), "point")))
    if not listed:
        raise InputError("has no key points (annopoints)")
    count = len(joint_set(_JOINTS))
    points = [(0.0, 0.0, 0.0)] * count
    for point in listed:
        x, y, joint = (_number(point.get(name)) for name in ("x", "y", "id"))
        if x is None or y is None:
            raise InputError("a key point is not a finite number")
        if joint is None or not 0 <= joint < count or joint != int(joint):
            shown = "none" if joint is None else f"{joint:g}"
            raise InputError(f"a key point has the id {shown}, wanted 0..{count - 1}")
        points[int(joint)] = (x, y, _visibility(point.get("is_visible")))
    return tuple(points)


def _number(matrix: Matrix | None) -> float | None:
    """A finite number, given as such or as text; None for anything else."""
    if matrix is None or matrix.size != 1:
        return None
    try:
        return finite(float(matrix.text() if matrix.is_text else matrix.numbers().item()))
    except ValueError:  # also the InputError of a struct
        return None


def _visibility(flag: Matrix | None) -> float:
    """Weight of a point by its flag: a number, its text, or nothing (the head's points have none)."""
    return HIDDEN if _number(flag) == 0 else 1.0
