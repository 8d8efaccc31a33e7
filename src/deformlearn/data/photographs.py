"""Scripts to rows: people are photographed in batches on any device, and labelled with exact truth.

Labels come from the same z-buffer that made the image. Vertices and cameras are computed in float64
and rounded once, and the z-buffer uses single operations that round alike everywhere, so labels do not
depend on the device or on who else is in the batch (docs/decisions/0006).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from deformlearn.allocation import keep_freed_memory
from deformlearn.config import SyntheticConfig
from deformlearn.crew import Submit
from deformlearn.data.crowd import Crowd
from deformlearn.data.darkroom import develop, sample_grid
from deformlearn.data.labels import annotate, predicted
from deformlearn.data.outfits import Looks
from deformlearn.data.scenery import Scene
from deformlearn.data.scenes import stage
from deformlearn.data.shards import Row
from deformlearn.data.staging import Part, Script, Studio, random_stream
from deformlearn.data.truth import TruthRow
from deformlearn.data.wardrobe import Paint
from deformlearn.raster import Fragments, interpolate_columns, rasterise, true_at, vertex_normals

_JPEG_QUALITY = 92

PIECE = 10
"""People that another process draws, or labels, in one go."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture and what it shows: all that it is labelled from."""

    image: UInt8[np.ndarray, "size size 3"]
    pixels: Float[np.ndarray, "visible 2"]
    """Centres of the pixels that show the body."""
    faces: Int[np.ndarray, "visible"]
    """What they show."""
    barycentric: Float[np.ndarray, "visible 3"]
    keypoints: Float[np.ndarray, "25 2"]
    """Pixels."""


@dataclass(frozen=True, eq=False)
class Photograph(Picture):
    """One picture, and all that can be known about it."""

    landmarks_mm: Float[np.ndarray, "25 3"]
    """Camera axes, from the pelvis."""
    vertices_mm: Float[np.ndarray, "vertices 3"]

    def picture(self) -> Picture:
        """The picture without the truth: a third less to send to another process."""
        return Picture(self.image, self.pixels, self.faces, self.barycentric, self.keypoints)


@dataclass(frozen=True, eq=False)
class Stage:
    """What people share, on one device."""

    studio: Studio
    crowd: Crowd
    attributes: Float[Tensor, "vertices 15"]
    """Of the wardrobe."""

    @staticmethod
    @cache
    def on(device: torch.device) -> Stage:
        """The stage of this process on a device."""
        keep_freed_memory()
        studio = Studio.open()
        attributes = studio.wardrobe.attributes.to(device)
        return Stage(studio, Crowd(studio.rig, device), attributes)


@torch.no_grad()
def photograph(scripts: Sequence[Script], size: int, where: Stage) -> list[Photograph]:
    """A picture for every script, all at once."""
    studio = where.studio
    staged = stage(scripts, studio.rig, where.crowd, size)
    scene, view = staged.scene, staged.scene.view
    seen = view.to_camera(scene.vertices)
    screen = view.to_pixels(seen)
    grid, side = sample_grid(screen, size)
    samples = rasterise(
        grid.float(), seen[..., 2].float(), scene.faces, (side, side), perspective=True
    )
    surface = _surface(scripts, scene, samples, where)
    images = develop(scene, size, samples, *surface, [script.film for script in scripts])

    row, column = samples.places(side)
    odd = (row & column & 1).bool()
    index = true_at(odd & (samples.faces < len(where.crowd.faces)))
    shown = samples.map(lambda values: values.index_select(0, index))
    # Where each picture ends: they come one after the other.
    later = torch.arange(1, len(scripts) + 1, device=shown.images.device)
    bounds = torch.searchsorted(shown.images, later)
    row, column = shown.places(side)
    pixels = torch.stack([column, row], 1).float() / 2
    body = seen[:, : len(studio.template.vertices)]
    top = body[:, studio.template.vertices[:, 1].argmax(), None]
    landmarks = torch.cat([view.to_camera(staged.joints), top], 1)
    pelvis = landmarks[:, :1]
    *parts, image, keypoints, landmarks_mm, vertices_mm, ends = _fetched(
        pixels,
        shown.faces.int(),
        shown.barycentric,
        images,
        view.to_pixels(landmarks).float(),
        ((landmarks - pelvis) * 1000).float(),
        ((body - pelvis) * 1000).float(),
        bounds,
    )
    apart = [np.split(values, ends[:-1]) for values in parts]
    return [
        Photograph(*each)
        for each in zip(image, *apart, keypoints, landmarks_mm, vertices_mm, strict=True)
    ]


def _fetched(*values: Tensor) -> list[np.ndarray]:
    """The values on the host; a device is waited for once. The last may not be empty."""
    *first, last = values
    under_way = [value.to("cpu", non_blocking=True) for value in first]
    # A device copies in order: when the last has come, and that one is waited for, all have.
    return [value.numpy() for value in (*under_way, last.cpu())]


