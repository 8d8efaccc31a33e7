"""DEFORM: fit the template to what images say, many people at once (section 4, Eqs. 2-4)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn import losses, runtime
from deformlearn.body import BodyParameters, BodyPoints, BodyTemplate, blend
from deformlearn.camera import Camera, Crop
from deformlearn.config import RegistrationConfig
from deformlearn.estimate import Estimate, Quality, facing_share, project_points, view_transforms
from deformlearn.observations import Observations
from deformlearn.orientation import oriented_start
from deformlearn.progress import Advance
from deformlearn.tensors import TensorData, concatenate, where


@dataclass(frozen=True, eq=False)
class Weights(TensorData):
    """Weights of the terms of Eq. 2, as tensors so that changing them recompiles nothing."""

    dense: Tensor
    keypoint: Tensor
    depth: Tensor
    scale: Tensor
    joint: Tensor
    limit: Tensor
    determinant: Tensor

    @staticmethod
    def of(config: RegistrationConfig, device: torch.device, *, first: bool = False) -> Weights:
        """The weights of a configuration; `first` gives those of the first phase."""
        numbers = (
            config.dense_weight,
            config.keypoint_weight,
            config.first_depth_weight if first else config.depth_weight,
            config.first_scale_weight if first else config.scale_weight,
            config.first_joint_weight if first else config.joint_weight,
            config.limit_weight,
            config.determinant_weight,
        )
        return Weights(*(torch.tensor(number, device=device) for number in numbers))


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


def register(
    template: BodyTemplate,
    observations: Observations,
    crop: Crop,
    config: RegistrationConfig,
    *,
    start: Estimate | None = None,
    steps: int | None = None,
    progress: Advance | None = None,
) -> tuple[Estimate, Quality]:
    """The estimates that explain the observations best, and how well they do.

    Without `start`, each person begins at the closed-form orientation (or the rest pose) and goes
    through both phases. With `start`, only the second phase runs. People are
    independent: neither their order nor the batch size changes a result beyond rounding.
    """
    people = len(observations.points)
    if people == 0:
        raise ValueError("nothing to register: the observations hold no one")
    size = min(config.batch, people)
    energy = _energy_function(config, people, observations.points.device)
    estimates, qualities = [], []
    for first in range(0, people, size):
        # The last batch is filled up with the first people again: one shape, one compilation.
        rows = torch.arange(first, first + size, device=observations.points.device) % people
        keep = min(size, people - first)
        batch = observations[rows]
        begin = None if start is None else start[rows]
        estimate, quality = _register_batch(
            template, batch, crop[rows], config, energy=energy, start=begin, steps=steps
        )
        estimates.append(estimate[:keep])
        qualities.append(quality[:keep])
        if progress is not None:
            progress(first + keep)
    return concatenate(estimates), concatenate(qualities)


def keep_best(
    old: tuple[Estimate, Quality], new: tuple[Estimate, Quality]
) -> tuple[Estimate, Quality]:
    """Person by person, whichever fit has the lower loss: a round never makes a fit worse."""
    better = new[1].loss < old[1].loss
    return where(better, new[0], old[0]), where(better, new[1], old[1])


def quality_of(
    template: BodyTemplate,
    estimate: Estimate,
    observations: Observations,
    crop: Crop,
    config: RegistrationConfig,
) -> Quality:
    """How well estimates from anywhere explain the observations, under the second phase's weights."""
    weights = Weights.of(config, observations.points.device)
    with torch.no_grad():
        problem = _problem(template, observations)
        loss = _energy(template, estimate, problem, weights, config.robust)
        return _quality(template, estimate, observations, crop, loss, torch.zeros_like(loss) > 0)


@dataclass(frozen=True, eq=False)
class _Problem(TensorData):
    """A batch with everything looked up once: no gather is left inside the loop."""

    points: BodyPoints
    keypoints: BodyPoints
    observations: Observations


def _problem(template: BodyTemplate, observations: Observations) -> _Problem:
    points = template.surface_points(observations.faces, observations.barycentric)
    return _Problem(points, template.keypoints(observations.joint_set), observations)


def _energy(
    template: BodyTemplate,
    estimate: Estimate,
    problem: _Problem,
    weights: Weights,
    robust: float | None,
) -> Float[Tensor, "batch"]:
    """Eq. 2: the weighted sum of all terms, one number a person."""
    body, camera, seen = estimate.body, estimate.camera, problem.observations
    view = view_transforms(template, estimate)
    points = blend(view[..., :2, :], problem.points)
    joints = blend(view, problem.keypoints)
    root = joints[..., seen.joint_set.root_indices, 2].mean(-1, keepdim=True)
    return (
        weights.dense * losses.dense(points, seen.points, seen.point_weights, robust)
        + weights.keypoint * losses.keypoint(joints[..., :2], seen.keypoints, seen.keypoint_weights)
        + weights.depth * losses.depth(joints[..., 2] - root, seen.depths, seen.depth_weights)
        + weights.scale * losses.scale_smoothness(body.scales, template.parents)
        + weights.joint * losses.joint_angles(body.pose)
        + weights.limit * losses.joint_limits(body.pose, template.limit_axes, template.limits)
        + weights.determinant * losses.determinant(camera.matrix)
    )


