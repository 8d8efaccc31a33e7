"""A template's surface laid flat in one image: its 24 charts as tiles, eight in a row.

Tile p, counted along the rows from the upper left, is the chart of segment p (charts.template_charts);
u runs to the right and v upwards. The fourth row is empty, for sides are powers of two, as older readers
want them. The layout depends on the template alone, so that the textures of all
people fit one another, texel by texel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.charts import template_charts
from deformlearn.raster import Fragments, rasterise

COLUMNS, ROWS = 8, 4

GUTTER = 4
"""Texels around each tile, so that filters find nothing of another part."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Where each face lies in the image, and which surface point each texel shows."""

    size: tuple[int, int]
    """Rows and columns."""
    uv: Float[np.ndarray, "faces 3 2"]
    """Corners of the faces, in [0, 1] from the upper left. Faces in no chart (the inside of the mouth,
    between fingers) are one point: the middle of the nearest face that is in one."""
    shown: Fragments
    """The surface point of every texel that shows one, in the order of their `pixels`."""
    areas: Float[Tensor, "texels"]
    """Square metres of the surface at rest that each of these texels shows."""
    nearest: Int[np.ndarray, "rows columns"]
    """For every texel of the image the nearest of these, or itself: filters look beyond charts' edges."""


def atlas_of(template: BodyTemplate, tile: int = 256) -> Atlas:
    """The atlas of a template, with tiles of so many texels."""
    charts = template_charts(template)
    size = np.array([COLUMNS, ROWS]) * tile
    row, column = np.divmod(np.maximum(charts.parts - 1, 0), COLUMNS)
    corner = np.stack([column, row], -1)[:, None] * tile + GUTTER
    upwards = np.stack([charts.uv[..., 0], 1 - charts.uv[..., 1]], -1)
    place = corner + upwards * (tile - 2 * GUTTER)
    triangles = template.vertices.double().cpu().numpy()[charts.corners]
    middles = triangles.mean(1)
    inside, outside = np.flatnonzero(charts.parts > 0), np.flatnonzero(charts.parts == 0)
    _, nearest = cKDTree(middles[inside]).query(middles[outside])
    place[outside] = place[inside[nearest]].mean(1, keepdims=True)
    screen = torch.from_numpy(place[inside].reshape(1, -1, 2)).float()
    split = torch.arange(screen.shape[1]).view(-1, 3)
    # Flat: where two faces of a chart overlap, the first one is shown.
    found = rasterise(
        screen, torch.zeros(screen.shape[:2]), split, (int(size[1]), int(size[0])), both_sides=True
    )
    shown = replace(found, faces=torch.from_numpy(inside)[found.faces])
    area = np.linalg.norm(np.cross(*np.diff(triangles, axis=1).swapaxes(0, 1)), axis=-1) / 2
    each = torch.from_numpy(area) / torch.bincount(shown.faces, minlength=len(area)).clamp_min(1)
    number = np.full((int(size[1]), int(size[0])), -1)
    number.reshape(-1)[shown.pixels.numpy()] = range(len(shown.pixels))
    around = distance_transform_edt(number < 0, return_distances=False, return_indices=True)
    return Atlas(
        (int(size[1]), int(size[0])),
        place / size,
        shown,
        each[shown.faces].float(),
        number[tuple(around)],
    )
