"""Nearest points on triangles in space."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


class TriangleSearch:
    """Nearest points on a fixed set of triangles in space."""

    def __init__(self, triangles: Float[np.ndarray, "faces 3 3"]) -> None:
        # SciPy takes a third of a second to import; who loads a cached body needs none of it.
        from scipy.spatial import cKDTree

        self.triangles = triangles
        self.normals = normals(triangles)
        centres = triangles.mean(1)
        reach = np.linalg.norm(triangles - centres[:, None], axis=-1).max(-1)
        # Triangles of a size are searched together: one long triangle would make the bound of
        # `nearest` useless for all the small ones.
        order = reach.argsort()
        sizes = np.split(order, (len(order) * np.array([0.5, 0.8, 0.95, 0.99])).astype(int))
        self._groups = [
            (faces, cKDTree(centres[faces]), reach[faces[-1]]) for faces in sizes if len(faces)
        ]

    def nearest(
        self,
        points: Float[np.ndarray, "n 3"],
        directions: Float[np.ndarray, "n 3"] | None = None,
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
        """Triangle, barycentric coordinates and distance of the nearest point of all triangles.

        With `directions`, only triangles whose normal points the same way (within 90 degrees)
        count; where there is none the distance is infinite.
        """
        faces = np.zeros(len(points), np.int64)
        barycentric = np.tile([1.0, 0.0, 0.0], (len(points), 1))
        distance = np.full(len(points), np.inf)
        for group, tree, reach in self._groups:
            left, count = np.arange(len(points)), 4
            while len(left):
                count = min(count, len(group))
                to_centre, near = tree.query(points[left], k=np.arange(1, count + 1))
                # A triangle not among these has its centre farther away than the last of them, so
                # its nearest point is at best that far less the reach of the group's triangles.
                close = to_centre - reach < distance[left, None]
                rows, columns = close.nonzero()
                candidates = group[near[rows, columns]]
                weights = barycentric_of_nearest(points[left[rows]], self.triangles[candidates])
                found = np.einsum("kc,kcd->kd", weights, self.triangles[candidates])
                apart = np.linalg.norm(found - points[left[rows]], axis=-1)
                if directions is not None:
                    along = (self.normals[candidates] * directions[left[rows]]).sum(-1)
                    apart = np.where(along > 0, apart, np.inf)
                # Best last, so that of several writes to a point its nearest stays.
                best = np.argsort(-apart, kind="stable")
                best = best[apart[best] < distance[left[rows[best]]]]
                into = left[rows[best]]
                faces[into], barycentric[into] = candidates[best], weights[best]
                distance[into] = apart[best]
                left = left[(distance[left] > to_centre[:, -1] - reach) & (count < len(group))]
                count *= 4
        return faces, barycentric, distance


def barycentric_of_nearest(
    points: Float[np.ndarray, "n 3"], triangles: Float[np.ndarray, "n 3 3"]
) -> Float[np.ndarray, "n 3"]:
    """Barycentric coordinates of each triangle's point nearest to its point.

    Either the foot of the perpendicular, or the best of the three edges' nearest points. Degenerate
    triangles have no perpendicular and are their edges.
    """
    a, b, c = triangles[..., 0, :], triangles[..., 1, :], triangles[..., 2, :]
    ab, ac, ap = b - a, c - a, points - a
    dot = lambda x, y: (x * y).sum(-1)  # noqa: E731 (a sign, not a function)
    d00, d01, d11, d20, d21 = dot(ab, ab), dot(ab, ac), dot(ac, ac), dot(ap, ab), dot(ap, ac)
    area = d00 * d11 - d01 * d01
    solid = area > 1e-14 * d00 * d11
    area = np.where(solid, area, 1)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    weights = np.stack([1 - v - w, v, w], -1)
    best = np.where(solid & (weights >= 0).all(-1), 0.0, np.inf)
    for start in range(3):
        end = (start + 1) % 3
        origin, edge = triangles[..., start, :], triangles[..., end, :] - triangles[..., start, :]
        along = dot(points - origin, edge) / np.maximum(dot(edge, edge), 1e-300)
        along = np.clip(along, 0, 1)
        away = points - origin - along[..., None] * edge
        distance = dot(away, away)
        nearer = (best > 0) & (distance < best)
        best = np.where(nearer, distance, best)
        on_edge = np.zeros_like(weights)
        on_edge[..., start], on_edge[..., end] = 1 - along, along
        weights = np.where(nearer[..., None], on_edge, weights)
    return weights


def normals(triangles: Float[np.ndarray, "*f 3 3"]) -> Float[np.ndarray, "*f 3"]:
    """Unit normals; zero for degenerate triangles."""
    a, b, c = triangles[..., 0, :], triangles[..., 1, :], triangles[..., 2, :]
    normals = np.cross(b - a, c - a)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-300)
