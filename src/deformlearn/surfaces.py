"""From one body's surface to another's: where each point of a surface lies on another.

One of the two, a template with our 24 segments, is posed, scaled and drawn onto the other; from then
on both lie in register, and a point's place on the other surface is the closest point that faces the
same way. How, and how well: docs/decisions/0013.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from deformlearn.body import BodyTemplate
from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.meshes import Surface, blended, edges_of, face_areas, vertex_normals
from deformlearn.nonrigid import drape
from deformlearn.skeleton import SEGMENTS
from deformlearn.surface_fit import Body, fit_body

FORMAT = 1
"""Version of the map file and of how maps are made; a change here makes every cached map again."""

SMPL_VERTICES, SMPL_FACES = 6890, 13776
"""The size of SMPL's mesh, whose vertex ids DensePose's labels are in."""

_ANNY_FACES = 27420
"""Triangles of Anny's default mesh, whose numbering the shipped table uses."""

_PART_OF = {
    **dict.fromkeys(
        ("spine1", "spine2", "spine3", "neck", "left_collar", "right_collar"), "pelvis"
    ),
    "left_hand": "left_wrist",
    "right_hand": "right_wrist",
    "left_foot": "left_ankle",
    "right_foot": "right_ankle",
}
"""Segments that are one part of the body with another."""


@dataclass(frozen=True, eq=False)
class SurfaceMap:
    """Two surfaces in register, and where every vertex of the first lies on the second."""

    source: Surface
    target: Surface
    """Both where they lie in register, in the target's unit and about its size."""
    source_fingerprint: str
    target_fingerprint: str
    """Of the template or mesh each of them is."""
    faces: Int[np.ndarray, "vertices"]
    barycentric: Float[np.ndarray, "vertices 3"]
    distance: Float[np.ndarray, "vertices"]
    """Between the two in register, in the target's unit."""

    def carry(
        self, faces: Int[np.ndarray, "n"], barycentric: Float[np.ndarray, "n 3"]
    ) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
        """Face and barycentric coordinates on the target of points of the source; and the distance."""
        if self.source_fingerprint == self.target_fingerprint:
            return faces, barycentric, np.zeros(len(faces))
        normals = vertex_normals(self.source)
        directions = blended(normals, self.source.faces, faces, barycentric)
        return self.target.nearest(self.source.at(faces, barycentric), directions)

    def inverse(self) -> SurfaceMap:
        """From the target to the source; the same registration, read the other way."""
        return _in_register(
            self.target, self.source, self.target_fingerprint, self.source_fingerprint
        )


@dataclass(frozen=True)
class Summary:
    """How good a map is, in numbers; lengths in mm on the target (1.75 m tall if a bare mesh)."""

    distance_mm: tuple[float, float]
    """Median and 95th percentile of what is left between the two, over what can be seen."""
    stretch: tuple[float, float, float]
    """1st, 50th and 99th percentile of edge lengths on the target over those on the source, both in
    heights."""
    same_part: float | None
    """Share of the source's visible area that stays on its part of the body (trunk and neck, head,
    upper arm, forearm, hand, thigh, shin, foot); None unless both have segments."""
    asymmetry_mm: tuple[float, float] | None
    """Median and 95th percentile of how far a point's mirror image lands from the image's mirror."""

    def __str__(self) -> str:
        lines = [
            "distance  median {:.1f} mm, 95 % within {:.1f} mm".format(*self.distance_mm),
            "edges     {:.2f} .. {:.2f} .. {:.2f} times as long (1 %, half, 99 %)".format(
                *self.stretch
            ),
        ]
        if self.same_part is not None:
            lines.append(
                f"parts     {100 * self.same_part:.1f} % of the skin stays on its part of the body"
            )
        if self.asymmetry_mm is not None:
            lines.append(
                "mirror    median {:.1f} mm, 95 % within {:.1f} mm apart".format(*self.asymmetry_mm)
            )
        return "\n".join(lines)


def map_surface(source: BodyTemplate | Surface, target: BodyTemplate | Surface) -> SurfaceMap:
    """Where the points of one body's surface lie on another's; about 20 s on one core.

    At least one of the two must be a template; of two, the one with more vertices is posed, scaled
    and drawn onto the other, so that the map back is this map's inverse. Rest poses may differ, and
    so may units; both must be upright and face +z. What does not fit is an InputError.
    """
    if isinstance(source, Surface) and isinstance(target, Surface):
        raise InputError(
            f"neither {source.name!r} nor {target.name!r} has a skeleton; "
            f"one of two surfaces must be a template with our 24 segments"
        )
    prints = (source.fingerprint, target.fingerprint)
    surfaces = _surface(source), _surface(target)
    if prints[0] == prints[1]:
        faces, barycentric = _corners_of(surfaces[0])
        return SurfaceMap(*surfaces, *prints, faces, barycentric, np.zeros(len(faces)))
    if isinstance(target, Surface) or (
        isinstance(source, BodyTemplate) and len(source.vertices) >= len(target.vertices)
    ):
        assert isinstance(source, BodyTemplate)
        draped, other = _draped(source, surfaces[1])
        # Back from the template's size and place to the target's own.
        scale = surfaces[1].height / other.height
        shift = surfaces[1].vertices[0] - scale * other.vertices[0]
        draped = draped.moved(scale * draped.vertices + shift)
        return _in_register(draped, surfaces[1], *prints)
    draped, other = _draped(target, surfaces[0])
    return _in_register(other, draped, *prints)


