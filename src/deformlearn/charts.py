"""Points of a surface as (face, barycentric) and as (part, u, v), and the way between surfaces.

A *chart* flattens one part of a surface into the unit square. Two kinds are known here: charts of
any 24-segment template, made by unrolling (docs/decisions/0005), and DensePose's charts of SMPL's
surface, read from its `UV_Processed.mat`. SMPL itself is never needed: `assets/smpl_to_anny.npz`
says where each SMPL vertex lies on Anny.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from deformlearn.body import BodyTemplate
from deformlearn.errors import InputError
from deformlearn.skeleton import PARENTS, SEGMENTS, mirrored_name

_APART = 4.0
"""Distance between the planes that parts are put on, so that one tree searches them all: more than
the diagonal of the unit square, so no point is nearer to another part's chart than to its own."""

_FLAT = ("wrist", "hand", "foot")
"""Segments flattened from two sides (palm and back) rather than unrolled: fingers and toes."""

_ANNY_FACES = 27420
"""Triangles of Anny's default mesh, whose numbering the SMPL table uses."""

_FARTHEST = 0.03
"""Metres from Anny's surface beyond which a blended point is not trusted."""


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

        Exact is the point of the triangle that contains (u, v), or the nearest point of the nearest
        triangle of that part; otherwise it is the nearest vertex of the part, as in the paper
        (section 6). A part that no face has is a ValueError.
        """
        absent = np.setdiff1d(part, self.parts[self.parts > 0])
        if len(absent):
            raise ValueError(f"no face lies in part {absent[0]}; parts are 1..24")
        points = _on_planes(np.stack([u, v], -1), part)
        if exact:
            faces, barycentric, _ = self._search.nearest(points)
            return self._charted[faces], barycentric
        _, corner = self._corner_tree.query(points)
        return self._charted[corner // 3], np.eye(3)[corner % 3]

    @cached_property
    def _charted(self) -> Int[np.ndarray, "charted"]:
        return np.flatnonzero(self.parts > 0)

    @cached_property
    def _flattened(self) -> Float[np.ndarray, "charted 3 3"]:
        return _on_planes(self.uv[self._charted], self.parts[self._charted][:, None])

    @cached_property
    def _search(self) -> TriangleSearch:
        return TriangleSearch(self._flattened)

    @cached_property
    def _corner_tree(self) -> cKDTree:
        return cKDTree(self._flattened.reshape(-1, 3))


class TriangleSearch:
    """Nearest points on a fixed set of triangles in space."""

    def __init__(self, triangles: Float[np.ndarray, "faces 3 3"]) -> None:
        self.triangles = triangles
        self.normals = _normals(triangles)
        centres = triangles.mean(1)
        reach = np.linalg.norm(triangles - centres[:, None], axis=-1).max(-1)
        # Triangles of a size are searched together: one long triangle would make the bound of
        # `nearest` useless for all the small ones.
        order = reach.argsort()
        sizes = np.split(order, (len(order) * np.array([0.5, 0.8, 0.95, 0.99])).astype(int))
        self._groups = [
            (faces, cKDTree(centres[faces]), reach[faces[-1]]) for faces in sizes if len(faces)
        ]

    def nearest(
        self,
        points: Float[np.ndarray, "n 3"],
        directions: Float[np.ndarray, "n 3"] | None = None,
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
        """Triangle, barycentric coordinates and distance of the nearest point of all triangles.

        With `directions`, only triangles whose normal points the same way (within 90 degrees)
        count; where there is none the distance is infinite.
        """
        faces = np.zeros(len(points), np.int64)
        barycentric = np.tile([1.0, 0.0, 0.0], (len(points), 1))
        distance = np.full(len(points), np.inf)
        for group, tree, reach in self._groups:
            left, count = np.arange(len(points)), 4
            while len(left):
                count = min(count, len(group))
                to_centre, near = tree.query(points[left], k=np.arange(1, count + 1))
                # A triangle not among these has its centre farther away than the last of them, so
                # its nearest point is at best that far less the reach of the group's triangles.
                close = to_centre - reach < distance[left, None]
                rows, columns = close.nonzero()
                candidates = group[near[rows, columns]]
                weights = barycentric_of_nearest(points[left[rows]], self.triangles[candidates])
                found = np.einsum("kc,kcd->kd", weights, self.triangles[candidates])
                apart = np.linalg.norm(found - points[left[rows]], axis=-1)
                if directions is not None:
                    along = (self.normals[candidates] * directions[left[rows]]).sum(-1)
                    apart = np.where(along > 0, apart, np.inf)
                # Best last, so that of several writes to a point its nearest stays.
                best = np.argsort(-apart, kind="stable")
                best = best[apart[best] < distance[left[rows[best]]]]
                into = left[rows[best]]
                faces[into], barycentric[into] = candidates[best], weights[best]
                distance[into] = apart[best]
                left = left[(distance[left] > to_centre[:, -1] - reach) & (count < len(group))]
                count *= 4
        return faces, barycentric, distance


def barycentric_of_nearest(
    points: Float[np.ndarray, "n 3"], triangles: Float[np.ndarray, "n 3 3"]
) -> Float[np.ndarray, "n 3"]:
    """Barycentric coordinates of each triangle's point nearest to its point.

    Either the foot of the perpendicular, or the best of the three edges' nearest points. Degenerate
    triangles have no perpendicular and are their edges.
    """
    a, b, c = triangles[..., 0, :], triangles[..., 1, :], triangles[..., 2, :]
    ab, ac, ap = b - a, c - a, points - a
    dot = lambda x, y: (x * y).sum(-1)  # noqa: E731 (a sign, not a function)
    d00, d01, d11, d20, d21 = dot(ab, ab), dot(ab, ac), dot(ac, ac), dot(ap, ab), dot(ap, ac)
    area = d00 * d11 - d01 * d01
    solid = area > 1e-14 * d00 * d11
    area = np.where(solid, area, 1)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    weights = np.stack([1 - v - w, v, w], -1)
    best = np.where(solid & (weights >= 0).all(-1), 0.0, np.inf)
    for start in range(3):
        end = (start + 1) % 3
        origin, edge = triangles[..., start, :], triangles[..., end, :] - triangles[..., start, :]
        along = dot(points - origin, edge) / np.maximum(dot(edge, edge), 1e-300)
        along = np.clip(along, 0, 1)
        away = points - origin - along[..., None] * edge
        distance = dot(away, away)
        nearer = (best > 0) & (distance < best)
        best = np.where(nearer, distance, best)
        on_edge = np.zeros_like(weights)
        on_edge[..., start], on_edge[..., end] = 1 - along, along
        weights = np.where(nearer[..., None], on_edge, weights)
    return weights


def _normals(triangles: Float[np.ndarray, "*f 3 3"]) -> Float[np.ndarray, "*f 3"]:
    """Unit normals; zero for degenerate triangles."""
    a, b, c = triangles[..., 0, :], triangles[..., 1, :], triangles[..., 2, :]
    normals = np.cross(b - a, c - a)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-300)


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
            flattened = _pressed(triangles, bone, _normals(vertices[corners[mine]]) * flip)
        else:
            flattened = _unrolled(triangles, bone)
        uv[mine], height[mine] = flattened
    parts = _without_hidden(owner + 1, uv, height)
    return Charts(parts, np.where((parts > 0)[:, None, None], uv, 0.0), corners)


def read_densepose_charts(path: Path) -> Charts:
    """DensePose's 24 charts of SMPL's surface; `corners` are SMPL vertex ids.

    `path` is `UV_Processed.mat` of the DensePose release (CC BY-NC 4.0, not included); any other file
    is an InputError.
    """
    from scipy.io import loadmat

    wanted = "DensePose's UV_Processed.mat (https://github.com/facebookresearch/DensePose)"
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; give the path of {wanted}")
    try:
        fields = loadmat(path)
    except Exception as error:  # scipy raises many kinds for a file that is no .mat
        raise InputError(f"{path} is not a MATLAB file ({error}); give {wanted}") from error
    names = ("All_FaceIndices", "All_Faces", "All_U_norm", "All_V_norm", "All_vertices")
    if missing := [name for name in names if name not in fields]:
        raise InputError(f"{path} has no {', '.join(missing)}; give {wanted}")
    parts, faces, u, v, ids = (np.asarray(fields[name], np.float64) for name in names)
    parts, u, v, ids = parts.ravel(), u.ravel(), v.ravel(), ids.ravel()
    sound = (
        faces.shape == (len(parts), 3)
        and len(parts) > 0
        and len(u) == len(v) == len(ids)
        and faces.min() >= 1
        and faces.max() <= len(u)
        and set(np.unique(parts)) == set(range(1, 25))
        and ids.min() >= 1
        and min(u.min(), v.min()) >= 0
        and max(u.max(), v.max()) <= 1
    )
    if not sound:
        raise InputError(
            f"{path} has the fields of DensePose's charts but not their content (24 parts, one U, V "
            f"in [0, 1] and one SMPL id for each of the vertices the faces name); give {wanted}"
        )
    corners = faces.astype(np.int64) - 1
    return Charts(
        parts.astype(np.int64), np.stack([u, v], -1)[corners], ids.astype(np.int64)[corners] - 1
    )


def densepose_to_template(
    charts: Charts,
    template: BodyTemplate,
    part: Int[np.ndarray, "n"],
    u: Float[np.ndarray, "n"],
    v: Float[np.ndarray, "n"],
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"], Bool[np.ndarray, "n"]]:
    """Anny's face and barycentric coordinates of DensePose's (I, U, V), and whether to trust them.

    The corners of the chart triangle are looked up on Anny and blended (snapping to the nearest SMPL
    vertex would cost 9 mm), and the blend, which lies a little under the skin, goes to the nearest
    surface that faces the same way. Not ok: parts outside 1..24 and blends over 3 cm from the skin.
    """
    table_faces, table_barycentric = _smpl_table(template, int(charts.corners.max()) + 1)
    vertices = template.vertices.double().cpu().numpy()
    triangles = vertices[template.faces.cpu().numpy()]
    search = TriangleSearch(triangles)
    on_anny = np.einsum("sc,scd->sd", table_barycentric, triangles[table_faces])

    ok = np.isin(part, charts.parts[charts.parts > 0])
    faces = np.zeros(len(part), np.int64)
    barycentric = np.tile([1.0, 0.0, 0.0], (len(part), 1))
    chart_faces, blend = charts.chart_to_surface(part[ok], u[ok], v[ok])
    ids = charts.corners[chart_faces]
    points = np.einsum("nc,ncd->nd", blend, on_anny[ids])
    outward = np.einsum("nc,ncd->nd", blend, search.normals[table_faces[ids]])
    faces[ok], barycentric[ok], distance = search.nearest(points, outward)
    ok[ok] = distance < _FARTHEST
    return faces, barycentric, ok


def _smpl_table(
    template: BodyTemplate, ids: int
) -> tuple[Int[np.ndarray, "smpl"], Float[np.ndarray, "smpl 3"]]:
    """Where every SMPL vertex lies on Anny."""
    if template.name != "anny" or len(template.faces) != _ANNY_FACES:
        raise InputError(
            f"DensePose's labels can only be carried to the template 'anny' ({_ANNY_FACES} faces); "
            f"got {template.name!r} with {len(template.faces)} faces"
        )
    with resources.files("deformlearn").joinpath("assets/smpl_to_anny.npz").open("rb") as file:
        table = np.load(file)
        faces, barycentric = table["face"].astype(np.int64), table["bary"].astype(np.float64)
    if ids > len(faces):
        raise InputError(f"the charts name SMPL vertex {ids - 1}; SMPL has {len(faces)} vertices")
    return faces, barycentric


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
