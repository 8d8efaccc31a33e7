"""One step of training: forward, backward, Adam; on one process or many, in the memory there is."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch import distributed as group
from torch.nn.parallel import DistributedDataParallel

from deformlearn.body import BodyTemplate
from deformlearn.config import RegressorConfig
from deformlearn.data.augment import Examples
from deformlearn.distributed import ALONE, Team
from deformlearn.errors import InputError, NotFiniteError, listed
from deformlearn.memory import reason_of, say
from deformlearn.regressor import Regressor
from deformlearn.runtime import autocast, has_compiler
from deformlearn.supervision import Losses, all_losses
from deformlearn.tensors import combine

LARGEST_GRADIENT = 5.0
"""Gradients are shrunk to this norm: one body turned the wrong way must not undo a batch."""

_LONG = 2000
"""Steps of a round from which compiling the network on CUDA earns its minute."""

BETWEEN_CHECKS = 50
"""Steps between two looks at what a CUDA device found: each makes the host wait."""


class Stepper:
    """Takes the steps of one round; what is learned is in the network itself."""

    def __init__(
        self,
        network: Regressor,
        template: BodyTemplate,
        config: RegressorConfig,
        *,
        batch: int,
        compiled: bool = False,
        team: Team = ALONE,
    ) -> None:
        """`template` must be where the network is; `batch` is that of all processes together."""
        self.template, self.config, self.batch, self.team = template, config, batch, team
        self.device = next(network.parameters()).device
        self.parts = 1
        """Into how many parts this process cuts its share of a batch, so that memory suffices."""
        self.lap: Callable[[str], None] = lambda _: None
        """Told when a phase of a step is over (profiling)."""
        shared = team.size > 1
        if shared and self.device.type == "cuda":
            convert_sync_batchnorm(network)
        self.network = network
        self.optimizer = fused_adam(network, config)
        # Batches have one shape: what is compiled once is never compiled again.
        forward: nn.Module = _compiled(network) if compiled else network
        self._forward = _in_step(forward, self.device) if shared else forward
        self._losses = _compiled(all_losses) if compiled else all_losses
        self._compiling = compiled
        self._tried = not (shared and self.device.type == "cuda")
        self.begin()

    def begin(self, before: int = 0) -> None:
        """Forget the steps until now; `before` are those of the epoch under way."""
        self._before = before
        self._rows: list[Tensor] = []
        # Kept on the device until someone looks: the first step that went wrong, and its images.
        self._first = torch.full((), -1, device=self.device)
        self._broken = torch.zeros((), dtype=torch.bool, device=self.device)

    def step(self, examples: Examples, rows: Tensor, rate: float) -> Losses:
        """Learn from this process's share of a batch; its part of the batch's mean losses.

        `rows` says which rows of the training set these are. A batch whose gradient is not finite
        changes no weight, and `check` refuses to go on.
        """
        begin = time.perf_counter()
        if not self._tried:
            self._agree_on_parts(examples)
        terms, totals = self._gradients(examples)
        self.lap("backward")
        norm = clipped_step(self.optimizer, rate)
        first = ~norm.isfinite() & (self._first < 0)
        self._first = torch.where(first, len(self._rows), self._first)
        self._broken = torch.where(first, ~totals.isfinite(), self._broken)
        self._rows.append(rows)
        self.lap("optimiser")
        if self._compiling:
            self._compiling = False
            logging.getLogger(__name__).warning(
                "training: compile time %.0f s (torch keeps it for the next run)",
                time.perf_counter() - begin,
            )
        return terms

    def check(self, epoch: int, steps: int, *, last: bool) -> None:
        """Stop where a gradient was not finite; a CUDA device is asked only now and then, and at `last`.

        All processes have the same gradient, so they stop at the same step.
        """
        if self.device.type == "cuda" and len(self._rows) % BETWEEN_CHECKS and not last:
            return
        step = int(self._first)
        if step < 0:
            return
        mine = self._rows[step]
        guilty = mine[self._broken.cpu().expand(len(mine))]
        broken, batch = zip(*self.team.gather((guilty.tolist(), mine.tolist())), strict=True)
        # The whole batch where only its gradient overflowed.
        rows = sorted(row for own in (broken if any(broken) else batch) for row in own)
        good = f"the checkpoint of epoch {epoch} is good" if epoch else "no epoch is finished"
        raise NotFiniteError(
            f"the loss or its gradient is not finite in step {self._before + step + 1} of {steps} "
            f"of epoch {epoch + 1}, at training rows {listed(rows)}; {good}: "
            f"look at what these rows say, or take a smaller learning rate",
            rows,
        )

    def end(self, sums: Losses) -> Losses:
        """The losses of all processes together, whose running statistics become the same."""
        if self.team.size == 1:
            return sums
        for name, buffer in self.network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                group.all_reduce(buffer)
                buffer /= self.team.size
        together = torch.stack(list(sums.tensors()))
        group.all_reduce(together)
        return Losses(*together)

    def _gradients(self, examples: Examples) -> tuple[Losses, Tensor]:
        """As `_accumulate`; where the memory is too small, in as many parts as it takes.

        The step still sees every image, but batch normalisation sees a part.
        """
        while True:
            try:
                return self._accumulate(examples)
            except torch.OutOfMemoryError as error:
                reason = reason_of(error)
            # Out of `except`: there, the error still holds the activations.
            self._halve(reason)

    def _accumulate(self, examples: Examples, *, alone: bool = False) -> tuple[Losses, Tensor]:
        """Sums over these images of the loss terms, per image of the whole batch; and their losses.

        Gradients become those of the mean loss of the whole batch, `alone` without other processes'.
        """
        self.optimizer.zero_grad()
        sums: list[Losses] = []
        totals: list[Tensor] = []
        for rows in torch.arange(len(examples)).tensor_split(self.parts):
            part = examples[rows[0] : rows[-1] + 1]
            last = rows[-1] + 1 == len(examples)
            with contextlib.nullcontext() if last and not alone else self._without_others():
                with autocast(self.device):
                    prediction = self._forward(part.images)
                terms = self._losses(self.template, prediction, part.labels, self.network.root)
                total = terms.total(self.config)
                self.lap("forward")
                # The processes' gradients are averaged: each stands for `size` of them.
                (total.sum() * (self.team.size / self.batch)).backward()
            sums.append(terms.detach().map(lambda term: term.sum() / self.batch))
            totals.append(total.detach())
        return combine(sums, lambda several: torch.stack(several).sum(0)), torch.cat(totals)

    def _halve(self, reason: str) -> None:
        images = self.batch // self.team.size  # of the smallest share
        if self.team.size > 1 and self._tried:
            raise InputError(
                f"out of memory in the middle of a step of {self.team.size} processes ({reason}); "
                f"the same command goes on from the last checkpoint; start more processes, or begin anew "
                f"with a smaller batch and another --out"
            )
        if images // (2 * self.parts) < 2:
            raise InputError(
                f"out of memory for {images // self.parts} images ({reason}); "
                f"free the device, or take a smaller network or smaller images"
            )
        self.parts *= 2
        say(f"a batch is now taken in {self.parts} parts", reason)

    def _agree_on_parts(self, examples: Examples) -> None:
        """Try one batch without the others: whoever stops in the middle of a step stops all."""
        training = self.network.training
        # What Adam will keep is not there before the first step.
        weights = [] if self.optimizer.state else [*self.network.parameters()]
        moments: list[Tensor] = []
        # In training, batch normalisation waits for the others in every layer.
        self.network.eval()
        while True:
            try:
                moments = moments or [torch.empty_like(one) for one in weights for _ in range(2)]
                self._accumulate(examples, alone=True)
                break
            except torch.OutOfMemoryError as error:
                reason = reason_of(error)
            self._halve(reason)
        del moments
        self.network.train(training)
        self.parts = max(self.team.gather(self.parts))
        self._tried = True

    @contextmanager
    def _without_others(self) -> Iterator[None]:
        if isinstance(self._forward, DistributedDataParallel):
            with self._forward.no_sync():
                yield
        else:
            yield


def fused_adam(network: nn.Module, config: RegressorConfig) -> torch.optim.AdamW:
    """Adam with decoupled weight decay, all weights in one kernel."""
    return torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def clipped_step(optimizer: torch.optim.AdamW, rate: float) -> Tensor:
    """Step with the gradients shrunk to `LARGEST_GRADIENT`; their norm before.

    If that is not finite nothing changes. Both happen within Adam's own kernel, by the two inputs that
    torch's gradient scalers use: no pass over the gradients, and no waiting for the device.
    """
    gradients = []
    for weights in optimizer.param_groups:
        weights["lr"] = rate
        gradients += [one.grad for one in weights["params"] if one.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    optimizer.grad_scale = (norm / LARGEST_GRADIENT).clamp_min(1)  # type: ignore[attr-defined]
    optimizer.found_inf = (~norm.isfinite()).to(norm.dtype)  # type: ignore[attr-defined]
    optimizer.step()
    return norm


def compiles(config: RegressorConfig, device: torch.device, steps: int) -> bool:
    """Whether a round of `steps` is worth compiling the network for.

    On CPU it is not: PyTorch's own convolutions are already the fastest there (docs/performance.md).
    """
    if config.compile == "always" and not has_compiler():
        raise InputError(
            "compile=always needs a C++ compiler (c++, g++ or clang++); install one, or give auto"
        )
    wanted = device.type == "cuda" and steps >= _LONG and has_compiler()
    return config.compile == "always" or (config.compile == "auto" and wanted)


def _compiled(function: Any) -> Any:
    # Dynamo says that it looks through our caches of joint trees, which is right.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    return torch.compile(function, dynamic=False)


def _in_step(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The network whose gradients are the mean of all processes'."""
    with warnings.catch_warnings():
        # torch 2.15 renames broadcast_buffers; torch 2.11 knows no other name.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            # Running statistics are averaged at the end of each leg.
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )
