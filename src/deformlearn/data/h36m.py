"""Human3.6M as its users unpack it, or from the common .npz and a folder of extracted frames.

    FOLDER/metadata.xml                                     (or Release-v1.2/metadata.xml)
    FOLDER/S1/MyPoseFeatures/D3_Positions/Directions 1.cdf             mm, world
    FOLDER/S1/MyPoseFeatures/D3_Positions_mono/Directions 1.54138969.cdf   mm, camera (if no world)
    FOLDER/S1/MyPoseFeatures/D2_Positions/Directions 1.54138969.cdf    px, a check if it is there
    FOLDER/S1/Videos/Directions 1.54138969.mp4                         50 frames a second

Key points are the true joints as the camera sees them, distortion included; the box is their hull.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from deformlearn.data.h36m_metadata import (
    ACTIONS,
    CAMERAS,
    CORRUPT,
    LabCamera,
    Metadata,
    Take,
    read_metadata,
)
from deformlearn.data.h36m_poses import (
    LEFT_FIRST,
    RIGHT_FIRST,
    archive_poses,
    count_frames,
    read_positions,
)
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Frame, Person, Source
from deformlearn.data.video import frame_count, read_frames
from deformlearn.errors import InputError

TRAIN_SUBJECTS = ("S1", "S5", "S6", "S7", "S8")
TEST_SUBJECTS = ("S9", "S11")
"""Whom the protocols train on and test on."""

_APART_PX = 5.0
"""How far our projection may lie from the data set's own 2D positions."""

_MARGIN = 0.05
"""Share of the box's longer side added on each side: joints lie inside the body."""


@dataclass(frozen=True)
class _Run:
    """Some frames of one take as one camera saw it."""

    take: Take
    stem: str
    """Name of the take's files."""
    camera: str
    frames: range


