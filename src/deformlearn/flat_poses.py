"""2D poses as the lifter sees them: normalised, some key points hidden, lifted and seen from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deformlearn.skeleton import JointSet


@dataclass(frozen=True, eq=False)
class NormalisedPoses:
    """2D poses about their root, of mean root distance one."""

    poses: Float[Tensor, "batch joints 2"]
    visible: Bool[Tensor, "batch joints"]
    size: Float[Tensor, "batch"]
    """The mean distance that was divided out; depths times this are in the poses' own unit."""


def normalise(
    keypoints: Float[Tensor, "batch joints 2"],
    weights: Float[Tensor, "batch joints"],
    joints: JointSet,
) -> NormalisedPoses:
    """Root at the origin, mean distance of the other visible key points to it one; hidden at 0."""
    visible = weights > 0
    root = keypoints[:, joints.root_indices].mean(1, keepdim=True)
    centred = torch.where(visible[..., None], keypoints - root, 0.0)
    others = torch.ones(len(joints), device=keypoints.device)
    if len(joints.root_indices) == 1:
        others[joints.root_indices[0]] = 0
    counted = visible * others
    size = (centred.norm(dim=-1) * counted).sum(-1) / counted.sum(-1).clamp_min(1)
    size = size.clamp_min(1e-6)
    return NormalisedPoses(centred / size[:, None, None], visible, size)


def turned_view(
    poses: Float[Tensor, "batch joints 2"],
    depths: Float[Tensor, "batch joints"],
    turns: Float[Tensor, "batch"],
    tilts: Float[Tensor, "batch"],
) -> Float[Tensor, "batch joints 2"]:
    """The lifted pose seen after a turn about the vertical (and a tilt about the horizontal) axis."""
    x, y = poses.unbind(-1)
    cosine, sine = turns.cos()[:, None], turns.sin()[:, None]
    across, away = x * cosine + depths * sine, depths * cosine - x * sine
    return torch.stack([across, y * tilts.cos()[:, None] - away * tilts.sin()[:, None]], -1)


def backwards(
    poses: Float[Tensor, "batch joints 2"], depths: Float[Tensor, "batch joints"], joints: JointSet
) -> Float[Tensor, "batch"]:
    """How far a lifted person faces the wrong way for their shoulders (Kudo's heuristic), 0 to 1.

    It rules out the mirrored solution, which every other term likes as well.
    """
    ground = torch.stack([depths, poses[..., 0]], -1)
    start = [joints.index(a) for a, _ in joints.facing]
    end = [joints.index(b) for _, b in joints.facing]
    forward = (ground[:, end] - ground[:, start]).sum(1)
    across = ground[:, joints.index("right_shoulder")] - ground[:, joints.index("left_shoulder")]
    cross = forward[:, 0] * across[:, 1] - forward[:, 1] * across[:, 0]
    lengths = (forward.square().sum(-1) + 1e-6).sqrt() * (across.square().sum(-1) + 1e-6).sqrt()
    return (-cross / lengths).clamp_min(0)


def hide(
    poses: Float[Tensor, "batch joints 2"],
    joints: JointSet,
    share: float,
    generator: torch.Generator,
) -> NormalisedPoses:
    """Poses with some key points hidden, normalised over the rest; the root always stays."""
    visible = torch.ones(poses.shape[:2], device=poses.device)
    if share <= 0:
        return NormalisedPoses(poses, visible > 0, torch.ones_like(poses[:, 0, 0]))
    # Half of the poses stay whole: they are what most images show.
    rate = share * (torch.rand(len(poses), 1, generator=generator) < 0.5)
    visible = (torch.rand(poses.shape[:2], generator=generator) >= rate).to(poses)
    visible[:, joints.root_indices] = 1
    return normalise(poses, visible, joints)
