"""The errors of everyone in a file of estimates: streamed, so that only a few numbers a person are held.

metrics.jsonl holds means. What belongs to single people, and to single joints, is computed here from the
estimates and, for this purpose alone, the truth. Labels and truth are read beside the estimates, in
the order all three were written in; no image and no mesh is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int, Shaped

from deformlearn.camera import Crop
from deformlearn.config import RegistrationConfig
from deformlearn.data.estimates import Estimates, flags_of, iterate_estimates
from deformlearn.data.shards import (
    OBSERVATION_SCHEMA,
    SEEN,
    DatasetInfo,
    info_for,
    people_in,
    shards,
)
from deformlearn.data.tables import facts, padded, read_batches, typed
from deformlearn.data.truth import Truth
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, Quality, camera_joints
from deformlearn.evaluation import PROTOCOL_JOINTS, true_joints
from deformlearn.files import AnyPath
from deformlearn.metrics import procrustes
from deformlearn.registration import quality_of
from deformlearn.reports.source import Source, recorded_shards
from deformlearn.skeleton import joint_set

BLOCK = 1024
"""People whose labels and estimates are in memory at once."""

_TRUTH = ["key", "landmarks_mm"]


@dataclass(frozen=True, eq=False)
class Measured:
    """What is known about the errors of everyone in a file of estimates; NaN is unknown."""

    keys: list[str]
    actions: list[str]
    flags: list[str]
    """Reasons to doubt each row; "" where nothing was compared."""
    shard: Int[np.ndarray, "people"]
    """Which of the split's shards holds each person; -1: the data set has nobody of this name."""
    pixels: Float[np.ndarray, "people"]
    """Median distance from the image's own labels (source px)."""
    raw_joints: Float[np.ndarray, "people joints"]
    """Distance of each joint from the truth (mm), relative to the pelvis."""
    aligned_joints: Float[np.ndarray, "people joints"]
    """The same after Procrustes."""

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def raw(self) -> Float[np.ndarray, "people"]:
        """MPJPE of each person (mm)."""
        return self.raw_joints.mean(1)

    @cached_property
    def aligned(self) -> Float[np.ndarray, "people"]:
        """PA-MPJPE of each person (mm)."""
        return self.aligned_joints.mean(1)

    @property
    def has_truth(self) -> bool:
        """Whether anybody's error is known in millimetres."""
        return bool(np.isfinite(self.raw).any())

    @property
    def ranking(self) -> Float[np.ndarray, "people"]:
        """What people are ranked by, larger is worse: mm, or px where nobody has a truth."""
        return self.raw if self.has_truth else self.pixels

    def take(self, rows: Sequence[int] | Int[np.ndarray, "rows"]) -> Measured:
        """These rows, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        lists = ("keys", "actions", "flags")
        chosen: dict[str, Any] = {n: [getattr(self, n)[row] for row in index] for n in lists}
        for one in fields(self):
            if one.name not in lists:
                chosen[one.name] = getattr(self, one.name)[index]
        return Measured(**chosen)


def shared(*several: Measured) -> list[Measured]:
    """The people who are in all of them, in the order of the first: row i is everywhere the same."""
    if all(one.keys == several[0].keys for one in several):
        return list(several)
    places = [{key: row for row, key in enumerate(one.keys)} for one in several]
    common = [key for key in several[0].keys if all(key in place for place in places)]
    return [
        one.take([place[key] for key in common]) for one, place in zip(several, places, strict=True)
    ]


def measure(source: Source, split: str, path: Path) -> Measured:
    """The errors of everyone in a file of estimates of a split.

    What the data set lacks is unknown, and is said in `source.missing`: people who are gone, labels or
    truth of a shard that cannot be read, a truth without the protocol's joints.
    """
    info, labels, truths = _beside(source, split)
    blocks = iterate_estimates(path, source.template, BLOCK)
    parts = [_block(source, block, info, labels, truths) for block in blocks]
    together = _together(parts, len(joint_set(PROTOCOL_JOINTS)))
    gone = int((together.shard < 0).sum())
    if labels is not None and gone:
        source.say(
            f"{gone} of {len(together)} {split} people of this run are no longer in {source.data}: "
            f"they have no picture, and no error but what the run recorded."
        )
    unknown = int((~np.isfinite(together.raw)).sum())
    if truths is not None and 0 < unknown < len(together):
        source.say(
            f"{unknown} of {len(together)} {split} people have no error in mm, for want of a 3D truth or "
            f"of a body of finite numbers."
        )
    return together


class _Beside:
    """Rows of a split's shards, asked for by key in the order they stand in.

    A shard that cannot be read has no rows.
    """

    def __init__(
        self, paths: Sequence[tuple[int, AnyPath]], columns: list[str], schema: pa.Schema | None
    ) -> None:
        self._columns, self._schema = columns, schema
        self._paths: list[tuple[int, AnyPath]] = []
        self.unreadable: list[str] = []
        self.known: set[str] = set()
        """Keys of all rows that can be read."""
        for number, path in paths:
            try:
                for table in read_batches(path, ["key"]):
                    self.known.update(table["key"].to_pylist())
            except InputError as error:
                self.unreadable.append(str(error))
            else:
                self._paths.append((number, path))
        self._tables = self._read()
        self._rest: tuple[int, pa.Table] | None = None

    def take(self, keys: Sequence[str]) -> Iterator[tuple[int, list[int], pa.Table]]:
        """Rows of these people: the shard's number, their places in `keys`, and the rows.

        Of keys that are nowhere there are none; keys in another order than the rows are an InputError.
        """
        wanted = [place for place, key in enumerate(keys) if key in self.known]
        done = 0
        while done < len(wanted):
            if self._rest is None or not len(self._rest[1]):
                self._rest = next(self._tables, None)
            if self._rest is None:
                raise InputError(
                    f"{keys[wanted[done]]!r} stands elsewhere in the data set than in the run: its "
                    f"people were put in another order, and cannot be matched"
                )
            number, table = self._rest
            rows, begin, passed = [], done, 0
            for row, key in enumerate(table["key"].to_pylist()):
                passed = row + 1
                if key == keys[wanted[done]]:
                    rows.append(row)
                    done += 1
                    if done == len(wanted):
                        break
            self._rest = number, table.slice(passed)
            if rows:
                yield number, wanted[begin:done], table.take(pa.array(rows))

    def _read(self) -> Iterator[tuple[int, pa.Table]]:
        for number, path in self._paths:
            for table in read_batches(path, self._columns, BLOCK):
                yield number, typed(path, table, self._schema) if self._schema else table


def _beside(
    source: Source, split: str
) -> tuple[DatasetInfo | None, _Beside | None, _Beside | None]:
    """The data set's description, and readers of its labels and its truth; None where there is none."""
    try:
        info = info_for(source.data, source.template)
        paths = _unchanged(source, split, "observations")
    except InputError as error:
        source.say(f"Nothing is known of the {split} people but what the run recorded: {error}.")
        return None, None, None
    labels = _Beside(paths, SEEN, OBSERVATION_SCHEMA)
    truths = None
    if source.has_truth(split):
        lacking = set(joint_set(PROTOCOL_JOINTS).landmarks) - set(info.landmarks)
        if lacking:
            source.say(
                f"No error in mm: the truth of {source.data} has no {', '.join(sorted(lacking))}."
            )
        else:
            truths = _Beside(_unchanged(source, split, "truth"), _TRUTH, None)
    for line in [*labels.unreadable, *(truths.unreadable if truths else ())]:
        source.say(f"Left out: {line}.")
    return info, labels, truths


