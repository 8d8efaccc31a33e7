"""DEFORM for a whole split of any size: read, lift, fit and write block by block, by one or many processes.

Blocks are the same people whatever the number of processes, so the result is too. A block that is done
is a file of its own: a run that was killed goes on with the others.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from deformlearn.agreement import agree
from deformlearn.body import BodyTemplate
from deformlearn.compiling import decided
from deformlearn.config import RegistrationConfig
from deformlearn.data.estimates import (
    Estimates,
    flags_of,
    iterate_estimates,
    join_estimates,
    read_about,
    write_estimates,
)
from deformlearn.data.shards import People, info_for, shards
from deformlearn.data.streams import (
    CountedSplit,
    blocks_of,
    count_shard,
    read_blocks,
    without_repeats,
)
from deformlearn.data.tables import column, facts, read_table, row_count
from deformlearn.distributed import ALONE, Team, require_shared
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.files import AnyPath, naming
from deformlearn.lifter import Lifter
from deformlearn.memory import Portion
from deformlearn.own_joints import with_own_joints
from deformlearn.parts import parts_folder
from deformlearn.prefetch import ahead
from deformlearn.progress import QUIET, Advance, Watch
from deformlearn.registration import at_once, register
from deformlearn.unseen import unseen_parts, with_unseen

_LARGEST_BLOCK = 8192
"""People a block: some 30 MB of observations."""
_BLOCKS = 64
"""A split has about so many blocks before they grow, so that many processes have something to do."""
_STEP = 500
"""Blocks are multiples of so many people, if no batch is asked for."""
_COUNTERS = 4
"""Most shards that are counted at once."""
_REJECTED_SAID = 20
"""Rejected rows that are listed; `deformlearn check` lists all."""


@dataclass(frozen=True)
class Registered:
    """What the registration of a split came to."""

    people: int
    rejected: int
    """Rows and shards that were left out."""
    seconds: float
    """Of this call; what an earlier one had finished is not in it."""
    fitted: int
    """People fitted by this call, by all processes together."""
    reprojection_px: float
    """Median over the people of their median reprojection error."""
    flagged: int
    """People whose fit there is a reason to doubt."""
    flags: dict[str, int]
    """How many people each reason concerns, and how many are "ok"."""
    replaced: float | None
    """Share of the people whose fit is better than that in `before`; None without one."""


@dataclass(frozen=True)
class _Work:
    """What every block needs; the template and the lifter are where the fits are computed."""

    counted: CountedSplit
    template: BodyTemplate
    lifter: Lifter | None
    start: Path | None
    watch: Watch
    text: str

    @property
    def device(self) -> torch.device:
        """Where it is computed; of several GPUs, which."""
        return self.template.vertices.device


def register_split(
    folder: AnyPath,
    split: str,
    template: BodyTemplate,
    out: Path,
    config: RegistrationConfig,
    *,
    lifter: Lifter | None = None,
    device: torch.device | str = "cpu",
    start: Path | None = None,
    before: Path | None = None,
    alone: Path | None = None,
    keep: bool = False,
    team: Team = ALONE,
    watch: Watch = QUIET,
    text: str = "register",
    say_rejected: bool = True,
) -> Registered:
    """Register every sound person of a split and write the estimates, in the order of the split.

    `start` holds estimates of the same people to start from (the predictions of the round before).
    `before` holds their fits of the round before: whoever's new fit is not better keeps the old one
    (`registration.keep_best`), and `alone` is where the new fits are then written without them.

    Stops and goes on anywhere: finished blocks are in `<out>.parts` until all are. Another registration
    that was begun there is refused, and so is a shard that changes meanwhile. What is finished is not
    done again; estimates in `out` that were made of anything else are replaced, or refused with `keep`.
    Of a team, each process fits some of the blocks; only rank 0's `watch` needs to be heard.
    """
    began = time.monotonic()
    counted = count_split(folder, split, template, team)
    if team.leads and say_rejected:
        _say_rejected(counted, watch)
    blocks = blocks_of(len(counted), block_size(len(counted), config.batch))
    with team.refuse_together():
        for path in filter(None, (start, before)):
            _check_length(path, len(counted))
        recipe = _recipe(counted, template, config, lifter, start, len(blocks[0]))
        older = None if before is None else facts(before)
    agree(team, {**recipe, "before": older, "alone": alone is not None})
    made_of = _made_of(recipe, older, alone)
    fitted = 0
    parts = out.with_name(f"{out.name}.parts")
    with team.refuse_together():
        finished = team.leads and _is_finished(out, alone, made_of)
        if keep and team.leads and not finished and _is_whole(out):
            raise InputError(
                f"{out} holds estimates of other data, another split or other settings; "
                f"give another --out, or delete it to replace them"
            )
    if team.tell(finished):
        if team.leads:  # killed when all was done but the parts were still there
            shutil.rmtree(parts, ignore_errors=True)
    else:
        files = [parts / f"{number:06d}.parquet" for number in range(len(blocks))]
        with parts_folder(parts, recipe, team):
            pending = team.tell([number for number, file in enumerate(files) if not file.exists()])
            fitted = sum(len(blocks[number]) for number in pending)
            mine = [pending[index] for index in team.share(len(pending))]
            with team.refuse_together():
                where = torch.device(device)
                moved = None if lifter is None else copy.deepcopy(lifter).to(where)
                work = _Work(counted, template.to(where), moved, start, watch, text)
                settled = decided(
                    config, len(counted), where
                )  # a block alone would never pay for it
                _fit_blocks(work, [(blocks[number], files[number]) for number in mine], settled)
            with team.refuse_together():
                if team.leads:
                    _finish(files, out, template, made_of, before, alone)
    result = team.tell(_summary(out, len(counted.rejected)) if team.leads else None)
    return replace(result, seconds=time.monotonic() - began, fitted=fitted)


def _check_length(path: Path, people: int) -> None:
    rows = row_count(path)
    if rows != people:
        raise InputError(
            f"{path} has estimates of {rows} people, and the split has {people}; "
            f"give estimates of the same people in the same order"
        )


def block_size(people: int, batch: int | None) -> int:
    """People a block: whole batches, few people in small splits, never more than fits in memory.

    It depends on no device, so that one may go on with what another has begun.
    """
    wanted, step = min(_LARGEST_BLOCK, people / _BLOCKS), batch or _STEP
    return step * max(1, round(wanted / step))


def count_split(
    folder: AnyPath, split: str, template: BodyTemplate, team: Team = ALONE
) -> CountedSplit:
    """Which rows of a split can be used; the shards are counted by all processes of a team."""
    with team.refuse_together():
        info = info_for(folder, template)
        paths = shards(folder, "observations", split)
        sizes = {path.name: {"bytes": path.stat().st_size} for path in paths}
    agree(team, {"split": split, "the split's shards": sizes})
    at_once = min(_COUNTERS, torch.get_num_threads())
    with team.refuse_together(), ThreadPoolExecutor(at_once) as threads:
        own = [paths[number] for number in team.share(len(paths))]
        counts = list(threads.map(lambda path: count_shard(path, info, len(template.faces)), own))
    found = team.gather(counts)
    ordered = [found[number % team.size][number // team.size] for number in range(len(paths))]
    with team.refuse_together():
        return CountedSplit(folder, split, info, without_repeats(folder, ordered))


def _say_rejected(counted: CountedSplit, watch: Watch) -> None:
    rejected = counted.rejected
    for one in rejected[:_REJECTED_SAID]:
        watch.say(f"left out: {one.where}: {one.reason}")
    if len(rejected) > _REJECTED_SAID:
        watch.say(
            f"left out: {len(rejected) - _REJECTED_SAID} more; `deformlearn check` lists them all"
        )


def _fit_blocks(
    work: _Work, blocks: Sequence[tuple[range, Path]], config: RegistrationConfig
) -> None:
    """Fit each block into its file; the last is written meanwhile and, for a GPU, the next is read."""
    portion = Portion(at_once(config, work.device), "people")
    source = ahead(_read(work, [block for block, _ in blocks]), work.device)
    done, writing = 0, None
    with (
        ThreadPoolExecutor(1) as writer,
        work.watch.stage(work.text, sum(len(block) for block, _ in blocks)) as advance,
    ):
        for (people, start), (_, file) in zip(source, blocks, strict=True):
            progress = partial(_advance, advance, done)
            found = portion.fitting(partial(_fit, work, people, start, config, progress))
            done += len(people)
            if writing is not None:
                writing.result()  # no more than one block waits to be written
            writing = writer.submit(write_estimates, file, found, work.template)
        if writing is not None:
            writing.result()


def _advance(advance: Advance, before: int, done: int | None, total: int | None = None) -> None:
    """Progress within a block as progress within all."""
    advance(before + (done or 0))


def _read(work: _Work, blocks: Sequence[range]) -> Iterator[tuple[People, Estimate | None]]:
    """The people of each block, with the estimates to start from."""
    everyone = read_blocks(work.counted, blocks)
    if work.start is None:
        yield from ((people, None) for people in everyone)
        return
    starts = iterate_estimates(work.start, work.template, blocks)
    for people, start in zip(everyone, starts, strict=True):
        _check_same_people(people.keys, start.keys, work.start)
        yield people, start.estimate


def _check_same_people(keys: Sequence[str], found: Sequence[str], path: Path) -> None:
    """Refuse estimates of other people, or of the same in another order."""
    for ours, theirs in zip(keys, found, strict=True):
        if ours != theirs:
            raise InputError(
                f"{path} has {theirs!r} where the data set has {ours!r}; "
                f"give estimates of the same people in the same order"
            )


def _fit(
    work: _Work,
    people: People,
    start: Estimate | None,
    config: RegistrationConfig,
    progress: Advance,
    batch: int,
) -> Estimates:
    config = replace(config, batch=batch)
    seen, crop = people.observations.to(work.device), people.crop.to(work.device)
    unseen = unseen_parts(work.template, seen)
    seen = with_own_joints(work.template, seen, crop, config, work.lifter)
    begin = None if start is None else start.to(work.device)
    estimate, quality = register(work.template, seen, crop, config, start=begin, progress=progress)
    quality = quality.to("cpu")
    flags = with_unseen(flags_of(quality, people.crop), unseen)
    return Estimates(people.keys, estimate.to("cpu"), people.crop, quality, tuple(flags))


def _recipe(
    counted: CountedSplit,
    template: BodyTemplate,
    config: RegistrationConfig,
    lifter: Lifter | None,
    start: Path | None,
    block: int,
) -> dict[str, Any]:
    """Everything that a part depends on, as plain numbers and words."""
    return {
        "split": counted.split,
        "template": template.fingerprint,
        "people": len(counted),
        "people a part": block,
        "config": asdict(config),
        "lifter": None if lifter is None else _digest(lifter.state_dict()),
        "start": None if start is None else facts(start),
        "shards": counted.fingerprint,
    }


def _digest(weights: dict[str, torch.Tensor]) -> str:
    """A short name for weights: those that agree in every bit have the same."""
    content = hashlib.sha256()
    for name, value in weights.items():
        content.update(name.encode())
        content.update(value.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


def _finish(
    parts: Sequence[Path],
    out: Path,
    template: BodyTemplate,
    made_of: str,
    before: Path | None,
    alone: Path | None,
) -> None:
    """Join the parts; what they were made of is written beside them."""
    for part in parts:
        require_shared(part)
    replaced = None
    if before is not None:
        new = np.concatenate([_losses(part) for part in parts])
        replaced = float((new < _losses(before)).mean())
    for target in filter(None, (out, alone)):
        for stale in target.parent.glob(f".{target.name}.*.part"):  # of a run killed at this point
            stale.unlink()
    notes = {"made_of": made_of, "replaced": replaced}
    join_estimates(parts, out, template, before=before, alone=alone, notes=notes)


def _made_of(recipe: dict[str, Any], before: dict | None, alone: Path | None) -> str:
    content = json.dumps([recipe, before, alone is None])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _losses(path: Path) -> np.ndarray:
    return read_table(path, ["loss"])["loss"].to_numpy()


def _is_finished(out: Path, alone: Path | None, made_of: str) -> bool:
    """Whether the very same work was done before."""
    with naming(out):
        if not all(path.exists() for path in filter(None, (out, alone))):
            return False
    with contextlib.suppress(InputError):  # what cannot be read is written anew
        return read_about(out).get("made_of") == made_of
    return False


def _is_whole(out: Path) -> bool:
    """Whether estimates are there, whatever they are of."""
    with naming(out):
        there = out.exists()
    with contextlib.suppress(InputError):
        return there and bool(read_about(out))
    return False


def _summary(out: Path, rejected: int) -> Registered:
    """What an estimates file that `_finish` wrote says."""
    table = read_table(out, ["reprojection_px", "flag"])
    errors = column(table, "reprojection_px")
    counts = Counter[str]()
    for flag in pc.value_counts(table["flag"]).to_pylist():
        for reason in flag["values"].split("; "):
            counts[reason] += flag["counts"]
    return Registered(
        people=len(table),
        rejected=rejected,
        seconds=0.0,
        fitted=0,
        reprojection_px=errors.nanmedian().item(),
        flagged=len(table) - counts["ok"],
        flags=dict(sorted(counts.items())),
        replaced=read_about(out)["replaced"],
    )
