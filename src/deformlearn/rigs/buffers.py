"""The numbers in a glTF file: buffers, buffer views, accessors and sparse accessors."""

from __future__ import annotations

import base64
import binascii
import urllib.parse
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from deformlearn.errors import InputError

_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}

_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}

_MOST = 20_000_000
"""Elements an accessor may hold: one without data claims any number for nothing."""


_LARGEST = 1 << 31
"""Bytes that a buffer in a file of its own may have."""


class Buffers:
    """Reads accessors of a parsed glTF file; its buffers may be inside it or beside it."""

    def __init__(self, gltf: Any, path: Path) -> None:
        self.gltf, self.path = gltf, path
        self._content = cache(self._read)

    def accessor(self, index: int | None, width: int) -> np.ndarray:
        """The (count, width) values of an accessor; normalised integers come as numbers up to 1."""
        if index is None or not 0 <= index < len(self.gltf.accessors):
            raise self._damaged(f"accessor {index} of {len(self.gltf.accessors)} is asked for")
        item = self.gltf.accessors[index]
        if _WIDTHS.get(item.type) != width:
            raise self._damaged(f"accessor {index} is a {item.type}, not of {width} numbers")
        if not 0 <= item.count <= _MOST:
            raise self._damaged(f"accessor {index} claims {item.count} elements")
        dtype = np.dtype(_TYPES[item.componentType])
        if item.bufferView is None:
            values = np.zeros((item.count, width), dtype)
        else:
            values = self._view(item.bufferView, item.byteOffset or 0, item.count, width, dtype)
        if item.sparse is not None and item.sparse.count:
            values = self._replaced(values, item.sparse, index)
        if item.normalized and dtype.kind in "iu":
            return np.maximum(values.astype(np.float64) / np.iinfo(dtype).max, -1)
        return values

    def _replaced(self, values: np.ndarray, sparse: Any, index: int) -> np.ndarray:
        if not 0 < sparse.count <= len(values):
            raise self._damaged(f"accessor {index} replaces {sparse.count} of {len(values)}")
        where, what = sparse.indices, sparse.values
        rows = self._view(
            where.bufferView, where.byteOffset or 0, sparse.count, 1,
            np.dtype(_TYPES[where.componentType]),
        )[:, 0].astype(np.int64)  # fmt: skip
        if rows.max() >= len(values):
            raise self._damaged(f"accessor {index} replaces element {rows.max()} of {len(values)}")
        values = values.copy()
        values[rows] = self._view(
            what.bufferView, what.byteOffset or 0, sparse.count, values.shape[1], values.dtype
        )
        return values

    def _view(self, index: int, offset: int, count: int, width: int, dtype: np.dtype) -> np.ndarray:
        view = self.gltf.bufferViews[index]
        content = self._content(view.buffer)
        size = width * dtype.itemsize
        stride = view.byteStride or size
        start = (view.byteOffset or 0) + offset
        end = start + (count - 1) * stride + size if count else start
        limit = min((view.byteOffset or 0) + view.byteLength, len(content))
        if start < 0 or stride < size or end > limit:
            raise self._damaged(f"buffer view {index} ends at byte {limit}, {end} are needed")
        values = np.ndarray((count, width), dtype, content, start, (stride, dtype.itemsize))
        return values.copy()

    def _read(self, index: int) -> bytes:
        buffer = self.gltf.buffers[index]
        if buffer.uri is None:
            content = self.gltf.binary_blob()
            if index or content is None:
                raise self._damaged(f"buffer {index} has neither data nor a file")
            return bytes(content)
        if buffer.uri.startswith("data:"):
            try:
                return base64.b64decode(buffer.uri.partition(",")[2], validate=True)
            except binascii.Error as error:
                raise self._damaged(f"buffer {index} is no base64 ({error})") from error
        name = urllib.parse.unquote(buffer.uri)
        if urllib.parse.urlsplit(buffer.uri).scheme or Path(name).is_absolute():
            raise InputError(
                f"{self.path} keeps its data at {buffer.uri}; only files beside it are read and "
                f"nothing is downloaded, export it as one .glb file"
            )
        if not 0 <= buffer.byteLength <= _LARGEST:
            raise self._damaged(f"buffer {index} claims {buffer.byteLength} bytes")
        beside = self.path.parent / name
        if beside.exists() and not beside.is_file():  # a device has no end
            raise self._damaged(f"{beside}, which it keeps its data in, is no file")
        try:
            with open(beside, "rb") as file:
                return file.read(buffer.byteLength)
        except OSError as error:
            raise InputError(
                f"{self.path} needs {beside}, which cannot be read ({error.strerror}); "
                f"put it there, or export one .glb file"
            ) from error

    def _damaged(self, reason: str) -> InputError:
        return InputError(f"{self.path} is damaged: {reason}; export it again")
