"""LEARN, the training: one round of teaching the network what registration found.

Of a batch, every process of a team does its share; the next batch is prepared while the network steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from deformlearn.allocation import keep_freed_memory
from deformlearn.body import BodyTemplate
from deformlearn.config import RegressorConfig
from deformlearn.data.augment import Examples, Labels, Views, augment, draw
from deformlearn.distributed import ALONE, Team
from deformlearn.errors import InputError, NotFiniteError, listed
from deformlearn.memory import Portion, reason_of, say
from deformlearn.prefetch import made_ahead, sent
from deformlearn.regressor import Head, Regressor
from deformlearn.runtime import autocast, generator
from deformlearn.stepping import BETWEEN_CHECKS, Stepper, clipped_step, compiles, fused_adam
from deformlearn.supervision import Losses, TrainingSet, body_losses, training_examples
from deformlearn.tensors import combine, concatenate

_BLOCK = 256
"""Images of a block of features."""
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
            for rows, examples in made_ahead(self._made, self._batches(stream), self.device):
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
        if self.config.schedule == "constant":
            return peak
        done = (self.epoch * self.steps + step) / (self.config.epochs * self.steps)
        return peak * one_cycle(done)

    def _batches(self, stream: torch.Generator) -> Iterator[tuple[Tensor, Views]]:
        """Rows and views of this process's share of each batch of an epoch."""
        order = torch.randperm(len(self.data), generator=stream)
        for batch in order[: self.steps * self.batch].split(self.batch):
            views = draw(self.batch, self.config.augment, stream)
            mine = torch.arange(self.batch).tensor_split(self.team.size)[self.team.rank]
            yield batch[mine], views[mine]

    def _made(self, drawn: tuple[Tensor, Views]) -> tuple[Tensor, Examples]:
        rows, views = drawn
        return rows, _examples(self.data[rows], self.template, views)


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
    shares the ConvNet's work; every process then trains the same head, and rank 0's is taken. A loss that
    is not finite is a NotFiniteError.
    """
    _check(network, data, template)
    device = _device(network)
    template = template.to(device)
    stream = generator(seed, _HEAD, round_number)
    features, labels = _cached_features(network, data, template, config, stream, team)
    portion = Portion(min(config.head_batch, len(features)), "images")
    batch = portion.size
    history, unseen = [], []
    with _seeded(stream, device):
        head = Head(features.shape[1]).to(device)
        head.mean.copy_(features.mean(0))
        # A feature that never moves must not be blown up.
        head.deviation.copy_(features.std(0).clamp_min(1e-3))
        network.head = head
        optimizer = fused_adam(head, config)
        for step in range(config.head_steps):
            rate = config.head_learning_rate * one_cycle(step / config.head_steps)
            rows = torch.randint(len(features), (batch,), generator=stream)
            chosen = rows.to(features.device)
            some, theirs = features[chosen].to(device), labels[chosen].to(device)
            terms = portion.fitting(
                partial(_head_gradients, network, optimizer, template, config, some, theirs)
            )
            norm = clipped_step(optimizer, rate)
            history.append(terms.mean())
            unseen.append((rows % len(data), terms.total(config), norm))
            if len(unseen) == BETWEEN_CHECKS or step + 1 == config.head_steps:
                _check_head(unseen, step + 1, config.head_steps)
                unseen = []
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
    blocks = [
        (rows, draw(len(rows), config.augment, stream))
        for _ in range(config.head_views)
        for rows in torch.arange(len(data)).split(_BLOCK)
    ]
    # Drawn for everyone's blocks: the views do not depend on the team.
    mine = [blocks[number] for number in team.share(len(blocks))]
    parts: list[tuple[Tensor, Labels]] = []

    def go_on(size: int) -> None:
        """The parts that are not there yet, of so many images."""
        there = sum(len(features) for features, _ in parts)
        wanted = [
            (rows[part], views[part])
            for rows, views in mine
            for part in torch.arange(len(rows)).split(size)
        ]
        ends = accumulate(len(rows) for rows, _ in wanted)
        missing = [part for part, end in zip(wanted, ends, strict=True) if end > there]

        def make(part: tuple[Tensor, Views]) -> Examples:
            rows, views = part
            return _examples(data[rows], template, views)

        for examples in made_ahead(make, missing, device):
            with autocast(device):
                features = network(examples.images).features
            # The correspondences are most of the memory, and key points say as much to a head.
            dense = examples.labels.dense.map(lambda values: values[:, :0])
            labels = replace(examples.labels, dense=dense)
            parts.append((features.to("cpu"), labels.to("cpu")))

    if mine:
        Portion(_BLOCK, "images").fitting(go_on)
    features, labels = _in_order(parts, [len(rows) for rows, _ in blocks], team)
    broken = (~features.isfinite().all(1)).nonzero()[:, 0] % len(data)
    if len(broken):
        guilty = sorted(set(broken.tolist()))
        raise NotFiniteError(
            f"what the head is to learn from is not finite at training rows {listed(guilty)}: "
            f"look at what these rows say, or take a smaller learning rate",
            guilty,
        )
    try:
        return features.to(device), labels.to(device)
    except torch.OutOfMemoryError as error:
        reason = reason_of(error)
    say("the head's features stay in ordinary memory", reason)
    return features, labels


def _in_order(
    parts: list[tuple[Tensor, Labels]], blocks: list[int], team: Team
) -> tuple[Tensor, Labels]:
    """What all processes have made of their blocks of images, in the order of the blocks."""
    found: list[tuple[Tensor, Labels]] = []
    for own in team.gather(parts):
        found += own
    features = torch.cat([one for one, _ in found])
    labels = concatenate([one for _, one in found])
    if team.size > 1:
        numbers = torch.arange(sum(blocks)).split(blocks)
        order = [
            numbers[n] for rank in range(team.size) for n in range(rank, len(blocks), team.size)
        ]
        back = torch.cat(order).argsort()
        features, labels = features[back], labels[back]
    return features, labels


def _head_gradients(
    network: Regressor,
    optimizer: torch.optim.Optimizer,
    template: BodyTemplate,
    config: RegressorConfig,
    features: Tensor,
    labels: Labels,
    size: int,
) -> Losses:
    """The loss terms of each image, `size` at a time; gradients become those of the mean loss."""
    optimizer.zero_grad()
    found = []
    for first in range(0, len(features), size):
        part = slice(first, first + size)
        terms = body_losses(template, network.regress(features[part]), labels[part])
        (terms.total(config).sum() / len(features)).backward()
        found.append(terms.detach())
    return concatenate(found)


def _check_head(taken: list[tuple[Tensor, Tensor, Tensor]], step: int, steps: int) -> None:
    """Stop where one of the last steps, up to `step`, was not finite; a device is waited for."""
    found = (~torch.stack([norm for _, _, norm in taken]).isfinite()).nonzero()
    if len(found) == 0:
        return
    first = int(found[0, 0])
    rows, totals, _ = taken[first]
    broken = rows[~totals.isfinite().cpu()]
    # The whole batch where only its gradient overflowed.
    guilty = sorted(set((broken if len(broken) else rows).tolist()))
    raise NotFiniteError(
        f"the loss of the head alone, or its gradient, is not finite in step "
        f"{step - len(taken) + first + 1} of {steps}, at training rows {listed(guilty)}: "
        f"look at what these rows say, or take a smaller head_learning_rate",
        guilty,
    )


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
