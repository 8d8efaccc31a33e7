"""Where a registration begins: orientation, scale and translation in closed form.

The paper starts from the rest pose facing the camera. An affine camera fitted to the torso's points,
or a rigid alignment of the torso's lifted joints, already tells which way a person is turned.
"""

from __future__ import annotations

import torch

from deformlearn.body import BodyPoints, BodyTemplate
from deformlearn.camera import Camera
from deformlearn.estimate import Estimate
from deformlearn.observations import Observations
from deformlearn.skeleton import SEGMENTS
from deformlearn.tensors import where

_TRUNK = {"pelvis": 1.0, "spine1": 1.0, "spine2": 1.0, "spine3": 1.0}
_NEAR_TRUNK = {
    "left_hip": 0.3,
    "right_hip": 0.3,
    "left_collar": 1.0,
    "right_collar": 1.0,
    "neck": 0.5,
}
_NEAR_TRUNK |= {"head": 0.5, "left_shoulder": 0.2, "right_shoulder": 0.2}
RIGIDITY = torch.tensor([{**_TRUNK, **_NEAR_TRUNK}.get(name, 0.03) for name in SEGMENTS])
"""How much each segment's points say about the orientation of the whole body."""


def oriented_start(
    template: BodyTemplate,
    observations: Observations,
    points: BodyPoints,
    *,
    closed_form: bool = True,
) -> Estimate:
    """Where to begin: the rest pose, turned and placed as the observations say.

    From correspondences where there are at least eight, else from key points with depths, else (and
    for everyone without `closed_form`) facing the camera, over the 2D box.
    """
    start = _from_box(template, observations)
    if not closed_form:
        return start
    landmarks = template.keypoints(observations.joint_set)
    depths_known = (observations.depth_weights * observations.keypoint_weights > 0).sum(-1) >= 4
    start = where(depths_known, _from_lifted(start, observations, landmarks), start)
    enough = (observations.point_weights > 0).sum(-1) >= 8
    return where(enough, _from_points(start, observations, points), start)


def _from_box(template: BodyTemplate, seen: Observations) -> Estimate:
    """Facing the camera, with the height and the middle of the observed box."""
    rest = Estimate.rest(template, len(seen.points))
    everything = torch.cat([seen.points, seen.keypoints], 1)
    weights = torch.cat([seen.point_weights, seen.keypoint_weights], 1)[..., None]
    low = torch.where(weights > 0, everything, torch.inf).amin(1)
    high = torch.where(weights > 0, everything, -torch.inf).amax(1)
    known = (high > low).all(-1)
    middle = torch.where(known[:, None], (low + high) / 2, torch.zeros_like(low))
    size = torch.where(known[:, None], high - low, torch.ones_like(low)).amax(-1)
    scale = (size / template.height).clamp(0.2, 3.0)
    centre = (template.vertices.amin(0) + template.vertices.amax(0)) / 2
    turned = (rest.camera.matrix @ centre)[:, :2]
    return Estimate(rest.body, Camera(rest.camera.matrix, middle - scale[:, None] * turned, scale))


def _from_points(start: Estimate, seen: Observations, points: BodyPoints) -> Estimate:
    """Weighted affine fit x = A X + b of the trunk's points; the nearest rotation to A."""
    weights = points.weights @ RIGIDITY.to(points.weights)
    weights = weights * seen.point_weights
    weights = (weights / weights.sum(1, keepdim=True).clamp_min(1e-9))[..., None]
    body_mean = (weights * points.rest).sum(1, keepdim=True)
    image_mean = (weights * seen.points).sum(1, keepdim=True)
    body, image = points.rest - body_mean, seen.points - image_mean
    spread = body.mT @ (weights * body)
    # A trunk seen flat from the front says little about depth: the ridge keeps that row small.
    ridge = 5e-5 * torch.eye(3, dtype=body.dtype, device=body.device)
    affine = torch.linalg.solve(spread + ridge, body.mT @ (weights * image)).mT
    # cuSOLVER takes a batch at once only where all of V is asked for.
    # No one's broken numbers may stop the others: what is not finite turns nothing.
    u, singular, vt = torch.linalg.svd(affine.nan_to_num(0.0, 0.0, 0.0))
    rows = u @ vt[:, :2]
    matrix = torch.cat([rows, torch.linalg.cross(rows[:, 0], rows[:, 1])[:, None]], 1)
    scale = singular.mean(1).clamp(0.2, 3.0)
    shift = image_mean[:, 0] - scale[:, None] * (rows @ body_mean.mT)[..., 0]
    return Estimate(start.body, Camera(matrix, shift, scale))


def _from_lifted(start: Estimate, seen: Observations, landmarks: BodyPoints) -> Estimate:
    """Similarity that takes the template's landmarks to the key points with their depths."""
    weights = landmarks.weights @ RIGIDITY.to(landmarks.weights) + 0.03
    weights = weights * seen.keypoint_weights * (seen.depth_weights > 0)
    weights = (weights / weights.sum(1, keepdim=True).clamp_min(1e-9))[..., None]
    lifted = torch.cat([seen.keypoints, seen.depths[..., None]], -1)
    body_mean = (weights * landmarks.rest).sum(1, keepdim=True)
    lifted_mean = (weights * lifted).sum(1, keepdim=True)
    body, image = landmarks.rest - body_mean, lifted - lifted_mean
    u, singular, vt = torch.linalg.svd(((weights * image).mT @ body).nan_to_num(0.0, 0.0, 0.0))
    sign = torch.linalg.det(u @ vt)
    signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
    matrix = (u * signs[:, None]) @ vt
    scale = (singular * signs).sum(-1) / (weights * body.square()).sum((1, 2)).clamp_min(1e-9)
    scale = scale.clamp(0.2, 3.0)
    shift = lifted_mean[:, 0, :2] - scale[:, None] * (matrix @ body_mean.mT)[:, :2, 0]
    return Estimate(start.body, Camera(matrix, shift, scale))
