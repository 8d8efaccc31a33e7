"""Synthetic people, full meshes and evaluated people a second."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from deformlearn import templates
from deformlearn.config import SyntheticConfig
from deformlearn.data.synthetic import make_person, synthesize
from deformlearn.data.truth import Truth
from deformlearn.estimate import Estimate
from deformlearn.evaluation import score_estimates
from deformlearn.runtime import start_worker
from machine import Bench, median
from peers_skinning import compare_skinning
from table import Measured

MOST_SECONDS = 120.0
"""Of making a data set: what is far too slow must not cost the numbers that come after it."""


def synthetic(bench: Bench) -> Iterator[Measured]:
    """Whole people, image and labels: a data set with a GPU; on one core, by a worker of `synthesize`.

    In this process the memory that earlier groups left in pieces would slow them by a tenth.
    """
    # On CPU alone, all cores make what one core makes times their number.
    if bench.gpu or bench.size == "miniature":
        yield from data_set(bench)
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
    for size in configs:
        rate = count / median(seconds[str(size)])
        yield Measured(f"synthetic people, {size} px, one core", rate, "images/s", goal=25)


def _make(config: SyntheticConfig) -> None:
    for index in range(config.train):
        make_person(config, "train", index)


def data_set(bench: Bench) -> list[Measured]:
    """A data set from nothing to files: all cores and the device, start-up included.

    So many people that starting the workers, which has a row of its own, is a small part of it; as many
    of them as two minutes make.
    """
    count = bench.of(50000, 2000, 2)
    config = replace(SyntheticConfig(), train=count, val=0, test=0, size=bench.of(256, 256, 64))
    workers = bench.of(os.cpu_count() or 1, os.cpu_count() or 1, 1)
    bench.folder.mkdir(parents=True, exist_ok=True)
    made: list[tuple[int, float]] = []

    def progress(done: int, total: int) -> None:
        made.append((done, time.perf_counter() - begin))
        if 0 < done < total and made[-1][1] > MOST_SECONDS:
            raise _EnoughError

    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        begin = time.perf_counter()
        with contextlib.suppress(_EnoughError):
            synthesize(
                Path(folder), config, workers=workers, device=str(bench.device), progress=progress
            )
            made.append((count, time.perf_counter() - begin))
    done, seconds = made[-1]
    name = f"synthetic data set, {config.size} px, {bench.name} and all cores"
    return [
        Measured(name, done / seconds, "images/s", goal=1000),
        Measured(
            f"{name}: until the first are made",
            next(since for done, since in made if done), "s", "lower", 0.25,
        ),
    ]  # fmt: skip


class _EnoughError(Exception):
    """How fast it is, is known by now."""


def skinning(bench: Bench) -> Iterator[Measured]:
    """Posed meshes of 13,718 vertices; all libraries move the same mesh, as many at a time."""
    where = f"skinning, {bench.name}: full meshes"
    if not bench.gpu:
        yield from _skinning(bench, where, bench.of(32, 16, 2))
        return
    # body-models holds 39 MB a body: 2,048 at once would fill a card of 80 GB.
    yield from _skinning(bench, where, bench.of(1024, 256, 2), batches=2)
    # So few that a GPU mostly waits for kernels to start: no goal.
    few = bench.of(256, 64, 2)
    for row in _skinning(bench, f"{where}, {few} at once", few):
        yield replace(row, goal=None)


def _skinning(bench: Bench, name: str, people: int, *, batches: int = 1) -> list[Measured]:
    """Bodies a second against each peer, of which we are to make twice as many."""
    found = compare_skinning(people, bench.device, bench.of(10, 5, 1), batches=batches)
    rates = {library: 1000 * people * batches / found[library] for library in found}
    ours = rates.pop("deformlearn")
    return [
        Measured(
            f"{name}, against {library}", ours, "bodies/s",
            goal=2 * rate, peer=rate, peer_name=library,
        )
        for library, rate in rates.items()
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
