"""Validate a data set: every row that cannot be used, with its reason."""

from __future__ import annotations

from rich.console import Console

from deformlearn.body import BodyTemplate
from deformlearn.data.images import load_images
from deformlearn.data.shards import read_info, read_people, splits
from deformlearn.data.soundness import Rejected
from deformlearn.data.truth import has_truth, unusable_truth
from deformlearn.errors import InputError
from deformlearn.files import AnyPath

_THUMBNAIL = 16
"""Images are decoded to this side (px): enough to find a broken one."""


def check_dataset(folder: AnyPath, template: BodyTemplate, *, console: Console) -> list[Rejected]:
    """Print what a data set holds and every bad row; returns the bad ones.

    A folder that is no data set, or one made for another template, is an InputError.
    """
    info = read_info(folder)
    found = splits(folder)
    if not found:
        raise InputError(f"{folder} has no shard in observations/; see docs/data_format.md")
    # Brackets are part of a name, not rich's markup.
    head = f"{folder}: template {info.template} ({info.fingerprint}), joints {info.joints}"
    console.print(head, markup=False)
    bad: list[Rejected] = []
    for split in found:
        rejected, people = _check_split(folder, split, template)
        console.print(f"{split}: {people} good rows, {len(rejected)} bad", markup=False)
        for one in rejected:
            console.print(f"  {one.where}: {one.reason}", soft_wrap=True, markup=False)
        bad += rejected
    return bad


def _check_split(folder: AnyPath, split: str, template: BodyTemplate) -> tuple[list[Rejected], int]:
    try:
        people = read_people(folder, split, template)
    except InputError as error:
        if "no usable row" not in str(error):
            raise
        return [Rejected(split, str(error))], 0
    rejected = list(people.rejected)
    try:
        images = load_images(folder, split, people, _THUMBNAIL)
    except InputError as error:
        return [*rejected, Rejected(split, str(error))], 0
    rejected += [Rejected(f"{split} {one.key}", one.reason) for one in images.unreadable]
    if has_truth(folder, split):
        rejected += unusable_truth(folder, split, people.keys)
    return rejected, len(images.rows)
