"""Joint names, named joint sets, and forward kinematics with segment scales.

Orders and parents: SMPL (Loper et al. 2015), Human3.6M's 17 joints as used by Martinez et al. 2017
(right leg first) and by SPIN (left leg first), and the public orders of `joint_orders`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.compiling import constant
from deformlearn.errors import InputError
from deformlearn.joint_orders import (
    BODY_25,
    COCO,
    KNEES,
    LSP,
    MPI_INF_3DHP,
    MPII,
    OPENPOSE_18,
    POSETRACK,
    TRUNKS,
    bones,
    mixture,
)

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
    facing: tuple[tuple[str, str], ...]
    """(from, to): pairs of key points whose vectors point where the person faces (for the lifter)."""
    bones: tuple[tuple[str, str], ...] = ()

    # Not cached: on Python 3.11 a cached property has a lock, at which torch.compile breaks a graph.
    @property
    def mirror(self) -> tuple[int, ...]:
        """Index of the key point with left and right exchanged."""
        return tuple(self.names.index(mirrored_name(name)) for name in self.names)

    @property
    def root_indices(self) -> tuple[int, ...]:
        return tuple(self.names.index(name) for name in self.root)

    def index(self, name: str) -> int:
        return self.names.index(name)

    def __len__(self) -> int:
        return len(self.names)


_ANNOTATED = {
    "head_top": "head_top",
    "thorax": "neck",
    "pelvis": "pelvis",
    "upper_neck": "head",  # where the skull begins
    "head_bottom": "head",
}
"""Landmarks of annotated points that are not an annotator's limb or face points (`coco_*`)."""

_SKELETAL = {"spine": "spine2", "thorax": "neck", "nose": "head", "head": "head_top"}
"""Landmarks of Human3.6M's joints that are called otherwise on the body."""


def _pairs(hyphenated: str) -> tuple[tuple[str, str], ...]:
    both = (item.split("-") for item in hyphenated.split())
    return tuple((start, end) for start, end in both)


def _joint_set(
    name: str, names: str, root: str, facing: str, landmarks: dict[str, str], bones: str = ""
) -> JointSet:
    listed = tuple(names.split())
    marked = tuple(landmarks.get(joint, joint) for joint in listed)
    return JointSet(name, listed, marked, tuple(root.split()), _pairs(facing), _pairs(bones))


def _annotated(
    name: str, names: str, root: str, facing: str, trunk: str, *, neck: str = "neck"
) -> JointSet:
    """Key points that people clicked, or that a network learnt from such."""
    known = {**_ANNOTATED, "neck": neck}
    marked = {joint: known.get(joint, f"coco_{joint}") for joint in names.split()}
    return _joint_set(name, names, root, facing, marked, bones(names.split(), trunk))


_HIPS = "left_hip right_hip"
_FACE = "left_ear-nose right_ear-nose"
_FEET = "left_ankle-left_foot right_ankle-right_foot"
_H36M = "spine thorax nose head left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist"
_H36M_BONES = (
    "pelvis-right_hip right_hip-right_knee right_knee-right_ankle pelvis-left_hip left_hip-left_knee "
    "left_knee-left_ankle pelvis-spine spine-thorax thorax-nose nose-head thorax-left_shoulder "
    "left_shoulder-left_elbow left_elbow-left_wrist thorax-right_shoulder "
    "right_shoulder-right_elbow right_elbow-right_wrist"
)
JOINT_SETS: dict[str, JointSet] = {
    joint_set.name: joint_set
    for joint_set in (
        _joint_set("smpl24", " ".join(SEGMENTS), "pelvis", _FEET, {}),
        _joint_set("skeleton25", " ".join([*SEGMENTS, "head_top"]), "pelvis", _FEET, {}),
        _joint_set(
            "h36m17",
            f"pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle {_H36M}",
            "pelvis",
            "thorax-nose",  # Kudo et al.'s facing direction
            _SKELETAL,
            _H36M_BONES,
        ),
        _joint_set(
            "h36m17_left_first",
            f"pelvis left_hip left_knee left_ankle right_hip right_knee right_ankle {_H36M}",
            "pelvis",
            "thorax-nose",
            _SKELETAL,
            _H36M_BONES,
        ),
        # Tracked by a skeleton, not clicked: its limbs are joints.
        _joint_set(
            "mpi_inf_3dhp17",
            MPI_INF_3DHP,
            "pelvis",
            f"neck-head {KNEES}",
            {"spine": "spine2"},
            bones(MPI_INF_3DHP.split(), TRUNKS["mpi_inf_3dhp17"]),
        ),
        _annotated("coco17", COCO, _HIPS, _FACE, TRUNKS["coco17"]),
        _annotated("lsp14", LSP, _HIPS, KNEES, TRUNKS["lsp14"]),
        _annotated("mpii16", MPII, "pelvis", f"thorax-upper_neck {KNEES}", TRUNKS["mpii16"]),
        # PoseTrack's ears are never labelled.
        _annotated(
            "posetrack17", POSETRACK, _HIPS, f"head_bottom-nose {KNEES}", TRUNKS["posetrack17"]
        ),
        _annotated("openpose18", OPENPOSE_18, _HIPS, _FACE, TRUNKS["openpose18"], neck="coco_neck"),
        _annotated("body25", BODY_25, "mid_hip", _FACE, TRUNKS["body25"], neck="coco_neck"),
    )
}
"""Every joint set known by name (docs/joint_sets.md shows them)."""


