"""Runs to look at: planted octahedra whose photographs show them, with rounds that come ever nearer."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import octahedra, plant
from deformlearn import templates
from deformlearn.camera import Camera
from deformlearn.data.estimates import Estimates, write_estimates
from deformlearn.data.shards import DatasetInfo, Row, fingerprint, write_info, write_rows
from deformlearn.estimate import Quality
from deformlearn.render import overlay
from deformlearn.skeleton import joint_set
from deformlearn.viewer.source import open_source

SIDE = 128
"""Side of a photograph (px): all of it is the crop."""


@pytest.fixture(scope="module", name="run")
def run_on_disk(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("a run, gelaufen 走"))


@pytest.fixture(scope="module", name="body")
def body_of_run(run):
    return str(run.parent / "octahedra.safetensors")


@pytest.fixture(scope="module", name="source")
def opened_run(run, body):
    return open_source(str(run), template=body)


def write_photos(folder, split, template, people, seed, images=True):
    """People as their own photographs show them: white on black."""
    truth, seen, crop = plant(template, people, seed)
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    rows = []
    for i in range(people):
        picture = overlay(black, template, truth[i : i + 1], opacity=1.0, colour=(1.0, 1.0, 1.0))
        picture = np.where(picture > 20, 255, 0).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "png")
        points, keypoints = (crop.to_pixels(x)[i].numpy() for x in (seen.points, seen.keypoints))
        rows.append(
            Row(
                key=name(split, i), crop=(64.0, 64.0, 64.0), points=points,
                faces=seen.faces[i].numpy(), barycentric=seen.barycentric[i].numpy(),
                point_weights=seen.point_weights[i].numpy(), keypoints=keypoints,
                keypoint_weights=seen.keypoint_weights[i].numpy(), action="Walking",
                image=file.getvalue() if images else None,
            )
        )  # fmt: skip
    write_rows(folder, split, 0, rows)
    return truth, crop


def name(split, row):
    """Keys as people give them."""
    return f"{split} {row:02d} Łukasz 人 <b>&"


def write_data(folder, template, *, train=4, test=3, images=True):
    joints = joint_set("skeleton25")
    write_info(folder, DatasetInfo(template.name, template.fingerprint, joints.name))
    for split, people, seed in (("train", train, 0), ("test", test, 1)):
        write_photos(folder, split, template, people, seed, images)
    return folder


def saved(template, folder):
    """The file of a template, as people name it."""
    templates.save(template, folder / "template.safetensors")
    return str(folder / "template.safetensors")


def shaken(truth, amount):
    """Estimates that are off by some share of a crop."""
    camera = truth.camera
    return replace(truth, camera=Camera(camera.matrix, camera.translation + amount, camera.scale))


def fits(path, split, truth, crop, template, amount, measured=True):
    people = len(truth.camera.scale)
    quality = None
    if measured:
        # The later a person stands, the worse; the last one is seen from inside.
        px = torch.arange(1.0, people + 1) * (0.1 + amount)
        facing = torch.ones(people)
        facing[-1] = 0.2
        done = torch.ones(people, dtype=torch.bool)
        quality = Quality(px, px, px, px, facing, done)
    keys = [name(split, row) for row in range(people)]
    write_estimates(path, Estimates(keys, shaken(truth, amount), crop, quality), template)


def write_run(folder, *, train=4, test=3):
    """A run of two rounds with its data set and template; returns the run's folder."""
    template = octahedra()
    templates.save(template, folder / "octahedra.safetensors")
    data = write_data(folder / "data", template, train=train, test=test)
    run = folder / "run"
    for split, people, seed in (("train", train, 0), ("test", test, 1)):
        truth, _, crop = plant(template, people, seed)
        for round_, amount in ((1, 0.06), (2, 0.02)):
            here = run / f"round-{round_}"
            predicted = here / f"predictions-{split}.parquet"
            fits(predicted, split, truth, crop, template, 2 * amount, measured=False)
            if split == "train":
                fits(here / "estimates.parquet", split, truth, crop, template, amount - 0.02)
        if split == "test":
            fits(here / "refined-test.parquet", split, truth, crop, template, 0.0)
    about = {"template": template.name, "fingerprint": template.fingerprint}
    config = {"config": {"rounds": 2}, "data": {"path": str(data), "template": about}}
    (run / "config.json").write_text(json.dumps(config))
    shards = {f"observations/{one}": now for one, now in fingerprint(data, "train").items()}
    (run / "shards.json").write_text(json.dumps(shards))
    return run


def silhouette(template, estimate, side):
    """Which pixels of a crop of this size a body covers, (side, side) bool."""
    from deformlearn.render import shade

    return shade(template, estimate, side)[0, ..., 3].numpy() > 0.5


def astray(a, b, slack):
    """Share of the pixels of two masks that are further than `slack` px from the other mask."""
    beyond = (a & ~_grown(b, slack)).sum() + (b & ~_grown(a, slack)).sum()
    assert a.any()
    return beyond / (a.sum() + b.sum())


def _grown(mask, by):
    for _ in range(by):
        wide = np.pad(mask, 1)
        mask = np.logical_or.reduce(
            [wide[1 + y : wide.shape[0] - 1 + y, 1 + x : wide.shape[1] - 1 + x]
             for y in (-1, 0, 1) for x in (-1, 0, 1)]
        )  # fmt: skip
    return mask
