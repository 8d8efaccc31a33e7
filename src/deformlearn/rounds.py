"""Deform-and-learn: lift, register, learn, evaluate, again (section 3), on any data set.

One process or many (distributed.Team): every stage is done by all of them together, and leaves the same
files whatever their number (docs/scale.md says which to the bit).
"""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from deformlearn import lifter as lifting
from deformlearn import runtime
from deformlearn.body import BodyTemplate
from deformlearn.comparisons import run_comparisons
from deformlearn.config import RunConfig
from deformlearn.data.shards import read_info, shards, splits
from deformlearn.data.tables import facts
from deformlearn.data.truth import has_truth
from deformlearn.distributed import ALONE, Team, require_shared
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.evaluation import lifter_only, mean_pose, missing_joints
from deformlearn.files import AnyPath, refuse_data_set, write_atomically
from deformlearn.lifter import Lifter
from deformlearn.profiling import profile_prediction, profile_training
from deformlearn.progress import QUIET, Watch
from deformlearn.registering import register_split
from deformlearn.regressor import require_backbone
from deformlearn.rundir import RunFolder
from deformlearn.workshop import (
    Split,
    Workshop,
    learn,
    load_split,
    measure,
    naming,
    predict_split,
    read_fits,
    score,
    start_network,
    training_set,
    write_predictions,
)

_PIXELS = "pixels"
"""Folder for decoded images that are too many for the memory; gone when all is done."""


def deform_and_learn(
    data: AnyPath,
    out: Path,
    config: RunConfig,
    template: BodyTemplate,
    *,
    lifter: Path | None = None,
    profile: bool = False,
    team: Team = ALONE,
    watch: Watch = QUIET,
) -> list[dict[str, Any]]:
    """Run all rounds on a data set and return everything measured.

    Stops and goes on anywhere: what a stage has finished is on disk, and the stage it was killed in
    continues from its last checkpoint. A `lifter` that is given is used instead of training one, for
    people who lack whole 2D poses; `profile` says first where the time of learning will go.
    """
    with team.refuse_together():
        refuse_data_set(out)
    with RunFolder(out, team=team, watch=watch) as folder:
        shop = _open(data, folder, config, template, lifter, watch)
        if team.tell(profile):
            _profile(shop)
        found_lifter = _lifter(shop, lifter)
        _references(shop, found_lifter)
        for round_ in range(1, config.rounds + 1):
            fits = _register_round(shop, found_lifter, round_)
            _learn_round(shop, fits, round_)
        _refine(shop, found_lifter)
        if config.baselines:
            run_comparisons(shop, found_lifter)
        if team.leads:
            shutil.rmtree(folder.path / _PIXELS, ignore_errors=True)
        return folder.records()


def _open(
    data: AnyPath,
    folder: RunFolder,
    config: RunConfig,
    template: BodyTemplate,
    lifter: Path | None,
    watch: Watch,
) -> Workshop:
    """Note what this run is, or check that it is the one begun here; then read the data."""
    team = folder.team
    with team.refuse_together():
        # Reading takes minutes and the lifter hours: what cannot be meant is refused first.
        device = runtime.device(config.device)
        require_backbone(config.regressor)
        described: dict[str, Any] = {
            "path": str(data.resolve()),
            "template": asdict(read_info(data)),
        }
        if lifter is not None:
            lifting.load_lifter(lifter)
            described["lifter"] = hashlib.blake2b(lifter.read_bytes(), digest_size=8).hexdigest()
        shards(data, "observations", "train")  # without any, nothing is begun
        versions = shard_versions(data)
        has_test = "test" in splits(data)
    folder.begin(config, described, versions)
    watch.say(f"reading {data}")

    def load(split: str) -> Split:
        size, workers = config.regressor.size, config.workers
        cache = folder.path / _PIXELS
        found = load_split(
            data, split, template, size, workers, cache=cache, team=team, watch=watch
        )
        missing = [] if found.truth is None else missing_joints(found.truth)
        if not missing:
            return found
        watch.say(
            f"{split}: no errors in mm, since the truth has no {', '.join(missing)}; "
            f"`deformlearn evaluate --protocol` measures other joints"
        )
        return replace(found, truth=None)

    train = load("train")
    test = load("test") if has_test else None
    for split in filter(None, (train, test)):
        for unreadable in split.images.unreadable:
            watch.say(f"left out: {unreadable.key}: {unreadable.reason}")
    _enough_for_all(team, config, train)
    return Workshop(data, folder, config, template.to(device), device, watch, train, test)


