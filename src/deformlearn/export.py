"""Estimates for other programs: meshes as OBJ, all numbers as NPZ; each file states axes and units."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.body import BodyTemplate, skin
from deformlearn.data.estimates import CONVENTIONS, Estimates
from deformlearn.estimate import Estimate, camera_vertices
from deformlearn.files import write_atomically
from deformlearn.skeleton import SEGMENTS

Axes = Literal["template", "camera"]
"""Whose axes a mesh is written in; `AXES` says what they are."""

AXES: dict[Axes, str] = {
    "template": "x to the person's left, y up, z where the person faces at rest; "
    "the camera's rotation is not applied",
    "camera": "as the photograph shows the person: x right, y up, z towards the viewer "
    "(camera axes x, y down, z away, turned by 180 degrees about x)",
}
"""Both are right-handed with y up, so that viewers show the person upright."""

NPZ_FORMAT = 1

UPRIGHT = (1.0, -1.0, -1.0)
"""Camera axes (x right, y down, z away) to `AXES["camera"]`: half a turn about x."""


def estimate_mesh(
    template: BodyTemplate, estimate: Estimate, *, axes: Axes = "template"
) -> Float[Tensor, "*batch vertices 3"]:
    """The estimated bodies' vertices (metres), about the template's origin, in the named axes."""
    if axes not in get_args(Axes):
        raise ValueError(f"axes must be {' or '.join(get_args(Axes))}, got {axes!r}")
    if axes == "template":
        return skin(template, estimate.body)
    vertices = camera_vertices(template, estimate)
    return vertices * vertices.new_tensor(UPRIGHT)


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
    broken = (~vertices.isfinite().all(-1)).nonzero()
    if len(broken):
        raise ValueError(f"vertex {broken[0].item()} is not finite; this mesh cannot be exported")
    outside = ((faces < 0) | (faces >= len(vertices))).any(-1).nonzero()
    if len(outside):
        raise ValueError(
            f"face {outside[0].item()} names a vertex beyond the {len(vertices)} of this mesh"
        )
    header = [
        "deformlearn mesh",
        "unit: metre",
        f"axes: {axes}: {AXES[axes]}",
        "faces: outward, counter-clockwise",
        *comments,
    ]
    # A line break within a comment would begin a statement.
    lines = [f"# {' '.join(line.split())}" for line in header]
    # Nine significant digits are what a float32 needs to come back exactly.
    lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices.detach().cpu().float().tolist()]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces.cpu().tolist()]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def write_npz(
    path: Path, estimates: Estimates, template: BodyTemplate, *, meshes: bool = False
) -> None:
    """Write estimates as a plain NumPy archive, without pickles; `conventions` in it explains the rest.

    `meshes` adds the posed vertices and joints (12 bytes a vertex and person).
    """
    camera, crop = estimates.estimate.camera, estimates.crop
    arrays: dict[str, Tensor] = {
        "pose": estimates.estimate.body.pose,
        "scales": estimates.estimate.body.scales,
        "rotation": camera.rotation(),
        "translation": camera.translation,
        "scale": camera.scale,
        "crop_centre_px": crop.centre,
        "crop_half_px": crop.half,
        # x_px = x * half + centre, applied to x = s P(R X) + t.
        "scale_px": camera.scale * crop.half,
        "translation_px": camera.translation * crop.half[:, None] + crop.centre,
        "parents": torch.tensor(template.parents),
    }
    quality = estimates.quality
    if quality is not None:
        arrays |= {name: getattr(quality, name) for name in vars(quality)}
    if meshes:
        arrays["vertices"] = estimate_mesh(template, estimates.estimate)
        arrays["faces"] = template.faces
    texts = {
        "key": np.array(estimates.keys, dtype=np.str_),
        "segments": np.array(SEGMENTS, dtype=np.str_),
        "conventions": np.array(json.dumps(_conventions(template), indent=2)),
    }
    if estimates.flags:
        texts["flag"] = np.array(estimates.flags, dtype=np.str_)
    buffer = io.BytesIO()
    numbers = {name: value.detach().cpu().numpy() for name, value in arrays.items()}
    np.savez_compressed(buffer, allow_pickle=False, **texts, **numbers)
    write_atomically(path, buffer.getvalue())


def _conventions(template: BodyTemplate) -> dict[str, str | int]:
    """What every array of the archive means."""
    return {
        "format": NPZ_FORMAT,
        "template": template.name,
        "fingerprint": template.fingerprint,
        **CONVENTIONS,
        "X": "points of the posed body in template axes, metres; arrays have one row a person",
        "pose": "(people, 23, 3) radians, segments[1:] in order; the root's rotation is `rotation`",
        "parents": "index of each segment's parent in segments; -1 for the root",
        "scales": "(people, 24), segments in order; 1 is the template; a segment's size moves its "
        "children's joints and is not inherited",
        "crop": "the square of the source image that image units span: crop_centre_px, crop_half_px",
        "full image": "x_px = scale_px P(R X) + translation_px, pixels of the source image",
        "hmr": "the camera of HMR and SPIN, x = s (P(R X) + t), has t = translation / scale",
        "reprojection_px": "median distance of the correspondences, source pixels",
        "loss": "weighted sum of all registration terms; dense and keypoint in squared image units",
        "facing": "share of corresponded surface points that face the camera; a mirrored fit has few",
        "converged": "whether the registration's loss no longer fell at the end",
        "flag": "reasons to doubt a row; ok where there is none",
        "key": "the person's name in the data set, or the photograph's path",
        "vertices": f"(people, vertices, 3) metres, where exported; axes: {AXES['template']}",
    }
