"""The body beside the photo: drawn from any side, and which surface point a click means.

The picture and the answer come from the same z-buffer (render.py), so a click means exactly the point
that is drawn there. Panel coordinates: pixels, x right, y down, (0, 0) the corner of the first one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from deformlearn.body import BodyParameters, BodyTemplate, skin
from deformlearn.camera import FACING_CAMERA, Camera
from deformlearn.data.rotations import between, rotation_vector
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.raster import rasterise, vertex_normals
from deformlearn.render import shade
from deformlearn.skeleton import PARENTS, SEGMENTS, JointSet

POSES = ("rest", "spread")
"""As the template stands, and with arms and legs spread so that every point of it can be seen."""

_MARGIN = 0.92
"""Share of the panel the body fills at zoom 1."""

_LARGEST_PANEL = 4096
_LARGE = 900
"""Side of a panel (px) from which on pictures are not drawn twice as large and averaged."""

_ZOOMS = (0.2, 60.0)

_HIDDEN = 0.006
"""Metres a point may lie behind the drawn surface and still count as seen: half a pixel's slope."""

_BASE, _LEFT_TINT, _RIGHT_TINT = (0.74, 0.74, 0.76), (0.46, 0.74, 0.79), (0.88, 0.67, 0.45)
"""Colours of the trunk and of the person's left and right side (linear RGB)."""

_PART_NAMES = {
    "pelvis": "hips", "hip": "thigh", "spine1": "belly", "knee": "lower leg", "spine2": "waist",
    "ankle": "foot", "spine3": "chest", "foot": "toes", "neck": "neck", "collar": "shoulder",
    "head": "head", "shoulder": "upper arm", "elbow": "forearm", "wrist": "hand",
    "hand": "fingers",
}  # fmt: skip
"""What people call the surface a segment moves; segments are named by the joint they begin at."""

_BEHIND = {"belly": "lower back", "chest": "upper back"}
"""What the back of such a place is called."""

_SPREAD = {"shoulder": (1.0, 0.05, 0.0), "elbow": (1.0, 0.05, 0.0), "wrist": (1.0, 0.05, 0.0)}
_SPREAD |= {"hip": (0.42, -1.0, 0.0), "knee": (0.42, -1.0, 0.0)}
"""Where left bones point in the spread pose; feet and fingers go along as they are."""


@dataclass(frozen=True)
class View:
    """From where the body is seen, and the panel it is drawn in."""

    width: int
    """Panel width (px)."""
    height: int
    yaw: float = 0.0
    """Degrees the onlooker went round the body; 90 sees the person's left side."""
    pitch: float = 0.0
    """Degrees the onlooker looks down from; 90 is from above."""
    zoom: float = 1.0
    """1 shows the whole body."""
    x: float = 0.0
    """Shift of the body to the right, metres."""
    y: float = 0.0
    """Shift of the body downwards, metres."""
    pose: str = "rest"

    def __post_init__(self) -> None:
        numbers = (self.yaw, self.pitch, self.zoom, self.x, self.y)
        if not all(math.isfinite(number) and abs(number) < 1e6 for number in numbers):
            raise InputError("wanted finite numbers for the view of the body")
        if not (1 <= self.width <= _LARGEST_PANEL and 1 <= self.height <= _LARGEST_PANEL):
            raise InputError(f"wanted a panel of 1 to {_LARGEST_PANEL} pixels a side")
        if not _ZOOMS[0] <= self.zoom <= _ZOOMS[1]:
            raise InputError(f"wanted a zoom from {_ZOOMS[0]} to {_ZOOMS[1]}, got {self.zoom:g}")
        if self.pose not in POSES:
            raise InputError(f"unknown pose {self.pose!r}; known are {', '.join(POSES)}")


@dataclass(frozen=True)
class Picked:
    """A point of the surface."""

    face: int
    barycentric: tuple[float, float, float]


