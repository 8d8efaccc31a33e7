"""Where the time of learning and predicting goes, beside what the bare backbone needs for its part.

Bare is what a network cannot be faster than: the timm model with one linear layer, in the same precision
and layout, on images that lie ready on the device.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from deformlearn.backbone import classifier
from deformlearn.body import BodyTemplate
from deformlearn.config import RegressorConfig
from deformlearn.learning import Training
from deformlearn.regressor import Regressor, predict_dataset
from deformlearn.runtime import autocast
from deformlearn.stepping import compiles
from deformlearn.supervision import TrainingSet

_OUTPUTS = 128
"""Of the bare network's linear layer: about as many numbers as theta has."""


@dataclass(frozen=True)
class Profile:
    """What one step of something takes."""

    what: str
    backbone: str
    images: int
    """Images a step."""
    seconds: float
    """A step, as it is in earnest."""
    bare: float
    """Seconds in which the bare backbone does as many images."""
    phases: dict[str, float]
    """Seconds of each part of a step, each waited for: where a GPU overlaps them their sum is more."""

    @property
    def share(self) -> float:
        """Speed as a share of the bare backbone's."""
        return self.bare / self.seconds

    def lines(self) -> list[str]:
        """What to print."""
        found = [
            f"{self.what}: {self.images / self.seconds:.1f} images/s, {self.share:.2f} of the bare "
            f"{self.backbone} ({self.images / self.bare:.1f}); {1000 * self.seconds:.1f} ms "
            f"for {self.images} images"
        ]
        total = sum(self.phases.values())
        found += [
            f"  {name}: {1000 * seconds:.1f} ms, {seconds / total:.0%}"
            for name, seconds in self.phases.items()
        ]
        return found


def profile_training(
    network: Regressor,
    data: TrainingSet,
    template: BodyTemplate,
    config: RegressorConfig,
    *,
    steps: int = 5,
    repeats: int = 3,
) -> Profile:
    """What a training step takes, by a copy of the network on the first images.

    `repeats` times `steps` steps, in turn with as many of the bare backbone; medians.
    """
    batch = min(config.batch, len(data))
    wanted = compiles(config, _device(network), config.epochs * (len(data) // batch))
    few = replace(config, epochs=repeats + 2, compile="always" if wanted else "never")
    training = Training(copy.deepcopy(network), data[: batch * steps], template, few)
    bare = _bare_training(network, batch, wanted)
    ours, plain = _in_turn(training.run_epoch, bare, training.steps, repeats, training.device)
    laps = _Laps(training.device)
    training.stepper.lap = laps
    training.run_epoch()
    return Profile("training", network.info.backbone, batch, ours, plain, laps.medians())


def profile_prediction(
    network: Regressor,
    images: UInt8[Tensor, "people 3 size size"],
    *,
    batch: int = 64,
    repeats: int = 3,
) -> Profile:
    """What predicting `batch` images takes, reading and all."""
    several = images[:batch]
    device = _device(network)
    bare = _bare(network).eval()
    ready = _ready_images(network, len(several))

    @torch.no_grad()
    def forward() -> None:
        with autocast(device):
            bare(ready)

    def predict() -> None:
        predict_dataset(network, several, batch=batch)

    ours, plain = _in_turn(predict, forward, 1, repeats, device)
    return Profile("prediction", network.info.backbone, len(several), ours, plain, {})


class _Laps:
    """A stop watch that waits for the device before it looks."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._found: dict[str, list[float]] = defaultdict(list)
        self._last = _now(device)

    def __call__(self, name: str) -> None:
        now = _now(self._device)
        self._found[name].append(now - self._last)
        self._last = now

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(times) for name, times in self._found.items()}


def _in_turn(
    ours: Callable[[], object],
    bare: Callable[[], object],
    steps: int,
    repeats: int,
    device: torch.device,
) -> tuple[float, float]:
    """Median seconds of one of our steps, `steps` a call, and of a bare one, measured by turns."""
    ours()
    bare()
    first: list[float] = []
    second: list[float] = []
    for _ in range(repeats):
        start = _now(device)
        ours()
        middle = _now(device)
        for _ in range(steps):
            bare()
        first.append((middle - start) / steps)
        second.append((_now(device) - middle) / steps)
    return statistics.median(first), statistics.median(second)


def _bare(network: Regressor) -> nn.Module:
    """The backbone with a linear layer, where the network is and laid out as it."""
    bare = classifier(network.info.backbone, _OUTPUTS).to(_device(network))
    return bare.to(memory_format=torch.channels_last)


def _bare_training(network: Regressor, batch: int, compiled: bool) -> Callable[[], None]:
    """One step of the bare backbone: forward, backward and Adam."""
    device = _device(network)
    bare = _bare(network)
    run = torch.compile(bare, dynamic=False) if compiled else bare
    optimizer = torch.optim.AdamW(bare.parameters(), fused=True)
    images = _ready_images(network, batch)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(device):
            outputs = run(images)
        outputs.float().square().mean().backward()
        optimizer.step()

    return step


def _ready_images(network: Regressor, count: int) -> Tensor:
    size = network.info.size
    images = torch.rand(count, 3, size, size, device=_device(network))
    return images.contiguous(memory_format=torch.channels_last)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _device(network: Regressor) -> torch.device:
    return next(network.parameters()).device
