"""People of a run in pictures, the paper's Fig. 1 of each: chosen by rule, drawn large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from deformlearn.data.estimates import iterate_estimates
from deformlearn.data.images import decode_image, stored_image
from deformlearn.data.shards import OBSERVATION_SCHEMA, People, info_for, people_in, shards
from deformlearn.data.tables import read_batches, typed
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.files import AnyPath
from deformlearn.render import strip
from deformlearn.reports.people import Measured
from deformlearn.reports.source import Source

PANEL = 288
"""Side of one picture of a person (px)."""

WORST, BEST, RANDOM = "worst", "best", "random"
SHOWN = {WORST: 12, BEST: 6, RANDOM: 12}
"""How many people of each kind have pictures."""

VIEWS = ("over the photo", "from the front", "from the side")
"""Pictures of each body."""


@dataclass(frozen=True)
class Stage:
    """Estimates to be drawn."""

    name: str
    path: Path


@dataclass(frozen=True)
class Portrait:
    """One person in pictures, (PANEL, PANEL, 3) uint8 each."""

    kind: str
    """WORST, BEST or RANDOM."""
    row: int
    """The person's row in what was measured."""
    photo: np.ndarray
    correspondences: np.ndarray
    """The photo, paled, with a dot for each correspondence."""
    bodies: tuple[tuple[str, tuple[np.ndarray, ...]], ...]
    """For each stage its name and its `VIEWS`."""


def choose(
    ranking: Float[np.ndarray, "people"], counts: Mapping[str, int], seed: int = 0
) -> list[tuple[str, int]]:
    """People to show, by their place in the ranking (larger is worse): kind and row, kind by kind.

    The worst come first, worst first. Nobody twice, so few people give fewer; whoever has no rank is
    never chosen. Random ones are drawn from all, so that they show what is usual.
    """
    rows = np.flatnonzero(np.isfinite(ranking))
    order = rows[np.argsort(-ranking[rows], kind="stable")]
    orders = {
        WORST: order,
        BEST: order[::-1],
        RANDOM: np.random.default_rng(seed).permutation(rows),
    }
    chosen: dict[int, str] = {}
    for kind, count in counts.items():
        new = [row for row in orders[kind][: count + len(chosen)].tolist() if row not in chosen]
        chosen |= dict.fromkeys(new[:count], kind)
    return [(kind, row) for row, kind in chosen.items()]


def portraits(
    source: Source,
    split: str,
    stages: Sequence[Stage],
    measured: Measured,
    chosen: Sequence[tuple[str, int]],
) -> list[Portrait]:
    """Pictures of the chosen people, in their order, by every stage.

    Who has no readable photo, or is not in the data set any more, has no portrait; the first reason is
    said in `source.missing`. Only shards that hold somebody chosen are read.
    """
    wanted = {measured.keys[row]: row for _, row in chosen if measured.shard[row] >= 0}
    if not wanted:
        return []
    labels, photos = _photos(source, split, measured, wanted)
    bodies = [_estimates(source, stage, set(photos)) for stage in stages]
    found = []
    for kind, row in chosen:
        key = measured.keys[row]
        if key in photos and all(key in body for body in bodies):
            drawn = [_strip(source, photos[key], labels[key], body[key]) for body in bodies]
            views = tuple(
                (stage.name, tuple(panels[2:])) for stage, panels in zip(stages, drawn, strict=True)
            )
            found.append(Portrait(kind, row, drawn[0][0], drawn[0][1], views))
    return found


def _photos(
    source: Source, split: str, measured: Measured, wanted: Mapping[str, int]
) -> tuple[dict[str, People], dict[str, np.ndarray]]:
    """Labels and crops (uint8) of some people by key."""
    info = info_for(source.data, source.template)
    paths = shards(source.data, "observations", split)
    labels: dict[str, People] = {}
    photos: dict[str, np.ndarray] = {}
    bad: list[str] = []
    for number in sorted({int(measured.shard[row]) for row in wanted.values()}):
        for table in _rows_of(paths[number], wanted.keys() - labels.keys()):
            people = people_in(table, info, [])
            pixels = zip(table["image"].to_pylist(), table["image_path"].to_pylist(), strict=True)
            for row, (image, path) in enumerate(pixels):
                key, crop = people.keys[row], None if image is not None else people.crop[row]
                labels[key] = people.take([row])
                try:
                    place = stored_image(source.data, image, path)
                    photos[key] = decode_image(place, PANEL, crop).permute(1, 2, 0).numpy()
                except InputError as error:
                    bad.append(f"{key}: {error}")
    if bad:
        more = f", and of {len(bad) - 1} more of those who were chosen" if len(bad) > 1 else ""
        source.say(f"No picture of {bad[0]}{more}.")
    return labels, photos


def _rows_of(path: AnyPath, keys: set[str]) -> Iterator[pa.Table]:
    """Rows of a shard by key, each key once; few pixels are in memory at a time."""
    left = set(keys)
    for table in read_batches(path, OBSERVATION_SCHEMA.names, 128):
        rows = []
        for row, key in enumerate(table["key"].to_pylist()):
            if key in left:
                left.remove(key)
                rows.append(row)
        if rows:
            yield typed(path, table.take(pa.array(rows)), OBSERVATION_SCHEMA)


def _estimates(source: Source, stage: Stage, keys: set[str]) -> dict[str, Estimate]:
    """Some people's estimates by key, one each."""
    found = {}
    for block in iterate_estimates(stage.path, source.template, 4096):
        for row, key in enumerate(block.keys):
            if key in keys:
                found[key] = block.estimate[row : row + 1]
    return found


def _strip(
    source: Source, photo: np.ndarray, person: People, estimate: Estimate
) -> list[np.ndarray]:
    """Photo, correspondences, overlay, front and side view of one person."""
    seen = person.observations
    given = seen.point_weights[0] > 0
    picture = strip(
        photo,
        source.template,
        estimate,
        seen.points[0][given],
        seen.faces[0][given],
        seen.barycentric[0][given],
        size=PANEL,
    )
    return np.split(picture, 2 + len(VIEWS), axis=1)
