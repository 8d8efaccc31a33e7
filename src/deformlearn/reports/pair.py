"""Two runs side by side: whether they can be compared at all, and what of them differs.

Errors compare only under one protocol, on the same people. The protocol's canonical skeleton is the
template's, so runs of two templates are refused; people are the same where both runs recorded the same
shards. A name alone proves nothing: every synthetic data set has its own test-000000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from deformlearn.body import BodyTemplate
from deformlearn.curve import Line
from deformlearn.errors import InputError
from deformlearn.files import AnyPath
from deformlearn.portraits import BEST, RANDOM, WORST
from deformlearn.reports.people import Measured
from deformlearn.reports.sections import Column
from deformlearn.reports.settings import Setting, compared, versions
from deformlearn.reports.source import Source, recorded_shards
from deformlearn.reports.tables import MEASURES, OURS, PUBLISHED, ResultRow, curve, results_table
from deformlearn.rundir import read_config

_NAME = 24
"""Letters of a run's name in a heading."""
_SPLITS = ("test", "train")
_WHERE_IT_RUNS = ("device", "workers")
"""Settings that change no result that anyone would look for."""

SHOWN = {WORST: 6, BEST: 6, RANDOM: 6}
"""How many people have pictures: where the second run is worse by most, better by most, and others."""


@dataclass(frozen=True)
class Pair:
    """Two runs that can be compared."""

    first: Source
    second: Source
    names: tuple[str, str]
    """What they are called on the page; never the same."""
    splits: tuple[str, ...]
    """Splits with the same people in both."""

    @staticmethod
    def open(
        first: Path,
        second: Path,
        template: BodyTemplate,
        data: AnyPath | None = None,
    ) -> Pair:
        """Both runs; where nothing of them can be compared, an InputError says why.

        `data` is the data set of both, where it has moved.
        """
        if first.resolve() == second.resolve():
            raise InputError(f"{first} and {second} are the same run; give two")
        infos = [read_config(run)["data"]["template"] for run in (first, second)]
        if infos[0]["fingerprint"] != infos[1]["fingerprint"]:
            a, b = (f"{info['template']!r} ({info['fingerprint']})" for info in infos)
            raise InputError(
                f"the protocols differ: {first} was made with the template {a}, {second} with {b}, and "
                f"errors are measured against each template's own skeleton; compare runs of one template"
            )
        runs = Source.open(first, template, data), Source.open(second, template, data)
        same = tuple(split for split in _SPLITS if _same_people(*runs, split))
        if not same:
            a, b = (f"{run.run} ({run.described})" for run in runs)
            raise InputError(
                f"nothing is comparable: {a} and {b} hold other people in every split; "
                f"compare runs on one data set"
            )
        pair = Pair(*runs, _names(*runs), same)
        if not pair.differences() and not any(pair.files(split) for split in same):
            raise InputError(
                f"nothing is comparable yet: no stage is finished in both {first} and {second}; "
                f"wait for a first round of each"
            )
        for split in set(_SPLITS) - set(same):
            runs[0].say(
                f"The {split} people of the two runs are not the same: their errors are not compared."
            )
        return pair

    def files(self, split: str) -> list[tuple[str, Path, Path]]:
        """Estimates that both have of a split: what they are, and the two files."""
        a, b = self.first, self.second
        found = (
            [
                ("prediction", a.predictions(), b.predictions()),
                ("refined", a.refined(), b.refined()),
            ]
            if split == "test"
            else [("fit", a.fits(), b.fits())]
        )
        return [(name, one, other) for name, one, other in found if one and other]

    def differences(self) -> list[tuple[ResultRow, ResultRow]]:
        """Results that both runs have of the same people, as pairs."""
        rows = [
            {(r.method, r.split, r.round): r for r in results_table(run.records)}
            for run in (self.first, self.second)
        ]
        return [
            (row, rows[1][name])
            for name, row in rows[0].items()
            if name in rows[1]
            and row.group != PUBLISHED
            and row.split in self.splits
            and row.people == rows[1][name].people
        ]

    def curves(self, measure: str) -> list[Line]:
        """Fig. 2 of both runs, A and B: what is their own, of the splits that compare."""
        return [
            replace(line, name=f"{'AB'[number]}: {line.name}", run=number)
            for number, run in enumerate((self.first, self.second))
            for line in curve(run.records, measure)
            if line.ours and line.split in self.splits
        ]

    def headings(self) -> dict[str, str]:
        """What the kinds of people in `SHOWN` are called."""
        a, b = self.names
        kinds = (f"Most in favour of {a}", f"Most in favour of {b}", "Drawn at random")
        return dict(zip(SHOWN, kinds, strict=True))

    def settings(self) -> list[Setting]:
        """Every setting of both, and the software."""
        a, b = self.first, self.second
        everything = compared(a.config, b.config)
        everything += compared(versions(a.run), versions(b.run))
        everything.append(Setting("data set", str(a.data), str(b.data)))
        return [one for one in everything if one.name not in _WHERE_IT_RUNS]


