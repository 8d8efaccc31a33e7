"""Who is exported: rows of a file of estimates, chosen by name or number, each with a file name.

Only names are read here, and rows a few at a time: a file of millions is never held.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.data.estimates import Estimates, iterate_estimates, together
from deformlearn.data.tables import read_batches
from deformlearn.errors import InputError
from deformlearn.files import AnyPath

AT_ONCE = 256
"""Rows held at once."""

_LONGEST = 180
"""Bytes of a file name without its ending: every file system takes 255 with what writing adds."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices."""

_FRAME = re.compile(r"(?P<video>.+)_(?P<frame>\d{6,})(_p(?P<track>.+))?")
"""What `predict` calls the person of a video's frame."""

_MOST_SPACE = 100
"""Frames for each row that a video may have, beyond `_ANY_GAP`: timestamps look like numbers of frames."""
_ANY_GAP = 10_000
"""Frames that may be missing of any video."""

_SIZES = 1e-3, 1e3
"""Of a person's segments; beyond them numbers overflow, and nobody is that small or large."""

_RANGE = re.compile(r"(?P<first>\d+)(?P<open>-(?P<last>\d+)?)?")


@dataclass(frozen=True)
class Exported:
    """One file to be: whose, and the rows that it shows."""

    name: str
    """Without its ending; safe in every file system, and nobody else's."""
    rows: tuple[int, ...]
    """Of the file of estimates; several are a video's, in the order of its frames."""
    frames: tuple[int, ...] = (0,)
    """Numbers of those frames."""


def keys_of(path: Path) -> list[str]:
    """The name of every row of a file of estimates."""
    return [key or "" for table in read_batches(path, ["key"]) for key in table["key"].to_pylist()]


def rows_of(keys: Sequence[str], wanted: Sequence[str], path: AnyPath) -> list[int]:
    """The rows that a user names, in that order: by key, by number from 0, by range as 10-19 or 10-.

    Nobody twice. Nothing wanted is everyone. Who is not there is an InputError that names who is.
    """
    if not wanted:
        return list(range(len(keys)))
    place = {key: row for row, key in reversed(list(enumerate(keys)))}
    found: list[int] = []
    for word in wanted:
        numbers = _RANGE.fullmatch(word)
        if word in place:
            found.append(place[word])
        elif numbers is not None:
            found += _numbered(word, numbers, len(keys), path)
        else:
            alike = difflib.get_close_matches(word, place, 3) or list(
                dict.fromkeys([keys[0], keys[-1]])
            )
            raise InputError(
                f"nobody in {path} is called {word!r}; there are {len(keys)} people, such as "
                f"{', '.join(map(repr, alike))}: give their keys, or numbers from 0 as 5 or 10-19"
            )
    return list(dict.fromkeys(found))


def _numbered(word: str, found: re.Match[str], count: int, path: AnyPath) -> range:
    first = int(found["first"])
    last = int(found["last"]) if found["last"] else count - 1 if found["open"] else first
    if found["last"] and last < first:
        raise InputError(f"the range {word} runs backwards; give it as {last}-{first}")
    if not first <= last < count:
        raise InputError(
            f"there is no person {word} in {path}: its {count} people are numbered 0 to {count - 1}"
        )
    return range(first, last + 1)


def each_alone(keys: Sequence[str], rows: Iterable[int]) -> list[Exported]:
    """A file for each of the rows."""
    names = file_names(keys)
    return [Exported(names[row], (row,)) for row in rows]


@dataclass(frozen=True)
class VideoFrame:
    """What a key says of the person of a video's frame."""

    video: str
    number: int
    track: str
    """Which person; "" where the video shows one."""


def frame_of(key: str) -> VideoFrame | None:
    """The frame that `predict` named so; None of any other key."""
    found = _FRAME.fullmatch(key)
    if found is None:
        return None
    return VideoFrame(found["video"], int(found["frame"]), found["track"] or "")


