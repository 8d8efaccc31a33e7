"""The page of a run, finished or not, and the page of two runs side by side.

A page is a single file that fetches nothing: style, script, charts and pictures are in it. Truth is read
here for the errors of single people, as in evaluation, and goes nowhere else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from deformlearn.body import BodyTemplate
from deformlearn.config import PAPER
from deformlearn.curve import Line, curve_png, curve_svg
from deformlearn.errors import InputError
from deformlearn.evaluation import ProtocolCard, canonical_mm
from deformlearn.files import AnyPath, write_atomically
from deformlearn.portraits import SHOWN, Portrait, Stage, choose, portraits
from deformlearn.reports.page import rendered
from deformlearn.reports.pair import SHOWN as PAIRED
from deformlearn.reports.pair import Change, Pair, change, differences_of, measures_of, pair_columns
from deformlearn.reports.people import Measured, measure, shared
from deformlearn.reports.sections import HEADINGS, Gallery, Section, columns_of, section
from deformlearn.reports.settings import compared, versions
from deformlearn.reports.source import Source
from deformlearn.reports.tables import (
    COMPARISONS,
    CURVES,
    MEASURES,
    OURS,
    PUBLISHED,
    curve,
    has_measured,
    image_table,
    in_millimetres,
    millimetres,
    print_actions,
    print_results,
    results_table,
)
from deformlearn.rundir import RunFolder, read_config

__all__ = [
    "has_measured",
    "in_millimetres",
    "millimetres",
    "print_actions",
    "print_results",
    "results_table",
    "write_comparison",
    "write_figure_curve",
    "write_report",
]

_PREDICTED, _REFINED, _FITTED = "prediction", "refined", "fit"
_BOTH = "The same people in both runs. A line of the table, or a picture, is one of them."


def write_figure_curve(path: Path, run: Path) -> None:
    """Save a run's Fig. 2 as PNG; a run without any error in mm is an InputError."""
    read_config(run)
    write_atomically(path, curve_png(curve(RunFolder(run).records())))


def write_report(
    run: Path, template: BodyTemplate, *, data: AnyPath | None = None, out: Path | None = None
) -> Path:
    """Write the page of a run to `out` (RUN/report.html), and return where it is.

    What an unfinished run lacks is named on the page. `data` is the data set, where it is no longer at
    the place that the run recorded. A folder that is not a run is an InputError.
    """
    source = Source.open(run, template, data)
    target = out or run / "report.html"
    write_atomically(target, rendered("run.html", **_contents(source)))
    return target


def write_comparison(
    first: Path,
    second: Path,
    template: BodyTemplate,
    *,
    data: AnyPath | None = None,
    out: Path | None = None,
) -> Path:
    """Write the page of two runs side by side to `out` (FIRST/with-SECOND.html); return where it is.

    `data` is the data set of both, where it has moved. Runs that cannot be compared, for their protocols
    or their people differ, are an InputError.
    """
    pair = Pair.open(first, second, template, data)
    target = out or first / f"with-{second.resolve().name}.html"
    write_atomically(target, rendered("pair.html", **_both(pair)))
    return target


def _contents(source: Source) -> dict[str, Any]:
    """Everything the page's template shows."""
    rows = results_table(source.records)
    rounds = range(1, source.config["rounds"] + 1)
    flags: list[str] = []
    tested = _tested(source)
    fitted = _fitted(source, flags)
    card = ProtocolCard(source.described, canonical_mm=canonical_mm(source.template))
    last = (source.record(stage, source.last(stage)) for stage in ("learn", "refine", "register"))
    reasons = Counter(part for flag in flags for part in flag.split("; "))
    return {
        "source": source,
        "rounds": [(r, source.record("register", r), source.record("learn", r)) for r in rounds],
        "groups": [
            (g, [row for row in rows if row.group == g]) for g in (OURS, COMPARISONS, PUBLISHED)
        ],
        "rows": {
            method: [r for r in rows if r.method == method] for method in {r.method for r in rows}
        },
        "image": image_table(source.records),
        "curves": _curves(lambda name: curve(source.records, name)),
        "tested": tested,
        "fitted": fitted,
        "actions": [(record.get("scores") or {}).get("by_action", {}) for record in last],
        "fit_count": len(flags),
        "flags": reasons.most_common(12),
        "protocol": [line.partition(": ")[::2] for line in card.lines()],
        "settings": compared(source.config, json.loads(json.dumps(asdict(PAPER)))),
        "versions": versions(source.run),
        "missing": source.notes(),
    }


