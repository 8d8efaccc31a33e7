"""Triangle meshes as surfaces: what can be seen of them, evenly spread samples, and their edges."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from deformlearn.body import BodyTemplate
from deformlearn.errors import InputError
from deformlearn.raster import rasterise
from deformlearn.triangles import TriangleSearch, barycentric_of_nearest, normals

_VIEW = 500
"""Pixels a side of the views that decide what can be seen: 4 mm a pixel on a grown person."""

_BEHIND = 0.006
"""How far, in heights, a face may lie behind what a view shows and still count as seen by it."""

_TURNED = 0.005
"""How much farther, in heights, a point that faces the same way may be than one that does not: less
than a finger is thick."""

_CANDIDATES = 8
"""Faces looked at for each point where the nearest need not be exact."""


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh, y up, facing +z, in any unit."""

    name: str
    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    landmarks: Mapping[str, Float[np.ndarray, "3"]] = field(default_factory=dict)
    """Places of landmarks or joints, named as a template's landmarks are; they may be none."""
    seen: Int[np.ndarray, "seen"] | None = None
    """Faces that can be seen from outside; found out where it is None."""

    def __post_init__(self) -> None:
        what = f"the surface {self.name!r}"
        if not len(self.faces) or not len(self.vertices):
            raise InputError(f"{what} has no faces; give a mesh of triangles")
        if not np.isfinite(self.vertices).all():
            bad = int((~np.isfinite(self.vertices).all(1)).argmax())
            raise InputError(f"{what} has a vertex that is not finite (number {bad}); repair it")
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            raise InputError(
                f"{what} has a face that names vertex {self.faces.max()}, "
                f"but its vertices are 0..{len(self.vertices) - 1}"
            )
        if not self.height > 0:
            raise InputError(f"{what} is flat: its vertices are all at one height (y)")

    @staticmethod
    def of(template: BodyTemplate) -> Surface:
        """A template's mesh at rest with its landmarks."""
        names, places = template.landmark_names, _array(template.landmarks.rest)
        return Surface(
            template.name,
            _array(template.vertices),
            template.faces.cpu().numpy().astype(np.int64),
            dict(zip(names, places, strict=True)),
        )

    @property
    def height(self) -> float:
        """Extent along y."""
        return float(np.ptp(self.vertices[:, 1]))

    @cached_property
    def fingerprint(self) -> str:
        """Short content hash of the mesh."""
        digest = hashlib.sha256(self.vertices.astype("<f8").tobytes())
        digest.update(self.faces.astype("<i8").tobytes())
        return digest.hexdigest()[:12]

    @cached_property
    def search(self) -> TriangleSearch:
        """Nearest points on the faces that can be seen."""
        return TriangleSearch(self.vertices[self.faces[self.seen_faces]])

    @cached_property
    def seen_faces(self) -> Int[np.ndarray, "seen"]:
        """Faces that can be seen from outside; not the inside of a mouth, nor skin under clothes."""
        return np.flatnonzero(_seen(self)) if self.seen is None else self.seen

    @cached_property
    def seen_vertices(self) -> Int[np.ndarray, "seen"]:
        """Vertices of the faces that can be seen."""
        return np.unique(self.faces[self.seen_faces])

    @cached_property
    def welded(self) -> Int[np.ndarray, "vertices"]:
        """Number of each vertex's place: files split vertices along seams of their textures."""
        rounded = np.round(self.vertices / (1e-6 * self.height)).astype(np.int64)
        return np.unique(rounded, axis=0, return_inverse=True)[1].reshape(-1)

    @cached_property
    def centres(self) -> tuple[Float[np.ndarray, "seen 3 3"], Float[np.ndarray, "seen 3"], cKDTree]:
        """Triangles that can be seen, their normals, and a tree of their middles."""
        triangles = self.vertices[self.faces[self.seen_faces]]
        return triangles, normals(triangles), cKDTree(triangles.mean(1))

    def moved(self, vertices: Float[np.ndarray, "vertices 3"]) -> Surface:
        """The same mesh elsewhere; its seams and what can be seen stay what they were."""
        moved = Surface(self.name, vertices, self.faces, seen=self.seen_faces)
        # A cached property is an entry of the instance's dictionary.
        moved.__dict__["welded"] = self.welded
        return moved

    def at(
        self, faces: Int[np.ndarray, "n"], barycentric: Float[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, "n 3"]:
        """Places of surface points."""
        return np.einsum("nc,ncd->nd", barycentric, self.vertices[self.faces[faces]])

    def nearest(
        self, points: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"]
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
        """Face, barycentric coordinates and distance of the nearest point that faces the same way.

        Only what can be seen counts. Where what faces that way is much farther than what does not
        (the back of an ear, on a head without ears), the nearest of all is taken.
        """
        faces, barycentric, distance = self.search.nearest(points, directions)
        far = np.flatnonzero(distance > _TURNED * self.height)
        any_way = self.search.nearest(points[far])
        nearer = distance[far] > any_way[2] + _TURNED * self.height
        for mine, found in zip((faces, barycentric, distance), any_way, strict=True):
            mine[far[nearer]] = found[nearer]
        return self.seen_faces[faces], barycentric, distance


def closest(
    surface: Surface, points: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"]
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
    """As `Surface.nearest` among the faces with the nearest middles, ten times as fast.

    Only faces within 60 degrees of the direction count; where there is none the distance is infinite.
    """
    triangles, outward, tree = surface.centres
    count = min(_CANDIDATES, len(triangles))
    candidates = tree.query(points, k=np.arange(1, count + 1))[1]
    rows = np.repeat(np.arange(len(points)), count)
    flat = candidates.ravel()
    blends = barycentric_of_nearest(points[rows], triangles[flat])
    found = np.einsum("kc,kcd->kd", blends, triangles[flat])
    apart = np.linalg.norm(found - points[rows], axis=-1)
    apart[(outward[flat] * directions[rows]).sum(-1) < 0.5] = np.inf
    best = apart.reshape(-1, count).argmin(1) + count * np.arange(len(points))
    return surface.seen_faces[flat[best]], blends[best], apart[best]


def face_areas(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Float[np.ndarray, "faces"]:
    """Area of every face."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2


def vertex_normals(surface: Surface) -> Float[np.ndarray, "vertices 3"]:
    """Unit normals, area-weighted over all faces at a vertex's place.

    Zero where faces cancel out, as those of a sheet with two sides (hair, a cape) do.
    """
    a, b, c = (surface.vertices[surface.faces[:, corner]] for corner in range(3))
    doubled = np.cross(b - a, c - a)
    size = np.linalg.norm(doubled, axis=-1)
    total, most = np.zeros((surface.welded.max() + 1, 3)), np.zeros(surface.welded.max() + 1)
    for corner in range(3):
        np.add.at(total, surface.welded[surface.faces[:, corner]], doubled)
        np.add.at(most, surface.welded[surface.faces[:, corner]], size)
    length = np.linalg.norm(total, axis=-1)
    length = np.where(length > 1e-6 * most, length, np.inf)
    return (total / length[:, None])[surface.welded]


def blended(
    values: Float[np.ndarray, "vertices 3"],
    corners: Int[np.ndarray, "faces 3"],
    faces: Int[np.ndarray, "n"],
    barycentric: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, "n 3"]:
    """Directions given at vertices, at surface points, again of length one."""
    blend = np.einsum("nc,ncd->nd", barycentric, values[corners[faces]])
    return blend / np.linalg.norm(blend, axis=-1, keepdims=True).clip(1e-300)


def edges_of(faces: Int[np.ndarray, "faces 3"]) -> Int[np.ndarray, "edges 2"]:
    """Every edge once, lower vertex first."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return np.unique(np.sort(pairs, axis=1), axis=0)


def graph_of(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> csr_matrix:
    """Edge lengths between vertices, symmetric; pieces that do not touch are tied by bridges."""
    edges = np.concatenate([edges_of(faces), bridges(vertices, faces)])
    edges = edges[edges[:, 0] != edges[:, 1]]
    length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=-1).clip(1e-9)
    shape = (len(vertices), len(vertices))
    return coo_matrix((np.tile(length, 2), (edges.T.ravel(), edges.T[::-1].ravel())), shape).tocsr()


def bridges(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Int[np.ndarray, "bridges 2"]:
    """Pairs that tie every vertex of a smaller piece of the mesh to the nearest of larger ones.

    Eyes, teeth, hair and clothes are pieces of their own; they must go where the body beside them goes.
    """
    edges = edges_of(faces)
    shape = (len(vertices), len(vertices))
    adjacency = coo_matrix((np.ones(len(edges)), edges.T), shape)
    used = np.unique(faces)
    piece = connected_components(adjacency, directed=False)[1]
    kinds, sizes = np.unique(piece[used], return_counts=True)
    order = kinds[np.argsort(-sizes, kind="stable")]
    placed = _Placed(vertices)
    found = [np.zeros((0, 2), np.int64)]
    for kind in order:
        mine = used[piece[used] == kind]
        if kind != order[0]:
            found.append(np.stack([mine, placed.nearest(mine)], -1))
        placed.add(mine)
    return np.concatenate(found)


class _Placed:
    """Vertices that come piece by piece, and the nearest of them.

    In a few trees, each larger than the next: a vertex is put in a new tree as often as their number's
    logarithm says, so hundreds of pieces cost little more than one.
    """

    def __init__(self, vertices: Float[np.ndarray, "vertices 3"]) -> None:
        self._vertices = vertices
        self._trees: list[tuple[cKDTree, Int[np.ndarray, "some"]]] = []

    def add(self, those: Int[np.ndarray, "some"]) -> None:
        while self._trees and len(self._trees[-1][1]) <= len(those):
            those = np.concatenate([self._trees.pop()[1], those])
        self._trees.append((cKDTree(self._vertices[those]), those))

    def nearest(self, asking: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """The nearest one to each of some vertices; of equals, one of the larger trees."""
        away = np.full(len(asking), np.inf)
        nearest = np.zeros(len(asking), np.int64)
        for tree, those in self._trees:
            distance, place = tree.query(self._vertices[asking])
            closer = distance < away
            away[closer], nearest[closer] = distance[closer], those[place[closer]]
        return nearest


def spread_vertices(surface: Surface, spacing: float) -> Int[np.ndarray, "kept"]:
    """About one of the vertices that can be seen in each cube of side `spacing`, nearest its middle.

    The cubes are mirror images of one another in x = 0, so a mirrored mesh keeps mirrored vertices.
    """
    cells = surface.vertices[surface.seen_vertices] / spacing
    # The sign of x is a fourth coordinate; what lies in the mirror's plane is on neither side.
    side = np.sign(np.where(np.abs(cells[:, 0]) < 1e-4, 0, cells[:, 0]))
    cells = np.column_stack([np.abs(cells[:, 0]), cells[:, 1:]])
    cell = np.floor(cells)
    order = np.argsort(np.linalg.norm(cells - cell - 0.5, axis=-1), kind="stable")
    key = np.column_stack([cell, side]).astype(np.int64)
    _, first = np.unique(key[order], axis=0, return_index=True)
    return surface.seen_vertices[np.sort(order[first])]


def _seen(surface: Surface) -> Bool[np.ndarray, "faces"]:
    """Faces whose middle some of 26 orthographic views shows."""
    vertices, faces = surface.vertices, surface.faces
    middle = (vertices.max(0) + vertices.min(0)) / 2
    points = vertices - middle
    half = 1.01 * np.linalg.norm(points, axis=-1).max()
    centres = points[faces].mean(1)
    behind = _BEHIND * surface.height
    seen = np.zeros(len(faces), bool)
    grid = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for direction in grid[np.abs(grid).sum(1) > 0]:
        right, up, towards = _view_axes(direction)

        def screen(x: Float[np.ndarray, "n 3"], axes: tuple = (right, up)) -> np.ndarray:
            return (x @ np.stack(axes, -1) / half * [1, -1] + 1) * _VIEW / 2

        depth = np.full(_VIEW * _VIEW, np.inf)
        shown = rasterise(
            torch.from_numpy(screen(points)[None]),
            torch.from_numpy(2 * half - points @ towards)[None],
            torch.from_numpy(np.ascontiguousarray(faces)),
            (_VIEW, _VIEW),
            both_sides=True,
        )
        depth[shown.pixels.numpy()] = shown.depth.numpy()
        column, row = np.floor(screen(centres)).astype(np.int64).clip(0, _VIEW - 1).T
        a, b, c = (points[faces[:, corner]] for corner in range(3))
        facing = np.cross(b - a, c - a) @ towards > 0
        seen |= facing & (2 * half - centres @ towards < depth[row * _VIEW + column] + behind)
    return seen


def _view_axes(direction: Int[np.ndarray, "3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    towards = direction / np.linalg.norm(direction)
    helper = np.array([0.0, 1.0, 0.0]) if abs(towards[1]) < 0.9 else np.array([0.0, 0.0, 1.0])
    right = np.cross(helper, towards)
    right = right / np.linalg.norm(right)
    return right, np.cross(towards, right), towards


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()
