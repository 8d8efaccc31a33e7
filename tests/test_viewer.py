"""Whom the viewer lists, which bodies each has, and what is drawn of them, without a browser."""

import numpy as np
import pytest
import torch

from conftest import octahedra, plant
from deformlearn.data.shards import read_people
from deformlearn.errors import InputError
from deformlearn.estimate import project_points
from deformlearn.findings import find
from deformlearn.viewer import cards, drawing
from deformlearn.viewer.canvas import Framing, for_lines
from deformlearn.viewer.people import People, in_view
from deformlearn.viewer.roll import BEST_FIRST, FLAGGED, WORST_FIRST, Choice, read_roll
from deformlearn.viewer.source import open_source
from viewer_people import (  # noqa: F401 (fixtures)
    body_of_run,
    fits,
    name,
    opened_run,
    run_on_disk,
    saved,
    write_data,
    write_run,
)


@pytest.fixture(scope="module")
def people(source):
    return People(source.found, source.template)


# ---- who is listed


def test_everyone_is_listed_by_the_quality_of_the_last_fit(source):
    roll = source.roll
    assert len(roll) == 7
    worst = roll.choose(Choice()).tolist()
    assert roll.key(worst[0]) == name("train", 3)
    assert np.all(np.diff(roll.error[worst]) <= 0)
    best = roll.choose(Choice(order=BEST_FIRST))
    assert np.all(np.diff(roll.error[best]) >= 0)
    assert roll.error[roll.keys.index(name("train", 0))] == pytest.approx(100 * 0.1 / 64, rel=1e-5)


def test_lists_are_filtered_by_split_flag_and_name(source):
    roll = source.roll

    def keys(**choice):
        return [roll.key(number) for number in roll.choose(Choice(**choice)).tolist()]

    assert sorted(keys(split="test")) == [name("test", row) for row in range(3)]
    inside = "seen from inside: left and right may be swapped"
    assert roll.reasons == [inside]
    flagged = [name("test", 2), name("train", 3)]
    assert sorted(keys(flag=FLAGGED)) == sorted(keys(flag=inside)) == flagged
    assert sorted(keys(flag="ok", split="train")) == [name("train", row) for row in range(3)]
    assert sorted(keys(text="łUKASZ", split="test")) == sorted(keys(split="test"))
    assert keys(text="no one has this") == []


def test_a_place_in_the_roll_knows_its_split_and_row(source):
    roll = source.roll
    for number in range(7):
        assert roll.key(number) == name(roll.split(number), roll.row(number))
        assert roll.keys[number] == roll.key(number)


def test_predictions_alone_are_listed_unmeasured_and_the_unmeasured_come_last(tmp_path):
    template = octahedra()
    truth, _, crop = plant(template, 3, 0)
    fits(tmp_path / "estimates.parquet", "train", truth, crop, template, 0.0, measured=False)
    roll = read_roll(find(tmp_path))
    assert np.isnan(roll.error).all()
    assert roll.choose(Choice(order=WORST_FIRST)).tolist() == [0, 1, 2]
    assert cards.row_label(roll, 0) == name("train", 0)


# ---- the bodies of a person


def story(person):
    return [(body.round, body.step, body.origin) for body in person.bodies]


def test_a_training_person_has_the_start_the_fit_and_the_prediction_of_every_round(people):
    person = people.read(name("train", 1), "train", 1)
    told = "network's prediction after round 1"
    assert story(person) == [
        (1, "before", "resting body, oriented in closed form"),
        (1, "after", "registration"),
        (1, "network", told),
        (2, "before", told),
        (2, "after", "registration"),
        (2, "network", "network's prediction after round 2"),
    ]
    assert person.action == "Walking"
    assert person.photo.shape == (512, 512, 3)
    assert person.notes == ()


def test_a_test_person_has_predictions_and_their_refinement(people):
    person = people.read(name("test", 0), "test", 0)
    assert [(body.round, body.step) for body in person.bodies] == [
        (1, "before"),
        (2, "before"),
        (2, "after"),
    ]
    assert person.body(2, "after").origin == "prediction refined by registration"
    assert person.body(1, "after") is None


def test_each_body_is_measured_against_the_labels(people):
    person = people.read(name("train", 0), "train", 0)
    errors = {
        (b.round, b.step): b.quality.reprojection_px.item()
        for b in person.bodies
        if b.step != "before"
    }
    # A shift of 0.04 in x and y is 0.04 * sqrt(2) * 64 px; the last fit is the planted truth.
    assert errors[1, "after"] == pytest.approx(0.04 * 2**0.5 * 64, rel=1e-3)
    assert errors[1, "network"] == pytest.approx(0.12 * 2**0.5 * 64, rel=1e-3)
    assert errors[2, "after"] == pytest.approx(0, abs=1e-3)


