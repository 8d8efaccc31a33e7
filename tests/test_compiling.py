"""Both solvers compiled: once, for batches of any size; and what happens without a compiler."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deformlearn import compiling
from deformlearn.compiling import compiled, decided
from deformlearn.config import RegistrationConfig
from deformlearn.registration import register

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHORT = {
    "adam": RegistrationConfig(solver="adam", first_steps=1, steps=3),
    "gauss-newton": RegistrationConfig(first_iterations=2, iterations=3),
}
solvers = pytest.mark.parametrize("solver", SHORT)


@pytest.fixture
def compiler(monkeypatch):
    """A stand-in for torch.compile; what was compiled is forgotten before and after."""

    def use(stand_in):
        monkeypatch.setattr(torch, "compile", stand_in)
        monkeypatch.setattr(compiling.runtime, "has_compiler", lambda: True)
        compiled.cache_clear()

    yield use
    compiled.cache_clear()


@solvers
def test_without_a_compiler_it_runs_eagerly_and_says_so_once(
    solver, template, planted, monkeypatch
):
    _, observations, crop = planted(template, 2)
    monkeypatch.setattr(compiling.runtime, "has_compiler", lambda: False)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler") as warned:
        register(template, observations, crop, replace(SHORT[solver], compile="always"))
    assert len(warned) == 1


@solvers
def test_the_time_that_compiling_takes_is_said_once(solver, template, planted, compiler, caplog):
    _, observations, crop = planted(template, 2)
    compiler(lambda function, **_: function.__call__)
    for _ in range(2):
        register(template, observations, crop, replace(SHORT[solver], compile="always"))
    assert caplog.text.count("compile time") == 1


@solvers
def test_a_compiler_that_fails_costs_one_warning_and_no_result(
    solver, template, planted, compiler, caplog
):
    def broken(function, **_):
        def fail(*arguments):
            raise RuntimeError("no such instruction")

        return fail

    _, observations, crop = planted(template, 2)
    expected, _ = register(template, observations, crop, SHORT[solver])
    compiler(broken)
    with pytest.warns(UserWarning, match="no such instruction") as warned:
        found, _ = register(template, observations, crop, replace(SHORT[solver], compile="always"))
    assert len(warned) == 1
    assert "compile time" not in caplog.text
    torch.testing.assert_close(found.body.pose, expected.body.pose)


def test_too_little_memory_is_not_taken_for_a_broken_compiler(compiler):
    sizes = []

    def cramped(function, **_):
        def call(size):
            sizes.append(size)
            if size > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return function(size)

        return call

    compiler(cramped)
    function = compiled(lambda size: -size, dynamic=None)
    with pytest.raises(torch.OutOfMemoryError):
        function(4)
    assert function(2) == -2
    assert sizes == [4, 2]
    assert not function.failed


def test_instruction_sets_are_tried_beside_the_tracing_and_may_fail(compiler, monkeypatch):
    from torch._inductor import cpu_vec_isa

    tried, tracing = threading.Event(), threading.Event()

    def fail():
        tried.set()
        assert tracing.wait(10)
        raise OSError("no compiler")

    def traced(size):
        assert tried.wait(10)
        tracing.set()
        return -size

    monkeypatch.setattr(cpu_vec_isa, "pick_vec_isa", fail)
    compiler(lambda function, **_: traced)
    assert compiled(abs, dynamic=None)(3) == -3


def test_auto_compiles_where_the_work_outlasts_it():
    adam, newton = (replace(SHORT[solver], compile="auto") for solver in ("adam", "gauss-newton"))
    assert decided(adam, 10**6, CPU).compile == "always"
    assert decided(adam, 1000, CPU).compile == "never"
    assert decided(newton, 10**6, CPU).compile == "never"
    assert decided(newton, 10**6, CUDA).compile == "always"
    assert decided(newton, 1000, CUDA).compile == "never"
    assert decided(replace(newton, compile="always"), 1, CPU).compile == "always"
    assert decided(replace(adam, compile="never"), 10**6, CPU).compile == "never"


COMPILED = """
import functools, sys
sys.path.insert(0, {tests!r})
import torch
from dataclasses import replace
from conftest import octahedra, plant
from deformlearn.config import RegistrationConfig
from deformlearn.registration import register

# To make code of Adam's graphs takes a minute, and rounds otherwise: tracing is what is tested.
torch.compile = functools.partial(torch.compile, backend={backend!r}, fullgraph=True)
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
config = RegistrationConfig(
    solver={solver!r}, depth_weight=10.0, batch=4, first_steps=4, steps=4, first_iterations=2, iterations=30
)
expected, quality = register(template, seen, crop, config)
for block in (slice(0, 7), slice(2, 4), slice(6, 7)):
    found, measured = register(template, seen[block], crop[block], replace(config, compile="always"))
    torch.testing.assert_close(found.body.pose, expected.body.pose[block], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(measured.loss, quality.loss[block])
from torch._dynamo.utils import counters
print(counters["stats"]["unique_graphs"], len(counters["graph_break"]))
"""


@pytest.mark.parametrize(("solver", "backend"), [("adam", "eager"), ("gauss-newton", "aot_eager")])
def test_batches_of_any_size_are_compiled_once_and_fitted_as_without(solver, backend):
    """In a process of its own: the shape checker that tests run with cannot be traced."""
    tests = str(Path(__file__).parent)
    code = COMPILED.format(tests=tests, solver=solver, backend=backend)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 0\n"
    assert done.stderr.count("registration: compile time") == 1
