"""How right the results are: fresh people, a finished demo, DensePose's labels.

Fresh people have a seed that was never used for tuning (tuning used seed 0, split `val`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from deformlearn import lifter as lifting
from deformlearn import templates
from deformlearn.config import PRESETS, LifterConfig, RegistrationConfig, SyntheticConfig
from deformlearn.data.shards import read_people
from deformlearn.data.synthetic import synthesize
from deformlearn.data.truth import read_truth
from deformlearn.densepose_charts import CarriedCharts, read_densepose_charts
from deformlearn.errors import InputError
from deformlearn.evaluation import score_estimates, true_depths, true_joints
from deformlearn.progress import Watch
from deformlearn.registration import register
from deformlearn.rundir import RunFolder, read_config
from machine import Bench
from table import Measured

FRESH_SEED = 7001
WATCH = Watch()


def accuracy(bench: Bench) -> list[Measured]:
    """Registration and lifting of fresh people."""
    template = templates.load()
    train, test = bench.of((2500, 400), (600, 100), (8, 4))
    config = SyntheticConfig(train=train, val=0, test=test, seed=FRESH_SEED)
    exact, lifted, truth, people, lifter_mm, zero_mm = _lifted(bench, "exact", config)
    del exact
    mean = ["all"] * len(people)
    oracle = replace(RegistrationConfig(), depth_weight=10.0)
    found, _ = register(template, true_depths(people.observations, truth), people.crop, oracle)
    best = score_estimates(template, found, truth, mean)
    found, _ = register(template, lifted, people.crop, RegistrationConfig())
    first = score_estimates(template, found, truth, mean)
    rough = replace(config, quality="predicted")
    _, noisy, noisy_truth, noisy_people, *_ = _lifted(bench, "predicted", rough)
    found, _ = register(template, noisy, noisy_people.crop, RegistrationConfig())
    third = score_estimates(template, found, noisy_truth, mean)
    return [
        _mm("registration, true depths, exact points: true size", best.true_size, 16),
        _mm("registration, true depths, exact points: PA", best.aligned, 12),
        _mm("registration, lifted depths, exact points: raw", first.raw, 65),
        _mm("registration, lifted depths, exact points: PA", first.aligned, 45),
        _mm("registration, lifted depths, predicted points: raw", third.raw, 80),
        _mm("lifter depth error", lifter_mm, 80, peer=zero_mm, peer_name="zero depth"),
    ]


def _lifted(bench: Bench, name: str, config: SyntheticConfig):
    """Fresh people with the depths of a lifter that was trained on others' 2D."""
    folder, template = bench.folder / name, templates.load()
    with WATCH.stage(f"people in {folder}", config.train + config.test) as advance:
        synthesize(
            folder, config, workers=bench.of(2, 2, 1), progress=lambda done, _: advance(done)
        )
    seen = read_people(folder, "train", template).observations
    budget: LifterConfig = PRESETS[bench.of("laptop", "laptop", "tiny")].run.lifter
    if bench.size == "miniature":
        budget = replace(budget, steps=20)
    # Each time anew: a lifter that was kept would be that of other code.
    with WATCH.stage("lifter", budget.steps) as advance:
        lifter = lifting.train(
            seen.keypoints, seen.keypoint_weights, seen.joints, budget,
            after_chunk=lambda now: advance(now.step),
        )  # fmt: skip
    people = read_people(folder, "test", template)
    truth = read_truth(folder, "test", people.keys)
    lifted = lifter.lift(people.observations)
    oracle = true_depths(people.observations, truth)
    joints = true_joints(truth, people.observations.joint_set)
    flat = (joints - joints[:, :1])[..., :2]
    seen = people.observations.keypoints - people.observations.keypoints[:, :1]
    mm = flat.square().sum((1, 2)) / (flat * seen).sum((1, 2))
    error = ((lifted.depths - oracle.depths).abs().mean(1) * mm).mean().item()
    zero = (oracle.depths.abs().mean(1) * mm).mean().item()
    return people.observations, lifted, truth, people, error, zero


def charts(folder: Path) -> list[Measured]:
    """DensePose labels to surface points of the default body."""
    read = read_densepose_charts(folder / "UV_Processed.mat")
    carried = CarriedCharts(read, templates.load())
    v, u, part = np.moveaxis(np.asarray(Image.open(folder / "demo_im_IUV.png")), -1, 0)
    seen = np.resize(np.flatnonzero(part), 1_000_000)
    part, u, v = (plane.ravel()[seen] for plane in (part.astype(np.int64), u, v))
    begin = time.perf_counter()
    carried.table  # noqa: B018 (made, or read from the cache, when it is first asked for)
    table = time.perf_counter() - begin
    begin = time.perf_counter()
    carried.points_of_bytes(part, u, v)
    bytes_rate = len(part) / (time.perf_counter() - begin)
    few = slice(0, 200_000)
    carried.points(part[:10], u[:10] / 255, v[:10] / 255)
    begin = time.perf_counter()
    carried.points(part[few], u[few] / 255 + 1e-4, v[few] / 255)
    float_rate = 200_000 / (time.perf_counter() - begin)
    return [
        Measured("DensePose labels of 8 bits to the body", bytes_rate, "pixels/s", goal=1e6),
        Measured("DensePose labels of floats to the body", float_rate, "pixels/s", goal=1e5),
        Measured("table of the 8-bit labels, made or read", table, "s", "lower", goal=30),
    ]


def demo(folder: Path) -> list[Measured]:
    """The goals that a whole demo decides."""
    run = RunFolder(folder / "run")
    rounds = read_config(run.path)["config"]["rounds"]
    references = run.record("references")
    if references is None or run.record("learn", rounds) is None:
        raise InputError(
            f"{folder} is not a finished demo; `deformlearn demo --out {folder}` goes on with it"
        )

    def raw(stage: str, round_: int = 0) -> float | None:
        record = run.record(stage, round_)
        return record and record["scores"]["raw"]

    registered, regressed = (
        [raw(stage, round_) for round_ in range(1, rounds + 1)] for stage in ("register", "learn")
    )
    last, mean = registered[-1], references["mean_pose"]["raw"]
    found = [
        _mm("demo: regressor, test, raw", regressed[-1], 155, peer=mean, peer_name="mean pose")
    ]
    if rounds > 1:
        rise = max(later - earlier for earlier, later in pairwise(regressed))
        found += [
            _mm("demo: registration, last round less round 1, raw", last - registered[0], 0),
            _mm("demo: regressor, largest rise between rounds, raw", rise, 0),
        ]
    for control in ("control: own fit continued", "control: second start"):
        if (error := raw(control)) is not None:
            found.append(
                _mm(f"demo: registration, last round less {control}, raw", last - error, 0)
            )
    if (error := raw("full 3D supervision")) is not None:
        ratio = regressed[-1] / error
        found.append(
            Measured(
                "demo: regressor / full 3D supervision, raw", ratio, "ratio", "lower", 0.03, 1.08
            )
        )
    return found


def _mm(metric: str, value: float, goal: float, *, peer: float | None = None, peer_name: str = ""):
    """An error; two runs of the same code agree far better than timings do."""
    return Measured(metric, value, "mm", "lower", 0.03, goal, peer, peer_name)
