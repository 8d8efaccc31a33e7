"""Registration by Adam, as in the paper (section 6): first-order, eager or compiled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.body import BodyParameters, BodyTemplate
from deformlearn.camera import Camera
from deformlearn.compiling import Compiled, can_compile, compiled, say_time
from deformlearn.config import RegistrationConfig
from deformlearn.energy import Evidence, Weights, energy
from deformlearn.estimate import Estimate
from deformlearn.tensors import TensorData


@dataclass(frozen=True, eq=False)
class Variables(TensorData):
    """theta as Adam sees it. Sizes are logarithms, so that they stay positive."""

    log_scales: Float[Tensor, "batch joints"]
    pose: Float[Tensor, "batch joints-1 3"]
    matrix: Float[Tensor, "batch 3 3"]
    translation: Float[Tensor, "batch 2"]
    log_scale: Float[Tensor, "batch"]

    @staticmethod
    def of(estimate: Estimate) -> Variables:
        """Fresh leaves that start at an estimate."""
        body, camera = estimate.body, estimate.camera
        start = Variables(
            body.scales.log(),
            body.pose,
            camera.rotation(),
            camera.translation,
            camera.scale.log(),
        )
        return start.map(lambda x: x.detach().clone().requires_grad_(True))

    def estimate(self) -> Estimate:
        """The estimate these numbers stand for."""
        return Estimate(
            BodyParameters(self.log_scales.exp(), self.pose),
            Camera(self.matrix, self.translation, self.log_scale.exp()),
        )


def descend(
    template: BodyTemplate,
    evidence: Evidence,
    start: Estimate,
    config: RegistrationConfig,
    *,
    fresh: bool,
    function: Callable[..., Tensor],
) -> tuple[Estimate, Float[Tensor, "batch"]]:
    """Both phases from a `fresh` start, else the second; and the energies a tenth before the end."""
    device = evidence.observations.points.device
    variables = Variables.of(start)
    if fresh and config.first_steps:
        leading = Weights.of(config, device, first=True)
        rate = config.first_learning_rate
        _walk(template, variables, evidence, leading, config.first_steps, rate, function)
    count = config.steps if fresh else config.refit_steps
    soft = Weights.of(config, device)
    before = _walk(template, variables, evidence, soft, count, config.learning_rate, function)
    return variables.detach().estimate(), before


def _walk(
    template: BodyTemplate,
    variables: Variables,
    evidence: Evidence,
    weights: Weights,
    steps: int,
    rate: float,
    function: Callable[..., Tensor],
) -> Float[Tensor, "batch"]:
    """Adam on every person at once; returns the energies at the start of the last tenth."""
    optimiser = torch.optim.Adam(list(variables.tensors()), lr=rate, fused=True)
    last_tenth = torch.zeros_like(variables.log_scale)
    compiling = function if isinstance(function, Compiled) and function.fresh else None
    begin = time.perf_counter()
    for step in range(steps):
        # Two drops of the step size settle what the large first steps keep shaking.
        drop = 0.1 if step >= 0.9 * steps else 0.3 if step >= 0.7 * steps else 1.0
        optimiser.param_groups[0]["lr"] = rate * drop
        optimiser.zero_grad(set_to_none=True)
        found = function(template, variables.estimate(), evidence, weights)
        found.sum().backward()
        optimiser.step()
        # The first step has compiled the way forth and back, if nothing failed.
        if compiling is not None and step == 0 and not compiling.failed:
            say_time(begin)
        if step <= math.ceil(0.9 * steps):
            last_tenth = found.detach()
    return last_tenth


def energy_function(config: RegistrationConfig, device: torch.device) -> Callable[..., Tensor]:
    """The energy, eager or compiled as was `decided`."""
    if config.compile == "always" and can_compile(device):
        # Batches are made to have few shapes.
        return compiled(energy, dynamic=False)
    return energy
