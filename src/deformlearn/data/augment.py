"""Random changes of training images that their labels follow exactly.

An image, its correspondences, key points, registered body and 3D joints are one value (`Examples`), and
every change is applied to all of it: mirroring exchanges left and right everywhere, a warp of the image
plane turns and zooms the camera. So a perfect estimate stays perfect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from deformlearn.body import BodyPoints, BodyTemplate
from deformlearn.config import AugmentConfig
from deformlearn.estimate import Estimate, mirrored, turned_in_image
from deformlearn.skeleton import joint_set
from deformlearn.tensors import TensorData, fixed, where

SEGMENT_JOINTS = "smpl24"
"""Joint set of the 3D joints a network is taught: the joints its 24 segments begin at."""


@dataclass(frozen=True, eq=False)
class Correspondences(TensorData):
    """Annotated pixels and the template points they show."""

    pixels: Float[Tensor, "batch points 2"]
    """Image units."""
    surface: BodyPoints
    """The surface points, already looked up on the template."""
    weights: Float[Tensor, "batch points"]
    """Confidence; 0 is padding."""


@dataclass(frozen=True, eq=False)
class Labels(TensorData):
    """What a network is taught about each image."""

    dense: Correspondences
    keypoints: Float[Tensor, "batch joints 2"]
    """2D key points (image units)."""
    keypoint_weights: Float[Tensor, "batch joints"]
    """Confidence of each key point; 0 is missing."""
    target: Estimate
    """The registered body and camera."""
    joints_3d: Float[Tensor, "batch segments 3"]
    """`SEGMENT_JOINTS` in camera axes, relative to their root (metres)."""
    joints: str
    """Name of the joint set of the key points."""


@dataclass(frozen=True, eq=False)
class Examples(TensorData):
    """Images with their labels."""

    images: Float[Tensor, "batch 3 rows columns"]
    """RGB in [0, 1]."""
    labels: Labels


@dataclass(frozen=True, eq=False)
class Warp(TensorData):
    """A similarity of the image plane: x becomes zoom * rotation x + shift (image units)."""

    rotation: Float[Tensor, "batch 2 2"]
    zoom: Float[Tensor, "batch"]
    shift: Float[Tensor, "batch 2"]

    @staticmethod
    def of(angle: Float[Tensor, "batch"], zoom: Tensor, shift: Tensor) -> Warp:
        """Turn by an angle (radians, from x towards y), zoom and shift."""
        cosine, sine = angle.cos(), angle.sin()
        rows = torch.stack([cosine, -sine, sine, cosine], -1)
        return Warp(rows.unflatten(-1, (2, 2)), zoom, shift)

    def __call__(self, points: Float[Tensor, "batch points 2"]) -> Tensor:
        """Where image points go."""
        return self.zoom[:, None, None] * (points @ self.rotation.mT) + self.shift[:, None]


@dataclass(frozen=True, eq=False)
class Views(TensorData):
    """Every random change of a batch, drawn: one row an image."""

    mirror: Bool[Tensor, "batch"]
    """Left and right are exchanged."""
    angle: Float[Tensor, "batch"]
    """Turn in the image plane (radians, from x towards y)."""
    zoom: Float[Tensor, "batch"]
    shift: Float[Tensor, "batch 2"]
    """After turn and zoom (image units)."""
    contrast: Float[Tensor, "batch"]
    tint: Float[Tensor, "batch 3"]
    """Factor on each channel."""
    brightness: Float[Tensor, "batch"]
    hide: Bool[Tensor, "batch"]
    """A rectangle hides a part."""
    centre: Float[Tensor, "batch 2"]
    half: Float[Tensor, "batch 2"]
    """Its half sides (image units)."""
    fill: Float[Tensor, "batch 3"]
    """Its colour."""


def draw(count: int, config: AugmentConfig, generator: torch.Generator) -> Views:
    """The changes of `count` images that `config` asks for, all from one CPU generator.

    Drawn apart from being made, so that every device, and every process that makes a share of a batch,
    sees the same views.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    coin = uniform() < 0.5
    return Views(
        mirror=coin if config.mirror else torch.zeros_like(coin),
        angle=config.rotation * normal(),
        zoom=(config.zoom * normal()).exp(),
        shift=config.shift * normal(2),
        contrast=1 + config.colour * normal(),
        tint=1 + config.colour / 2 * normal(3),
        brightness=config.colour / 4 * normal(),
        hide=uniform() < config.occlusion,
        centre=2 * uniform(2) - 1,
        # A tenth to a half of the crop wide: from a hand to a leg or half the trunk.
        half=0.1 + 0.4 * uniform(2),
        fill=uniform(3),
    )


def augment(examples: Examples, template: BodyTemplate, views: Views) -> Examples:
    """The examples after every change in `views`."""
    warp = Warp.of(views.angle, views.zoom, views.shift)
    labels = where(views.mirror, flipped_labels(examples.labels, template), examples.labels)
    images = recoloured(
        # One sampling both mirrors and warps: nothing is read twice.
        resampled(examples.images, warp, views.mirror),
        contrast=views.contrast,
        tint=views.tint,
        brightness=views.brightness,
    )
    # A rectangle without an inside hides nothing.
    half = torch.where(views.hide[:, None], views.half, torch.zeros_like(views.half))
    return Examples(occluded(images, views.centre, half, views.fill), warped_labels(labels, warp))


