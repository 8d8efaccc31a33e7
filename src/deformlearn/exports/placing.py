"""Where exported people stand: their camera in every form that others use, and their way in a video.

A weak-perspective camera sees a person at scale s * half pixels a metre. Two cameras of other programs
see the same: an orthographic one, exactly; and one with perspective whose focal length f is so long that
the person is small before it, at the distance f / (s * half).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.camera import Camera, Crop
from deformlearn.exports.axes import UPRIGHT, Axes, rotation_into

FOCAL = 5000 / 112
"""Focal length in half sides of the crop where none is given: HMR's and SPIN's 5000 px for 224."""

Motion = Literal["none", "plane", "space"]
"""How a person moves through a video; `MOTIONS` says what each means."""

MOTIONS: dict[Motion, str] = {
    "none": "the person stays in place",
    "plane": "the person moves sideways and up and down, as in the image; one view knows no depth",
    "space": "the person also moves towards the camera, by its size in the image and the focal length",
}


@dataclass(frozen=True, eq=False)
class Way:
    """How to take people from template axes to a file's, frame by frame: x -> rotation x + shift."""

    rotation: Float[Tensor, "frames 3 3"]
    shift: Float[Tensor, "frames 3"]
    """Metres; zero in the first frame."""


def focal_px(crop: Crop, given: float | None) -> Float[Tensor, "*batch"]:
    """Focal length in source pixels: the given one, or HMR's for each crop."""
    return crop.half * FOCAL if given is None else torch.full_like(crop.half, given)


def place_before_camera(
    camera: Camera, crop: Crop, focal: Float[Tensor, "*batch"], principal: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch 3"]:
    """T of the perspective form x_px = f P((R X + T) / its z) + principal (camera axes, metres)."""
    scale_px = (camera.scale * crop.half)[..., None]
    translation_px = camera.translation * crop.half[..., None] + crop.centre
    return torch.cat([(translation_px - principal) / scale_px, focal[..., None] / scale_px], -1)


def way(camera: Camera, crop: Crop, *, axes: Axes, motion: Motion, focal: float | None) -> Way:
    """The frames of one person, the first of which stays where it is.

    In template axes nobody is turned or moved.
    """
    rotation = rotation_into(axes, camera)
    if axes == "template" or motion == "none":
        return Way(rotation, torch.zeros_like(rotation[..., 0]))
    # One camera for all frames: the first one's.
    principal = crop.centre[:1].expand_as(crop.centre)
    length = focal_px(crop, focal)[:1].expand_as(crop.half)
    place = place_before_camera(camera, crop, length, principal)
    shift = (place - place[:1]) * place.new_tensor(UPRIGHT)
    if motion == "plane":
        shift = shift * shift.new_tensor([1.0, 1.0, 0.0])
    return Way(rotation, shift)


def camera_forms(camera: Camera, crop: Crop, focal: float | None) -> dict[str, Any]:
    """One person's camera in numbers, in every form, each with its formula."""
    length = focal_px(crop, focal)
    scale_px = camera.scale * crop.half
    return {
        "rotation": _list(camera.rotation()),
        "rotation_is": "R, template axes to camera axes (x right, y down, z away), row by row",
        "crop": {
            "formula": "x = scale P(R X) + translation, translation added after the scale; "
            "x in [-1, 1] across the square crop, y down; x_px = x half_px + centre_px",
            "scale": _list(camera.scale),
            "translation": _list(camera.translation),
            "centre_px": _list(crop.centre),
            "half_px": _list(crop.half),
        },
        "full_image": {
            "formula": "x_px = scale_px P(R X) + translation_px; (0, 0) is the corner of the "
            "source image's first pixel",
            "scale_px": _list(scale_px),
            "translation_px": _list(camera.translation * crop.half + crop.centre),
        },
        "hmr": {
            "formula": "x = scale (P(R X) + translation), as HMR and SPIN have it",
            "scale": _list(camera.scale),
            "translation": _list(camera.translation / camera.scale),
        },
        "perspective": {
            "formula": "x_px = focal_px P((R X + translation) / its z) + principal_px; for another "
            "focal length f or principal point p, such as the middle of the image: translation = "
            "((full_image.translation_px - p) / full_image.scale_px, f / full_image.scale_px)",
            "focal_px": _list(length),
            "principal_px": _list(crop.centre),
            "translation": _list(place_before_camera(camera, crop, length, crop.centre)),
        },
    }


def _list(values: Tensor) -> Any:
    return values.detach().cpu().tolist()
