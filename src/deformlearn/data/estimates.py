"""Estimates on disk: one Parquet file, one row a person (docs/data_format.md)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from deformlearn.body import BodyParameters, BodyTemplate
from deformlearn.camera import Camera, Crop
from deformlearn.data.tables import (
    column,
    lists,
    opened,
    read_batches,
    read_ranges,
    read_table,
    row_count,
    typed,
    write_table,
    written,
)
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, Quality
from deformlearn.files import AnyPath, whole_file
from deformlearn.tensors import concatenate

CONVENTIONS = {
    "camera": "weak perspective x = s P(R X) + t, t added after the scale",
    "image units": "[-1, 1] across the square crop, x right, y down, z away from the camera",
    "pixels": "x_px = x * crop_half + crop_x; (0, 0) is the corner of the source image's first pixel",
    "body": "metres, y up, facing +z, the person's left at +x; pose is axis-angle relative to the parent",
    "rotation": "template axes to camera axes, nine numbers row by row",
}
"""What every estimates file says about its own numbers."""

_FLOATS = pa.list_(pa.float32())
_QUALITY = ("loss", "dense", "keypoint", "reprojection_px", "facing")
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("pose", _FLOATS),
        ("scales", _FLOATS),
        ("rotation", _FLOATS),
        ("translation", _FLOATS),
        ("scale", pa.float32()),
        ("crop_x", pa.float32()),
        ("crop_y", pa.float32()),
        ("crop_half", pa.float32()),
        *((name, pa.float32()) for name in _QUALITY),
        ("converged", pa.bool_()),
        ("flag", pa.string()),
    ]
)


_WORDS = ("flag",)
"""Columns whose values occur again and again."""


@dataclass(frozen=True)
class Estimates:
    """Estimates with the people they belong to."""

    keys: list[str]
    estimate: Estimate
    crop: Crop
    quality: Quality | None = None
    """None for predictions that were not compared with observations."""
    flags: tuple[str, ...] = ()
    """Reasons to doubt each row, beyond what `quality` tells."""

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, rows: Sequence[int]) -> Estimates:
        """Some of the rows, in this order."""
        chosen = torch.as_tensor(rows, dtype=torch.long)
        return Estimates(
            [self.keys[row] for row in rows],
            self.estimate[chosen],
            self.crop[chosen],
            None if self.quality is None else self.quality[chosen],
            tuple(self.flags[row] for row in rows) if self.flags else (),
        )


def together(parts: Sequence[Estimates]) -> Estimates:
    """Everyone in one; a quality is known only if it is known of all."""
    qualities = [part.quality for part in parts if part.quality is not None]
    return Estimates(
        [key for part in parts for key in part.keys],
        concatenate([part.estimate for part in parts]),
        concatenate([part.crop for part in parts]),
        concatenate(qualities) if len(qualities) == len(parts) else None,
        tuple(flag for part in parts for flag in part.flags),
    )


def flags_of(quality: Quality, crop: Crop) -> list[str]:
    """What is wrong with each fit, in words; "ok" where nothing is."""
    reasons = (
        (quality.facing < 0.5, "seen from inside: left and right may be swapped"),
        (quality.reprojection_px.isnan(), "nothing of it was seen"),
        (quality.reprojection_px > 0.05 * crop.half, "far from its observations"),
        (~quality.converged, "not converged"),
    )
    # Bit i of a row's number says whether reason i holds; each number is put in words once.
    numbers = sum(bad.cpu().numpy().astype(np.int64) << i for i, (bad, _) in enumerate(reasons))
    texts = [
        "; ".join(text for i, (_, text) in enumerate(reasons) if number >> i & 1) or "ok"
        for number in range(2 ** len(reasons))
    ]
    return np.array(texts, dtype=object)[numbers].tolist()


def write_estimates(path: AnyPath, estimates: Estimates, template: BodyTemplate) -> None:
    """Write estimates with the template's fingerprint and every convention they rest on."""
    table = table_of(estimates)
    write_table(path, table.replace_schema_metadata(about(template)), words=_WORDS)


def table_of(estimates: Estimates) -> pa.Table:
    """Estimates as a table of `SCHEMA`."""
    rows, value, quality = len(estimates), estimates.estimate, estimates.quality
    columns = {
        "key": estimates.keys,
        "pose": lists(value.body.pose.flatten(1)),
        "scales": lists(value.body.scales),
        "rotation": lists(value.camera.rotation().flatten(1)),
        "translation": lists(value.camera.translation),
        "scale": _numpy(value.camera.scale),
        "crop_x": _numpy(estimates.crop.centre[:, 0]),
        "crop_y": _numpy(estimates.crop.centre[:, 1]),
        "crop_half": _numpy(estimates.crop.half),
    }
    for name in (*_QUALITY, "converged"):
        unknown = pa.nulls(rows, SCHEMA.field(name).type)
        columns[name] = unknown if quality is None else _numpy(getattr(quality, name))
    columns["flag"] = list(estimates.flags) or (
        pa.nulls(rows, pa.string()) if quality is None else flags_of(quality, estimates.crop)
    )
    return pa.table(columns, schema=SCHEMA)


def about(template: BodyTemplate, **more: Any) -> dict[str, str]:
    """The metadata of a file of estimates: the template, the conventions, and what else is known."""
    known = {"template": template.name, "fingerprint": template.fingerprint, **CONVENTIONS, **more}
    return {"deformlearn": json.dumps(known)}


