"""Work for other processes of this machine; one that is killed is an error, and nobody waits for it."""

from __future__ import annotations

import contextlib
import multiprocessing.resource_tracker
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
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


def require_workers(workers: int) -> None:
    """Refuse a number of processes that is none."""
    if workers < 1:
        raise InputError(f"the work needs at least 1 process, got workers {workers}")


@contextlib.contextmanager
def crew(workers: int) -> Iterator[Submit]:
    """What gives work to so many other processes; with one worker to threads of this one.

    Each process has a pipe of its own, which breaks when it is killed. ProcessPoolExecutor has one for
    all: it waits for ever for the rest of what a killed process had begun to send.
    """
    apart = workers > 1
    hired: list[_Worker] = []
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
        for worker in hired:
            worker.pipe.close()
            worker.process.join()


@dataclass(frozen=True)
class _Worker:
    """Another process, and what it is spoken to through."""

    process: BaseProcess
    pipe: Connection

    def ended(self) -> InputError:
        """What there is to say when the pipe has broken."""
        self.process.join(1)
        if self.process.exitcode == -9:  # Windows does not know it by name
            reason = "was killed, as one is for its memory; give fewer workers"
        else:
            reason = f"has ended with exit code {self.process.exitcode}; see what it says above"
        return InputError(f"a worker process {reason}: the same command goes on from here")


class _Mine(threading.local):
    """Of each thread, the worker or why there is none."""

    worker: _Worker
    failure: Exception | None = None


_mine = _Mine()


def _hire(hired: list[_Worker]) -> None:
    """A process for this thread alone; it ends when its pipe does."""
    # Fork would copy locked thread pools; spawn starts clean, on every system.
    spawn = get_context("spawn")
    try:
        pipe, other = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(other,), daemon=True)
        with _nothing_from_here(), _interrupts_held():
            process.start()
    except (OSError, AssertionError) as error:
        # No files or processes are left, or this process may not have any.
        _mine.failure = error
        return
    other.close()  # the process has the only one: the pipe breaks with it
    _mine.worker = _Worker(process, pipe)
    hired.append(_mine.worker)
    # Until it is there, Windows keeps the other end open here, which would never break.
    if wait([pipe, process.sentinel])[0] is pipe:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()
    else:
        pipe.close()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that this thread starts meanwhile begin with Ctrl-C held back: importing, they could
    answer it by nothing but a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # The first process brings another one along, whose start lets signals in again.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_environment = threading.Lock()


@contextlib.contextmanager
def _nothing_from_here() -> Iterator[None]:
    """A Python that is started inside takes no module from the folder it is started in.

    It would look there first, before it hears where we found ours. That folder may be a data set's, and
    its `pickle.py` would be run.
    """
    with _environment:
        before = os.environ.get("PYTHONSAFEPATH")
        os.environ["PYTHONSAFEPATH"] = "1"
        try:
            yield
        finally:
            del os.environ["PYTHONSAFEPATH"]
            if before is not None:
                os.environ["PYTHONSAFEPATH"] = before


def _serve(pipe: Connection) -> None:
    """Do what comes, until nobody is there to send more."""
    start_worker()
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        pipe.send("here")
        while True:
            order, several = pipe.recv()
            work, arguments = pickle.loads(
                order, buffers=[pipe.recv_bytes() for _ in range(several)]
            )
            pipe.send_bytes(_answer(work, arguments))


def _answer(work: Callable[..., Any], arguments: Sequence[Any]) -> bytes:
    """What the work makes and raises, as bytes; what cannot travel raises in its place."""
    made, raised = None, None
    try:
        made = work(*arguments)
    except Exception as error:
        error.add_note(traceback.format_exc())  # a traceback is not sent along
        raised = error
    try:
        answer = pickle.dumps((made, raised))
        if raised is not None:
            pickle.loads(answer)  # its class may not know how
        return answer
    except Exception:
        # A class may fail to be sent in any way; what the work itself had to say matters more.
        said = traceback.format_exc() if raised is None else "".join(raised.__notes__)
        return pickle.dumps((None, RuntimeError(said)))


def _elsewhere(work: Callable[..., Any], *arguments: Any) -> Any:
    """What this thread's process makes of the work."""
    if _mine.failure is not None:
        raise InputError(
            f"a worker process cannot be started ({_mine.failure}); give fewer workers"
        ) from _mine.failure
    worker = _mine.worker
    # Arrays go by themselves: without a copy, and without Python's lock while they are written.
    arrays: list[pickle.PickleBuffer] = []
    order = pickle.dumps((work, arguments), protocol=5, buffer_callback=arrays.append)
    try:
        worker.pipe.send((order, len(arrays)))
        for array in arrays:
            worker.pipe.send_bytes(array.raw())
        answer = worker.pipe.recv_bytes()
    except (EOFError, OSError) as reason:
        raise worker.ended() from reason
    made, raised = pickle.loads(answer)
    if raised is not None:
        raise raised
    return made
