"""Boxes of people from a file: SPIN, OpenPose, MOT, COCO-style and plain tables (docs/videos.md)."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deformlearn.data.person_boxes import hull_box
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Frame
from deformlearn.errors import InputError

CONFIDENT = 0.2
"""Least confidence of an OpenPose key point that a box is drawn about (as SPIN)."""
_FEWEST = 3
"""Key points that make a box."""

_IMAGE_NAMES = ("image", "file_name", "filename", "image_name", "image_path", "video", "name")
_FRAME_NAMES = ("frame", "frame_id", "frame_index", "frame_number")
_TRACK_NAMES = ("track_id", "track", "person_id", "person", "id")
_SIDES = (
    ("x", "left", "bb_left"),
    ("y", "top", "bb_top"),
    ("w", "width", "bb_width"),
    ("h", "height", "bb_height"),
)
_NUMBERED = re.compile(r"(.+)_(\d{1,15})")
_PLAIN_COLUMNS = 5
"""image, left, top, width, height."""
_MOT_COLUMNS = 6
"""frame, id, left, top, width, height; what follows is optional."""


@dataclass(frozen=True)
class PersonBox:
    """Where a person is."""

    box: tuple[float, float, float, float]
    """Left, top, width and height (px; the corner of the first pixel is (0, 0))."""
    image: str = ""
    """Name of the image or video; empty where the file does not name one."""
    frame: int | None = None
    """Frame of the video, from 0."""
    track: str = ""
    """Who it is; the same in every frame of a video, and empty where nobody knows."""


@dataclass(frozen=True)
class Boxes:
    """All boxes of a file."""

    boxes: tuple[PersonBox, ...]
    rejected: tuple[Rejected, ...] = ()
    """Rows that are no boxes."""
    named: dict[tuple[str, int | None], list[PersonBox]] = field(default_factory=dict, repr=False)
    """The boxes by their image and frame."""

    def __post_init__(self) -> None:
        for box in self.boxes:
            self.named.setdefault((box.image, box.frame), []).append(box)
            # "dance_000000000012" may be frame 12 of a video called dance (OpenPose).
            numbered = _NUMBERED.fullmatch(box.image)
            if box.frame is None and numbered:
                self.named.setdefault((numbered[1], int(numbered[2])), []).append(box)

    def of_image(self, image: Path) -> list[PersonBox]:
        """The people of an image, found by any tail of its path, with or without the suffix."""
        for name in _tails(image):
            if (name, None) in self.named:
                return self.named[name, None]
        return self.named.get(("", None), [])

    def of_frame(self, frame: Frame) -> list[PersonBox]:
        """The people of a frame: by its number, or by the name it has where it is an image."""
        for name in (*_tails(frame.video), ""):
            if (name, frame.index) in self.named:
                return self.named[name, frame.index]
        if (str(frame.index), None) in self.named:
            return self.named[str(frame.index), None]
        # A box that names nothing is where the person stays.
        return self.named.get(("", None), [])

    def frames_of(self, video: Path) -> list[int]:
        """The frames of a video that have boxes of their own."""
        names = {*_tails(video), ""}
        return sorted(frame for name, frame in self.named if frame is not None and name in names)


def read_boxes(path: Path) -> Boxes:
    """The boxes of a file, or of a folder of one json an image, whichever known form they have.

    SPIN's {"bbox": [x, y, w, h]}; OpenPose's people (the box of their confident key points);
    {image: box or boxes}; a list of records with image or frame, bbox and track_id; a whole COCO
    file (its people, under the names of their images); csv with a header (image or frame, x, y, w,
    h, track); MOTChallenge's txt or csv without one (whose frames count from 1; here they count from
    0). Rows that are no boxes are listed; no box at all, or a file of another kind, is an InputError.
    """
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise InputError(f"the folder {path} holds no json of boxes")
    else:
        files = [path]
    one_of_many = path.is_dir()
    boxes: list[PersonBox] = []
    rejected: list[Rejected] = []
    for file in files:
        if file.suffix.lower() == ".json":
            rows = _json_rows(file, _named_by(file) if one_of_many else "")
        else:
            rows = _table_rows(file)
        for where, row in rows:
            try:
                boxes.append(_checked(row))
            except InputError as error:
                rejected.append(Rejected(where, str(error)))
    # An image without people is no error; a file of nothing but errors is.
    if not boxes and (rejected or not one_of_many):
        reason = f": {rejected[0].where}: {rejected[0].reason}" if rejected else ""
        raise InputError(f"{path} holds no box{reason}")
    return Boxes(tuple(boxes), tuple(rejected))


def is_inside(box: tuple[float, float, float, float], width: int, height: int) -> bool:
    """Whether any of a box lies on an image of this size."""
    x, y, w, h = box
    return x < width and y < height and x + w > 0 and y + h > 0


@dataclass(frozen=True)
class _Nothing:
    """Instead of a box: why there is none."""

    reason: str


@dataclass(frozen=True)
class _Row:
    """A row before it is checked."""

    box: Any
    image: Any = ""
    frame: Any = None
    track: Any = ""


def _checked(row: _Row) -> PersonBox:
    box = row.box
    if isinstance(box, _Nothing):
        raise InputError(box.reason)
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise InputError(f"a box is [x, y, width, height], got {_short(box)}")
    x, y, w, h = (_number(value, "a box") for value in box)
    if not (w > 0 and h > 0):
        raise InputError(f"a box of {w:g} x {h:g} px has no size")
    frame = None
    if row.frame is not None:
        frame = _number(row.frame, "a frame")
        if frame < 0 or frame != int(frame):
            raise InputError(f"a frame is a whole number from 0, got {_short(row.frame)}")
    if not isinstance(row.image, str):
        raise InputError(
            f"an image is given by the name of its file, got {_short(row.image)} (COCO's image_id "
            f"is a number in another file)"
        )
    track = "" if row.track in (None, -1, "-1") else str(row.track)
    image = row.image.replace("\\", "/").removeprefix("./")
    return PersonBox((x, y, w, h), image, None if frame is None else int(frame), track)


def _number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what} needs numbers, got {_short(value)}") from error
    if isinstance(value, bool) or not math.isfinite(number):
        raise InputError(f"{what} needs finite numbers, got {_short(value)}")
    return number


def _json_rows(path: Path, name: str) -> Iterator[tuple[str, _Row]]:
    """Rows of a json file; `name` is the image it is about, where the file's own name tells."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not json ({_short(error)}); wanted boxes of people") from error
    if isinstance(content, dict) and isinstance(content.get("people"), list):
        for number, person in enumerate(content["people"]):
            row = _openpose_row(person, name)
            if row is not None:
                yield f"{path}, person {number}", row
    elif isinstance(content, dict) and "bbox" in content:
        yield str(path), _record(content, name)
    elif isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        yield from _coco_rows(path, content)
    elif isinstance(content, dict):
        for image, people in content.items():
            for number, one in enumerate(_several(people)):
                row = _record(one, image) if isinstance(one, dict) else _Row(one, image)
                yield f"{path}, {image!r}, person {number}", row
    elif isinstance(content, list) and all(isinstance(one, dict) for one in content):
        for number, one in enumerate(content):
            yield f"{path}, record {number}", _record(one, name)
    else:
        raise InputError(
            f"{path} holds {_short(content)}; wanted boxes of people: an object of images, or a list "
            f"of records with image or frame, and bbox"
        )


