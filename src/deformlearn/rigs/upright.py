"""A rig made to stand: y up, facing +z, its left at +x, in metres.

A file's axes and units are not to be trusted, so they are read from the person: the head is above the
feet, the feet point forward, a person is between 1.2 and 2.5 metres tall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from deformlearn.errors import InputError
from deformlearn.rigs.rig import Found, Rig
from deformlearn.rigs.shape import feet_forward
from deformlearn.skeleton import SEGMENTS, mirrored_name

UNITS = {
    1.0: "metres", 0.01: "centimetres", 0.0254: "inches", 0.001: "millimetres", 0.1: "decimetres",
    0.3048: "feet", 100.0: "hundreds of metres", 10.0: "tens of metres",
}  # fmt: skip
"""Metres in a unit, likeliest first."""

_SHORTEST, _TALLEST = 1.2, 2.5
"""How tall a person is (metres)."""

_SMALL, _LARGE = 0.5, 3.0
"""How tall a figure may be whose file is in metres, as glTF wants: children and giants."""

_SNAP = 25.0
"""Degrees within which a body stands along the axes of its file."""

_PAIRS = ("hip", "knee", "shoulder", "elbow")


def upright(rig: Rig, found: Sequence[Found]) -> tuple[Rig, tuple[Found, ...]]:
    """The rig in our axes and metres, and its segments with left and right as the body has them.

    What was changed is added to the rig's notes. A body whose legs do not go on from its back is
    not a standing person, and an InputError.
    """
    places = {f.segment: rig.joints[rig.bones.index(f.bones[0])] for f in found if f.bones}
    notes = list(rig.notes)
    middle = {
        joint: (places[f"left_{joint}"] + places[f"right_{joint}"]) / 2
        for joint in (*_PAIRS, "ankle")
        if f"left_{joint}" in places and f"right_{joint}" in places
    }
    top = places.get("head", places.get("neck", middle["shoulder"]))
    feet = middle.get("ankle", middle["knee"])
    _refuse_animals(rig, back=middle["shoulder"] - middle["hip"], legs=feet - middle["hip"])
    up = _snapped(_unit(top - feet))
    left = sum(places[f"left_{joint}"] - places[f"right_{joint}"] for joint in _PAIRS)
    left = _unit(left - (left @ up) * up)
    left = _snapped(left) if np.isin(up, (-1, 0, 1)).all() else left
    forward = np.cross(left, up)
    pointing = feet_forward(rig, _feet(rig, found), up) @ forward
    height = np.ptp(rig.vertices @ up)
    if not 1e-6 < height < 1e9:
        raise InputError(f"{rig.name} is {height:.3g} tall in its own units; export it again")
    if pointing < -0.01 * height:
        notes.append("left and right exchanged: the feet point the other way than the names say")
        found = [replace(f, segment=mirrored_name(f.segment)) for f in found]
        left, forward = -left, -forward
    elif pointing < 0.005 * height:
        notes.append("the feet point nowhere: which way it faces is taken from left and right")
    turn = np.stack([left, up, forward])
    if not np.isin(turn, (-1, 0, 1)).all():
        notes.append("stands askew to the axes of its file: turned upright and to the front")
    elif not np.array_equal(turn, np.eye(3)):
        axes = [_axis_name(row) for row in turn]
        notes.append(f"axes: the file's {axes[1]} is up, {axes[2]} is forward, {axes[0]} its left")
    vertices, joints = rig.vertices @ turn.T, rig.joints @ turn.T
    factor, said = _unit_of(np.ptp(vertices[:, 1]))
    notes += said
    vertices, joints = vertices * factor, joints * factor
    aside = factor * float((turn @ middle["hip"])[0])
    if abs(aside) > 0.02:
        notes.append(f"stood {aside:+.2f} m beside the middle: moved there")
        vertices, joints = vertices - [aside, 0, 0], joints - [aside, 0, 0]
    stood = replace(rig, vertices=vertices, joints=joints, notes=tuple(notes))
    return stood, tuple(sorted(found, key=lambda f: SEGMENTS.index(f.segment)))


def _refuse_animals(rig: Rig, back: Float[np.ndarray, "3"], legs: Float[np.ndarray, "3"]) -> None:
    cosine = back @ legs / max(np.linalg.norm(back) * np.linalg.norm(legs), 1e-12)
    if cosine > -0.5:
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        raise InputError(
            f"{rig.name} is no standing person: its back and legs meet at {angle:.0f} degrees "
            f"(180 is upright); an animal on four legs, or a seated figure, cannot be a template"
        )


def _feet(rig: Rig, found: Sequence[Found]) -> dict[int, int]:
    """Bone of each ankle -> bone of its toes, or the ankle's again."""
    bones = {f.segment: rig.bones.index(f.bones[0]) for f in found if f.bones}
    ankles = {
        side: bones[f"{side}_ankle"] for side in ("left", "right") if f"{side}_ankle" in bones
    }
    return {ankle: bones.get(f"{side}_foot", ankle) for side, ankle in ankles.items()}


def _unit_of(height: float) -> tuple[float, list[str]]:
    """Metres in the file's unit, and what is to be said about it."""
    if _SMALL <= height <= _LARGE:
        usual = _SHORTEST <= height <= _TALLEST
        return 1.0, [] if usual else [f"{height:.2f} m tall, which is unusual; taken as it is"]
    for factor, unit in UNITS.items():
        if _SHORTEST <= height * factor <= _TALLEST:
            return factor, [f"units: {height:.4g} tall in the file, taken as {unit}"]
    return 1.7 / height, [
        f"units: {height:.4g} tall in the file, a person's height in no unit; made 1.70 m"
    ]


def _unit(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    return vector / max(np.linalg.norm(vector), 1e-12)


def _snapped(direction: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """The axis of the file nearest to a direction; the direction itself where none is near."""
    axis = np.zeros(3)
    axis[np.abs(direction).argmax()] = np.sign(direction[np.abs(direction).argmax()])
    return axis if direction @ axis > np.cos(np.radians(_SNAP)) else direction


def _axis_name(row: Float[np.ndarray, "3"]) -> str:
    axis = int(np.abs(row).argmax())
    return ("+" if row[axis] > 0 else "-") + "xyz"[axis]
