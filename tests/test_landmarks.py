"""Landmarks of bodies that do not name any (landmarks.carry), against Anny's own."""

import numpy as np
import pytest
import torch

from deformlearn.landmarks import ANNOTATED, NAMES, carry, collect
from deformlearn.skeleton import JOINT_SETS, SEGMENTS, mirrored_name

REFLECT = np.array([-1.0, 1.0, 1.0])


def arrays(template):
    return (
        template.joints.double().numpy(),
        template.vertices.double().numpy(),
        template.faces.numpy(),
        template.weights.double().numpy(),
    )


@pytest.fixture(scope="module")
def carried(anny):
    points, names = carry(*arrays(anny))
    assert names == NAMES == anny.landmark_names
    return points


@pytest.mark.parametrize("name", NAMES)
def test_annys_own_landmarks_are_carried_to_where_they_are(anny, carried, name):
    row = NAMES.index(name)
    away = (carried.rest[row] - anny.landmarks.rest[row]).norm()
    # Regressed points lie up to 2 cm below the skin, onto which faces, ears and feet are moved.
    assert away < (0.02 if name.endswith(("eye", "ear", "nose", "toe", "heel")) else 0.001)


def test_they_move_about_as_annys_do(anny, carried):
    apart = (carried.weights - anny.landmarks.weights).abs().sum(1)
    assert apart.max() < 0.75
    assert apart.median() < 0.1
    torch.testing.assert_close(carried.weights.sum(1), torch.ones(len(NAMES)).double())


def test_they_grow_and_move_with_the_body(anny, carried):
    joints, vertices, faces, weights = arrays(anny)
    shift = np.array([0, 0.3, -0.2])
    grown, _ = carry(1.3 * joints + shift, 1.3 * vertices + shift, faces, weights)
    torch.testing.assert_close(grown.rest, 1.3 * carried.rest + torch.from_numpy(shift))


def test_left_and_right_are_mirror_images(anny, carried):
    opposite = [NAMES.index(mirrored_name(name)) for name in NAMES]
    swap = [SEGMENTS.index(mirrored_name(name)) for name in SEGMENTS]
    torch.testing.assert_close(
        carried.rest[opposite], carried.rest * torch.from_numpy(REFLECT), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(carried.weights[opposite][:, swap], carried.weights)


def test_noses_and_eyes_lie_on_the_face_whatever_its_shape(anny):
    joints, vertices, faces, weights = arrays(anny)
    head = weights[:, SEGMENTS.index("head")] > 0.5
    flat = vertices.copy()
    flat[head, 2] = np.where(vertices[head, 2] > 0.05, 0.05, vertices[head, 2])
    points, _ = carry(joints, flat, faces, weights)
    for name in ("nose", "left_eye", "right_eye"):
        assert points.rest[NAMES.index(f"coco_{name}"), 2] == pytest.approx(0.05, abs=1e-6)


def test_a_body_without_skin_on_head_and_feet_still_has_all(template):
    joints, vertices, faces, weights = arrays(template)
    weights = np.zeros_like(weights)
    weights[:, 0] = 1
    points, names = carry(joints, vertices, faces, weights)
    assert names == NAMES
    assert torch.isfinite(points.rest).all()
    assert points.rest[NAMES.index("head_top"), 1] > joints[SEGMENTS.index("head"), 1]


def test_every_joint_set_finds_its_landmarks(anny):
    for joint_set in JOINT_SETS.values():
        assert set(joint_set.landmarks) <= set(NAMES), joint_set.name


def test_middles_are_means_in_place_and_movement(template):
    marked = template.landmarks[[NAMES.index(f"coco_{name}") for name in ANNOTATED]]
    points, _ = collect(template.joints, template.joints[0], marked)
    sides = [NAMES.index(f"coco_{side}_shoulder") for side in ("left", "right")]
    neck = NAMES.index("coco_neck")
    torch.testing.assert_close(points.rest[neck], points.rest[sides].mean(0))
    torch.testing.assert_close(points.weights[neck], points.weights[sides].mean(0))
