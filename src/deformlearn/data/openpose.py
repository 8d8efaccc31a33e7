"""People found by OpenPose: a folder of *_keypoints.json beside the images or the video they are of.

Both spellings of the key are read (`pose_keypoints` before version 1.2, `pose_keypoints_2d` since), and
both bodies (BODY_25 and COCO-18, told by their length). Zeros are missing points; confidences are weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from PIL import ExifTags, Image

from deformlearn.data.json_stream import read_object
from deformlearn.data.person_boxes import box_in_image, hull_box, image_size, require_inside
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Frame, Person, Source, require_keypoints
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set

SUFFIX = "_keypoints.json"
"""What OpenPose adds to the name of an image, or to a video's name and the number of the frame."""

_SPELLINGS = ("pose_keypoints_2d", "pose_keypoints")
_BODIES = {75: "body25", 54: "openpose18"}
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_TURNED = range(2, 9)
"""EXIF's orientations but for 1, which is upright; other numbers mean nothing."""
_NORMALISED = 1.5
"""No person's key points span so few pixels; --keypoint_scale 3 and 4 write numbers in [-1, 1]."""


@dataclass(frozen=True)
class OpenPose(Source):
    """People of OpenPose's json files.

    OpenPose's positions are between pixels already and are taken as they are.
    """

    keypoints: Path
    """The folder that was given to OpenPose's --write_json."""
    images: Path
    """The folder of the images, found by name, or the video."""
    min_keypoints: int = 10
    """Key points a person needs."""
    keypoint_scale: Literal[0, 3, 4] = 0
    """OpenPose's option of that name: 0 pixels of the source, 3 in [0, 1], 4 in [-1, 1]."""

    def __post_init__(self) -> None:
        require_keypoints(self.min_keypoints)

    @property
    def joints(self) -> str:
        return _body_of(self.keypoints, _modified(self.keypoints))

    @property
    def description(self) -> str:
        return f"OpenPose's key points of {self.keypoints.name}, people with at least {self.min_keypoints}"

    def entries(self) -> Iterator[Entry | Rejected]:
        joints = self.joints
        if not self.images.exists():
            raise InputError(f"no folder of images, and no video, at {self.images}")
        for path in _files(self.keypoints):
            yield Entry(str(path), (path, joints))

    def people(self, entry: Entry) -> list[Person | Rejected]:
        path, joints = entry.content
        listed = _people(path)
        if not listed:
            return []  # OpenPose writes a file for every image, also where nobody is in it
        stem = path.name.removesuffix(SUFFIX)
        image, size = self._image(stem)
        found: list[Person | Rejected] = []
        for number, person in enumerate(listed):
            try:
                found.append(self._person(person, f"{stem}-{number:02d}", joints, image, size))
            except InputError as error:
                found.append(Rejected(f"{path}: person {number}", str(error)))
        return found

    def _image(self, stem: str) -> tuple[Path | Frame, tuple[int, int] | None]:
        """The image of a json file, and its size; that of a video's frame is not looked up."""
        if self.images.is_file():
            video = self.images.absolute()
            digits = stem.removeprefix(f"{video.stem}_")
            if digits == stem or not (digits.isascii() and digits.isdigit()):
                raise InputError(f"its name is not of a frame of the video {video.name}")
            return Frame(video, int(digits)), None
        for suffix in _IMAGES:
            for spelling in (suffix, suffix.upper()):
                path = (self.images / f"{stem}{spelling}").absolute()
                if path.is_file():
                    _require_upright(path)
                    return path, image_size(path)
        raise InputError(f"its image {self.images / stem}.jpg (or .png, ...) is missing")

    def _person(
        self,
        person: Any,
        key: str,
        joints: str,
        image: Path | Frame,
        size: tuple[int, int] | None,
    ) -> Person:
        triples = _triples(person, joints)
        # Zeros are OpenPose's word for missing, whatever the third number says.
        seen = (triples[:, 2] > 0) & triples[:, :2].any(1)
        if seen.sum() < self.min_keypoints:
            raise InputError(f"{seen.sum()} key points were found, {self.min_keypoints} are needed")
        points = self._pixels(triples[:, :2], seen, size)
        box = hull_box(points[seen])
        notes: tuple[str, ...] = ()
        if size is not None:
            require_inside(points[seen], size)
            box, notes = box_in_image(box, size)
        weights = np.where(seen, triples[:, 2].clip(0, 1), 0.0)
        frame = image.index if isinstance(image, Frame) else 0
        return Person(key, image, box, np.where(seen[:, None], points, 0.0), weights, frame=frame,
                      notes=notes)  # fmt: skip

    def _pixels(
        self, points: Float[np.ndarray, "k 2"], seen: np.ndarray, size: tuple[int, int] | None
    ) -> Float[np.ndarray, "k 2"]:
        if self.keypoint_scale:
            if size is None:
                raise InputError(
                    "scaled key points of a video: run OpenPose with --keypoint_scale 0"
                )
            return (points if self.keypoint_scale == 3 else (points + 1) / 2) * size
        if np.abs(points[seen]).max() <= _NORMALISED:
            scale = 4 if (points[seen] < 0).any() else "3 (or 4)"
            raise InputError(
                f"its key points are no pixels but in [-1, 1], as --keypoint_scale {scale} writes them; "
                f"say so, or run OpenPose with --keypoint_scale 0"
            )
        return points


