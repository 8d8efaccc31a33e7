"""People of a run or a file of estimates as files of other programs, one a person or a video."""

from __future__ import annotations

import bisect
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from deformlearn.body import BodyTemplate
from deformlearn.camera import Crop
from deformlearn.data.estimates import Estimates
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.exports.about import Loss, mesh_comments
from deformlearn.exports.atlas import Atlas, atlas_of
from deformlearn.exports.axes import Axes, estimate_mesh
from deformlearn.exports.bvh import BvhOptions, Unit, write_bvh
from deformlearn.exports.glb import GlbOptions, write_glb
from deformlearn.exports.influences import SET
from deformlearn.exports.meshes import write_obj, write_ply
from deformlearn.exports.npz import write_npz
from deformlearn.exports.people import (
    Exported,
    each_alone,
    keys_of,
    read_one,
    read_rows,
    rows_of,
    usable,
    videos,
)
from deformlearn.exports.photos import Photos
from deformlearn.exports.placing import Motion
from deformlearn.exports.smpl import require_smpl, write_smpl
from deformlearn.exports.texture import Painter, Texture
from deformlearn.findings import EstimatesFile, Findings, Stage
from deformlearn.progress import QUIET, Watch

Format = Literal["glb", "bvh", "obj", "ply", "npz", "smpl"]

_BEST_FIRST: tuple[Stage, ...] = ("registered", "predicted", "refined")
"""What is exported where nobody says what."""

_MOVING = ("glb", "bvh", "npz", "smpl")
"""Formats that hold the frames of a video in one file."""

_ENDINGS = {"smpl": "smpl.npz"}
"""Of files that do not end as their format is called."""

_SIDE = 224
"""Of the picture that a template at rest is seen in (px)."""

_VIEWS = 24
"""Photographs of a video that colour its texture, at the most, spread over its frames."""


@dataclass(frozen=True)
class ExportOptions:
    """How people are written."""

    axes: Axes = "template"
    animate: bool = False
    """Every video as one file of motion, instead of one file a person."""
    fps: float = 30.0
    motion: Motion = "plane"
    influences: int = SET
    unit: Unit = "m"
    focal_px: float | None = None


@dataclass
class Outcome:
    """What was written, and what it cost."""

    files: int = 0
    rows: int = 0
    largest_mm: float = 0.0
    """How far what the format cannot hold moves anything, in the worst file."""
    left_out: list[str] = field(default_factory=list)
    """Who or what is in no file, and why."""
    seen: list[float] = field(default_factory=list)
    """Share of the surface that photographs coloured, of each file with a texture."""
    _means_mm: list[float] = field(default_factory=list)

    @property
    def mean_mm(self) -> float:
        """Mean over all files of what `largest_mm` is the worst of."""
        return sum(self._means_mm) / max(len(self._means_mm), 1)

    def add(self, rows: int, loss: Loss | None) -> None:
        """Note a file."""
        self.files += 1
        self.rows += rows
        if loss is not None:
            self.largest_mm = max(self.largest_mm, loss.largest_mm)
            self._means_mm.append(loss.mean_mm)


def choose_file(
    found: Findings,
    *,
    round_: int | None = None,
    stage: str | None = None,
    split: str | None = None,
) -> EstimatesFile:
    """The file of estimates that a user means: the first that fits of the last round that has the stage.

    Where no stage is named, it is the best there is: fits stand before predictions before refined ones,
    and fits of an earlier round before predictions where the last round's fits are damaged. Nothing
    that fits is an InputError which lists what there is.
    """
    if found.kind == "data":
        raise InputError(
            f"{found.path} is a data set: photographs and labels without bodies; "
            f"give a run made from it, or a file of estimates"
        )
    if found.kind == "network":
        raise InputError(
            f"{found.path} is a network, not people; give a run or a file of estimates"
        )
    if not found.files:
        raise InputError(
            f"nothing to export yet: {'; '.join(found.notes)}; wait for its first round"
        )
    fitting = [
        file
        for file in found.files
        if (round_ is None or file.round == round_)
        and (stage is None or file.stage == stage)
        and (split is None or file.split in ("", split))
    ]
    if not fitting:
        there = ", ".join(dict.fromkeys(f"{one.stage} {one.split}".strip() for one in found.files))
        if found.kind == "run":
            there += f" of round {', '.join(map(str, found.rounds))}"
        asked = [f"round {round_}" if round_ is not None else "", stage or "", split or ""]
        raise InputError(
            f"{found.path} has no estimates of {' '.join(filter(None, asked))}; it has {there}"
        )
    # Files of the same stage and round differ in their split alone: the first stays the first.
    return min(fitting, key=lambda file: (_BEST_FIRST.index(file.stage), -file.round))


