from dataclasses import replace

import pytest
import torch

from deformlearn.config import RegistrationConfig
from deformlearn.estimate import (
    Estimate,
    camera_joints,
    facing_share,
    project_points,
    view_transforms,
)
from deformlearn.metrics import joint_errors
from deformlearn.registration import at_once, keep_best, quality_of, register
from deformlearn.skeleton import JOINT_SETS

EXACT = RegistrationConfig(depth_weight=10.0, joint_weight=0.001, scale_weight=10.0)


def error_mm(template, estimate, truth):
    joints = [1000 * camera_joints(template, value) for value in (estimate, truth)]
    return joint_errors(*joints, JOINT_SETS["h36m17"], 4000.0).true_size


def test_planted_people_are_found_again(template, planted):
    truth, observations, crop = planted(template, 12)
    estimate, quality = register(template, observations, crop, EXACT)
    assert error_mm(template, estimate, truth).median() < 12
    assert quality.reprojection_px.median() < 0.5
    torch.testing.assert_close(
        torch.linalg.det(estimate.camera.matrix), torch.ones(12), rtol=0, atol=1e-4
    )


def test_the_closed_form_start_finds_most_of_the_turn(template, planted):
    truth, observations, crop = planted(template, 16)
    config = replace(EXACT, first_iterations=0, iterations=0)
    turned = error_mm(template, register(template, observations, crop, config)[0], truth)
    still = replace(config, orient=False)
    assert (
        turned.mean()
        < 0.8 * error_mm(template, register(template, observations, crop, still)[0], truth).mean()
    )


def test_key_points_with_depths_are_enough_to_start_from(template, planted):
    truth, observations, crop = planted(template, 16)
    blind = replace(observations, point_weights=torch.zeros_like(observations.point_weights))
    config = replace(EXACT, first_iterations=0, iterations=0)
    found = register(template, blind, crop, config)[0]
    rest = Estimate.rest(template, 16)
    lifted, still = (
        (value.camera.matrix - truth.camera.rotation()).norm(dim=(1, 2)).median()
        for value in (found, rest)
    )
    assert lifted < 0.7 * still


def test_without_points_or_depths_the_key_points_alone_are_fitted(template, planted):
    _, observations, crop = planted(template, 4)
    blind = replace(
        observations,
        point_weights=torch.zeros_like(observations.point_weights),
        depth_weights=torch.zeros_like(observations.depth_weights),
    )
    _, quality = register(template, blind, crop, RegistrationConfig())
    assert quality.dense.abs().max() == 0
    assert quality.reprojection_px.max() < 4


def test_batch_size_and_order_change_nothing_but_rounding(template, planted):
    _, observations, crop = planted(template, 7)
    config = replace(EXACT, iterations=10)
    whole, _ = register(template, observations, crop, config)
    parts, _ = register(template, observations, crop, replace(config, batch=3))
    back = torch.arange(6, -1, -1)
    turned, _ = register(template, observations[back], crop[back], config)
    for other in (parts, turned[back]):
        torch.testing.assert_close(whole.body.pose, other.body.pose, rtol=1e-3, atol=1e-3)


