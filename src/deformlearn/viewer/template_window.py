"""A template in the browser: every joint and segment by slider, its parts, its weights, its limits."""

from __future__ import annotations

import html
import math
import threading
from collections.abc import Callable

import numpy as np
import torch
import viser

from deformlearn.body import BodyParameters, BodyTemplate, bone_transforms, skin
from deformlearn.skeleton import SEGMENTS
from deformlearn.viewer import drawing
from deformlearn.viewer.canvas import Eye, Framing, Patchwork, put

PLAIN, PARTS, WEIGHTS = "plain", "parts", "weights of the chosen"
AXES = ("flexion", "abduction", "twist")

_FREE = 180.0
"""Degrees a slider goes where a joint has no limit."""
_BEYOND = 30.0
"""Degrees a slider goes beyond a limit, so that one may see what would be refused."""
_STEPS = 12
"""Shades of the weights: each is a patch of its own."""
_LOW, _HIGH = np.array([226, 230, 238.0]), np.array([200, 30, 60.0])
_FOV = math.radians(28)


class TemplateWindow:
    """Poses and scales a template on a server.

    Joint angles are about the template's own axes of flexion, abduction and twist, in degrees; what they
    compose to is the rotation vector that registration estimates.
    """

    def __init__(self, server: viser.ViserServer, template: BodyTemplate) -> None:
        self._server, self._template = server, template
        self._lock = threading.RLock()
        self.angles = torch.zeros(len(SEGMENTS) - 1, 3)
        """Degrees about the axes of each joint but the root."""
        self.scales = torch.ones(len(SEGMENTS))
        self._busy = False
        self._mesh: Patchwork | None = None
        self._bones: viser.LineSegmentsHandle | None = None
        self._chosen = SEGMENTS.index("left_elbow")
        self._make_controls()
        self._stand()
        self._repaint()
        self._choose()

    def parameters(self) -> BodyParameters:
        """What the sliders say."""
        turns = torch.deg2rad(self.angles)
        pose = (self._template.limit_axes * turns[:, :, None]).sum(1)
        return BodyParameters(self.scales[None], pose[None])

    def set(self, segment: str, axis: str, degrees: float) -> None:
        """Turn a joint about one axis; clamped to its limits while they are kept."""
        with self._lock:
            joint, column = SEGMENTS.index(segment) - 1, AXES.index(axis)
            low, high = _limits(self._template, joint, column)
            if self._keep.value:
                degrees = min(max(degrees, low), high)
            self.angles[joint, column] = degrees
            self._move()

    def scale(self, segment: str, factor: float) -> None:
        """Resize a segment."""
        with self._lock:
            self.scales[SEGMENTS.index(segment)] = factor
            self._move()

    # ---- drawing

    def _stand(self) -> None:
        low = self._template.vertices.amin(0)
        height = self._template.height
        self._server.scene.add_grid(
            "/floor", width=6, height=6, plane="xz", position=(0, float(low[1]), 0),
            cell_size=0.25, section_size=1.0, fade_distance=9, infinite_grid=False,
        )  # fmt: skip
        middle = (0.0, float(low[1]) + 0.5 * height, 0.0)
        Eye(self._server, Framing((0.35, 0.12, 1.0), middle, 0.5 * height, 0.62 * height, _FOV))

    def _repaint(self) -> None:
        """Draw the mesh anew: another colouring."""
        faces = self._template.faces.numpy()
        vertices = self._vertices()
        with self._server.atomic():
            if self._mesh is not None:
                self._mesh.remove()
            patches, colours = self._colouring(faces)
            self._mesh = Patchwork(self._server, "/body", vertices, faces, patches, colours)
            self._draw_bones()

    def _colouring(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = self._template.weights
        if self._paint.value == PARTS:
            return drawing.patches(self._template)
        if self._paint.value == WEIGHTS:
            share = weights[self._template.faces, self._chosen].mean(1).numpy()
            steps = np.ceil(share * (_STEPS - 1) - 1e-6).astype(int)
            ramp = np.linspace(0, 1, _STEPS)[:, None] ** 0.8
            return steps, (_LOW + (_HIGH - _LOW) * ramp).astype(np.uint8)
        return np.zeros(len(faces), int), np.array([drawing.SHADE], np.uint8)

    def _vertices(self) -> np.ndarray:
        return skin(self._template, self.parameters())[0].numpy()

    def _move(self) -> None:
        assert self._mesh is not None
        with self._server.atomic():
            self._mesh.move(self._vertices())
            self._draw_bones()
        self._tell()

    def _draw_bones(self) -> None:
        if self._bones is not None:
            self._bones.remove()
            self._bones = None
        if not self._skeleton.value:
            return
        transforms = bone_transforms(self._template, self.parameters())[0]
        rest = torch.nn.functional.pad(self._template.joints, (0, 1), value=1.0)
        joints = (transforms @ rest[..., None])[..., 0].numpy()
        pairs = [
            (parent, child) for child, parent in enumerate(self._template.parents) if parent >= 0
        ]
        segments = np.array([[joints[a], joints[b]] for a, b in pairs], np.float32)
        self._bones = self._server.scene.add_line_segments(
            "/bones", segments, (30, 30, 40), thickness=0.012
        )

    # ---- controls

    def _make_controls(self) -> None:
        gui = self._server.gui
        self._card = gui.add_html("")
        names = tuple(name.replace("_", " ") for name in SEGMENTS)
        with gui.add_folder("Chosen segment"):
            self._which = gui.add_dropdown("Segment", names, initial_value=names[self._chosen])
            self._turns = [
                gui.add_slider(axis, -_FREE, _FREE, 1.0, 0.0, hint="Degrees") for axis in AXES
            ]
            self._size = gui.add_slider("scale", 0.5, 2.0, 0.01, 1.0, hint="1 is the template")
            self._keep = gui.add_checkbox("Keep limits", True, hint="Stop at the joint limits")
        with gui.add_folder("Look"):
            self._paint = gui.add_dropdown("Colours", (PARTS, WEIGHTS, PLAIN))
            self._skeleton = gui.add_checkbox("Skeleton", False)
        with gui.add_folder("All scales", expand_by_default=False):
            self._all = [gui.add_slider(name, 0.5, 2.0, 0.01, 1.0) for name in names]
        reset = gui.add_button("Back to rest", icon=viser.Icon.REFRESH)
        reset.on_click(lambda _: self._reset())
        self._which.on_update(lambda _: self._choose())
        for axis, slider in zip(AXES, self._turns, strict=True):
            slider.on_update(self._on_turn(axis, slider))
        self._size.on_update(lambda _: self._resize(self._chosen, self._size.value))
        for index, slider in enumerate(self._all):
            slider.on_update(self._on_resize(index, slider))
        self._keep.on_update(lambda _: self._locked(self._clamp))
        self._paint.on_update(lambda _: self._locked(self._repaint))
        self._skeleton.on_update(lambda _: self._locked(self._draw_bones))

    def _locked(self, act: Callable[[], None]) -> None:
        with self._lock:
            act()

    def _on_turn(
        self, axis: str, slider: viser.GuiSliderHandle
    ) -> Callable[[viser.GuiEvent], None]:
        return lambda _: self._turn(axis, slider.value)

    def _on_resize(
        self, index: int, slider: viser.GuiSliderHandle
    ) -> Callable[[viser.GuiEvent], None]:
        return lambda _: self._resize(index, slider.value)

    def _turn(self, axis: str, degrees: float) -> None:
        with self._lock:
            if not self._busy and self._chosen > 0:
                self.set(SEGMENTS[self._chosen], axis, degrees)

    def _resize(self, index: int, factor: float) -> None:
        with self._lock:
            if not self._busy:
                self.scale(SEGMENTS[index], factor)
                self._fill()

    def _reset(self) -> None:
        with self._lock:
            self.angles.zero_()
            self.scales.fill_(1.0)
            self._fill()
            self._move()

    def _choose(self) -> None:
        """Another segment: its sliders, its limits, its weights."""
        with self._lock:
            if self._busy:
                return
            self._chosen = SEGMENTS.index(self._which.value.replace(" ", "_"))
            self._fill()
            if self._paint.value == WEIGHTS:
                self._repaint()

    def _clamp(self) -> None:
        """Bring every joint back within its limits, if they are to be kept."""
        if self._keep.value:
            low, high = torch.rad2deg(self._template.limits).unbind(-1)
            self.angles = torch.minimum(torch.maximum(self.angles, low), high)
            self._move()
        self._fill()

    def _fill(self) -> None:
        """Make the sliders say what is on show, from limit to limit."""
        self._busy = True
        try:
            with self._server.atomic():
                for column, slider in enumerate(self._turns):
                    slider.disabled = self._chosen == 0
                    if self._chosen:
                        self._fill_turn(column, slider)
                put(self._size, float(self.scales[self._chosen]))
                for index, slider in enumerate(self._all):
                    put(slider, float(self.scales[index]))
        finally:
            self._busy = False
        self._tell()

    def _fill_turn(self, column: int, slider: viser.GuiSliderHandle) -> None:
        joint = self._chosen - 1
        low, high = _limits(self._template, joint, column)
        if not self._keep.value:
            low, high = max(low - _BEYOND, -_FREE), min(high + _BEYOND, _FREE)
        value = float(self.angles[joint, column])
        low, high = math.floor(min(low, value)), math.ceil(max(high, value))
        # A slider must never hold a value outside of its range, not even for a moment.
        slider.min, slider.max = min(slider.min, low), max(slider.max, high)
        put(slider, value)
        slider.min, slider.max = low, high

    def _tell(self) -> None:
        self._card.content = template_card(self._template, self._chosen, self.angles)


def _limits(template: BodyTemplate, joint: int, column: int) -> tuple[float, float]:
    """Lowest and highest angle in degrees; all around where nothing is known."""
    low, high = torch.rad2deg(template.limits[joint, column]).tolist()
    return max(low, -_FREE), min(high, _FREE)


def template_card(template: BodyTemplate, chosen: int, angles: torch.Tensor) -> str:
    """The template, the chosen joint's limits with where it stands, and every joint beyond its own."""
    name = SEGMENTS[chosen].replace("_", " ")
    lines = [
        f"<b>{html.escape(template.name)}</b> {template.fingerprint}",
        f"{len(template.vertices):,} vertices, {len(template.faces):,} faces, "
        f"{template.height:.2f} m tall",
    ]
    if chosen:
        lines.append(f"<b>{name}</b>: limits in degrees")
        lines += [_bar(template, chosen - 1, column, angles) for column in range(3)]
    share = 100 * float((template.weights.argmax(1) == chosen).float().mean())
    lines.append(f"{share:.1f} % of the vertices follow the {name} most")
    beyond = _beyond(template, angles)
    if beyond:
        lines.append(f'<span style="color:#d9480f">beyond limits: {", ".join(beyond)}</span>')
    body = "".join(f"<div>{line}</div>" for line in lines)
    return f'<div style="padding:0.5em 0.9em;line-height:1.5;font-size:0.85em">{body}</div>'


def _bar(template: BodyTemplate, joint: int, column: int, angles: torch.Tensor) -> str:
    """One axis as a bar from limit to limit with a mark where the joint is."""
    low, high = _limits(template, joint, column)
    value = float(angles[joint, column])
    place = 100 * min(max((value + _FREE) / (2 * _FREE), 0), 1)
    start, end = (100 * (limit + _FREE) / (2 * _FREE) for limit in (low, high))
    colour = "#3a60b2" if low - 0.5 <= value <= high + 0.5 else "#d9480f"
    free = "free" if low <= -_FREE and high >= _FREE else f"{low:.0f} to {high:.0f}"
    return (
        f'<div style="display:flex;gap:0.5em;align-items:center">'
        f'<span style="width:5.2em">{AXES[column]}</span>'
        f'<span style="flex:1;position:relative;height:0.55em;background:#8883;border-radius:1em">'
        f'<span style="position:absolute;left:{start:.1f}%;width:{end - start:.1f}%;height:100%;'
        f'background:#3a60b266;border-radius:1em"></span>'
        f'<span style="position:absolute;left:calc({place:.1f}% - 2px);top:-0.2em;width:4px;'
        f'height:0.95em;background:{colour};border-radius:2px"></span></span>'
        f'<span style="width:6.4em;text-align:right;opacity:0.7">{free}</span></div>'
    )


def _beyond(template: BodyTemplate, angles: torch.Tensor) -> list[str]:
    low, high = torch.rad2deg(template.limits).unbind(-1)
    bad = ((angles < low - 0.5) | (angles > high + 0.5)).any(1)
    return [SEGMENTS[joint + 1].replace("_", " ") for joint in bad.nonzero()[:, 0].tolist()]
