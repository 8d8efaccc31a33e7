"""Nearest points on a surface for points known to lie near given patches of it: many at a time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from deformlearn.triangles import TriangleSearch, barycentric_of_nearest

_HUGE = 8.0
"""Patches this many times larger than the median one have too many candidates to be worth it."""


class PatchSearch:
    """The exact search of `TriangleSearch`, with the candidates of each patch looked up beforehand.

    A patch is a triangle in space, points are asked for in a patch. The answer is exact: where a
    patch's candidates cannot be shown to hold the nearest triangle, all triangles are searched.
    """

    def __init__(
        self,
        patches: Float[np.ndarray, "patches 3 3"],
        triangles: Float[np.ndarray, "faces 3 3"],
        margin: float,
    ) -> None:
        """`margin`: how far from the surface points usually are (in its unit); more costs time."""
        self._everywhere = TriangleSearch(triangles)
        self.normals = self._everywhere.normals
        self._middle, radius = _spheres(patches)
        # Nothing is in reach of a huge patch: its points are searched for everywhere.
        huge = radius > _HUGE * np.median(radius)
        self._reach = np.where(huge, -np.inf, radius + margin)
        self._centres, self._sizes = _spheres(triangles)
        self._faces, self._least, self._start = self._candidates()

    def nearest(
        self,
        patch: Int[np.ndarray, "n"],
        points: Float[np.ndarray, "n 3"],
        directions: Float[np.ndarray, "n 3"],
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
        """Triangle, barycentric coordinates and distance of the nearest point, facing `directions`.

        Only triangles whose normal lies within 90 degrees of the direction count; where there is
        none the distance is infinite.
        """
        faces = np.zeros(len(points), np.int64)
        barycentric = np.tile([1.0, 0.0, 0.0], (len(points), 1))
        distance = np.full(len(points), np.inf)
        candidate, end = self._start[patch], self._start[patch + 1]
        aside = _length(points - self._middle[patch])
        left = np.flatnonzero(candidate < end)
        while len(left):
            face = self._faces[candidate[left]]
            apart = _length(points[left] - self._centres[face])
            facing = (self.normals[face] * directions[left]).sum(-1) > 0
            rows = facing & (apart - self._sizes[face] < distance[left])
            into, face = left[rows], face[rows]
            triangles = self._everywhere.triangles[face]
            weights = barycentric_of_nearest(points[into], triangles)
            apart = _length(np.einsum("kc,kcd->kd", weights, triangles) - points[into])
            nearer = apart < distance[into]
            into = into[nearer]
            faces[into], barycentric[into] = face[nearer], weights[nearer]
            distance[into] = apart[nearer]
            candidate[left] += 1
            left = left[candidate[left] < end[left]]
            # The rest of the candidates are at least this far from the patch's middle.
            left = left[self._least[candidate[left]] - aside[left] < distance[left]]
        # Every triangle within the patch's reach is a candidate.
        sure = distance <= self._reach[patch] - aside
        rest = np.flatnonzero(~sure)
        faces[rest], barycentric[rest], distance[rest] = self._everywhere.nearest(
            points[rest], directions[rest]
        )
        return faces, barycentric, distance

    def _candidates(
        self,
    ) -> tuple[Int[np.ndarray, "pairs"], Float[np.ndarray, "pairs"], Int[np.ndarray, "starts"]]:
        """Triangles within the reach of each patch, how far from its middle at least, nearest first."""
        # Triangles of a size together, else one large triangle makes every ball large.
        order = self._sizes.argsort()
        patches, faces = [], []
        for group in np.array_split(order, [len(order) // 2, len(order) * 9 // 10]):
            if not len(group):
                continue
            tree = cKDTree(self._centres[group])
            near = tree.query_ball_point(
                self._middle, (self._reach + self._sizes[group[-1]]).clip(0)
            )
            patches.append(np.repeat(np.arange(len(near)), [len(some) for some in near]))
            faces.append(group[np.concatenate([np.asarray(some, np.int64) for some in near])])
        patch, face = np.concatenate(patches), np.concatenate(faces)
        least = _length(self._middle[patch] - self._centres[face]) - self._sizes[face]
        close = least <= self._reach[patch]
        patch, face, least = patch[close], face[close], least[close]
        order = np.lexsort([least, patch])
        count = np.bincount(patch, minlength=len(self._middle))
        return face[order], least[order], np.concatenate([[0], np.cumsum(count)])


def _spheres(
    triangles: Float[np.ndarray, "n 3 3"],
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
    """Middles of triangles, and how far their corners are from them."""
    middle = triangles.mean(1)
    return middle, _length(triangles - middle[:, None]).max(-1)


def _length(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    return np.sqrt(np.einsum("...d,...d->...", vectors, vectors))
