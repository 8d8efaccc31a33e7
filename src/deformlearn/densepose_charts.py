"""DensePose's charts of SMPL's surface, and its labels as points of any template's surface.

SMPL itself is never needed: `surfaces.smpl_points_on` says where each SMPL vertex lies on a template.
"""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from deformlearn import templates
from deformlearn.body import BodyTemplate
from deformlearn.charts import Charts
from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.matlab import read_variable
from deformlearn.patches import PatchSearch
from deformlearn.surfaces import smpl_points_on

PARTS = 24
"""DensePose's parts are numbered 1..24; 0 is background."""

_FARTHEST = 0.03
"""Metres from the template's surface beyond which a blended point is not trusted."""

_MARGIN = 0.002
"""Metres from the surface within which nearly all blended points lie (1.7 mm at the 95th percentile)."""

_MANY = 500_000
"""Labels at once for which the table is worth the seconds that it takes to make."""

_TABLE_FORMAT = 1
_TABLE_ROW = np.dtype([("face", "<i4"), ("second", "<f4"), ("third", "<f4")])

Points = tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"], Bool[np.ndarray, "n"]]
"""Faces, barycentric coordinates, and whether to trust them."""


class CarriedCharts:
    """DensePose's charts and where their points lie on a template."""

    def __init__(self, charts: Charts, template: BodyTemplate) -> None:
        """A template on which SMPL's vertices cannot be placed is an InputError."""
        self.charts = charts
        self._fingerprint = template.fingerprint
        self._faces, self._barycentric = smpl_points_on(template)
        if (highest := int(charts.corners.max())) >= len(self._faces):
            raise InputError(
                f"the charts name SMPL vertex {highest}; SMPL has {len(self._faces)} vertices"
            )
        self._corners = template.faces.cpu().numpy()
        self._triangles = template.vertices.double().cpu().numpy()[self._corners]

    def points(
        self, part: Int[np.ndarray, "n"], u: Float[np.ndarray, "n"], v: Float[np.ndarray, "n"]
    ) -> Points:
        """Face and barycentric coordinates of (I, U, V), and whether to trust them.

        Not ok: parts outside 1..24, U or V that are no numbers, and blends over 3 cm from the skin.
        """
        ok = (
            np.isin(part, self.charts.parts[self.charts.parts > 0])
            & np.isfinite(u)
            & np.isfinite(v)
        )
        faces = np.zeros(len(part), np.int64)
        barycentric = np.tile([1.0, 0.0, 0.0], (len(part), 1))
        chart_faces, blend = self.charts.chart_to_surface(part[ok], u[ok], v[ok])
        if self._same is None:
            faces[ok], found, distance = self._blended(chart_faces, blend)
            barycentric[ok] = found
            ok[ok] = distance < _FARTHEST
        else:
            same, order = self._same
            faces[ok] = same[chart_faces]
            barycentric[ok] = np.take_along_axis(blend, order[chart_faces], axis=1)
        return faces, _to_single(barycentric), ok

    def points_of_bytes(
        self, part: Int[np.ndarray, "n"], u: UInt8[np.ndarray, "n"], v: UInt8[np.ndarray, "n"]
    ) -> Points:
        """What `points` gives for u / 255 and v / 255, out of a table."""
        ok = (part >= 1) & (part <= PARTS)
        row = np.where(ok, part - 1, 0) * 65536 + v.astype(np.int64) * 256 + u
        entries = self.table[row]
        ok &= entries["face"] >= 0
        barycentric = np.stack([entries["second"], entries["second"], entries["third"]], -1)
        return (
            np.where(ok, entries["face"], 0).astype(np.int64),
            _completed(np.where(ok[:, None], barycentric, 0.0)),
            ok,
        )

    @cached_property
    def table(self) -> np.ndarray:
        """Face (-1: not to be trusted) and barycentric coordinates of every 8-bit label.

        A row for each (part, V, U). It is made once for a template and kept in the cache folder.
        """
        table = self._cached_table()
        if table is None:
            table = self._make_table()
            content = table.tobytes()
            try:
                write_atomically(self.table_path, content)
            except InputError:
                return table  # a cache that cannot be written costs time, not results
        return table

    @property
    def has_table(self) -> bool:
        """Whether the table is at hand without making it."""
        return "table" in self.__dict__ or self.table_path.is_file()

    @cached_property
    def table_path(self) -> Path:
        """Where the table of these charts and this template is kept."""
        digest = hashlib.sha256(self._fingerprint.encode())
        for values in (self.charts.parts, self.charts.uv, self.charts.corners, self._faces,
                       self._barycentric):  # fmt: skip
            digest.update(np.ascontiguousarray(values).tobytes())
        name = f"densepose-{digest.hexdigest()[:16]}-format{_TABLE_FORMAT}.bin"
        return templates.cache_folder() / "charts" / name

    def _cached_table(self) -> np.ndarray | None:
        try:
            table = np.fromfile(self.table_path, _TABLE_ROW)
        except OSError:
            return None
        sound = (
            len(table) == PARTS * 65536
            and table["face"].min() >= -1
            and table["face"].max() < len(self._corners)
        )
        return table if sound else None

    def _make_table(self) -> np.ndarray:
        part, v, u = (axis.ravel() for axis in np.indices((PARTS, 256, 256)))
        table = np.zeros(len(part), _TABLE_ROW)
        step = 1 << 17
        for begin in range(0, len(part), step):
            rows = slice(begin, begin + step)
            faces, barycentric, ok = self.points(part[rows] + 1, u[rows] / 255.0, v[rows] / 255.0)
            table["face"][rows] = np.where(ok, faces, -1)
            table["second"][rows], table["third"][rows] = barycentric[:, 1], barycentric[:, 2]
        return table

    def _blended(
        self, chart_faces: Int[np.ndarray, "n"], blend: Float[np.ndarray, "n 3"]
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
        """Blends of the chart triangle's corners on the template, moved to its skin.

        Snapping to the nearest SMPL vertex would cost 9 mm; the blend lies a little under the skin,
        and goes to the nearest surface that faces the same way (fingers and lips are folded).
        """
        ids = self.charts.corners[chart_faces]
        points = np.einsum("nc,ncd->nd", blend, self._placed[ids])
        outward = np.einsum("nc,ncd->nd", blend, self._search.normals[self._faces[ids]])
        return self._search.nearest(chart_faces, points, outward)

    @cached_property
    def _placed(self) -> Float[np.ndarray, "smpl 3"]:
        return np.einsum("sc,scd->sd", self._barycentric, self._triangles[self._faces])

    @cached_property
    def _search(self) -> PatchSearch:
        return PatchSearch(self._placed[self.charts.corners], self._triangles, _MARGIN)

    @cached_property
    def _same(self) -> tuple[Int[np.ndarray, "charted"], Int[np.ndarray, "charted 3"]] | None:
        """On a template with SMPL's own mesh: the face that each chart triangle is, corner by corner.

        None where the chart triangles are no faces of the template.
        """
        if not (self._barycentric.max(1) == 1).all():
            return None
        vertex = np.take_along_axis(
            self._corners[self._faces], self._barycentric.argmax(1)[:, None], axis=1
        )[:, 0]
        wanted = vertex[self.charts.corners]
        known = {tuple(corners): face for face, corners in
                 enumerate(np.sort(self._corners, axis=1).tolist())}  # fmt: skip
        faces = [known.get(tuple(corners), -1) for corners in np.sort(wanted, axis=1).tolist()]
        if min(faces) < 0:
            return None
        same = np.array(faces)
        # Corner k of the face is the chart triangle's corner order[k].
        order = (self._corners[same][:, :, None] == wanted[:, None, :]).argmax(-1)
        return same, order


def densepose_to_template(
    charts: Charts,
    template: BodyTemplate,
    part: Int[np.ndarray, "n"],
    u: Float[np.ndarray, "n"],
    v: Float[np.ndarray, "n"],
) -> Points:
    """Face and barycentric coordinates of DensePose's (I, U, V), and whether to trust them.

    See `CarriedCharts.points`. Labels of eight bits are looked up in its table where it is at hand,
    or where there are so many that it pays to make it; the points are the same.
    """
    carried = _carried(charts, template)
    if carried.has_table or len(part) >= _MANY:
        wide = np.stack([u, v]) * 255
        whole = wide.round()
        if (np.abs(wide - whole) < 1e-9).all() and (whole >= 0).all() and (whole <= 255).all():
            return carried.points_of_bytes(part, *whole.astype(np.uint8))
    return carried.points(part, u, v)


@lru_cache(maxsize=4)
def _carried(charts: Charts, template: BodyTemplate) -> CarriedCharts:
    return CarriedCharts(charts, template)


def _to_single(barycentric: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Rounded as the table is, so that it makes no difference which was asked."""
    return _completed(barycentric.astype(np.float32))


def _completed(barycentric: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    exact = barycentric.astype(np.float64)
    exact[:, 0] = (1 - exact[:, 1] - exact[:, 2]).clip(0)
    return exact


def read_densepose_charts(path: Path) -> Charts:
    """DensePose's 24 charts of SMPL's surface; `corners` are SMPL vertex ids.

    `path` is `UV_Processed.mat` of the DensePose release (CC BY-NC 4.0, not included); any other file
    is an InputError.
    """
    wanted = "DensePose's UV_Processed.mat (https://github.com/facebookresearch/DensePose)"
    names = ("All_FaceIndices", "All_Faces", "All_U_norm", "All_V_norm", "All_vertices")
    try:
        parts, faces, u, v, ids = (
            read_variable(Path(path), name).numbers().astype(np.float64) for name in names
        )
    except InputError as error:
        raise InputError(f"{error}; give {wanted}") from error
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