def _coco_rows(path: Path, content: dict[str, Any]) -> Iterator[tuple[str, _Row]]:
    """The people of a whole COCO file; other things in it are passed over."""
    images, categories = (
        [one for one in several if isinstance(one, dict)]
        for several in (content["images"], _several(content.get("categories", [])))
    )
    names = {str(one.get("id")): one.get("file_name") for one in images}
    people = {str(one.get("id")) for one in categories if one.get("name") == "person"}
    for number, one in enumerate(content["annotations"]):
        where = f"{path}, annotation {number}"
        if not isinstance(one, dict):
            yield where, _Row(_Nothing("is no annotation"))
        elif people and str(one.get("category_id")) not in people:
            continue
        elif one.get("iscrowd"):
            yield where, _Row(_Nothing("marks a crowd"))
        elif not (name := names.get(str(one.get("image_id")))):
            yield where, _Row(_Nothing(f"no image has the id {_short(one.get('image_id'))}"))
        else:
            yield where, _Row(one.get("bbox"), name, track=one.get("track_id", ""))


def _named_by(file: Path) -> str:
    """The image that a file of a folder is about: NAME_keypoints.json, NAME_bbox.json, NAME.json."""
    return file.stem.removesuffix("_keypoints").removesuffix("_bbox")


def _several(people: Any) -> list[Any]:
    """The people of one image: a box is four numbers, anything longer is a list of people."""
    if isinstance(people, list) and (
        not people or all(isinstance(one, (list, dict)) for one in people)
    ):
        return people
    return [people]


def _record(record: dict[str, Any], name: str) -> _Row:
    box = record.get("bbox", record.get("box"))
    image = _first(record, _IMAGE_NAMES, name or record.get("image_id", ""))
    return _Row(
        box,
        image,
        _first(record, _FRAME_NAMES, None),
        _first(record, _TRACK_NAMES, ""),
    )


