"""Eq. 2 as least squares: theta as a solver moves it, what is to be explained, and the residuals.

The same numbers as `energy`, as products want them; `normal_equations` has the derivatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from deformlearn.body import BodyParameters, BodyPoints, BodyTemplate
from deformlearn.camera import Camera
from deformlearn.compiling import constant
from deformlearn.energy import Weights
from deformlearn.estimate import Estimate, right_handed
from deformlearn.losses import SCALE_GAUGE
from deformlearn.observations import Observations
from deformlearn.skeleton import forward_kinematics, rotation_from_axis_angle, tree_of
from deformlearn.tensors import TensorData


@dataclass(frozen=True, eq=False)
class Theta(TensorData):
    """theta with sizes as logarithms, so that they stay positive, and the rotation as a rotation."""

    log_scales: Float[Tensor, "batch joints"]
    pose: Float[Tensor, "batch joints-1 3"]
    rotation: Float[Tensor, "batch 3 3"]
    translation: Float[Tensor, "batch 2"]
    log_scale: Float[Tensor, "batch"]

    @staticmethod
    def of(estimate: Estimate) -> Theta:
        """Theta of an estimate; of one whose nine numbers are a reflection, the nearest rotation's."""
        body, camera = estimate.body, right_handed(estimate).camera
        return Theta(
            body.scales.log(),
            body.pose,
            camera.matrix,
            camera.translation,
            camera.scale.log(),
        )

    def estimate(self) -> Estimate:
        """The estimate these numbers stand for."""
        return Estimate(
            BodyParameters(self.log_scales.exp(), self.pose),
            Camera(self.rotation, self.translation, self.log_scale.exp()),
        )

    def moved(self, step: Float[Tensor, "batch unknowns"]) -> Theta:
        """Theta after a step.

        A step is, in this order: shift in x, `a`, shift in y, `b`, log scales, log scale, `c`. Each of
        a, b and c has a number for every joint: the first joint's turn the whole body about the camera's
        y, -x and z (radians), the others' are what their pose vectors' three numbers change by.
        """
        n = self.log_scales.shape[-1]
        x, a, y, b, scales, size, c = step.split([1, n, 1, n, n, 1, n], -1)
        turn = torch.stack([-b[:, 0], a[:, 0], c[:, 0]], -1)
        return Theta(
            self.log_scales + scales,
            self.pose + torch.stack([a, b, c], -1)[:, 1:],
            rotation_from_axis_angle(turn) @ self.rotation,
            self.translation + torch.cat([x, y], -1),
            self.log_scale + size[:, 0],
        )


@dataclass(frozen=True, eq=False)
class Problem(TensorData):
    """What is to be explained, as the products want it: correspondences first, then key points."""

    rest: Float[Tensor, "batch 4 points"]
    """Homogeneous rest positions."""
    segments: Float[Tensor, "batch joints points"]
    """Skinning weights."""
    hanging: Float[Tensor, "batch joints points"]
    """Their sums over everything that hangs on each joint."""
    target: Float[Tensor, "batch 2 points"]
    dense: Float[Tensor, "batch points"]
    """Confidence over the sum of confidences; 0 for key points."""
    keypoint: Float[Tensor, "batch points"]
    """Confidence; 0 for correspondences."""
    depth: Float[Tensor, "batch keypoints"]
    depth_weights: Float[Tensor, "batch keypoints"]
    marks: Float[Tensor, "batch joints 4 keypoints"]
    """w_j [X; 1] of the key points less that of the root: blends to root-relative depths."""

    def by_point(self) -> tuple[Tensor, ...]:
        """What has a column for each point."""
        return self.rest, self.segments, self.hanging, self.target, self.dense, self.keypoint

    @staticmethod
    def of(template: BodyTemplate, points: BodyPoints, seen: Observations) -> Problem:
        """Everything that stays the same during a fit, looked up once."""
        batch = len(seen.points)
        marks = template.keypoints(seen.joint_set)
        rest = torch.cat([points.rest, marks.rest.expand(batch, -1, -1)], 1)
        weights = torch.cat([points.weights, marks.weights.expand(batch, -1, -1)], 1)
        share = seen.point_weights / seen.point_weights.sum(-1, keepdim=True).clamp_min(1e-6)
        blended = marks.weights.T[:, None] * pad(marks.rest, (0, 1), value=1.0).T
        root = blended[..., seen.joint_set.root_indices].mean(-1, keepdim=True)
        descendants = tree_of(template.parents, weights.device).descendants.to(weights.dtype)
        return Problem(
            rest=pad(rest, (0, 1), value=1.0).mT.contiguous(),
            segments=weights.mT.contiguous(),
            hanging=(weights @ descendants.T).mT.contiguous(),
            target=torch.cat([seen.points, seen.keypoints], 1).mT.contiguous(),
            dense=pad(share, (0, marks.rest.shape[0])),
            keypoint=pad(seen.keypoint_weights, (share.shape[1], 0)),
            depth=seen.depths,
            depth_weights=seen.depth_weights,
            marks=(blended - root).expand(batch, -1, -1, -1),
        )


