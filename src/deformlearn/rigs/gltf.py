"""glTF 2.0, GLB and VRM: the surface that the file shows, its bones and its skin weights.

The rest surface is skinned with the nodes' own transforms and the inverse bind matrices, as a viewer
would draw it before any animation, with the morph targets that its mesh sets. Materials and animations
are left out.
https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pygltflib
from jaxtyping import Bool, Float, Int

from deformlearn.errors import InputError
from deformlearn.rigs.buffers import Buffers
from deformlearn.rigs.rig import Rig, checked

_TRIANGLES, _STRIP, _FAN = 4, 5, 6

_COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")

_VRM_SEGMENTS = {
    "hips": "pelvis", "neck": "neck", "head": "head", "Shoulder": "collar", "UpperArm": "shoulder",
    "LowerArm": "elbow", "Hand": "wrist", "MiddleProximal": "hand", "UpperLeg": "hip",
    "LowerLeg": "knee", "Foot": "ankle", "Toes": "foot",
}  # fmt: skip
"""VRM's humanoid bones by our segments. Its spine is found by the tree, as every rig's."""


def read_gltf(path: Path) -> Rig:
    """The rig of a .glb, .gltf or .vrm file; anything else, or a damaged one, is an InputError."""
    try:
        return checked(_rig(_Document(Path(path))))
    except InputError:
        raise
    # Counts, offsets, indices, types and nesting of a damaged file may each be wrong anywhere.
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{path} is not a whole glTF file ({type(error).__name__}: {reason}); export it again"
        ) from error


class _Document:
    """A parsed file, with its nodes placed in the world."""

    def __init__(self, path: Path) -> None:
        self.path = path
        gltf = _parse(path)
        if not gltf.asset or not str(gltf.asset.version).startswith("2"):
            raise InputError(f"{path} is glTF {gltf.asset and gltf.asset.version}; wanted 2.0")
        for extension in (*(gltf.extensionsRequired or ()), *(gltf.extensionsUsed or ())):
            if extension in _COMPRESSED:
                raise InputError(
                    f"{path} is compressed ({extension}); export it again without compression"
                )
        self.gltf = gltf
        self.buffers = Buffers(gltf, path)
        self.parents = _parents(gltf.nodes, path)
        self.order = _from_the_roots(self.parents)
        self.world = np.empty((len(gltf.nodes), 4, 4))
        for node in self.order:
            local, parent = _transform(gltf.nodes[node]), self.parents[node]
            self.world[node] = local if parent < 0 else self.world[parent] @ local
        self.shown = self._shown()

    def _shown(self) -> set[int]:
        """Nodes of the scene that is shown; all of them where the file names no scene."""
        if not self.gltf.scenes:
            return set(range(len(self.gltf.nodes)))
        shown = set(self.gltf.scenes[self.gltf.scene or 0].nodes or ())
        for node in self.order:
            if self.parents[node] in shown:
                shown.add(node)
        return shown


@dataclass(frozen=True, eq=False)
class _Piece:
    """One primitive: its surface in the world, and the nodes that move it."""

    vertices: Float[np.ndarray, "n 3"]
    faces: Int[np.ndarray, "f 3"]
    nodes: Int[np.ndarray, "n few"]
    weights: Float[np.ndarray, "n few"]


def _rig(document: _Document) -> Rig:
    gltf, path = document.gltf, document.path
    if not gltf.meshes:
        raise InputError(f"{path} has no mesh; wanted a rigged person")
    if not gltf.skins:
        raise InputError(
            f"{path} has no skin: its mesh is not bound to bones; export it with its armature"
        )
    notes: list[str] = []
    declared = _declared(gltf)
    bones = {joint for skin in gltf.skins for joint in skin.joints} | set(declared.values())
    pieces = [piece for node in document.order for piece in _pieces(document, node, bones, notes)]
    if not pieces:
        raise InputError(f"{path} has a skin but no mesh that uses it; export both together")
    listed = [node for node in document.order if node in bones]
    index = np.full(len(gltf.nodes), -1)
    index[listed] = range(len(listed))
    above = [_bone_above(document.parents[node], bones, document.parents) for node in listed]
    names = _once([gltf.nodes[node].name or f"node {node}" for node in listed])
    few = max(piece.nodes.shape[1] for piece in pieces)
    starts = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
    return Rig(
        name=path.stem,
        vertices=np.concatenate([piece.vertices for piece in pieces]),
        faces=np.concatenate(
            [piece.faces + start for piece, start in zip(pieces, starts, strict=False)]
        ),
        bones=names,
        parents=tuple(int(index[node]) if node >= 0 else -1 for node in above),
        joints=document.world[listed, :3, 3],
        influences=np.concatenate([index[_padded(piece.nodes, few)] for piece in pieces]),
        weights=np.concatenate([_padded(piece.weights, few) for piece in pieces]),
        declared={segment: names[index[node]] for segment, node in declared.items()},
        notes=tuple(dict.fromkeys(notes)),
    )


def _pieces(document: _Document, node: int, bones: set[int], notes: list[str]) -> Iterator[_Piece]:
    item = document.gltf.nodes[node]
    if item.mesh is None:
        return
    mesh = document.gltf.meshes[item.mesh]
    called = repr(item.name or mesh.name or f"mesh {item.mesh}")
    if node not in document.shown:
        notes.append(f"{called} is not in the scene that is shown: left out")
        return
    carrier = _bone_above(node, bones, document.parents)
    for primitive in mesh.primitives:
        if primitive.mode not in (None, _TRIANGLES, _STRIP, _FAN):
            notes.append(f"points or lines of {called} left out")
            continue
        position = document.buffers.accessor(primitive.attributes.POSITION, 3).astype(np.float64)
        if primitive.targets:
            position, said = _morphed(document.buffers, position, primitive.targets, mesh.weights)
            notes.append(said)
        faces = _faces(document, primitive, len(position))
        if item.skin is not None:
            moved, weights = _influences(document.buffers, primitive.attributes, called)
            nodes, vertices, mirrored = _skinned(document, item.skin, position, moved, weights)
        elif carrier >= 0:
            nodes = np.full((len(position), 1), carrier)
            weights = np.ones((len(position), 1))
            linear, shift = document.world[node, :3, :3], document.world[node, :3, 3]
            vertices, mirrored = position @ linear.T + shift, bool(_mirrors(linear))
        else:
            notes.append(f"{called} is bound to no bone: left out")
            continue
        if mirrored:  # a mirror image winds the other way
            faces = faces[:, ::-1]
        # Primitives may share one list of vertices: only those that a face shows are wanted.
        shown, faces = np.unique(faces, return_inverse=True)
        yield _Piece(vertices[shown], faces.reshape(-1, 3), nodes[shown], weights[shown])


def _morphed(
    buffers: Buffers,
    position: Float[np.ndarray, "n 3"],
    targets: Sequence[Mapping[str, int]],
    weights: Sequence[float] | None,
) -> tuple[Float[np.ndarray, "n 3"], str]:
    """The surface with its morph targets as the mesh has them set, and what is to be said of them."""
    used = [
        (target["POSITION"], weight)
        for target, weight in zip(targets, weights or (), strict=False)
        if weight and "POSITION" in target
    ]
    for accessor, weight in used:
        position = position + weight * buffers.accessor(accessor, 3)
    return position, "morph targets kept as the file sets them" if used else "morph targets ignored"


def _skinned(
    document: _Document,
    skin_index: int,
    position: Float[np.ndarray, "n 3"],
    moved: Int[np.ndarray, "n few"],
    weights: Float[np.ndarray, "n few"],
) -> tuple[Int[np.ndarray, "n few"], Float[np.ndarray, "n 3"], bool]:
    """The node of each influence, the surface in the world, and whether that is its mirror image."""
    skin = document.gltf.skins[skin_index]
    joints = np.asarray(skin.joints)
    used = weights != 0
    if moved[used].size and moved[used].max() >= len(joints):
        raise InputError(
            f"{document.path}: a vertex is moved by joint {moved[used].max()} of a skin with "
            f"{len(joints)}; the file is damaged, export it again"
        )
    moved = np.where(used, moved, 0)
    matrices = document.world[joints]
    if skin.inverseBindMatrices is not None:
        # Columns come first in the file.
        inverse = document.buffers.accessor(skin.inverseBindMatrices, 16).reshape(-1, 4, 4)
        matrices = matrices @ inverse[: len(joints)].astype(np.float64).transpose(0, 2, 1)
    # Only directions between weights count here: sums other than one are divided out.
    total = weights.sum(1, keepdims=True)
    blend = weights / np.where(total > 0, total, 1)
    points = np.concatenate([position, np.ones((len(position), 1))], 1)
    vertices = np.zeros((len(position), 3))
    for column in range(moved.shape[1]):
        placed = np.einsum("nij,nj->ni", matrices[moved[:, column], :3], points)
        vertices += blend[:, column, None] * placed
    mirrored = (blend * _mirrors(matrices[:, :3, :3])[moved]).sum() > blend.sum() / 2
    return joints[moved], vertices, bool(mirrored)


def _mirrors(linear: Float[np.ndarray, "*n 3 3"]) -> Bool[np.ndarray, "*n"]:
    """Whether linear maps exchange left and right."""
    with np.errstate(invalid="ignore"):  # what is no number is refused later, in words
        return np.asarray(np.linalg.det(linear) < 0)


def _influences(
    buffers: Buffers, attributes: Any, called: str
) -> tuple[Int[np.ndarray, "n few"], Float[np.ndarray, "n few"]]:
    """All sets JOINTS_n and WEIGHTS_n side by side: four influences each."""
    if attributes.JOINTS_0 is None or attributes.WEIGHTS_0 is None:
        raise InputError(
            f"{buffers.path}: mesh {called} has a skin but no JOINTS_0 and WEIGHTS_0; export again"
        )
    moved, weights = [], []
    count = 0
    while (joints := getattr(attributes, f"JOINTS_{count}", None)) is not None:
        moved.append(buffers.accessor(joints, 4).astype(np.int64))
        weights.append(buffers.accessor(getattr(attributes, f"WEIGHTS_{count}"), 4))
        count += 1
    return np.concatenate(moved, 1), np.concatenate(weights, 1).astype(np.float64)


def _faces(document: _Document, primitive: Any, count: int) -> Int[np.ndarray, "f 3"]:
    if primitive.indices is None:
        corners = np.arange(count)
    else:
        corners = document.buffers.accessor(primitive.indices, 1)[:, 0].astype(np.int64)
    if len(corners) and corners.max() >= count:
        raise InputError(
            f"{document.path}: a face names vertex {corners.max()} of {count}; "
            f"the file is damaged, export it again"
        )
    if primitive.mode == _STRIP:
        faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], 1)
        faces[1::2, :2] = faces[1::2, 1::-1]  # every second triangle of a strip winds backwards
        return faces
    if primitive.mode == _FAN:
        return np.stack([np.full(len(corners) - 2, corners[0]), corners[1:-1], corners[2:]], 1)
    return corners[: len(corners) // 3 * 3].reshape(-1, 3)


def _declared(gltf: pygltflib.GLTF2) -> dict[str, int]:
    """Segment -> node where the file is a VRM humanoid (0.x or 1.0)."""
    extensions = gltf.extensions or {}
    listed: dict[str, int] = {}
    if humanoid := extensions.get("VRMC_vrm", {}).get("humanoid"):
        listed = {bone: entry["node"] for bone, entry in humanoid["humanBones"].items()}
    elif humanoid := extensions.get("VRM", {}).get("humanoid"):
        listed = {entry["bone"]: entry["node"] for entry in humanoid["humanBones"]}
    found = {}
    for bone, node in listed.items():
        side = next((side for side in ("left", "right") if bone.startswith(side)), "")
        segment = _VRM_SEGMENTS.get(bone.removeprefix(side))
        if segment and 0 <= node < len(gltf.nodes):
            found[f"{side}_{segment}" if side else segment] = node
    return found


def _parse(path: Path) -> pygltflib.GLTF2:
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; wanted a glTF file") from error
    if start == b"glTF":
        parsed = pygltflib.GLTF2.load_binary(str(path))
    elif start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
        parsed = pygltflib.GLTF2.load_json(str(path))
    else:
        raise InputError(
            f"{path} is no glTF file: it begins with {start!r}, a GLB begins with b'glTF' "
            f"and a .gltf with '{{'"
        )
    if parsed is None:
        raise InputError(f"{path} is not a whole glTF file; export it again")
    return parsed


def _parents(nodes: Sequence[Any], path: Path) -> list[int]:
    parents = [-1] * len(nodes)
    for index, node in enumerate(nodes):
        for child in node.children or ():
            if not 0 <= child < len(nodes) or parents[child] >= 0:
                raise InputError(
                    f"{path}: node {child} is missing or has two parents; export again"
                )
            parents[child] = index
    return parents


def _from_the_roots(parents: Sequence[int]) -> list[int]:
    """Every node after its parent; a ring of nodes is an InputError."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, []).append(node)
    order: list[int] = []
    waiting = [-1]
    while waiting:
        found = children.get(waiting.pop(), [])
        order += found
        waiting += found
    if len(order) != len(parents):
        raise InputError("some nodes are their own ancestors; export the file again")
    return order


def _bone_above(node: int, bones: set[int], parents: Sequence[int]) -> int:
    """The nearest bone from a node upwards, the node itself included; -1 where there is none."""
    while node >= 0 and node not in bones:
        node = parents[node]
    return node


def _transform(node: Any) -> Float[np.ndarray, "4 4"]:
    if node.matrix is not None and len(node.matrix) == 16:
        return np.array(node.matrix, np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    if node.rotation is not None:
        quaternion = np.array(node.rotation, np.float64)
        x, y, z, w = quaternion / max(float(np.linalg.norm(quaternion)), 1e-12)
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    if node.scale is not None:
        matrix[:3, :3] *= np.array(node.scale, np.float64)
    if node.translation is not None:
        matrix[:3, 3] = node.translation
    return matrix


def _padded(values: np.ndarray, few: int) -> np.ndarray:
    # Padding repeats the first node: it is a bone, and its weight is zero.
    if values.dtype.kind == "f":
        return np.pad(values, ((0, 0), (0, few - values.shape[1])))
    return np.pad(values, ((0, 0), (0, few - values.shape[1])), mode="edge")


def _once(names: Sequence[str]) -> tuple[str, ...]:
    """Names made different by a number where the file repeats one."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(made)
