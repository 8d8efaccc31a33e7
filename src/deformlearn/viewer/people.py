"""One person at a time: the photograph, what is known of it, and every body that a run made of it.

Everything is in view axes: image units across the photograph's crop (x right in [-1, 1]), but y up and z
towards the viewer, depth measured from the middle of the body. A weak-perspective camera is then the
straight view along z, so a body lies over its photograph wherever it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from deformlearn.body import BodyPoints, BodyTemplate, skin
from deformlearn.camera import Crop
from deformlearn.config import RegistrationConfig
from deformlearn.data.estimates import Estimates, iterate_estimates
from deformlearn.data.images import decode_image, to_pixels
from deformlearn.data.shards import (
    OBSERVATION_SCHEMA,
    SEEN,
    DatasetInfo,
    info_for,
    people_in,
    shards,
    splits,
)
from deformlearn.data.soundness import problems
from deformlearn.data.tables import opened, read_ranges, read_table, typed
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, Quality, project_points
from deformlearn.exports.photos import NewPhotos
from deformlearn.files import AnyPath
from deformlearn.findings import EstimatesFile, Findings
from deformlearn.observations import Observations
from deformlearn.orientation import oriented_start
from deformlearn.registration import quality_of

Step = Literal["before", "after", "network"]

STEPS: tuple[Step, ...] = ("before", "after", "network")
"""Of a round: what a fit began with, the fit, and what the network predicts once it has learned."""

PHOTO = 512
"""Side of the photograph's crop (px)."""

_FEW = 16
"""Rows of a shard decoded at once when one photograph is wanted: they may be large."""


@dataclass(frozen=True)
class Body:
    """One body of a person."""

    round: int
    step: Step
    origin: str
    """What it is, in words."""
    estimate: Estimate
    """One row."""
    quality: Quality | None
    """How well it explains the labels; None where there are none."""


@dataclass(frozen=True)
class Person:
    """Someone to look at."""

    key: str
    split: str
    action: str
    photo: np.ndarray | None
    """(PHOTO, PHOTO, 3) uint8: the crop; None where there is no image."""
    crop: Crop
    """One row."""
    seen: Observations | None
    """Labels, one row; None where there are none."""
    bodies: tuple[Body, ...]
    notes: tuple[str, ...] = field(default=())
    """What cannot be shown, and why."""

    def body(self, round_: int, step: Step) -> Body | None:
        """The body of a round and step, or None."""
        return next((b for b in self.bodies if (b.round, b.step) == (round_, step)), None)


class People:
    """Reads the people of what was found, one at a time."""

    def __init__(
        self, found: Findings, template: BodyTemplate, images: NewPhotos | None = None
    ) -> None:
        self.found, self.template, self._images = found, template, images
        self._labels: _Labels | None = None
        self.missing = ""
        """Why there are no photographs; "" where there are."""
        if found.data is None and images is None:
            self.missing = next(
                (note for note in found.notes if note.startswith("the data set ")),
                "no photographs: name the data set with --data, or the pictures with --images",
            )
        elif found.data is not None:
            self._labels = _Labels(found.data, template)

    def read(self, key: str, split: str, row: int) -> Person:
        """Everything about a person; `row` is where the files of the split probably have it."""
        labelled = None if self._labels is None else self._labels.read(key, split)
        notes = [self.missing] if labelled is None and self.missing else []
        if labelled is None and self._labels is not None:
            notes.append("the data set has no such person")
        crop = None if labelled is None else labelled.crop
        bodies = []
        for file in self.found.of(split):
            where = f"{file.path.name} of round {file.round}" if file.round else file.path.name
            try:
                one = _read_row(file, self.template, key, row)
            except InputError as error:  # it has changed since it was found
                notes.append(str(error))
                continue
            if one is None:
                notes.append(f"{where} has no such person")
                continue
            crop = one.crop if crop is None else crop
            if _is_finite(one.estimate):
                bodies += _placed(file, one.estimate, self.found)
            else:
                notes.append(f"{where} has no body of this person: its numbers are not all finite")
        if crop is None:
            raise InputError(f"nothing is known of {key!r}")
        seen = None if labelled is None else labelled.seen
        if seen is not None and any(b.round == 1 and b.origin == _FIT for b in bodies):
            bodies.insert(0, _first_start(self.template, seen))
        photo = None if labelled is None else labelled.photo
        if labelled is not None and labelled.problem:
            notes.append(labelled.problem)
        if photo is None and self._images is not None and bodies:
            photo = self._new_photo(Estimates([key], bodies[0].estimate, crop), notes)
        return Person(
            key, split, "" if labelled is None else labelled.action,
            photo, crop, seen,
            tuple(_measured(self.template, body, seen, crop) for body in bodies), tuple(notes),
        )  # fmt: skip

    def _new_photo(self, one: Estimates, notes: list[str]) -> np.ndarray | None:
        """The crop of a picture that belongs to no data set; or why not, in the notes."""
        assert self._images is not None
        try:
            crop = self._images.of(one).permute(1, 2, 0).numpy()
        except InputError as error:
            notes.append(f"no photograph: {error}")
            return None
        return to_pixels(Image.fromarray(crop), PHOTO).permute(1, 2, 0).numpy()


