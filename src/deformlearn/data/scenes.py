"""Scripts to scenes: bodies, furniture and cameras of many people at once, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.data.crowd import Crowd
from deformlearn.data.posing import SEGMENT_BONES, Rig
from deformlearn.data.scenery import MARGIN, Lamps, Rooms, Scene, bounds, box, framed
from deformlearn.data.staging import Chair, Script

FOCAL = 8.0
"""Focal length of wild views over the side of the crop: a person photographed from some 15 m."""

_BOXES = 8
"""Most boxes a chair is made of."""


@dataclass(frozen=True, eq=False)
class Staged:
    """People before their cameras."""

    scene: Scene
    """Each person's mesh first, then whatever stands around."""
    joints: Float[Tensor, "people 24 3"]
    """The 24 segments' joints (world)."""


def stage(scripts: Sequence[Script], rig: Rig, crowd: Crowd, size: int) -> Staged:
    """The scenes that scripts describe, with the views of square pictures of `size`."""

    def stacked(values: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(values)).to(crowd.device)

    vertices, heads = crowd.skin([script.figure for script in scripts])
    count = vertices.shape[1]
    jump = stacked([np.array(script.jump) for script in scripts])
    ground = vertices[..., 1].amin(1) - jump
    faces = crowd.faces
    if any(script.chair is not None for script in scripts):
        corners, box_faces = _furniture(scripts, rig, vertices, heads, ground)
        vertices = torch.cat([vertices, corners], 1)
        faces = torch.cat([faces, box_faces + count])
    joints = heads[:, [rig.index[bone] for bone in SEGMENT_BONES]]
    rotation = stacked([script.rotation for script in scripts])
    cameras = [script.camera for script in scripts if script.camera is not None]
    if cameras:
        turn = stacked([script.turn for script in scripts])
        x, z = stacked([script.spot for script in scripts if script.spot is not None]).unbind(1)
        spot = torch.stack([x, -ground, z], 1)[:, None]
        vertices, joints = vertices @ turn.mT + spot, joints @ turn.mT + spot
        ground, position = torch.zeros_like(ground), stacked(cameras)
    else:
        position = _before(vertices[:, :count], rotation)
    scene = Scene(
        vertices,
        faces,
        framed(vertices[:, :count], rotation, position, size),
        Rooms.of([script.place for script in scripts], ground.float()),
        Lamps.of([script.light for script in scripts], crowd.device),
    )
    return Staged(scene, joints)


def _before(
    vertices: Float[Tensor, "people vertices 3"], rotation: Float[Tensor, "people 3 3"]
) -> Float[Tensor, "people 3"]:
    """Where cameras stand that look at people in given directions, as far as FOCAL asks for."""
    low, high = bounds(vertices @ rotation.mT)
    away = (low + high) / 2
    away[:, 2] -= FOCAL * MARGIN * (high - low)[:, :2].amax(1)
    return (rotation.mT @ away[..., None])[..., 0]


def _furniture(
    scripts: Sequence[Script],
    rig: Rig,
    vertices: Float[Tensor, "people vertices 3"],
    heads: Float[Tensor, "people bones 3"],
    ground: Float[Tensor, "people"],
) -> tuple[Tensor, Tensor]:
    """Vertices and faces of what seated people sit on (template axes).

    Everyone has the same number of boxes; those that nobody needs are points between the hips, and
    no pixel sees a point.
    """
    hips = heads[:, [rig.index["upperleg01.L"], rig.index["upperleg01.R"]]].mean(1)
    bottom = torch.from_numpy(rig.owned_by(("root", "pelvis", "upperleg01"))).to(vertices.device)
    trunk = torch.from_numpy(rig.owned_by(("root", "pelvis", "spine05", "spine04")))
    seat = vertices[:, bottom, 1].quantile(0.02, 1)
    back = vertices[:, trunk.to(vertices.device), 2].quantile(0.01, 1)
    measured = torch.cat([hips, torch.stack([seat, back, ground], 1)], 1).cpu().numpy()
    corners = np.repeat(measured[:, None, :3], 8 * _BOXES, 1)
    for script, (x, _, z, *heights), own in zip(scripts, measured, corners, strict=True):
        if script.chair is not None:
            pieces = _pieces(script.chair, x, z, *heights)
            own[: 8 * len(pieces)] = np.concatenate([box(*piece)[0] for piece in pieces])
    _, faces = box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    each = faces + 8 * np.arange(_BOXES)[:, None, None]
    there = vertices.device
    return torch.from_numpy(corners).to(there), torch.from_numpy(each.reshape(-1, 3)).to(there)


def _pieces(
    chair: Chair, x: float, z: float, seat: float, back: float, ground: float
) -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Centre and sides of each box of a chair, under hips at (x, z) and behind a back."""
    width, depth, height = chair.width, chair.depth, seat - ground
    middle = z + 0.1 - depth / 4
    pieces = []
    if chair.solid:
        pieces.append(((x, ground + height / 2, middle), (width, height, depth)))
    else:
        pieces.append(((x, seat - 0.025, middle), (width, 0.05, depth)))
        for i in (-1, 1):
            for j in (-1, 1):
                leg = (x + i * (width / 2 - 0.025), ground + height / 2 - 0.02,
                       middle + j * (depth / 2 - 0.025))  # fmt: skip
                pieces.append((leg, (0.035, height - 0.04, 0.035)))
    if chair.back:
        rest = min(back, middle - depth / 2 + 0.02) - 0.03
        pieces.append(((x, seat + 0.12 + chair.back / 2, rest), (width, chair.back, 0.03)))
        for i in (-1, 1):
            post = (x + i * (width / 2 - 0.02), ground + (height + 0.12) / 2, rest)
            pieces.append((post, (0.03, height + 0.12, 0.03)))
    return pieces