@dataclass(frozen=True, eq=False)
class View:
    """What a camera sees of theta, and how far it is from what it should (Eqs. 2, 3 and 4)."""

    turned: Float[Tensor, "batch joints 3 3"]
    """Rotation of each segment under the camera."""
    places: Float[Tensor, "batch joints 3"]
    """The joints, without t (image units)."""
    maps: Float[Tensor, "batch joints 3 4"]
    """T_j under the camera: rest points to image x, y and depth, without t."""
    seen: Float[Tensor, "batch 2 points"]
    """Where the points are seen, without t."""
    offset: Float[Tensor, "batch 2 points"]
    weight: Float[Tensor, "batch points"]
    """Square root of what a squared offset counts, by the tangent parabola of Geman-McClure."""
    deep: Float[Tensor, "batch keypoints"]
    """Depths of key points relative to the root, times the next."""
    depth_weight: Float[Tensor, "batch keypoints"]
    depth_offset: Float[Tensor, "batch keypoints"]
    unequal: Float[Tensor, "batch joints"]
    """Differences of neighbouring scales, and the gauge."""
    excess: Float[Tensor, "batch below 3"]
    """Radians beyond the joint limits, about each of their axes."""
    energy: Float[Tensor, "batch"]
    """Eq. 2."""

    @staticmethod
    def of(template: BodyTemplate, problem: Problem, theta: Theta, weights: Weights) -> View:
        """Everything that Eq. 2 needs."""
        turned, places, maps = _segments(template, theta)
        batch, joints = theta.log_scales.shape
        flat = maps[:, :, :2].permute(0, 2, 3, 1).reshape(batch, 8, joints)
        blended = torch.bmm(flat, problem.segments).unflatten(1, (2, 4))
        seen = (blended * problem.rest[:, None]).sum(2)
        offset = seen + theta.translation[..., None] - problem.target
        squared = offset.square().sum(1)
        tail = 1 / (squared / weights.robust.square() + 1)
        dense = weights.dense * problem.dense * tail
        keypoint = weights.keypoint * problem.keypoint

        depth_weight = (weights.depth * problem.depth_weights).sqrt()
        # The marks are the same for everyone.
        deep = maps[:, :, 2].flatten(1) @ problem.marks[0].flatten(0, 1) * depth_weight
        depth_offset = deep - problem.depth * depth_weight

        differences = scale_differences(template.parents, places.device).to(places.dtype)
        unequal = theta.log_scales.exp() @ differences.T
        unequal[:, -1] -= differences[-1].sum()
        limits = template.limits
        angles = (template.limit_axes * theta.pose[..., None, :]).sum(-1)
        excess = (angles - limits[..., 1]).clamp_min(0) - (limits[..., 0] - angles).clamp_min(0)
        energy = (
            ((dense + keypoint) * squared).sum(-1)
            + depth_offset.square().sum(-1)
            + weights.scale * unequal.square().sum(-1)
            + weights.joint * theta.pose.square().sum((1, 2))
            + weights.limit * excess.square().sum((1, 2))
        )
        weight = (dense * tail + keypoint).sqrt()
        return View(
            turned, places, maps, seen, offset, weight, deep, depth_weight, depth_offset,
            unequal, excess, energy,
        )  # fmt: skip


def _segments(template: BodyTemplate, theta: Theta) -> tuple[Tensor, Tensor, Tensor]:
    """How theta turns the segments, where their joints are, and T_j, all under the camera."""
    tree = tree_of(template.parents, theta.pose.device)
    rest = template.joints
    scales, size = theta.log_scales.exp(), theta.log_scale.exp()[:, None, None]
    local = torch.cat([theta.rotation[:, None], rotation_from_axis_angle(theta.pose)], 1)
    bones = torch.where(tree.is_root[:, None], torch.zeros_like(rest), rest - rest[tree.parents])
    bones = bones * scales[:, tree.parents, None]
    world = forward_kinematics(local, bones, template.parents)
    turned = world[..., :3]
    places = (world[..., 3] + (theta.rotation @ rest[0])[:, None]) * size
    grown = turned * (scales[..., None] * size)[..., None]
    shift = places - (grown @ rest[:, :, None])[..., 0]
    return turned, places, torch.cat([grown, shift[..., None]], -1)


@constant
def scale_differences(
    parents: tuple[int, ...], device: torch.device
) -> Float[Tensor, "rows joints"]:
    """Rows of `losses.scale_smoothness`: child less parent, and the gauge on the mean scale last."""
    rows = torch.zeros(len(parents), len(parents), dtype=torch.double, device=device)
    below = [joint for joint, parent in enumerate(parents) if parent >= 0]
    for row, joint in enumerate(below):
        rows[row, joint], rows[row, parents[joint]] = 1, -1
    rows[len(below)] = math.sqrt(SCALE_GAUGE * len(parents)) / len(parents)
    return rows
