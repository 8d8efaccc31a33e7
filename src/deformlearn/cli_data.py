"""Commands about bodies and labels: register, predict, annotate, check, and rigged humans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from deformlearn.cli_run import refuse_processes
from deformlearn.config import PRESETS, DemoConfig, RegistrationConfig
from deformlearn.errors import InputError
from deformlearn.terminal import console, watch

if TYPE_CHECKING:
    from deformlearn.lifter import Lifter
    from deformlearn.progress import Watch
    from deformlearn.registering import Registered

Flat = tyro.conf.arg(name="")

_WORST = 10
"""People whose fits are shown when a whole data set is done."""


def commands(default: DemoConfig) -> dict[str, Callable]:
    """Each command by name; `default` gives the numbers that are not on the command line."""

    def register(
        source: tyro.conf.Positional[str],
        out: Path,
        densepose: Path | None = None,
        inds: Path | None = None,
        charts: Path | None = None,
        keypoints: Path | None = None,
        lifter: Path | None = None,
        poses: Path | None = None,
        pose_joints: str | None = None,
        split: str | None = None,
        template: str = "anny",
        points: int | None = None,
        device: str = "auto",
        config: Annotated[RegistrationConfig, Flat] = default.run.registration,
    ) -> None:
        """Fit the template to a data set, to a photograph with its DensePose, or to key points.

        A data set may be of any size, on disk or in an object store. What was cut off goes on with the same
        command, and torchrun shares the work between processes (docs/scale.md).

        Args:
            source: Data set folder, or its URL (s3://bucket/set, ...); or the photograph (with
                --densepose); or the folder of images (with --keypoints).
            out: Folder for estimates.parquet; of photographs also people.json and the pictures.
            densepose: DensePose prediction of the photograph: IUV png, challenge json or detectron2 dump.
            inds: DensePose INDS png: which person each pixel belongs to (default: *_INDS.png beside it).
            charts: DensePose's UV_Processed.mat.
            keypoints: COCO person_keypoints json.
            lifter: Lifter that gives joints a depth (lifter.safetensors of a run).
            poses: Or 2D poses (.npy, people x joints x 2) to train one on.
            pose_joints: Joint set of --poses (default: h36m17).
            split: Split of the data set (default: train).
            template: Rigged human: anny, or a file (see `deformlearn body`).
            points: Correspondences a person, with --densepose (default: 400).
            device: auto, cpu, cuda, ...
            config: Weights and schedule.

        """
        from deformlearn import fitting, runtime, templates
        from deformlearn.files import refuse_data_set

        if densepose is not None and keypoints is not None:
            raise InputError("--densepose and --keypoints are two kinds of input; give one of them")
        if lifter is not None and poses is not None:
            raise InputError("--lifter and --poses both say how deep joints are; give one of them")
        for wanted, owner, given in (
            (densepose, "--densepose", {"--charts": charts, "--inds": inds, "--points": points}),
            (poses, "--poses", {"--pose-joints": pose_joints}),
        ):
            if wanted is None:
                _refuse_idle(given, f"for {owner}")
        known = _Depths(lifter, poses, pose_joints or "h36m17", out)
        if densepose is None and keypoints is None:
            _register_dataset(source, out, split or "train", template, known, device, config)
            return
        _refuse_idle({"--split": split}, "for a data set")
        refuse_processes(f"register {'--keypoints' if densepose is None else '--densepose'}")
        refuse_data_set(out)
        where, show = runtime.device(device), watch()
        if keypoints is not None:
            body = templates.load(template)
            found = fitting.fit_keypoints(
                keypoints, Path(source), out, body, config, lifter=known.lifter(show), device=where,
                watch=show,
            )  # fmt: skip
        elif densepose is not None:
            if charts is None:
                raise InputError("--densepose needs --charts: DensePose's UV_Processed.mat")
            body = templates.load(template)
            found = fitting.fit_photograph(
                Path(source), densepose, inds, charts, out, body, config,
                points=400 if points is None else points, lifter=known.lifter(show), device=where,
                watch=show,
            )  # fmt: skip
        _print_people(found)
        print(f"written: {out.resolve()}")

    def predict(
        run: tyro.conf.Positional[Path],
        images: tyro.conf.Positional[list[Path]],
        out: Path,
        boxes: Path | None = None,
        refine: bool = False,
        meshes: bool = False,
        template: str = "anny",
        device: str = "auto",
    ) -> None:
        """Predict the body in each image (NPZ, OBJ, overlay png) or frame (overlay video).

        Args:
            run: Run folder (or the OUT of `demo`), or a network.safetensors.
            images: Images, folders of images, and videos; without --boxes one person fills each.
            out: Folder for the results.
            boxes: Where the people are: json, csv, MOT or OpenPose (docs/videos.md).
            refine: Register each prediction to the key points that the network itself sees.
            meshes: NPZ and OBJ of the people in videos too.
            template: Rigged human the run was made with.
            device: auto, cpu, cuda, ...

        """
        from deformlearn.results import predict_to_files
        from deformlearn.rundir import run_in
        from deformlearn.templates import load

        body = load(template)
        predict_to_files(
            run_in(run), images, out, body, boxes=boxes, refine=refine, meshes=meshes,
            device=device, watch=watch(),
        )  # fmt: skip
        print(f"written: {out.resolve()}")

    def check(
        data: tyro.conf.Positional[str], template: str = "anny", out: Path | None = None
    ) -> None:
        """Validate a data set, list every bad row with its reason, and draw 24 random people.

        Args:
            data: Data set folder, or its URL (s3://bucket/set, ...).
            template: Rigged human it refers to.
            out: Where to write the page with the pictures (default: DATA/summary.html; of a URL none).

        """
        from deformlearn.data.check import check_dataset
        from deformlearn.datasheet import write_datasheet
        from deformlearn.files import place
        from deformlearn.templates import load

        folder = place(data)
        if out is None and not isinstance(folder, Path):
            raise InputError(f"check writes nothing to {data}; give --out for the page")
        body = load(template)
        bad = check_dataset(folder, body, console=console())
        page = write_datasheet(folder, body, target=out, bad=bad)
        print(f"look at it: {page.resolve()}")
        if bad:
            raise InputError(
                f"{data} has {len(bad)} bad rows; they are listed above with their reasons"
            )

    def annotate(
        images: tyro.conf.Positional[Path],
        out: Path,
        template: Annotated[str, tyro.conf.arg(aliases=["--body"])] = "anny",
        joints: str = "coco17",
        charts: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 8765,
        browser: bool = True,
    ) -> None:
        """Annotate photographs by hand, in the browser: this pixel is that point of the body.

        Args:
            images: Folder of photographs.
            out: Data set folder; every change is saved there at once, and the same command goes on.
            template: Rigged human to point at: anny, or a file (see `deformlearn body`).
            joints: Joint set of the key points.
            charts: DensePose's UV_Processed.mat, for a json in DensePose's own charts.
            host: Address to serve at; another than 127.0.0.1 lets others in who know the link.
            port: Port to serve at.
            browser: Open the browser.

        """
        from deformlearn.annotate import command
        from deformlearn.templates import load

        command.annotate(
            images, out, load(template), joints=joints, charts=charts, host=host, port=port,
            open_browser=browser,
        )  # fmt: skip

    return {one.__name__: one for one in (register, predict, annotate, check)}


def body_commands(default: DemoConfig) -> dict[str, Callable]:
    """The commands of `deformlearn body`; `body FILE` is short for `body show FILE`."""

    def show(
        file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[FILE]")] = "anny",
        out: Path | None = None,
        mapping: Path | None = None,
        save: Path | None = None,
    ) -> None:
        """Print a template's segments, where each was found, and its joint limits; draw it.

        Args:
            file: anny, a SMPL file (.pkl, .npz), a rigged human (.glb, .gltf, .vrm), or a template file.
            out: Where to draw it (png): front, side and back, a colour for each segment.
            mapping: Json that names the bone of each segment, where they are not found.
            save: Write it as a template file (.safetensors) that every command takes as --template.

        """
        from deformlearn.anatomy import describe, draw
        from deformlearn.templates import load_with_report
        from deformlearn.templates import save as write

        _refuse_name(out, ".png", file)
        _refuse_name(save, ".safetensors", file)
        template, report = load_with_report(file, mapping)
        describe(template, console(), report)
        if out is not None:
            draw(template, out)
            print(f"written: {out.resolve()}")
        if save is not None:
            write(template, save)
            print(f"written: {save.resolve()}")

    def map_bodies(
        source: tyro.conf.Positional[str], target: tyro.conf.Positional[str], out: Path
    ) -> None:
        """Find where each point of one body's surface lies on another's (about 20 s).

        Args:
            source: anny, or a body's file (see `deformlearn body show`).
            target: The other body.
            out: Map file (.safetensors), read by deformlearn.surfaces.read_map.

        """
        from deformlearn.surfaces import map_surface, summarise, write_map
        from deformlearn.templates import load

        _refuse_name(out, ".safetensors", source, target)
        start, end = load(source), load(target)
        made = map_surface(start, end)
        write_map(out, made)
        print(summarise(made, start, end))
        print(f"written: {out.resolve()}")

    return {"show": show, "map": map_bodies}


def _refuse_name(path: Path | None, ending: str, *sources: str) -> None:
    """Refuse a name that says another kind of file than is written, or is that of a file read."""
    if path is None:
        return
    if path.suffix.lower() != ending:
        raise InputError(
            f"{path} is no name for what is written there; give one that ends in {ending}"
        )
    if path.resolve() in [Path(source).resolve() for source in sources]:
        raise InputError(f"{path} is what is read, and would be replaced; give another name")


@dataclass(frozen=True)
class _Depths:
    """Where the depths of joints come from: a lifter, 2D poses to train one on, or nowhere."""

    path: Path | None
    poses: Path | None
    joints: str
    out: Path

    def lifter(self, show: Watch) -> Lifter | None:
        """The lifter; one that was trained is kept in `out`."""
        from deformlearn import fitting
        from deformlearn.lifter import load_lifter

        if self.path is not None:
            return load_lifter(self.path)
        if self.poses is None:
            return None
        # Real key points have gaps: this lifter learns to do with some of them.
        config = replace(PRESETS["laptop"].run.lifter, hidden=0.3)
        return fitting.lifter_from_poses(self.poses, self.joints, self.out, config, watch=show)


def _refuse_idle(given: Mapping[str, object], owner: str) -> None:
    """Refuse options that would do nothing, for they belong to what was not given."""
    named = [name for name, value in given.items() if value is not None]
    if named:
        verb = "is" if len(named) == 1 else "are"
        raise InputError(f"{' and '.join(named)} {verb} {owner}; leave out what does nothing here")


def _register_dataset(
    source: str,
    out: Path,
    split: str,
    template: str,
    known: _Depths,
    device: str,
    config: RegistrationConfig,
) -> None:
    from deformlearn import fitting, runtime, templates
    from deformlearn.distributed import together
    from deformlearn.files import place, refuse_data_set
    from deformlearn.progress import QUIET

    if Path(source).is_file():
        raise InputError(
            f"{source} is a file; give a data set folder, or --densepose with a photograph"
        )
    with together(device) as team:
        show = watch() if team.leads else QUIET
        with team.refuse_together():
            refuse_data_set(out)
        lifter = None
        for leading in (True, False):  # the one that rank 0 has trained is what the others read
            with team.refuse_together():
                if team.leads == leading:
                    lifter = known.lifter(show)
        found = fitting.fit_dataset(
            place(source), out, split, templates.load(template), config,
            lifter=lifter, device=runtime.device(device), team=team, watch=show,
        )  # fmt: skip
        if team.leads:
            _print_registered(found)
            _print_worst(out / "estimates.parquet")
            print(f"written: {(out / 'estimates.parquet').resolve()}")


def _print_registered(found: Registered) -> None:
    if found.fitted:
        speed = found.fitted / found.seconds
        print(f"{found.fitted} people fitted in {found.seconds:.1f} s ({speed:.1f} people/s)")
    else:
        print("everyone was fitted before, with these settings")
    print(
        f"{found.people} people, {found.rejected} rows or shards left out; "
        f"median reprojection error {found.reprojection_px:.2f} px"
    )
    for reason, count in found.flags.items():
        print(f"{reason}: {count} ({100 * count / found.people:.1f} %)")


def _print_worst(path: Path) -> None:
    """The people with the largest errors for their size, who are worth a look."""
    import numpy as np
    from rich.table import Table

    from deformlearn.data.tables import read_table

    found = read_table(path, ["key", "reprojection_px", "crop_half", "facing", "flag"])
    shares = 100 * found["reprojection_px"].to_numpy() / found["crop_half"].to_numpy()
    table = Table("largest errors")
    for column in ("error px", "% of half the crop", "facing"):
        table.add_column(column, justify="right")
    table.add_column("flag")
    worst = np.argsort(-shares, kind="stable")[:_WORST]
    for share, one in zip(shares[worst], found.take(worst).to_pylist(), strict=True):
        table.add_row(
            one["key"], f"{one['reprojection_px']:.2f}", f"{share:.2f}", f"{one['facing']:.2f}",
            one["flag"],
        )  # fmt: skip
    console().print(table)


def _print_people(people) -> None:
    from rich.table import Table

    table = Table("person")
    for column in (
        "points", "key points", "size px", "error px", "held out px", "% of size", "facing",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    table.add_column("flag")
    for one in people[:50]:
        held_out = "" if one.held_out_px is None else f"{one.held_out_px:.2f}"
        table.add_row(
            one.key, str(one.points), str(one.keypoints), f"{one.size_px:.0f}", f"{one.error_px:.2f}",
            held_out, f"{one.error_percent:.2f}", f"{one.facing:.2f}", one.flag,
        )  # fmt: skip
    console().print(table)
    if len(people) > 50:
        print(f"and {len(people) - 50} more in people.json")
