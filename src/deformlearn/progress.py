"""What long work tells the person who waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_EVERY = 30.0
"""Seconds between two lines about a stage in a log."""
_REMEMBERED = 24 * 3600.0
"""Seconds whose speed tells a bar the time that is left: an epoch may take hours."""


@runtime_checkable
class Advance(Protocol):
    """Called with how much is done by now, and with the total when it comes to be known."""

    def __call__(self, done: int | None, total: int | None = None) -> None: ...


class Watch:
    """Shows one bar a stage on a terminal, a line now and then in a log, nothing when `quiet`."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False)

    @contextmanager
    def stage(self, text: str, total: int | None) -> Iterator[Advance]:
        """A piece of work of `total` units (None: not known yet)."""
        start = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        live = self.console.is_terminal
        log = _Log(self, text, total, start)
        with Progress(
            *columns, TimeRemainingColumn(), console=self.console, transient=True,
            disable=not live, speed_estimate_period=_REMEMBERED,
        ) as bar:  # fmt: skip
            task = bar.add_task(text, total=total)

            def advance(done: int | None, total: int | None = None) -> None:
                bar.update(task, completed=done, total=total)
                if not live:
                    log.advance(done, total)

            yield advance
        self.say(f"{text}: {time.monotonic() - start:.1f} s")

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False, soft_wrap=True)


class _Log:
    """Where there is no bar: a line every half minute, with the time that is left."""

    def __init__(self, watch: Watch, text: str, total: int | None, start: float) -> None:
        self._watch, self._text, self._total, self._last = watch, text, total, start
        self._first: tuple[float, int] | None = None
        """When it was first heard how much is done, and how much: that may be of an earlier command."""

    def advance(self, done: int | None, total: int | None) -> None:
        self._total = total or self._total
        now = time.monotonic()
        if done is None:
            return
        begin, before = self._first = self._first or (now, done)
        if not done or now - self._last < _EVERY:
            return
        self._last = now
        line = f"{self._text}: {done}" + (f" of {self._total}" if self._total else "")
        if self._total and done > before:
            left = (now - begin) * (self._total - done) / (done - before)
            line += f", about {left:.0f} s left"
        self._watch.say(line)


QUIET = Watch(quiet=True)
