"""What a run is compared with: controls, no iteration, full 3D supervision. As costly as the run itself."""

from __future__ import annotations

import math
from dataclasses import replace

from deformlearn.data.augment import SEGMENT_JOINTS
from deformlearn.data.truth import Truth
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.evaluation import missing_joints, true_depths
from deformlearn.learning import TrainingSet
from deformlearn.lifter import Lifter
from deformlearn.registration import keep_best
from deformlearn.skeleton import joint_set, rotation_from_axis_angle
from deformlearn.workshop import (
    Workshop,
    learn,
    lift_people,
    measure,
    predict_split,
    read_fits,
    register_people,
    start_network,
    training_set,
)


def run_comparisons(shop: Workshop, lifter: Lifter) -> None:
    """The comparisons that cost as much as the run: controls, no iteration, full 3D supervision."""
    _control(shop, lifter, "control: own fit continued", own_fit=True)
    _control(shop, lifter, "control: second start", own_fit=False)
    if shop.test is None:
        return
    if shop.folder.record("no iteration") is None:
        first = read_fits(shop, shop.train, shop.folder.round_path(1, "estimates.parquet"))
        _other_network(shop, "no iteration", training_set(shop, first.estimate))
    if shop.train.truth is not None and shop.folder.record("full 3D supervision") is None:
        seen = shop.train.people.observations
        if missing := missing_joints(shop.train.truth, seen.joint_set):
            shop.watch.say(
                f"no full 3D supervision: the truth has no {', '.join(missing)}, which are key points"
            )
            return
        _other_network(shop, "full 3D supervision", _full_supervision(shop, shop.train.truth))


def _full_supervision(shop: Workshop, truth: Truth) -> TrainingSet:
    """What to learn where 3D is known: fits to true depths, and the true joints.

    Where the truth lacks a joint of the body, as Human3.6M's lacks the collars, the fit's own stands in.
    """
    oracle = true_depths(shop.train.people.observations, truth)
    config = replace(shop.config.registration, depth_weight=10.0)
    stage = "full 3D: register with true depths"
    found, _ = register_people(shop, oracle, config, stage=stage)
    data, names = training_set(shop, found), joint_set(SEGMENT_JOINTS).landmarks
    known = [index for index, name in enumerate(names) if name in truth.landmark_names]
    columns = [truth.landmark_names.index(names[index]) for index in known]
    true = truth.landmarks_mm[shop.train.readable] / 1000
    joints = data.joints_3d.clone()
    joints[:, known] = true[:, columns] - true[:, columns[:1]]
    return replace(data, joints_3d=joints)


def _control(shop: Workshop, lifter: Lifter, stage: str, *, own_fit: bool) -> None:
    """As many more registration steps as the rounds had, without the regressor's predictions."""
    folder = shop.folder
    if folder.record(stage) is not None:
        return
    first = read_fits(shop, shop.train, folder.round_path(1, "estimates.parquet"))
    if first.quality is None:
        raise InputError(f"{folder.path} has round-1 estimates without quality; delete round-1")
    seen, config = lift_people(shop, lifter), shop.config.registration
    best = (first.estimate, first.quality)
    for again in range(1, shop.config.rounds):
        begin = best[0] if own_fit else _other_start(shop, again)
        found = register_people(shop, seen, config, start=begin, stage=f"{stage} ({again})")
        best = keep_best(best, found)
    measured = measure(shop, shop.train, best[0], f"{stage} (train)")
    folder.finish(stage, split="train", **measured)


def _other_start(shop: Workshop, again: int) -> Estimate:
    """The rest pose facing the camera, and turned about the vertical in later tries."""
    rest = Estimate.rest(shop.template.to("cpu"), len(shop.train.people))
    # The golden angle: every try looks another way.
    angle = math.pi * (3 - math.sqrt(5)) * (again - 1)
    turn = rotation_from_axis_angle(rest.camera.matrix.new_tensor([0.0, angle, 0.0]))
    return replace(rest, camera=replace(rest.camera, matrix=rest.camera.matrix @ turn))


def _other_network(shop: Workshop, stage: str, data: TrainingSet) -> None:
    """The same network and budget on other targets, scored on the test set."""
    folder, test = shop.folder, shop.test
    assert test is not None, "there is nothing to score on"
    for round_ in range(1, shop.config.rounds + 1):
        name = f"{stage}, round"
        if folder.record(name, round_) is not None:
            continue
        before = folder.path / stage / f"network-{round_ - 1}.safetensors"
        path = folder.path / stage / f"network-{round_}.safetensors"
        network = start_network(shop, before if round_ > 1 else None)
        text = f"{stage}, round {round_}"
        network, _ = learn(shop, network, data, path, name, round_, text=f"{text}: learn")
        predicted = predict_split(shop, network, test, f"{text}: predict test")
        measured = measure(shop, test, predicted, f"{text} (test)")
        folder.finish(name, round_, split="test", **measured)
    last = folder.record(f"{stage}, round", shop.config.rounds)
    folder.finish(stage, split="test", scores=last["scores"] if last else None)
