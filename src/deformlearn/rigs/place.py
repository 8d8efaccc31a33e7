"""Joints that a rig does not have, placed as on an ordinary person, and skin for them to move.

Where a rig has one bone we may want two. The joint between is placed by proportions (Anny's, 0012),
and the skin of the one bone is shared out: what lies beyond the joint moves with the new segment.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float

from deformlearn.rigs.mapping import SPINE_HEIGHTS
from deformlearn.skeleton import PARENTS, SEGMENTS

Joints = dict[str, Float[np.ndarray, "3"]]

# Anny's proportions.
_ANKLE_TO_TOES = 0.72
"""How far forward from the ankle to the tip of the toes the toes begin;"""
_TOES_HEIGHT = 0.38
"""and how high, with the ankle at 1 and the sole at 0."""
_ANKLE_DOWN = 0.85
"""How far from the knee to the sole the ankle is."""
_WRIST_ALONG = 0.56
"""How far from the elbow to the fingertips the wrist is;"""
_KNUCKLES_ALONG = 0.55
"""and from the wrist to the fingertips, the knuckles."""
_NECK_UP = 0.48
"""How far from between the shoulders to the head's joint the neck begins;"""
_HEAD_UP = 0.41
"""and from the neck's joint to the top of the head, the head's."""
_COLLAR_OUT, _COLLAR_UP = 0.13, 0.24
"""Where a collar bone begins: out towards the shoulder, and up from the shoulders to the neck."""


def placed(
    joints: Joints, vertices: Float[np.ndarray, "n 3"], weights: Float[np.ndarray, "n 24"]
) -> Joints:
    """All 24 joints: those given, and the missing ones where a person has them.

    `weights` are those of the segments that there are. Hips, knees, shoulders and elbows must be.
    """
    joints = dict(joints)
    owner = weights.argmax(1)

    def skin(*segments: str) -> Float[np.ndarray, "few 3"]:
        return vertices[np.isin(owner, [SEGMENTS.index(name) for name in segments])]

    shoulders = (joints["left_shoulder"] + joints["right_shoulder"]) / 2
    joints.setdefault("pelvis", (joints["left_hip"] + joints["right_hip"]) / 2)
    for side in ("left_", "right_"):
        _place_leg(joints, side, skin(*(side + s for s in ("knee", "ankle", "foot"))))
        _place_arm(joints, side, skin(*(side + s for s in ("elbow", "wrist", "hand"))))
    if "neck" not in joints:
        head = joints.get("head")
        end = (
            _highest(skin("spine3", "spine2", "spine1", "pelvis"), shoulders)
            if head is None
            else head
        )
        joints["neck"] = shoulders + _NECK_UP * (end - shoulders)
    if "head" not in joints:
        top = _highest(skin("neck", "head"), joints["neck"])
        joints["head"] = joints["neck"] + _HEAD_UP * (top - joints["neck"])
    _place_spine(joints)
    for side in ("left_", "right_"):
        out = joints[side + "shoulder"] - shoulders
        base = shoulders + _COLLAR_OUT * out + _COLLAR_UP * (joints["neck"] - shoulders)
        joints.setdefault(side + "collar", base)
    return joints


def share_skin(
    weights: Float[np.ndarray, "n 24"],
    vertices: Float[np.ndarray, "n 3"],
    joints: Float[np.ndarray, "24 3"],
    added: Collection[str],
) -> Float[np.ndarray, "n 24"]:
    """Weights in which placed segments move the skin beyond their joints.

    Each takes from its parent, smoothly about the joint; sums stay what they were.
    """
    weights = weights.copy()
    for index, segment in enumerate(SEGMENTS):  # parents come first: a row of new joints shares on
        if segment not in added or index == 0:
            continue
        parent = PARENTS[index]
        child = PARENTS.index(index) if index in PARENTS else -1
        before = joints[index] - joints[parent]
        along = joints[child] - joints[index] if child >= 0 else before
        if segment.endswith("collar"):
            before = along  # the chest does not lead to the collar bone
        length = max(float(np.linalg.norm(along)), 1e-9)
        from_joint = vertices - joints[index]
        width = 0.5 * min(length, max(float(np.linalg.norm(before)), 1e-9))
        ramp = np.clip(from_joint @ (along / length) / width + 0.5, 0, 1)
        share = ramp * ramp * (3 - 2 * ramp)
        if segment.endswith("collar"):
            away = _distance_to_bone(vertices, joints[index], joints[child])
            share *= np.clip(2 - away / (0.6 * length), 0, 1)
        moved = weights[:, parent] * share
        weights[:, index] += moved
        weights[:, parent] -= moved
    return weights


