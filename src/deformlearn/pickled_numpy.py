"""What stands for numpy's classes and functions while a pickle is read: checked values, nothing else.

Numpy's own steps of unpickling trust what they are told: a shape may ask for more than all of the
memory, and a list of objects that is shorter than the shape is read past its end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class DType:
    """A numpy dtype while it is rebuilt: made of its name and of the checked part of its state."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(name, str) or len(name) > 40:
            raise ValueError(f"a numpy type called {short(name)}")
        self.value = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        order, subarray, names, fields = state[1:5]
        if subarray is not None:
            raise ValueError("a numpy type of arrays")
        if fields is not None:
            self.value = _structured(names, fields, state[5])
        elif order in ("<", ">", "=", "|"):
            self.value = self.value.newbyteorder(order)


def _structured(names: Any, fields: Any, size: Any) -> np.dtype:
    """A type of named fields; numpy checks that they lie within it."""
    own = {str(name): fields[name] for name in names}
    return np.dtype(
        {
            "names": list(own),
            "formats": [field[0].value for field in own.values()],
            "offsets": [int(field[1]) for field in own.values()],
            "itemsize": int(size),
        }
    )


class Array:
    """A numpy array while it is rebuilt, from a state whose content is as large as its shape says."""

    def __init__(self) -> None:
        self.value = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        order = "F" if fortran is True or fortran == 1 else "C"
        if not isinstance(dtype, DType):
            raise ValueError("an array without a type")
        if not dtype.value.hasobject:
            self.value = _from_buffer(content, dtype, shape, order).copy(order="K")
            return
        if (
            dtype.value.kind != "O"
            or not isinstance(content, list)
            or len(content) != _count(shape)
        ):
            raise ValueError("an array of objects whose content does not fill its shape")
        flat = np.empty(len(content), object)
        flat[:] = content
        self.value = flat.reshape(shape)  # lists of objects are in C order whatever the array's


class NDArray:
    """What `numpy.ndarray` is to a pickle: a name to hand to numpy's first step of rebuilding."""

    def __new__(cls, *args: Any) -> NDArray:
        raise ValueError("numpy.ndarray called")


def _rebuilt(subtype: Any, shape: Any, dtype: Any) -> Array:
    """What numpy's first step of rebuilding gives: an empty array, which its state then fills."""
    if subtype is not NDArray:
        raise ValueError(f"an array of the type {short(subtype)}")
    return Array()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> Any:
    raw = content.encode("latin1") if isinstance(content, str) else content
    if (
        not isinstance(dtype, DType)
        or dtype.value.hasobject
        or not isinstance(raw, (bytes, bytearray))
    ):
        raise ValueError("an array of numbers of something else")
    if len(raw) != _count(shape) * dtype.value.itemsize:
        raise ValueError("an array whose content does not fill its shape")
    values: Any = np.frombuffer(raw, dtype.value)
    return values.reshape(shape, order="F" if order == "F" else "C")


def _count(shape: Any) -> int:
    sizes = (shape,) if isinstance(shape, int) else shape
    if not isinstance(sizes, (tuple, list)) or len(sizes) > 32:
        raise ValueError("an array of no shape")
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ValueError("an array of a shape that is no numbers")
    return math.prod(sizes)


def short(value: Any) -> str:
    """A name for a message; of a structure, which may be endless, only its kind."""
    return repr(value)[:80].strip("'") if isinstance(value, (str, bytes)) else type(value).__name__


NUMPY: dict[str, Any] = {
    "numpy.ndarray": NDArray,
    "numpy.dtype": DType,
    **{f"{core}.multiarray._reconstruct": _rebuilt for core in ("numpy.core", "numpy._core")},
    **{
        f"{core}.multiarray.scalar": lambda dtype, content=b"": _from_buffer(
            content, dtype, 1, "C"
        )[0]
        for core in ("numpy.core", "numpy._core")
    },
    **{f"{core}.numeric._frombuffer": _from_buffer for core in ("numpy.core", "numpy._core")},
}
"""By the full names that pickles give them."""
