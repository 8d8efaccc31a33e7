"""Around a person: camera, ground, furniture, background and light, and the picture they make.

World axes are the template's (y up); camera axes are x right, y down, z away. Pictures are linear in
light until the very end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from deformlearn.data.cloth import fabric, random_waves
from deformlearn.data.rotations import UP, Degrees, about
from deformlearn.data.wardrobe import Paint
from deformlearn.render import Fragments, interpolate, rasterise

Random = np.random.Generator
MARGIN = 1.12
"""Side of the crop over the longer side of the person's box."""


@dataclass(frozen=True, eq=False)
class View:
    """A perspective camera: pixel = focal * (x, y) / z + centre."""

    rotation: Float[np.ndarray, "3 3"]
    """World to camera axes."""
    position: Float[np.ndarray, "3"]
    """Of the camera, in the world (metres)."""
    focal: float
    """Pixels."""
    centre: Float[np.ndarray, "2"]
    """Principal point in crop pixels; far outside it for a crop from the edge of a photograph."""

    def to_camera(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Camera axes (metres)."""
        return (points - points.new_tensor(self.position)) @ points.new_tensor(self.rotation).T

    def to_pixels(self, seen: Float[Tensor, "points 3"]) -> Float[Tensor, "points 2"]:
        """Crop pixels of points in camera axes."""
        return self.focal * seen[:, :2] / seen[:, 2:] + seen.new_tensor(self.centre)

    def rays(self, size: int) -> Float[Tensor, "pixels 3"]:
        """World direction of each pixel of a square picture, not normalised."""
        centres = torch.arange(size) + 0.5
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        across = (x - self.centre[0]) / self.focal
        down = (y - self.centre[1]) / self.focal
        seen = torch.stack([across, down, torch.ones_like(x)], -1).view(-1, 3).float()
        return seen @ seen.new_tensor(self.rotation)


def looking(azimuth: Degrees, elevation: Degrees, roll: Degrees = 0.0) -> Float[np.ndarray, "3 3"]:
    """World-to-camera rotation (degrees); at azimuth 0 the camera stands before a person facing +z.

    Azimuth grows towards the person's left; a positive elevation looks down from above.
    """
    upright = np.diag([1.0, -1.0, -1.0]) @ about(UP, -azimuth)
    tilted = about(np.array([1.0, 0.0, 0.0]), elevation) @ upright
    return about(np.array([0.0, 0.0, 1.0]), roll) @ tilted


def framed(
    vertices: Float[Tensor, "vertices 3"],
    rotation: Float[np.ndarray, "3 3"],
    position: Float[np.ndarray, "3"],
    size: int,
) -> View:
    """The view whose square picture is the person's box with its margin."""
    plain = View(rotation, position, 1.0, np.zeros(2))
    seen = plain.to_pixels(plain.to_camera(vertices).double())
    low, high = seen.amin(0).numpy(), seen.amax(0).numpy()
    focal = size / (MARGIN * (high - low).max())
    return View(rotation, position, float(focal), size / 2 - focal * (low + high) / 2)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a picture is taken. Walls are vertical planes; rectangles on them are pictures or doors."""

    ground: float
    """Height of the floor (metres)."""
    floor: Float[np.ndarray, "2 3"]
    """Its two colours."""
    tiles: float
    """Side of its tiles (metres); 0 for a floor without."""
    walls: Float[np.ndarray, "walls 4"]
    """Horizontal unit normal x, z, distance from the world's origin, and height."""
    wall_colours: Float[np.ndarray, "walls 3"]
    panels: Float[np.ndarray, "panels 5"]
    """Wall, then left, right, low and high edge on it (metres)."""
    panel_colours: Float[np.ndarray, "panels 3"]
    sky: Float[np.ndarray, "2 3"]
    """Colours at the horizon and above."""
    seed: int
    """Of the grain of floor and walls."""


def random_place(random: Random, ground: float, facing: Float[np.ndarray, "3"]) -> Place:
    """A room, or a place outdoors; `facing` is the direction in which the camera looks."""
    indoors = random.random() < 0.6
    forward = np.array([facing[0], facing[2]]) / np.hypot(facing[0], facing[2])
    yaw = np.deg2rad(random.uniform(-35, 35))
    walls = []
    if indoors or random.random() < 0.6:
        for turn in (0.0, np.pi / 2, -np.pi / 2) if indoors else (0.0,):
            angle = yaw + turn
            normal = [
                forward[0] * np.cos(angle) - forward[1] * np.sin(angle),
                forward[0] * np.sin(angle) + forward[1] * np.cos(angle),
            ]
            distance = random.uniform(0.9, 4) if indoors else random.uniform(3, 25)
            walls.append([*normal, distance, 20.0 if indoors else random.uniform(0.8, 12)])
    panels, colours = [], []
    for wall in range(len(walls)):
        for _ in range(random.integers(1, 5)):
            left, low = random.uniform(-3, 3), ground + random.uniform(0, 2)
            low = ground if random.random() < 0.4 else low
            panels.append([wall, left, left + random.uniform(0.2, 1.6),
                           low, low + random.uniform(0.2, 2)])  # fmt: skip
            colours.append(fabric(random) * random.uniform(0.6, 1))
    earth = np.array([0.5, 0.46, 0.38]) if random.random() < 0.5 else np.array([0.36, 0.42, 0.28])
    base = fabric(random) if indoors else earth * random.uniform(0.6, 1.2)
    day = random.uniform(0.6, 1)
    return Place(
        ground=ground,
        floor=np.stack([base, base * random.uniform(0.7, 1.3)]),
        tiles=random.uniform(0.25, 0.9) if indoors and random.random() < 0.6 else 0.0,
        walls=np.array(walls).reshape(-1, 4),
        wall_colours=np.array([fabric(random) * 0.5 + 0.4 for _ in walls]).reshape(-1, 3),
        panels=np.array(panels).reshape(-1, 5),
        panel_colours=np.array(colours).reshape(-1, 3),
        sky=np.array([[0.85, 0.88, 0.9], [0.45, 0.62, 0.85]]) * day,
        seed=int(random.integers(2**31)),
    )


def background(
    place: Place, view: View, size: int
) -> tuple[Float[Tensor, "pixels 3"], Bool[Tensor, "pixels"], Float[Tensor, "pixels 3"]]:
    """Colour of every pixel without a person, whether it shows the floor, and where (world)."""
    rays = view.rays(size)
    origin = rays.new_tensor(view.position)
    slope = rays[:, 1] / rays.norm(dim=-1)
    low, high = (rays.new_tensor(colour) for colour in place.sky)
    sky = low + (high - low) * (slope * 4).clamp(0, 1)[:, None]
    nearest = (place.ground - origin[1]) / rays[:, 1]
    nearest = torch.where(nearest > 0, nearest, torch.full_like(nearest, torch.inf))
    surface = torch.where(nearest.isfinite(), -1, -2)  # a wall's index, the floor, or the sky
    for index, (x, z, distance, height) in enumerate(place.walls):
        normal = rays.new_tensor([x, 0.0, z])
        leaving = rays @ normal  # a wall is seen from inside only: the camera may stand outside
        reach = torch.where(leaving > 1e-6, (distance - origin @ normal) / leaving, -1.0)
        top = place.ground + height
        seen = (reach > 0) & (reach < nearest) & (origin[1] + reach * rays[:, 1] < top)
        nearest = torch.where(seen, reach, nearest)
        surface = torch.where(seen, index, surface)

    points = origin + rays * torch.where(surface > -2, nearest, 0.0)[:, None]
    random = np.random.default_rng(place.seed)
    fine = random_waves(random, 8, 6.0, 60.0).value(points)
    coarse = random_waves(random, 4, 0.3, 2.0).value(points)
    share = (0.5 + 0.1 * fine + 0.25 * coarse).clamp(0, 1)
    if place.tiles > 0:
        board = torch.floor(points[:, 0] / place.tiles) + torch.floor(points[:, 2] / place.tiles)
        share = 0.8 * (board % 2) + 0.2 * share
    first, second = (rays.new_tensor(tone) for tone in place.floor)
    colour = first + (second - first) * share[:, None]
    for index, (x, z, *_) in enumerate(place.walls):
        mine = surface == index
        tone = rays.new_tensor(place.wall_colours[index]).expand_as(colour)
        along = points @ rays.new_tensor([-z, 0.0, x])
        for panel, paint in zip(place.panels, place.panel_colours, strict=True):
            wall, left, right, bottom, top = panel
            if wall == index:
                inside = (along > left) & (along < right)
                inside &= (points[:, 1] > bottom) & (points[:, 1] < top)
                tone = torch.where(inside[:, None], rays.new_tensor(paint), tone)
        # A skirting board tells the eye where the wall meets the floor.
        tone = torch.where((points[:, 1] < place.ground + 0.07)[:, None], tone * 0.6, tone)
        colour = torch.where(mine[:, None], tone, colour)
    colour = colour * (1 + 0.06 * fine + 0.14 * coarse)[:, None]
    # Far ground fades into the haze at the horizon.
    clear = torch.exp(-torch.where(surface == -1, nearest, 0.0) / 60)[:, None]
    colour = torch.where((surface == -2)[:, None], sky, low + (colour - low) * clear)
    return colour.clamp(0, 1), surface == -1, points


def box(
    centre: tuple[float, float, float], sides: tuple[float, float, float], yaw: float = 0.0
) -> tuple[Float[Tensor, "8 3"], Int[Tensor, "12 3"]]:
    """Corners and outward faces of a box; `yaw` turns it about its vertical (degrees)."""
    corner = np.array([[i, j, k] for i in (-0.5, 0.5) for j in (-0.5, 0.5) for k in (-0.5, 0.5)])
    corners = (corner * sides) @ about(UP, yaw).T + centre
    quads = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    return torch.from_numpy(corners).float(), torch.tensor(faces)


@dataclass(frozen=True, eq=False)
class Light:
    """A sun or lamp, and the light from everywhere else."""

    towards: Float[np.ndarray, "3"]
    """Unit direction from which the lamp shines (world)."""
    lamp: Float[np.ndarray, "3"]
    around: Float[np.ndarray, "3"]


def random_light(random: Random, facing: Float[np.ndarray, "3"]) -> Light:
    """Light from above, mostly from the camera's side."""
    towards = random.normal(size=3) - 0.9 * facing
    towards[1] = abs(towards[1]) + 0.6
    warmth = random.uniform(-0.06, 0.14)
    tint = np.array([1 + warmth, 1.0, 1 - 1.2 * warmth])
    strength = random.uniform(0.5, 1.5)
    return Light(
        towards / np.linalg.norm(towards),
        strength * tint,
        random.uniform(0.4, 0.8) * (2 - tint),
    )


@dataclass(frozen=True, eq=False)
class Scene:
    """Surfaces in a place under a light, seen by a camera."""

    vertices: Float[Tensor, "vertices 3"]
    """World (metres)."""
    faces: Int[Tensor, "faces 3"]
    view: View
    place: Place
    light: Light


class ShadowMap:
    """Depth of a scene as the lamp sees it."""

    def __init__(self, scene: Scene, side: int) -> None:
        vertices, towards = scene.vertices, scene.light.towards
        right = np.cross(UP, towards)
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(right, towards), -towards])
        self._axes = vertices.new_tensor(axes)
        self._centre = (vertices.amin(0) + vertices.amax(0)) / 2
        seen = (vertices - self._centre) @ self._axes.T
        # Two empty texels all around, so that whatever is outside the map reads as lit.
        self._scale = (side / 2 - 2) / seen[:, :2].abs().max()
        self._side = side
        screen = seen[:, :2] * self._scale + side / 2
        fragments = rasterise(screen[None], seen[None, :, 2], scene.faces, (side, side))
        self._depth = vertices.new_full((side * side,), torch.inf)
        self._depth[fragments.pixels] = fragments.depth

    def shade(self, points: Float[Tensor, "points 3"], slack: float) -> Float[Tensor, "points"]:
        """Share of the lamp's light that is blocked: the mean over the four nearest texels."""
        seen = (points - self._centre) @ self._axes.T
        at = (seen[:, :2] * self._scale + (self._side - 1) / 2).clamp(0, self._side - 1.001)
        corner = at.floor()
        right, down = (at - corner).unbind(1)
        texel = (corner[:, 1] * self._side + corner[:, 0]).long()
        depth = seen[:, 2] - slack
        blocked = torch.zeros_like(depth)
        for step, share in (
            (0, (1 - right) * (1 - down)),
            (1, right * (1 - down)),
            (self._side, (1 - right) * down),
            (self._side + 1, right * down),
        ):
            blocked += (depth > self._depth.index_select(0, texel + step)) * share
        return blocked


