"""Which rows of a shard cannot be used, and why: one reason a row, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deformlearn.data.tables import repeated
from deformlearn.skeleton import joint_set

_POINT_COLUMNS = ("point_x", "point_y", "point_face", "point_u", "point_v", "point_weight")
_KEYPOINT_COLUMNS = ("keypoint_x", "keypoint_y", "keypoint_weight")


@dataclass(frozen=True)
class Rejected:
    """A row (or a whole shard) that was left out."""

    where: str
    """Shard, row and key, as a person would look for them."""
    reason: str


def without_details(reason: str) -> str:
    """A reason without its own numbers and paths, so that like ones can be counted together."""
    return " ".join(
        "…" if any(c.isdigit() for c in word) or "/" in word else word for word in reason.split()
    )


def described(values: Any) -> dict[str, Any]:
    """What a dataset.json says; a value of another kind than is wanted is a TypeError that names it."""
    if not isinstance(values, dict):
        raise TypeError("it must be one object {...}")
    kinds = {"template": str, "fingerprint": str, "joints": str, "format": int}
    for name, kind in kinds.items():
        if not isinstance(values.get(name, kind()), kind):
            wanted = "text" if kind is str else "a whole number"
            raise TypeError(f"{name} must be {wanted}, not {values[name]!r}")
    landmarks = values.get("landmarks", [])
    if not (isinstance(landmarks, list) and all(isinstance(one, str) for one in landmarks)):
        raise TypeError("landmarks must be a list of names")
    return values


def problems(table: pa.Table, joints: str, faces: int | None) -> dict[int, str]:
    """Reason for each unusable row of a table of observations.

    `faces` is the number of faces of the template; None leaves their range unchecked. Every check looks
    at all rows at once.
    """
    found: dict[int, str] = {}

    def report(bad: np.ndarray, reason: str) -> None:
        for row in np.flatnonzero(bad):
            found.setdefault(int(row), reason)

    keys = table["key"].combine_chunks().fill_null("")
    report(pc.equal(keys, "").to_numpy(zero_copy_only=False), "no key")
    report(repeated(keys), "the key stands twice")
    for name in (*_POINT_COLUMNS, *_KEYPOINT_COLUMNS, "crop_x", "crop_y", "crop_half"):
        report(table[name].is_null().to_numpy(), f"no {name}")
    centre = np.stack([_floats(table, name) for name in ("crop_x", "crop_y", "crop_half")])
    report(~np.isfinite(centre).all(0), "the crop is not finite")
    report(~(centre[2] > 0), "the crop has no size: crop_half must be over 0")

    counts = {name: _lengths(table, name) for name in (*_POINT_COLUMNS, *_KEYPOINT_COLUMNS)}
    for name in _POINT_COLUMNS[1:]:
        report(counts[name] != counts["point_x"], f"{name} and point_x differ in length")
    wanted = len(joint_set(joints))
    for name in _KEYPOINT_COLUMNS:
        report(counts[name] != wanted, f"{name} must hold the {wanted} key points of {joints}")

    for name in counts:
        report(_nulls(table, name), f"{name} holds a null")
    for name in ("point_x", "point_y", "point_u", "point_v", "point_weight", *_KEYPOINT_COLUMNS):
        report(_any(table, name, lambda v: ~np.isfinite(v)), f"{name} is NaN or infinite")
    for name in ("point_weight", "keypoint_weight"):
        report(_any(table, name, lambda v: v < 0), f"{name} is negative")
    for name in ("point_u", "point_v"):
        outside = _any(table, name, lambda v: (v < -1e-3) | (v > 1 + 1e-3))
        report(outside, f"{name} is no barycentric coordinate: it must be in [0, 1]")
    highest = np.inf if faces is None else faces - 1
    wrong = _any(table, "point_face", lambda v: (v < 0) | (v > highest))
    report(wrong, f"point_face must be a face of the template, 0 to {highest}")

    some = _any(table, "point_weight", lambda v: v > 0) | _any(
        table, "keypoint_weight", lambda v: v > 0
    )
    report(~some, "nothing was seen: no point and no key point has a weight")
    few = _any(table, "point_weight", lambda v: v > 0, count=True)
    alone = ~_any(table, "keypoint_weight", lambda v: v > 0) & (few < 6)
    report(alone, "too little was seen: give at least 6 points or some key points")
    return found


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)


def _lengths(table: pa.Table, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    return np.diff(column.offsets.to_numpy())


def _counts(table: pa.Table, name: str) -> np.ndarray:
    """Lengths of lists that may be missing (-1)."""
    return pc.list_value_length(table[name]).fill_null(-1).to_numpy()


def _any(table: pa.Table, name: str, test, *, count: bool = False) -> np.ndarray:
    """Whether (or, with `count`, how often) a test holds in each row's list."""
    column = table[name].combine_chunks()
    hits = test(column.flatten().to_numpy(zero_copy_only=False))
    if not hits.any():  # as a rule: no bad value at all
        return np.zeros(len(column), np.int64 if count else bool)
    totals = _totals(column, hits)
    return totals if count else totals > 0


def _nulls(table: pa.Table, name: str) -> np.ndarray:
    """Whether there is a null in each row's list."""
    column = table[name].combine_chunks()
    flat = column.flatten()
    if not flat.null_count:  # as a rule
        return np.zeros(len(column), bool)
    return _totals(column, flat.is_null().to_numpy(zero_copy_only=False)) > 0


def _totals(column: pa.ListArray, hits: np.ndarray) -> np.ndarray:
    """How many hits there are in each row's list."""
    sums = np.concatenate([[0], np.cumsum(hits)])
    offsets = column.offsets.to_numpy() - column.offsets[0].as_py()
    return sums[offsets[1:]] - sums[offsets[:-1]]


def truth_problems(table: pa.Table, landmarks: int) -> dict[int, str]:
    """Reason for each unusable row of a table of truth; meshes are checked where all have one."""
    found: dict[int, str] = {}
    wrong = _counts(table, "landmarks_mm") != 3 * landmarks
    broken = _any(table, "landmarks_mm", lambda v: ~np.isfinite(v)) > 0
    reasons = [
        (wrong, f"landmarks_mm must hold the x, y, z of the {landmarks} landmarks of dataset.json"),
        (broken, "landmarks_mm is NaN or infinite"),
    ]
    if table["vertices_tenth_mm"].null_count == 0 and len(table):
        lengths = _counts(table, "vertices_tenth_mm")
        uneven = (lengths != lengths[0]) | (lengths % 3 != 0)
        reasons.append(
            (uneven, "vertices_tenth_mm must hold x, y, z of as many vertices as others have")
        )
    for bad, reason in reasons:
        for row in np.flatnonzero(bad):
            found.setdefault(int(row), reason)
    return found
