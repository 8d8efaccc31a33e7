"""torch.compile: what is constant to it; for the solvers, when, one line about its time, and a way out."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch

from deformlearn import runtime
from deformlearn.config import RegistrationConfig

P = ParamSpec("P")
T = TypeVar("T")

_ADAM_EARNS_IT = 20_000
"""People whose eager fits by Adam take about as long as compiling."""
_GAUSS_NEWTON_EARNS_IT = 1_000_000
"""The same for Gauss-Newton on CUDA: a guess until a GPU has run `benchmarks/gpu.sh`."""


class Compiled:
    """A function, compiled when it is first called; eager from a failure then on, with one warning."""

    def __init__(self, function: Callable[..., Any], *, dynamic: bool | None) -> None:
        self._eager = function
        self._function = torch.compile(function, dynamic=dynamic)
        self.fresh = True
        """Not called yet."""

    @property
    def failed(self) -> bool:
        """Whether the eager function is called instead."""
        return self._function is self._eager

    def __call__(self, *arguments: Any) -> Any:
        if not self.fresh:
            return self._function(*arguments)
        self.fresh = False
        threading.Thread(target=_try_instruction_sets, daemon=True).start()
        try:
            with warnings.catch_warnings():
                # The compiler talks of its own inner workings; nothing of it is the user's affair.
                warnings.simplefilter("ignore")
                return self._function(*arguments)
        except torch.OutOfMemoryError:
            self.fresh = True  # says nothing about the compiler: smaller batches will come
            raise
        except RuntimeError as error:
            self._function = self._eager
            reason = str(error).splitlines()[0]
            warnings.warn(f"compilation failed, registration runs eagerly: {reason}", stacklevel=2)
            return self._eager(*arguments)


def _try_instruction_sets() -> None:
    """Have torch find out what the processor can do while it traces, and not only when that is done.

    Once a machine it compiles and runs a trial of each instruction set, for some ten seconds on one core;
    tracing takes as long on another. Its own name for that may change: then it is done later, as ever.
    """
    with contextlib.suppress(Exception):
        from torch._inductor import cpu_vec_isa

        cpu_vec_isa.pick_vec_isa()


def constant(function: Callable[P, T]) -> Callable[P, T]:
    """The function, whose results are kept (`kept`); compiled code has them as constants.

    A compiler looks through `lru_cache`: it would make in every step what is always the same.
    """
    kept = lru_cache(function)

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        return kept(*arguments, **options)  # type: ignore[arg-type]

    # By this name the compiler tells constants apart.
    call.__code__ = call.__code__.replace(co_name=function.__name__)  # type: ignore[attr-defined]
    call.kept = kept  # type: ignore[attr-defined]
    return torch.compiler.assume_constant_result(call)


@lru_cache
def compiled(function: Callable[..., Any], *, dynamic: bool | None) -> Compiled:
    """The function, compiled once in this process."""
    return Compiled(function, dynamic=dynamic)


def decided(config: RegistrationConfig, people: int, device: torch.device) -> RegistrationConfig:
    """`compile = "auto"` settled: where compiling takes less time than it saves.

    On a CPU Gauss-Newton is never compiled: that makes it slower (docs/decisions/0016).
    """
    if config.compile != "auto":
        return config
    if config.solver == "adam":
        earned = people >= _ADAM_EARNS_IT
    else:
        earned = device.type == "cuda" and people >= _GAUSS_NEWTON_EARNS_IT
    return replace(config, compile="always" if earned else "never")


def can_compile(device: torch.device) -> bool:
    """Whether there is what compiling needs; if not, a warning says so."""
    if device.type != "cpu" or runtime.has_compiler():
        return True
    warnings.warn(
        "no C++ compiler or no Python.h: registration is not compiled, and runs eagerly",
        stacklevel=4,
    )
    return False


def say_time(begin: float) -> None:
    """Say how long compiling took, with the first steps it was for."""
    logging.getLogger(__name__).warning(
        "registration: compile time %.0f s (torch keeps it for the next run)",
        time.perf_counter() - begin,
    )