def summarise(
    surface_map: SurfaceMap, source: BodyTemplate | Surface, target: BodyTemplate | Surface
) -> Summary:
    """The numbers by which to judge a map; `source` and `target` are what it was made of."""
    if (source.fingerprint, target.fingerprint) != (
        surface_map.source_fingerprint,
        surface_map.target_fingerprint,
    ):
        raise InputError(
            f"this map goes from {surface_map.source.name!r} to {surface_map.target.name!r} of other "
            f"fingerprints than the two bodies given; make it again"
        )
    start, end = _surface(source), _surface(target)
    to_mm = 1000.0 if isinstance(target, BodyTemplate) else 1750 / end.height
    landed = end.at(surface_map.faces, surface_map.barycentric)
    seen = start.seen_vertices
    edges = edges_of(start.faces[start.seen_faces])
    before, after = (
        np.linalg.norm(places[edges[:, 0]] - places[edges[:, 1]], axis=-1) / height
        for places, height in ((start.vertices, start.height), (landed, end.height))
    )
    # Slivers of a mesh have edges of no length, of which no ratio says anything.
    long = before > 1e-3
    same = None
    if isinstance(source, BodyTemplate) and isinstance(target, BodyTemplate):
        same = _same_part(surface_map, source, target, start)
    asymmetry = None
    if isinstance(source, BodyTemplate) and isinstance(target, BodyTemplate):
        apart = to_mm * _asymmetry(landed, start, end)[seen]
        asymmetry = (float(np.median(apart)), float(np.quantile(apart, 0.95)))
    distance = to_mm * surface_map.distance[seen]
    low, middle, high = np.quantile((after / before.clip(1e-12))[long], [0.01, 0.5, 0.99])
    return Summary(
        (float(np.median(distance)), float(np.quantile(distance, 0.95))),
        (float(low), float(middle), float(high)),
        same,
        asymmetry,
    )


def write_map(path: Path, surface_map: SurfaceMap) -> None:
    """Write a map file (safetensors); readers see the whole file or none."""
    arrays = {"faces": surface_map.faces, "barycentric": surface_map.barycentric}
    arrays["distance"] = surface_map.distance
    for side, surface in (("source", surface_map.source), ("target", surface_map.target)):
        arrays |= {
            f"{side}_vertices": surface.vertices,
            f"{side}_faces": surface.faces,
            f"{side}_seen": surface.seen_faces,
        }
    about = {
        "format": str(FORMAT),
        "names": json.dumps([surface_map.source.name, surface_map.target.name]),
        "fingerprints": json.dumps(
            [surface_map.source_fingerprint, surface_map.target_fingerprint]
        ),
    }
    contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    write_atomically(Path(path), safetensors.numpy.save(contiguous, about))


def read_map(path: Path) -> SurfaceMap:
    """The map in a file written by `write_map`; any other or damaged file is an InputError."""
    try:
        with safetensors.safe_open(path, "np") as file:
            about = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        if about.get("format") != str(FORMAT):
            raise InputError(
                f"{path} is not a surface map of format {FORMAT} (it says {about.get('format')!r}); "
                f"make it again with `deformlearn body map`"
            )
        names, prints = json.loads(about["names"]), json.loads(about["fingerprints"])
        sides = [
            Surface(
                name,
                arrays[f"{side}_vertices"],
                arrays[f"{side}_faces"],
                seen=arrays[f"{side}_seen"],
            )
            for side, name in zip(("source", "target"), names, strict=True)
        ]
        table = (arrays["faces"], arrays["barycentric"], arrays["distance"])
        whole = (
            {len(column) for column in table} == {len(sides[0].vertices)}
            and 0 <= table[0].min() <= table[0].max() < len(sides[1].faces)
            and all(len(side.seen_faces) for side in sides)
        )
        if not whole:
            raise ValueError("its tables do not fit its surfaces")
        return SurfaceMap(sides[0], sides[1], prints[0], prints[1], *table)
    except (OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a whole surface map ({error}); make it again with `deformlearn body map`"
        ) from error


def smpl_points_on(
    template: BodyTemplate,
) -> tuple[Int[np.ndarray, "6890"], Float[np.ndarray, "6890 3"]]:
    """Face and barycentric coordinates, on a template, of every SMPL vertex id.

    On Anny by the shipped table, on SMPL's own mesh by identity, on any other template through
    Anny by a surface map, which is made once (about 20 s) and kept in the cache folder.
    """
    if _is_anny(template):
        return _smpl_on_anny()
    if template.name.startswith("smpl") and (
        (len(template.vertices), len(template.faces)) == (SMPL_VERTICES, SMPL_FACES)
    ):
        return _corners_of(Surface.of(template))
    faces, barycentric, _ = _from_anny(template).carry(*_smpl_on_anny())
    return faces, barycentric


