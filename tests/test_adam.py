"""Registration by Adam, the paper's way, and its compilation."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deformlearn import adam
from deformlearn.config import PAPER_REGISTRATION, RegistrationConfig
from deformlearn.estimate import Estimate
from deformlearn.registration import quality_of, register

ADAM = RegistrationConfig(solver="adam", depth_weight=10.0, joint_weight=0.001, scale_weight=10.0)


def test_adam_finds_planted_people(template, planted):
    _, observations, crop = planted(template, 8)
    _, quality = register(template, observations, crop, ADAM)
    assert quality.reprojection_px.median() < 0.5


def test_adam_goes_on_from_where_it_is_told(template, planted):
    truth, observations, crop = planted(template, 4)
    config = replace(ADAM, learning_rate=1e-6, refit_steps=2)
    near, quality = register(template, observations, crop, config, start=truth)
    torch.testing.assert_close(near.body.pose, truth.body.pose, rtol=0, atol=1e-4)
    assert quality.converged.all()


def test_the_paper_settings_run_and_descend(template, planted):
    _, observations, crop = planted(template, 4)
    rest = Estimate.rest(template, 4)
    before = quality_of(template, rest, observations, crop, PAPER_REGISTRATION).loss
    _, after = register(template, observations, crop, PAPER_REGISTRATION)
    assert (after.loss < 0.2 * before).all()


def test_without_a_compiler_it_runs_eagerly_and_says_so_once(template, planted, monkeypatch):
    _, observations, crop = planted(template, 2)
    monkeypatch.setattr(adam.runtime, "has_compiler", lambda: False)
    config = replace(ADAM, first_steps=1, steps=1, compile="always")
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        register(template, observations, crop, config)


def test_the_time_that_compiling_takes_is_said_once(template, planted, monkeypatch, caplog):
    _, observations, crop = planted(template, 2)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function.__call__)
    monkeypatch.setattr(adam.runtime, "has_compiler", lambda: True)
    adam._compiled.cache_clear()
    config = replace(ADAM, first_steps=1, steps=2, compile="always")
    for _ in range(2):
        register(template, observations, crop, config)
    adam._compiled.cache_clear()
    assert caplog.text.count("compile time") == 1


def test_a_compiler_that_fails_costs_one_warning_and_no_result(
    template, planted, monkeypatch, caplog
):
    _, observations, crop = planted(template, 2)

    def broken(function, **_):
        def fail(*arguments):
            raise RuntimeError("no such instruction")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    adam._compiled.cache_clear()
    config = replace(ADAM, first_steps=1, steps=3)
    expected, _ = register(template, observations, crop, config)
    with pytest.warns(UserWarning, match="no such instruction") as warned:
        found, _ = register(template, observations, crop, replace(config, compile="always"))
    adam._compiled.cache_clear()
    assert len(warned) == 1
    assert "compile time" not in caplog.text
    torch.testing.assert_close(found.body.pose, expected.body.pose)


COMPILED = """
import functools, sys
sys.path.insert(0, {tests!r})
import torch
from dataclasses import replace
from conftest import octahedra, plant
from deformlearn.registration import register
from test_adam import ADAM

# Tracing is what is tested: to make code of the graphs takes a minute, and rounds otherwise.
torch.compile = functools.partial(torch.compile, backend="eager", fullgraph=True)
torch.set_default_dtype(torch.float64)  # Adam's first steps are as long for a rounding error as for a slope
template = octahedra()
_, seen, crop = plant(template, 7)
template, seen, crop = (
    one.map(lambda x: x.double() if x.is_floating_point() else x) for one in (template, seen, crop)
)
weights = seen.point_weights.clone()
for person in range(7):
    weights[person, weights.shape[1] - 3 * person:] = 0  # each has fewer points than the one before
seen = replace(seen, point_weights=weights)
config = replace(ADAM, batch=3, first_steps=4, steps=4)
expected, quality = register(template, seen, crop, config)
for block in (slice(0, 7), slice(2, 4)):
    found, measured = register(template, seen[block], crop[block], replace(config, compile="always"))
    torch.testing.assert_close(found.body.pose, expected.body.pose[block])
    torch.testing.assert_close(measured.loss, quality.loss[block])
from torch._dynamo.utils import counters
print(counters["stats"]["unique_graphs"], len(counters["graph_break"]))
"""


def test_batches_and_blocks_of_any_size_are_compiled_once_and_fitted_as_without():
    """In a process of its own: the shape checker that tests run with cannot be traced."""
    code = COMPILED.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 0\n"
    assert done.stderr.count("registration: compile time") == 1
