"""The command that hands bodies, and the network that finds them, to other programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from deformlearn.config import DemoConfig
from deformlearn.errors import InputError

if TYPE_CHECKING:
    from deformlearn.exports.command import Outcome
    from deformlearn.exports.photos import Photos
    from deformlearn.findings import EstimatesFile, Findings

Axes = Literal["template", "camera"]


def commands(default: DemoConfig) -> dict[str, Callable]:
    """Each command by name; none has numbers of the preset."""
    del default
    return {"export": export}


def export(
    path: tyro.conf.Positional[Path],
    to: Literal["glb", "bvh", "obj", "ply", "npz", "smpl", "onnx"],
    out: Path,
    people: tuple[str, ...] = (),
    round: int | None = None,
    stage: Literal["registered", "predicted", "refined"] | None = None,
    split: str | None = None,
    animate: bool = False,
    fps: float = 30.0,
    motion: Literal["none", "plane", "space"] = "plane",
    axes: Axes | None = None,
    influences: Literal[4, 8] = 4,
    unit: Literal["m", "cm"] = "m",
    focal_px: float | None = None,
    texture: bool = False,
    images: Path | None = None,
    data: str | None = None,
    template: str = "anny",
    pixels: Literal["float", "uint8"] = "float",
) -> None:
    """Write people for Blender, Unity, three.js and the like, one file each; or a network (onnx).

    Args:
        path: Run folder, or estimates.parquet; a template (anny, or its file) for its body at rest; for
            onnx also a network.safetensors.
        to: glb (skinned), bvh (motion), obj or ply (mesh), npz (numbers), smpl (parameters), onnx.
        out: Folder to write into; files of the same names are replaced.
        people: Who: keys, numbers from 0, ranges as 10-19; everyone if not given.
        round: Round of the run; the last one if not given.
        stage: Which bodies of that round: fits to the labels, or the network's.
        split: Which split of the data set (train if a file of estimates does not say).
        animate: A video as one file of motion (glb, bvh, npz, smpl): frames are keys as NAME_000123.
        fps: Frames a second of that motion.
        motion: Where a video's person goes: nowhere, across the image, or also towards the camera.
        axes: template: the person's own; camera: as the photograph shows it (with animate and smpl).
        influences: Bones that move a vertex of a glb: 4, or 8 for readers that take two sets.
        unit: Metres or centimetres, of bvh.
        focal_px: Focal length of the perspective camera; not given: HMR's 5000 px for a 224 px crop.
        texture: Colour the body of a glb with its photographs.
        images: Those photographs: folder, picture or video; not given: the data set's.
        data: Data set of the people, where the run does not say or it has moved.
        template: Rigged human the estimates or the network were made with.
        pixels: What an onnx model takes: RGB in [0, 1], or bytes.

    """
    if pixels != "float" and to != "onnx":
        raise InputError(f"{to} files hold people; --pixels is for onnx")
    if to == "onnx":
        idle = [people, round, stage, split, animate, texture, images, data, focal_px]
        if any(value not in ((), None, False) for value in idle):
            raise InputError(
                "onnx is a network and no people: leave out all but --template, --axes and --pixels"
            )
        _network(path, out, template, axes or "template", pixels)
        return
    from deformlearn.exports.command import (
        ExportOptions,
        choose_file,
        export_people,
        export_template,
    )
    from deformlearn.findings import find
    from deformlearn.templates import load
    from deformlearn.terminal import watch

    if not texture and (images or data):
        raise InputError(
            "--images and --data say where photographs are, for --texture; give it too"
        )
    found = find(path)
    turned = to == "smpl" or (animate and to != "npz")
    chosen = axes or ("camera" if turned else "template")
    options = ExportOptions(chosen, animate, fps, motion, influences, unit, focal_px)
    if found.kind == "template":
        if people or round or stage or split or texture:
            raise InputError(
                f"{found.path} is a template, not people: leave out --people, --round, --stage, "
                f"--split and --texture for its body at rest, or give a run or a file of estimates"
            )
        outcome = export_template(load(found.template), to, out, options)
        print(f"{out}: {found.template} at rest as {to}")
        for line in _costs(to, outcome, animate=False, influences=influences):
            print(line)
        return
    file = choose_file(found, round_=round, stage=stage, split=split)
    photos = _photos(found, file.split or split or "train", images, data) if texture else None
    outcome = export_people(
        file, load(template), to, out, options, people=people, photos=photos, watch=watch()
    )
    files = "file" if outcome.files == 1 else "files"
    print(f"{out}: {outcome.files} {to} {files} of {_source(found, file)}")
    for line in _costs(to, outcome, animate=animate, influences=influences):
        print(line)


def _network(
    path: Path, out: Path, template: str, axes: Axes, pixels: Literal["float", "uint8"]
) -> None:
    from deformlearn.exports.onnx import LARGEST_DIFFERENCE, write_onnx
    from deformlearn.regressor import load_network
    from deformlearn.results import last_network
    from deformlearn.rundir import run_in
    from deformlearn.templates import load

    target = out / "network.onnx"
    network = load_network(last_network(run_in(path)))
    largest = write_onnx(network, load(template), target, axes=axes, pixels=pixels)
    print(
        f"{target}: ONNX Runtime differs from PyTorch by at most {largest:.1e} "
        f"(allowed: {LARGEST_DIFFERENCE:g})"
    )


def _photos(
    found: Findings, split: str, images: Path | None, data: str | None
) -> Callable[[Sequence[str]], Photos]:
    """How the photographs of some keys are found."""
    from deformlearn.exports.photos import NewPhotos, StoredPhotos
    from deformlearn.files import place

    if images is not None:
        return lambda keys: NewPhotos(images, keys)
    folder = found.data if data is None else place(data)
    if folder is None:
        where = f" ({'; '.join(found.notes)})" if found.notes else ""
        raise InputError(
            f"--texture needs the photographs, and {found.path} does not say where they are{where}; "
            f"give --images, or --data for a data set"
        )
    return lambda keys: StoredPhotos(folder, split, keys)


def _source(found: Findings, file: EstimatesFile) -> str:
    if not file.round:
        return str(file.path)
    whose = f"{file.stage} people ({file.split}) of round {file.round}"
    # What is still being written is said once, where there is a newer round to wait for.
    notes = "".join(f"; {note}" for note in found.notes if "still" in note or "not whole" in note)
    return f"the {whose} of {found.path}{notes}"


def _costs(to: str, outcome: Outcome, *, animate: bool, influences: int) -> list[str]:
    """What the format could not hold, and who is missing."""
    most, mean = outcome.largest_mm, outcome.mean_mm
    lines = []
    if to == "glb":
        lines.append(
            f"skin: with {influences} bones a vertex it is at most {most:.2g} mm "
            f"(mean {mean:.2g} mm) from where all its bones carry it"
            + ("; --influences 8 keeps more, for readers that take it" if most > 0.1 else "")
        )
    if to == "bvh" and animate:
        lines.append(
            f"bones of one length: joints move by at most {most:.2g} mm, mean {mean:.2g} mm"
        )
    if to == "smpl":
        lines.append(
            f"SMPL has no segment scales: its skin is {mean:.2g} mm (mean) from the estimates', "
            f"at most {most:.2g} mm; the scales are in the files"
        )
    if outcome.seen:
        share = sum(outcome.seen) / len(outcome.seen)
        lines.append(f"texture: photographs colour {share:.0%} of the surface; the rest is grey")
    named = outcome.left_out[:3]
    lines += [f"left out: {one}" for one in named]
    if len(outcome.left_out) > len(named):
        lines.append(f"left out: {len(outcome.left_out) - len(named)} more")
    return lines
