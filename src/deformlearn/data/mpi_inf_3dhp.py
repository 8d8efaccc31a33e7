"""MPI-INF-3DHP (Mehta et al. 2017) as its scripts unpack it: the test set, and the training set.

    FOLDER/TS1/annot_data.mat                 annot2, annot3, univ_annot3, valid_frame, ...
    FOLDER/TS1/imageSequence/img_000001.jpg   row 0 of the annotations
    FOLDER/S1/Seq1/annot.mat                  annot2, annot3, univ_annot3: one cell a camera
    FOLDER/S1/Seq1/imageSequence/video_0.avi  frame 0 is row 0
    FOLDER/S1/Seq1/imageFrames/video_0/frame_000001.jpg   or extracted frames instead

All 3D positions are millimetres in the axes of the camera that saw them. "Universal" ones are scaled to
one skeleton for everybody, which is what the data set's own evaluation compares with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from deformlearn.data.boxes import is_inside
from deformlearn.data.hdf5 import read_arrays
from deformlearn.data.person_boxes import hull_box, image_size
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Frame, Person, Source
from deformlearn.data.video import frame_count
from deformlearn.errors import InputError
from deformlearn.matlab import read_variable

ACTIVITIES = (
    "Standing/Walking", "Exercising", "Sitting", "Reaching/Crouching", "On the floor", "Sports",
    "Miscellaneous",
)  # fmt: skip
"""What activity_annotation counts from 1."""

TRAIN_CAMERAS = (0, 1, 2, 4, 5, 6, 7, 8)
"""The cameras at chest and knee height and those looking down a little, as SPIN uses them."""

_JOINTS = "mpi_inf_3dhp17"
_COUNT = 17

_OF_28 = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)
"""Where the test set's 17 joints stand among the training set's 28."""

_TRAIN_SIDE = 2048
"""Width and height of the training videos (px)."""


@dataclass(frozen=True)
class _Run:
    """Some frames of one sequence."""

    sequence: str
    """Folder of the sequence within the data set's."""
    camera: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class _Mpi3dhp(Source):
    """What both sets have in common."""

    chunk: ClassVar[int] = 8
    has_truth: ClassVar[bool] = True

    folder: Path
    """Test set: mpi_inf_3dhp_test_set, or the folder it lies in; training set: where S1, S2, ... are."""
    universal: bool = True
    """Truth scaled to one skeleton, as the official evaluation; else everybody's own size."""
    every: int = 1
    """Take every n-th (valid) frame."""
    run: int = 64
    """Frames that are read together."""

    def __post_init__(self) -> None:
        _check_steps(self.every, self.run)

    @property
    def joints(self) -> str:
        return _JOINTS


@dataclass(frozen=True)
class Mpi3dhpTest(_Mpi3dhp):
    """The frames of TS1 to TS6 that the data set calls valid."""

    @property
    def description(self) -> str:
        return (
            f"MPI-INF-3DHP test set, valid frames{_every(self.every)}, {_size_of(self.universal)}"
        )

    def entries(self) -> Iterator[Entry | Rejected]:
        """Runs of valid frames, sequence by sequence."""
        root = self._root()
        found = [path for path in root.glob("TS*") if re.fullmatch(r"TS\d+", path.name)]
        if not found:
            raise InputError(
                f"{self.folder} has no folders TS1 to TS6; give mpi_inf_3dhp_test_set of MPI-INF-3DHP"
            )
        for sequence in sorted(found, key=lambda path: int(path.name[2:])):
            path = sequence / "annot_data.mat"
            try:
                fields = _test_fields(path, self.universal)
            except InputError as error:
                yield Rejected(str(path), str(error))
                continue
            valid, count = fields["valid_frame"].reshape(-1), len(fields["annot2"])
            images = sum(1 for _ in (sequence / "imageSequence").glob("img_*.jpg"))
            if images > count:
                yield Rejected(
                    str(sequence / "imageSequence"), f"{images} images but {count} rows in {path}"
                )
            rows = np.flatnonzero(valid > 0)[:: self.every].tolist()
            yield from _runs(sequence.name, 0, rows, self.run, str(path))

    def people(self, entry: Entry) -> list[Person | Rejected]:
        """The person of each frame of a run."""
        run: _Run = entry.content
        sequence = self._root() / run.sequence
        fields = _test_fields(sequence / "annot_data.mat", self.universal)
        rows = list(run.rows)
        pixels = fields["annot2"][rows].reshape(-1, _COUNT, 2).astype(np.float64)
        places = fields[_truth_name(self.universal)][rows]
        joints = places.reshape(-1, _COUNT, 3).astype(np.float64)
        activities = fields["activity_annotation"].reshape(-1)[rows]
        found: list[Person | Rejected] = []
        for row, seen, place, activity in zip(run.rows, pixels, joints, activities, strict=True):
            # MATLAB wrote the images: the first is number 1.
            image = (sequence / "imageSequence" / f"img_{row + 1:06d}.jpg").absolute()
            known = activity in range(1, len(ACTIVITIES) + 1)
            try:
                person = Person(
                    key=f"{run.sequence}_{row + 1:06d}",
                    image=image,
                    box=_box(seen, place, image_size(image)),
                    keypoints=seen,
                    keypoint_weights=np.ones(_COUNT),
                    joints_mm=place,
                    subject=run.sequence,
                    action=ACTIVITIES[int(activity) - 1] if known else "",
                    frame=row,
                )
            except InputError as error:
                found.append(Rejected(f"{run.sequence}/annot_data.mat row {row}", str(error)))
            else:
                found.append(person)
        return found

    def _root(self) -> Path:
        inside = self.folder / "mpi_inf_3dhp_test_set"
        return inside if inside.is_dir() else self.folder


