"""Parts of a body of which an image says nothing: there a fit is the template's own shape at rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.observations import Observations
from deformlearn.skeleton import SEGMENTS
from deformlearn.tensors import fixed

_LIMBS = tuple(f"{side} {limb}" for side in ("left", "right") for limb in ("arm", "leg"))
PARTS = ("head", "trunk", *(f"{half} {limb}" for limb in _LIMBS for half in ("upper", "lower")))
"""What is told apart; a hand is of the lower arm, a foot of the lower leg."""

_OF_SEGMENT = {
    "head": "head",
    **{
        f"{side}_{joint}": f"{half} {side} {limb}"
        for side in ("left", "right")
        for limb, half, joints in (
            ("arm", "upper", ("shoulder",)),
            ("arm", "lower", ("elbow", "wrist", "hand")),
            ("leg", "upper", ("hip",)),
            ("leg", "lower", ("knee", "ankle", "foot")),
        )
        for joint in joints
    },
}
"""The part that a segment is of, named by the joint it begins at; all others are of the trunk."""

_OF_KEYPOINT = {
    **dict.fromkeys(("head", "head_top", "nose", "left_eye", "right_eye"), "head"),
    **dict.fromkeys(("left_ear", "right_ear"), "head"),
    **{
        f"{side}_{joint}": f"{half} {side} {limb}"
        for side in ("left", "right")
        for limb, half, joints in (
            ("arm", "upper", ("elbow",)),
            ("arm", "lower", ("wrist", "hand")),
            ("leg", "upper", ("knee",)),
            ("leg", "lower", ("ankle", "foot", "heel", "big_toe", "small_toe")),
        )
        for joint in joints
    },
}
"""The part that a key point is the far end of: its near end says nothing of where a limb goes."""


def unseen_parts(
    template: BodyTemplate, observations: Observations
) -> Bool[Tensor, "people parts"]:
    """For each of `PARTS`, whether neither a correspondence nor a key point is on it."""
    device = template.vertices.device
    owner = template.weights[template.faces].sum(1).argmax(1)
    of_face = fixed(_numbers(SEGMENTS, _OF_SEGMENT), device)[owner]
    landmarks = [name.removeprefix("coco_") for name in observations.joint_set.landmarks]
    of_keypoint = fixed(_numbers(landmarks, _OF_KEYPOINT), device)
    seen = torch.zeros(len(observations), len(PARTS), device=device)
    points, keypoints = (
        (weights > 0).to(seen)
        for weights in (observations.point_weights, observations.keypoint_weights)
    )
    seen.scatter_add_(1, of_face[observations.faces], points)
    seen.scatter_add_(1, of_keypoint.expand(len(seen), -1), keypoints)
    return seen == 0


def with_unseen(flags: Sequence[str], unseen: Bool[Tensor, "people parts"]) -> list[str]:
    """The flags of fits, with the parts that nobody saw; of whom nothing was seen says so already."""
    bits = unseen.cpu().numpy() @ (1 << np.arange(len(PARTS)))
    words = {number: _words(number) for number in np.unique(bits).tolist()}
    together = list(flags)
    for row in np.flatnonzero((bits > 0) & (bits < (1 << len(PARTS)) - 1)).tolist():
        known = [] if flags[row] == "ok" else [flags[row]]
        together[row] = "; ".join([*known, *words[bits[row]]])
    return together


def _words(number: int) -> list[str]:
    """The parts whose bits are set; a limb of which both halves are is one."""
    names = {part for bit, part in enumerate(PARTS) if number >> bit & 1}
    for limb in _LIMBS:
        halves = {f"upper {limb}", f"lower {limb}"}
        if halves <= names:
            names = names - halves | {limb}
    order = dict(zip(PARTS, range(len(PARTS)), strict=True))
    order |= {limb: order[f"upper {limb}"] for limb in _LIMBS}
    return [f"{name} not seen" for name in sorted(names, key=order.__getitem__)]


def _numbers(names: Sequence[str], parts: dict[str, str]) -> tuple[int, ...]:
    return tuple(PARTS.index(parts.get(name, "trunk")) for name in names)
