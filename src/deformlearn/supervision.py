"""What a network is taught: a training set, and every term of the loss (Eqs. 5-6).

L = alpha L_regress + beta L_dense + gamma L_KP, to which we add the 3D joints of the registered body and
the two losses of the 2D heads (docs/decisions/0008). None of it is a 3D label, unless the caller gives
true joints on purpose, for the comparison with full 3D supervision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from deformlearn import losses
from deformlearn.body import BodyTemplate, blend
from deformlearn.config import RegressorConfig
from deformlearn.data.augment import SEGMENT_JOINTS, Correspondences, Examples, Labels
from deformlearn.estimate import Estimate, camera_joints, view_transforms
from deformlearn.observations import Observations
from deformlearn.regressor import Prediction
from deformlearn.skeleton import joint_set
from deformlearn.tensors import TensorData, fixed


@dataclass(frozen=True, eq=False)
class TrainingSet(TensorData):
    """Images and what registration found in them."""

    images: UInt8[Tensor, "people 3 size size"]
    observations: Observations
    target: Estimate
    joints_3d: Float[Tensor, "people segments 3"]
    """`SEGMENT_JOINTS` in camera axes, relative to their root (metres)."""

    @staticmethod
    def of(
        images: UInt8[Tensor, "people 3 size size"],
        observations: Observations,
        target: Estimate,
        template: BodyTemplate,
    ) -> TrainingSet:
        """A training set without 3D labels: the 3D joints are the registered body's own.

        For the full-3D baseline, replace its `joints_3d` by true ones.
        """
        target = target.detach()
        joints = camera_joints(template, target, SEGMENT_JOINTS)
        return TrainingSet(images, observations, target, joints)


@dataclass(frozen=True, eq=False)
class Losses(TensorData):
    """Every term of the loss, one number per image, not yet weighted."""

    regress: Float[Tensor, "*batch"]
    """Smooth L1 of pose, scales, rotation, translation and scale (Eq. 6)."""
    dense: Float[Tensor, "*batch"]
    """L_dense (Eq. 3), squared image units."""
    keypoint: Float[Tensor, "*batch"]
    """L_KP (Eq. 4, 2D part), squared image units."""
    joints: Float[Tensor, "*batch"]
    """Mean distance of the 3D joints (metres)."""
    heatmap: Float[Tensor, "*batch"]
    """Cross-entropy of the key points' heat maps (nats)."""
    coordinates: Float[Tensor, "*batch"]
    """Smooth L1 of the template coordinates at annotated pixels."""

    def total(self, config: RegressorConfig) -> Float[Tensor, "*batch"]:
        """The weighted sum (Eq. 5)."""
        return (
            config.regress_weight * self.regress
            + config.dense_weight * self.dense
            + config.keypoint_weight * self.keypoint
            + config.joint_weight * self.joints
            + config.heatmap_weight * self.heatmap
            + config.coordinate_weight * self.coordinates
        )

    def mean(self) -> Losses:
        """Every term averaged over the images."""
        return self.map(lambda term: term.mean())


def all_losses(
    template: BodyTemplate,
    prediction: Prediction,
    labels: Labels,
    origin: Float[Tensor, "3"],
) -> Losses:
    """Every term; those of the 2D heads are zero where the network has none.

    `origin` is the rest point that template coordinates are relative to.
    """
    terms = body_losses(template, prediction.estimate, labels)
    if prediction.heatmaps is None or prediction.coordinates is None:
        return terms
    return replace(
        terms,
        heatmap=heatmap_cross_entropy(
            prediction.heatmaps, labels.keypoints, labels.keypoint_weights
        ),
        coordinates=coordinate_distance(prediction.coordinates, labels.dense, origin),
    )