def read_about(path: AnyPath) -> dict[str, Any]:
    """What a file of estimates says of itself; {} of another table."""
    with opened(path) as file:
        return json.loads((file.schema_arrow.metadata or {}).get(b"deformlearn", b"{}"))


@contextlib.contextmanager
def estimates_file(path: Path, metadata: dict[str, str]) -> Iterator[Callable[[pa.Table], None]]:
    """Tables of estimates, one after the other, into one file that is whole when the block ends.

    Each becomes a row group, so that no more than one is ever held.
    """
    schema = SCHEMA.with_metadata(metadata)
    with whole_file(path) as file, pq.ParquetWriter(file, schema, **written(_WORDS)) as writer:
        yield lambda table: writer.write_table(table.replace_schema_metadata(metadata))


def join_estimates(
    parts: Sequence[Path],
    out: Path,
    template: BodyTemplate,
    *,
    before: Path | None = None,
    alone: Path | None = None,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write the rows of all parts as one file, a row group each.

    With `before`, older fits of the same people, whoever's new loss is not lower keeps the older fit, bit
    by bit; `alone` is then where the new ones are written all the same. `notes` join the metadata.
    """
    metadata = about(template, **(notes or {}))
    with contextlib.ExitStack() as files:
        write = files.enter_context(estimates_file(out, metadata))
        beside = files.enter_context(estimates_file(alone, about(template))) if alone else None
        lengths = [row_count(part) for part in parts]
        ranges = [
            range(stop - length, stop)
            for length, stop in zip(lengths, accumulate(lengths), strict=True)
        ]
        older = None if before is None else _tables(before, template, ranges)
        for part in parts:
            table = _whole(part, template)
            if beside is not None:
                beside(table)
            write(table if older is None else _better(table, next(older)))


def _better(new: pa.Table, old: pa.Table) -> pa.Table:
    """Row by row, whichever has the lower loss: `registration.keep_best` for tables."""
    lower = new["loss"].to_numpy() < old["loss"].to_numpy()
    rows = np.arange(len(new)) + np.where(lower, 0, len(new))
    return pa.concat_tables([new, old]).take(pa.array(rows))


def read_estimates(path: AnyPath, template: BodyTemplate) -> Estimates:
    """Read estimates; those of another template are refused."""
    return _estimates(_whole(path, template), template)


def iterate_estimates(
    path: AnyPath, template: BodyTemplate, rows: int | Sequence[range]
) -> Iterator[Estimates]:
    """The estimates of a file, so many rows at a time, or those of the given ranges in order.

    However many there are, no more than one piece is held. Refuses another template as
    `read_estimates` does.
    """
    return (_estimates(table, template) for table in _tables(path, template, rows))


def _whole(path: AnyPath, template: BodyTemplate) -> pa.Table:
    _check_template(path, template)
    return _sound(path, read_table(path, SCHEMA.names), template)


def _tables(
    path: AnyPath, template: BodyTemplate, rows: int | Sequence[range]
) -> Iterator[pa.Table]:
    _check_template(path, template)
    if isinstance(rows, int):
        pieces = read_batches(path, SCHEMA.names, rows)
    else:
        pieces = read_ranges(path, rows, SCHEMA.names)
    for table in pieces:
        yield _sound(path, table, template)


def _sound(path: AnyPath, table: pa.Table, template: BodyTemplate) -> pa.Table:
    """The table in our types; a row with too few or too many numbers is an InputError."""
    table, joints = typed(path, table, SCHEMA), len(template.parents)
    lengths = {"pose": 3 * (joints - 1), "scales": joints, "rotation": 9, "translation": 2}
    for name, length in lengths.items():
        right = pc.equal(pc.list_value_length(table[name]), length).fill_null(False)
        if not pc.all(right).as_py():
            raise InputError(
                f"{path} is damaged: not every row has {length} numbers in {name}; write it again"
            )
    return table


def _check_template(path: AnyPath, template: BodyTemplate) -> None:
    meta = read_about(path)
    if meta.get("fingerprint") != template.fingerprint:
        raise InputError(
            f"{path} holds estimates of the template {meta.get('template')!r} "
            f"({meta.get('fingerprint')}), not of {template.name!r} ({template.fingerprint}); "
            f"load the template they were made with (--template FILE)"
        )


def _estimates(table: pa.Table, template: BodyTemplate) -> Estimates:
    joints = len(template.parents)
    camera = Camera(
        column(table, "rotation").unflatten(-1, (3, 3)),
        column(table, "translation").unflatten(-1, (2,)),
        column(table, "scale"),
    )
    body = BodyParameters(
        column(table, "scales").unflatten(-1, (joints,)),
        column(table, "pose").unflatten(-1, (joints - 1, 3)),
    )
    crop = Crop(
        torch.stack([column(table, "crop_x"), column(table, "crop_y")], -1),
        column(table, "crop_half"),
    )
    quality = None
    if table["loss"].null_count == 0:
        numbers = {name: column(table, name) for name in _QUALITY}
        quality = Quality(**numbers, converged=column(table, "converged"))
    flags = tuple(flag or "" for flag in table["flag"].to_pylist())
    return Estimates(
        table["key"].fill_null("").to_pylist(), Estimate(body, camera), crop, quality, flags
    )


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
