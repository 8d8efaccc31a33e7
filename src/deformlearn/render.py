"""Bodies as pictures: shaded views, overlays on photographs, and the paper's Fig. 1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.body import BodyTemplate, skin
from deformlearn.camera import Camera, Crop
from deformlearn.estimate import Estimate
from deformlearn.raster import Fragments, interpolate, rasterise, vertex_normals

SKIN = (0.60, 0.70, 0.88)
"""Colour of a rendered body where none is asked for (linear RGB)."""


def surface_colours(template: BodyTemplate) -> Float[Tensor, "vertices 3"]:
    """A colour for every vertex by its place on the resting body; left and right differ."""
    low, high = template.vertices.amin(0), template.vertices.amax(0)
    place = (template.vertices - low) / (high - low)
    across, up, forth = place.unbind(-1)
    return torch.stack([0.12 + 0.85 * across, 0.1 + 0.85 * up, 1 - 0.35 * up - 0.55 * forth], -1)


def shade(
    template: BodyTemplate,
    estimate: Estimate,
    size: int,
    *,
    colour: tuple[float, float, float] | Tensor = SKIN,
    supersample: int = 2,
) -> Float[Tensor, "batch {size} {size} 4"]:
    """Each estimate as its camera sees it, across its crop: RGB and coverage in [0, 1].

    RGB is premultiplied by the coverage. `colour` is one colour or one a vertex.
    """
    return _layer(template, estimate, size, (size, size), colour, supersample)


def _layer(
    template: BodyTemplate,
    estimate: Estimate,
    size: int,
    extent: tuple[int, int],
    colour: tuple[float, float, float] | Tensor,
    supersample: int = 2,
) -> Float[Tensor, "batch height width 4"]:
    """The first `extent` (rows, columns) of what `shade` draws across crops of `size`."""
    vertices = skin(template, estimate.body)
    rotation, scale = estimate.camera.rotation(), estimate.camera.scale
    turned = vertices @ rotation.mT
    image_units = turned[..., :2] * scale[:, None, None] + estimate.camera.translation[:, None]
    screen = (image_units + 1) * (size * supersample / 2)
    tall, wide = extent[0] * supersample, extent[1] * supersample
    fragments = rasterise(screen, turned[..., 2], template.faces, (tall, wide))
    base = torch.as_tensor(colour, dtype=turned.dtype, device=turned.device)
    base = base.expand(len(template.vertices), 3)
    canvas = turned.new_zeros(len(turned), tall * wide, 4)
    canvas[fragments.images, fragments.pixels] = _opaque(turned, base, template.faces, fragments)
    canvas = canvas.view(len(turned), tall, wide, 4).permute(0, 3, 1, 2)
    return torch.nn.functional.avg_pool2d(canvas, supersample).permute(0, 2, 3, 1)


def _opaque(
    turned: Float[Tensor, "batch vertices 3"],
    base: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    fragments: Fragments,
) -> Float[Tensor, "fragments 4"]:
    """Lit colour and full coverage of every fragment."""
    values = torch.cat([vertex_normals(turned, faces), base.expand(len(turned), -1, -1)], -1)
    normals, base = interpolate(values, faces, fragments).split(3, -1)
    lit = _studio_light(torch.nn.functional.normalize(normals, dim=-1), base)
    return torch.cat([lit, torch.ones_like(lit[:, :1])], -1)


def turn(template: BodyTemplate, estimate: Estimate, degrees: float) -> Estimate:
    """The same bodies after a turn about the image's vertical, centred in the crop.

    A turn of 90 degrees is the view from the person's side; the image scale stays, unless the turned
    body would not fit.
    """
    angle = torch.tensor(degrees).deg2rad()
    spin = estimate.camera.matrix.new_zeros(3, 3)
    spin[0, 0] = spin[2, 2] = angle.cos()
    spin[0, 2], spin[2, 0], spin[1, 1] = -angle.sin(), angle.sin(), 1.0
    rotation = spin @ estimate.camera.rotation()
    seen = (skin(template, estimate.body) @ rotation.mT)[..., :2]
    low, high = seen.amin(-2), seen.amax(-2)
    room = 1.9 / (high - low).amax(-1)
    scale = torch.minimum(estimate.camera.scale.abs(), room)
    centre = -scale[..., None] * (low + high) / 2
    return replace(estimate, camera=Camera(rotation, centre, scale))


def compose(
    photo: Float[Tensor, "height width 3"],
    layer: Float[Tensor, "height width 4"],
    opacity: float = 1.0,
) -> Float[Tensor, "height width 3"]:
    """A premultiplied layer over a photograph, both in [0, 1]."""
    return photo * (1 - opacity * layer[..., 3:]) + opacity * layer[..., :3]


def overlay(
    photo: np.ndarray,
    template: BodyTemplate,
    estimate: Estimate,
    crop: Crop | None = None,
    *,
    opacity: float = 0.85,
    colour: tuple[float, float, float] = SKIN,
) -> np.ndarray:
    """A photograph (height, width, 3; uint8) with every estimated body drawn over it.

    `crop` says which square of the photograph each estimate's image units span; without it the
    photograph is itself the crop of one person. Larger people are nearer and are drawn later.
    """
    canvas = torch.from_numpy(photo.astype(np.float32) / 255)
    height, width = canvas.shape[:2]
    if crop is None:
        half = estimate.camera.scale.new_tensor([max(height, width) / 2])
        crop = Crop(half.new_tensor([[width / 2, height / 2]]), half)
    order = (estimate.camera.scale * crop.half).argsort()
    for person in order.tolist():
        one, square = estimate[person : person + 1], crop[person : person + 1]
        window = _window(template, one, square, (height, width))
        if window is None:
            continue
        moved, side, rows, columns = window
        extent = (rows.stop - rows.start, columns.stop - columns.start)
        layer = _layer(template, moved, side, extent, colour)[0].cpu()
        canvas[rows, columns] = compose(canvas[rows, columns], layer, opacity)
    return _to_bytes(canvas)


def dots(
    photo: np.ndarray,
    pixels: Float[Tensor, "points 2"],
    colours: Float[Tensor, "points 3"],
    *,
    radius: float | None = None,
) -> np.ndarray:
    """A photograph with a filled, dark-rimmed dot at each pixel position; colours in [0, 1]."""
    canvas = torch.from_numpy(photo.astype(np.float32) / 255)
    height, width = canvas.shape[:2]
    radius = max(1.6, 0.011 * max(height, width)) if radius is None else radius
    reach = int(radius + 2)
    steps = torch.arange(-reach, reach + 1)
    for (x, y), colour in zip(pixels.cpu().tolist(), colours.cpu(), strict=True):
        rows, columns = int(y) + steps, int(x) + steps
        rows = rows[(rows >= 0) & (rows < height)]
        columns = columns[(columns >= 0) & (columns < width)]
        if not len(rows) or not len(columns):
            continue
        distance = torch.hypot(columns + 0.5 - x, rows[:, None] + 0.5 - y)
        patch = canvas[rows[:, None], columns]
        for size, ink in ((radius + 0.9, colour * 0.25), (radius, colour)):
            cover = (size + 0.5 - distance).clamp(0, 1)[..., None]
            patch = patch * (1 - cover) + ink * cover
        canvas[rows[:, None], columns] = patch
    return _to_bytes(canvas)


def strip(
    photo: np.ndarray,
    template: BodyTemplate,
    estimate: Estimate,
    points: Float[Tensor, "points 2"],
    faces: Int[Tensor, "points"],
    barycentric: Float[Tensor, "points 3"],
    *,
    size: int = 256,
) -> np.ndarray:
    """The paper's Fig. 1 for one person: photo, correspondences, overlay, front and side view.

    `photo` is the square crop (uint8), `points` the annotated pixels in image units; a dot's colour
    names its place on the body (`surface_colours`). The result is (size, 5 * size, 3), uint8.
    """
    from PIL import Image

    square = np.asarray(Image.fromarray(photo).resize((size, size), Image.Resampling.LANCZOS))
    corners = surface_colours(template)[template.faces[faces]]
    colours = (corners * barycentric[..., None]).sum(-2)
    faded = (square * 0.55 + 255 * 0.45).astype(np.uint8)
    white = np.full_like(square, 255)
    front = turn(template, estimate, 0.0)
    side = turn(template, estimate, 90.0)
    pictures = [
        square,
        dots(faded, (points + 1) * (size / 2), colours),
        overlay(square, template, estimate),
        overlay(white, template, front, opacity=1.0),
        overlay(white, template, side, opacity=1.0),
    ]
    return np.concatenate(pictures, 1)


def _studio_light(
    normals: Float[Tensor, "fragments 3"], base: Float[Tensor, "fragments 3"]
) -> Float[Tensor, "fragments 3"]:
    """Colour of a surface under a key, a fill and a rim light that stand beside the camera."""

    def unit(*values: float) -> Tensor:
        return torch.nn.functional.normalize(normals.new_tensor(values), dim=0)

    key, fill, above = unit(0.45, -0.6, -0.7), unit(-0.85, -0.05, -0.35), unit(0.0, -1.0, 0.1)
    lamps = ((key, 0.62), (fill, 0.16), (above, 0.08))
    diffuse = 0.30 + sum(share * (normals @ lamp).clamp_min(0) for lamp, share in lamps)
    gloss = (normals @ unit(0.45, -0.6, -1.7)).clamp_min(0) ** 40
    # Surfaces that turn away darken a little: it reads as an outline.
    edge = 0.75 + 0.25 * (-normals[:, 2]).clamp(0, 1).sqrt()
    return (base * (diffuse * edge)[:, None] + 0.10 * gloss[:, None]).clamp(0, 1)


def _window(
    template: BodyTemplate, estimate: Estimate, crop: Crop, size: tuple[int, int]
) -> tuple[Estimate, int, slice, slice] | None:
    """One person's estimate in the smallest square window of the photograph that shows it.

    Returns the estimate in the window's image units, the window's side, and the rows and columns of the
    photograph in which the person is; the window begins with the first of them. None where the person
    is outside the photograph.
    """
    height, width = size
    camera = estimate.camera
    turned = skin(template, estimate.body) @ camera.rotation().mT
    seen = crop.to_pixels(turned[..., :2] * camera.scale[:, None, None] + camera.translation)[0]
    if not seen.isfinite().all():
        return None
    bounds = seen.new_tensor([width, height])
    low = seen.amin(0).clamp_min(0).floor()
    high = torch.minimum(seen.amax(0), bounds).ceil()
    if (high <= low).any():
        return None
    side = int((high - low).max())
    middle = low + side / 2
    zoom = crop.half / (side / 2)
    shifted = camera.translation * zoom[:, None] + (crop.centre - middle) / (side / 2)
    moved = replace(estimate, camera=Camera(camera.matrix, shifted, camera.scale * zoom))
    (left, top), (right, bottom) = low.int().tolist(), high.int().tolist()
    return moved, side, slice(top, bottom), slice(left, right)


def _to_bytes(picture: Tensor) -> np.ndarray:
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
