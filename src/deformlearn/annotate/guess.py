"""Where a pixel probably lies on the body, judged by what is already annotated.

The body is registered to the person's pairs and key points (section 4, a few steps only), and the
pixel's place on the fitted body is the suggestion. The annotator accepts or corrects it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from deformlearn.annotate.labels import observed_row
from deformlearn.annotate.marks import PersonMarks
from deformlearn.annotate.view import Picked, side_tints
from deformlearn.body import BodyTemplate, skin
from deformlearn.camera import Camera, Crop
from deformlearn.config import RegistrationConfig
from deformlearn.data.shards import DatasetInfo, people_of
from deformlearn.estimate import Estimate, project_points
from deformlearn.observations import Observations
from deformlearn.orientation import oriented_start
from deformlearn.raster import rasterise
from deformlearn.registration import register
from deformlearn.render import shade
from deformlearn.tensors import concatenate

ENOUGH = 6
"""Pairs and key points from which on a body is fitted."""

_STIFF = RegistrationConfig(joint_weight=1.0, scale_weight=100.0, robust=None, iterations=8)
"""First steps, from every side: the body turns and hardly bends (the paper's first round)."""

_SOFT = RegistrationConfig(joint_weight=0.2, scale_weight=100.0)
"""Then the best of them bends; stiffer than where a hundred points tell the pose."""

_TURNS = (0.0, 90.0, 180.0, 270.0)
"""Degrees about the vertical that the rest pose starts from."""

_REACH = 0.12
"""Half crops from the fitted body within which a pixel still gets its nearest point."""

_PICTURE = 640
"""Side of the picture of the fitted body (px)."""

_BEYOND = 1.25
"""That picture spans this many crops: a fitted hand may reach over the crop's edge."""

_KEPT = 64
"""Fits remembered."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A person's body as far as the marks say."""

    estimate: Estimate
    """Of one person."""
    crop: Crop
    distance_px: float
    """Median distance of the marks from the fitted body (source px)."""


class Guesser:
    """Fits bodies to marks, and remembers the fits."""

    def __init__(self, template: BodyTemplate, info: DatasetInfo) -> None:
        self.template = template
        self._info = info
        self._tints = side_tints(template)
        self._fits: OrderedDict[PersonMarks, Fit] = OrderedDict()
        self._lock = threading.Lock()

    def fit(self, person: PersonMarks) -> Fit | None:
        """The body that explains the marks; None where they are too few to tell."""
        if len(person.pairs) + len(person.placed) < ENOUGH:
            return None
        # One at a time: two fits at once would only slow each other down.
        with self._lock:
            if person not in self._fits:
                self._fits[person] = self._register(person)
                if len(self._fits) > _KEPT:
                    self._fits.popitem(last=False)
            return self._fits[person]

    def point(self, fit: Fit, x: float, y: float) -> Picked | None:
        """The point of the fitted body seen at a source pixel, or near it; None far from the body."""
        screen, depth = self._on_photo(fit)
        pixel = screen.new_tensor([x, y])
        faces = self.template.faces
        found = rasterise((screen - pixel + 0.5)[None], depth[None], faces, (1, 1))
        if len(found.faces):
            u, v, w = found.barycentric[0].tolist()
            return Picked(int(found.faces[0]), (u, v, w))
        # Beside the body: the nearest of the points in sight on a grid over the pixel's surroundings.
        size = 96
        reach = _REACH * fit.crop.half.item()
        grid = (screen - pixel) * (size / 2 / reach) + size / 2
        found = rasterise(grid[None], depth[None], faces, (size, size))
        if len(found.faces) == 0:
            return None
        row, column = found.pixels // size, found.pixels % size
        away = torch.hypot(column + 0.5 - size / 2, row + 0.5 - size / 2)
        nearest = int(away.argmin())
        if away[nearest] > size / 2:
            return None
        u, v, w = found.barycentric[nearest].tolist()
        return Picked(int(found.faces[nearest]), (u, v, w))

    def picture(self, fit: Fit) -> tuple[UInt8[np.ndarray, "h w 4"], tuple[float, float, float]]:
        """The fitted body, RGBA, left side cold and right side warm; its square's corner and side (px)."""
        camera = fit.estimate.camera
        wider = Camera(camera.matrix, camera.translation / _BEYOND, camera.scale / _BEYOND)
        layer = shade(
            self.template,
            replace(fit.estimate, camera=wider),
            _PICTURE,
            colour=self._tints,
            supersample=1,
        )[0]
        (x, y), half = fit.crop.centre[0].tolist(), fit.crop.half.item() * _BEYOND
        return (layer * 255).round().to(torch.uint8).numpy(), (x - half, y - half, 2 * half)

    def _register(self, person: PersonMarks) -> Fit:
        row = observed_row("fit", "", person)
        people = people_of([row], self._info)
        seen, crop = people.observations, people.crop
        starts = self._starts(seen)
        count = len(starts.camera.scale)
        rows = torch.zeros(count, dtype=torch.long)
        stiff, quality = register(self.template, seen[rows], crop[rows], _STIFF, start=starts)
        best = int(quality.loss.argmin())
        found, _ = register(self.template, seen, crop, _SOFT, start=stiff[best : best + 1])
        return Fit(found, crop, self._distance(found, seen, crop))

    def _starts(self, seen: Observations) -> Estimate:
        """The rest pose over the person's box, turned to every side, and the closed-form start."""
        points = self.template.surface_points(seen.faces, seen.barycentric)
        plain = oriented_start(self.template, seen, points, closed_form=False)
        starts = [_turned(self.template, plain, degrees) for degrees in _TURNS]
        return concatenate([*starts, oriented_start(self.template, seen, points)])

    def _distance(self, found: Estimate, seen: Observations, crop: Crop) -> float:
        surface = self.template.surface_points(seen.faces, seen.barycentric)
        landmarks = self.template.keypoints(seen.joint_set)
        points = project_points(self.template, found, surface)[..., :2] - seen.points
        joints = project_points(self.template, found, landmarks)[..., :2] - seen.keypoints
        away = torch.cat([points[seen.point_weights > 0], joints[seen.keypoint_weights > 0]]).norm(
            dim=-1
        )
        return away.median().item() * crop.half.item()

    def _on_photo(self, fit: Fit) -> tuple[Float[Tensor, "vertices 2"], Float[Tensor, "vertices"]]:
        """Source pixel and depth of every vertex of the fitted body."""
        camera = fit.estimate.camera
        turned = skin(self.template, fit.estimate.body)[0] @ camera.rotation()[0].T
        units = turned[None, :, :2] * camera.scale + camera.translation
        return fit.crop.to_pixels(units)[0], turned[:, 2].contiguous()


def _turned(template: BodyTemplate, estimate: Estimate, degrees: float) -> Estimate:
    """The body turned about its own vertical where it stands in the picture."""
    angle = torch.tensor(degrees).deg2rad()
    spin = torch.eye(3)
    spin[0, 0] = spin[2, 2] = angle.cos()
    spin[0, 2], spin[2, 0] = -angle.sin(), angle.sin()
    camera = estimate.camera
    matrix = spin @ camera.matrix
    middle = (template.vertices.amin(0) + template.vertices.amax(0)) / 2
    moved = ((camera.matrix - matrix) @ middle)[:, :2] * camera.scale[:, None]
    return replace(estimate, camera=Camera(matrix, camera.translation + moved, camera.scale))
