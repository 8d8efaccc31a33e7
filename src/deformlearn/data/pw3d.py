"""3DPW (von Marcard et al. 2018) as its archives unpack it.

    FOLDER/sequenceFiles/{train,validation,test}/<sequence>.pkl
    FOLDER/imageFiles/<sequence>/image_00000.jpg      row 0 of the sequence

A file holds one or two people: `jointPositions` (SMPL's 24 joints, metres, world), `cam_poses` (world to
camera, x right, y down, z away), `cam_intrinsics`, `campose_valid` (whether a frame's camera was aligned)
and `poses2d` (OpenPose's 18 points). The pickles are read by an allow-list and can run nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from deformlearn.data.boxes import is_inside
from deformlearn.data.person_boxes import hull_box, image_size
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Person, Source
from deformlearn.errors import InputError
from deformlearn.skeleton import SEGMENTS
from deformlearn.unpickle import load_pickle

SPLITS = ("train", "validation", "test")

_JOINTS = len(SEGMENTS)
_DETECTED = 18
_HEAD_ABOVE = 2.0
"""Top of the head over the joint at its base, in steps from the neck to that joint."""


@dataclass(frozen=True, eq=False)
class _Sequence:
    """What is used of a file."""

    name: str
    joints: list[Float[np.ndarray, "frames 24 3"]]
    """Of each person; metres, world."""
    valid: list[Bool[np.ndarray, "frames"]]
    """Whether the camera was aligned to each person's image."""
    detections: list[Float[np.ndarray, "frames 18 3"]]
    """x, y and confidence of each person's OpenPose points."""
    cameras: Float[np.ndarray, "frames 4 4"]
    intrinsics: Float[np.ndarray, "3 3"]
    uneven: str = ""
    """What to say where not everything has as many frames; those that all have are used."""


@dataclass(frozen=True)
class Pw3d(Source):
    """Everybody in a split; key points are SMPL's joints as the camera sees them."""

    chunk: ClassVar[int] = 8
    has_truth: ClassVar[bool] = True

    folder: Path
    """Where sequenceFiles and imageFiles are."""
    split: str = "test"
    every: int = 1
    """Take every n-th frame."""
    run: int = 32
    """Frames that are read together."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"3DPW has no split {self.split!r}; it has {', '.join(SPLITS)}")
        if self.every < 1 or self.run < 1:
            raise InputError(f"frames are taken every 1 or more, got every {self.every}")

    @property
    def joints(self) -> str:
        return "smpl24"

    @property
    def description(self) -> str:
        step = "" if self.every == 1 else f", every {self.every}th frame"
        return f"3DPW {self.split}{step}, frames with an aligned camera"

    def entries(self) -> Iterator[Entry | Rejected]:
        """Runs of frames, sequence by sequence."""
        folder = self.folder / "sequenceFiles" / self.split
        files = sorted(folder.glob("*.pkl"))
        if not files:
            raise InputError(
                f"{folder} holds no .pkl; give the folder in which 3DPW's sequenceFiles and imageFiles "
                f"were unpacked"
            )
        for path in files:
            try:
                sequence = _read(path)
            except InputError as error:
                yield Rejected(str(path), str(error))
                continue
            if sequence.uneven:
                yield Rejected(str(path), sequence.uneven)
            count = len(sequence.cameras)
            images = sum(1 for _ in self._images(sequence).glob("image_*.jpg"))
            if images > count:
                where = str(self._images(sequence))
                yield Rejected(where, f"{images} images but {count} frames in {path}")
            rows = range(0, count, self.every)
            for first in range(0, len(rows), self.run):
                some = rows[first : first + self.run]
                yield Entry(f"{path} frames {some[0]}-{some[-1]}", (path.name, some))

    def people(self, entry: Entry) -> list[Person | Rejected]:
        """Everybody in each frame of a run."""
        file, rows = entry.content
        sequence = _read(self.folder / "sequenceFiles" / self.split / file)
        found: list[Person | Rejected] = []
        for row in rows:
            for number in range(len(sequence.joints)):
                try:
                    found.append(self._person(sequence, number, row))
                except InputError as error:
                    found.append(Rejected(f"{file} person {number} frame {row}", str(error)))
        return found

    def _person(self, sequence: _Sequence, number: int, row: int) -> Person:
        if not sequence.valid[number][row]:
            raise InputError("its camera was not aligned (campose_valid)")
        world, camera = sequence.joints[number][row], sequence.cameras[row]
        if not (np.isfinite(world).all() and np.isfinite(camera).all()):
            raise InputError("a joint or the camera is NaN or infinite")
        seen = world @ camera[:3, :3].T + camera[:3, 3]
        head, neck = seen[SEGMENTS.index("head")], seen[SEGMENTS.index("neck")]
        outline = np.vstack([seen, head + _HEAD_ABOVE * (head - neck)])
        if outline[:, 2].min() <= 0:
            raise InputError("a joint is behind the camera")
        pixels = outline @ sequence.intrinsics.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        box = hull_box(pixels)
        image = self._images(sequence).absolute() / f"image_{row:05d}.jpg"
        size = image_size(image)
        if not (np.isfinite(box).all() and (np.ptp(pixels, axis=0) > 0).all()):
            raise InputError("its joints have no extent in the image")
        if not is_inside(box, *size):
            raise InputError(f"the person is outside the image of {size[0]} x {size[1]} px")
        keypoints, weights = self._keypoints(sequence, number, row, pixels[:_JOINTS])
        return Person(
            key=f"{sequence.name}_{row:05d}_p{number}",
            image=image,
            box=box,
            keypoints=keypoints,
            keypoint_weights=weights,
            joints_mm=1000 * seen if self.has_truth else None,
            subject=f"{sequence.name}_p{number}",
            action=sequence.name,
            frame=row,
        )

    def _keypoints(
        self,
        sequence: _Sequence,
        number: int,
        row: int,
        projected: Float[np.ndarray, "24 2"],
    ) -> tuple[Float[np.ndarray, "joints 2"], Float[np.ndarray, "joints"]]:
        """Key points (px) and their weights."""
        return projected, np.ones(_JOINTS)

    def _images(self, sequence: _Sequence) -> Path:
        return self.folder / "imageFiles" / sequence.name


@dataclass(frozen=True)
class Pw3dDetected(Pw3d):
    """The same people with OpenPose's detections as key points; its joint set has no 3D truth."""

    has_truth: ClassVar[bool] = False

    @property
    def joints(self) -> str:
        return "openpose18"

    @property
    def description(self) -> str:
        return f"{super().description}, OpenPose's detections as key points"

    def _keypoints(
        self,
        sequence: _Sequence,
        number: int,
        row: int,
        projected: Float[np.ndarray, "24 2"],
    ) -> tuple[Float[np.ndarray, "joints 2"], Float[np.ndarray, "joints"]]:
        points = sequence.detections[number][row]
        if not np.isfinite(points).all():
            raise InputError("a detected point is NaN or infinite")
        if not (points[:, 2] > 0).any():
            raise InputError("OpenPose did not see this person")
        return points[:, :2], np.maximum(points[:, 2], 0)


