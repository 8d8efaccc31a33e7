"""Predictions as files: NPZ, OBJ and an overlay picture for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from deformlearn import runtime
from deformlearn.body import BodyTemplate
from deformlearn.config import RegistrationConfig
from deformlearn.data.estimates import Estimates, flags_of, write_estimates
from deformlearn.data.images import open_image
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.export import estimate_mesh, write_npz, write_obj
from deformlearn.lifter import load_lifter
from deformlearn.observations import Observations, no_points
from deformlearn.pictures import save_png
from deformlearn.predict import PredictedPeople, predict_images
from deformlearn.progress import QUIET, Watch
from deformlearn.registration import register
from deformlearn.regressor import Regressor, load_network
from deformlearn.render import overlay

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def predict_to_files(
    run: Path,
    sources: Sequence[Path],
    out: Path,
    template: BodyTemplate,
    *,
    refine: bool = False,
    device: str = "auto",
    watch: Watch = QUIET,
) -> Estimates:
    """Predict the person in each image and write NAME.npz, NAME.obj and NAME.png; all in estimates.parquet.

    `run` is a run folder (its last round counts) or a network file; `sources` are images or folders of
    images. Unreadable images are listed and left out. With `refine`, each prediction is registered to the
    key points that the network itself sees, with the depths of the run's lifter where it has one.
    """
    network = load_network(_network_of(run))
    images = _images_of(sources)
    where = runtime.device(device)
    with watch.stage("predict", len(images)) as advance:
        found = predict_images(network, template, images, device=where)
        advance(len(images))
    for unreadable in found.unreadable:
        watch.say(f"left out: {unreadable.key}: {unreadable.reason}")
    names = _names(found.paths)
    people = Estimates(names, found.estimate, found.crop)
    if refine:
        people = _refined(run, network, template, found, names, watch)
    with watch.stage("write", len(names)) as advance:
        for row, (name, path) in enumerate(zip(names, found.paths, strict=True)):
            _write_person(out, name, path, people, row, template)
            advance(row + 1)
    write_estimates(out / "estimates.parquet", people, template)
    return people


def _refined(
    run: Path,
    network: Regressor,
    template: BodyTemplate,
    found: PredictedPeople,
    names: list[str],
    watch: Watch,
) -> Estimates:
    """Predictions drawn to the network's own heat maps."""
    if found.keypoints is None or found.confidence is None:
        raise InputError(
            "--refine needs a network with heat maps; this one was trained with auxiliary = False"
        )
    unknown = torch.zeros_like(found.confidence)
    seen = Observations(
        *no_points(len(names), found.keypoints),
        found.keypoints,
        found.confidence,
        unknown,
        unknown,
        network.info.joints,
    )
    lifter = run / "lifter.safetensors"
    if lifter.is_file():
        seen = load_lifter(lifter).lift(seen)
    # The network's body knows more of depth than its key points do: stay near it, in few steps.
    config = replace(RegistrationConfig(), refit_steps=60)
    with watch.stage("refine", len(names)) as advance:
        estimate, quality = register(
            template, seen, found.crop, config, start=found.estimate,
            progress=advance,
        )  # fmt: skip
    return Estimates(names, estimate, found.crop, quality, tuple(flags_of(quality, found.crop)))


def _write_person(
    out: Path, name: str, source: Path, people: Estimates, row: int, template: BodyTemplate
) -> None:
    one: Estimate = people.estimate[row : row + 1]
    quality = None if people.quality is None else people.quality[row : row + 1]
    alone = Estimates([name], one, people.crop[row : row + 1], quality, people.flags[row : row + 1])
    write_npz(out / f"{name}.npz", alone, template, meshes=True)
    vertices = estimate_mesh(template, one, axes="camera")[0]
    write_obj(out / f"{name}.obj", vertices, template.faces, axes="camera")
    photo = np.array(open_image(source, upright=True))
    save_png(out / f"{name}.png", overlay(photo, template, one, people.crop[row : row + 1]))


def _network_of(run: Path) -> Path:
    """The network file itself, or that of the last finished round of a run folder."""
    if run.is_file():
        return run
    networks = sorted(run.glob("round-*/network.safetensors"), key=_round_number)
    if not networks:
        raise InputError(f"{run} holds no trained network; give a run folder with a finished round")
    return networks[-1]


def _round_number(path: Path) -> int:
    digits = path.parent.name.removeprefix("round-")
    return int(digits) if digits.isdigit() else 0


def _images_of(sources: Sequence[Path]) -> list[Path]:
    images: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise InputError(
                    f"the folder {source} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})"
                )
            images += inside
        else:
            images.append(source)
    return images


def _names(paths: Sequence[Path]) -> list[str]:
    """The images' stems, numbered where two are alike."""
    names: list[str] = []
    for path in paths:
        name, again = path.stem, 2
        while name in names:
            name, again = f"{path.stem}-{again}", again + 1
        names.append(name)
    return names
