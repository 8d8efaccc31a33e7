"""Commands of the method itself: make people, run the rounds, look at what came out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from deformlearn.config import DemoConfig, RunConfig, SyntheticConfig
from deformlearn.errors import InputError
from deformlearn.terminal import console, watch

if TYPE_CHECKING:
    from deformlearn.distributed import Team
    from deformlearn.progress import Watch

Preset = Literal["tiny", "laptop", "gpu", "paper", "paper-mosh", "paper-densepose"]
Flat = tyro.conf.arg(name="")

SHARED = ("demo", "run", "synth", "register", "evaluate")
"""Commands whose work several processes share (docs/scale.md)."""


def commands(default: DemoConfig) -> dict[str, Callable]:
    """Each command by name; `default` gives the numbers that are not on the command line."""

    def demo(
        out: Path,
        preset: Preset = "laptop",
        profile: bool = False,
        config: Annotated[DemoConfig, Flat] = default,
    ) -> None:
        """The whole method on synthetic people: make them, run all rounds, evaluate, report.

        Args:
            out: Folder for the data set, the run and report.html; the same command resumes.
            preset: Size of everything (tiny: half a minute; laptop: ten; paper: the paper's settings).
            profile: Print where the time of training goes.
            config: Any number of the preset may be changed.

        """
        from dataclasses import asdict

        from deformlearn.agreement import agree
        from deformlearn.distributed import together
        from deformlearn.files import clear_parts, write_atomically
        from deformlearn.regressor import require_backbone
        from deformlearn.report import print_results, write_report
        from deformlearn.rounds import deform_and_learn
        from deformlearn.rundir import ONE_PROCESS
        from deformlearn.templates import load

        with together(config.run.device) as team:
            agree(team, asdict(config), ignored=ONE_PROCESS)
            with team.refuse_together():
                require_backbone(config.run.regressor)  # before people are made for minutes
            show = _watch(team)
            template = load()
            _synthesize(out / "data", config.data, config.run.workers, config.run.device, team)
            records = deform_and_learn(
                out / "data",
                out / "run",
                config.run,
                template,
                profile=profile,
                team=team,
                watch=show,
            )
            if team.leads:
                clear_parts(out)
                page = write_report(out / "run", template, data=out / "data")
                target = out / "report.html"
                write_atomically(target, page.read_bytes())
                print_results(console(), records)
                print(f"report: {target.resolve()}")

    def synth(
        out: Path,
        preset: Preset = "laptop",
        workers: int = default.run.workers,
        device: str = default.run.device,
        config: Annotated[SyntheticConfig, Flat] = default.data,
    ) -> None:
        """Make a data set of synthetic people with exact labels.

        Args:
            out: Data set folder; the same command goes on with an unfinished one.
            preset: Where the other numbers come from.
            workers: Processes; the images do not depend on their number.
            device: auto, cpu, cuda, ...
            config: What to make.

        """
        from deformlearn.distributed import together

        with together(device) as team:
            _synthesize(out, config, workers, device, team)

    def run(
        data: tyro.conf.Positional[str],
        out: Path,
        preset: Preset = "laptop",
        template: str = "anny",
        lifter: Path | None = None,
        profile: bool = False,
        config: Annotated[RunConfig, Flat] = default.run,
    ) -> None:
        """Deform-and-learn on a data set: lift, register, learn, evaluate, again.

        Args:
            data: Data set folder (docs/data_format.md), also in an object store (s3://...).
            out: Run folder; the same command resumes.
            preset: Where the other numbers come from.
            template: Rigged human: anny, or a template file.
            lifter: Lifter to use (lifter.safetensors), for people who lack whole 2D poses to train one.
            profile: Print where the time of training goes.
            config: Any number of the preset may be changed.

        """
        from deformlearn.distributed import together
        from deformlearn.files import place
        from deformlearn.report import print_results, write_report
        from deformlearn.rounds import deform_and_learn
        from deformlearn.templates import load

        with together(config.device) as team:
            body, folder = load(template), place(data)
            records = deform_and_learn(
                folder, out, config, body,
                lifter=lifter, profile=profile, team=team, watch=_watch(team),
            )  # fmt: skip
            if team.leads:
                page = write_report(out, body, data=folder)
                print_results(console(), records)
                print(f"report: {page.resolve()}")

    def evaluate(
        run: tyro.conf.Positional[Path],
        protocol: str | None = None,
        data: str | None = None,
        split: str | None = None,
        template: str = "anny",
        device: str = "auto",
    ) -> None:
        """Print what a run has measured, by action too, and the protocol behind the numbers.

        Args:
            run: Run folder, or the OUT of `demo`.
            protocol: Score its last network under a published protocol: h36m-1, hmr-2, 3dpw, ...
            data: With --protocol: data set to score it on, instead of the run's own.
            split: With --protocol: split of that data set (default: test).
            template: Rigged human the run was made with.
            device: auto, cpu, cuda, ...

        """
        from deformlearn import runtime
        from deformlearn.distributed import together
        from deformlearn.evaluation import ProtocolCard, canonical_mm
        from deformlearn.files import place
        from deformlearn.judging import score_run
        from deformlearn.report import (
            has_measured,
            in_millimetres,
            print_actions,
            print_results,
            results_table,
        )
        from deformlearn.rundir import RunFolder, read_config, run_in
        from deformlearn.templates import load

        for name, given in (("data", data), ("split", split)):
            if protocol is None and given is not None:
                raise InputError(
                    f"--{name} needs --protocol: how people are to be scored; without it, what the "
                    f"run itself has measured is printed"
                )
        folder = run_in(run)
        with together(device) as team:
            with team.refuse_together():
                runtime.device(device)
            if protocol is not None:
                scores = score_run(
                    folder, protocol, load(template),
                    data=None if data is None else place(data), split=split or "test",
                    device=device, team=team, watch=_watch(team),
                )  # fmt: skip
                if team.leads:
                    print("\n".join(scores.lines()))
            elif team.leads:
                found = read_config(folder)["data"]
                records = RunFolder(folder).records()
                if not has_measured(records):
                    raise InputError(f"nothing has been measured in {folder} yet; go on with `run`")
                print_results(console(), records)
                print_actions(console(), records)
                if in_millimetres(results_table(records)):
                    described = found["template"].get("description") or found["path"]
                    card = ProtocolCard(described, canonical_mm=canonical_mm(load(template)))
                    print("\n".join(card.lines()))

    def report(
        run: tyro.conf.Positional[Path],
        other: tyro.conf.Positional[Path | None] = None,
        data: str | None = None,
        template: str = "anny",
        out: Path | None = None,
    ) -> None:
        """Write report.html of a run, finished or not; of two runs, a page of both side by side.

        Args:
            run: Run folder, or the OUT of `demo`, whose own page is written again.
            other: Another run folder, to be compared with the first.
            data: The data set, if it has moved.
            template: Rigged human the runs were made with.
            out: The page's file (RUN/report.html; of two runs RUN/with-OTHER.html).

        """
        from deformlearn.files import place
        from deformlearn.report import write_comparison, write_report
        from deformlearn.rundir import run_in
        from deformlearn.templates import load

        body, where = load(template), None if data is None else place(data)
        if other is None:
            target = out or run / "report.html"
            page = write_report(run_in(run), body, data=where, out=target)
        else:
            target = out or run / f"with-{other.resolve().name}.html"
            page = write_comparison(run_in(run), run_in(other), body, data=where, out=target)
        print(f"report: {page.resolve()}")

    return {one.__name__: one for one in (demo, synth, run, evaluate, report)}


def refuse_processes(work: str) -> None:
    """Refuse several processes for what each of them would do whole, into the same files."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    from deformlearn.distributed import together

    with together("cpu"):  # so that one process says it
        raise InputError(
            f"{work} is the work of one process: start it without torchrun "
            f"(several share the work of {', '.join(SHARED)})"
        )


def _synthesize(out: Path, config: SyntheticConfig, workers: int, device: str, team: Team) -> None:
    from deformlearn.data.synthetic import synthesize

    with _watch(team).stage("synthetic people", None) as advance:
        synthesize(out, config, workers=workers, progress=advance, device=device, team=team)


def _watch(team: Team) -> Watch:
    """Progress of what all do together is told by one."""
    from deformlearn.progress import QUIET

    return watch() if team.leads else QUIET
