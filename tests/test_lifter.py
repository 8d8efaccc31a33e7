import logging
import math
from dataclasses import replace

import pytest
import torch

from conftest import plant
from deformlearn import flat_poses, lifter
from deformlearn.config import LifterConfig
from deformlearn.errors import InputError, NotFiniteError
from deformlearn.observations import Observations, no_points
from deformlearn.skeleton import JOINT_SETS, rotation_from_axis_angle

H36M = JOINT_SETS["h36m17"]
SMALL = LifterConfig(width=32, steps=20, batch=16, average=0.9)


def dancing(template, people, seed=0):
    """3D poses (y down, z away) of a small family: arms and legs swing, the person turns."""
    g = torch.Generator().manual_seed(seed)
    rest = template.landmarks.rest
    points = rest[[template.landmark_names.index(name) for name in H36M.landmarks]]
    points = points - points[0]
    swing = torch.zeros(people, 17, 3)
    for name, part in (
        ("left_hip", "left_knee left_ankle"),
        ("right_hip", "right_knee right_ankle"),
        ("left_shoulder", "left_elbow left_wrist"),
        ("right_shoulder", "right_elbow right_wrist"),
    ):
        angle = torch.zeros(people, 3)
        angle[:, 0] = -torch.rand(people, generator=g) * 1.2
        turn = rotation_from_axis_angle(angle)
        for child in part.split():
            arm = points[H36M.index(child)] - points[H36M.index(name)]
            swing[:, H36M.index(child)] = (turn @ arm) - arm
    yaw = torch.zeros(people, 3)
    yaw[:, 1] = torch.rand(people, generator=g) * 2 * math.pi
    turned = (points + swing) @ rotation_from_axis_angle(yaw).mT
    return turned * torch.tensor([1.0, -1.0, -1.0])


def test_normalised_poses_have_their_root_at_the_origin_and_mean_distance_one(template):
    poses = dancing(template, 8)[..., :2] * 50 + 7
    normal = flat_poses.normalise(poses, torch.ones(8, 17), H36M)
    torch.testing.assert_close(normal.poses[:, 0], torch.zeros(8, 2))
    torch.testing.assert_close(normal.poses[:, 1:].norm(dim=-1).mean(1), torch.ones(8))
    again = normal.poses * normal.size[:, None, None] + poses[:, :1]
    torch.testing.assert_close(again, poses, rtol=1e-4, atol=1e-3)


def test_hidden_key_points_count_for_nothing(template):
    poses = dancing(template, 4)[..., :2]
    weights = torch.ones(4, 17)
    weights[:, 3] = 0
    spoiled = poses.clone()
    spoiled[:, 3] = 99.0
    first = flat_poses.normalise(poses, weights, H36M)
    second = flat_poses.normalise(spoiled, weights, H36M)
    torch.testing.assert_close(first.poses, second.poses)
    torch.testing.assert_close(first.size, second.size)


def test_hidden_key_points_may_be_anything(template):
    torch.manual_seed(0)
    blind = lifter.Lifter("h36m17", 16, sees_hidden=True)
    _, seen, _ = plant(template, 3, joints="coco17")
    weights = seen.keypoint_weights.clone()
    weights[:, 0] = 0  # the nose, of which the top of the head is made
    lifted = []
    for value in (0.0, torch.nan):
        keypoints = seen.keypoints.clone()
        keypoints[:, 0] = value
        lifted.append(blind.lift(replace(seen, keypoints=keypoints, keypoint_weights=weights)))
    assert torch.equal(lifted[0].depths, lifted[1].depths)
    assert lifted[0].depth_weights.sum() > 0


def test_the_network_is_kudo_s():
    network = lifter.PoseNetwork(34, 17, 1024)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == 34 * 1024 + 2 * 1024 * 1024 + 1024 * 17 + 3 * 1024 + 17
    assert abs(network.hidden[1].weight.std().item() - 0.02) < 1e-3
    x = torch.randn(5, 34)

    def leaky(v):
        return torch.where(v > 0, v, 0.2 * v)

    h1 = leaky(network.hidden[0](x))
    expected = network.last(leaky(network.hidden[2](leaky(network.hidden[1](h1))) + h1))
    torch.testing.assert_close(network(x), expected)


