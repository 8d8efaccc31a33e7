"""A template in words and pictures, for the person who wonders what was loaded."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from deformlearn.body import BodyTemplate
from deformlearn.estimate import Estimate
from deformlearn.pictures import save_png
from deformlearn.render import compose, shade, turn
from deformlearn.skeleton import SEGMENTS

_SIDE = 480


def describe(template: BodyTemplate, console: Console) -> None:
    """Print sizes, the 24 segments, their share of the surface and their joint limits in degrees."""
    console.print(
        f"{template.name} ({template.fingerprint}): {len(template.vertices)} vertices, "
        f"{len(template.faces)} faces, {template.height:.2f} m tall"
    )
    table = Table("segment", "parent", "joint x y z (m)", "skin %", "flexion", "abduction", "twist")
    owner = template.weights.argmax(1)
    share = torch.bincount(owner, minlength=len(SEGMENTS)) / len(owner)
    for index, name in enumerate(SEGMENTS):
        parent = template.parents[index]
        place = " ".join(f"{value:+.2f}" for value in template.joints[index].tolist())
        angles = [_range(template.limits[index - 1, axis]) if index else "" for axis in range(3)]
        above = SEGMENTS[parent] if parent >= 0 else ""
        table.add_row(name, above, place, f"{100 * share[index]:.1f}", *angles)
    console.print(table)
    console.print(f"landmarks: {', '.join(template.landmark_names)}")


def draw(template: BodyTemplate, path: Path) -> None:
    """Front, side and back of the template at rest, a colour for each segment."""
    colours = segment_colours()[template.weights.argmax(1)]
    rest = Estimate.rest(template, 1)
    white = torch.ones(_SIDE, _SIDE, 3)
    views = []
    for degrees in (0.0, 90.0, 180.0):
        picture = shade(template, turn(template, rest, degrees), _SIDE, colour=colours)[0]
        views.append(compose(white, picture))
    pixels = (torch.cat(views, 1).clamp(0, 1) * 255).round().byte().numpy()
    save_png(path, pixels)


def segment_colours() -> torch.Tensor:
    """(24, 3) colours in which neighbours differ: hues a golden angle apart."""
    from colorsys import hsv_to_rgb

    hues = [(0.618034 * index) % 1 for index in range(len(SEGMENTS))]
    return torch.tensor([hsv_to_rgb(h, 0.45 + 0.2 * (i % 2), 0.9) for i, h in enumerate(hues)])


def _range(limits: torch.Tensor) -> str:
    low, high = (math.degrees(value) for value in limits.tolist())
    return "free" if math.isinf(low) and math.isinf(high) else f"{low:.0f} to {high:.0f}"
