"""A split of any size, block by block, in memory that does not depend on its size.

First every shard is counted: which of its rows are sound. Then blocks of sound people are read, each by
whoever needs it, and block i is the same people whoever reads it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import numpy as np
import pyarrow as pa

from deformlearn.data.duplicates import hashes, repeated_elsewhere, repeats
from deformlearn.data.shards import OBSERVATION_SCHEMA, SEEN, DatasetInfo, People, people_in
from deformlearn.data.soundness import Rejected, problems
from deformlearn.data.tables import facts, read_batches, read_ranges, read_table, repeated, typed
from deformlearn.errors import InputError
from deformlearn.files import AnyPath


@dataclass(frozen=True)
class CountedShard:
    """What one shard holds."""

    name: str
    facts: dict[str, int | None]
    """Which version of the file was counted (`tables.facts`)."""
    sound: np.ndarray
    """(rows,) bool; empty where the file could not be read."""
    rejected: tuple[Rejected, ...]
    keys: np.ndarray
    """Hashes of the sound rows' keys (`duplicates.hashes`)."""

    @property
    def people(self) -> int:
        """Rows that can be used."""
        return int(self.sound.sum())


@dataclass(frozen=True)
class CountedSplit:
    """What a split holds: the people of `shards.read_people`, in its order, not yet read."""

    folder: AnyPath
    split: str
    info: DatasetInfo
    shards: tuple[CountedShard, ...]

    def __post_init__(self) -> None:
        if not len(self):
            rejected = self.rejected
            first = f"; {rejected[0].where}: {rejected[0].reason}" if rejected else ""
            raise InputError(f"{self.folder} has no usable row in the split {self.split!r}{first}")

    def __len__(self) -> int:
        return sum(shard.people for shard in self.shards)

    @property
    def rejected(self) -> list[Rejected]:
        """Rows and shards that cannot be used."""
        return [one for shard in self.shards for one in shard.rejected]

    @property
    def fingerprint(self) -> dict[str, dict[str, int | None]]:
        """As `shards.fingerprint` gives it."""
        return {shard.name: shard.facts for shard in self.shards}


def count_shard(path: AnyPath, info: DatasetInfo, faces: int | None) -> CountedShard:
    """Which rows of a shard are sound, read a batch at a time.

    `faces` is the number of faces of the template; None leaves their range unchecked.
    """
    before = facts(path)
    sound, found, keys = [np.zeros(0, bool)], {}, []
    start = 0
    try:
        for batch in read_batches(path, SEEN):
            table = typed(path, batch, OBSERVATION_SCHEMA)
            bad = problems(table, info.joints, faces)
            good = np.ones(len(table), bool)
            good[list(bad)] = False
            sound.append(good)
            keys.append(table["key"].combine_chunks())
            for row, reason in bad.items():
                found[start + row] = (table["key"][row].as_py(), reason)
            start += len(table)
    except InputError as error:
        return CountedShard(
            path.name, before, np.zeros(0, bool), (Rejected(path.name, str(error)),), hashes(_NONE)
        )
    together = np.concatenate(sound)
    every = pa.concat_arrays([_NONE, *keys]).fill_null("")
    if len(keys) > 1:  # within one batch the check of its rows has seen it
        for row in np.flatnonzero(repeated(every)).tolist():
            key = every[row].as_py()
            if key:
                found[row] = (key, "the key stands twice")
                together[row] = False
    rejected = (
        Rejected(f"{path.name} row {row} ({key})", reason)
        for row, (key, reason) in sorted(found.items())
    )
    told_apart = hashes(every.filter(pa.array(together)))
    return CountedShard(path.name, before, together, tuple(rejected), told_apart)


def without_repeats(folder: AnyPath, counted: Sequence[CountedShard]) -> tuple[CountedShard, ...]:
    """The shards less the rows whose key an earlier shard has."""
    found = []
    for shard, places in zip(counted, repeats([one.keys for one in counted]), strict=True):
        if len(places):
            rows = np.flatnonzero(shard.sound)[places].tolist()
            sound = shard.sound.copy()
            sound[rows] = False
            keys = read_table(folder / "observations" / shard.name, ["key"])["key"].take(rows)
            also = map(partial(repeated_elsewhere, shard.name), rows, keys.to_pylist())
            rejected = (*shard.rejected, *also)
            shard = replace(
                shard, sound=sound, rejected=rejected, keys=np.delete(shard.keys, places)
            )
        found.append(shard)
    return tuple(found)


_NONE = pa.array([], pa.string())


def blocks_of(people: int, size: int) -> list[range]:
    """The people of each block."""
    return [range(first, min(first + size, people)) for first in range(0, people, size)]


def read_blocks(counted: CountedSplit, blocks: Sequence[range]) -> Iterator[People]:
    """The sound people of each block, without pixels; blocks ascend and do not overlap.

    A shard that is not as it was counted is an InputError.
    """
    pieces: list[pa.Table] = []
    wanted = iter(blocks)
    now = next(wanted, None)
    for table in _pieces(counted, blocks):
        pieces.append(table)
        if now is not None and sum(map(len, pieces)) == len(now):
            yield people_in(pa.concat_tables(pieces), counted.info, [])
            pieces, now = [], next(wanted, None)


def _pieces(counted: CountedSplit, blocks: Sequence[range]) -> Iterator[pa.Table]:
    """Each block's rows, shard by shard."""
    starts = [0, *accumulate(shard.people for shard in counted.shards)]
    for shard, first in zip(counted.shards, starts, strict=False):
        last = first + shard.people
        here = [
            range(max(block.start, first) - first, min(block.stop, last) - first)
            for block in _overlapping(blocks, first, last)
        ]
        if not here:
            continue
        path = counted.folder / "observations" / shard.name
        check_unchanged(path, shard.facts)
        rows = np.flatnonzero(shard.sound)
        chosen = [rows[one.start : one.stop] for one in here]
        spans = [range(int(one[0]), int(one[-1]) + 1) for one in chosen]
        for inside, span, table in zip(chosen, spans, read_ranges(path, spans, SEEN), strict=True):
            whole = len(inside) == len(table)
            yield typed(
                path,
                table if whole else table.take(pa.array(inside - span.start)),
                OBSERVATION_SCHEMA,
            )


def _overlapping(blocks: Sequence[range], first: int, last: int) -> Sequence[range]:
    """The blocks that hold some of the people from `first` up to `last`."""
    low = bisect.bisect_right(blocks, first, key=lambda block: block.stop)
    high = bisect.bisect_left(blocks, last, key=lambda block: block.start)
    return blocks[low:high] if last > first else []


def check_unchanged(path: AnyPath, before: dict[str, int | None]) -> None:
    """Refuse a shard that is gone, or not the one that it was before."""
    kept = "put it back, and the same command goes on with what it has finished"
    try:
        now = facts(path)
    except OSError as error:
        raise InputError(
            f"{path} was there when the work began, with {before['rows']} rows, "
            f"and cannot be read any more ({error.strerror or error}); {kept}"
        ) from error
    if now != before:
        was, is_ = (
            f"{one['rows']} rows in {one['bytes']} bytes (footer {one['footer']})"
            for one in (before, now)
        )
        raise InputError(f"{path} was changed since the work began: {was}, now {is_}; {kept}")
