"""Long json lists read value by value, with the places of the values in the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from deformlearn.errors import InputError

_CHUNK = 1 << 20
"""Bytes read at a time."""

_LONGEST = 1 << 26
"""Bytes of a value beyond which the file is taken to be damaged."""


def elements(path: Path, wanted: str) -> Iterator[tuple[Any, int, int]]:
    """The values of a json list, the bytes where they start and their lengths.

    Only a part of the file is in memory. Text in the values is in latin1; read a value again from
    its place to have it right. A file that is no list or ends too early is an InputError that says
    what was `wanted`.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below; its errors are told apart here)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; wanted {wanted}") from error
    with file:
        text = _Text(file, path, wanted)
        text.expect("[")
        if text.next() == "]":
            return
        while True:
            yield text.value()
            if text.expect(",]") == "]":
                return


class _Text:
    """A window on the file; one character a byte, so that places in it are places in the file."""

    def __init__(self, file: BinaryIO, path: Path, wanted: str) -> None:
        self._file, self._path, self._wanted = file, path, wanted
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._begin, self._place = "", 0, 0

    def next(self) -> str:
        """The next character that is no space."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in " \t\r\n":
                self._place += 1
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._read(_CHUNK):
                raise InputError(f"{self._path} ends in the middle; wanted {self._wanted}")

    def expect(self, marks: str) -> str:
        """The next character, which must be one of these, and is done with."""
        found = self.next()
        if found not in marks:
            raise InputError(
                f"{self._path} has {found!r} at byte {self._here}; wanted {self._wanted}"
            )
        self._place += 1
        return found

    def value(self) -> tuple[Any, int, int]:
        """The next value, where it starts and its length."""
        self.next()
        chunk, more = _CHUNK, True
        while True:
            try:
                value, end = self._decode(self._text, self._place)
                # A number at the end of what was read may go on.
                if end < len(self._text) or not more:
                    found = value, self._here, end - self._place
                    self._place = end
                    return found
            except (ValueError, RecursionError) as error:
                if not more or len(self._text) - self._place > _LONGEST:
                    raise InputError(
                        f"{self._path} is damaged at byte {self._here} or ends too early; "
                        f"wanted {self._wanted}"
                    ) from error
            more = self._read(chunk)
            chunk *= 2

    @property
    def _here(self) -> int:
        return self._begin + self._place

    def _read(self, count: int) -> bool:
        """More of the file behind what is not done with; False at its end."""
        content = self._file.read(count)
        self._begin += self._place
        self._text, self._place = self._text[self._place :] + content.decode("latin1"), 0
        return bool(content)
