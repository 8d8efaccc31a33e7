"""Registration of files: a data set, a photograph with its DensePose prediction, COCO key points."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from deformlearn import lifter as lifting
from deformlearn.body import BodyTemplate
from deformlearn.camera import Crop
from deformlearn.config import LifterConfig, RegistrationConfig
from deformlearn.data.chunks import counted, main_reasons
from deformlearn.data.coco import read_keypoints
from deformlearn.data.densepose import (
    DetectedPerson,
    channel_order,
    halve_points,
    people_rows,
    photo_size,
)
from deformlearn.data.estimates import Estimates, flags_of, write_estimates
from deformlearn.data.images import decode_image, open_image
from deformlearn.data.predictions import IuvImage, open_predictions
from deformlearn.data.shards import DatasetInfo, People, Row, people_of
from deformlearn.densepose_charts import read_densepose_charts
from deformlearn.distributed import ALONE, Team
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, project_points
from deformlearn.files import AnyPath, write_atomically
from deformlearn.lifter import Lifter
from deformlearn.observations import Observations
from deformlearn.own_joints import OWN_JOINT_WEIGHT, with_own_joints, without_keypoints
from deformlearn.pictures import save_png
from deformlearn.progress import QUIET, Advance, Watch
from deformlearn.registering import Registered, register_split
from deformlearn.registration import register
from deformlearn.render import dots, overlay, strip
from deformlearn.unseen import unseen_parts, with_unseen

_LISTED = 12
"""Annotations that are left out with a line each; more are counted."""

_PICTURE = 320
"""Side of each picture of a strip (px)."""


@dataclass(frozen=True)
class PersonReport:
    """One fitted person, in the words of a table."""

    key: str
    points: int
    keypoints: int
    size_px: float
    """Longer side of the box of everything observed."""
    error_px: float
    """Median reprojection error of what was fitted."""
    held_out_px: float | None
    """Median error of correspondences that a second fit never saw; None where not measured."""
    facing: float
    flag: str

    @property
    def error_percent(self) -> float:
        """The held-out error where there is one, else the fitted error, in percent of the size."""
        error = self.error_px if self.held_out_px is None else self.held_out_px
        return 100 * error / self.size_px


def fit_dataset(
    data: AnyPath,
    out: Path,
    split: str,
    template: BodyTemplate,
    config: RegistrationConfig,
    *,
    lifter: Lifter | None = None,
    device: torch.device | str = "cpu",
    team: Team = ALONE,
    watch: Watch = QUIET,
) -> Registered:
    """Register every sound person of a split into `out`; bad rows are listed and left out.

    The split may be of any size, and what was cut off goes on (`registering.register_split`). Finished
    estimates in `out` that were made of anything else are an InputError.
    """
    return register_split(
        data, split, template, out / "estimates.parquet", config, lifter=lifter, device=device,
        keep=True, team=team, watch=watch,
    )  # fmt: skip


def fit_photograph(
    photo: Path,
    densepose: Path,
    inds: Path | None,
    charts: Path,
    out: Path,
    template: BodyTemplate,
    config: RegistrationConfig,
    *,
    points: int = 400,
    seed: int = 0,
    lifter: Lifter | None = None,
    device: torch.device | str = "cpu",
    watch: Watch = QUIET,
) -> list[PersonReport]:
    """Register everyone DensePose found in a photograph, and draw them.

    `densepose` is an IUV png (with its INDS png, if any), or any other of DensePose's results that
    has the photograph in it by name: a folder, a challenge json, a detectron2 dump.

    DensePose says nothing about depth. With a lifter, the joints of a first fit are lifted as if they
    were key points, and a second fit is drawn to those depths.

    A second fit sees half of each person's points; the error of the other half is what `held_out_px`
    reports. People too small to be fitted are listed, those that are cut or hidden are flagged.
    """
    usable = _seen_in(photo, densepose, inds, watch)
    rows = people_rows(
        usable, photo, read_densepose_charts(charts), template, points=points, seed=seed
    )
    halves = [halve_points(row, seed) for row in rows]
    info = _info(template)
    unseen = people_of([second for _, second in halves], info)
    half = people_of([first for first, _ in halves], info)
    half = replace(half, observations=_lifted(template, half, config, lifter, device))
    partial, _ = _registered(template, half, config, device)
    held_out = _point_errors(template, partial, unseen.observations, unseen.crop)
    notes = ["; ".join(person.notes) for person in usable]
    people = people_of(rows, info)
    people = replace(people, observations=_lifted(template, people, config, lifter, device))
    return _fit(
        people, out, template, config, device=device, watch=watch, held_out=held_out.tolist(),
        notes=notes, sources=rows,
    )  # fmt: skip


def _lifted(
    template: BodyTemplate,
    people: People,
    config: RegistrationConfig,
    lifter: Lifter | None,
    device: torch.device | str,
) -> Observations:
    """People without key points, with the joints of a first fit and their lifted depths."""
    if lifter is None:
        return people.observations
    # Without key points in the lifter's own joint set none of its depths would be lost.
    seen = without_keypoints(people.observations, lifter.joints).to(device)
    moved = copy.deepcopy(lifter).to(device)
    crop = people.crop.to(device)
    return with_own_joints(template.to(device), seen, crop, config, moved).to("cpu")


def _registered(
    template: BodyTemplate,
    people: People,
    config: RegistrationConfig,
    device: torch.device | str,
    progress: Advance | None = None,
) -> tuple[Estimate, Quality]:
    """The fits of people, computed on a device, in ordinary memory."""
    seen, crop = people.observations.to(device), people.crop.to(device)
    estimate, quality = register(template.to(device), seen, crop, config, progress=progress)
    return estimate.to("cpu"), quality.to("cpu")


def _seen_in(photo: Path, densepose: Path, inds: Path | None, watch: Watch) -> list[DetectedPerson]:
    """Everyone large enough whom DensePose saw in a photograph; the others are listed."""
    size = photo_size(photo)
    predictions = open_predictions(densepose, inds)
    prediction = predictions.of(photo)
    if prediction is None and densepose.is_file():
        # An IUV image that was given by itself need not have the photograph's name.
        prediction = next(
            (one for one in predictions.images.values() if isinstance(one, IuvImage)), None
        )
    if prediction is None:
        raise InputError(
            f"{densepose} has no prediction of {photo.name} among its {len(predictions.images)} "
            f"images; give the results of this photograph, under its name"
        )
    if isinstance(prediction, IuvImage):
        watch.say(f"{prediction.iuv.name}: red, green, blue are {channel_order(prediction.iuv)}")
    found, rejected = prediction.people(size)
    for one in rejected:
        watch.say(f"left out: {one.where}: {one.reason}")
    for person in found:
        if not person.usable:
            watch.say(f"left out: person {person.index}: {'; '.join(person.notes)}")
    usable = [person for person in found if person.usable]
    if not usable:
        raise InputError(
            f"{densepose} shows nobody large enough in {photo.name}; {len(found)} were too small "
            f"and {len(rejected)} could not be read"
        )
    return usable


def fit_keypoints(
    annotations: Path,
    images: Path,
    out: Path,
    template: BodyTemplate,
    config: RegistrationConfig,
    *,
    lifter: Lifter | None = None,
    min_keypoints: int = 10,
    device: torch.device | str = "cpu",
    watch: Watch = QUIET,
) -> list[PersonReport]:
    """Register people from COCO key points and lifted depths alone, and draw them."""
    if not images.is_dir():
        what = "a file" if images.exists() else "not there"
        raise InputError(
            f"{images} is {what}; with --keypoints give the folder of the images, not one image"
        )
    rows, rejected = read_keypoints(annotations, images, min_keypoints=min_keypoints)
    if len(rejected) <= _LISTED:
        for identity, reason in rejected:
            watch.say(f"left out: annotation {identity}: {reason}")
    else:
        kinds = main_reasons(counted([reason for _, reason in rejected]))
        watch.say(f"left out: {len(rejected)} annotations: {kinds}")
    if not rows:
        about_images = [reason for _, reason in rejected if str(images.absolute()) in reason]
        raise InputError(
            f"{annotations} has nobody with {min_keypoints} labelled key points and an image that can "
            f"be read; all {len(rejected)} annotations were left out"
            + (f" ({len(about_images)} as {about_images[0]})" if about_images else "")
        )
    people = people_of(rows, _info(template))
    if lifter is not None:
        people = replace(people, observations=lifter.lift(people.observations))
    return _fit(people, out, template, config, device=device, watch=watch, sources=rows)


def lifter_from_poses(
    poses: Path, joints: str, out: Path, config: LifterConfig, *, watch: Watch = QUIET
) -> Lifter:
    """A lifter trained on the 2D poses of an .npy file, kept in `out` for the next time.

    One that is there and was made of anything else is an InputError.
    """
    path = out / "lifter.safetensors"
    keypoints, weights = lifting.read_poses(poses, joints)
    made_of = _digest(keypoints, weights, joints, config)
    if path.exists():
        if lifting.made_of(path) != made_of:
            raise InputError(
                f"{path} was not trained on the poses of {poses} as {joints} with these settings; "
                f"give another --out, or use it all the same by --lifter in place of --poses"
            )
        watch.say(f"using the lifter {path}")
        return lifting.load_lifter(path)
    with watch.stage("lifter", config.steps) as advance:
        trained = lifting.train(
            keypoints, weights, joints, config, after_chunk=lambda now: advance(now.step)
        )
    lifting.save_lifter(trained, path, made_of=made_of)
    return trained


def _digest(
    keypoints: torch.Tensor, weights: torch.Tensor, joints: str, config: LifterConfig
) -> str:
    """A short name for all that a lifter is made of."""
    content = hashlib.sha256(json.dumps([joints, asdict(config)]).encode())
    for values in (keypoints, weights):
        content.update(values.numpy().tobytes())
    return content.hexdigest()[:16]


def _info(template: BodyTemplate) -> DatasetInfo:
    return DatasetInfo(template.name, template.fingerprint, "coco17")


def _fit(
    people: People,
    out: Path,
    template: BodyTemplate,
    config: RegistrationConfig,
    *,
    device: torch.device | str,
    watch: Watch = QUIET,
    held_out: Sequence[float] | None = None,
    notes: Sequence[str] | None = None,
    sources: Sequence[Row] = (),
) -> list[PersonReport]:
    seen = people.observations
    with watch.stage("register", len(people)) as advance:
        estimate, quality = _registered(template, people, config, device, advance)
    labelled = torch.where(seen.keypoint_weights > OWN_JOINT_WEIGHT, seen.keypoint_weights, 0.0)
    unseen = unseen_parts(template, replace(seen, keypoint_weights=labelled))
    flags = with_unseen(flags_of(quality, people.crop), unseen)
    for row, note in enumerate(notes or ()):
        flags[row] = (
            note if flags[row] == "ok" and note else "; ".join(filter(None, (flags[row], note)))
        )
    sizes = _sizes(seen) * people.crop.half
    reports = [
        PersonReport(
            key=people.keys[row],
            points=int((seen.point_weights[row] > 0).sum()),
            keypoints=int((seen.keypoint_weights[row] > OWN_JOINT_WEIGHT).sum()),
            size_px=sizes[row].item(),
            error_px=quality.reprojection_px[row].item(),
            held_out_px=None if held_out is None else held_out[row],
            facing=quality.facing[row].item(),
            flag=flags[row],
        )
        for row in range(len(people))
    ]
    value = Estimates(people.keys, estimate, people.crop, quality, tuple(flags))
    write_estimates(out / "estimates.parquet", value, template)
    summary = [vars(report) for report in reports]
    write_atomically(out / "people.json", json.dumps(summary, indent=2).encode())
    if sources:
        _draw(out, sources, people, estimate, template)
    return reports


def _sizes(seen: Observations) -> torch.Tensor:
    """Longer side of the box of everything observed, in image units."""
    everything = torch.cat([seen.points, seen.keypoints], 1)
    weights = torch.cat([seen.point_weights, seen.keypoint_weights], 1)[..., None]
    weights = torch.where(weights > OWN_JOINT_WEIGHT, weights, 0.0)
    low = torch.where(weights > 0, everything, torch.inf).amin(1)
    high = torch.where(weights > 0, everything, -torch.inf).amax(1)
    return (high - low).amax(-1)


def _point_errors(
    template: BodyTemplate, estimate: Estimate, seen: Observations, crop: Crop
) -> torch.Tensor:
    """Median distance of correspondences to their projected surface points, source pixels."""
    surface = template.surface_points(seen.faces, seen.barycentric)
    projected = project_points(template, estimate, surface)[..., :2]
    distances = (projected - seen.points).norm(dim=-1)
    return (
        torch.where(seen.point_weights > 0, distances, torch.nan).nanmedian(-1).values * crop.half
    )


def _draw(
    out: Path, sources: Sequence[Row], people: People, estimate: Estimate, template: BodyTemplate
) -> None:
    """One row of pictures a person, and each source image with its bodies over it."""
    rows = []
    for row, source in enumerate(sources):
        crop = people.crop[row]
        photo = decode_image(Path(source.image_path), _PICTURE, crop).permute(1, 2, 0).numpy()
        seen = people.observations[row : row + 1]
        used = seen.point_weights[0] > 0
        pictures = strip(
            photo,
            template,
            estimate[row : row + 1],
            seen.points[0, used],
            seen.faces[0, used],
            seen.barycentric[0, used],
            size=_PICTURE,
        )
        rows.append(_with_keypoints(pictures, seen))
    save_png(out / "sheet.png", np.concatenate(rows))
    for path in sorted({row.image_path for row in sources}):
        here = [index for index, row in enumerate(sources) if row.image_path == path]
        photo = np.array(open_image(Path(path)))
        drawn = overlay(photo, template, estimate[here], people.crop[here])
        save_png(out / f"overlay-{Path(path).stem}.png", drawn)


def _with_keypoints(pictures: np.ndarray, seen: Observations) -> np.ndarray:
    """A strip whose second picture also shows the key points, left in blue and right in red."""
    used = seen.keypoint_weights[0] > OWN_JOINT_WEIGHT
    if not used.any():
        return pictures
    names = [name for name, on in zip(seen.joint_set.names, used.tolist(), strict=True) if on]
    sides = {"left": (0.15, 0.4, 1.0), "right": (1.0, 0.25, 0.2)}
    colours = torch.tensor([sides.get(name.split("_")[0], (0.2, 0.9, 0.3)) for name in names])
    places = (seen.keypoints[0, used] + 1) * (_PICTURE / 2)
    second = slice(_PICTURE, 2 * _PICTURE)
    marked = dots(pictures[:, second], places, colours)
    return np.concatenate([pictures[:, :_PICTURE], marked, pictures[:, 2 * _PICTURE :]], 1)
