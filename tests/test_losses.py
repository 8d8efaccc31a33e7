import pytest
import torch

from deformlearn import losses
from deformlearn.skeleton import PARENTS


def test_dense_is_the_mean_squared_distance_and_padding_does_not_count():
    projected = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]]])
    weights = torch.tensor([[1.0, 1.0, 0.0]])
    value = losses.dense(projected, torch.zeros(1, 3, 2), weights)
    torch.testing.assert_close(value, torch.tensor([12.5]))


def test_dense_of_a_person_without_points_is_zero_and_so_is_its_gradient():
    projected = torch.ones(1, 4, 2, requires_grad=True)
    value = losses.dense(projected, torch.zeros(1, 4, 2), torch.zeros(1, 4))
    value.sum().backward()
    assert value.item() == 0
    assert projected.grad.abs().sum() == 0


def test_the_robust_dense_term_is_bounded_and_equals_the_squared_one_for_small_errors():
    far = losses.dense(
        torch.full((1, 1, 2), 1e4), torch.zeros(1, 1, 2), torch.ones(1, 1), robust=0.2
    )
    torch.testing.assert_close(far, torch.tensor([0.04]))
    near = torch.full((1, 1, 2), 1e-4)
    robust = losses.dense(near, torch.zeros(1, 1, 2), torch.ones(1, 1), robust=0.2)
    squared = losses.dense(near, torch.zeros(1, 1, 2), torch.ones(1, 1))
    torch.testing.assert_close(robust, squared, rtol=1e-4, atol=0)


def test_a_key_point_of_weight_zero_pulls_nowhere():
    joints = torch.tensor([[[1.0, 0.0], [5.0, 5.0]]])
    value = losses.keypoint(joints, torch.zeros(1, 2, 2), torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(value, torch.tensor([2.0]))


def test_depth_is_a_weighted_sum_of_squares():
    value = losses.depth(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.tensor([[1.0, 0.5]]))
    torch.testing.assert_close(value, torch.tensor([3.0]))


def test_equal_scales_cost_only_the_gauge():
    torch.testing.assert_close(losses.scale_smoothness(torch.ones(2, 24), PARENTS), torch.zeros(2))
    uniform = losses.scale_smoothness(torch.full((1, 24), 1.5), PARENTS)
    torch.testing.assert_close(uniform, torch.tensor([0.01 * 24 * 0.25]))


def test_one_grown_segment_costs_its_edges():
    scales = torch.ones(1, 24)
    scales[0, 4] = 2.0  # the left knee: one edge up, one down
    expected = 2.0 + 0.01 * 24 * (1 / 24) ** 2
    torch.testing.assert_close(losses.scale_smoothness(scales, PARENTS), torch.tensor([expected]))


def test_joint_limits_cost_the_squared_excess_about_the_joint_own_axis():
    axes = torch.eye(3)[[2, 0, 1]].expand(23, 3, 3)  # flexion about z
    limits = torch.tensor([-torch.inf, torch.inf]).repeat(23, 3, 1)
    limits[3, 0] = torch.tensor([-0.5, 1.0])
    pose = torch.zeros(3, 23, 3)
    pose[0, 3, 2], pose[1, 3, 2], pose[2, 3, 0] = 1.5, -0.7, 3.0
    torch.testing.assert_close(
        losses.joint_limits(pose, axes, limits), torch.tensor([0.25, 0.04, 0.0])
    )


def test_the_determinant_term_pushes_a_reflection_back_and_ignores_a_rotation():
    mirror = torch.diag(torch.tensor([1.0, 1.0, -0.01])).requires_grad_()
    value = losses.determinant(mirror)
    value.backward()
    assert value > 0
    assert mirror.grad[2, 2] < 0  # descent raises the determinant
    assert losses.determinant(torch.eye(3)) == 0


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 5, 3)])
def test_smooth_l1_gives_one_number_a_person(shape):
    predicted, target = torch.zeros(shape), torch.full(shape, 3.0)
    torch.testing.assert_close(losses.smooth_l1(predicted, target), torch.full((4,), 2.5))


def test_rotations_are_compared_after_gram_schmidt():
    matrix = torch.eye(3)[None]
    torch.testing.assert_close(losses.rotation_l1(5 * matrix, matrix), torch.zeros(1))


def test_joint_distance_is_in_metres_with_a_finite_gradient_at_zero():
    joints = torch.zeros(1, 2, 3, requires_grad=True)
    value = losses.joint_distance(joints, torch.zeros(1, 2, 3))
    value.sum().backward()
    assert joints.grad.isfinite().all()
    far = losses.joint_distance(torch.tensor([[[3.0, 4.0, 0.0]]]), torch.zeros(1, 1, 3))
    torch.testing.assert_close(far, torch.tensor([5.0]))
