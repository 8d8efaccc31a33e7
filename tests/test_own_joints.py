"""People without key points are lifted by the joints of a first fit."""

import pytest
import torch

from deformlearn import lifter, own_joints
from deformlearn.config import LifterConfig, RegistrationConfig
from deformlearn.estimate import project_points
from deformlearn.own_joints import OWN_JOINT_WEIGHT, with_own_joints, without_keypoints
from deformlearn.registration import register

QUICK = RegistrationConfig(first_iterations=1, iterations=2)
BLIND = torch.tensor([1, 3])
"""People without key points."""


@pytest.fixture(scope="module")
def made():
    config = LifterConfig(width=8, steps=4, batch=4, hidden=0.3)
    poses = torch.randn(20, 17, 2, generator=torch.Generator().manual_seed(0))
    return lifter.train(poses, torch.ones(20, 17), "h36m17", config)


@pytest.fixture
def mixed(template, planted):
    """Five people with key points in COCO's order; two have none of them."""
    _, seen, crop = planted(template, 5, joints="coco17")
    weights = seen.keypoint_weights.index_fill(0, BLIND, 0.0)
    changed = type(seen)(**{**vars(seen), "keypoint_weights": weights})
    return changed.with_depths(torch.zeros_like(weights), torch.zeros_like(weights)), crop


def test_without_a_lifter_nothing_changes(template, mixed):
    seen, crop = mixed
    assert with_own_joints(template, seen, crop, QUICK, None) is seen


def test_people_with_key_points_are_lifted_as_ever(template, mixed, made):
    seen, crop = mixed
    found, usual = with_own_joints(template, seen, crop, QUICK, made), made.lift(seen)
    others = torch.tensor([0, 2, 4])
    for a, b in zip(found.tensors(), usual.tensors(), strict=True):
        assert torch.equal(a[others], b[others])
    assert not usual.depth_weights[BLIND].any()


def test_the_others_get_the_joints_of_a_first_fit(template, mixed, made):
    seen, crop = mixed
    found = with_own_joints(template, seen, crop, QUICK, made)
    assert found.joints == "coco17"
    first, _ = register(template, seen[BLIND], crop[BLIND], QUICK)
    joints = project_points(template, first, template.keypoints(seen.joint_set))[..., :2]
    torch.testing.assert_close(found.keypoints[BLIND], joints)
    assert (found.keypoint_weights[BLIND] == OWN_JOINT_WEIGHT).all()
    names = seen.joint_set.names
    known = found.depth_weights[BLIND].bool()
    # Human3.6M has limbs as COCO has, but neither eyes nor ears.
    assert known[:, [names.index("left_knee"), names.index("right_wrist")]].all()
    assert not known[:, names.index("left_eye")].any()
    assert (found.depths[BLIND][known] != 0).all()
    assert torch.equal(found.points, seen.points)


def test_in_the_lifters_own_joint_set_no_depth_is_lost(template, mixed, made):
    seen, crop = mixed
    blank = without_keypoints(seen, "h36m17")
    assert not blank.keypoint_weights.any()
    found = with_own_joints(template, blank, crop, QUICK, made)
    assert found.joints == "h36m17"
    assert found.depth_weights.all()


def test_where_everyone_has_key_points_there_is_no_first_fit(template, planted, made, monkeypatch):
    _, seen, crop = planted(template, 2, joints="coco17")
    monkeypatch.setattr(own_joints, "register", None)
    found = with_own_joints(template, seen, crop, QUICK, made)
    assert torch.equal(found.keypoints, seen.keypoints)
