"""What the controls say: a person's numbers as a small table, and one line for each in the list."""

from __future__ import annotations

import html
import math

from deformlearn.viewer.people import Body, Person, Step
from deformlearn.viewer.roll import Roll

STEP_NAMES: dict[Step, str] = {
    "before": "before the fit",
    "after": "after the fit",
    "network": "network, having learned",
}

_LONGEST = 26
"""Letters of a name in the list."""


def person_card(person: Person, body: Body | None, asked: Step, flag: str) -> str:
    """Name, flag, what is on show, and how every body of the person explains the labels."""
    parts = [
        f'<div style="font-weight:700;font-size:1.05em;overflow-wrap:anywhere">'
        f"{html.escape(person.key)}</div>",
        _line(" · ".join(filter(None, (person.split, person.action)))),
    ]
    if flag:
        parts.append(_badge(flag))
    if body is not None:
        where = f"round {body.round}: " if body.round else ""
        parts.append(_line(f"shown: {where}{body.origin}", strong=True))
        if body.step != asked:
            parts.append(_line(f"(there is none {STEP_NAMES[asked]} in this round)"))
    if any(one.quality is not None for one in person.bodies):
        parts.append(_table(person, body))
    parts += [_line(note) for note in person.notes]
    return (
        f'<div style="padding:0.5em 0.9em;line-height:1.45;font-size:0.85em">{"".join(parts)}</div>'
    )


def _line(text: str, *, strong: bool = False) -> str:
    style = "" if strong else ' style="opacity:0.7"'
    return f"<div{style}>{html.escape(text)}</div>" if text else ""


def _badge(flag: str) -> str:
    good = flag == "ok"
    colour, text = ("#2f9e57", "fit ok") if good else ("#d9480f", flag)
    return (
        f'<div style="display:inline-block;background:{colour};color:#fff;border-radius:0.5em;'
        f'padding:0 0.6em;margin:0.2em 0">{html.escape(text)}</div>'
    )


def _table(person: Person, shown: Body | None) -> str:
    """A row a round, a column a step: median reprojection error, and the share that faces the camera."""
    steps = [step for step in STEP_NAMES if any(b.step == step for b in person.bodies)]
    head = "".join(
        f"<th>{html.escape(STEP_NAMES[step].split()[0].rstrip(','))}</th>" for step in steps
    )
    rows = []
    for round_ in sorted({body.round for body in person.bodies}):
        cells = (_cell(person.body(round_, step), shown) for step in steps)
        rows.append(f"<tr><td>{round_ or ''}</td>{''.join(cells)}</tr>")
    return (
        '<table style="width:100%;text-align:right;margin-top:0.4em;font-variant-numeric:tabular-nums">'
        f'<tr style="opacity:0.7"><th style="text-align:left">round</th>{head}</tr>'
        f"{''.join(rows)}</table>"
        + _line("median reprojection error in px of the photograph; (share facing the camera)")
    )


def _cell(body: Body | None, shown: Body | None) -> str:
    if body is None or body.quality is None:
        return "<td></td>"
    error, facing = (getattr(body.quality, n)[0].item() for n in ("reprojection_px", "facing"))
    here = shown is not None and (body.round, body.step) == (shown.round, shown.step)
    style = "font-weight:700;text-decoration:underline;" if here else ""
    warn = "color:#d9480f;" if facing < 0.5 else ""
    number = "-" if math.isnan(error) else f"{error:.2f}"
    return (
        f'<td style="{style}{warn}">{number} <span style="opacity:0.6;font-weight:400">'
        f"({facing:.2f})</span></td>"
    )


def row_label(roll: Roll, number: int) -> str:
    """One line of the list."""
    key, error = roll.key(number), float(roll.error[number])
    short = key if len(key) <= _LONGEST else f"…{key[-_LONGEST + 1 :]}"
    return short if math.isnan(error) else f"{short}    {error:.1f} %"


def count_line(first: int, last: int, count: int, *, measured: bool) -> str:
    """Where in the list the page is, and what the numbers there are."""
    text = f"{first + 1:,} to {last:,} of {count:,}" if count else "nobody: change the filters"
    unit = "; error in % of half the crop" if measured and count else ""
    return f'<div style="padding:0.1em 0.9em;font-size:0.85em;opacity:0.75">{text}{unit}</div>'
