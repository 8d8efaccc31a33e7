"""What every stage of a run works with: the data in memory, the folder, the template, and common tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deformlearn.body import BodyTemplate
from deformlearn.config import RunConfig
from deformlearn.data.estimates import Estimates, write_estimates
from deformlearn.data.images import Images, load_images
from deformlearn.data.shards import People, Truth, read_people, read_truth
from deformlearn.estimate import Estimate, Quality
from deformlearn.evaluation import score_estimates
from deformlearn.learning import Losses, Training, TrainingSet, train_head
from deformlearn.progress import Watch
from deformlearn.regressor import Regressor, build_network, load_network, predict_dataset
from deformlearn.rundir import RunFolder
from deformlearn.tensors import combine


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


def train_round(
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


def start_network(shop: Workshop, before: Path | None) -> Regressor:
    """The network of the round before, or a fresh one."""
    config = shop.config
    if before is not None:
        return load_network(before).to(shop.device)
    joints = shop.train.people.observations.joints
    network = build_network(config.regressor, shop.template.to("cpu"), joints, seed=config.seed)
    return network.to(shop.device)


def training_set(shop: Workshop, target: Estimate) -> TrainingSet:
    """The readable training images and what they are to teach."""
    rows = shop.train.readable
    return TrainingSet.of(
        shop.train.images.pixels,
        shop.train.people.observations[rows],
        target.to("cpu")[rows],
        shop.template.to("cpu"),
    )


def predict_split(shop: Workshop, network: Regressor, split: Split) -> Estimate:
    """What a network says of everyone; people without a readable image get the rest pose."""
    found = predict_dataset(network, split.images.pixels)
    rest = Estimate.rest(shop.template.to("cpu"), len(split.people))

    def write(pair: list[torch.Tensor]) -> torch.Tensor:
        return pair[0].index_copy(0, split.readable, pair[1].to(pair[0]))

    return combine([rest, found], write)


def with_people(people: People, found: tuple[Estimate, Quality]) -> Estimates:
    """Fits beside the people they belong to."""
    return Estimates(people.keys, found[0].to("cpu"), people.crop, found[1].to("cpu"))


def write_predictions(
    shop: Workshop, split: Split, predicted: Estimate, round_: int, name: str
) -> None:
    """Write predictions where the next round and the report look for them."""
    path = shop.folder.round_path(round_, f"predictions-{name}.parquet")
    value = Estimates(split.people.keys, predicted, split.people.crop)
    write_estimates(path, value, shop.template)


def score(shop: Workshop, split: Split, estimate: Estimate) -> dict[str, Any] | None:
    """Errors against the truth, as plain numbers; None where there is no truth."""
    if split.truth is None:
        return None
    with torch.no_grad():
        scores = score_estimates(
            shop.template, estimate.to(shop.device), split.truth, split.people.actions
        )
    return scores.record()


def say_scores(shop: Workshop, text: str, scores: dict[str, Any] | None) -> None:
    """One line with the three errors that papers print."""
    if scores is not None:
        shop.watch.say(
            f"{text}: {scores['raw']:.1f} mm raw, {scores['bone_sum']:.1f} bone-sum, "
            f"{scores['aligned']:.1f} PA"
        )
