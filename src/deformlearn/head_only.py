"""LEARN, the end of a round: a new head, trained alone on cached features."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.config import RegressorConfig
from deformlearn.data.augment import Examples, Labels, Views, draw
from deformlearn.distributed import ALONE, Team
from deformlearn.errors import NotFiniteError, listed
from deformlearn.lessons import check_lesson, device_of, make_examples, one_cycle, seeded
from deformlearn.memory import Portion, reason_of, say
from deformlearn.prefetch import made_ahead
from deformlearn.progress import QUIET, Advance, Watch
from deformlearn.regressor import Head, Regressor
from deformlearn.runtime import autocast, generator
from deformlearn.stepping import BETWEEN_CHECKS, clipped_step, fused_adam
from deformlearn.supervision import Losses, TrainingSet, body_losses
from deformlearn.tensors import combine, concatenate

_BLOCK = 256
"""Images of a block of features."""
_STREAM = 32
"""Random stream of this phase; that of the ConvNet's is 31."""


def train_head(
    network: Regressor,
    data: TrainingSet,
    template: BodyTemplate,
    config: RegressorConfig,
    *,
    seed: int = 0,
    round_number: int = 1,
    team: Team = ALONE,
    watch: Watch = QUIET,
    text: str = "head alone",
) -> Losses:
    """Replace the network's head by one trained alone, on cached features; its last mean losses.

    The ConvNet is run once over `head_views` views of each image, after which a step costs almost
    nothing. The new head stays in the network: it predicts, and the next round trains it on. A team
    shares the ConvNet's work; every process then trains the same head, and rank 0's is taken. A loss that
    is not finite is a NotFiniteError. `watch` is told how far both are, as `text`.
    """
    check_lesson(network, data, template)
    device = device_of(network)
    template = template.to(device)
    stream = generator(seed, _STREAM, round_number)
    blocks = _blocks(len(data), config.head_views)
    # Drawn for everyone's blocks: the views do not depend on the team.
    views = [draw(len(block), config.augment, stream) for block in blocks]
    mine = [(blocks[n] % len(data), views[n]) for n in team.share(len(blocks))]
    with watch.stage(f"{text}, features", sum(len(rows) for rows, _ in mine)) as advance:
        parts = _cached_features(network, data, template, mine, advance)
    features, labels = _in_order(parts, blocks, team)
    _refuse_broken(features, len(data))
    features, labels = _near(features, labels, device)
    portion = Portion(min(config.head_batch, len(features)), "images")
    batch = portion.size
    history, unseen = [], []
    with seeded(stream, device), watch.stage(text, config.head_steps) as advance:
        head = Head(features.shape[1]).to(device)
        head.mean.copy_(features.mean(0))
        # A feature that never moves must not be blown up.
        head.deviation.copy_(features.std(0).clamp_min(1e-3))
        network.head = head
        optimizer = fused_adam(head, config)
        for step in range(config.head_steps):
            rate = config.head_learning_rate * one_cycle(step / config.head_steps)
            rows = torch.randint(len(features), (batch,), generator=stream)
            chosen = rows.to(features.device)
            some, theirs = features[chosen].to(device), labels[chosen].to(device)
            terms = portion.fitting(
                partial(_head_gradients, network, optimizer, template, config, some, theirs)
            )
            norm = clipped_step(optimizer, rate)
            history.append(terms.mean())
            unseen.append((rows % len(data), terms.total(config), norm))
            if len(unseen) == BETWEEN_CHECKS or step + 1 == config.head_steps:
                _check_head(unseen, step + 1, config.head_steps)
                unseen = []
                advance(step + 1)
    network.eval()
    if team.size > 1:
        head.load_state_dict(team.tell({name: x.cpu() for name, x in head.state_dict().items()}))
    return combine(history[-100:], torch.stack).mean()


def _blocks(images: int, views: int) -> list[Tensor]:
    """Every view of every image, numbered view by view, in blocks of images of one view."""
    everything = torch.arange(views * images).split(images)
    return [block for view in everything for block in view.split(_BLOCK)]


