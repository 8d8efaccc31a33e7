"""Distributions as strips of quantiles: of everyone, by joint, by action; how a page draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from deformlearn.evaluation import PROTOCOL_JOINTS
from deformlearn.reports.people import Measured
from deformlearn.skeleton import joint_set

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Whiskers, box and middle of a strip."""
FEW = 8
"""So few values are drawn one by one: quantiles of them would say more than is known."""
ACTIONS = 40
"""Actions on a page; the others are counted."""

HEAD_TO_FOOT = """
    head nose thorax left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist spine
    left_hip right_hip left_knee right_knee left_ankle right_ankle
""".split()
"""Joints in the order of the page. The pelvis is the root: raw, its error is zero by definition."""

Values = Float[np.ndarray, "people"]


@dataclass(frozen=True)
class Strip:
    """How one number is distributed over people."""

    count: int
    """People whose number is known."""
    mean: float
    quantiles: tuple[float, ...]
    """Values at `QUANTILES`."""
    values: tuple[float, ...] = ()
    """All of them, ascending, where they are few."""

    @staticmethod
    def of(values: Values) -> Strip | None:
        """The distribution of the known values; None where nothing is known."""
        known = np.sort(values[np.isfinite(values)].astype(np.float64))
        if not len(known):
            return None
        few = tuple(known.tolist()) if len(known) < FEW else ()
        places = tuple(np.quantile(known, QUANTILES).tolist())
        return Strip(len(known), float(known.mean()), places, few)

    @property
    def median(self) -> float:
        """The middle value."""
        return self.quantiles[2]

    @property
    def reach(self) -> float:
        """The largest value that is drawn."""
        return max(self.quantiles[-1], *self.values[-1:], 0.0)


@dataclass(frozen=True)
class Line:
    """One line of a chart: what it is of, and a strip for each of the stages."""

    label: str
    strips: tuple[Strip | None, ...]


@dataclass(frozen=True)
class Chart:
    """Strips on one axis that begins at zero."""

    title: str
    """What is measured."""
    unit: str
    lines: tuple[Line, ...]
    left_out: int = 0
    """Lines that are not shown."""

    @property
    def top(self) -> float:
        """Where the axis ends."""
        return self.ticks[-1]

    @property
    def ticks(self) -> tuple[float, ...]:
        """Round numbers from zero to beyond everything that is drawn."""
        reach = max(
            (strip.reach for line in self.lines for strip in line.strips if strip), default=0.0
        )
        return ticks(reach)

    def share(self, value: float) -> float:
        """Where a value is drawn, percent of the axis."""
        return round(100 * value / self.top, 2)


def ticks(reach: float, about: int = 7) -> tuple[float, ...]:
    """Some round numbers from zero to at least `reach`."""
    if not (math.isfinite(reach) and reach > 0):
        return (0.0, 1.0)
    power = 10 ** math.floor(math.log10(reach / about))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power * about >= reach * (1 - 1e-9))
    return tuple(round(float(i * step), 9) for i in range(math.ceil(reach / step - 1e-9) + 1))


def joint_charts(stages: Sequence[Measured]) -> list[Chart]:
    """Errors by joint, raw and after Procrustes, in the order of the body; none without truth."""
    if not any(stage.has_truth for stage in stages):
        return []
    names = joint_set(PROTOCOL_JOINTS).names

    def chart(title: str, of: Callable[[Measured], np.ndarray]) -> Chart:
        lines = [
            Line(
                joint.replace("_", " "),
                tuple(Strip.of(of(stage)[:, names.index(joint)]) for stage in stages),
            )
            for joint in HEAD_TO_FOOT
        ]
        return Chart(title, "mm", tuple(lines))

    return [
        chart("raw", lambda stage: stage.raw_joints),
        chart("PA", lambda stage: stage.aligned_joints),
    ]


def action_charts(stages: Sequence[Measured]) -> list[Chart]:
    """Errors by action, the worst median of the first stage first, under a line for everyone.

    All stages are of the same people, row by row (`people.shared`).
    """
    rows: dict[str, list[int]] = {name: [] for name in sorted(set(stages[0].actions))}
    for row, name in enumerate(stages[0].actions):
        rows[name].append(row)

    def chart(title: str, unit: str, of: Callable[[Measured], Values]) -> Chart:
        numbers = [of(stage) for stage in stages]
        everyone = Line("everyone", tuple(map(Strip.of, numbers)))
        found = [
            Line(name or "(no name)", tuple(Strip.of(number[chosen]) for number in numbers))
            for name, chosen in rows.items()
        ]
        found = [line for line in found if any(line.strips)] if len(rows) > 1 else []
        found.sort(key=lambda line: -(line.strips[0].median if line.strips[0] else -1))
        left_out = max(len(found) - ACTIONS, 0)
        return Chart(title, unit, (everyone, *found[:ACTIONS]), left_out)

    charts = []
    if any(stage.has_truth for stage in stages):
        charts.append(chart("raw", "mm", lambda stage: stage.raw))
        charts.append(chart("PA", "mm", lambda stage: stage.aligned))
    if any(np.isfinite(stage.pixels).any() for stage in stages):
        charts.append(chart("2D", "px", lambda stage: stage.pixels))
    return charts
