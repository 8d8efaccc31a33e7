"""Writes rigs of other formats out of a template, so that their readers can be tested."""

from __future__ import annotations

import base64
import json
import pickle
import struct
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pygltflib
import torch

from deformlearn.body import BodyTemplate, bone_transforms, skin
from deformlearn.skeleton import PARENTS, SEGMENTS

MIXAMO = dict(
    zip(
        SEGMENTS,
        "Hips LeftUpLeg RightUpLeg Spine LeftLeg RightLeg Spine1 LeftFoot RightFoot Spine2 LeftToeBase "
        "RightToeBase Neck LeftShoulder RightShoulder Head LeftArm RightArm LeftForeArm RightForeArm "
        "LeftHand RightHand LeftHandMiddle1 RightHandMiddle1".split(),
        strict=True,
    )
)
"""Mixamo's name of the bone that begins each segment, without its prefix."""


@dataclass(frozen=True, eq=False)
class RigFile:
    """A rig about to be written: what of it may vary between exporters."""

    vertices: np.ndarray
    faces: np.ndarray
    bones: tuple[str, ...]
    parents: tuple[int, ...]
    joints: np.ndarray
    weights: np.ndarray
    extras: Mapping[str, object] = field(default_factory=dict)
    """Top-level `extensions` of the file."""
    influences: int = 4
    integer: type | None = None
    """Type of normalised integer weights; None writes floats."""
    sparse: bool = False
    """Positions as a sparse accessor."""
    meshes: int = 1
    """Meshes, each with a skin of its own, among which the faces are dealt out."""
    node_scale: float = 1.0
    """Scale of the node above all bones; bone positions below it are divided by it."""


def rig_of(template: BodyTemplate, names: Mapping[str, str] = MIXAMO, **options) -> RigFile:
    """A template as a rig with other bone names; segments without a name have no bone."""
    kept = [index for index, name in enumerate(SEGMENTS) if name in names]
    owner = list(range(len(SEGMENTS)))
    for index, parent in enumerate(PARENTS):
        owner[index] = index if index in kept else owner[parent] if parent >= 0 else 0
    weights = np.zeros((len(template.vertices), len(kept)))
    for index, own in enumerate(owner):
        weights[:, kept.index(own)] += template.weights[:, index].double().numpy()
    above = [owner[PARENTS[index]] if PARENTS[index] >= 0 else -1 for index in kept]
    return RigFile(
        template.vertices.double().numpy(),
        template.faces.numpy(),
        tuple(names[SEGMENTS[index]] for index in kept),
        tuple(kept.index(parent) if parent >= 0 else -1 for parent in above),
        template.joints[kept].double().numpy(),
        weights,
        **options,
    )


def in_pose(template: BodyTemplate, **turns: Sequence[float]) -> BodyTemplate:
    """The template with another rest pose: rotation vectors (radians) of named segments."""
    parameters = template.rest_parameters(1)
    for name, vector in turns.items():
        parameters.pose[0, SEGMENTS.index(name) - 1] = torch.tensor(vector)
    moved = bone_transforms(template, parameters)[0]
    homogeneous = torch.nn.functional.pad(template.joints, (0, 1), value=1.0)
    joints = torch.einsum("jab,jb->ja", moved, homogeneous)
    return replace(template, vertices=skin(template, parameters)[0], joints=joints)


def with_bones(rig: RigFile, *bones: tuple[str, str | None, Sequence[float]]) -> RigFile:
    """The rig with more bones (name, parent, offset from it in metres) that move nothing yet."""
    names, parents, joints = list(rig.bones), list(rig.parents), list(rig.joints)
    for name, parent, offset in bones:
        above = names.index(parent) if parent else -1
        names.append(name)
        parents.append(above)
        joints.append((joints[above] if parent else 0) + np.asarray(offset, float))
    weights = np.pad(rig.weights, ((0, 0), (0, len(bones))))
    return replace(
        rig, bones=tuple(names), parents=tuple(parents), joints=np.stack(joints), weights=weights
    )


def turned(rig: RigFile, rows: Sequence[Sequence[float]], unit: float = 1.0) -> RigFile:
    """The rig in other axes and units: `rows` times each point, times `unit`."""
    matrix = np.asarray(rows, float) * unit
    return replace(rig, vertices=rig.vertices @ matrix.T, joints=rig.joints @ matrix.T)


