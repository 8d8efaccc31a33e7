"""What every exported file says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

import deformlearn
from deformlearn.body import BodyTemplate
from deformlearn.data.estimates import Estimates
from deformlearn.exports.axes import AXES, Axes
from deformlearn.exports.placing import camera_forms

METRES = "metre"


@dataclass(frozen=True)
class Loss:
    """How far what a format cannot hold moves the body (millimetres)."""

    largest_mm: float
    mean_mm: float

    @staticmethod
    def of(apart: Float[Tensor, "*points 3"]) -> Loss:
        """From differences in metres."""
        distance = apart.norm(dim=-1) * 1000
        return Loss(distance.max().item(), distance.mean().item())


def statement(template: BodyTemplate, axes: Axes, *, unit: str = METRES) -> dict[str, Any]:
    """Version, template, unit and axes."""
    return {
        "deformlearn": deformlearn.__version__,
        "template": template.name,
        "fingerprint": template.fingerprint,
        "unit": unit,
        "axes": f"{axes}: {AXES[axes]}",
    }


def person(estimates: Estimates, row: int, focal: float | None) -> dict[str, Any]:
    """Whose row this is, its camera, and reasons to doubt it."""
    camera, crop = estimates.estimate.camera[row], estimates.crop[row]
    found: dict[str, Any] = {
        "key": estimates.keys[row],
        "camera": camera_forms(camera, crop, focal),
    }
    if estimates.flags and estimates.flags[row]:
        found["flag"] = estimates.flags[row]
    return found


def mesh_comments(
    estimates: Estimates, template: BodyTemplate, axes: Axes, focal: float | None = None
) -> list[str]:
    """What the mesh of the only row says of itself beyond its unit and axes: one ASCII line a fact."""
    facts = statement(template, axes) | person(estimates, 0, focal)
    return [
        f"{name}: {value if isinstance(value, str) and value.isascii() else json.dumps(value)}"
        for name, value in facts.items()
        if name not in ("unit", "axes")
    ]
