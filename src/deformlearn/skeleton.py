"""Joint names, named joint sets, and forward kinematics with segment scales.

Orders and parents: SMPL (Loper et al. 2015), COCO (Lin et al. 2014), Human3.6M's 17 joints as used by
Martinez et al. 2017 (right leg first) and by SPIN (left leg first), LSP, MPII and OpenPose BODY_25.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

SEGMENTS = (
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 "
    "left_foot right_foot neck left_collar right_collar head left_shoulder right_shoulder "
    "left_elbow right_elbow left_wrist right_wrist left_hand right_hand"
).split()
"""The 24 segments of the body, named by the joint each begins at, in SMPL's order."""

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
"""Parent of each segment; -1 for the root."""


def mirrored_name(name: str) -> str:
    """The name of the same thing on the other side of the body."""
    for side, other in (("left_", "right_"), ("right_", "left_")):
        if side in name:
            return name.replace(side, other)
    return name


@dataclass(frozen=True)
class JointSet:
    """A data set's key points: names in order, what they are on our body, and where the root is.

    `landmarks[i]` is the name of the template landmark that key point i marks. Data sets disagree on
    where a hip is: COCO's annotators click a point on the outside, a skeleton has it inside. So
    annotated hips, shoulders, ... are landmarks of their own (`coco_left_hip`), never the joints.
    """

    name: str
    names: tuple[str, ...]
    landmarks: tuple[str, ...]
    root: tuple[str, ...]
    """Depths are relative to the mean of these key points."""
    facing: tuple[str, str]
    """From, to: a pair of key points that tells where the person faces (the lifter's heuristic)."""
    bones: tuple[tuple[str, str], ...] = ()

    @cached_property
    def mirror(self) -> tuple[int, ...]:
        """Index of the key point with left and right exchanged."""
        return tuple(self.names.index(mirrored_name(name)) for name in self.names)

    @cached_property
    def root_indices(self) -> tuple[int, ...]:
        return tuple(self.names.index(name) for name in self.root)

    def index(self, name: str) -> int:
        return self.names.index(name)

    def __len__(self) -> int:
        return len(self.names)


def _joint_set(
    name: str, names: str, *, root: str, facing: str, prefix: str = "", **rest
) -> JointSet:
    listed = tuple(names.split())
    landmarks = tuple(prefix + rest.get(joint, joint) for joint in listed)
    start, end = facing.split()
    return JointSet(name, listed, landmarks, tuple(root.split()), (start, end))


_H36M_ALIASES = {"spine": "spine2", "thorax": "neck", "nose": "head", "head": "head_top"}
_H36M_BONES = tuple(
    tuple(bone.split("-"))
    for bone in (
        "pelvis-right_hip right_hip-right_knee right_knee-right_ankle pelvis-left_hip left_hip-left_knee "
        "left_knee-left_ankle pelvis-spine spine-thorax thorax-nose nose-head thorax-left_shoulder "
        "left_shoulder-left_elbow left_elbow-left_wrist thorax-right_shoulder "
        "right_shoulder-right_elbow right_elbow-right_wrist"
    ).split()
)


def _h36m(name: str, names: str) -> JointSet:
    listed = tuple(names.split())
    landmarks = tuple(_H36M_ALIASES.get(joint, joint) for joint in listed)
    # Kudo et al. take nose - thorax as the facing direction.
    return JointSet(name, listed, landmarks, ("pelvis",), ("thorax", "nose"), _H36M_BONES)


_COCO_HEAD = "nose left_eye right_eye left_ear right_ear"
_COCO = (
    f"{_COCO_HEAD} left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
    "left_hip right_hip left_knee right_knee left_ankle right_ankle"
)

JOINT_SETS: dict[str, JointSet] = {
    joint_set.name: joint_set
    for joint_set in (
        _joint_set("smpl24", " ".join(SEGMENTS), root="pelvis", facing="neck head"),
        _h36m(
            "h36m17",
            "pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine thorax nose "
            "head left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist",
        ),
        _h36m(
            "h36m17_left_first",
            "pelvis left_hip left_knee left_ankle right_hip right_knee right_ankle spine thorax nose "
            "head left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist",
        ),
        _joint_set(
            "coco17", _COCO, root="left_hip right_hip", facing="left_ear nose", prefix="coco_"
        ),
    )
}
"""Every joint set known by name."""


def joint_set(name: str) -> JointSet:
    """The joint set called `name`; an unknown name is a ValueError that lists the known ones."""
    if name not in JOINT_SETS:
        raise ValueError(f"unknown joint set {name!r}; known are {', '.join(JOINT_SETS)}")
    return JOINT_SETS[name]


def rotation_from_axis_angle(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of an axis-angle vector in radians (Rodrigues).

    Smooth at zero: the square of the angle is what enters, so the gradient there is exact.
    """
    squared = vector.square().sum(-1)
    small = squared < 1e-8
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    sine = torch.where(small, 1 - squared / 6, angle.sin() / angle)[..., None, None]
    cosine = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / safe)[..., None, None]
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    outer = vector[..., :, None] * vector[..., None, :]
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    # K^2 = v v^T - |v|^2 I spares a product of matrices.
    return identity + sine * cross + cosine * (outer - squared[..., None, None] * identity)


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """Product of many small matrices; elementwise beats a batched GEMM at this size."""
    return (left[..., :, :, None] * right[..., None, :, :]).sum(-2)


def forward_kinematics(
    rotations: Float[Tensor, "*batch joints 3 3"],
    offsets: Float[Tensor, "*batch joints 3"],
    parents: tuple[int, ...],
) -> tuple[Float[Tensor, "*batch joints 3 3"], Float[Tensor, "*batch joints 3"]]:
    """World rotation and position of every joint from rotations and offsets relative to the parent.

    Chains are composed by pointer doubling: after k steps every joint holds the product over its
    2^k nearest ancestors, so 9 joints deep take 4 products over all joints instead of 23 in a row.
    """
    count = len(parents)
    transforms = torch.cat([rotations, offsets[..., None]], -1)
    identity = torch.eye(3, 4, dtype=offsets.dtype, device=offsets.device)
    identity = identity.expand(*offsets.shape[:-2], 1, 3, 4)
    ancestors = [count if parent < 0 else parent for parent in parents] + [count]
    while any(ancestor != count for ancestor in ancestors):
        index = torch.tensor(ancestors[:count], device=offsets.device)
        above = torch.cat([transforms, identity], -3).index_select(-3, index)
        turned = _multiply(above[..., :3], transforms)
        transforms = torch.cat([turned[..., :3], turned[..., 3:] + above[..., 3:]], -1)
        ancestors = [ancestors[a] if a < count else count for a in ancestors]
    return transforms[..., :3], transforms[..., 3]
