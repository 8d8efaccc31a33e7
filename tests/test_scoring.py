"""Estimates to the numbers of a protocol (scoring.py)."""

from dataclasses import replace

import pytest
import torch

from deformlearn.camera import Camera
from deformlearn.data.h36m_metadata import CAMERAS, Take
from deformlearn.data.shards import People
from deformlearn.data.truth import Truth
from deformlearn.errors import InputError
from deformlearn.estimate import camera_joints, camera_vertices
from deformlearn.evaluation import canonical_mm
from deformlearn.protocols import (
    H36M17,
    LSP14,
    PROTOCOLS,
    ZHOU_BONES,
    ZHOU_JOINTS,
    ZHOU_SUM_MM,
)
from deformlearn.scoring import score_protocol, zhou_error
from deformlearn.skeleton import JOINT_SETS


@pytest.fixture
def world(template, planted):
    """Six people of S9 whose truth has Human3.6M's 17 joints only: four directing, two dancing."""
    estimate, observations, crop = planted(template, 6)
    takes = [Take("S9", "", "Directions", 1)] * 4 + [Take("S9", "", "Photo", 2)] * 2
    cameras = [CAMERAS[3], CAMERAS[3], CAMERAS[0], CAMERAS[3], CAMERAS[3], CAMERAS[3]]
    keys = [
        take.key(camera, 5 * i) for i, (take, camera) in enumerate(zip(takes, cameras, strict=True))
    ]
    people = People(keys, observations, crop, ["S9"] * 6, [one.action for one in takes], cameras)
    landmarks = 1000 * camera_joints(template, estimate, "h36m17")
    return estimate, people, Truth(keys, H36M17, landmarks, None)


def score(name, template, world, **changes):
    estimate, people, truth = world
    truth = replace(truth, **changes)
    return score_protocol(PROTOCOLS[name], template, estimate, people, truth, data="planted")


def shifted(truth: Truth, rows, name: str, by_mm: float):
    """The truth with one joint moved along x."""
    landmarks = truth.landmarks_mm.clone()
    landmarks[rows, truth.landmark_names.index(name), 0] += by_mm
    return landmarks


@pytest.mark.parametrize(
    "name", ["h36m-1", "h36m-2", "h36m-3", "hmr-1", "spin-1", "mpi-inf-3dhp", "3dpw-14"]
)
def test_the_truth_has_no_error_under_any_protocol(template, world, name):
    scores = score(name, template, world)
    for measure in ("raw", "true_size", "scaled", "aligned"):
        assert scores.values.get(measure, 0.0) < 0.05
    for measure in ("pck", "aligned_pck"):
        assert scores.values.get(measure, 100.0) > 99.9
    # No error is under the first limit, 0 mm.
    for measure in ("auc", "aligned_auc"):
        assert scores.values.get(measure, 3000 / 31) == pytest.approx(3000 / 31, abs=1e-3)


def test_the_mean_is_over_actions_or_over_people_as_the_protocol_says(template, world):
    # One of 14 joints of the two people of one action is 140 mm off: 10 mm a person.
    landmarks = shifted(world[2], slice(4, 6), "left_wrist", 140.0)
    assert score("hmr-1", template, world, landmarks_mm=landmarks).values["raw"] == pytest.approx(
        5, abs=1e-3
    )
    by_people = score("spin-1", template, world, landmarks_mm=landmarks)
    assert by_people.values["raw"] == pytest.approx(20 / 6, abs=1e-3)
    assert by_people.by_action["Photo"]["raw"] == pytest.approx(10, abs=1e-3)
    assert by_people.by_action["Photo"]["people"] == 2


def test_the_root_is_the_protocol_s(template, world):
    # A pelvis that is moved carries all 17 joints of #1 with it, and no joint of HMR's 14.
    landmarks = shifted(world[2], slice(0, 6), "pelvis", 30.0)
    assert score("hmr-1", template, world, landmarks_mm=landmarks).values["raw"] < 1e-3
    raw = score("h36m-1", template, world, landmarks_mm=landmarks).values["raw"]
    assert raw == pytest.approx(30 * 16 / 17, abs=1e-3)


def test_only_the_selected_rows_are_scored(template, world):
    landmarks = shifted(world[2], [2, 4, 5], "left_wrist", 900.0)
    scores = score("hmr-2", template, world, landmarks_mm=landmarks)
    assert scores.people == 3
    assert scores.values["raw"] < 1e-3


def test_a_larger_person_has_an_error_in_size_only(template, world):
    larger = 1.1 * world[2].landmarks_mm
    values = score("h36m-1", template, world, landmarks_mm=larger).values
    assert values["raw"] > 20
    assert max(values["true_size"], values["scaled"], values["aligned"]) < 0.05


def test_bone_sums_are_canonical_whatever_the_size_of_the_prediction(template, world):
    estimate, people, truth = world
    one = score_protocol(PROTOCOLS["h36m-1"], template, estimate, people, truth)
    body = replace(estimate.body, scales=1.3 * estimate.body.scales)
    other = score_protocol(
        PROTOCOLS["h36m-1"], template, replace(estimate, body=body), people, truth
    )
    assert other.values["bone_sum"] == pytest.approx(one.values["bone_sum"], abs=0.01)
    assert other.values["raw"] > one.values["raw"] + 20
    assert one.canonical_mm == canonical_mm(template)


