"""What is drawn of a person, as plain arrays in view axes: for the live viewer and for pages alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from deformlearn.anatomy import segment_colours
from deformlearn.body import BodyPoints, BodyTemplate
from deformlearn.estimate import Estimate
from deformlearn.observations import Observations
from deformlearn.render import surface_colours
from deformlearn.viewer.people import Body, Person, in_view

SHADE = (142, 164, 210)
"""Colour of a body."""
GHOST = (240, 160, 84)
"""Colour of the body it is compared with."""

LIMIT = 0.05
"""Offset (image units) from which a line is red: where the flag "far from its observations" begins."""

BESIDE = 1.9
"""How far right of a photograph without estimates the resting template stands (image units)."""
BOTH = (0.8, 1.85)
"""Middle and half of the width of the two."""

_LIFT = 0.012
"""How far marks stand before the surface (image units), so that they are not half inside it."""
_BEHIND = 0.06
"""How far the photograph stands behind the deepest point."""
_LEAST_DEPTH = 0.7
"""Where it stands behind bodies that are not deep."""
_SIDES = {"left": (46, 120, 255), "right": (255, 74, 62)}
_MIDDLE = (64, 200, 104)


@dataclass(frozen=True)
class Marks:
    """Labels, where they were made and where the body has them."""

    placed: Float[np.ndarray, "marks 3"]
    """Where the label is on the photograph (at the depth of the body's own point)."""
    found: Float[np.ndarray, "marks 3"]
    """The body's own point."""
    colours: UInt8[np.ndarray, "marks 3"]
    """What each mark is: its place on the body, or its side."""
    line_colours: UInt8[np.ndarray, "marks 3"]
    """Of the line between the two: green where the label is met, red where it is far off."""


NO_MARKS = Marks(
    *(np.zeros((0, 3), np.float32) for _ in range(2)),
    *(np.zeros((0, 3), np.uint8) for _ in range(2)),
)


@dataclass(frozen=True)
class Picture:
    """One body of a person, its labels, and where the photograph is."""

    vertices: Float[np.ndarray, "vertices 3"]
    painted: bool
    """In the colours of its segments, as it is the template and no estimate."""
    photo_depth: float
    points: Marks = NO_MARKS
    keypoints: Marks = NO_MARKS


def picture_of(template: BodyTemplate, person: Person, body: Body | None) -> Picture:
    """One of the person's bodies over the photograph; without any, the template beside it."""
    if body is None:
        return _labels_beside(template, person.seen)
    vertices = in_view(template, body.estimate)
    depth = _photo_depth(template, person)
    if person.seen is None:
        return Picture(vertices, False, depth)
    marks = (_marks(template, body.estimate, *labels) for labels in _labels(template, person.seen))
    return Picture(vertices, False, depth, *marks)


def template_picture(template: BodyTemplate) -> Picture:
    """The template alone."""
    return Picture(in_view(template, Estimate.rest(template, 1)), True, 0.0)


def patches(template: BodyTemplate) -> tuple[np.ndarray, UInt8[np.ndarray, "segments 3"]]:
    """The segment that owns each face, and a colour for every segment."""
    owner = template.weights[template.faces].mean(1).argmax(1).numpy()
    return owner, (255 * segment_colours()).round().byte().numpy()


def severity(offsets: Float[np.ndarray, "marks"]) -> UInt8[np.ndarray, "marks 3"]:
    """Green at 0, yellow half way, red from `LIMIT` on."""
    share = np.clip(offsets / LIMIT, 0, 1)[:, None]
    green, yellow, red = (
        np.array(c, float) for c in ((40, 170, 90), (240, 190, 40), (214, 40, 40))
    )
    low = green + (yellow - green) * np.minimum(2 * share, 1)
    high = yellow + (red - yellow) * np.maximum(2 * share - 1, 0)
    return np.where(share < 0.5, low, high).round().astype(np.uint8)


_Labels = tuple[BodyPoints, Tensor, np.ndarray]
"""Points on the body, the pixels they were seen at (image units), and their colours."""


def _labels(template: BodyTemplate, seen: Observations) -> tuple[_Labels, _Labels]:
    """Correspondences, coloured by their place on the body, and key points, coloured by their side."""
    given = seen.point_weights[0] > 0
    faces, barycentric = seen.faces[0, given], seen.barycentric[0, given]
    corners = surface_colours(template)[template.faces[faces]]
    colours = (255 * (corners * barycentric[..., None]).sum(-2)).clamp(0, 255).byte().numpy()
    dense = template.surface_points(faces, barycentric), seen.points[0, given], colours
    given = seen.keypoint_weights[0] > 0
    names = [name for name, on in zip(seen.joint_set.names, given.tolist(), strict=True) if on]
    colours = np.array([_side_colour(name) for name in names], np.uint8).reshape(-1, 3)
    joints = template.keypoints(seen.joint_set)[given], seen.keypoints[0, given], colours
    return dense, joints


def _side_colour(name: str) -> tuple[int, int, int]:
    return next((colour for side, colour in _SIDES.items() if side in name), _MIDDLE)


def _marks(
    template: BodyTemplate,
    estimate: Estimate,
    points: BodyPoints,
    pixels: Tensor,
    colours: np.ndarray,
) -> Marks:
    found = in_view(template, estimate, points) + np.array([0, 0, _LIFT], np.float32)
    placed = np.concatenate([_flat(pixels), found[:, 2:]], 1)
    offsets = np.linalg.norm(placed - found, axis=1)
    return Marks(placed, found, colours, severity(offsets))


def _flat(pixels: Float[Tensor, "marks 2"]) -> Float[np.ndarray, "marks 2"]:
    """Image units with y up."""
    return pixels.numpy() * np.array([1, -1], np.float32)


def _labels_beside(template: BodyTemplate, seen: Observations | None) -> Picture:
    rest = Estimate.rest(template, 1)
    vertices = in_view(template, rest)
    # No line may pass behind the photograph, whose depth is 0.
    shift = np.array([BESIDE, 0, _BEHIND - vertices[:, 2].min()], np.float32)
    vertices = vertices + shift
    if seen is None:
        return Picture(vertices, True, 0.0)
    marks = []
    for points, pixels, colours in _labels(template, seen):
        found = in_view(template, rest, points) + shift
        found[:, 2] += _LIFT
        placed = np.concatenate([_flat(pixels), np.full_like(found[:, 2:], _LIFT)], 1)
        marks.append(Marks(placed, found, colours, colours))
    return Picture(vertices, True, 0.0, *marks)


def _photo_depth(template: BodyTemplate, person: Person) -> float:
    """Depth (z) of the photograph: behind every body of the person, so that it stays where it is."""
    deepest = min(
        (float(in_view(template, body.estimate)[:, 2].min()) for body in person.bodies), default=0.0
    )
    return min(deepest - _BEHIND, -_LEAST_DEPTH)
