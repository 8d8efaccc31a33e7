"""A data set in pictures: random rows with their labels drawn, so that mistakes are seen.

Whether left and right, channels, scaling or crops are right cannot be told from numbers. A page with
the photo, the correspondences in the colours of their segments, and the key points of 24 people can.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from deformlearn.anatomy import segment_colours, views
from deformlearn.body import BodyTemplate
from deformlearn.camera import Crop
from deformlearn.data.images import open_image, stored_image, to_pixels
from deformlearn.data.shards import (
    OBSERVATION_SCHEMA,
    DatasetInfo,
    read_info,
    shards,
    splits,
)
from deformlearn.data.soundness import Rejected, problems, without_details
from deformlearn.data.tables import read_table, row_count
from deformlearn.errors import InputError
from deformlearn.files import AnyPath, write_atomically
from deformlearn.pictures import jpeg_uri
from deformlearn.skeleton import JointSet, joint_set

SHOWN = 24
"""People on the page."""

_SIDE = 320
"""Side of a picture (px)."""

_AROUND = 1.2
"""Side of what is shown over the side of the crop, where there is more to show."""

_SIDES = {"left": (64, 132, 255), "right": (255, 82, 70)}
_MIDDLE = (70, 220, 110)
_BOX = (255, 214, 64)


@dataclass(frozen=True)
class Sheet:
    """One person on the page."""

    key: str
    caption: str
    panels: tuple[np.ndarray, ...]
    """The photo with crop and key points, and with its correspondences; (side, side, 3) uint8 each."""


def write_datasheet(
    data: AnyPath,
    template: BodyTemplate,
    *,
    target: Path | None = None,
    bad: list[Rejected] | None = None,
    seed: int = 0,
) -> AnyPath:
    """Write the page about a data set; returns its path (`data/summary.html` if not given).

    `bad` are rows of the data set that cannot be used; what an import rejected is read from its tables.
    """
    from jinja2 import Environment, StrictUndefined

    info = read_info(data)
    counts = {split: _count(data, split) for split in splits(data)}
    sheets = [
        _sheet(data, info, template, split, row)
        for split, row in _chosen(data, counts, SHOWN, seed)
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"jpeg": jpeg_uri}
    page = resources.files("deformlearn").joinpath("assets/datasheet.html").read_text("utf-8")
    content = environment.from_string(page).render(
        name=data.resolve().name,
        info=info,
        counts=counts,
        sheets=sheets,
        joints=joint_set(info.joints),
        legend=views(template),
        rejects={split: _reasons(data, split) for split in _import_splits(data)},
        bad=bad or [],
    )
    path = target or data / "summary.html"
    write_atomically(path, content.encode())
    return path


def _count(data: AnyPath, split: str) -> int:
    total = 0
    for path in shards(data, "observations", split):
        try:
            total += row_count(path)
        except InputError:  # `check` names such a shard
            continue
    return total


def _chosen(
    data: AnyPath, counts: dict[str, int], wanted: int, seed: int
) -> list[tuple[str, dict]]:
    """Random rows of all splits together, each as its split and its columns."""
    total = sum(counts.values())
    random = np.random.default_rng(seed)
    picked = np.sort(random.permutation(total)[:wanted])
    found, start = [], 0
    for split in counts:
        for path in shards(data, "observations", split):
            try:
                rows = row_count(path)
            except InputError:
                continue
            inside = [int(row) - start for row in picked if start <= row < start + rows]
            start += rows
            if inside:
                table = read_table(path, OBSERVATION_SCHEMA.names).take(inside)
                found += [(split, row) for row in table.to_pylist()]
    return found


def _sheet(
    data: AnyPath, info: DatasetInfo, template: BodyTemplate, split: str, row: dict
) -> Sheet:
    joints = joint_set(info.joints)
    points = sum((weight or 0) > 0 for weight in row["point_weight"] or ())
    keypoints = sum((weight or 0) > 0 for weight in row["keypoint_weight"] or ())
    caption = f"{split} · {points} points · {keypoints} of {len(joints)} key points"
    blank = np.full((_SIDE, _SIDE, 3), 60, np.uint8)
    reason = _unusable(row, info, template)
    if reason is None:
        try:
            photo, origin, zoom = _photo(data, row)
        except InputError as error:
            reason = str(error)
    if reason is not None:
        return Sheet(row["key"] or "?", f"{caption} · {reason}", (blank, blank))
    plain, marked = Image.fromarray(photo), Image.fromarray((photo * 0.45).astype(np.uint8))
    corner = (np.array([row["crop_x"], row["crop_y"]]) - row["crop_half"] - origin) * zoom
    side = 2 * row["crop_half"] * zoom
    ImageDraw.Draw(plain).rectangle(
        (*corner.tolist(), *(corner + side).tolist()), outline=_BOX, width=2
    )
    _draw_points(marked, row, template, origin, zoom)
    _draw_keypoints(plain, row, joints, origin, zoom)
    return Sheet(row["key"], caption, (np.asarray(plain), np.asarray(marked)))


def _unusable(row: dict, info: DatasetInfo, template: BodyTemplate) -> str | None:
    import pyarrow as pa

    table = pa.table({name: [row[name]] for name in OBSERVATION_SCHEMA.names}, OBSERVATION_SCHEMA)
    return problems(table, info.joints, len(template.faces)).get(0)


def _photo(data: AnyPath, row: dict) -> tuple[np.ndarray, np.ndarray, float]:
    """What is shown of the photo, where its corner is, and its zoom (both from source px)."""
    centre, half = np.array([row["crop_x"], row["crop_y"]]), row["crop_half"]
    stored = open_image(stored_image(data, row["image"], row["image_path"]))
    if row["image"] is not None:
        pixels = to_pixels(stored, _SIDE)
    else:
        half = half * _AROUND
        crop = Crop(torch.tensor(centre, dtype=torch.float32), torch.tensor(float(half)))
        pixels = to_pixels(stored, _SIDE, crop)
    return pixels.permute(1, 2, 0).numpy(), centre - half, _SIDE / (2 * half)


def _draw_points(
    picture: Image.Image, row: dict, template: BodyTemplate, origin: np.ndarray, zoom: float
) -> None:
    if not row["point_face"]:
        return
    faces = torch.tensor(row["point_face"])
    u, v = torch.tensor(row["point_u"]), torch.tensor(row["point_v"])
    points = template.surface_points(faces, torch.stack([u, v, 1 - u - v], -1))
    colours = (segment_colours()[points.weights.argmax(-1)] * 255).int().tolist()
    draw = ImageDraw.Draw(picture)
    places = (np.stack([row["point_x"], row["point_y"]], -1) - origin) * zoom
    for (x, y), colour, weight in zip(places, colours, row["point_weight"], strict=True):
        if weight > 0:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=tuple(colour), outline=(0, 0, 0))


def _draw_keypoints(
    picture: Image.Image, row: dict, joints: JointSet, origin: np.ndarray, zoom: float
) -> None:
    """Rings, left blue and right red; small where the label is uncertain."""
    draw = ImageDraw.Draw(picture)
    places = (np.stack([row["keypoint_x"], row["keypoint_y"]], -1) - origin) * zoom
    for (x, y), name, weight in zip(places, joints.names, row["keypoint_weight"], strict=True):
        if weight > 0:
            size = 3.5 + 2.5 * min(weight, 1.0)
            colour = _SIDES.get(name.split("_")[0], _MIDDLE)
            draw.ellipse((x - size, y - size, x + size, y + size), outline=(0, 0, 0), width=4)
            draw.ellipse((x - size, y - size, x + size, y + size), outline=colour, width=2)


def _import_splits(data: AnyPath) -> list[str]:
    return sorted(path.stem.removeprefix("rejects-") for path in data.glob("rejects-*.csv"))


def _reasons(data: AnyPath, split: str) -> list[tuple[str, int, str]]:
    """The most common reasons of an import's rejects, how often, and the first example."""
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    text = (data / f"rejects-{split}.csv").read_bytes().decode()
    for line in csv.DictReader(io.StringIO(text, newline="")):
        reason = without_details(line["reason"])
        counts[reason] += 1
        example.setdefault(reason, f"{line['file']} {line['row']}".strip())
    return [(reason, count, example[reason]) for reason, count in counts.most_common(12)]
