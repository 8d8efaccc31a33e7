"""The named points that data sets annotate, and where they are on a body that does not say.

Every template carries the same names (`NAMES`). Anny's are regressed from its surface by its own
data and SMPL's are known vertices; on any other rig `carry` puts them where they are on Anny,
measured from the joints in units of the body's own bones (docs/decisions/0012).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.body import BodyPoints
from deformlearn.skeleton import JOINT_SETS, PARENTS, SEGMENTS
from deformlearn.triangles import TriangleSearch

ANNOTATED = (
    *JOINT_SETS["coco17"].names,
    *(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel")),
)
"""What annotators mark: COCO's 17 key points and the feet of its foot annotations."""

_MIDDLES = {
    "neck": ("left_shoulder", "right_shoulder"),
    "mid_hip": ("left_hip", "right_hip"),
}

NAMES = (*SEGMENTS, "head_top", *(f"coco_{name}" for name in (*ANNOTATED, *_MIDDLES)))
"""Every landmark of a template, in order: its joints, the top of its head, what is annotated."""


def collect(
    joints: Float[Tensor, "24 3"], head_top: Float[Tensor, "3"], annotated: BodyPoints
) -> tuple[BodyPoints, tuple[str, ...]]:
    """All landmarks from the joints, the head's top and the points `ANNOTATED`, and their names."""
    segments = torch.eye(len(SEGMENTS), dtype=joints.dtype)
    pairs = torch.tensor([[ANNOTATED.index(name) for name in pair] for pair in _MIDDLES.values()])
    return BodyPoints(
        torch.cat([joints, head_top[None], annotated.rest, annotated.rest[pairs].mean(1)]),
        torch.cat(
            [
                segments,
                segments[[SEGMENTS.index("head")]],
                annotated.weights,
                annotated.weights[pairs].mean(1),
            ]
        ),
    ), NAMES


_CARRIED = {
    # (segment it is measured from, along the bone, sideways, forward: in bone lengths)
    "nose": ("head", 0.067, 0.000, 0.757),
    "eye": ("head", 0.277, 0.202, 0.608),
    "ear": ("head", 0.144, 0.499, 0.055),
    "shoulder": ("shoulder", -0.086, -0.023, -0.003),
    "elbow": ("shoulder", 0.938, 0.002, 0.033),
    "wrist": ("elbow", 0.988, 0.014, 0.023),
    "hip": ("hip", 0.051, 0.037, 0.043),
    "knee": ("hip", 1.010, -0.010, -0.012),
    "ankle": ("knee", 0.957, -0.010, -0.002),
    "big_toe": ("foot", 0.093, 0.101, 0.972),
    "small_toe": ("foot", 0.080, 0.353, 0.737),
    "heel": ("foot", 0.175, -0.006, -0.180),
}
"""Where Anny's annotated points are (left side and midline), in the frames below."""

_MOVED_BY = {
    "shoulder": {"shoulder": 0.5, "spine3": 0.3, "collar": 0.2},
    "elbow": {"shoulder": 0.5, "elbow": 0.5},
    "wrist": {"elbow": 0.5, "wrist": 0.5},
    "hip": {"pelvis": 0.5, "hip": 0.5},
    "knee": {"hip": 0.5, "knee": 0.5},
    "ankle": {"knee": 0.5, "ankle": 0.5},
    "big_toe": {"foot": 1.0}, "small_toe": {"foot": 1.0}, "heel": {"ankle": 1.0},
}  # fmt: skip
"""The segments that carry a point, about as on Anny; the head's points go with the head."""


def carry(
    joints: Float[np.ndarray, "24 3"],
    vertices: Float[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "f 3"],
    weights: Float[np.ndarray, "n 24"],
) -> tuple[BodyPoints, tuple[str, ...]]:
    """Anny's landmarks on another body: at the same place beside the same bone.

    Eyes and nose then move forward or back onto the face, ears, toes and heels to the nearest skin.
    """
    owner = weights.argmax(1)
    head = vertices[owner == SEGMENTS.index("head")]
    joint = joints[SEGMENTS.index("head")]
    highest = head[head[:, 1].argmax()] if len(head) else joint + np.array([0, 0.15, 0])
    top = np.array([joint[0], highest[1], highest[2]])
    points, shares = [], []
    for name in ANNOTATED:
        side = -1.0 if name.startswith("right_") else 1.0
        part = name.removeprefix("left_").removeprefix("right_")
        segment, along, sideways, forward = _CARRIED[part]
        carriers = _MOVED_BY.get(part, {"head": 1.0})
        skin = vertices[faces[np.isin(owner[faces[:, 0]], _skin_of(segment, side))]]
        if segment == "foot":
            origin, frame = _foot_frame(joints, skin.reshape(-1, 3), side)
        else:
            origin, frame = _frame(joints, top, segment, side)
        point = origin + np.array([sideways, along, forward]) @ frame
        if part in ("nose", "eye"):
            point = _onto_the_face(point, skin)
        elif part in ("ear", "big_toe", "small_toe", "heel"):
            point = _onto_the_skin(point, skin)
        points.append(point)
        share = np.zeros(len(SEGMENTS))
        for carrier, part_of_it in carriers.items():
            share[_index(carrier, side)] = part_of_it
        shares.append(share)
    annotated = BodyPoints(torch.from_numpy(np.stack(points)), torch.from_numpy(np.stack(shares)))
    return collect(torch.from_numpy(joints), torch.from_numpy(top), annotated)