def joint_set(name: str) -> JointSet:
    """The joint set called `name`; an unknown name is an InputError that lists the known ones."""
    if name not in JOINT_SETS:
        raise InputError(f"unknown joint set {name!r}; known are {', '.join(JOINT_SETS)}")
    return JOINT_SETS[name]


def place(landmark: str) -> str:
    """Where on the body a landmark is, whoever marked it.

    An annotator's limb point stands for the joint beside it, the mean of their shoulders for the neck
    and the mean of their hips for the pelvis.
    """
    bare = landmark.removeprefix("coco_")
    return "pelvis" if bare == "mid_hip" else bare


def same_places(source: JointSet, target: JointSet) -> list[int]:
    """For each key point of `target`, the one of `source` at the same place of the body, or -1.

    Places, not names, are compared: "head" is the head's joint in one set and its top in another.
    """
    places = [place(landmark) for landmark in source.landmarks]
    wanted = [place(landmark) for landmark in target.landmarks]
    return [places.index(name) if name in places else -1 for name in wanted]


def convert_keypoints(
    keypoints: Float[Tensor, "batch source 2"],
    weights: Float[Tensor, "batch source"],
    source: JointSet,
    target: JointSet,
) -> tuple[Float[Tensor, "batch target 2"], Float[Tensor, "batch target"]]:
    """Key points of another joint set: the same places, and what can be made of them.

    A point is worth as much as the least of those it is made of, and 0 where one is missing.
    """
    places = [place(landmark) for landmark in source.landmarks]
    mixing = keypoints.new_zeros(len(target), len(source))
    for row, landmark in enumerate(target.landmarks):
        for part, share in mixture(place(landmark), places).items():
            mixing[row, places.index(part)] = share
    made = mixing.abs().sum(-1) > 0
    if not made.any():
        raise InputError(f"joint sets {source.name!r} and {target.name!r} have no place in common")
    needed = torch.where(mixing != 0, weights[:, None, :], torch.inf).amin(-1)
    return mixing @ keypoints, torch.where(made, needed, torch.zeros_like(needed))


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
    cross = cross_matrix(vector)
    outer = vector[..., :, None] * vector[..., None, :]
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    # K^2 = v v^T - |v|^2 I spares a product of matrices.
    return identity + sine * cross + cosine * (outer - squared[..., None, None] * identity)


