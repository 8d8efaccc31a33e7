"""Exports read back: by our own parser, and by trimesh where it is installed."""

import json

import numpy as np
import pytest
import torch

from deformlearn.body import skin
from deformlearn.camera import Crop, project
from deformlearn.data.estimates import Estimates
from deformlearn.errors import InputError
from deformlearn.estimate import Quality
from deformlearn.export import estimate_mesh, write_npz, write_obj


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


def test_trimesh_reads_our_obj_as_a_closed_outward_mesh(template, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    write_obj(tmp_path / "body.obj", template.vertices, template.faces)
    mesh = trimesh.load(tmp_path / "body.obj", process=False)
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
    unchecked = getattr(estimate_mesh, "__wrapped__", estimate_mesh)
    with pytest.raises(ValueError, match="axes must be template or camera"):
        unchecked(template, people.estimate, axes="blender")
    broken = template.vertices.clone()
    broken[7, 1] = torch.nan
    with pytest.raises(ValueError, match="vertex 7 is not finite"):
        write_obj(tmp_path / "x.obj", broken, template.faces)
    with pytest.raises(ValueError, match="face 0 names a vertex beyond the 3"):
        write_obj(tmp_path / "x.obj", template.vertices[:3], template.faces)
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
