"""DensePose-PoseTrack: people in video frames, with tracks.

Fields as in facebookresearch/DensePose (challenge/2018_PoseTrack_DensePose/data_format.md). There are two
kinds of files: densepose_only_posetrack_* lists the frames with DensePose annotations,
densepose_posetrack_* all frames. Names of key points are read from `categories`, because PoseTrack's
points 1 and 2 are not COCO's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from deformlearn.data.coco_file import Labelled, header, identity_of, image_of, labels
from deformlearn.data.densepose_annotations import LabelledPerson, PointRules, labelled_person
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Person, Source
from deformlearn.errors import InputError

_FRAMES = 10_000
"""PoseTrack's frame ids are 1, six digits of the video and four of the frame."""


@dataclass(frozen=True)
class DensePosePoseTrack(Source):
    """People of densepose_only_posetrack_{train,val}2017.json or densepose_posetrack_*.json."""

    annotations: Path
    images: Path
    """PoseTrack's root: file names in the json begin there."""
    points: PointRules = field(default_factory=PointRules)

    @property
    def joints(self) -> str:
        return header(self.annotations, assumed=None).order.joints

    @property
    def description(self) -> str:
        return f"DensePose annotations of {self.annotations.name}, scaled by {self.points.scale}"

    def entries(self) -> Iterator[Entry | Rejected]:
        head = header(self.annotations, assumed=None)
        tracks: set[int] = set()
        for where, label in labels(self.annotations, head):
            if isinstance(label, Rejected):
                yield label
                continue
            track = identity_of(label.annotation.get("track_id"))
            frame = hash((identity_of(label.annotation["image_id"]), track))
            if track is not None and frame in tracks:
                yield Rejected(where, f"its track {track} occurs more than once in its frame")
                continue
            tracks.add(frame)
            if label.image.get("has_no_densepose") and not self.points.keypoints_only:
                yield Rejected(where, "its frame has no DensePose annotations (has_no_densepose)")
                continue
            yield Entry(where, label)

    def people(self, entry: Entry) -> list[Person | Rejected]:
        label: Labelled = entry.content
        path, size = image_of(label, self.images)
        # PoseTrack's v is 0 or 1: labelled or not, nothing about hidden.
        found = labelled_person(label, size, self.points, hidden=1.0)
        if _ignored_share(label.image, found) > 0.5:
            raise InputError("lies in a region that its annotators marked to be ignored")
        video = identity_of(label.image.get("vid_id")) or PurePosixPath(path.as_posix()).parent.name
        track = identity_of(label.annotation.get("track_id"))
        return [
            Person(
                key=f"{video}_{label.key}",
                image=path,
                box=found.box,
                keypoints=found.keypoints,
                keypoint_weights=found.weights,
                dense=found.dense,
                subject=video if track is None else f"{video}/{track}",
                frame=frame_number(label.image),
                notes=found.notes,
            )
        ]


def frame_number(image: dict[str, Any]) -> int:
    """The frame's number in its video: the last four digits of its id, else its file's name."""
    identity = identity_of(image.get("frame_id"))
    stem = Path(image["file_name"]).stem
    for text in (identity, stem):
        if text and text.isascii() and text.isdigit():
            return int(text[-4:]) if text is identity else int(text) % _FRAMES
    return 0


def _ignored_share(image: dict[str, Any], person: LabelledPerson) -> float:
    """How many of a person's labels lie in the image's regions to be ignored."""
    points = person.keypoints[person.weights > 0]
    if person.dense is not None:
        points = np.concatenate([points, person.dense.pixels])
    inside = np.zeros(len(points), bool)
    for region in _regions(image):
        inside |= _within(points, region)
    return float(inside.mean()) if len(points) else 0.0


def _regions(image: dict[str, Any]) -> list[Float[np.ndarray, "corners 2"]]:
    """The polygons of an image; PoseTrack writes a single one also without the outer list."""
    xs, ys = image.get("ignore_regions_x"), image.get("ignore_regions_y")
    if not xs and not ys:
        return []
    if isinstance(xs, list) and isinstance(ys, list) and not isinstance((xs or [0])[0], list):
        xs, ys = [xs], [ys]
    try:
        regions = [
            np.array([x, y], np.float64).T
            for x, y in zip(xs, ys, strict=True)  # type: ignore[arg-type]
        ]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            "its image's ignore_regions_x and ignore_regions_y are no polygons"
        ) from error
    if any(region.ndim != 2 or not np.isfinite(region).all() for region in regions):
        raise InputError("its image's ignore_regions_x and ignore_regions_y are no polygons")
    return [region for region in regions if len(region) > 2]


def _within(
    points: Float[np.ndarray, "n 2"], polygon: Float[np.ndarray, "corners 2"]
) -> Bool[np.ndarray, "n"]:
    """Which points a polygon encloses: a ray to the right crosses an odd number of its edges."""
    x, y = points[:, :1], points[:, 1:]
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, 0).T
    crosses = (y0 <= y) != (y1 <= y)
    height = np.where(y1 == y0, 1.0, y1 - y0)
    at = x0 + (y - y0) / height * (x1 - x0)
    return (crosses & (x < at)).sum(1) % 2 == 1
