"""Rotations of single bones in NumPy, and how two bones and a hinge reach a point.

Template axes (y up, facing +z, the person's left at +x); right-handed; metres. These run some hundred
times a person on single vectors, where plain arithmetic is several times faster than NumPy's general
functions.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

Degrees = float | int

LEFT, UP, FORWARD = np.eye(3)


def cross(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, "3"]:
    """Cross product of two vectors; NumPy's own takes ten times as long for a single one."""
    a, b, c = first.tolist()
    d, e, f = second.tolist()
    return np.array([b * f - c * e, c * d - a * f, a * e - b * d])


def length(vector: np.ndarray) -> float:
    """Length of a single vector (NumPy's norm is made for many)."""
    return math.sqrt(float(vector @ vector))


def about(axis: np.ndarray, degrees: Degrees) -> Float[np.ndarray, "3 3"]:
    """Rotation about a unit axis."""
    return rotation(np.asarray(axis) * np.deg2rad(degrees))


def euler(flexion: Degrees, side: Degrees, twist: Degrees) -> Float[np.ndarray, "3 3"]:
    """Rotation that bends forward, bends to the left and turns to the left (degrees)."""
    return about(UP, twist) @ about(FORWARD, -side) @ about(LEFT, flexion)


def rotation(vector: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of a rotation vector (Rodrigues)."""
    angle = length(vector)
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = (vector / angle).tolist()
    sine, rest = math.sin(angle), 1 - math.cos(angle)
    return np.array(
        [
            [1 - rest * (y * y + z * z), rest * x * y - sine * z, rest * x * z + sine * y],
            [rest * x * y + sine * z, 1 - rest * (x * x + z * z), rest * y * z - sine * x],
            [rest * x * z - sine * y, rest * y * z + sine * x, 1 - rest * (x * x + y * y)],
        ]
    )


def rotation_vector(matrix: np.ndarray) -> Float[np.ndarray, "3"]:
    """Rotation vector of a rotation matrix (angles below 180 degrees)."""
    cosine = (matrix[0, 0] + matrix[1, 1] + matrix[2, 2] - 1) / 2
    angle = math.acos(min(1.0, max(-1.0, cosine)))
    odd = np.array(
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
    )
    size = length(odd)
    return odd * (angle / size) if size > 1e-9 else np.zeros(3)


def between(start: np.ndarray, end: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation that takes one direction to another."""
    axis = cross(start, end)
    size = length(axis)
    if size < 1e-9:
        return np.eye(3)
    return rotation(axis / size * np.arctan2(size, start @ end))


def bend_towards(
    upper: np.ndarray, lower: np.ndarray, hinge: np.ndarray, goal: np.ndarray, towards: np.ndarray
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3 3"]]:
    """Two bones and a hinge that end at `goal`: the hinge's rotation and the upper bone's world one.

    Positive rotation about the hinge flexes. Of all poses that reach the goal this is the one whose
    middle joint points `towards`. A goal out of reach is approached as far as a limb can stretch.
    """
    hinge = hinge / length(hinge)
    # |upper + R(angle) lower|^2 = constant + 2 (a cos(angle) + b sin(angle)).
    across = (hinge @ upper) * (hinge @ lower)
    a, b = upper @ lower - across, upper @ cross(hinge, lower)
    constant = upper @ upper + lower @ lower + 2 * across
    cosine = (goal @ goal - constant) / (2 * np.hypot(a, b))
    straight = np.arctan2(b, a)
    # 2 degrees from straight, 150 from it: what elbows and knees do.
    flexion = np.clip(np.arccos(np.clip(cosine, -1, 1)), np.deg2rad(2), np.deg2rad(150))
    bent = rotation(hinge * (straight + flexion))
    limb = upper + bent @ lower
    along, goal_along = limb / length(limb), goal / max(length(goal), 1e-9)
    own = _frame(along, cross(along, hinge))
    wanted = _frame(goal_along, towards)
    return bent, wanted @ own.T


def _frame(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Columns: `first`, the part of `second` square to it, and their cross product."""
    second = second - (first @ second) * first
    size = length(second)
    if size < 1e-6:  # the limb points where its middle joint should: any direction will do
        second = cross(first, LEFT if abs(first[0]) < 0.9 else UP)
        size = length(second)
    second = second / size
    return np.stack([first, second, cross(first, second)], 1)
