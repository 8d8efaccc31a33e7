import logging
import math
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deformlearn import stepping
from deformlearn.config import AugmentConfig, RegressorConfig
from deformlearn.distributed import Team
from deformlearn.errors import InputError, NotFiniteError
from deformlearn.learning import Training
from deformlearn.regressor import build_network
from deformlearn.stepping import (
    LARGEST_GRADIENT,
    Stepper,
    clipped_step,
    compiles,
    fused_adam,
)
from deformlearn.supervision import TrainingSet, training_examples

JOINTS = "skeleton25"
STILL = AugmentConfig(mirror=False, rotation=0.0, zoom=0.0, shift=0.0, colour=0.0, occlusion=0.0)
TINY = RegressorConfig(
    backbone="test_resnet", pretrained=False, size=32, batch=8, epochs=1, augment=STILL
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(template, planted):
    truth, seen, _ = planted(template, 8)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=g)
    return TrainingSet.of(images, seen, truth, template)


def still(template, seed=0):
    """A network whose gradient is a sum over images: no batch statistics, no dropout."""
    return build_network(TINY, template, JOINTS, seed=seed).eval()


class Small(torch.nn.Module):
    """A network on a device that holds at most `room` images."""

    def __init__(self, network, room):
        super().__init__()
        self.network, self.room, self.seen = network, room, []

    def forward(self, images):
        self.seen.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore")
        return self.network(images)


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def test_a_batch_too_large_for_the_memory_is_taken_in_parts_with_the_same_gradient(
    template, data, caplog
):
    examples = training_examples(data, template)
    whole = Stepper(still(template), template, TINY, batch=8)
    whole_losses, whole_totals = whole._gradients(examples)
    parts = Stepper(still(template), template, TINY, batch=8)
    parts._forward = Small(parts.network, room=3)
    with caplog.at_level(logging.WARNING):
        losses, totals = parts._gradients(examples)
        parts._gradients(examples)
    assert parts._forward.seen == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert "taken in 4 parts (CUDA out of memory. Tried to allocate 1 GiB)" in caplog.text
    assert len(caplog.records) == 2
    torch.testing.assert_close(totals, whole_totals, atol=1e-4, rtol=1e-4)
    for one, other in zip(losses.tensors(), whole_losses.tensors(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    expected = gradients(whole.network)
    norm = math.sqrt(sum(g.square().sum().item() for g in expected.values()))
    for name, gradient in gradients(parts.network).items():
        assert (gradient - expected[name]).norm() < 0.02 * norm, name


def test_a_device_without_room_for_two_images_is_refused(template, data):
    stepper = Stepper(still(template), template, TINY, batch=8)
    stepper._forward = Small(stepper.network, room=0)
    with pytest.raises(InputError, match=r"out of memory for 2 images.*smaller network"):
        stepper.step(training_examples(data, template), torch.arange(8), 1e-3)


def test_gradients_are_clipped_as_torch_clips_them():
    start = torch.randn(5, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.ParameterList([start.clone()]) for _ in range(2))
    first, second = fused_adam(ours, TINY), fused_adam(theirs, TINY)
    for gradient in (100 * start, 0.1 * start, 7 * start):
        ours[0].grad, theirs[0].grad = gradient.clone(), gradient.clone()
        norm = clipped_step(first, 0.01)
        torch.testing.assert_close(norm, gradient.norm())
        torch.nn.utils.clip_grad_norm_(theirs, LARGEST_GRADIENT)
        second.param_groups[0]["lr"] = 0.01
        second.step()
        torch.testing.assert_close(ours[0], theirs[0])
    assert not torch.equal(ours[0], start)


def test_a_gradient_that_is_not_finite_changes_nothing():
    weights = torch.nn.ParameterList([torch.ones(3)])
    optimizer = fused_adam(weights, TINY)
    weights[0].grad = torch.ones(3)
    clipped_step(optimizer, 0.01)
    before = weights[0].detach().clone()
    for broken in (math.nan, math.inf):
        weights[0].grad = torch.tensor([1.0, broken, 1.0])
        assert not clipped_step(optimizer, 0.01).isfinite()
        assert torch.equal(weights[0].detach(), before)
        assert optimizer.state[weights[0]]["step"] == 1


def broken_at(data, row):
    """One person's key points are not numbers."""
    bad = torch.arange(len(data)) == row
    seen = data.observations
    keypoints = torch.where(bad[:, None, None], torch.nan, seen.keypoints)
    return replace(data, observations=replace(seen, keypoints=keypoints))


def test_a_loss_that_is_not_a_number_stops_with_step_rows_and_the_last_good_checkpoint(
    template, data
):
    network = build_network(TINY, template, JOINTS)
    config = replace(TINY, batch=4, epochs=3)
    training = Training(network, data, template, config)
    training.run_epoch()
    good = {name: p.detach().clone() for name, p in network.named_parameters()}
    training.data = broken_at(data, 5)
    reported = []
    with pytest.raises(
        NotFiniteError,
        match=r"not finite in step [12] of 2 of epoch 2, at training rows 5; "
        r"the checkpoint of epoch 1 is good",
    ) as error:
        training.run(lambda *_: reported.append(1))
    assert error.value.rows == [5]
    assert reported == []
    assert training.epoch == 1
    if "step 1" in str(error.value):
        assert all(torch.equal(p, good[name]) for name, p in network.named_parameters())
    assert all(p.isfinite().all() for p in network.parameters())


def test_an_overflowing_gradient_names_the_whole_batch(template, data):
    stepper = Stepper(still(template), template, TINY, batch=8)
    stepper.network.head.layers[-1].bias.register_hook(lambda gradient: gradient * torch.inf)
    stepper.step(training_examples(data, template), torch.arange(8) + 10, 1e-3)
    with pytest.raises(NotFiniteError, match=r"rows 10, 11, .*, 17; no epoch is finished"):
        stepper.check(0, 1, last=True)


def test_a_team_on_gpus_finds_the_parts_that_fit_before_its_first_step(template, data, caplog):
    examples = training_examples(data, template)
    stepper = Stepper(still(template), template, TINY, batch=8)
    stepper._forward = Small(stepper.network, room=4)
    stepper._tried = False
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            stepper.step(examples, torch.arange(8), 0.0)
    assert stepper._forward.seen == [8, *[4] * 6]
    # A step that stops half-way would leave the others waiting.
    stepper.team = Team(0, 2)
    stepper._forward.room = 2
    with pytest.raises(InputError, match="in the middle of a step of 2 processes"):
        stepper.step(examples, torch.arange(8), 0.0)


def test_the_search_for_parts_waits_for_no_one_and_leaves_no_trace(template, data):
    stepper = Stepper(still(template).train(), template, TINY, batch=8)
    before = {name: value.clone() for name, value in stepper.network.named_buffers()}
    # Synchronised batch normalisation asks the other processes wherever it is in training.
    asked = []
    for layer in stepper.network.modules():
        layer.register_forward_hook(lambda layer, *_: asked.append(layer.training))
    stepper._agree_on_parts(training_examples(data, template))
    assert asked
    assert not any(asked)
    assert all(torch.equal(value, before[name]) for name, value in stepper.network.named_buffers())
    assert all(layer.training for layer in stepper.network.modules())


def test_a_gpu_is_asked_for_trouble_now_and_then_and_at_the_end_of_a_leg(template):
    stepper = Stepper(still(template), template, TINY, batch=2)
    stepper.device = torch.device("cuda")
    stepper._first = torch.tensor(3)
    for done, asked in ((4, False), (49, False), (50, True), (51, False), (60, True)):
        stepper._rows = [torch.arange(2)] * done
        with pytest.raises(NotFiniteError, match="step 4 of 60") if asked else nullcontext():
            stepper.check(0, 60, last=done == 60)


def test_compiling_is_chosen_where_it_pays(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(stepping, "has_compiler", lambda: True)
    assert not compiles(TINY, CPU, 100_000)
    assert compiles(TINY, cuda, 100_000)
    assert not compiles(TINY, cuda, 100)
    assert not compiles(replace(TINY, compile="never"), cuda, 100_000)
    assert compiles(replace(TINY, compile="always"), CPU, 1)
    monkeypatch.setattr(stepping, "has_compiler", lambda: False)
    assert not compiles(TINY, cuda, 100_000)
    with pytest.raises(InputError, match=r"compile=always needs a C\+\+ compiler"):
        compiles(replace(TINY, compile="always"), CPU, 1)


COMPILED = """
import functools, sys
sys.path.insert(0, {tests!r})
import torch
from dataclasses import replace
from pathlib import Path
from test_learning_team import a_training_set, TINY
from deformlearn.learning import Training
from deformlearn.regressor import build_network

# Tracing is what is tested: to make code of the graphs takes a minute, and rounds otherwise.
torch.compile = functools.partial(torch.compile, backend="eager", fullgraph=True)
torch.set_num_threads(1)
template, data = a_training_set()
states = []
for compile in ("never", "always"):
    network = build_network(TINY, template, "skeleton25")
    training = Training(network, data, template, replace(TINY, compile=compile))
    training.run()
    states.append(training.state_dict()["network"])
from torch._dynamo.utils import counters
print(counters["stats"]["unique_graphs"], len(counters["graph_break"]))
same = [torch.equal(states[0][name], states[1][name]) for name in states[0]]
print(all(same), len(states[1]) == len(same))
"""


def test_the_compiled_step_is_two_whole_graphs_that_are_never_compiled_again():
    """In a process of its own: the shape checker that tests run with cannot be traced."""
    code = COMPILED.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["2 0", "True True"]
    assert done.stderr.count("training: compile time") == 1