def _read(path: Path) -> _Sequence:
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"there is no {path}") from error
    return _read_file(path, changed)


@lru_cache(maxsize=2)
def _read_file(path: Path, changed: int) -> _Sequence:
    """A file's content, checked; `changed` is only there to notice another file."""
    content = load_pickle(path, what="a sequence of 3DPW")
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}; wanted a sequence of 3DPW")
    content = {_text(name): value for name, value in content.items()}
    wanted = (
        "jointPositions", "campose_valid", "poses2d", "cam_poses", "cam_intrinsics", "sequence",
    )  # fmt: skip
    missing = [name for name in wanted if name not in content]
    if missing:
        raise InputError(f"{path} has no field {', '.join(missing)}; wanted a sequence of 3DPW")
    name = _text(content["sequence"])
    if name in ("", "..") or Path(name).name != name:
        raise InputError(f"{path}: its sequence is called {name!r:.60}, which is no folder")
    intrinsics = _numbers(path, "cam_intrinsics", content["cam_intrinsics"], (3, 3))
    if not np.isfinite(intrinsics).all():
        raise InputError(f"{path}: cam_intrinsics is NaN or infinite")
    cameras = _numbers(path, "cam_poses", content["cam_poses"], (-1, 4, 4))
    people = {
        field: _people(path, field, content[field], shape) for field, shape in _PEOPLE.items()
    }
    counts = {field: len(several) for field, several in people.items()}
    if len(set(counts.values())) > 1 or not counts["jointPositions"]:
        listed = ", ".join(f"{count} in {field}" for field, count in counts.items())
        raise InputError(f"{path} has different numbers of people: {listed}")
    lengths = {
        "cam_poses": len(cameras),
        **{field: min(map(len, several)) for field, several in people.items()},
    }
    end = min(lengths.values())
    listed = ", ".join(f"{count} in {field}" for field, count in lengths.items())
    return _Sequence(
        name,
        [one[:end].reshape(-1, _JOINTS, 3) for one in people["jointPositions"]],
        [one[:end] > 0 for one in people["campose_valid"]],
        [one[:end].transpose(0, 2, 1) for one in people["poses2d"]],
        cameras[:end],
        intrinsics,
        f"frame counts differ ({listed})" if len(set(lengths.values())) > 1 else "",
    )


_PEOPLE = {
    "jointPositions": (-1, 3 * _JOINTS),
    "campose_valid": (-1,),
    "poses2d": (-1, 3, _DETECTED),
}
"""Fields with one array a person, and its shape (-1: frames)."""


def _people(path: Path, field: str, value: Any, shape: tuple[int, ...]) -> list[np.ndarray]:
    if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim):
        raise InputError(f"{path}: {field} is no list with one array a person")
    return [
        _numbers(path, f"{field} of person {number}", one, shape)
        for number, one in enumerate(value)
    ]


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _numbers(path: Path, what: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of numbers of this shape (-1: any), as floats."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise InputError(f"{path}: {what} is no array of numbers") from error
    right = array.dtype.kind in "fiub" and array.ndim == len(shape)
    if not right or any(
        size not in (-1, got) for size, got in zip(shape, array.shape, strict=True)
    ):
        listed = ", ".join("frames" if size == -1 else str(size) for size in shape)
        raise InputError(
            f"{path}: {what} is {array.dtype} of the shape {array.shape}; wanted numbers, ({listed})"
        )
    return array.astype(np.float64)