def _unchanged(source: Source, split: str, kind: str) -> list[tuple[int, AnyPath]]:
    """Number and path of the shards that are those the run began with.

    Of people in another one nothing is known, though their names may be the same: every synthetic data
    set has its own test-000000. A run that did not record its shards is believed.
    """
    paths = shards(source.data, kind, split)
    recorded = recorded_shards(source.run, split)
    if recorded is None:
        return list(enumerate(paths))
    same = [
        (number, path)
        for number, path in enumerate(paths)
        if recorded.get(f"{kind}/{path.name}") == facts(path)
    ]
    if others := len(paths) - len(same):
        source.say(
            f"{others} of {len(paths)} shards of {source.data / kind} for {split!r} are not those this "
            f"run began with, and are left out; --data names the run's own data set."
        )
    return same


def _block(
    source: Source,
    block: Estimates,
    info: DatasetInfo | None,
    labels: _Beside | None,
    truths: _Beside | None,
) -> Measured:
    """The errors of some people, in order."""
    people, joints = len(block), len(joint_set(PROTOCOL_JOINTS))
    known = block.quality
    pixels = np.full(people, np.nan, np.float32) if known is None else _array(known.reprojection_px)
    raw, aligned = (np.full((people, joints), np.nan, np.float32) for _ in range(2))
    actions, shard = [""] * people, np.full(people, -1, np.int32)
    flags = list(block.flags) if known is not None else [""] * people
    if info is not None and labels is not None:
        for number, places, table in labels.take(block.keys):
            shard[places] = number
            for place, action in zip(places, table["action"].to_pylist(), strict=True):
                actions[place] = sys.intern(action or "")
            if known is None:
                pixels[places], found = _seen(source, block.estimate, places, table, info)
                for place, flag in zip(places, found, strict=True):
                    flags[place] = flag
    if info is not None and truths is not None:
        for _, places, table in truths.take(block.keys):
            landmarks = padded(table, "landmarks_mm").unflatten(-1, (len(info.landmarks), 3))
            target = true_joints(Truth([], info.landmarks, landmarks, None))
            guess = camera_joints(source.template, block.estimate[places], PROTOCOL_JOINTS) * 1000
            raw[places], aligned[places] = map(_array, joint_distances(guess, target))
    return Measured(block.keys, actions, flags, shard, pixels, raw, aligned)


