"""Suggestions from what is already set (annotate.guess), on planted people."""

import numpy as np
import pytest
import torch

from deformlearn.annotate.guess import ENOUGH, Guesser
from deformlearn.annotate.marks import KeyPoint, Pair, PersonMarks
from deformlearn.body import BodyParameters, skin
from deformlearn.camera import Camera
from deformlearn.data.shards import DatasetInfo
from deformlearn.estimate import Estimate, project_points
from deformlearn.raster import rasterise
from deformlearn.skeleton import SEGMENTS, joint_set, rotation_from_axis_angle

SIDE = 400


@pytest.fixture(scope="module")
def guesser(anny):
    return Guesser(anny, DatasetInfo(anny.name, anny.fingerprint, "coco17"))


def planted(anny, yaw):
    """A person who lifts an arm and a knee, and everything seen of them on a photo of SIDE px."""
    rest = Estimate.rest(anny, 1)
    pose = torch.zeros(1, 23, 3)
    pose[0, SEGMENTS.index("left_shoulder") - 1, 2] = 0.8
    pose[0, SEGMENTS.index("right_knee") - 1, 0] = 0.7
    turned = rest.camera.matrix @ rotation_from_axis_angle(torch.tensor([[0.0, yaw, 0.0]]))
    truth = Estimate(
        BodyParameters(rest.body.scales, pose),
        Camera(turned, rest.camera.translation, rest.camera.scale),
    )
    vertices = skin(anny, truth.body)[0] @ truth.camera.rotation()[0].T
    screen = (vertices[:, :2] * truth.camera.scale + truth.camera.translation + 1) * (SIDE / 2)
    return truth, rasterise(screen[None], vertices[None, :, 2], anny.faces, (SIDE, SIDE))


def pixel(seen, index):
    return seen.pixels[index].item() % SIDE + 0.5, seen.pixels[index].item() // SIDE + 0.5


def true_pairs(anny, seen, count):
    """`count` visible points, spread over the segments."""
    owner = anny.weights[anny.faces[seen.faces]].sum(1).argmax(1).numpy()
    random = np.random.default_rng(0)
    large = [s for s in np.unique(owner) if (owner == s).sum() > 40]
    chosen = [random.choice(np.flatnonzero(owner == s)) for s in random.permutation(large)[:count]]
    return tuple(
        Pair(
            number, *pixel(seen, index), seen.faces[index].item(),
            tuple(seen.barycentric[index].tolist()),
        )
        for number, index in enumerate(chosen, 1)
    )  # fmt: skip


def place(anny, face, barycentric):
    return (anny.vertices[anny.faces[face]] * torch.tensor(barycentric)[:, None]).sum(0)


@pytest.mark.parametrize("yaw", [0.4, 2.9])
def test_twelve_true_pairs_suggest_the_place_of_other_pixels(anny, guesser, yaw):
    _, seen = planted(anny, yaw)
    fit = guesser.fit(PersonMarks(1, true_pairs(anny, seen, 12), (None,) * 17, 13))
    away = []
    for index in range(17, len(seen.faces), len(seen.faces) // 60):
        found = guesser.point(fit, *pixel(seen, index))
        true = place(anny, seen.faces[index], seen.barycentric[index].tolist())
        away.append((place(anny, found.face, found.barycentric) - true).norm().item())
    assert np.median(away) < 0.045  # a palm; a body is 1.8 m tall
    assert fit.distance_px < 0.02 * SIDE


def test_key_points_alone_suggest_places(anny, guesser):
    truth, seen = planted(anny, 0.3)
    places = project_points(anny, truth, anny.keypoints(joint_set("coco17")))[0, :, :2]
    keys = tuple(KeyPoint(*((p + 1) * (SIDE / 2)).tolist(), 2) for p in places)
    fit = guesser.fit(PersonMarks(1, (), keys))
    away = []
    for index in range(17, len(seen.faces), len(seen.faces) // 60):
        found = guesser.point(fit, *pixel(seen, index))
        true = place(anny, seen.faces[index], seen.barycentric[index].tolist())
        away.append(
            1.0
            if found is None
            else (place(anny, found.face, found.barycentric) - true).norm().item()
        )
    assert np.median(away) < 0.06


def test_too_few_marks_suggest_nothing(anny, guesser):
    _, seen = planted(anny, 0.4)
    pairs = true_pairs(anny, seen, ENOUGH - 1)
    missing = (KeyPoint(0.0, 0.0, 0),) + (None,) * 16
    assert guesser.fit(PersonMarks(1, pairs, missing, ENOUGH)) is None


def test_a_pixel_far_from_the_body_has_no_suggestion_and_one_beside_it_has(anny, guesser):
    _, seen = planted(anny, 0.4)
    fit = guesser.fit(PersonMarks(1, true_pairs(anny, seen, 12), (None,) * 17, 13))
    assert guesser.point(fit, 2.0, SIDE - 2.0) is None
    picture, (x, y, side) = guesser.picture(fit)
    rows, columns = np.nonzero(picture[..., 3])
    last = columns.argmax()
    edge = (
        x + (columns[last] + 1) * side / picture.shape[1],
        y + (rows[last] + 0.5) * side / picture.shape[0],
    )
    beside = guesser.point(fit, edge[0] + 3, edge[1])
    assert beside is not None
    assert guesser.point(fit, edge[0] + 200, edge[1]) is None


def test_the_picture_of_the_fit_lies_over_the_person(anny, guesser):
    _, seen = planted(anny, 0.4)
    fit = guesser.fit(PersonMarks(1, true_pairs(anny, seen, 12), (None,) * 17, 13))
    picture, (x, y, side) = guesser.picture(fit)
    hits = 0
    indices = range(0, len(seen.faces), 50)
    for index in indices:
        px, py = pixel(seen, index)
        column, row = ((px - x) / side * picture.shape[1], (py - y) / side * picture.shape[0])
        hits += picture[int(row), int(column), 3] > 0
    assert hits > 0.85 * len(indices)


def test_the_same_marks_are_fitted_once(anny, guesser):
    _, seen = planted(anny, 0.4)
    person = PersonMarks(1, true_pairs(anny, seen, 12), (None,) * 17, 13)
    assert guesser.fit(person) is guesser.fit(person)
