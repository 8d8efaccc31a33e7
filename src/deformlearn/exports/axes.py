"""The axes that files are written in, and bodies in them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.body import BodyTemplate, skin
from deformlearn.camera import Camera
from deformlearn.estimate import Estimate

Axes = Literal["template", "camera"]
"""Whose axes a file is written in; `AXES` says what they are."""

AXES: dict[Axes, str] = {
    "template": "x to the person's left, y up, z where the person faces at rest; "
    "the camera's rotation is not applied",
    "camera": "as the photograph shows the person: x right, y up, z towards the viewer "
    "(camera axes x, y down, z away, turned by 180 degrees about x)",
}
"""Both are right-handed with y up, so that viewers show the person upright."""

UPRIGHT = (1.0, -1.0, -1.0)
"""Camera axes (x right, y down, z away) to `AXES["camera"]`: half a turn about x."""


def rotation_into(axes: Axes, camera: Camera) -> Float[Tensor, "*batch 3 3"]:
    """Takes points from template axes to the named axes."""
    if axes not in get_args(Axes):
        raise ValueError(f"axes must be {' or '.join(get_args(Axes))}, got {axes!r}")
    rotation = camera.rotation()
    if axes == "template":
        return torch.eye(3, dtype=rotation.dtype, device=rotation.device).expand_as(rotation)
    return rotation * rotation.new_tensor(UPRIGHT)[:, None]


def estimate_mesh(
    template: BodyTemplate, estimate: Estimate, *, axes: Axes = "template"
) -> Float[Tensor, "*batch vertices 3"]:
    """The estimated bodies' vertices (metres), about the template's origin, in the named axes."""
    return skin(template, estimate.body) @ rotation_into(axes, estimate.camera).mT
