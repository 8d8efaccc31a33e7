"""Who is exported, and under which file name."""

from pathlib import Path

import pytest
import torch

from deformlearn.camera import Crop
from deformlearn.data.estimates import Estimates, write_estimates
from deformlearn.errors import InputError
from deformlearn.exports import people as people_module
from deformlearn.exports.people import (
    Exported,
    each_alone,
    file_names,
    frame_of,
    keys_of,
    read_one,
    read_rows,
    rows_of,
    usable,
    videos,
)

FILE = Path("estimates.parquet")
KEYS = ["anna", "b b", "日本", "7", "carl"]


@pytest.fixture
def estimates(template, planted):
    estimate, _, _ = planted(template, 12, seed=1)
    crop = Crop(torch.zeros(12, 2), torch.ones(12))
    return Estimates([f"k{row}" for row in range(12)], estimate, crop)


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        ((), [0, 1, 2, 3, 4]),
        (("carl", "anna"), [4, 0]),
        (("日本", "b b"), [2, 1]),
        (("1-3", "2", "0-1"), [1, 2, 3, 0]),
        (("3-",), [3, 4]),
        (("7",), [3]),  # a key goes before a number
    ],
)
def test_people_are_chosen_by_key_number_and_range(wanted, rows):
    assert rows_of(KEYS, wanted, FILE) == rows


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ana", "nobody in estimates.parquet is called 'ana'; there are 5 people, such as 'anna'"),
        ("5", "there is no person 5 in estimates.parquet: its 5 people are numbered 0 to 4"),
        ("2-9", "there is no person 2-9"),
        ("3-2", "the range 3-2 runs backwards; give it as 2-3"),
        ("-1", "nobody in estimates.parquet is called '-1'"),
    ],
)
def test_who_is_not_there_is_refused_with_who_is(word, message):
    with pytest.raises(InputError, match=message):
        rows_of(KEYS, [word], FILE)


def test_file_names_keep_letters_of_any_script_and_are_safe_everywhere():
    keys = [
        "S1/Walking 2.mp4",
        "Łukasz Żak",
        "日本 太郎",
        "..",
        "con",
        "LPT1.x",
        "a:b*c?",
        "tab\there",
        "",
    ]
    assert file_names(keys) == [
        "S1_Walking 2.mp4", "Łukasz Żak", "日本 太郎", "_", "_con", "_LPT1.x", "a_b_c_", "tab_here", "_-2"
    ]  # fmt: skip


def test_no_two_people_get_one_file_where_capitals_or_accents_are_not_told_apart():
    names = file_names(["a/b", "a_b", "A_B", "a_b-2", "e\u0301", "\u00e9"])
    assert names[:4] == ["a_b", "a_b-2", "A_B-3", "a_b-2-2"]
    assert len({name.casefold() for name in names}) == len(names)


def test_a_long_name_is_cut_between_letters_and_stays_its_own():
    names = file_names(["語" * 300, "語" * 301])
    assert all(len(name.encode()) < 200 for name in names)
    assert names[1] == names[0] + "-2"


def test_a_name_does_not_depend_on_who_else_is_chosen():
    keys = ["a/b", "a_b", "c"]
    assert each_alone(keys, [1]) == [Exported("a_b-2", (1,))]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("walk_000012", ("walk", 12, "")),
        ("my walk_2_000012_p3", ("my walk_2", 12, "3")),
        ("walk_1234567", ("walk", 1234567, "")),
        ("walk_0012", None),
        ("train-000012", None),
    ],
)
def test_keys_of_frames_are_those_of_predict(key, expected):
    frame = frame_of(key)
    assert (None if frame is None else (frame.video, frame.number, frame.track)) == expected


def test_frames_are_grouped_by_video_and_track_in_their_order():
    keys = [
        "v_000002_p1",
        "v_000001_p1",
        "v_000001_p0",
        "w_000000",
        "x",
        "v_000003_p0",
        "w_000000",
        "y",
    ]
    assert videos(keys, range(len(keys))) == [
        Exported("v_p1", (1, 0), (1, 2)),
        Exported("v_p0", (2, 5), (1, 3)),
        Exported("w", (3,), (0,)),  # a frame that stands twice is there once
        Exported("people", (4, 7), (0, 1)),
    ]


def test_numbers_too_far_apart_for_frames_are_refused():
    times = [f"cam0_{1403636579763555584 + 33333333 * row}" for row in range(6)]
    with pytest.raises(
        InputError, match="6 rows of 'cam0' have numbers from 1403636579763555584 to"
    ):
        videos(times, range(6))
    (alone,) = videos(times, [4])
    assert alone.frames == (1403636579896888916,)
    (sparse,) = videos(["v_000000", "v_010200"], range(2))
    assert sparse.frames == (0, 10200)
    with pytest.raises(InputError, match="leave out --animate"):
        videos(["v_000000", "v_010201"], range(2))


def test_rows_are_read_a_few_at_a_time_and_in_the_order_of_frames(
    template, estimates, tmp_path, monkeypatch
):
    path = tmp_path / "estimates.parquet"
    write_estimates(path, estimates, template)
    monkeypatch.setattr(people_module, "AT_ONCE", 3)
    assert keys_of(path) == estimates.keys
    pieces = [piece.keys for piece in read_rows(path, template, [0, 1, 2, 3, 4, 7, 9, 10])]
    assert pieces == [["k0", "k1", "k2"], ["k3", "k4"], ["k7"], ["k9", "k10"]]
    one = read_one(path, template, Exported("x", (9, 2, 7), (0, 1, 2)))
    assert one.keys == ["k9", "k2", "k7"]
    assert torch.equal(one.estimate.body.pose, estimates.estimate.body.pose[[9, 2, 7]])


def test_only_rows_that_are_a_person_are_usable(estimates):
    estimate = estimates.select(range(8))
    camera, body = estimate.estimate.camera, estimate.estimate.body
    body.pose[1, 3, 0] = torch.nan
    body.scales[2, 5] = 0.0
    camera.scale[3] = -1.0
    camera.matrix[4] = camera.matrix[4] * torch.tensor([[1.0], [1.0], [-1.0]])
    estimate.crop.half[5] = torch.inf
    camera.matrix[6, 0, 0] = torch.nan
    body.scales[7, 0] = 1e30  # finite, but its vertices' distances are not
    assert usable(estimate).tolist() == [True, *7 * [False]]
