"""A run to read: its results beside the paper's, and one page that shows all of it, finished or not.

The page is a single file that fetches nothing: styles, charts and pictures are in it. Truth is read
here for the errors of single people, as in evaluation, and goes nowhere else.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deformlearn.body import BodyTemplate
from deformlearn.config import PAPER
from deformlearn.curve import Line, curve_png, curve_svg
from deformlearn.data.shards import splits
from deformlearn.errors import InputError
from deformlearn.evaluation import ProtocolCard, canonical_mm
from deformlearn.files import AnyPath, write_atomically
from deformlearn.pictures import jpeg_uri
from deformlearn.portraits import (
    TEST_PANELS,
    TRAIN_PANELS,
    Source,
    fitted_people,
    predicted_people,
    strips_png,
)
from deformlearn.rundir import RunFolder, read_config

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

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
        once = self.round == 0 or self.method == _STAGES["refine"][1]
        return self.method if once else f"{self.method}, round {self.round}"

    @property
    def errors(self) -> list[float | None]:
        """The measured errors in the table's order."""
        return [self.raw, self.bone_sum, self.true_size, self.aligned, self.vertices]


def results_table(records: Records) -> list[ResultRow]:
    """Ours by round, references and controls, the paper's rows; a stage without scores has no row."""
    rows: list[ResultRow] = []

    def add(kind: tuple[str, str, str], round_: int, scores: dict[str, Any] | None) -> None:
        if scores is not None:
            numbers = {key: value for key, value in scores.items() if key != "by_action"}
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


def print_results(console: Console, records: Records) -> None:
    """Print the results table on a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="MPJPE and PVE, mm",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
    )
    table.caption = "* as the paper prints it: other data, not comparable"
    table.add_column("method", overflow="fold")
    table.add_column("split")
    for heading in ("raw", "bone-sum", "true-size", "PA", "PVE", "people"):
        table.add_column(heading, justify="right")
    rows = results_table(records)
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
    headings = {"raw": "raw", "bone_sum": "bone-sum", "true_size": "true-size", "aligned": "PA"}
    table = Table(
        "action", title="The last regressor by action, mm", title_justify="left", box=SIMPLE_HEAD
    )
    for heading in (*headings.values(), "people"):
        table.add_column(heading, justify="right")
    for action, means in learned[-1]["scores"]["by_action"].items():
        numbers = [f"{means[name]:.1f}" for name in headings]
        table.add_row(action or "(none)", *numbers, str(means["people"]))
    console.print(table)


def curve(records: Records) -> list[Line]:
    """What Fig. 2 shows of a run: raw MPJPE by round, and levels for what belongs to no round."""
    lines: dict[str, Line] = {}
    for row in results_table(records):
        if row.raw is not None and math.isfinite(row.raw) and row.method != _NEW_FITS:
            line = Line(row.method, row.split, {}, row.group == OURS)
            lines.setdefault(row.method, line).by_round[row.round] = row.raw
    return list(lines.values())


def write_figure_curve(path: Path, run: Path) -> None:
    """Save a run's Fig. 2 as PNG; a run without any error in mm is an InputError."""
    read_config(run)
    write_atomically(path, curve_png(curve(RunFolder(run).records())))


def write_figure_strip(
    path: Path, run: Path, template: BodyTemplate, *, data: AnyPath | None = None
) -> None:
    """Save a run's Fig. 1 as PNG: a good, a median and the worst test person, before and after."""
    portraits = predicted_people(Source.open(run, template, data), each=1)
    columns = len(portraits[0].panels) if portraits else 0
    write_atomically(path, strips_png(portraits, TEST_PANELS[:columns]))


