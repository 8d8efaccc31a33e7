"""Weak perspective (Eq. 1): x = s P(R X) + t, with R from nine free numbers.

Image units: [-1, 1] across the square crop, x right, y down; camera axes: x right, y down, z away.
The translation is added after the scale (HMR and SPIN multiply it: s (X + t)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.tensors import TensorData

FACING_CAMERA = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
"""Rotation that stands the template (y up, facing +z) before the camera, looking into it."""


@dataclass(frozen=True, eq=False)
class Camera(TensorData):
    """One weak-perspective view of each person."""

    matrix: Float[Tensor, "*batch 3 3"]
    """Nine free numbers M; the rotation is their Gram-Schmidt orthonormalisation."""
    translation: Float[Tensor, "*batch 2"]
    """t, in image units, added after the scale."""
    scale: Float[Tensor, "*batch"]
    """s, image units per metre."""

    def rotation(self) -> Float[Tensor, "*batch 3 3"]:
        """R: template axes to camera axes."""
        return gram_schmidt(self.matrix)


@dataclass(frozen=True, eq=False)
class Crop(TensorData):
    """The square of the source image that a person's image units span."""

    centre: Float[Tensor, "*batch 2"]
    """Middle of the square in source pixels; (0, 0) is the corner of the first pixel."""
    half: Float[Tensor, "*batch"]
    """Half the side of the square in source pixels."""

    def to_pixels(self, points: Float[Tensor, "*batch points 2"]) -> Tensor:
        """Source pixels of points in image units."""
        return points * self.half[..., None, None] + self.centre[..., None, :]

    def to_image_units(self, pixels: Float[Tensor, "*batch points 2"]) -> Tensor:
        """Image units of points in source pixels."""
        return (pixels - self.centre[..., None, :]) / self.half[..., None, None]


def gram_schmidt(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rows of M orthonormalised in order.

    The determinant keeps the sign of det M, so a mirrored M stays a reflection: that is what L_det
    (losses.determinant) is there to prevent.
    """
    first = torch.nn.functional.normalize(matrix[..., 0, :], dim=-1, eps=1e-8)
    second = matrix[..., 1, :]
    second = second - (first * second).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1, eps=1e-8)
    third = torch.linalg.cross(first, second)
    # Gram-Schmidt of the third row can only be plus or minus this vector.
    along = (third * matrix[..., 2, :]).sum(-1, keepdim=True)
    third = torch.where(along < 0, -third, third)
    return torch.stack([first, second, third], -2)


def project(camera: Camera, points: Float[Tensor, "*batch points 3"]) -> Tensor:
    """Image x, y and depth (image units, growing away from the camera) of points in template axes."""
    turned = points @ camera.rotation().mT * camera.scale[..., None, None]
    return turned + torch.nn.functional.pad(camera.translation, (0, 1))[..., None, :]
