from dataclasses import replace

import pytest
import torch

from deformlearn import evaluation
from deformlearn.data.truth import Truth
from deformlearn.errors import InputError
from deformlearn.estimate import camera_joints, camera_vertices
from deformlearn.evaluation import (
    ProtocolCard,
    canonical_mm,
    lifter_only,
    mean_pose,
    score_estimates,
    score_joints,
    true_depths,
    true_joints,
    vertex_errors,
)
from deformlearn.skeleton import JOINT_SETS

NAMES = 25


@pytest.fixture
def world(template, planted):
    estimate, observations, _ = planted(template, 6)
    names = template.landmark_names[:NAMES]
    landmarks = 1000 * camera_joints(template, estimate, "skeleton25")
    root = (estimate.camera.rotation() @ template.joints[0])[:, None]
    vertices = 1000 * (camera_vertices(template, estimate) - root)
    truth = Truth([str(i) for i in range(6)], names, landmarks, vertices)
    return estimate, observations, truth, ["Walking"] * 4 + ["Sitting"] * 2


def test_the_truth_scores_zero(template, world):
    estimate, _, truth, actions = world
    scores = score_estimates(template, estimate, truth, actions)
    assert scores.raw < 0.01
    assert scores.aligned < 0.05
    assert scores.vertices < 0.01
    assert scores.people == 6


def test_the_mean_is_over_actions_not_over_people(template, world):
    _, _, truth, actions = world
    joints = true_joints(truth).clone()
    joints[4:, 1:] += 17.0 * 3**-0.5  # only the two sitting people are wrong, in 16 of 17 joints
    scores = score_joints(template, joints, truth, actions)
    assert abs(scores.by_action["Sitting"]["raw"] - 16.0) < 1e-3
    assert abs(scores.raw - 8.0) < 1e-3
    assert scores.by_action["Walking"]["people"] == 4
    assert scores.vertices is None


def test_the_canonical_size_is_the_template_s_own(template):
    legs = sum(
        (template.joints[a] - template.joints[b]).norm().item()
        for a, b in ((1, 4), (4, 7), (2, 5), (5, 8))
    )
    assert canonical_mm(template) > 1000 * legs
    assert canonical_mm(
        replace(template, landmarks=template.landmarks.map(lambda x: x))
    ) == canonical_mm(template)


def test_true_depths_are_those_the_observations_were_made_with(template, world):
    _, observations, truth, _ = world
    found = true_depths(observations, truth)
    torch.testing.assert_close(found.depths, observations.depths, rtol=1e-3, atol=1e-3)


def test_true_depths_do_not_depend_on_what_stands_beside_a_weight_of_zero(template, world):
    _, observations, truth, _ = world
    weights = observations.keypoint_weights.clone()
    weights[:, 5] = 0
    weights[0, list(observations.joint_set.root_indices)] = 0
    places = torch.where(weights[..., None] > 0, observations.keypoints, -7.0)
    hidden = replace(observations, keypoints=places, keypoint_weights=weights)
    found = true_depths(hidden, truth)
    assert found.depth_weights[0].sum() == 0, "without a root nothing is known"
    torch.testing.assert_close(found.depth_weights[1:], weights[1:])
    torch.testing.assert_close(found.depths[1:], observations.depths[1:], rtol=1e-3, atol=1e-3)


def test_the_lifter_row_with_perfect_depths_is_perfect_up_to_size(template, world):
    _, observations, truth, actions = world
    scores = lifter_only(template, observations, truth, actions)
    assert scores.true_size < 0.1
    assert scores.aligned < 0.1


def test_the_mean_pose_is_the_mean(template, world):
    _, _, truth, actions = world
    one = Truth(truth.keys[:1], truth.landmark_names, truth.landmarks_mm[:1], None)
    assert mean_pose(template, one, one, actions[:1]).raw < 1e-3
    assert mean_pose(template, one, truth, actions).raw > 10


def test_missing_landmarks_are_named(world):
    truth = world[2]
    with pytest.raises(InputError, match="coco_nose"):
        true_joints(truth, JOINT_SETS["coco17"])


def test_the_protocol_card_says_everything(template):
    text = "\n".join(ProtocolCard("synthetic", canonical_mm=canonical_mm(template)).lines())
    for word in (
        "pelvis",
        "17 joints",
        "Procrustes",
        f"{canonical_mm(template):.0f} mm",
        "actions",
    ):
        assert word in text


def test_people_are_scored_the_same_in_blocks_of_any_size(template, world, monkeypatch):
    estimate, _, truth, actions = world
    guess = estimate[[1, 2, 3, 4, 5, 0]]
    together = score_estimates(template, guess, truth, actions).record()
    monkeypatch.setattr("deformlearn.evaluation._CHUNK", 4)
    apart = score_estimates(template, guess, truth, actions).record()
    by_action, wanted = apart.pop("by_action"), together.pop("by_action")
    assert apart == pytest.approx(together, rel=1e-5)
    for action, row in wanted.items():
        assert by_action[action] == pytest.approx(row, rel=1e-5)
    assert together["raw"] > 10


@pytest.fixture
def cramped(monkeypatch):
    """A device that holds the meshes of at most `room` people."""

    def limit(room):
        def small(template, estimate):
            if len(estimate.camera.scale) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return camera_vertices(template, estimate)

        monkeypatch.setattr(evaluation, "camera_vertices", small)

    return limit


def test_meshes_that_do_not_fit_are_scored_fewer_at_a_time(template, world, cramped, caplog):
    estimate, _, truth, actions = world
    guess = estimate[[1, 2, 3, 4, 5, 0]]
    undisturbed = score_estimates(template, guess, truth, actions)
    alone = vertex_errors(template, guess, truth.vertices_mm)
    cramped(2)
    assert score_estimates(template, guess, truth, actions).raw == pytest.approx(undisturbed.raw)
    found = score_estimates(template, guess, truth, actions)
    assert found.vertices == pytest.approx(undisturbed.vertices, rel=1e-5)
    assert "out of memory: from now on 1 people at a time (CUDA out of memory)" in caplog.text
    torch.testing.assert_close(vertex_errors(template, guess, truth.vertices_mm), alone)


def test_a_mesh_that_does_not_fit_alone_is_refused(template, world, cramped):
    estimate, _, truth, actions = world
    cramped(0)
    with pytest.raises(InputError, match="out of memory for one of the people"):
        score_estimates(template, estimate, truth, actions)


def test_no_row_for_a_lifter_that_could_not_lift_everyone(template, world):
    """Half a pose has no size, and a pose of zeros no error that means anything."""
    _, observations, truth, actions = world
    weights = observations.depth_weights.clone()
    weights[2, 5] = 0
    hidden = observations.with_depths(observations.depths, weights)
    with pytest.raises(InputError, match="1 of 6 people have joints without a lifted depth"):
        lifter_only(template, hidden, truth, actions)
