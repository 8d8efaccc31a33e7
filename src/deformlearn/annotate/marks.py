"""What an annotator has set on one image, and every way to change it.

Marks are values: an edit returns new ones, so undo is the list of the old. Pixels are those of the
image as stored; (0, 0) is the corner of its first pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from deformlearn.errors import InputError

MISSING, OCCLUDED, VISIBLE = 0, 1, 2
"""COCO's words for a key point that is not in the picture, placed by a guess, and seen."""

_SUM_SLACK = 1e-3
"""How far barycentric coordinates may be from summing to one before they are a mistake."""

_MOST_PEOPLE, _MOST_PAIRS = 200, 5000
"""Limits on one image that no annotator reaches: beyond them something is sending by itself."""


@dataclass(frozen=True)
class Bounds:
    """What the marks of one image may name."""

    width: int
    """Image width (px)."""
    height: int
    faces: int
    """Faces of the template."""
    joints: int
    """Key points of the joint set."""


@dataclass(frozen=True)
class Pair:
    """A pixel and the point of the body it shows."""

    number: int
    """Unique within the person and never used again; names the pair on the screen."""
    x: float
    y: float
    face: int
    barycentric: tuple[float, float, float]


@dataclass(frozen=True)
class KeyPoint:
    """An annotated key point; x and y mean nothing where it is MISSING."""

    x: float
    y: float
    visibility: int


@dataclass(frozen=True)
class PersonMarks:
    """One person of an image."""

    number: int
    """Unique within the image and never used again."""
    pairs: tuple[Pair, ...]
    keypoints: tuple[KeyPoint | None, ...]
    """In the order of the joint set; None where nothing was said yet."""
    next_pair: int = 1
    """Number of the next pair."""

    @property
    def placed(self) -> list[KeyPoint]:
        """Key points that have a place."""
        return [point for point in self.keypoints if point and point.visibility != MISSING]

    @property
    def pixels(self) -> list[tuple[float, float]]:
        """Every annotated pixel of the person."""
        pairs = [(pair.x, pair.y) for pair in self.pairs]
        return pairs + [(point.x, point.y) for point in self.placed]


@dataclass(frozen=True)
class ImageMarks:
    """Everything set on one image."""

    people: tuple[PersonMarks, ...]
    next_person: int

    @staticmethod
    def empty(bounds: Bounds) -> ImageMarks:
        """One person of whom nothing is known yet."""
        return ImageMarks((_new_person(1, bounds),), 2)

    def person(self, number: int) -> PersonMarks:
        """The person with this number; none is an InputError."""
        for person in self.people:
            if person.number == number:
                return person
        raise InputError(f"person {number} is not on this image (any more)")

    def as_json(self) -> dict[str, Any]:
        """Plain data that `marks_of` reads."""
        return asdict(self)


def marks_of(values: Any, bounds: Bounds) -> ImageMarks:
    """Marks from plain data; anything that is not sound is an InputError."""
    fields = json_object(values, "the marks")
    people = tuple(_person_of(person, bounds) for person in _list(fields, "people"))
    _distinct(person.number for person in people)
    following = _whole(fields, "next_person", 1)
    if not people or any(person.number >= following for person in people):
        raise InputError("wanted at least one person, numbered below next_person")
    return ImageMarks(people, following)


def edited(marks: ImageMarks, request: Any, bounds: Bounds) -> ImageMarks:
    """The marks after one edit: `{"edit": name, ...}` with what that edit needs.

    Unknown edits, missing fields, points outside the image and the like are InputErrors.
    """
    fields = json_object(request, "an edit")
    name = fields.get("edit")
    if name == "add_person":
        if len(marks.people) >= _MOST_PEOPLE:
            raise InputError(f"an image holds at most {_MOST_PEOPLE} people")
        return ImageMarks(
            (*marks.people, _new_person(marks.next_person, bounds)), marks.next_person + 1
        )
    if not isinstance(name, str) or name not in (*_EDITS, "delete_person"):
        known = ", ".join((*_EDITS, "add_person", "delete_person"))
        raise InputError(f"unknown edit {_short(name)}; known are {known}")
    person = marks.person(_whole(fields, "person", 1))
    if name == "delete_person":
        left = tuple(other for other in marks.people if other is not person)
        if left:
            return replace(marks, people=left)
        # An image always has someone to annotate.
        return ImageMarks((_new_person(marks.next_person, bounds),), marks.next_person + 1)
    changed = _EDITS[name](person, fields, bounds)
    return replace(
        marks, people=tuple(changed if other is person else other for other in marks.people)
    )


def _add_pair(person: PersonMarks, fields: Mapping[str, Any], bounds: Bounds) -> PersonMarks:
    if len(person.pairs) >= _MOST_PAIRS:
        raise InputError(f"a person holds at most {_MOST_PAIRS} pairs")
    pair = _pair_of({**fields, "number": person.next_pair}, bounds)
    return replace(person, pairs=(*person.pairs, pair), next_pair=person.next_pair + 1)


def _move_pair(person: PersonMarks, fields: Mapping[str, Any], bounds: Bounds) -> PersonMarks:
    """The pair with another pixel, another surface point, or both."""
    old = _pair(person, fields)
    new = _pair_of({**asdict(old), **fields, "number": old.number}, bounds)
    return replace(person, pairs=tuple(new if other is old else other for other in person.pairs))