def shard_versions(data: AnyPath) -> dict[str, dict[str, int | None]]:
    """What tells this version of a data set's shards from any other, by name."""
    found = {}
    for split in sorted({"train", "test"} & set(splits(data))):
        paths = shards(data, "observations", split)
        paths += shards(data, "truth", split) if has_truth(data, split) else []
        found.update({f"{path.parent.name}/{path.name}": facts(path) for path in paths})
    return found


def _same_shards(shop: Workshop) -> None:
    """Refuse data that have changed since the run began."""
    with shop.team.refuse_together():
        if shop.team.leads:
            shop.folder.check_shards(shard_versions(shop.data))


def _enough_for_all(team: Team, config: RunConfig, train: Split) -> None:
    """Refuse more processes than there is work for: a step needs two images of each."""
    people = len(train.readable)
    if people < 2:
        raise InputError(
            "the training split has one person whose image can be read; a network needs at least 2 "
            "(`deformlearn register` fits single people)"
        )
    most = max(1, min(people, config.regressor.batch) // 2)
    if team.size > most:
        raise InputError(
            f"{team.size} processes are too many for {people} training people in steps of "
            f"{config.regressor.batch} images (--regressor.batch): each needs two images a step; "
            f"start at most {most}"
        )


def _profile(shop: Workshop) -> None:
    """Say where the time of training and predicting goes, on one process; nothing of it is kept."""
    with shop.team.refuse_together():
        if not shop.team.leads:
            return
        network = start_network(shop, None)
        rest = Estimate.rest(shop.template, len(shop.train.people))
        data, config = training_set(shop, rest), shop.config.regressor
        found = (
            profile_training(network, data, shop.template, config),
            profile_prediction(network, shop.train.images.pixels),
        )
        for line in (line for one in found for line in one.lines()):
            shop.watch.say(line)


def _lifter(shop: Workshop, given: Path | None) -> Lifter:
    """Train the lifter on the training set's key points, or take the one that was given or trained."""
    folder, team = shop.folder, shop.team
    path = folder.path / "lifter.safetensors"
    if folder.record("lifter") is None:
        start = time.monotonic()
        kept = folder.load_checkpoint("lifter")
        with team.refuse_together():
            # So small that sharing it would only slow it down; the others wait.
            if team.leads and given is not None:
                write_atomically(path, given.read_bytes())
            elif team.leads:
                lifting.save_lifter(_train_lifter(shop, kept), path)
        steps = shop.config.lifter.steps if given is None else 0
        folder.finish("lifter", steps=steps, seconds=time.monotonic() - start)
    with team.refuse_together():
        if not team.leads:  # the first file that one process writes and the others read
            require_shared(path)
        return lifting.load_lifter(path)


def _train_lifter(shop: Workshop, kept: dict | None) -> Lifter:
    config, folder = shop.config.lifter, shop.folder
    seen = shop.train.people.observations
    everyone = range(len(seen))
    whole = int((seen.keypoint_weights > 0).all(-1).sum())
    if 2 <= whole < len(seen):
        shop.watch.say(
            f"the lifter learns from the {whole} of {len(seen)} people who have whole 2D poses; if those "
            f"are few, give one that was trained elsewhere (--lifter FILE)"
        )
    with shop.watch.stage("lifter", config.steps) as advance, naming(shop, everyone, "lifter"):

        def after_chunk(training: lifting.LifterTraining) -> None:
            advance(training.step)
            if training.step % (8 * lifting.CHUNK) == 0:
                folder.save_checkpoint("lifter", 0, training.state())

        return lifting.train(
            seen.keypoints.to(shop.device),
            seen.keypoint_weights.to(shop.device),
            seen.joints,
            config,
            seed=shop.config.seed,
            resume=kept,
            after_chunk=after_chunk,
        )


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


def _register_round(shop: Workshop, found_lifter: Lifter, round_: int) -> Estimate:
    """DEFORM: fit every training image; keep the best fit each person has had."""
    folder, config = shop.folder, shop.config
    path = folder.round_path(round_, "estimates.parquet")
    if folder.record("register", round_) is not None:
        return read_fits(shop, shop.train, path).estimate
    _same_shards(shop)
    start, before, alone = None, None, None
    if round_ > 1:
        start = folder.round_path(round_ - 1, "predictions-train.parquet")
        before = folder.round_path(round_ - 1, "estimates.parquet")
        alone = folder.round_path(round_, "alone.parquet")
    registered = register_split(
        shop.data, "train", shop.template, path, config.registration,
        lifter=found_lifter, device=shop.device, start=start,
        before=before if config.keep_best else None, alone=alone if config.keep_best else None,
        team=shop.team, watch=shop.watch, text=f"round {round_}: register", say_rejected=round_ == 1,
    )  # fmt: skip
    # What was written is what all go on with, so that a run that was killed here ends no differently.
    fits = read_fits(shop, shop.train, path).estimate
    measured: dict[str, Any] = {"seconds": registered.seconds}
    if alone is not None:
        fresh = read_fits(shop, shop.train, alone if config.keep_best else path).estimate
        measured["replaced"] = registered.replaced
        measured["alone"] = score(shop, shop.train, fresh)
    measured |= measure(shop, shop.train, fits, f"round {round_}: registration (train)")
    measured["reprojection_px"] = registered.reprojection_px
    measured["flagged"] = registered.flagged
    folder.finish("register", round_, split="train", **measured)
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
    data, text = training_set(shop, target), f"round {round_}: learn"
    network, history = learn(shop, network, data, path, "learn", round_, text=text)
    measured: dict[str, Any] = {"losses": history, "seconds": time.monotonic() - start}
    predicted = predict_split(shop, network, shop.train, f"round {round_}: predict train")
    write_predictions(shop, shop.train, predicted, round_, "train")
    if shop.test is not None:
        predicted = predict_split(shop, network, shop.test, f"round {round_}: predict test")
        write_predictions(shop, shop.test, predicted, round_, "test")
        measured |= measure(shop, shop.test, predicted, f"round {round_}: regressor (test)")
    folder.finish("learn", round_, split="test", **measured)


def _refine(shop: Workshop, found_lifter: Lifter) -> None:
    """Test predictions refined by registration to the test image's own 2D (Fig. 1's last step)."""
    folder, last = shop.folder, shop.config.rounds
    if shop.test is None or folder.record("refine", last) is not None:
        return
    _same_shards(shop)
    # A prediction that faces the wrong way is beyond repair, so each person has a second start.
    predictions = folder.round_path(last, "predictions-test.parquet")
    first, path = (folder.round_path(last, f"{name}-test.parquet") for name in ("first", "refined"))
    for number, out, start, before in ((1, first, predictions, None), (2, path, None, first)):
        register_split(
            shop.data, "test", shop.template, out, shop.config.registration,
            lifter=found_lifter, device=shop.device, start=start, before=before,
            team=shop.team, watch=shop.watch, text=f"refine the test predictions, start {number} of 2",
            say_rejected=before is None,
        )  # fmt: skip
    fits = read_fits(shop, shop.test, path).estimate
    measured = measure(shop, shop.test, fits, "refined (test)")
    if shop.team.leads:
        first.unlink(missing_ok=True)
    folder.finish("refine", last, split="test", **measured)