def _skin_of(segment: str, side: float) -> list[int]:
    """The segments whose skin a landmark of `segment` lies on."""
    names = ("ankle", "foot") if segment == "foot" else (segment,)
    return [_index(name, side) for name in names]


def _index(segment: str, side: float) -> int:
    sided = ("left_" if side > 0 else "right_") + segment
    return SEGMENTS.index(sided if sided in SEGMENTS else segment)


def _frame(
    joints: Float[np.ndarray, "24 3"], top: Float[np.ndarray, "3"], segment: str, side: float
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
    """Origin of a segment's bone, and its axes: outward, along the bone, forward.

    Each row is as long as the bone. The head's goes straight up to the height of its top.
    """
    index = _index(segment, side)
    origin = joints[index]
    if segment == "head":
        bone = np.array([0, top[1] - origin[1], 0])
    else:
        bone = joints[PARENTS.index(index)] - origin
    length = max(float(np.linalg.norm(bone)), 1e-9)
    along = bone / length
    third = np.array([0.0, 0.0, 1.0] if abs(along[2]) < 0.9 else [0.0, 1.0, 0.0])
    third = third - (third @ along) * along
    third = third / np.linalg.norm(third)
    return origin, length * np.stack([side * np.cross(along, third), along, third])


def _foot_frame(
    joints: Float[np.ndarray, "24 3"], skin: Float[np.ndarray, "n 3"], side: float
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
    """The point of the sole below the ankle, and axes outward, up, forward.

    Each is as long as the foot is from the ankle to the tip of its toes: where the toes' joint is
    on that way, rigs do not agree.
    """
    ankle, toes = joints[_index("ankle", side)], joints[_index("foot", side)]
    forward = (toes - ankle) * [1, 0, 1]
    if forward[2] < 0.5 * np.linalg.norm(toes - ankle):
        forward = np.array([0.0, 0.0, 1.0])
    forward = forward / np.linalg.norm(forward)
    up = np.array([0.0, 1.0, 0.0])
    origin, length = ankle.copy(), 2 * float(ankle[1] - toes[1])
    if len(skin):
        origin[1] = skin[:, 1].min()
        length = ((skin - ankle) @ forward).max()
    axes = np.stack([side * np.cross(up, forward), up, forward])
    return origin, max(float(length), 1e-3) * axes


def _onto_the_skin(
    point: Float[np.ndarray, "3"], triangles: Float[np.ndarray, "f 3 3"]
) -> Float[np.ndarray, "3"]:
    """The nearest point of some triangles; the point itself where there are none."""
    if not len(triangles):
        return point
    face, barycentric, _ = TriangleSearch(triangles).nearest(point[None])
    return barycentric[0] @ triangles[face[0]]


def _onto_the_face(
    point: Float[np.ndarray, "3"], triangles: Float[np.ndarray, "f 3 3"]
) -> Float[np.ndarray, "3"]:
    """The foremost skin straight before or behind a point; the nearest where there is none."""
    a, b, c = (triangles[:, corner, :2] for corner in range(3))
    cross = lambda u, v: u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]  # noqa: E731 (a sign)
    area = cross(b - a, c - a)
    solid = np.abs(area) > 1e-12
    area = np.where(solid, area, 1)
    p = point[None, :2]
    v, w = cross(p - a, c - a) / area, cross(b - a, p - a) / area
    hit = solid & (v >= 0) & (w >= 0) & (v + w <= 1)
    if not hit.any():
        return _onto_the_skin(point, triangles)
    depth = triangles[:, 0, 2] * (1 - v - w) + triangles[:, 1, 2] * v + triangles[:, 2, 2] * w
    return np.array([point[0], point[1], depth[hit].max()])