def test_hits_are_counted_within_150_mm(template, world):
    # One of 14 joints beyond 150 mm; another at 72 mm passes 16 of the 31 limits (75, 80, ... 150).
    landmarks = shifted(world[2], slice(0, 6), "left_wrist", 151.0)
    landmarks[:, H36M17.index("right_wrist"), 0] += 72.0
    values = score("mpi-inf-3dhp", template, world, landmarks_mm=landmarks).values
    assert values["pck"] == pytest.approx(100 * 13 / 14, abs=1e-3)
    assert values["auc"] == pytest.approx(100 * (12 * 30 + 16) / (14 * 31), abs=1e-3)


def test_vertices_are_scored_where_the_truth_has_them(template, world):
    estimate = world[0]
    assert "vertices" not in score("h36m-1", template, world).values
    root = (estimate.camera.rotation() @ template.joints[0])[:, None]
    vertices = 1000 * (camera_vertices(template, estimate) - root)
    assert score("h36m-1", template, world, vertices_mm=vertices).values["vertices"] < 0.01
    assert score("h36m-1", template, world, vertices_mm=vertices + 2).values["vertices"] > 3


def test_truths_of_other_joint_sets_are_scored_by_their_own_joints(template, world):
    estimate, people, truth = world
    segments = tuple(JOINT_SETS["smpl24"].landmarks)
    landmarks = 1000 * camera_joints(template, estimate, "smpl24")
    only = Truth(truth.keys, segments, landmarks, None)
    values = score_protocol(PROTOCOLS["3dpw"], template, estimate, people, only).values
    assert values["raw"] < 0.01
    with pytest.raises(InputError, match="has no head_top, which protocol 3dpw-14 scores"):
        score_protocol(PROTOCOLS["3dpw-14"], template, estimate, people, only)


def test_measures_the_truth_has_no_joints_for_are_said_to_be_unknown(template, world):
    estimate, people, truth = world
    names = (*LSP14, "pelvis")
    landmarks = truth.landmarks_mm[:, [H36M17.index(name) for name in names]]
    scores = score_protocol(
        PROTOCOLS["hmr-1"], template, estimate, people, Truth(truth.keys, names, landmarks, None)
    )
    assert "true_size" not in scores.values
    assert any(line.startswith("  true_size: unknown") for line in scores.lines())


def test_zhou_s_error_agrees_with_the_formula_written_out(template, world):
    truth = world[2].landmarks_mm
    predicted = 0.9 * truth + 10 * torch.randn(
        truth.shape, generator=torch.Generator().manual_seed(0)
    )
    total = 0.0
    for pose, target in zip(predicted, truth, strict=True):
        p, t = pose[list(ZHOU_JOINTS)], target[list(ZHOU_JOINTS)]
        length = sum(float((p[a] - p[b]).norm()) for a, b in ZHOU_BONES)
        q = [(p[j] - p[6]) * ZHOU_SUM_MM / length for j in range(16)]
        q[7] = (q[6] + q[8]) / 2
        total += sum(float((q[j] - (t[j] - t[6])).norm()) for j in range(16)) / 16
    assert zhou_error(predicted, truth).mean().item() == pytest.approx(total / 6, rel=1e-5)


def test_a_turned_estimate_is_only_right_after_alignment(template, world):
    estimate, people, truth = world
    half = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    turned = replace(
        estimate,
        camera=Camera(
            half @ estimate.camera.rotation(), estimate.camera.translation, estimate.camera.scale
        ),
    )
    values = score_protocol(PROTOCOLS["h36m-2"], template, turned, people, truth).values
    assert values["raw"] > 100
    assert values["aligned"] < 0.05


def test_the_card_says_everything_a_reader_needs(template, world):
    scores = score("h36m-1", template, world)
    text = "\n".join(scores.lines())
    for word in (
        "h36m-1", "Martinez", "planted", "S9 S11", "6 people", "17", "pelvis", "over the actions",
        f"{canonical_mm(template):.0f} mm", "4297 mm", "* bone_sum: ", "  aligned: ", "Procrustes",
    ):  # fmt: skip
        assert word in text, word
    assert scores.headline == scores.values["bone_sum"]


def test_an_incomplete_data_set_is_not_passed_off_as_the_whole(template, world):
    scores = score("h36m-1", template, world)
    line = next(line for line in scores.lines() if line.startswith("INCOMPLETE"))
    assert "S11" in line
    assert "Walking" in line
    assert CAMERAS[1] in line


def test_thin_frames_are_not_passed_off_as_all(template, world):
    assert not any(line.startswith("THINNED") for line in score("spin-1", template, world).lines())
    line = next(line for line in score("h36m-1", template, world).lines() if "THINNED" in line)
    assert "only every 5th frame of a video is scored; the protocol takes every frame" in line


def test_the_record_is_plain(template, world):
    import json

    record = json.loads(json.dumps(score("hmr-2", template, world).record()))
    assert record["protocol"] == "hmr-2"
    assert record["people"] == 3
