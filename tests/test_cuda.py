"""What a GPU computes, against the CPU. Without one all is skipped.

    DEFORMLEARN_CUDA=cpu python -m pytest tests/test_cuda.py

runs the same without a GPU: it finds what would not run, and says nothing about a GPU.
"""

import json
import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from conftest import octahedra, plant
from deformlearn import regressor, stepping
from deformlearn.config import PRESETS, RegistrationConfig, SyntheticConfig
from deformlearn.data import darkroom
from deformlearn.data.estimates import read_estimates
from deformlearn.data.photographs import Stage, photograph, to_row
from deformlearn.data.staging import Studio, direct
from deformlearn.learning import Training
from deformlearn.registration import register
from deformlearn.regressor import build_network, predict_dataset
from deformlearn.supervision import TrainingSet
from tiny_runs import command, one_thread, write_people

HERE = torch.device("cpu")
THERE = torch.device(os.environ.get("DEFORMLEARN_CUDA", "cuda"))

pytestmark = pytest.mark.skipif(
    THERE.type == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"
)


@contextmanager
def products(precision: str):
    """Float32 matrix products by torch's global switch: highest, high (TF32) or medium (bfloat16)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def people(anny):
    """People of the real body, as they are registered."""
    _, seen, crop = plant(anny, 20, points=100)
    noise = torch.Generator().manual_seed(1)
    rough = seen.points + 0.02 * torch.randn(seen.points.shape, generator=noise)
    return anny, replace(seen, points=rough), crop


def registered(people, where, config=RegistrationConfig(batch=16)):  # noqa: B008 (frozen)
    estimate, quality = register(*(one.to(where) for one in people), config)
    assert quality.loss.device.type == where.type
    return estimate.to(HERE), quality.to(HERE)


@pytest.mark.parametrize("solver", ["gauss-newton", "adam"])
def test_cuda_registers_as_well_as_the_cpu(people, solver):
    """A descent amplifies roundings (of 1e-6 in the labels: to 1e-5 in a loss, 4e-4 rad in a pose)."""
    config = RegistrationConfig(batch=16, solver=solver, compile="never")
    (fit, one), (other_fit, other) = (registered(people, where, config) for where in (HERE, THERE))
    torch.testing.assert_close(other.loss, one.loss, rtol=1e-3, atol=0)
    torch.testing.assert_close(other_fit.body.pose, fit.body.pose, rtol=0, atol=0.01)
    assert torch.equal(other.converged, one.converged)


def test_registration_on_cuda_is_float32_whatever_the_switch_for_products_says(people):
    """TF32 and bfloat16 keep 10 and 7 of 23 bits: they may serve a network, and never a fit."""
    with products("highest"):
        fit, quality = registered(people, THERE)
    for precision in ("high", "medium"):
        with products(precision):
            other_fit, other = registered(people, THERE)
        # Ten bits would move a loss by some 1e-3.
        torch.testing.assert_close(other.loss, quality.loss, rtol=2e-5, atol=0)
        torch.testing.assert_close(other_fit.body.pose, fit.body.pose, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["wild", "lab"])
def test_cuda_labels_its_photographs_as_the_cpu_does(monkeypatch, kind):
    """To the bit: float64 rounded once, and a z-buffer of single operations (docs/decisions/0006)."""
    # Each kind of device draws its own noise.
    monkeypatch.setattr(darkroom, "_grain", lambda films, pictures: torch.zeros_like(pictures))
    config, studio = SyntheticConfig(people=kind, size=64), Studio.open()
    scripts = [direct(config, "train", index, studio) for index in range(4)]
    pairs = zip(
        *(photograph(scripts, config.size, Stage.on(where)) for where in (HERE, THERE)), strict=True
    )
    for index, (here, there) in enumerate(pairs):
        for name in ("pixels", "faces", "barycentric", "keypoints", "landmarks_mm", "vertices_mm"):
            assert np.array_equal(getattr(here, name), getattr(there, name)), name
        one, other = (
            to_row(config, "train", index, scripts[index], shot, studio)[0]
            for shot in (here, there)
        )
        for name in ("points", "faces", "barycentric", "keypoints"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        # A rounding of 255.
        assert np.abs(here.image.astype(int) - there.image.astype(int)).max() <= 1


@dataclass(frozen=True)
class Tolerance:
    """What the precision explains."""

    answers: float
    """Distance of predictions, over how far they are from one another."""
    losses: float
    """Relative."""
    direction: float
    """Cosine of two steps: Adam's first has the gradient's signs, and small gradients round to either."""


TOLERANCES = {
    # A GPU's convolutions multiply by TF32: a CPU's with weights moved by 3e-4 gave 0.004, 1e-4, 0.97.
    "float32": Tolerance(0.02, 0.002, 0.9),
    # bfloat16 against float32, both on a CPU, gave 0.02, 0.003, 0.93.
    "as it comes": Tolerance(0.1, 0.02, 0.8),
}


@pytest.fixture(params=list(TOLERANCES))
def tolerance(request, monkeypatch) -> Tolerance:
    """Of networks in float32, and in the precision that the device is given."""
    if request.param == "float32":
        for module in (regressor, stepping):
            monkeypatch.setattr(
                module, "autocast", lambda where: torch.autocast(where.type, enabled=False)
            )
    return TOLERANCES[request.param]


@pytest.fixture(scope="module")
def lesson(template):
    """A training set, and how a network of its size is configured."""
    truth, seen, _ = plant(template, 8)
    config = replace(PRESETS["tiny"].run.regressor, size=64, batch=8)
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randint(256, (8, 3, 4, 4), dtype=torch.uint8, generator=draw)
    images = coarse.repeat_interleave(16, 2).repeat_interleave(16, 3)
    return TrainingSet.of(images, seen, truth, template), config


def network_of(template, data, config):
    """A network without dropout, for each device draws its own."""
    network = build_network(config, template, data.observations.joints)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    return network


def test_cuda_predicts_what_the_cpu_predicts(template, lesson, tolerance):
    data, config = lesson
    network = network_of(template, data, config).eval()
    last = network.head.layers[-1].weight  # fresh, it answers nearly the same to every image
    torch.nn.init.normal_(last, std=1.0, generator=torch.Generator().manual_seed(0))
    expected = predict_dataset(network, data.images, batch=3)
    found = predict_dataset(network.to(THERE), data.images, batch=3)
    for one, other in zip(expected.tensors(), found.tensors(), strict=True):
        spread = (one - one.mean(0)).norm()
        assert spread > 0.01, "the same for every image"
        assert (one - other).norm() < tolerance.answers * spread


def test_cuda_takes_the_training_step_that_the_cpu_takes(template, lesson, tolerance):
    data, config = lesson
    found = {}
    for where in (HERE, THERE):
        network = network_of(template, data, config).to(where)
        before = torch.cat([value.detach().flatten() for value in network.parameters()])
        losses = Training(network, data, template, replace(config, epochs=1)).run_epoch()
        after = torch.cat([value.detach().flatten() for value in network.parameters()])
        found[where] = losses.to(HERE), (after - before).to(HERE)
    (expected, step), (losses, other) = found[HERE], found[THERE]
    for name, value in vars(expected).items():
        assert vars(losses)[name].item() == pytest.approx(value.item(), rel=tolerance.losses), name
    assert torch.cosine_similarity(step, other, dim=0) > tolerance.direction


@pytest.mark.slow
def test_a_team_of_all_cuda_devices_does_what_one_process_on_the_cpu_does(tmp_path):
    """A real torchrun, a process a GPU (nccl): fits within 1 %, losses of training within a tenth."""
    people = write_people(tmp_path / "people")
    processes = torch.cuda.device_count() if THERE.type == "cuda" else 2
    batch = f"batch={max(8, 2 * processes)}"
    runs = {}
    for name, device, launched in (("alone", "cpu", 0), ("team", THERE.type, processes)):
        out = tmp_path / name
        words = command(
            people, out, batch, f'device="{device}"', processes=max(launched, 1), launched=launched > 0
        )  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, env=one_thread())
        assert done.returncode == 0, done.stderr
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        runs[name] = out, {(line["stage"], line["round"]): line for line in lines}
    (alone, mine), (team, theirs) = runs.values()
    assert mine.keys() == theirs.keys()
    fits = [
        read_estimates(out / "round-1" / "estimates.parquet", octahedra()) for out in (alone, team)
    ]
    assert fits[0].keys == fits[1].keys
    torch.testing.assert_close(fits[1].quality.loss, fits[0].quality.loss, rtol=0.01, atol=1e-6)
    for one, other in zip(mine["learn", 1]["losses"], theirs["learn", 1]["losses"], strict=True):
        assert other["joints"] == pytest.approx(one["joints"], rel=0.1)