def _register_batch(
    template: BodyTemplate,
    observations: Observations,
    crop: Crop,
    config: RegistrationConfig,
    *,
    energy: Callable[..., Tensor],
    start: Estimate | None,
    steps: int | None,
) -> tuple[Estimate, Quality]:
    device = observations.points.device
    soft = Weights.of(config, device)
    problem = _problem(template, observations)
    if start is None:
        first = oriented_start(template, observations, problem.points, closed_form=config.orient)
        variables = Variables.of(first)
        leading = Weights.of(config, device, first=True)
        _descend(
            template, variables, problem, leading, config,
            energy=energy, steps=config.first_steps, rate=config.first_learning_rate,
        )  # fmt: skip
        steps, rate = steps or config.steps, config.learning_rate
    else:
        variables = Variables.of(start)
        steps, rate = steps or config.refit_steps, config.learning_rate
    before = _descend(
        template, variables, problem, soft, config, energy=energy, steps=steps, rate=rate
    )
    with torch.no_grad():
        found = variables.detach().estimate()
        found = replace(found, camera=replace(found.camera, matrix=found.camera.rotation()))
        loss = _energy(template, found, problem, soft, config.robust)
        broken = ~loss.isfinite()
        if broken.any():
            # Degenerate points can break one person's descent; the others go on, this one is flagged.
            found = where(broken, Estimate.rest(template, len(loss)), found)
            loss = _energy(template, found, problem, soft, config.robust)
        converged = before - loss < 0.01 * before
        return found, _quality(template, found, observations, crop, loss, converged)


def _descend(
    template: BodyTemplate,
    variables: Variables,
    problem: _Problem,
    weights: Weights,
    config: RegistrationConfig,
    *,
    energy: Callable[..., Tensor],
    steps: int,
    rate: float,
) -> Float[Tensor, "batch"]:
    """Adam on every person at once; returns the losses at the start of the last tenth."""
    leaves = list(variables.tensors())
    optimiser = torch.optim.Adam(leaves, lr=rate, fused=True)
    last_tenth = torch.zeros_like(variables.log_scale)
    for step in range(steps):
        # Two drops of the step size settle what the large first steps keep shaking.
        drop = 0.1 if step >= 0.9 * steps else 0.3 if step >= 0.7 * steps else 1.0
        optimiser.param_groups[0]["lr"] = rate * drop
        optimiser.zero_grad(set_to_none=True)
        loss = energy(template, variables.estimate(), problem, weights, config.robust)
        loss.sum().backward()
        optimiser.step()
        if step <= math.ceil(0.9 * steps):
            last_tenth = loss.detach()
    return last_tenth


def _quality(
    template: BodyTemplate,
    estimate: Estimate,
    seen: Observations,
    crop: Crop,
    loss: Tensor,
    converged: Tensor,
) -> Quality:
    problem = _problem(template, seen)
    points = project_points(template, estimate, problem.points)[..., :2]
    joints = project_points(template, estimate, problem.keypoints)[..., :2]
    distances = _median(points - seen.points, seen.point_weights)
    joint_distances = _median(joints - seen.keypoints, seen.keypoint_weights)
    has_points = (seen.point_weights > 0).any(-1)
    return Quality(
        loss=loss,
        dense=losses.dense(points, seen.points, seen.point_weights),
        keypoint=losses.keypoint(joints, seen.keypoints, seen.keypoint_weights),
        reprojection_px=torch.where(has_points, distances, joint_distances) * crop.half,
        facing=facing_share(template, estimate, seen.faces, seen.point_weights),
        converged=converged,
    )


def _median(offsets: Float[Tensor, "batch n 2"], weights: Float[Tensor, "batch n"]) -> Tensor:
    """Median length over what has weight; NaN where nothing has."""
    lengths = torch.where(weights > 0, offsets.norm(dim=-1), torch.nan)
    return lengths.nanmedian(-1).values


def _energy_function(
    config: RegistrationConfig, people: int, device: torch.device
) -> Callable[..., Tensor]:
    """Eager, or compiled where that pays: compilation takes as long as some 10,000 eager fits."""
    wanted = config.compile == "always" or (config.compile == "auto" and people >= 20000)
    if not wanted:
        return _energy
    if device.type == "cpu" and not runtime.has_compiler():
        warnings.warn(
            "no C++ compiler found: registration runs eagerly, at half the speed", stacklevel=3
        )
        return _energy
    return _compiled()


class _Compiled:
    """The energy, compiled; eager from the first failure on, with one warning."""

    def __init__(self) -> None:
        self.function: Callable[..., Tensor] = torch.compile(_energy, dynamic=False)
        self.fresh = True

    def __call__(self, *arguments: Any) -> Tensor:
        if not self.fresh:
            return self.function(*arguments)
        self.fresh = False
        try:
            with warnings.catch_warnings():
                # The compiler talks of its own inner workings; nothing of it is the user's affair.
                warnings.simplefilter("ignore")
                return self.function(*arguments)
        except RuntimeError as error:
            self.function = _energy
            reason = str(error).splitlines()[0]
            warnings.warn(f"compilation failed, registration runs eagerly: {reason}", stacklevel=2)
            return _energy(*arguments)


@lru_cache
def _compiled() -> _Compiled:
    return _Compiled()
