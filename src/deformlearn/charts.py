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
from deformlearn.skeleton import PARENTS, SEGMENTS

_APART = 4.0
"""Distance between the planes that parts are put on, so that one tree searches them all: more than
the diagonal of the unit square, so no point is nearer to another part's chart than to its own."""

_CHUNK = 20_000
"""Points searched at once; bounds the memory of a search."""

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
        centres = triangles.mean(1)
        self._tree = cKDTree(centres)
        self._reach = np.linalg.norm(triangles - centres[:, None], axis=-1).max()
        self.normals = np.cross(
            triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
        )

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
        for start in range(0, len(points), _CHUNK):
            open_ = np.arange(start, min(start + _CHUNK, len(points)))
            count = min(16, len(self.triangles))
            while len(open_):
                to_centre, candidates = self._tree.query(points[open_], k=np.arange(1, count + 1))
                weights = barycentric_of_nearest(points[open_, None], self.triangles[candidates])
                found = np.einsum("nkc,nkcd->nkd", weights, self.triangles[candidates])
                apart = np.linalg.norm(found - points[open_, None], axis=-1)
                if directions is not None:
                    along = np.einsum("nkd,nd->nk", self.normals[candidates], directions[open_])
                    apart = np.where(along > 0, apart, np.inf)
                best = apart.argmin(1)
                rows = np.arange(len(open_))
                distance[open_] = apart[rows, best]
                faces[open_] = candidates[rows, best]
                barycentric[open_] = weights[rows, best]
                # A triangle not yet seen has its centre farther than the last candidate's, so no
                # point of it can be nearer than that less the longest reach of any triangle.
                if count == len(self.triangles):
                    break
                open_ = open_[distance[open_] > to_centre[:, -1] - self._reach]
                count = min(count * 4, len(self.triangles)) if len(open_) < 2000 else count * 2
                count = min(count, len(self.triangles))
        return faces, barycentric, distance


def barycentric_of_nearest(
    points: Float[np.ndarray, "*n 3"], triangles: Float[np.ndarray, "*n 3 3"]
) -> Float[np.ndarray, "*n 3"]:
    """Barycentric coordinates of the point of each triangle nearest to each point.

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
        triangles = (vertices[corners[mine]] - joints[index]) * flip
        child = PARENTS.index(index) if index in PARENTS else None
        bone = joints[index] - joints[PARENTS[index]] if child is None else joints[child] - joints[index]
        flatten = _pressed if segment.partition("_")[2] in _FLAT else _unrolled
        uv[mine], height[mine] = flatten(triangles, bone * flip, turned=flip[0] < 0)
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
        and 0 <= min(u.min(), v.min())
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
    normals = search.normals / np.linalg.norm(search.normals, axis=-1, keepdims=True).clip(1e-12)

    ok = np.isin(part, charts.parts[charts.parts > 0])
    faces = np.zeros(len(part), np.int64)
    barycentric = np.tile([1.0, 0.0, 0.0], (len(part), 1))
    chart_faces, blend = charts.chart_to_surface(part[ok], u[ok], v[ok])
    ids = charts.corners[chart_faces]
    points = np.einsum("nc,ncd->nd", blend, on_anny[ids])
    outward = np.einsum("nc,ncd->nd", blend, normals[table_faces[ids]])
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


def _on_planes(
    uv: Float[np.ndarray, "*n 2"], part: Int[np.ndarray, "*m"]
) -> Float[np.ndarray, "*n 3"]:
    """Chart points in space, each part on a plane of its own."""
    level = np.broadcast_to(part * _APART, uv.shape[:-1])
    return np.concatenate([uv, level[..., None]], -1)


def _unrolled(
    triangles: Float[np.ndarray, "f 3 3"], bone: Float[np.ndarray, "3"], *, turned: bool
) -> tuple[Float[np.ndarray, "f 3 2"], Float[np.ndarray, "f"]]:
    """Cylinder coordinates about the bone in the unit square, and each face's distance from it."""
    axis = bone / np.linalg.norm(bone)
    # The seam is at the back; a bone that points forward has it below.
    front = np.array([0.0, 0.0, 1.0]) if abs(axis[2]) < 0.8 else np.array([0.0, 1.0, 0.0])
    front = front - (front @ axis) * axis
    front = front / np.linalg.norm(front)
    side = np.cross(axis, front)
    del turned  # left-handed frames of mirrored triangles give mirrored angles by themselves
    across, ahead = triangles @ side, triangles @ front
    middle = np.arctan2(across.mean(1), ahead.mean(1))[:, None]
    # A triangle over the seam stays whole, sticking out on the side where its middle is.
    angle = np.arctan2(across, ahead)
    angle = angle - 2 * np.pi * np.round((angle - middle) / (2 * np.pi))
    uv = np.stack([angle, triangles @ axis], -1)
    return _to_unit_square(uv), np.hypot(across.mean(1), ahead.mean(1))
