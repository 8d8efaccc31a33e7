"""Scenes to photographs: shadows, shading, blur, exposure and grain, for many people at once.

Pictures are linear in light until the very end. Whatever belongs to pixels, samples or spots is one
column of a matrix (see `cloth`), so that each operation runs over long rows of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from deformlearn.data.cloth import columns, of_person, product, unit
from deformlearn.data.rotations import UP
from deformlearn.data.scenery import Scene, background, bounds
from deformlearn.data.wardrobe import Paint
from deformlearn.raster import Fragments, divided, rasterise, true_at

Random = np.random.Generator


@dataclass(frozen=True, eq=False)
class Film:
    """How one picture is taken; lengths are for a picture of 256 pixels."""

    soft: float
    """Blur of what is behind the person (standard deviation, pixels)."""
    exposure: float
    blur: float
    """Blur of the whole picture (standard deviation, pixels)."""
    balance: Float[np.ndarray, "3"]
    """Factors of the colours."""
    grain: float
    """Standard deviation of the noise of a pixel (1 is white)."""
    seed: int
    """Of that noise; its values differ between kinds of devices."""


def random_film(random: Random) -> Film:
    """A camera's settings and mood."""
    return Film(
        soft=float(random.choice([0.0, 0.6, 1.2, 2.2])),
        exposure=random.uniform(0.8, 1.15),
        blur=random.uniform(0.0, 0.6),
        balance=1 + random.normal(0, 0.025, 3),
        grain=random.uniform(0, 0.018),
        seed=int(random.integers(2**63)),
    )


def sample_grid(
    pixels: Float[Tensor, "*people points 2"], size: int
) -> tuple[Float[Tensor, "*people points 2"], int]:
    """Positions on the grid of samples of a picture, and its side: two samples a pixel and one more.

    Every second sample is a pixel's centre, where labels are exact; `develop` blends each with its
    neighbours by a tent filter.
    """
    return 2 * pixels + 0.5, 2 * size + 1


