"""A run folder and its data set, as the pages about runs read them: finished or not, moved or gone."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deformlearn.body import BodyTemplate
from deformlearn.data.shards import read_info, splits
from deformlearn.data.truth import has_truth
from deformlearn.errors import InputError
from deformlearn.files import AnyPath, place
from deformlearn.findings import find
from deformlearn.rundir import RunFolder, read_config

_PREDICTED, _REFINED, _FITTED = (
    "predictions-test.parquet",
    "refined-test.parquet",
    "estimates.parquet",
)
_ALSO = 12
"""Lines of what is missing that a page shows; the rest is counted."""


@dataclass(frozen=True)
class Source:
    """A run folder, and the data set it was made from."""

    run: Path
    template: BodyTemplate
    config: dict[str, Any]
    info: dict[str, Any]
    records: list[dict[str, Any]]
    data: AnyPath
    missing: list[str] = field(default_factory=list)
    """What the page cannot show, and why."""

    @staticmethod
    def open(run: Path, template: BodyTemplate, data: AnyPath | None) -> Source:
        """The run at a path; what is not a run, or one with another template, is an InputError.

        `data` is the data set, where it is neither at the place that the run recorded nor beside it; what
        is no data set of the template is an InputError too.
        """
        found = read_config(run)
        config, data_set = found["config"], found["data"]
        info = data_set["template"]
        if info["fingerprint"] != template.fingerprint:
            raise InputError(
                f"{run} is a run with the template {info['template']!r} "
                f"({info['fingerprint']}), not {template.name!r} ({template.fingerprint}); "
                f"load the template it names"
            )
        if data is not None and read_info(data).fingerprint != template.fingerprint:
            raise InputError(
                f"{data} was made for another template than {run} ({info['template']!r}, "
                f"{template.fingerprint}); give the run's own data set"
            )
        path = data or find(run).data or place(data_set["path"])
        return Source(run, template.to("cpu"), config, info, RunFolder(run).records(), path)

    @property
    def name(self) -> str:
        """The folder's name; of OUT/run, as `deformlearn demo` makes it, OUT's."""
        path = self.run.resolve()
        return (path.parent if path.name == "run" else path).name or path.name

    @property
    def described(self) -> str:
        """What the data set is, in words if it says so."""
        return self.info.get("description") or str(self.data)

    def record(self, stage: str, round_: int = 0) -> dict[str, Any]:
        """The record of a stage; empty where it is not finished."""
        matches = (r for r in self.records if (r["stage"], r["round"]) == (stage, round_))
        return next(matches, {})

    def last(self, stage: str) -> int:
        """The last round in which a stage was finished; 0 where none was."""
        return max((r["round"] for r in self.records if r["stage"] == stage), default=0)

    def fits(self) -> Path | None:
        """The estimates of the training people, of the last finished registration."""
        return self._file(self.last("register"), _FITTED)

    def predictions(self) -> Path | None:
        """The test predictions of the last finished round."""
        return self._file(self.last("learn"), _PREDICTED)

    def refined(self) -> Path | None:
        """The refined test predictions."""
        return self._file(self.last("refine"), _REFINED)

    def _file(self, round_: int, name: str) -> Path | None:
        path = RunFolder(self.run).round_path(round_, name)
        return path if round_ and path.exists() else None

    def has_truth(self, split: str) -> bool:
        """Whether the data set knows where joints really are."""
        return has_truth(self.data, split)

    def say(self, line: str) -> None:
        """Tell the reader, once, what the page cannot show."""
        if line not in self.missing:
            self.missing.append(line)

    def notes(self) -> list[str]:
        """What this run has not done, or cannot do with its data, and what the page cannot show."""
        lines = [*self._unfinished(), *self.missing]
        if len(lines) > _ALSO:
            lines = [*lines[:_ALSO], f"And {len(lines) - _ALSO} more of the kind."]
        return lines

    def _unfinished(self) -> Iterator[str]:
        rounds, found = self.config["rounds"], splits(self.data)
        if not self.record("lifter"):
            yield "The lifter is not trained yet."
        for round_ in range(1, rounds + 1):
            if not self.record("register", round_):
                yield f"Round {round_} of {rounds} is not registered yet."
                break
            if not self.record("learn", round_):
                yield f"The regressor of round {round_} of {rounds} is not trained yet."
                break
        else:
            if not self.record("refine", rounds) and "test" in found:
                yield "The test predictions are not refined yet."
        for path in sorted((self.run / "checkpoints").glob("*.pt")):
            if not path.name.endswith(".before.pt"):
                kept = datetime.datetime.fromtimestamp(path.stat().st_mtime)
                stage = path.stem.replace(", round-", ", round ").replace("-", ", round ")
                yield (
                    f"In work, or stopped: {stage}; its last checkpoint is of {kept:%Y-%m-%d %H:%M}. "
                    f"Only what was finished before it is shown."
                )
        if found and "test" not in found:
            yield "The data set has no test split: no error is measured on unseen people."
        if found and not any((self.data / "truth").glob("*.parquet")):
            yield (
                "The data set has no 3D truth: no error can be given in mm. People have only their "
                "2D error, how far their body is from the image's own labels, and are ranked by it; "
                "a body can be right in the image and wrong in depth."
            )


def recorded_shards(run: Path, split: str) -> dict[str, Any] | None:
    """Which version of a split's labels and truth a run began with, by name; None: it did not record it."""
    try:
        found = json.loads((run / "shards.json").read_text("utf-8"))
        return {
            name: version
            for name, version in found.items()
            if name.rpartition("/")[2].rpartition("-")[0] == split
        }
    except (OSError, ValueError, AttributeError):
        return None
