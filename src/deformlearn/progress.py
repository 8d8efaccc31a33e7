"""What long work tells the person who waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int], None]
"""Called with how much is done by now."""


class Watch:
    """Shows one bar a stage on a terminal, one line a stage in a log, nothing when `quiet`."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False)

    @contextmanager
    def stage(self, text: str, total: int) -> Iterator[Advance]:
        """A piece of work of `total` units."""
        start = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        live = self.console.is_terminal
        with Progress(
            *columns, TimeRemainingColumn(), console=self.console, transient=True, disable=not live
        ) as bar:
            task = bar.add_task(text, total=total)
            yield lambda done: bar.update(task, completed=done)
        self.say(f"{text}: {time.monotonic() - start:.1f} s")

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False, soft_wrap=True)


QUIET = Watch(quiet=True)
