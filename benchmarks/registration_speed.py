"""Registration: people a second against a full-mesh fit, start-up, cost and memory as data grow."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from deformlearn import templates
from deformlearn.body import BodyTemplate
from deformlearn.camera import Crop
from deformlearn.compiling import compiled
from deformlearn.config import PRESETS, RegistrationConfig
from deformlearn.energy import energy
from deformlearn.files import write_atomically
from deformlearn.gauss_newton import attempt
from deformlearn.observations import Observations
from deformlearn.registration import register
from machine import Bench, commit, kind, median, times_faster
from peer_fit import FullMeshFit, write_smpl_layout
from planted import planted, planted_folder
from table import Measured

ADAM_STEPS = 150
"""What both are compared at: the loss that so many steps reach."""
AS_GOOD_AS_ADAM = {"first_iterations": 2, "iterations": 3}
"""Gauss-Newton steps that end at or below that loss: a row of the table checks it."""


def registration(bench: Bench) -> Iterator[Measured]:
    """24 segments, 24 joints and 128 points a person, to the loss that 150 Adam steps reach."""
    template, observations, crop = _people(bench)
    people = len(crop)
    # Ours takes 8,192 at a time on a GPU: held to 256, the peer would wait for kernels to start. A person
    # costs it some 30 MB, so 1,024 fit on every card that this is for, with room for ours.
    batch = bench.of(1024 if bench.gpu else 250, 100, 4)
    path = write_smpl_layout(template.to("cpu"), bench.folder / "smpl-layout.npz")
    peer = FullMeshFit(path, batch, 128, bench.device)
    steps = bench.of(6, 3, 1)
    config = default_config(bench)
    short = replace(config, **AS_GOOD_AS_ADAM)
    adam = adam_config(bench)

    losses = {}

    def fit(name: str, config: RegistrationConfig) -> None:
        _, quality = register(template, observations, crop, config)
        losses[name] = quality.loss.double()

    jobs = {
        "short": lambda: fit("short", short),
        "ours": lambda: fit("ours", config),
        "adam": lambda: fit("adam", adam),
        "peer": lambda: peer.fit(steps),
    }
    seconds = bench.seconds(jobs, repeats=bench.of(3, 2, 1))
    fast, ours, adams = (people / median(seconds[job]) for job in ("short", "ours", "adam"))
    # Its steps all cost the same, so a few of them say what 150 would.
    work = (batch / people) * (steps / ADAM_STEPS)
    peers = people * work / median(seconds["peer"])
    times = work**-1 * times_faster(seconds["short"], seconds["peer"])
    times_best = work**-1 * times_faster(seconds["ours"], seconds["peer"])
    name = f"body-models, full mesh, {ADAM_STEPS} steps (timed on {steps})"
    share, middle = (_shares(losses[job], losses["adam"]) for job in ("short", "ours"))
    goal = None if bench.gpu else 1000
    where = f"registration, {bench.name}"
    yield from [
        Measured(f"{where}: to the loss", fast, "people/s", goal=goal, peer=peers, peer_name=name),
        Measured(f"{where}: to the loss, times the full-mesh fit", times, "x", "higher", 0.4, 150),
        Measured(f"{where}: to the loss, mean loss / Adam's", share[0], "ratio", "lower", 0.02, 1),
        Measured(f"{where}: to the loss, median / Adam's", share[1], "ratio", "lower", 0.02),
        Measured(f"{where}: as it comes", ours, "people/s", peer=peers, peer_name=name),
        Measured(f"{where}: as it comes, times the full-mesh fit", times_best, "x", "higher", 0.4),
        Measured(f"{where}: as it comes, mean loss / Adam's", middle[0], "ratio", "lower", 0.02),
        Measured(f"{where}: 150 Adam steps, ours", adams, "people/s", peer=peers, peer_name=name),
    ]


def _people(bench: Bench) -> tuple[BodyTemplate, Observations, Crop]:
    """The template and whom to register, where it is done."""
    template = templates.load()
    observations, crop = planted(template, bench.of(20000 if bench.gpu else 1000, 300, 8))
    return template.to(bench.device), observations.to(bench.device), crop.to(bench.device)


def compiled_registration(bench: Bench) -> Iterator[Measured]:
    """The same people by compiled solvers: apart, for compiling takes a minute each."""
    people = _people(bench)
    solvers = {"150 Adam steps": adam_config(bench)}
    if bench.gpu:  # on a CPU Gauss-Newton gets slower (decision 0016)
        solvers["as it comes"] = default_config(bench)
    stance = "default"
    if bench.size == "miniature":  # all runs but the compiler, which takes longer than it may
        stance = "force_eager"
        solvers = {
            what: replace(solver, first_steps=1, steps=1) for what, solver in solvers.items()
        }
    with torch.compiler.set_stance(stance):
        for what, eager in solvers.items():
            name = f"registration, {bench.name}: {what}, compiled"
            yield from compiled_beside_eager(bench, name, eager, *people)


def compiled_beside_eager(
    bench: Bench,
    name: str,
    eager: RegistrationConfig,
    template: BodyTemplate,
    observations: Observations,
    crop: Crop,
) -> list[Measured]:
    """People a second of compiled registration; nothing, and a line that says so, where it ran eagerly."""
    whole = replace(eager, compile="always")
    jobs = {
        "eager": lambda: register(template, observations, crop, eager),
        "compiled": lambda: register(template, observations, crop, whole),
    }
    seconds = bench.seconds(jobs, repeats=bench.of(3, 2, 1))
    if not was_compiled(eager.solver):
        print(f"left out: {name}: it could not be compiled, and ran eagerly", flush=True)
        return []
    fast, slow = (len(crop) / median(seconds[job]) for job in ("compiled", "eager"))
    return [Measured(name, fast, "people/s", peer=slow, peer_name="the same, eager")]


def was_compiled(solver: str) -> bool:
    """Whether this process has run what a solver repeats as compiled code."""
    # Asked for as the solvers do, whose own functions come back; never called where there is no compiler.
    function, dynamic = (energy, False) if solver == "adam" else (attempt, None)
    own = compiled(function, dynamic=dynamic)
    return not own.fresh and not own.failed


def _shares(loss: Tensor, other: Tensor) -> tuple[float, float]:
    """Mean and median loss over those of another solver."""
    return (loss.mean() / other.mean()).item(), (loss.median() / other.median()).item()


def default_config(bench: Bench) -> RegistrationConfig:
    """Registration as it comes, with a GPU's larger batches on a GPU."""
    return PRESETS["gpu"].run.registration if bench.gpu else RegistrationConfig()


