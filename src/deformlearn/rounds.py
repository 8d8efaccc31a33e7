"""Deform-and-learn: lift, register, learn, evaluate, again (section 3), on any data set."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deformlearn import lifter as lifting
from deformlearn import runtime
from deformlearn.body import BodyTemplate
from deformlearn.comparisons import run_comparisons
from deformlearn.config import RunConfig
from deformlearn.data.estimates import Estimates, read_estimates, write_estimates
from deformlearn.data.shards import read_info, splits
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.evaluation import lifter_only, mean_pose
from deformlearn.lifter import Lifter
from deformlearn.observations import Observations
from deformlearn.progress import QUIET, Watch
from deformlearn.registration import keep_best, register
from deformlearn.regressor import save_network
from deformlearn.rundir import RunFolder
from deformlearn.workshop import (
    Workshop,
    load_split,
    predict_split,
    say_scores,
    score,
    start_network,
    train_round,
    training_set,
    with_people,
    write_predictions,
)


def deform_and_learn(
    data: Path, out: Path, config: RunConfig, template: BodyTemplate, *, watch: Watch = QUIET
) -> list[dict[str, Any]]:
    """Run all rounds on a data set and return everything measured.

    Stops and goes on anywhere: what a stage has finished is on disk, and the stage it was killed in
    continues from its last checkpoint.
    """
    info = read_info(data)
    with RunFolder(out) as folder:
        folder.begin(config, {"path": str(data.resolve()), "template": asdict(info)})
        size = config.regressor.size
        watch.say(f"reading {data}")
        train = load_split(data, "train", template, size, config.workers)
        test = (
            load_split(data, "test", template, size, config.workers)
            if "test" in splits(data)
            else None
        )
        for split in filter(None, (train, test)):
            for rejected in split.people.rejected:
                watch.say(f"left out: {rejected.where}: {rejected.reason}")
            for unreadable in split.images.unreadable:
                watch.say(f"left out: {unreadable.key}: {unreadable.reason}")
        device = runtime.device(config.device)
        shop = Workshop(data, folder, config, template.to(device), device, watch, train, test)
        found_lifter = _lifter(shop)
        lifted = found_lifter.to(device).lift(train.people.observations.to(device))
        _references(shop, found_lifter)
        for round_ in range(1, config.rounds + 1):
            fits = _register_round(shop, lifted, round_)
            _learn_round(shop, fits.estimate, round_)
        _refine(shop, found_lifter)
        if config.baselines:
            run_comparisons(shop, lifted)
        return folder.records()


def _lifter(shop: Workshop) -> Lifter:
    """Train the lifter on the training set's key points, or load it."""
    folder, config = shop.folder, shop.config.lifter
    path = folder.path / "lifter.safetensors"
    if folder.record("lifter") is None:
        seen = shop.train.people.observations.to(shop.device)
        start = time.monotonic()
        with shop.watch.stage("lifter", config.steps) as advance:

            def after_chunk(training: lifting.LifterTraining) -> None:
                advance(training.step)
                if training.step % (8 * lifting.CHUNK) == 0:
                    folder.save_checkpoint("lifter", 0, training.state())

            trained = lifting.train(
                seen.keypoints,
                seen.keypoint_weights,
                seen.joints,
                config,
                seed=shop.config.seed,
                resume=folder.load_checkpoint("lifter"),
                after_chunk=after_chunk,
            )
        lifting.save_lifter(trained, path)
        folder.finish("lifter", steps=config.steps, seconds=time.monotonic() - start)
    return lifting.load_lifter(path)


def _references(shop: Workshop, found_lifter: Lifter) -> None:
    """The rows that are always beside ours: the mean pose, and Kudo's lifter alone."""
    test, train = shop.test, shop.train
    if test is None or test.truth is None or shop.folder.record("references") is not None:
        return
    actions = test.people.actions
    measured: dict[str, Any] = {}
    if train.truth is not None:
        measured["mean_pose"] = mean_pose(shop.template, train.truth, test.truth, actions).record()
    seen = test.people.observations
    try:
        lifted = found_lifter.cpu().lift(seen)
        scores = lifter_only(shop.template.to("cpu"), lifted, test.truth, actions)
        measured["lifter_only"] = scores.record()
    except InputError as error:
        shop.watch.say(f"no lifter-only row: {error}")
    shop.folder.finish("references", **measured)


