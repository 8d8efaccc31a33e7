"""Marks of an annotator: every edit, and everything that is refused (annotate.marks)."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deformlearn.annotate.marks import (
    Bounds,
    ImageMarks,
    KeyPoint,
    Pair,
    edited,
    marks_of,
    surface_point,
)
from deformlearn.errors import InputError

BOUNDS = Bounds(width=100, height=50, faces=192, joints=17)
EMPTY = ImageMarks.empty(BOUNDS)
PAIR = {"person": 1, "x": 10.5, "y": 20.25, "face": 7, "barycentric": [0.2, 0.3, 0.5]}


def after(*requests, marks=EMPTY):
    for request in requests:
        marks = edited(marks, request, BOUNDS)
    return marks


def test_a_pair_is_kept_as_it_was_set():
    (person,) = after({"edit": "add_pair", **PAIR}).people
    (pair,) = person.pairs
    assert (pair.number, pair.x, pair.y, pair.face) == (1, 10.5, 20.25, 7)
    assert pair.barycentric == pytest.approx((0.2, 0.3, 0.5))


def test_an_edit_leaves_the_old_marks_alone():
    before = after({"edit": "add_pair", **PAIR})
    edited(before, {"edit": "delete_pair", "person": 1, "pair": 1}, BOUNDS)
    assert len(before.people[0].pairs) == 1


def test_the_number_of_a_deleted_pair_is_never_used_again():
    add = {"edit": "add_pair", **PAIR}
    marks = after(add, add, {"edit": "delete_pair", "person": 1, "pair": 2}, add)
    assert [pair.number for pair in marks.people[0].pairs] == [1, 3]


def test_a_moved_pair_keeps_the_end_that_was_not_moved():
    marks = after({"edit": "add_pair", **PAIR})
    pixel = {"edit": "move_pair", "person": 1, "pair": 1, "x": 99.0, "y": 1.0}
    surface = {
        "edit": "move_pair",
        "person": 1,
        "pair": 1,
        "face": 8,
        "barycentric": [1, 0, 0],
    }
    assert after(pixel, marks=marks).people[0].pairs[0].face == 7
    (moved,) = after(pixel, surface, marks=marks).people[0].pairs
    assert moved == Pair(1, 99.0, 1.0, 8, (1.0, 0.0, 0.0))


def test_key_points_are_set_marked_as_missing_and_cleared():
    place = {"person": 1, "joint": 3, "x": 5, "y": 6}
    marks = after({"edit": "set_keypoint", **place, "visibility": 1})
    assert marks.people[0].keypoints[3] == KeyPoint(5.0, 6.0, 1)
    gone = after({"edit": "set_keypoint", "person": 1, "joint": 3, "visibility": 0}, marks=marks)
    assert gone.people[0].keypoints[3] == KeyPoint(0.0, 0.0, 0)
    assert gone.people[0].pixels == []
    cleared = after({"edit": "clear_keypoint", "person": 1, "joint": 3}, marks=marks)
    assert cleared.people[0].keypoints == (None,) * 17


def test_people_are_added_and_deleted_and_someone_is_always_left():
    marks = after({"edit": "add_person"}, {"edit": "add_pair", **PAIR, "person": 2})
    assert [len(person.pairs) for person in marks.people] == [0, 1]
    nobody = after(
        {"edit": "delete_person", "person": 2}, {"edit": "delete_person", "person": 1}, marks=marks
    )
    assert [(person.number, person.pairs) for person in nobody.people] == [(3, ())]


def test_marks_come_back_from_json_as_they_were():
    marks = after(
        {"edit": "add_person"},
        {"edit": "add_pair", **PAIR, "person": 2},
        {"edit": "set_keypoint", "person": 1, "joint": 0, "x": 1, "y": 2, "visibility": 2},
        {"edit": "set_keypoint", "person": 1, "joint": 1, "visibility": 0},
    )
    assert marks_of(json.loads(json.dumps(marks.as_json())), BOUNDS) == marks


def test_barycentric_coordinates_are_made_to_sum_to_one():
    _, weights = surface_point({"face": 0, "barycentric": [-0.0005, 0.5, 0.5]}, BOUNDS)
    assert weights == (0.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([], "wanted an edit as a json object, got list"),
        ({"edit": "format_disk"}, "unknown edit 'format_disk'"),
        ({"edit": ["add_pair"]}, "unknown edit"),
        ({"edit": "add_pair", **PAIR, "person": 9}, "person 9 is not on this image"),
        ({"edit": "add_pair", **PAIR, "person": True}, "wanted person as a whole number"),
        ({"edit": "add_pair", **PAIR, "x": 100.5}, r"outside the image of 100x50 pixels"),
        ({"edit": "add_pair", **PAIR, "y": float("nan")}, "wanted a finite number for y"),
        ({"edit": "add_pair", **PAIR, "x": 10**400}, "wanted a finite number for x"),
        ({"edit": "add_pair", **PAIR, "x": "1"}, "wanted a number for x, got '1'"),
        ({"edit": "add_pair", **PAIR, "face": 192}, "wanted face as a whole number from 0 to 191"),
        ({"edit": "add_pair", **PAIR, "face": 1.5}, "wanted face as a whole number"),
        ({"edit": "add_pair", **PAIR, "barycentric": [1, 1, 1]}, "that sum to 1"),
        ({"edit": "add_pair", **PAIR, "barycentric": [0.5, 0.5]}, "three barycentric coordinates"),
        ({"edit": "add_pair", **PAIR, "barycentric": "100"}, "wanted a list of barycentric"),
        ({"edit": "move_pair", **PAIR, "pair": 1}, "has no pair 1"),
        ({"edit": "set_keypoint", "person": 1, "joint": 17, "visibility": 0}, "joint as a whole"),
        ({"edit": "set_keypoint", "person": 1, "joint": 1, "visibility": 3}, "visibility as a"),
        ({"edit": "set_keypoint", "person": 1, "joint": 1, "visibility": 2}, "number for x"),
    ],
)
def test_an_edit_that_cannot_be_meant_is_refused(request_, message):
    with pytest.raises(InputError, match=message):
        edited(EMPTY, request_, BOUNDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": []}, "at least one person"),
        ({"next_person": 1}, "numbered below next_person"),
        ({"people": None}, "wanted a list of people"),
        ({"people": [EMPTY.as_json()["people"][0]] * 2}, "one number"),
        ({"people": [{**EMPTY.as_json()["people"][0], "keypoints": []}]}, "wanted 17 key points"),
        ({"people": [{**EMPTY.as_json()["people"][0], "next_pair": 0}]}, "next_pair as a whole"),
    ],
)
def test_marks_that_are_not_sound_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        marks_of({**EMPTY.as_json(), **change}, BOUNDS)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner)
)
FIELDS = st.dictionaries(
    st.sampled_from("edit person pair joint x y face barycentric visibility people".split()),
    st.sampled_from(["add_pair", "move_pair", "set_keypoint", "delete_person", 0, 1, 2]) | JSON,
)


@settings(max_examples=100, deadline=None)
@given(JSON | FIELDS)
def test_whatever_is_asked_gives_sound_marks_or_one_clear_line(request_):
    before = after({"edit": "add_pair", **PAIR})
    refusal = ""
    try:
        before = edited(before, request_, BOUNDS)
    except InputError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 300
    assert marks_of(json.loads(json.dumps(before.as_json(), allow_nan=False)), BOUNDS) == before
