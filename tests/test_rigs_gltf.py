"""Rigs in glTF files, as exporters write them: the surface that a viewer shows, standing, in metres."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pygltflib
import pytest
import torch

from deformlearn import templates
from deformlearn.body import BodyTemplate, skin
from deformlearn.rigs.gltf import read_gltf
from deformlearn.rigs.rig import RigReport
from deformlearn.skeleton import SEGMENTS, mirrored_name
from rig_files import (
    MIXAMO,
    RigFile,
    in_pose,
    rig_of,
    to_gltf,
    turned,
    with_bones,
    write_glb,
    write_gltf,
)

POSES = {
    "A": {},
    "T": {"left_shoulder": (0, 0, 0.85), "right_shoulder": (0, 0, -0.85),
          "left_elbow": (0, 0.6, 0), "right_elbow": (0, -0.6, 0)},
    "arms down": {"left_shoulder": (0, 0, -0.6), "right_shoulder": (0, 0, 0.6)},
}  # fmt: skip


def load(rig: RigFile, folder: Path) -> tuple[BodyTemplate, RigReport]:
    template, report = templates.load_with_report(write_glb(rig, folder / "person.glb"))
    assert report is not None
    return template, report


def assert_is(loaded: BodyTemplate, truth: BodyTemplate) -> None:
    torch.testing.assert_close(loaded.vertices, truth.vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(loaded.joints, truth.joints, atol=1e-6, rtol=0)
    assert torch.equal(loaded.faces, truth.faces)


def at_rest(template: BodyTemplate) -> torch.Tensor:
    return skin(template, template.rest_parameters(1))[0]


# One person, written in many ways


@pytest.mark.parametrize("pose", POSES)
def test_any_rest_pose_comes_back_as_it_was(anny, tmp_path, pose):
    posed = in_pose(anny, **POSES[pose])
    loaded, _ = load(rig_of(posed, influences=8), tmp_path)
    assert_is(loaded, posed)
    torch.testing.assert_close(loaded.weights, posed.weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(at_rest(loaded), posed.vertices, atol=1e-5, rtol=0)


def test_joint_limits_follow_the_rest_pose(anny, tmp_path):
    """An arm that rests raised can be raised less."""
    highest = {}
    for pose in ("T", "arms down"):
        loaded, _ = load(rig_of(in_pose(anny, **POSES[pose])), tmp_path)
        highest[pose] = loaded.limits[SEGMENTS.index("left_shoulder") - 1, 1, 1]
    assert highest["arms down"] - highest["T"] > 1.2


UNITS = [(1.0, ""), (100.0, "centimetres"), (1000.0, "millimetres"), (1 / 0.0254, "inches"),
         (10.0, "decimetres"), (0.01, "hundreds of metres")]  # fmt: skip


@pytest.mark.parametrize(("unit", "name"), UNITS)
def test_units_are_told_by_a_persons_height(anny, tmp_path, unit, name):
    loaded, report = load(turned(rig_of(anny), np.eye(3), unit), tmp_path)
    assert_is(loaded, anny)
    assert any(f"taken as {name}" in note for note in report.notes) == bool(name)


def test_a_height_in_no_unit_becomes_a_usual_one_and_a_giant_stays(anny, tmp_path):
    loaded, report = load(turned(rig_of(anny), np.eye(3), 5.0), tmp_path)
    assert loaded.height == pytest.approx(1.7)
    assert "a person's height in no unit; made 1.70 m" in " ".join(report.notes)
    loaded, report = load(turned(rig_of(anny), np.eye(3), 1.5), tmp_path)
    assert loaded.height == pytest.approx(1.5 * anny.height)
    assert "2.76 m tall, which is unusual" in " ".join(report.notes)


COSINE, SINE = np.cos(0.8), np.sin(0.8)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1, 0, 0], [0, 0, -1], [0, 1, 0]], "the file's +z is up, -y is forward, +x its left"),
        ([[-1, 0, 0], [0, 1, 0], [0, 0, -1]], "the file's +y is up, -z is forward, -x its left"),
        ([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], "the file's +y is up, +x is forward, -z its left"),
        ([[0, -1, 0], [1, 0, 0], [0, 0, 1]], "the file's -x is up, +z is forward, +y its left"),
        ([[COSINE, 0, SINE], [0, 1, 0], [-SINE, 0, COSINE]], "stands askew"),
    ],
)
def test_up_and_forward_are_found(anny, tmp_path, rows, said):
    loaded, report = load(turned(rig_of(anny), rows), tmp_path)
    assert_is(loaded, anny)
    assert any(said in note for note in report.notes)


def test_a_person_beside_the_middle_is_moved_there(anny, tmp_path):
    rig = rig_of(anny)
    step = np.array([3.0, 0, 0])
    aside = replace(rig, vertices=rig.vertices + step, joints=rig.joints + step)
    loaded, report = load(aside, tmp_path)
    assert_is(loaded, anny)
    assert "stood +3.00 m beside the middle" in " ".join(report.notes)


def test_names_that_exchange_left_and_right_are_put_right_by_the_feet(anny, tmp_path):
    swapped = {segment: MIXAMO[mirrored_name(segment)] for segment in SEGMENTS}
    loaded, report = load(rig_of(anny, swapped), tmp_path)
    assert_is(loaded, anny)
    assert "left and right exchanged" in " ".join(report.notes)
    assert [f.segment for f in report.found] == SEGMENTS
    assert {f.segment: f.bones[0] for f in report.found} == swapped


WAYS = {
    "scaled nodes": {"node_scale": 100.0},
    "sparse positions": {"sparse": True},
    "four influences": {"influences": 4},
    "bytes": {"integer": np.uint8, "influences": 8},
    "shorts": {"integer": np.uint16, "influences": 8},
}


@pytest.mark.parametrize("way", WAYS)
def test_storage_makes_no_difference(anny, tmp_path, way):
    loaded, report = load(rig_of(anny, **WAYS[way]), tmp_path)
    assert_is(loaded, anny)
    # Four influences cut off what Anny's vertices have beyond them, up to 3 %.
    loose = {"bytes": 0.02, "shorts": 1e-4}.get(way, 0.04)
    torch.testing.assert_close(loaded.weights, anny.weights, atol=loose, rtol=0)
    torch.testing.assert_close(loaded.weights.sum(1), torch.ones(len(anny.vertices)))
    assert any("do not sum to one" in note for note in report.notes) == (loose == 0.04)


@pytest.mark.parametrize("external", [False, True])
def test_a_json_file_with_its_buffer_inside_or_beside_it(anny, tmp_path, external):
    path = write_gltf(rig_of(anny), tmp_path / "person.gltf", external=external)
    assert_is(templates.load(path), anny)


def test_several_meshes_and_skins_are_one_body(anny, tmp_path):
    loaded, _ = load(rig_of(anny, meshes=3), tmp_path)
    assert len(loaded.faces) == len(anny.faces)
    dealt = torch.cat([anny.faces[part::3] for part in range(3)])
    assert torch.equal(loaded.vertices[loaded.faces], anny.vertices[dealt])


def test_copies_of_a_vertex_at_the_seams_of_textures_are_merged(anny, tmp_path):
    rig = rig_of(anny, influences=8)
    corners = rig.faces.ravel()
    flat = replace(
        rig, vertices=rig.vertices[corners], weights=rig.weights[corners],
        faces=np.arange(len(corners)).reshape(-1, 3),
    )  # fmt: skip
    loaded, report = load(flat, tmp_path)
    assert len(loaded.vertices) == len(anny.vertices)
    assert torch.equal(loaded.vertices[loaded.faces], anny.vertices[anny.faces])
    assert (
        f"{len(corners) - len(anny.vertices)} of {len(corners)} vertices were copies"
        in " ".join(report.notes)
    )


def test_vertices_at_one_place_that_move_apart_stay_two(template, tmp_path):
    rig = rig_of(template)
    vertices = rig.vertices.copy()
    # Two corners of shin and foot touch, as lips do.
    shin, foot = (6 * rig.bones.index(name) for name in ("LeftLeg", "LeftFoot"))
    vertices[shin] = vertices[foot]
    loaded, report = load(replace(rig, vertices=vertices), tmp_path)
    assert len(loaded.vertices) == len(template.vertices)
    assert not any("merged" in note for note in report.notes)


def test_bones_that_hang_on_others_fold_into_them(anny, tmp_path):
    rig = with_bones(
        rig_of(anny),
        ("LeftArmTwist", "LeftArm", (0.1, -0.1, 0)), ("LeftHandThumb1", "LeftHand", (0, 0, 0.05)),
        ("Skirt", "Hips", (0, -0.2, 0)), ("ik_foot_l", None, (0.19, -0.9, 0)),
    )  # fmt: skip
    weights = rig.weights.copy()
    for helper, owner in ((24, "LeftArm"), (25, "LeftHand"), (26, "Hips"), (27, "LeftFoot")):
        weights[:, helper] = 0.5 * weights[:, rig.bones.index(owner)]
        weights[:, rig.bones.index(owner)] *= 0.5
    loaded, _ = load(replace(rig, weights=weights, influences=8), tmp_path)
    torch.testing.assert_close(loaded.weights, anny.weights, atol=1e-5, rtol=0)


def test_vrm_says_which_bone_is_which(anny, tmp_path):
    names = {segment: f"node{index * 7 % 24}" for index, segment in enumerate(SEGMENTS)}
    rig = rig_of(anny, names)
    vrm = {"hips": "pelvis", "neck": "neck", "head": "head"}
    for side in ("left", "right"):
        vrm |= {f"{side}UpperLeg": f"{side}_hip", f"{side}LowerLeg": f"{side}_knee",
                f"{side}Foot": f"{side}_ankle", f"{side}Toes": f"{side}_foot",
                f"{side}Shoulder": f"{side}_collar", f"{side}UpperArm": f"{side}_shoulder",
                f"{side}LowerArm": f"{side}_elbow", f"{side}Hand": f"{side}_wrist",
                f"{side}MiddleProximal": f"{side}_hand"}  # fmt: skip
    nodes = {bone: rig.bones.index(names[segment]) + 1 for bone, segment in vrm.items()}
    bones = {bone: {"node": node} for bone, node in nodes.items()}
    new = {"VRMC_vrm": {"humanoid": {"humanBones": bones}}}
    listed = [{"bone": bone, "node": node} for bone, node in nodes.items()]
    old = {"VRM": {"humanoid": {"humanBones": listed}}}
    for extras in (new, old):
        loaded, report = load(replace(rig, extras=extras), tmp_path)
        assert_is(loaded, anny)
        assert {f.how for f in report.found} == {"VRM", "chain"}


def test_a_rigid_mesh_on_a_bone_moves_with_it_and_one_on_none_is_left_out(anny, tmp_path):
    gltf, blob = to_gltf(rig_of(anny))
    mesh = gltf.meshes[0]
    prop = pygltflib.Mesh(
        name="prop",
        primitives=[
            pygltflib.Primitive(
                attributes=pygltflib.Attributes(POSITION=mesh.primitives[0].attributes.POSITION),
                indices=mesh.primitives[0].indices,
            )
        ],
    )
    gltf.meshes.append(prop)
    head = 1 + rig_of(anny).bones.index("Head")
    gltf.nodes += [
        pygltflib.Node(name="hat", mesh=1, scale=[0.1] * 3),
        pygltflib.Node(name="stone", mesh=1),
    ]
    gltf.nodes[head].children = [len(gltf.nodes) - 2]
    gltf.scenes[0].nodes.append(len(gltf.nodes) - 1)
    path = write_glb((gltf, blob), tmp_path / "person.glb")
    loaded, report = templates.load_with_report(path)
    count = len(anny.vertices)
    assert len(loaded.vertices) == 2 * count
    assert "'stone' is bound to no bone: left out" in " ".join(report.notes)
    # Nodes are read from the top down: the body's hangs higher than the hat's.
    where = anny.joints[SEGMENTS.index("head")] + 0.1 * anny.vertices
    torch.testing.assert_close(loaded.vertices[count:], where, atol=1e-5, rtol=0)
    assert (loaded.weights[count:, SEGMENTS.index("head")] == 1).all()


def test_a_skin_that_is_inside_out_is_turned_and_said(anny, tmp_path):
    rig = rig_of(anny)
    loaded, report = load(replace(rig, faces=rig.faces[:, ::-1]), tmp_path)
    assert_is(loaded, anny)
    assert "the skin was inside out: turned" in report.notes


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    return float(np.linalg.det(vertices[faces]).sum() / 6)


def test_what_a_node_mirrors_stays_outside_out(anny, tmp_path):
    gltf, blob = to_gltf(rig_of(anny))
    gltf.nodes[0].scale = [-1, 1, 1]
    body = gltf.meshes[0].primitives[0]
    attributes = pygltflib.Attributes(POSITION=body.attributes.POSITION)
    gltf.meshes.append(
        pygltflib.Mesh(
            primitives=[pygltflib.Primitive(attributes=attributes, indices=body.indices)]
        )
    )
    gltf.nodes.append(pygltflib.Node(name="hat", mesh=1, scale=[0.1] * 3))
    head = 1 + rig_of(anny).bones.index("Head")
    gltf.nodes[head].children = [len(gltf.nodes) - 1]
    path = write_glb((gltf, blob), tmp_path / "person.glb")
    rig, count = read_gltf(path), len(anny.vertices)
    body_faces = rig.faces[(rig.faces < count).all(1)]
    hat_faces = rig.faces[(rig.faces >= count).all(1)]
    whole = volume(anny.vertices.double().numpy(), anny.faces.numpy())
    assert volume(rig.vertices, body_faces) == pytest.approx(whole, rel=1e-5)
    assert volume(rig.vertices, hat_faces) == pytest.approx(1e-3 * whole, rel=1e-4)
    assert not any("inside out" in note for note in templates.load_with_report(path)[1].notes)


@pytest.mark.parametrize("mode", [5, 6])
def test_strips_and_fans_are_unrolled(anny, tmp_path, mode):
    gltf, blob = to_gltf(rig_of(anny))
    gltf.meshes[0].primitives[0].mode = mode
    rig = read_gltf(write_glb((gltf, blob), tmp_path / "person.glb"))
    corners = anny.faces.flatten().numpy()
    assert len(rig.faces) == len(corners) - 2
    third = corners[2:]
    first, second = (corners[:-2].copy(), corners[1:-1].copy()) if mode == 5 else (
        np.full(len(third), corners[0]), corners[1:-1]
    )  # fmt: skip
    if mode == 5:
        first[1::2], second[1::2] = corners[2:-1:2], corners[1:-2:2]
    np.testing.assert_array_equal(rig.faces, np.stack([first, second, third], 1))


def test_what_is_left_out_is_said(anny, tmp_path):
    gltf, blob = to_gltf(rig_of(anny, meshes=2))
    position = gltf.meshes[0].primitives[0].attributes.POSITION
    gltf.meshes[0].primitives[0].targets = [pygltflib.Attributes(POSITION=position)]
    gltf.meshes[1].primitives[0].mode = 0
    _, report = templates.load_with_report(write_glb((gltf, blob), tmp_path / "person.glb"))
    assert "morph targets ignored" in report.notes
    assert "points or lines of 'part 1' left out" in report.notes


def test_morph_targets_stand_as_the_mesh_sets_them(anny, tmp_path):
    """Makers of people sculpt by them: at zero it would be another person."""
    gltf, blob = to_gltf(rig_of(anny))
    mesh = gltf.meshes[0]
    position = mesh.primitives[0].attributes.POSITION
    # Its own places as a target, a quarter of them: everything a quarter larger.
    mesh.primitives[0].targets = [pygltflib.Attributes(POSITION=position) for _ in range(2)]
    mesh.weights = [0.25, 0.0]
    rig = read_gltf(write_glb((gltf, blob), tmp_path / "person.glb"))
    np.testing.assert_allclose(rig.vertices, 1.25 * anny.vertices.numpy(), atol=1e-5)
    assert "morph targets kept as the file sets them" in rig.notes


def test_meshes_outside_the_shown_scene_are_left_out(anny, tmp_path):
    gltf, blob = to_gltf(rig_of(anny, meshes=2))
    gltf.scenes[0].nodes.pop()
    loaded, report = templates.load_with_report(write_glb((gltf, blob), tmp_path / "person.glb"))
    assert len(loaded.faces) == len(anny.faces[::2])
    assert "'part 1' is not in the scene that is shown: left out" in report.notes


# Missing joints


def test_missing_joints_are_placed_near_where_they_were_and_said(anny, tmp_path):
    gone = {
        "spine2",
        "head",
        *(f"{s}_{j}" for s in ("left", "right") for j in ("foot", "hand", "collar")),
    }
    loaded, report = load(
        rig_of(anny, {s: n for s, n in MIXAMO.items() if s not in gone}), tmp_path
    )
    away = (loaded.joints - anny.joints).norm(dim=1)
    assert away.max() < 0.04
    assert (away[[SEGMENTS.index(s) for s in SEGMENTS if s not in gone]] < 1e-6).all()
    placed = next(note for note in report.notes if "placed by proportion" in note)
    assert all(name in placed for name in gone)
    assert {f.segment for f in report.found if f.how == "placed"} == gone
    assert (loaded.weights.sum(0) > 1).all()  # each has skin to move


@pytest.mark.parametrize("gone", ["ankle", "wrist", "neck"])
def test_even_ends_of_limbs_may_be_missing(anny, tmp_path, gone):
    below = {"ankle": ("ankle", "foot"), "wrist": ("wrist", "hand"), "neck": ("neck",)}[gone]
    names = {s: n for s, n in MIXAMO.items() if not s.endswith(below)}
    loaded, _ = load(rig_of(anny, names), tmp_path)
    assert (loaded.joints - anny.joints).norm(dim=1).max() < 0.06


def test_placed_segments_move_the_skin_beyond_their_joint(anny, tmp_path):
    names = {s: n for s, n in MIXAMO.items() if not s.endswith("foot")}
    loaded, _ = load(rig_of(anny, names), tmp_path)
    foot = SEGMENTS.index("left_foot")
    left = loaded.vertices[:, 0] > 0
    toes = left & (loaded.vertices[:, 2] > 0.2) & (loaded.vertices[:, 1] < -0.9)
    heel = left & (loaded.vertices[:, 2] < 0) & (loaded.vertices[:, 1] < -0.9)
    assert (loaded.weights[toes, foot] > 0.9).all()
    assert loaded.weights[heel, foot].max() == 0