def _both(pair: Pair) -> dict[str, Any]:
    """Everything the page of two runs shows."""
    sections, changes = [], []
    ledes = {
        "prediction": ("Test people, from their photographs alone", "test"),
        "refined": ("Test people, refined", "refined"),
        "fit": ("Training fits", "train"),
    }
    for split in pair.splits:
        for name, *files in pair.files(split):
            title, id_ = ledes[name]
            found = _compared(pair, split, id_, files)
            if found is not None:
                sections.append((found[0], title, _BOTH))
                changes += [replace(found[1], stage=title)] if found[1] else []
    canonical = canonical_mm(pair.first.template)
    card = ProtocolCard(pair.first.described, canonical_mm=canonical)
    return {
        "pair": pair,
        "sections": sections,
        "changes": changes,
        "curves": _curves(pair.curves),
        "results": measures_of(pair.differences()),
        "settings": pair.settings(),
        "protocol": [line.partition(": ")[::2] for line in card.lines()],
        "missing": [*pair.first.missing, *pair.second.missing],
    }


def _compared(
    pair: Pair, split: str, id_: str, files: Sequence[Path]
) -> tuple[Section, Change | None] | None:
    """The people of a split in both runs; None where they cannot be read, and the page says why."""
    try:
        runs = zip((pair.first, pair.second), files, strict=True)
        both = shared(*(measure(run, split, path) for run, path in runs))
    except InputError as error:
        pair.first.say(f"Not shown: {error}.")
        return None
    if not len(both[0]):
        pair.first.say(f"No {split} person has the same name in both runs.")
        return None
    columns = pair_columns(pair.names, *both)
    chosen = choose(differences_of(*both), PAIRED)
    stages = [Stage(name, path) for name, path in zip(pair.names, files, strict=True)]
    pictures = _pictures(pair.first, split, stages, both[0], chosen)
    gallery = Gallery(pictures, pair.headings(), pair.names)
    found = section(id_, pair.names, both, columns, len(columns) - 1, gallery)
    return found, change(split, *both)


def _curves(lines_of: Callable[[str], list[Line]]) -> list[tuple[str, ...]]:
    """Fig. 2 by every measure that has one: its name, a wide chart and a narrow one."""
    found = []
    for measure_ in CURVES:
        if lines := lines_of(measure_):
            title = MEASURES[measure_]
            charts = (curve_svg(lines, wide=wide, measure=title) for wide in (True, False))
            found.append((title, *charts))
    return found


def _tested(source: Source) -> Section | None:
    """The test people: predicted, and refined where that is done."""
    files = {_PREDICTED: source.predictions(), _REFINED: source.refined()}
    return _section(source, "test", [Stage(name, path) for name, path in files.items() if path])


def _fitted(source: Source, flags: list[str]) -> Section | None:
    """The training people as they were registered last; `flags` is given what is doubtful of each."""
    path = source.fits()
    return _section(source, "train", [Stage(_FITTED, path)] if path else [], flags)


def _section(
    source: Source, split: str, stages: list[Stage], flags: list[str] | None = None
) -> Section | None:
    """What is known of the people of a split; None where that is nothing, and the page says why."""
    measured: list[Measured] = []
    for stage in stages:
        try:
            measured.append(measure(source, split, stage.path))
        except InputError as error:
            source.say(f"Not shown: {error}.")
    if len(measured) < len(stages) or not measured:
        return None
    if flags is not None:
        flags += measured[-1].flags
    measured = shared(*measured)
    names = [stage.name for stage in stages]
    columns, ranked = columns_of(names, measured)
    chosen = choose(measured[0].ranking, SHOWN)
    pictures = _pictures(source, split, stages, measured[0], chosen)
    return section(
        split, names, measured, columns, ranked, Gallery(pictures, HEADINGS, ("photo", names[0]))
    )


def _pictures(
    source: Source,
    split: str,
    stages: Sequence[Stage],
    measured: Measured,
    chosen: Sequence[tuple[str, int]],
) -> list[Portrait]:
    """Pictures of the chosen people, or none and a line on the page that says why."""
    try:
        return portraits(source, split, stages, measured, chosen)
    except InputError as error:
        source.say(f"No pictures of {split} people: {error}.")
        return []