def sample_grid(pixels: Float[Tensor, "points 2"], size: int) -> tuple[Tensor, int]:
    """Positions on the grid of samples of a picture, and its side: two samples a pixel and one more.

    Every second sample is a pixel's centre, where labels are exact; `picture` blends each with its
    neighbours by a tent filter.
    """
    return 2 * pixels + 0.5, 2 * size + 1


def picture(
    scene: Scene,
    size: int,
    fragments: Fragments,
    paint: Paint,
    normals: Float[Tensor, "fragments 3"],
    random: Random,
) -> Float[Tensor, "size size 3"]:
    """The finished photograph, sRGB in [0, 1], from what each sample of `sample_grid` sees."""
    view, light = scene.view, scene.light
    points = interpolate(scene.vertices[None], scene.faces, fragments)
    side = 2 * size + 1
    shadow = ShadowMap(scene, min(max(size, 128), 256))
    bump = normals - 0.9 * paint.bump
    normals = functional.normalize(bump, dim=-1)
    lamp, around = (points.new_tensor(value) for value in (light.lamp, light.around))
    towards = points.new_tensor(light.towards)
    to_camera = functional.normalize(points.new_tensor(view.position) - points, dim=-1)
    open_sky = _openness(fragments, side)
    facing = ((normals @ towards + 0.06) / 1.06).clamp_min(0)
    direct = facing * (1 - shadow.shade(points + 0.012 * normals, 0.01))
    sky = (0.72 + 0.28 * normals[:, 1]) * open_sky
    half = functional.normalize(towards + to_camera, dim=-1)
    gloss = paint.gloss * (normals * half).sum(1).clamp_min(0) ** 20 * direct
    lit = paint.albedo**2.2 * (direct[:, None] * lamp + sky[:, None] * around)
    lit = lit + gloss[:, None] * lamp

    behind, is_floor, ground_points = background(scene.place, view, size)
    behind = behind**2.2 * (0.55 * lamp * max(light.towards[1], 0.3) + 0.75 * around)
    ground = is_floor.nonzero()[:, 0]
    if len(ground):
        spots = ground_points[ground]
        dark = shadow.shade(spots, 0.004)
        share = lamp.sum() / (lamp + around).sum()
        behind[ground] *= (1 - 0.75 * share * dark - 0.35 * _contact(scene, spots))[:, None]
    behind = behind.view(size, size, 3)
    behind = _blur(behind, random.choice([0.0, 0.6, 1.2, 2.2]) * size / 256)

    nearest_pixel = (torch.arange(side) // 2).clamp_max(size - 1)
    canvas = behind.index_select(0, nearest_pixel).index_select(1, nearest_pixel).reshape(-1, 3)
    canvas[fragments.pixels] = lit
    canvas = canvas.view(side, side, 3)
    canvas = canvas[:-2:2] + 2 * canvas[1::2] + canvas[2::2]
    canvas = (canvas[:, :-2:2] + 2 * canvas[:, 1::2] + canvas[:, 2::2]) / 16
    exposure = random.uniform(0.8, 1.15)
    canvas = 1 - torch.exp(-1.1 * exposure * canvas.clamp_min(0))
    canvas = _blur(canvas, random.uniform(0.0, 0.6) * size / 256)
    balance = canvas.new_tensor(1 + random.normal(0, 0.025, 3))
    finished = (canvas * balance).clamp(0, 1) ** (1 / 2.2)
    grain = torch.from_numpy(random.standard_normal(finished.shape, dtype=np.float32))
    return (finished + random.uniform(0, 0.018) * grain).clamp(0, 1)


def _openness(fragments: Fragments, side: int) -> Float[Tensor, "fragments"]:
    """How little of the surroundings stands in front of each sample: creases and gaps are darker."""
    depth = fragments.depth.new_full((side * side,), torch.inf)
    depth[fragments.pixels] = fragments.depth
    step = max(2, side // 40)
    grid = functional.pad(depth.view(1, side, side), (step,) * 4, value=torch.inf).flatten()
    blocked = torch.zeros_like(fragments.depth)
    wide = side + 2 * step
    row, column = fragments.pixels // side, fragments.pixels % side
    middle = (row + step) * wide + column + step
    around = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1), (1, -1))
    for down, right in around:
        near = grid.index_select(0, middle + step * (down * wide + right))
        # A neighbour up to half a metre nearer shades; farther ones are another thing in front.
        gap = fragments.depth - near
        blocked += ((gap - 0.015) * 12).clamp(0, 1) * (gap < 0.5)
    return 1 - 0.6 * blocked / len(around)


def _contact(scene: Scene, spots: Float[Tensor, "spots 3"]) -> Float[Tensor, "spots"]:
    """Darkness on the floor close to where the body touches it."""
    touching = scene.vertices[scene.vertices[:, 1] < scene.place.ground + 0.06]
    if not len(touching):
        return torch.zeros_like(spots[:, 0])
    stride = max(1, len(touching) // 24)
    feet = touching[::stride]
    away = torch.cdist(spots[:, [0, 2]], feet[:, [0, 2]]).amin(1)
    return torch.exp(-((away / 0.09) ** 2))


def _blur(image: Float[Tensor, "h w 3"], sigma: float) -> Float[Tensor, "h w 3"]:
    """Gaussian blur; below a quarter pixel nothing happens."""
    if sigma < 0.25:
        return image
    reach = int(np.ceil(2.5 * sigma))
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    planes = image.permute(2, 0, 1)[:, None]
    for shape, pad in (
        ((1, 1, 1, -1), (reach, reach, 0, 0)),
        ((1, 1, -1, 1), (0, 0, reach, reach)),
    ):
        padded = functional.pad(planes, pad, mode="replicate")
        planes = functional.conv2d(padded, kernel.view(shape))
    return planes[:, 0].permute(1, 2, 0)
