"""A rig of any number of bones made into our template of 24 segments (docs/decisions/0012)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from deformlearn.body import BodyPoints, BodyTemplate
from deformlearn.errors import InputError
from deformlearn.landmarks import carry
from deformlearn.limits import joint_limits
from deformlearn.rigs.mapping import find_segments
from deformlearn.rigs.place import placed, share_skin
from deformlearn.rigs.rig import Found, Rig, RigReport
from deformlearn.rigs.tree import Tree
from deformlearn.rigs.upright import upright
from deformlearn.skeleton import PARENTS, SEGMENTS

_SAME_PLACE = 1e-6
"""Vertices this close to each other are one (metres)."""

Landmarks = tuple[BodyPoints, tuple[str, ...]]


def reduce(rig: Rig, mapping: Path | None = None) -> tuple[BodyTemplate, RigReport]:
    """The rig as a template, and how it was done.

    Every bone's skin goes to its own segment or its nearest ancestor's. Resting, the template is
    the surface of the rig: only axes and units change. A rig that is not a person's is an
    InputError.
    """
    stood, found = upright(rig, find_segments(rig, mapping))
    stood, weights = _welded(stood, weights_of_segments(stood, _owners(stood, found)))
    stood = _outward(stood)
    bones = {f.segment: stood.joints[stood.bones.index(f.bones[0])] for f in found if f.bones}
    joints = placed(bones, stood.vertices, weights)
    places = np.stack([joints[name] for name in SEGMENTS])
    weights = share_skin(weights, stood.vertices, places, set(SEGMENTS) - set(bones))
    notes = list(stood.notes)
    if bare := [name for name, moved in zip(SEGMENTS, weights.sum(0), strict=True) if moved < 1e-6]:
        notes.append(f"no skin moves with {', '.join(bare)}")
    if missing := [name for name in SEGMENTS if name not in bones]:
        notes.append(f"joints placed by proportion: {', '.join(missing)}")
    return template_of(stood, places, weights), RigReport(found, tuple(notes))


def _welded(rig: Rig, weights: Float[np.ndarray, "n 24"]) -> tuple[Rig, np.ndarray]:
    """The rig with vertices at one place, moved alike, made one; and the weights of those.

    Files repeat a vertex wherever its texture or normal breaks off. We keep neither, and a surface
    cut open along such seams has no neighbours across them.
    """
    place = np.round(rig.vertices / _SAME_PLACE)
    _, first, number = np.unique(
        np.concatenate([place, np.round(weights, 2)], 1),
        axis=0,
        return_index=True,
        return_inverse=True,
    )
    # Numbered in the order of the file, not of their places.
    order = first.argsort()
    rank = np.empty_like(order)
    rank[order] = range(len(order))
    kept = first[order]
    faces = rank[number.ravel()][rig.faces]
    collapsed = (faces == np.roll(faces, 1, 1)).any(1)
    notes = rig.notes
    if gone := len(weights) - len(kept):
        notes += (
            f"{gone} of {len(weights)} vertices were copies at the seams of textures: merged",
        )
    stood = replace(
        rig, vertices=rig.vertices[kept], faces=faces[~collapsed], notes=notes,
        influences=rig.influences[kept], weights=rig.weights[kept],
    )  # fmt: skip
    return stood, weights[kept]


def _outward(rig: Rig) -> Rig:
    """The rig with its outside out. Open or closed, what a person's skin holds is no negative volume."""
    corners = (rig.vertices - rig.vertices.mean(0))[rig.faces]
    if np.linalg.det(corners).sum() >= 0:
        return rig
    return replace(
        rig, faces=rig.faces[:, ::-1].copy(), notes=(*rig.notes, "the skin was inside out: turned")
    )


def template_of(
    rig: Rig,
    joints: Float[np.ndarray, "24 3"],
    weights: Float[np.ndarray, "n 24"],
    landmarks: Landmarks | None = None,
) -> BodyTemplate:
    """A template from a standing rig's surface, its 24 joints and their skin.

    The landmarks are Anny's, carried over, where none are given. A vertex's mirror image is the
    vertex nearest to its reflection: on a body that is not symmetric two may share one.
    """
    places = torch.from_numpy(joints)
    if landmarks is None:
        landmarks = carry(joints, rig.vertices, rig.faces, weights)
    _, mirror = cKDTree(rig.vertices).query(rig.vertices * [-1.0, 1.0, 1.0])
    axes, limits = joint_limits(places)
    if not torch.isfinite(axes).all():
        raise InputError(f"{rig.name}: two joints of a bone are at one place; export it again")
    return BodyTemplate(
        name=rig.name,
        vertices=torch.from_numpy(rig.vertices),
        faces=torch.from_numpy(rig.faces),
        joints=places,
        weights=torch.from_numpy(weights / weights.sum(1, keepdims=True)),
        mirror=torch.from_numpy(mirror),
        limit_axes=axes,
        limits=limits,
        landmarks=landmarks[0],
        landmark_names=landmarks[1],
        parents=PARENTS,
    ).to(dtype=torch.float32)


def weights_of_segments(rig: Rig, owner: Int[np.ndarray, "bones"]) -> Float[np.ndarray, "n 24"]:
    """How much each segment moves each vertex: the sum over the bones it owns."""
    weights = np.zeros((len(rig.vertices), len(SEGMENTS)))
    rows = np.arange(len(weights))[:, None]
    np.add.at(weights, (rows, owner[rig.influences]), rig.weights)
    return weights


def _owners(rig: Rig, found: Sequence[Found]) -> Int[np.ndarray, "bones"]:
    """The segment of each bone: its own, or its nearest ancestor's.

    What hangs on none (a root, a bone that only follows others) goes with the segment whose joint
    is nearest, and what leads to the pelvis goes with the pelvis.
    """
    named = {bone: SEGMENTS.index(f.segment) for f in found for bone in f.bones}
    starts = [SEGMENTS.index(f.segment) for f in found if f.bones]
    places = np.stack([rig.joints[rig.bones.index(f.bones[0])] for f in found if f.bones])
    owner = np.full(len(rig.bones), -1)
    for bone, (name, parent) in enumerate(zip(rig.bones, rig.parents, strict=True)):
        owner[bone] = named.get(name, owner[parent] if parent >= 0 else -1)
    tree = Tree(rig)
    above = {
        bone for mapped in np.flatnonzero(owner >= 0).tolist() for bone in tree.upwards(mapped)
    }
    for bone in np.flatnonzero(owner < 0).tolist():
        nearest = np.linalg.norm(places - rig.joints[bone], axis=1).argmin()
        owner[bone] = 0 if bone in above else starts[nearest]
    return owner
