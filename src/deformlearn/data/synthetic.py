"""Synthetic people: Anny bodies, posed, dressed, photographed, with exact labels and 3D truth.

A person depends on the configuration's seed, the split and the index alone: any image can be made
again by itself, on any number of processes (docs/decisions/0006).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from deformlearn import runtime
from deformlearn.agreement import agree
from deformlearn.config import SyntheticConfig
from deformlearn.crew import Submit, crew, in_order, require_workers
from deformlearn.data.labels import KEYPOINTS
from deformlearn.data.photographs import PIECE, Stage, labelling, photograph, to_row
from deformlearn.data.shards import DatasetInfo, Row, write_atomically, write_info, write_rows
from deformlearn.data.staging import Script, Studio, direct
from deformlearn.data.truth import TruthRow, write_truth
from deformlearn.distributed import ALONE, Team, require_shared
from deformlearn.errors import InputError
from deformlearn.files import clear_parts, naming
from deformlearn.locks import held, let_go
from deformlearn.memory import Portion

SPLITS = ("train", "val", "test")
SHARD = 250
"""People in a shard."""

RECIPE = 3
"""Number of this way of making people; a change that moves a pixel or a label raises it."""

_RECIPE = "synthetic.json"
"""Says in a folder what people are made there."""

_BATCH = 25
"""People a process makes before it reports."""

_BATCH_ON_GPU = 250
"""People photographed at once on a GPU: some 7 GB of tensors for pictures of `_SIDE`."""

_SIDE = 256
"""Side of pictures (px) beyond which fewer are taken at once."""

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Is told how many people are done, and of how many."""


@dataclass(frozen=True)
class _Task:
    """A run of people of one split."""

    config: SyntheticConfig
    split: str
    start: int
    stop: int


