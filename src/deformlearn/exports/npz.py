"""All numbers of estimates as one NumPy archive, with what each of them means."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import deformlearn
from deformlearn.body import BodyTemplate, skin
from deformlearn.data.estimates import CONVENTIONS, Estimates
from deformlearn.exports.axes import AXES, estimate_mesh
from deformlearn.exports.placing import FOCAL
from deformlearn.files import write_atomically
from deformlearn.skeleton import SEGMENTS

NPZ_FORMAT = 1


def write_npz(
    path: Path,
    estimates: Estimates,
    template: BodyTemplate,
    *,
    meshes: bool = False,
    times: Sequence[float] | None = None,
) -> None:
    """Write estimates as a plain NumPy archive, without pickles; `conventions` in it explains the rest.

    `meshes` adds the posed vertices (12 bytes a vertex and person); `times` (seconds) are those of rows
    that are a video's frames.
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
        "joints": skin(template, estimates.estimate.body, template.joint_points()),
    }
    if times is not None:
        arrays["times"] = torch.tensor(times)
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
        "deformlearn": deformlearn.__version__,
        "template": template.name,
        "fingerprint": template.fingerprint,
        **CONVENTIONS,
        "X": "points of the posed body in template axes, metres; arrays have one row a person",
        "pose": "(people, 23, 3) radians, segments[1:] in order; the root's rotation is `rotation`",
        "parents": "index of each segment's parent in segments; -1 for the root",
        "joints": "(people, 24, 3) metres, template axes: where each of segments begins",
        "times": "(people,) seconds, where the rows are a video's frames",
        "scales": "(people, 24), segments in order; 1 is the template; a segment's size moves its "
        "children's joints and is not inherited",
        "crop": "the square of the source image that image units span: crop_centre_px, crop_half_px",
        "full image": "x_px = scale_px P(R X) + translation_px, pixels of the source image",
        "perspective": "with a focal length of f px about the principal point p, x_px = f P((R X + T) / "
        "its z) + p, where T = ((translation_px - p) / scale_px, f / scale_px); HMR's 5000 px for a "
        f"crop of 224 are f = {FOCAL:.4f} crop_half_px",
        "hmr": "the camera of HMR and SPIN, x = s (P(R X) + t), has t = translation / scale",
        "reprojection_px": "median distance of the correspondences, source pixels",
        "loss": "weighted sum of all registration terms; dense and keypoint in squared image units",
        "facing": "share of corresponded surface points that face the camera; a mirrored fit has few",
        "converged": "whether the registration's loss no longer fell at the end",
        "flag": "reasons to doubt a row; ok where there is none",
        "key": "the person's name in the data set, or the photograph's path",
        "vertices": f"(people, vertices, 3) metres, where exported; axes: {AXES['template']}",
    }
