"""The container of a binary glTF 2.0 file: arrays in one buffer, and the JSON that describes them.

https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

VERTICES, INDICES = 34962, 34963
"""What a graphics card uses a piece of the buffer for."""

_COMPONENTS = {"uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}
_SHAPES = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942


class Arrays:
    """The one buffer of a file, as it grows."""

    def __init__(self) -> None:
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self._pieces: list[bytes] = []
        self._length = 0

    def add(self, values: np.ndarray, target: int | None = None, *, bounds: bool = False) -> int:
        """The accessor of an array; matrices go in column by column, as glTF wants them.

        `bounds` says where the values lie, which readers want of positions and of times.
        """
        shape = _SHAPES[values.shape[1:]]
        stored = values.swapaxes(1, 2) if shape == "MAT4" else values
        accessor = {
            "bufferView": self.view(np.ascontiguousarray(stored).tobytes(), target=target),
            "componentType": _COMPONENTS[values.dtype.name],
            "count": len(values),
            "type": shape,
        }
        if bounds:
            accessor["min"] = np.atleast_1d(values.min(0)).tolist()
            accessor["max"] = np.atleast_1d(values.max(0)).tolist()
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def view(self, content: bytes, *, target: int | None = None) -> int:
        """The buffer view of some bytes."""
        view = {"buffer": 0, "byteOffset": self._length, "byteLength": len(content)}
        self.views.append(view if target is None else {**view, "target": target})
        padded = content + bytes(-len(content) % 4)
        self._pieces.append(padded)
        self._length += len(padded)
        return len(self.views) - 1

    @property
    def content(self) -> bytes:
        return b"".join(self._pieces)


def binary(document: dict[str, Any], arrays: Arrays) -> bytes:
    """A GLB file; `document` holds everything but the arrays."""
    content = arrays.content
    whole = {
        **document,
        "buffers": [{"byteLength": len(content)}],
        "bufferViews": arrays.views,
        "accessors": arrays.accessors,
    }
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    chunks = [(_JSON, text), (_BINARY, content)]
    body = b"".join(struct.pack("<II", len(piece), kind) + piece for kind, piece in chunks)
    return struct.pack("<III", _MAGIC, 2, 12 + len(body)) + body


Moved = dict[tuple[int, str], np.ndarray]
"""Values over time by node and by what of it moves: translation, rotation or scale."""


def animation(arrays: Arrays, times: np.ndarray, moved: Moved) -> dict[str, Any]:
    """Key frames at `times` (seconds), linear in between."""
    when = arrays.add(times.astype(np.float32), bounds=True)
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []
    for (node, path), values in moved.items():
        channels.append({"sampler": len(samplers), "target": {"node": node, "path": path}})
        samplers.append({"input": when, "output": arrays.add(values.astype(np.float32))})
    return {"samplers": samplers, "channels": channels}
