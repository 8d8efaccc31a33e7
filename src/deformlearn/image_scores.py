"""How far bodies are from the labels in their images: what is measured where nobody knows the 3D truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.distributed import ALONE, Team, by_blocks
from deformlearn.estimate import Estimate, project_points
from deformlearn.memory import Portion
from deformlearn.observations import Observations
from deformlearn.tensors import TensorData, concatenate

NEAR = 5.0
"""Percent of the crop's side within which a key point counts as found."""

_CHUNK = 1024
"""People whose points are projected at once."""

_PERCENT = 50.0
"""Of the crop's side, in the unit of observations, which is half of it."""


@dataclass(frozen=True)
class ImageScores:
    """Distances in percent of the crop's side; None where nobody has such labels.

    A body can be right in the image and wrong in depth: these say nothing of the third dimension.
    """

    keypoints: float | None
    """Mean distance of the key points that were seen: over those of each person, then over the people."""
    found: float | None
    """Percent of the key points that are within `NEAR` (PCK@0.05): likewise."""
    points: float | None
    """Each person's median distance of dense correspondences, some of which may be wrong; their mean."""
    people: int

    def record(self) -> dict:
        """Plain numbers for a metrics file."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Distances(TensorData):
    """Of each person; NaN of whoever has no such labels."""

    keypoints: Float[Tensor, "people"]
    found: Float[Tensor, "people"]
    points: Float[Tensor, "people"]


def score_in_image(
    template: BodyTemplate,
    estimate: Estimate,
    observations: Observations,
    *,
    team: Team = ALONE,
) -> ImageScores:
    """How far estimates are from the labels of their images, where the template is; a team shares them."""
    device = template.vertices.device
    portion = Portion(_CHUNK, "people")

    def some(rows: Int[Tensor, "rows"]) -> _Distances:
        return _distances(template, estimate[rows].to(device), observations[rows].to(device)).to(
            "cpu"
        )

    def distances(rows: Int[Tensor, "rows"]) -> _Distances:
        return concatenate(list(portion.over(rows, some)))

    with torch.no_grad():
        found = by_blocks(team, len(observations), _CHUNK, distances)
    means = {name: _mean(values) for name, values in vars(found).items()}
    return ImageScores(**means, people=len(observations))


def _distances(template: BodyTemplate, estimate: Estimate, seen: Observations) -> _Distances:
    joints = project_points(template, estimate, template.keypoints(seen.joint_set))[..., :2]
    surface = template.surface_points(seen.faces, seen.barycentric)
    points = project_points(template, estimate, surface)[..., :2]
    keypoints = _lengths(joints - seen.keypoints, seen.keypoint_weights)
    known = keypoints.isfinite()
    within = torch.where(known, (keypoints <= NEAR).to(keypoints), torch.nan)
    return _Distances(
        keypoints=keypoints.nanmean(-1),
        found=100 * within.nanmean(-1),
        points=_lengths(points - seen.points, seen.point_weights).nanmedian(-1).values,
    )


def _lengths(offsets: Float[Tensor, "people n 2"], weights: Float[Tensor, "people n"]) -> Tensor:
    """In percent of the crop's side; NaN where nothing was seen."""
    return torch.where(weights > 0, _PERCENT * offsets.norm(dim=-1), torch.nan)


def _mean(values: Float[Tensor, "people"]) -> float | None:
    """Over whoever has such labels."""
    return None if values.isnan().all() else values.double().nanmean().item()