def write_report(run: Path, template: BodyTemplate, *, data: AnyPath | None = None) -> Path:
    """Write RUN/report.html, and return its path; what an unfinished run lacks is named on the page.

    `data` is the data set, where it is no longer at the place that the run recorded. A folder that is
    not a run is an InputError.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = Source.open(run, template, data)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"mm": millimetres, "time": _duration, "jpeg": jpeg_uri}
    text = (resources.files("deformlearn") / "assets" / "report.html").read_text("utf-8")
    lines = curve(source.records)
    # Only our own words are in the charts: nothing in them needs escaping.
    charts = [Markup(curve_svg(lines, wide=wide)) for wide in (True, False)] if lines else []
    page = environment.from_string(text).render(charts=charts, **_contents(source))
    write_atomically(run / "report.html", page.encode())
    return run / "report.html"


def _contents(source: Source) -> dict[str, Any]:
    """Everything the page's template shows."""
    rows = results_table(source.records)
    rounds = range(1, source.config["rounds"] + 1)
    people = _attempt(source, predicted_people), _attempt(source, fitted_people)
    fits = _attempt(source, _last_flags)
    data = source.info.get("description") or source.data.name
    card = ProtocolCard(data, canonical_mm=canonical_mm(source.template))
    last = (source.record(stage, source.last(stage)) for stage in ("learn", "refine", "register"))
    return {
        "source": source,
        "name": source.run.resolve().name,
        "rounds": [(r, source.record("register", r), source.record("learn", r)) for r in rounds],
        "groups": [
            (g, [row for row in rows if row.group == g]) for g in (OURS, COMPARISONS, PUBLISHED)
        ],
        "rows": {
            method: [r for r in rows if r.method == method] for method in {r.method for r in rows}
        },
        "tested": people[0],
        "fitted": people[1],
        "test_panels": TEST_PANELS,
        "train_panels": TRAIN_PANELS,
        "actions": [(record.get("scores") or {}).get("by_action", {}) for record in last],
        "fit_count": len(fits),
        "flags": Counter(part for flag in fits for part in flag.split("; ")).most_common(),
        "protocol": [line.partition(": ")[::2] for line in card.lines()],
        "settings": _settings(source.config),
        "versions": _versions(source.run),
        "missing": [*_unfinished(source), *source.missing],
    }


def _attempt(source: Source, look: Callable[[Source], list[T]]) -> list[T]:
    """What `look` finds, or nothing and a line on the page that says why."""
    try:
        return look(source)
    except InputError as error:
        line = f"Not shown: {error}."
        if line not in source.missing:
            source.missing.append(line)
        return []


def _last_flags(source: Source) -> list[str]:
    """What is doubtful about each fit of the last registration."""
    fits = source.estimates(source.last("register"), "estimates.parquet")
    return [] if fits is None else list(fits.flags)


def _unfinished(source: Source) -> list[str]:
    """What this run has not done, or cannot do with its data, in sentences."""
    lines = [] if source.record("lifter") else ["The lifter is not trained yet."]
    rounds = source.config["rounds"]
    found = splits(source.data)
    for round_ in range(1, rounds + 1):
        if not source.record("register", round_):
            lines.append(f"Round {round_} of {rounds} is not registered yet.")
            break
        if not source.record("learn", round_):
            lines.append(f"The regressor of round {round_} of {rounds} is not trained yet.")
            break
    else:
        if not source.record("refine", rounds) and "test" in found:
            lines.append("The test predictions are not refined yet.")
    if found and "test" not in found:
        lines.append("The data set has no test split: no error is measured on unseen people.")
    if found and not any((source.data / "truth").glob("*.parquet")):
        lines.append(
            "The data set has no 3D truth: no error can be given in mm, and people are ranked by how "
            "far their body is from the image's own 2D labels."
        )
    return lines


def _settings(config: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, this run's value and the paper preset's value of every number a user may turn."""
    paper = _flat(json.loads(json.dumps(asdict(PAPER))))
    return [(name, value, paper.get(name)) for name, value in _flat(config).items()]


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            _flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
        )
    return flat


def _versions(run: Path) -> dict[str, str]:
    """The recorded software and hardware; empty where the file is gone or damaged."""
    try:
        return json.loads((run / "versions.json").read_text())
    except (OSError, ValueError):
        return {}


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{seconds:.1f} s" if seconds < 120 else f"{minutes} min"
