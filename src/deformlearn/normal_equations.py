"""Eq. 2 as least squares: its value, its gradient and the Gauss-Newton matrix, in closed form.

Every residual but the regularisers' is a blended point: x_p = sum_j w_pj T_j X_p. Turning joint k moves
all that hangs on it about the joint, so with u_k(p) = sum over descendants j of w_pj [T_j X_p; 1], the
sums over subtrees say how every joint moves every point: one product with the 0/1 matrix of
descendants, as in `skeleton.forward_kinematics`. No graph is recorded and nothing walks the tree
backwards. `tests/test_normal_equations.py` compares all of it with `losses` and with autograd.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from deformlearn.body import BodyParameters, BodyPoints, BodyTemplate
from deformlearn.camera import Camera
from deformlearn.energy import Weights
from deformlearn.estimate import Estimate
from deformlearn.losses import SCALE_GAUGE
from deformlearn.observations import Observations
from deformlearn.skeleton import (
    forward_kinematics,
    left_jacobian,
    rotation_from_axis_angle,
    tree_of,
)
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
        """Theta of an estimate."""
        body, camera = estimate.body, estimate.camera
        return Theta(
            body.scales.log(),
            body.pose,
            camera.rotation(),
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
        """Theta after a step: turn of the whole body about the camera's axes (radians), pose,
        log scales, translation, log scale, as `NormalEquations` orders them.
        """
        joints = self.log_scales.shape[-1]
        turn, pose, scales, shift, size = step.split([3, 3 * (joints - 1), joints, 2, 1], -1)
        return Theta(
            self.log_scales + scales,
            self.pose + pose.unflatten(-1, (joints - 1, 3)),
            rotation_from_axis_angle(turn) @ self.rotation,
            self.translation + shift,
            self.log_scale + size[:, 0],
        )


@dataclass(frozen=True, eq=False)
class Problem(TensorData):
    """What is to be explained, as the products want it: correspondences first, then key points."""

    rest: Float[Tensor, "batch 4 points"]
    """Homogeneous rest positions."""
    segments: Float[Tensor, "batch joints points"]
    """Skinning weights."""
    target: Float[Tensor, "batch 2 points"]
    dense: Float[Tensor, "batch points"]
    """Confidence over the sum of confidences; 0 for key points."""
    keypoint: Float[Tensor, "batch points"]
    """Confidence; 0 for correspondences."""
    depth: Float[Tensor, "batch keypoints"]
    depth_weights: Float[Tensor, "batch keypoints"]
    marks: Float[Tensor, "batch joints 4 keypoints"]
    """w_j [X; 1] of the key points less that of the root: blends to root-relative depths."""

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
        return Problem(
            rest=pad(rest, (0, 1), value=1.0).mT.contiguous(),
            segments=weights.mT.contiguous(),
            target=torch.cat([seen.points, seen.keypoints], 1).mT.contiguous(),
            dense=pad(share, (0, marks.rest.shape[0])),
            keypoint=pad(seen.keypoint_weights, (share.shape[1], 0)),
            depth=seen.depths,
            depth_weights=seen.depth_weights,
            marks=(blended - root).expand(batch, -1, -1, -1),
        )


@dataclass(frozen=True, eq=False)
class NormalEquations(TensorData):
    """Energy, half its gradient, and half its Gauss-Newton matrix, by turn, pose, scales, t, scale."""

    energy: Float[Tensor, "batch"]
    gradient: Float[Tensor, "batch unknowns"]
    matrix: Float[Tensor, "batch unknowns unknowns"]
    """The lower triangle; what is above it means nothing."""


@dataclass(frozen=True, eq=False)
class Scratch(TensorData):
    """Memory that `normal_equations` writes over: new pages each time would cost it a sixth more."""

    rows: Float[Tensor, "batch columns residuals"]
    parts: Float[Tensor, "batch parts points"]

    @staticmethod
    def of(problem: Problem) -> Scratch:
        """Enough for a problem, or for any part of its people."""
        batch, joints, points = problem.segments.shape
        new = problem.rest.new_empty
        residuals = 2 * points + problem.depth.shape[-1]
        return Scratch(new(batch, 4 * joints + 4, residuals), new(batch, 4 * joints, points))


def normal_equations(
    template: BodyTemplate,
    problem: Problem,
    theta: Theta,
    weights: Weights,
    scratch: Scratch | None = None,
) -> NormalEquations:
    """Eq. 2 and its second-order model at theta (Geman-McClure by its tangent parabola)."""
    scratch = (scratch or Scratch.of(problem))[: len(theta)]
    rows = scratch.rows
    frames = _frames(template, theta)
    joints = len(template.parents)
    turning, growing = 3 * joints, slice(3 * joints, 4 * joints)
    image = 2 * problem.rest.shape[-1]
    # Derivatives by each unknown, and the residuals last: one product gives matrix and gradient.
    energy = _image_rows(
        rows[..., :image], scratch.parts, template, problem, theta, weights, frames
    )
    energy = energy + _depth_rows(rows[..., image:], template, problem, weights, frames)
    product = torch.bmm(rows, rows.mT)
    matrix, gradient = product[:, :-1, :-1], product[:, -1, :-1]

    prior, prior_gradient, prior_scales, prior_pose = _priors(template, theta, weights)
    gradient[:, 3 : 4 * joints] += prior_gradient
    matrix[:, growing, growing] += prior_scales
    pose = matrix[:, 3:turning, 3:turning].unflatten(1, (-1, 3)).unflatten(3, (-1, 3))
    pose.diagonal(dim1=1, dim2=3).add_(prior_pose.permute(0, 2, 3, 1))
    return NormalEquations(energy + prior, gradient, matrix)


@dataclass(frozen=True, eq=False)
class _Frames:
    """Where theta puts the segments, and how fast each of its numbers moves them (image units)."""

    maps: Float[Tensor, "batch joints 4 4"]
    """T_j under the camera: rest points to image x, y and depth, without t."""
    places: Float[Tensor, "batch joints 3"]
    """The joints."""
    axes: Float[Tensor, "batch joints 3 axes"]
    """What the joints turn about."""


def _frames(template: BodyTemplate, theta: Theta) -> _Frames:
    tree = tree_of(template.parents, theta.pose.device)
    rest = template.joints
    scales, size = theta.log_scales.exp(), theta.log_scale.exp()[:, None, None]
    local = torch.cat([theta.rotation[:, None], rotation_from_axis_angle(theta.pose)], 1)
    bones = torch.where(tree.is_root[:, None], torch.zeros_like(rest), rest - rest[tree.parents])
    bones = bones * scales[:, tree.parents, None]
    world = forward_kinematics(local, bones, template.parents)
    turned = world[..., :3]
    place = (world[..., 3] + (theta.rotation @ rest[0])[:, None]) * size
    grown = turned * (scales[..., None] * size)[..., None]
    shift = place - (grown @ rest[:, :, None])[..., 0]
    maps = torch.cat([grown, shift[..., None]], -1)
    last = maps.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*maps.shape[:2], 1, 4)
    # The body turns about the origin and the camera's axes, a joint about itself and its parent's.
    axes = torch.cat(
        [
            torch.eye(3, dtype=rest.dtype, device=rest.device).expand(len(place), 1, 3, 3),
            turned[:, tree.parents[1:]] @ left_jacobian(theta.pose),
        ],
        1,
    )
    return _Frames(torch.cat([maps, last], -2), place, axes)


def _image_rows(
    rows: Float[Tensor, "batch columns residuals"],
    parts: Float[Tensor, "batch parts points"],
    template: BodyTemplate,
    problem: Problem,
    theta: Theta,
    weights: Weights,
    frames: _Frames,
) -> Float[Tensor, "batch"]:
    """Correspondences and key points in x and y (Eqs. 3 and 4): fills rows, returns the energy."""
    batch, joints = theta.log_scales.shape
    maps = frames.maps[:, :, :2].permute(0, 2, 3, 1).reshape(batch, 8, joints)
    blended = torch.bmm(maps, problem.segments).unflatten(1, (2, 4))
    seen = (blended * problem.rest[:, None]).sum(2)
    offset = seen + theta.translation[..., None] - problem.target
    squared = offset.square().sum(1)
    tail = 1 / (squared / weights.robust.square() + 1)
    dense = weights.dense * problem.dense * tail
    keypoint = weights.keypoint * problem.keypoint
    energy = ((dense + keypoint) * squared).sum(-1)
    weight = (dense * tail + keypoint).sqrt()

    torch.bmm(frames.maps.flatten(1, 2), problem.rest, out=parts)
    parts = parts.unflatten(1, (joints, 4))
    parts *= (problem.segments * weight[:, None])[:, :, None]
    rows = rows.unflatten(-1, (2, -1))
    _motions(rows, template, frames, parts, (0, 1))
    rows[:, -4, 0], rows[:, -4, 1], rows[:, -3, 0], rows[:, -3, 1] = weight, 0, 0, weight
    torch.mul(seen, weight[:, None], out=rows[:, -2])
    torch.mul(offset, weight[:, None], out=rows[:, -1])
    return energy


def _depth_rows(
    rows: Float[Tensor, "batch columns residuals"],
    template: BodyTemplate,
    problem: Problem,
    weights: Weights,
    frames: _Frames,
) -> Float[Tensor, "batch"]:
    """Depths of the key points relative to the root (Eq. 4): fills rows, returns the energy."""
    weight = (weights.depth * problem.depth_weights).sqrt()
    parts = frames.maps @ (problem.marks * weight[:, None, None])
    rows[:, -4:-2] = 0
    rows[:, -2] = parts[:, :, 2].sum(1)
    torch.sub(rows[:, -2], problem.depth * weight, out=rows[:, -1])
    _motions(rows[:, :, None], template, frames, parts, (2,))
    return rows[:, -1].square().sum(-1)


def _motions(
    rows: Float[Tensor, "batch columns shown points"],
    template: BodyTemplate,
    frames: _Frames,
    parts: Float[Tensor, "batch joints 4 points"],
    shown: tuple[int, ...],
) -> None:
    """Fill in how the coordinates `shown` of points move with every turn and every scale.

    `parts` holds w_j [T_j X; 1]; their sums over subtrees are what each joint carries.
    """
    joints = len(template.parents)
    turns = rows[:, : 3 * joints].unflatten(1, (joints, 3))
    scales = rows[:, 3 * joints : 4 * joints]
    place = frames.places[..., None]
    for row, axis in enumerate(shown):
        scales[:, :, row] = parts[:, :, axis]
    carried = parts
    for joint in reversed(range(1, joints)):
        carried[:, template.parents[joint]] += carried[:, joint]
    # From here on relative to the joint: the moment arms. The body turns about the origin.
    weight = carried[:, :, 3:]
    pushed = weight * place[:, :, list(shown)]
    scales -= pushed
    for joint in range(1, joints):
        scales[:, template.parents[joint]] += pushed[:, joint]
    arms = carried[:, :, :3]
    arms[:, 1:] -= weight[:, 1:] * place[:, 1:]
    for row, axis in enumerate(shown):
        # The cyclic rule of the cross product: (a x r)_i = a_j r_k - a_k r_j.
        second, third = (axis + 1) % 3, (axis + 2) % 3
        turn = turns[:, :, :, row]
        torch.mul(frames.axes[:, :, second, :, None], arms[:, :, third, None], out=turn)
        turn -= frames.axes[:, :, third, :, None] * arms[:, :, second, None]


def _priors(
    template: BodyTemplate, theta: Theta, weights: Weights
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L_scale, L_joint and the joint limits: energy, gradient, and their blocks of the matrix."""
    scales = theta.log_scales.exp()
    differences = _differences(template.parents, scales.device).to(scales.dtype)
    unequal = scales @ differences.T
    unequal[:, -1] -= differences[-1].sum()
    energy = weights.scale * unequal.square().sum(-1)
    scale_gradient = weights.scale * (unequal @ differences) * scales
    scale_block = differences.T @ differences * scales[:, None] * scales[:, :, None]

    axes, limits = template.limit_axes, template.limits
    angles = (axes * theta.pose[..., None, :]).sum(-1)
    excess = (angles - limits[..., 1]).clamp_min(0) - (limits[..., 0] - angles).clamp_min(0)
    energy = energy + weights.joint * theta.pose.square().sum((1, 2))
    energy = energy + weights.limit * excess.square().sum((1, 2))
    pose_gradient = weights.joint * theta.pose + weights.limit * (excess[..., None] * axes).sum(-2)
    beyond = (excess != 0)[..., None] * axes
    identity = torch.eye(3, dtype=scales.dtype, device=scales.device)
    pose_block = weights.joint * identity + weights.limit * (axes.mT @ beyond)
    gradient = torch.cat([pose_gradient.flatten(1), scale_gradient], -1)
    return energy, gradient, weights.scale * scale_block, pose_block


@lru_cache
def _differences(parents: tuple[int, ...], device: torch.device) -> Float[Tensor, "rows joints"]:
    """Rows of `losses.scale_smoothness`: child less parent, and the gauge on the mean scale last."""
    rows = torch.zeros(len(parents), len(parents), dtype=torch.double, device=device)
    below = [joint for joint, parent in enumerate(parents) if parent >= 0]
    for row, joint in enumerate(below):
        rows[row, joint], rows[row, parents[joint]] = 1, -1
    rows[len(below)] = math.sqrt(SCALE_GAUGE * len(parents)) / len(parents)
    return rows