@dataclass(frozen=True)
class Mpi3dhpTrain(_Mpi3dhp):
    """The training sequences, from their videos or from frames that were extracted."""

    universal: bool = False
    every: int = 10
    """Take every n-th frame (as SPIN: its neighbours differ little)."""
    cameras: tuple[int, ...] = TRAIN_CAMERAS
    """Cameras that are read: by default those at chest and knee height and two that look down a little."""

    @property
    def description(self) -> str:
        return (
            f"MPI-INF-3DHP training set, cameras {' '.join(map(str, self.cameras))}"
            f"{_every(self.every)}, {_size_of(self.universal)}"
        )

    def entries(self) -> Iterator[Entry | Rejected]:
        """Runs of frames, sequence by sequence and camera by camera."""
        files = sorted(self.folder.glob("S[0-9]*/Seq[0-9]*/annot.mat"))
        if not files:
            raise InputError(
                f"{self.folder} has no S1/Seq1/annot.mat; give the folder of MPI-INF-3DHP's subjects"
            )
        for path in files:
            sequence = path.parent.relative_to(self.folder).as_posix()
            for camera in self.cameras:
                where = f"{sequence} camera {camera}"
                try:
                    count = len(_train_fields(path, camera, self.universal)[0])
                except InputError as error:
                    yield Rejected(where, str(error))
                    continue
                rows = list(range(0, count, self.every))
                yield from _runs(sequence, camera, rows, self.run, where)

    def people(self, entry: Entry) -> list[Person | Rejected]:
        """The person of each frame of a run."""
        run: _Run = entry.content
        sequence = self.folder.absolute() / run.sequence
        annot = self.folder / run.sequence / "annot.mat"
        pixels, places = _train_fields(annot, run.camera, self.universal)
        frames = sequence / "imageFrames" / f"video_{run.camera}"
        video = sequence / "imageSequence" / f"video_{run.camera}.avi"
        extracted = frames.is_dir()
        length = len(pixels) if extracted else frame_count(video)
        found: list[Person | Rejected] = []
        for row in run.rows:
            where = f"{run.sequence} camera {run.camera} frame {row}"
            image = frames / f"frame_{row + 1:06d}.jpg" if extracted else Frame(video, row)
            if row >= length:
                found.append(Rejected(where, f"{video} has only {length} frames"))
                continue
            try:
                size = image_size(image) if isinstance(image, Path) else (_TRAIN_SIDE, _TRAIN_SIDE)
                person = Person(
                    key=f"{run.sequence.replace('/', '_')}_video{run.camera}_{row:06d}",
                    image=image,
                    box=_box(pixels[row], places[row], size),
                    keypoints=pixels[row],
                    keypoint_weights=np.ones(_COUNT),
                    joints_mm=places[row],
                    subject=run.sequence.partition("/")[0],
                    action=run.sequence.partition("/")[2],
                    camera=str(run.camera),
                    frame=row,
                )
            except InputError as error:
                found.append(Rejected(where, str(error)))
            else:
                found.append(person)
        return found


