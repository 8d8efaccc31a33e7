"""A device that is full: the same work with half as many at a time, and a line in the log that says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from deformlearn.errors import InputError

T = TypeVar("T")


@dataclass
class Portion:
    """How many people or images a device takes at once; once it was full, never again as many."""

    size: int
    what: str
    """Plural: people, images."""

    def fitting(self, work: Callable[[int], T]) -> T:
        """What `work` makes when it takes as many at once as fit; a full device begins it again.

        One that does not fit alone is an InputError.
        """
        return self._fitting(work, self.size)

    def over(self, items: Any, work: Callable[[Any], T]) -> Iterator[T]:
        """What `work` makes of each part of the items (a tensor or a sequence), in order."""
        done = 0
        while done < len(items):
            rest: Sequence[Any] = items[done:]
            taken = min(self.size, len(rest))

            def first(count: int, rest: Sequence[Any] = rest) -> T:
                return work(rest[:count])

            found = self._fitting(first, taken)
            done += min(self.size, taken)
            yield found

    def _fitting(self, work: Callable[[int], T], count: int) -> T:
        while True:
            try:
                return work(count)
            except torch.OutOfMemoryError as error:
                reason = reason_of(error)
            # Out of `except`: there, the error still holds what the attempt has made.
            if count == 1:
                raise InputError(
                    f"out of memory for one of the {self.what} ({reason}); "
                    f"free the device, take a larger one, or give --device cpu"
                )
            count = self.size = count // 2
            say(f"from now on {count} {self.what} at a time", reason)


def reason_of(error: torch.OutOfMemoryError) -> str:
    """The line of torch's message that says how much was wanted."""
    return str(error).splitlines()[0]


def say(consequence: str, reason: str) -> None:
    """Tell in the log what follows from a full device, whose unused memory is let go of."""
    logging.getLogger(__name__).warning("out of memory: %s (%s)", consequence, reason)
    torch.cuda.empty_cache()
