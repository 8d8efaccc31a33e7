"""DensePose's files for synthetic people: charts, IUV and INDS pngs, as the official tools lay them out.

The real `UV_Processed.mat` may not be committed. This one covers SMPL's vertices, where the shipped
table puts them on Anny, with triangles in the charts of Anny's own segments: other charts than
DensePose's, of the same shape, so that everything that reads and carries labels does its real work.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from scipy.spatial import Delaunay

from deformlearn.body import BodyTemplate
from deformlearn.charts import Charts, template_charts
from deformlearn.config import SyntheticConfig
from deformlearn.data.labels import KEYPOINTS
from deformlearn.data.shards import Row
from deformlearn.data.synthetic import make_person
from deformlearn.data.truth import TruthRow
from deformlearn.raster import rasterise
from deformlearn.surfaces import smpl_points_on

SIZE = 256


def write_charts(path: Path, template: BodyTemplate) -> Path:
    """A `UV_Processed.mat` whose labels are those of `densepose_labels`."""
    charts = template_charts(template)
    faces, barycentric = smpl_points_on(template)
    part, u, v = charts.surface_to_chart(faces, barycentric)
    corners, parts = [], []
    for one in range(1, 25):
        mine = np.flatnonzero(part == one)
        # Qhull's triangles of a chart reach across its hollows too, where no label ever lies.
        found = Delaunay(np.stack([u[mine], v[mine]], 1)).simplices
        corners.append(mine[found])
        parts.append(np.full(len(found), one))
    fields = {
        "All_FaceIndices": np.concatenate(parts)[:, None].astype(np.uint8),
        "All_Faces": (np.concatenate(corners) + 1).astype(np.uint32),
        "All_vertices": np.arange(1, len(faces) + 1, dtype=np.uint32)[None],
        "All_U_norm": u.clip(0, 1)[:, None],
        "All_V_norm": v.clip(0, 1)[:, None],
    }
    savemat(path, fields)
    return path


def photographed(
    index: int, template: BodyTemplate, charts: Charts | None = None
) -> tuple[np.ndarray, np.ndarray, Row, TruthRow]:
    """A synthetic person's picture, its IUV image (both SIZE square, RGB and BGR), row and truth."""
    row, truth = make_person(SyntheticConfig(size=SIZE, seed=5), "test", index)
    picture = np.asarray(_opened(row.image))
    return picture, densepose_labels(row, truth, template, charts), row, truth


def densepose_labels(
    row: Row, truth: TruthRow, template: BodyTemplate, charts: Charts | None = None
) -> np.ndarray:
    """(SIZE, SIZE, 3) part, U and V of each pixel, as OpenCV orders them: B, G, R."""
    charts = charts or template_charts(template)
    # The view that takes the known landmarks to their pixels: affine, which this far away it is.
    ones = np.ones((len(KEYPOINTS), 1))
    view, *_ = np.linalg.lstsq(np.hstack([truth.landmarks_mm, ones]), row.keypoints, rcond=None)
    vertices = np.hstack([truth.vertices_mm, np.ones((len(truth.vertices_mm), 1))])
    screen = torch.from_numpy(vertices @ view).float()[None]
    depth = torch.from_numpy(truth.vertices_mm[:, 2]).float()[None]
    seen = rasterise(screen, depth, template.faces, (SIZE, SIZE))
    part, u, v = charts.surface_to_chart(seen.faces.numpy(), seen.barycentric.double().numpy())
    labels = np.zeros((SIZE * SIZE, 3), np.uint8)
    labels[seen.pixels.numpy()] = np.stack([part, np.round(255 * u), np.round(255 * v)], 1)
    return labels.reshape(SIZE, SIZE, 3)


def write_photo(folder: Path, name: str, indices: tuple[int, ...], template: BodyTemplate) -> None:
    """NAME.jpg of people side by side, with NAME_IUV.png and NAME_INDS.png."""
    charts = template_charts(template)
    shots = [photographed(index, template, charts) for index in indices]
    Image.fromarray(np.concatenate([shot[0] for shot in shots], 1)).save(
        folder / f"{name}.jpg", quality=92
    )
    labels = np.concatenate([shot[1] for shot in shots], 1)
    # A png holds red first.
    Image.fromarray(labels[..., ::-1].copy()).save(folder / f"{name}_IUV.png")
    inds = [np.full((SIZE, SIZE), number, np.uint8) for number in range(len(shots))]
    inds = np.concatenate(inds, 1) * (labels[..., 0] > 0)
    Image.fromarray(inds.astype(np.uint8)).save(folder / f"{name}_INDS.png")


def _opened(encoded: bytes | None) -> Image.Image:
    import io

    return Image.open(io.BytesIO(encoded or b"")).convert("RGB")
