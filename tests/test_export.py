"""Meshes and numbers read back: by our own parser, and by trimesh where it is installed."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deformlearn
from deformlearn.body import skin
from deformlearn.camera import Crop, project
from deformlearn.data.estimates import Estimates
from deformlearn.errors import InputError
from deformlearn.estimate import Quality
from deformlearn.exports.about import mesh_comments, person, statement
from deformlearn.exports.axes import estimate_mesh, rotation_into
from deformlearn.exports.meshes import write_obj, write_ply
from deformlearn.exports.npz import write_npz
from deformlearn.exports.placing import camera_forms, focal_px, place_before_camera, way


def parse_obj(path):
    rows = [line.split() for line in path.read_text().splitlines()]
    vertices = [[float(x) for x in row[1:]] for row in rows if row[0] == "v"]
    faces = [[int(x) - 1 for x in row[1:]] for row in rows if row[0] == "f"]
    return torch.tensor(vertices), torch.tensor(faces)


@pytest.fixture
def people(template, planted):
    estimate, _, _ = planted(template, 3, seed=4)
    crop = Crop(torch.tensor([[10.0, 20], [300, 200], [64, 64]]), torch.tensor([32.0, 100.5, 64]))
    return Estimates(["a", "b/ö", "日本"], estimate, crop)


def test_a_mesh_reads_back_to_the_same_numbers_from_obj(template, people, tmp_path):
    vertices = estimate_mesh(template, people.estimate)[1]
    write_obj(tmp_path / "body.obj", vertices, template.faces)
    found, faces = parse_obj(tmp_path / "body.obj")
    assert torch.equal(found, vertices)
    assert torch.equal(faces, template.faces)


def test_the_obj_header_states_unit_and_axes_and_cannot_be_broken_by_a_comment(template, tmp_path):
    path = tmp_path / "body.obj"
    write_obj(path, template.vertices, template.faces, axes="camera", comments=["of a\nv 1 2 3"])
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert "# unit: metre" in header
    assert any(line.startswith("# axes: camera: as the photograph") for line in header)
    assert "# of a v 1 2 3" in header
    assert len(parse_obj(path)[0]) == len(template.vertices)


@pytest.mark.parametrize("write", [write_obj, write_ply])
def test_trimesh_reads_our_file_as_a_closed_outward_mesh(template, tmp_path, write):
    trimesh = pytest.importorskip("trimesh")
    path = tmp_path / f"body.{write.__name__[-3:]}"
    write(path, template.vertices, template.faces)
    mesh = trimesh.load(path, process=False)
    np.testing.assert_array_equal(mesh.vertices.astype(np.float32), template.vertices.numpy())
    np.testing.assert_array_equal(mesh.faces, template.faces.numpy())
    assert mesh.is_watertight
    assert mesh.volume > 0


def test_template_axes_leave_out_the_camera_and_camera_axes_show_the_image_upright(
    template, people
):
    torch.testing.assert_close(
        estimate_mesh(template, people.estimate), skin(template, people.estimate.body)
    )
    upright = estimate_mesh(template, people.estimate, axes="camera")
    camera = people.estimate.camera
    seen = project(camera, skin(template, people.estimate.body))
    scale, shift = camera.scale[:, None], camera.translation[:, None]
    torch.testing.assert_close(upright[..., 0] * scale + shift[..., 0], seen[..., 0])
    torch.testing.assert_close(-upright[..., 1] * scale + shift[..., 1], seen[..., 1])
    torch.testing.assert_close(-upright[..., 2] * scale, seen[..., 2])


def test_camera_axes_are_a_rotation_so_faces_stay_outward(template, people):
    def volume(vertices):
        a, b, c = vertices[template.faces].unbind(-2)
        return (torch.linalg.cross(a, b) * c).sum() / 6

    for axes in ("template", "camera"):
        assert volume(estimate_mesh(template, people.estimate[0], axes=axes)) > 0


def test_unknown_axes_broken_vertices_and_foreign_faces_are_refused(template, people, tmp_path):
    # Past the tests' type checker, which a user does not run.
    unchecked = getattr(rotation_into, "__wrapped__", rotation_into)
    with pytest.raises(ValueError, match="axes must be template or camera"):
        unchecked("blender", people.estimate.camera)
    broken = template.vertices.clone()
    broken[7, 1] = torch.nan
    for write in (write_obj, write_ply):
        with pytest.raises(ValueError, match="vertex 7 is not finite"):
            write(tmp_path / "x", broken, template.faces)
        with pytest.raises(ValueError, match="face 0 names a vertex beyond the 3"):
            write(tmp_path / "x", template.vertices[:3], template.faces)
    assert not list(tmp_path.iterdir())


def test_every_number_reads_back_from_npz_without_pickle(template, people, tmp_path):
    write_npz(tmp_path / "people.npz", people, template, meshes=True)
    with np.load(tmp_path / "people.npz", allow_pickle=False) as found:
        assert found["key"].tolist() == people.keys
        estimate = people.estimate
        np.testing.assert_array_equal(found["pose"], estimate.body.pose)
        np.testing.assert_array_equal(found["scales"], estimate.body.scales)
        np.testing.assert_array_equal(found["rotation"], estimate.camera.rotation())
        np.testing.assert_array_equal(found["translation"], estimate.camera.translation)
        np.testing.assert_array_equal(found["scale"], estimate.camera.scale)
        np.testing.assert_array_equal(found["crop_half_px"], people.crop.half)
        np.testing.assert_array_equal(found["vertices"], skin(template, estimate.body))
        np.testing.assert_array_equal(found["faces"], template.faces)
        # The octahedron of each segment has its joint in the middle.
        middles = found["vertices"].reshape(3, 24, 6, 3).mean(2)
        np.testing.assert_allclose(found["joints"], middles, atol=1e-6)
        assert "times" not in found
        assert found["segments"][0] == "pelvis"
        assert "flag" not in found
        assert "loss" not in found


def test_the_full_image_camera_of_the_npz_puts_the_mesh_on_the_source_pixels(
    template, people, tmp_path
):
    write_npz(tmp_path / "people.npz", people, template, meshes=True)
    with np.load(tmp_path / "people.npz") as found:
        turned = found["vertices"] @ found["rotation"].swapaxes(1, 2)
        pixels = turned[..., :2] * found["scale_px"][:, None, None]
        pixels = pixels + found["translation_px"][:, None]
    seen = project(people.estimate.camera, skin(template, people.estimate.body))[..., :2]
    torch.testing.assert_close(
        torch.from_numpy(pixels), people.crop.to_pixels(seen), atol=1e-3, rtol=1e-5
    )


def test_the_npz_states_its_conventions_and_carries_quality_and_flags(template, people, tmp_path):
    numbers = torch.arange(3.0)
    quality = Quality(numbers, numbers, numbers, numbers + 1, numbers, numbers > 0)
    judged = Estimates(people.keys, people.estimate, people.crop, quality, ("ok", "far", "ok"))
    write_npz(tmp_path / "people.npz", judged, template)
    with np.load(tmp_path / "people.npz") as found:
        conventions = json.loads(str(found["conventions"]))
        assert found["reprojection_px"].tolist() == [1, 2, 3]
        assert found["flag"].tolist() == ["ok", "far", "ok"]
        assert "vertices" not in found
        explained = " ".join([*conventions, *map(str, conventions.values())])
        for name in set(found) - {"conventions"}:
            assert name in explained, f"the archive does not say what {name!r} is"
    assert conventions["fingerprint"] == template.fingerprint
    assert "t added after the scale" in conventions["camera"]


def test_an_unwritable_place_is_one_clear_error(template, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_obj(tmp_path / "file" / "body.obj", template.vertices, template.faces)


def test_a_ply_has_unit_normals_and_a_header_of_plain_letters(template, tmp_path):
    path = tmp_path / "body.ply"
    write_ply(path, template.vertices, template.faces, axes="camera", comments=["key: 日本\nply"])
    header, _, content = path.read_bytes().partition(b"\nend_header\n")
    assert header.isascii()
    assert b"comment axes: camera: as the photograph" in header
    assert rb"comment key: \u65e5\u672c ply" in header
    values = np.frombuffer(content, "<f4", 6 * len(template.vertices)).reshape(-1, 6)
    np.testing.assert_array_equal(values[:, :3], template.vertices)
    np.testing.assert_allclose(np.linalg.norm(values[:, 3:], axis=1), 1, atol=1e-6)
    assert len(content) == values.nbytes + 13 * len(template.faces)


def test_every_form_of_the_camera_puts_a_point_on_the_same_pixel(template, people):
    joints = template.joints
    for row in range(3):
        camera, crop = people.estimate.camera[row], people.crop[row]
        expected = crop.to_pixels(project(camera, joints)[..., :2]).numpy()
        forms = camera_forms(camera, crop, None)
        turned = joints.numpy() @ np.array(forms["rotation"]).T
        flat = turned[:, :2]
        inside, full, hmr = forms["crop"], forms["full_image"], forms["hmr"]
        in_crop = inside["scale"] * flat + inside["translation"]
        close = {"rtol": 0, "atol": 1e-3}
        in_pixels = in_crop * inside["half_px"] + inside["centre_px"]
        np.testing.assert_allclose(in_pixels, expected, **close)
        in_full = full["scale_px"] * flat + full["translation_px"]
        np.testing.assert_allclose(in_full, expected, **close)
        as_hmr = hmr["scale"] * (flat + hmr["translation"])
        np.testing.assert_allclose(as_hmr, in_crop, atol=1e-5)
        # With perspective: nearly, for a point at the depth of the body's origin exactly.
        form = forms["perspective"]
        assert form["focal_px"] == pytest.approx(5000 / 112 * inside["half_px"])
        placed = np.append(flat, np.zeros((len(flat), 1)), 1) + form["translation"]
        drawn = form["focal_px"] * placed[:, :2] / placed[:, 2:] + form["principal_px"]
        np.testing.assert_allclose(drawn, expected, **close)


def test_another_principal_point_and_focal_length_show_the_same_picture(template, people):
    camera, crop = people.estimate.camera, people.crop
    principal = torch.tensor([[320.0, 240.0]]).expand(3, 2)
    place = place_before_camera(camera, crop, focal_px(crop, 1234.0), principal)
    turned = (template.joints @ camera.rotation().mT) * torch.tensor([1.0, 1.0, 0.0])
    placed = turned + place[:, None]
    drawn = 1234.0 * placed[..., :2] / placed[..., 2:] + principal[:, None]
    expected = crop.to_pixels(project(camera, template.joints)[..., :2])
    torch.testing.assert_close(drawn, expected, atol=2e-3, rtol=0)


def test_in_template_axes_nobody_turns_or_moves(people):
    taken = way(people.estimate.camera, people.crop, axes="template", motion="space", focal=None)
    assert torch.equal(taken.rotation, torch.eye(3).expand(3, 3, 3))
    assert not taken.shift.any()


def test_a_file_states_its_version_template_person_and_doubts(template, people):
    facts = statement(template, "template") | person(people, 1, None)
    assert facts["fingerprint"] == template.fingerprint
    assert facts["key"] == "b/ö"
    assert "flag" not in facts
    lines = mesh_comments(people.select([1]), template, "template")
    assert all(line.isascii() for line in lines)
    assert f"deformlearn: {deformlearn.__version__}" in lines
    camera = json.loads(next(line for line in lines if line.startswith("camera: "))[8:])
    assert camera["crop"]["half_px"] == 100.5


def test_the_notebook_turns_two_bodies_that_are_no_blank(anny, tmp_path):
    script = Path(__file__).parents[1] / "examples" / "notebook.py"
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pictures = re.findall(
        r'src="data:image/webp;base64,([^"]+)"', (tmp_path / "notebook.html").read_text()
    )
    assert len(pictures) == 2
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as moving:
            assert moving.n_frames == 36
            seen = []
            for view in (0, 9):
                moving.seek(view)
                seen.append(np.asarray(moving.convert("L")).astype(int))
            assert seen[0].min() < 120 < 250 < seen[0].max()
            assert np.abs(seen[0] - seen[1]).max() > 100
