"""A person as a skinned GLB: mesh, 24 joints, weights, and the photograph's camera; a video as motion.

Nodes inherit scale in glTF, segments do not inherit theirs (docs/decisions/0002). A node's own scale is
therefore s_j / s_parent, and the rest follows: with T_j = A_j S_j and the rest pose unturned, a joint's
translation is its offset at rest, whatever the sizes, and its rotation is the pose's. Nothing is
approximated, for segments grow alike in all directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.body import BodyParameters, BodyTemplate, skin
from deformlearn.data.estimates import Estimates
from deformlearn.exports.about import Loss, person, statement
from deformlearn.exports.axes import Axes, rotation_into
from deformlearn.exports.gltf_file import INDICES, VERTICES, Arrays, Moved, animation, binary
from deformlearn.exports.influences import SET, Influences, cut_loss, strongest
from deformlearn.exports.placing import MOTIONS, Motion, focal_px, place_before_camera, way
from deformlearn.exports.texture import Texture
from deformlearn.files import write_atomically
from deformlearn.raster import vertex_normals
from deformlearn.skeleton import SEGMENTS

_MESH, _ARMATURE = len(SEGMENTS), len(SEGMENTS) + 1
"""Nodes after the joints'."""

_BACK = 10.0
"""Metres from which the orthographic camera looks; any that clears the body shows the same."""

_CLAY = (0.72, 0.72, 0.72, 1.0)
"""Colour of a body without a texture (linear)."""


@dataclass(frozen=True)
class GlbOptions:
    """What a GLB may be like."""

    axes: Axes = "template"
    influences: int = SET
    """Bones that may move a vertex: 4, which every reader takes, or 8 for those that take two sets."""
    motion: Motion = "plane"
    """How a video's person moves; in template axes nobody does."""
    focal_px: float | None = None
    """Focal length of the perspective camera (source pixels); None: HMR's 5000 px for 224."""


def write_glb(
    path: Path,
    estimates: Estimates,
    template: BodyTemplate,
    options: GlbOptions | None = None,
    *,
    times: Sequence[float] | None = None,
    texture: Texture | None = None,
) -> Loss:
    """Write one person; what leaving out weak influences cost.

    Without `times` there is one row, and the file shows its pose; with them (seconds, ascending) the
    rows are key frames. Pose blend shapes of the template are in the mesh of a single pose, and left
    out of motion.
    """
    options = options or GlbOptions()
    if len(estimates) != (1 if times is None else len(times)) or len(estimates) == 0:
        raise ValueError(
            f"one row without times, or as many times as rows; "
            f"got {len(estimates)} rows, {times if times is None else len(times)} times"
        )
    stated = template
    if times is None:
        template = _corrected(template, estimates.estimate.body)
    arrays = Arrays()
    influences = strongest(template, options.influences)
    loss = cut_loss(template, influences, estimates.estimate.body)
    name = estimates.keys[0]
    path_taken = way(
        estimates.estimate.camera, estimates.crop,
        axes=options.axes, motion=options.motion, focal=options.focal_px,
    )  # fmt: skip
    turns = _continuous(roma.rotmat_to_unitquat(path_taken.rotation.double()))
    joints, moved = _skeleton(template, estimates.estimate.body)
    moved[_ARMATURE, "rotation"] = turns
    moved[_ARMATURE, "translation"] = path_taken.shift.cpu().numpy()
    cameras, seats = _cameras(estimates, options)
    extras = _extras(stated, estimates, options, loss, times)
    document = {
        "asset": {"version": "2.0", "generator": "deformlearn", "extras": extras},
        "scene": 0,
        "scenes": [{"name": name, "nodes": list(range(_MESH, _ARMATURE + 1 + len(seats)))}],
        "nodes": [
            *joints,
            # A skinned mesh stands at the top: no node above it would move it. Blender and three.js
            # show the extras of nodes, others those of the file.
            {"name": name, "mesh": 0, "skin": 0, "extras": extras},
            {"name": "armature", "rotation": turns[0].tolist(), "children": [0]},
            *seats,
        ],
        "cameras": cameras,
        "meshes": [
            {"name": template.name, "primitives": [_surface(arrays, template, influences, texture)]}
        ],
        "skins": [_binding(arrays, template)],
        **_look(arrays, texture),
    }
    if times is not None:
        document["animations"] = [{"name": name, **animation(arrays, np.asarray(times), moved)}]
    write_atomically(path, binary(document, arrays))
    return loss


