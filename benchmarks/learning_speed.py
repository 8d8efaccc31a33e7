"""Training and prediction against the bare backbone on the same batches: what the rest of us costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from deformlearn import lifter as lifting
from deformlearn import templates
from deformlearn.backbone import NARROW
from deformlearn.config import PRESETS, LifterConfig, RegressorConfig
from deformlearn.estimate import Estimate
from deformlearn.head_only import train_head
from deformlearn.learning import Training, TrainingSet
from deformlearn.regressor import Head, Regressor, at_once, build_network, predict_dataset
from deformlearn.runtime import autocast
from deformlearn.stepping import compiles
from machine import Bench, median, times_faster
from planted import JOINTS, planted
from table import Measured

OUTPUTS = 105
"""Numbers of theta: 24 scales, 23 x 3 angles, 9 + 2 + 1 of the camera."""

DISTINCT_IMAGES = 2048
"""More images are these again: drawing gigabytes of them would take longer than predicting from them."""


def configurations(bench: Bench) -> dict[str, tuple[RegressorConfig, int]]:
    """Networks to time, each with the number of steps that one timing takes.

    `paper` is a backbone and a head; the others have 2D heads, as by default.
    """
    chosen = {
        "paper": (PRESETS["paper"].run.regressor, bench.of(2, 2, 1)),
        "with 2D heads": (RegressorConfig(), bench.of(2, 1, 1)),
    }
    if bench.gpu:
        chosen = {name: (replace(one, batch=128), bench.of(20, 8, 1))
                  for name, (one, _) in chosen.items()}  # fmt: skip
    else:
        chosen["laptop"] = PRESETS["laptop"].run.regressor, bench.of(20, 8, 1)
    found = {}
    for name, (config, steps) in chosen.items():
        config = replace(config, pretrained=False)
        if bench.size == "miniature":
            config = replace(config, size=64, batch=2)
        found[f"{name} ({config.backbone}, {config.size} px, batch {config.batch})"] = config, steps
    return found


def lifter(bench: Bench) -> list[Measured]:
    """2D poses a second through both networks of the lifter's training."""
    template = templates.load()
    seen, _ = planted(template, bench.of(1000, 1000, 8), points=1)
    seen = seen.to(bench.device)
    found = []
    for width in bench.of((256, 1024), (256,), (16,)):
        config = lifter_config(width, bench.of(100, 40, 2))
        jobs = {
            "ours": lambda config=config: lifting.train(
                seen.keypoints, seen.keypoint_weights, seen.joints, config
            )
        }
        seconds = bench.seconds(jobs, repeats=bench.of(5, 3, 1))
        rate = config.steps * config.batch / median(seconds["ours"])
        found.append(Measured(f"lifter, width {width}, {bench.name}", rate, "poses/s"))
    return found


def lifter_config(width: int, steps: int) -> LifterConfig:
    return replace(PRESETS["laptop"].run.lifter, width=width, steps=steps)


def training(bench: Bench) -> Iterator[Measured]:
    """Images a second of a whole training step, from stored bytes, with augmentation and all losses.

    On a GPU eagerly first, as a short round runs: compiling a network and its losses takes a minute or
    two, and what would have been measured meanwhile is lost if it does not end.
    """
    if bench.gpu:
        for name, (config, steps) in configurations(bench).items():
            eager = replace(config, compile="never")
            yield from _trained(bench, f"training eagerly, {name}", eager, steps)
    for name, (config, steps) in configurations(bench).items():
        yield from _trained(bench, f"training, {name}", config, steps)


def _trained(bench: Bench, name: str, config: RegressorConfig, steps: int) -> Iterator[Measured]:
    data, network = _learner(bench, config, config.batch * steps)
    # A schedule that does not end while it is timed, and is long enough to compile for.
    config = replace(config, epochs=1000)
    ours = Training(network, data, templates.load(), config)
    bare = _Bare(config.backbone)
    jobs = {
        "ours": ours.run_epoch,
        "peer": bare_training(bench, config, steps, bare),
    }
    # A GPU compiles each of these, and would compile our network twice: that minute buys other numbers.
    if not bench.gpu:
        alone = _Alone(copy.deepcopy(network))
        jobs["network"] = bare_training(bench, config, steps, alone)
    goal = 0.90 if bench.gpu else 0.95
    yield from _rates(bench, name, jobs, len(data), goal)


def prediction(bench: Bench) -> Iterator[Measured]:
    """Images a second, stored bytes in and theta out.

    On a CPU it is timed as a user calls it: making the network ready (`for_prediction`, some tenths of a
    second) is part of it. A GPU predicts thousands of images meanwhile, so there the network comes ready,
    as it does to whoever predicts a data set in several calls.
    """
    for name, (config, _) in configurations(bench).items():
        count = _images_to_predict(bench, config)
        network = _network(bench, config)
        if bench.gpu:
            network = network.for_prediction()
        images = _pixels(config, count)
        jobs = {
            "ours": lambda network=network, images=images: predict_dataset(network, images),
            "peer": bare_prediction(bench, config, count),
        }
        yield from _rates(bench, f"prediction, {name}", jobs, count, 0.90)


def _images_to_predict(bench: Bench, config: RegressorConfig) -> int:
    """Some seconds of work."""
    if bench.gpu:
        return bench.of(8192, 2048, 2)  # 1.2 GB of bytes at 224 px
    return bench.of(128, 64, 2) if config.size >= 128 else bench.of(2048, 256, 2)


