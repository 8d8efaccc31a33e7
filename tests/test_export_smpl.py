"""SMPL's parameters, given to another package's SMPL: it must stand where the estimate stands."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import deformlearn
from deformlearn.camera import Crop, project
from deformlearn.data.estimates import Estimates
from deformlearn.errors import InputError
from deformlearn.estimate import camera_vertices
from deformlearn.exports import smpl
from deformlearn.exports.smpl import write_smpl
from deformlearn.rigs.smpl import read_smpl
from rig_files import smpl_content
from rig_files import write_smpl as write_model


@pytest.fixture(scope="module")
def model(template, tmp_path_factory):
    """A file of SMPL's layout, with pose blend shapes; its mesh is that of the octahedra."""
    content = smpl_content(template, np.random.default_rng(0))
    shapes = 0.003 * np.random.default_rng(1).standard_normal((len(template.vertices), 3, 207))
    path = tmp_path_factory.mktemp("smpl") / "SMPL_FEMALE.pkl"
    return write_model({**content, "posedirs": shapes}, path)


@pytest.fixture
def body(model, monkeypatch):
    loaded, _ = read_smpl(model)
    monkeypatch.setattr(smpl, "VERTICES", len(loaded.vertices))
    return loaded


@pytest.fixture
def people(body, planted):
    estimate, _, _ = planted(body, 3, seed=4)
    crop = Crop(torch.tensor([[100.0, 80], [90, 70], [64, 64]]), torch.tensor([40.0, 50, 60]))
    return Estimates(["a", "b", "日本"], estimate, crop)


def unscaled(people):
    body = replace(people.estimate.body, scales=torch.ones_like(people.estimate.body.scales))
    return Estimates(people.keys, replace(people.estimate, body=body), people.crop)


@pytest.mark.filterwarnings("default")  # of the other package's imports
@pytest.mark.parametrize("axes", ["camera", "template"])
def test_another_package_poses_smpl_as_the_estimate_is(model, body, people, tmp_path, axes):
    pytest.importorskip("body_models")
    from body_models.smpl.numpy import SMPL

    plain = unscaled(people)
    loss = write_smpl(tmp_path / "a.npz", plain, body, axes=axes)
    assert loss.largest_mm == 0
    with np.load(tmp_path / "a.npz") as found:
        theirs = SMPL(model_path=model).forward_vertices(
            found["body_pose"].reshape(3, 23, 3),
            pelvis_rotation=found["global_orient"],
            shape=found["betas"],
            global_translation=found["transl"],
        )
    if axes == "camera":
        expected = camera_vertices(body, plain.estimate)
    else:
        expected = deformlearn.skin(body, plain.estimate.body)
    np.testing.assert_allclose(theirs, expected.numpy(), atol=1e-5)


def test_the_cameras_put_the_body_on_the_pixels_of_the_photograph(body, people, tmp_path):
    plain = unscaled(people)
    write_smpl(tmp_path / "a.npz", plain, body, focal=20000.0)
    vertices = camera_vertices(body, plain.estimate).numpy()
    seen = project(plain.estimate.camera, deformlearn.skin(body, plain.estimate.body))[..., :2]
    expected = plain.crop.to_pixels(seen).numpy()
    with np.load(tmp_path / "a.npz") as found:
        placed = vertices + found["cam_t"][:, None]
        assert (found["focal_px"] == 20000).all()
        drawn = 20000 * placed[..., :2] / placed[..., 2:] + found["crop_centre_px"][:, None]
        np.testing.assert_allclose(drawn, expected, atol=0.5)
        scale, shift = found["pred_cam"][:, None, :1], found["pred_cam"][:, None, 1:]
        flat = scale * (vertices[..., :2] + shift)
        pixels = flat * found["crop_half_px"][:, None, None] + found["crop_centre_px"][:, None]
        np.testing.assert_allclose(pixels, expected, atol=1e-3)


def test_what_segment_scales_did_is_measured_and_kept(body, people, tmp_path):
    loss = write_smpl(tmp_path / "a.npz", people, body, times=[0.0, 0.1, 0.2])
    moved = camera_vertices(body, people.estimate) - camera_vertices(
        body, unscaled(people).estimate
    )
    assert loss.mean_mm == pytest.approx(moved.norm(dim=-1).mean().item() * 1000, rel=1e-3)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["segment_scales"], people.estimate.body.scales)
        np.testing.assert_allclose(found["times"], [0, 0.1, 0.2])
        assert found["poses"].shape == (3, 72)
        np.testing.assert_array_equal(found["poses"][:, 3:], found["body_pose"])
        assert found["key"].tolist() == people.keys
        assert str(found["gender"]) == "female"
        said = json.loads(str(found["conventions"]))
        explained = " ".join([*said, *map(str, said.values())])
        for name in set(found) - {"conventions"}:
            assert name in explained, f"the archive does not say what {name!r} is"
    assert f"{loss.mean_mm:.1f} mm" in said["segment_scales"]
    assert said["fingerprint"] == body.fingerprint
    assert said["deformlearn"] == deformlearn.__version__


def test_other_templates_are_refused_with_what_to_do(template, body, people, tmp_path, monkeypatch):
    for other in (template, replace(body, name="hero")):
        with pytest.raises(InputError, match=r"whose template is SMPL's; .* make the run with"):
            write_smpl(tmp_path / "a.npz", people, other)
    monkeypatch.setattr(smpl, "VERTICES", 6890)
    with pytest.raises(InputError, match="144 vertices where SMPL has 6890"):
        write_smpl(tmp_path / "a.npz", people, body)
    assert not list(tmp_path.iterdir())
