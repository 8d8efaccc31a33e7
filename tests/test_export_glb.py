"""GLB files, read back by our own reader, by three.js, by Blender, and by Khronos' validator."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

import deformlearn
import viewers
from deformlearn import templates
from deformlearn.body import skin
from deformlearn.camera import Crop, project
from deformlearn.data.estimates import Estimates
from deformlearn.exports.axes import estimate_mesh
from deformlearn.exports.glb import GlbOptions, write_glb
from deformlearn.exports.influences import cut_loss, most_influences, strongest
from deformlearn.exports.texture import Texture
from deformlearn.rigs.gltf import read_gltf
from deformlearn.skeleton import SEGMENTS

CLOSE_MM = 0.01
FIVE = [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.fixture(scope="module")
def people(template, planted):
    return estimates_of(*planted(template, 5, seed=4)[::2])


@pytest.fixture(scope="module")
def anny_people(anny, planted):
    return estimates_of(*planted(anny, 2, seed=2)[::2])


@pytest.fixture(scope="module")
def four(anny):
    """Anny with at most four influences: what every reader can show."""
    return replace(anny, weights=strongest(anny, 4).dense(24))


def estimates_of(estimate, crop):
    # Crops that lie somewhere in larger pictures, each of its own size.
    count = len(crop)
    half = 60.0 + 7 * torch.arange(count)
    centre = torch.stack([200 + 9.0 * torch.arange(count), 150 - 4.0 * torch.arange(count)], -1)
    return Estimates([f"p_{row:06d}" for row in range(count)], estimate, Crop(centre, half))


def row(estimates, index):
    one = slice(index, index + 1)
    return Estimates(estimates.keys[one], estimates.estimate[one], estimates.crop[one])


def parts(path):
    """The JSON of a GLB and its arrays."""
    content = path.read_bytes()
    length, _ = struct.unpack_from("<II", content, 12)
    document = json.loads(content[20 : 20 + length])
    binary = content[28 + length :]
    kinds = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
    shapes = {"SCALAR": (), "VEC2": (2,), "VEC3": (3,), "VEC4": (4,), "MAT4": (4, 4)}

    def array(index):
        accessor = document["accessors"][index]
        start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
        shape = (accessor["count"], *shapes[accessor["type"]])
        kind = np.dtype(kinds[accessor["componentType"]])
        return np.frombuffer(binary, kind, int(np.prod(shape)), start).reshape(shape)

    return document, array


def apart_mm(found, expected):
    return np.linalg.norm(np.asarray(found) - np.asarray(expected), axis=-1).max() * 1000


@pytest.mark.parametrize("axes", ["template", "camera"])
def test_the_pose_read_back_is_the_estimate_whatever_the_sizes_of_segments(
    template, people, tmp_path, axes
):
    one = row(people, 1)
    assert one.estimate.body.scales.std() > 0.02
    loss = write_glb(tmp_path / "a.glb", one, template, GlbOptions(axes=axes))
    assert loss.largest_mm == 0
    rig = read_gltf(tmp_path / "a.glb")
    expected = estimate_mesh(template, one.estimate, axes=axes)[0]
    assert apart_mm(rig.vertices, expected) < CLOSE_MM
    assert sorted(rig.bones) == sorted(SEGMENTS)
    np.testing.assert_array_equal(rig.faces, template.faces)


def test_a_file_of_the_rest_pose_loads_as_the_template_it_was_made_from(anny, tmp_path):
    rest = deformlearn.Estimate.rest(anny, 1)
    crop = Crop(torch.zeros(1, 2), torch.ones(1))
    write_glb(tmp_path / "a.glb", Estimates(["rest"], rest, crop), anny, GlbOptions(influences=8))
    loaded = templates.load(tmp_path / "a.glb")
    torch.testing.assert_close(loaded.vertices, anny.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(loaded.joints, anny.joints, atol=1e-5, rtol=0)
    torch.testing.assert_close(loaded.weights, anny.weights, atol=1e-5, rtol=0)
    assert torch.equal(loaded.faces, anny.faces)


def test_a_node_undoes_the_scale_that_it_would_inherit_and_keeps_its_offset(
    template, people, tmp_path
):
    write_glb(tmp_path / "a.glb", row(people, 0), template)
    nodes = parts(tmp_path / "a.glb")[0]["nodes"]
    scales = people.estimate.body.scales[0]
    for joint, parent in enumerate(template.parents):
        size = scales[joint] / (scales[parent] if parent >= 0 else 1)
        np.testing.assert_allclose(nodes[joint]["scale"], [size] * 3, rtol=1e-6)
        rest = template.joints[joint] - (template.joints[parent] if parent >= 0 else 0)
        np.testing.assert_allclose(nodes[joint]["translation"], rest, atol=1e-7)


def test_three_js_draws_the_very_vertices(four, anny_people, tmp_path):
    one = row(anny_people, 0)
    for axes in ("template", "camera"):
        write_glb(tmp_path / "a.glb", one, four, GlbOptions(axes=axes))
        world, _, extras = viewers.in_three(tmp_path / "a.glb")
        assert apart_mm(world, estimate_mesh(four, one.estimate, axes=axes)[0]) < CLOSE_MM
        assert extras["fingerprint"] == four.fingerprint


def test_blender_draws_the_very_vertices(four, anny, anny_people, tmp_path):
    one = row(anny_people, 1)
    cases = {"four": (four, GlbOptions("camera")), "all": (anny, GlbOptions(influences=8))}
    for name, (body, options) in cases.items():
        write_glb(tmp_path / f"{name}.glb", one, body, options)
        found = viewers.in_blender(tmp_path / f"{name}.glb", tmp_path / f"{name}.npz")
        expected = estimate_mesh(body, one.estimate, axes=options.axes)[0]
        assert apart_mm(found["vertices"][0], expected) < CLOSE_MM
        assert found["camera"] == "photograph, orthographic"


def test_the_validator_of_khronos_finds_nothing(
    four, anny, template, people, anny_people, tmp_path
):
    write_glb(tmp_path / "four.glb", row(anny_people, 0), four)
    write_glb(tmp_path / "all.glb", row(anny_people, 0), anny, GlbOptions("camera", 8))
    write_glb(tmp_path / "motion.glb", people, template, GlbOptions("camera"), times=FIVE)
    corners = np.random.default_rng(0).random((len(template.faces), 3, 2))
    texture = Texture(corners, np.full((64, 128, 4), 200, np.uint8), 1.0)
    write_glb(tmp_path / "texture.glb", row(people, 0), template, texture=texture)
    assert viewers.issues(*sorted(tmp_path.glob("*.glb"))) == []


def test_the_validator_would_find_something(template, people, tmp_path):
    write_glb(tmp_path / "a.glb", row(people, 0), template)
    content = (tmp_path / "a.glb").read_bytes()
    (tmp_path / "a.glb").write_bytes(content.replace(b'"skin":0', b'"skin":7'))
    assert any(
        issue["code"] == "UNRESOLVED_REFERENCE" for issue in viewers.issues(tmp_path / "a.glb")
    )


def test_what_cutting_to_four_bones_costs_is_measured_and_said(anny, four, anny_people, tmp_path):
    assert most_influences(anny) == 6
    one = row(anny_people, 0)
    loss = write_glb(tmp_path / "a.glb", one, anny)
    apart = (skin(anny, one.estimate.body) - skin(four, one.estimate.body)).norm(dim=-1) * 1000
    assert loss.largest_mm == pytest.approx(apart.max().item(), rel=1e-3)
    assert loss.mean_mm == pytest.approx(apart.mean().item(), rel=1e-3)
    assert 0.1 < loss.largest_mm < 20
    said = parts(tmp_path / "a.glb")[0]["asset"]["extras"]["skinning"]
    assert f"up to {loss.largest_mm:.3f} mm" in said
    # With a second set nothing is left out.
    assert write_glb(tmp_path / "b.glb", one, anny, GlbOptions(influences=8)).largest_mm < 1e-3
    assert (
        apart_mm(read_gltf(tmp_path / "b.glb").vertices, skin(anny, one.estimate.body)[0])
        < CLOSE_MM
    )


def test_cut_weights_sum_to_one_and_name_no_bone_they_do_not_use(anny):
    cut = strongest(anny, 4)
    np.testing.assert_allclose(cut.weights.sum(1, dtype=np.float64), 1, atol=1e-7)
    assert (cut.joints[cut.weights == 0] == 0).all()
    assert (np.diff(cut.weights, axis=1) <= 0).all()
    whole = strongest(anny, 8)
    torch.testing.assert_close(whole.dense(24), anny.weights, atol=1e-6, rtol=0)
    rest = anny.rest_parameters(1)
    assert cut_loss(anny, cut, rest).largest_mm < 1e-3


@pytest.mark.parametrize("motion", ["none", "plane", "space"])
def test_every_key_frame_of_a_video_is_its_estimate(template, people, tmp_path, motion):
    options = GlbOptions("camera", motion=motion)
    times = [0.0, 0.1, 0.2, 0.5, 0.6]
    write_glb(tmp_path / "a.glb", people, template, options, times=times)
    shifts = []
    for frame, seconds in enumerate(times[:-1]):  # at its very end three.js starts again
        world, seen, _ = viewers.in_three(tmp_path / "a.glb", seconds)
        expected = estimate_mesh(template, people.estimate[frame], axes="camera").numpy()
        shifts.append((world - expected).mean(0))
        assert apart_mm(world - shifts[-1], expected) < CLOSE_MM
        if motion == "space":  # the perspective camera stays and sees what the photographs show
            image = in_pixels(people, frame, skin(template, people.estimate.body[frame]))
            first = people.crop[0]
            drawn = seen[1][:, :2] * [1, -1] * first.half.item() + first.centre.numpy()
            assert np.abs(drawn - image).max() < 2.5
    moved = np.abs(shifts).max(0)
    assert moved[0] > 0.05 or motion == "none"
    assert (moved[2] > 0.05) == (motion == "space")
    assert np.abs(shifts[0]).max() < 1e-6


def in_pixels(people, frame, points):
    seen = project(people.estimate.camera[frame], points)[..., :2]
    return people.crop[frame].to_pixels(seen).numpy()


def test_blender_plays_the_frames(template, people, tmp_path):
    fps = 24.0  # Blender's own
    times = [frame / fps for frame in range(5)]
    options = GlbOptions("camera", motion="none")
    write_glb(tmp_path / "a.glb", people, template, options, times=times)
    found = viewers.in_blender(tmp_path / "a.glb", tmp_path / "a.npz", 0, 2, 4)
    expected = estimate_mesh(template, people.estimate, axes="camera")
    for shown, frame in zip(found["vertices"], (0, 2, 4), strict=True):
        assert apart_mm(shown, expected[frame]) < CLOSE_MM
    assert found["frame_end"] == 4


@pytest.mark.parametrize("axes", ["template", "camera"])
def test_both_cameras_see_the_person_where_the_photograph_shows_it(
    template, people, tmp_path, axes
):
    one = row(people, 2)
    write_glb(tmp_path / "a.glb", one, template, GlbOptions(axes, focal_px=9000.0))
    _, (orthographic, perspective), extras = viewers.in_three(tmp_path / "a.glb")
    image = project(one.estimate.camera, skin(template, one.estimate.body))[0].numpy()
    # Device coordinates have y up.
    np.testing.assert_allclose(orthographic[:, :2] * [1, -1], image[:, :2], atol=1e-5)
    np.testing.assert_allclose(perspective[:, :2] * [1, -1], image[:, :2], atol=0.02)
    form = extras["camera"]["perspective"]
    turned = skin(template, one.estimate.body)[0] @ one.estimate.camera.rotation()[0].T
    placed = turned.numpy() + form["translation"]
    drawn = form["focal_px"] * placed[:, :2] / placed[:, 2:] + form["principal_px"]
    half, centre = one.crop.half.item(), one.crop.centre[0].numpy()
    np.testing.assert_allclose((drawn - centre) / half, perspective[:, :2] * [1, -1], atol=1e-4)


def test_the_quaternions_of_a_video_never_jump_to_the_other_side(template, people, tmp_path):
    spin = people.estimate.camera.matrix.clone()
    pose = people.estimate.body.pose.clone()
    pose[:, 3] = torch.tensor([[angle, 0.0, 0.0] for angle in (3.0, 3.1, 3.2, 3.3, 3.4)])
    body = replace(people.estimate.body, pose=pose)
    camera = replace(people.estimate.camera, matrix=spin)
    moving = Estimates(people.keys, replace(people.estimate, body=body, camera=camera), people.crop)
    write_glb(tmp_path / "a.glb", moving, template, times=FIVE)
    document, array = parts(tmp_path / "a.glb")
    (motion,) = document["animations"]
    for channel in motion["channels"]:
        if channel["target"]["path"] == "rotation":
            values = array(motion["samplers"][channel["sampler"]]["output"])
            assert ((values[1:] * values[:-1]).sum(1) >= 0).all()


def test_pose_blend_shapes_are_in_a_pose_and_said_to_be_left_out_of_motion(
    template, people, tmp_path
):
    g = torch.Generator().manual_seed(0)
    shapes = 0.01 * torch.randn(len(template.vertices), 3, 207, generator=g)
    body = replace(template, pose_blendshapes=shapes)
    one = row(people, 3)
    write_glb(tmp_path / "a.glb", one, body, GlbOptions("camera"))
    expected = estimate_mesh(body, one.estimate, axes="camera")[0]
    assert apart_mm(expected, estimate_mesh(template, one.estimate, axes="camera")[0]) > 5
    assert apart_mm(read_gltf(tmp_path / "a.glb").vertices, expected) < CLOSE_MM
    said = parts(tmp_path / "a.glb")[0]["asset"]["extras"]
    assert "blend shapes" in said["skinning"]
    assert said["fingerprint"] == body.fingerprint
    write_glb(tmp_path / "b.glb", people, body, times=FIVE)
    said = parts(tmp_path / "b.glb")[0]["asset"]["extras"]
    assert "left out" in said["skinning"]
    np.testing.assert_array_equal(parts(tmp_path / "b.glb")[1](0), template.vertices)


def test_the_file_says_what_it_is(template, people, tmp_path):
    flagged = replace(row(people, 1), flags=("not converged",))
    write_glb(tmp_path / "a.glb", flagged, template, GlbOptions("camera"))
    document, _ = parts(tmp_path / "a.glb")
    said = document["asset"]["extras"]
    assert said["deformlearn"] == deformlearn.__version__
    assert said["fingerprint"] == template.fingerprint
    assert said["unit"] == "metre"
    assert said["axes"].startswith("camera: as the photograph shows the person")
    assert said["key"] == "p_000001"
    assert said["flag"] == "not converged"
    assert "translation added after the scale" in said["camera"]["crop"]["formula"]
    assert said["camera"]["crop"]["half_px"] == 67
    assert said["camera"]["perspective"]["focal_px"] == pytest.approx(67 * 5000 / 112)
    assert {"crop", "full_image", "hmr", "perspective"} <= set(said["camera"])
    assert document["nodes"][24]["extras"] == said


def test_a_texture_splits_vertices_along_its_seams_only(template, people, tmp_path):
    uv = np.zeros((len(template.faces), 3, 2))
    uv[:, 1, 0] = uv[:, 2, 1] = 1.0
    uv[::2] += 0.25  # every other face elsewhere
    image = np.zeros((8, 8, 4), np.uint8)
    write_glb(tmp_path / "a.glb", row(people, 0), template, texture=Texture(uv, image, 0.5))
    document, array = parts(tmp_path / "a.glb")
    (primitive,) = document["meshes"][0]["primitives"]
    places = array(primitive["attributes"]["TEXCOORD_0"])
    corners = array(primitive["indices"]).reshape(-1, 3)
    np.testing.assert_allclose(places[corners], uv, atol=1e-7)
    position = array(primitive["attributes"]["POSITION"])
    np.testing.assert_array_equal(position[corners], template.vertices[template.faces])
    placed = np.concatenate([template.faces.numpy()[..., None], uv], -1).reshape(-1, 3)
    assert len(position) == len(np.unique(placed, axis=0)) < 3 * len(template.faces)
    normals = array(primitive["attributes"]["NORMAL"])
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)


def test_rows_and_times_must_agree(template, people, tmp_path):
    for times in (None, [0.0, 1.0]):
        with pytest.raises(ValueError, match="one row without times, or as many times as rows"):
            write_glb(tmp_path / "a.glb", people, template, times=times)
    assert not list(tmp_path.iterdir())
