"""What every stage of a run works with: the data in memory, the folder, the template, and common tools."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from deformlearn.agreement import agree
from deformlearn.body import BodyTemplate
from deformlearn.config import RegistrationConfig, RunConfig
from deformlearn.data.estimates import Estimates, read_estimates, write_estimates
from deformlearn.data.images import Images, load_images
from deformlearn.data.shards import People, read_people
from deformlearn.data.truth import Truth, has_truth, read_truth
from deformlearn.distributed import ALONE, Team, by_blocks, rows_of
from deformlearn.errors import InputError, NotFiniteError
from deformlearn.estimate import Estimate, Quality
from deformlearn.evaluation import score_estimates
from deformlearn.files import AnyPath
from deformlearn.head_only import train_head
from deformlearn.image_scores import score_in_image
from deformlearn.learning import Losses, Training, TrainingSet
from deformlearn.lifter import Lifter
from deformlearn.memory import Portion
from deformlearn.observations import Observations
from deformlearn.own_joints import with_own_joints
from deformlearn.progress import QUIET, Watch
from deformlearn.registering import block_size
from deformlearn.registration import at_once, register
from deformlearn.regressor import (
    Regressor,
    build_network,
    load_network,
    predict_dataset,
    save_network,
)
from deformlearn.rundir import RunFolder
from deformlearn.tensors import TensorData, combine, concatenate

_EACH_ITS_OWN = 2**30
"""Bytes of pixels that each process of a team may hold by itself."""
_BATCH = 256
"""Images of a block that one process predicts."""
_IN_MEMORY = 16 * _BATCH
"""Images copied from where all are, which may be a file."""
_BETWEEN_CHECKPOINTS = 300.0
"""Least seconds between two checkpoints within an epoch: each costs a moment, and a GPU is fast."""


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

    data: AnyPath
    folder: RunFolder
    config: RunConfig
    template: BodyTemplate
    device: torch.device
    watch: Watch
    train: Split
    test: Split | None

    @property
    def team(self) -> Team:
        """The processes that share the run."""
        return self.folder.team


def load_split(
    data: AnyPath,
    split: str,
    template: BodyTemplate,
    size: int,
    workers: int,
    *,
    cache: Path | None = None,
    team: Team = ALONE,
    watch: Watch = QUIET,
) -> Split:
    """People, pixels and (where there is one) truth of a split.

    Pixels beyond what memory should hold are decoded into a file in the folder `cache`; those of a team
    soon are, since the processes of a machine then hold them together. All must come here.
    """
    with team.refuse_together():
        people = read_people(data, split, template)
        truth = read_truth(data, split, people.keys) if has_truth(data, split) else None
    # What one machine can read and another cannot: each would take other people for the same rows.
    agree(
        team,
        {
            "split": split,
            "people": len(people),
            "unusable": {one.where: "left out" for one in people.rejected},
            "what is known of them": _digest(people),
            "has truth": truth is not None,
        },
    )
    shared = team.size > 1 and len(people) * 3 * size**2 > _EACH_ITS_OWN
    images = None
    # What the first has decoded, the others only map.
    for first in (True, False) if shared else (True,):
        with team.refuse_together():
            if images is None and (team.leads or not (shared and first)):
                with watch.stage(f"read the images of {split}", len(people)) as advance:
                    images = load_images(
                        data, split, people, size, progress=advance,
                        workers=workers, cache=cache, in_memory=_EACH_ITS_OWN if shared else None,
                    )  # fmt: skip
    assert images is not None
    agree(team, {"unreadable images": {one.key: "unreadable" for one in images.unreadable}})
    return Split(people, images, truth)


def _digest(people: People) -> str:
    """Changes with anything that is known of the people."""
    found = hashlib.blake2b("\0".join(people.keys).encode(), digest_size=8)
    for tensor in (*people.observations.tensors(), *people.crop.tensors()):
        found.update(tensor.contiguous().numpy().data)
    return found.hexdigest()


def read_fits(shop: Workshop, split: Split, path: Path) -> Estimates:
    """Estimates of everyone of a split, as they were written; those of other people are refused."""
    found = read_estimates(path, shop.template)
    if found.keys != split.people.keys:
        raise InputError(
            f"{path} has estimates of {len(found.keys)} people, which are not the "
            f"{len(split.people)} that were read when the command began: some of the data could not "
            f"be read then, or have changed; give the same command again"
        )
    return found


def register_people(
    shop: Workshop,
    seen: Observations,
    config: RegistrationConfig,
    *,
    start: Estimate | None = None,
    stage: str,
) -> tuple[Estimate, Quality]:
    """Fits of the training people to observations in memory, on the CPU; the processes share them.

    In the blocks of `register_split`, so that both give the same.
    """
    people = len(seen)
    crop = shop.train.people.crop
    size = block_size(people, config.batch)
    portion = Portion(at_once(config, shop.device), "people")

    def fit_block(block: Int[Tensor, "rows"], batch: int) -> Fits:
        estimate, quality = register(
            shop.template,
            seen[block].to(shop.device),
            crop[block].to(shop.device),
            replace(config, batch=batch),
            start=None if start is None else start[block].to(shop.device),
        )
        return Fits(estimate.to("cpu"), quality.to("cpu"))

    def fit(rows: Int[Tensor, "rows"]) -> Fits:
        found = []
        for block in rows.split(size):
            found.append(portion.fitting(partial(fit_block, block)))
            advance(sum(map(len, found)))
        return concatenate(found)

    with shop.watch.stage(stage, len(rows_of(shop.team, people, size))) as advance:
        fits = by_blocks(shop.team, people, size, fit)
    return fits.estimate, fits.quality


def lift_people(shop: Workshop, lifter: Lifter) -> Observations:
    """What is seen of the training people, with lifted depths, on the CPU; as `register_split` lifts."""
    people, config = shop.train.people, shop.config.registration
    portion = Portion(at_once(config, shop.device), "people")

    def lift(block: Int[Tensor, "rows"], batch: int) -> Observations:
        seen, crop = people.observations[block].to(shop.device), people.crop[block].to(shop.device)
        some = replace(config, batch=batch)
        return with_own_joints(shop.template, seen, crop, some, lifter).to("cpu")

    lifter.to(shop.device)
    blocks = torch.arange(len(people)).split(block_size(len(people), config.batch))
    return concatenate([portion.fitting(partial(lift, block)) for block in blocks])


@dataclass(frozen=True, eq=False)
class Fits(TensorData):
    """Estimates and how good they are, as one value."""

    estimate: Estimate
    quality: Quality


def learn(
    shop: Workshop,
    network: Regressor,
    data: TrainingSet,
    path: Path,
    stage: str,
    round_: int,
    *,
    text: str,
) -> tuple[Regressor, list[dict[str, float]]]:
    """The network after a round of training, as it was written to `path`, and the losses by epoch.

    Every process reads the file: they go on with the same network, and so does a run that was killed.
    `text` is what whoever waits is told.
    """
    history = _train(shop, network, data, stage, round_, text)
    config = shop.config.regressor
    if config.head_steps > 0:
        with naming(shop, shop.train.readable, stage, round_):
            train_head(
                network, data, shop.template, config,
                seed=shop.config.seed, round_number=round_, team=shop.team,
                watch=shop.watch, text=f"{text}, head alone",
            )  # fmt: skip
    with shop.team.refuse_together():
        if shop.team.leads:
            save_network(network, path)
    return load_network(path).to(shop.device), history


def _train(
    shop: Workshop, network: Regressor, data: TrainingSet, stage: str, round_: int, text: str
) -> list[dict[str, float]]:
    """One round of training, with a checkpoint after each epoch and often enough within a long one.

    The losses by epoch.
    """
    config = shop.config.regressor
    training = Training(
        network, data, shop.template, config,
        seed=shop.config.seed, round_number=round_, team=shop.team,
    )  # fmt: skip
    history: list[dict[str, float]] = []
    kept = shop.folder.load_checkpoint(stage, round_)
    if kept is not None:
        history = kept.pop("history")
        training.load_state_dict(kept)
    saved = time.monotonic()
    with shop.watch.stage(text, training.images) as advance:
        advance(training.seen)

        def after_leg(now: Training, means: Losses | None) -> None:
            nonlocal saved
            if means is not None:
                numbers = {name: value.item() for name, value in vars(means).items()}
                history.append(numbers)
            elif time.monotonic() - saved < _BETWEEN_CHECKPOINTS:
                return
            shop.folder.save_checkpoint(stage, round_, {**now.state_dict(), "history": history})
            saved = time.monotonic()

        with naming(shop, shop.train.readable, stage, round_):
            training.run(after_leg, advance)
    return history


@contextmanager
def naming(
    shop: Workshop, people: Sequence[int] | Tensor, stage: str, round_: int = 0
) -> Iterator[None]:
    """Where a loss is not finite, the training people are named, and the last good checkpoint.

    `people` says which person each row of the work is.
    """
    try:
        yield
    except NotFiniteError as error:
        keys = [shop.train.people.keys[people[row]] for row in error.rows[:8]]
        kept = shop.folder.last_checkpoint(stage, round_)
        good = (
            "no checkpoint is kept yet" if kept is None else f"the last good checkpoint is {kept}"
        )
        raise InputError(f"{error}; these are {', '.join(keys)}; {good}") from error


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
    people, rows = shop.train.people, shop.train.readable
    # An index copies, and labels are most of the memory: a slice does not.
    kept = slice(None) if len(rows) == len(people) else rows
    return TrainingSet.of(
        shop.train.images.pixels,
        people.observations[kept],
        target.to("cpu")[kept],
        shop.template.to("cpu"),
    )


def predict_split(shop: Workshop, network: Regressor, split: Split, stage: str) -> Estimate:
    """What a network says of everyone; people without a readable image get the rest pose."""
    pixels = split.images.pixels
    network = network.for_prediction()

    def predict(rows: Int[Tensor, "rows"]) -> Estimate:
        parts: list[Estimate] = []
        before = 0

        def progress(done: int) -> None:
            advance(before + done)

        for several in rows.split(_IN_MEMORY):
            parts.append(predict_dataset(network, pixels[several], progress=progress))
            before += len(several)
        return concatenate(parts)

    with shop.watch.stage(stage, len(rows_of(shop.team, len(pixels), _BATCH))) as advance:
        found = by_blocks(shop.team, len(pixels), _BATCH, predict)
    rest = Estimate.rest(shop.template.to("cpu"), len(split.people))

    def write(pair: list[torch.Tensor]) -> torch.Tensor:
        return pair[0].index_copy(0, split.readable, pair[1].to(pair[0]))

    return combine([rest, found], write)


def write_predictions(
    shop: Workshop, split: Split, predicted: Estimate, round_: int, name: str
) -> None:
    """Write predictions where the next round and the report look for them."""
    path = shop.folder.round_path(round_, f"predictions-{name}.parquet")
    value = Estimates(split.people.keys, predicted, split.people.crop)
    with shop.team.refuse_together():
        if shop.team.leads:
            write_estimates(path, value, shop.template)


def score(shop: Workshop, split: Split, estimate: Estimate) -> dict[str, Any] | None:
    """Errors against the truth, as plain numbers; None where there is no truth."""
    if split.truth is None:
        return None
    with torch.no_grad():
        scores = score_estimates(
            shop.template, estimate, split.truth, split.people.actions, team=shop.team
        )
    return scores.record()


def measure(shop: Workshop, split: Split, estimate: Estimate, text: str) -> dict[str, Any]:
    """What evaluation says of a stage, as plain numbers; `text` names the stage to whoever waits."""
    scores = score(shop, split, estimate)
    image = score_in_image(shop.template, estimate, split.people.observations, team=shop.team)
    if scores is not None:
        shop.watch.say(
            f"{text}: {scores['raw']:.1f} mm raw, {scores['bone_sum']:.1f} bone-sum, "
            f"{scores['aligned']:.1f} PA"
        )
    elif image.keypoints is not None:
        shop.watch.say(f"{text}: key points {image.keypoints:.1f} % of the crop's side off")
    elif image.points is not None:
        shop.watch.say(f"{text}: dense points {image.points:.1f} % of the crop's side off")
    return {"scores": scores, "image": image.record()}
