"""Marks as what others read: a row of our data set, and an annotation in DensePose's json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from deformlearn.annotate.marks import MISSING, VISIBLE, PersonMarks
from deformlearn.body import BodyTemplate
from deformlearn.charts import Charts, template_charts
from deformlearn.data.shards import Row
from deformlearn.densepose_charts import read_densepose_charts
from deformlearn.skeleton import JointSet
from deformlearn.surfaces import smpl_points_on
from deformlearn.triangles import TriangleSearch

_MARGIN = 0.1
"""A crop is this much larger than the longer side of the person's box, as in data/coco.py."""

_HIDDEN = 0.5
"""Confidence of a key point placed by a guess, as in data/coco.py."""

_DENSEPOSE_BOX = 256
"""DensePose states points in 256ths of the person's box."""

_FARTHEST = 0.03
"""Metres between the template's surface and SMPL's beyond which a point has no place on it."""

_MASKS = 14
"""Coarse part masks DensePose's files have a place for; an empty list is no mask."""

_FEWEST_PAIRS = 6
"""Pairs a person without key points needs to be worth a row (data/soundness.py)."""


def is_enough(person: PersonMarks) -> bool:
    """Whether a person can stand in a data set: some key points, or six pairs."""
    return len(person.placed) > 0 or len(person.pairs) >= _FEWEST_PAIRS


def observed_row(key: str, image_path: str, person: PersonMarks) -> Row:
    """A person with at least one mark as a row of our data set."""
    left, top, width, height = box(person)
    half = max(width, height, 2.0) / 2 * (1 + _MARGIN)
    weights = {VISIBLE: 1.0, MISSING: 0.0}
    return Row(
        key=key,
        crop=(left + width / 2, top + height / 2, half),
        points=np.array([(pair.x, pair.y) for pair in person.pairs]).reshape(-1, 2),
        faces=np.array([pair.face for pair in person.pairs], np.int64),
        barycentric=np.array([pair.barycentric for pair in person.pairs]).reshape(-1, 3),
        point_weights=np.ones(len(person.pairs)),
        keypoints=np.array([(p.x, p.y) if p else (0.0, 0.0) for p in person.keypoints]),
        keypoint_weights=np.array(
            [weights.get(p.visibility, _HIDDEN) if p else 0.0 for p in person.keypoints]
        ),
        image_path=image_path,
    )


def box(person: PersonMarks) -> tuple[float, float, float, float]:
    """Left, top, width and height of everything annotated (source px)."""
    pixels = np.array(person.pixels)
    left, top = pixels.min(0).tolist()
    width, height = (pixels.max(0) - pixels.min(0)).tolist()
    return left, top, width, height


@dataclass(frozen=True, eq=False)
class ChartLabels:
    """Says part, U and V of points of the template's surface."""

    charts: Charts
    description: str
    """Which charts these are, for the file's "info"."""
    smpl: TriangleSearch | None = None
    """The charts' triangles where they lie on the template; None where they are the template's own."""
    template: BodyTemplate | None = None

    @staticmethod
    def of(template: BodyTemplate, densepose: Path | None) -> ChartLabels:
        """DensePose's own charts where its UV_Processed.mat is given, else the template's."""
        if densepose is None:
            return ChartLabels(
                template_charts(template),
                f"charts of the template {template.name!r} ({template.fingerprint}), made by "
                f"deformlearn.charts.template_charts: part i + 1 is what segment i moves. "
                f"NOT DensePose's charts",
            )
        charts = read_densepose_charts(densepose)
        faces, barycentric = smpl_points_on(template)
        vertices = template.vertices.double().cpu().numpy()
        corners = vertices[template.faces.cpu().numpy()[faces]]
        placed = np.einsum("sc,scd->sd", barycentric, corners)
        return ChartLabels(
            charts,
            f"DensePose's charts of SMPL (UV_Processed.mat), carried from the template "
            f"{template.name!r} ({template.fingerprint}) to SMPL's surface",
            TriangleSearch(placed[charts.corners]),
            template,
        )

    def __call__(
        self, faces: Int[np.ndarray, "n"], barycentric: Float[np.ndarray, "n 3"]
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Part (0 where a point is in no chart), U and V of surface points."""
        if self.smpl is None or self.template is None:
            return self.charts.surface_to_chart(faces, barycentric)
        vertices = self.template.vertices.double().cpu().numpy()
        triangles = vertices[self.template.faces.cpu().numpy()[faces]]
        points = np.einsum("nc,ncd->nd", barycentric, triangles)
        edges = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        outward = edges / np.linalg.norm(edges, axis=1, keepdims=True).clip(1e-12)
        found, blend, distance = self.smpl.nearest(points, outward)
        part, u, v = self.charts.surface_to_chart(found, blend)
        return np.where(distance < _FARTHEST, part, 0), u, v


def densepose_annotation(
    person: PersonMarks, size: tuple[int, int], labels: ChartLabels
) -> dict[str, Any]:
    """A person with at least one mark, as DensePose-COCO writes it (without ids).

    `size` is the image's width and height. Points that are in no chart are left out and counted.
    """
    x, y, width, height = _grown_box(person, size)
    faces = np.array([pair.face for pair in person.pairs], np.int64)
    barycentric = np.array([pair.barycentric for pair in person.pairs]).reshape(-1, 3)
    part, u, v = labels(faces, barycentric)
    charted: Bool[np.ndarray, "n"] = part > 0
    pixels = np.array([(pair.x, pair.y) for pair in person.pairs]).reshape(-1, 2)
    within = (pixels - [x, y]) / [width, height] * _DENSEPOSE_BOX
    keypoints: list[float] = []
    for point in person.keypoints:
        if point is None or point.visibility == MISSING:
            keypoints += [0, 0, 0]
        else:
            # COCO counts pixels by their index; ours are continuous, half a pixel further.
            keypoints += [round(point.x - 0.5, 2), round(point.y - 0.5, 2), point.visibility]
    annotation: dict[str, Any] = {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x, y, width, height],
        "area": width * height,
        "keypoints": keypoints,
        "num_keypoints": len(person.placed),
    }
    if charted.any():
        annotation |= {
            "dp_x": within[charted, 0].round(4).tolist(),
            "dp_y": within[charted, 1].round(4).tolist(),
            "dp_I": part[charted].astype(float).tolist(),
            "dp_U": u[charted].round(6).tolist(),
            "dp_V": v[charted].round(6).tolist(),
            "dp_masks": [[] for _ in range(_MASKS)],
        }
    if not charted.all():
        annotation["points_in_no_chart"] = int((~charted).sum())
    return annotation


def category(joints: JointSet) -> dict[str, Any]:
    """The json's only category: a person with these key points."""
    return {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(joints.names),
        "skeleton": [],
    }


def _grown_box(person: PersonMarks, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box of the marks with the crop's margin, inside the image, never without a width."""
    left, top, width, height = box(person)
    grow = max(width, height, 2.0) / 2 * _MARGIN
    low = np.maximum([left - grow, top - grow], 0.0).round(2)
    high = np.minimum([left + width + grow, top + height + grow], size).round(2)
    width, height = (high - low).tolist()
    return float(low[0]), float(low[1]), width, height
