"""One self-contained page of some people, to be shared: it turns, and asks nothing of anyone.

The viewer's own export holds no controls, so this page has a small renderer of its own. All arrays are one
compressed block; vertices are whole numbers of a hundredth of a pixel or less.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

import deformlearn
from deformlearn.body import BodyTemplate
from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.viewer import drawing
from deformlearn.viewer.people import Body, Person
from deformlearn.viewer.source import Source

_WHOLE = 32767
"""Largest 16-bit number."""

_JPEG = 88

_MOST = 200
"""People on a page: some 100 MB."""


def write_page(path: Path, source: Source, numbers: Sequence[int], *, dark: bool = False) -> int:
    """Write a page of these places in the roll (of a template: of it alone); returns its bytes.

    More people than a browser can hold are an InputError.
    """
    if len(numbers) > _MOST:
        raise InputError(
            f"a page holds {_MOST} people at the most, and {len(numbers)} were chosen; "
            f"name fewer with --people"
        )
    page = page_of(sheet_of(source, numbers), dark=dark).encode()
    write_atomically(path, page)
    return len(page)


class Sheet:
    """What a page holds: one description, and the arrays it points into."""

    def __init__(self, template: BodyTemplate) -> None:
        self.template = template
        self.people: list[dict[str, Any]] = []
        self.photos: list[np.ndarray | None] = []
        self._blocks: list[bytes] = []
        self._at = 0
        self._known: dict[bytes, list[int]] = {}
        self._shapes: list[tuple[dict[str, Any], np.ndarray]] = []

    def add(self, person: Person, flag: str) -> None:
        """One more person, with every body there is."""
        bodies: list[Body | None] = list(person.bodies) or [None]
        drawn = [drawing.picture_of(self.template, person, body) for body in bodies]
        self._append(
            person.photo,
            key=person.key, split=person.split, action=person.action, flag=flag,
            notes=list(person.notes), photoDepth=drawn[0].photo_depth,
            bodies=[self._body(*one) for one in zip(bodies, drawn, strict=True)],
        )  # fmt: skip

    def add_template(self) -> None:
        """The template alone."""
        picture = drawing.template_picture(self.template)
        self._append(
            None, key=self.template.name, split="", action="", flag="", notes=[], photoDepth=0.0,
            bodies=[self._body(None, picture)],
        )  # fmt: skip

    def _append(self, photo: np.ndarray | None, **about: Any) -> None:
        self.photos.append(photo)
        self.people.append({**about, "photo": None if photo is None else self.put(_jpeg(photo))})

    def _body(self, body: Body | None, picture: drawing.Picture) -> dict[str, Any]:
        quality = None if body is None else body.quality
        about: dict[str, Any] = {
            "round": body.round if body else 0,
            "step": body.step if body else "after",
            "origin": body.origin if body else "the resting template",
            "error": None if quality is None else _finite(quality.reprojection_px[0].item()),
            "facing": None if quality is None else _finite(quality.facing[0].item()),
            "painted": picture.painted,
            "points": self._marks(picture.points),
            "keypoints": self._marks(picture.keypoints),
        }
        self._shapes.append((about, picture.vertices))
        return about

    def shape_of(self, body: dict[str, Any]) -> Float[np.ndarray, "vertices 3"]:
        """The vertices of one of the bodies."""
        return next(shape for about, shape in self._shapes if about is body)

    def _marks(self, marks: drawing.Marks) -> dict[str, Any]:
        return {
            "count": len(marks.placed),
            "placed": self.put(marks.placed.astype(np.float32)),
            "found": self.put(marks.found.astype(np.float32)),
            "colours": self.put(marks.colours),
            "lineColours": self.put(marks.line_colours),
        }

    def put(self, values: np.ndarray | bytes) -> list[int]:
        """Keep an array; where it begins (bytes) and how many numbers it has. Equal ones are kept once."""
        content = values if isinstance(values, bytes) else np.ascontiguousarray(values).tobytes()
        count = len(values) if isinstance(values, bytes) else values.size
        if content not in self._known:
            self._known[content] = [self._at, count]
            padding = -len(content) % 4
            self._blocks.append(content + bytes(padding))
            self._at += len(content) + padding
        return [self._known[content][0], count]

    def finished(self) -> tuple[dict[str, Any], bytes]:
        """The description, and the block that it points into."""
        for about, shape in self._shapes:
            # Of each body its own: one that lies far off must not make the others coarse.
            about["unit"] = float(np.abs(shape).max()) / _WHOLE
            about["vertices"] = self.put((shape / about["unit"]).round().astype(np.int16))
        owner, colours = drawing.patches(self.template)
        painted = np.zeros((len(self.template.vertices), 3), np.uint8)
        painted[self.template.faces.numpy()] = colours[owner][:, None]
        faces = self.put(self.template.faces.numpy().astype(np.uint32))
        beside = any(body["painted"] for one in self.people for body in one["bodies"])
        beside = beside and any(one["photo"] for one in self.people)
        about = {
            "made": f"deformlearn {deformlearn.__version__}, template {self.template.name} "
            f"({self.template.fingerprint})",
            "people": self.people,
            "faces": faces,
            "colours": self.put(painted),
            "shade": [value / 255 for value in drawing.SHADE],
            "ghost": [value / 255 for value in drawing.GHOST],
            "labelsOnly": beside,
            "frame": {"target": [drawing.BOTH[0], 0, 0], "extent": drawing.BOTH[1]}
            if beside
            else {"target": [0, 0, 0], "extent": 1.18},
        }
        return about, b"".join(self._blocks)


def sheet_of(source: Source, numbers: Sequence[int]) -> Sheet:
    """These people, read one after the other; of a template, it alone."""
    sheet, roll = Sheet(source.template), source.roll
    if source.found.kind == "template":
        sheet.add_template()
    for number in numbers:
        person = source.people.read(roll.key(number), roll.split(number), roll.row(number))
        sheet.add(person, roll.flag(number))
    return sheet


def page_of(sheet: Sheet, *, dark: bool = False, portrait: dict[str, Any] | None = None) -> str:
    """The page as text; with `portrait`, one that only draws a picture (see `screenshot`)."""
    about, block = sheet.finished()
    # A picture is drawn while the page loads, where nothing can be waited for.
    packed = block if portrait else gzip.compress(block, 6, mtime=0)
    about |= {"arrays": base64.b64encode(packed).decode(), "dark": dark, "portrait": portrait}
    text = json.dumps(about, separators=(",", ":"), allow_nan=False)
    # Neither a tag's end nor a comment's begin may stand in a script element.
    text = text.replace("<", "\\u003c")
    page = _asset("page.html")
    for mark, content in (
        ("/*STYLE*/", _asset("page.css")),
        ("/*SCENE*/", _asset("scene.js")),
        ("/*PAGE*/", _asset("page.js")),
        ("/*DATA*/", text),
    ):
        page = page.replace(mark, content, 1)
    return page


def _asset(name: str) -> str:
    return resources.files("deformlearn").joinpath("assets", "viewer", name).read_text("utf-8")


def _jpeg(photo: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=_JPEG, optimize=True)
    return buffer.getvalue()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
