"""Registration by Adam, the paper's way."""

from dataclasses import replace

import torch

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
