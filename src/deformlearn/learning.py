"""LEARN, the training: one round of teaching the network what registration found.

Of a batch, every process of a team does its share; the next batch is prepared while the network steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from deformlearn.allocation import keep_freed_memory
from deformlearn.body import BodyTemplate
from deformlearn.config import RegressorConfig
from deformlearn.data.augment import Examples, Views, draw
from deformlearn.distributed import ALONE, Team
from deformlearn.errors import InputError
from deformlearn.lessons import check_lesson, device_of, make_examples, one_cycle, seeded
from deformlearn.prefetch import made_ahead
from deformlearn.regressor import Regressor
from deformlearn.runtime import generator
from deformlearn.stepping import Stepper, compiles
from deformlearn.supervision import Losses, TrainingSet
from deformlearn.tensors import combine

_LEG = 12000
"""Images of a leg of an epoch, after which a killed round can go on: a quarter of an hour of a ResNet-50
on two cores."""
_STREAM = 31
"""Random stream of this phase; that of the head alone is 32."""


class Training:
    """One round of learning: the network, its optimiser and how far it got.

    An epoch goes in legs. Leg l of epoch e of round r draws its views from (seed, r, e, l) alone, so a run
    that was killed continues from `state_dict`, taken after any leg, as if nothing had happened (to the
    bit on a CPU with the same number of threads).

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
        check_lesson(network, data, template)
        keep_freed_memory()
        self.batch = min(config.batch, len(data))
        if self.batch // team.size < 2:
            raise InputError(
                f"{team.size} processes cannot share a batch of {self.batch} images: each needs at "
                f"least 2, for batch normalisation; start fewer processes or take a larger batch"
            )
        self.network, self.data, self.config, self.team = network, data, config, team
        self.device = device_of(network)
        self.template = template.to(self.device)
        self.seed, self.round_number = seed, round_number
        self.epoch = 0
        """Finished epochs."""
        self.step = 0
        """Steps of the epoch under way."""
        self.steps = len(data) // self.batch
        """Steps an epoch."""
        self._sums: Losses | None = None
        """Of the mean losses of those steps."""
        self.stepper = Stepper(
            network,
            self.template,
            config,
            batch=self.batch,
            compiled=compiles(config, self.device, config.epochs * self.steps),
            team=team,
        )

    @property
    def seen(self) -> int:
        """Images learned from so far."""
        return (self.epoch * self.steps + self.step) * self.batch

    @property
    def images(self) -> int:
        """Images of the whole round."""
        return self.config.epochs * self.steps * self.batch

    def run(
        self,
        after_leg: Callable[[Training, Losses | None], None] | None = None,
        progress: Callable[[int], None] = lambda seen: None,
    ) -> None:
        """Train what is left of the round.

        `after_leg` gets the mean losses of an epoch with its last leg; `progress` the images seen, in
        every step.
        """
        while self.epoch < self.config.epochs:
            means = self.run_leg(progress)
            if after_leg is not None:
                after_leg(self, means)

    def run_epoch(self) -> Losses:
        """One pass over the training set, or what is left of it, in random order; its mean losses.

        An incomplete last batch is left out.
        """
        while (means := self.run_leg()) is None:
            pass
        return means

    def run_leg(self, progress: Callable[[int], None] = lambda seen: None) -> Losses | None:
        """The next leg of an epoch; the epoch's mean losses where that ends it.

        A loss that is not finite is a NotFiniteError, before anything of this leg is reported.
        """
        stream, batches = self._leg()
        self.network.train()
        self.stepper.begin(self.step)
        history: list[Losses] = []
        with seeded(stream, self.device, self.team.rank):
            for rows, examples in made_ahead(self._made, self._drawn(batches, stream), self.device):
                self.stepper.lap("data")
                step = self.step + len(history)
                history.append(self.stepper.step(examples, rows, self._rate(step)))
                self.stepper.check(self.epoch, self.steps, last=len(history) == len(batches))
                progress(self.seen + len(history) * self.batch)
        sums = self.stepper.end(combine(history, torch.stack).map(lambda terms: terms.sum(0)))
        if self._sums is not None:
            sums = combine([self._sums, sums], lambda parts: torch.stack(parts).sum(0))
        self.step += len(history)
        if self.step < self.steps:
            self._sums = sums
            return None
        self.epoch, self.step, self._sums = self.epoch + 1, 0, None
        return sums.map(lambda total: total / self.steps)

    def state_dict(self) -> dict[str, Any]:
        """All that a killed round needs to go on; loads with `torch.load(weights_only=True)`."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "losses": None if self._sums is None else list(self._sums.tensors()),
            "network": self.network.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, by a team of any size."""
        self.network.load_state_dict(state["network"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step = state["epoch"], state["step"]
        sums = state["losses"]
        self._sums = None if sums is None else Losses(*(one.to(self.device) for one in sums))

    @property
    def _leg_steps(self) -> int:
        return max(1, _LEG // self.batch)

    def _rate(self, step: int) -> float:
        peak = self.config.learning_rate * self.config.later_rate ** (self.round_number - 1)
        if self.config.schedule == "constant":
            return peak
        done = (self.epoch * self.steps + step) / (self.config.epochs * self.steps)
        return peak * one_cycle(done)

    def _leg(self) -> tuple[torch.Generator, tuple[Tensor, ...]]:
        """The stream and the batches (rows of the training set) of the leg that begins now."""
        stream = generator(self.seed, _STREAM, self.round_number, self.epoch)
        order = torch.randperm(len(self.data), generator=stream)
        leg, within = divmod(self.step, self._leg_steps)
        assert within == 0
        if leg:
            stream = generator(self.seed, _STREAM, self.round_number, self.epoch, leg)
        batches = order[: self.steps * self.batch].split(self.batch)
        return stream, batches[self.step : self.step + self._leg_steps]

    def _drawn(
        self, batches: tuple[Tensor, ...], stream: torch.Generator
    ) -> Iterator[tuple[Tensor, Views]]:
        """Rows and views of this process's share of each batch."""
        for batch in batches:
            views = draw(self.batch, self.config.augment, stream)
            mine = torch.arange(self.batch).tensor_split(self.team.size)[self.team.rank]
            yield batch[mine], views[mine]

    def _made(self, drawn: tuple[Tensor, Views]) -> tuple[Tensor, Examples]:
        rows, views = drawn
        return rows, make_examples(self.data[rows], self.template, views)
