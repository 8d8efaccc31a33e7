"""Scripts to rows: people are photographed in batches on any device, and labelled with exact truth.

Labels come from the same z-buffer that made the image. Vertices and cameras are computed in float64
and rounded once, and the z-buffer uses single operations that round alike everywhere, so labels do not
depend on the device or on who else is in the batch (docs/decisions/0006).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from deformlearn.allocation import keep_freed_memory
from deformlearn.config import SyntheticConfig
from deformlearn.data.crowd import Crowd
from deformlearn.data.darkroom import develop, sample_grid
from deformlearn.data.labels import annotate, predicted
from deformlearn.data.outfits import Looks
from deformlearn.data.scenery import Scene
from deformlearn.data.scenes import stage
from deformlearn.data.shards import Row, TruthRow
from deformlearn.data.staging import Script, Studio, random_stream
from deformlearn.data.wardrobe import Paint
from deformlearn.raster import Fragments, interpolate_columns, rasterise, true_at, vertex_normals

_JPEG_QUALITY = 92


@dataclass(frozen=True, eq=False)
class Photograph:
    """One picture, and all that can be known about it."""

    image: UInt8[np.ndarray, "size size 3"]
    pixels: Float[np.ndarray, "visible 2"]
    """Centres of the pixels that show the body."""
    faces: Int[np.ndarray, "visible"]
    """What they show."""
    barycentric: Float[np.ndarray, "visible 3"]
    keypoints: Float[np.ndarray, "25 2"]
    """Pixels."""
    landmarks_mm: Float[np.ndarray, "25 3"]
    """Camera axes, from the pelvis."""
    vertices_mm: Float[np.ndarray, "vertices 3"]


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
    bounds = torch.bincount(shown.images, minlength=len(scripts)).cumsum(0).cpu()[:-1]
    row, column = shown.places(side)
    pixels = torch.stack([column, row], 1).float() / 2
    parts = [
        np.split(values.cpu().numpy(), bounds.numpy())
        for values in (pixels, shown.faces, shown.barycentric)
    ]
    body = seen[:, : len(studio.template.vertices)]
    top = body[:, studio.template.vertices[:, 1].argmax(), None]
    landmarks = torch.cat([view.to_camera(staged.joints), top], 1)
    pelvis = landmarks[:, :1]
    whole = (
        images,
        view.to_pixels(landmarks).float(),
        ((landmarks - pelvis) * 1000).float(),
        ((body - pelvis) * 1000).float(),
    )
    image, keypoints, landmarks_mm, vertices_mm = (values.cpu().numpy() for values in whole)
    return [
        Photograph(*each)
        for each in zip(image, *parts, keypoints, landmarks_mm, vertices_mm, strict=True)
    ]


def to_row(
    config: SyntheticConfig,
    split: str,
    index: int,
    script: Script,
    shot: Photograph,
    studio: Studio,
) -> tuple[Row, TruthRow]:
    """The labelled image of one person, and the truth that evaluation may see."""
    labels = annotate(
        shot.pixels,
        shot.faces,
        shot.barycentric,
        shot.keypoints,
        studio.surface,
        config.points,
        random_stream(config, split, index, "points"),
    )
    half = config.size / 2
    if config.quality == "predicted":
        random = random_stream(config, split, index, "errors")
        labels = predicted(labels, studio.surface, config, half, random)
    key = f"{split}-{index:06d}"
    row = Row(
        key=key,
        crop=(half, half, half),
        points=labels.points,
        faces=labels.faces,
        barycentric=labels.barycentric,
        point_weights=np.ones(len(labels.points)),
        keypoints=labels.keypoints,
        keypoint_weights=np.ones(len(labels.keypoints)),
        image=_jpeg(shot.image),
        subject=script.part.subject,
        action=script.part.action,
        camera=script.part.camera,
        frame=script.part.frame,
    )
    return row, TruthRow(key, shot.landmarks_mm, None if split == "train" else shot.vertices_mm)


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
