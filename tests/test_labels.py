"""labels.py: what annotators pick, and a predictor's errors in the shares asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deformlearn.config import SyntheticConfig
from deformlearn.data.labels import LEG_SWAPS, Labels, annotate, predicted
from deformlearn.data.staging import Studio
from deformlearn.skeleton import SEGMENTS


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.open()


def everywhere(surface, count, seed=0):
    """Labels all over the body."""
    random = np.random.default_rng(seed)
    faces, blend = surface.anywhere(count, random)
    points = random.uniform(0, 64, (count, 2))
    return Labels(points, faces, blend, random.uniform(0, 64, (25, 2)))


def place_of(studio, labels):
    corners = studio.template.vertices[studio.template.faces[torch.from_numpy(labels.faces)]]
    return (corners * torch.from_numpy(labels.barycentric).float()[..., None]).sum(1).numpy()


QUIET = SyntheticConfig(quality="predicted", noise=0.0, outliers=0.0, swaps=0.0, holes=0.0)


def test_a_predictor_without_errors_is_exact(studio):
    labels = everywhere(studio.surface, 100)
    result = predicted(labels, studio.surface, QUIET, 32.0, np.random.default_rng(0))
    np.testing.assert_array_equal(result.points, labels.points)
    np.testing.assert_array_equal(result.faces, labels.faces)
    np.testing.assert_array_equal(result.keypoints, labels.keypoints)


def test_jitter_has_the_deviation_asked_for_on_points_and_key_points(studio):
    labels = everywhere(studio.surface, 4000)
    config = replace(QUIET, noise=0.05)
    random = np.random.default_rng(0)
    result = predicted(labels, studio.surface, config, 32.0, random)
    assert abs((result.points - labels.points).std() - 1.6) < 0.05
    many = [predicted(labels, studio.surface, config, 32.0, random) for _ in range(40)]
    moved = np.stack([one.keypoints - labels.keypoints for one in many])
    assert abs(moved.std() - 1.6) < 0.08
    np.testing.assert_array_equal(result.faces, labels.faces)


def test_the_mirror_image_of_a_surface_point_is_on_the_other_side(studio):
    labels = everywhere(studio.surface, 3000)
    faces, blend = studio.surface.mirrored(labels.faces, labels.barycentric)
    mirrored = place_of(studio, replace(labels, faces=faces, barycentric=blend))
    away = np.linalg.norm(mirrored - place_of(studio, labels) * [-1, 1, 1], axis=1)
    assert away.max() < 0.02
    assert np.quantile(away, 0.99) < 1e-5
    np.testing.assert_allclose(blend.sum(1), 1)


def test_the_share_of_exchanged_points_is_the_one_asked_for(studio):
    labels = everywhere(studio.surface, 4000)
    config = replace(QUIET, swaps=0.1)
    whole = 0
    shares = []
    for seed in range(60):
        result = predicted(labels, studio.surface, config, 32.0, np.random.default_rng(seed))
        whole += not np.array_equal(result.keypoints, labels.keypoints)
        if np.array_equal(result.keypoints, labels.keypoints):
            changed = result.faces != labels.faces
            before, after = place_of(studio, labels)[:, 0], place_of(studio, result)[:, 0]
            assert (before[changed] * after[changed] <= 1e-9).all()
            shares.append(changed.mean())
    assert abs(np.mean(shares) - 0.1) < 0.01
    assert abs(whole / 60 - LEG_SWAPS * 0.1) < 0.18


def test_exchanged_legs_take_their_key_points_and_all_their_points_along(studio):
    labels = everywhere(studio.surface, 500)
    config = replace(QUIET, swaps=1 / LEG_SWAPS)
    result = predicted(labels, studio.surface, config, 32.0, np.random.default_rng(0))
    left, right = SEGMENTS.index("left_knee"), SEGMENTS.index("right_knee")
    np.testing.assert_array_equal(result.keypoints[left], labels.keypoints[right])
    wrist = SEGMENTS.index("left_wrist")
    np.testing.assert_array_equal(result.keypoints[wrist], labels.keypoints[wrist])
    shin = studio.surface.segments(labels.faces, labels.barycentric) == left
    assert shin.sum() > 5
    assert (place_of(studio, labels)[shin, 0] > 0).all()
    assert (place_of(studio, result)[shin, 0] < 0).all()


def test_outliers_lie_anywhere_on_the_body(studio):
    labels = everywhere(studio.surface, 5000)
    config = replace(QUIET, outliers=0.2)
    result = predicted(labels, studio.surface, config, 32.0, np.random.default_rng(1))
    changed = result.faces != labels.faces
    assert abs(changed.mean() - 0.2) < 0.02
    np.testing.assert_array_equal(result.points, labels.points)
    moved = np.linalg.norm(place_of(studio, result) - place_of(studio, labels), axis=1)
    assert np.median(moved[changed]) > 0.3


def test_holes_take_all_points_of_a_segment(studio):
    labels = everywhere(studio.surface, 4000)
    segments = studio.surface.segments(labels.faces, labels.barycentric)
    config = replace(QUIET, holes=0.25)
    missing = []
    for seed in range(30):
        result = predicted(labels, studio.surface, config, 32.0, np.random.default_rng(seed))
        left = set(studio.surface.segments(result.faces, result.barycentric).tolist())
        assert len(result.points) == np.isin(segments, list(left)).sum()
        missing.append(len(set(segments.tolist()) - left))
    assert abs(np.mean(missing) / 24 - 0.25) < 0.06
    nothing = predicted(
        labels, studio.surface, replace(QUIET, holes=1.0), 32.0, np.random.default_rng(0)
    )
    assert len(nothing.points) == 0


def annotated(studio, labels, count):
    return annotate(
        labels.points,
        labels.faces,
        labels.barycentric,
        labels.keypoints,
        studio.surface,
        count,
        np.random.default_rng(0),
    )


def test_small_parts_get_more_points_than_their_share_of_pixels(studio):
    labels = everywhere(studio.surface, 5000)
    chosen = annotated(studio, labels, 400)
    counts = [
        np.bincount(studio.surface.segments(x.faces, x.barycentric), minlength=24)
        for x in (labels, chosen)
    ]
    share = counts[1] / 400 / (counts[0] / 5000).clip(1e-9)
    order = counts[0].argsort()
    assert share[order[-3:]].mean() < 0.9
    assert share[order[6:12]].mean() > 1.2
    assert len(np.unique(chosen.points, axis=0)) == 400


def test_few_visible_pixels_give_few_points(studio):
    labels = everywhere(studio.surface, 7)
    assert len(annotated(studio, labels, 112).points) == 7
    nobody = everywhere(studio.surface, 0)
    assert len(annotated(studio, nobody, 112).points) == 0
