"""What a run is compared with: controls, no iteration, full 3D supervision. As costly as the run itself."""

from __future__ import annotations

import math
from dataclasses import replace

from deformlearn.data.estimates import read_estimates
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.evaluation import true_depths, true_joints
from deformlearn.learning import TrainingSet
from deformlearn.observations import Observations
from deformlearn.registration import keep_best, register
from deformlearn.regressor import save_network
from deformlearn.skeleton import joint_set, rotation_from_axis_angle
from deformlearn.workshop import (
    Workshop,
    predict_split,
    say_scores,
    score,
    start_network,
    train_round,
    training_set,
)


def run_comparisons(shop: Workshop, lifted: Observations) -> None:
    """The comparisons that cost as much as the run: controls, no iteration, full 3D supervision."""
    _control(shop, lifted, "control: own fit continued", own_fit=True)
    _control(shop, lifted, "control: second start", own_fit=False)
    first = read_estimates(shop.folder.round_path(1, "estimates.parquet"), shop.template)
    _other_network(shop, "no iteration", training_set(shop, first.estimate))
    if shop.train.truth is not None:
        oracle = true_depths(shop.train.people.observations, shop.train.truth).to(shop.device)
        config = replace(shop.config.registration, depth_weight=10.0)
        crop = shop.train.people.crop.to(shop.device)
        with shop.watch.stage("full 3D: register with true depths", 1):
            found, _ = register(shop.template, oracle, crop, config)
        data = training_set(shop, found)
        joints = true_joints(shop.train.truth, joint_set("smpl24"))[shop.train.readable] / 1000
        joints = joints - joints[:, :1]
        _other_network(shop, "full 3D supervision", replace(data, joints_3d=joints))


def _control(shop: Workshop, lifted: Observations, stage: str, *, own_fit: bool) -> None:
    """As many more registration steps as the rounds had, without the regressor's predictions."""
    folder = shop.folder
    if folder.record(stage) is not None:
        return
    first = read_estimates(folder.round_path(1, "estimates.parquet"), shop.template)
    crop = shop.train.people.crop.to(shop.device)
    if first.quality is None:
        raise InputError(f"{folder.path} has round-1 estimates without quality; delete round-1")
    best = (first.estimate.to(shop.device), first.quality.to(shop.device))
    config = shop.config.registration
    for again in range(1, shop.config.rounds):
        with shop.watch.stage(f"{stage} ({again})", len(first)) as advance:
            begin = best[0] if own_fit else _other_start(shop, again)
            found = register(
                shop.template,
                lifted,
                crop,
                config,
                start=begin,
                progress=advance,
            )
        best = keep_best(best, found)
    scores = score(shop, shop.train, best[0])
    folder.finish(stage, split="train", scores=scores)
    say_scores(shop, f"{stage} (train)", scores)


def _other_start(shop: Workshop, again: int) -> Estimate:
    """The rest pose facing the camera, and turned about the vertical in later tries."""
    rest = Estimate.rest(shop.template, len(shop.train.people))
    angle = (
        math.pi * (3 - math.sqrt(5)) * (again - 1)
    )  # the golden angle: every try looks another way
    turn = rotation_from_axis_angle(rest.camera.matrix.new_tensor([0.0, angle, 0.0]))
    return replace(rest, camera=replace(rest.camera, matrix=rest.camera.matrix @ turn))


def _other_network(shop: Workshop, stage: str, data: TrainingSet) -> None:
    """The same network and budget on other targets, scored on the test set."""
    folder = shop.folder
    if shop.test is None or folder.record(stage) is not None:
        return
    for round_ in range(1, shop.config.rounds + 1):
        name = f"{stage}, round"
        if folder.record(name, round_) is not None:
            continue
        before = folder.path / stage / f"network-{round_ - 1}.safetensors"
        network = start_network(shop, before if round_ > 1 else None)
        train_round(shop, network, data, name, round_)
        save_network(network, folder.path / stage / f"network-{round_}.safetensors")
        scores = score(shop, shop.test, predict_split(shop, network, shop.test))
        folder.finish(name, round_, split="test", scores=scores)
        say_scores(shop, f"{stage}, round {round_} (test)", scores)
    last = folder.record(f"{stage}, round", shop.config.rounds)
    folder.finish(stage, split="test", scores=last["scores"] if last else None)
