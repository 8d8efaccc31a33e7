"""What an image says about a person: correspondences, key points, joint depths, how far to trust them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.skeleton import JointSet, joint_set
from deformlearn.tensors import TensorData


@dataclass(frozen=True, eq=False)
class Observations(TensorData):
    """A batch of people. Everything a weight of zero stands beside is padding and is never used."""

    points: Float[Tensor, "batch points 2"]
    """Annotated pixels of the dense correspondences (image units)."""
    faces: Int[Tensor, "batch points"]
    """Template face of each correspondence."""
    barycentric: Float[Tensor, "batch points 3"]
    """Where on that face."""
    point_weights: Float[Tensor, "batch points"]
    """Confidence of each correspondence; 0 is padding."""
    keypoints: Float[Tensor, "batch joints 2"]
    """2D key points (image units)."""
    keypoint_weights: Float[Tensor, "batch joints"]
    """Confidence of each key point; 0 is missing."""
    depths: Float[Tensor, "batch joints"]
    """Depth of each key point relative to the root (image units, growing away from the camera)."""
    depth_weights: Float[Tensor, "batch joints"]
    """Confidence of each depth; 0 is unknown."""
    joints: str
    """Name of the joint set of the key points."""

    def __post_init__(self) -> None:
        expected = len(joint_set(self.joints))
        if self.keypoints.shape[-2] != expected:
            raise ValueError(
                f"joint set {self.joints!r} has {expected} key points, got {self.keypoints.shape[-2]}"
            )

    @property
    def joint_set(self) -> JointSet:
        return joint_set(self.joints)

    def seen_alone(self) -> Observations:
        """The same with zeros beside weights of zero: not even a NaN that stands there may matter."""
        points = torch.where(self.point_weights[..., None] > 0, self.points, 0.0)
        keypoints = torch.where(self.keypoint_weights[..., None] > 0, self.keypoints, 0.0)
        depths = torch.where(self.depth_weights > 0, self.depths, 0.0)
        return replace(self, points=points, keypoints=keypoints, depths=depths)

    def with_depths(self, depths: Tensor, weights: Tensor) -> Observations:
        """The same observations with depths of the key points, from the lifter or from truth."""
        return replace(self, depths=depths, depth_weights=weights)


def no_points(batch: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, faces, barycentric and weights of people without dense correspondences."""
    return (
        like.new_zeros(batch, 1, 2),
        torch.zeros(batch, 1, dtype=torch.long, device=like.device),
        like.new_tensor([1.0, 0.0, 0.0]).expand(batch, 1, 3),
        like.new_zeros(batch, 1),
    )
