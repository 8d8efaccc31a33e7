"""People of any data set as rows of ours: crops, dense points carried to the template, truth."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deformlearn.body import BodyTemplate
from deformlearn.camera import Crop
from deformlearn.charts import Charts
from deformlearn.config import ImportConfig
from deformlearn.data.images import open_image, to_pixels
from deformlearn.data.shards import Row, table_of
from deformlearn.data.soundness import Rejected, problems
from deformlearn.data.sources import DensePoints, Frame, Person, SurfacePoints
from deformlearn.data.truth import TruthRow
from deformlearn.data.video import read_frames
from deformlearn.densepose_charts import densepose_to_template, read_densepose_charts
from deformlearn.errors import InputError
from deformlearn.skeleton import JointSet, joint_set

_FRAME_CROP = 256
"""Side of the stored crops of video frames where nothing else is asked for (px)."""

_JPEG_QUALITY = 92

Enrich = Callable[[list[Person]], list[Person]]
"""Gives people dense points from elsewhere: DensePose's predictions, or a fitted body."""


@dataclass(frozen=True)
class Converted:
    """What people came to."""

    rows: list[Row]
    truths: list[TruthRow]
    rejected: list[Rejected]
    bare: list[str]
    """Why a row has no dense points, for each that has none; "" where nobody was to give it any."""


