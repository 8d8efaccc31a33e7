"""Motion as BVH: a skeleton of fixed lengths, and the turn of every joint in every frame.

A BVH has no scale: the sizes of segments are in the lengths of its bones. Its axes are those of the
template or of the camera, y up; at rest no joint is turned. Channels are in the order Z, X, Y, so that
R = Rz Rx Ry.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from deformlearn.body import BodyParameters, BodyTemplate, bone_transforms
from deformlearn.data.estimates import Estimates
from deformlearn.exports.about import Loss, person, statement
from deformlearn.exports.axes import Axes
from deformlearn.exports.placing import MOTIONS, Motion, way
from deformlearn.files import write_atomically
from deformlearn.skeleton import SEGMENTS, rotation_from_axis_angle

Unit = Literal["m", "cm"]

UNITS: dict[Unit, tuple[str, float]] = {"m": ("metre", 1.0), "cm": ("centimetre", 100.0)}
"""Name, and how many are in a metre."""

_ORDER = "ZXY"


@dataclass(frozen=True)
class BvhOptions:
    """What a BVH may be like."""

    axes: Axes = "template"
    unit: Unit = "m"
    motion: Motion = "plane"
    focal_px: float | None = None


def write_bvh(
    path: Path,
    estimates: Estimates,
    template: BodyTemplate,
    options: BvhOptions | None = None,
    *,
    fps: float = 30.0,
) -> Loss:
    """Write the rows as frames of one person; how far joints are from their estimates.

    Bones have one length: with several rows the median of each segment's sizes, so joints then differ
    from the estimates'. With one row they do not. What a BVH cannot say of itself stands beside it, in
    PATH with .json added.
    """
    options = options or BvhOptions()
    if not len(estimates):
        raise ValueError("a BVH needs at least one frame")
    body = estimates.estimate.body
    sizes = body.scales.log().median(0).values.exp()
    _, per_metre = UNITS[options.unit]
    offsets, tips = _offsets(template, sizes) * per_metre, _tips(template, sizes) * per_metre
    lines, order = _hierarchy(template, offsets.tolist(), tips.tolist())
    path_taken = way(
        estimates.estimate.camera, estimates.crop,
        axes=options.axes, motion=options.motion, focal=options.focal_px,
    )  # fmt: skip
    root = (path_taken.shift + path_taken.rotation @ template.joints[0]) * per_metre
    turns = torch.cat([path_taken.rotation[:, None], rotation_from_axis_angle(body.pose)], 1)
    angles = _euler(turns[:, order])
    lines += ["MOTION", f"Frames: {len(estimates)}", f"Frame Time: {1 / fps:.8f}"]
    frames = np.concatenate([root.cpu().numpy(), angles], 1)
    lines += [_numbers(frame) for frame in frames.tolist()]
    apart = _joint_error(template, body, sizes)
    facts = _facts(estimates, template, options, apart, fps)
    beside = path.with_name(f"{path.name}.json")
    write_atomically(beside, json.dumps(facts, indent=2, ensure_ascii=False).encode())
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    return apart


def _offsets(template: BodyTemplate, sizes: Float[Tensor, "joints"]) -> Float[Tensor, "joints 3"]:
    """From each joint's parent to it, at rest: as long as the parent segment is large."""
    parents = torch.tensor([max(parent, 0) for parent in template.parents])
    rest = template.joints
    # The root's place is in the motion.
    return (rest - rest[parents]) * sizes[parents, None]


def _tips(template: BodyTemplate, sizes: Float[Tensor, "joints"]) -> Float[Tensor, "joints 3"]:
    """From each joint to the farthest skin that is mostly its segment's: where a last bone ends."""
    out = template.vertices[:, None] - template.joints
    mine = template.weights == template.weights.amax(1, keepdim=True)
    far = (out.norm(dim=-1) * mine).argmax(0)
    return out[far, torch.arange(len(sizes))] * sizes[:, None]


def _hierarchy(
    template: BodyTemplate, offsets: list[list[float]], tips: list[list[float]]
) -> tuple[list[str], list[int]]:
    """The lines of the skeleton, and its joints in their order."""
    lines, order = ["HIERARCHY"], []

    def add(joint: int, indent: str) -> None:
        order.append(joint)
        root = template.parents[joint] < 0
        place = "6 Xposition Yposition Zposition" if root else "3"
        turns = " ".join(f"{axis}rotation" for axis in _ORDER)
        children = [child for child, above in enumerate(template.parents) if above == joint]
        lines.extend(
            [
                f"{indent}{'ROOT' if root else 'JOINT'} {SEGMENTS[joint]}",
                f"{indent}{{",
                f"{indent}\tOFFSET {_numbers(offsets[joint])}",
                f"{indent}\tCHANNELS {place} {turns}",
            ]
        )
        for child in children:
            add(child, f"{indent}\t")
        if not children:
            end = ["End Site", "{", f"\tOFFSET {_numbers(tips[joint])}", "}"]
            lines.extend(f"{indent}\t{line}" for line in end)
        lines.append(f"{indent}}}")

    add(template.parents.index(-1), "")
    return lines, order


def _euler(turns: Float[Tensor, "frames joints 3 3"]) -> Float[np.ndarray, "frames channels"]:
    """Degrees in the order of the channels, without jumps of whole turns from frame to frame."""
    with warnings.catch_warnings():
        # Where the middle angle is 90 degrees the two others are one turn; any split of it is right.
        warnings.filterwarnings("ignore", message="Gimbal lock")
        flat = Rotation.from_matrix(turns.double().cpu().numpy().reshape(-1, 3, 3))
        angles = flat.as_euler(_ORDER, degrees=True).reshape(len(turns), -1)
    return np.unwrap(angles, period=360.0, axis=0)


def _joint_error(
    template: BodyTemplate, body: BodyParameters, sizes: Float[Tensor, "joints"]
) -> Loss:
    """How far bones of fixed lengths bring joints from where they are."""
    fixed = BodyParameters(sizes.expand_as(body.scales), body.pose)
    places = [
        (bone_transforms(template, each) @ _homogeneous(template.joints))[..., 0]
        for each in (body, fixed)
    ]
    return Loss.of(places[0] - places[1])


def _homogeneous(points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 4 1"]:
    return torch.nn.functional.pad(points, (0, 1), value=1.0)[..., None]


def _facts(
    estimates: Estimates, template: BodyTemplate, options: BvhOptions, apart: Loss, fps: float
) -> dict[str, Any]:
    motion = "none" if options.axes == "template" else options.motion
    return {
        **statement(template, options.axes, unit=UNITS[options.unit][0]),
        "rotations": "degrees, R = Rz Rx Ry; at rest no joint is turned",
        "scales": "the sizes of segments are in the lengths of the bones (of several frames their median, "
        f"which moves a joint by at most {apart.largest_mm:.2f} mm); their thickness is not in a BVH",
        "motion": f"{motion}: {MOTIONS[motion]}",
        "frames": {"count": len(estimates), "fps": fps},
        **person(estimates, 0, options.focal_px),
    }


def _numbers(values: list[float]) -> str:
    # Adding zero makes one zero of both.
    return " ".join(f"{value + 0.0:.7g}" for value in values)
