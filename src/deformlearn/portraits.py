"""The paper's Fig. 1 of a run: people chosen by rule, in pictures, with the errors of each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.config import RegistrationConfig
from deformlearn.curve import INK, SOFT
from deformlearn.data.estimates import Estimates, read_estimates
from deformlearn.data.images import decode_image
from deformlearn.data.shards import People, read_images, read_people, read_truth
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, camera_joints
from deformlearn.evaluation import PROTOCOL_JOINTS, canonical_mm, true_joints
from deformlearn.files import AnyPath, place
from deformlearn.metrics import JointErrors, joint_errors
from deformlearn.registration import quality_of
from deformlearn.render import strip
from deformlearn.rundir import RunFolder, read_config
from deformlearn.skeleton import joint_set

TEST_PANELS = ("photo", "prediction", "front", "side", "refined", "front", "side")
TRAIN_PANELS = ("photo", "correspondences", "fit", "front", "side")

PANEL = 256
"""Side of one picture of a person (px)."""

EACH = 2
"""People of each kind where nothing else is asked for."""

GOOD, MEDIAN, WORST = "good", "median", "worst"
_PLACES = {GOOD: (0.05, 0.1, 0.15), MEDIAN: (0.5, 0.48, 0.52)}
"""Quantiles of the ranking at which people are shown; the worst are the last ones, whoever they are."""


@dataclass(frozen=True)
class Portrait:
    """One person: who it is, what is known of the errors, and the pictures."""

    kind: str
    """GOOD, MEDIAN or WORST."""
    key: str
    action: str
    captions: tuple[str, ...]
    panels: tuple[np.ndarray, ...]
    """(PANEL, PANEL, 3) each, uint8."""


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
        found = read_config(run)
        try:
            config, data_set = found["config"], found["data"]
            data, info = data or place(data_set["path"]), data_set["template"]
        except (KeyError, TypeError):
            raise InputError(
                f"{run} is not a run folder: its config.json was not written by `run`"
            ) from None
        if info.get("fingerprint") != template.fingerprint:
            raise InputError(
                f"{run} is a run with the template {info.get('template')!r} "
                f"({info.get('fingerprint')}), not {template.name!r} ({template.fingerprint}); "
                f"load the template it names"
            )
        return Source(run, template.to("cpu"), config, info, RunFolder(run).records(), data)

    def record(self, stage: str, round_: int = 0) -> dict[str, Any]:
        """The record of a stage; empty where it is not finished."""
        matches = (r for r in self.records if (r["stage"], r["round"]) == (stage, round_))
        return next(matches, {})

    def last(self, stage: str) -> int:
        """The last round in which a stage was finished; 0 where none was."""
        return max((r["round"] for r in self.records if r["stage"] == stage), default=0)

    def estimates(self, round_: int, name: str) -> Estimates | None:
        """Estimates of a round, or None."""
        path = RunFolder(self.run).round_path(round_, name)
        return read_estimates(path, self.template) if path.exists() else None

    def people(self, split: str, keys: list[str]) -> People:
        """The people of a split that have estimates, in the estimates' order."""
        everyone = read_people(self.data, split, self.template)
        place = {key: row for row, key in enumerate(everyone.keys)}
        if not set(keys) <= place.keys():
            raise InputError(f"{self.data} no longer holds all {split} people of this run")
        rows = [place[key] for key in keys]
        actions = [everyone.actions[row] for row in rows]
        return replace(
            everyone,
            keys=keys,
            observations=everyone.observations[rows],
            crop=everyone.crop[rows],
            actions=actions,
        )

    def photos(self, split: str, people: People, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """Crops of some people by key, uint8; an unreadable one is named in `missing`."""
        wanted = {people.keys[row]: row for row in rows}
        found = {}
        for key, image, path in read_images(self.data, split, list(wanted)):
            crop = None if image is not None else people.crop[wanted[key]]
            source = self.data / path if image is None else image
            try:
                found[key] = decode_image(source, PANEL, crop).permute(1, 2, 0).numpy()
            except InputError as error:
                self.missing.append(f"No picture of {key}: {error}.")
        return found


def predicted_people(source: Source, *, each: int = EACH) -> list[Portrait]:
    """Test people by the error of their prediction (of its reprojection without truth).

    Panels are TEST_PANELS, without the refined ones in a run that has not refined yet.
    """
    round_ = source.last("learn")
    predicted = source.estimates(round_, "predictions-test.parquet")
    if predicted is None:
        return []
    refined = source.estimates(round_, "refined-test.parquet") if source.last("refine") else None
    stages = [stage.estimate for stage in (predicted, refined) if stage is not None]
    people = source.people("test", predicted.keys)
    measured = _errors(source, people, stages)
    chosen = choose(measured[0].values[0], each)
    photos = source.photos("test", people, [row for _, row in chosen])
    portraits = []
    for kind, row in chosen:
        if people.keys[row] not in photos:
            continue
        views = [_panels(source, photos, people, stage, row) for stage in stages]
        panels = [views[0][0], *(panel for view in views for panel in view[2:])]
        captions = [error.of(row) for error in measured]
        portraits.append(_portrait(people, kind, row, captions, panels))
    return portraits


def fitted_people(source: Source, *, each: int = EACH) -> list[Portrait]:
    """Training people by how far their last fit is from their correspondences; TRAIN_PANELS."""
    fits = source.estimates(source.last("register"), "estimates.parquet")
    if fits is None or fits.quality is None:
        return []
    people = source.people("train", fits.keys)
    distance = _Error("2D", "px", [fits.quality.reprojection_px])
    chosen = choose(distance.values[0], each)
    photos = source.photos("train", people, [row for _, row in chosen])
    portraits = []
    for kind, row in chosen:
        if people.keys[row] in photos:
            panels = _panels(source, photos, people, fits.estimate, row)
            captions = [distance.of(row), *filter(None, [fits.flags[row]])]
            portraits.append(_portrait(people, kind, row, captions, panels))
    return portraits


def choose(ranking: Float[Tensor, "people"], each: int) -> list[tuple[str, int]]:
    """People to show, by fixed places in the ranking (lower is better): kind and row, best first.

    Nobody twice, so few people give fewer; whoever has no finite rank is never chosen.
    """
    rows = ranking.isfinite().nonzero()[:, 0]
    order = rows[ranking[rows].argsort(stable=True)].tolist()
    worst = order[-min(each, max(1, len(order) // 3)) :]
    chosen = dict.fromkeys(worst, WORST)
    for kind, quantiles in _PLACES.items():
        for quantile in quantiles[: each if order else 0]:
            chosen.setdefault(order[round(quantile * (len(order) - 1))], kind)
    return [(chosen[row], row) for row in order if row in chosen]


def strips_png(portraits: Sequence[Portrait], titles: Sequence[str]) -> bytes:
    """Fig. 1 on white: one person a row, `titles` above the columns."""
    from matplotlib.figure import Figure

    if not portraits:
        raise InputError("there is no person to show: no predictions yet, or no readable image")
    columns, rows = len(titles), len(portraits)
    height = 1.75 * rows + 0.3  # inches: pictures with their captions, and the titles
    figure = Figure(figsize=(1.5 * columns, height))
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0.005, 0.25 / height, 0.995, 1 - 0.3 / height, 0.02, 0.17)
    for row, portrait in zip(grid, portraits, strict=True):
        for axes, panel in zip(row, portrait.panels, strict=True):
            axes.imshow(panel)
            axes.set_axis_off()
        text = f"{portrait.kind}: {'; '.join(portrait.captions)}"
        row[0].text(0, -0.02, text, transform=row[0].transAxes, va="top", fontsize=8, color=SOFT)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8.5, color=INK, pad=5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


@dataclass(frozen=True)
class _Error:
    """One error of every person, before and after refinement."""

    name: str
    unit: str
    values: list[Tensor]

    def of(self, row: int) -> str:
        digits = 1 if self.unit == "px" else 0
        numbers = (f"{column[row].item():.{digits}f}" for column in self.values)
        return f"{self.name} {' → '.join(numbers)} {self.unit}"


def _errors(source: Source, people: People, stages: Sequence[Estimate]) -> list[_Error]:
    """What is known about each person's errors, the most telling first."""
    template, config = source.template, RegistrationConfig()
    seen, crop = people.observations, people.crop
    quality = [quality_of(template, stage, seen, crop, config) for stage in stages]
    pixels = _Error("2D", "px", [each.reprojection_px for each in quality])
    if not any((source.data / "truth").glob("test-*.parquet")):
        return [pixels]
    target = true_joints(read_truth(source.data, "test", people.keys))
    errors = [_joint_errors(template, stage, target) for stage in stages]
    raw = _Error("raw", "mm", [each.raw for each in errors])
    return [raw, _Error("PA", "mm", [each.aligned for each in errors]), pixels]


def _joint_errors(
    template: BodyTemplate, estimate: Estimate, target: Float[Tensor, "people joints 3"]
) -> JointErrors:
    joints = camera_joints(template, estimate, PROTOCOL_JOINTS) * 1000
    return joint_errors(joints, target, joint_set(PROTOCOL_JOINTS), canonical_mm(template))


def _panels(
    source: Source, photos: dict[str, np.ndarray], people: People, estimate: Estimate, row: int
) -> list[np.ndarray]:
    """Photo, correspondences, overlay, front and side view of one person."""
    one = slice(row, row + 1)
    seen = people.observations[one]
    given = seen.point_weights[0] > 0
    picture = strip(
        photos[people.keys[row]],
        source.template,
        estimate[one],
        seen.points[0][given],
        seen.faces[0][given],
        seen.barycentric[0][given],
        size=PANEL,
    )
    return np.split(picture, len(TRAIN_PANELS), axis=1)


def _portrait(
    people: People, kind: str, row: int, captions: Sequence[str], panels: Sequence[np.ndarray]
) -> Portrait:
    return Portrait(kind, people.keys[row], people.actions[row], tuple(captions), tuple(panels))