def synthesize(
    folder: Path,
    config: SyntheticConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    device: str = "auto",
    team: Team = ALONE,
) -> DatasetInfo:
    """Write the data set that `config` describes, and return what its rows share.

    Whole shards that are already there are kept, so a run that was stopped, however abruptly, goes on
    where it was and ends with the same bytes. A folder made with another configuration is refused.
    On CUDA people are photographed in batches, with the same labels; `workers` then only draw poses
    and clothes. With `workers` above 1 the calling script must be importable (`if __name__ ==
    "__main__"`). Each process of a team makes shards of its own, and reports the progress of those.
    """
    with team.refuse_together():
        require_workers(workers)
        _check(config)
        where = runtime.device(device)
        studio = Studio.open()
    info = DatasetInfo(
        template=studio.template.name,
        fingerprint=studio.template.fingerprint,
        joints="skeleton25",
        landmarks=KEYPOINTS,
        description=f"Synthetic people ({config.people}, {config.quality} labels), seed {config.seed}",
    )
    folder = Path(folder)
    wanted = {"recipe": RECIPE, "template": info.fingerprint, **asdict(config)}
    agree(team, wanted)
    parts = [
        (split, shard) for split in SPLITS for shard in range(-(-getattr(config, split) // SHARD))
    ]
    mine = [parts[index] for index in team.share(len(parts))]
    with contextlib.ExitStack() as stack:
        with team.refuse_together():
            if team.leads:
                _refuse_other_work(folder, wanted)  # before our lock lies in somebody's folder
                stack.callback(let_go, held(folder, team=team))
                _claim(folder, wanted)
        with team.refuse_together():
            _fill(folder, config, mine, workers, where, progress or (lambda done, total: None))
        with team.refuse_together():
            if team.leads:
                _all_there(folder, parts)
                write_info(folder, info)
    return info


def _fill(
    folder: Path,
    config: SyntheticConfig,
    parts: list[tuple[str, int]],
    workers: int,
    where: torch.device,
    progress: Progress,
) -> None:
    """Make those of some shards that are not there yet."""
    total = sum(_length(config, *part) for part in parts)
    missing = [
        part for part in parts if not all(path.exists() for path in _shard_paths(folder, *part))
    ]
    lengths = {part: _length(config, *part) for part in missing}
    done = total - sum(lengths.values())
    progress(done, total)
    batch = _BATCH if where.type == "cpu" else _BATCH_ON_GPU
    tasks = [
        _Task(config, split, first, min(first + batch, shard * SHARD + lengths[split, shard]))
        for split, shard in missing
        for first in range(shard * SHARD, shard * SHARD + lengths[split, shard], batch)
    ]
    people: list[tuple[Row, TruthRow]] = []
    waiting = iter(missing)
    part = next(waiting, None)
    with contextlib.closing(_made(tasks, workers, where)) as results:
        for made in results:
            people += made
            done += len(made)
            if part is not None and len(people) == lengths[part]:
                _write(folder, *part, people)
                people, part = [], next(waiting, None)
            progress(done, total)


def make_person(config: SyntheticConfig, split: str, index: int) -> tuple[Row, TruthRow]:
    """One person: the image with its labels, and the truth that evaluation may see.

    The same bytes come out whenever, wherever and in whatever order the people of a split are made.
    """
    studio, where = Studio.open(), Stage.on(torch.device("cpu"))
    # Nothing here is learned from: thousands of small operations need no bookkeeping.
    with _one_thread(), torch.inference_mode():
        script = direct(config, split, index, studio)
        (shot,) = photograph([script], config.size, where)
        return to_row(config, split, index, script, shot, studio)


def _check(config: SyntheticConfig) -> None:
    """Refuse numbers that no data set can be made with."""
    for name, least in (("size", 32), ("points", 1)):
        if getattr(config, name) < least:
            raise InputError(
                f"synthetic people need {name} of at least {least}, got {getattr(config, name)}"
            )
    if not any(getattr(config, split) for split in SPLITS):
        raise InputError("synthetic people need at least one image in train, val or test")
    for name in ("outliers", "swaps", "holes"):
        if getattr(config, name) > 1:
            raise InputError(f"{name} is a share between 0 and 1, got {getattr(config, name)}")


def _all_there(folder: Path, parts: list[tuple[str, int]]) -> None:
    """Refuse shards that other processes have written where this one cannot see them."""
    for path in (path for part in parts for path in _shard_paths(folder, *part)):
        require_shared(path)


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    """Note in the folder what is made there, and clear what a run that was killed has left."""
    _refuse_other_work(folder, wanted)
    if not (folder / _RECIPE).exists():
        write_atomically(folder / _RECIPE, json.dumps(wanted, indent=2).encode())
    clear_parts(folder)


def _refuse_other_work(folder: Path, wanted: dict[str, Any]) -> None:
    """Refuse a folder of people that were made otherwise, or of anything else."""
    recipe = folder / _RECIPE
    with naming(folder):
        noted = recipe.read_text("utf-8") if recipe.exists() else None
        ours = (".lock", f".{_RECIPE}.")  # of a run that had not begun yet
        others = folder.exists() and not all(one.name.startswith(ours) for one in folder.iterdir())
    if noted is None:
        if others:
            raise InputError(
                f"{folder} is not empty and not a synthetic data set; give another folder"
            )
        return
    try:
        found = json.loads(noted)
    except json.JSONDecodeError as error:
        raise InputError(f"{recipe} is damaged ({error}); delete {folder}") from error
    differing = [
        f"{key} {found.get(key)!r} instead of {value!r}"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    if differing:
        raise InputError(
            f"{folder} was made with another configuration ({', '.join(differing)}); "
            f"give another folder, or delete this one"
        )


def _write(folder: Path, split: str, shard: int, people: list[tuple[Row, TruthRow]]) -> None:
    """Write a shard of people and of their truth."""
    try:
        write_truth(folder, split, shard, [truth for _, truth in people])
        write_rows(folder, split, shard, [row for row, _ in people])
    except InputError as error:
        raise InputError(
            f"{error}; the same command goes on with the shards that are missing"
        ) from error


def _shard_paths(folder: Path, split: str, shard: int) -> list[Path]:
    name = f"{split}-{shard:05d}.parquet"
    return [folder / kind / name for kind in ("observations", "truth")]


def _length(config: SyntheticConfig, split: str, shard: int) -> int:
    """People in a shard: the last one of a split may be short."""
    return min(SHARD, getattr(config, split) - shard * SHARD)


def _made(
    tasks: list[_Task], workers: int, where: torch.device
) -> Generator[list[tuple[Row, TruthRow]]]:
    """The people of each task, in order."""
    return (
        _mapped(_make, tasks, workers) if where.type == "cpu" else _batched(tasks, workers, where)
    )


def _batched(
    tasks: list[_Task], workers: int, where: torch.device
) -> Generator[list[tuple[Row, TruthRow]]]:
    """The people of each task, in order, each task photographed at once on a device.

    Other processes draw the next tasks, and label and compress the last one, meanwhile: threads would
    wait for Python's lock, which is nearly always held by what asks the device for the next pictures.
    The pictures of two tasks are in memory. With one worker all is done here, and threads label.
    """
    if not tasks:
        return
    stage = Stage.on(where)
    portion = Portion(_at_once(tasks[0].config.size), "images")

    def begun(task: _Task, scripts: list[Script]) -> Callable[[], list[tuple[Row, TruthRow]]]:
        taken = partial(photograph, size=task.config.size, where=stage)
        shots = [shot for some in portion.over(scripts, taken) for shot in some]
        return labelling(task.config, task.split, task.start, scripts, shots, submit)

    with crew(workers) as submit:
        drawn = _drawn(tasks, workers, submit)
        yield from in_order(map(begun, tasks, drawn), 1)


def _at_once(size: int) -> int:
    """Pictures of a size (px) to begin with on a GPU."""
    return max(1, int(_BATCH_ON_GPU * min(1, (_SIDE / size) ** 2)))


def _drawn(tasks: list[_Task], workers: int, submit: Submit) -> Iterator[list[Script]]:
    """The scripts of each task, in order."""
    pieces = (piece for task in tasks for piece in _pieces(task))
    ahead = 2 * _BATCH_ON_GPU // PIECE + 4 * workers
    parts: Iterator[list[Script]] = (
        map(_draw, pieces)
        if workers <= 1
        else in_order((submit(_draw, piece).result for piece in pieces), ahead)
    )
    for task in tasks:
        yield [script for _ in _pieces(task) for script in next(parts)]


def _pieces(task: _Task) -> list[_Task]:
    return [
        replace(task, start=first, stop=min(first + PIECE, task.stop))
        for first in range(task.start, task.stop, PIECE)
    ]


def _mapped(
    work: Callable[[_Task], list[T]], tasks: list[_Task], workers: int
) -> Generator[list[T]]:
    """What `work` makes of each task, in order, in this process or in several."""
    if workers <= 1:
        yield from map(work, tasks)
        return
    with crew(workers) as submit:
        yield from in_order((submit(work, task).result for task in tasks), 4 * workers)


def _make(task: _Task) -> list[tuple[Row, TruthRow]]:
    return [make_person(task.config, task.split, i) for i in range(task.start, task.stop)]


def _draw(task: _Task) -> list[Script]:
    studio = Studio.open()
    return [direct(task.config, task.split, i, studio) for i in range(task.start, task.stop)]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums must be taken in one order: their rounding depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
