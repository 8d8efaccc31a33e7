"""Around people: cameras, floors, walls, furniture and light.

World axes are the template's (y up); camera axes are x right, y down, z away. What is drawn for one
person is NumPy; many people's are tensors. Cameras and meshes are float64 with people first, as many
as one likes; what is painted is float32 with people, or pixels, last (see `cloth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deformlearn.data.cloth import (
    Ripples,
    choose,
    columns,
    fabric,
    fraction,
    length,
    of_person,
    random_waves,
)
from deformlearn.data.rotations import UP, Degrees, about
from deformlearn.raster import true_at
from deformlearn.tensors import TensorData

Random = np.random.Generator
MARGIN = 1.12
"""Side of the crop over the longer side of the person's box."""


@dataclass(frozen=True, eq=False)
class View(TensorData):
    """Perspective cameras, one a person: pixel = focal * (x, y) / z + centre."""

    rotation: Float[Tensor, "people 3 3"]
    """World to camera axes."""
    position: Float[Tensor, "people 3"]
    """Of the camera, in the world (metres)."""
    focal: Float[Tensor, "people"]
    """Pixels."""
    centre: Float[Tensor, "people 2"]
    """Principal point in crop pixels; far outside it for a crop from the edge of a photograph."""

    def to_camera(self, points: Float[Tensor, "people n 3"]) -> Float[Tensor, "people n 3"]:
        """Camera axes (metres)."""
        return (points - self.position[:, None]) @ self.rotation.mT

    def to_pixels(self, seen: Float[Tensor, "people n 3"]) -> Float[Tensor, "people n 2"]:
        """Crop pixels of points in camera axes."""
        flat = seen[..., :2] / seen[..., 2:]
        return self.focal[:, None, None] * flat + self.centre[:, None]

    def rays(self, size: int) -> Float[Tensor, "3 pixels"]:
        """World direction of each pixel of each square picture, not normalised."""
        pixel = torch.arange(size, device=self.focal.device) + 0.5
        offset = (pixel - self.centre[..., None]) / self.focal[:, None, None]
        across, down = offset.float().unbind(1)
        people = len(across)
        seen = across.new_ones(people, 3, size, size)
        seen[:, 0], seen[:, 1] = across[:, None], down[..., None]
        turned = self.rotation.mT.float() @ seen.flatten(2)
        return turned.transpose(0, 1).reshape(3, -1)


def looking(azimuth: Degrees, elevation: Degrees, roll: Degrees = 0.0) -> Float[np.ndarray, "3 3"]:
    """World-to-camera rotation (degrees); at azimuth 0 the camera stands before a person facing +z.

    Azimuth grows towards the person's left; a positive elevation looks down from above.
    """
    upright = np.diag([1.0, -1.0, -1.0]) @ about(UP, -azimuth)
    tilted = about(np.array([1.0, 0.0, 0.0]), elevation) @ upright
    return about(np.array([0.0, 0.0, 1.0]), roll) @ tilted


def framed(
    vertices: Float[Tensor, "people vertices 3"],
    rotation: Float[Tensor, "people 3 3"],
    position: Float[Tensor, "people 3"],
    size: int,
) -> View:
    """The views whose square pictures are each person's box with its margin."""
    still = View(rotation, position, position[:, 0] * 0 + 1, position[:, :2] * 0)
    low, high = bounds(still.to_pixels(still.to_camera(vertices)))
    focal = size / (MARGIN * (high - low).amax(1))
    return View(rotation, position, focal, size / 2 - focal[:, None] * (low + high) / 2)


