"""Fabricated runs for the tests of the pages about runs: planted people, and numbers nobody measured."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from conftest import octahedra, plant
from deformlearn.config import RunConfig
from deformlearn.data.estimates import Estimates, write_estimates
from deformlearn.data.shards import DatasetInfo, Row, write_info, write_rows
from deformlearn.data.truth import TruthRow, write_truth
from deformlearn.estimate import Estimate, Quality, camera_joints
from deformlearn.rounds import shard_versions
from deformlearn.rundir import RunFolder
from deformlearn.skeleton import JOINT_SETS

HOSTILE = "<script>alert('x')</script>"


def jpeg():
    buffer = io.BytesIO()
    gradient = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    Image.fromarray(gradient).save(buffer, "JPEG")
    return buffer.getvalue()


def scores(raw, action="Walking", people=6):
    numbers = {"raw": raw, "bone_sum": raw + 1.25, "true_size": raw - 2.5, "aligned": raw / 2}
    numbers["vertices"] = None
    return {**numbers, "people": people, "by_action": {action: {**numbers, "people": people}}}


def image(keypoints, people=6):
    """What is measured in the image."""
    return {"keypoints": keypoints, "found": 62.5, "points": None, "people": people}


def write_data(
    folder: Path, *, people=6, truth=True, test=True, names=(), actions=("Walking",),
    broken=False, description="planted", shard=None,
):  # fmt: skip
    """A data set of planted people; what fits them exactly, by split."""
    template = octahedra()
    landmarks = template.landmark_names
    info = DatasetInfo("octahedra", template.fingerprint, "skeleton25", landmarks, description)
    write_info(folder, info)
    exact = {}
    for split in ("train", "test") if test else ("train",):
        estimate, seen, crop = plant(template, people, seed=len(split))
        keys = [*names, *(f"{split}-{row}" for row in range(people))][:people]
        pixels, joints = crop.to_pixels(seen.points), crop.to_pixels(seen.keypoints)
        rows = [
            Row(
                key=keys[i], crop=(64.0, 64.0, 64.0), points=pixels[i].numpy(),
                faces=seen.faces[i].numpy(), barycentric=seen.barycentric[i].numpy(),
                point_weights=np.ones(60, np.float32), keypoints=joints[i].numpy(),
                keypoint_weights=seen.keypoint_weights[i].numpy(),
                action=actions[i % len(actions)], image=b"no image" if broken else jpeg(),
            )
            for i in range(people)
        ]  # fmt: skip
        true = torch.zeros(people, len(landmarks), 3)
        there = camera_joints(template, estimate) * 1000
        for joint, name in enumerate(JOINT_SETS["h36m17"].landmarks):
            true[:, landmarks.index(name)] = there[:, joint]
        size = shard or people
        for number, first in enumerate(range(0, people, size)):
            some = slice(first, first + size)
            write_rows(folder, split, number, rows[some])
            if truth:
                truths = [
                    TruthRow(k, t.numpy()) for k, t in zip(keys[some], true[some], strict=True)
                ]
                write_truth(folder, split, number, truths)
        exact[split] = keys, estimate, crop
    return info, exact


def write_run(
    run: Path, data: Path, info, exact, *, truth=True, until=99, seed=0, wrong=0.0, settings=None
):
    """A run of two rounds as far as `until` stages, its joint angles off by `wrong` radians."""
    template = octahedra()
    config = replace(RunConfig(rounds=2, seed=seed), **(settings or {}))
    with RunFolder(run) as folder:
        about = {"path": str(data), "template": asdict(info)}
        folder.begin(config, about, shard_versions(data))
        _stages(folder, template, exact, truth, until, wrong)
    return run


def off_by(estimate: Estimate, wrong: float) -> Estimate:
    """Estimates whose joints are turned by random angles of this size."""
    noise = wrong * torch.randn(
        estimate.body.pose.shape, generator=torch.Generator().manual_seed(1)
    )
    return replace(estimate, body=replace(estimate.body, pose=estimate.body.pose + noise))


def _stages(folder, template, exact, truth, until, wrong):
    def quality(people):
        ones = torch.ones(people)
        return Quality(ones, ones, ones, torch.arange(float(people)) + 0.25, ones, ones > 0)

    maybe = (lambda raw: scores(raw)) if truth else (lambda raw: None)

    def write(round_, name, split, judged):
        keys, estimate, crop = exact[split]
        value = Estimates(
            keys, off_by(estimate, wrong), crop, quality(len(keys)) if judged else None
        )
        write_estimates(folder.round_path(round_, name), value, template)

    def register(round_):
        write(round_, "estimates.parquet", "train", judged=True)
        extra = {"replaced": 0.37, "alone": maybe(99.5)} if round_ > 1 else {}
        folder.finish("register", round_, split="train", scores=maybe(80.5 - round_), seconds=61.5,
                      image=image(0.375), reprojection_px=1.5, flagged=2, **extra)  # fmt: skip

    def learn(round_):
        extra = {}
        if "test" in exact:
            write(round_, "predictions-test.parquet", "test", judged=False)
            extra["scores"] = maybe(150.75 - round_)
            extra["image"] = image(13.25 - round_)
        folder.finish("learn", round_, split="test", losses=[], seconds=200.0, **extra)

    def refine():
        if "test" in exact:
            write(2, "refined-test.parquet", "test", judged=True)
            folder.finish("refine", 2, split="test", scores=maybe(70.125), image=image(0.5))

    references = {"mean_pose": scores(244.0), "lifter_only": scores(140.0)} if truth else {}
    steps = [
        lambda: folder.finish("lifter", steps=10, seconds=5.0),
        lambda: folder.finish("references", **references),
        lambda: register(1), lambda: learn(1), lambda: register(2), lambda: learn(2), refine,
    ]  # fmt: skip
    for step in steps[:until]:
        step()


class Page(HTMLParser):
    """Tags, attributes, visible text and scripts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.scripts, self._inside = [], [], [], ""
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._inside != "style":
            self.words.append(data)
