"""The annotations on disk: a journal for each image, our data set, and DensePose's json.

DATA/annotate.json               what the folder is: template, joints, charts
DATA/journal/<image>.json        everything set on one image; editing goes on from here
DATA/dataset.json, observations/ our data set (docs/data_format.md)
DATA/densepose.json              the same people as DensePose-COCO writes them

The journals are the truth; the other files are made from them. Each file is written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deformlearn.annotate.labels import (
    ChartLabels,
    category,
    densepose_annotation,
    is_enough,
    observed_row,
)
from deformlearn.annotate.marks import Bounds, ImageMarks, marks_of
from deformlearn.annotate.photos import Photo
from deformlearn.body import BodyTemplate
from deformlearn.data.shards import DatasetInfo, Row, table_of, write_info, write_rows
from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.skeleton import joint_set

FORMAT = 1
"""Version of annotate.json and of the journals."""

_SPLIT = "train"


@dataclass(frozen=True)
class _Made:
    """What one image adds to the files of all."""

    rows: list[Row]
    annotations: list[dict[str, Any]]
    """Without their ids."""


class Archive:
    """A folder of annotations, and what is in it."""

    def __init__(
        self, folder: Path, template: BodyTemplate, joints: str, labels: ChartLabels
    ) -> None:
        self.folder = folder
        self._labels = labels
        self._joints = joint_set(joints)
        self._faces = len(template.faces)
        self.info = DatasetInfo(
            template.name,
            template.fingerprint,
            joints,
            description="annotated by hand with deformlearn annotate",
        )
        self._about = {
            "format": FORMAT,
            "template": template.name,
            "fingerprint": template.fingerprint,
            "joints": joints,
        }
        self._made: dict[str, _Made] = {}

    def open(self, photos: Sequence[Photo]) -> dict[str, ImageMarks]:
        """The marks of every image annotated so far; makes the folder where it is not there.

        A folder with other data, of another template or joint set, with a broken journal or with the
        journal of an image that is not among `photos` is an InputError and is left as it is.
        """
        self.claim()
        known = {self._journal(photo.name): photo for photo in photos}
        marks: dict[str, ImageMarks] = {}
        for path in sorted((self.folder / "journal").rglob("*.json")):
            if path not in known:
                raise InputError(
                    f"{path} belongs to an image that is not among the {len(photos)} given; "
                    f"put the image back, or move this file away to go on without it"
                )
            photo = known[path]
            marks[photo.name] = self._read(path, photo)
            self._made[photo.name] = self._make(photo, marks[photo.name])
        write_atomically(self.folder / "annotate.json", _as_bytes(self._about))
        write_info(self.folder, self.info)
        self._write_all(photos, self._made)
        return marks

    def bounds(self, photo: Photo) -> Bounds:
        """What the marks of an image may name."""
        return Bounds(photo.width, photo.height, self._faces, len(self._joints))

    def save(self, photos: Sequence[Photo], photo: Photo, marks: ImageMarks) -> None:
        """Write the journal of an image, then everything made from the journals."""
        journal = {
            "format": FORMAT,
            "image": photo.name,
            "width": photo.width,
            "height": photo.height,
            "marks": marks.as_json(),
        }
        made = {**self._made, photo.name: self._make(photo, marks)}
        write_atomically(self._journal(photo.name), _as_bytes(journal))
        self._write_all(photos, made)
        self._made = made

    def claim(self) -> None:
        """Refuse a folder that holds anything else."""
        path = self.folder / "annotate.json"
        if path.is_file():
            about = _read_json(path)
            different = [name for name, value in self._about.items() if about.get(name) != value]
            if different:
                name = different[0]
                raise InputError(
                    f"{self.folder} was annotated with {name} {about.get(name)!r}, not "
                    f"{self._about[name]!r}; give the same --template and --joints, or another --out"
                )
        elif self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; give a folder for the annotations")
        elif self.folder.is_dir() and any(entry.name[0] != "." for entry in self.folder.iterdir()):
            raise InputError(
                f"{self.folder} holds other files and no annotate.json; nothing is written into "
                f"it: give an empty or new folder as --out"
            )

    def _journal(self, name: str) -> Path:
        return self.folder / "journal" / f"{name}.json"

    def _read(self, path: Path, photo: Photo) -> ImageMarks:
        try:
            journal = _read_json(path)
            if journal.get("format") != FORMAT:
                raise InputError(f"its format is {journal.get('format')!r}, not {FORMAT}")
            size = journal.get("width"), journal.get("height")
            if size != (photo.width, photo.height):
                raise InputError(
                    f"it was made on an image of {size[0]}x{size[1]} pixels and {photo.name} now "
                    f"has {photo.width}x{photo.height}"
                )
            return marks_of(journal.get("marks"), self.bounds(photo))
        except InputError as error:
            raise InputError(
                f"{path} cannot be gone on from: {error}; restore it, or move it away to "
                f"annotate its image anew"
            ) from error

    def _make(self, photo: Photo, marks: ImageMarks) -> _Made:
        rows, annotations = [], []
        for person in marks.people:
            if is_enough(person):
                key = f"{photo.key}-{person.number}"
                rows.append(observed_row(key, self._stored_path(photo), person))
            if person.pixels:
                size = (photo.width, photo.height)
                annotations.append(densepose_annotation(person, size, self._labels))
        # A journal whose rows no file can hold would stop every later start: better no journal.
        table_of(rows)
        return _Made(rows, annotations)

    def _stored_path(self, photo: Photo) -> str:
        """Relative where the image lies in the data set, so that both can move together."""
        path, folder = photo.path.absolute(), self.folder.absolute()
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    def _write_all(self, photos: Sequence[Photo], made: Mapping[str, _Made]) -> None:
        ordered = [(photo, made[photo.name]) for photo in photos if photo.name in made]
        rows = [row for _, one in ordered for row in one.rows]
        if rows:
            write_rows(self.folder, _SPLIT, 0, rows)
        else:
            # A shard without a row would be refused by every command.
            (self.folder / "observations" / f"{_SPLIT}-00000.parquet").unlink(missing_ok=True)
        write_atomically(self.folder / "densepose.json", self._densepose(ordered))

    def _densepose(self, made: Sequence[tuple[Photo, _Made]]) -> bytes:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, (photo, one) in enumerate(made, 1):
            images.append(
                {
                    "id": number,
                    "file_name": photo.name,
                    "width": photo.width,
                    "height": photo.height,
                }
            )
            for annotation in one.annotations:
                identity = {"id": len(annotations) + 1, "image_id": number}
                annotations.append(identity | annotation)
        content = {
            "info": {
                "description": "annotated by hand with deformlearn annotate",
                "charts": self._labels.description,
                "pixels": "dp_x, dp_y: 256ths of bbox, continuous (0, 0 is the corner of the first "
                "pixel); keypoints: index of the pixel, as COCO's; pixels as stored in the file",
            },
            "images": images,
            "annotations": annotations,
            "categories": [category(self._joints)],
        }
        return json.dumps(content, allow_nan=False).encode()


def _read_json(path: Path) -> Mapping[str, Any]:
    """A json object, or an InputError that says what is there instead."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not json ({str(error)[:80]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a json object")
    return content


def _as_bytes(content: Any) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode()
