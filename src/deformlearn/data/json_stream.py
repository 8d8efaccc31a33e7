"""Json files of any size, one element of a list at a time.

Every element is decoded by Python's own json decoder, which takes the NaN that Python writes; a
streaming parser that refuses it would lose a whole data set to one bad number. Memory holds one element
and one chunk of text, whatever the file's size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from deformlearn.errors import InputError

_CHUNK = 1 << 18
"""Characters read at once."""

LONGEST = 1 << 26
"""Characters of one element; a longer one is a broken file, and reading on would fill the memory."""

_NUMBER_GOES_ON = 3
"""A number may continue after the end of what was read: `1` of `1e-5`."""

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def read_sections(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, Any]]:
    """(name, element) of the lists in the json object at `path`, in the file's order.

    Only lists named in `wanted` are given out, but the whole file is read, so a broken or truncated one
    is found; null is an empty list. Files that are no json object, and wanted sections that are no
    list, are InputErrors.
    """
    with _opened(path) as text:
        text.expect("{")
        if text.peek() == "}":
            text.expect("}")
        else:
            while True:
                name = text.string()
                text.expect(":")
                if text.peek() == "[":
                    for element in text.elements():
                        if name in wanted:
                            yield name, element
                else:
                    value = text.value()
                    if name in wanted and value is not None:
                        raise InputError(
                            f"{path} has no list of {name}: it is {type(value).__name__}"
                        )
                if text.expect(",}") == "}":
                    break
        text.end()


def read_list(path: Path) -> Iterator[Any]:
    """The elements of the json list at `path`."""
    with _opened(path) as text:
        yield from text.elements()
        text.end()


def read_places(path: Path) -> Iterator[tuple[Any, int, int]]:
    """The elements of the json list at `path`, the byte where each begins and its length.

    Text in them is in latin1, in which every byte is a character; read an element again from its
    place to have it right.
    """
    with _opened(path, "latin-1") as text:
        for value in text.elements():
            yield value, text.began, text.place - text.began
        text.end()


def read_object(path: Path) -> dict[str, Any]:
    """The whole json object of a small file."""
    with _opened(path) as text:
        if text.peek() != "{":
            raise text.wrong("is no json object")
        value = text.value()
        text.end()
        return value


@contextmanager
def _opened(path: Path, encoding: str = "utf-8-sig") -> Iterator[_Text]:
    """The text of a file; one that cannot be opened is an InputError."""
    try:
        file = path.open(encoding=encoding, newline="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read {path}: {reason}") from error
    with file:
        yield _Text(file, path)


class _Text:
    """The text of a file and a place in it."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at, self._passed = "", 0, 0
        self._ended = False
        self.began = 0
        """Where the last value began."""

    @property
    def place(self) -> int:
        """Characters before the present place."""
        return self._passed + self._at

    def wrong(self, what: str) -> InputError:
        """An error at the present place."""
        return InputError(f"{self._path} {what} (at character {self.place})")

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read_on()

    def expect(self, characters: str) -> str:
        """Step over one of these characters."""
        found = self.peek()
        if not found:
            raise self.wrong("is not json: it is empty or ends too early")
        if found not in characters:
            wanted = " or ".join(repr(character) for character in characters)
            raise self.wrong(
                f"is not json, or not of the wanted kind: wanted {wanted}, got {found!r}"
            )
        self._at += 1
        return found

    def end(self) -> None:
        if self.peek():
            raise self.wrong("is not json: something follows its end")

    def string(self) -> str:
        if self.peek() not in ("", '"'):
            raise self.wrong("is not json: a name is missing")
        return self.value()

    def elements(self) -> Iterator[Any]:
        self.expect("[")
        if self.peek() == "]":
            self.expect("]")
            return
        while True:
            yield self.value()
            if self.expect(",]") == "]":
                return

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        self.began = self.place
        while True:
            failure = None
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                failure = error.msg
            except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
                raise self.wrong(f"cannot be read as json: {error}") from error
            if failure is None and (self._ended or end + _NUMBER_GOES_ON <= len(self._text)):
                self._at = end
                return value
            if self._ended:
                raise self.wrong(f"is not json, or ends too early: {failure}")
            if len(self._text) - self._at > LONGEST:
                raise self.wrong(f"has an element of over {LONGEST >> 20} MB, or is not json")
            self._read_on()

    def _read_on(self) -> None:
        # Twice as much each time: an element over many chunks is decoded a few times, not many.
        rest = self._text[self._at :]
        try:
            more = self._file.read(max(_CHUNK, len(rest)))
        except (OSError, ValueError) as error:  # bytes that are no text
            raise self.wrong(f"is not json: {error}") from error
        self._passed += self._at
        self._text, self._at, self._ended = rest + more, 0, not more