def test_a_wrong_row_is_found_by_its_key(people):
    right, wrong = (people.read(name("train", 2), "train", row) for row in (2, 0))
    assert story(right) == story(wrong)
    for one, other in zip(right.bodies, wrong.bodies, strict=True):
        assert torch.equal(one.estimate.body.pose, other.estimate.body.pose)
    assert len(people.read(name("train", 2), "train", 99).bodies) == 6


def test_someone_whom_nothing_knows_is_refused(people):
    with pytest.raises(InputError, match="nothing is known of 'nobody'"):
        people.read("nobody", "train", 0)


# ---- what is drawn


def test_view_axes_are_the_image_with_y_up_and_depth_towards_the_viewer(people, source):
    template = source.template
    person = people.read(name("train", 1), "train", 1)
    estimate = person.body(2, "after").estimate
    shown = in_view(template, estimate)
    seen = project_points(template, estimate, template.all_points())[0].numpy()
    np.testing.assert_allclose(shown[:, :2], seen[:, :2] * [1, -1], atol=1e-5)
    depth = shown[:, 2] + seen[:, 2]
    np.testing.assert_allclose(depth, depth.mean(), atol=1e-5)
    np.testing.assert_allclose(in_view(template, estimate, template.all_points()), shown, atol=1e-5)


def test_labels_are_drawn_where_they_were_made_and_lines_measure_the_error(people, source):
    template = source.template
    person = people.read(name("train", 1), "train", 1)
    picture = drawing.picture_of(template, person, person.body(1, "after"))
    for marks, labels in (
        (picture.points, person.seen.points[0]),
        (picture.keypoints, person.seen.keypoints[0]),
    ):
        np.testing.assert_allclose(marks.placed[:, :2], labels.numpy() * [1, -1], atol=1e-6)
        # The fit was shifted by 0.04 right and down: seen from the front, every line is that long.
        lines = marks.found - marks.placed
        np.testing.assert_allclose(lines, [[0.04, -0.04, 0]] * len(lines), atol=1e-4)
    assert picture.photo_depth < picture.vertices[:, 2].min()
    assert not picture.painted


def test_the_photograph_stands_behind_every_body_of_a_person(people, source):
    person = people.read(name("train", 0), "train", 0)
    depths = {
        drawing.picture_of(source.template, person, body).photo_depth for body in person.bodies
    }
    assert len(depths) == 1
    assert depths.pop() < min(
        in_view(source.template, body.estimate)[:, 2].min() for body in person.bodies
    )


def test_lines_are_green_where_a_label_is_met_and_red_where_the_flag_begins():
    green, yellow, red, beyond = drawing.severity(np.array([0, 0.025, 0.05, 1.0])).astype(int)
    assert green[1] > 2 * green[0]
    assert min(yellow[:2]) > 180
    assert red[0] > 4 * red[1]
    assert (red == beyond).all()


def test_padding_and_missing_key_points_are_not_drawn(tmp_path):
    template = octahedra()
    data = write_data(tmp_path, template)
    source = open_source(str(data), template=saved(template, tmp_path))
    person = People(source.found, template).read(name("train", 0), "train", 0)
    person.seen.point_weights[0, 10:] = 0
    person.seen.keypoint_weights[0, 3:] = 0
    picture = drawing.picture_of(template, person, None)
    assert len(picture.points.placed) == 10
    assert len(picture.keypoints.colours) == 3


def test_a_data_set_is_shown_on_the_resting_template_beside_the_photograph(tmp_path):
    template = octahedra()
    data = write_data(tmp_path, template)
    source = open_source(str(data), template=saved(template, tmp_path))
    assert source.roll.splits == ("test", "train")
    person = People(source.found, template).read(name("test", 1), "test", 1)
    assert person.bodies == ()
    picture = drawing.picture_of(template, person, None)
    assert picture.painted
    assert picture.vertices[:, 0].min() > 1
    assert (picture.points.placed[:, 0] < 1).all()
    seen = read_people(data, "test").observations
    np.testing.assert_allclose(
        picture.points.placed[:, :2], seen.points[1].numpy() * [1, -1], atol=1e-6
    )


def test_lines_are_given_the_colours_that_their_shader_turns_into_the_meant_ones():
    meant = np.array([[0, 10, 128, 255]], np.uint8)
    share = for_lines(meant) / 255
    shown = np.where(share <= 0.0031308, 12.92 * share, 1.055 * share ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(255 * shown, meant, atol=7)


def test_a_framing_shows_what_it_promises_in_wide_and_in_narrow_windows():
    framing = Framing((0.0, 0.0, 1.0), width=1.0, height=1.0)
    for aspect in (0.5, 1.0, 2.0):
        half = framing.distance(aspect) * np.tan(framing.fov / 2)
        assert min(half, half * aspect) == pytest.approx(1.0)
        near, far = framing.clipping(aspect)
        assert near < framing.distance(aspect) - 2
        assert far > framing.distance(aspect) + 2
