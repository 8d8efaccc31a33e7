"""Eq. 2: the weighted sum of all terms, one number a person."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn import losses
from deformlearn.body import BodyPoints, BodyTemplate, blend
from deformlearn.config import RegistrationConfig
from deformlearn.estimate import Estimate, view_transforms
from deformlearn.observations import Observations
from deformlearn.tensors import TensorData


@dataclass(frozen=True, eq=False)
class Weights(TensorData):
    """Weights of the terms, as tensors so that changing them recompiles nothing."""

    dense: Float[Tensor, ""]
    keypoint: Float[Tensor, ""]
    depth: Float[Tensor, ""]
    scale: Float[Tensor, ""]
    joint: Float[Tensor, ""]
    limit: Float[Tensor, ""]
    determinant: Float[Tensor, ""]
    robust: Float[Tensor, ""]
    """Geman-McClure distance of the dense term (half crops); infinite: the squared term."""

    @staticmethod
    def of(config: RegistrationConfig, device: torch.device, *, first: bool = False) -> Weights:
        """The weights of a configuration; `first` gives those of the first phase."""
        robust = config.first_robust if first else config.robust
        numbers = (
            config.dense_weight,
            config.keypoint_weight,
            config.first_depth_weight if first else config.depth_weight,
            config.first_scale_weight if first else config.scale_weight,
            config.first_joint_weight if first else config.joint_weight,
            config.limit_weight,
            config.determinant_weight,
            math.inf if robust is None else robust,
        )
        return Weights(*(torch.tensor(number, device=device) for number in numbers))


@dataclass(frozen=True, eq=False)
class Evidence(TensorData):
    """A batch with its surface points looked up once: no gather is left inside a loop."""

    points: BodyPoints
    keypoints: BodyPoints
    observations: Observations

    @staticmethod
    def of(template: BodyTemplate, observations: Observations) -> Evidence:
        """Observations with the body points they are about."""
        points = template.surface_points(observations.faces, observations.barycentric)
        return Evidence(points, template.keypoints(observations.joint_set), observations)


def energy(
    template: BodyTemplate, estimate: Estimate, evidence: Evidence, weights: Weights
) -> Float[Tensor, "batch"]:
    """What a registration minimises, for each person."""
    body, camera, seen = estimate.body, estimate.camera, evidence.observations
    view = view_transforms(template, estimate)
    points = blend(view[..., :2, :], evidence.points)
    joints = blend(view, evidence.keypoints)
    root = joints[..., seen.joint_set.root_indices, 2].mean(-1, keepdim=True)
    return (
        weights.dense * losses.dense(points, seen.points, seen.point_weights, weights.robust)
        + weights.keypoint * losses.keypoint(joints[..., :2], seen.keypoints, seen.keypoint_weights)
        + weights.depth * losses.depth(joints[..., 2] - root, seen.depths, seen.depth_weights)
        + weights.scale * losses.scale_smoothness(body.scales, template.parents)
        + weights.joint * losses.joint_angles(body.pose)
        + weights.limit * losses.joint_limits(body.pose, template.limit_axes, template.limits)
        + weights.determinant * losses.determinant(camera.matrix)
    )
