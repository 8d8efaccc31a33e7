"""A template in words and pictures, for the person who wonders what was loaded."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deformlearn.body import BodyTemplate
from deformlearn.estimate import Estimate
from deformlearn.meshes import face_areas
from deformlearn.pictures import save_png
from deformlearn.render import compose, shade, turn
from deformlearn.rigs.rig import RigReport
from deformlearn.skeleton import SEGMENTS

_SIDE = 480


def describe(template: BodyTemplate, console: Console, report: RigReport | None = None) -> None:
    """Print sizes, the 24 segments, their share of the surface and their joint limits in degrees.

    With the report of a rig, also the bone that each segment was made of, how it was found, and
    everything that was changed or guessed.
    """
    console.print(
        f"{template.name} ({template.fingerprint}): {len(template.vertices)} vertices, "
        f"{len(template.faces)} faces, {template.height:.2f} m tall"
    )
    if report is not None:
        _describe_rig(report, console)
    table = Table("segment", "parent", "joint x y z (m)", "skin %", "flexion", "abduction", "twist")
    share = _shares(template)
    for index, name in enumerate(SEGMENTS):
        parent = template.parents[index]
        place = " ".join(f"{value:+.2f}" for value in template.joints[index].tolist())
        angles = [_range(template.limits[index - 1, axis]) if index else "" for axis in range(3)]
        above = SEGMENTS[parent] if parent >= 0 else ""
        table.add_row(name, above, place, f"{100 * share[index]:.1f}", *angles)
    console.print(table)
    console.print(f"landmarks: {', '.join(template.landmark_names)}")


def _describe_rig(report: RigReport, console: Console) -> None:
    table = Table("segment", "bone", "found by", "bones that go with it")
    for found in report.found:
        first, others = "".join(found.bones[:1]), ", ".join(found.bones[1:])
        # Brackets in a bone's name are no markup.
        table.add_row(found.segment, escape(first or "-"), found.how, escape(others))
    console.print(table)
    for note in report.notes:
        console.print(f"note: {escape(note)}")


def draw(template: BodyTemplate, path: Path) -> None:
    """Write a picture of the template's segments."""
    save_png(path, views(template))


def views(template: BodyTemplate) -> UInt8[np.ndarray, "side width 3"]:
    """Front, side and back of the template at rest, a colour for each segment."""
    colours = segment_colours()[template.weights.argmax(1)]
    rest = Estimate.rest(template, 1)
    white = torch.ones(_SIDE, _SIDE, 3)
    pictures = []
    for degrees in (0.0, 90.0, 180.0):
        picture = shade(template, turn(template, rest, degrees), _SIDE, colour=colours)[0]
        pictures.append(compose(white, picture))
    return (torch.cat(pictures, 1).clamp(0, 1) * 255).round().byte().numpy()


def segment_colours() -> torch.Tensor:
    """(24, 3) colours in which neighbours differ: hues a golden angle apart."""
    from colorsys import hsv_to_rgb

    hues = [(0.618034 * index) % 1 for index in range(len(SEGMENTS))]
    return torch.tensor([hsv_to_rgb(h, 0.45 + 0.2 * (i % 2), 0.9) for i, h in enumerate(hues)])


def _shares(template: BodyTemplate) -> Float[np.ndarray, "24"]:
    """Each segment's share of the area of the skin, a face going to the segment that moves it most."""
    faces = template.faces.cpu().numpy()
    owner = template.weights.cpu().numpy()[faces].sum(1).argmax(1)
    area = face_areas(template.vertices.cpu().numpy(), faces)
    return np.bincount(owner, area, len(SEGMENTS)) / area.sum()


def _range(limits: torch.Tensor) -> str:
    low, high = (math.degrees(value) for value in limits.tolist())
    return "free" if math.isinf(low) and math.isinf(high) else f"{low:.0f} to {high:.0f}"
