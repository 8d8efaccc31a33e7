"""DEFORM: fit the template to what images say, many people at once (section 4, Eqs. 2-4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn import adam, losses, runtime
from deformlearn.allocation import keep_freed_memory
from deformlearn.body import BodyTemplate, blend
from deformlearn.camera import Crop
from deformlearn.compiling import decided
from deformlearn.config import RegistrationConfig
from deformlearn.energy import Evidence, Weights, energy
from deformlearn.estimate import Estimate, Quality, facing_share, view_transforms
from deformlearn.gauss_newton import attempt_function, descend
from deformlearn.least_squares import Problem, Theta
from deformlearn.observations import Observations
from deformlearn.orientation import oriented_start
from deformlearn.progress import Advance
from deformlearn.tensors import concatenate, where

_IN_CACHE = 128
"""People fitted at once on a CPU: what Gauss-Newton writes about them stays in the cache."""
_ADAM_ON_CPU = 500
_ON_GPU = 8192
"""A guess: a step starts some 300 kernels, whose start should not be what it waits for."""
_COLUMNS = 32
"""Least number of correspondences to compile for; more are powers of two."""


@runtime.exact_float32
def register(
    template: BodyTemplate,
    observations: Observations,
    crop: Crop,
    config: RegistrationConfig,
    *,
    start: Estimate | None = None,
    progress: Advance | None = None,
) -> tuple[Estimate, Quality]:
    """The estimates that explain the observations best, and how well they do.

    Without `start`, each person begins at the closed-form orientation (or the rest pose) and goes
    through both phases. With `start`, only the second phase runs. People are
    independent: neither their order nor the batch size changes a result beyond rounding, and the
    number of threads changes nothing. Products are true float32, whatever torch is told to allow.
    """
    people = len(observations.points)
    if people == 0:
        raise ValueError("nothing to register: the observations hold no one")
    keep_freed_memory()
    # Medians need a column, if only of padding.
    observations = _with_columns(observations.seen_alone(), max(observations.points.shape[1], 1))
    device = observations.points.device
    size = at_once(config, device)
    config = decided(config, people, device)
    compiled = config.compile == "always"
    if config.solver == "adam":
        fit = _by_adam(template, config, device)
    else:
        fit = _by_gauss_newton(template, config, device)
    # Alike numbers of points go together, so that little of a batch is padding.
    used = _points_used(observations)
    order = used.argsort(stable=True)

    def register_batch(rows: Tensor) -> tuple[Estimate, Quality]:
        columns = max(int(used[rows[-1]]), 1)
        count = len(rows)
        if compiled and config.solver == "adam":  # few shapes in all: each costs a compilation
            columns = max(1 << (columns - 1).bit_length(), _COLUMNS)
            rows = torch.cat([rows, rows[-1:].expand(size - count)])
        seen = _with_columns(observations[rows], columns)
        evidence = Evidence.of(template, seen)
        with torch.no_grad():
            begin = (
                oriented_start(template, seen, evidence.points, closed_form=config.orient)
                if start is None
                else start[rows]
            )
        with torch.no_grad():
            found = fit(evidence, begin, start is None)
            estimate, quality = _settled(template, found, evidence, crop[rows], config)
            return estimate[:count], quality[:count]

    batches = order.split(size)
    parts = []
    done = 0
    # Adam's batches use every core by themselves, as a GPU's and compiled ones do.
    many = config.solver == "gauss-newton" and device.type == "cpu" and not compiled
    spread = runtime.in_threads if many else map
    for rows, part in zip(batches, spread(register_batch, batches), strict=True):
        parts.append(part)
        done += len(rows)
        if progress is not None:
            progress(done)
    back = order.argsort()
    return concatenate([one for one, _ in parts])[back], concatenate([one for _, one in parts])[
        back
    ]


def at_once(config: RegistrationConfig, device: torch.device) -> int:
    """How many people the device fits together."""
    if device.type == "cuda":
        return config.batch or _ON_GPU
    if config.solver == "adam":
        return config.batch or _ADAM_ON_CPU
    return min(config.batch or _IN_CACHE, _IN_CACHE)


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
    observations = _with_columns(observations.seen_alone(), max(observations.points.shape[1], 1))
    with torch.no_grad():
        evidence = Evidence.of(template, observations)
        loss = energy(template, estimate, evidence, Weights.of(config, observations.points.device))
        return _quality(template, estimate, evidence, crop, loss, torch.zeros_like(loss) > 0)


_Found = tuple[Estimate, Tensor, Tensor]
"""Estimate, its loss under the second phase's weights, converged."""
_Fit = Callable[[Evidence, Estimate, bool], _Found]
"""From evidence, a start, and whether that is fresh."""