@torch.no_grad()
def _cached_features(
    network: Regressor,
    data: TrainingSet,
    template: BodyTemplate,
    mine: list[tuple[Tensor, Views]],
    advance: Advance,
) -> list[tuple[Tensor, Labels]]:
    """The head's input for views of images, and the labels that moved with it: of this process's blocks."""
    device = device_of(network)
    network.eval()
    parts: list[tuple[Tensor, Labels]] = []

    def go_on(size: int) -> None:
        """The parts that are not there yet, of so many images."""
        there = sum(len(features) for features, _ in parts)
        wanted = [
            (rows[part], views[part])
            for rows, views in mine
            for part in torch.arange(len(rows)).split(size)
        ]
        ends = accumulate(len(rows) for rows, _ in wanted)
        missing = [part for part, end in zip(wanted, ends, strict=True) if end > there]

        def make(part: tuple[Tensor, Views]) -> Examples:
            rows, views = part
            return make_examples(data[rows], template, views)

        for examples in made_ahead(make, missing, device):
            with autocast(device):
                features = network(examples.images).features
            # The correspondences are most of the memory, and key points say as much to a head.
            dense = examples.labels.dense.map(lambda values: values[:, :0])
            labels = replace(examples.labels, dense=dense)
            parts.append((features.to("cpu"), labels.to("cpu")))
            advance(there := there + len(features))

    if mine:
        Portion(_BLOCK, "images").fitting(go_on)
    return parts


def _refuse_broken(features: Tensor, images: int) -> None:
    """Stop where a feature is not finite."""
    broken = (~features.isfinite().all(1)).nonzero()[:, 0] % images
    if len(broken):
        guilty = sorted(set(broken.tolist()))
        raise NotFiniteError(
            f"what the head is to learn from is not finite at training rows {listed(guilty)}: "
            f"look at what these rows say, or take a smaller learning rate",
            guilty,
        )


def _near(features: Tensor, labels: Labels, device: torch.device) -> tuple[Tensor, Labels]:
    """Both on the device, if there is room."""
    try:
        return features.to(device), labels.to(device)
    except torch.OutOfMemoryError as error:
        reason = reason_of(error)
    say("the head's features stay in ordinary memory", reason)
    return features, labels


def _in_order(
    parts: list[tuple[Tensor, Labels]], blocks: list[Tensor], team: Team
) -> tuple[Tensor, Labels]:
    """What all processes have made of their blocks, in the order of the blocks."""
    found: list[tuple[Tensor, Labels]] = []
    for own in team.gather(parts):
        found += own
    features = torch.cat([one for one, _ in found])
    labels = concatenate([one for _, one in found])
    if team.size > 1:
        order = [
            blocks[n] for rank in range(team.size) for n in range(rank, len(blocks), team.size)
        ]
        back = torch.cat(order).argsort()
        features, labels = features[back], labels[back]
    return features, labels


def _head_gradients(
    network: Regressor,
    optimizer: torch.optim.Optimizer,
    template: BodyTemplate,
    config: RegressorConfig,
    features: Tensor,
    labels: Labels,
    size: int,
) -> Losses:
    """The loss terms of each image, `size` at a time; gradients become those of the mean loss."""
    optimizer.zero_grad()
    found = []
    for first in range(0, len(features), size):
        part = slice(first, first + size)
        terms = body_losses(template, network.regress(features[part]), labels[part])
        (terms.total(config).sum() / len(features)).backward()
        found.append(terms.detach())
    return concatenate(found)


def _check_head(taken: list[tuple[Tensor, Tensor, Tensor]], step: int, steps: int) -> None:
    """Stop where one of the last steps, up to `step`, was not finite; a device is waited for."""
    found = (~torch.stack([norm for _, _, norm in taken]).isfinite()).nonzero()
    if len(found) == 0:
        return
    first = int(found[0, 0])
    rows, totals, _ = taken[first]
    broken = rows[~totals.isfinite().cpu()]
    # The whole batch where only its gradient overflowed.
    guilty = sorted(set((broken if len(broken) else rows).tolist()))
    raise NotFiniteError(
        f"the loss of the head alone, or its gradient, is not finite in step "
        f"{step - len(taken) + first + 1} of {steps}, at training rows {listed(guilty)}: "
        f"look at what these rows say, or take a smaller head_learning_rate",
        guilty,
    )
