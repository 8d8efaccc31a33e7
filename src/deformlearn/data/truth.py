"""3D truth, apart from what training may see: only evaluation reads it (docs/data_format.md).

DATA/truth/<split>-00000.parquet, beside the observations of the same people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from deformlearn.data.shards import read_info, shards, split_of
from deformlearn.data.soundness import Rejected, truth_problems
from deformlearn.data.tables import padded, read_table, repeated, typed, write_table
from deformlearn.errors import InputError
from deformlearn.files import AnyPath

TRUTH_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("landmarks_mm", pa.list_(pa.float32())),
        ("vertices_tenth_mm", pa.list_(pa.int16())),
    ]
)


@dataclass(frozen=True)
class TruthRow:
    """What only evaluation may know of a person: camera axes, relative to the pelvis."""

    key: str
    landmarks_mm: np.ndarray
    """(landmarks, 3)."""
    vertices_mm: np.ndarray | None = None
    """(vertices, 3), stored to a tenth of a millimetre."""


@dataclass(frozen=True)
class Truth:
    """3D truth of a split, in the order of its rows."""

    keys: list[str]
    landmark_names: tuple[str, ...]
    landmarks_mm: Tensor
    vertices_mm: Tensor | None

    def take(self, rows: Sequence[int]) -> Truth:
        """These rows, in this order."""
        index = torch.as_tensor(rows)
        vertices = None if self.vertices_mm is None else self.vertices_mm[index]
        keys = [self.keys[row] for row in rows]
        return Truth(keys, self.landmark_names, self.landmarks_mm[index], vertices)


def write_truth(folder: AnyPath, split: str, shard: int, rows: Sequence[TruthRow]) -> AnyPath:
    """Write one shard of truth, apart from what training may see."""
    vertices = [
        None if row.vertices_mm is None else np.round(row.vertices_mm * 10).astype(np.int16).ravel()
        for row in rows
    ]
    table = pa.table(
        {
            "key": [row.key for row in rows],
            "landmarks_mm": [row.landmarks_mm.astype(np.float32).ravel() for row in rows],
            "vertices_tenth_mm": vertices,
        },
        schema=TRUTH_SCHEMA,
    )
    return write_table(folder / "truth" / f"{split}-{shard:05d}.parquet", table)


def has_truth(folder: AnyPath, split: str) -> bool:
    """Whether 3D truth is known of a split."""
    return any(split_of(path) == split for path in (folder / "truth").glob("*.parquet"))


def read_truth(folder: AnyPath, split: str, keys: Sequence[str] | None = None) -> Truth:
    """3D truth of a split, of the people named by `keys` in their order; for evaluation only.

    One row that is not whole is an InputError: errors against it would be numbers like any others.
    """
    landmarks, table = read_info(folder).landmarks, _rows(folder, split, keys)
    for row, reason in truth_problems(table, len(landmarks)).items():
        key = table["key"][row].as_py()
        raise InputError(
            f"{folder} has a truth of {key!r} in {split!r} that is not whole: {reason}"
        )
    places = padded(table, "landmarks_mm").unflatten(-1, (len(landmarks), 3))
    vertices = None
    if table["vertices_tenth_mm"].null_count == 0:
        vertices = padded(table, "vertices_tenth_mm").unflatten(-1, (-1, 3)) / 10
    return Truth(table["key"].to_pylist(), landmarks, places, vertices)


def unusable_truth(folder: AnyPath, split: str, keys: Sequence[str]) -> list[Rejected]:
    """The rows for which `read_truth` refuses a split."""
    try:
        table = _rows(folder, split, keys)
    except InputError as error:
        return [Rejected(f"truth of {split}", str(error))]
    names, bad = table["key"].to_pylist(), truth_problems(table, len(read_info(folder).landmarks))
    return [Rejected(f"truth of {split} {names[row]}", reason) for row, reason in bad.items()]


def _rows(folder: AnyPath, split: str, keys: Sequence[str] | None) -> pa.Table:
    """The rows of these people; one that is missing, or there twice, is an InputError."""
    table = pa.concat_tables(
        typed(path, read_table(path, TRUTH_SCHEMA.names), TRUTH_SCHEMA)
        for path in shards(folder, "truth", split)
    )
    again = repeated(table["key"].combine_chunks())
    if again.any():
        key = table["key"][int(again.argmax())].as_py()
        raise InputError(
            f"{folder} has the truth of {key!r} twice in {split!r}, and nothing tells which is whose; "
            f"give each person of the split a key of its own"
        )
    if keys is None:
        return table
    place = {key: row for row, key in enumerate(table["key"].to_pylist())}
    missing = [key for key in keys if key not in place]
    if missing:
        raise InputError(
            f"{folder} has no truth for {len(missing)} people of {split!r}, {missing[0]!r} first"
        )
    return table.take([place[key] for key in keys])
