"""Real rigs: the surface is the one that a viewer shows, and every limb is where it belongs."""

import re
from pathlib import Path

import numpy as np
import pygltflib
import pytest
import torch
from scipy.spatial import cKDTree

from deformlearn import templates
from deformlearn.body import skin
from deformlearn.skeleton import SEGMENTS
from rig_files import RigFile, chunks, write_glb

RIGS = ("CesiumMan", "quaternius_modular_men_Casual", "quaternius_modular_women_Formal")


def viewer(path: Path) -> np.ndarray:
    """Slow twin: each vertex of each primitive through its joints, one by one, as the standard says."""
    gltf = pygltflib.GLTF2().load(str(path))
    _, blob = chunks(path.read_bytes())

    def read(index):
        item = gltf.accessors[index]
        view = gltf.bufferViews[item.bufferView]
        dtype = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}[
            item.componentType
        ]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[item.type]
        start = (view.byteOffset or 0) + (item.byteOffset or 0)
        step = view.byteStride or width * dtype().itemsize
        return np.stack(
            [np.frombuffer(blob, dtype, width, start + step * row) for row in range(item.count)]
        )

    def local(node):
        if node.matrix:
            return np.array(node.matrix).reshape(4, 4).T
        move, grow = np.eye(4), np.eye(4)
        move[:3, 3] = node.translation or [0, 0, 0]
        grow[range(3), range(3)] = node.scale or [1, 1, 1]
        x, y, z, w = node.rotation or [0, 0, 0, 1]
        turn = np.eye(4)
        for column, vector in enumerate(np.eye(3)):  # v + 2 q x (q x v + w v)
            axis = np.array([x, y, z])
            turn[:3, column] = vector + 2 * np.cross(axis, np.cross(axis, vector) + w * vector)
        return move @ turn @ grow

    parents = {child: index for index, n in enumerate(gltf.nodes) for child in n.children or []}

    def world(index):
        matrix = local(gltf.nodes[index])
        return world(parents[index]) @ matrix if index in parents else matrix

    found = []
    for node in gltf.nodes:
        if node.mesh is None:
            continue
        joints = gltf.skins[node.skin].joints
        inverse = read(gltf.skins[node.skin].inverseBindMatrices).reshape(-1, 4, 4)
        matrices = [world(j) @ inverse[i].T for i, j in enumerate(joints)]
        for primitive in gltf.meshes[node.mesh].primitives:
            attributes = primitive.attributes
            columns = zip(
                read(attributes.POSITION),
                read(attributes.JOINTS_0),
                read(attributes.WEIGHTS_0),
                strict=True,
            )
            for position, moved, weights in columns:
                matrix = sum(
                    w * matrices[j] for w, j in zip(weights / weights.sum(), moved, strict=True)
                )
                found.append((matrix @ [*position, 1])[:3])
    return np.array(found)


@pytest.mark.parametrize("name", RIGS)
def test_resting_a_real_rig_is_the_surface_its_file_shows(shared, name):
    path = shared / "rigs" / f"{name}.glb"
    template = templates.load(path)
    resting = skin(template, template.rest_parameters(1))[0].numpy()
    shown = viewer(path)
    # Copies at seams are merged, and meshes are read in another order: the sets are the same.
    assert cKDTree(resting).query(shown)[0].max() < 1e-5
    assert cKDTree(shown).query(resting)[0].max() < 1e-5
    gltf = pygltflib.GLTF2().load(str(path))
    triangles = sum(
        gltf.accessors[primitive.indices].count // 3
        for mesh in gltf.meshes
        for primitive in mesh.primitives
    )
    assert len(template.faces) == triangles


@pytest.mark.parametrize("name", RIGS)
def test_a_real_rig_is_its_own_mirror_image(shared, name):
    template = templates.load(shared / "rigs" / f"{name}.glb")
    image = template.vertices[template.mirror] * torch.tensor([-1.0, 1, 1])
    assert (image - template.vertices).norm(dim=1).median() < 1e-5
    twice = template.mirror[template.mirror] == torch.arange(len(template.vertices))
    assert twice.float().mean() > 0.98


@pytest.mark.parametrize("name", RIGS)
def test_all_24_segments_are_found_or_placed_and_stand_as_a_person(shared, name):
    template, report = templates.load_with_report(shared / "rigs" / f"{name}.glb")
    assert report is not None
    assert [found.segment for found in report.found] == SEGMENTS
    needed = [
        f for f in report.found if f.segment.endswith(("hip", "knee", "ankle", "elbow", "wrist"))
    ]
    assert all(found.how == "name" for found in needed)
    place = dict(zip(SEGMENTS, template.joints, strict=True))
    for side, outward in (("left_", 1), ("right_", -1)):
        assert place[side + "shoulder"][0] * outward > 0.05
        assert place[side + "hip"][1] > place[side + "knee"][1] > place[side + "ankle"][1]
        assert place[side + "foot"][2] > place[side + "ankle"][2]
        reach = [abs(place[side + s][0]) for s in ("collar", "shoulder", "elbow", "wrist", "hand")]
        assert reach == sorted(reach)
    heights = [place[s][1] for s in ("spine1", "spine2", "spine3", "neck", "head")]
    assert heights == sorted(heights)
    assert (template.weights.sum(0) > 1).all()
    for found in report.found:  # sides as the file's own names have them
        sides = {side for bone in found.bones for side in re.findall(r"[._]([LR])(?:_|$)", bone)}
        side = {"left": {"L"}, "right": {"R"}}.get(found.segment.partition("_")[0])
        assert not found.bones or side is None or sides == side


@pytest.mark.slow
def test_annys_own_104_bones_are_reduced_as_the_default_body_is(anny, tmp_path):
    """MakeHuman's skeleton: fingers, toes, split limbs, facial bones, all by their names alone."""
    from deformlearn.anny_body import ANNY_ADULT_AGE, anny_model

    model = anny_model()
    ages = {
        label: torch.tensor([ANNY_ADULT_AGE if label == "age" else 0.5])
        for label in model.phenotype_labels
    }
    rest = torch.eye(4, dtype=model.dtype).expand(1, model.bone_count, 4, 4)
    with torch.no_grad():
        body = model(pose_parameters=rest, phenotype_kwargs=ages)
    weights = np.zeros((len(anny.vertices), model.bone_count))
    rows = np.arange(len(weights))[:, None]
    moved = model.vertex_bone_weights.double().numpy()
    np.add.at(weights, (rows, model.vertex_bone_indices.numpy()), moved)
    rig = RigFile(
        body["vertices"][0].double().numpy(), model.faces.numpy(), tuple(model.bone_labels),
        tuple(model.bone_parents), body["bone_poses"][0, :, :3, 3].double().numpy(), weights,
        influences=8,
    )  # fmt: skip
    loaded, report = templates.load_with_report(write_glb(rig, tmp_path / "makehuman.glb"))
    assert report is not None
    assert "the file's +z is up, -y is forward, +x its left" in report.notes[0]
    torch.testing.assert_close(loaded.joints, anny.joints, atol=1e-4, rtol=0)
    # A ninth influence is cut off.
    torch.testing.assert_close(loaded.weights, anny.weights, atol=2e-3, rtol=0)
