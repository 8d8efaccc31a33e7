"""Work that two processes do together or refuse together, all in one start (tests/test_agreement.py).

    torchrun --nproc-per-node 2 tests/team_checks.py OUT

Each process writes to OUT/RANK.json what came of each piece of work: its number, or why it was refused.
What one process would go on to do alone, the other would wait for: that all end is a test too.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from conftest import octahedra
from deformlearn import cli_run, distributed
from deformlearn.config import PRESETS, SyntheticConfig
from deformlearn.data.shards import shards
from deformlearn.data.synthetic import synthesize
from deformlearn.distributed import Team, together
from deformlearn.errors import InputError
from deformlearn.registering import register_split
from deformlearn.rounds import deform_and_learn
from disks import no_larger_file, spoil_column
from tiny_runs import TINY, write_people

PEOPLE = SyntheticConfig(train=2, val=0, test=1, size=32, points=10)
"""Two shards, one for each of two processes."""
ONE_SHARD = replace(PEOPLE, test=0)
ONE_BLOCK = 3
"""People of a split that one process fits at once."""
FITS = TINY.registration


def synth(out: Path, team: Team, config: SyntheticConfig = PEOPLE) -> int:
    """How many people this process had to make."""
    told: list[int] = []
    synthesize(
        out, config, device="cpu", team=team, progress=lambda done, total: told.append(total)
    )
    return told[-1]


def fit(data: Path, out: Path, team: Team, *, split: str = "train", iterations: int = 3) -> int:
    config = replace(FITS, iterations=iterations)
    return register_split(data, split, octahedra(), out / "e.parquet", config, team=team).fitted


def demo(out: Path, team: Team, seed: int) -> None:
    tiny = PRESETS["tiny"]
    config = replace(tiny, data=replace(tiny.data, seed=seed), run=replace(tiny.run, device="cpu"))
    with contextlib.ExitStack() as stack:
        joined, distributed.together = distributed.together, lambda device: joined_again(team)
        stack.callback(setattr, distributed, "together", joined)
        cli_run.commands(tiny)["demo"](out, config=config)


@contextlib.contextmanager
def joined_again(team: Team) -> Iterator[Team]:
    yield team


def damaged(data: Path, copy: Path, column: str) -> Path:
    """A copy of a data set, a column of whose second shard cannot be read."""
    shutil.copytree(data, copy)
    spoil_column(copy / "observations" / "train-00001.parquet", column)
    return copy


def check(name: str, out: Path, team: Team) -> int | None:
    """One piece of work; the second process is given something else where the name says so."""
    other = not team.leads
    folder, few, many = out / name, out / "few", out / "many"
    match name:
        case "synth":
            return synth(folder, team)
        case "synth, one shard":
            return synth(folder, team, ONE_SHARD)
        case "synth, other seed and size":
            return synth(folder, team, replace(PEOPLE, seed=7, size=48) if other else PEOPLE)
        case "synth, impossible for one":
            return synth(folder, team, replace(PEOPLE, size=8) if other else PEOPLE)
        case "synth, elsewhere":
            return synth(folder / "elsewhere" if other else folder / "here", team)
        case "synth, no space for one":
            with no_larger_file(600 if other else None):
                return synth(folder, team)
        case "synth, space again":
            return synth(out / "synth, no space for one", team)
        case "demo, other seed":
            demo(folder, team, seed=int(other))
        case "run, nothing for one":
            data = out / "nothing" if other else many
            deform_and_learn(data, folder, TINY, octahedra(), team=team)
        case "run, a damaged picture for one" | "run, a damaged shard for one":
            column = "image" if "picture" in name else "point_x"
            data = damaged(many, out / f"many, {column}", column) if other else many
            deform_and_learn(data, folder, TINY, octahedra(), team=team)
        case "run, elsewhere":
            place = folder / "elsewhere" if other else folder / "here"
            deform_and_learn(many, place, TINY, octahedra(), team=team)
        case "register, one block":
            return fit(few, folder, team)
        case "register, other settings":
            return fit(many, folder, team, iterations=3 + other)
        case "register, other split":
            return fit(many, folder, team, split="test" if other else "train")
        case "register, other people":
            return fit(few if other else many, folder, team)
        case "register, elsewhere":
            return fit(many, folder / "elsewhere" if other else folder / "here", team)
        case "register, no space for one":
            with no_larger_file(600 if other else None):
                return fit(many, folder, team)
        case "register, space again":
            return fit(many, out / "register, no space for one", team)
    return None


CHECKS = (
    "synth",
    "synth, one shard",
    "synth, other seed and size",
    "synth, impossible for one",
    "synth, elsewhere",
    "synth, no space for one",
    "synth, space again",
    "demo, other seed",
    "run, nothing for one",
    "run, a damaged picture for one",
    "run, a damaged shard for one",
    "run, elsewhere",
    "register, one block",
    "register, other settings",
    "register, other split",
    "register, other people",
    "register, elsewhere",
    "register, no space for one",
    "register, space again",
)


def main(out: Path) -> None:
    """All checks, one after the other."""
    found: dict[str, int | str | None] = {}
    with together("cpu") as team:
        if team.leads:
            write_people(out / "few", train=ONE_BLOCK)
            write_people(out / "many")
        team.wait()
        for name in CHECKS:
            try:
                found[name] = check(name, out, team)
            except InputError as error:
                found[name] = str(error)
            team.wait()
        assert len(shards(out / "many", "observations", "train")) > team.size
        (out / f"{team.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
