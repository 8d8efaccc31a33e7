"""One posed mesh as OBJ (text, read everywhere) or PLY (binary, small); each states unit and axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.exports.axes import AXES, Axes
from deformlearn.files import write_atomically
from deformlearn.raster import vertex_normals


def write_obj(
    path: Path,
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    *,
    axes: Axes = "template",
    comments: Sequence[str] = (),
) -> None:
    """Write one mesh (metres) as Wavefront OBJ; its header states unit and axes.

    `axes` names the axes that `vertices` are in (see `estimate_mesh`); nothing is turned here. Every
    number reads back to the same float32. A vertex that is not finite, or a face that names a vertex
    that does not exist, is a ValueError.
    """
    _check(vertices, faces)
    lines = [f"# {line}" for line in _header(axes, comments)]
    # Nine significant digits are what a float32 needs to come back exactly.
    lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices.detach().cpu().float().tolist()]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces.cpu().tolist()]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def write_ply(
    path: Path,
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    *,
    axes: Axes = "template",
    comments: Sequence[str] = (),
) -> None:
    """Write one mesh (metres) with its normals as binary PLY; otherwise as `write_obj`.

    Comments are ASCII: readers of PLY do not agree on anything else.
    """
    _check(vertices, faces)
    named = [line.encode("ascii", "backslashreplace").decode() for line in _header(axes, comments)]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {line}" for line in named),
        f"element vertex {len(vertices)}",
        *(f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    place = vertices.detach().cpu().float()
    points = np.concatenate([place.numpy(), vertex_normals(place, faces.cpu()).numpy()], 1)
    triangles = np.empty(len(faces), np.dtype([("corners", "u1"), ("vertices", "<i4", 3)]))
    triangles["corners"], triangles["vertices"] = 3, faces.cpu().numpy()
    content = "\n".join(header).encode() + points.astype("<f4").tobytes() + triangles.tobytes()
    write_atomically(path, content)


def _check(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> None:
    broken = (~vertices.isfinite().all(-1)).nonzero()
    if len(broken):
        raise ValueError(f"vertex {broken[0].item()} is not finite; this mesh cannot be exported")
    outside = ((faces < 0) | (faces >= len(vertices))).any(-1).nonzero()
    if len(outside):
        raise ValueError(
            f"face {outside[0].item()} names a vertex beyond the {len(vertices)} of this mesh"
        )


def _header(axes: Axes, comments: Sequence[str]) -> list[str]:
    lines = [
        "deformlearn mesh",
        "unit: metre",
        f"axes: {axes}: {AXES[axes]}",
        "faces: outward, counter-clockwise",
        *comments,
    ]
    # A line break within a comment would begin a statement.
    return [" ".join(line.split()) for line in lines]
