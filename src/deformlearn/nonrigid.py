"""A mesh drawn onto another surface: two-way closest points, ever less stiff (docs/decisions/0013)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix, csr_matrix, diags, vstack
from scipy.sparse.linalg import splu

from deformlearn.meshes import (
    Surface,
    blended,
    bridges,
    closest,
    face_areas,
    spread_vertices,
    vertex_normals,
)

_WAVELENGTHS = np.repeat([0.22, 0.16, 0.11, 0.08, 0.055, 0.04, 0.027, 0.02, 0.014, 0.009, 0.006], 2)
"""Round by round, how long a bump of the displacement (in heights) must be to follow what the closest
points ask for; shorter ones are ironed out."""

_SPACING = 0.0065
"""Distance between samples of the other surface, in heights: 12 mm on a grown person."""

_REACH = 0.011
"""Distance, in heights, at which a closest point counts a quarter; a tenth of the wavelength more."""

_TANGENT = 0.05
"""What a sideways distance counts beside one off the surface."""

_ANCHOR = 3e-4
"""Weight of an anchor in squared heights: that of ten square centimetres of a grown person's skin."""

_HOLD = 1e-4
"""Weight of staying where one is, for what no closest point reaches."""


def drape(
    body: Surface,
    surface: Surface,
    anchors: tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]],
) -> Float[np.ndarray, "vertices 3"]:
    """Vertices of `body`, which lies nearly on `surface`, moved so that they lie on it.

    `anchors` are vertices of the two that belong together. Of the displacement D the integral of
    wavelength^4 |Laplacian of D|^2 is added to that of the squared distances, so that it bends as
    little as it can; how fine either mesh is does not matter. What cannot be seen (eye sockets, the
    mouth) has no closest points: there D stays as it is at the rim, by wavelength^2 |gradient of D|^2.
    """
    # Sewn together where the file's seams split vertices.
    sewn = body.welded
    _, first = np.unique(sewn, return_index=True)
    faces = sewn[body.faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
    start = body.vertices[first]
    seen = np.unique(sewn[body.seen_vertices])
    bending, stretching, areas = _stiffness(start, faces, seen)
    samples = spread_vertices(surface, _SPACING * surface.height)
    normals = vertex_normals(surface)
    ours, theirs = anchors

    places = start.copy()
    for wavelength in _WAVELENGTHS * surface.height:
        reach = _REACH * surface.height + 0.1 * wavelength
        now = body.moved(places[sewn])
        there, blend, apart = closest(surface, places[seen], vertex_normals(now)[first[seen]])
        here, my_blend, back = closest(now, surface.vertices[samples], normals[samples])
        rows = vstack(
            [
                _rows(seen[:, None], np.ones((len(seen), 1)), len(places)),
                _rows(sewn[body.faces[here]], my_blend, len(places)),
                _rows(sewn[ours][:, None], np.ones((len(ours), 1)), len(places)),
            ]
        ).tocsr()
        targets = [surface.at(there, blend), surface.vertices[samples], surface.vertices[theirs]]
        facing = [
            blended(normals, surface.faces, there, blend),
            normals[samples],
            np.zeros((len(ours), 3)),
        ]
        weights = [
            _weights(apart, reach) * areas[seen],
            _weights(back, reach) * areas[seen].sum() / len(samples),
            np.full(len(ours), _ANCHOR * surface.height**2),
        ]
        wanted = _wanted(rows @ places, np.concatenate(targets), np.concatenate(facing))
        weighted = rows.T @ diags(np.concatenate(weights))
        hold = diags(_HOLD * areas)
        stiffness = wavelength**4 * bending + wavelength**2 * stretching
        matrix = stiffness + weighted @ rows + hold
        right = weighted @ (wanted - rows @ start) + hold @ (places - start)
        # Symmetric and positive definite: no pivoting, and an ordering that keeps it sparse.
        factor = splu(
            matrix.tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        places = start + factor.solve(right)
    return places[sewn]


def _wanted(
    places: Float[np.ndarray, "n 3"],
    targets: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, "n 3"]:
    """Where points should go: onto the plane of their target, and a little towards it in the plane.

    One goal in space instead of a plane's equation keeps x, y and z apart: one matrix for all three.
    """
    offset = targets - places
    off = (offset * normals).sum(-1, keepdims=True) * normals
    on_surface = (normals**2).sum(-1, keepdims=True) > 0
    return places + np.where(on_surface, (1 - _TANGENT) * off + _TANGENT * offset, offset)


def _weights(distance: Float[np.ndarray, "n"], reach: float) -> Float[np.ndarray, "n"]:
    """Geman-McClure's weights; zero where nothing was found."""
    return (1 + (distance / reach) ** 2) ** -2.0


def _rows(
    columns: Int[np.ndarray, "n k"], values: Float[np.ndarray, "n k"], width: int
) -> csr_matrix:
    """One row for each point: what it is made of."""
    index = np.repeat(np.arange(len(columns)), columns.shape[1])
    return coo_matrix((values.ravel(), (index, columns.ravel())), (len(columns), width)).tocsr()


def _stiffness(
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    seen: Int[np.ndarray, "seen"],
) -> tuple[csr_matrix, csr_matrix, Float[np.ndarray, "vertices"]]:
    """Matrices of the integrals of |Laplacian|^2 and, over what is hidden, of |gradient|^2; areas.

    Cotangent weights; the areas are those about each vertex.
    """
    corners = vertices[faces]
    thirds = np.repeat(face_areas(vertices, faces) / 3, 3)
    areas = np.bincount(faces.ravel(), thirds, len(vertices))
    areas = np.maximum(areas, 0.1 * np.median(areas[areas > 0]))
    starts, ends, weights = [], [], []
    for corner in range(3):
        opposite = (corner + 2) % 3
        to_start = corners[:, corner] - corners[:, opposite]
        to_end = corners[:, (corner + 1) % 3] - corners[:, opposite]
        doubled = np.linalg.norm(np.cross(to_start, to_end), axis=-1)
        cotangent = (to_start * to_end).sum(-1) / np.maximum(doubled, 1e-12)
        starts.append(faces[:, corner])
        ends.append(faces[:, (corner + 1) % 3])
        # Bounded: negative weights and those of slivers would make the matrix ill-conditioned.
        weights.append(np.clip(cotangent, 0.05, 5.0) / 2)
    ties = bridges(vertices, faces)
    start, end = np.concatenate([*starts, ties[:, 0]]), np.concatenate([*ends, ties[:, 1]])
    weight = np.concatenate([*weights, np.ones(len(ties))])
    hidden = np.ones(len(vertices), bool)
    hidden[seen] = False
    inside = hidden[start] | hidden[end]
    inside[len(start) - len(ties) :] = True  # what ties an eye to its lids
    laplacian = _laplacian(start, end, weight, len(vertices))
    stretching = _laplacian(start[inside], end[inside], weight[inside], len(vertices))
    return (laplacian @ diags(1 / areas) @ laplacian).tocsr(), stretching, areas


def _laplacian(
    start: Int[np.ndarray, "edges"],
    end: Int[np.ndarray, "edges"],
    weight: Float[np.ndarray, "edges"],
    size: int,
) -> csr_matrix:
    index = (np.concatenate([start, end]), np.concatenate([end, start]))
    beside = coo_matrix((np.tile(weight, 2), index), (size, size)).tocsr()
    return (diags(np.asarray(beside.sum(1)).ravel()) - beside).tocsr()