def _delete_pair(person: PersonMarks, fields: Mapping[str, Any], bounds: Bounds) -> PersonMarks:
    old = _pair(person, fields)
    return replace(person, pairs=tuple(other for other in person.pairs if other is not old))


def _set_keypoint(person: PersonMarks, fields: Mapping[str, Any], bounds: Bounds) -> PersonMarks:
    joint = _whole(fields, "joint", 0, bounds.joints - 1)
    points = list(person.keypoints)
    points[joint] = _keypoint_of(fields, bounds)
    return replace(person, keypoints=tuple(points))


def _clear_keypoint(person: PersonMarks, fields: Mapping[str, Any], bounds: Bounds) -> PersonMarks:
    joint = _whole(fields, "joint", 0, bounds.joints - 1)
    points = list(person.keypoints)
    points[joint] = None
    return replace(person, keypoints=tuple(points))


_EDITS: dict[str, Callable[[PersonMarks, Mapping[str, Any], Bounds], PersonMarks]] = {
    "add_pair": _add_pair,
    "move_pair": _move_pair,
    "delete_pair": _delete_pair,
    "set_keypoint": _set_keypoint,
    "clear_keypoint": _clear_keypoint,
}


def _new_person(number: int, bounds: Bounds) -> PersonMarks:
    return PersonMarks(number, (), (None,) * bounds.joints)


def _person_of(values: Any, bounds: Bounds) -> PersonMarks:
    fields = json_object(values, "a person")
    pairs = tuple(_pair_of(pair, bounds) for pair in _list(fields, "pairs"))
    _distinct(pair.number for pair in pairs)
    keypoints = _list(fields, "keypoints")
    if len(keypoints) != bounds.joints:
        raise InputError(f"wanted {bounds.joints} key points, got {len(keypoints)}")
    following = _whole(fields, "next_pair", 1)
    if any(pair.number >= following for pair in pairs):
        raise InputError("wanted pairs numbered below next_pair")
    return PersonMarks(
        _whole(fields, "number", 1),
        pairs,
        tuple(point if point is None else _keypoint_of(point, bounds) for point in keypoints),
        following,
    )


def _pair(person: PersonMarks, fields: Mapping[str, Any]) -> Pair:
    number = _whole(fields, "pair", 1)
    for pair in person.pairs:
        if pair.number == number:
            return pair
    raise InputError(f"person {person.number} has no pair {number} (any more)")


def _pair_of(values: Any, bounds: Bounds) -> Pair:
    fields = json_object(values, "a pair")
    x, y = _pixel(fields, bounds)
    face, barycentric = surface_point(fields, bounds)
    return Pair(_whole(fields, "number", 1), x, y, face, barycentric)


def surface_point(fields: Any, bounds: Bounds) -> tuple[int, tuple[float, float, float]]:
    """Face and barycentric coordinates (made to sum to one exactly) named by plain data."""
    face = _whole(json_object(fields, "a surface point"), "face", 0, bounds.faces - 1)
    values = _list(fields, "barycentric")
    if len(values) != 3:
        raise InputError(f"wanted three barycentric coordinates, got {len(values)}")
    u, v, w = (finite({"barycentric": value}, "barycentric") for value in values)
    if min(u, v, w) < -_SUM_SLACK or abs(u + v + w - 1) > _SUM_SLACK:
        raise InputError(
            f"wanted barycentric coordinates in [0, 1] that sum to 1, got {_short(values)}"
        )
    u, v, w = max(u, 0.0), max(v, 0.0), max(w, 0.0)
    total = u + v + w
    return face, (u / total, v / total, w / total)


def _keypoint_of(values: Any, bounds: Bounds) -> KeyPoint:
    fields = json_object(values, "a key point")
    visibility = _whole(fields, "visibility", MISSING, VISIBLE)
    if visibility == MISSING:
        return KeyPoint(0.0, 0.0, MISSING)
    x, y = _pixel(fields, bounds)
    return KeyPoint(x, y, visibility)


def _pixel(fields: Mapping[str, Any], bounds: Bounds) -> tuple[float, float]:
    x, y = finite(fields, "x"), finite(fields, "y")
    if not (0 <= x <= bounds.width and 0 <= y <= bounds.height):
        raise InputError(
            f"pixel ({x:g}, {y:g}) is outside the image of {bounds.width}x{bounds.height} pixels"
        )
    return x, y


def json_object(values: Any, what: str) -> Mapping[str, Any]:
    """The values, where they are an object of json; else an InputError that says what was wanted."""
    if not isinstance(values, Mapping):
        raise InputError(f"wanted {what} as a json object, got {type(values).__name__}")
    return values


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    values = fields.get(name)
    if not isinstance(values, (list, tuple)):
        raise InputError(f"wanted a list of {name}")
    return list(values)


def finite(fields: Mapping[str, Any], name: str) -> float:
    """The number under a name; anything else, NaN and the infinite are InputErrors."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"wanted a number for {name}, got {_short(value)}")
    # Not every whole number json can spell is a float.
    if not (abs(value) < 1e9 and math.isfinite(value)):
        raise InputError(f"wanted a finite number for {name}, got {_short(value)}")
    return float(value)


def _whole(fields: Mapping[str, Any], name: str, least: int, most: int = 10**9) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(
            f"wanted {name} as a whole number from {least} to {most}, got {_short(value)}"
        )
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _distinct(numbers: Iterable[int]) -> None:
    listed = list(numbers)
    if len(set(listed)) != len(listed):
        raise InputError("two people or pairs have one number")
