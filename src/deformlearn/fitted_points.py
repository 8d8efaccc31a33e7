"""Dense correspondences from a fitted body: what the paper did with MoSh, without MoSh.

Where a data set has 3D joints but no dense labels, the template is registered to each person's
joints, true depths included, and surface points of the fitted body that the camera sees become
pixels with a place on the template. So 3D truth is used to MAKE the 2D correspondences, exactly as in
the paper's column "with MoSh correspondences"; training sees only the 2D result. (The paper's other
column, with DensePose's predictions, uses no 3D at all.)

Joints say nothing of a limb's twist or girth: there the template's own shape stands in.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.body import BodyTemplate, skin
from deformlearn.camera import Crop
from deformlearn.config import RegistrationConfig
from deformlearn.data.sources import Person, SurfacePoints
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, project_points
from deformlearn.observations import Observations, no_points
from deformlearn.raster import Fragments, rasterise
from deformlearn.registration import register
from deformlearn.skeleton import SEGMENTS, joint_set

FIT = RegistrationConfig(
    keypoint_weight=100.0,
    depth_weight=100.0,
    scale_weight=1.0,
    joint_weight=0.2,
)
"""Joints and depths are exact here and are followed; what they leave open (a limb's twist) is held
at rest by the angles' weight."""

_NEEDED = 6
"""Joints without which neither a body nor the camera's view of it can be fitted."""

_RASTER = 160
"""Side of the square in which visible points are looked for (px)."""

_RENDERED = 16
"""People whose surfaces are rasterised at once: bounds the memory."""


@dataclass(frozen=True)
class FittedPoints:
    """`with_fitted_points` with its options: a step of an import that can travel to its workers."""

    template: BodyTemplate = field(repr=False)
    joints: str
    """Joint set of the people."""
    count: int = 128
    """Correspondences a person."""
    seed: int = 0

    def __call__(self, people: list[Person]) -> list[Person]:
        return with_fitted_points(people, self.template, self.count, self.seed, joints=self.joints)


def with_fitted_points(
    people: list[Person],
    template: BodyTemplate,
    count: int,
    seed: int,
    *,
    joints: str = "h36m17",
) -> list[Person]:
    """The same people with `count` correspondences each, of the template fitted to their joints.

    A person's points depend on the seed and the key alone. Someone with fewer than 6 known joints
    stays without points, with a note that says so; people without any 3D joints are an InputError.
    """
    if people and all(person.joints_mm is None for person in people):
        raise InputError(
            "fitted points need 3D joints, and this data set has none; "
            "give DensePose predictions instead"
        )
    usable = [person for person in people if _known(person).sum() >= _NEEDED]
    if not usable:
        return [_without_points(person) for person in people]
    estimate = _fit(usable, template, joints)
    points: dict[str, SurfacePoints] = {}
    for first in range(0, len(usable), _RENDERED):
        some = usable[first : first + _RENDERED]
        surfaces = _surfaces_mm(template, estimate[first : first + _RENDERED], some, joints)
        points |= _visible_points(some, surfaces, template, count, seed)
    return [
        replace(person, dense=points[person.key])
        if person.key in points
        else _without_points(person)
        for person in people
    ]


def _known(person: Person) -> np.ndarray:
    """Which joints have a place in the image and in space."""
    if person.joints_mm is None:
        return np.zeros(len(person.keypoints), bool)
    finite = np.isfinite(person.joints_mm).all(1) & np.isfinite(person.keypoints).all(1)
    return finite & (person.keypoint_weights > 0)


def _without_points(person: Person) -> Person:
    return replace(
        person, notes=(*person.notes, f"no fitted points: fewer than {_NEEDED} joints are known")
    )


def _origins_mm(people: Sequence[Person]) -> Float[Tensor, "people 1 3"]:
    """The middle of each person's known joints: what the fit takes for the origin."""
    middles = [person.joints_mm[_known(person)].mean(0) for person in people]  # type: ignore[index]
    return torch.from_numpy(np.stack(middles)).float()[:, None]


def _fit(people: Sequence[Person], template: BodyTemplate, joints: str) -> Estimate:
    """Bodies registered to the joints in camera axes: a parallel view in which a metre is 1."""
    known = torch.from_numpy(np.stack([_known(person) for person in people])).float()
    joints_mm = torch.from_numpy(np.nan_to_num(np.stack([one.joints_mm for one in people]))).float()  # type: ignore[misc]
    placed = (joints_mm - _origins_mm(people)) / 1000 * known[..., None]
    roots = list(joint_set(joints).root_indices)
    depths = placed[..., 2] - placed[:, roots, 2].mean(1, keepdim=True)
    sure = known * known[:, roots].amin(1, keepdim=True)
    seen = Observations(
        *no_points(len(people), placed), placed[..., :2], known, depths, sure, joints
    )
    square = Crop(placed.new_zeros(len(people), 2), placed.new_ones(len(people)))
    return register(template, seen, square, FIT)[0]


def _surfaces_mm(
    template: BodyTemplate, estimate: Estimate, people: Sequence[Person], joints: str
) -> Float[Tensor, "people vertices 3"]:
    """The fitted bodies in camera axes (mm), where the people stand."""
    camera = estimate.camera
    turned = skin(template, estimate.body) @ camera.rotation().mT * camera.scale[:, None, None]
    turned[..., :2] += camera.translation[:, None]
    # The parallel view leaves the distance open: the joints' own depths settle it.
    chosen = joint_set(joints)
    fitted = project_points(template, estimate, template.keypoints(chosen))[..., 2]
    known = torch.from_numpy(np.stack([_known(person) for person in people])).float()
    wanted = torch.from_numpy(np.nan_to_num(np.stack([one.joints_mm for one in people]))).float()  # type: ignore[misc]
    ahead = (((wanted[..., 2] / 1000 - fitted) * known).sum(1) / known.sum(1))[:, None]
    origin = _origins_mm(people)
    surfaces = 1000 * turned
    surfaces[..., :2] += origin[..., :2]
    surfaces[..., 2] += 1000 * ahead
    return surfaces


@dataclass(frozen=True, eq=False)
class _View:
    """How one person's surroundings appear: pixels = matrix [x/z, y/z, 1].

    Fitted to the joints and their pixels, so no calibration is needed, and a lens's distortion is
    taken along as far as it is even over the person. Joints given relative to a root, some of them
    behind the origin, get a parallel view: matrix [x, y, 1].
    """

    matrix: Float[Tensor, "3 2"]
    perspective: bool

    @staticmethod
    def of(person: Person) -> _View:
        known = _known(person)
        joints = torch.from_numpy(person.joints_mm[known])  # type: ignore[index]
        perspective = bool((joints[:, 2] > 0).all())
        view = _View(joints.new_zeros(3, 2), perspective)
        pixels = torch.from_numpy(person.keypoints[known].astype(np.float64))
        matrix = torch.linalg.lstsq(view._flat(joints), pixels, driver="gelsd").solution
        return _View(matrix, perspective)

    def pixels(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 2"]:
        """Source pixels of points in camera axes (mm)."""
        return (self._flat(points.double()) @ self.matrix).to(points)

    def _flat(self, points: Tensor) -> Tensor:
        flat = points[..., :2] / (points[..., 2:] if self.perspective else 1000)
        return torch.nn.functional.pad(flat, (0, 1), value=1.0)


def _visible_points(
    people: Sequence[Person],
    surfaces: Float[Tensor, "people vertices 3"],
    template: BodyTemplate,
    count: int,
    seed: int,
) -> dict[str, SurfacePoints]:
    """Points of each surface that nothing of it hides, by the people's keys."""
    views = [_View.of(person) for person in people]
    pixels = torch.stack([view.pixels(one) for view, one in zip(views, surfaces, strict=True)])
    low, high = pixels.amin(1), pixels.amax(1)
    step = (high - low).amax(1).clamp_min(1e-3) / _RASTER
    grid = (pixels - low[:, None]) / step[:, None, None]
    owner = template.weights.argmax(1).numpy()[template.faces.numpy()]
    found = {}
    for row, person in enumerate(people):
        seen = rasterise(
            grid[row : row + 1],
            surfaces[row : row + 1, :, 2],
            template.faces,
            (_RASTER, _RASTER),
            perspective=views[row].perspective,
        )
        random = np.random.default_rng([seed, zlib.crc32(person.key.encode())])
        chosen = seen[torch.from_numpy(_spread(_segments(owner, seen), count, random))]
        centres = torch.stack([chosen.pixels % _RASTER, chosen.pixels // _RASTER], 1) + 0.5
        found[person.key] = SurfacePoints(
            (centres * step[row] + low[row]).double().numpy(),
            chosen.faces.numpy(),
            chosen.barycentric.double().numpy(),
            np.ones(len(chosen.faces)),
        )
    return found


def _segments(owner: Int[np.ndarray, "faces 3"], seen: Fragments) -> Int[np.ndarray, "n"]:
    """The segment that moves the nearest corner of each fragment's face most."""
    return owner[seen.faces.numpy(), seen.barycentric.numpy().argmax(1)]


def _spread(
    segments: Int[np.ndarray, "n"], count: int, random: np.random.Generator
) -> Int[np.ndarray, "chosen"]:
    """`count` of the pixels, spread over the segments as the synthetic people's labels are."""
    weight = 1 / np.sqrt(np.bincount(segments, minlength=len(SEGMENTS))[segments])
    # The largest of log(weight) + Gumbel noise are a weighted draw without replacement.
    order = np.argsort(-(np.log(weight) + random.gumbel(size=len(weight))), kind="stable")
    return order[:count]
