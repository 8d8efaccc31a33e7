"""Tensors in files written by torch, read without torch's own unpickling and one at a time.

`torch.save` writes a zip whose `data.pkl` names the storages beside it (since torch 1.6), before that
pickles one after another with the storages behind them. A tensor inside a plain pickle is such an
older file of its own. Only the pickle is read at first; a tensor's numbers when they are asked for.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from deformlearn.errors import InputError
from deformlearn.unpickle import Inert, load_pickle, load_pickles

_MAGIC = 0x1950A86A20F9469CFC6C
"""First pickle of torch's older files."""

_OLDER = pickle.dumps(_MAGIC, 2)

_DTYPES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
}  # fmt: skip


@dataclass(eq=False)
class _Storage:
    """Where the numbers of one or more tensors are: in a file, or in bytes that were read."""

    dtype: str
    count: int
    place: Path | bytes = b""
    start: int = -1

    def read(self) -> Shaped[np.ndarray, "count"]:
        wanted = self.count * np.dtype(self.dtype).itemsize
        if isinstance(self.place, bytes):
            content = self.place[self.start : self.start + wanted]
        else:
            with open(self.place, "rb") as file:
                file.seek(self.start)
                content = file.read(wanted)
        if self.start < 0 or len(content) != wanted:
            raise InputError("the numbers of a tensor are missing: the file is cut off")
        return np.frombuffer(content, self.dtype)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor whose numbers are still in the file; it can be sent to another process."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> Shaped[np.ndarray, "..."]:
        """Its numbers. A file cut off since is an InputError."""
        values = self.storage.read()
        size = values.itemsize
        strided = np.lib.stride_tricks.as_strided(
            values[self.offset :], self.shape, [size * step for step in self.strides]
        )
        return strided.copy()


def load_torch(path: Path, allowed: Mapping[str, Any], what: str) -> Any:
    """What a file of `torch.save` or a plain pickle holds, with `StoredTensor`s for its tensors.

    `allowed` is as in `unpickle.load_pickle`; files of another kind, cut off or asking for any other
    global are InputErrors.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(len(_OLDER))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; wanted {what}") from error
    if not head:
        raise InputError(f"{path} is empty; wanted {what}")
    if head[:2] == b"PK":
        return _load_zip(path, allowed, what)
    if head == _OLDER:
        return _load_older(path, _known(allowed), what)
    return load_pickle(path, _known(allowed), what=what)


def _load_zip(path: Path, allowed: Mapping[str, Any], what: str) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            root = next((n[: -len("data.pkl")] for n in members if n.endswith("/data.pkl")), None)
            if root is None:
                raise InputError(f"{path} is a zip without torch's data.pkl; wanted {what}")
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
                raise InputError(f"{path} is compressed, as torch writes none; wanted {what}")
            order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
            content = archive.read(f"{root}data.pkl")
    except InputError:
        raise
    except Exception as error:  # zipfile raises many kinds for a damaged archive
        raise InputError(f"{path} is not a whole file of torch.save ({error})") from error
    if order.strip() != b"little":
        raise InputError(f"{path} was written on a big-endian machine; write it again on another")
    storages: dict[str, _Storage] = {}

    def persistent(identity: Any) -> _Storage:
        dtype, key, count = _identity(identity)
        member = members.get(f"{root}data/{key}")
        if member is None or member.file_size != count * np.dtype(dtype).itemsize:
            raise ValueError(f"the storage {key} is missing or cut off")
        return storages.setdefault(
            key, _Storage(dtype, count, path.absolute(), _content_start(path, member.header_offset))
        )

    name = f"{path} (data.pkl)"
    return load_pickle(content, _known(allowed), what=f"{name}: {what}", persistent=persistent)


def _content_start(path: Path, header: int) -> int:
    """Where a stored member's content begins: after its own header, name and padding."""
    with open(path, "rb") as file:
        file.seek(header)
        own = file.read(30)
    if len(own) != 30 or own[:4] != b"PK\x03\x04":
        raise ValueError("a member of the zip has no header")
    name, extra = struct.unpack("<HH", own[26:30])
    return header + 30 + name + extra


def _load_older(source: Path | bytes, known: Mapping[str, Any], what: str) -> Any:
    """A file of torch before 1.6: magic number, version, system, the object, storage keys, storages."""
    storages: dict[str, _Storage] = {}

    def persistent(identity: Any) -> _Storage:
        dtype, key, count = _identity(identity)
        return storages.setdefault(key, _Storage(dtype, count))

    (magic, _, system, value, keys), start = load_pickles(
        source, 5, known, what=what, persistent=persistent
    )
    if magic != _MAGIC or not (isinstance(system, dict) and system.get("little_endian", True)):
        raise InputError(f"{what}: not a little-endian file of torch.save")
    place = source if isinstance(source, bytes) else source.absolute()
    for key in keys if isinstance(keys, list) else ():
        storage = storages.get(str(key))
        if storage is None:
            raise InputError(f"{what}: it lists storages that no tensor has")
        storage.place, storage.start = place, start + 8  # after its length
        start += 8 + storage.count * np.dtype(storage.dtype).itemsize
    if start > (len(source) if isinstance(source, bytes) else source.stat().st_size):
        raise InputError(f"{place if isinstance(place, Path) else what} is cut off; wanted {what}")
    return value


def _identity(identity: Any) -> tuple[str, str, int]:
    """Type, key and length of a storage."""
    if not (isinstance(identity, tuple) and len(identity) >= 5 and identity[0] == "storage"):
        raise ValueError("data outside the pickle that are no storage")
    _, kind, key, _, count = identity[:5]
    if not (isinstance(kind, _Kind) and isinstance(key, str) and isinstance(count, int)):
        raise ValueError("a storage of no type")
    if count < 0:
        raise ValueError("a storage of less than nothing")
    return kind.dtype, key, count


@dataclass(frozen=True)
class _Kind:
    """A storage class, which only ever is a name here."""

    dtype: str


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_unused: Any) -> StoredTensor:
    """`torch._utils._rebuild_tensor_v2`, for tensors that lie within their storage."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or len(shape) > 16:
        raise ValueError("a tensor without a storage")
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a tensor of a shape that is no numbers")
    size = int(np.prod([float(side) for side in shape])) if shape else 1
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if size > storage.count or (size > 0 and last >= storage.count):
        raise ValueError("a tensor larger than its storage")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _embedded(content: Any) -> Any:
    """`torch.storage._load_from_bytes`: a storage as an older file inside a pickle.

    It holds no further one: each could be asked for many times, and each of these again.
    """
    if not isinstance(content, bytes):
        raise ValueError("a storage of no bytes")
    return _load_older(content, _TENSORS, "a tensor inside a pickle")


def _known(allowed: Mapping[str, Any]) -> dict[str, Any]:
    """What a file may name; a storage inside it is read once, however often it is asked for."""
    return {**_TENSORS, "torch.storage._load_from_bytes": cache(_embedded), **allowed}


_TENSORS: dict[str, Any] = {
    **{f"torch.{name}": _Kind(f"<{dtype}") for name, dtype in _DTYPES.items()},
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch.Size": tuple,
    "torch.device": Inert,
}