def head_only(bench: Bench) -> list[Measured]:
    """Cached features a second through the phase that ends a round: head, body, losses, AdamW.

    So few images that caching them is a small part of it.
    """
    config = PRESETS["laptop"].run.regressor
    config = replace(config, head_views=1, head_steps=bench.of(600, 200, 2))
    if bench.size == "miniature":
        config = replace(config, size=64, head_batch=4)
    data, network = _learner(bench, config, config.head_batch)
    jobs = {"ours": lambda: train_head(network, data, templates.load(), config)}
    seconds = bench.seconds(jobs, repeats=bench.of(5, 3, 1))
    rate = config.head_steps * config.head_batch / median(seconds["ours"])
    name = f"head-only phase, {config.backbone}, batch {config.head_batch}, {bench.name}"
    return [Measured(name, rate, "features/s")]


def _rates(
    bench: Bench, name: str, jobs: dict[str, Callable[[], object]], images: int, goal: float
) -> list[Measured]:
    seconds = bench.seconds(jobs, repeats=bench.of(7, 3, 1))
    ours, peer = images / median(seconds["ours"]), images / median(seconds["peer"])
    name = f"{name}, {bench.name}"
    found = [
        Measured(
            name,
            ours,
            "images/s",
            peer=peer,
            peer_name="bare timm backbone, compiled where ours is",
        )
    ]
    # The network alone says what images, labels and losses cost; the backbone, the 2D heads too.
    for what, job, wanted in (("backbone", "peer", goal), ("network", "network", None)):
        if job in seconds:
            share = times_faster(seconds["ours"], seconds[job])
            found.append(
                Measured(f"{name}: share of the bare {what}", share, "ratio", "higher", 0.1, wanted)
            )
    return found


def _learner(bench: Bench, config: RegressorConfig, images: int) -> tuple[TrainingSet, Regressor]:
    template = templates.load()
    observations, _ = planted(template, images)
    rest = Estimate.rest(template, images)
    data = TrainingSet.of(_pixels(config, images), observations, rest, template)
    return data, _network(bench, config)


def _network(bench: Bench, config: RegressorConfig) -> Regressor:
    return build_network(config, templates.load(), JOINTS).to(bench.device)


def _pixels(config: RegressorConfig, images: int) -> torch.Tensor:
    """Random images as they are stored."""
    draw = torch.Generator().manual_seed(0)
    shape = (min(images, DISTINCT_IMAGES), 3, config.size, config.size)
    distinct = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
    return distinct if len(distinct) == images else distinct[torch.arange(images) % len(distinct)]


class _Bare(torch.nn.Module):
    """A timm backbone and a linear head."""

    def __init__(self, name: str) -> None:
        super().__init__()
        model, options = NARROW.get(name, (name, {}))
        self.features = timm.create_model(model, features_only=True, **options)
        self.head = torch.nn.Linear(self.features.feature_info.channels()[-1], OUTPUTS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images)[-1].mean((-1, -2)))


class _Alone(torch.nn.Module):
    """Our own network, all of whose answers are wanted."""

    def __init__(self, network: Regressor) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.network(images)
        return torch.cat([one.reshape(len(images), -1) for one in found.tensors()], 1)


def bare_training(
    bench: Bench, config: RegressorConfig, steps: int, network: torch.nn.Module
) -> Callable[[], None]:
    """The least that training can be: one batch, ready on the device, stepped on again and again."""
    network = _ready_network(bench, network).train()
    compiled = compiles(config, bench.device, config.epochs * steps)
    forward = torch.compile(network, dynamic=False) if compiled else network
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images = _ready(bench, config, config.batch)

    def step() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with autocast(bench.device):
                loss = forward(images).square().mean()
            loss.backward()
            optimizer.step()

    return step


def bare_prediction(bench: Bench, config: RegressorConfig, images: int) -> Callable[[], None]:
    """The least that prediction can be, in batches of the size that ours takes."""
    network = _ready_network(bench, _Bare(config.backbone)).eval()
    pixels = _ready(bench, config, min(images, at_once(bench.device)))
    batches = max(1, images // len(pixels))

    @torch.no_grad()
    def predict() -> None:
        for _ in range(batches):
            with autocast(bench.device):
                network(pixels)

    return predict


def _ready_network(bench: Bench, network: torch.nn.Module) -> torch.nn.Module:
    return network.to(bench.device, memory_format=torch.channels_last)


def _ready(bench: Bench, config: RegressorConfig, images: int) -> torch.Tensor:
    """Random images as the backbone takes them."""
    ready = torch.rand(images, 3, config.size, config.size, device=bench.device)
    return ready.contiguous(memory_format=torch.channels_last)


def lifter_mflop(width: int) -> float:
    """The same of one 2D pose in a step of the lifter's training, backward passes included (10^6)."""
    config = lifter_config(width, 1)
    seen, _ = planted(templates.load(), 2, points=1)
    counter = FlopCounterMode(display=False)
    with counter:
        lifting.train(seen.keypoints, seen.keypoint_weights, seen.joints, config)
    return counter.get_total_flops() / config.batch / 1e6


def head_mflop(config: RegressorConfig) -> float:
    """The same of one image's features through the head, forward (10^6)."""
    features = build_network(config, templates.load(), JOINTS).head.layers[0].in_features
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        Head(features).eval()(torch.zeros(1, features))
    return counter.get_total_flops() / 1e6


def backbone_gflop(config: RegressorConfig) -> float:
    """Multiplications and additions of one image through the bare backbone, forward (10^9)."""
    network = _Bare(config.backbone).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, 3, config.size, config.size))
    return counter.get_total_flops() / 1e9
