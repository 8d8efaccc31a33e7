"""A page's section about the people of a split: distributions, pictures, and a table to sort.

Whatever the number of people, a section stays small: charts are made of quantiles, pictures are of a few
and are counted in bytes, and of very many people the table holds some, and says which.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from deformlearn.evaluation import PROTOCOL_JOINTS
from deformlearn.pictures import jpeg_uri
from deformlearn.portraits import BEST, RANDOM, WORST, Portrait
from deformlearn.reports.people import Measured
from deformlearn.reports.strips import Chart, action_charts, joint_charts
from deformlearn.skeleton import joint_set

TABLE = 4000
"""People in a table; of more there are the first ones, and a quarter is drawn at random."""
PICTURES, ROWS = 3_600_000, 1_000_000
"""Bytes of pictures and of the table in a section: three of them are under 15 MB."""
UNKNOWN, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_NAME = 120
"""Letters of a name that are shown."""
_FIRST = 25
"""Rows that stand in the page itself, for print and for readers without scripts."""


@dataclass(frozen=True)
class Panel:
    """One picture."""

    uri: str
    caption: str
    in_front: bool
    """Shown in the gallery; all are shown when it is opened."""


@dataclass(frozen=True)
class Card:
    """One person in the gallery."""

    id: str
    kind: str
    name: str
    action: str
    facts: tuple[str, ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Column:
    """A column of the table of people."""

    measure: str
    """What it says of a person; neighbours with the same measure are told in one line."""
    values: Sequence[str] | Float[np.ndarray, "people"]
    """One a person; numbers that are not known are NaN."""
    digits: int | None = None
    """Decimals of a number; None: text."""
    unit: str = ""
    stage: str = ""
    """Which of several stages it is of."""
    signed: bool = False
    """A difference: shown with its sign."""
    help: str = ""
    """What it means, where the title does not say."""

    @property
    def title(self) -> str:
        """Its heading in the table."""
        return f"{self.measure}, {self.stage or self.unit}".removesuffix(", ")

    def value(self, row: int) -> str | float | None:
        """As the page holds it; None is unknown."""
        value = self.values[row]
        if isinstance(value, str):
            return value if len(value) <= _NAME else f"{value[:_NAME]}…"
        return round(float(value), self.digits) if math.isfinite(value) else None

    def text(self, value: str | float | None) -> str:
        """As a reader sees it."""
        if value is None:
            return UNKNOWN
        if self.digits is None:
            return str(value)
        number = f"{value:{'+' if self.signed else ''}.{self.digits}f}"
        return number.replace("-", MINUS)


@dataclass(frozen=True)
class Table:
    """People in rows, the first to look at first."""

    columns: tuple[Column, ...]
    rows: Int[np.ndarray, "rows"]
    people: int
    """Everyone, in the table or not."""
    cards: dict[int, str]
    """Card of a row, where there is one."""
    sorted_by: int
    """Column by which the rows are in order, falling."""

    @property
    def first(self) -> list[list[str]]:
        """The rows that stand in the page itself."""
        return [
            [column.text(column.value(row)) for column in self.columns]
            for row in self.rows[:_FIRST].tolist()
        ]

    def data(self) -> str:
        """Everything for the page's script, as json that may stand between its tags."""
        kinds = [{"title": c.title, "digits": c.digits, "signed": c.signed} for c in self.columns]
        rows = [[column.value(row) for column in self.columns] for row in self.rows.tolist()]
        cards = [self.cards.get(row) for row in self.rows.tolist()]
        value = {"columns": kinds, "rows": rows, "cards": cards, "sorted": self.sorted_by}
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        # Neither a tag's end nor a comment's begin may stand in a script element.
        return (
            text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        )


@dataclass(frozen=True)
class Gallery:
    """People in pictures."""

    pictures: Sequence[Portrait]
    headings: dict[str, str]
    """What each kind of person is called, in the order of the page."""
    front: tuple[str, ...]
    """Captions of the pictures that are seen before a person is opened: two."""


@dataclass(frozen=True)
class Section:
    """All that a page says of the people of a split."""

    id: str
    stages: tuple[str, ...]
    """Names of what is compared, in the colours' order."""
    joints: list[Chart]
    actions: list[Chart]
    groups: list[tuple[str, list[Card]]]
    """Cards by kind, in words."""
    unpictured: int
    """Chosen people whose pictures would have made the page too large."""
    table: Table


def section(
    id_: str,
    names: Sequence[str],
    stages: Sequence[Measured],
    columns: Sequence[Column],
    sorted_by: int,
    gallery: Gallery,
) -> Section:
    """Put a section together; the table begins with the largest of the column `sorted_by`."""
    ranking = columns[sorted_by]
    known = ranking.digits is not None
    order = np.asarray(ranking.values) if known else np.zeros(len(stages[0]))
    cards, unpictured = _cards(id_, stages, columns, gallery)
    chosen = {picture.row: card.id for picture, card in zip(gallery.pictures, cards, strict=False)}
    kinds = {kind: [card for card in cards if card.kind == kind] for kind in gallery.headings}
    groups = [(gallery.headings[kind], members) for kind, members in kinds.items() if members]
    most = TABLE
    while True:
        rows = rows_shown(order, list(chosen), most)
        table = Table(tuple(columns), rows, len(order), chosen, sorted_by)
        size = len(table.data().encode())
        if size <= ROWS:
            break
        most = int(0.9 * len(rows) * ROWS / size)  # long names
    return Section(
        id_, tuple(names), joint_charts(stages), action_charts(stages), groups, unpictured, table
    )


