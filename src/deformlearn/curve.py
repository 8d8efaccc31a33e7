"""The paper's Fig. 2: errors over the rounds, as a PNG and as an SVG that takes on a page's colours."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from deformlearn.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, GRID, FIT, NET = "#1d2430", "#667085", "#dfe3e8", "#0e7490", "#c2410c"
"""Text, secondary text, grid lines, registration (train) and regressor (test)."""

_PAGE = "#fefefe"
"""What lies behind the chart; not pure white, so that it can be told from a colour of the library."""

_VARIABLES = {INK: "ink", SOFT: "soft", GRID: "line", FIT: "fit", NET: "net", _PAGE: "page"}
"""The page's CSS variable for each colour: an inline chart follows its light and dark."""


_NUMBERS, _DOTS = 4, 5
"""What lies above what; lines lie below both."""


@dataclass(frozen=True)
class Line:
    """MPJPE by round, or one level that belongs to no round."""

    name: str
    split: str
    by_round: dict[int, float]
    """Millimetres; the key 0 alone is a level."""
    ours: bool
    """Drawn in full; all others are for comparison."""
    run: int | None = None
    """Which of two runs it is of (0 or 1), where both are in one chart: its colour; None: one run."""

    @property
    def colour(self) -> str:
        """Of its run where there are two, else of its split."""
        first = self.split == "train" if self.run is None else self.run == 0
        return FIT if first else NET

    @property
    def is_level(self) -> bool:
        return set(self.by_round) == {0}


def curve_png(lines: Sequence[Line]) -> bytes:
    """Fig. 2 on white."""
    buffer = io.BytesIO()
    draw_curve(lines, wide=True).savefig(buffer, format="png", dpi=200, facecolor="white")
    return buffer.getvalue()


