"""Eqs. 2-6 and the regularisers: one pure function a term, one number per person.

Weights are applied where terms are summed (registration, regressor), nowhere here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.camera import gram_schmidt

SCALE_GAUGE = 0.01
"""Weight of (mean scale - 1)^2 a joint beside the squared differences of neighbouring scales."""


def dense(
    projected: Float[Tensor, "*batch points 2"],
    annotated: Float[Tensor, "*batch points 2"],
    weights: Float[Tensor, "*batch points"],
    robust: float | Tensor | None = None,
) -> Float[Tensor, "*batch"]:
    """Weighted mean squared distance between matched image points (Eq. 3), squared image units.

    With `robust` (a distance r in image units) each squared distance e becomes Geman-McClure's
    e / (e / r^2 + 1), which wrong correspondences cannot dominate. Padding contributes nothing, and a
    person without correspondences has loss zero. The paper prints a sum and calls it a mean; we take
    the mean (docs/decisions/0001).
    """
    squared = (projected - annotated).square().sum(-1)
    if robust is not None:
        squared = squared / (squared / robust**2 + 1)
    return (squared * weights).sum(-1) / weights.sum(-1).clamp_min(1e-6)


def keypoint(
    projected: Float[Tensor, "*batch joints 2"],
    annotated: Float[Tensor, "*batch joints 2"],
    weights: Float[Tensor, "*batch joints"],
) -> Float[Tensor, "*batch"]:
    """Weighted sum of squared distances of projected joints to 2D key points (Eq. 4, first part)."""
    return ((projected - annotated).square().sum(-1) * weights).sum(-1)


def depth(
    depths: Float[Tensor, "*batch joints"],
    lifted: Float[Tensor, "*batch joints"],
    weights: Float[Tensor, "*batch joints"],
) -> Float[Tensor, "*batch"]:
    """Weighted sum of squared differences of root-relative depth (Eq. 4, second part)."""
    return ((depths - lifted).square() * weights).sum(-1)


def scale_smoothness(
    scales: Float[Tensor, "*batch joints"], parents: tuple[int, ...]
) -> Float[Tensor, "*batch"]:
    """L_scale: squared differences of neighbouring segments' scales, plus a small gauge term.

    Growing every segment alike is the same picture as a closer camera, so 1 % of (mean scale - 1)^2 a
    joint keeps the body's size where the template's is (docs/decisions/0003).
    """
    child = [joint for joint, parent in enumerate(parents) if parent >= 0]
    parent = [parents[joint] for joint in child]
    neighbours = (scales[..., child] - scales[..., parent]).square().sum(-1)
    return neighbours + SCALE_GAUGE * len(parents) * (scales.mean(-1) - 1).square()


def joint_angles(pose: Float[Tensor, "*batch joints 3"]) -> Float[Tensor, "*batch"]:
    """L_joint, first part: squared rotation angles, which pull to the rest pose."""
    return pose.square().sum((-1, -2))


def joint_limits(
    pose: Float[Tensor, "*batch joints 3"],
    axes: Float[Tensor, "joints 3 3"],
    limits: Float[Tensor, "joints 3 2"],
) -> Float[Tensor, "*batch"]:
    """L_joint, second part: squared excess over each joint's limits, about its own axes."""
    angles = (axes * pose[..., None, :]).sum(-1)
    below = (limits[..., 0] - angles).clamp_min(0)
    above = (angles - limits[..., 1]).clamp_min(0)
    return (below.square() + above.square()).sum((-1, -2))


def determinant(
    matrix: Float[Tensor, "*batch 3 3"], margin: float = 0.1
) -> Float[Tensor, "*batch"]:
    """L_det: penalises a raw M that is about to become a reflection.

    It must see M itself: the determinant of Gram-Schmidt of M is +1 or -1, with no gradient between.
    """
    return (margin - torch.linalg.det(matrix)).clamp_min(0).square()


def smooth_l1(
    predicted: Float[Tensor, "batch *rest"], target: Float[Tensor, "batch *rest"]
) -> Float[Tensor, "batch"]:
    """Mean smooth-L1 distance per person (Eq. 6 uses it on theta)."""
    distance = torch.nn.functional.smooth_l1_loss(predicted, target, reduction="none")
    return distance.flatten(1).mean(1) if distance.ndim > 1 else distance


def rotation_l1(
    predicted: Float[Tensor, "batch 3 3"], target: Float[Tensor, "batch 3 3"]
) -> Float[Tensor, "batch"]:
    """Smooth-L1 between the nine numbers of the two orthonormalised rotations."""
    return smooth_l1(gram_schmidt(predicted), gram_schmidt(target))


def joint_distance(
    predicted: Float[Tensor, "*batch joints 3"], target: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch"]:
    """Mean distance of 3D joints (metres), both relative to their root."""
    return (predicted - target).square().sum(-1).add(1e-8).sqrt().mean(-1)
