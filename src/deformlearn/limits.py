"""Joint limits: how far each joint may turn, from the literature, for any rest pose.

What was chosen and why: docs/decisions/0004.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.skeleton import PARENTS, SEGMENTS

_SLACK = 10.0
"""Degrees added to both ends of every range: about one standard deviation between healthy people
(Norkin & White), and the price of stating ranges as components of a rotation vector."""

_FORWARD, _BACK = (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)
_UP, _DOWN = (0.0, 1.0, 0.0), (0.0, -1.0, 0.0)
_LEFT, _LEFT_UP, _RIGHT_DOWN = (1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (-1.0, -1.0, 0.0)

_RANGES = {
    # joint: (flexion moves the far end towards, abduction moves it towards,
    #         flexion, abduction, twist in degrees from the anatomical zero), for the left side.
    # Twist is about the bone, right-handed: internal rotation, pronation, eversion are positive.
    # AAOS: Joint Motion, American Academy of Orthopaedic Surgeons 1965, as tabled by
    # Norkin & White, Measurement of Joint Motion (5th ed. 2016). Kapandji: The Physiology of the
    # Joints (6th ed.). White & Panjabi: Clinical Biomechanics of the Spine (2nd ed. 1990).
    "hip": (_FORWARD, _LEFT, (-30, 120), (-30, 45), (-45, 45)),  # AAOS
    "knee": (_BACK, _LEFT, (0, 150), (0, 0), (-40, 30)),  # Kapandji: turns only when bent
    "ankle": (_UP, _LEFT, (-50, 30), (-20, 20), (-35, 15)),  # AAOS, Kapandji; positive is upwards
    "foot": (_DOWN, _LEFT, (-70, 45), (-5, 5), (0, 0)),  # AAOS, great toe
    "spine1": (_FORWARD, _LEFT, (-18, 30), (-10, 10), (-3, 3)),  # Kapandji: half the lumbar spine
    "spine2": (_FORWARD, _LEFT, (-18, 30), (-10, 10), (-3, 3)),  # the other half
    "spine3": (_FORWARD, _LEFT, (-25, 45), (-20, 20), (-35, 35)),  # Kapandji: thoracic spine
    "neck": (_FORWARD, _LEFT, (-50, 20), (-35, 35), (-40, 40)),  # Kapandji less the head's share
    "head": (_FORWARD, _LEFT, (-25, 20), (-10, 10), (-45, 45)),  # White & Panjabi: C0 to C2
    "collar": (_FORWARD, _UP, (-20, 20), (-10, 45), (-20, 50)),  # Kapandji, sternoclavicular
    "shoulder": (_FORWARD, _LEFT_UP, (-60, 180), (-50, 180), (-90, 70)),  # AAOS
    "elbow": (_FORWARD, _LEFT_UP, (0, 150), (0, 0), (-80, 80)),  # AAOS; twist is pronation
    "wrist": (_RIGHT_DOWN, _FORWARD, (-70, 80), (-30, 20), (0, 0)),  # AAOS; ulnar is negative
    "hand": (_RIGHT_DOWN, _FORWARD, (-45, 90), (-20, 20), (0, 0)),  # AAOS, finger knuckles
}

_ZERO_DIRECTION = {"hip": _DOWN, "shoulder": _DOWN, "knee": "hip", "elbow": "shoulder"}
"""Where a bone points in the anatomical position: a direction, or along its parent's bone. Joints
not listed are at their anatomical zero in any ordinary rest pose (standing, hands straight)."""


def joint_limits(
    joints: Float[Tensor, "24 3"],
) -> tuple[Float[Tensor, "23 3 3"], Float[Tensor, "23 3 2"]]:
    """Axes (rows: flexion, abduction, twist) and ranges (radians) of every joint but the root.

    `joints` are the rest positions of SMPL's 24 joints in template axes. The literature counts from
    the anatomical position; what a bent elbow or an A-pose already has at rest is subtracted.
    A mirrored joint has mirrored axes and the same ranges.
    """
    new = joints.new_tensor
    flip = new([-1.0, 1.0, 1.0])
    all_axes, all_ranges = [], []
    for segment in SEGMENTS[1:]:
        left = segment.replace("right_", "left_")
        joint = left.removeprefix("left_")
        side = -1 if segment.startswith("right_") else 1
        towards_flexion, towards_abduction, *ranges = _RANGES[joint]
        bone = _bone_direction(joints, segment)
        bone = bone * flip if side < 0 else bone  # every side is worked out as a left one
        flexion = _unit(torch.linalg.cross(bone, new(towards_flexion)))
        abduction = torch.linalg.cross(bone, flexion)
        if abduction @ torch.linalg.cross(bone, new(towards_abduction)) < 0:
            abduction = -abduction
        axes = torch.stack([flexion, abduction, bone])
        zero = _ZERO_DIRECTION.get(joint, bone)
        if isinstance(zero, str):
            parent = "left_" + zero if side > 0 else "right_" + zero
            zero = _bone_direction(joints, parent) * (1 if side > 0 else flip)
        at_rest = axes @ _rotation_between(torch.as_tensor(zero, dtype=bone.dtype), bone)
        at_rest[2] = 0  # directions cannot tell how far a bone is turned about itself
        slack = new([-_SLACK, _SLACK])
        all_ranges.append(torch.deg2rad(new(ranges) + slack) - at_rest[:, None])
        # Axes of rotation are pseudo-vectors: a reflection turns their other components round.
        all_axes.append(axes * -flip if side < 0 else axes)
    return torch.stack(all_axes), torch.stack(all_ranges)


def _unit(vector: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    return vector / vector.norm()


def _bone_direction(joints: Float[Tensor, "24 3"], segment: str) -> Float[Tensor, "3"]:
    """From a joint to its first child; a chain's last bone goes on as its parent does."""
    index = SEGMENTS.index(segment)
    start, end = (index, PARENTS.index(index)) if index in PARENTS else (PARENTS[index], index)
    return _unit(joints[end] - joints[start])


def _rotation_between(start: Float[Tensor, "3"], end: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """Rotation vector of the smallest turn that takes one direction to another."""
    axis = torch.linalg.cross(start, end)
    angle = torch.atan2(axis.norm(), start @ end)
    return axis / axis.norm().clamp_min(1e-12) * angle
