"""The command line: one subcommand a step. Heavy imports happen inside the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from deformlearn.config import (
    PRESETS,
    DemoConfig,
    RegistrationConfig,
    RunConfig,
    SyntheticConfig,
)
from deformlearn.errors import InputError

Preset = Literal["tiny", "laptop", "gpu", "paper"]
Flat = tyro.conf.arg(name="")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; bad input is one line on stderr and exit code 2."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        tyro.extras.subcommand_cli_from_dict(
            _commands(_preset(words)),
            prog="deformlearn",
            description="3D human body shape and pose from images, learned without 3D supervision.",
            args=words,
        )
    except InputError as error:
        print(f"deformlearn: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("deformlearn: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _preset(words: list[str]) -> DemoConfig:
    """The preset named on the command line: its numbers are the defaults of all other options."""
    for position, word in enumerate(words):
        name = word.partition("=")[2] if word.startswith("--preset=") else None
        if word == "--preset" and position + 1 < len(words):
            name = words[position + 1]
        if name in PRESETS:
            return PRESETS[name]
    return PRESETS["laptop"]


def _commands(default: DemoConfig) -> dict[str, Callable]:
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

        watch = _watch()
        template = load()
        _synthesize(synthesize, out / "data", config.data, config.run.workers, watch)
        records = deform_and_learn(out / "data", out / "run", config.run, template, watch=watch)
        page = write_report(out / "run", template, data=out / "data")
        target = out / "report.html"
        write_atomically(target, page.read_bytes())
        print_results(_console(), records)
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

        _synthesize(synthesize, out, config, workers, _watch())

    def register(
        source: tyro.conf.Positional[Path],
        out: Path,
        iuv: Path | None = None,
        inds: Path | None = None,
        charts: Path | None = None,
        keypoints: Path | None = None,
        lifter: Path | None = None,
        poses: Path | None = None,
        pose_joints: str = "h36m17",
        split: str = "train",
        template: str = "anny",
        points: int = 400,
        config: Annotated[RegistrationConfig, Flat] = default.run.registration,
    ) -> None:
        """Fit the template to a data set, to a photograph with its DensePose IUV, or to key points.

        Args:
            source: Data set folder; or the photograph (with --iuv); or the folder of images (with
                --keypoints).
            out: Folder for estimates.parquet, people.json and the pictures.
            iuv: DensePose IUV png of the photograph.
            inds: DensePose INDS png: which person each pixel belongs to (default: one person).
            charts: DensePose's UV_Processed.mat.
            keypoints: COCO person_keypoints json.
            lifter: Lifter that gives key points a depth (lifter.safetensors of a run).
            poses: Or 2D poses (.npy, people x joints x 2) to train one on.
            pose_joints: Joint set of --poses.
            split: Split of the data set.
            template: Rigged human: anny, or a template file.
            points: Correspondences a person, with --iuv.
            config: Weights and schedule.

        """
        from deformlearn import fitting, templates

        watch = _watch()
        body = templates.load(template)
        if iuv is not None and keypoints is not None:
            raise InputError("--iuv and --keypoints are two kinds of input; give one of them")
        depth_lifter = _lifter(lifter, poses, pose_joints, out, watch)
        if iuv is not None:
            if charts is None:
                raise InputError("--iuv needs --charts: DensePose's UV_Processed.mat")
            found = fitting.fit_photograph(
                source,
                iuv,
                inds,
                charts,
                out,
                body,
                config,
                points=points,
                lifter=depth_lifter,
                watch=watch,
            )
        elif keypoints is not None:
            found = fitting.fit_keypoints(
                keypoints, source, out, body, config, lifter=depth_lifter, watch=watch
            )
        else:
            found = fitting.fit_dataset(
                source, out, split, body, config, lifter=depth_lifter, watch=watch
            )
        _print_people(found)
        print(f"written: {out.resolve()}")

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
        records = deform_and_learn(data, out, config, body, watch=_watch())
        page = write_report(out, body, data=data)
        print_results(_console(), records)
        print(f"report: {page.resolve()}")

    def predict(
        run: tyro.conf.Positional[Path],
        images: tyro.conf.Positional[list[Path]],
        out: Path,
        refine: bool = False,
        template: str = "anny",
        device: str = "auto",
    ) -> None:
        """Predict the body in each image: NPZ, OBJ and an overlay png a person.

        Args:
            run: Run folder, or a network.safetensors.
            images: Images of one person each, who fills most of it; or folders of such.
            out: Folder for the results.
            refine: Register each prediction to the key points that the network itself sees.
            template: Rigged human the run was made with.
            device: auto, cpu, cuda, ...

        """
        from deformlearn.results import predict_to_files
        from deformlearn.templates import load

        body = load(template)
        predict_to_files(run, images, out, body, refine=refine, device=device, watch=_watch())
        print(f"written: {out.resolve()}")

    def evaluate(run: tyro.conf.Positional[Path], template: str = "anny") -> None:
        """Print what a run has measured, by action too, and the protocol behind the numbers.

        Args:
            run: Run folder.
            template: Rigged human the run was made with.

        """
        from deformlearn.evaluation import ProtocolCard, canonical_mm
        from deformlearn.report import print_actions, print_results
        from deformlearn.rundir import RunFolder, read_config
        from deformlearn.templates import load

        data = read_config(run)["data"]
        records = RunFolder(run).records()
        print_results(_console(), records)
        print_actions(_console(), records)
        described = data["template"]["description"] or data["path"]
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

    def body(
        file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[FILE]")] = "anny",
        out: Path | None = None,
    ) -> None:
        """Print a template's segments and joint limits, and draw it.

        Args:
            file: anny, or a template file.
            out: Where to draw it (png).

        """
        from deformlearn.anatomy import describe, draw
        from deformlearn.templates import load

        template = load(file)
        describe(template, _console())
        if out is not None:
            draw(template, out)
            print(f"written: {out.resolve()}")

    def check(data: tyro.conf.Positional[Path], template: str = "anny") -> None:
        """Validate a data set and list every bad row with its reason.

        Args:
            data: Data set folder.
            template: Rigged human it refers to.

        """
        from deformlearn.data.check import check_dataset
        from deformlearn.templates import load

        bad = check_dataset(data, load(template), console=_console())
        if bad:
            raise InputError(f"{data} has {bad} bad rows; they are listed above with their reasons")

    commands = (demo, synth, register, run, predict, evaluate, report, body, check)
    return {command.__name__: command for command in commands}


def _synthesize(
    synthesize: Callable, out: Path, config: SyntheticConfig, workers: int, watch
) -> None:
    total = config.train + config.val + config.test
    with watch.stage("synthetic people", total) as advance:
        synthesize(out, config, workers=workers, progress=lambda done, _: advance(done))


def _lifter(path: Path | None, poses: Path | None, joints: str, out: Path, watch):
    from dataclasses import replace

    from deformlearn import fitting
    from deformlearn.lifter import load_lifter

    if path is not None:
        return load_lifter(path)
    if poses is None:
        return None
    # Real key points have gaps: this lifter learns to do with some of them.
    config = replace(PRESETS["laptop"].run.lifter, hidden=0.3)
    return fitting.lifter_from_poses(poses, joints, out, config, watch=watch)


def _print_people(people) -> None:
    from rich.table import Table

    table = Table()
    for column in (
        "person",
        "points",
        "key points",
        "size px",
        "error px",
        "held out px",
        "% of size",
    ):
        table.add_column(column, justify="left" if column == "person" else "right")
    table.add_column("facing", justify="right")
    table.add_column("flag")
    for one in people[:50]:
        held_out = "" if one.held_out_px is None else f"{one.held_out_px:.2f}"
        table.add_row(
            one.key, str(one.points), str(one.keypoints), f"{one.size_px:.0f}", f"{one.error_px:.2f}",
            held_out, f"{one.error_percent:.2f}", f"{one.facing:.2f}", one.flag,
        )  # fmt: skip
    _console().print(table)
    if len(people) > 50:
        print(f"and {len(people) - 50} more in people.json")


def _watch():
    from deformlearn.progress import Watch

    return Watch()


def _console():
    from rich.console import Console

    # A pipe has no width of its own: give tables the room they need.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Console(highlight=False, width=width)


if __name__ == "__main__":
    main()
