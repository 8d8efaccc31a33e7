"""LEARN, the training: one round of teaching the network what registration found.

Of a batch, every process of a team does its share; the next batch is prepared while the network steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from deformlearn.allocation import keep_freed_memory
from deformlearn.body import BodyTemplate
from deformlearn.config import RegressorConfig
from deformlearn.data.augment import Examples, Labels, Views, augment, draw
from deformlearn.distributed import ALONE, Team
from deformlearn.errors import InputError
from deformlearn.prefetch import ahead, sent
from deformlearn.regressor import Head, Regressor
from deformlearn.runtime import autocast, generator
from deformlearn.stepping import Stepper, clipped_step, compiles, fused_adam
from deformlearn.supervision import Losses, TrainingSet, body_losses, training_examples
from deformlearn.tensors import combine, concatenate

_CONVNET, _HEAD = 31, 32
"""Random streams of the two phases."""


class Training:
    """One round of learning: the network, its optimiser and how far it got.

    Epoch e of round r draws its views from (seed, r, e) alone, so a run that was killed continues from
    `state_dict` as if nothing had happened (to the bit on a CPU with the same number of threads).

    A team splits every batch; permutation and views are those of one process, and gradients are means
    over the whole batch. Batch normalisation sees the whole batch on CUDA, each process's share on CPU.
    """

    def __init__(
        self,
        network: Regressor,
        data: TrainingSet,
        template: BodyTemplate,
        config: RegressorConfig,
        *,
        seed: int = 0,
        round_number: int = 1,
        team: Team = ALONE,
    ) -> None:
        """The network is trained where it is; `data`, the same for the whole team, may stay elsewhere."""
        _check(network, data, template)
        keep_freed_memory()
        self.batch = min(config.batch, len(data))
        if self.batch // team.size < 2:
            raise InputError(
                f"{team.size} processes cannot share a batch of {self.batch} images: each needs at "
                f"least 2, for batch normalisation; start fewer processes or take a larger batch"
            )
        self.network, self.data, self.config, self.team = network, data, config, team
        self.device = _device(network)
        self.template = template.to(self.device)
        self.seed, self.round_number = seed, round_number
        self.epoch = 0
        """Finished epochs."""
        self.steps = len(data) // self.batch
        """Steps an epoch."""
        self.stepper = Stepper(
            network,
            self.template,
            config,
            batch=self.batch,
            compiled=compiles(config, self.device, config.epochs * self.steps),
            team=team,
        )

    def run(self, on_epoch: Callable[[Training, Losses], None] | None = None) -> None:
        """Train what is left of the round; after each epoch, report its mean losses."""
        while self.epoch < self.config.epochs:
            means = self.run_epoch()
            if on_epoch is not None:
                on_epoch(self, means)

    def run_epoch(self) -> Losses:
        """One pass over the training set, in random order; an incomplete last batch is left out.

        A loss that is not finite is a NotFiniteError, before anything of this epoch is reported.
        """
        stream = generator(self.seed, _CONVNET, self.round_number, self.epoch)
        self.network.train()
        self.stepper.begin_epoch()
        history: list[Losses] = []
        with _seeded(stream, self.device, self.team.rank):
            for rows, examples in ahead(self._batches(stream), self.device):
                self.stepper.lap("data")
                rate = self._rate(len(history))
                history.append(self.stepper.step(examples, rows, rate))
                self.stepper.check(self.epoch, self.steps)
        self.epoch += 1
        return self.stepper.end_epoch(
            combine(history, torch.stack).map(lambda terms: terms.mean(0))
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a killed round needs to go on; loads with `torch.load(weights_only=True)`."""
        return {
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, by a team of any size."""
        self.network.load_state_dict(state["network"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]

    def _rate(self, step: int) -> float:
        peak = self.config.learning_rate * self.config.later_rate ** (self.round_number - 1)
        done = (self.epoch * self.steps + step) / (self.config.epochs * self.steps)
        return peak * one_cycle(done)

    def _batches(self, stream: torch.Generator) -> Iterator[tuple[Tensor, Examples]]:
        """Rows and views of this process's share of each batch of an epoch."""
        order = torch.randperm(len(self.data), generator=stream)
        for batch in order[: self.steps * self.batch].split(self.batch):
            views = draw(self.batch, self.config.augment, stream)
            mine = torch.arange(self.batch).tensor_split(self.team.size)[self.team.rank]
            rows = batch[mine]
            examples = _examples(self.data[rows], self.template, views[mine])
            yield rows, examples


def train_head(
    network: Regressor,
    data: TrainingSet,
    template: BodyTemplate,
    config: RegressorConfig,
    *,
    seed: int = 0,
    round_number: int = 1,
    team: Team = ALONE,
) -> Losses:
    """Replace the network's head by one trained alone, on cached features; its last mean losses.

    The ConvNet is run once over `head_views` views of each image, after which a step costs almost
    nothing. The new head stays in the network: it predicts, and the next round trains it on. A team
    shares the ConvNet's work; every process then trains the same head, and rank 0's is taken.
    """
    _check(network, data, template)
    device = _device(network)
    template = template.to(device)
    stream = generator(seed, _HEAD, round_number)
    features, labels = _cached_features(network, data, template, config, stream, team)
    batch = min(config.head_batch, len(features))
    history = []
    with _seeded(stream, device):
        head = Head(features.shape[1]).to(device)
        head.mean.copy_(features.mean(0))
        # A feature that never moves must not be blown up.
        head.deviation.copy_(features.std(0).clamp_min(1e-3))
        network.head = head
        optimizer = fused_adam(head, config)
        for step in range(config.head_steps):
            rate = config.head_learning_rate * one_cycle(step / config.head_steps)
            rows = torch.randint(len(features), (batch,), generator=stream).to(device)
            terms = body_losses(template, network.regress(features[rows]), labels[rows])
            optimizer.zero_grad()
            terms.total(config).mean().backward()
            clipped_step(optimizer, rate)
            history.append(terms.detach().mean())
    network.eval()
    if team.size > 1:
        head.load_state_dict(team.tell({name: x.cpu() for name, x in head.state_dict().items()}))
    return combine(history[-100:], torch.stack).mean()


def one_cycle(done: float) -> float:
    """Step size as a share of the largest, `done` of the way through a round (Smith & Topin 2018).

    Up from a tenth in the first fifth, then down to nearly nothing, both along half a cosine.
    """
    warm, start, end = 0.2, 0.1, 1e-3
    if done < warm:
        return start + (1 - start) * (1 - math.cos(math.pi * done / warm)) / 2
    return end + (1 - end) * (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2


@torch.no_grad()
def _cached_features(
    network: Regressor,
    data: TrainingSet,
    template: BodyTemplate,
    config: RegressorConfig,
    stream: torch.Generator,
    team: Team,
) -> tuple[Tensor, Labels]:
    """The head's input for every view of every image, and the labels that moved with it."""
    device = _device(network)
    network.eval()

    def views() -> Iterator[Examples]:
        blocks = [
            rows for _ in range(config.head_views) for rows in torch.arange(len(data)).split(256)
        ]
        mine = team.share(len(blocks))
        for number, rows in enumerate(blocks):
            # Drawn for everyone's blocks: the views do not depend on the team.
            drawn = draw(len(rows), config.augment, stream)
            if number in mine:
                yield _examples(data[rows], template, drawn)

    cached: list[tuple[Tensor, Labels]] = []
    for examples in ahead(views(), device):
        with autocast(device):
            features = network(examples.images).features
        # The correspondences are most of the memory, and key points say as much to a head.
        dense = examples.labels.dense.map(lambda values: values[:, :0])
        cached.append((features, replace(examples.labels, dense=dense)))
    if team.size > 1:
        shares = team.gather([(one.cpu(), labels.to("cpu")) for one, labels in cached])
        # Block n is the (n // size)-th of process n % size.
        count = sum(map(len, shares))
        cached = [shares[n % team.size][n // team.size] for n in range(count)]
    features = torch.cat([one for one, _ in cached]).to(device)
    return features, concatenate([labels for _, labels in cached]).to(device)


@torch.no_grad()
def _examples(data: TrainingSet, template: BodyTemplate, views: Views) -> Examples:
    """The views of these images as a batch the network can take, where the template is."""
    where = template.vertices.device
    here = training_examples(data.map(lambda x: sent(x, where)), template)
    examples = augment(here, template, views.map(lambda x: sent(x, where)))
    images = examples.images.contiguous(memory_format=torch.channels_last)
    return replace(examples, images=images)


def _check(network: Regressor, data: TrainingSet, template: BodyTemplate) -> None:
    """Refuse what would train in vain."""
    info = network.info
    if info.fingerprint != template.fingerprint:
        raise ValueError(
            f"the network is about template {info.template!r} ({info.fingerprint}), "
            f"the data about {template.name!r} ({template.fingerprint})"
        )
    if info.joints != data.observations.joints:
        raise ValueError(
            f"the network finds key points {info.joints!r}, "
            f"the data have {data.observations.joints!r}"
        )
    if data.images.shape[-1] != info.size:
        raise ValueError(f"the network sees {info.size} px, the images are {data.images.shape[-1]}")
    if len(data) < 2:
        raise ValueError("batch normalisation needs at least 2 training images")
    for tensor in (*data.target.tensors(), data.joints_3d):
        broken = ~tensor.isfinite().flatten(1 if tensor.ndim > 1 else 0)
        if broken.any():
            raise ValueError("a registered body is not finite; leave that image out of training")


@contextmanager
def _seeded(stream: torch.Generator, device: torch.device, rank: int = 0) -> Iterator[None]:
    """Dropout and fresh weights know only the global generator: seed it, and put it back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(stream.initial_seed() + rank)
        yield


def _device(network: Regressor) -> torch.device:
    return next(network.parameters()).device