def bounds(
    points: Float[Tensor, "people n axes"],
) -> tuple[Float[Tensor, "people axes"], Float[Tensor, "people axes"]]:
    """The least and the greatest coordinates; on a CPU ten times as fast along rows of memory."""
    columns = points.mT.contiguous()
    return columns.amin(2), columns.amax(2)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a picture is taken; heights are above its floor (metres).

    Walls are vertical planes; rectangles on them are pictures or doors.
    """

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


def random_place(random: Random, facing: Float[np.ndarray, "3"]) -> Place:
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
            left, low = random.uniform(-3, 3), random.uniform(0, 2)
            low = 0.0 if random.random() < 0.4 else low
            panels.append([wall, left, left + random.uniform(0.2, 1.6),
                           low, low + random.uniform(0.2, 2)])  # fmt: skip
            colours.append(fabric(random) * random.uniform(0.6, 1))
    earth = np.array([0.5, 0.46, 0.38]) if random.random() < 0.5 else np.array([0.36, 0.42, 0.28])
    base = fabric(random) if indoors else earth * random.uniform(0.6, 1.2)
    day = random.uniform(0.6, 1)
    return Place(
        floor=np.stack([base, base * random.uniform(0.7, 1.3)]),
        tiles=random.uniform(0.25, 0.9) if indoors and random.random() < 0.6 else 0.0,
        walls=np.array(walls).reshape(-1, 4),
        wall_colours=np.array([fabric(random) * 0.5 + 0.4 for _ in walls]).reshape(-1, 3),
        panels=np.array(panels).reshape(-1, 5),
        panel_colours=np.array(colours).reshape(-1, 3),
        sky=np.array([[0.85, 0.88, 0.9], [0.45, 0.62, 0.85]]) * day,
        seed=int(random.integers(2**31)),
    )


@dataclass(frozen=True, eq=False)
class Rooms(TensorData):
    """The places of several people (the last axis is people)."""

    ground: Float[Tensor, "people"]
    """Height of each floor in the world (metres)."""
    floor: Float[Tensor, "2 3 people"]
    tiles: Float[Tensor, "people"]
    walls: Float[Tensor, "walls 4 people"]
    wall_colours: Float[Tensor, "walls 3 people"]
    panels: Float[Tensor, "walls panels 4 people"]
    """Left, right, low and high edge of the panels on each wall."""
    panel_colours: Float[Tensor, "walls panels 3 people"]
    sky: Float[Tensor, "2 3 people"]
    fine: Ripples
    """Grain of floor and walls."""
    coarse: Ripples

    @staticmethod
    def of(places: Sequence[Place], ground: Float[Tensor, "people"]) -> Rooms:
        """Places side by side; who has fewer walls or panels than others gets some nobody can see."""
        device = ground.device
        most = max(len(place.walls) for place in places)
        on_wall = [
            [(place.panels[:, 0] == k).nonzero()[0] for k in range(most)] for place in places
        ]
        slots = max([0, *(len(panels) for walls in on_wall for panels in walls)])
        walls = np.tile([1.0, 0.0, 1.0, -np.inf], (len(places), most, 1))  # below any floor
        wall_colours = np.zeros((len(places), most, 3))
        panels = np.full((len(places), most, slots, 4), np.inf)
        panel_colours = np.zeros((len(places), most, slots, 3))
        for person, (place, lists) in enumerate(zip(places, on_wall, strict=True)):
            walls[person, : len(place.walls)] = place.walls
            wall_colours[person, : len(place.walls)] = place.wall_colours
            for wall, mine in enumerate(lists):
                panels[person, wall, : len(mine)] = place.panels[mine, 1:]
                panel_colours[person, wall, : len(mine)] = place.panel_colours[mine]
        grain = [np.random.default_rng(place.seed) for place in places]
        return Rooms(
            ground=ground,
            floor=columns([place.floor for place in places], device),
            tiles=columns([place.tiles for place in places], device),
            walls=columns(list(walls), device),
            wall_colours=columns(list(wall_colours), device),
            panels=columns(list(panels), device),
            panel_colours=columns(list(panel_colours), device),
            sky=columns([place.sky for place in places], device),
            fine=Ripples.of([random_waves(random, 8, 6.0, 60.0) for random in grain], device),
            coarse=Ripples.of([random_waves(random, 4, 0.3, 2.0) for random in grain], device),
        )


_FLOOR, _SKY = -1, -2


def background(
    rooms: Rooms, view: View, size: int
) -> tuple[Float[Tensor, "3 pixels"], Bool[Tensor, "pixels"], Float[Tensor, "3 pixels"]]:
    """Colour of every pixel without a person, whether it shows the floor, and where (world)."""
    rays = view.rays(size)
    people = torch.arange(len(view), device=rays.device).repeat_interleave(size * size)

    def of(values: Tensor) -> Tensor:
        return of_person(values, people)

    def along(x: Tensor, z: Tensor, vectors: Tensor) -> Tensor:
        """Horizontal component of vectors in a direction."""
        return x * vectors[0] + z * vectors[2]

    origin = view.position.T.float()
    nearest = of(rooms.ground - origin[1]) / rays[1]
    nearest = torch.where(nearest > 0, nearest, torch.inf)
    surface = torch.where(nearest.isfinite(), _FLOOR, _SKY)  # or a wall's index
    for index, (x, z, distance, height) in enumerate(rooms.walls):
        # A wall is seen from inside only: the camera may stand outside.
        leaving = along(of(x), of(z), rays)
        reach = of(distance - along(x, z, origin)) / leaving
        top = of(rooms.ground + height - origin[1])
        seen = (leaving > 1e-6) & (reach > 0) & (reach < nearest) & (reach * rays[1] < top)
        nearest = torch.where(seen, reach, nearest)
        surface = torch.where(seen, index, surface)

    points = of(origin) + rays * torch.where(surface > _SKY, nearest, 0.0)
    fine, coarse = rooms.fine.value(points, people), rooms.coarse.value(points, people)
    share = (0.5 + 0.1 * fine + 0.25 * coarse).clamp(0, 1)
    side = of(torch.where(rooms.tiles > 0, rooms.tiles, 1.0))
    tile = torch.floor(points[0] / side) + torch.floor(points[2] / side)
    board = 2 * fraction(tile / 2)
    share = torch.where(of(rooms.tiles > 0), 0.8 * board + 0.2 * share, share)
    first, second = of(rooms.floor)
    colour = first + (second - first) * share
    for index, (x, z, *_) in enumerate(rooms.walls):
        mine = true_at(surface == index)
        if len(mine):
            who, spot = people.index_select(0, mine), points.index_select(1, mine)
            across = along(of_person(-z, who), of_person(x, who), spot)
            wall = _wall(rooms, index, who, across, spot[1])
            colour.scatter_(1, mine.expand(3, -1), wall)
    colour *= 1 + 0.06 * fine + 0.14 * coarse
    # Far ground fades into the haze at the horizon.
    is_floor = surface == _FLOOR
    clear = torch.exp(-torch.where(is_floor, nearest, 0.0) / 60)
    low, high = rooms.sky
    colour = of(low) + (colour - of(low)) * clear
    above = true_at(surface == _SKY)
    if len(above):
        ray, who = rays.index_select(1, above), people.index_select(0, above)
        height = (ray[1] / length(ray) * 4).clamp_(0, 1)
        sky = of_person(low, who) + of_person(high - low, who) * height
        colour.scatter_(1, above.expand(3, -1), sky)
    return colour.clamp_(0, 1), is_floor, points


def _wall(
    rooms: Rooms,
    index: int,
    people: Int[Tensor, "n"],
    across: Float[Tensor, "n"],
    level: Float[Tensor, "n"],
) -> Float[Tensor, "3 n"]:
    """Colour of places on one wall, `across` it and at a `level` of the world."""
    above = level - of_person(rooms.ground, people)
    tone = of_person(rooms.wall_colours[index], people).expand(3, len(above))
    for edges, paint in zip(rooms.panels[index], rooms.panel_colours[index], strict=True):
        left, right, bottom, top = of_person(edges, people)
        inside = (across > left) & (across < right) & (above > bottom) & (above < top)
        tone = choose(inside, of_person(paint, people), tone)
    # A skirting board tells the eye where the wall meets the floor.
    return tone * (1 - 0.4 * (above < 0.07))


def box(
    centre: tuple[float, float, float], sides: tuple[float, float, float]
) -> tuple[Float[np.ndarray, "8 3"], Int[np.ndarray, "12 3"]]:
    """Corners and outward faces of an upright box."""
    corner = np.array([[i, j, k] for i in (-0.5, 0.5) for j in (-0.5, 0.5) for k in (-0.5, 0.5)])
    corners = corner * sides + centre
    quads = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    return corners, np.array(faces)


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
class Lamps(TensorData):
    """The light on several people (the last axis is people)."""

    towards: Float[Tensor, "3 people"]
    lamp: Float[Tensor, "3 people"]
    around: Float[Tensor, "3 people"]

    @staticmethod
    def of(lights: Sequence[Light], device: torch.device) -> Lamps:
        """Lights side by side."""
        return Lamps(*(columns([getattr(light, name) for light in lights], device)
                       for name in ("towards", "lamp", "around")))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scene(TensorData):
    """Several people, each in their own place under their own light before their own camera."""

    vertices: Float[Tensor, "people vertices 3"]
    """World (metres, float64)."""
    faces: Int[Tensor, "faces 3"]
    """The same for everyone."""
    view: View
    rooms: Rooms
    lamps: Lamps