_FIT = "registration"


def _placed(file: EstimatesFile, estimate: Estimate, found: Findings) -> list[Body]:
    """Where the rounds' story has the body of a file.

    A prediction is what the network learned in its round, and what the next round's fits begin with; of
    people whom no round fits (a test split), it is what their refinement begins with.
    """
    trained = any(one.stage == "registered" for one in found.of(file.split))
    if file.stage == "registered":
        # Outside of runs, predictions too are called estimates.
        return [Body(file.round, "after", _FIT if file.round else "estimate", estimate, None)]
    if file.stage == "refined":
        return [Body(file.round, "after", "prediction refined by registration", estimate, None)]
    origin = f"network's prediction after round {file.round}"
    if not trained:
        return [Body(file.round, "before", origin, estimate, None)]
    here = [Body(file.round, "network", origin, estimate, None)]
    if found.of(file.split, round_=file.round + 1):
        here.append(Body(file.round + 1, "before", origin, estimate, None))
    return here


def _first_start(template: BodyTemplate, seen: Observations) -> Body:
    """Where the first registration begins: the resting body, turned and placed in closed form."""
    points = template.surface_points(seen.faces, seen.barycentric)
    start = oriented_start(template, seen, points)
    return Body(1, "before", "resting body, oriented in closed form", start, None)


def _measured(template: BodyTemplate, body: Body, seen: Observations | None, crop: Crop) -> Body:
    if seen is None:
        return body
    quality = quality_of(template, body.estimate, seen, crop, RegistrationConfig())
    return Body(body.round, body.step, body.origin, body.estimate, quality)


def _read_row(file: EstimatesFile, template: BodyTemplate, key: str, row: int) -> Estimates | None:
    """One person's estimate of a file, first looked for where the other files have it."""
    for number in (row, None):
        if number is None:
            number = _row_of(file, key)
        if number is None or number >= file.people:
            continue
        (one,) = iterate_estimates(file.path, template, [range(number, number + 1)])
        if one.keys == [key]:
            return one
    return None


def _is_finite(estimate: Estimate) -> bool:
    return all(bool(values.isfinite().all()) for values in estimate.tensors())


def _row_of(file: EstimatesFile, key: str) -> int | None:
    found = pc.index(read_table(file.path, ["key"])["key"].cast(pa.string()), key).as_py()
    return None if found < 0 else found


def in_view(
    template: BodyTemplate, estimate: Estimate, points: BodyPoints | None = None
) -> Float[np.ndarray, "points 3"]:
    """Points on a body (of one row), or its whole mesh, in view axes."""
    if points is None:
        vertices = skin(template, estimate.body) @ estimate.camera.rotation().mT
        shift = torch.nn.functional.pad(estimate.camera.translation, (0, 1))
        seen = vertices * estimate.camera.scale[:, None, None] + shift[:, None]
    else:
        seen = project_points(template, estimate, points)
    return _towards_viewer(seen[0], _middle_depth(template, estimate))


