"""DensePose's result files, written in the layouts of the official tools, from planted people."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import pickle
import sys
import types
from dataclasses import dataclass, make_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deformlearn.data.predictions import open_predictions

CONFIDENCES = ("sigma_1", "sigma_2", "kappa_u", "kappa_v", "fine_segm_confidence",
               "coarse_segm_confidence")  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """A person's labels in their box, as the network would have given them."""

    left: int
    top: int
    labels: np.ndarray  # (h, w) 0..24
    uv: np.ndarray  # (2, h, w) in 0..255
    score: float

    @property
    def xyxy(self) -> list[float]:
        height, width = self.labels.shape
        return [self.left + 0.25, self.top + 0.25, self.left + width + 0.5, self.top + height + 0.5]

    @property
    def iuv(self) -> np.ndarray:
        return np.concatenate([self.labels[None], self.uv]).astype(np.uint8)


def planted_people(part, u, v, person, scores=None) -> list[Planted]:
    """The people of an IUV image in windows of their own, lowest score first."""
    people = []
    for index in np.unique(person[part > 0]).tolist():
        mine = (part > 0) & (person == index)
        y, x = np.nonzero(mine)
        window = np.s_[y.min() : y.max() + 1, x.min() : x.max() + 1]
        labels = np.where(mine[window], part[window], 0)
        uv = np.where(labels > 0, np.stack([u[window], v[window]]), 0)
        score = 0.7 + index * 0.01 if scores is None else scores[len(people)]
        people.append(Planted(int(x.min()), int(y.min()), labels, uv, score))
    return people


def png_text(iuv: np.ndarray) -> str:
    """As `encode_png_data` of 2019 and `compress_quantized_densepose_chart_result` do."""
    stream = io.BytesIO()
    Image.fromarray(np.moveaxis(iuv, 0, -1).copy()).save(stream, format="png", optimize=True)
    return base64.encodebytes(stream.getvalue()).decode()


def challenge_result(person: Planted, image_id) -> dict:
    x0, y0, x1, y1 = person.xyxy
    return {
        "image_id": image_id,
        "category_id": 1,
        "score": person.score,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "uv_shape": list(person.iuv.shape),
        "uv_data": png_text(person.iuv),
    }


def write_challenge(path: Path, images: dict) -> Path:
    results = [challenge_result(one, name) for name, people in images.items() for one in people]
    path.write_text(json.dumps(results))
    return path


@contextlib.contextmanager
def densepose_modules():
    """Classes under the names they have in detectron2, for as long as a file is written."""
    modules = {}

    def define(module: str, name: str, fields: tuple[str, ...]):
        for depth in range(1, module.count(".") + 2):
            known = ".".join(module.split(".")[:depth])
            modules.setdefault(known, types.ModuleType(known))
        made = make_dataclass(name, [(one, object, None) for one in fields])
        made.__module__ = module
        setattr(modules[module], name, made)
        return made

    chart = "densepose.structures.chart_result"
    found = {
        "plain": define(chart, "DensePoseChartResult", ("labels", "uv")),
        "confident": define(
            chart, "DensePoseChartResultWithConfidences", ("labels", "uv", *CONFIDENCES)
        ),
        "quantised": define(chart, "DensePoseChartResultQuantized", ("labels_uv_uint8",)),
        "compressed": define(
            chart, "DensePoseChartResultCompressed", ("shape_chw", "labels_uv_str")
        ),
        "2019": define("densepose.structures", "DensePoseResult", ("results", "boxes_xywh")),
        "2020": define("densepose.data.structures", "DensePoseResult", ("results", "boxes_xywh")),
        "embedding": define(
            "densepose.structures.cse", "DensePoseEmbeddingPredictorOutput",
            ("embedding", "coarse_segm"),
        ),
    }  # fmt: skip
    kept = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield found
    finally:
        for name, module in kept.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def dump_entry(classes, kind: str, name: str, people: list[Planted], confidences=None) -> dict:
    """One image of a dump. `kind` is a key of `densepose_modules`."""
    boxes = torch.tensor([one.xyxy for one in people]).reshape(-1, 4)
    entry = {
        "file_name": name,
        "scores": torch.tensor([one.score for one in people]),
        "pred_boxes_XYXY": boxes,
    }
    if kind in ("2019", "2020"):
        xywh = boxes.clone()
        xywh[:, 2:] -= xywh[:, :2]
        results = [(one.iuv.shape, png_text(one.iuv)) for one in people]
        entry["pred_densepose"] = classes[kind](results, xywh.tolist())
        return entry
    entry["pred_densepose"] = []
    for row, one in enumerate(people):
        labels = torch.from_numpy(one.labels.astype(np.int64))
        uv = torch.from_numpy(one.uv / 255).float()
        more = () if confidences is None else confidences[row]
        entry["pred_densepose"].append(
            {
                "plain": lambda labels=labels, uv=uv, more=more: classes["plain"](labels, uv),
                "confident": lambda labels=labels, uv=uv, more=more: classes["confident"](
                    labels, uv, *more
                ),
                "quantised": lambda one=one: classes["quantised"](torch.from_numpy(one.iuv)),
                "compressed": lambda one=one: classes["compressed"](
                    one.iuv.shape, png_text(one.iuv)
                ),
            }[kind]()
        )
    return entry