def _first(record: dict[str, Any], names: Iterable[str], otherwise: Any) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), otherwise)


def _openpose_row(person: Any, name: str) -> _Row | None:
    """The box of the confident key points; None where OpenPose lists a person and sees nothing."""
    fields = person if isinstance(person, dict) else {}
    numbers = fields.get("pose_keypoints_2d", fields.get("pose_keypoints"))
    if not isinstance(numbers, list) or len(numbers) % 3:
        return _Row(_Nothing("no pose_keypoints_2d of x, y and confidence"), name)
    try:
        points = [
            [float(number) for number in numbers[i : i + 3]] for i in range(0, len(numbers), 3)
        ]
    except (TypeError, ValueError, OverflowError):
        return _Row(_Nothing("key points that are no numbers"), name)
    seen = [(x, y) for x, y, confidence in points if confidence > CONFIDENT]
    if not any(confidence > 0 for *_, confidence in points):
        return None
    if len(seen) < _FEWEST:
        return _Row(_Nothing(f"{len(seen)} confident key points, which show no box"), name)
    xs, ys = zip(*seen, strict=True)
    if max(*xs, *ys) <= 1:
        return _Row(_Nothing("key points in [0, 1]: run OpenPose without --keypoint_scale"), name)
    return _Row(hull_box(np.array(seen)), name)


def _table_rows(path: Path) -> Iterator[tuple[str, _Row]]:
    """Rows of a csv: with a header by its names, without one as MOTChallenge or image, x, y, w, h."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            dialect = csv.excel_tab if "\t" in file.readline() else csv.excel
            file.seek(0)
            header: list[str] | None = None
            for number, cells in enumerate(csv.reader(file, dialect, strict=True), start=1):
                cells = [cell.strip() for cell in cells]
                if not any(cells):
                    continue
                where = f"{path}, line {number}"
                if header is None:
                    header = [cell.lower() for cell in cells] if _is_header(cells) else []
                    if header:
                        _check_header(header, path)
                        continue
                row = _named_row(cells, header) if header else _bare_row(cells)
                if not header and isinstance(row.frame, float) and row.frame < 0:
                    raise InputError(
                        f"{where}: a table without a header is MOTChallenge's frame (counted from 1), id, "
                        f"left, top, width, height, and this frame is {cells[0]}; if the columns are "
                        f"others, name them in a first line such as frame,x,y,w,h,track"
                    )
                yield where, row
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a table of boxes ({_short(error)}); wanted csv") from error


def _is_header(cells: list[str]) -> bool:
    return bool({cell.lower() for cell in cells} & {*_IMAGE_NAMES, *_FRAME_NAMES, "x", "bbox"})


def _check_header(header: list[str], path: Path) -> None:
    missing = [names[0] for names in _SIDES if not any(name in header for name in names)]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; wanted image or frame, x, y, w, h "
            f"and, where known, track"
        )


def _named_row(cells: list[str], header: list[str]) -> _Row:
    if len(cells) != len(header):
        return _Row(_Nothing(f"{len(cells)} cells under a header of {len(header)}"))
    record = {name: cell or None for name, cell in zip(header, cells, strict=True)}
    return _record({**record, "bbox": [_first(record, names, None) for names in _SIDES]}, "")


def _bare_row(cells: list[str]) -> _Row:
    if len(cells) == _PLAIN_COLUMNS:
        return _Row(cells[1:], cells[0])
    if len(cells) < _MOT_COLUMNS:
        return _Row(
            _Nothing(
                f"{len(cells)} columns without a header; wanted MOTChallenge's frame, id, left, top, "
                f"width, height, or image, x, y, w, h"
            )
        )
    if len(cells) > _MOT_COLUMNS and cells[_MOT_COLUMNS] in ("0", "0.0"):
        return _Row(_Nothing("marked to be ignored: the seventh column is 0"))
    try:
        frame: Any = float(cells[0]) - 1
    except ValueError:
        frame = cells[0]
    return _Row(cells[2:_MOT_COLUMNS], frame=frame, track=cells[1])


def _tails(path: Path) -> Iterator[str]:
    """a/b/c.jpg, a/b/c, b/c.jpg, b/c, c.jpg, c."""
    parts = path.parts
    for start in range(len(parts)):
        tail = Path(*parts[start:])
        yield tail.as_posix()
        yield tail.with_suffix("").as_posix() if tail.suffix else tail.as_posix()


def _short(value: Any) -> str:
    return " ".join(f"{value!s:.80}".split())
