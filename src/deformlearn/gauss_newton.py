"""Levenberg-Marquardt on many people at once, each with a damping of their own.

Eq. 2 is a sum of squares, so a step that knows its curvature goes where some fifteen steps of Adam go.
People are independent: who gains nothing more leaves the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.compiling import can_compile, compiled, say_time
from deformlearn.config import RegistrationConfig
from deformlearn.energy import Weights
from deformlearn.least_squares import Problem, Theta, View
from deformlearn.normal_equations import NormalEquations, Scratch, normal_equations
from deformlearn.tensors import TensorData, combine, where

_DAMPING = 0.05
"""At the start, as a share of the matrix's diagonal."""
_LEAST = 0.2
"""Factor on the damping after a step that gained what its model promised (Nielsen 1999)."""
_WORSE = 4.0
"""Factor after a step that gained nothing; twice as much each time that follows."""
_HOPELESS = 1e6
"""Damping at which no step can be found any more."""
_FLOOR = 1.0
"""Added to the diagonal before the damping multiplies it: what little depends on moves little."""


@dataclass(frozen=True, eq=False)
class Descent(TensorData):
    """Where everyone has got to."""

    theta: Theta
    energy: Float[Tensor, "batch"]
    converged: Bool[Tensor, "batch"]
    """The last step gained less than the tolerance, or no step gains anything."""


@dataclass(frozen=True, eq=False)
class _Walk(TensorData):
    """People on their way."""

    rows: Int[Tensor, "batch"]
    """Who they are."""
    problem: Problem
    theta: Theta
    here: NormalEquations
    damping: Float[Tensor, "batch"]
    worse: Float[Tensor, "batch"]
    """Factor on the damping if the next step fails."""
    done: Bool[Tensor, "batch"]

    @property
    def reached(self) -> Descent:
        """Where they are."""
        return Descent(self.theta, self.here.energy, self.done)


_Attempted = tuple[Theta, NormalEquations, Float[Tensor, "batch"]]
Attempt = Callable[[BodyTemplate, _Walk, Weights, Scratch], _Attempted]
"""What tries a step: `attempt`, or the same compiled."""


def attempt(
    template: BodyTemplate, walk: _Walk, weights: Weights, scratch: Scratch | None
) -> _Attempted:
    """Where a damped step leads: theta, its equations, and the gain that the model promised."""
    step, promised = _solve(walk.here, walk.damping)
    theta = walk.theta.moved(step)
    return theta, normal_equations(template, walk.problem, theta, weights, scratch), promised


def attempt_function(config: RegistrationConfig, device: torch.device) -> Attempt:
    """`attempt`, eager or compiled as was decided: once, for any number of people and of points."""
    if config.compile != "always" or not can_compile(device):
        return attempt
    function = compiled(attempt, dynamic=None)

    def compiled_attempt(
        template: BodyTemplate, walk: _Walk, weights: Weights, scratch: Scratch
    ) -> _Attempted:
        if len(walk.rows) == 1:  # a compiler makes code of its own for one
            return attempt(template, walk, weights, scratch)
        # One layout, also after some have left.
        marks = walk.problem.marks[:1].expand_as(walk.problem.marks)
        walk = replace(walk, problem=replace(walk.problem, marks=marks))
        if not function.fresh:
            return function(template, walk, weights, None)
        for of_people in walk.tensors():
            torch._dynamo.maybe_mark_dynamic(of_people, 0)
        for of_points in walk.problem.by_point():
            torch._dynamo.maybe_mark_dynamic(of_points, of_points.ndim - 1)
        begin = time.perf_counter()
        found = function(template, walk, weights, None)
        if not function.failed:
            say_time(begin)
        return found

    return compiled_attempt