def _runs(sequence: str, camera: int, rows: list[int], length: int, where: str) -> Iterator[Entry]:
    for first in range(0, len(rows), length):
        some = tuple(rows[first : first + length])
        yield Entry(f"{where} rows {some[0]}-{some[-1]}", _Run(sequence, camera, some))


def _box(
    pixels: Float[np.ndarray, "joints 2"],
    places: Float[np.ndarray, "joints 3"],
    size: tuple[int, int],
) -> tuple[float, float, float, float]:
    """The box of a row that makes sense in an image of this size; any other is an InputError."""
    if not (np.isfinite(pixels).all() and np.isfinite(places).all()):
        raise InputError("a joint is NaN or infinite")
    box = hull_box(pixels)
    if (np.ptp(pixels, axis=0) <= 0).any():
        raise InputError("all joints are in one line or place")
    if not is_inside(box, *size):
        raise InputError(f"the person is outside the image of {size[0]} x {size[1]} px")
    return box


def _test_fields(path: Path, universal: bool) -> dict[str, np.ndarray]:
    """The arrays of an annot_data.mat; their sizes agree."""
    wanted = {
        "annot2": 2,
        _truth_name(universal): 3,
        "valid_frame": None,
        "activity_annotation": None,
    }
    fields = read_arrays(path, list(wanted))
    count = fields["annot2"].shape[0] if fields["annot2"].ndim else 0
    for name, axes in wanted.items():
        field = fields[name]
        shapes = [(count, 1, _COUNT, axes), (count, _COUNT, axes)]
        right = field.shape in shapes if axes else field.size == count
        if not (right and field.dtype.kind in "fiub"):
            what = f"(frames, 1, {_COUNT}, {axes})" if axes else "one number a frame"
            raise InputError(
                f"{path}: {name} is {field.dtype} of the shape {field.shape}; wanted numbers, "
                f"{what}, for {count} frames"
            )
    return fields


def _train_fields(
    path: Path, camera: int, universal: bool
) -> tuple[Float[np.ndarray, "frames 17 2"], Float[np.ndarray, "frames 17 3"]]:
    """Pixels and positions of one camera's frames."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"there is no {path}") from error
    pixels, places = _read_train(path, universal, changed)
    if not 0 <= camera < len(pixels):
        raise InputError(f"{path} has {len(pixels)} cameras, no number {camera}")
    found = []
    for name, numbers, axes in (("annot2", pixels[camera], 2), ("3D", places[camera], 3)):
        if not (
            isinstance(numbers, np.ndarray)
            and numbers.dtype.kind in "fiu"
            and numbers.ndim == 2
            and numbers.shape[1] == 28 * axes
        ):
            raise InputError(
                f"{path}: {name} of camera {camera} has the shape {np.shape(numbers)}; wanted "
                f"(frames, {28 * axes})"
            )
        found.append(numbers.reshape(-1, 28, axes)[:, list(_OF_28)].astype(np.float64))
    if len(found[0]) != len(found[1]):
        raise InputError(
            f"{path}: camera {camera} has {len(found[0])} frames in 2D and {len(found[1])} in 3D"
        )
    return found[0], found[1]


@lru_cache(maxsize=1)
def _read_train(path: Path, universal: bool, changed: int) -> tuple[list[Any], list[Any]]:
    """The cells of annot2 and of the positions; one file is held, some 200 MB of the real ones."""
    found = []
    for name in ("annot2", _truth_name(universal)):
        array = read_variable(path, name)
        try:
            found.append([cell.numbers() for cell in array.cells()])
        except InputError as error:
            raise InputError(f"{path}: {error}; wanted one cell a camera") from error
    pixels, places = found
    if len(pixels) != len(places):
        raise InputError(f"{path} has {len(pixels)} cameras in 2D and {len(places)} in 3D")
    return pixels, places


def _truth_name(universal: bool) -> str:
    return "univ_annot3" if universal else "annot3"


def _check_steps(every: int, run: int) -> None:
    if every < 1 or run < 1:
        raise InputError(f"frames are taken every 1 or more, got every {every} in runs of {run}")


def _every(step: int) -> str:
    return "" if step == 1 else f", every {step}th"


def _size_of(universal: bool) -> str:
    return "truth of one universal size" if universal else "truth of everybody's own size"
