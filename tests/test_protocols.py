"""Protocols as values (protocols.py)."""

from dataclasses import replace

import pytest

from deformlearn.data.h36m_metadata import ACTIONS, CAMERAS, Take
from deformlearn.data.shards import People
from deformlearn.errors import InputError
from deformlearn.protocols import (
    H36M17,
    LSP14,
    MEASURES,
    PROTOCOLS,
    ZHOU_BONES,
    ZHOU_JOINTS,
    protocol,
)
from deformlearn.skeleton import JOINT_SETS


@pytest.fixture
def people(planted, template) -> People:
    """Every action, trial and camera of S9 and S1, frames 0, 5 and 7."""
    keys, subjects, actions, cameras = [], [], [], []
    for subject in ("S9", "S1"):
        for action in ACTIONS:
            for trial in (1, 2):
                for camera in CAMERAS:
                    for frame in (0, 5, 7):
                        take = Take(subject, "", action, trial)
                        keys.append(take.key(camera, frame))
                        subjects.append(subject)
                        actions.append(action)
                        cameras.append(camera)
    _, observations, crop = planted(template, 1)
    return People(keys, observations, crop, subjects, actions, cameras)


def chosen(name, people):
    return [people.keys[row] for row in PROTOCOLS[name].rows(people)]


def test_number_one_takes_all_of_the_test_subjects(people):
    keys = chosen("h36m-1", people)
    assert len(keys) == 15 * 2 * 4 * 3
    assert all(key.startswith("S9") for key in keys)
    assert keys == chosen("h36m-2", people) == chosen("h36m-3", people) == chosen("hmr-1", people)


def test_hmr_s_second_is_the_frontal_camera_and_the_first_trial(people):
    keys = chosen("hmr-2", people)
    assert len(keys) == 15 * 3
    assert all("_1.60457274_" in key for key in keys)


def test_spin_takes_every_fifth_frame(people):
    assert len(chosen("spin-1", people)) == 15 * 2 * 4 * 2
    assert len(chosen("spin-2", people)) == 15 * 2 * 2
    assert not any(key.endswith("7") for key in chosen("spin-1", people))


def test_zhou_scores_the_same_rows_as_number_one(people):
    assert chosen("h36m-1-zhou", people) == chosen("h36m-1", people)


def test_what_the_data_lack_is_named(people):
    assert PROTOCOLS["h36m-1"].absent(people) == ("S11",)
    few = replace(people, actions=["Photo"] * len(people), cameras=[CAMERAS[0]] * len(people))
    absent = PROTOCOLS["h36m-1"].absent(few)
    assert "Directions" in absent
    assert CAMERAS[3] in absent


def only(people, rows):
    """Some of the people, by name."""
    names = {name: [getattr(people, name)[row] for row in rows]
             for name in ("keys", "subjects", "actions", "cameras")}  # fmt: skip
    return replace(people, **names)


def test_a_video_that_is_missing_is_named(people):
    keep = [row for row, key in enumerate(people.keys) if f"Eating_2.{CAMERAS[1]}" not in key]
    absent = PROTOCOLS["h36m-1"].absent(only(people, keep))
    assert absent == ("S11", f"S9 Eating 2 {CAMERAS[1]}")
    assert PROTOCOLS["hmr-2"].absent(only(people, keep)) == ("S11",), "it scores the first trial"
    both = replace(people, subjects=["S9", "S11"] * (len(people) // 2))
    named = PROTOCOLS["h36m-1"].absent(both)
    assert not any(name == f"S11 Directions {n} {CAMERAS[0]}" for name in named for n in (1, 2))


@pytest.mark.parametrize(
    ("frames", "every", "step"),
    [((0, 1, 7), "h36m-1", 1), ((0, 5, 15), "spin-1", 5), ((0, 64, 320, 640), "spin-1", 320),
     ((0, 0), "h36m-1", 0)],
)  # fmt: skip
def test_how_thinly_frames_are_scored_is_known(people, frames, every, step):
    keys = [f"S9_Photo_1.{CAMERAS[0]}_{frame:06d}" for frame in frames]
    some = replace(
        only(people, range(len(keys))), keys=keys, actions=["Photo"] * len(keys),
        subjects=["S9"] * len(keys), cameras=[CAMERAS[3]] * len(keys),
    )  # fmt: skip
    assert PROTOCOLS[every].step(some, PROTOCOLS[every].rows(some)) == step
    unnamed = replace(some, keys=[f"test-{row}" for row in range(len(keys))])
    assert PROTOCOLS["h36m-1"].step(unnamed, range(len(keys))) is None


def test_a_data_set_without_any_such_row_is_refused(people):
    other = replace(people, subjects=["anna"] * len(people))
    with pytest.raises(InputError, match=r"scores subjects S9 S11.*subjects anna"):
        PROTOCOLS["h36m-1"].rows(other)


def test_trials_and_frames_need_keys_that_tell_them(people):
    other = replace(people, keys=[f"test-{row}" for row in range(len(people))])
    assert len(PROTOCOLS["h36m-1"].rows(other)) == 360
    with pytest.raises(InputError, match="told by keys like"):
        PROTOCOLS["spin-1"].rows(other)


def test_spin_s_joints_are_about_the_pelvis_on_every_data_set():
    """Its eval.py subtracts joint 0 of Human3.6M's regressor, the pelvis, on 3DPW too."""
    assert all(PROTOCOLS[name].root == ("pelvis",) for name in ("spin-1", "spin-2", "3dpw-14"))


def test_other_data_sets_take_every_row(people):
    assert len(chosen("3dpw", people)) == len(people)
    assert PROTOCOLS["3dpw"].absent(people) == ()


def test_the_joints_of_lsp_are_joints_of_human36m():
    assert len(LSP14) == 14
    assert set(LSP14) <= set(H36M17)
    for one in PROTOCOLS.values():
        assert set(one.root) <= {*H36M17, *JOINT_SETS["smpl24"].landmarks}


def test_zhou_s_joints_are_human36m_s_but_the_nose():
    left_out = set(range(17)) - set(ZHOU_JOINTS)
    assert [JOINT_SETS["h36m17"].names[joint] for joint in left_out] == ["nose"]
    names = [JOINT_SETS["h36m17"].names[joint] for joint in ZHOU_JOINTS]
    bones = [(names[a], names[b]) for a, b in ZHOU_BONES]
    assert ("right_ankle", "right_knee") in bones
    assert ("left_elbow", "left_wrist") in bones
    assert bones[-2:] == [("pelvis", "thorax"), ("thorax", "head")]


def test_every_protocol_measures_what_it_quotes():
    for name, one in PROTOCOLS.items():
        assert one.name == name
        assert one.headline in one.measures
        assert set(one.measures) <= set(MEASURES)


def test_selections_are_said_in_words():
    assert PROTOCOLS["hmr-2"].selection() == (
        "subjects S9 S11, cameras 60457274, trial 1 of each action, every frame"
    )
    assert PROTOCOLS["3dpw"].selection() == "all subjects, all cameras, every frame"


def test_an_unknown_protocol_lists_the_known_ones():
    assert protocol("hmr-1") is PROTOCOLS["hmr-1"]
    with pytest.raises(InputError, match="unknown protocol 'h36m-9'; known are h36m-1,"):
        protocol("h36m-9")