def flipped(examples: Examples, template: BodyTemplate) -> Examples:
    """The mirror images: left and right are exchanged in every label."""
    return Examples(examples.images.flip(-1), flipped_labels(examples.labels, template))


def flipped_labels(labels: Labels, template: BodyTemplate) -> Labels:
    """The labels of the mirror images."""
    there = labels.keypoints.device
    flip = fixed((-1.0, 1.0), there, labels.keypoints.dtype)
    flip_3d = fixed((-1.0, 1.0, 1.0), there, labels.keypoints.dtype)
    surface = labels.dense.surface
    key_mirror = fixed(joint_set(labels.joints).mirror, there)
    # The mirrored rest point itself, not the mirrored face: exact even where the mesh is not.
    mirrored_surface = BodyPoints(
        surface.rest * flip_3d, surface.weights[..., fixed(template.mirror_segments, there)]
    )
    segment_mirror = fixed(joint_set(SEGMENT_JOINTS).mirror, there)
    return replace(
        labels,
        dense=Correspondences(labels.dense.pixels * flip, mirrored_surface, labels.dense.weights),
        keypoints=labels.keypoints[:, key_mirror] * flip,
        keypoint_weights=labels.keypoint_weights[:, key_mirror],
        target=mirrored(template, labels.target),
        joints_3d=labels.joints_3d[:, segment_mirror] * flip_3d,
    )


def warped(examples: Examples, warp: Warp) -> Examples:
    """The examples after a similarity of the image plane; uncovered pixels repeat the border."""
    return Examples(resampled(examples.images, warp), warped_labels(examples.labels, warp))


def resampled(
    images: Float[Tensor, "batch 3 rows columns"],
    warp: Warp,
    mirror: Bool[Tensor, "batch"] | None = None,
) -> Float[Tensor, "batch 3 rows columns"]:
    """The images after a warp, and before it after a flip where `mirror` holds."""
    back = warp.rotation.mT / warp.zoom[:, None, None]
    start = (-back @ warp.shift[..., None])[..., 0]
    if mirror is not None:
        flip = torch.where(mirror, -1.0, 1.0)
        back = torch.stack([back[:, 0] * flip[:, None], back[:, 1]], 1)
        start = torch.stack([start[:, 0] * flip, start[:, 1]], -1)
    # grid_sample asks where each new pixel was: x = R^T (x' - shift) / zoom, a sum over column and row.
    rows, columns = (pixel_centres(size, images) for size in images.shape[-2:])
    across = columns[:, None] * back[:, None, :, 0] + start[:, None]
    down = rows[:, None] * back[:, None, :, 1]
    grid = across[:, None] + down[:, :, None]
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def warped_labels(labels: Labels, warp: Warp) -> Labels:
    """The labels of the warped images."""
    joints_xy = labels.joints_3d[..., :2] @ warp.rotation.mT
    return replace(
        labels,
        dense=replace(labels.dense, pixels=warp(labels.dense.pixels)),
        keypoints=warp(labels.keypoints),
        target=turned_in_image(labels.target, warp.rotation, warp.zoom, warp.shift),
        joints_3d=torch.cat([joints_xy, labels.joints_3d[..., 2:]], -1),
    )


def recoloured(
    images: Float[Tensor, "batch 3 rows columns"],
    *,
    contrast: Float[Tensor, "batch"],
    tint: Float[Tensor, "batch 3"],
    brightness: Float[Tensor, "batch"],
) -> Float[Tensor, "batch 3 rows columns"]:
    """Contrast about mid grey, a factor a channel, then brightness added; clipped to [0, 1]."""
    gain = contrast[:, None, None, None] * tint[..., None, None]
    offset = brightness[:, None, None, None] + 0.5 * (tint[..., None, None] - gain)
    return torch.addcmul(offset, images, gain).clamp_(0, 1)


def occluded(
    images: Float[Tensor, "batch 3 rows columns"],
    centre: Float[Tensor, "batch 2"],
    half: Float[Tensor, "batch 2"],
    colour: Float[Tensor, "batch 3"],
) -> Float[Tensor, "batch 3 rows columns"]:
    """The images behind one rectangle of a plain colour (centre and half sides in image units)."""
    rows, columns = (pixel_centres(size, images) for size in images.shape[-2:])
    across = (columns - centre[:, :1]).abs() < half[:, :1]
    down = (rows - centre[:, 1:]).abs() < half[:, 1:]
    inside = across[:, None, None, :] & down[:, None, :, None]
    return torch.where(inside, colour[..., None, None], images)


def pixel_centres(size: int, like: Tensor) -> Float[Tensor, "size"]:
    """Image coordinate of the middle of each of `size` pixels in a row."""
    return (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) * (2 / size) - 1
