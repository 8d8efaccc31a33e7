"""A mesh to pixels: which surface point each pixel sees.

An exact z-buffer in plain PyTorch, the same on CPU and CUDA, without OpenGL or a display. Screen axes:
x right, y down, in pixels; (0, 0) is the corner of the first pixel, so pixel centres are at .5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deformlearn.tensors import TensorData

_NEAR = 1e-4
"""Faces that reach behind this depth are left out under perspective."""

_TURNED = 4096
"""Fragments whose values are transposed at once on a CPU."""

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

    def places(self, width: int) -> tuple[Int[Tensor, "fragments"], Int[Tensor, "fragments"]]:
        """Row and column of each pixel in images of this width."""
        row = divided(self.pixels, width)
        return row, self.pixels - row * width


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
    kept = true_at(visible)
    ax, ay, bx, by, cx, cy, area = _rows(kept, ax, ay, bx, by, cx, cy, area)
    left = _first_centre(torch.minimum(torch.minimum(ax, bx), cx))
    right = _last_centre(torch.maximum(torch.maximum(ax, bx), cx), width)
    top = _first_centre(torch.minimum(torch.minimum(ay, by), cy))
    bottom = _last_centre(torch.maximum(torch.maximum(ay, by), cy), height)
    covering = true_at((right >= left) & (bottom >= top))
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
    boxes = (wide * (bottom - top + 1)).int()
    owner = torch.repeat_interleave(boxes)
    start = boxes.cumsum(0, dtype=boxes.dtype) - boxes
    start, wide, u0, ux, uy, v0, vx, vy = _rows(owner, start, wide, *plane)
    within = (torch.arange(len(owner), device=screen.device, dtype=start.dtype) - start).to(u0)
    row = torch.floor((within + 0.5) / wide)
    column = within - row * wide
    # In place: candidates are many, and memory is what they wait for.
    u = ux.mul_(column).add_(u0).add_(uy.mul_(row))
    v = vx.mul_(column).add_(v0).add_(vy.mul_(row))
    inside = true_at((torch.minimum(u, v) >= -_EDGE) & (u + v <= 1 + _EDGE))
    owner, u, v, row, column = _rows(inside, owner, u, v, row, column)
    face, top, left = _rows(owner, kept, top, left)
    image = divided(face, count) if people > 1 else torch.zeros_like(face)
    row, column = (top + row).long(), (left + column).long()
    # The z-buffer spans only the rows and columns that any image needs.
    (highest, leftmost), (rows, across) = _bounds(row, column)
    target = (image * rows + (row - highest)) * across + (column - leftmost)

    depths = [depth.flatten().index_select(0, corner.index_select(0, face)) for corner in corners]
    # 1/z, not z, is linear on the screen; its negative grows with z.
    ka, kb, kc = (-1 / far for far in depths) if perspective else depths
    nearest = _nearest(target, kc + u * (ka - kc) + v * (kb - kc), people * rows * across)
    image, row, column, face, u, v, *depths = _rows(
        nearest, image, row, column, face, u, v, *depths
    )
    blend = [share.clamp_min_(0) for share in (u, v, 1 - u - v)]
    if perspective:
        blend = [share / far for share, far in zip(blend, depths, strict=True)]
    # Column by column: torch sums rows of three numbers six times as slowly.
    whole = blend[0] + blend[1] + blend[2]
    first, second, third = (share / whole for share in blend)
    return Fragments(
        images=image,
        pixels=row * width + column,
        faces=face - image * count,
        barycentric=torch.stack([first, second, third], 1),
        depth=first * depths[0] + second * depths[1] + third * depths[2],
    )


def interpolate(
    values: Float[Tensor, "batch vertices channels"],
    faces: Int[Tensor, "faces 3"],
    fragments: Fragments,
) -> Float[Tensor, "fragments channels"]:
    """Values given at the vertices, at the surface point of each fragment.

    Values of one image hold for every image of the fragments.
    """
    corners = faces.index_select(0, fragments.faces)
    if len(values) > 1:
        corners += fragments.images[:, None] * values.shape[1]
    # A bag of three weighted rows: a gather and a sum in one pass.
    return torch.nn.functional.embedding_bag(
        corners, values.flatten(0, 1), per_sample_weights=fragments.barycentric, mode="sum"
    )


def interpolate_columns(
    values: Float[Tensor, "batch vertices channels"],
    faces: Int[Tensor, "faces 3"],
    fragments: Fragments,
) -> Float[Tensor, "channels fragments"]:
    """What `interpolate` gives, with every channel along one row of memory."""
    if values.device.type != "cpu":
        return interpolate(values, faces, fragments).T.contiguous()
    columns = values.new_empty(values.shape[-1], len(fragments))
    for first in range(
        0, len(fragments), _TURNED
    ):  # what the cache holds is turned in half the time
        some = fragments[first : first + _TURNED]
        columns[:, first : first + _TURNED] = interpolate(values, faces, some).T
    return columns


def vertex_normals(
    vertices: Float[Tensor, "*batch vertices 3"], faces: Int[Tensor, "faces 3"]
) -> Float[Tensor, "*batch vertices 3"]:
    """Unit outward normals: the mean of the faces around a vertex, weighted by their area."""
    flat = vertices.reshape(-1, 3)
    people = len(flat) // vertices.shape[-2]
    # Flat sums over the batch, a coordinate each: index_add_ of rows is twice as slow on a CPU, and
    # along an inner axis twenty times.
    first = torch.arange(people, device=faces.device)[:, None, None] * vertices.shape[-2]
    corners = (faces + first).flatten(0, 1).unbind(1)
    a, b, c = (flat.index_select(0, corner) for corner in corners)
    facing = torch.linalg.cross(b - a, c - a).T.contiguous()
    summed = flat.new_zeros(3, len(flat))
    for total, part in zip(summed, facing, strict=True):
        for corner in corners:
            total.index_add_(0, corner, part)
    return torch.nn.functional.normalize(summed.T.contiguous(), dim=-1).view_as(vertices)


def true_at(mask: Bool[Tensor, "n"]) -> Int[Tensor, "true"]:
    """Indices at which a mask holds; NumPy finds them ten times as fast on a CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero()[:, 0]


def divided(whole: Int[Tensor, "n"], by: int) -> Int[Tensor, "n"]:
    """Floor of whole numbers over one; NumPy divides five times as fast on a CPU."""
    if whole.device.type == "cpu":
        return torch.from_numpy(whole.numpy() // by)
    return torch.div(whole, by, rounding_mode="floor")


def _bounds(row: Tensor, column: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """First row and column of the candidates, and how many rows and columns they span."""
    if not len(row):
        return (0, 0), (0, 0)
    low, high, first, last = torch.stack([*row.aminmax(), *column.aminmax()]).tolist()
    return (low, first), (high - low + 1, last - first + 1)


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
    bits = key.float().contiguous().view(torch.int32)
    # The bits of a float sort like an integer once the negative half is mirrored.
    bits = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    candidates = torch.arange(len(key), device=key.device)
    empty = torch.iinfo(torch.int64).max
    buffer = torch.full((pixels,), empty, device=key.device)
    buffer.scatter_reduce_(0, target, (bits << 32) | candidates, "amin")
    return buffer.index_select(0, true_at(buffer != empty)) & 0xFFFFFFFF
