"""Estimates on disk: one Parquet file, one row a person (docs/data_format.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from deformlearn.body import BodyParameters, BodyTemplate
from deformlearn.camera import Camera, Crop
from deformlearn.data.shards import read_table
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, Quality
from deformlearn.files import write_atomically

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


def flags_of(quality: Quality, crop: Crop) -> list[str]:
    """What is wrong with each fit, in words; "ok" where nothing is."""
    reasons = (
        (quality.facing < 0.5, "seen from inside: left and right may be swapped"),
        (quality.reprojection_px > 0.05 * crop.half, "far from its observations"),
        (~quality.converged, "not converged"),
    )
    return [
        "; ".join(text for bad, text in reasons if bad[row]) or "ok" for row in range(len(quality))
    ]


def write_estimates(path: Path, estimates: Estimates, template: BodyTemplate) -> None:
    """Write estimates with the template's fingerprint and every convention they rest on."""
    rows = len(estimates)
    value = estimates.estimate
    columns = {
        "key": estimates.keys,
        "pose": _lists(value.body.pose),
        "scales": _lists(value.body.scales),
        "rotation": _lists(value.camera.rotation()),
        "translation": _lists(value.camera.translation),
        "scale": _numpy(value.camera.scale),
        "crop_x": _numpy(estimates.crop.centre[:, 0]),
        "crop_y": _numpy(estimates.crop.centre[:, 1]),
        "crop_half": _numpy(estimates.crop.half),
    }
    quality = estimates.quality
    for name in _QUALITY:
        columns[name] = [None] * rows if quality is None else _numpy(getattr(quality, name))
    columns["converged"] = [None] * rows if quality is None else _numpy(quality.converged)
    columns["flag"] = list(estimates.flags) or (
        [None] * rows if quality is None else flags_of(quality, estimates.crop)
    )
    meta = {"template": template.name, "fingerprint": template.fingerprint, **CONVENTIONS}
    schema = SCHEMA.with_metadata({"deformlearn": json.dumps(meta)})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def read_estimates(path: Path, template: BodyTemplate) -> Estimates:
    """Read estimates; those of another template are refused."""
    table = read_table(path, SCHEMA.names)
    meta = json.loads((table.schema.metadata or {}).get(b"deformlearn", b"{}"))
    if meta.get("fingerprint") != template.fingerprint:
        raise InputError(
            f"{path} holds estimates of the template {meta.get('template')!r} "
            f"({meta.get('fingerprint')}), not of {template.name!r} ({template.fingerprint}); "
            f"load the template they were made with"
        )
    joints = len(template.parents)
    camera = Camera(
        _tensor(table, "rotation").unflatten(-1, (3, 3)),
        _tensor(table, "translation").unflatten(-1, (2,)),
        _tensor(table, "scale"),
    )
    body = BodyParameters(
        _tensor(table, "scales").unflatten(-1, (joints,)),
        _tensor(table, "pose").unflatten(-1, (joints - 1, 3)),
    )
    crop = Crop(
        torch.stack([_tensor(table, "crop_x"), _tensor(table, "crop_y")], -1),
        _tensor(table, "crop_half"),
    )
    quality = None
    if table["loss"].null_count == 0:
        numbers = {name: _tensor(table, name) for name in _QUALITY}
        quality = Quality(**numbers, converged=_tensor(table, "converged"))
    flags = tuple(flag or "" for flag in table["flag"].to_pylist())
    return Estimates(table["key"].to_pylist(), Estimate(body, camera), crop, quality, flags)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _lists(tensor: Tensor) -> list[np.ndarray]:
    return list(_numpy(tensor.flatten(1)))


def _tensor(table: pa.Table, name: str) -> Tensor:
    column = table[name].combine_chunks()
    if pa.types.is_list(column.type):
        return torch.from_numpy(column.flatten().to_numpy().copy()).reshape(len(column), -1)
    return torch.from_numpy(column.to_numpy(zero_copy_only=False).copy())
