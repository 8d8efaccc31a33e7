"""Levenberg-Marquardt: it descends, everyone for themselves, and stops where it should."""

from dataclasses import replace
from itertools import pairwise

import torch

from deformlearn import gauss_newton
from deformlearn.config import RegistrationConfig
from deformlearn.energy import Evidence, Weights, energy
from deformlearn.gauss_newton import descend
from deformlearn.least_squares import Problem, Theta
from deformlearn.normal_equations import normal_equations
from deformlearn.orientation import oriented_start
from deformlearn.registration import register

CONFIG = RegistrationConfig()
SOFT = Weights.of(CONFIG, torch.device("cpu"))


def begun(template, planted, people, **options):
    _, seen, crop = planted(template, people, **options)
    evidence = Evidence.of(template, seen)
    start = Theta.of(oriented_start(template, seen, evidence.points))
    return evidence, Problem.of(template, evidence.points, seen), start, crop


def test_more_steps_never_end_higher(template, planted):
    _, problem, start, _ = begun(template, planted, 12)
    energies = [
        descend(template, problem, start, SOFT, iterations=count, tolerance=0.0).energy
        for count in (0, 1, 2, 4, 8)
    ]
    for earlier, later in pairwise(energies):
        assert (later <= earlier).all()
    assert (energies[-1] < 0.5 * energies[0]).all()


def test_the_energy_it_reports_is_that_of_the_theta_it_returns(template, planted):
    evidence, problem, start, _ = begun(template, planted, 5)
    found = descend(template, problem, start, SOFT, iterations=7)
    again = energy(template, found.theta.estimate(), evidence, SOFT)
    torch.testing.assert_close(found.energy, again, rtol=1e-4, atol=1e-5)


def test_people_who_leave_early_are_where_they_would_be_alone(template, planted):
    _, problem, start, _ = begun(template, planted, 9)
    together = descend(template, problem, start, SOFT, iterations=40, tolerance=1e-2)
    for person in (0, 4, 8):
        rows = slice(person, person + 1)
        alone = descend(template, problem[rows], start[rows], SOFT, iterations=40, tolerance=1e-2)
        torch.testing.assert_close(together.energy[rows], alone.energy, rtol=1e-3, atol=1e-4)
    assert together.converged.all()


def test_people_who_are_done_leave_the_batch(template, planted, monkeypatch):
    _, problem, start, _ = begun(template, planted, 9)
    sizes = []

    def counted(template, problem, theta, *others):
        sizes.append(len(theta))
        return normal_equations(template, problem, theta, *others)

    monkeypatch.setattr(gauss_newton, "normal_equations", counted)
    descend(template, problem, start, SOFT, iterations=40, tolerance=1e-2)
    assert sizes[0] == 9
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 5
    assert len(sizes) < 40


def test_at_a_minimum_no_step_is_found_and_nothing_moves(template, planted):
    _, problem, start, _ = begun(template, planted, 3)
    low = descend(template, problem, start, SOFT, iterations=200, tolerance=0.0)
    again = descend(template, problem, low.theta, SOFT, iterations=30, tolerance=1e-3)
    assert again.converged.all()
    torch.testing.assert_close(again.energy, low.energy, rtol=1e-3, atol=1e-6)


def test_it_ends_no_higher_than_adam_for_most_people(template, planted):
    _, seen, crop = planted(template, 24)
    _, quality = register(template, seen, crop, CONFIG)
    _, other = register(template, seen, crop, replace(CONFIG, solver="adam"))
    assert (quality.loss <= 1.02 * other.loss).float().mean() > 0.9
    assert quality.loss.mean() < 1.05 * other.loss.mean()


def test_single_precision_moves_no_result(template, planted):
    """What float32 loses is far below what a fit leaves open."""
    _, problem, start, _ = begun(template, planted, 6)
    single = descend(template, problem, start, SOFT, iterations=8, tolerance=0.0)
    wide = [value.to(dtype=torch.double) for value in (template, problem, start, SOFT)]
    double = descend(*wide, iterations=8, tolerance=0.0)
    torch.testing.assert_close(single.energy.double(), double.energy, rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(single.theta.pose.double(), double.theta.pose, rtol=0, atol=1e-2)