def adam_config(bench: Bench) -> RegistrationConfig:
    """150 Adam steps: the yardstick."""
    config = replace(default_config(bench), solver="adam", compile="never")
    return replace(config, first_steps=60, steps=ADAM_STEPS - 60)


def scaling(bench: Bench) -> list[Measured]:
    """Whole data sets from disk to disk, each size in a process of its own: cost and memory."""
    sizes = bench.of((1000, 10000, 100000), (1000, 4000), (20, 40))
    template = templates.load()
    found = {}
    for people in sizes:
        folder = planted_folder(bench.folder / f"planted-{people}", template, people)
        found[people] = fit_folder(folder, bench)
    first, last = sizes[0], sizes[-1]
    slope = statistics.linear_regression(
        [math.log(people) for people in sizes],
        [math.log(found[people]["seconds"]) for people in sizes],
    ).slope
    where = f"data set, {bench.name}"
    return [
        Measured(
            f"{where}: {last:,} people, Parquet to Parquet",
            last / found[last]["seconds"], "people/s", goal=100000 / 60 if bench.gpu else None,
        ),
        Measured(f"{where}: cost exponent, {first:,} to {last:,}", slope, "", "lower", 0.05, 1.02),
        Measured(f"{where}: peak memory, {first:,}", found[first]["megabytes"], "MB", "lower"),
        Measured(
            f"{where}: peak memory, {last:,}", found[last]["megabytes"], "MB", "lower",
            goal=None if bench.gpu else 2000,
        ),
        Measured(f"{where}: start-up before the first person", found[first]["start"], "s", "lower"),
    ]  # fmt: skip


def million(bench: Bench) -> list[Measured]:
    """A data set that fits in no memory (4 GB of disk): as fast a person, and as little memory.

    Where it is stopped it goes on, and what all calls took is added up.
    """
    people = bench.of(1_000_000, 20_000, 40)
    folder = planted_folder(bench.folder / f"planted-{people}", templates.load(), people)
    found = fit_folder(folder, bench)
    where = f"data set, {bench.name}"
    return [
        Measured(f"{where}: {people:,} people", people / found["seconds"], "people/s"),
        Measured(
            f"{where}: peak memory, {people:,}", found["megabytes"], "MB", "lower",
            goal=4000 if bench.gpu else 2000,
        ),
        # Each call counts the people anew, and what it was cut off at is fitted twice.
        Measured(
            f"{where}: calls that {people:,} took", float(found["calls"]), "", "lower", tolerance=100
        ),
    ]  # fmt: skip


def fit_folder(folder: Path, bench: Bench) -> dict[str, float]:
    """Seconds and peak memory of registering a data set in fresh processes: one, unless it is stopped.

    What was stopped is gone on with by the same code on the same kind of machine; what another began is
    begun anew. Nothing is left of what is finished: whoever asks again measures again.
    """
    script = Path(__file__).with_name("fit_folder.py")
    out = folder.with_name(f"{folder.name}-fitted")
    about = {"kind": kind(bench), "device": str(bench.device), "commit": commit()}
    if not (out / "about.json").exists() or json.loads((out / "about.json").read_text()) != about:
        shutil.rmtree(out, ignore_errors=True)
        write_atomically(out / "about.json", json.dumps(about).encode())
    command = [sys.executable, str(script), str(folder), str(out), str(bench.device)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{script.name} failed: {done.stderr.strip()[-400:]}")
    cost = json.loads((out / "cost.json").read_text())
    shutil.rmtree(out)
    return cost
