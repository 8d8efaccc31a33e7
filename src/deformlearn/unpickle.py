"""Pickles read by an allow-list: nothing a file names is ever run unless it is on the list.

A pickle is a program that may call any importable function. Body models, detector dumps and many
public data sets come as pickles all the same. Here a global is looked up in a fixed table, by its
full name: harmless builtins, stand-ins for numpy's rebuilding functions, and what the reader of a
format adds (usually `Inert` stand-ins). Every other name ends the reading with that name in the
message. Nothing of numpy's own unpickling is called: arrays are made of checked bytes and shapes.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deformlearn.errors import InputError
from deformlearn.pickled_numpy import NUMPY, Array, DType, short

_DEEPEST = 200
"""Containers within containers; a deeper pickle is no data file."""

_DEEPEST_TUPLE = 16

_LARGEST = 1 << 30
"""Bytes that the arrays of an .npz may unfold to."""

Persistent = Callable[[Any], Any]
"""What stands for data that a pickle keeps outside itself, by the identity it gives."""


class Inert:
    """A stand-in for a class of a foreign package: keeps what it is given and does nothing.

    Subclass it for a class whose content is wanted; what the pickle would have restored is found in
    `args` (of the constructor) and in the instance's attributes.
    """

    args: tuple = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        made = super().__new__(cls)
        made.__dict__["args"] = args
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.__dict__.update(
                    {key: value for key, value in part.items() if isinstance(key, str)}
                )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def load_pickle(
    source: Path | bytes,
    allowed: Mapping[str, Any] | None = None,
    *,
    what: str = "a pickle",
    persistent: Persistent | None = None,
) -> Any:
    """The object in a pickle file (or in its bytes), of any protocol and from Python 2 or 3.

    `allowed` maps full names (`module.name`, or `module.*` for a package) to what stands in for them;
    numpy arrays and plain containers are always known. `what` names the wanted format in messages.
    A name off the list, a broken or a foreign file is an InputError.
    """
    return load_pickles(source, 1, allowed, what=what, persistent=persistent)[0][0]


def load_pickles(
    source: Path | bytes,
    count: int,
    allowed: Mapping[str, Any] | None = None,
    *,
    what: str = "a pickle",
    persistent: Persistent | None = None,
) -> tuple[list[Any], int]:
    """The first `count` objects of a file that holds pickles one after another, and where they end.

    Otherwise as `load_pickle`.
    """
    name = what if isinstance(source, bytes) else str(source)
    known = {**_ALWAYS, **(allowed or {})}
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            machines = (_Unpickler(file, known, name, persistent) for _ in range(count))
            found = [_plain(machine.load(), {}, 0) for machine in machines]
            return found, file.tell()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {source!r:.200}: {error}; wanted {what}") from error
    # A damaged pickle may fail anywhere: in the machine that runs it, or in what it rebuilds.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{name} cannot be read as a pickle ({reason}); wanted {what}") from error


def load_npz(
    path: Path, allowed: Mapping[str, Any] | None = None, *, what: str = "a numpy archive"
) -> dict[str, Any]:
    """The arrays of an .npz; arrays of objects are read through the allow-list.

    An object array that holds a single object (a saved dict) is returned as that object.
    """
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(info.file_size for info in archive.infolist())
            if unfolded > _LARGEST:
                raise InputError(
                    f"{path} unfolds to {unfolded} bytes, more than the {_LARGEST} that are read; "
                    f"wanted {what}"
                )
            for member in archive.namelist():
                with archive.open(member) as file:
                    found[member.removesuffix(".npy")] = _read_npy(
                        file, allowed, f"{path} ({member})", what
                    )
    except InputError:
        raise
    except Exception as error:  # of the disk, the archive, its compression, and numpy's headers
        raise InputError(f"{path} is not a whole .npz ({error}); wanted {what}") from error
    return found


def _read_npy(file: Any, allowed: Mapping[str, Any] | None, name: str, what: str) -> Any:
    content = file.read()
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(stream)
    if not dtype.hasobject:
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    value = load_pickle(content[stream.tell() :], allowed, what=f"{what}: {name}")
    return value.item() if shape == () and isinstance(value, np.ndarray) else value


class _Unpickler(pickle._Unpickler):
    """Python's own machine in its readable form, whose memo cannot be made to fill the memory.

    It may set the state of nothing but stand-ins, and knows no registry of extensions.
    """

    stack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = {
        code: step
        for code, step in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (pickle.EXT1, pickle.EXT2, pickle.EXT4)
    }

    def __init__(
        self, file: Any, allowed: dict[str, Any], name: str, persistent: Persistent | None
    ) -> None:
        # latin1 is how numpy arrays of Python 2 keep their bytes.
        super().__init__(file, encoding="latin1")
        self._allowed = allowed
        self._name = name
        self._persistent = persistent
        self.depths: dict[int, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._allowed:
            return self._allowed[full]
        package = module
        while package:
            if f"{package}.*" in self._allowed and "." not in name:
                return self._allowed[f"{package}.*"]
            package = package.rpartition(".")[0]
        raise InputError(
            f"{self._name} asks to import {short(full)}, which its format does not need; "
            f"it was not read further, and nothing in it was run"
        )

    def persistent_load(self, identity: Any) -> Any:
        if self._persistent is None:
            raise InputError(
                f"{self._name} refers to data outside itself, which its format does not need"
            )
        return self._persistent(identity)

    def load_build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, (Inert, Array, DType)):
            made.__setstate__(state)
        elif isinstance(made, collections.OrderedDict) and isinstance(state, dict):
            pass  # attributes of a dict are no data
        else:
            raise ValueError(f"a state for a {type(made).__name__}")

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self) -> None:
        """Python's own takes as much memory as the file claims before it reads."""
        self.dispatch[pickle.BINBYTES8[0]](self)
        self.stack[-1] = bytearray(self.stack[-1])

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def _shallow(step: Callable[[Any], None]) -> Callable[[Any], None]:
    """A tuple of tuples of tuples ... takes for ever to hash as a key, however small its file."""

    def checked(machine: _Unpickler) -> None:
        step(machine)
        made = machine.stack[-1]
        depths = machine.depths
        depth = 1 + max(
            (depths.get(id(item), 1) for item in made if type(item) is tuple), default=0
        )
        if depth > _DEEPEST_TUPLE:
            raise ValueError("its tuples are nested too deeply")
        if depth > 1:
            depths[id(made)] = depth

    return checked