def _from_anny(template: BodyTemplate) -> SurfaceMap:
    """The map from Anny to a template, from the cache or made now."""
    from deformlearn.templates import cache_folder, load

    anny = load("anny")
    if not _is_anny(anny):
        raise InputError(
            f"the table of SMPL's vertices is of Anny's mesh with {_ANNY_FACES} faces; "
            f"the package anny now makes {len(anny.faces)}: install anny 0.6"
        )
    name = f"anny-{anny.fingerprint}-to-{template.fingerprint}-format{FORMAT}.safetensors"
    path = cache_folder() / "maps" / name
    if path.is_file():
        try:
            return read_map(path)
        except InputError as error:
            print(f"Making the cached surface map again: {error}", file=sys.stderr)
    print(
        f"Mapping Anny's surface to that of {template.name!r}: about 20 s, this once",
        file=sys.stderr,
    )
    made = map_surface(anny, template)
    try:
        write_map(path, made)
    except InputError as error:
        print(f"The surface map is not kept: {error}", file=sys.stderr)
    return made


def _is_anny(template: BodyTemplate) -> bool:
    return template.name == "anny" and len(template.faces) == _ANNY_FACES


def _smpl_on_anny() -> tuple[Int[np.ndarray, "6890"], Float[np.ndarray, "6890 3"]]:
    """The shipped table, made from MHR's surface without SMPL's geometry."""
    with resources.files("deformlearn").joinpath("assets/smpl_to_anny.npz").open("rb") as file:
        table = np.load(file)
        return table["face"].astype(np.int64), table["bary"].astype(np.float64)


def _surface(body: BodyTemplate | Surface) -> Surface:
    if isinstance(body, BodyTemplate):
        return Surface.of(body)
    vertices, faces = body.vertices.astype(np.float64), body.faces.astype(np.int64)
    return replace(body, vertices=vertices, faces=faces)


def _corners_of(
    surface: Surface,
) -> tuple[Int[np.ndarray, "vertices"], Float[np.ndarray, "vertices 3"]]:
    """Every vertex as a corner of the first face that has it; one in no face, of its nearest."""
    ids, first = np.unique(surface.faces, return_index=True)
    if len(ids) < len(surface.vertices):
        beside = cKDTree(surface.vertices[ids]).query(surface.vertices)[1]
        first = first[beside]
    return first // 3, np.eye(3)[first % 3]


def _draped(template: BodyTemplate, surface: Surface) -> tuple[Surface, Surface]:
    """A template's surface in register with another, and that at the template's size and place."""
    body = Body.of(template)
    scale = body.surface.height / surface.height
    shift = _middle(body.surface) - scale * _middle(surface)
    other = replace(
        surface,
        vertices=scale * surface.vertices + shift,
        landmarks={name: scale * place + shift for name, place in surface.landmarks.items()},
    )
    placement, tips = fit_body(body, other)
    placed = placement.surface(body)
    return placed.moved(drape(placed, other, tips)), other


def _middle(surface: Surface) -> Float[np.ndarray, "3"]:
    return (surface.vertices.min(0) + surface.vertices.max(0)) / 2


def _in_register(source: Surface, target: Surface, *prints: str) -> SurfaceMap:
    """The map between two surfaces that lie in register."""
    faces, barycentric, distance = target.nearest(source.vertices, vertex_normals(source))
    return SurfaceMap(source, target, prints[0], prints[1], faces, barycentric, distance)


def _same_part(
    surface_map: SurfaceMap, source: BodyTemplate, target: BodyTemplate, start: Surface
) -> float:
    """Share of the visible area on which the part that moves the skin most is the same."""
    seen = start.seen_faces
    middle = np.full((len(seen), 3), 1 / 3)
    faces, barycentric, _ = surface_map.carry(seen, middle)
    mine = _parts(source, seen, middle)
    theirs = _parts(target, faces, barycentric)
    return float(np.average(mine == theirs, weights=face_areas(start.vertices, start.faces)[seen]))


def _parts(
    template: BodyTemplate, faces: Int[np.ndarray, "n"], barycentric: Float[np.ndarray, "n 3"]
) -> Int[np.ndarray, "n"]:
    """The part that moves each point most: the segment each part begins with.

    Where one vertebra's skin ends and the next one's begins is for every rig to say; where an arm
    ends is not.
    """
    part = [SEGMENTS.index(_PART_OF.get(name, name)) for name in SEGMENTS]
    weights = template.weights.cpu().numpy()[template.faces.cpu().numpy()[faces]]
    moved = np.einsum("nc,ncs->ns", barycentric, weights)
    return (moved @ np.eye(len(SEGMENTS))[part]).argmax(1)


def _asymmetry(
    landed: Float[np.ndarray, "vertices 3"], start: Surface, end: Surface
) -> Float[np.ndarray, "vertices"]:
    """How far a vertex's mirror image lands from the mirror image of where it lands."""
    flip = np.array([-1.0, 1.0, 1.0])
    mirror = cKDTree(start.vertices).query(start.vertices * flip)[1]
    return np.linalg.norm(landed[mirror] - landed * flip, axis=-1)
