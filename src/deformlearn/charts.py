"""Points of a surface as (face, barycentric) and as (part, u, v), and the way between surfaces.

A *chart* flattens one part of a surface into the unit square. Charts of any 24-segment template are
made here, by unrolling (docs/decisions/0005); DensePose's charts are in `densepose_charts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from deformlearn.body import BodyTemplate
from deformlearn.chart_search import ChartSearch
from deformlearn.skeleton import PARENTS, SEGMENTS, mirrored_name
from deformlearn.triangles import normals

_APART = 4.0
"""Distance between the planes that parts are put on, so that one tree searches them all: more than
the diagonal of the unit square, so no point is nearer to another part's chart than to its own."""

_FLAT = ("wrist", "hand", "foot")
"""Segments flattened from two sides (palm and back) rather than unrolled: fingers and toes."""


@dataclass(frozen=True, eq=False)
class Charts:
    """A surface whose faces lie in charts."""

    parts: Int[np.ndarray, "faces"]
    """Chart of each face, 1..24; 0 for faces in none."""
    uv: Float[np.ndarray, "faces 3 2"]
    """Chart coordinates of each face's corners, in [0, 1]. Corners do not share them: at a seam a
    vertex has one place on either side."""
    corners: Int[np.ndarray, "faces 3"]
    """Vertices of each face (of the template, or SMPL's ids)."""

    def surface_to_chart(
        self, faces: Int[np.ndarray, "n"], barycentric: Float[np.ndarray, "n 3"]
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Part, u and v of surface points; part 0 (and u = v = 0) where a face is in no chart."""
        uv = np.einsum("nc,ncd->nd", barycentric, self.uv[faces])
        return self.parts[faces], uv[:, 0], uv[:, 1]

    def chart_to_surface(
        self,
        part: Int[np.ndarray, "n"],
        u: Float[np.ndarray, "n"],
        v: Float[np.ndarray, "n"],
        *,
        exact: bool = True,
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
        """Face and barycentric coordinates of chart points.

        Exact is the point of the first triangle that contains (u, v), or the nearest point of the
        part's charted area; otherwise it is the nearest vertex of the part, as in the paper
        (section 6). A part that no face has is a ValueError.
        """
        absent = np.setdiff1d(part, self.parts[self.parts > 0])
        if len(absent):
            raise ValueError(f"no face lies in part {absent[0]}; parts are 1..24")
        uv = np.stack([u, v], -1)
        if exact:
            faces, barycentric, _ = self._search.nearest(part, uv)
            return self._charted[faces], barycentric
        _, corner = self._corner_tree.query(_on_planes(uv, part))
        return self._charted[corner // 3], np.eye(3)[corner % 3]

    @cached_property
    def _charted(self) -> Int[np.ndarray, "charted"]:
        return np.flatnonzero(self.parts > 0)

    @cached_property
    def _search(self) -> ChartSearch:
        return ChartSearch(self.parts[self._charted], self.uv[self._charted])

    @cached_property
    def _corner_tree(self) -> cKDTree:
        placed = _on_planes(self.uv[self._charted], self.parts[self._charted][:, None])
        return cKDTree(placed.reshape(-1, 3))


def template_charts(template: BodyTemplate) -> Charts:
    """Charts of a 24-segment template: part i + 1 is the surface that segment i moves most.

    Limbs, trunk and head are unrolled about their bone (u around, from the back; v along), hands and
    feet pressed flat from two sides. Faces hidden under others of their part (the inside of the
    mouth, between fingers) are in no chart. Mirrored points have mirrored parts and, but for u
    turned round on the midline, the same u and v.
    """
    vertices = template.vertices.double().cpu().numpy()
    joints = template.joints.double().cpu().numpy()
    corners = template.faces.cpu().numpy()
    owner = template.weights.double().cpu().numpy()[corners].sum(1).argmax(1)
    uv = np.zeros((len(corners), 3, 2))
    height = np.zeros(len(corners))
    for index, segment in enumerate(SEGMENTS):
        mine = np.flatnonzero(owner == index)
        if not len(mine):
            continue
        flip = np.array([-1.0 if segment.startswith("right_") else 1.0, 1.0, 1.0])
        # Right parts are flattened as left ones seen in a mirror.
        triangles = (vertices[corners[mine]] - joints[index]) * flip
        start, end = _bone_ends(index)
        bone = (joints[end] - joints[start]) * flip
        if segment.partition("_")[2] in _FLAT:
            flattened = _pressed(triangles, bone, normals(vertices[corners[mine]]) * flip)
        else:
            flattened = _unrolled(triangles, bone)
        uv[mine], height[mine] = flattened
    parts = _without_hidden(owner + 1, uv, height)
    return Charts(parts, np.where((parts > 0)[:, None, None], uv, 0.0), corners)


def _bone_ends(segment: int) -> tuple[int, int]:
    """From a joint to the child that goes on as it does (the trunk upwards); else from its parent."""
    on_midline = [mirrored_name(name) == name for name in SEGMENTS]
    for child, parent in enumerate(PARENTS):
        if parent == segment and on_midline[child] == on_midline[segment]:
            return segment, child
    return PARENTS[segment], segment


def _on_planes(
    uv: Float[np.ndarray, "*n 2"], part: Int[np.ndarray, "*m"]
) -> Float[np.ndarray, "*n 3"]:
    """Chart points in space, each part on a plane of its own."""
    level = np.broadcast_to(part * _APART, uv.shape[:-1])
    return np.concatenate([uv, level[..., None]], -1)


def _unrolled(
    triangles: Float[np.ndarray, "f 3 3"], bone: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "f 3 2"], Float[np.ndarray, "f"]]:
    """Cylinder coordinates about the bone, and each face's distance from it (outer faces are seen)."""
    axis = bone / np.linalg.norm(bone)
    # The seam is at the back; under a bone that points forward.
    front = np.array([0.0, 0.0, 1.0]) if abs(axis[2]) < 0.8 else np.array([0.0, 1.0, 0.0])
    front = front - (front @ axis) * axis
    front = front / np.linalg.norm(front)
    across, ahead = triangles @ np.cross(axis, front), triangles @ front
    # A triangle over the seam stays whole, sticking out on the side where its middle is.
    middle = np.arctan2(across.mean(1), ahead.mean(1))[:, None]
    angle = np.arctan2(across, ahead)
    angle = angle - 2 * np.pi * np.round((angle - middle) / (2 * np.pi))
    uv = _to_unit_square(np.stack([angle, triangles @ axis], -1))
    return uv, np.hypot(across.mean(1), ahead.mean(1))


def _pressed(
    triangles: Float[np.ndarray, "f 3 3"],
    bone: Float[np.ndarray, "3"],
    outward: Float[np.ndarray, "f 3"],
) -> tuple[Float[np.ndarray, "f 3 2"], Float[np.ndarray, "f"]]:
    """Flat from two sides: the upper side (the back of the hand) has u < 1/2, the lower u > 1/2."""
    points = triangles.reshape(-1, 3)
    _, directions = np.linalg.eigh(np.cov(points.T))
    up = directions[:, 0] * np.sign(directions[1, 0])  # the thin direction, upwards
    along = bone - (bone @ up) * up
    along = along / np.linalg.norm(along)
    upper = outward @ up > 0
    uv = _to_unit_square(np.stack([triangles @ np.cross(along, up), triangles @ along], -1))
    # A narrow gap keeps the two sides' edges apart.
    uv[..., 0] = 0.495 * uv[..., 0] + np.where(upper, 0.0, 0.505)[:, None]
    return uv, (triangles.mean(1) @ up) * np.where(upper, 1, -1)


def _to_unit_square(uv: Float[np.ndarray, "f 3 2"]) -> Float[np.ndarray, "f 3 2"]:
    low, high = uv.min((0, 1)), uv.max((0, 1))
    return (uv - low) / (high - low)


def _without_hidden(
    parts: Int[np.ndarray, "f"], uv: Float[np.ndarray, "f 3 2"], height: Float[np.ndarray, "f"]
) -> Int[np.ndarray, "f"]:
    """Parts, 0 for faces whose middle lies under another face of the same part."""
    centres = uv.mean(1)
    placed = _on_planes(centres, parts)
    _, near = cKDTree(placed).query(placed, k=min(48, len(parts)))
    triangles = uv[near]
    edges = np.roll(triangles, -1, axis=2) - triangles
    to_centre = centres[:, None, None] - triangles
    turns = edges[..., 0] * to_centre[..., 1] - edges[..., 1] * to_centre[..., 0]
    inside = (turns > 0).all(-1) | (turns < 0).all(-1)
    above = (height[near] > height[:, None] + 1e-9) & (parts[near] == parts[:, None])
    return np.where((inside & above).any(1), 0, parts)