def write_dump(path: Path, kind: str, images: dict, how: str = "zip", confidences=None) -> Path:
    """A dump of images; `how` is zip (torch.save), older (torch before 1.6) or pickle."""
    with densepose_modules() as classes:
        entries = [
            dump_entry(classes, kind, name, people, confidences) for name, people in images.items()
        ]
        write_value(path, entries, how)
    return path


def write_value(path: Path, value, how: str) -> Path:
    if how == "pickle":
        path.write_bytes(pickle.dumps(value, 3))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=how == "zip")
    return path


SIZE = (160, 120)
DUMPS = [
    ("2019", "pickle"), ("2020", "pickle"), ("plain", "pickle"), ("confident", "pickle"),
    ("plain", "zip"), ("confident", "zip"), ("plain", "older"), ("quantised", "zip"),
    ("compressed", "zip"), ("quantised", "pickle"), ("compressed", "pickle"),
]  # fmt: skip


def person(left=20, top=10, width=40, height=70, score=0.9, part=None) -> Planted:
    """A box whose rows go through the 24 parts; its first column is background."""
    labels = np.repeat(1 + np.arange(height)[:, None] * 24 // height, width, axis=1)
    if part is not None:
        labels[:] = part
    labels[:, 0] = 0
    uv = np.stack([np.tile(np.arange(width) * 3, (height, 1)), np.full((height, width), 200)])
    return Planted(left, top, labels, np.where(labels > 0, uv, 0), score)


TWO = [person(80, 30, 60, 80, score=0.95), person(20, 10, 40, 70, score=0.8)]


def people_in(path, name="a.jpg", size=SIZE, **options):
    prediction = open_predictions(path, **options).of(Path(name))
    return prediction.people(size)


def assert_planted(found, planted, tolerance=1e-6):
    people, rejected = found
    assert not rejected
    # By ascending score, as INDS images count.
    planted = sorted(planted, key=lambda one: one.score)
    assert [one.index for one in people] == list(range(len(planted)))
    for one, truth in zip(people, planted, strict=True):
        assert one.score == pytest.approx(truth.score, abs=1e-6)
        y, x = np.nonzero(truth.labels)
        np.testing.assert_array_equal(one.pixels, np.stack([x + truth.left, y + truth.top], -1))
        np.testing.assert_array_equal(one.part, truth.labels[y, x])
        np.testing.assert_allclose(one.u, truth.uv[0, y, x] / 255, atol=tolerance)
        np.testing.assert_allclose(one.v, truth.uv[1, y, x] / 255, atol=tolerance)