def cross_matrix(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The matrix that multiplies as v x does."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def left_jacobian(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """How a rotation turns when its axis-angle vector moves: R(v + dv) = exp(J dv) R(v).

    Chirikjian, Stochastic Models, Information Theory, and Lie Groups 2, Eq. 10.86.
    """
    squared = vector.square().sum(-1)
    small = squared < 1e-6
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    first = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / safe)
    second = torch.where(small, 1 / 6 - squared / 120, (angle - angle.sin()) / (safe * angle))
    cross = cross_matrix(vector)
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    square = vector[..., :, None] * vector[..., None, :] - squared[..., None, None] * identity
    return identity + first[..., None, None] * cross + second[..., None, None] * square


class _Chain(torch.autograd.Function):
    """Forward kinematics with its gradient in closed form.

    A change of a joint's frame moves all its descendants rigidly, so every gradient is a sum over a
    subtree: one product with the 0/1 matrix of descendants replaces walking the tree backwards.
    """

    @staticmethod
    def forward(ctx, rotations: Tensor, offsets: Tensor, parents: tuple[int, ...]):
        tree = tree_of(parents, offsets.device)
        local = torch.cat([rotations, offsets[..., None]], -1)
        worlds = [local[:, tree.levels[0].joints]]
        for level in tree.levels[1:]:
            above = worlds[-1].index_select(1, level.above)
            turned = above[..., :3] @ local.index_select(1, level.joints)
            turned[..., 3] += above[..., 3]
            worlds.append(turned)
        world = torch.cat(worlds, 1).index_select(1, tree.order)
        ctx.save_for_backward(world)
        ctx.tree = tree
        return world

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (world,) = ctx.saved_tensors
        tree: Tree = ctx.tree
        rotation, position = world[..., :3], world[..., 3]
        # Moments about the origin and forces, summed over what hangs on each joint.
        moment = torch.einsum("bnij,bnkj->bnik", gradient, world)
        force = torch.cat([moment, gradient[..., 3:]], -1)
        force = torch.einsum("ij,bjk->bik", tree.descendants.to(force.dtype), force.flatten(-2))
        force = force.unflatten(-1, (3, 4))
        about_joint = force[..., :3] - force[..., 3:] * position[..., None, :]
        # The root has no parent: its local frame is the world's.
        identity = torch.eye(3, dtype=world.dtype, device=world.device)
        above = rotation.index_select(1, tree.parents)
        frame = torch.where(tree.is_root[:, None, None], identity, above)
        about_joint = torch.einsum("bnij,bnjk->bnik", about_joint, rotation)
        local = torch.einsum("bnji,bnjk->bnik", frame, torch.cat([about_joint, force[..., 3:]], -1))
        return local[..., :3], local[..., 3], None


@dataclass(frozen=True, eq=False)
class Level:
    """The joints at one depth of the tree, and where their parents are in the level above."""

    joints: Tensor
    above: Tensor


@dataclass(frozen=True, eq=False)
class Tree:
    """A kinematic tree as index tensors on one device."""

    levels: tuple[Level, ...]
    """From the root down."""
    order: Tensor
    """Undoes the order of the levels."""
    descendants: Tensor
    """(joints, joints) floats: 1 where the column's joint hangs on the row's, or is it."""
    parents: Tensor
    """Index of each joint's parent; 0 for the root."""
    is_root: Tensor


@constant
def tree_of(parents: tuple[int, ...], device: torch.device) -> Tree:
    """The index tensors of a tree, made once for each device."""
    depth = [0] * len(parents)
    descendants = torch.eye(len(parents))
    for joint, parent in enumerate(parents):
        if parent >= joint:
            raise ValueError(
                f"joint {joint} has parent {parent}; sort the joints so that parents come first"
            )
        if parent >= 0:
            depth[joint] = depth[parent] + 1
    for joint in reversed(range(len(parents))):
        if parents[joint] >= 0:
            descendants[parents[joint]] += descendants[joint]
    levels: list[Level] = []
    order: list[int] = []
    previous: list[int] = []
    for level in range(max(depth) + 1):
        joints = [joint for joint in range(len(parents)) if depth[joint] == level]
        above = [previous.index(parents[joint]) if level else 0 for joint in joints]
        levels.append(
            Level(torch.tensor(joints, device=device), torch.tensor(above, device=device))
        )
        order += joints
        previous = joints
    return Tree(
        levels=tuple(levels),
        order=torch.tensor(order, device=device).argsort(),
        descendants=descendants.to(device),
        parents=torch.tensor([max(parent, 0) for parent in parents], device=device),
        is_root=torch.tensor([parent < 0 for parent in parents], device=device),
    )


def forward_kinematics(
    rotations: Float[Tensor, "*batch joints 3 3"],
    offsets: Float[Tensor, "*batch joints 3"],
    parents: tuple[int, ...],
) -> Float[Tensor, "*batch joints 3 4"]:
    """World rotation and position of every joint from those relative to its parent.

    Rotations must be orthonormal: the gradient is exact for them and for nothing else.
    """
    batch = offsets.shape[:-2]
    joints = len(parents)
    world = _Chain.apply(
        rotations.reshape(-1, joints, 3, 3), offsets.reshape(-1, joints, 3), parents
    )
    return world.reshape(*batch, joints, 3, 4)
