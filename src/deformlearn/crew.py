"""Work for other processes of this machine; one that is killed is an error, and nobody waits for it."""

from __future__ import annotations

import contextlib
import pickle
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from deformlearn.errors import InputError
from deformlearn.runtime import start_worker

T = TypeVar("T")

Submit = Callable[..., Future[Any]]
"""Gives a function and its arguments to others, who call it."""


def in_order(begun: Iterable[Callable[[], T]], ahead: int) -> Iterator[T]:
    """What comes of jobs, each of which is begun by being asked for; `ahead` before one is waited for."""
    waiting: deque[Callable[[], T]] = deque()
    for result in begun:
        waiting.append(result)
        if len(waiting) > ahead:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


@contextlib.contextmanager
def crew(workers: int) -> Iterator[Submit]:
    """What gives work to so many other processes; with one worker to threads of this one.

    Each process has a pipe of its own, which breaks when it is killed. ProcessPoolExecutor has one for
    all: it waits for ever for the rest of what a killed process had begun to send.
    """
    apart = workers > 1
    hired: list[tuple[BaseProcess, Connection]] = []
    threads = (
        ThreadPoolExecutor(workers, initializer=_hire, initargs=(hired,))
        if apart
        else ThreadPoolExecutor()
    )

    def submit(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return threads.submit(*((_elsewhere, work) if apart else (work,)), *arguments)

    try:
        yield submit
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
        for process, pipe in hired:
            pipe.close()
            process.join()


_mine = threading.local()


def _hire(hired: list[tuple[BaseProcess, Connection]]) -> None:
    """A process for this thread alone; it ends when its pipe does."""
    # Fork would copy locked thread pools; spawn starts clean, on every system.
    spawn = get_context("spawn")
    _mine.pipe, other = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(other,), daemon=True)
    process.start()
    other.close()  # the process has the only one: the pipe breaks with it
    hired.append((process, _mine.pipe))


def _serve(pipe: Connection) -> None:
    """Do what comes, until nobody is there to send more."""
    start_worker()
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            order, several = pipe.recv()
            work, arguments = pickle.loads(
                order, buffers=[pipe.recv_bytes() for _ in range(several)]
            )
            made, raised = None, None
            try:
                made = work(*arguments)
            except Exception as error:
                error.add_note(traceback.format_exc())  # a traceback is not sent along
                raised = error
            pipe.send((made, raised))


def _elsewhere(work: Callable[..., Any], *arguments: Any) -> Any:
    """What this thread's process makes of the work."""
    # Arrays go by themselves: without a copy, and without Python's lock while they are written.
    arrays: list[pickle.PickleBuffer] = []
    order = pickle.dumps((work, arguments), protocol=5, buffer_callback=arrays.append)
    try:
        _mine.pipe.send((order, len(arrays)))
        for array in arrays:
            _mine.pipe.send_bytes(array.raw())
        made, raised = _mine.pipe.recv()
    except (EOFError, OSError) as reason:
        raise InputError(
            "a worker process has ended, as one does that is killed for its memory; give fewer workers: "
            "the same command goes on from here"
        ) from reason
    if raised is not None:
        raise raised
    return made
