"""The closed forms against Eq. 2 as `energy` states it, and against autograd."""

from dataclasses import replace

import pytest
import torch

from deformlearn.body import BodyParameters
from deformlearn.config import PAPER_REGISTRATION, RegistrationConfig
from deformlearn.energy import Evidence, Weights, energy
from deformlearn.estimate import Estimate, view_transforms
from deformlearn.least_squares import Problem, Theta, View
from deformlearn.normal_equations import normal_equations
from deformlearn.skeleton import SEGMENTS, left_jacobian, rotation_from_axis_angle

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
    found = normal_equations(template, problem, theta, weights)
    moved = theta.moved(found.step(step)).estimate()
    (gradient,) = torch.autograd.grad(energy(template, moved, evidence, weights).sum(), step)
    torch.testing.assert_close(2 * found.gradient, gradient, rtol=1e-6, atol=1e-6)


def test_the_matrix_is_that_of_the_residuals_jacobian(case):
    """Without the robust term all is a sum of squares: H = J'J, row by row of autograd's J."""
    template, evidence, problem, theta, weights = parts(case, replace(CONFIG, robust=None))
    found = normal_equations(template, problem, theta, weights)
    seen = evidence.observations

    def residuals(step):
        moved = theta.moved(found.step(step)).estimate()
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
    expected = torch.einsum("rbi,rbj->bij", jacobian, jacobian).triu()
    torch.testing.assert_close(found.matrix.triu(), expected, rtol=1e-6, atol=1e-6)


def test_the_energy_alone_is_that_of_the_equations(case):
    template, _, problem, theta, weights = parts(case, CONFIG)
    found = normal_equations(template, problem, theta, weights).energy
    torch.testing.assert_close(
        View.of(template, problem, theta, weights).energy, found, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("column", "axis"), [(1, [0.0, 1, 0]), (26, [-1.0, 0, 0]), (75, [0.0, 0, 1])]
)
def test_joints_turn_about_the_axes_of_the_camera(case, column, axis):
    template, _, problem, theta, weights = parts(case, CONFIG)
    equations = normal_equations(template, problem, theta, weights)
    for name, exact in (("pelvis", 0.3), ("left_elbow", 1e-6)):
        joint = SEGMENTS.index(name)
        solution = torch.zeros(3, 99, dtype=torch.double)
        solution[:, column + joint] = exact
        turn = rotation_from_axis_angle(exact * torch.tensor(axis, dtype=torch.double))
        before, after = (
            view_transforms(template, one.estimate())[:, joint, :, :3]
            for one in (theta, theta.moved(equations.step(solution)))
        )
        torch.testing.assert_close(after, turn @ before, rtol=0, atol=1e-9)


def test_damping_is_that_of_pose_vectors(case):
    """What is added weighs changes of pose vectors, whatever turns they are."""
    template, _, problem, theta, weights = parts(case, CONFIG)
    equations = normal_equations(template, problem, theta, weights)
    added = torch.rand(3, 99, dtype=torch.double)
    solution = torch.randn(3, 99, dtype=torch.double)

    def quadratic(matrix):
        full = matrix.triu() + matrix.triu(1).mT
        return torch.einsum("bi,bij,bj->b", solution, full, solution)

    more = quadratic(equations.damped(added)) - quadratic(equations.matrix)
    step = equations.step(solution)
    torch.testing.assert_close(more, (added * step.square()).sum(-1))
    # And the diagonal is what the matrix says of moving one number of theta alone.
    for number in (0, 1, 30, 60, 74, 80):
        alone = torch.zeros_like(step)
        alone[:, number] = 1
        columns = torch.stack(
            [equations.step(one.expand(3, -1)) for one in torch.eye(99, dtype=torch.double)], -1
        )
        solution = torch.linalg.solve(columns, alone[..., None])[..., 0]
        torch.testing.assert_close(quadratic(equations.matrix), equations.diagonal[:, number])


@pytest.mark.parametrize("size", [0.0, 1e-5, 0.7, 3.0])
def test_the_left_jacobian_is_the_derivative_of_the_rotation(size):
    vector = size * torch.tensor([0.48, -0.6, 0.64], dtype=torch.double)
    jacobian = left_jacobian(vector)
    small = 1e-6 * torch.tensor([0.3, 0.5, -0.2], dtype=torch.double)
    moved = rotation_from_axis_angle(vector + small)
    expected = rotation_from_axis_angle(jacobian @ small) @ rotation_from_axis_angle(vector)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-10)
