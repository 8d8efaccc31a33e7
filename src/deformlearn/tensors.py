"""A dataclass of tensors as one value: map, move, index, concatenate. And numbers that never change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from deformlearn.compiling import constant

T = TypeVar("T", bound="TensorData")


class TensorData:
    """Base of the frozen dataclasses whose fields are tensors (or other `TensorData`).

    Fields of any other type are static: they stay as they are, and must agree where values meet.
    """

    def map(self: T, function: Callable[[Tensor], Tensor]) -> T:
        """The same value with `function` applied to every tensor in it."""
        return self._rebuild(lambda tensor: function(tensor))

    def to(
        self: T, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> T:
        """The same value on another device; `dtype` changes floating-point tensors only."""
        return self.map(
            lambda x: x.to(device=device, dtype=dtype if x.is_floating_point() else None)
        )

    def detach(self: T) -> T:
        """The same numbers, cut from the graph that made them."""
        return self.map(torch.Tensor.detach)

    def __getitem__(self: T, index: Any) -> T:
        """The selected rows (the same index on every tensor's first axis)."""
        return self.map(lambda x: x[index])

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone travel to other processes: what was computed from them can be again."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(next(self.tensors()))

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor, depth first, in the order of the fields."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, TensorData):
                yield from value.tensors()

    def _rebuild(self: T, function: Callable[[Tensor], Tensor]) -> T:
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changes[field.name] = function(value)
            elif isinstance(value, TensorData):
                changes[field.name] = value._rebuild(function)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def combine(values: Sequence[T], function: Callable[[list[Tensor]], Tensor]) -> T:
    """One value whose every tensor is `function` of the corresponding tensors of `values`."""
    columns = zip(*(list(value.tensors()) for value in values), strict=True)
    combined = iter([function(list(column)) for column in columns])
    return values[0].map(lambda _: next(combined))


def concatenate(values: Sequence[T]) -> T:
    """The rows of all `values`, one after the other."""
    return combine(values, torch.cat)


def where(condition: Tensor, chosen: T, otherwise: T) -> T:
    """Row by row: `chosen` where `condition` (batch,) holds, else `otherwise`."""

    def pick(pair: list[Tensor]) -> Tensor:
        shape = condition.shape + (1,) * (pair[0].ndim - condition.ndim)
        return torch.where(condition.view(shape), pair[0], pair[1])

    return combine([chosen, otherwise], pick)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a number that is not finite; None where there is none."""
    return next((name for name, one in tensors.items() if not one.isfinite().all()), None)


def fixed(
    values: tuple[Any, ...], device: torch.device, dtype: torch.dtype = torch.long
) -> Shaped[Tensor, "..."]:
    """Numbers that never change (indices, signs) as a tensor, made once for each device.

    A list that is written where it is used is copied to a GPU each time, and the host waits until the GPU
    has done all that was asked of it before. Never write to what comes back.
    """
    return _made_once(values, device, dtype)[0]


@constant
def _made_once(
    values: tuple[Any, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """One tensor; in a tuple, for the compiler would take all tensors by one name for the same."""
    # Whoever is the first may be in inference mode, whose tensors no gradient can use later, or trace
    # a network, whose tensors are none.
    with torch.inference_mode(False), unset_fake_temporarily():
        return (torch.tensor(values, dtype=dtype, device=device),)
