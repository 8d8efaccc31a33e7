"""The errors of everyone: right, streamed, with what is missing said; and their distributions."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from deformlearn.data import shards
from deformlearn.data import truth as truths
from deformlearn.data.estimates import read_estimates
from deformlearn.data.tables import read_table, write_table
from deformlearn.errors import InputError
from deformlearn.estimate import camera_joints
from deformlearn.evaluation import PROTOCOL_JOINTS, canonical_mm, true_joints
from deformlearn.metrics import joint_errors
from deformlearn.reports.people import BLOCK, joint_distances, measure, shared
from deformlearn.reports.source import Source
from deformlearn.reports.strips import (
    FEW,
    HEAD_TO_FOOT,
    QUANTILES,
    Strip,
    action_charts,
    joint_charts,
    ticks,
)
from deformlearn.skeleton import joint_set
from report_runs import write_data, write_run


@pytest.fixture
def opened(tmp_path, template):
    """The source of a fabricated run whose estimates are off, and its data set."""

    def make(*, wrong=0.2, name="", **data):
        place = tmp_path / f"data{name}"
        info, exact = write_data(place, **data)
        return Source.open(
            write_run(tmp_path / f"run{name}", place, info, exact, wrong=wrong), template, None
        )

    return make


def test_errors_are_those_of_the_protocol(opened, template):
    source = opened(people=9, shard=4)
    found = measure(source, "test", source.predictions())
    estimate = read_estimates(source.predictions(), template).estimate
    truth = truths.read_truth(source.data, "test", found.keys)
    joints = joint_set(PROTOCOL_JOINTS)
    ours = camera_joints(template, estimate, joints) * 1000
    twin = joint_errors(ours, true_joints(truth), joints, canonical_mm(template))
    np.testing.assert_allclose(found.raw, twin.raw.numpy(), rtol=1e-4)
    np.testing.assert_allclose(found.aligned, twin.aligned.numpy(), rtol=1e-4)
    assert found.shard.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert set(found.actions) == {"Walking"}
    assert source.missing == []


def test_exact_estimates_have_no_error_and_no_doubt(opened):
    source = opened(wrong=0.0)
    found = measure(source, "test", source.predictions())
    assert found.raw.max() < 1e-2
    assert found.pixels.max() < 1e-2
    assert not any("far" in flag for flag in found.flags)


def test_what_registration_recorded_is_taken_as_it_is(opened):
    source = opened()
    found = measure(source, "train", source.fits())
    assert found.pixels.tolist() == [0.25, 1.25, 2.25, 3.25, 4.25, 5.25]


def test_far_predictions_are_doubted_though_nothing_was_fitted(opened):
    source = opened(wrong=0.8)
    found = measure(source, "test", source.predictions())
    assert any("far from its observations" in flag for flag in found.flags)
    assert not any("converged" in flag for flag in found.flags)


def test_people_that_left_the_data_set_are_counted(opened):
    source = opened(people=6, shard=2)
    (source.data / "observations" / "test-00001.parquet").unlink()
    (source.data / "truth" / "test-00001.parquet").unlink()
    found = measure(source, "test", source.predictions())
    assert np.isnan(found.raw).tolist() == [False, False, True, True, False, False]
    assert (found.shard < 0).sum() == 2
    assert found.keys == [f"test-{row}" for row in range(6)]
    assert any(line.startswith("2 of 6 test people") for line in source.missing)


def test_people_without_truth_among_others_have_only_their_2d_error(opened):
    source = opened(people=6, shard=3)
    (source.run / "shards.json").unlink()
    path = source.data / "truth" / "test-00001.parquet"
    write_table(path, read_table(path, truths.TRUTH_SCHEMA.names).slice(1))
    found = measure(source, "test", source.predictions())
    assert np.isnan(found.raw).tolist() == [False] * 3 + [True] + [False] * 2
    assert np.isfinite(found.pixels).all()
    assert any("1 of 6 test people have no error in mm" in line for line in source.missing)
    assert found.has_truth


def test_a_truth_without_the_protocols_joints_gives_no_millimetres(opened):
    source = opened()
    path = source.data / "dataset.json"
    info = json.loads(path.read_text())
    info["landmarks"] = ["x" if name == "neck" else name for name in info["landmarks"]]
    path.write_text(json.dumps(info))
    found = measure(source, "test", source.predictions())
    assert not found.has_truth
    assert np.isfinite(found.ranking).all()
    assert any("has no neck" in line for line in source.missing)


def test_a_shard_that_cannot_be_read_costs_only_its_people(opened):
    source = opened(people=6, shard=2)
    (source.run / "shards.json").unlink()
    path = source.data / "observations" / "test-00000.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    found = measure(source, "test", source.predictions())
    assert (found.shard < 0).tolist() == [True, True] + [False] * 4
    assert any("is not a whole Parquet shard" in line for line in source.missing)


def test_people_in_another_order_cannot_be_matched(opened):
    source = opened(people=6)
    (source.run / "shards.json").unlink()
    for kind in ("observations", "truth"):
        path = source.data / kind / "test-00000.parquet"
        names = (shards.OBSERVATION_SCHEMA if kind == "observations" else truths.TRUTH_SCHEMA).names
        table = read_table(path, names)
        write_table(path, table.take(list(range(5, -1, -1))))
    with pytest.raises(InputError, match="put in another order"):
        measure(source, "test", source.predictions())


def test_other_people_of_the_same_names_are_not_taken_for_the_runs_own(opened, tmp_path):
    source = opened(people=6, shard=3)
    write_data(tmp_path / "other", people=7, shard=3)
    found = measure(replace(source, data=tmp_path / "other"), "test", source.predictions())
    assert np.isnan(found.raw).all()
    assert (found.shard < 0).all()
    assert any("3 of 3 shards of" in line and "--data" in line for line in source.missing)


def test_another_template_in_its_place_is_told_from_the_runs_own(opened):
    source = opened()
    path = source.data / "dataset.json"
    path.write_text(path.read_text().replace(source.template.fingerprint, "0123456789ab"))
    found = measure(source, "test", source.predictions())
    assert np.isnan(found.raw).all()
    assert any("was made for the template" in line for line in source.missing)


def test_memory_does_not_grow_with_labels(opened, template):
    def peak(people):
        source = opened(people=people, shard=512, test=False, name=people)
        measure(source, "train", source.fits())  # what is imported and cached once
        tracemalloc.start()
        try:
            measure(source, "train", source.fits())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(BLOCK), peak(4 * BLOCK)
    # Two numbers a joint and a few words a person stay; labels, estimates and truth do not.
    assert large - small < 3 * BLOCK * 1500


def test_only_people_of_all_files_are_compared_row_by_row(opened):
    source = opened(people=6)
    whole = measure(source, "test", source.predictions())
    part = whole.take([4, 2, 0])
    first, second = shared(whole, part)
    assert first.keys == second.keys == ["test-0", "test-2", "test-4"]
    np.testing.assert_array_equal(first.raw, second.raw)


def test_joints_that_are_not_finite_are_unknown_and_harm_nobody_else():
    generator = torch.Generator().manual_seed(0)
    pose = torch.randn(3, 17, 3, generator=generator)
    target = pose + 0.1
    target[1, 3] = torch.nan
    raw, aligned = joint_distances(pose, target)
    assert raw[[0, 2]].max() < 1e-6
    assert aligned[[0, 2]].max() < 1e-5
    assert raw[1].isnan().any()
    assert aligned[1].isnan().all()


def test_a_strip_knows_the_quantiles_of_what_is_known():
    values = np.arange(101.0).astype(np.float32)
    strip = Strip.of(np.append(values, np.nan))
    assert strip.count == 101
    assert strip.mean == 50
    np.testing.assert_allclose(strip.quantiles, [100 * q for q in QUANTILES])
    assert strip.values == ()
    assert Strip.of(np.array([np.nan])) is None


def test_few_people_are_drawn_one_by_one():
    strip = Strip.of(np.arange(FEW - 1.0))
    assert strip.values == tuple(range(FEW - 1))
    assert strip.reach == FEW - 2
    assert Strip.of(np.arange(float(FEW))).values == ()


@pytest.mark.parametrize("reach", [0.013, 0.7, 1.0, 9.99, 10.0, 47.0, 250.0, 643.2, 1e5])
def test_an_axis_has_round_ticks_and_reaches_just_beyond_the_largest(reach):
    marks = ticks(reach)
    steps = np.diff(marks)
    assert marks[0] == 0
    assert marks[-1] >= reach * (1 - 1e-6)
    assert marks[-2] < reach
    np.testing.assert_allclose(steps, steps[0])
    assert 3 <= len(marks) <= 9


@pytest.mark.parametrize("reach", [0.0, float("nan"), -1.0])
def test_an_axis_of_nothing_is_still_one(reach):
    assert ticks(reach) == (0.0, 1.0)


def test_every_joint_but_the_root_has_its_line():
    assert set(HEAD_TO_FOOT) == set(joint_set(PROTOCOL_JOINTS).names) - {"pelvis"}


def test_the_worst_action_comes_first_under_everyone(opened):
    source = opened(people=12, actions=("calm", "wild", ""))
    found = measure(source, "test", source.predictions())
    wild = np.array([action == "wild" for action in found.actions])
    found = replace(
        found, raw_joints=found.raw_joints * np.where(wild, 10, 1).astype(np.float32)[:, None]
    )
    chart = action_charts([found])[0]
    assert [line.label for line in chart.lines[:2]] == ["everyone", "wild"]
    assert {line.label for line in chart.lines[2:]} == {"calm", "(no name)"}
    assert chart.lines[1].strips[0].count == 4
    assert chart.share(chart.top) == 100


def test_very_many_actions_are_counted_not_shown(opened, monkeypatch):
    monkeypatch.setattr("deformlearn.reports.strips.ACTIONS", 2)
    source = opened(people=5, actions="abcde")
    chart = action_charts([measure(source, "test", source.predictions())])[0]
    assert len(chart.lines) == 3
    assert chart.left_out == 3


def test_a_joint_that_is_wrong_stands_out_in_its_line(opened):
    source = opened(people=8)
    found = measure(source, "test", source.predictions())
    names = joint_set(PROTOCOL_JOINTS).names
    wrist = np.array([name == "left_wrist" for name in names])
    found = replace(found, raw_joints=np.where(wrist, np.float32(777), found.raw_joints))
    raw, aligned = joint_charts([found])
    line = next(line for line in raw.lines if line.label == "left wrist")
    assert line.strips[0].median == 777
    assert (raw.title, aligned.title) == ("raw", "PA")
    assert all(strip.median < 777 for one in aligned.lines for strip in one.strips)


def test_people_with_an_action_each_are_not_compared_with_one_another(opened):
    class Word(str):
        asked = 0

        def __eq__(self, other):
            Word.asked += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    source = opened(people=6)
    found = measure(source, "test", source.predictions())
    many = found.take(np.arange(600) % 6)
    many = replace(many, actions=[Word(f"a{row:03d}") for row in range(600)])
    (everyone, *lines) = action_charts([many])[0].lines
    assert (everyone.strips[0].count, lines[0].strips[0].count) == (600, 1)
    assert Word.asked < 10 * 600
