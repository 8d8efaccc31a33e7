"""An estimate: body parameters and camera, the paper's theta, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deformlearn.body import (
    BodyParameters,
    BodyPoints,
    BodyTemplate,
    blend,
    bone_transforms,
    skin,
)
from deformlearn.camera import FACING_CAMERA, Camera, gram_schmidt
from deformlearn.skeleton import JointSet, joint_set
from deformlearn.tensors import TensorData, fixed


@dataclass(frozen=True, eq=False)
class Estimate(TensorData):
    """theta = [pose, scales, R, s, t] of each person."""

    body: BodyParameters
    camera: Camera

    @staticmethod
    def rest(template: BodyTemplate, batch: int) -> Estimate:
        """The template at rest, facing the camera, filling the crop."""
        new = template.vertices.new_tensor
        middle = (template.vertices.amin(0) + template.vertices.amax(0)) / 2
        scale = 1.8 / template.height
        rotation = new(FACING_CAMERA)
        return Estimate(
            template.rest_parameters(batch),
            Camera(
                rotation.expand(batch, 3, 3),
                (-scale * (rotation @ middle)[:2]).expand(batch, 2),
                new(scale).expand(batch),
            ),
        )


@dataclass(frozen=True, eq=False)
class Quality(TensorData):
    """How well each estimate explains its observations."""

    loss: Float[Tensor, "*batch"]
    """Weighted sum of all terms, under one fixed set of weights (comparable between rounds)."""
    dense: Float[Tensor, "*batch"]
    """L_dense, squared image units."""
    keypoint: Float[Tensor, "*batch"]
    """L_KP without depth, squared image units."""
    reprojection_px: Float[Tensor, "*batch"]
    """Median distance of correspondences (of key points where there are none), source pixels."""
    facing: Float[Tensor, "*batch"]
    """Share of corresponded surface points that face the camera: a mirrored body has few."""
    converged: Bool[Tensor, "*batch"]
    """The loss no longer fell at the end."""


def view_transforms(
    template: BodyTemplate, estimate: Estimate
) -> Float[Tensor, "*batch joints 3 4"]:
    """Bones with the camera folded in: blending them gives image x, y and depth (image units)."""
    camera = estimate.camera
    bones = bone_transforms(template, estimate.body, camera.rotation())
    bones = bones * camera.scale[..., None, None, None]
    shift = torch.nn.functional.pad(camera.translation, (0, 1))[..., None, :, None]
    return torch.cat([bones[..., :3], bones[..., 3:] + shift], -1)


def project_points(
    template: BodyTemplate, estimate: Estimate, points: BodyPoints
) -> Float[Tensor, "*batch points 3"]:
    """Image x, y and depth (image units, growing away from the camera) of points on the body."""
    return blend(view_transforms(template, estimate), points)


def camera_joints(
    template: BodyTemplate, estimate: Estimate, joints: JointSet | str = "h36m17"
) -> Float[Tensor, "*batch joints 3"]:
    """3D joints in camera axes (metres), relative to the root of the joint set."""
    chosen = joint_set(joints) if isinstance(joints, str) else joints
    positions = skin(template, estimate.body, template.keypoints(chosen))
    positions = positions @ estimate.camera.rotation().mT
    root = fixed(chosen.root_indices, positions.device)
    return positions - positions[..., root, :].mean(-2, keepdim=True)


def camera_vertices(template: BodyTemplate, estimate: Estimate) -> Tensor:
    """The whole mesh in camera axes (metres), about the template's origin."""
    return skin(template, estimate.body) @ estimate.camera.rotation().mT


def right_handed(estimate: Estimate) -> Estimate:
    """The same estimate with its nine numbers orthonormal, and never a reflection."""
    rows = gram_schmidt(estimate.camera.matrix)
    third = torch.linalg.cross(rows[..., 0, :], rows[..., 1, :])
    matrix = torch.stack([rows[..., 0, :], rows[..., 1, :], third], -2)
    return replace(estimate, camera=replace(estimate.camera, matrix=matrix))


def mirrored(template: BodyTemplate, estimate: Estimate) -> Estimate:
    """The estimate of the horizontally flipped image: left and right exchanged."""
    pose = estimate.body.pose
    turn = fixed((1.0, -1.0, -1.0), pose.device, pose.dtype)
    flip = fixed((-1.0, 1.0, 1.0), pose.device, pose.dtype)
    swap = fixed(template.mirror_segments, pose.device)
    below_root = fixed(tuple(index - 1 for index in template.mirror_segments[1:]), pose.device)
    body = BodyParameters(estimate.body.scales[..., swap], pose[..., below_root, :] * turn)
    camera = Camera(
        estimate.camera.matrix * flip[:, None] * flip,
        estimate.camera.translation * flip[:2],
        estimate.camera.scale,
    )
    return Estimate(body, camera)


def turned_in_image(
    estimate: Estimate,
    rotation: Float[Tensor, "batch 2 2"],
    zoom: Float[Tensor, "batch"],
    shift: Float[Tensor, "batch 2"],
) -> Estimate:
    """The estimate after the image is mapped by x -> zoom * rotation x + shift."""
    camera = estimate.camera
    full = torch.eye(3, dtype=rotation.dtype, device=rotation.device).repeat(len(rotation), 1, 1)
    full[:, :2, :2] = rotation
    moved = (rotation @ camera.translation[..., None])[..., 0]
    return Estimate(
        estimate.body,
        Camera(full @ camera.matrix, zoom[:, None] * moved + shift, zoom * camera.scale),
    )


def facing_share(
    template: BodyTemplate,
    view: Float[Tensor, "batch joints rows 4"],
    faces: Int[Tensor, "batch points"],
    weights: Float[Tensor, "batch points"],
) -> Float[Tensor, "batch"]:
    """Share (by weight) of the given faces that are turned to the camera; 1 where none is given.

    A weak-perspective camera explains a body and its mirror image in depth equally well, but the
    mirrored one would have to be seen from inside: its corresponded points face away. `view` holds
    the x and y rows of `view_transforms`.
    """
    corners = template.faces[faces].mT.flatten(1)
    # `blend`, with points as the last axis: three times as fast for so many.
    maps = view[:, :, :2].permute(0, 2, 3, 1).flatten(1, 2)
    blended = (maps @ template.weights[corners].mT).unflatten(1, (2, 4))
    rest = template.vertices[corners].mT
    seen = (blended[:, :, :3] * rest[:, None]).sum(2) + blended[:, :, 3]
    first, second, third = seen.unflatten(-1, (3, -1)).unbind(-2)
    edge, other = second - first, third - first
    # Outward faces wind counter-clockwise; with y pointing down that is a negative screen area.
    towards = (edge[:, 0] * other[:, 1] - edge[:, 1] * other[:, 0]) < 0
    total = weights.sum(-1)
    share = (towards * weights).sum(-1) / total.clamp_min(1e-9)
    return torch.where(total > 0, share, torch.ones_like(share))
