"""A mesh to pixels: which surface point each pixel sees, shaded views, and the paper's Fig. 1 as a picture.

An exact z-buffer in plain PyTorch, the same on CPU and CUDA, without OpenGL or a display. Screen axes:
x right, y down, in pixels; (0, 0) is the corner of the first pixel, so pixel centres are at .5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.body import BodyTemplate, skin
from deformlearn.camera import Camera, Crop
from deformlearn.estimate import Estimate
from deformlearn.tensors import TensorData

SKIN = (0.60, 0.70, 0.88)
"""Colour of a rendered body where none is asked for (linear RGB)."""

_NEAR = 1e-4
"""Faces that reach behind this depth are left out under perspective."""

_EDGE = 1e-5
"""Slack on barycentric coordinates: rounding must not open a crack between two faces."""


@dataclass(frozen=True, eq=False)
class Fragments(TensorData):
    """The nearest surface point of every covered pixel, in order of image, row and column."""

    images: Int[Tensor, "fragments"]
    """Which image of the batch."""
    pixels: Int[Tensor, "fragments"]
    """row * width + column."""
    faces: Int[Tensor, "fragments"]
    barycentric: Float[Tensor, "fragments 3"]
    """Coordinates on the face, true to the surface (perspective undone); they sum to one."""
    depth: Float[Tensor, "fragments"]
    """Depth of the surface point, in the unit of the depths given."""


def rasterise(
    screen: Float[Tensor, "batch vertices 2"],
    depth: Float[Tensor, "batch vertices"],
    faces: Int[Tensor, "faces 3"],
    size: tuple[int, int],
    *,
    perspective: bool = False,
    both_sides: bool = False,
) -> Fragments:
    """The face nearest to the camera at each pixel centre of images of `size` (height, width).

    `depth` grows away from the camera; with `perspective` it must be the distance along the optical
    axis by which `screen` was divided, and faces that reach the camera plane are dropped. Faces seen
    from behind are dropped unless `both_sides`. A tie goes to the face with the lower index, by an
    integer minimum, so the result never depends on the order of execution.
    """
    height, width = size
    count, people = len(faces), len(screen)
    # Flat columns read by index_select (ten times as fast as indexing on a CPU), and hidden faces
    # dropped before anything else: most of the time goes by here.
    first = torch.arange(people, device=faces.device)[:, None] * screen.shape[1]
    columns = screen.reshape(-1, 2).T.contiguous()
    corners = [(corner + first).flatten() for corner in faces.unbind(1)]
    (ax, ay), (bx, by), (cx, cy) = (columns.index_select(1, corner) for corner in corners)
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    # An outward face runs counter-clockwise in space, hence clockwise where y points down.
    visible = (area != 0) if both_sides else (area < 0)
    if perspective:
        in_front = depth.flatten() > _NEAR
        for corner in corners:
            visible &= in_front.index_select(0, corner)
    kept = visible.nonzero()[:, 0]
    ax, ay, bx, by, cx, cy, area = _rows(kept, ax, ay, bx, by, cx, cy, area)
    left = _first_centre(torch.minimum(torch.minimum(ax, bx), cx))
    right = _last_centre(torch.maximum(torch.maximum(ax, bx), cx), width)
    top = _first_centre(torch.minimum(torch.minimum(ay, by), cy))
    bottom = _last_centre(torch.maximum(torch.maximum(ay, by), cy), height)
    covering = ((right >= left) & (bottom >= top)).nonzero()[:, 0]
    ax, ay, bx, by, cx, cy, area = _rows(covering, ax, ay, bx, by, cx, cy, area)
    kept, left, right, top, bottom = _rows(covering, kept, left, right, top, bottom)

    # Barycentric coordinates are affine on the screen: u = u0 + ux * column + uy * row, counted from
    # the face's own box so that no large numbers cancel.
    x, y, wide = left + 0.5, top + 0.5, right - left + 1
    plane = (
        ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area,
        (by - cy) / area,
        (cx - bx) / area,
        ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area,
        (cy - ay) / area,
        (ax - cx) / area,
    )

    # One candidate per face and pixel of its box.
    boxes = (wide * (bottom - top + 1)).long()
    owner = torch.repeat_interleave(boxes)
    start, wide, u0, ux, uy, v0, vx, vy = _rows(owner, boxes.cumsum(0) - boxes, wide, *plane)
    within = torch.arange(len(owner), device=screen.device) - start
    row = torch.floor((within + 0.5) / wide)
    column = within - row * wide
    u = u0 + ux * column + uy * row
    v = v0 + vx * column + vy * row
    inside = ((u >= -_EDGE) & (v >= -_EDGE) & (u + v <= 1 + _EDGE)).nonzero()[:, 0]
    owner, u, v, row, column = _rows(inside, owner, u, v, row, column)
    face, top, left = _rows(owner, kept, top, left)
    image = torch.div(face, count, rounding_mode="floor")
    target = (image * height + (top + row).long()) * width + (left + column).long()

    # 1/z, not z, is linear on the screen; its negative grows with z.
    key = (-1 / depth.clamp_min(_NEAR) if perspective else depth).flatten()
    ka, kb, kc = (key.index_select(0, corner.index_select(0, face)) for corner in corners)
    nearest = _nearest(target, kc + u * (ka - kc) + v * (kb - kc), people * height * width)
    target, face, u, v = _rows(nearest, target, face, u, v)
    blend = torch.stack([u, v, 1 - u - v], 1).clamp_min(0)
    depths = [depth.flatten().index_select(0, corner.index_select(0, face)) for corner in corners]
    corner_depth = torch.stack(depths, 1)
    if perspective:
        blend = blend / corner_depth
    blend = blend / blend.sum(1, keepdim=True)
    return Fragments(
        images=torch.div(face, count, rounding_mode="floor"),
        pixels=target % (height * width),
        faces=face % count,
        barycentric=blend,
        depth=(blend * corner_depth).sum(1),
    )


def interpolate(
    values: Float[Tensor, "batch vertices channels"],
    faces: Int[Tensor, "faces 3"],
    fragments: Fragments,
) -> Float[Tensor, "fragments channels"]:
    """Values given at the vertices, at the surface point of each fragment."""
    corners = faces.index_select(0, fragments.faces) + fragments.images[:, None] * values.shape[1]
    # A bag of three weighted rows: a gather and a sum in one pass.
    return torch.nn.functional.embedding_bag(
        corners, values.flatten(0, 1), per_sample_weights=fragments.barycentric, mode="sum"
    )


def vertex_normals(
    vertices: Float[Tensor, "*batch vertices 3"], faces: Int[Tensor, "faces 3"]
) -> Float[Tensor, "*batch vertices 3"]:
    """Unit outward normals: the mean of the faces around a vertex, weighted by their area."""
    flat = vertices.reshape(-1, 3)
    people = len(flat) // vertices.shape[-2]
    # One flat sum over the batch: index_add_ along an inner axis is twenty times slower.
    first = torch.arange(people, device=faces.device)[:, None, None] * vertices.shape[-2]
    corners = (faces + first).flatten(0, 1).unbind(1)
    a, b, c = (flat.index_select(0, corner) for corner in corners)
    facing = torch.linalg.cross(b - a, c - a)
    summed = torch.zeros_like(flat)
    for corner in corners:
        summed.index_add_(0, corner, facing)
    return torch.nn.functional.normalize(summed, dim=-1).view_as(vertices)


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
    vertices = skin(template, estimate.body)
    rotation, scale = estimate.camera.rotation(), estimate.camera.scale
    turned = vertices @ rotation.mT
    image_units = turned[..., :2] * scale[:, None, None] + estimate.camera.translation[:, None]
    side = size * supersample
    fragments = rasterise(
        (image_units + 1) * (side / 2), turned[..., 2], template.faces, (side, side)
    )
    normals = vertex_normals(turned, template.faces)
    base = torch.as_tensor(colour, dtype=turned.dtype, device=turned.device)
    base = base.expand(len(template.vertices), 3)
    values = torch.cat([normals, base.expand(len(turned), -1, -1)], -1)
    normals, base = interpolate(values, template.faces, fragments).split(3, -1)
    lit = _studio_light(torch.nn.functional.normalize(normals, dim=-1), base)
    canvas = turned.new_zeros(len(turned), side * side, 4)
    opaque = torch.cat([lit, torch.ones_like(lit[:, :1])], -1)
    canvas[fragments.images, fragments.pixels] = opaque
    canvas = canvas.view(len(turned), side, side, 4).permute(0, 3, 1, 2)
    return torch.nn.functional.avg_pool2d(canvas, supersample).permute(0, 2, 3, 1)


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
        moved, x, y, side = window
        layer = shade(template, moved, side, colour=colour)[0].cpu()
        rows = slice(max(y, 0), min(y + side, height))
        columns = slice(max(x, 0), min(x + side, width))
        layer = layer[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
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


def _rows(index: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    return tuple(column.index_select(0, index) for column in columns)


def _first_centre(low: Tensor) -> Tensor:
    """Index of the first pixel whose centre is not before `low`."""
    return torch.ceil(low - 0.5).clamp_min(0)


def _last_centre(high: Tensor, count: int) -> Tensor:
    """Index of the last pixel whose centre is not beyond `high`."""
    return torch.floor(high - 0.5).clamp_max(count - 1)


def _nearest(target: Tensor, key: Tensor, pixels: int) -> Tensor:
    """Index of the candidate with the smallest key at each pixel that has one, by pixel."""
    bits = key.float().contiguous().view(torch.int32).long()
    # The bits of a float sort like an integer once the negative half is mirrored.
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    candidates = torch.arange(len(key), device=key.device)
    empty = torch.iinfo(torch.int64).max
    buffer = torch.full((pixels,), empty, device=key.device)
    buffer.scatter_reduce_(0, target, (bits << 32) | candidates, "amin")
    return buffer[buffer != empty] & 0xFFFFFFFF


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
) -> tuple[Estimate, int, int, int] | None:
    """One person's estimate in the smallest square window of the photograph that shows it.

    Returns the estimate in the window's image units, the window's first column and row, and its side;
    None where the person is outside the photograph.
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
    return moved, int(low[0]), int(low[1]), side


def _to_bytes(picture: Tensor) -> np.ndarray:
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