@dataclass(frozen=True)
class Human36M(Source):
    """The subjects, actions, trials, cameras and frames asked for."""

    chunk: ClassVar[int] = 8
    has_truth: ClassVar[bool] = True

    folder: Path
    """Where the archives were unpacked, or where the extracted frames are."""
    metadata: Path | None = None
    """metadata.xml; looked for in the folder where it is not given."""
    poses: Path | None = None
    """data_3d_h36m.npz, instead of the .cdf files."""
    images: str = ""
    """Extracted frames instead of the videos: their path within the folder, with fields in braces, as
    "{subject}/images/{subject}_{take}.{camera}_{number:06d}.jpg" or "{key}.jpg": key, subject, take,
    action, trial, camera, frame (from 0), number (from 1), subject_number, action_number (from 2),
    camera_number."""
    subjects: tuple[str, ...] = TRAIN_SUBJECTS
    """Whom to read."""
    actions: tuple[str, ...] = ACTIONS
    """What they do."""
    cameras: tuple[str, ...] = CAMERAS
    """Who sees them."""
    trials: tuple[int, ...] = (1, 2)
    """Which recordings of an action."""
    every: int = 1
    """Take every n-th frame of a video, from its first on."""
    left_first: bool = False
    """Joints in SPIN's order (left leg first) instead of Martinez's."""
    run_length: int = 64
    """Frames of a video that are read together."""

    def __post_init__(self) -> None:
        for what, given, known in (
            ("action", self.actions, ACTIONS),
            ("camera", self.cameras, CAMERAS),
            ("trial", self.trials, (1, 2)),
        ):
            unknown = [str(one) for one in given if one not in known]
            if unknown:
                raise InputError(
                    f"Human3.6M has no {what} {unknown[0]!r}; it has {', '.join(map(str, known))}"
                )
        if self.every < 1 or self.run_length < 1:
            raise InputError(f"frames are taken every 1 or more, got every {self.every}")

    @property
    def joints(self) -> str:
        return "h36m17_left_first" if self.left_first else "h36m17"

    @property
    def description(self) -> str:
        step = "every frame" if self.every == 1 else f"every {self.every}th frame"
        return f"Human3.6M {' '.join(self.subjects)}, {len(self.cameras)} cameras, {step} of 50 a second"

    def entries(self) -> Iterator[Entry | Rejected]:
        """Runs of frames, take by take and camera by camera."""
        known = read_metadata(self._metadata_path())
        if self.poses is None:
            self._refuse_archives()
        for subject in self.subjects:
            stems = self._stems(subject)
            if not stems:
                yield Rejected(str(self.poses or self.folder / subject), self._no_subject(subject))
                continue
            stem_of = {known.take(subject, stem): stem for stem in stems}
            for stem in stems:
                if known.take(subject, stem) is None:
                    yield Rejected(f"{subject}/{stem}", "metadata.xml names no such take")
            wanted = [take for take in known.takes if self._wanted(take, subject)]
            missing = [take.name for take in wanted if take not in stem_of]
            if missing:
                yield Rejected(subject, f"there are no poses of {', '.join(missing)}")
            for take in wanted:
                if take in stem_of:
                    yield from self._runs(known, take, stem_of[take])

    def _wanted(self, take: Take, subject: str) -> bool:
        return take.subject == subject and take.action in self.actions and take.trial in self.trials

    def _runs(self, known: Metadata, take: Take, stem: str) -> Iterator[Entry | Rejected]:
        for camera in self.cameras:
            where = f"{take.subject}/{stem}.{camera}"
            if (take.subject, stem, camera) == CORRUPT:
                yield Rejected(where, "left out: this video of the data set is corrupt")
                continue
            if (take.subject, camera) not in known.cameras:
                yield Rejected(where, f"metadata.xml has no camera {camera} for {take.subject}")
                continue
            try:
                count = self._count(take.subject, stem, camera)
            except InputError as error:
                yield Rejected(where, str(error))
                continue
            numbers = range(0, count, self.every)
            for first in range(0, len(numbers), self.run_length):
                frames = numbers[first : first + self.run_length]
                span = f"{where} frames {frames[0]}-{frames[-1]}"
                yield Entry(span, _Run(take, stem, camera, frames))

    def people(self, entry: Entry) -> list[Person | Rejected]:
        """The person of each frame of a run."""
        run: _Run = entry.content
        lab = read_metadata(self._metadata_path()).cameras[run.take.subject, run.camera]
        seen = self._camera_mm(run, lab)
        pixels = lab.to_pixels(np.where(seen[..., 2:] > 0, seen, np.nan))
        offsets = self._offsets(run, pixels)
        there = self._frames_there(run)
        order = list(LEFT_FIRST if self.left_first else RIGHT_FIRST)
        found: list[Person | Rejected] = []
        for row, frame in enumerate(run.frames):
            key = run.take.key(run.camera, frame)
            where = f"{run.take.subject}/{run.stem}.{run.camera} frame {frame}"
            image = self._image(run, frame)
            if not np.isfinite(seen[row]).all():
                found.append(Rejected(where, "a joint is NaN or infinite"))
            elif not np.isfinite(pixels[row]).all():
                found.append(Rejected(where, "a joint is behind the camera"))
            elif offsets[row] > _APART_PX:
                reason = f"D2_Positions lies {offsets[row]:.0f} px from the projected joints"
                found.append(
                    Rejected(where, f"{reason}: poses and cameras are of different releases")
                )
            elif frame >= there:
                found.append(Rejected(where, f"the video has only {there} frames"))
            elif isinstance(image, Path) and not image.is_file():
                found.append(Rejected(where, f"there is no image {image}"))
            else:
                found.append(
                    Person(
                        key=key,
                        image=image,
                        box=_hull(pixels[row]),
                        keypoints=pixels[row][order],
                        keypoint_weights=np.ones(len(order)),
                        joints_mm=seen[row][order],
                        subject=run.take.subject,
                        action=run.take.action,
                        camera=run.camera,
                        frame=frame,
                    )
                )
        return found

    def _camera_mm(self, run: _Run, lab: LabCamera) -> Float[np.ndarray, "frames 32 3"]:
        """The joints of the run's frames in camera axes."""
        if self.poses is not None:
            world = 1000 * archive_poses(self.poses)[run.take.subject][run.stem]
            return lab.to_camera(world[list(run.frames)])
        path = self._pose_file(run.take.subject, run.stem, run.camera)
        positions = read_positions(path, 3)[list(run.frames)]
        return positions if path.parent.name == "D3_Positions_mono" else lab.to_camera(positions)

    def _offsets(
        self, run: _Run, pixels: Float[np.ndarray, "frames 32 2"]
    ) -> Float[np.ndarray, "frames"]:
        """Median distance to the data set's own 2D positions; 0 where it has none."""
        path = self._features(run.take.subject) / "D2_Positions" / f"{run.stem}.{run.camera}.cdf"
        if self.poses is not None or not path.is_file():
            return np.zeros(len(run.frames))
        theirs = read_positions(path, 2)
        if len(theirs) <= run.frames[-1]:
            poses = self._count(run.take.subject, run.stem, run.camera)
            raise InputError(f"{path} has {len(theirs)} frames but the 3D poses have {poses}")
        distances = np.linalg.norm(theirs[list(run.frames)] - pixels, axis=-1)
        return np.median(np.nan_to_num(distances), -1)

    def _frames_there(self, run: _Run) -> int:
        """How many frames there are pictures of."""
        if self.images:
            return run.frames[-1] + 1
        return frame_count(self._video(run))

    def _video(self, run: _Run) -> Path:
        return self.folder.absolute() / run.take.subject / "Videos" / f"{run.stem}.{run.camera}.mp4"

    def _image(self, run: _Run, frame: int) -> Path | Frame:
        if not self.images:
            return Frame(self._video(run), frame)
        fields = image_fields(run.take, run.camera, frame)
        try:
            return self.folder.absolute() / self.images.format(**fields)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise InputError(
                f"the pattern of images {self.images!r} cannot be filled in ({error}); "
                f"its fields are {', '.join(fields)}"
            ) from error

    def _features(self, subject: str) -> Path:
        return self.folder / subject / "MyPoseFeatures"

    def _pose_file(self, subject: str, stem: str, camera: str) -> Path:
        world = self._features(subject) / "D3_Positions" / f"{stem}.cdf"
        if world.is_file():
            return world
        return self._features(subject) / "D3_Positions_mono" / f"{stem}.{camera}.cdf"

    def _count(self, subject: str, stem: str, camera: str) -> int:
        if self.poses is not None:
            return len(archive_poses(self.poses)[subject][stem])
        return count_frames(self._pose_file(subject, stem, camera))

    def _stems(self, subject: str) -> list[str]:
        """Names of the takes there are poses of."""
        if self.poses is not None:
            return sorted(archive_poses(self.poses).get(subject, {}))
        world = [path.stem for path in (self._features(subject) / "D3_Positions").glob("*.cdf")]
        mono = (self._features(subject) / "D3_Positions_mono").glob("*.cdf")
        names = {*world, *(path.stem.rpartition(".")[0] for path in mono)}
        return sorted(name for name in names if not name.startswith("_ALL"))

    def _no_subject(self, subject: str) -> str:
        if self.poses is not None:
            has = ", ".join(archive_poses(self.poses)) or "nobody"
            return f"it has no {subject}; it has {has}"
        universal = self._features(subject) / "D3_Positions_mono_universal"
        if universal.is_dir():
            return (
                f"{subject} has only universal poses, which are not of its own size; "
                f"unpack Poses_D3_Positions_{subject}.tgz"
            )
        return f"{subject} has no poses; unpack Poses_D3_Positions_{subject}.tgz there"

    def _refuse_archives(self) -> None:
        """A folder without any subject: most likely the archives were not unpacked."""
        if any((self.folder / subject).is_dir() for subject in self.subjects):
            return
        archives = sorted(path.name for path in self.folder.glob("*.tgz"))
        if archives:
            raise InputError(
                f"{self.folder} holds archives ({archives[0]}, {len(archives)} in all) that must be "
                f'unpacked first: cd {self.folder} && for a in *.tgz; do tar xzf "$a"; done'
            )
        raise InputError(
            f"{self.folder} has none of the folders {', '.join(self.subjects)}; give the folder in "
            f"which Human3.6M's archives were unpacked"
        )

    def _metadata_path(self) -> Path:
        if self.metadata is not None:
            return self.metadata
        places = [self.folder / "metadata.xml", *sorted(self.folder.glob("Release-*/metadata.xml"))]
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise InputError(
                f"{self.folder} has no metadata.xml, which holds the cameras; take it from "
                f"Human3.6M's code release (Release-v1.2) or say where it is"
            )
        return found