def quadruped(template: BodyTemplate, names: Mapping[str, str]) -> RigFile:
    """A table with a head: four legs of four bones each on a level back."""
    joints = {
        name: joint.double().numpy().copy()
        for name, joint in zip(SEGMENTS, template.joints, strict=True)
    }
    forward = {"pelvis": 0, "spine1": 0.15, "spine2": 0.3, "spine3": 0.5, "neck": 0.6, "head": 0.75}
    for name, z in forward.items():
        joints[name] = np.array([0, 0.6 if name != "head" else 0.7, z])
    for side, x in (("left_", 0.12), ("right_", -0.12)):
        for limb, z in ((("hip", "knee", "ankle", "foot"), 0.0),
                        (("collar", "shoulder", "elbow", "wrist", "hand"), 0.5)):  # fmt: skip
            for index, name in enumerate(limb):
                height = 0.55 * (1 - index / (len(limb) - 1))
                joints[side + name] = np.array(
                    [x, height, z + (0.05 if index == len(limb) - 1 else 0)]
                )
    kept = [name for name in SEGMENTS if name in names]
    places = np.stack([joints[name] for name in kept])
    corners = np.concatenate([np.eye(3), -np.eye(3)]) * 0.03
    sides = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5]])
    file = rig_of(template, names)
    return RigFile(
        (places[:, None] + corners).reshape(-1, 3),
        np.concatenate([sides + 6 * i for i in range(len(kept))]),
        file.bones, file.parents, places, np.eye(len(kept)).repeat(6, 0),
    )  # fmt: skip


class _Writer:
    def __init__(self) -> None:
        self.gltf = pygltflib.GLTF2(asset=pygltflib.Asset(version="2.0"))
        self.blob = b""

    def view(self, content: bytes) -> int:
        self.blob += b"\0" * (-len(self.blob) % 4)
        self.gltf.bufferViews.append(
            pygltflib.BufferView(buffer=0, byteOffset=len(self.blob), byteLength=len(content))
        )
        self.blob += content
        return len(self.gltf.bufferViews) - 1

    def accessor(self, values: np.ndarray, kind: str, *, normalized: bool = False) -> int:
        codes = {"f4": 5126, "u1": 5121, "u2": 5123, "u4": 5125}
        self.gltf.accessors.append(
            pygltflib.Accessor(
                bufferView=self.view(np.ascontiguousarray(values).tobytes()),
                componentType=codes[values.dtype.str[1:]], count=len(values), type=kind,
                normalized=normalized,
            )
        )  # fmt: skip
        return len(self.gltf.accessors) - 1

    def sparse_positions(self, values: np.ndarray) -> int:
        """Every second vertex in the base view, the others replaced."""
        rows = np.arange(1, len(values), 2, dtype=np.uint32)
        base = values.copy()
        base[rows] = 0
        index = self.accessor(base, "VEC3")
        self.gltf.accessors[index].sparse = pygltflib.Sparse(
            count=len(rows),
            indices=pygltflib.AccessorSparseIndices(
                bufferView=self.view(rows.tobytes()), componentType=5125
            ),
            values=pygltflib.AccessorSparseValues(bufferView=self.view(values[rows].tobytes())),
        )
        return index


def to_gltf(rig: RigFile) -> tuple[pygltflib.GLTF2, bytes]:
    """The glTF document and its one buffer."""
    out = _Writer()
    gltf = out.gltf
    gltf.nodes.append(pygltflib.Node(name="Armature", scale=[rig.node_scale] * 3))
    for name, parent, joint in zip(rig.bones, rig.parents, rig.joints, strict=True):
        start = rig.joints[parent] if parent >= 0 else 0
        offset = (joint - start) / rig.node_scale
        gltf.nodes.append(pygltflib.Node(name=name, translation=[float(x) for x in offset]))
        above = gltf.nodes[parent + 1 if parent >= 0 else 0]
        above.children = [*(above.children or []), len(gltf.nodes) - 1]
    inverse = np.tile(np.eye(4), (len(rig.bones), 1, 1))
    inverse[:, :3, :3] /= rig.node_scale
    inverse[:, :3, 3] = -rig.joints / rig.node_scale
    inverse = out.accessor(inverse.transpose(0, 2, 1).reshape(-1, 16).astype("<f4"), "MAT4")
    position = rig.vertices.astype("<f4")
    position = out.sparse_positions(position) if rig.sparse else out.accessor(position, "VEC3")
    attributes = pygltflib.Attributes(POSITION=position)
    order = np.argsort(-rig.weights, 1, kind="stable")
    for first in range(0, rig.influences, 4):
        moved = order[:, first : first + 4]
        weights = np.take_along_axis(rig.weights, moved, 1)
        if rig.integer is None:
            stored = out.accessor(weights.astype("<f4"), "VEC4")
        else:
            top = np.iinfo(rig.integer).max
            stored = out.accessor(
                (weights * top).round().astype(rig.integer), "VEC4", normalized=True
            )
        setattr(attributes, f"JOINTS_{first // 4}", out.accessor(moved.astype("<u2"), "VEC4"))
        setattr(attributes, f"WEIGHTS_{first // 4}", stored)
    roots = [0]
    for part in range(rig.meshes):
        faces = rig.faces[part :: rig.meshes].astype("<u4").reshape(-1, 1)
        primitive = pygltflib.Primitive(
            attributes=attributes, indices=out.accessor(faces, "SCALAR"), mode=4
        )
        gltf.meshes.append(pygltflib.Mesh(name=f"part {part}", primitives=[primitive]))
        joints = list(range(1, len(rig.bones) + 1))
        gltf.skins.append(pygltflib.Skin(joints=joints, inverseBindMatrices=inverse))
        gltf.nodes.append(pygltflib.Node(name=f"part {part}", mesh=part, skin=part))
        roots.append(len(gltf.nodes) - 1)
    gltf.scenes.append(pygltflib.Scene(nodes=roots))
    gltf.scene = 0
    gltf.extensions = dict(rig.extras)
    gltf.extensionsUsed = list(rig.extras)
    gltf.buffers.append(pygltflib.Buffer(byteLength=len(out.blob)))
    return gltf, out.blob


