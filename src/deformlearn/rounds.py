"""Deform-and-learn: lift, register, learn, evaluate, again (section 3), on any data set."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deformlearn import lifter as lifting
from deformlearn import runtime
from deformlearn.body import BodyTemplate
from deformlearn.config import RunConfig
from deformlearn.data.estimates import Estimates, read_estimates, write_estimates
from deformlearn.data.images import Images, load_images
from deformlearn.data.shards import People, Truth, read_info, read_people, read_truth, splits
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, Quality
from deformlearn.evaluation import (
    Scores,
    lifter_only,
    mean_pose,
    score_estimates,
    true_joints,
)
from deformlearn.learning import Losses, Training, TrainingSet, train_head
from deformlearn.lifter import Lifter
from deformlearn.observations import Observations
from deformlearn.progress import QUIET, Watch
from deformlearn.registration import keep_best, register
from deformlearn.regressor import (
    Regressor,
    build_network,
    load_network,
    predict_dataset,
    save_network,
)
from deformlearn.rundir import RunFolder
from deformlearn.skeleton import joint_set


@dataclass(frozen=True)
class Split:
    """One split of a data set in memory."""

    people: People
    images: Images
    truth: Truth | None

    @property
    def readable(self) -> torch.Tensor:
        """Rows of `people` that have pixels."""
        return self.images.rows


@dataclass(frozen=True)
class Workshop:
    """What every stage of a run needs."""

    data: Path
    folder: RunFolder
    config: RunConfig
    template: BodyTemplate
    device: torch.device
    watch: Watch
    train: Split
    test: Split | None


def load_split(data: Path, split: str, template: BodyTemplate, size: int, workers: int) -> Split:
    """People, pixels and (where there is one) truth of a split."""
    people = read_people(data, split, template)
    images = load_images(data, split, people, size, workers=workers)
    has_truth = any((data / "truth").glob(f"{split}-*.parquet"))
    truth = read_truth(data, split, people.keys) if has_truth else None
    return Split(people, images, truth)


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
            _baselines(shop, lifted)
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
    except ValueError as error:
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
            progress=lambda done, _: advance(done),
        )
    measured: dict[str, Any] = {"seconds": time.monotonic() - start}
    if before is not None and before.quality is not None:
        alone = found
        old = (before.estimate.to(shop.device), before.quality.to(shop.device))
        measured["replaced"] = (alone[1].loss < old[1].loss).float().mean().item()
        measured["alone"] = _score(shop, shop.train, alone[0])
        found = keep_best(old, alone) if config.keep_best else alone
    fits = _estimates(shop, people, found)
    write_estimates(path, fits, shop.template)
    measured["scores"] = _score(shop, shop.train, found[0])
    measured["reprojection_px"] = found[1].reprojection_px.nanmedian().item()
    measured["flagged"] = sum(flag != "ok" for flag in read_estimates(path, shop.template).flags)
    folder.finish("register", round_, split="train", **measured)
    _say_scores(shop, f"round {round_}: registration (train)", measured["scores"])
    return fits


def _learn_round(shop: Workshop, target: Estimate, round_: int) -> None:
    """LEARN: train on the fits, then predict every image for the next round and for evaluation."""
    folder = shop.folder
    if folder.record("learn", round_) is not None:
        return
    start = time.monotonic()
    path = folder.round_path(round_, "network.safetensors")
    before = folder.round_path(round_ - 1, "network.safetensors")
    network = _network(shop, before if round_ > 1 else None)
    data = _training_set(shop, target)
    history = _train(shop, network, data, "learn", round_)
    save_network(network, path)
    measured: dict[str, Any] = {"losses": history, "seconds": time.monotonic() - start}
    predicted = Estimate.rest(shop.template.to("cpu"), len(shop.train.people))
    predicted = _put(
        predicted, shop.train.readable, predict_dataset(network, shop.train.images.pixels)
    )
    _write_predictions(shop, shop.train, predicted, round_, "train")
    if shop.test is not None:
        predicted = Estimate.rest(shop.template.to("cpu"), len(shop.test.people))
        found = predict_dataset(network, shop.test.images.pixels)
        predicted = _put(predicted, shop.test.readable, found)
        _write_predictions(shop, shop.test, predicted, round_, "test")
        measured["scores"] = _score(shop, shop.test, predicted)
        _say_scores(shop, f"round {round_}: regressor (test)", measured["scores"])
    folder.finish("learn", round_, split="test", **measured)


def _train(
    shop: Workshop, network: Regressor, data: TrainingSet, stage: str, round_: int
) -> list[dict[str, float]]:
    """One round of training with a checkpoint each epoch, and the head-only phase after it."""
    config = shop.config.regressor
    training = Training(
        network, data, shop.template, config, seed=shop.config.seed, round_number=round_
    )
    history: list[dict[str, float]] = []
    kept = shop.folder.load_checkpoint(stage, round_)
    if kept is not None:
        history = kept.pop("history")
        training.load_state_dict(kept)
    with shop.watch.stage(f"round {round_}: {stage}", config.epochs) as advance:
        advance(training.epoch)

        def on_epoch(now: Training, means: Losses) -> None:
            names = [name for name in vars(means)]
            numbers = [value.item() for value in means.tensors()]
            history.append(dict(zip(names, numbers, strict=True)))
            shop.folder.save_checkpoint(stage, round_, {**now.state_dict(), "history": history})
            advance(now.epoch)

        training.run(on_epoch)
    if config.head_steps > 0:
        with shop.watch.stage(f"round {round_}: {stage}, head alone", 1):
            train_head(
                network, data, shop.template, config, seed=shop.config.seed, round_number=round_
            )
    return history


def _refine(shop: Workshop, found_lifter: Lifter) -> None:
    """Test predictions refined by registration to the test image's own 2D (Fig. 1's last step)."""
    folder, last = shop.folder, shop.config.rounds
    if shop.test is None or folder.record("refine", last) is not None:
        return
    people = shop.test.people
    predictions = read_estimates(folder.round_path(last, "predictions-test.parquet"), shop.template)
    lifted = found_lifter.to(shop.device).lift(people.observations.to(shop.device))
    found = None
    # A prediction that faces the wrong way is beyond repair, so each person has a second start.
    for start in (predictions.estimate.to(shop.device), None):
        with shop.watch.stage("refine the test predictions", len(people)) as advance:
            fitted = register(
                shop.template,
                lifted,
                people.crop.to(shop.device),
                shop.config.registration,
                start=start,
                progress=lambda done, _, tell=advance: tell(done),
            )
        found = fitted if found is None else keep_best(found, fitted)
    refined = _estimates(shop, people, found)
    write_estimates(folder.round_path(last, "refined-test.parquet"), refined, shop.template)
    scores = _score(shop, shop.test, found[0])
    folder.finish("refine", last, split="test", scores=scores)
    _say_scores(shop, "refined (test)", scores)


def _baselines(shop: Workshop, lifted: Observations) -> None:
    """The comparisons that cost as much as the run: controls, no iteration, full 3D supervision."""
    _control(shop, lifted, "control: own fit continued", own_fit=True)
    _control(shop, lifted, "control: second start", own_fit=False)
    first = read_estimates(shop.folder.round_path(1, "estimates.parquet"), shop.template)
    _other_network(shop, "no iteration", _training_set(shop, first.estimate))
    if shop.train.truth is not None:
        from deformlearn.evaluation import true_depths

        oracle = true_depths(shop.train.people.observations, shop.train.truth).to(shop.device)
        config = replace(shop.config.registration, depth_weight=10.0)
        crop = shop.train.people.crop.to(shop.device)
        with shop.watch.stage("full 3D: register with true depths", 1):
            found, _ = register(shop.template, oracle, crop, config)
        data = _training_set(shop, found)
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
                progress=lambda done, _, tell=advance: tell(done),
            )
        best = keep_best(best, found)
    scores = _score(shop, shop.train, best[0])
    folder.finish(stage, split="train", scores=scores)
    _say_scores(shop, f"{stage} (train)", scores)


def _other_start(shop: Workshop, again: int) -> Estimate:
    """The rest pose facing the camera, and turned about the vertical in later tries."""
    from deformlearn.skeleton import rotation_from_axis_angle

    rest = Estimate.rest(shop.template, len(shop.train.people))
    angle = 2.4 * (again - 1)  # the golden angle: every try looks another way
    turn = rotation_from_axis_angle(rest.camera.matrix.new_tensor([0.0, angle, 0.0]))
    return replace(rest, camera=replace(rest.camera, matrix=rest.camera.matrix @ turn))


def _other_network(shop: Workshop, stage: str, data: TrainingSet) -> None:
    """The same network and budget on other targets, scored on the test set."""
    folder = shop.folder
    if shop.test is None or folder.record(stage) is not None:
        return
    slug = stage.replace(" ", "-").lower()
    for round_ in range(1, shop.config.rounds + 1):
        path = folder.path / slug / f"network-{round_}.safetensors"
        if path.exists():
            continue
        before = folder.path / slug / f"network-{round_ - 1}.safetensors"
        network = _network(shop, before if round_ > 1 else None)
        _train(shop, network, data, slug, round_)
        save_network(network, path)
        folder._checkpoint(slug, round_).unlink(missing_ok=True)
        found = predict_dataset(network, shop.test.images.pixels)
        rest = Estimate.rest(shop.template.to("cpu"), len(shop.test.people))
        scores = _score(shop, shop.test, _put(rest, shop.test.readable, found))
        folder.finish(f"{stage}, round", round_, split="test", scores=scores)
        _say_scores(shop, f"{stage}, round {round_} (test)", scores)
    last = folder.record(f"{stage}, round", shop.config.rounds)
    folder.finish(stage, split="test", scores=last["scores"] if last else None)


def _network(shop: Workshop, before: Path | None) -> Regressor:
    config = shop.config
    if before is not None:
        return load_network(before).to(shop.device)
    joints = shop.train.people.observations.joints
    network = build_network(config.regressor, shop.template.to("cpu"), joints, seed=config.seed)
    return network.to(shop.device)


def _training_set(shop: Workshop, target: Estimate) -> TrainingSet:
    rows = shop.train.readable
    return TrainingSet.of(
        shop.train.images.pixels,
        shop.train.people.observations[rows],
        target.to("cpu")[rows],
        shop.template.to("cpu"),
    )


def _put(into: Estimate, rows: torch.Tensor, values: Estimate) -> Estimate:
    """`into` with the given rows replaced."""
    from deformlearn.tensors import combine

    def write(pair: list[torch.Tensor]) -> torch.Tensor:
        return pair[0].index_copy(0, rows, pair[1].to(pair[0]))

    return combine([into, values], write)


def _estimates(shop: Workshop, people: People, found: tuple[Estimate, Quality]) -> Estimates:
    return Estimates(people.keys, found[0].to("cpu"), people.crop, found[1].to("cpu"))


def _write_predictions(
    shop: Workshop, split: Split, predicted: Estimate, round_: int, name: str
) -> None:
    path = shop.folder.round_path(round_, f"predictions-{name}.parquet")
    value = Estimates(split.people.keys, predicted, split.people.crop)
    write_estimates(path, value, shop.template)


def _score(shop: Workshop, split: Split, estimate: Estimate) -> dict[str, Any] | None:
    if split.truth is None:
        return None
    with torch.no_grad():
        scores: Scores = score_estimates(
            shop.template, estimate.to(shop.device), split.truth, split.people.actions
        )
    return scores.record()


def _say_scores(shop: Workshop, text: str, scores: dict[str, Any] | None) -> None:
    if scores is not None:
        shop.watch.say(
            f"{text}: {scores['raw']:.1f} mm raw, {scores['bone_sum']:.1f} bone-sum, "
            f"{scores['aligned']:.1f} PA"
        )
