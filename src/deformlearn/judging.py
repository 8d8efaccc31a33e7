"""What a published protocol says of a run's network, on its own test people or on another data set."""

from __future__ import annotations

from pathlib import Path

from deformlearn import runtime
from deformlearn.body import BodyTemplate
from deformlearn.data.shards import read_info
from deformlearn.errors import InputError
from deformlearn.files import AnyPath, place
from deformlearn.progress import QUIET, Watch
from deformlearn.protocols import protocol
from deformlearn.regressor import load_network, predict_dataset
from deformlearn.results import last_network
from deformlearn.rundir import read_config
from deformlearn.scoring import ProtocolScores, score_protocol
from deformlearn.workshop import load_split


def score_run(
    run: Path,
    name: str,
    template: BodyTemplate,
    *,
    data: AnyPath | None = None,
    split: str = "test",
    device: str = "auto",
    watch: Watch = QUIET,
) -> ProtocolScores:
    """Predict a split with a run's last network and score it under the protocol `name`.

    `data` is the run's own data set where none is given. A data set without 3D truth, without the
    protocol's joints or without any of its rows is an InputError.
    """
    chosen = protocol(name)
    network = load_network(last_network(run))
    if network.info.fingerprint != template.fingerprint:
        raise InputError(
            f"{run} was made with the template {network.info.template!r}, not {template.name!r}; "
            f"give --template"
        )
    folder = data or place(read_config(run)["data"]["path"])
    loaded = load_split(folder, split, template, network.info.size, 2)
    if loaded.truth is None:
        raise InputError(
            f"{folder} has no 3D truth for the split {split!r}: nothing to score against"
        )
    for one in loaded.images.unreadable:
        watch.say(f"left out: {one.key}: {one.reason}")
    with watch.stage("predict", len(loaded.images.rows)) as advance:
        estimate = predict_dataset(network, loaded.images.pixels, device=runtime.device(device))
        advance(len(loaded.images.rows))
    rows = loaded.readable.tolist()
    people = loaded.people.take(rows)
    truth = loaded.truth.take(rows)
    described = read_info(folder).description or str(folder)
    return score_protocol(chosen, template, estimate, people, truth, data=f"{described}, {split}")
