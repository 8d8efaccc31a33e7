"""Keys must be unique over a whole data set, which no single shard can see."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deformlearn.data.soundness import Rejected
from deformlearn.data.tables import read_table
from deformlearn.files import write_atomically


def hashes(keys: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(keys,) uint64 that tell keys apart, alike in every process.

    Eight bytes a key are held, not the keys: 10 million people cost 80 MB, and a chance of 3 in a million
    that two of them agree.
    """
    found = (hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys.to_pylist())
    return np.frombuffer(b"".join(found), np.uint64)


def repeats(shards: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each shard's hashes, the places of those that stand before, in any shard; ascending."""
    everything = np.concatenate([*shards, np.zeros(0, np.uint64)])
    order = np.argsort(everything, kind="stable")
    again = np.sort(order[1:][everything[order][1:] == everything[order][:-1]])
    starts = [0, *accumulate(map(len, shards))][:-1]
    apart = np.split(again, np.searchsorted(again, starts[1:]))
    return [places - start for places, start in zip(apart, starts, strict=False)]


def repeated_elsewhere(shard: str, row: int, key: str) -> Rejected:
    """What there is to say of a row whose key an earlier shard has."""
    return Rejected(f"{shard} row {row} ({key})", "its key stands in an earlier shard")


def drop_duplicates(folder: Path, split: str) -> list[Rejected]:
    """Take out of the shards every row (and its truth) whose key an earlier row has."""
    paths = sorted((folder / "observations").glob(f"{split}-*.parquet"))
    found = repeats([hashes(read_table(path, ["key"])["key"]) for path in paths])
    dropped: list[Rejected] = []
    for path, inside in zip(paths, found, strict=True):
        if len(inside) == 0:
            continue
        table = read_table(path, pq.read_schema(path).names)
        for row in inside.tolist():
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