def test_a_full_turn_is_the_same_view_and_a_half_turn_its_mirror(template):
    pose = dancing(template, 3)
    for angle, sign in ((2 * math.pi, 1.0), (math.pi, -1.0)):
        seen = flat_poses.turned_view(
            pose[..., :2], pose[..., 2], torch.full((3,), angle), torch.zeros(3)
        )
        torch.testing.assert_close(seen[..., 0], sign * pose[..., 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen[..., 1], pose[..., 1])


def test_views_agree_with_turning_the_true_pose(template):
    pose = dancing(template, 3)
    turns, tilts = torch.tensor([0.3, 1.0, 2.0]), torch.tensor([0.1, 0.0, -0.2])
    c, s = turns.cos(), turns.sin()
    x = c[:, None] * pose[..., 0] + s[:, None] * pose[..., 2]
    z = -s[:, None] * pose[..., 0] + c[:, None] * pose[..., 2]
    y = pose[..., 1] * tilts.cos()[:, None] - z * tilts.sin()[:, None]
    seen = flat_poses.turned_view(pose[..., :2], pose[..., 2], turns, tilts)
    torch.testing.assert_close(seen, torch.stack([x, y], -1))


@pytest.mark.parametrize("name", ["h36m17", "skeleton25", "coco17"])
def test_the_heuristic_likes_the_true_depth_and_not_its_mirror(template, name):
    joints = JOINT_SETS[name]
    points = template.keypoints(joints).rest
    yaw = torch.tensor([[0.0, angle, 0.0] for angle in (0.0, 1.0, 2.5, 4.0)])
    poses = (points - points[0]) @ rotation_from_axis_angle(yaw).mT * torch.tensor([1.0, -1, -1])
    if name == "h36m17":  # the paper figure's head leans forward less than a real neck does
        poses[:, joints.index("nose")] += rotation_from_axis_angle(yaw)[:, :, 2] * torch.tensor(
            [0.1, 0, -0.1]
        )
    right = flat_poses.backwards(poses[..., :2], poses[..., 2], joints)
    wrong = flat_poses.backwards(poses[..., :2], -poses[..., 2], joints)
    assert right.max() < 1e-3
    # seen straight from the front or the back, the mirror image has no sideways depth to tell it by
    assert wrong.max() > 0.5


def test_training_on_2d_alone_finds_depth(template):
    train, test = dancing(template, 2000), dancing(template, 200, seed=9)
    config = LifterConfig(width=64, steps=700, batch=128, learning_rate=1e-3, average=0.98)
    found = lifter.train(train[..., :2], torch.ones(2000, 17), "h36m17", config)
    batch = observe(test)
    lifted = found.lift(batch)
    error = (lifted.depths - test[..., 2]).abs().mean()
    assert error < 0.65 * test[..., 2].abs().mean()


def test_the_same_seed_gives_the_same_lifter_also_after_a_stop(template):
    poses, weights = dancing(template, 60)[..., :2], torch.ones(60, 17)
    config = LifterConfig(width=16, steps=2 * lifter.CHUNK, batch=4)
    kept = []
    whole = lifter.train(
        poses,
        weights,
        "h36m17",
        config,
        seed=3,
        after_chunk=lambda t: kept.append(_copy(t.state())),
    )
    again = lifter.train(poses, weights, "h36m17", config, seed=3, resume=kept[0])
    restored = lifter.start_training("h36m17", config, 3, torch.device("cpu"))
    restored.restore(kept[0])
    assert restored.state().keys() == kept[0].keys()
    assert (restored.step, restored.accuracy) == (lifter.CHUNK, kept[0]["accuracy"])
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_joint_set_is_converted_by_name(template):
    found = lifter.start_training("h36m17", SMALL, 0, torch.device("cpu")).lifter
    points = template.keypoints(JOINT_SETS["coco17"]).rest[None, :, :2]
    batch = Observations(
        *no_points(1, points),
        points,
        torch.ones(1, 17),
        torch.zeros(1, 17),
        torch.zeros(1, 17),
        "coco17",
    )
    lifted = found.lift(batch)
    names = JOINT_SETS["coco17"].names
    known = {
        name for name, weight in zip(names, lifted.depth_weights[0], strict=True) if weight > 0
    }
    assert known == {
        name
        for name in names
        if name not in ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
    }


def test_a_half_pose_gets_depths_only_from_a_lifter_that_knows_half_poses(template):
    poses = dancing(template, 2)
    batch = observe(poses)
    weights = batch.keypoint_weights.clone()
    weights[0, H36M.index("left_ankle")] = 0
    weights[1, H36M.index("pelvis")] = 0
    batch = replace(batch, keypoint_weights=weights)
    for hidden, expected in ((0.0, [False, False]), (0.3, [True, False])):
        config = replace(SMALL, hidden=hidden)
        found = lifter.train(dancing(template, 30)[..., :2], torch.ones(30, 17), "h36m17", config)
        lifted = found.lift(batch)
        assert (lifted.depth_weights > 0).any(-1).tolist() == expected
        assert lifted.depth_weights[0, H36M.index("left_ankle")] == 0
        assert lifted.depths.isfinite().all()


def test_saved_lifters_come_back(template, tmp_path):
    config = LifterConfig(width=16, steps=5, batch=4, hidden=0.2)
    made = lifter.train(dancing(template, 30)[..., :2], torch.ones(30, 17), "h36m17", config)
    lifter.save_lifter(made, tmp_path / "lifter.safetensors")
    back = lifter.load_lifter(tmp_path / "lifter.safetensors")
    batch = observe(dancing(template, 3))
    torch.testing.assert_close(back.lift(batch).depths, made.lift(batch).depths)


def test_a_lifter_with_weights_that_are_no_numbers_is_refused_by_their_name(tmp_path):
    made = lifter.Lifter("h36m17", 16, sees_hidden=False)
    name, weights = next(iter(made.named_parameters()))
    weights.data.view(-1)[0] = torch.nan
    lifter.save_lifter(made, tmp_path / "lifter.safetensors")
    with pytest.raises(InputError, match=f"damaged: its weights {name} are not all finite"):
        lifter.load_lifter(tmp_path / "lifter.safetensors")


def test_foreign_files_and_missing_poses_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not a lifter")
    with pytest.raises(InputError, match="cannot read a lifter"):
        lifter.load_lifter(path)
    with pytest.raises(InputError, match=r"at least 2 people with all 17 .* 0 of 3"):
        lifter.train(torch.zeros(3, 17, 2), torch.zeros(3, 17), "h36m17", SMALL)
    with pytest.raises(InputError, match=r"no \.npy file of numbers; wanted .* \(people, 17, 2\)"):
        lifter.read_poses(path, "h36m17")
    with pytest.raises(InputError, match="No such file"):
        lifter.read_poses(tmp_path / "nowhere.npy", "h36m17")


def test_poses_of_a_file_are_read_with_gaps_marked(tmp_path):
    import numpy as np

    poses = np.zeros((4, 17, 2))
    poses[2, 5] = np.nan
    np.save(tmp_path / "poses.npy", poses)
    keypoints, weights = lifter.read_poses(tmp_path / "poses.npy", "h36m17")
    assert keypoints.isfinite().all()
    assert weights.sum() == 4 * 17 - 1
    np.save(tmp_path / "flat.npy", poses.reshape(4, 34))
    flat, _ = lifter.read_poses(tmp_path / "flat.npy", "h36m17")
    torch.testing.assert_close(flat, keypoints)
    with pytest.raises(InputError, match="must hold"):
        lifter.read_poses(tmp_path / "flat.npy", "skeleton25")


def observe(poses):
    people = len(poses)
    return Observations(
        *no_points(people, poses), poses[..., :2], torch.ones(people, 17),
        torch.zeros(people, 17), torch.zeros(people, 17), "h36m17",
    )  # fmt: skip


def _copy(state):
    import copy

    return copy.deepcopy(state)


def test_a_symmetric_lifter_reads_a_pose_and_its_mirror_alike(template):
    made = lifter.train(dancing(template, 30)[..., :2], torch.ones(30, 17), "h36m17", SMALL)
    assert made.symmetric
    poses = dancing(template, 4)
    flipped = poses[:, H36M.mirror, :] * torch.tensor([-1.0, 1.0, 1.0])
    there, back = made.lift(observe(poses)).depths, made.lift(observe(flipped)).depths
    torch.testing.assert_close(there, back[:, H36M.mirror], rtol=1e-4, atol=1e-5)


def test_a_pose_that_is_not_a_number_stops_the_training_and_is_named(template):
    """Before the chunk is reported: a broken state must never become a checkpoint."""
    poses, weights = dancing(template, 30)[..., :2], torch.ones(30, 17)
    weights[3] = 0  # left out: rows are those of the caller all the same
    poses[7, 4] = math.nan
    config = replace(SMALL, steps=2 * lifter.CHUNK)
    kept = []
    with pytest.raises(
        NotFiniteError, match=r"not finite in step [1-9] of 500, at the key points of people 7: "
    ) as error:
        lifter.train(poses, weights, "h36m17", config, after_chunk=kept.append)
    assert error.value.rows == [7]
    assert kept == []


def test_a_last_step_that_overflows_is_no_checkpoint_either(template):
    poses = dancing(template, 30)[..., :2]
    config = replace(SMALL, steps=1, learning_rate=1e38)
    with pytest.raises(
        NotFiniteError, match=r"in step 1 of 1, at the key points of people [0-9]+, "
    ):
        lifter.train(poses, torch.ones(30, 17), "h36m17", config)


def cramped(monkeypatch, room):
    """A device that judges at most so many poses at once; the sizes it was asked for."""
    sizes, forward = [], lifter.PoseNetwork.forward

    def small(network, x):
        sizes.append(len(x))
        if network.last.out_features == 1 and len(x) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(network, x)

    monkeypatch.setattr(lifter.PoseNetwork, "forward", small)
    return sizes


def test_a_batch_of_poses_too_large_for_the_memory_is_taken_in_parts(template, monkeypatch, caplog):
    poses, weights = dancing(template, 60)[..., :2], torch.ones(60, 17)
    config = replace(SMALL, steps=6, hidden=0.2)
    whole = lifter.train(poses, weights, "h36m17", config)
    sizes = cramped(monkeypatch, room=5)
    with caplog.at_level(logging.WARNING):
        parts = lifter.train(poses, weights, "h36m17", config)
    for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert "out of memory: from now on 4 2D poses at a time (CUDA out of memory.)" in caplog.text
    assert sizes[:8] == [16, 16, 8, 8, 4, 4, 4, 4]
    assert set(sizes[4:]) == {4}


def test_a_device_without_room_for_one_pose_is_refused(template, monkeypatch):
    cramped(monkeypatch, room=0)
    with pytest.raises(InputError, match="out of memory for one of the 2D poses"):
        lifter.train(dancing(template, 30)[..., :2], torch.ones(30, 17), "h36m17", SMALL)
