"""BVH read back by a reader of our own (and by Blender's), joint by joint and frame by frame."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import deformlearn
from deformlearn.body import bone_transforms
from deformlearn.camera import Crop
from deformlearn.data.estimates import Estimates
from deformlearn.exports.axes import rotation_into
from deformlearn.exports.bvh import BvhOptions, write_bvh
from deformlearn.exports.placing import way
from deformlearn.skeleton import PARENTS, SEGMENTS


@pytest.fixture(scope="module")
def people(template, planted):
    estimate, _, _ = planted(template, 4, seed=4)
    crop = Crop(torch.tensor([[64.0, 64], [70, 60], [80, 64], [90, 66]]), torch.full((4,), 50.0))
    return Estimates([f"p_{row:06d}" for row in range(4)], estimate, crop)


def alone(people, index):
    one = slice(index, index + 1)
    return Estimates(people.keys[one], people.estimate[one], people.crop[one])


def read_bvh(path):
    """Names, parents, places of all joints and ends in every frame, and the time of a frame."""
    words = iter(path.read_text().split())
    names, parents, offsets, channels, above = [], [], [], [], []
    for word in words:
        if word in ("ROOT", "JOINT", "End"):
            names.append(next(words))
            parents.append(above[-1] if above else -1)
            channels.append([])
        elif word == "{":
            above.append(len(names) - 1)
        elif word == "}":
            above.pop()
        elif word == "OFFSET":
            offsets.append([float(next(words)) for _ in range(3)])
        elif word == "CHANNELS":
            channels[-1] = [next(words) for _ in range(int(next(words)))]
        elif word == "MOTION":
            break
    assert [next(words)] == ["Frames:"]
    frames = int(next(words))
    assert [next(words), next(words)] == ["Frame", "Time:"]
    seconds = float(next(words))
    values = iter([float(word) for word in words])
    places = np.zeros((frames, len(names), 3))
    for frame in range(frames):
        turns = []
        for joint, parent in enumerate(parents):
            shift, turn = np.array(offsets[joint]), Rotation.identity()
            for channel in channels[joint]:
                value = next(values)
                if channel.endswith("position"):
                    shift["XYZ".index(channel[0])] += value
                else:
                    turn = turn * Rotation.from_euler(channel[0], value, degrees=True)
            turns.append(turn if parent < 0 else turns[parent] * turn)
            places[frame, joint] = shift
            if parent >= 0:
                places[frame, joint] = places[frame, parent] + turns[parent].apply(shift)
    assert next(values, None) is None
    return names, parents, places, seconds


def joints_of(template, body, rotation):
    rest = torch.nn.functional.pad(template.joints, (0, 1), value=1.0)
    places = (bone_transforms(template, body) @ rest[..., None])[..., 0]
    return (places @ rotation.mT).numpy()


@pytest.mark.parametrize("axes", ["template", "camera"])
@pytest.mark.parametrize(("unit", "per_metre"), [("m", 1), ("cm", 100)])
def test_every_joint_of_a_pose_reads_back_where_it_is(
    template, people, tmp_path, axes, unit, per_metre
):
    one = alone(people, 2)
    loss = write_bvh(tmp_path / "a.bvh", one, template, BvhOptions(axes, unit))
    assert loss.largest_mm == 0
    names, parents, places, _ = read_bvh(tmp_path / "a.bvh")
    inner = [index for index, name in enumerate(names) if name != "Site"]
    assert sorted(names[index] for index in inner) == sorted(SEGMENTS)
    for index in inner[1:]:
        assert names[parents[index]] == SEGMENTS[PARENTS[SEGMENTS.index(names[index])]]
    rotation = rotation_into(axes, one.estimate.camera)
    expected = joints_of(template, one.estimate.body, rotation)[0]
    order = [SEGMENTS.index(names[index]) for index in inner]
    np.testing.assert_allclose(places[0, inner] / per_metre, expected[order], atol=1e-5)
    assert names.count("Site") == 5  # head, hands, feet


def test_ends_of_the_body_are_the_skin_farthest_from_the_last_joint(template, people, tmp_path):
    one = alone(people, 1)
    write_bvh(tmp_path / "a.bvh", one, template)
    names, parents, places, _ = read_bvh(tmp_path / "a.bvh")
    for index, name in enumerate(names):
        if name == "Site":
            size = one.estimate.body.scales[0, SEGMENTS.index(names[parents[index]])]
            length = np.linalg.norm(places[0, index] - places[0, parents[index]])
            assert length == pytest.approx(0.06 * size.item(), rel=1e-4)  # an octahedron's corner


def test_a_video_keeps_its_turns_and_says_what_one_length_of_bones_costs(
    template, people, tmp_path
):
    options = BvhOptions("camera", motion="space")
    loss = write_bvh(tmp_path / "a.bvh", people, template, options, fps=25.0)
    names, _, places, seconds = read_bvh(tmp_path / "a.bvh")
    assert seconds == pytest.approx(0.04)
    inner = [index for index, name in enumerate(names) if name != "Site"]
    order = [SEGMENTS.index(names[index]) for index in inner]
    estimate = people.estimate
    expected = joints_of(template, estimate.body, rotation_into("camera", estimate.camera))
    taken = way(estimate.camera, people.crop, axes="camera", motion="space", focal=None)
    expected = expected + taken.shift[:, None].numpy()
    apart = np.linalg.norm(places[:, inner] - expected[:, order], axis=-1) * 1000
    assert apart.max() == pytest.approx(loss.largest_mm, rel=1e-3)
    assert apart.mean() == pytest.approx(loss.mean_mm, rel=1e-3)
    # With sizes that do not change, nothing is lost.
    steady = replace(estimate.body, scales=estimate.body.scales[:1].expand(4, -1))
    same = Estimates(people.keys, replace(estimate, body=steady), people.crop)
    assert write_bvh(tmp_path / "b.bvh", same, template, options).largest_mm == 0
    expected = joints_of(template, steady, rotation_into("camera", estimate.camera))
    places = read_bvh(tmp_path / "b.bvh")[2][:, inner]
    np.testing.assert_allclose(
        places, (expected + taken.shift[:, None].numpy())[:, order], atol=2e-5
    )


def test_turns_do_not_jump_by_whole_circles(template, people, tmp_path):
    pose = torch.zeros(4, 23, 3)
    pose[:, 10, 2] = torch.tensor([2.9, 3.1, 3.3, 3.5])  # beyond half a turn
    body = replace(people.estimate.body, pose=pose)
    write_bvh(
        tmp_path / "a.bvh", Estimates(people.keys, replace(people.estimate, body=body), people.crop),
        template,
    )  # fmt: skip
    lines = (tmp_path / "a.bvh").read_text().split("Frame Time:")[1].splitlines()[1:]
    angles = np.array([[float(word) for word in line.split()[3:]] for line in lines])
    assert np.abs(np.diff(angles, axis=0)).max() < 20
    assert angles.max() > 180


def test_a_pose_in_which_two_channels_are_one_turn_reads_back(template, people, tmp_path):
    pose = torch.zeros(1, 23, 3)
    pose[:, 16, 0] = torch.pi / 2  # the middle channel at 90 degrees
    one = alone(people, 0)
    body = replace(one.estimate.body, pose=pose)
    locked = Estimates(one.keys, replace(one.estimate, body=body), one.crop)
    write_bvh(tmp_path / "a.bvh", locked, template)
    names, _, places, _ = read_bvh(tmp_path / "a.bvh")
    inner = [index for index, name in enumerate(names) if name != "Site"]
    expected = joints_of(template, body, torch.eye(3))[0]
    order = [SEGMENTS.index(names[index]) for index in inner]
    np.testing.assert_allclose(places[0, inner], expected[order], atol=1e-5)


def test_what_a_bvh_cannot_say_stands_beside_it(template, people, tmp_path):
    write_bvh(tmp_path / "a.bvh", people, template, BvhOptions("camera", "cm"), fps=50.0)
    said = json.loads((tmp_path / "a.bvh.json").read_text(encoding="utf-8"))
    assert said["deformlearn"] == deformlearn.__version__
    assert said["fingerprint"] == template.fingerprint
    assert said["unit"] == "centimetre"
    assert said["axes"].startswith("camera")
    assert said["frames"] == {"count": 4, "fps": 50.0}
    assert "median" in said["scales"]
    assert "added after the scale" in said["camera"]["crop"]["formula"]


def test_no_frame_is_refused(template, people, tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_bvh(tmp_path / "a.bvh", Estimates([], people.estimate[:0], people.crop[:0]), template)