def export_people(
    file: EstimatesFile,
    template: BodyTemplate,
    to: Format,
    out: Path,
    options: ExportOptions | None = None,
    *,
    people: Sequence[str] = (),
    photos: Callable[[Sequence[str]], Photos] | None = None,
    watch: Watch = QUIET,
) -> Outcome:
    """Write the people of a file of estimates into the folder `out`, each under its key.

    `people` chooses some, by key, number or range (`people.rows_of`). `photos` finds, for the keys that
    are wanted, the photographs for the textures of GLB files. Files that are there are replaced, each
    when the new one is whole, so that the same command goes over what a killed one did. Whoever cannot
    be written is left out and named.
    """
    options = options or ExportOptions()
    _refuse_misfits(to, options, textured=photos is not None)
    if to == "smpl":
        require_smpl(template)
    _require_room(out)
    keys = keys_of(file.path)
    rows = sorted(rows_of(keys, people, file.path))
    files = videos(keys, rows) if options.animate else each_alone(keys, rows)
    _clear_parts(out, files, to)
    found = photos([keys[row] for row in rows]) if photos else None
    atlas = None if found is None else atlas_of(template)
    job = _Job(template, to, out, options, found, atlas, Outcome())
    with watch.stage(f"export {to}", len(rows)) as advance:
        done = 0
        for one, estimates in _read(file.path, template, files):
            job.write(one, estimates)
            advance(done := done + len(one.rows))
    if not job.outcome.files:
        raise InputError(f"nobody of {file.path} can be exported: {job.outcome.left_out[0]}")
    return job.outcome


def export_template(
    template: BodyTemplate, to: Format, out: Path, options: ExportOptions | None = None
) -> Outcome:
    """Write a template at rest into the folder `out`, under its name, as `export_people` writes people.

    Its camera faces it, and sees it in a picture of `_SIDE` pixels.
    """
    options = options or ExportOptions()
    _refuse_misfits(to, options, textured=False)
    if options.animate:
        raise InputError(f"{template.name} at rest does not move; leave out --animate")
    if to == "smpl":
        require_smpl(template)
    _require_room(out)
    crop = Crop(torch.full((1, 2), _SIDE / 2), torch.full((1,), _SIDE / 2))
    rest = Estimates([template.name], Estimate.rest(template, 1), crop)
    job = _Job(template, to, out, options, None, None, Outcome())
    files = each_alone(rest.keys, [0])
    _clear_parts(out, files, to)
    job.write(files[0], rest)
    return job.outcome


def _refuse_misfits(to: Format, options: ExportOptions, *, textured: bool) -> None:
    if textured and to != "glb":
        raise InputError(f"a texture goes into a GLB file; {to} has none here: give --to glb")
    if options.animate and to not in _MOVING:
        raise InputError(f"{to} holds no motion; for a video as one file give {', '.join(_MOVING)}")
    if options.unit != "m" and to != "bvh":
        raise InputError(f"{to} files are in metres; --unit is for bvh")
    if options.influences != SET and to != "glb":
        raise InputError(f"{to} files have no influences to choose; --influences is for glb")
    if options.focal_px is not None and to == "npz":
        raise InputError("npz files have no perspective camera; leave out --focal-px")
    still = ExportOptions()
    if not options.animate and (options.fps, options.motion) != (still.fps, still.motion):
        raise InputError("--fps and --motion are of a video as one file; give --animate too")
    if options.axes == "camera" and to == "npz":
        raise InputError(
            "npz files are in template axes and hold the rotation into camera axes beside; "
            "leave out --axes camera"
        )
    if options.influences not in (SET, 2 * SET):
        raise InputError(f"a vertex has {SET} or {2 * SET} influences, got {options.influences}")
    for name, value in (("fps", options.fps), ("focal-px", options.focal_px)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"--{name} must be above zero and finite, got {value:g}")