for _code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
    _Unpickler.dispatch[_code[0]] = _shallow(_Unpickler.dispatch[_code[0]])


def _bytes(content: Any = b"", encoding: Any = "latin1") -> bytes:
    """`bytes` and `bytearray` of what is there; of a number they would be that many zeros."""
    if isinstance(content, str):
        return _encoded(content, encoding)
    if not isinstance(content, (bytes, bytearray, list)):
        raise ValueError(f"bytes of a {type(content).__name__}")
    return bytes(content)


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 writes bytes: text to be encoded as latin1, and nothing else."""
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ValueError("bytes that are not text in latin1")
    return text.encode("latin1")


def _reconstructor(cls: Any, base: Any, state: Any) -> Any:
    """`copyreg._reconstructor` for stand-ins and dicts."""
    if isinstance(cls, type) and issubclass(cls, Inert):
        return cls()
    if cls in (dict, list, set) and base is cls:
        return cls(state) if state is not None else cls()
    raise ValueError(f"an object of the type {short(cls)}")


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    """The value with numpy's arrays and types where their stand-ins were."""
    if isinstance(value, (Array, DType)):
        inner = value.value
        if isinstance(inner, np.ndarray) and inner.dtype == object and id(value) not in done:
            done[id(value)] = value
            flat = inner.ravel(order="K")  # a view: the array is contiguous
            for place in range(flat.size):
                flat[place] = _plain(flat[place], done, depth + 1)
        return inner
    if not isinstance(value, (list, tuple, dict, Inert)):
        return value
    if id(value) in done:
        return done[id(value)]
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    done[id(value)] = value
    if isinstance(value, list):
        value[:] = [_plain(item, done, depth + 1) for item in value]
    elif isinstance(value, dict):
        for key in value:
            value[key] = _plain(value[key], done, depth + 1)
    elif isinstance(value, Inert):
        _plain(value.__dict__, done, depth + 1)
    else:
        items = [_plain(item, done, depth + 1) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            done[id(value)] = tuple(items)
    return done[id(value)]


_BUILTINS: dict[str, Any] = {
    "set": set, "frozenset": frozenset, "dict": dict, "list": list, "tuple": tuple, "int": int,
    "long": int, "float": float, "bool": bool, "complex": complex, "slice": slice, "object": Inert,
    "bytes": _bytes, "bytearray": _bytes,
}  # fmt: skip

_ALWAYS: dict[str, Any] = {
    **{f"builtins.{name}": value for name, value in _BUILTINS.items()},
    **{f"__builtin__.{name}": value for name, value in _BUILTINS.items()},
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": lambda *_: {},
    "copy_reg._reconstructor": _reconstructor,
    "copyreg._reconstructor": _reconstructor,
    "_codecs.encode": _encoded,
    **NUMPY,
}
