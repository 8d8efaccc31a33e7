"""Colours of photographs on the surface that they show: a texture for any number of views of one person.

A texel has the colour of the pixel that sees it. One that no photograph shows, or only at a glancing
angle, where the outline of the fit and of the person differ most, stays neutral and transparent.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.estimate import Estimate, camera_vertices
from deformlearn.exports.atlas import Atlas
from deformlearn.raster import interpolate, rasterise, vertex_normals

NEUTRAL = 190
"""Grey of what no photograph shows (of 255)."""

_GLANCING, _PLAIN = 0.12, 0.3
"""Cosines between the surface and the way to the camera below which a pixel says nothing of it, and
above which it says all."""

_BUFFER = 512
"""Side of the depth buffer (px)."""

_BEHIND = 0.02
"""Metres by which a point may lie behind the nearest surface of its pixel and still be seen: the surface
slopes within a pixel."""


@dataclass(frozen=True, eq=False)
class Texture:
    """An image for a template's surface, and where each face's corners lie in it."""

    uv: Float[np.ndarray, "faces 3 2"]
    """In [0, 1] from the upper left corner, as glTF has it."""
    image: UInt8[np.ndarray, "rows columns 4"]
    """Colour, and alpha: 255 where a photograph showed the surface, 0 where the colour is made up."""
    seen: float
    """Share of the surface that a photograph coloured."""

    def png(self) -> bytes:
        """The image as a file."""
        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, "png")
        return buffer.getvalue()


class Painter:
    """Collects the colours of one person's photographs, each weighted by how squarely it sees."""

    def __init__(self, template: BodyTemplate, atlas: Atlas) -> None:
        self._template, self._atlas = template, atlas
        self._colour = torch.zeros(len(atlas.areas), 3)
        self._weight = torch.zeros(len(atlas.areas))
        self._best = torch.zeros(len(atlas.areas))

    def add(self, photo: UInt8[Tensor, "3 size size"], estimate: Estimate) -> None:
        """The colours of one photograph, cut to the crop; `estimate` has its one row."""
        place, facing = self._view(estimate)
        inside = (place[:, :2].abs() < 1).all(-1)
        cosine = facing * (inside & self._nearest(estimate, place))
        sure = ((cosine - _GLANCING) / (_PLAIN - _GLANCING)).clamp(0, 1)
        colour = torch.nn.functional.grid_sample(
            photo[None] / 255, place[None, None, :, :2], align_corners=False, padding_mode="border"
        )[0, :, 0].T
        # Of several views the squarest counts most, the more so the squarer it is.
        weight = sure * cosine.square()
        self._colour += weight[:, None] * colour
        self._weight += weight
        self._best = torch.maximum(self._best, sure)

    def texture(self) -> Texture:
        """What has been collected so far."""
        rows, columns = self._atlas.size
        colour = 255 * self._colour / self._weight.clamp_min(1e-12)[:, None]
        best = self._best[:, None]
        values = torch.cat([best * colour + (1 - best) * NEUTRAL, 255 * best], 1)
        image = values.round().clamp(0, 255).to(torch.uint8).numpy()[self._atlas.nearest]
        made_up = np.ones(rows * columns, bool)
        made_up[self._atlas.shown.pixels.numpy()] = False
        image[made_up.reshape(rows, columns), 3] = 0
        seen = self._atlas.areas[self._best > 0.5].sum() / self._atlas.areas.sum()
        return Texture(self._atlas.uv, image, seen.item())

    def _view(
        self, estimate: Estimate
    ) -> tuple[Float[Tensor, "texels 3"], Float[Tensor, "texels"]]:
        """Image x, y (image units) and depth (metres) of every texel, and the cosine it is seen at."""
        vertices = camera_vertices(self._template, estimate)[0]
        values = torch.cat([vertices, vertex_normals(vertices, self._template.faces)], -1)
        found = interpolate(values[None], self._template.faces, self._atlas.shown)
        normal = torch.nn.functional.normalize(found[:, 3:], dim=-1)
        return _in_image(found[:, :3], estimate), -normal[:, 2]

    def _nearest(
        self, estimate: Estimate, place: Float[Tensor, "texels 3"]
    ) -> Bool[Tensor, "texels"]:
        """Whether nothing of the body is before a texel."""
        seen = _in_image(camera_vertices(self._template, estimate)[0], estimate)
        screen = (seen[:, :2] + 1) * (_BUFFER / 2)
        fragments = rasterise(
            screen[None], seen[None, :, 2], self._template.faces, (_BUFFER, _BUFFER)
        )
        depth = torch.full((_BUFFER * _BUFFER,), torch.inf)
        depth[fragments.pixels] = fragments.depth
        column, row = ((place[:, :2] + 1) * (_BUFFER / 2)).long().clamp(0, _BUFFER - 1).unbind(-1)
        return place[:, 2] <= depth[row * _BUFFER + column] + _BEHIND


def _in_image(points: Float[Tensor, "points 3"], estimate: Estimate) -> Float[Tensor, "points 3"]:
    """Points in camera axes where the image has them; their depth stays in metres."""
    camera = estimate.camera
    flat = points[:, :2] * camera.scale[0] + camera.translation[0]
    return torch.cat([flat, points[:, 2:]], -1)
