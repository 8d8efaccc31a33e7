"""A rigged mesh as its file has it, and the report of what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from deformlearn.errors import InputError

_OFF = 4.1 / 255
"""How far from one a sum of weights is still said to be one."""


@dataclass(frozen=True, eq=False)
class Rig:
    """A mesh at rest and the bones that move it, in the units and axes of its file."""

    name: str
    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    bones: tuple[str, ...]
    """Names, each once."""
    parents: tuple[int, ...]
    """Index of each bone's parent, which comes before it; -1 for a root."""
    joints: Float[np.ndarray, "bones 3"]
    """Where each bone begins."""
    influences: Int[np.ndarray, "vertices few"]
    """The bones that move each vertex, and by how much:"""
    weights: Float[np.ndarray, "vertices few"]
    declared: Mapping[str, str] = field(default_factory=dict)
    """Segment -> bone, where the format itself says so (VRM)."""
    notes: tuple[str, ...] = ()
    """What was left out or put right while reading."""


@dataclass(frozen=True)
class Found:
    """Where a segment of ours begins in a rig."""

    segment: str
    bones: tuple[str, ...]
    """The bone that begins it, then those that go with it; none where the joint was placed."""
    how: str
    """By its name; by the geometry of the whole; in the chain of bones between legs, arms and head;
    by VRM, SMPL or JSON (the user), which say so; or placed."""


@dataclass(frozen=True)
class RigReport:
    """How a rig became a template: each segment's bone, and all that was guessed or changed."""

    found: tuple[Found, ...]
    notes: tuple[str, ...]


def checked(rig: Rig) -> Rig:
    """The rig, sound: every vertex moved by weights that sum to one; else an InputError.

    What has no meaning (no triangles, NaN, indices out of range, a vertex no bone moves) is
    refused; sums other than one are divided out and noted.
    """
    if not len(rig.vertices) or not len(rig.faces):
        raise InputError(f"{rig.name} has no triangles; wanted the mesh of a person")
    for what, values in (("vertices", rig.vertices), ("joints", rig.joints)):
        if bad := int((~np.isfinite(values)).any(1).sum()):
            raise InputError(f"{rig.name}: {bad} {what} are NaN or infinite; export the rig again")
    if rig.faces.min() < 0 or rig.faces.max() >= len(rig.vertices):
        raise InputError(
            f"{rig.name}: a face names vertex {rig.faces.max()} of {len(rig.vertices)}; "
            f"the file is damaged, export it again"
        )
    used = rig.weights != 0
    named = rig.influences[used]
    if named.size and (named.min() < 0 or named.max() >= len(rig.bones)):
        raise InputError(
            f"{rig.name}: a vertex is moved by bone {named.max()} of "
            f"{len(rig.bones)}; the file is damaged, export it again"
        )
    if not np.isfinite(rig.weights).all() or (rig.weights < 0).any():
        raise InputError(f"{rig.name}: skin weights are negative or NaN; export the rig again")
    total = rig.weights.sum(1)
    if bare := int((total < 1e-6).sum()):
        raise InputError(
            f"{rig.name}: {bare} of {len(total)} vertices are moved by no bone; "
            f"give every vertex of the mesh a weight and export it again"
        )
    notes = rig.notes
    # A byte's rounding is no fault: eight of them may miss one by 4/255.
    if (off := np.abs(total - 1)).max() > _OFF:
        notes += (
            f"the weights of {int((off > _OFF).sum())} vertices do not sum to one "
            f"(from {total.min():.3g} to {total.max():.3g}): divided by their sum",
        )
    return Rig(
        rig.name, rig.vertices.astype(np.float64), rig.faces.astype(np.int64), rig.bones,
        rig.parents, rig.joints.astype(np.float64), np.where(used, rig.influences, 0),
        rig.weights / total[:, None], rig.declared, notes,
    )  # fmt: skip