def to_row(
    config: SyntheticConfig,
    split: str,
    index: int,
    script: Script,
    shot: Photograph,
    studio: Studio,
) -> tuple[Row, TruthRow]:
    """The labelled image of one person, and the truth that evaluation may see."""
    row = _row(config, split, index, script.part, shot, studio)
    return row, _truth(split, index, shot)


def labelling(
    config: SyntheticConfig,
    split: str,
    start: int,
    scripts: Sequence[Script],
    shots: Sequence[Photograph],
    submit: Submit,
) -> Callable[[], list[tuple[Row, TruthRow]]]:
    """What waits for the rows of people of a split, from number `start` on; others now make them."""
    rows = []
    for first in range(0, len(shots), PIECE):
        piece = slice(first, first + PIECE)
        parts = [script.part for script in scripts[piece]]
        pictures = [shot.picture() for shot in shots[piece]]
        rows.append(submit(_rows, config, split, start + first, parts, pictures))
    truth = [_truth(split, index, shot) for index, shot in enumerate(shots, start)]
    return lambda: list(zip([row for some in rows for row in some.result()], truth, strict=True))


def _rows(
    config: SyntheticConfig,
    split: str,
    start: int,
    parts: Sequence[Part],
    pictures: Sequence[Picture],
) -> list[Row]:
    studio = Studio.open()
    return [
        _row(config, split, index, part, picture, studio)
        for index, (part, picture) in enumerate(zip(parts, pictures, strict=True), start)
    ]


def _truth(split: str, index: int, shot: Photograph) -> TruthRow:
    vertices_mm = None if split == "train" else shot.vertices_mm
    return TruthRow(_key(split, index), shot.landmarks_mm, vertices_mm)


def _row(
    config: SyntheticConfig, split: str, index: int, part: Part, picture: Picture, studio: Studio
) -> Row:
    labels = annotate(
        picture.pixels,
        picture.faces,
        picture.barycentric,
        picture.keypoints,
        studio.surface,
        config.points,
        random_stream(config, split, index, "points"),
    )
    half = config.size / 2
    if config.quality == "predicted":
        random = random_stream(config, split, index, "errors")
        labels = predicted(labels, studio.surface, config, half, random)
    return Row(
        key=_key(split, index),
        crop=(half, half, half),
        points=labels.points,
        faces=labels.faces,
        barycentric=labels.barycentric,
        point_weights=np.ones(len(labels.points)),
        keypoints=labels.keypoints,
        keypoint_weights=np.ones(len(labels.keypoints)),
        image=_jpeg(picture.image),
        subject=part.subject,
        action=part.action,
        camera=part.camera,
        frame=part.frame,
    )


def _key(split: str, index: int) -> str:
    return f"{split}-{index:06d}"


def _surface(
    scripts: Sequence[Script], scene: Scene, samples: Fragments, where: Stage
) -> tuple[Paint, Float[Tensor, "3 samples"], Float[Tensor, "3 samples"]]:
    """Paint, place and normal (world) of every sample: the dressed body, and flat furniture."""
    count, body = len(where.attributes), where.crowd.faces
    vertices = scene.vertices.float()
    people, everything = vertices.shape[:2]
    looks = where.attributes.shape[1]
    known = vertices.new_zeros(people, everything, looks + 6)
    known[:, :count, :looks] = where.attributes
    known[:, :count, looks : looks + 3] = vertex_normals(vertices[:, :count], body)
    known[..., looks + 3 :] = vertices
    values = interpolate_columns(known, scene.faces, samples)
    attributes, normals, points = values.split([looks, 3, 3])
    outfits = Looks.of([script.outfit for script in scripts], values.device)
    paint = where.studio.wardrobe.paint(outfits, attributes, samples.images)
    flat = true_at(samples.faces >= len(body))
    if len(flat):
        picture = samples.images.index_select(0, flat)
        a, b, c = vertices[:, scene.faces[len(body) :]].unbind(2)
        facing = torch.linalg.cross(b - a, c - a)
        face = samples.faces.index_select(0, flat) - len(body) + picture * facing.shape[1]
        columns = flat.expand(3, -1)
        normals.scatter_(1, columns, facing.flatten(0, 1).T.index_select(1, face))
        plain = np.stack([script.furniture for script in scripts])
        colour = torch.from_numpy(plain).to(paint.albedo)
        paint.albedo.scatter_(1, columns, colour.T.index_select(1, picture))
        paint.bump.scatter_(1, columns, torch.zeros_like(columns, dtype=paint.bump.dtype))
        paint.gloss.scatter_(0, flat, 0.0)
    return paint, points, normals


def _jpeg(pixels: UInt8[np.ndarray, "size size 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=_JPEG_QUALITY)
    return file.getvalue()