def _names(first: Source, second: Source) -> tuple[str, str]:
    """The folders' names, or as much of the paths as tells them apart."""
    a, b = first.name, second.name
    if a == b:
        a, b = ("/".join(run.run.resolve().parts[-2:]) for run in (first, second))
    a, b = (name if len(name) <= _NAME else f"{name[:_NAME]}…" for name in (a, b))
    return (f"A {a}", f"B {b}") if a == b else (a, b)


def _same_people(first: Source, second: Source, split: str) -> bool:
    """Whether both runs recorded the same shards of a split, its truth's too.

    Of a run that recorded none only the place of its data set is known.
    """
    shards = [recorded_shards(run.run, split) for run in (first, second)]
    if all(one is None for one in shards):
        return str(first.data) == str(second.data)
    return bool(shards[0]) and shards[0] == shards[1]


@dataclass(frozen=True)
class Change:
    """How the error of the same people differs between two runs: second minus first."""

    stage: str
    unit: str
    people: int
    first: float
    second: float
    """Means over the people."""
    mean: float
    half: float
    """Half of the 95 % interval of the mean difference, over people; infinite for one person."""
    better: float
    """Share of the people whose error is lower in the second run."""

    @property
    def stands_out(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.mean) > self.half


def change(stage: str, first: Measured, second: Measured) -> Change | None:
    """The paired difference over people; None where nobody's error is known in both."""
    from scipy.special import stdtrit

    a, b = _error(first, second)
    known = np.isfinite(a) & np.isfinite(b)
    if not known.any():
        return None
    difference = (b - a)[known].astype(np.float64)
    count = len(difference)
    half = math.inf
    if count > 1:  # Student's t: of few people the spread itself is hardly known
        half = float(stdtrit(count - 1, 0.975) * difference.std(ddof=1)) / math.sqrt(count)
    return Change(
        stage,
        "mm" if first.has_truth else "px",
        count,
        float(a[known].mean()),
        float(b[known].mean()),
        float(difference.mean()),
        half,
        float((difference < 0).mean()),
    )


def _error(first: Measured, second: Measured) -> tuple[np.ndarray, np.ndarray]:
    """What people are ranked by, of the same kind in both."""
    if first.has_truth:
        return first.raw, second.raw
    return first.pixels, second.pixels


def differences_of(first: Measured, second: Measured) -> Float[np.ndarray, "people"]:
    """Second minus first, one a person: mm, or px without truth."""
    a, b = _error(first, second)
    return b - a


def pair_columns(names: Sequence[str], first: Measured, second: Measured) -> list[Column]:
    """What is known of each person in both runs; the last column is the difference."""
    columns = [Column("name", first.keys)]
    if any(first.actions):
        columns.append(Column("action", first.actions))
    measures: list[tuple[str, str, int, Any, Any]] = [
        ("raw", "mm", 1, first.raw, second.raw),
        ("PA", "mm", 1, first.aligned, second.aligned),
        ("2D", "px", 2, first.pixels, second.pixels),
    ]
    for measure, unit, digits, *values in measures:
        for name, numbers in zip(names, values, strict=True):
            if np.isfinite(numbers).any():
                columns.append(Column(measure, numbers, digits, unit, name))
    unit, digits = ("mm", 1) if first.has_truth else ("px", 2)
    columns.append(
        Column(
            "difference", differences_of(first, second), digits, unit, signed=True,
            help=f"{names[1]} minus {names[0]}, {'raw' if unit == 'mm' else '2D'}",
        )
    )  # fmt: skip
    return columns


def measures_of(pairs: Sequence[tuple[ResultRow, ResultRow]]) -> list[tuple[str, list[Any]]]:
    """For each measure that both know: its heading, and rows of (row, first, second, difference)."""
    found = []
    for measure, heading in MEASURES.items():
        rows = []
        for a, b in pairs:
            one, other = getattr(a, measure), getattr(b, measure)
            if one is not None and other is not None:
                rows.append((a, one, other, other - one, a.group == OURS))
        if rows:
            found.append((heading, rows))
    return found
