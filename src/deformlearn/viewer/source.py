"""What is looked at: a path, with the template, the data set and the photographs that it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from deformlearn import templates
from deformlearn.body import BodyTemplate
from deformlearn.data.shards import read_info, shards, splits
from deformlearn.data.tables import facts
from deformlearn.errors import InputError
from deformlearn.exports.photos import NewPhotos
from deformlearn.files import AnyPath, place
from deformlearn.findings import Findings, find
from deformlearn.reports.source import recorded_shards
from deformlearn.viewer.people import People
from deformlearn.viewer.roll import Roll, read_roll


@dataclass(frozen=True)
class Source:
    """What is looked at."""

    found: Findings
    template: BodyTemplate
    roll: Roll
    """Everyone; nobody of a template."""
    people: People


NOBODY = Roll([])


def open_source(
    path: str, *, data: str | None = None, images: Path | None = None, template: str | None = None
) -> Source:
    """What a path holds, with the template and the data set it needs.

    `images` holds the photographs of estimates that were made of pictures or videos, not of a data set. A
    network, another template, and whatever `findings.find` refuses are InputErrors.
    """
    found = find(path)
    if found.kind == "network":
        raise InputError(
            f"{path} is a network; give its run folder to see what it predicts, "
            f"or `deformlearn predict` it on images and give that folder"
        )
    if data is not None:
        found = _with_data(found, data)
    if found.kind == "template":
        mannequin = templates.load(template or found.template)
        return Source(found, mannequin, NOBODY, People(found, mannequin))
    body = templates.load(template or "anny")
    if found.fingerprint != body.fingerprint:
        raise InputError(
            f"{found.path} was made with the template {found.template!r} ({found.fingerprint}), "
            f"not with {body.name!r} ({body.fingerprint}); give its file with --template"
        )
    roll = read_roll(found)
    new = None if images is None else NewPhotos(images, [roll.key(n) for n in range(len(roll))])
    return Source(found, body, roll, People(found, body, new))


def _with_data(found: Findings, data: str) -> Findings:
    folder = place(data)
    info = read_info(folder)
    if found.kind in ("data", "template"):
        kind = "data set" if found.kind == "data" else found.kind
        raise InputError(f"{found.path} is a {kind}; --data is for runs and estimates")
    if info.fingerprint != found.fingerprint:
        raise InputError(
            f"{data} was made for the template {info.template!r} ({info.fingerprint}), "
            f"the estimates with {found.template!r} ({found.fingerprint}); give their own data set"
        )
    notes = [note for note in found.notes if not note.startswith("the data set ")]
    if others := _other_shards(found, folder):
        notes.append(
            f"the labels of {', '.join(others)} in {data} are not those that {found.path} began with: "
            f"whoever is shown may be somebody else of the same name"
        )
    return replace(found, data=folder, notes=tuple(notes))


def _other_shards(found: Findings, data: AnyPath) -> list[str]:
    """Splits of the data set that are not those of the run; a run that recorded none is believed."""
    assert isinstance(found.path, Path), "runs and estimates are on this machine"
    return [
        split
        for split in found.splits
        if split in splits(data)
        and (recorded := recorded_shards(found.path, split))
        and any(
            recorded.get(f"observations/{path.name}") != facts(path)
            for path in shards(data, "observations", split)
        )
    ]