def _register_round(shop: Workshop, lifted: Observations, round_: int) -> Estimates:
    """DEFORM: fit every training image; keep the best fit each person has had."""
    folder, config = shop.folder, shop.config
    path = folder.round_path(round_, "estimates.parquet")
    if folder.record("register", round_) is not None:
        return read_estimates(path, shop.template)
    people = shop.train.people
    crop = people.crop.to(shop.device)
    start = time.monotonic()
    begin, before = None, None
    if round_ > 1:
        predictions = folder.round_path(round_ - 1, "predictions-train.parquet")
        begin = read_estimates(predictions, shop.template).estimate.to(shop.device)
        before = read_estimates(folder.round_path(round_ - 1, "estimates.parquet"), shop.template)
    with shop.watch.stage(f"round {round_}: register", len(people)) as advance:
        found = register(
            shop.template,
            lifted,
            crop,
            config.registration,
            start=begin,
            progress=advance,
        )
    measured: dict[str, Any] = {"seconds": time.monotonic() - start}
    if before is not None and before.quality is not None:
        alone = found
        old = (before.estimate.to(shop.device), before.quality.to(shop.device))
        measured["replaced"] = (alone[1].loss < old[1].loss).float().mean().item()
        measured["alone"] = score(shop, shop.train, alone[0])
        found = keep_best(old, alone) if config.keep_best else alone
    fits = with_people(people, found)
    write_estimates(path, fits, shop.template)
    measured["scores"] = score(shop, shop.train, found[0])
    measured["reprojection_px"] = found[1].reprojection_px.nanmedian().item()
    measured["flagged"] = sum(flag != "ok" for flag in read_estimates(path, shop.template).flags)
    folder.finish("register", round_, split="train", **measured)
    say_scores(shop, f"round {round_}: registration (train)", measured["scores"])
    return fits


def _learn_round(shop: Workshop, target: Estimate, round_: int) -> None:
    """LEARN: train on the fits, then predict every image for the next round and for evaluation."""
    folder = shop.folder
    if folder.record("learn", round_) is not None:
        return
    start = time.monotonic()
    path = folder.round_path(round_, "network.safetensors")
    before = folder.round_path(round_ - 1, "network.safetensors")
    network = start_network(shop, before if round_ > 1 else None)
    data = training_set(shop, target)
    history = train_round(shop, network, data, "learn", round_)
    save_network(network, path)
    measured: dict[str, Any] = {"losses": history, "seconds": time.monotonic() - start}
    predicted = predict_split(shop, network, shop.train)
    write_predictions(shop, shop.train, predicted, round_, "train")
    if shop.test is not None:
        predicted = predict_split(shop, network, shop.test)
        write_predictions(shop, shop.test, predicted, round_, "test")
        measured["scores"] = score(shop, shop.test, predicted)
        say_scores(shop, f"round {round_}: regressor (test)", measured["scores"])
    folder.finish("learn", round_, split="test", **measured)


def _refine(shop: Workshop, found_lifter: Lifter) -> None:
    """Test predictions refined by registration to the test image's own 2D (Fig. 1's last step)."""
    folder, last = shop.folder, shop.config.rounds
    if shop.test is None or folder.record("refine", last) is not None:
        return
    people = shop.test.people
    predictions = read_estimates(folder.round_path(last, "predictions-test.parquet"), shop.template)
    lifted = found_lifter.to(shop.device).lift(people.observations.to(shop.device))
    fits = []
    # A prediction that faces the wrong way is beyond repair, so each person has a second start.
    for start in (predictions.estimate.to(shop.device), None):
        with shop.watch.stage("refine the test predictions", len(people)) as advance:
            fit = register(
                shop.template,
                lifted,
                people.crop.to(shop.device),
                shop.config.registration,
                start=start,
                progress=advance,
            )
        fits.append(fit)
    found = keep_best(*fits)
    refined = with_people(people, found)
    write_estimates(folder.round_path(last, "refined-test.parquet"), refined, shop.template)
    scores = score(shop, shop.test, found[0])
    folder.finish("refine", last, split="test", scores=scores)
    say_scores(shop, "refined (test)", scores)
