"""What a benchmark found, beside its goal, its peer and what was accepted before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from deformlearn.files import write_atomically

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measured:
    """One number."""

    metric: str
    value: float
    unit: str
    better: Direction = "higher"
    tolerance: float = 0.15
    """Share by which it may be worse than the accepted value: what the machine's own moods explain."""
    goal: float | None = None
    peer: float | None = None
    """The same quantity of what a user would pick instead, measured in turn with ours."""
    peer_name: str = ""

    @property
    def times_peer(self) -> float | None:
        """How many times better than the peer."""
        if not self.peer:
            return None
        return self.value / self.peer if self.better == "higher" else self.peer / self.value

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal

    def change(self, accepted: float) -> float:
        """Improvement over an accepted value, as a share of it; negative is worse."""
        share = (self.value - accepted) / abs(accepted) if accepted else 0.0
        return share if self.better == "higher" else -share


class Baseline:
    """Accepted values by kind of machine; they change by `accept` alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kinds: dict[str, dict[str, float]] = (
            json.loads(path.read_text()) if path.exists() else {}
        )

    def of(self, kind: str) -> dict[str, float]:
        """Accepted value of each metric on this kind of machine."""
        return self._kinds.get(kind, {})

    def accept(self, kind: str, found: Sequence[Measured]) -> None:
        """Make what was found the accepted values; other metrics and machines keep theirs."""
        self._kinds[kind] = self.of(kind) | {one.metric: one.value for one in found}
        ordered = {name: dict(sorted(values.items())) for name, values in self._kinds.items()}
        write_atomically(self.path, (json.dumps(ordered, indent=2) + "\n").encode())


def regressions(found: Sequence[Measured], accepted: dict[str, float]) -> list[str]:
    """One line for each number that is worse than accepted by more than its tolerance."""
    return [
        f"{one.metric}: {number(one.value)} {one.unit}, accepted {number(accepted[one.metric])} "
        f"({one.change(accepted[one.metric]):+.0%}, tolerance {one.tolerance:.0%})"
        for one in found
        if one.metric in accepted and one.change(accepted[one.metric]) < -one.tolerance
    ]


HEADINGS = (
    *("metric", "value", "unit", "better", "tolerance", "baseline", "change"),
    *("peer", "times peer", "goal", ""),
)


def cells(one: Measured, accepted: dict[str, float]) -> list[str]:
    """One row of the table."""
    before = accepted.get(one.metric)
    verdict = {None: "", True: "met", False: "NOT MET"}[one.met]
    if before is not None and one.change(before) < -one.tolerance:
        verdict = f"{verdict} WORSE".strip()
    times = one.times_peer
    return [
        one.metric,
        number(one.value),
        one.unit,
        one.better,
        f"{one.tolerance:.0%}",
        "" if before is None else number(before),
        "" if before is None else f"{one.change(before):+.0%}",
        "" if one.peer is None else number(one.peer),
        "" if times is None else f"{times:.3g}",
        "" if one.goal is None else f"{'>=' if one.better == 'higher' else '<='} {one.goal:g}",
        verdict,
    ]


def peers(found: Sequence[Measured]) -> list[str]:
    """One line for each peer: what it is, and beside which numbers it stands."""
    names = dict.fromkeys(one.peer_name for one in found if one.peer is not None)
    return [
        f"peer of {', '.join(one.metric for one in found if one.peer_name == name)}: {name}"
        for name in names
    ]


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be; numbers are easier to compare at the right."""
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for a page."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Three digits that matter."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def record(found: Sequence[Measured]) -> list[dict]:
    """For results/*.json."""
    return [{**asdict(one), "met": one.met, "times_peer": one.times_peer} for one in found]
