"""Human3.6M's metadata.xml: the cameras of its laboratory, and which file is which take.

The file is part of the data set's own code release (Release-v1.2). Its element `w0` holds 300
numbers: for each camera and each of 11 subjects three rotation angles (radians) and the camera's
position (mm); then for each camera focal lengths, principal point (px), three radial and two
tangential distortion coefficients. Its table `mapping` names the files: a take's second trial is
"Directions" here and "Discussion 2" there, so trials are counted by that table alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

from deformlearn.errors import InputError

CAMERAS = ("54138969", "55011271", "58860488", "60457274")
"""The four cameras, in the order in which protocols count them."""

ACTIONS = tuple(
    "Directions Discussion Eating Greeting Phoning Posing Purchases Sitting SittingDown Smoking "
    "Photo Waiting Walking WalkDog WalkTogether".split()
)
"""The 15 actions by the names used here."""

_RENAMED = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog", "WalkingTogether": "WalkTogether"}
_SUBJECTS = 11
_EXTRINSIC, _INTRINSIC = 6, 9
_WANTED = "metadata.xml of Human3.6M's code release (Release-v1.2)"


@dataclass(frozen=True, eq=False)
class LabCamera:
    """One camera as one subject was filmed by it."""

    rotation: Float[np.ndarray, "3 3"]
    """World axes to camera axes (x right, y down, z away)."""
    position: Float[np.ndarray, "3"]
    """Where it stands in the world (mm)."""
    focal: Float[np.ndarray, "2"]
    """Pixels."""
    centre: Float[np.ndarray, "2"]
    """Pixels."""
    radial: Float[np.ndarray, "3"]
    tangential: Float[np.ndarray, "2"]

    def to_camera(self, world_mm: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Camera axes (mm) of points of the world."""
        return (world_mm - self.position) @ self.rotation.T

    def to_world(self, camera_mm: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """The world's axes (mm) of points in camera axes."""
        return camera_mm @ self.rotation + self.position

    def to_pixels(self, camera_mm: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 2"]:
        """Pixels of points in camera axes.

        As the data set's own code bends them: the product in the tangential part is half of OpenCV's,
        which is under 0.6 px in a corner of the picture.
        """
        flat = camera_mm[..., :2] / camera_mm[..., 2:]
        squared = (flat**2).sum(-1, keepdims=True)
        powers = np.concatenate([squared, squared**2, squared**3], -1)
        bent = 1 + (powers @ self.radial + flat @ self.tangential[::-1])[..., None]
        return self.focal * (flat * bent + self.tangential[::-1] * squared) + self.centre


@dataclass(frozen=True)
class Take:
    """One recording of one subject: its file name, and what it shows."""

    subject: str
    name: str
    """Stem of its files, without the camera: "Directions 1"."""
    action: str
    trial: int
    """1 or 2, by the order of metadata.xml."""

    def key(self, camera: str, frame: int) -> str:
        """Key of one frame's row: S9_Directions_1.60457274_000005; frames count from 0."""
        return f"{self.subject}_{self.action}_{self.trial}.{camera}_{frame:06d}"


@dataclass(frozen=True, eq=False)
class Metadata:
    """What metadata.xml says."""

    takes: tuple[Take, ...]
    cameras: dict[tuple[str, str], LabCamera]
    """By subject and camera."""

    def take(self, subject: str, name: str) -> Take | None:
        """The take a file belongs to; actions may go by their other names."""
        return self._by_name.get((subject, *_split_name(name)))

    @cached_property
    def _by_name(self) -> dict[tuple[str, str, str], Take]:
        return {(take.subject, *_split_name(take.name)): take for take in self.takes}


CORRUPT = ("S11", "Directions", "54138969")
"""Subject, file and camera of the one video whose pictures do not belong to its poses: left out."""

TRIALS = (1, 2)
"""Every subject did every action twice."""


def parse_key(key: str) -> tuple[int, int] | None:
    """Trial and frame of a row's key, as `Take.key` writes it; None for any other key."""
    found = re.fullmatch(r"S\d+_[A-Za-z]+_(\d+)\.\d+_(\d+)", key)
    return (int(found[1]), int(found[2])) if found else None


def read_metadata(path: Path) -> Metadata:
    """The takes and cameras of metadata.xml; any other file is an InputError."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give {_WANTED}") from error
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise InputError(f"{path} is not whole XML ({error}); give {_WANTED}") from error
    rows = [[cell.text or "" for cell in row] for row in root.iterfind("mapping/tr")]
    names = tuple(element.text or "" for element in root.iterfind("dbcameras/index2id/*"))
    numbers = _numbers(root.findtext("w0"))
    for what, there in (("mapping", rows), ("dbcameras/index2id", names), ("w0", len(numbers))):
        if not there:
            raise InputError(f"{path} has no {what}; give {_WANTED}")
    subjects = [name for name in rows[0] if re.fullmatch(r"S\d+", name)]
    expected = len(names) * (_SUBJECTS * _EXTRINSIC + _INTRINSIC)
    if len(numbers) != expected or len(subjects) != _SUBJECTS:
        raise InputError(
            f"{path}: w0 has {len(numbers)} numbers for {len(names)} cameras and {len(subjects)} "
            f"subjects, wanted {expected} for {_SUBJECTS} subjects; give {_WANTED}"
        )
    return Metadata(_takes(rows, subjects), _cameras(numbers, names, subjects))


def _numbers(text: str | None) -> Float[np.ndarray, "n"]:
    """The numbers of w0; none where one of them is no finite number."""
    try:
        numbers = np.array([float(word) for word in (text or "").strip(" []\n\t").split()])
    except ValueError:
        return np.zeros(0)
    return numbers if np.isfinite(numbers).all() else np.zeros(0)


def _takes(rows: Sequence[Sequence[str]], subjects: Sequence[str]) -> tuple[Take, ...]:
    """One take for each row that begins with an action's and a trial's number, and each subject."""
    found = []
    for row in rows[1:]:
        # Headings stand between the actions. int() reads fewer digits than isdigit() knows: not "²".
        if len(row) < 2 or not all(cell.isascii() and cell.isdigit() for cell in row[:2]):
            continue
        _, trial, *names = row
        for subject, name in zip(subjects, names, strict=False):
            action = _split_name(name)[0]
            if action in ACTIONS:
                found.append(Take(subject, name, action, int(trial)))
    return tuple(found)


def _split_name(name: str) -> tuple[str, str]:
    """Action (by our name) and the number behind it: "TakingPhoto 1" is ("Photo", "1")."""
    action, _, number = name.strip().replace("_", " ").partition(" ")
    return _RENAMED.get(action, action), number


def _cameras(
    numbers: Float[np.ndarray, "n"], names: Sequence[str], subjects: Sequence[str]
) -> dict[tuple[str, str], LabCamera]:
    split = len(names) * _SUBJECTS * _EXTRINSIC
    placed = numbers[:split].reshape(len(names), _SUBJECTS, _EXTRINSIC)
    lenses = numbers[split:].reshape(len(names), _INTRINSIC)
    return {
        (subject, name): LabCamera(
            rotation_from_angles(placed[i, j, :3]), placed[i, j, 3:],
            lenses[i, :2], lenses[i, 2:4], lenses[i, 4:7], lenses[i, 7:9],
        )
        for i, name in enumerate(names)
        for j, subject in enumerate(subjects)
    }  # fmt: skip


def rotation_from_angles(angles: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Rx(a) Ry(b) Rz(c): the world's axes to the camera's."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z
