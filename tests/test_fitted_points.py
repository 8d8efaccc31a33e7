"""Correspondences from a body fitted to 3D joints (fitted_points.py)."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deformlearn.body import skin
from deformlearn.data.sources import Person
from deformlearn.errors import InputError
from deformlearn.fitted_points import FittedPoints, with_fitted_points
from deformlearn.raster import rasterise
from deformlearn.skeleton import SEGMENTS, joint_set

PLACE = torch.tensor([200.0, -100.0, 4800.0])
"""Where the people stand before the camera (mm)."""


def to_pixels(points_mm):
    """A lens of 1145 px, somewhat bent, as in Human3.6M's laboratory."""
    flat = points_mm[..., :2] / points_mm[..., 2:]
    return 1145 * flat * (1 - 0.2 * (flat**2).sum(-1, keepdims=True)) + 510


def people_of(template, estimate, joints="h36m17"):
    """People with exact joints, and the surfaces they come from (mm, camera axes)."""
    turn = estimate.camera.rotation().mT
    surfaces = 1000 * skin(template, estimate.body) @ turn + PLACE
    marked = skin(template, estimate.body, template.keypoints(joint_set(joints)))
    joints_mm = (1000 * marked @ turn + PLACE).double().numpy()
    return [
        Person(
            key=f"person-{row}", image=Path("a.jpg"), box=(0.0, 0.0, 1.0, 1.0), keypoints=to_pixels(one),
            keypoint_weights=np.ones(len(one)), joints_mm=one,
        )
        for row, one in enumerate(joints_mm)
    ], surfaces  # fmt: skip


@pytest.fixture(scope="module")
def fitted(anny, planted):
    truth, _, _ = planted(anny, 12, seed=3)
    # Joints cannot tell a twist: the planted people have half as much of it as of bending.
    truth = replace(truth, body=replace(truth.body, pose=0.6 * truth.body.pose))
    people, surfaces = people_of(anny, truth)
    return with_fitted_points(people, anny, 128, seed=0), surfaces


def errors_px(template, people, surfaces):
    """Distance of each point's pixel from where its place on the body truly is seen."""
    found = []
    for person, surface in zip(people, surfaces, strict=True):
        corners = surface[template.faces[torch.from_numpy(person.dense.faces)]].double().numpy()
        points = np.einsum("nc,ncd->nd", person.dense.barycentric, corners)
        found.append(np.linalg.norm(to_pixels(points) - person.dense.pixels, axis=1))
    return np.concatenate(found)


def test_points_lie_where_the_true_body_is_seen(anny, fitted):
    # The people are some 390 px tall.
    errors = errors_px(anny, *fitted)
    assert np.median(errors) < 3
    assert np.percentile(errors, 90) < 9


def test_everyone_gets_as_many_points_as_asked_for(fitted):
    for person in fitted[0]:
        dense = person.dense
        assert len(dense.pixels) == len(dense.faces) == len(dense.weights) == 128
        np.testing.assert_allclose(dense.barycentric.sum(1), 1, atol=1e-5)
        assert (dense.weights == 1).all()


def test_only_what_is_seen_becomes_a_point(anny, fitted):
    """The true body hides few of the points: what is hidden on the fitted body was never chosen."""
    people, surfaces = fitted
    for person, surface in zip(people[:4], surfaces, strict=False):
        faces = torch.from_numpy(person.dense.faces)
        a, b, c = surface[anny.faces[faces]].unbind(1)
        normal = torch.linalg.cross(b - a, c - a)
        towards = (normal * a).sum(-1) < 0  # the camera is at the origin
        assert towards.double().mean() > 0.9

        pixels = torch.from_numpy(to_pixels(surface.double().numpy())).float()[None]
        nearest = rasterise(pixels, surface[None, :, 2], anny.faces, (1020, 1020), perspective=True)
        depth = torch.full((1020 * 1020,), torch.inf)
        depth[nearest.pixels] = nearest.depth
        at = torch.from_numpy(person.dense.pixels).long()
        behind = ((a + b + c) / 3)[:, 2] - depth[at[:, 1] * 1020 + at[:, 0]]
        on_body = behind.isfinite()
        assert on_body.double().mean() > 0.85
        assert (behind[on_body] < 60).double().mean() > 0.9


def test_points_are_spread_over_the_body(anny, fitted):
    owner = anny.weights.argmax(1)
    segments = set()
    for person in fitted[0]:
        corners = anny.faces[torch.from_numpy(person.dense.faces), 0]
        segments |= set(owner[corners].tolist())
    assert len(segments) >= len(SEGMENTS) - 4


def test_a_person_s_points_do_not_depend_on_the_company(template, planted):
    people, _ = people_of(template, planted(template, 3)[0])
    together = with_fitted_points(people, template, 20, seed=5)
    alone = with_fitted_points(people[2:], template, 20, seed=5)[0]
    np.testing.assert_allclose(together[2].dense.pixels, alone.dense.pixels, atol=0.5)
    other = with_fitted_points(people[2:], template, 20, seed=6)[0]
    assert not np.array_equal(other.dense.faces, alone.dense.faces)


def test_joints_relative_to_a_root_are_seen_in_parallel(template, planted):
    people, _ = people_of(template, planted(template, 2)[0])
    relative = [
        replace(one, joints_mm=one.joints_mm - one.joints_mm[0], keypoints=one.joints_mm[:, :2] / 4)
        for one in people
    ]
    for person in with_fitted_points(relative, template, 20, seed=0):
        low, high = person.keypoints.min(0) - 30, person.keypoints.max(0) + 30
        assert ((person.dense.pixels > low) & (person.dense.pixels < high)).all()


def test_a_missing_joint_costs_little(template, planted):
    people, surfaces = people_of(template, planted(template, 2)[0])
    joints_mm = people[0].joints_mm.copy()
    joints_mm[12] = np.nan
    gappy = replace(people[0], joints_mm=joints_mm)
    partly = with_fitted_points([people[1], gappy], template, 40, seed=0)[1]
    assert partly.dense is not None
    assert np.median(errors_px(template, [partly], surfaces[:1])) < 12


def test_people_with_too_few_joints_stay_without_points_and_say_so(template, planted):
    people, _ = people_of(template, planted(template, 2)[0])
    weights = np.zeros(17)
    weights[:5] = 1
    first, second = with_fitted_points(
        [replace(people[0], keypoint_weights=weights), people[1]], template, 20, seed=0
    )
    assert first.dense is None
    assert first.notes == ("no fitted points: fewer than 6 joints are known",)
    assert second.dense is not None


def test_without_any_3d_joints_another_way_is_named(template, planted):
    people, _ = people_of(template, planted(template, 2)[0])
    flat = [replace(one, joints_mm=None) for one in people]
    with pytest.raises(InputError, match=r"need 3D joints.*give DensePose predictions"):
        with_fitted_points(flat, template, 20, seed=0)


def test_nobody_is_nobody(template):
    assert with_fitted_points([], template, 20, seed=0) == []


def test_the_step_of_an_import_travels_and_does_the_same(template, planted):
    people, _ = people_of(template, planted(template, 2)[0], "h36m17_left_first")
    step = FittedPoints(template, "h36m17_left_first", count=16, seed=1)
    again = pickle.loads(pickle.dumps(step))
    direct = with_fitted_points(people, template, 16, 1, joints="h36m17_left_first")
    for one, other in zip(again(people), direct, strict=True):
        np.testing.assert_array_equal(one.dense.faces, other.dense.faces)
    assert "vertices" not in repr(step)