def curve_svg(lines: Sequence[Line], *, wide: bool, measure: str = "raw") -> str:
    """Fig. 2 as an <svg> element to stand in a page: its text is text, in the page's colours."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    # The charts of a page must not share names of clip paths and glyphs.
    salt = f"{measure} {'wide' if wide else 'narrow'}"
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        draw_curve(lines, wide=wide, measure=measure).savefig(
            buffer, format="svg", transparent=True
        )
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", drawn, count=5)
    # Nothing refers to these names, and they are the same in every chart.
    drawn = re.sub(r' id="[a-z0-9.]+_\d+"', "", drawn)
    for colour, name in _VARIABLES.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    return re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", drawn)


def draw_curve(lines: Sequence[Line], *, wide: bool, measure: str = "raw") -> Figure:
    """Fig. 2: round across, MPJPE up from zero; every line is named where it ends.

    `measure` is what the errors are called on the axis. No line at all is an InputError.
    """
    from matplotlib.figure import Figure

    if not lines:
        raise InputError("this run has measured no error in mm; there is no curve to draw")
    size, text = ((8.8, 4.2), 9.5) if wide else ((3.9, 4.6), 9.0)
    figure = Figure(figsize=size)
    axes = figure.add_axes((0.045, 0.09, 0.6, 0.82) if wide else (0.085, 0.08, 0.5, 0.85))
    last = max(max(line.by_round) for line in lines) or 1
    top = 1.1 * max(max(line.by_round.values()) for line in lines)
    edge = last + (0.15 if wide else 0.25)
    axes.set(xlim=(0.75, edge), ylim=(0, top), xticks=range(1, last + 1))
    axes.set_xticklabels([f"round {r}" if wide else str(r) for r in range(1, last + 1)])
    axes.set_title(
        f"MPJPE, mm ({measure}){'' if wide else ', by round'}",
        loc="left",
        fontsize=text,
        color=SOFT,
    )
    axes.tick_params(length=0, labelsize=text, labelcolor=SOFT, pad=6)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    ends = [_draw_line(axes, line, edge, text) for line in lines]

    mm_per_point = top / (axes.get_position().height * size[1] * 72)
    for line in lines:
        # Of two runs the digits would lie on one another.
        if line.ours and line.run is None and not line.is_level:
            _write_numbers(axes, line, lines, mm_per_point, text)
    # Names stand beside the plot, as near to the end of their line as their neighbours allow.
    labels = [
        f"{height:.0f}  {line.name} ({line.split})"
        for line, (_, height, _) in zip(lines, ends, strict=True)
    ]
    if not wide:
        labels = [textwrap.fill(label, 21) for label in labels]
    rows = 1 + max(label.count("\n") for label in labels)
    gap = (1.4 if wide else 0.55 + 1.1 * rows) * text * mm_per_point
    reach = edge + (0.04 if wide else 0.08) * edge
    places = _spread([height for _, height, _ in ends], gap)
    for line, label, (x, height, colour), at in zip(lines, labels, ends, places, strict=True):
        leader: dict[str, Any] = {"color": colour, "linewidth": 0.6, "clip_on": False}
        axes.plot([x, edge, reach], [height, height, at], **leader)
        axes.annotate(
            label,
            (reach, at),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=text,
            color=colour,
            weight="bold" if line.ours else "normal",
            annotation_clip=False,
        )
    return figure


def _draw_line(axes: Any, line: Line, edge: float, text: float) -> tuple[float, float, str]:
    """Draw one line or level; where it ends (round, mm), and its colour."""
    colour = line.colour
    if line.is_level:
        level = line.by_round[0]
        if line.run is None and not line.name.startswith("control"):
            colour = SOFT
        axes.axhline(level, color=colour, linewidth=1, linestyle=(0, (4, 3)))
        return edge, level, colour
    rounds, heights = zip(*sorted(line.by_round.items()), strict=True)
    style: dict[str, Any] = {"linewidth": 2.4}
    dots: dict[str, Any] = {"markersize": 6.5, "marker": "o", "linestyle": "none"}
    if line.run is not None and line.split == "train":
        style |= {"linestyle": (0, (4, 1.5))}
        dots |= {"markerfacecolor": _PAGE}
    if not line.ours:
        style = {"linewidth": 1.3, "linestyle": (0, (1, 1.5))}
        dots |= {"markersize": 4}
    axes.plot(rounds, heights, color=colour, clip_on=False, **style)
    # The dots of every line lie above the patches of numbers.
    axes.plot(rounds, heights, color=colour, clip_on=False, zorder=_DOTS, **dots)
    return float(rounds[-1]), heights[-1], colour


def _write_numbers(
    axes: Any, line: Line, lines: Sequence[Line], mm_per_point: float, text: float
) -> None:
    """The errors of all rounds but the last: above their dots, or below where another dot is in the way."""
    rounds = sorted(line.by_round)[:-1]
    for round_ in rounds:
        height = line.by_round[round_]
        others = [one.by_round.get(round_, height) - height for one in lines if not one.is_level]
        up = not any(0.3 < gap / (mm_per_point * text) < 2.5 for gap in others)
        number = axes.annotate(
            f"{height:.0f}", (round_, height), (0, 10 if up else -10),
            textcoords="offset points", ha="center", va="bottom" if up else "top",
            fontsize=text, color=line.colour, weight="bold", zorder=_NUMBERS,
        )  # fmt: skip
        # A patch of page keeps other lines out of the digits.
        number.set_bbox({"facecolor": _PAGE, "edgecolor": "none", "pad": 1.2})


def _spread(wanted: Sequence[float], gap: float) -> Float[np.ndarray, "labels"]:
    """Positions at least `gap` apart and above zero, each near the wanted one, in the same order."""
    order = np.argsort(wanted, kind="stable")
    placed = np.asarray(wanted, dtype=float)[order]
    for _ in range(400):
        push = np.maximum(gap - np.diff(placed), 0) / 2
        placed[:-1] -= push
        placed[1:] += push
    placed += max(0.0, gap / 2 - placed[0])
    return placed[np.argsort(order, kind="stable")]
