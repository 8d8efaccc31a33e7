"""The closed forms against Eq. 2 as `energy` states it, and against autograd."""

from dataclasses import replace

import pytest
import torch

from deformlearn.body import BodyParameters
from deformlearn.config import PAPER_REGISTRATION, RegistrationConfig
from deformlearn.energy import Evidence, Weights, energy
from deformlearn.estimate import Estimate
from deformlearn.normal_equations import Problem, Theta, normal_equations
from deformlearn.skeleton import left_jacobian, rotation_from_axis_angle

CONFIG = RegistrationConfig(depth_weight=3.0, joint_weight=0.5, limit_weight=2.0)


@pytest.fixture
def case(template, planted):
    """Three people away from their best fit, in double precision; one with gaps in their data."""
    truth, seen, _ = planted(template, 3, points=20, joints="coco17")
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(seen.point_weights.shape, generator=generator)
    weights[0, 5:] = 0
    hidden = torch.rand(seen.keypoint_weights.shape, generator=generator)
    hidden[1, ::2] = 0
    seen = replace(
        seen, point_weights=weights, keypoint_weights=hidden,
        depth_weights=torch.rand(seen.depth_weights.shape, generator=generator),
    ).to(dtype=torch.double)  # fmt: skip
    barycentric = seen.barycentric / seen.barycentric.sum(-1, keepdim=True)
    seen = replace(seen, barycentric=barycentric)
    pose = truth.body.pose + 0.8 * torch.randn(truth.body.pose.shape, generator=generator)
    scales = truth.body.scales * (0.2 * torch.randn(3, 24, generator=generator)).exp()
    away = Estimate(BodyParameters(scales, pose), truth.camera).to(dtype=torch.double)
    return template.to(dtype=torch.double), seen, Theta.of(away)


def parts(case, config, first=False):
    template, seen, theta = case
    evidence = Evidence.of(template, seen)
    weights = Weights.of(config, torch.device("cpu"), first=first).to(dtype=torch.double)
    return template, evidence, Problem.of(template, evidence.points, seen), theta, weights


@pytest.mark.parametrize("config", [CONFIG, PAPER_REGISTRATION], ids=["robust", "squared"])
@pytest.mark.parametrize("first", [True, False])
def test_the_energy_is_that_of_equation_2(case, config, first):
    template, evidence, problem, theta, weights = parts(case, config, first)
    found = normal_equations(template, problem, theta, weights).energy
    torch.testing.assert_close(found, energy(template, theta.estimate(), evidence, weights))


@pytest.mark.parametrize("config", [CONFIG, PAPER_REGISTRATION], ids=["robust", "squared"])
def test_the_gradient_is_that_of_autograd(case, config):
    template, evidence, problem, theta, weights = parts(case, config)
    step = torch.zeros(3, 99, dtype=torch.double, requires_grad=True)
    total = energy(template, theta.moved(step).estimate(), evidence, weights).sum()
    (gradient,) = torch.autograd.grad(total, step)
    found = normal_equations(template, problem, theta, weights).gradient
    torch.testing.assert_close(2 * found, gradient, rtol=1e-6, atol=1e-6)


def test_the_matrix_is_that_of_the_residuals_jacobian(case):
    """Without the robust term all is a sum of squares: H = J'J, row by row of autograd's J."""
    template, evidence, problem, theta, weights = parts(case, replace(CONFIG, robust=None))
    found = normal_equations(template, problem, theta, weights).matrix.tril()
    seen = evidence.observations

    def residuals(step):
        moved = theta.moved(step).estimate()
        from deformlearn import losses
        from deformlearn.body import blend
        from deformlearn.estimate import view_transforms

        view = view_transforms(template, moved)
        points, joints = blend(view, evidence.points), blend(view, evidence.keypoints)
        roots = seen.joint_set.root_indices
        share = seen.point_weights / seen.point_weights.sum(-1, keepdim=True)
        depth = joints[..., 2] - joints[:, roots, 2].mean(-1, keepdim=True) - seen.depths
        scales, parents = moved.body.scales, template.parents
        child = [joint for joint, parent in enumerate(parents) if parent >= 0]
        above = [parents[joint] for joint in child]
        angles = (template.limit_axes * moved.body.pose[..., None, :]).sum(-1)
        beyond = (angles - template.limits[..., 1]).clamp_min(0) + (
            template.limits[..., 0] - angles
        ).clamp_min(0)
        gauge = (losses.SCALE_GAUGE * 24) ** 0.5 * (scales.mean(-1, keepdim=True) - 1)
        every = (
            (weights.dense * share).sqrt()[..., None] * (points[..., :2] - seen.points),
            (weights.keypoint * seen.keypoint_weights).sqrt()[..., None]
            * (joints[..., :2] - seen.keypoints),
            (weights.depth * seen.depth_weights).sqrt() * depth,
            weights.scale.sqrt() * (scales[:, child] - scales[:, above]),
            weights.scale.sqrt() * gauge,
            weights.joint.sqrt() * moved.body.pose,
            weights.limit.sqrt() * beyond,
        )
        return torch.cat([one.flatten(1) for one in every], 1).sum(0)

    jacobian = torch.autograd.functional.jacobian(residuals, torch.zeros(3, 99, dtype=torch.double))
    expected = torch.einsum("rbi,rbj->bij", jacobian, jacobian).tril()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_step_turns_the_body_about_the_axes_of_the_camera(case):
    _, _, theta = case
    step = torch.zeros(3, 99, dtype=torch.double)
    step[:, 2] = 0.3
    turned = rotation_from_axis_angle(step[:, :3]) @ theta.rotation
    torch.testing.assert_close(theta.moved(step).rotation, turned)
    torch.testing.assert_close(turned @ turned.mT, torch.eye(3).double().expand(3, 3, 3))


@pytest.mark.parametrize("size", [0.0, 1e-5, 0.7, 3.0])
def test_the_left_jacobian_is_the_derivative_of_the_rotation(size):
    vector = size * torch.tensor([0.48, -0.6, 0.64], dtype=torch.double)
    jacobian = left_jacobian(vector)
    small = 1e-6 * torch.tensor([0.3, 0.5, -0.2], dtype=torch.double)
    moved = rotation_from_axis_angle(vector + small)
    expected = rotation_from_axis_angle(jacobian @ small) @ rotation_from_axis_angle(vector)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-10)
