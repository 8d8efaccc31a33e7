"""Random changes of training images that their labels follow exactly.

An image, its correspondences, key points, registered body and 3D joints are one value (`Examples`), and
every change is applied to all of it: mirroring exchanges left and right everywhere, a warp of the image
plane turns and zooms the camera. So a perfect estimate stays perfect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from deformlearn.body import BodyPoints, BodyTemplate
from deformlearn.config import AugmentConfig
from deformlearn.estimate import Estimate, mirrored, turned_in_image
from deformlearn.skeleton import joint_set
from deformlearn.tensors import TensorData, where

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


def augment(
    examples: Examples,
    template: BodyTemplate,
    config: AugmentConfig,
    generator: torch.Generator,
) -> Examples:
    """The examples after every random change that `config` asks for.

    All random numbers come from `generator`, a CPU generator, so that a run on another device sees the
    same views.
    """
    count, device = len(examples), examples.images.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).to(device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator).to(device)

    coin, angle, zoom, shift = uniform() < 0.5, normal(), normal(), normal(2)
    if config.mirror:
        examples = where(coin, flipped(examples, template), examples)
    warp = Warp.of(config.rotation * angle, (config.zoom * zoom).exp(), config.shift * shift)
    examples = warped(examples, warp)
    images = recoloured(
        examples.images,
        contrast=1 + config.colour * normal(),
        tint=1 + config.colour / 2 * normal(3),
        brightness=config.colour / 4 * normal(),
    )
    hide, centre, half, fill = uniform() < config.occlusion, uniform(2), uniform(2), uniform(3)
    # A tenth to a half of the crop wide: from a hand to a leg or half the trunk.
    hidden = occluded(images, 2 * centre - 1, 0.1 + 0.4 * half, fill)
    return replace(examples, images=torch.where(hide[:, None, None, None], hidden, images))


def flipped(examples: Examples, template: BodyTemplate) -> Examples:
    """The mirror images: left and right are exchanged in every label."""
    labels = examples.labels
    flip = examples.images.new_tensor([-1.0, 1.0])
    flip_3d = examples.images.new_tensor([-1.0, 1.0, 1.0])
    surface = labels.dense.surface
    key_mirror = list(joint_set(labels.joints).mirror)
    # The mirrored rest point itself, not the mirrored face: exact even where the mesh is not.
    mirrored_surface = BodyPoints(
        surface.rest * flip_3d, surface.weights[..., list(template.mirror_segments)]
    )
    segment_mirror = list(joint_set(SEGMENT_JOINTS).mirror)
    return Examples(
        examples.images.flip(-1),
        replace(
            labels,
            dense=Correspondences(
                labels.dense.pixels * flip, mirrored_surface, labels.dense.weights
            ),
            keypoints=labels.keypoints[:, key_mirror] * flip,
            keypoint_weights=labels.keypoint_weights[:, key_mirror],
            target=mirrored(template, labels.target),
            joints_3d=labels.joints_3d[:, segment_mirror] * flip_3d,
        ),
    )


def warped(examples: Examples, warp: Warp) -> Examples:
    """The examples after a similarity of the image plane; uncovered pixels repeat the border."""
    labels = examples.labels
    back = warp.rotation.mT / warp.zoom[:, None, None]
    # grid_sample asks where each new pixel was: x = R^T (x' - shift) / zoom.
    matrix = torch.cat([back, -back @ warp.shift[..., None]], -1)
    grid = functional.affine_grid(matrix, list(examples.images.shape), align_corners=False)
    images = functional.grid_sample(
        examples.images, grid, padding_mode="border", align_corners=False
    )
    joints_xy = labels.joints_3d[..., :2] @ warp.rotation.mT
    return Examples(
        images,
        replace(
            labels,
            dense=replace(labels.dense, pixels=warp(labels.dense.pixels)),
            keypoints=warp(labels.keypoints),
            target=turned_in_image(labels.target, warp.rotation, warp.zoom, warp.shift),
            joints_3d=torch.cat([joints_xy, labels.joints_3d[..., 2:]], -1),
        ),
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
    return (images * gain + offset).clamp(0, 1)


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