HEADINGS = {WORST: "The worst", BEST: "The best", RANDOM: "Drawn at random"}


def rows_shown(
    order: Float[np.ndarray, "people"], always: Sequence[int], most: int
) -> Int[np.ndarray, "rows"]:
    """Rows of a table, larger first and the unknown last: all, or the first and some at random."""
    falling = np.argsort(np.where(np.isfinite(order), -order, np.inf), kind="stable")
    if len(falling) <= most:
        return falling
    first = falling[: most - most // 4]
    rest = np.random.default_rng(0).permutation(falling[len(first) :])[: most // 4]
    kept = np.zeros(len(order), bool)
    kept[first] = kept[rest] = kept[list(always)] = True
    return falling[kept[falling]]


def columns_of(names: Sequence[str], stages: Sequence[Measured]) -> tuple[list[Column], int]:
    """What is known of each person by every stage, and the column that people are ranked by."""
    first, several = stages[0], len(stages) > 1
    columns = [Column("name", first.keys)]
    if any(first.actions):
        columns.append(Column("action", first.actions))
    ranked = len(columns)
    measures: list[tuple[str, str, int, str, Callable[[Measured], Any]]] = [
        ("raw", "mm", 1, "MPJPE, relative to the pelvis", lambda stage: stage.raw),
        ("PA", "mm", 1, "MPJPE after Procrustes", lambda stage: stage.aligned),
        ("2D", "px", 2, "median distance from the image's own labels", lambda stage: stage.pixels),
    ]
    for measure, unit, digits, meaning, of in measures:
        for name, stage in zip(names, stages, strict=True):
            values = of(stage)
            if np.isfinite(values).any():
                said = f"{meaning}, {unit}"
                which = name if several else ""
                columns.append(Column(measure, values, digits, unit, which, help=said))
    if first.has_truth:
        said = f"farthest from the truth, {names[0]}"
        columns.append(Column("worst joint", _worst_joints(first), help=said))
    for name, stage in zip(names, stages, strict=True):
        doubts = [_doubts(flag) for flag in stage.flags]
        if any(doubts):
            columns.append(Column("doubts", doubts, stage=name if several else ""))
    return columns, min(ranked, len(columns) - 1)


def _worst_joints(stage: Measured) -> list[str]:
    names = [name.replace("_", " ") for name in joint_set(PROTOCOL_JOINTS).names]
    known = np.isfinite(stage.raw)
    largest = np.where(known[:, None], stage.raw_joints, 0).argmax(1)
    return [names[joint] if sure else "" for joint, sure in zip(largest, known, strict=True)]


def _doubts(flag: str) -> str:
    """Reasons without their explanation; nothing where there is no doubt."""
    reasons = () if flag == "ok" else flag.split("; ")
    return "; ".join(reason.partition(":")[0] for reason in reasons)


def _facts(columns: Sequence[Column], row: int) -> tuple[str, ...]:
    """What is known of a person, a line for each measure: "raw 457.7 → 62.4 mm"."""
    lines = []
    for measure, group in groupby(columns[1:], key=lambda column: column.measure):
        several = list(group)
        texts = [column.text(column.value(row)) for column in several]
        if measure != "action" and any(text not in ("", UNKNOWN) for text in texts):
            lines.append(
                f"{measure} {' → '.join(text or 'none' for text in texts)} {several[0].unit}"
            )
    return tuple(line.strip() for line in lines)


def _cards(
    id_: str,
    stages: Sequence[Measured],
    columns: Sequence[Column],
    gallery: Gallery,
) -> tuple[list[Card], int]:
    """Cards while there is room, and how many there is no room for."""
    cards: list[Card] = []
    room = PICTURES
    for picture in gallery.pictures:
        panels = _panels(picture, gallery.front)
        room -= sum(len(panel.uri) for panel in panels)
        if room < 0:
            break
        name = str(columns[0].value(picture.row))
        action = stages[0].actions[picture.row][:_NAME]
        card = Card(
            f"{id_}-{picture.row}", picture.kind, name, action, _facts(columns, picture.row), panels
        )
        cards.append(card)
    return cards, len(gallery.pictures) - len(cards)


def _panels(picture: Portrait, front: tuple[str, ...]) -> tuple[Panel, ...]:
    """Two rows of pictures: the photo and the first body; the correspondences and the second one."""
    flat = [("photo", picture.photo), ("correspondences", picture.correspondences)]
    pictures = []
    for number, (name, views) in enumerate(picture.bodies):
        captions = (name, f"{name}, front", f"{name}, side")
        pictures += [flat[number], *zip(captions, views, strict=True)]
    pictures += flat[len(picture.bodies) :]
    return tuple(Panel(jpeg_uri(image), caption, caption in front) for caption, image in pictures)
