"""What an annotator, or a dense predictor, would say about a rendered person.

`exact` labels are the surface points that project to the chosen pixels. `predicted` labels have the
errors of a trained predictor: jitter, outliers, exchanged sides and missing parts; how they are
modelled, and after whom, is in docs/decisions/0007.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from deformlearn.body import BodyTemplate
from deformlearn.config import SyntheticConfig
from deformlearn.skeleton import SEGMENTS, joint_set, mirrored_name

Random = np.random.Generator

KEYPOINTS = joint_set("skeleton25").names
"""What is marked on every person: the joints of the body model and the top of the head."""

LEG_SWAPS = 3.0
"""People whose whole legs are exchanged, per share of points that are (config.swaps)."""

_LEGS = tuple(name for name in SEGMENTS if name.endswith(("hip", "knee", "ankle", "foot")))


@dataclass(frozen=True, eq=False)
class Labels:
    """Correspondences and key points of one person, in crop pixels."""

    points: Float[np.ndarray, "points 2"]
    faces: Int[np.ndarray, "points"]
    barycentric: Float[np.ndarray, "points 3"]
    keypoints: Float[np.ndarray, "25 2"]


class Surface:
    """The template's surface as labels see it: segments, mirror images, random points."""

    def __init__(self, template: BodyTemplate) -> None:
        self._faces = template.faces.numpy()
        self._segments = template.weights.argmax(1).numpy()
        corners = template.vertices[template.faces].double().numpy()
        sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area = np.linalg.norm(sides, axis=1)
        self._up_to = np.cumsum(area) / area.sum()
        self._mirror_face, self._mirror_corner = _mirror_faces(self._faces, template.mirror.numpy())

    def segments(
        self, faces: Int[np.ndarray, "points"], barycentric: Float[np.ndarray, "points 3"]
    ) -> Int[np.ndarray, "points"]:
        """The segment that moves the nearest corner of each point's face most."""
        nearest = barycentric.argmax(1)
        return self._segments[self._faces[faces, nearest]]

    def mirrored(
        self, faces: Int[np.ndarray, "points"], barycentric: Float[np.ndarray, "points 3"]
    ) -> tuple[Int[np.ndarray, "points"], Float[np.ndarray, "points 3"]]:
        """The same points on the other side of the body."""
        corner = self._mirror_corner[faces]
        return self._mirror_face[faces], np.take_along_axis(barycentric, corner, 1)

    def anywhere(
        self, count: int, random: Random
    ) -> tuple[Int[np.ndarray, "points"], Float[np.ndarray, "points 3"]]:
        """Points drawn evenly over the resting body's skin."""
        faces = np.searchsorted(self._up_to, random.random(count)).clip(0, len(self._up_to) - 1)
        across, along = np.sqrt(random.random(count)), random.random(count)
        blend = np.stack([1 - across, across * (1 - along), across * along], 1)
        return faces, blend


def _mirror_faces(
    faces: Int[np.ndarray, "faces 3"], mirror: Int[np.ndarray, "vertices"]
) -> tuple[Int[np.ndarray, "faces"], Int[np.ndarray, "faces 3"]]:
    """Each face's mirror image, and which of a face's corners is each corner of that image."""
    image = mirror[faces]
    index = {tuple(sorted(face)): number for number, face in enumerate(faces.tolist())}
    partner = np.array([index.get(tuple(sorted(face)), -1) for face in image.tolist()])
    # Where quads are cut along the other diagonal, a neighbour that shares two corners will do.
    edges = {
        frozenset(pair): number
        for number, (a, b, c) in enumerate(faces.tolist())
        for pair in ((a, b), (b, c), (c, a))
    }
    for face in (partner < 0).nonzero()[0]:
        a, b, c = image[face].tolist()
        found = [edges[pair] for pair in map(frozenset, ((a, b), (b, c), (c, a))) if pair in edges]
        partner[face] = found[0]
    same = image[:, None, :] == faces[partner][:, :, None]
    return partner, same.argmax(2)


def annotate(
    pixels: Float[np.ndarray, "visible 2"],
    faces: Int[np.ndarray, "visible"],
    barycentric: Float[np.ndarray, "visible 3"],
    keypoints: Float[np.ndarray, "25 2"],
    surface: Surface,
    count: int,
    random: Random,
) -> Labels:
    """`count` of the visible pixels, spread over the visible segments; all where there are fewer.

    A pixel's chance falls with the square root of its segment's size, between one point a pixel and
    one a segment: DensePose's annotators too were given points by part.
    """
    segments = surface.segments(faces, barycentric)
    weight = 1 / np.sqrt(np.bincount(segments, minlength=len(SEGMENTS))[segments])
    # The largest of log(weight) + Gumbel noise are a weighted draw without replacement.
    rank = -(np.log(weight) + random.gumbel(size=len(weight)))
    first = np.argpartition(rank, count)[:count] if count < len(rank) else np.arange(len(rank))
    chosen = first[np.argsort(rank[first])]
    return Labels(pixels[chosen], faces[chosen], barycentric[chosen], keypoints)


def predicted(
    labels: Labels, surface: Surface, config: SyntheticConfig, half: float, random: Random
) -> Labels:
    """Labels as a predictor would give them; `half` is half the crop's side in pixels."""
    points, faces, barycentric = labels.points, labels.faces.copy(), labels.barycentric.copy()
    keypoints = labels.keypoints
    segments = surface.segments(faces, barycentric)
    count = len(points)
    swapped = random.random(count) < config.swaps
    if random.random() < LEG_SWAPS * config.swaps:
        swapped |= np.isin(segments, [SEGMENTS.index(name) for name in _LEGS])
        exchanged = [
            KEYPOINTS.index(mirrored_name(name) if name in _LEGS else name) for name in KEYPOINTS
        ]
        keypoints = keypoints[exchanged]
    faces[swapped], barycentric[swapped] = surface.mirrored(faces[swapped], barycentric[swapped])
    astray = random.random(count) < config.outliers
    faces[astray], barycentric[astray] = surface.anywhere(int(astray.sum()), random)
    seen = random.random(len(SEGMENTS)) >= config.holes
    jitter = config.noise * half
    points = points + jitter * random.standard_normal(points.shape)
    keypoints = keypoints + jitter * random.standard_normal(keypoints.shape)
    kept = seen[segments]
    return replace(
        labels,
        points=points[kept],
        faces=faces[kept],
        barycentric=barycentric[kept],
        keypoints=keypoints,
    )
