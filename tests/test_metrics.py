import pytest
import roma
import torch

from deformlearn.metrics import bone_sum, joint_errors, procrustes, vertex_error
from deformlearn.skeleton import JOINT_SETS

JOINTS = JOINT_SETS["h36m17"]


@pytest.fixture
def pose():
    return 300 * torch.randn(6, 17, 3, generator=torch.Generator().manual_seed(1))


def test_a_shift_costs_nothing(pose):
    errors = joint_errors(pose + 50, pose, JOINTS, 4000.0)
    assert errors.raw.max() < 1e-3


def test_a_wrong_size_shows_in_raw_and_not_in_the_scaled_errors(pose):
    canonical = bone_sum(pose, JOINTS)[:1]
    errors = joint_errors(1.3 * pose[:1], pose[:1], JOINTS, canonical.item())
    assert errors.raw.item() > 10
    for scaled in (errors.bone_sum, errors.true_size, errors.aligned):
        assert scaled.item() < 1e-2


def test_a_turn_shows_everywhere_but_after_procrustes(pose):
    turn = roma.rotvec_to_rotmat(torch.tensor([0.3, 0.2, -0.1]))
    errors = joint_errors(pose @ turn.T, pose, JOINTS, 4000.0)
    assert errors.raw.min() > 10
    assert errors.aligned.max() < 1e-2


def test_procrustes_does_not_reflect(pose):
    mirrored = pose * torch.tensor([-1.0, 1, 1])
    assert (procrustes(mirrored, pose) - pose).norm(dim=-1).mean() > 10


def test_procrustes_agrees_with_roma(pose):
    target = pose.flip(0)
    rotation, shift, scale = roma.rigid_points_registration(pose, target, compute_scaling=True)
    expected = scale[:, None, None] * pose @ rotation.mT + shift[:, None]
    torch.testing.assert_close(procrustes(pose, target), expected, rtol=1e-3, atol=1e-2)


def test_bone_sum_counts_sixteen_bones():
    pose = torch.zeros(17, 3)
    pose[JOINTS.index("left_ankle"), 0] = 7.0  # one bone of length 7
    assert len(JOINTS.bones) == 16
    torch.testing.assert_close(bone_sum(pose, JOINTS), torch.tensor(7.0))


def test_both_h36m_orders_measure_the_same(pose):
    left_first = JOINT_SETS["h36m17_left_first"]
    order = [JOINTS.index(name) for name in left_first.names]
    first = joint_errors(pose, pose.flip(0), JOINTS, 4000.0)
    second = joint_errors(pose[:, order], pose.flip(0)[:, order], left_first, 4000.0)
    torch.testing.assert_close(first.aligned, second.aligned, rtol=1e-4, atol=1e-2)


def test_vertex_error_is_a_mean_distance():
    error = vertex_error(torch.zeros(1, 2, 3), torch.tensor([[[3.0, 4, 0], [0, 0, 1.0]]]))
    torch.testing.assert_close(error, torch.tensor([3.0]))