@dataclass(frozen=True, eq=False)
class Converter:
    """How people become rows for one template. Travels to the workers; reads its files there, once."""

    template: BodyTemplate = field(repr=False)
    config: ImportConfig = field(repr=False)
    charts: Path | None = None
    """DensePose's UV_Processed.mat, for people with DensePose labels."""
    enrich: Enrich | None = None

    @cached_property
    def _charts(self) -> Charts:
        if self.charts is None:
            raise InputError("DensePose labels need --charts: DensePose's UV_Processed.mat")
        return read_densepose_charts(self.charts)

    def require_charts(self) -> None:
        """Refuse charts that cannot be read, whether anybody comes to need them or not."""
        if self.charts is not None:
            read_densepose_charts(self.charts)

    def rows(self, people: list[Person], joints: str) -> Converted:
        """Sound rows of these people, their truth, and who could not be used and why."""
        if self.enrich is not None and people:
            people = self.enrich(people)
        by_key: dict[str, Person] = {}
        rejected: list[Rejected] = []
        for person in people:
            if person.key in by_key:
                rejected.append(Rejected(person.key, "its key occurs before in the data set"))
            by_key.setdefault(person.key, person)
        people = self._on_template(list(by_key.values()))
        rows: list[Row] = []
        for one in self._with_images(people):
            (rejected if isinstance(one, Rejected) else rows).append(one)  # type: ignore[arg-type]
        if rows:
            bad = problems(table_of(rows), joints, len(self.template.faces))
            for row, reason in sorted(bad.items()):
                key = rows[row].key
                rejected.append(Rejected(key, "; ".join((reason, *by_key[key].notes))))
            rows = [row for number, row in enumerate(rows) if number not in bad]
        truths = [
            TruthRow(row.key, _relative(by_key[row.key].joints_mm, joint_set(joints)))
            for row in rows
            if by_key[row.key].joints_mm is not None
        ]
        bare = [self._why_bare(by_key[row.key]) for row in rows if not len(row.points)]
        return Converted(rows, truths, rejected, bare)

    def _why_bare(self, person: Person) -> str:
        if person.dense is not None:
            return "none of its dense points lies on the template"
        return person.notes[-1] if self.enrich is not None and person.notes else ""

    def _on_template(self, people: list[Person]) -> list[Person]:
        """DensePose labels of everyone, carried to the template in one go."""
        labelled = [person for person in people if isinstance(person.dense, DensePoints)]
        dense = [person.dense for person in labelled if isinstance(person.dense, DensePoints)]
        if not dense:
            return people
        part = np.concatenate([one.part for one in dense])
        uv = np.concatenate([one.uv for one in dense])
        carried = densepose_to_template(self._charts, self.template, part, uv[:, 0], uv[:, 1])
        ends = np.cumsum([len(one.part) for one in dense])[:-1]
        faces, barycentric, ok = (np.split(values, ends) for values in carried)
        on_template = {
            person.key: replace(
                person,
                dense=SurfacePoints(
                    one.pixels[ok[i]], faces[i][ok[i]], barycentric[i][ok[i]], one.weights[ok[i]]
                ),
            )
            for i, (person, one) in enumerate(zip(labelled, dense, strict=True))
        }
        return [on_template.get(person.key, person) for person in people]

    def _with_images(self, people: list[Person]) -> Iterator[Row | Rejected]:
        """A row for each person; crops are cut here where they are to be stored."""
        together: dict[Path, list[Person]] = defaultdict(list)
        for person in people:
            image = person.image
            together[image.video if isinstance(image, Frame) else image].append(person)
        for path, several in together.items():
            if any(isinstance(person.image, Frame) for person in several):
                yield from self._from_video(path, several)
            elif self.config.crops:
                yield from self._from_image(path, several)
            else:
                for person in several:
                    yield self._row_or_reason(person, None)

    def _from_image(self, path: Path, people: list[Person]) -> Iterator[Row | Rejected]:
        try:
            picture = open_image(path)
        except InputError as error:
            yield from (Rejected(person.key, str(error)) for person in people)
            return
        for person in people:
            yield self._row_or_reason(person, picture)

    def _from_video(self, path: Path, people: list[Person]) -> Iterator[Row | Rejected]:
        by_frame: dict[int, list[Person]] = defaultdict(list)
        for person in people:
            assert isinstance(person.image, Frame)
            by_frame[person.image.index].append(person)
        try:
            for index, picture in read_frames(path, sorted(by_frame)):
                for person in by_frame.pop(index):
                    yield self._row_or_reason(person, picture)
        except InputError as error:
            # What was decoded before the video broke is good.
            for person in (person for several in by_frame.values() for person in several):
                yield Rejected(person.key, str(error))

    def _row_or_reason(self, person: Person, picture: Image.Image | None) -> Row | Rejected:
        try:
            return self._row(person, picture)
        except InputError as error:
            return Rejected(person.key, str(error))

    def _row(self, person: Person, picture: Image.Image | None) -> Row:
        x, y, width, height = person.box
        if not (math.isfinite(x + y + width + height) and width > 0 and height > 0):
            raise InputError(f"its box {person.box} has no extent")
        path = "" if isinstance(person.image, Frame) else str(person.image)
        _require_text(person.key, path)
        half = max(width, height) / 2 * (1 + self.config.margin)
        crop = (x + width / 2, y + height / 2, half)
        dense = person.dense if isinstance(person.dense, SurfacePoints) else _NO_POINTS
        image = None
        if picture is not None:
            side = self.config.crops or _FRAME_CROP
            image = _jpeg(picture, crop, side)
        return Row(
            key=person.key,
            crop=crop,
            points=dense.pixels,
            faces=dense.faces,
            barycentric=dense.barycentric,
            point_weights=dense.weights,
            keypoints=person.keypoints,
            keypoint_weights=person.keypoint_weights,
            image=image,
            image_path=path,
            subject=person.subject,
            action=person.action,
            camera=person.camera,
            frame=person.frame,
        )


def _require_text(*names: str) -> None:
    """Shards hold UTF-8; a file's name may be bytes that are none."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError("its name is not UTF-8; rename its file") from error


_NO_POINTS = SurfacePoints(np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros(0))


def _jpeg(picture: Image.Image, crop: tuple[float, float, float], side: int) -> bytes:
    square = Crop(torch.tensor(crop[:2]), torch.tensor(crop[2]))
    pixels = to_pixels(picture, side, square).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=_JPEG_QUALITY)
    return file.getvalue()


def _relative(joints_mm: np.ndarray | None, joints: JointSet) -> np.ndarray:
    assert joints_mm is not None
    return joints_mm - joints_mm[list(joints.root_indices)].mean(0)