def image_fields(take: Take, camera: str, frame: int) -> dict[str, str | int]:
    """What a pattern of extracted frames may name; `number` counts frames from 1, `frame` from 0."""
    return {
        "key": take.key(camera, frame),
        "subject": take.subject,
        "take": take.name.replace(" ", "_"),
        "action": take.action,
        "trial": take.trial,
        "camera": camera,
        "frame": frame,
        "number": frame + 1,
        "subject_number": int(take.subject[1:]),
        # metadata.xml counts "_ALL" as the first action.
        "action_number": ACTIONS.index(take.action) + 2,
        "camera_number": CAMERAS.index(camera) + 1,
    }


def extract_frames(source: Human36M, folder: Path) -> Iterator[Path | Rejected]:
    """Write the frames of a source as `<key>.jpg`, for tools that read images, and yield their paths.

    Frames that are there already are kept. What a tool writes for them carries the rows' keys as names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for entry in source.entries():
        if isinstance(entry, Rejected):
            yield entry
        else:
            yield from _extract(source, entry, folder)


def _extract(source: Human36M, entry: Entry, folder: Path) -> Iterator[Path | Rejected]:
    try:
        people = source.people(entry)
        yield from (one for one in people if isinstance(one, Rejected))
        named = {
            one.image.index: (one.image.video, folder / f"{one.key}.jpg")
            for one in people
            if isinstance(one, Person) and isinstance(one.image, Frame)
        }
        missing = [index for index, (_, path) in named.items() if not path.exists()]
        yield from (path for index, (_, path) in named.items() if index not in missing)
        if missing:
            for index, picture in read_frames(named[missing[0]][0], missing):
                path = named[index][1]
                part = path.with_suffix(".part")
                picture.save(part, "jpeg", quality=95)
                yield part.replace(path)
    except InputError as error:
        yield Rejected(entry.where, str(error))


def _hull(pixels: Float[np.ndarray, "32 2"]) -> tuple[float, float, float, float]:
    """The joints' bounding box and a margin: left, top, width, height."""
    low, high = pixels.min(0), pixels.max(0)
    margin = _MARGIN * float((high - low).max())
    left, top = low - margin
    width, height = high - low + 2 * margin
    return float(left), float(top), float(width), float(height)
