"""The processes that do one piece of work together: torchrun starts them, torch.distributed joins them."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as group
from jaxtyping import Int
from torch import Tensor

from deformlearn.errors import InputError, told
from deformlearn.runtime import end_with_parent
from deformlearn.tensors import TensorData, concatenate

T = TypeVar("T", bound=TensorData)

_PATIENCE = timedelta(days=7)
"""Rank 0 may work alone for hours while the others wait; a dead process is noticed at once all the same."""
_LAST_WORD = timedelta(seconds=10)
"""How long a process that must end waits for rank 0 to say why."""
_CPU, _CUDA = "gloo", "cpu:gloo,cuda:nccl"
"""Backends; objects always travel by gloo, from ordinary memory."""
_FAILED = "failed"
"""The note that the first process to fail leaves."""


@dataclass(frozen=True)
class Team:
    """The processes that do one piece of work together (torchrun's world); a team of one by default."""

    rank: int = 0
    """Of this process, from 0."""
    size: int = 1
    """How many processes there are."""
    store: group.Store | None = field(default=None, repr=False, compare=False)
    """Where the processes leave each other notes outside of the collectives."""

    @property
    def leads(self) -> bool:
        """Whether this process writes records and prints."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` items (shards, blocks) are this process's."""
        return range(self.rank, count, self.size)

    def wait(self) -> None:
        """Return when every process has come here."""
        self.gather(None)

    def gather(self, value: Any) -> list:
        """Every process's value, by rank, on every process."""
        if self.size == 1:
            return [value]
        found: list = [None] * self.size
        group.all_gather_object(found, value)
        return found

    def tell(self, value: Any) -> Any:
        """Rank 0's value, on every process."""
        if self.size == 1:
            return value
        found = [value]
        group.broadcast_object_list(found, src=0)
        return found[0]

    @contextmanager
    def refuse_together(self) -> Iterator[None]:
        """What one process refuses inside, all refuse after it, so that none waits for ever.

        Every process must enter; inside, no process may wait for another.
        """
        refused = None
        try:
            yield
        except InputError as error:
            refused = str(error)
        for reason in self.gather(refused):
            if reason is not None:
                raise InputError(reason)


ALONE = Team()


def require_shared(path: Path) -> None:
    """Refuse an --out where this process does not find a file that a process of the team has written."""
    if not path.exists():
        raise InputError(
            f"{path} is not there though a process has written it; "
            f"--out must be a folder that all machines share"
        )


def by_blocks(team: Team, count: int, size: int, work: Callable[[Int[Tensor, "rows"]], T]) -> T:
    """What `work` makes of rows 0 to `count`, on every process; each has done whole blocks of them.

    The blocks of `size` rows are the same for any team. `work` gets the numbers of one or more blocks'
    rows, of which only the last can be short, and returns one row for each, in ordinary memory.
    """
    mine = rows_of(team, count, size)
    found = team.gather((mine, work(mine)) if len(mine) else None)
    rows, parts = zip(*(share for share in found if share is not None), strict=True)
    return concatenate(parts)[torch.cat(rows).argsort()]


def rows_of(team: Team, count: int, size: int) -> Int[Tensor, "rows"]:
    """Which of rows 0 to `count` are this process's: whole blocks of `size`, the same for any team."""
    rows = torch.arange(count)
    return rows[rows // size % team.size == team.rank]


@contextmanager
def together(device_name: str) -> Iterator[Team]:
    """The team that torchrun made this process a part of, for as long as the work inside takes; else ALONE.

    On CUDA every process of a machine takes the device of its local rank.

    When a process refuses its input, fails or is killed, the others cannot go on without it: they end
    with one line that says why. Rank 0 raises it; the others end silently, with the same exit code. On
    GPUs the first to fail prints the line, and nothing is raised.
    """
    team = _meet()
    try:
        _connect(team, device_name)
        yield team
    except Exception as error:
        reason = _reason(team, error)
        if _on_gpus():
            _end_at_once(team, reason, error)
        _leave()
        if reason is None:
            raise
        _let_the_first_speak(team)
        raise InputError(reason) from error
    except BaseException:  # Ctrl-C, which all were given
        if not _on_gpus():
            _leave()
        raise
    _leave()


def _meet() -> Team:
    """Who is there, by torchrun's environment; they cannot work together yet."""
    if "RANK" not in os.environ:
        return ALONE
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # A launcher that is killed leaves its processes behind, and they would hold the run's folder.
        end_with_parent()
    try:
        store, rank, size = next(iter(group.rendezvous("env://", timeout=_PATIENCE)))
    except ValueError as error:
        raise InputError(
            f"RANK is set, as torchrun sets it, but the environment does not say how to join the other "
            f"processes ({error}); start with torchrun, or unset RANK"
        ) from error
    return Team(rank, size, group.PrefixStore(_attempt(store, rank, size), store))


def _attempt(store: group.Store, rank: int, size: int) -> str:
    """A name for this start of the processes, on which all agree.

    When a process was killed, torchrun starts all anew with the same store, and what the dead have left
    there would be taken for news (pytorch issue 135712; each machine counts its restarts by itself). So
    the others say that they are there until rank 0, of this start, has seen them.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("attempt", own)
        present = [store.get(f"{own}/{other}").decode() for other in range(1, size)]
        store.set(f"{own}/present", " ".join(present))
        return own
    while True:
        attempt = store.get("attempt").decode()
        store.set(f"{attempt}/{rank}", own)
        seen = f"{attempt}/present"
        if store.check([seen]) and own in store.get(seen).decode().split():
            return attempt
        time.sleep(0.05)


def _connect(team: Team, device_name: str) -> None:
    """Join the processes into a group, once each has said what it works on."""
    if team.store is None:
        return
    backend, problem = _backend(device_name)
    team.store.set(f"join/{team.rank}", f"{backend}|{problem}")
    answers = [team.store.get(f"join/{rank}").decode().split("|") for rank in range(team.size)]
    for _, reason in answers:
        if reason:
            raise InputError(reason)
    if len({name for name, _ in answers}) > 1:
        raise InputError(
            "some processes would work on a GPU and others on the CPU; give all the same --device"
        )
    if backend == _CUDA:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    group.init_process_group(
        backend, store=team.store, rank=team.rank, world_size=team.size, timeout=_PATIENCE
    )


def _backend(device_name: str) -> tuple[str, str]:
    """The backend for a device, and why this process cannot use it ("" where it can)."""
    wants_cuda = device_name.startswith("cuda")
    if not (wants_cuda or (device_name == "auto" and torch.cuda.is_available())):
        return _CPU, ""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    seen = torch.cuda.device_count()
    if here > seen:
        return _CUDA, (
            f"{here} processes on one machine need as many GPUs, and this PyTorch sees {seen}; "
            f"start fewer (--nproc-per-node), or give --device cpu"
        )
    if ":" in device_name and here > 1:
        return _CUDA, (
            f"device {device_name!r} is one GPU for {here} processes; "
            f"give auto or cuda, and each takes its own"
        )
    return _CUDA, ""


def _reason(team: Team, error: Exception) -> str | None:
    """Why the team ends, in the words of the first process that failed; None for our own bug."""
    own = told(error)
    if team.store is None or team.size == 1:
        return own
    with contextlib.suppress(RuntimeError):  # the store ends with the launcher
        if own is None and team.store.check([_FAILED]):
            return team.store.get(_FAILED).decode()
    if own is None and "gloo" in str(error).lower():
        own = (
            "another process of this run has ended, killed or out of memory; give the same command "
            "to go on (torchrun --max-restarts 3 does so by itself)"
        )
    with contextlib.suppress(RuntimeError):
        said = own or f"process {team.rank} failed: {type(error).__name__}: {error}"
        first = team.store.compare_set(_FAILED, "", said).decode()
        return None if own is None else first
    return own


def _let_the_first_speak(team: Team) -> None:
    """Rank 0 goes on to say why; the others wait for it and end here, with exit code 2."""
    if team.store is None or team.size == 1:
        return
    with contextlib.suppress(RuntimeError):
        if team.leads:
            team.store.set("said", "")
            return
        team.store.wait(["said"], _LAST_WORD)
        # The launcher ends all processes when the first one ends: let rank 0 be the first.
        time.sleep(1)
        sys.exit(2)


def _on_gpus() -> bool:
    """Whether the processes are joined by NCCL."""
    return group.is_available() and group.is_initialized() and "nccl" in group.get_backend_config()


def _end_at_once(team: Team, reason: str | None, error: Exception) -> NoReturn:
    """Say why, unless another process has, and end without taking leave.

    NCCL lets a process leave when all kernels have ended, and those of the others wait for this one. They
    learn that it has gone by its connections, or from the launcher, as of one that was killed.
    """
    speaker = str(team.rank)
    with contextlib.suppress(RuntimeError):
        assert team.store is not None
        speaker = team.store.compare_set("said", "", speaker).decode()
    if reason is None:
        traceback.print_exception(error)
    elif speaker == str(team.rank):
        print(f"deformlearn: {reason}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if reason is None else 2)


def _leave() -> None:
    """Close the connections; processes that wait for this one are woken by it."""
    if group.is_available() and group.is_initialized():
        group.destroy_process_group()
