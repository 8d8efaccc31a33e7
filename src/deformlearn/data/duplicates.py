"""Keys must be unique over a whole data set, which no single shard can see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deformlearn.data.soundness import Rejected
from deformlearn.data.tables import read_table
from deformlearn.files import write_atomically


def drop_duplicates(folder: Path, split: str) -> list[Rejected]:
    """Take out of the shards every row (and its truth) whose key an earlier row has.

    Eight bytes a row are held, not the keys: 10 million people cost 80 MB.
    """
    paths = sorted((folder / "observations").glob(f"{split}-*.parquet"))
    hashes, starts = [], [0]
    for path in paths:
        keys = read_table(path, ["key"])["key"].to_pylist()
        hashes.append(np.array([hash(key) for key in keys], np.int64))
        starts.append(starts[-1] + len(keys))
    if not hashes:
        return []
    everything = np.concatenate(hashes)
    order = np.argsort(everything, kind="stable")
    again = order[1:][everything[order][1:] == everything[order][:-1]]
    dropped: list[Rejected] = []
    for number in np.unique(np.searchsorted(starts, again, side="right") - 1).tolist():
        path = paths[number]
        inside = again[(again >= starts[number]) & (again < starts[number + 1])] - starts[number]
        table = read_table(path, pq.read_schema(path).names)
        for row in sorted(inside.tolist()):
            key = table["key"][row].as_py()
            dropped.append(Rejected(f"{path.name} row {row} ({key})", "its key occurs before it"))
        keep = np.setdiff1d(np.arange(len(table)), inside)
        _rewrite(path, table.take(pa.array(keep)))
        truth = folder / "truth" / path.name
        if truth.exists():
            _keep_truth(truth, set(table.take(pa.array(keep))["key"].to_pylist()))
    return dropped


def _keep_truth(path: Path, keys: set[str]) -> None:
    table = read_table(path, pq.read_schema(path).names)
    seen: set[str] = set()
    keep = []
    for row, key in enumerate(table["key"].to_pylist()):
        if key in keys and key not in seen:
            keep.append(row)
            seen.add(key)
    _rewrite(path, table.take(pa.array(keep, pa.int64())))


def _rewrite(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())