def _place_leg(joints: Joints, side: str, skin: Float[np.ndarray, "few 3"]) -> None:
    hip, knee = joints[side + "hip"], joints[side + "knee"]
    thigh = float(np.linalg.norm(knee - hip))
    sole = skin[:, 1].min() if len(skin) else knee[1] - 1.2 * thigh
    if side + "ankle" not in joints:
        # A knee that is bent at rest points forward; the shank then goes back down.
        down = (knee - hip) / thigh * [1, 1, 0]
        length = _ANKLE_DOWN * (knee[1] - sole) / max(-down[1], 0.5)
        joints[side + "ankle"] = knee + length * down
    ankle = joints[side + "ankle"]
    tip = skin[skin[:, 2].argmax()] if len(skin) else ankle + np.array([0, 0, 0.45 * thigh])
    toes = ankle + _ANKLE_TO_TOES * (tip - ankle)
    toes[1] = sole + _TOES_HEIGHT * (ankle[1] - sole)
    joints.setdefault(side + "foot", toes)


def _place_arm(joints: Joints, side: str, skin: Float[np.ndarray, "few 3"]) -> None:
    shoulder, elbow = joints[side + "shoulder"], joints[side + "elbow"]
    if side + "wrist" not in joints:
        joints[side + "wrist"] = elbow + _WRIST_ALONG * (_farthest(skin, elbow, shoulder) - elbow)
    wrist = joints[side + "wrist"]
    tip = _farthest(skin, wrist, elbow)
    joints.setdefault(side + "hand", wrist + _KNUCKLES_ALONG * (tip - wrist))


def _place_spine(joints: Joints) -> None:
    """Spine joints between their known neighbours, by height."""
    known = {"pelvis": 0.0, **SPINE_HEIGHTS, "neck": 1.0}
    for name, height in SPINE_HEIGHTS.items():
        if name in joints:
            continue
        low = max((s for s in known if s in joints and known[s] < height), key=known.__getitem__)
        high = min((s for s in known if s in joints and known[s] > height), key=known.__getitem__)
        along = (height - known[low]) / (known[high] - known[low])
        joints[name] = joints[low] + along * (joints[high] - joints[low])


def _farthest(
    points: Float[np.ndarray, "few 3"],
    start: Float[np.ndarray, "3"],
    before: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "3"]:
    """The point farthest on in the direction of a bone; half a bone on where there is none."""
    bone = start - before
    if not len(points):
        return start + bone / 2
    along = (points - start) @ bone
    return points[along.argmax()] if along.max() > 0 else start + bone / 2


def _highest(points: Sequence[np.ndarray] | np.ndarray, start: np.ndarray) -> np.ndarray:
    """Straight above `start`, as high as the highest point."""
    top = max((float(point[1]) for point in points), default=float(start[1]) + 0.25)
    return np.array([start[0], max(top, start[1] + 1e-3), start[2]])


def _distance_to_bone(
    points: Float[np.ndarray, "n 3"], start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "n"]:
    bone = end - start
    along = np.clip((points - start) @ bone / max(bone @ bone, 1e-12), 0, 1)
    return np.linalg.norm(points - start - along[:, None] * bone, axis=1)