def _by_gauss_newton(
    template: BodyTemplate, config: RegistrationConfig, device: torch.device
) -> _Fit:
    leading, soft = (Weights.of(config, device, first=first) for first in (True, False))
    attempt = attempt_function(config, device)

    def fit(evidence: Evidence, start: Estimate, fresh: bool) -> _Found:
        problem = Problem.of(template, evidence.points, evidence.observations)
        theta = Theta.of(start)
        if fresh and config.first_iterations:
            count = config.first_iterations
            theta = descend(
                template, problem, theta, leading, iterations=count, tolerance=0.0, attempt=attempt
            ).theta
        found = descend(
            template, problem, theta, soft,
            iterations=config.iterations, tolerance=config.tolerance, attempt=attempt,
        )  # fmt: skip
        return _orthonormal(found.theta.estimate()), found.energy, found.converged

    return fit


def _by_adam(template: BodyTemplate, config: RegistrationConfig, device: torch.device) -> _Fit:
    soft = Weights.of(config, device)
    function = adam.energy_function(config, device)

    def fit(evidence: Evidence, start: Estimate, fresh: bool) -> _Found:
        with torch.enable_grad():
            found, before = adam.descend(
                template, evidence, start, config, fresh=fresh, function=function
            )
        found = _orthonormal(found)
        after = energy(template, found, evidence, soft)
        return found, after, before - after < 0.01 * before

    return fit


def _orthonormal(estimate: Estimate) -> Estimate:
    """The estimate with a rotation for its nine numbers."""
    return replace(estimate, camera=replace(estimate.camera, matrix=estimate.camera.rotation()))


def _settled(
    template: BodyTemplate,
    found: _Found,
    evidence: Evidence,
    crop: Crop,
    config: RegistrationConfig,
) -> tuple[Estimate, Quality]:
    """What a descent found, and its quality."""
    estimate, loss, converged = found
    broken = ~loss.isfinite()
    if broken.any():
        # Degenerate points can break one person's descent; the others go on, this one is flagged.
        estimate = where(broken, Estimate.rest(template, len(loss)), estimate)
        loss = energy(template, estimate, evidence, Weights.of(config, loss.device))
    return estimate, _quality(template, estimate, evidence, crop, loss, converged & ~broken)


def _points_used(observations: Observations) -> Tensor:
    """How many columns of correspondences each person needs."""
    weights = observations.point_weights
    columns = torch.arange(1, weights.shape[1] + 1, device=weights.device)
    return (columns * (weights > 0)).amax(-1)


def _with_columns(observations: Observations, count: int) -> Observations:
    """The observations with so many columns of correspondences: padded, or less what nobody uses."""

    def fitted(values: Tensor, padding: float = 0.0) -> Tensor:
        missing = count - values.shape[1]
        if missing <= 0:
            return values[:, :count]
        return torch.cat(
            [values, values.new_full((len(values), missing, *values.shape[2:]), padding)], 1
        )

    return replace(
        observations,
        points=fitted(observations.points),
        faces=fitted(observations.faces),
        barycentric=fitted(observations.barycentric, 1 / 3),
        point_weights=fitted(observations.point_weights),
    )


def _quality(
    template: BodyTemplate,
    estimate: Estimate,
    evidence: Evidence,
    crop: Crop,
    loss: Tensor,
    converged: Tensor,
) -> Quality:
    seen = evidence.observations
    view = view_transforms(template, estimate)[..., :2, :]
    points, joints = blend(view, evidence.points), blend(view, evidence.keypoints)
    distances = _median(points - seen.points, seen.point_weights)
    joint_distances = _median(joints - seen.keypoints, seen.keypoint_weights)
    has_points = (seen.point_weights > 0).any(-1)
    return Quality(
        loss=loss,
        dense=losses.dense(points, seen.points, seen.point_weights),
        keypoint=losses.keypoint(joints, seen.keypoints, seen.keypoint_weights),
        reprojection_px=torch.where(has_points, distances, joint_distances) * crop.half,
        facing=facing_share(template, view, seen.faces, seen.point_weights),
        converged=converged,
    )


def _median(offsets: Float[Tensor, "batch n 2"], weights: Float[Tensor, "batch n"]) -> Tensor:
    """Median length over what has weight; NaN where nothing has."""
    lengths = torch.where(weights > 0, offsets.norm(dim=-1), torch.nan)
    return lengths.nanmedian(-1).values
