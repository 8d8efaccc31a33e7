"""2D errors: planted bodies, planted offsets, a slow twin, people without labels."""

from dataclasses import asdict, replace

import pytest
import torch

from deformlearn import image_scores
from deformlearn.estimate import project_points
from deformlearn.image_scores import NEAR, score_in_image
from deformlearn.skeleton import joint_set


@pytest.fixture
def world(template, planted):
    estimate, seen, _ = planted(template, 6)
    return estimate, seen


def test_the_bodies_that_labels_were_made_of_are_where_the_labels_are(template, world):
    found = score_in_image(template, *world)
    assert found.keypoints < 1e-3
    assert found.points < 1e-3
    assert (found.found, found.people) == (100.0, 6)


def test_a_shift_is_given_in_percent_of_the_crop_s_side(template, world):
    estimate, seen = world
    camera = estimate.camera
    # 0.02 of half a crop is one percent of the whole.
    moved = replace(camera, translation=camera.translation + torch.tensor([0.02, 0.0]))
    found = score_in_image(template, replace(estimate, camera=moved), seen)
    assert found.keypoints == pytest.approx(1.0, abs=1e-3)
    assert found.points == pytest.approx(1.0, abs=1e-3)
    assert found.found == 100.0


def test_points_beyond_five_percent_are_not_found(template, world):
    estimate, seen = world
    keypoints = seen.keypoints.clone()
    keypoints[:, :5, 0] += 2 * (NEAR + 0.1) / 100  # five of 25 by a little too much
    keypoints[:, 5:10, 1] -= 2 * (NEAR - 0.1) / 100
    found = score_in_image(template, estimate, replace(seen, keypoints=keypoints))
    everyone = (seen.keypoint_weights > 0).float()
    wanted = 100 * (1 - everyone[:, :5].sum(1) / everyone.sum(1)).mean().item()
    assert found.found == pytest.approx(wanted, abs=1e-3)


def test_some_wrong_correspondences_do_not_move_a_median(template, world):
    estimate, seen = world
    points = seen.points.clone()
    points[:, ::5] += 3.0
    assert score_in_image(template, estimate, replace(seen, points=points)).points < 1e-3


def test_what_stands_beside_a_weight_of_zero_never_matters(template, world):
    estimate, seen = world
    weights = seen.keypoint_weights.clone()
    weights[:, 3] = 0
    some = replace(seen, keypoint_weights=weights)
    keypoints = seen.keypoints.clone()
    keypoints[:, 3] = torch.nan
    other = replace(some, keypoints=keypoints)
    assert score_in_image(template, estimate, some) == score_in_image(template, estimate, other)


def test_people_are_averaged_each_over_their_own_labels(template, world):
    estimate, seen = world
    points, joints = seen.points + 0.03, seen.keypoints.clone()
    joints[2] += torch.tensor([0.5, 0.0])  # one person wrong in everything
    weights = seen.keypoint_weights.clone()
    weights[4] = 0  # nobody labelled this one's key points
    point_weights = seen.point_weights.clone()
    point_weights[1] = 0
    seen = replace(
        seen, points=points, keypoints=joints, keypoint_weights=weights, point_weights=point_weights
    )
    found = score_in_image(template, estimate, seen)
    assert asdict(found) == pytest.approx(slow_twin(template, estimate, seen), abs=1e-3)


def slow_twin(template, estimate, seen):
    """Person by person, label by label."""
    places = project_points(template, estimate, template.keypoints(joint_set(seen.joints)))
    keypoints, near, points = [], [], []
    for row in range(len(seen)):
        lengths = [
            50 * torch.dist(places[row, joint, :2], seen.keypoints[row, joint]).item()
            for joint in range(places.shape[1])
            if seen.keypoint_weights[row, joint] > 0
        ]
        if lengths:
            keypoints.append(sum(lengths) / len(lengths))
            near.append(100 * sum(length <= 5 for length in lengths) / len(lengths))
        lengths = []
        for column in range(seen.points.shape[1]):
            if seen.point_weights[row, column] > 0:
                where = template.surface_points(
                    seen.faces[row, column][None, None], seen.barycentric[row, column][None, None]
                )
                there = project_points(template, estimate[row : row + 1], where)[0, 0, :2]
                lengths.append(50 * torch.dist(there, seen.points[row, column]).item())
        if lengths:
            points.append(sorted(lengths)[(len(lengths) - 1) // 2])
    mean = [sum(values) / len(values) for values in (keypoints, near, points)]
    return dict(zip(("keypoints", "found", "points"), mean, strict=True)) | {"people": len(seen)}


@pytest.mark.parametrize(
    ("weights", "lost"),
    [("keypoint_weights", ("keypoints", "found")), ("point_weights", ("points",))],
)
def test_what_nobody_labelled_is_unknown(template, world, weights, lost):
    estimate, seen = world
    blind = replace(seen, **{weights: torch.zeros_like(getattr(seen, weights))})
    found = asdict(score_in_image(template, estimate, blind))
    assert {name for name, value in found.items() if value is None} == set(lost)


def test_blocks_of_any_size_measure_the_same(template, world, monkeypatch):
    whole = score_in_image(template, *world)
    monkeypatch.setattr(image_scores, "_CHUNK", 4)
    assert score_in_image(template, *world) == whole


def test_a_full_device_measures_fewer_at_a_time(template, world, monkeypatch, caplog):
    whole = score_in_image(template, *world)

    def small(template, estimate, points):
        if len(estimate.camera.scale) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return project_points(template, estimate, points)

    monkeypatch.setattr(image_scores, "project_points", small)
    assert score_in_image(template, *world) == whole
    assert "from now on 1 people at a time" in caplog.text