def write_glb(rig: RigFile | tuple[pygltflib.GLTF2, bytes], path: Path) -> Path:
    """One binary file."""
    gltf, blob = to_gltf(rig) if isinstance(rig, RigFile) else rig
    gltf.set_binary_blob(blob)
    gltf.save_binary(str(path))
    return path


def write_gltf(rig: RigFile, path: Path, *, external: bool) -> Path:
    """A JSON file with its buffer in a data URI, or in a file beside it."""
    gltf, blob = to_gltf(rig)
    if external:
        (path.parent / "its data.bin").write_bytes(blob)
        gltf.buffers[0].uri = "its%20data.bin"
    else:
        text = base64.b64encode(blob).decode()
        gltf.buffers[0].uri = f"data:application/octet-stream;base64,{text}"
    path.write_text(gltf.gltf_to_json())
    return path


def chunks(content: bytes) -> tuple[dict, bytes]:
    """The JSON and the buffer of a GLB."""
    length = struct.unpack_from("<I", content, 12)[0]
    return json.loads(content[20 : 20 + length]), content[20 + length + 8 :]


# SMPL


def smpl_content(template: BodyTemplate, generator: np.random.Generator) -> dict[str, object]:
    """A template with the fields of an official SMPL file; its joints are regressed exactly."""
    from scipy import sparse

    vertices = template.vertices.double().numpy()
    joints = template.joints.double().numpy()
    regressor = np.zeros((24, len(vertices)))
    for row, joint in enumerate(joints):
        # The smallest change of a mean of near vertices that gives the joint, summing to one.
        near = np.argsort(np.linalg.norm(vertices - joint, axis=1))[:60]
        points = np.concatenate([vertices[near], np.ones((len(near), 1))], 1)
        mean = np.full(len(near), 1 / len(near))
        short = np.append(joint, 1) - mean @ points
        regressor[row, near] = mean + points @ np.linalg.solve(points.T @ points, short)
    tree = np.array([PARENTS, range(24)], np.int64)
    tree[0, 0] = 2**32 - 1
    return {
        "v_template": vertices,
        "f": template.faces.numpy().astype(np.uint32),
        "weights": template.weights.double().numpy(),
        "kintree_table": tree,
        "J_regressor": sparse.csc_matrix(regressor),
        "J": joints,
        "shapedirs": 0.01 * generator.standard_normal((len(vertices), 3, 10)),
        "posedirs": np.zeros((len(vertices), 3, 207)),
        "bs_type": "lrotmin",
        "bs_style": "lbs",
        "vert_sym_idxs": template.mirror.numpy(),
    }


def write_smpl(content: Mapping[str, object], path: Path, *, chumpy: Sequence[str] = ()) -> Path:
    """As the official files are: a pickle of Python 2, of numpy 1 and of scipy before 1.8.

    The fields in `chumpy` are its arrays: `v_template` a plain one, others selections of one.
    """
    modules = {
        name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")
    }
    plain = type("Ch", (), {"__module__": "chumpy.ch"})
    select = type("Select", (), {"__module__": "chumpy.reordering"})
    modules["chumpy.ch"].Ch, modules["chumpy.reordering"].Select = plain, select  # type: ignore[attr-defined]

    def wrapped(name: str, values: np.ndarray) -> object:
        whole = plain()
        whole.__dict__.update(x=values.copy(), _dirty_vars=set(), _itr=None)
        if name == "v_template":
            return whole
        whole.x = np.concatenate([values.ravel()[::-1], np.zeros(5)])
        part = select()
        part.a, part.idxs = whole, np.arange(values.size)[::-1]
        part.preferred_shape = values.shape
        return part

    stored = {k: wrapped(k, v) if k in chumpy else v for k, v in content.items()}  # type: ignore[arg-type]
    sys.modules.update(modules)
    try:
        text = pickle.dumps(stored, protocol=2)
    finally:
        for name in modules:
            del sys.modules[name]
    text = text.replace(b"cnumpy._core.", b"cnumpy.core.").replace(b"sparse._csc", b"sparse.csc")
    path.write_bytes(text)
    return path