def joint_distances(
    predicted_mm: Float[torch.Tensor, "people joints 3"],
    target_mm: Float[torch.Tensor, "people joints 3"],
) -> tuple[Float[torch.Tensor, "people joints"], Float[torch.Tensor, "people joints"]]:
    """Each joint's distance (mm), relative to the pelvis, and after Procrustes.

    Their means over the joints are `metrics.joint_errors`' raw and aligned.
    """
    roots = joint_set(PROTOCOL_JOINTS).root_indices
    predicted, target = (
        pose - pose[:, roots].mean(1, keepdim=True) for pose in (predicted_mm, target_mm)
    )
    finite = target.isfinite().flatten(1).all(1) & predicted.isfinite().flatten(1).all(1)
    best = torch.full_like(predicted, torch.nan)
    best[finite] = procrustes(predicted[finite], target[finite])
    return (predicted - target).norm(dim=-1), (best - target).norm(dim=-1)


def _seen(
    source: Source, estimate: Estimate, places: list[int], table: pa.Table, info: DatasetInfo
) -> tuple[Float[np.ndarray, "rows"], list[str]]:
    """How far some people are from their labels (px), and what is doubtful about them."""
    seen = people_in(table, info, [])
    quality = quality_of(
        source.template, estimate[places], seen.observations, seen.crop, RegistrationConfig()
    )
    return _array(quality.reprojection_px), _doubts(
        quality.reprojection_px, quality.facing, seen.crop
    )


def _doubts(pixels: torch.Tensor, facing: torch.Tensor, crop: Crop) -> list[str]:
    """`flags_of` for predictions, to which nothing was fitted: convergence says nothing of them."""
    fitted = torch.ones_like(facing) > 0
    return flags_of(Quality(facing, facing, facing, pixels, facing, fitted), crop)


def _together(parts: Sequence[Measured], joints: int) -> Measured:
    def joined(name: str, empty: Shaped[np.ndarray, "..."]) -> Any:
        return np.concatenate([empty, *(getattr(part, name) for part in parts)])

    none = np.zeros((0, joints), np.float32)
    return Measured(
        _chained(part.keys for part in parts),
        _chained(part.actions for part in parts),
        _chained(part.flags for part in parts),
        joined("shard", np.zeros(0, np.int32)),
        joined("pixels", np.zeros(0, np.float32)),
        joined("raw_joints", none),
        joined("aligned_joints", none),
    )


def _chained(parts: Iterable[list[str]]) -> list[str]:
    return [text for part in parts for text in part]


def _array(values: torch.Tensor) -> Float[np.ndarray, "..."]:
    return values.detach().cpu().numpy().astype(np.float32, copy=False)
