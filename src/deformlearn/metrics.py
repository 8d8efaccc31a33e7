"""MPJPE raw, bone-sum-scaled and Procrustes-aligned, and per-vertex error, in millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.skeleton import JointSet
from deformlearn.tensors import TensorData


@dataclass(frozen=True, eq=False)
class JointErrors(TensorData):
    """Mean per-joint position error of each person, mm, under each alignment."""

    raw: Float[Tensor, "batch"]
    """Root-aligned, nothing else: the template's own size."""
    bone_sum: Float[Tensor, "batch"]
    """Root-aligned, scaled so that the bone lengths sum to the canonical skeleton's (the paper's)."""
    true_size: Float[Tensor, "batch"]
    """Root-aligned, scaled so that the bone lengths sum to the truth's: isolates pose from size."""
    aligned: Float[Tensor, "batch"]
    """After the best similarity (Procrustes, PA)."""


def joint_errors(
    predicted_mm: Float[Tensor, "batch joints 3"],
    target_mm: Float[Tensor, "batch joints 3"],
    joints: JointSet,
    canonical_mm: float,
) -> JointErrors:
    """All four errors side by side; both poses are first made relative to their root."""
    predicted, target = (_root_relative(pose, joints) for pose in (predicted_mm, target_mm))
    length = bone_sum(predicted, joints)
    scaled = predicted * (canonical_mm / length)[:, None, None]
    sized = predicted * (bone_sum(target, joints) / length)[:, None, None]
    return JointErrors(
        *(
            (pose - target).norm(dim=-1).mean(-1)
            for pose in (predicted, scaled, sized, procrustes(predicted, target))
        )
    )


def bone_sum(pose: Float[Tensor, "*batch joints 3"], joints: JointSet) -> Float[Tensor, "*batch"]:
    """Sum of the lengths of the joint set's bones."""
    start = [joints.index(a) for a, _ in joints.bones]
    end = [joints.index(b) for _, b in joints.bones]
    return (pose[..., start, :] - pose[..., end, :]).norm(dim=-1).sum(-1)


def procrustes(
    points: Float[Tensor, "*batch joints 3"], target: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch joints 3"]:
    """`points` after the similarity (rotation, scale, shift; no reflection) that best fits `target`."""
    middle, goal = (x.mean(-2, keepdim=True) for x in (points, target))
    centred, wanted = points - middle, target - goal
    u, singular, vt = torch.linalg.svd(centred.mT @ wanted)
    sign = torch.linalg.det(u @ vt).sign()
    signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
    rotation = (u * signs[..., None, :]) @ vt
    scale = (singular * signs).sum(-1) / centred.square().sum((-1, -2)).clamp_min(1e-12)
    return scale[..., None, None] * centred @ rotation + goal


def vertex_error(
    predicted_mm: Float[Tensor, "batch vertices 3"],
    target_mm: Float[Tensor, "batch vertices 3"],
) -> Float[Tensor, "batch"]:
    """PVE: mean distance of corresponding vertices, mm; both already relative to the root joint."""
    return (predicted_mm - target_mm).norm(dim=-1).mean(-1)


def _root_relative(pose: Tensor, joints: JointSet) -> Tensor:
    return pose - pose[:, joints.root_indices].mean(1, keepdim=True)