def _require_upright(path: Path) -> None:
    """OpenPose, as OpenCV does, turns an image as its EXIF says; crops are cut from what is stored."""
    try:
        with Image.open(path) as image:
            # A PNG that tells its orientation after its pixels would have to be decoded for it.
            told = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        orientation = told.get(ExifTags.Base.Orientation, 1)
    # Pillow's readers fail in many ways on damaged files.
    except Exception as error:
        raise InputError(f"its image {path} cannot be read ({error})") from error
    if orientation in _TURNED:
        raise InputError(
            f"its image {path} is stored turned (EXIF orientation), so its pixels and OpenPose's may not "
            f"match; save it upright without the tag and run OpenPose on that"
        )


def _modified(folder: Path) -> int:
    """When the folder last changed; a folder that is not there is an InputError."""
    if not folder.is_dir():
        raise InputError(f"no folder of OpenPose's *{SUFFIX} at {folder}")
    return folder.stat().st_mtime_ns


def _files(folder: Path) -> list[Path]:
    """In the order of their names: that of a video's frames."""
    files = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX))
    if not files:
        raise InputError(f"{folder} holds no *{SUFFIX}; give the folder of OpenPose's --write_json")
    return files


@lru_cache(8)
def _body_of(folder: Path, modified: int) -> str:
    """The joint set of the first person in the folder's files."""
    for path in _files(folder):
        try:
            listed = _people(path)
        except InputError:
            continue  # listed as a reject when its turn comes
        for person in listed:
            values = _numbers(person)
            if values is not None and len(values) in _BODIES:
                return _BODIES[len(values)]
    raise InputError(
        f"nobody with {' or '.join(map(str, _BODIES))} numbers (BODY_25 or COCO-18) is in the files of "
        f"{folder}"
    )


def _people(path: Path) -> list[Any]:
    people = read_object(path).get("people")
    if not isinstance(people, list):
        raise InputError(f"{path} is none of OpenPose's files: it has no list of people")
    return people


def _numbers(person: Any) -> Sequence[Any] | None:
    if not isinstance(person, dict):
        return None
    for spelling in _SPELLINGS:
        if isinstance(person.get(spelling), list):
            return person[spelling]
    return None


def _triples(person: Any, joints: str) -> Float[np.ndarray, "k 3"]:
    """x, y and confidence of each key point."""
    values = _numbers(person)
    if values is None:
        raise InputError(f"has no key points: neither {' nor '.join(_SPELLINGS)}")
    count = len(joint_set(joints))
    if len(values) != 3 * count:
        other = _BODIES.get(len(values), "no body known here")
        raise InputError(
            f"has {len(values)} numbers ({other}), wanted {3 * count} ({joints}) as the first person has"
        )
    try:
        triples = np.array(values, np.float64).reshape(count, 3)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("a key point is not a number") from error
    if not np.isfinite(triples).all():
        raise InputError("a key point is not a finite number")
    if (triples[:, 2] < 0).any():
        raise InputError("a key point's confidence is negative")
    return triples