def develop(
    scene: Scene,
    size: int,
    samples: Fragments,
    paint: Paint,
    points: Float[Tensor, "3 samples"],
    normals: Float[Tensor, "3 samples"],
    films: Sequence[Film],
) -> UInt8[Tensor, "people size size 3"]:
    """The finished photographs (sRGB), from what each sample of `sample_grid` sees.

    `points` and `normals` are in the world; normals need not have length one.
    """
    shadows = ShadowMap(scene, min(max(size, 128), 256))
    openness = _openness(samples, len(scene.view), 2 * size + 1)
    lit = _lit(scene, samples.images, paint, points, unit(normals), shadows, openness)
    behind = _behind(scene, size, shadows)
    behind = _blur(behind, [film.soft * size / 256 for film in films])
    canvas = _compose(behind, samples, lit)
    exposure = columns([film.exposure for film in films], canvas.device)[:, None, None, None]
    canvas = 1 - torch.exp(-1.1 * exposure * canvas.clamp_min(0))
    canvas = _blur(canvas, [film.blur * size / 256 for film in films])
    balance = columns([film.balance for film in films], canvas.device).T[..., None, None]
    finished = (canvas * balance).clamp_(0, 1).pow_(1 / 2.2)
    finished += _grain(films, finished)
    return (finished.clamp_(0, 1) * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class ShadowMap:
    """Depth of every scene as its lamp sees it."""

    def __init__(self, scene: Scene, side: int) -> None:
        vertices, towards = scene.vertices.float(), scene.lamps.towards.T
        up = towards.new_tensor(UP).expand_as(towards)
        right = functional.normalize(torch.linalg.cross(up, towards), dim=1)
        axes = torch.stack([right, torch.linalg.cross(right, towards), -towards], 1)
        low, high = bounds(vertices)
        centre = (low + high) / 2
        seen = (vertices - centre[:, None]) @ axes.mT
        # Two empty texels all around, so that whatever is outside the map reads as lit.
        scale = (side / 2 - 2) / seen[..., :2].abs().amax((1, 2))
        screen = seen[..., :2] * scale[:, None, None] + side / 2
        fragments = rasterise(screen, seen[..., 2], scene.faces, (side, side))
        self._side, self._scale = side, scale
        self._axes, self._shift = axes.permute(1, 2, 0), (axes @ centre[..., None])[..., 0].T
        self._depth = vertices.new_full((len(vertices) * side * side,), torch.inf)
        texels = fragments.images * side**2 + fragments.pixels
        self._depth.scatter_(0, texels, fragments.depth)

    def shade(
        self, points: Float[Tensor, "3 points"], people: Int[Tensor, "points"], slack: float
    ) -> Float[Tensor, "points"]:
        """Share of the lamp's light that is blocked: the mean over the four nearest texels."""
        seen = product(self._axes, points, people) - of_person(self._shift, people)
        at = seen[:2] * of_person(self._scale, people) + (self._side - 1) / 2
        at = at.clamp_(0, self._side - 1.001)
        corner = at.floor()
        right, down = at - corner
        texel = (corner[1] * self._side + corner[0]).long() + people * self._side**2
        depth = seen[2] - slack
        blocked = torch.zeros_like(depth)
        for step, share in (
            (0, (1 - right) * (1 - down)),
            (1, right * (1 - down)),
            (self._side, (1 - right) * down),
            (self._side + 1, right * down),
        ):
            blocked += self._depth[step:].index_select(0, texel).lt_(depth).mul_(share)
        return blocked


def _lit(
    scene: Scene,
    people: Int[Tensor, "samples"],
    paint: Paint,
    points: Float[Tensor, "3 samples"],
    normals: Float[Tensor, "3 samples"],
    shadows: ShadowMap,
    openness: Float[Tensor, "samples"],
) -> Float[Tensor, "3 samples"]:
    """Light that each sample sends to the camera."""
    lamps = scene.lamps
    normals = unit(normals - 0.9 * paint.bump)
    lamp, around, towards = (
        of_person(light, people) for light in (lamps.lamp, lamps.around, lamps.towards)
    )
    camera = of_person(scene.view.position.T.float(), people)
    facing = (((normals * towards).sum(0) + 0.06) / 1.06).clamp_min_(0)
    direct = facing * (1 - shadows.shade(points + 0.012 * normals, people, 0.01))
    sky = (0.72 + 0.28 * normals[1]) * openness
    half = unit(towards + unit(camera - points))
    gloss = paint.gloss * (normals * half).sum(0).clamp_min_(0) ** 20 * direct
    return paint.albedo**2.2 * (direct * lamp + sky * around) + gloss * lamp


def _openness(samples: Fragments, pictures: int, side: int) -> Float[Tensor, "samples"]:
    """How little of the surroundings stands in front of each sample: creases and gaps are darker."""
    step = max(2, side // 40)
    wide = side + 2 * step
    depth = samples.depth.new_full((pictures * wide * wide,), torch.inf)
    row, column = samples.places(side)
    corner = (samples.images * wide + row) * wide + column
    middle = step * (wide + 1)
    depth[middle:].scatter_(0, corner, samples.depth)
    blocked = torch.zeros_like(samples.depth)
    around = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1), (1, -1))
    for down, right in around:
        near = depth[middle + step * (down * wide + right) :].index_select(0, corner)
        # A neighbour up to half a metre nearer shades; farther ones are another thing in front.
        gap = torch.sub(samples.depth, near, out=near)
        blocked += (gap - 0.015).mul_(12).clamp_(0, 1).mul_(gap.lt_(0.5))
    return 1 - 0.6 * blocked / len(around)


def _behind(scene: Scene, size: int, shadows: ShadowMap) -> Float[Tensor, "people 3 {size} {size}"]:
    """Light from what is behind the people: sky, walls, and the floor with their shadows."""
    colour, is_floor, points = background(scene.rooms, scene.view, size)
    lamps, count = scene.lamps, len(scene.view)
    light = 0.55 * lamps.lamp * lamps.towards[1].clamp_min(0.3) + 0.75 * lamps.around
    flat = (colour**2.2).view(3, count, -1) * light[..., None]
    floor = true_at(is_floor)
    if len(floor):
        people, spots = divided(floor, size**2), points.index_select(1, floor)
        dark = 0.75 * shadows.shade(spots, people, 0.004)
        dark *= of_person(lamps.lamp.sum(0) / (lamps.lamp + lamps.around).sum(0), people)
        dark += 0.35 * _contact(scene, spots, people)
        lightness = torch.ones_like(flat[0]).flatten().scatter_(0, floor, 1 - dark)
        flat = flat * lightness.view(count, -1)
    return flat.view(3, count, size, size).transpose(0, 1)


_FEET = 48
"""Most places at which a body is taken to touch the floor."""

_NEAR_FEET = 0.4
"""Metres beyond which a foot darkens nothing (by less than 1e-8)."""