class BodyPanel:
    """Draws a template and finds points on it."""

    def __init__(self, template: BodyTemplate) -> None:
        self.template = template
        self._tints = side_tints(template)
        rest = template.rest_parameters(1)
        self._bodies = {
            "rest": rest,
            "spread": BodyParameters(rest.scales, spread_pose(template)[None]),
        }
        self._posed = {name: skin(template, body)[0] for name, body in self._bodies.items()}
        self._normals = {
            name: vertex_normals(posed, template.faces) for name, posed in self._posed.items()
        }

    def draw(self, view: View, *, coarse: bool = False) -> UInt8[np.ndarray, "h w 4"]:
        """The body, RGBA; `coarse` is half as large and jagged, for while it turns."""
        side = max(view.width, view.height)
        scale = 2 if coarse else 1
        layer = shade(
            self.template,
            self._estimate(view),
            max(side // scale, 1),
            colour=self._tints,
            supersample=1 if coarse or side > _LARGE else 2,
        )[0]
        drawn = _straight_alpha(layer)
        height, width = max(view.height // scale, 1), max(view.width // scale, 1)
        top, left = (len(drawn) - height) // 2, (len(drawn) - width) // 2
        return drawn[top : top + height, left : left + width]

    def pick(self, view: View, x: float, y: float) -> Picked | None:
        """The surface point seen at a panel position; None beside the body."""
        screen, depth = self._on_screen(view)
        # One pixel whose centre is the position: exact, and all but a few faces are dropped at once.
        shifted = screen - screen.new_tensor([x, y]) + 0.5
        found = rasterise(shifted[None], depth[None], self.template.faces, (1, 1))
        if len(found.faces) == 0:
            return None
        u, v, w = found.barycentric[0].tolist()
        return Picked(int(found.faces[0]), (u, v, w))

    def locate(
        self, view: View, faces: Int[Tensor, "n"], barycentric: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n 2"], list[bool]]:
        """Panel positions of surface points, and which of them are in sight."""
        screen, depth = self._on_screen(view)
        corners = self.template.faces[faces]
        places = (screen[corners] * barycentric[..., None]).sum(-2)
        depths = (depth[corners] * barycentric).sum(-1)
        # A small z-buffer is enough to tell front from back.
        shrink = max(view.width, view.height) / 480
        size = max(round(view.height / shrink), 1), max(round(view.width / shrink), 1)
        found = rasterise((screen / shrink)[None], depth[None], self.template.faces, size)
        nearest = depth.new_full((size[0] * size[1],), torch.inf)
        nearest[found.pixels] = found.depth
        column, row = (places / shrink).floor().long().unbind(-1)
        inside = (column >= 0) & (row >= 0) & (column < size[1]) & (row < size[0])
        pixel = row.clamp(0, size[0] - 1) * size[1] + column.clamp(0, size[1] - 1)
        turned = self._normals[view.pose] @ _rotation(view).T
        facing = (turned[corners] * barycentric[..., None]).sum(-2)[:, 2] < 0
        # A surface seen at a slant is farther away within one coarse pixel.
        slack = _HIDDEN + 2 * shrink / self.pixels_per_metre(view)
        seen = inside & facing & (depths <= nearest[pixel] + slack)
        return places, seen.tolist()

    def towards(self, pose: str, point: Picked) -> tuple[float, float]:
        """Yaw and pitch (degrees) of a view that looks straight at a point."""
        corners = self.template.faces[point.face]
        blend = self._normals[pose].new_tensor(point.barycentric)[:, None]
        x, y, z = (self._normals[pose][corners] * blend).sum(0).tolist()
        across = math.hypot(x, z)
        yaw = math.degrees(math.atan2(x, z)) if across > 0.1 else 0.0
        # From straight above or below nobody recognises a body.
        return yaw, max(-60.0, min(60.0, math.degrees(math.atan2(y, across))))

    def keypoints(self, view: View, joints: JointSet) -> Float[Tensor, "joints 2"]:
        """Panel positions of a joint set's key points; most lie under the skin."""
        inside = skin(self.template, self._bodies[view.pose], self.template.keypoints(joints))
        return self._placed(view, inside[0])[:, :2]

    def part(self, point: Picked) -> str:
        """What people call the place: "left forearm"."""
        corners = self.template.faces[point.face]
        blend = self.template.weights.new_tensor(point.barycentric)[:, None]
        name = part_names()[int((self.template.weights[corners] * blend).sum(0).argmax())]
        behind = (self._normals[POSES[0]][corners] * blend).sum(0)[2] < 0
        return _BEHIND.get(name, name) if behind else name

    def pixels_per_metre(self, view: View) -> float:
        """Scale of the picture."""
        low, high = self._posed[view.pose].amin(0), self._posed[view.pose].amax(0)
        # The widest the body gets when it turns, so that turning never changes its size.
        middle = (low + high) / 2
        across = 2 * (self._posed[view.pose] - middle)[:, [0, 2]].norm(dim=1).max().item()
        tall = (high - low)[1].item()
        return view.zoom * _MARGIN * min(view.width / across, view.height / tall)

    def _on_screen(
        self, view: View
    ) -> tuple[Float[Tensor, "vertices 2"], Float[Tensor, "vertices"]]:
        """Panel position (px) and depth (m) of every vertex."""
        placed = self._placed(view, self._posed[view.pose])
        return placed[:, :2].contiguous(), placed[:, 2].contiguous()

    def _placed(self, view: View, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Panel position (px) and depth (m) of points in template axes."""
        camera = self._estimate(view).camera
        turned = points @ camera.matrix[0].T
        side = max(view.width, view.height)
        square = (turned[:, :2] * camera.scale + camera.translation + 1) * (side / 2)
        # The panel is the middle of the square that `shade` draws.
        cut = square.new_tensor([(side - view.width) // 2, (side - view.height) // 2])
        return torch.cat([square - cut, turned[:, 2:]], 1)

    def _estimate(self, view: View) -> Estimate:
        """The posed body under the camera of a view, across the panel's square."""
        posed = self._posed[view.pose]
        rotation = _rotation(view)
        scale = self.pixels_per_metre(view) * 2 / max(view.width, view.height)
        middle = rotation @ ((posed.amin(0) + posed.amax(0)) / 2)
        shift = posed.new_tensor([view.x, view.y])
        camera = Camera(
            rotation[None], (scale * (shift - middle[:2]))[None], posed.new_tensor([scale])
        )
        return Estimate(self._bodies[view.pose], camera)


@lru_cache
def part_names() -> tuple[str, ...]:
    """What people call the surface of each segment, in the segments' order."""
    names = []
    for segment in SEGMENTS:
        side, _, joint = segment.rpartition("_")
        names.append(f"{side} {_PART_NAMES[joint]}".strip())
    return tuple(names)


def side_tints(template: BodyTemplate) -> Float[Tensor, "vertices 3"]:
    """A colour for every vertex by its side: the person's left cold, right warm, the trunk grey."""
    colours = []
    for segment in SEGMENTS:
        left, right = segment.startswith("left_"), segment.startswith("right_")
        colours.append(_LEFT_TINT if left else _RIGHT_TINT if right else _BASE)
    return template.weights @ template.weights.new_tensor(colours)


def spread_pose(template: BodyTemplate) -> Float[Tensor, "23 3"]:
    """Pose (of every joint but the root) with straight, level arms and the legs apart."""
    joints = template.joints.double().cpu().numpy()
    children = {parent: child for child, parent in enumerate(PARENTS)}
    world = [np.eye(3) for _ in SEGMENTS]
    pose = torch.zeros_like(template.joints[1:])
    for index, segment in enumerate(SEGMENTS):
        above = world[PARENTS[index]] if PARENTS[index] >= 0 else np.eye(3)
        side, _, joint = segment.rpartition("_")
        world[index] = above
        if joint not in _SPREAD or not side:
            continue
        goal = np.array(_SPREAD[joint]) * [1.0 if side == "left" else -1.0, 1.0, 1.0]
        bone = joints[children[index]] - joints[index]
        world[index] = between(bone / np.linalg.norm(bone), goal / np.linalg.norm(goal))
        pose[index - 1] = torch.from_numpy(rotation_vector(above.T @ world[index]))
    return pose


def _rotation(view: View) -> Float[Tensor, "3 3"]:
    """Template axes to the view's camera axes (x right, y down, z away)."""
    yaw, pitch = math.radians(view.yaw), math.radians(view.pitch)
    around = torch.tensor(
        [[math.cos(yaw), 0, -math.sin(yaw)], [0, 1, 0], [math.sin(yaw), 0, math.cos(yaw)]]
    )
    tilt = torch.tensor(
        [[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]]
    )
    return torch.tensor(FACING_CAMERA) @ tilt @ around


def _straight_alpha(layer: Float[Tensor, "h w 4"]) -> UInt8[np.ndarray, "h w 4"]:
    """Bytes of a premultiplied picture with its colours undone, as png wants them."""
    alpha = layer[..., 3:]
    colour = layer[..., :3] / alpha.clamp_min(1e-6)
    straight = torch.cat([colour.clamp(0, 1), alpha], -1)
    return (straight * 255).round().to(torch.uint8).numpy()
