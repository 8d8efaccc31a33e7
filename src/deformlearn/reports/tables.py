"""What metrics.jsonl holds of a run as tables and curves, beside the paper's own numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deformlearn.curve import Line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Records = Sequence[dict[str, Any]]
"""Lines of metrics.jsonl; rounds.py writes them."""

OURS = "This run"
COMPARISONS = "References and controls, on the same data"
PUBLISHED = "The paper's Table 1: Human3.6M, real images; different data, not comparable"

_STAGES = {
    "register": (OURS, "registration", "train"),
    "learn": (OURS, "regressor", "test"),
    "refine": (OURS, "regressor + refinement", "test"),
    "no iteration, round": (COMPARISONS, "regressor, no iteration", "test"),
    "full 3D supervision, round": (COMPARISONS, "regressor, full 3D supervision", "test"),
    "control: own fit continued": (COMPARISONS, "control: own fit continued", "train"),
    "control: second start": (COMPARISONS, "control: second start", "train"),
}
"""Group, name and split of each stage's scores."""

MEASURES = {
    "raw": "raw",
    "bone_sum": "bone-sum",
    "true_size": "true-size",
    "aligned": "PA",
    "vertices": "PVE",
}
"""Heading of each measure, in the order of the tables."""

CURVES = tuple(name for name in MEASURES if name != "vertices")
"""Measures with a curve."""

_NEW_FITS = "registration, new fits only"

_PAPER_TABLE = {
    "full 3D supervision: HMR": 87.97,
    "full 3D supervision: HoloPose": 60.27,
    "full 3D supervision: Sun et al.": 49.6,
    "semi 3D supervision: Rhodin et al.": 131.7,
    "external 3D data: HMR (unpaired)": 106.84,
    "no 3D: Kudo et al.": 173.2,
    "no 3D: the paper, MoSh correspondences": 96.99,
    "no 3D: the paper, DensePose predictions": 115.3,
}
"""MPJPE in mm as Table 1 prints it."""


@dataclass(frozen=True)
class ResultRow:
    """One line of the results table; errors in millimetres, None where not measured."""

    group: str
    method: str
    split: str
    round: int = 0
    """0: not of a round."""
    raw: float | None = None
    bone_sum: float | None = None
    true_size: float | None = None
    aligned: float | None = None
    vertices: float | None = None
    people: int | None = None
    printed: float | None = None
    """MPJPE as the paper prints it; such a row has no other number."""

    @property
    def name(self) -> str:
        """Method and round."""
        return _named(self.method, self.round)

    @property
    def errors(self) -> list[float | None]:
        """The measured errors in the table's order."""
        return [getattr(self, name) for name in MEASURES]


def _named(method: str, round_: int) -> str:
    once = round_ == 0 or method == _STAGES["refine"][1]
    return method if once else f"{method}, round {round_}"


def results_table(records: Records) -> list[ResultRow]:
    """Ours by round, references and controls, the paper's rows; a stage without scores has no row."""
    rows: list[ResultRow] = []

    def add(kind: tuple[str, str, str], round_: int, scores: dict[str, Any] | None) -> None:
        if scores is not None:
            numbers: dict[str, Any] = {name: scores.get(name) for name in (*MEASURES, "people")}
            rows.append(ResultRow(*kind, round_, **numbers))

    for stage, kind in _STAGES.items():
        for record in records:
            if record["stage"] == stage:
                add(kind, record["round"], record.get("scores"))
    for record in records:
        if record["stage"] == "references":
            add((COMPARISONS, "mean training pose", "test"), 0, record.get("mean_pose"))
            add((COMPARISONS, "lifter alone (Kudo et al.)", "test"), 0, record.get("lifter_only"))
        add((COMPARISONS, _NEW_FITS, "train"), record["round"], record.get("alone"))
    rows += [ResultRow(PUBLISHED, name, "test", printed=mm) for name, mm in _PAPER_TABLE.items()]
    return rows


@dataclass(frozen=True)
class ImageRow:
    """One line of the table of 2D errors, as `image_scores.ImageScores` has them."""

    method: str
    round: int
    split: str
    keypoints: float | None
    found: float | None
    points: float | None
    people: int

    @property
    def name(self) -> str:
        """Method and round."""
        return _named(self.method, self.round)