def _middle_depth(template: BodyTemplate, estimate: Estimate) -> Tensor:
    """Depth of the body's joints on average: what the view turns about."""
    return project_points(template, estimate, template.joint_points())[0, :, 2].mean()


def _towards_viewer(seen: Float[Tensor, "points 3"], depth: Tensor) -> np.ndarray:
    x, y, z = seen.unbind(-1)
    return torch.stack([x, -y, depth - z], -1).numpy().astype(np.float32)


@dataclass(frozen=True)
class _Labelled:
    """What a data set says of one person."""

    seen: Observations | None
    crop: Crop
    action: str
    photo: np.ndarray | None
    problem: str


class _Labels:
    """The rows of a data set by key. Only keys are kept, as columns."""

    def __init__(self, folder: AnyPath, template: BodyTemplate) -> None:
        self._folder, self._template = folder, template
        self._info: DatasetInfo = info_for(folder, template)
        self._keys: dict[str, list[tuple[AnyPath, pa.ChunkedArray]]] = {}

    def read(self, key: str, split: str) -> _Labelled | None:
        where = self._find(key, split)
        if where is None:
            return None
        path, row = where
        (table,) = read_ranges(path, [range(row, row + 1)], SEEN)
        table = typed(path, table, OBSERVATION_SCHEMA)
        bad = problems(table, self._info.joints, len(self._template.faces))
        people = None if bad else people_in(table, self._info, [])
        x, y, half = (table[name][0].as_py() or 1.0 for name in ("crop_x", "crop_y", "crop_half"))
        crop = Crop(torch.tensor([[x, y]]), torch.tensor([half])) if people is None else people.crop
        photo, problem = self._photo(path, row, crop)
        return _Labelled(
            None if people is None else people.observations, crop, table["action"][0].as_py() or "",
            photo, f"its labels cannot be used: {bad[0]}" if bad else problem,
        )  # fmt: skip

    def _find(self, key: str, split: str) -> tuple[AnyPath, int] | None:
        """The shard and the row of a person; without a known split every split is looked through."""
        names = [split] if split else splits(self._folder)
        for name in names:
            for path, keys in self._keys_of(name):
                row = pc.index(keys, key).as_py()
                if row >= 0:
                    return path, row
        return None

    def _keys_of(self, split: str) -> list[tuple[AnyPath, pa.ChunkedArray]]:
        if split not in self._keys:
            found = []
            for path in self._shards(split):
                try:
                    found.append((path, read_table(path, ["key"])["key"].cast(pa.string())))
                except InputError:
                    continue  # a shard that is not whole costs its own people, no others
            self._keys[split] = found
        return self._keys[split]

    def _shards(self, split: str) -> list[AnyPath]:
        return shards(self._folder, "observations", split) if split in splits(self._folder) else []

    def _photo(self, path: AnyPath, row: int, crop: Crop) -> tuple[np.ndarray | None, str]:
        """The crop as pixels; or why not."""
        image, image_path = _stored_image(path, row)
        if image is None and not image_path:
            return None, "it has no image"
        try:
            if image is not None:
                pixels = decode_image(image, PHOTO)
            else:
                pixels = decode_image(self._folder / image_path, PHOTO, crop[0])
        except InputError as error:
            return None, f"no photograph: {error}"
        return pixels.permute(1, 2, 0).numpy(), ""


def _stored_image(path: AnyPath, row: int) -> tuple[bytes | None, str]:
    """The image column of one row: only its row group is read, a few rows at a time."""
    with opened(path, ["image", "image_path"]) as file:
        start = 0
        for group in range(file.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            if row < start + length:
                break
            start += length
        batches = file.iter_batches(_FEW, row_groups=[group], columns=["image", "image_path"])
        for batch in batches:
            if row < start + len(batch):
                one = batch.slice(row - start, 1).to_pylist()[0]
                return one["image"], one["image_path"] or ""
            start += len(batch)
    return None, ""
