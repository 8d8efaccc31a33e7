"""The next batch is made while a GPU works on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from deformlearn.memory import Portion, reason_of, say

S = TypeVar("S")
T = TypeVar("T")


def ahead(items: Iterable[T], where: torch.device) -> Iterator[T]:
    """The same items in the same order; for a CUDA device each is made while the one before is used.

    One other thread makes them, at most one waits, and what making it raises is raised where it was to
    come. Its kernels go to the default stream of `where`, as the caller's do. On a CPU all cores are the
    network's already: a second thread made a step half as long again (docs/performance.md).
    """
    if where.type != "cuda":
        yield from items
        return
    end: Any = object()
    iterator = iter(items)
    # A new thread begins on device 0, and would open a context there.
    device = torch.cuda.current_device() if where.index is None else where.index
    with ThreadPoolExecutor(1, "ahead", torch.cuda.set_device, (device,)) as maker:
        coming = maker.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = maker.submit(next, iterator, end)
            yield item


def made_ahead(make: Callable[[S], T], items: Iterable[S], where: torch.device) -> Iterator[T]:
    """`make` of each item, `ahead` for as long as the device has room for the next beside this one.

    From then on each is made when its turn comes; one that does not fit alone is an InputError.
    """
    full = False

    def attempt(item: S) -> tuple[S, T | None]:
        nonlocal full
        if not full:
            try:
                return item, make(item)
            except torch.OutOfMemoryError as error:
                full, reason = True, reason_of(error)
            say("from now on no batch is made before the last is used", reason)
        return item, None

    for item, made in ahead(map(attempt, items), where):
        if made is None:
            (made,) = Portion(1, "batches").over([item], lambda one: make(one[0]))
        yield made


def sent(tensor: torch.Tensor, where: torch.device) -> torch.Tensor:
    """A CPU tensor on another device; a CUDA device copies it while the host goes on."""
    if where.type != "cuda" or tensor.is_cuda:
        return tensor.to(where)
    return tensor.pin_memory().to(where, non_blocking=True)