def descend(
    template: BodyTemplate,
    problem: Problem,
    theta: Theta,
    weights: Weights,
    *,
    iterations: int,
    tolerance: float = 1e-3,
    attempt: Attempt = attempt,
) -> Descent:
    """At most `iterations` steps; whom a step gains less than `tolerance` of the energy stops."""
    if iterations == 0:
        energy = View.of(template, problem, theta, weights).energy
        return Descent(theta, energy, torch.zeros_like(energy, dtype=torch.bool))
    scratch = Scratch.of(problem)
    here = normal_equations(template, problem, theta, weights, scratch)
    damping, worse = (torch.full_like(here.energy, value) for value in (_DAMPING, _WORSE))
    nobody = torch.zeros_like(here.energy, dtype=torch.bool)
    people = torch.arange(len(nobody), device=nobody.device)
    result = Descent(theta, here.energy, nobody)
    walk = _Walk(people, problem, theta, here, damping, worse, nobody)
    for _ in range(iterations - 1):
        walk = _step(template, walk, weights, tolerance, scratch, attempt)
        # Leaving costs a copy of those who stay: wait until a fifth of them can go together.
        if 5 * int(walk.done.sum()) >= len(walk.rows):
            result = _write(result, walk.rows, walk.reached, walk.done)
            walk = walk[~walk.done]
            if len(walk.rows) == 0:
                return result
    reached = _last_step(template, walk, weights, tolerance)
    return _write(result, walk.rows, reached, torch.ones_like(walk.done))


def _step(
    template: BodyTemplate,
    walk: _Walk,
    weights: Weights,
    tolerance: float,
    scratch: Scratch,
    attempt: Attempt,
) -> _Walk:
    """One step of everyone, kept where it lowers the energy; then the damping follows the gain."""
    here = walk.here
    theta, there, promised = attempt(template, walk, weights, scratch)
    gain = here.energy - there.energy
    # Whoever is done but still in the batch stays put: no one's result depends on the others.
    better = (gain > 0) & ~walk.done
    # As promised: a fifth of the damping; half of it: as much; less: more.
    kept = (1 - (2 * gain / promised - 1) ** 3).clamp(_LEAST, 2.0)
    damping = walk.damping * torch.where(better, kept, walk.worse)
    return replace(
        walk,
        theta=where(better, theta, walk.theta),
        # The matrices are most of the memory: mostly there is nothing to put back.
        here=there if bool(better.all()) else where(better, there, here),
        damping=damping.clamp_min(1e-7),
        worse=torch.where(better, torch.full_like(damping, _WORSE), 2 * walk.worse),
        done=walk.done | (better & (gain < tolerance * here.energy)) | (damping > _HOPELESS),
    )


def _last_step(template: BodyTemplate, walk: _Walk, weights: Weights, tolerance: float) -> Descent:
    """A step that nobody goes on from: only its energy is asked for."""
    here = walk.here
    step, _ = _solve(here, walk.damping)
    theta = walk.theta.moved(step)
    energy = View.of(template, walk.problem, theta, weights).energy
    better = (energy < here.energy) & ~walk.done
    return Descent(
        where(better, theta, walk.theta),
        torch.where(better, energy, here.energy),
        walk.done | (better & (here.energy - energy < tolerance * here.energy)),
    )


def _solve(
    equations: NormalEquations, damping: Float[Tensor, "batch"]
) -> tuple[Float[Tensor, "batch unknowns"], Float[Tensor, "batch"]]:
    """The damped step and the gain its model promises; anything where the matrix is broken."""
    added = damping[:, None] * (equations.diagonal + _FLOOR) + 1e-6
    # LAPACK's upper factor comes in half the time of its lower one.
    factor, _ = torch.linalg.cholesky_ex(equations.damped(added), upper=True)
    solution = -torch.cholesky_solve(equations.gradient[..., None], factor, upper=True)[..., 0]
    step = equations.step(solution)
    return step, (added * step.square() - solution * equations.gradient).sum(-1)


def _write(
    result: Descent,
    rows: Int[Tensor, "walkers"],
    reached: Descent,
    chosen: Bool[Tensor, "walkers"],
) -> Descent:
    """The result with what the chosen ones of the walkers have reached."""
    reached, rows = reached[chosen], rows[chosen]
    return combine([result, reached], lambda pair: pair[0].index_copy(0, rows, pair[1]))
