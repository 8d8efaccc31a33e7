"""MATLAB's version 5 files (.mat), read a part at a time.

The format is MathWorks' "MAT-File Format", chapter 1; the tests compare with scipy. scipy's own reader
goes past the end of damaged files and ends the process, and it holds a million small arrays at once.
Here every length is checked, and nothing is decoded before it is asked for.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Num, Shaped

from deformlearn.errors import InputError

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_TYPES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
    16: "u1", 17: "u2",
}  # fmt: skip
_UTF8 = (1, 2, 16)
"""Character data of one byte each."""

_LARGEST = 1 << 30
"""Bytes that a compressed variable may unfold to."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """An array of a file: numbers, text, or structs of further arrays."""

    name: str
    kind: int
    """MATLAB's class: 1 cell, 2 struct, 4 char, 6..15 numeric; others cannot be looked into."""
    shape: tuple[int, ...]
    content: memoryview
    """What follows the shape and the name, not yet decoded."""
    order: str
    """"<" or ">": which end comes first."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_text(self) -> bool:
        return self.kind == _CHAR

    def structs(self) -> Iterator[dict[str, Matrix]]:
        """The fields of each struct of a struct array, column by column."""
        if self.kind != _STRUCT:
            raise InputError(f"the MATLAB array {self.name!r} is no struct")
        kind, length, rest = _first(self.content, self.order)
        width = _numbers(kind, length, self.order)
        _, listed, rest = _first(rest, self.order)
        if not len(width) or width[0] < 1 or len(listed) % int(width[0]):
            raise InputError("the field names of a MATLAB struct are damaged")
        text, step = bytes(listed), int(width[0])
        starts = range(0, len(text), step)
        names = [text[at : at + step].split(b"\0")[0].decode("latin-1") for at in starts]
        for _ in range(self.size if names else 0):
            fields = {}
            for name in names:
                kind, content, rest = _first(rest, self.order)
                fields[name] = _matrix(kind, content, self.order)
            yield fields

    def cells(self) -> Iterator[Matrix]:
        """What each cell of a cell array holds, column by column."""
        if self.kind != _CELL:
            raise InputError(f"the MATLAB array {self.name!r} has no cells")
        rest = self.content
        for _ in range(self.size):
            kind, content, rest = _first(rest, self.order)
            yield _matrix(kind, content, self.order)

    def numbers(self) -> Num[np.ndarray, "..."]:
        """The real part of a numeric array."""
        if self.kind not in _NUMERIC:
            raise InputError(f"the MATLAB array {self.name!r} holds no numbers")
        if not self.size:
            return np.zeros((0, 0))
        kind, data, _ = _first(self.content, self.order)
        values = _numbers(kind, data, self.order)
        if len(values) != self.size:
            raise InputError(f"a MATLAB array of {self.size} numbers has {len(values)}")
        return values.reshape(self.shape, order="F")

    def text(self) -> str:
        """The characters of a char array."""
        if self.kind != _CHAR:
            raise InputError(f"the MATLAB array {self.name!r} is no text")
        if not self.size:
            return ""
        kind, data, _ = _first(self.content, self.order)
        coding = "utf-8" if kind in _UTF8 else f"utf-16-{'le' if self.order == '<' else 'be'}"
        try:
            return bytes(data).decode(coding)
        except UnicodeDecodeError as error:
            raise InputError("a MATLAB text is damaged") from error


def read_variable(path: Path, name: str) -> Matrix:
    """The variable called `name`; files without it, or of another kind, are InputErrors."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error
    try:
        order = _order(data[:_HEADER])
        rest = memoryview(data)[_HEADER:]
        while len(rest):
            kind, content, rest = _first(rest, order)
            if kind == _COMPRESSED:
                kind, content, _ = _first(_unfolded(content), order)
            matrix = _matrix(kind, content, order)
            if matrix.name == name:
                return matrix
    except InputError as error:
        raise InputError(f"{path} cannot be read as a MATLAB file: {error}") from error
    raise InputError(f"{path} is another MATLAB file: it has no variable {name}")


def _order(header: bytes) -> str:
    if header.startswith(b"MATLAB 7.3") or header.startswith(b"\x89HDF"):
        raise InputError("it is of version 7.3; save it with -v7")
    marks = {b"IM": "<", b"MI": ">"}
    if len(header) < _HEADER or header[126:128] not in marks:
        raise InputError("it has no header of version 5")
    return marks[header[126:128]]


def _first(data: memoryview, order: str) -> tuple[int, memoryview, memoryview]:
    """Type and content of the element that `data` begins with, and what follows it."""
    if len(data) < 8:
        raise InputError("it ends before all its elements")
    kind, length = struct.unpack_from(f"{order}II", data)
    start = 8
    end = start + (length if kind == _COMPRESSED else -(-length // 8) * 8)
    if kind >> 16:  # a small element: type, length and up to four bytes in eight
        kind, length, start, end = kind & 0xFFFF, kind >> 16, 4, 8
    if start + length > min(len(data), max(end, start)):
        raise InputError("it ends in the middle of an element")
    return kind, data[start : start + length], data[end:]


def _unfolded(content: memoryview) -> memoryview:
    """What is compressed in an element."""
    unfolding = zlib.decompressobj()
    try:
        data = unfolding.decompress(content, _LARGEST)
    except zlib.error as error:
        raise InputError(f"its compressed part is damaged ({error})") from error
    if not unfolding.eof:
        raise InputError("its compressed part ends too early, or is too large")
    return memoryview(data)


def _matrix(kind: int, content: memoryview, order: str) -> Matrix:
    if kind != _MATRIX:
        raise InputError(f"an element is of the type {kind} where an array should be")
    if not len(content):
        return Matrix("", _NUMERIC[0], (0, 0), content, order)
    kind, flags, rest = _first(content, order)
    classes = _numbers(kind, flags, order)
    kind, sides, rest = _first(rest, order)
    shape = _numbers(kind, sides, order)
    _, name, rest = _first(rest, order)
    if not len(classes) or len(shape) < 2 or shape.dtype.kind == "f" or (shape < 0).any():
        raise InputError("the head of an array is damaged")
    called = bytes(name).decode("latin-1")
    return Matrix(called, int(classes[0]) & 0xFF, tuple(shape.tolist()), rest, order)


def _numbers(kind: int, data: memoryview, order: str) -> Shaped[np.ndarray, "n"]:
    code = _TYPES.get(kind)
    if code is None:
        raise InputError(f"numbers are of the type {kind}, which is none")
    kept = np.dtype(order + code)
    if len(data) % kept.itemsize:
        raise InputError("numbers end in the middle of one")
    return np.frombuffer(data, kept)