def test_padding_changes_nothing(template, planted):
    _, observations, crop = planted(template, 3, points=40)

    def padded(x, value):
        return torch.cat([x, torch.full_like(x[:, :10], value)], 1)

    longer = replace(
        observations,
        points=padded(observations.points, 55.0),
        faces=padded(observations.faces, 0),
        barycentric=padded(observations.barycentric, 0.3),
        point_weights=padded(observations.point_weights, 0.0),
    )
    config = replace(EXACT, iterations=10)
    first, quality = register(template, observations, crop, config)
    second, padded_quality = register(template, longer, crop, config)
    torch.testing.assert_close(first.body.pose, second.body.pose, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(quality.facing, padded_quality.facing)


def test_the_robust_term_resists_outliers_that_ruin_the_squared_one(template, planted):
    truth, observations, crop = planted(template, 12)
    points = observations.points.clone()
    points[:, :10] = 1.5 * torch.rand(12, 10, 2, generator=torch.Generator().manual_seed(3)) - 0.5
    spoiled = replace(observations, points=points)
    robust, _ = register(template, spoiled, crop, EXACT)
    squared, _ = register(template, spoiled, crop, replace(EXACT, robust=None))
    robust_error, squared_error = (error_mm(template, e, truth).mean() for e in (robust, squared))
    assert robust_error < 0.8 * squared_error


def test_later_rounds_start_from_predictions(template, planted):
    truth, observations, crop = planted(template, 6)
    away = replace(truth, body=replace(truth.body, pose=truth.body.pose + 0.05))
    near, _ = register(template, observations, crop, replace(EXACT, iterations=1), start=away)
    assert (error_mm(template, near, truth) < 0.3 * error_mm(template, away, truth)).all()
    _, quality = register(template, observations, crop, EXACT, start=near)
    assert quality.converged.all()
    assert (quality.loss <= quality_of(template, near, observations, crop, EXACT).loss).all()


def test_the_number_of_threads_changes_nothing(template, planted):
    _, observations, crop = planted(template, 150)
    config = replace(EXACT, iterations=6)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            found.append(register(template, observations, crop, config))
        finally:
            torch.set_num_threads(threads)
    for one, other in zip(found[0], found[1], strict=True):
        for left, right in zip(one.tensors(), other.tensors(), strict=True):
            assert torch.equal(left, right)


def test_people_with_few_and_many_points_get_their_own_fits(template, planted):
    _, observations, crop = planted(template, 70)
    weights = observations.point_weights.clone()
    for person in range(70):
        weights[person, 8 + (37 * person) % 52 :] = 0
    mixed = replace(observations, point_weights=weights)
    found, quality = register(template, mixed, crop, EXACT)
    alone, _ = register(template, mixed[33:34], crop[33:34], EXACT)
    torch.testing.assert_close(found.body.pose[33:34], alone.body.pose, rtol=1e-2, atol=1e-2)
    again = quality_of(template, found, mixed, crop, EXACT)
    torch.testing.assert_close(quality.loss, again.loss)
    torch.testing.assert_close(quality.reprojection_px, again.reprojection_px)


def test_keep_best_never_makes_a_fit_worse(template, planted):
    truth, observations, crop = planted(template, 6)
    rest = Estimate.rest(template, 6)
    poor = (rest, quality_of(template, rest, observations, crop, EXACT))
    good = (truth, quality_of(template, truth, observations, crop, EXACT))
    mixed_new = tuple(a.map(lambda x: x) for a in good)
    kept, quality = keep_best(poor, mixed_new)
    torch.testing.assert_close(kept.body.pose, truth.body.pose)
    kept_back, quality_back = keep_best(good, poor)
    torch.testing.assert_close(kept_back.body.pose, truth.body.pose)
    assert (quality.loss <= poor[1].loss).all()
    assert (quality_back.loss <= good[1].loss).all()


def test_a_body_seen_from_inside_is_told_by_its_facing_share(template, planted):
    truth, observations, _ = planted(template, 5, points=400)
    view = view_transforms(template, truth)
    everything = facing_share(template, view, observations.faces, observations.point_weights)
    assert (everything - 0.5).abs().max() < 0.15  # half of a closed surface faces any camera
    corners = project_points(
        template, truth, template.surface_points(observations.faces, observations.barycentric)
    )
    centres = project_points(template, truth, template.keypoints(JOINT_SETS["smpl24"]))
    owner = template.weights[template.faces[observations.faces][..., 0]].argmax(-1)
    behind = torch.gather(centres[..., 2], 1, owner)
    near = (corners[..., 2] < behind).float()
    assert facing_share(template, view, observations.faces, near).min() > 0.75
    mirror = replace(
        truth,
        camera=replace(
            truth.camera, matrix=truth.camera.rotation() * torch.tensor([[1.0], [1], [-1]])
        ),
    )
    assert mirror.camera.rotation().det().max() < 0


def test_progress_counts_people(template, planted):
    _, observations, crop = planted(template, 5)
    seen = []
    config = replace(EXACT, batch=2)
    register(template, observations, crop, config, progress=seen.append)
    assert seen == [2, 4, 5]


@pytest.mark.parametrize("solver", ["gauss-newton", "adam"])
@pytest.mark.parametrize("placeholder", [float("nan"), 1e20])
def test_what_stands_beside_a_weight_of_zero_does_not_matter(
    template, planted, solver, placeholder
):
    _, observations, crop = planted(template, 4)
    config = replace(EXACT, solver=solver, first_steps=5, steps=5)
    names = {"points": "point_weights", "keypoints": "keypoint_weights", "depths": "depth_weights"}
    found = []
    for value in (0.0, placeholder):
        hidden = {}
        for name, weights in names.items():
            hidden[name] = getattr(observations, name).clone()
            hidden[weights] = getattr(observations, weights).clone()
            hidden[name][:, 2], hidden[weights][:, 2] = value, 0
        seen = replace(observations, **hidden)
        fitted = register(template, seen, crop, config)
        found.append((*fitted, quality_of(template, fitted[0], seen, crop, config)))
    for one, other in zip(*found, strict=True):
        for clean, dirty in zip(one.tensors(), other.tensors(), strict=True):
            assert torch.equal(clean, dirty)


def test_a_start_that_is_a_reflection_ends_as_a_rotation(template, planted):
    truth, observations, crop = planted(template, 4)
    flip = torch.tensor([1.0, 1.0, -1.0])[:, None]
    camera = replace(truth.camera, matrix=truth.camera.rotation() * flip)
    start = replace(truth, camera=camera)
    found, quality = register(template, observations, crop, EXACT, start=start)
    torch.testing.assert_close(torch.linalg.det(found.camera.matrix), torch.ones(4))
    assert error_mm(template, found, truth).max() < 12
    expected = register(template, observations, crop, EXACT, start=truth)[1]
    torch.testing.assert_close(quality.loss, expected.loss, rtol=1e-3, atol=1e-4)


def test_nobody_to_register_is_refused(template, planted):
    _, observations, crop = planted(template, 2)
    with pytest.raises(ValueError, match="nothing to register"):
        register(template, observations[:0], crop[:0], EXACT)


def test_one_degenerate_person_is_flagged_and_harms_no_other(template, planted):
    _, observations, crop = planted(template, 3)
    points = observations.points.clone()
    points[1] = points[1, :1]  # all points on one pixel
    keypoints = observations.keypoints.clone()
    keypoints[1] = 1e18
    spoiled = replace(observations, points=points, keypoints=keypoints)
    config = replace(EXACT, iterations=10)
    alone, _ = register(template, observations, crop, config)
    mixed, quality = register(template, spoiled, crop, config)
    for tensor in mixed.tensors():
        assert tensor.isfinite().all()
    assert not quality.converged[1]
    torch.testing.assert_close(
        mixed.body.pose[[0, 2]], alone.body.pose[[0, 2]], rtol=1e-3, atol=1e-3
    )


def test_key_points_without_a_single_column_of_correspondences_are_fitted(template, planted):
    _, seen, crop = planted(template, 3)
    columns = ("points", "faces", "barycentric", "point_weights")
    unused = replace(seen, point_weights=torch.zeros_like(seen.point_weights))
    none = replace(seen, **{name: getattr(seen, name)[:, :0] for name in columns})
    found, expected = (
        register(template, each, crop, RegistrationConfig()) for each in (none, unused)
    )
    torch.testing.assert_close(found[1].loss, expected[1].loss)
    again = quality_of(template, found[0], none, crop, RegistrationConfig())
    torch.testing.assert_close(again.loss, found[1].loss)


@pytest.mark.parametrize("name", ["points", "keypoints", "depths"])
def test_a_number_that_is_not_one_is_flagged_and_harms_no_other(template, planted, name):
    _, seen, crop = planted(template, 3)
    broken = getattr(seen, name).clone()
    broken[1, 2] = torch.nan
    found, quality = register(template, replace(seen, **{name: broken}), crop, RegistrationConfig())
    expected, _ = register(template, seen, crop, RegistrationConfig())
    assert quality.loss.isfinite().tolist() == [True, False, True]
    assert quality.converged.tolist()[1] is False
    assert all(value.isfinite().all() for value in found.tensors())
    torch.testing.assert_close(found.body.pose[::2], expected.body.pose[::2], atol=1e-3, rtol=0)


@pytest.mark.parametrize("solver", ["gauss-newton", "adam"])
def test_products_of_less_precision_are_allowed_but_not_used(solver, template, planted):
    _, observations, crop = planted(template, 6)
    config = RegistrationConfig(solver=solver, compile="never", first_steps=20, steps=20)
    expected, _ = register(template, observations, crop, config)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # TF32 on CUDA, bfloat16 on a CPU that has it
    try:
        found, _ = register(template, observations, crop, config)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    for ours, theirs in zip(found.tensors(), expected.tensors(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_batch_suits_the_device_unless_it_is_asked_for():
    newton = RegistrationConfig()
    adam, small = replace(newton, solver="adam"), replace(newton, batch=20)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [at_once(one, cpu) for one in (newton, adam, small)] == [128, 500, 20]
    assert at_once(newton, cuda) == at_once(adam, cuda) > 1000
    assert at_once(small, cuda) == 20
    assert at_once(replace(newton, batch=1000), cpu) == 128  # more would leave the cache