def videos(keys: Sequence[str], rows: Iterable[int]) -> list[Exported]:
    """A file for each person of each video: rows whose keys are those of `predict`'s frames.

    Rows that are no frames of a video follow one another as frames of a single person. Numbers so far
    apart that they must count something else than frames are an InputError.
    """
    tracks: dict[str, list[tuple[int, int]]] = {}
    others: list[int] = []
    for row in rows:
        frame = frame_of(keys[row])
        if frame is None:
            others.append(row)
            continue
        who = f"{frame.video}_p{frame.track}" if frame.track else frame.video
        tracks.setdefault(who, []).append((frame.number, row))
    if others:
        tracks.setdefault("people", []).extend(enumerate(others))
    for who, numbered in tracks.items():
        _require_frames(who, [frame for frame, _ in numbered])
    names = file_names(list(tracks))
    found = []
    for name, frames in zip(names, tracks.values(), strict=True):
        once = {frame: row for frame, row in sorted(frames, reverse=True)}
        ordered = sorted(once)
        found.append(Exported(name, tuple(once[frame] for frame in ordered), tuple(ordered)))
    return found


def _require_frames(video: str, numbers: Sequence[int]) -> None:
    first, last = min(numbers), max(numbers)
    if last - first > _MOST_SPACE * len(numbers) + _ANY_GAP:
        raise InputError(
            f"the {len(numbers)} rows of {video!r} have numbers from {first} to {last}, too far apart for "
            f"frames of a video; call them {video}_000000 and on, or leave out --animate"
        )


def file_names(keys: Sequence[str]) -> list[str]:
    """A file name for each key: letters of any script stay, what no file system takes becomes _.

    No two are the same, also where capitals are not told apart; a number is added where they would be,
    in the order of the keys, so that the same keys always get the same names.
    """
    taken: set[str] = set()
    names = []
    for key in keys:
        safe = name = safe_name(key)
        again = 2
        while name.casefold() in taken:
            name, again = f"{safe}-{again}", again + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def safe_name(key: str) -> str:
    """The key as a file name of at most `_LONGEST` bytes that every file system takes.

    Others may get the same; `file_names` keeps them apart.
    """
    name = unicodedata.normalize("NFC", key)
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]', "_", name).strip(" .")
    # A cut between two bytes of one letter drops the letter.
    name = name.encode()[:_LONGEST].decode(errors="ignore").strip(" .")
    return f"_{name}" if not name or _RESERVED.fullmatch(name) else name


def read_rows(path: Path, template: BodyTemplate, rows: Sequence[int]) -> Iterator[Estimates]:
    """The estimates of ascending rows, no more than `AT_ONCE` at a time."""
    # Rows that follow one another keep the same distance from their place in the list.
    runs = groupby(enumerate(rows), key=lambda placed: placed[1] - placed[0])
    ranges = []
    for _, placed in runs:
        run = [row for _, row in placed]
        starts = range(run[0], run[-1] + 1, AT_ONCE)
        ranges += [range(start, min(start + AT_ONCE, run[-1] + 1)) for start in starts]
    return iterate_estimates(path, template, ranges)


def read_one(path: Path, template: BodyTemplate, exported: Exported) -> Estimates:
    """All rows of one file to be, in the order of its frames."""
    rows = sorted(exported.rows)
    everyone = together(list(read_rows(path, template, rows)))
    order = {row: index for index, row in enumerate(rows)}
    return everyone.select([order[row] for row in exported.rows])


def usable(estimates: Estimates) -> Bool[Tensor, "people"]:
    """Rows that are a person: finite numbers, sizes of a body, and a rotation that is no reflection."""
    camera = estimates.estimate.camera
    values = [*estimates.estimate.tensors(), *estimates.crop.tensors()]
    good = torch.stack(
        [
            value.isfinite().flatten(1).all(1) if value.ndim > 1 else value.isfinite()
            for value in values
        ]
    ).all(0)
    scales, (least, most) = estimates.estimate.body.scales, _SIZES
    good &= ((scales >= least) & (scales <= most)).all(-1)
    good &= (camera.scale > 0) & (estimates.crop.half > 0)
    # Of a broken matrix nothing can be said; it is out already.
    whole = torch.where(good[:, None, None], camera.matrix, torch.eye(3))
    return good & (torch.linalg.det(whole) > 0)