def body_losses(template: BodyTemplate, estimate: Estimate, labels: Labels) -> Losses:
    """The terms of Eq. 5, and the 3D joints."""
    target = labels.target
    view = view_transforms(template, estimate)
    keypoints = blend(view, template.keypoints(joint_set(labels.joints)))
    pixels = blend(view, labels.dense.surface)
    segments = joint_set(SEGMENT_JOINTS)
    joints = blend(view, template.keypoints(segments)) / estimate.camera.scale[:, None, None]
    joints = joints - joints[:, fixed(segments.root_indices, joints.device)].mean(1, keepdim=True)
    regress = (
        losses.smooth_l1(estimate.body.pose, target.body.pose)
        + losses.smooth_l1(estimate.body.scales, target.body.scales)
        + losses.rotation_l1(estimate.camera.matrix, target.camera.matrix)
        + losses.smooth_l1(estimate.camera.translation, target.camera.translation)
        + losses.smooth_l1(estimate.camera.scale, target.camera.scale)
    )
    nothing = torch.zeros_like(regress)
    return Losses(
        regress=regress,
        dense=losses.dense(pixels[..., :2], labels.dense.pixels, labels.dense.weights),
        keypoint=losses.keypoint(keypoints[..., :2], labels.keypoints, labels.keypoint_weights),
        joints=losses.joint_distance(joints, labels.joints_3d),
        heatmap=nothing,
        coordinates=nothing,
    )


def heatmap_cross_entropy(
    heatmaps: Float[Tensor, "batch joints rows columns"],
    keypoints: Float[Tensor, "batch joints 2"],
    weights: Float[Tensor, "batch joints"],
) -> Float[Tensor, "batch"]:
    """Weighted mean of -log p at the key points, interpolated between pixels (nats).

    `heatmaps` are log p, where p sums to one in each map. A key point outside the image, or missing,
    teaches nothing.
    """
    batch, joints, rows, columns = heatmaps.shape
    logs = heatmaps.reshape(batch * joints, 1, rows, columns)
    at = keypoints.reshape(batch * joints, 1, 1, 2)
    log_p = _read(logs, at).view(batch, joints)
    used = weights * _inside(keypoints)
    return -(log_p * used).sum(-1) / weights.sum(-1).clamp_min(1e-6)


def coordinate_distance(
    coordinates: Float[Tensor, "batch 3 rows columns"],
    dense: Correspondences,
    origin: Float[Tensor, "3"],
) -> Float[Tensor, "batch"]:
    """Weighted mean smooth L1 of the coordinates at annotated pixels (quadratic below 10 cm)."""
    at = dense.pixels[:, :, None]
    found = _read(coordinates.float(), at)[..., 0].mT
    wanted = dense.surface.rest - origin
    distance = functional.smooth_l1_loss(found, wanted, beta=0.1, reduction="none").mean(-1)
    used = dense.weights * _inside(dense.pixels)
    return (distance * used).sum(-1) / dense.weights.sum(-1).clamp_min(1e-6)


def training_examples(data: TrainingSet, template: BodyTemplate) -> Examples:
    """The images as numbers, and their labels with the correspondences looked up on the template."""
    seen = data.observations
    surface = template.surface_points(seen.faces, seen.barycentric)
    return Examples(
        data.images * (1 / 255),
        Labels(
            dense=Correspondences(seen.points, surface, seen.point_weights),
            keypoints=seen.keypoints,
            keypoint_weights=seen.keypoint_weights,
            target=data.target,
            joints_3d=data.joints_3d,
            joints=seen.joints,
        ),
    )


def _read(
    maps: Float[Tensor, "batch channels rows columns"], at: Float[Tensor, "batch points one 2"]
) -> Float[Tensor, "batch channels points one"]:
    """Maps between their pixels; beyond the centres of the outermost, what those say.

    What is no number is read anywhere: torch would read and write outside the maps.
    """
    return functional.grid_sample(maps, at.nan_to_num(), padding_mode="border", align_corners=False)


def _inside(points: Float[Tensor, "batch points 2"]) -> Float[Tensor, "batch points"]:
    return (points.abs() <= 1).all(-1).to(points.dtype)
