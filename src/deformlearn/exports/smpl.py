"""Estimates as the parameters that SMPL's own programs take; for people whose template is SMPL.

SMPL turns the whole body about its pelvis, ours turns about the template's origin: R X = R (X - J) + J +
(R J - J), so `transl` is R J - J with the pelvis J at rest. The betas are zero: registration changes
segments, not betas, and SMPL has no segment scales.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
from torch import Tensor

from deformlearn.body import BodyParameters, BodyTemplate, skin
from deformlearn.data.estimates import Estimates
from deformlearn.errors import InputError
from deformlearn.exports.about import Loss, statement
from deformlearn.exports.axes import Axes
from deformlearn.exports.placing import focal_px, place_before_camera
from deformlearn.files import write_atomically
from deformlearn.skeleton import SEGMENTS

VERTICES = 6890
"""Of SMPL's mesh."""

BETAS = 10


def require_smpl(template: BodyTemplate) -> None:
    """Refuse a template that is not SMPL's."""
    if not template.name.startswith("smpl") or len(template.vertices) != VERTICES:
        raise InputError(
            f"SMPL parameters are for people whose template is SMPL's; {template.name!r} has "
            f"{len(template.vertices)} vertices where SMPL has {VERTICES}: make the run with "
            f"--template SMPL_NEUTRAL.pkl, or export glb, bvh or npz, which any template has"
        )


def write_smpl(
    path: Path,
    estimates: Estimates,
    template: BodyTemplate,
    *,
    axes: Axes = "camera",
    focal: float | None = None,
    times: Sequence[float] | None = None,
) -> Loss:
    """Write the rows as frames; how far SMPL's skin is from the estimates'.

    That is what the segment scales did. In camera axes (x right, y down, z away, as HMR's
    family has them) `global_orient` is the camera's rotation; in template axes it is zero.
    """
    require_smpl(template)
    body, camera = estimates.estimate.body, estimates.estimate.camera
    rotation = camera.rotation().double()
    if axes == "template":
        rotation = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    pelvis = template.joints[0].double()
    orient, pose = roma.rotmat_to_rotvec(rotation), body.pose.double().flatten(1)
    apart = _missing(template, body)
    length = focal_px(estimates.crop, focal)
    place = place_before_camera(camera, estimates.crop, length, estimates.crop.centre)
    arrays: dict[str, Tensor] = {
        "betas": torch.zeros(len(estimates), BETAS),
        "global_orient": orient,
        "body_pose": pose,
        "poses": torch.cat([orient, pose], 1),
        "transl": rotation @ pelvis - pelvis,
        "pred_cam": torch.cat(
            [camera.scale[:, None], camera.translation / camera.scale[:, None]], 1
        ),
        "cam_t": place,
        "focal_px": length,
        "crop_centre_px": estimates.crop.centre,
        "crop_half_px": estimates.crop.half,
        "segment_scales": body.scales,
    }
    if times is not None:
        arrays["times"] = torch.tensor(times)
    numbers = {name: value.float().cpu().numpy() for name, value in arrays.items()}
    texts = {
        "gender": np.array(_gender(template)),
        "key": np.array(estimates.keys, dtype=np.str_),
        "conventions": np.array(json.dumps(_conventions(template, axes, apart), indent=2)),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **texts, **numbers)
    write_atomically(path, buffer.getvalue())
    return apart


def _missing(template: BodyTemplate, body: BodyParameters) -> Loss:
    """How far the skin moves when the segment scales are left out."""
    plain = BodyParameters(torch.ones_like(body.scales), body.pose)
    return Loss.of(skin(template, body) - skin(template, plain))


def _gender(template: BodyTemplate) -> str:
    """SMPL's three models, by the name of the file that the template came from."""
    marks = {"female": ("female", "_f_"), "male": ("male", "_m_")}
    found = (gender for gender, words in marks.items() if any(w in template.name for w in words))
    return next(found, "neutral")


def _conventions(template: BodyTemplate, axes: Axes, apart: Loss) -> dict[str, Any]:
    """What every array of the archive means."""
    where = {
        "camera": "camera: x right, y down, z away from the viewer, as HMR, SPIN and 4D-Humans have it",
        "template": "template: SMPL's own, x to the person's left, y up, z where the person faces at "
        "rest; the camera's rotation is not applied",
    }
    return {
        **statement(template, "template"),
        "axes": where[axes],
        "rows": "one a frame; one frame where the file is of a picture",
        "betas": "(frames, 10) zeros: registration changes the sizes of segments, not betas",
        "global_orient": "(frames, 3) axis-angle of the pelvis, radians",
        "body_pose": "(frames, 69) axis-angle of the 23 other joints, radians, SMPL's order",
        "poses": "(frames, 72) global_orient and body_pose, as AMASS has them",
        "transl": "(frames, 3) metres; SMPL turns about the pelvis, the estimate about the origin",
        "cam_t": "(frames, 3) metres, to add to SMPL's output (in camera axes): x_px = focal_px P(X / "
        "its z) + crop_centre_px; its z is focal_px / (s crop_half_px)",
        "pred_cam": "(frames, 3) s, tx, ty of HMR: x = s (P(X) + t) in [-1, 1] across the crop, y down; "
        "ours is x = s P(R X) + t, t added after the scale, t = s (tx, ty)",
        "focal_px": "(frames,) focal length of cam_t, source pixels",
        "crop": "the square of the source image that the crop spans: crop_centre_px, crop_half_px",
        "segment_scales": f"(frames, 24) sizes of {', '.join(SEGMENTS)}: SMPL has none, so its skin is "
        f"{apart.mean_mm:.1f} mm (mean) from the estimate's; with scales of 1 it would be the same",
        "times": "(frames,) seconds, of a video",
        "gender": "which of SMPL's models the template is, by its name",
        "key": "the person's name in the data set, or the photograph's path",
    }
