"""Where the code runs: device, precision, seeds, threads. The only file that asks."""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ContextDecorator
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

from deformlearn.errors import InputError

T = TypeVar("T")
R = TypeVar("R")


def device(name: str = "auto") -> torch.device:
    """The named device; `auto` is CUDA where there is one, else the CPU.

    Of several processes that torchrun started on a machine, each gets the CUDA device of its rank; by
    number, since a thread that a process starts would begin on device 0.
    """
    if name == "auto":
        return device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}; give auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device {name!r} was asked for, but this PyTorch sees no CUDA device; use cpu"
        )
    if chosen == torch.device("cuda"):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return chosen


def generator(seed: int, *stream: int, where: torch.device | str = "cpu") -> torch.Generator:
    """A random stream of its own for each (seed, stream): what one stage draws moves no other."""
    mixed = seed
    for number in stream:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 1)
    return torch.Generator(device=where).manual_seed(mixed)


def autocast(where: torch.device) -> torch.autocast:
    """bfloat16 where the hardware multiplies it natively, else float32."""
    if where.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.autocast("cuda", torch.bfloat16, enabled=native)
    return torch.autocast("cpu", torch.bfloat16, enabled=_cpu_has_bfloat16())


class _ExactFloat32(ContextDecorator):
    """Torch has one switch a process: of threads that are inside at once, the last one puts it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[str] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = [backend.fp32_precision for backend in self._backends()]
                for backend in self._backends():
                    backend.fp32_precision = "ieee"
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for backend, precision in zip(self._backends(), self._before, strict=True):
                    backend.fp32_precision = precision

    @staticmethod
    def _backends() -> list[Any]:
        every: Any = torch.backends
        return [every.cuda.matmul, every.mkldnn.matmul]


exact_float32 = _ExactFloat32()
"""Products of float32 numbers without the short cuts that a process may allow (TF32, bfloat16)."""


def has_compiler() -> bool:
    """Whether torch.compile can build code here: it needs a C++ compiler and Python's headers."""
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return headers.exists() and any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`function` of each item, in order; as many at once as torch may use threads, each in one.

    Many small products keep a core busy each, where one of them cannot keep several. With one thread
    this is `map`.
    """
    allowed = torch.get_num_threads()
    if min(allowed, len(items)) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(allowed, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(allowed)


def start_worker() -> None:
    """What a worker process does first: one thread for torch, and an end when its parent ends.

    A pool's workers do not notice that their parent was killed; they would wait, and hold their memory,
    for ever.
    """
    torch.set_num_threads(1)
    if (parent := multiprocessing.parent_process()) is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def end_with_parent() -> None:
    """From now on this process ends when the one that started it does, however that ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def versions() -> dict[str, str]:
    """Versions and hardware that a run folder records."""
    packages = ("deformlearn", "torch", "timm", "anny", "numpy", "pyarrow")
    found = {name: _version(name) for name in packages}
    found["python"] = platform.python_version()
    found["machine"] = platform.machine()
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _cpu_has_bfloat16() -> bool:
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
