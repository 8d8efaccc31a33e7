"""What a published protocol says of a run's network, on its own test people or on another data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from deformlearn import runtime
from deformlearn.agreement import agree
from deformlearn.body import BodyTemplate
from deformlearn.data.images import Unreadable, stream_images
from deformlearn.data.shards import People, fingerprint, read_info, read_people
from deformlearn.data.truth import has_truth, read_truth
from deformlearn.distributed import ALONE, Team, rows_of
from deformlearn.errors import InputError
from deformlearn.files import AnyPath, place
from deformlearn.progress import QUIET, Watch
from deformlearn.protocols import Protocol, protocol
from deformlearn.regressor import Regressor, load_network, predict_dataset
from deformlearn.results import last_network
from deformlearn.rundir import read_config
from deformlearn.scoring import Measured, ProtocolScores, measure, summary
from deformlearn.tensors import concatenate

_BLOCK = 256
"""People that one process of a team scores in a row."""


def score_run(
    run: Path,
    name: str,
    template: BodyTemplate,
    *,
    data: AnyPath | None = None,
    split: str = "test",
    device: str = "auto",
    team: Team = ALONE,
    watch: Watch = QUIET,
) -> ProtocolScores:
    """Predict the people that the protocol `name` scores, by a run's last network, and score them.

    `data` is the run's own data set where none is given. Pictures are streamed; a team shares the people,
    and every process gets the scores. People without a readable image are told and left out. A data set
    without 3D truth, without the protocol's joints or without any of its rows is an InputError.
    """
    chosen = protocol(name)
    with team.refuse_together():
        judge = _judge(run, chosen, template, data, split, runtime.device(device))
        scored = torch.tensor(chosen.rows(judge.people))
    agree(team, {"protocol": name, **judge.given(last_network(run))})
    mine = rows_of(team, len(scored), _BLOCK)
    own: list[_Part] = []
    done = 0
    with watch.stage("predict and score", len(mine)) as advance:
        for part in judge.parts(scored[mine]):
            own.append(part)
            advance(done := done + len(part.rows))
    parts = [part for several in team.gather(own) for part in several]
    bad = [one for part in parts for one in part.unreadable]
    for one in bad:
        watch.say(f"left out: {one.key}: {one.reason}")
    measured = [part.measured for part in parts if part.measured is not None]
    if not measured:
        raise InputError(
            f"{judge.folder} has no readable image to score: {bad[0].key}: {bad[0].reason}"
        )
    rows = torch.cat([part.rows for part in parts])
    order = rows.argsort()
    return summary(
        chosen, template, concatenate(measured)[order], judge.people, rows[order].tolist(),
        data=f"{read_info(judge.folder).description or judge.folder}, {split}",
    )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """Some of the people that are scored."""

    rows: Int[Tensor, "readable"]
    """Of the split."""
    measured: Measured | None
    """Of these rows; None where there are none."""
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True)
class _Judge:
    """What scores people: a protocol, a network, and the people with their pictures and their truth."""

    protocol: Protocol
    network: Regressor
    template: BodyTemplate
    device: torch.device
    folder: AnyPath
    split: str
    people: People

    def given(self, network: Path) -> dict[str, Any]:
        """What all processes of a team must have been given alike."""
        digest = hashlib.sha256(network.read_bytes()).hexdigest()[:16]
        return {
            "split": self.split,
            "network": digest,
            "shards": fingerprint(self.folder, self.split),
        }

    def parts(self, rows: Int[Tensor, "rows"]) -> Iterator[_Part]:
        """These rows of the split, predicted and measured some at a time."""
        if not len(rows):
            return
        people = self.people.take(rows.tolist())
        truth = read_truth(self.folder, self.split, people.keys)
        for images in stream_images(self.folder, self.split, people, self.network.info.size):
            measured = None
            if len(images.rows):
                estimate = predict_dataset(self.network, images.pixels, device=self.device)
                measured = measure(
                    self.protocol,
                    self.template,
                    estimate.to(self.device),
                    truth.take(images.rows.tolist()),
                )
            yield _Part(rows[images.rows], measured, images.unreadable)


def _judge(
    run: Path,
    chosen: Protocol,
    template: BodyTemplate,
    data: AnyPath | None,
    split: str,
    device: torch.device,
) -> _Judge:
    """The judge of a run's last network, once everything that it needs is there."""
    network = load_network(last_network(run))
    if network.info.fingerprint != template.fingerprint:
        raise InputError(
            f"{run} was made with the template {network.info.template!r}, not {template.name!r}; "
            f"give --template"
        )
    folder = data or place(read_config(run)["data"]["path"])
    people = read_people(folder, split, template)
    if not has_truth(folder, split):
        raise InputError(
            f"{folder} has no 3D truth for the split {split!r}: nothing to score against"
        )
    # Made ready once, not for every part.
    network = network.for_prediction().to(device)
    return _Judge(chosen, network, template.to(device), device, folder, split, people)