def _corrected(template: BodyTemplate, body: BodyParameters) -> BodyTemplate:
    """The template whose plain skinning gives this one pose its blend shapes too."""
    if template.pose_blendshapes is None:
        return template
    # The root neither turns nor moves: skin that hangs on it alone is the corrected skin at rest.
    on_root = torch.zeros_like(template.weights)
    on_root[:, 0] = 1.0
    unscaled = BodyParameters(torch.ones_like(body.scales), body.pose)
    rest = skin(replace(template, weights=on_root), unscaled)[0]
    return replace(template, vertices=rest, pose_blendshapes=None)


def _skeleton(template: BodyTemplate, body: BodyParameters) -> tuple[list[dict[str, Any]], Moved]:
    """The joints' nodes in the first row's pose, and how they move over all rows."""
    parents = template.parents
    turns = torch.nn.functional.pad(roma.rotvec_to_unitquat(body.pose.double()), (0, 0, 1, 0))
    turns[:, 0, 3] = 1.0  # the root's turn is the armature's
    sizes = body.scales.double().cpu().numpy()
    nodes, moved = [], {}
    for joint, parent in enumerate(parents):
        offset = template.joints[joint] - (template.joints[parent] if parent >= 0 else 0)
        size = sizes[:, joint] / (sizes[:, parent] if parent >= 0 else 1)
        moved[joint, "rotation"] = _continuous(turns[:, joint])
        moved[joint, "scale"] = np.repeat(size[:, None], 3, 1)
        children = [child for child, above in enumerate(parents) if above == joint]
        nodes.append(
            {
                "name": SEGMENTS[joint],
                "translation": offset.tolist(),
                "rotation": moved[joint, "rotation"][0].tolist(),
                "scale": moved[joint, "scale"][0].tolist(),
                **({"children": children} if children else {}),
            }
        )
    return nodes, moved


def _continuous(quaternions: Float[Tensor, "frames 4"]) -> Float[np.ndarray, "frames 4"]:
    """The same rotations, each on the side of the one before: q and -q are one, but not half way."""
    values = quaternions.cpu().numpy()
    turned = np.sign((values[1:] * values[:-1]).sum(1))
    signs = np.cumprod(np.concatenate([[1.0], np.where(turned < 0, -1.0, 1.0)]))
    return values * signs[:, None]


def _surface(
    arrays: Arrays, template: BodyTemplate, influences: Influences, texture: Texture | None
) -> dict[str, Any]:
    """The mesh at rest; along the seams of a texture a vertex stands once for each place in it."""
    faces = template.faces.cpu().numpy()
    normals = vertex_normals(template.vertices.double(), template.faces)
    # A vertex without a face has no normal, and any will do.
    normals[normals.norm(dim=-1) < 0.5] = normals.new_tensor([0.0, 1.0, 0.0])
    vertex, corner = np.arange(len(template.vertices)), faces
    places: dict[str, int] = {}
    if texture is not None:
        placed = np.concatenate([faces[..., None], texture.uv], -1).reshape(-1, 3)
        unique, corner = np.unique(placed, axis=0, return_inverse=True)
        vertex, corner = unique[:, 0].astype(int), corner.reshape(faces.shape)
        places["TEXCOORD_0"] = arrays.add(unique[:, 1:].astype(np.float32), VERTICES)
    position = template.vertices.cpu().numpy()[vertex]
    attributes = {
        "POSITION": arrays.add(position.astype(np.float32), VERTICES, bounds=True),
        "NORMAL": arrays.add(normals.cpu().numpy()[vertex].astype(np.float32), VERTICES),
        **places,
    }
    for number, first in enumerate(range(0, influences.joints.shape[1], SET)):
        chosen = slice(first, first + SET)
        joints = influences.joints[vertex, chosen].astype(np.uint8)
        attributes[f"JOINTS_{number}"] = arrays.add(joints, VERTICES)
        attributes[f"WEIGHTS_{number}"] = arrays.add(influences.weights[vertex, chosen], VERTICES)
    indices = arrays.add(corner.reshape(-1).astype(np.uint32), INDICES)
    return {"attributes": attributes, "indices": indices, "material": 0}