def _require_room(out: Path) -> None:
    """Refuse a folder that takes no file before any work is done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise InputError(
            f"cannot write in {out}: {error.strerror or error}; choose another --out"
        ) from error


def _clear_parts(out: Path, files: Sequence[Exported], to: Format) -> None:
    """Clear what a killed export of the same files left; another may be writing others there now."""
    own = {_file_name(one, to) for one in files}
    for stale in out.glob(".*.part"):
        name = stale.name[1:].removesuffix(".part").rpartition(".")[0]
        if name in own or name.removesuffix(".json") in own:
            stale.unlink(missing_ok=True)


def _file_name(one: Exported, to: Format) -> str:
    return f"{one.name}.{_ENDINGS.get(to, to)}"


def _read(
    path: Path, template: BodyTemplate, files: Sequence[Exported]
) -> Iterator[tuple[Exported, Estimates]]:
    """Each file to be, with its rows; those of single rows are read many at a time."""
    if any(len(one.rows) > 1 for one in files):
        yield from ((one, read_one(path, template, one)) for one in files)
        return
    ordered = sorted(files, key=lambda one: one.rows)
    waiting = iter(ordered)
    for several in read_rows(path, template, [one.rows[0] for one in ordered]):
        for row in range(len(several)):
            yield next(waiting), several.select([row])


@dataclass(frozen=True)
class _Job:
    """What all files of one export share."""

    template: BodyTemplate
    to: Format
    out: Path
    options: ExportOptions
    photos: Photos | None
    atlas: Atlas | None
    outcome: Outcome

    def write(self, one: Exported, estimates: Estimates) -> None:
        """Write a file; rows that are no person are left out."""
        good = usable(estimates)
        bad = (~good).nonzero()[:, 0].tolist()
        for row in bad:
            self.leave_out(estimates.keys[row], "its numbers are not those of a person")
        kept = good.nonzero()[:, 0].tolist()
        if not kept:
            return
        if bad:
            estimates = estimates.select(kept)
            one = replace(one, frames=tuple(one.frames[row] for row in kept))
        path = self.out / _file_name(one, self.to)
        self.outcome.add(len(estimates), self._write(path, one, estimates))

    def leave_out(self, key: str, reason: str) -> None:
        """Note someone who is not written, and why."""
        self.outcome.left_out.append(f"{key}: {reason}")

    def _write(self, path: Path, one: Exported, estimates: Estimates) -> Loss | None:
        """One file; what its format could not hold, where that is known."""
        how, template = self.options, self.template
        first = one.frames[0]
        times = [(frame - first) / how.fps for frame in one.frames] if how.animate else None
        if self.to == "glb":
            look = GlbOptions(how.axes, how.influences, how.motion, how.focal_px)
            texture = self._texture(estimates)
            return write_glb(path, estimates, template, look, times=times, texture=texture)
        if self.to == "bvh":
            bones = BvhOptions(how.axes, how.unit, how.motion, how.focal_px)
            shown = estimates.select(_without_gaps(one.frames))
            return write_bvh(path, shown, template, bones, fps=how.fps)
        if self.to == "smpl":
            return write_smpl(
                path, estimates, template, axes=how.axes, focal=how.focal_px, times=times
            )
        if self.to == "npz":
            write_npz(path, estimates, template, meshes=not how.animate, times=times)
            return None
        vertices = estimate_mesh(template, estimates.estimate, axes=how.axes)[0]
        facts = mesh_comments(estimates, template, how.axes, how.focal_px)
        write = write_obj if self.to == "obj" else write_ply
        write(path, vertices, template.faces, axes=how.axes, comments=facts)
        return None

    def _texture(self, estimates: Estimates) -> Texture | None:
        """The colours of the photographs; None where none is wanted or can be read."""
        if self.photos is None or self.atlas is None:
            return None
        painter = Painter(self.template, self.atlas)
        views = 0
        for row in _spread(len(estimates)):
            one = estimates.select([row])
            try:
                painter.add(self.photos.of(one), one.estimate)
                views += 1
            except InputError as error:
                self.leave_out(f"texture of {one.keys[0]}", str(error))
        if not views:
            return None
        texture = painter.texture()
        self.outcome.seen.append(texture.seen)
        return texture


def _spread(rows: int) -> list[int]:
    """At most `_VIEWS` rows, spread evenly over all."""
    views = min(rows, _VIEWS)
    return [round(view * (rows - 1) / max(views - 1, 1)) for view in range(views)]


def _without_gaps(frames: Sequence[int]) -> list[int]:
    """A row for every frame from first to last; one that is not there repeats the row before it."""
    return [bisect.bisect_right(frames, frame) - 1 for frame in range(frames[0], frames[-1] + 1)]