def image_table(records: Records) -> list[ImageRow]:
    """How far every stage is from the labels in the images; older runs did not measure it."""
    return [
        ImageRow(method, record["round"], split, **record["image"])
        for stage, (_, method, split) in _STAGES.items()
        for record in records
        if record["stage"] == stage and "image" in record
    ]


def has_measured(records: Records) -> bool:
    """Whether anything but the paper's own numbers can be said of a run."""
    return any(record["stage"] in ("references", *_STAGES) for record in records)


def in_millimetres(rows: Sequence[ResultRow]) -> bool:
    """Whether any of the rows is of this run: one without 3D truth has only the paper's."""
    return any(row.group != PUBLISHED for row in rows)


def print_results(console: Console, records: Records) -> None:
    """Print what a run has measured: in millimetres where there is a truth, and in the image."""
    rows = results_table(records)
    if in_millimetres(rows):
        _print_millimetres(console, rows)
    else:
        console.print("No 3D truth to measure an error in mm by.")
    _print_image(console, image_table(records))


def _of_methods(title: str, caption: str, measures: Iterable[str]) -> Table:
    """An empty table: a line for each method and split, a column for each measure and for the people."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
    )
    table.add_column("method", overflow="fold")
    table.add_column("split")
    for heading in (*measures, "people"):
        table.add_column(heading, justify="right")
    return table


def _print_image(console: Console, rows: Sequence[ImageRow]) -> None:
    if not rows:
        return
    table = _of_methods(
        "Distance from the labels in the image, % of the crop's side",
        "registration and refinement see these labels; the regressor sees pixels alone",
        ("key points", "PCK@0.05", "dense points"),
    )
    for row in rows:
        numbers = (row.keypoints, row.found, row.points)
        cells = ["" if one is None else f"{one:.2f}" for one in numbers]
        table.add_row(row.name, row.split, *cells, str(row.people))
    console.print(table)


def _print_millimetres(console: Console, rows: Sequence[ResultRow]) -> None:
    from rich.text import Text

    caption = "* as the paper prints it: other data, not comparable"
    table = _of_methods("MPJPE and PVE, mm", caption, MEASURES.values())
    for group in (OURS, COMPARISONS, PUBLISHED):
        members = [row for row in rows if row.group == group]
        table.add_section()
        if members:
            table.add_row(Text(group, style="bold"))
        for row in members:
            cells = [millimetres(error) for error in row.errors]
            if row.printed is not None:
                cells[0] = f"{row.printed:g}*"
            people = "" if row.people is None else str(row.people)
            table.add_row(Text(row.name), row.split, *cells, people)
    console.print(table)


def millimetres(error: float | None) -> str:
    """An error in a table; nothing where it was not measured."""
    return "" if error is None else f"{error:.1f}"


def print_actions(console: Console, records: Records) -> None:
    """Print the last regressor's errors by action; nothing where there is no truth."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    learned = [r for r in records if r["stage"] == "learn" and r.get("scores")]
    if not learned:
        return
    table = Table(
        "action", title="The last regressor by action, mm", title_justify="left", box=SIMPLE_HEAD
    )
    for heading in (*(MEASURES[name] for name in CURVES), "people"):
        table.add_column(heading, justify="right")
    for action, means in learned[-1]["scores"]["by_action"].items():
        numbers = [f"{means[name]:.1f}" for name in CURVES]
        table.add_row(action or "(none)", *numbers, str(means["people"]))
    console.print(table)


def curve(records: Records, measure: str = "raw") -> list[Line]:
    """What Fig. 2 shows of a run: MPJPE by round, and levels for what belongs to no round.

    `measure` is one of `CURVES`.
    """
    lines: dict[str, Line] = {}
    for row in results_table(records):
        error = getattr(row, measure)
        if error is not None and math.isfinite(error) and row.method != _NEW_FITS:
            line = Line(row.method, row.split, {}, row.group == OURS)
            lines.setdefault(row.method, line).by_round[row.round] = error
    return list(lines.values())