def _contact(
    scene: Scene, spots: Float[Tensor, "3 spots"], people: Int[Tensor, "spots"]
) -> Float[Tensor, "spots"]:
    """Darkness on the floor close to where the body touches it."""
    vertices = scene.vertices.float()
    touching = vertices[..., 1] < scene.rooms.ground[:, None] + 0.06
    stride = (touching.sum(1, keepdim=True) // 24).clamp_min(1)
    rank = touching.cumsum(1) - 1
    chosen = touching & (rank % stride == 0)
    place = torch.where(chosen, torch.div(rank, stride, rounding_mode="floor"), _FEET)
    feet = vertices.new_full((2, len(vertices), _FEET + 1), torch.inf)
    feet.scatter_(2, place.expand(2, -1, -1), vertices[..., ::2].permute(2, 0, 1))
    feet = feet[..., :_FEET].mT
    finite = feet.isfinite()
    low = torch.where(finite, feet, torch.inf).amin(1) - _NEAR_FEET
    high = torch.where(finite, feet, -torch.inf).amax(1) + _NEAR_FEET
    flat = spots[::2]
    across, along = (flat > of_person(low, people)) & (flat < of_person(high, people))
    near = true_at(across & along)
    some, who = flat.index_select(1, near), people.index_select(0, near)
    across, along = (some[:, None] - of_person(feet, who)).square_()
    away = (across + along).amin(0)
    return torch.zeros_like(spots[0]).scatter_(0, near, torch.exp(-away / 0.09**2))


def _compose(
    behind: Float[Tensor, "people 3 size size"],
    samples: Fragments,
    lit: Float[Tensor, "3 samples"],
) -> Float[Tensor, "people 3 size size"]:
    """The lit samples before what is behind them, each pixel blended of nine samples.

    The blend is linear: what is behind is blended as a whole, then the difference that the samples
    make is added, and that only in the rows and columns where there are any.
    """
    size, side = behind.shape[-1], 2 * behind.shape[-1] + 1
    canvas = behind
    for axis in (2, 3):
        after = canvas.narrow(axis, 1, size - 1)
        after = torch.cat([after, canvas.narrow(axis, size - 1, 1)], axis)
        canvas = 0.75 * canvas + 0.25 * after
    if not len(samples):
        return canvas
    row, column = samples.places(side)
    # Samples 2i, 2i + 1 and 2i + 2 belong to pixel i; the last one of all to no further pixel.
    down, right = (row >> 1).clamp_max_(size - 1), (column >> 1).clamp_max_(size - 1)
    bounds = torch.stack([down.amin() - 1, right.amin() - 1, down.amax(), right.amax()])
    top, left, bottom, far = bounds.clamp_min(0).tolist()
    tall, wide = bottom + 1 - top, far + 1 - left
    over = behind.transpose(0, 1).reshape(3, -1)
    over = lit - over.index_select(1, (samples.images * size + down) * size + right)
    grid = lit.new_zeros(3, len(behind), 2 * tall + 1, 2 * wide + 1)
    place = (samples.images * grid.shape[2] + row - 2 * top) * grid.shape[3] + column - 2 * left
    grid.view(3, -1).scatter_(1, place.expand(3, -1), over)
    grid = grid[:, :, :-2:2] + 2 * grid[:, :, 1::2] + grid[:, :, 2::2]
    grid = (grid[..., :-2:2] + 2 * grid[..., 1::2] + grid[..., 2::2]) / 16
    canvas[:, :, top : bottom + 1, left : far + 1] += grid.transpose(0, 1)
    return canvas


def _blur(
    images: Float[Tensor, "people 3 size size"], sigmas: Sequence[float]
) -> Float[Tensor, "people 3 size size"]:
    """Gaussian blur; below a quarter pixel nothing happens."""
    sigma = np.array([each if each >= 0.25 else 0.0 for each in sigmas])
    if not sigma.any():
        return images
    reach = int(np.ceil(2.5 * sigma.max()))
    offsets = np.arange(-reach, reach + 1)
    own = np.abs(offsets) <= np.ceil(2.5 * sigma)[:, None]
    kernels = own * np.exp(-(offsets**2) / (2 * np.maximum(sigma, 0.01)[:, None] ** 2))
    taps = columns(list(kernels / kernels.sum(1, keepdims=True)), images.device)[
        ..., None, None, None
    ]
    # Sums of shifted pictures: on a CPU several times as fast as a convolution with so few channels.
    for axis, pad in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        padded = functional.pad(images, pad, mode="replicate")
        shifted = [padded.narrow(axis, step, images.shape[axis]) for step in range(2 * reach + 1)]
        images = shifted[reach] * taps[reach]
        for step in range(reach):
            images.addcmul_(shifted[step] + shifted[-1 - step], taps[step])
    return images


def _grain(films: Sequence[Film], pictures: Float[Tensor, "people 3 size size"]) -> Tensor:
    """Noise of every picture, each from its own stream on the device."""
    random = torch.Generator(pictures.device)
    noise = torch.empty_like(pictures)
    for picture, film in zip(noise, films, strict=True):
        random.manual_seed(film.seed)
        picture.normal_(0, film.grain, generator=random)
    return noise
