"""Parquet in and out, pictures in, and what a newcomer waits for first."""

from __future__ import annotations

import subprocess
import sys

import torch

from deformlearn import templates
from deformlearn.camera import Crop
from deformlearn.config import RegistrationConfig, SyntheticConfig
from deformlearn.data.estimates import Estimates, read_estimates, write_estimates
from deformlearn.data.images import decode_image
from deformlearn.data.shards import read_people
from deformlearn.data.synthetic import make_person
from deformlearn.estimate import Estimate
from deformlearn.registration import quality_of
from machine import Bench, median
from planted import planted, planted_folder
from table import Measured


def storage(bench: Bench) -> list[Measured]:
    """Observations in, estimates out and in again: each must be far faster than registration."""
    template = templates.load()
    people = bench.of(10000, 1000, 20)
    folder = planted_folder(bench.folder / f"planted-{people}", template, people)
    observations, crop = planted(template, min(people, 1000))
    rest = Estimate.rest(template, len(crop))
    quality = quality_of(template, rest, observations, crop, RegistrationConfig())
    several = Estimates([f"{index:09d}" for index in range(len(crop))], rest, crop, quality)
    path = bench.folder / "estimates.parquet"
    jobs = {
        "read observations": lambda: read_people(folder, "train", template),
        "write estimates": lambda: write_estimates(path, several, template),
        "read estimates": lambda: read_estimates(path, template),
    }
    seconds = bench.seconds(jobs, repeats=bench.of(5, 3, 1))
    return [
        Measured(
            f"Parquet: {name}", (people if "observations" in name else len(crop)) / median(seconds[name]),
            "people/s", tolerance=0.4,
        )
        for name in jobs
    ]  # fmt: skip


def pictures(bench: Bench) -> list[Measured]:
    """JPEGs of synthetic people to the network's pixels, on one core; a run decodes each image once."""
    large, small = bench.of((256, 224), (256, 224), (64, 32))
    config = SyntheticConfig(size=large)
    several = [make_person(config, "train", index)[0].image for index in range(bench.of(16, 8, 2))]
    turns = bench.of(30, 10, 1)

    def decode() -> None:
        for image in several * turns:
            decode_image(image, small)

    seconds = bench.seconds({"decode": decode}, repeats=bench.of(5, 3, 1))["decode"]
    rate = len(several) * turns / median(seconds)
    return [Measured(f"pictures, {large} px JPEG to {small} px, one core", rate, "images/s")]


def start(bench: Bench) -> list[Measured]:
    """The first thing that anyone runs."""
    command = [sys.executable, "-m", "deformlearn", "--help"]
    jobs = {"help": lambda: subprocess.run(command, check=True, capture_output=True)}
    seconds = bench.seconds(jobs, repeats=bench.of(5, 3, 1))
    return [
        Measured("deformlearn --help", median(seconds["help"]), "s", "lower", 0.25, 0.5),
        _viewer(bench),
    ]


def _viewer(bench: Bench) -> Measured:
    """From the command to the line that says where the viewer is, for a file of many estimates."""
    template = templates.load()
    people = bench.of(10000, 10000, 20)
    rest = Estimate.rest(template, people)
    crop = Crop(torch.full((people, 2), 64.0), torch.full((people,), 64.0))
    several = Estimates([f"{index:09d}" for index in range(people)], rest, crop)
    path = bench.folder / "viewed" / "estimates.parquet"
    write_estimates(path, several, template)
    command = [
        sys.executable, "-m", "deformlearn", "view", str(path), "--port", "0", "--no-browser",
    ]  # fmt: skip

    def until_served() -> None:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as viewer:
            assert viewer.stderr is not None
            said = viewer.stderr.readline()
            viewer.terminate()
            if "http://" not in said:
                raise RuntimeError(f"the viewer did not serve: {said}")

    seconds = bench.seconds({"view": until_served}, repeats=bench.of(5, 3, 1))["view"]
    return Measured(
        f"deformlearn view, {people:,} people: until it serves", median(seconds), "s", "lower", 0.25,
        goal=3.0 if people == 10000 else None,
    )  # fmt: skip
