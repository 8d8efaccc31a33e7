"""The tips of fingers, found from the shape of a hand alone (0013)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from deformlearn.meshes import Surface, graph_of

_FINGER = 0.014
"""How far, in heights, a tip must stand out of the hand to be a finger's: 2.5 cm on a grown person."""


def tips_of(surface: Surface, hand: Bool[np.ndarray, "vertices"]) -> Int[np.ndarray, "tips"]:
    """Vertices at the ends of what stands out of a hand, in no particular order.

    Tips are the peaks of the distance, along the surface, from where the hand begins. A peak counts
    if one has to go down from it by a finger's length to reach a higher one.
    """
    first = np.unique(surface.welded, return_index=True)[1]
    graph = graph_of(surface.vertices[first], surface.welded[surface.faces])
    inside = hand[first]
    mine = np.flatnonzero(inside)
    border = np.unique(graph[~inside].tocoo().col)
    border = border[inside[border]]
    if not len(border):
        return np.zeros(0, np.int64)
    within = graph[mine][:, mine]
    height = dijkstra(within, indices=np.searchsorted(mine, border), min_only=True)
    height = np.where(np.isfinite(height), height, 0.0)
    peaks = _peaks(within, height, _FINGER * surface.height)
    return first[mine[peaks]]


def matching(
    ours: Float[np.ndarray, "n 3"], theirs: Float[np.ndarray, "n 3"]
) -> Int[np.ndarray, "n"]:
    """For each of our points the one of theirs at the same place among its fellows."""
    apart = (ours - ours.mean(0))[:, None] - (theirs - theirs.mean(0))[None]
    return linear_sum_assignment((apart**2).sum(-1))[1]


def _peaks(
    graph: csr_matrix, height: Float[np.ndarray, "vertices"], prominence: float
) -> list[int]:
    """Vertices higher than all around them out to where the ground falls by `prominence`."""
    # The land rises out of a falling sea: islands are born at their tops and, where two meet, the
    # lower top is done with. Plain lists: numpy's numbers are slow one at a time.
    level, starts, neighbours = height.tolist(), graph.indptr.tolist(), graph.indices.tolist()
    top = [-1] * len(level)
    found = []
    for vertex in np.argsort(-height, kind="stable").tolist():
        top[vertex] = vertex
        for near in neighbours[starts[vertex] : starts[vertex + 1]]:
            if top[near] < 0:
                continue
            low, high = sorted((_summit(top, near), _summit(top, vertex)), key=level.__getitem__)
            if low == high:
                continue
            if level[low] - level[vertex] > prominence:
                found.append(low)
            top[low] = high
    last = {_summit(top, vertex) for vertex in range(len(level))}
    return sorted([*found, *(vertex for vertex in last if level[vertex] > prominence)])


def _summit(top: list[int], vertex: int) -> int:
    while top[vertex] != vertex:
        top[vertex] = top[top[vertex]]
        vertex = top[vertex]
    return vertex