def _binding(arrays: Arrays, template: BodyTemplate) -> dict[str, Any]:
    """The skin: at rest no joint is turned, so its inverse takes its place away."""
    inverse = np.tile(np.eye(4, dtype=np.float32), (len(SEGMENTS), 1, 1))
    inverse[:, :3, 3] = -template.joints.cpu().numpy()
    return {
        "inverseBindMatrices": arrays.add(inverse),
        "joints": list(range(len(SEGMENTS))),
        "skeleton": _ARMATURE,
    }


def _look(arrays: Arrays, texture: Texture | None) -> dict[str, Any]:
    material: dict[str, Any] = {"name": "skin"}
    surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 0.9}
    if texture is None:
        return {
            "materials": [
                {**material, "pbrMetallicRoughness": {**surface, "baseColorFactor": list(_CLAY)}}
            ]
        }
    image = {
        "bufferView": arrays.view(texture.png()),
        "mimeType": "image/png",
        "name": "photograph",
    }
    return {
        "materials": [
            {**material, "pbrMetallicRoughness": {**surface, "baseColorTexture": {"index": 0}}}
        ],
        "textures": [{"source": 0, "sampler": 0}],
        # Linear, with mipmaps; no wrapping round the edges.
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [image],
    }


def _cameras(
    estimates: Estimates, options: GlbOptions
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two cameras that see the first row's crop as the photograph shows it, and their nodes."""
    camera, crop = estimates.estimate.camera[:1], estimates.crop[:1]
    focal = focal_px(crop, options.focal_px)
    x, y, z = place_before_camera(camera, crop, focal, crop.centre)[0].tolist()
    half = 1 / camera.scale.item()
    angle = 2 * math.atan(crop.half.item() / focal.item())
    cameras = [
        {
            "name": "photograph, orthographic",
            "type": "orthographic",
            "orthographic": {"xmag": half, "ymag": half, "znear": 0.0, "zfar": 2 * _BACK},
        },
        {
            "name": "photograph, perspective",
            "type": "perspective",
            "perspective": {"aspectRatio": 1.0, "yfov": angle, "znear": 0.01 * z},
        },
    ]
    # From upright camera axes, in which both look straight ahead, to the file's.
    into = rotation_into(options.axes, camera) @ rotation_into("camera", camera).mT
    turn = roma.rotmat_to_unitquat(into[0].double())
    nodes = [
        {
            "name": one["name"],
            "camera": number,
            "rotation": turn.tolist(),
            "translation": (into[0] @ into.new_tensor([-x, y, distance])).tolist(),
        }
        for number, (one, distance) in enumerate(zip(cameras, (_BACK, z), strict=True))
    ]
    return cameras, nodes


def _extras(
    template: BodyTemplate,
    estimates: Estimates,
    options: GlbOptions,
    loss: Loss,
    times: Sequence[float] | None,
) -> dict[str, Any]:
    """What the file says of itself."""
    shapes = ""
    if template.pose_blendshapes is not None:
        shapes = "; pose blend shapes are " + ("in the mesh" if times is None else "left out")
    facts = {
        **statement(template, options.axes),
        "skinning": f"at most {options.influences} bones a vertex: up to {loss.largest_mm:.3f} mm "
        f"(mean {loss.mean_mm:.4f} mm) from all bones{shapes}",
        "scales": "a node's scale is its segment's size over its parent's: sizes are not inherited",
        "cameras": "both see the crop of the photograph, a square; of a video its first frame",
        **person(estimates, 0, options.focal_px),
    }
    if times is not None:
        motion = "none" if options.axes == "template" else options.motion
        facts["motion"] = f"{motion}: {MOTIONS[motion]}"
        facts["frames"] = {
            "first": estimates.keys[0],
            "last": estimates.keys[-1],
            "count": len(times),
        }
    return facts
