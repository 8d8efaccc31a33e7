"""Synthetic people, full meshes and evaluated people a second."""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from deformlearn import templates
from deformlearn.config import SyntheticConfig
from deformlearn.data.shards import Truth
from deformlearn.data.synthetic import make_person, synthesize
from deformlearn.estimate import Estimate
from deformlearn.evaluation import score_estimates
from deformlearn.runtime import start_worker
from machine import Bench, median
from peers_skinning import compare_skinning
from table import Measured


def synthetic(bench: Bench) -> list[Measured]:
    """Whole people, image and labels, on one core, by a worker as `synthesize` starts them.

    In this process the memory that earlier groups left in pieces would slow them by a tenth.
    """
    count = bench.of(48, 12, 1)
    configs = {
        size: replace(SyntheticConfig(), train=count, size=size)
        for size in bench.of((128, 256), (128, 256), (64,))
    }
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=start_worker
    ) as worker:
        jobs = {
            str(size): lambda config=config: worker.submit(_make, config).result()
            for size, config in configs.items()
        }
        seconds = bench.seconds(jobs, repeats=bench.of(3, 2, 1))
    found = [
        Measured(
            f"synthetic people, {size} px, one core", count / median(seconds[str(size)]), "images/s",
            goal=25,
        )
        for size in configs
    ]  # fmt: skip
    # On CPU alone, all cores make what one core makes times their number.
    return [*found, data_set(bench)] if bench.gpu or bench.size == "miniature" else found


def _make(config: SyntheticConfig) -> None:
    for index in range(config.train):
        make_person(config, "train", index)


def data_set(bench: Bench) -> Measured:
    """A whole data set from nothing to files: all cores and the device, start-up included."""
    count = bench.of(10000, 2000, 2)
    config = replace(SyntheticConfig(), train=count, val=0, test=0, size=bench.of(256, 256, 64))
    workers = bench.of(os.cpu_count() or 1, os.cpu_count() or 1, 1)
    bench.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        begin = time.perf_counter()
        synthesize(Path(folder), config, workers=workers, device=str(bench.device))
        rate = count / (time.perf_counter() - begin)
    name = f"synthetic data set, {config.size} px, {bench.name} and all cores"
    return Measured(name, rate, "images/s", goal=1000)


def skinning(bench: Bench) -> list[Measured]:
    """Posed meshes of 13,718 vertices; all libraries move the same mesh."""
    people = bench.of(256 if bench.gpu else 32, 16, 2)
    found = compare_skinning(people, bench.device, bench.of(10, 5, 1))
    rates = {name: 1000 * people / milliseconds for name, milliseconds in found.items()}
    return [
        Measured(
            f"skinning, {bench.name}: full meshes, against {name}", rates["deformlearn"], "bodies/s",
            goal=2 * rate, peer=rate, peer_name=name,
        )
        for name, rate in rates.items()
        if name != "deformlearn"
    ]  # fmt: skip


def evaluation(bench: Bench) -> list[Measured]:
    """All errors of estimates against true joints and true meshes, which come from ordinary memory."""
    template = templates.load().to(bench.device)
    people = bench.of(4096 if bench.gpu else 1024, 512, 4)
    draw = torch.Generator().manual_seed(0)
    rest = Estimate.rest(templates.load(), people)
    pose = 0.3 * torch.randn(rest.body.pose.shape, generator=draw)
    guess = replace(rest, body=replace(rest.body, pose=pose))
    names, vertices = template.landmark_names, len(template.vertices)
    keys = [str(row) for row in range(people)]
    landmarks = torch.randn(people, len(names), 3, generator=draw)
    truth = Truth(keys, names, landmarks, torch.randn(people, vertices, 3, generator=draw))
    actions = ["Walking", "Sitting"] * (people // 2)
    jobs = {"ours": lambda: score_estimates(template, guess, truth, actions)}
    seconds = bench.seconds(jobs, repeats=bench.of(5, 3, 1))
    rate = people / median(seconds["ours"])
    return [Measured(f"evaluation, joints and meshes, {bench.name}", rate, "people/s")]
