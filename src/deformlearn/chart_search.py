"""Which triangle of a flat chart holds a point, and the nearest one where none does: a grid of cells."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

_CELLS = 64
"""Cells along each side of a chart: one to five triangles of a body's mesh fall into one."""

_OUT = 1e-9
"""Barycentric coordinates this little below 0 are rounding: the point is on the edge."""

_AT_ONCE = 1 << 21
"""Pairs of points and edges compared at a time (a few hundred MB)."""


class ChartSearch:
    """Exact point location in charts: faces of several parts, each part flat in the unit square."""

    def __init__(self, parts: Int[np.ndarray, "faces"], uv: Float[np.ndarray, "faces 3 2"]) -> None:
        self._parts, self._uv = parts, uv
        low, high = (_cell(bound) for bound in (uv.min(1), uv.max(1)))
        wide, tall = (high - low + 1).T
        face = np.repeat(np.arange(len(parts)), wide * tall)
        step = np.arange(len(face)) - np.repeat(np.cumsum(wide * tall) - wide * tall, wide * tall)
        x, y = low[face, 0] + step % wide[face], low[face, 1] + step // wide[face]
        cell = self._cells(parts[face], np.stack([x, y], -1))
        order = np.argsort(cell, kind="stable")
        self._faces = face[order]
        count = np.bincount(cell, minlength=(int(parts.max(initial=0)) + 1) * _CELLS**2)
        self._start = np.concatenate([[0], np.cumsum(count)])
        corner, along, across = uv[:, 0], uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
        area = _cross(along, across)
        self._flat = np.abs(area) <= 1e-14
        scale = 1 / np.where(self._flat, 1.0, area)
        # Barycentric coordinates 1 and 2 are linear in u and v: three numbers each.
        self._second = _across(across * scale[:, None], corner)
        self._third = _across(-along * scale[:, None], corner)
        self._turned = area < 0

    def nearest(
        self, part: Int[np.ndarray, "n"], uv: Float[np.ndarray, "n 2"]
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"], Bool[np.ndarray, "n"]]:
        """Face, barycentric coordinates, and whether a triangle holds the point.

        Of several triangles that hold it (where a chart folds) the first is taken; where none does,
        the nearest point of the part's charted area.
        """
        faces, barycentric, inside = self._holding(part, uv)
        for one in np.unique(part[~inside]).tolist():
            rows = np.flatnonzero(~inside & (part == one))
            faces[rows], barycentric[rows] = self._on_rim(one, uv[rows])
        return faces, barycentric, inside

    def _holding(
        self, part: Int[np.ndarray, "n"], uv: Float[np.ndarray, "n 2"]
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"], Bool[np.ndarray, "n"]]:
        cell = self._cells(part, _cell(uv))
        candidate, end = self._start[cell], self._start[cell + 1]
        faces = np.zeros(len(part), np.int64)
        barycentric = np.tile([1.0, 0.0, 0.0], (len(part), 1))
        inside = np.zeros(len(part), bool)
        left = np.flatnonzero(candidate < end)
        while len(left):
            face = self._faces[candidate[left]]
            u, v = uv[left].T
            second, third = (
                table[face, 0] * u + table[face, 1] * v + table[face, 2]
                for table in (self._second, self._third)
            )
            first = 1 - second - third
            holds = (np.minimum(np.minimum(first, second), third) >= -_OUT) & ~self._flat[face]
            rows = left[holds]
            weights = np.stack([first[holds], second[holds], third[holds]], -1).clip(0)
            faces[rows], inside[rows] = face[holds], True
            barycentric[rows] = weights / weights.sum(-1, keepdims=True)
            left = left[~holds]
            candidate[left] += 1
            left = left[candidate[left] < end[left]]
        return faces, barycentric, inside

    def _on_rim(
        self, part: int, uv: Float[np.ndarray, "n 2"]
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
        """Nearest points on the edges that bound a part's charted area."""
        face, side = self._rim[part]
        start, edge = self._uv[face, side], self._uv[face, (side + 1) % 3] - self._uv[face, side]
        length = np.maximum((edge**2).sum(-1), 1e-300)
        best, along = np.zeros(len(uv), np.int64), np.zeros(len(uv))
        step = max(1, _AT_ONCE // len(face))
        for begin in range(0, len(uv), step):
            u, v = (uv[begin : begin + step, axis, None] - start[:, axis] for axis in (0, 1))
            share = ((u * edge[:, 0] + v * edge[:, 1]) / length).clip(0, 1)
            far = (u - share * edge[:, 0]) ** 2 + (v - share * edge[:, 1]) ** 2
            nearest = far.argmin(1)
            best[begin : begin + step] = nearest
            along[begin : begin + step] = share[np.arange(len(nearest)), nearest]
        rows = np.arange(len(uv))
        barycentric = np.zeros((len(uv), 3))
        barycentric[rows, side[best]] = 1 - along
        barycentric[rows, (side[best] + 1) % 3] += along
        return face[best], barycentric

    @cached_property
    def _rim(self) -> dict[int, tuple[Int[np.ndarray, "edges"], Int[np.ndarray, "edges"]]]:
        """Faces and sides of the edges that may bound each part's area.

        Those without a neighbour, and those where the chart folds over or a triangle has no area.
        """
        face, side = np.divmod(np.arange(3 * len(self._parts)), 3)
        ends = np.stack([self._uv[face, side], self._uv[face, (side + 1) % 3]], 1)
        backwards = (ends[:, 0, 0] > ends[:, 1, 0]) | (
            (ends[:, 0, 0] == ends[:, 1, 0]) & (ends[:, 0, 1] > ends[:, 1, 1])
        )
        ends = np.where(backwards[:, None, None], ends[:, ::-1], ends).reshape(-1, 4)
        keys = np.column_stack([self._parts[face], ends])
        _, edge, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        edge = edge.ravel()
        turned = np.bincount(edge, self._turned[face])
        bounds = (count != 2) | (turned == 1)
        kept = bounds[edge] | self._flat[face]
        return {
            int(part): (face[kept & (self._parts[face] == part)],
                        side[kept & (self._parts[face] == part)])
            for part in np.unique(self._parts)
        }  # fmt: skip

    @staticmethod
    def _cells(part: Int[np.ndarray, "n"], cell: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "n"]:
        return (part * _CELLS + cell[:, 1]) * _CELLS + cell[:, 0]


def _cell(uv: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, "n 2"]:
    return (uv * _CELLS).astype(np.int64).clip(0, _CELLS - 1)


def _cross(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _across(
    edge: Float[np.ndarray, "n 2"], corner: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 3"]:
    """Coefficients of `cross(point - corner, edge)` in u, v and 1."""
    return np.stack([edge[:, 1], -edge[:, 0], -_cross(corner, edge)], -1)
