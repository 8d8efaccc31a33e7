"""A data set as it lies on disk, and a person as it describes them, before any template is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from deformlearn.data.soundness import Rejected
from deformlearn.errors import InputError


@dataclass(frozen=True)
class Frame:
    """A frame of a video, counted from 0."""

    video: Path
    index: int

    @property
    def name(self) -> str:
        """What the frame is called where it is taken for an image."""
        return f"{self.video.stem}_{self.index:06d}"


@dataclass(frozen=True, eq=False)
class DensePoints:
    """Pixels and where DensePose says they lie on the body."""

    pixels: Float[np.ndarray, "n 2"]
    """Source pixels."""
    part: Int[np.ndarray, "n"]
    """1..24."""
    uv: Float[np.ndarray, "n 2"]
    """Chart coordinates in [0, 1]."""
    weights: Float[np.ndarray, "n"]


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Pixels and where they lie on the surface of the template."""

    pixels: Float[np.ndarray, "n 2"]
    """Source pixels."""
    faces: Int[np.ndarray, "n"]
    barycentric: Float[np.ndarray, "n 3"]
    weights: Float[np.ndarray, "n"]


@dataclass(frozen=True, eq=False)
class Person:
    """One person of one image, in the terms of their data set."""

    key: str
    """Unique within the data set."""
    image: Path | Frame
    """The source image, as an absolute path, or a frame of a video."""
    box: tuple[float, float, float, float]
    """Left, top, width and height (source px)."""
    keypoints: Float[np.ndarray, "k 2"]
    """In the source's joint set; source px, (0, 0) is the corner of the first pixel."""
    keypoint_weights: Float[np.ndarray, "k"]
    """Confidences; 0 is missing."""
    dense: DensePoints | SurfacePoints | None = None
    joints_mm: Float[np.ndarray, "k 3"] | None = None
    """3D truth of the same joint set (camera axes: x right, y down, z away), for evaluation."""
    subject: str = ""
    action: str = ""
    camera: str = ""
    frame: int = 0
    notes: tuple[str, ...] = ()
    """What a user should know: cut by the frame, partly hidden."""


@dataclass(frozen=True)
class Entry:
    """One unit of work: an annotation, an image, a run of video frames."""

    where: str
    """File and row, as a person would look for them."""
    content: Any
    """Plain data that travels to a worker process."""


def require_keypoints(least: int) -> None:
    """Refuse to ask for people of no key point: nobody could be placed by none."""
    if least < 1:
        raise InputError(f"a person needs at least 1 key point, got min_keypoints {least}")


class Source(ABC):
    """A data set on disk. Subclasses are frozen dataclasses of paths and options."""

    chunk: ClassVar[int] = 500
    """Entries that make one shard."""
    has_truth: ClassVar[bool] = False
    """Whether people come with `joints_mm`."""

    @property
    @abstractmethod
    def joints(self) -> str:
        """Name of the joint set of its key points."""

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for the protocol card."""

    @abstractmethod
    def entries(self) -> Iterator[Entry | Rejected]:
        """Everything there is to read, in the same order each time, a little at a time.

        Files of another kind are InputErrors; single things that cannot be listed are `Rejected`.
        """

    @abstractmethod
    def people(self, entry: Entry) -> list[Person | Rejected]:
        """The people of an entry. An InputError rejects the whole entry."""
