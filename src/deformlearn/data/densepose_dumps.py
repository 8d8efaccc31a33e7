"""Dumps of detectron2's DensePose tool (`apply_net.py dump`), read without detectron2.

Three generations, all lists of {file_name, scores, pred_boxes_XYXY, pred_densepose}:
2019-10 to 2020-10, a pickle; pred_densepose is a `DensePoseResult` with base64 PNGs;
2020-10 to 2022-10, a pickle; a list of `DensePoseChartResult[WithConfidences]`;
since 2022-10, a file of `torch.save` with the same list.
Quantised and compressed chart results stand in such lists too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from deformlearn.data.densepose import MIN_PIXELS, DetectedPerson
from deformlearn.data.densepose_labels import (
    Detection,
    ImagePrediction,
    Window,
    bytes_of_png,
    numbers,
    people_of,
    require_window,
    window_of_bytes,
    window_of_floats,
)
from deformlearn.data.soundness import Rejected
from deformlearn.errors import InputError
from deformlearn.torchfiles import StoredTensor, load_torch
from deformlearn.unpickle import Inert

_WANTED = "a dump of detectron2's DensePose tool (apply_net.py dump)"


class _Foreign(Inert):
    """Any class of densepose or detectron2: its fields say what it is."""


_KNOWN = {"densepose.*": _Foreign, "detectron2.*": _Foreign}


@dataclass(frozen=True, eq=False)
class DumpImage(ImagePrediction):
    """One image of a dump; tensors of `torch.save` are still in the file."""

    where: str
    scores: Any
    boxes: Any
    """XYXY, one row a person."""
    results: tuple[Any, ...]
    """What stands for each person's labels."""

    def people(
        self, size: tuple[int, int] | None, min_pixels: int = MIN_PIXELS
    ) -> tuple[list[DetectedPerson], list[Rejected]]:
        """See `ImagePrediction`."""
        boxes = _rows(_array(self.boxes), len(self.results), "pred_boxes_XYXY")
        scores = [None] * len(boxes)
        if self.scores is not None:
            scores = _rows(_array(self.scores), len(self.results), "scores")
        found: list[Detection | Rejected] = []
        for row, (box, score, result) in enumerate(zip(boxes, scores, self.results, strict=True)):
            where = f"{self.where}, person {row}"
            try:
                found.append(_detection(where, box, score, result))
            except InputError as error:
                found.append(Rejected(where, str(error)))
        return people_of(found, size, min_pixels)


def read_dump(path: Path) -> Iterator[tuple[str, DumpImage] | Rejected]:
    """File name and prediction of every image of a dump.

    Of a file of `torch.save` only the index is in memory; a pickle of 2019-22 is read whole. Nothing in
    the file is run. Files of another kind are InputErrors, images without boxes or labels `Rejected`.
    """
    entries = load_torch(path, _KNOWN, _WANTED)
    if not isinstance(entries, list):
        raise InputError(f"{path} holds a {type(entries).__name__}, not a list; wanted {_WANTED}")
    for number, entry in enumerate(entries):
        where = f"{path}: image {number}"
        try:
            found = _image(where, entry)
        except InputError as error:
            yield Rejected(where, str(error))
            continue
        if found is not None:
            yield found


def _image(where: str, entry: Any) -> tuple[str, DumpImage] | None:
    """File name and prediction; None where nobody was detected."""
    if not isinstance(entry, dict):
        raise InputError(f"it is no dict but a {type(entry).__name__}")
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise InputError("it has no file_name")
    if "instances" in entry and "pred_densepose" not in entry:
        raise InputError(
            "it holds the network's raw instances; write the dump with an apply_net.py of "
            "November 2019 or later"
        )
    boxes, results = entry.get("pred_boxes_XYXY"), entry.get("pred_densepose")
    if boxes is None or results is None:
        missing = [key for key in ("pred_boxes_XYXY", "pred_densepose") if entry.get(key) is None]
        if boxes is not None and len(_shape(boxes)) > 0 and _shape(boxes)[0] == 0:
            return None
        raise InputError(f"it has no {', '.join(missing)}: dump a model with a DensePose head")
    fields = _fields(results)
    if "embedding" in fields:
        raise InputError(
            "it holds continuous surface embeddings (CSE), which are no charts; dump a chart model "
            "(densepose_rcnn_*)"
        )
    if "results" in fields and "boxes_xywh" in fields:
        results = fields["results"]
    if not isinstance(results, (list, tuple)):
        raise InputError(f"its pred_densepose is a {type(results).__name__}; wanted chart results")
    if not results:
        return None
    return name, DumpImage(f"{where} ({name})", entry.get("scores"), boxes, tuple(results))


def _detection(where: str, box: Any, score: Any, result: Any) -> Detection:
    left, top, right, bottom = numbers(np.ravel(box).tolist(), 4, "box")
    # In the box's own precision, as detectron2 rounds the difference.
    with np.errstate(over="ignore"):
        width, height = (float(np.asarray(box)[end] - np.asarray(box)[end - 2]) for end in (2, 3))
    if right <= left or bottom <= top:
        raise InputError(f"its box has no size: {left:.0f}, {top:.0f}, {right:.0f}, {bottom:.0f}")
    window = _window(result)
    whole = (left, top, width, height)
    require_window(window.part.shape, whole)
    return Detection(
        where, None if score is None else numbers([score], 1, "score")[0], whole, window
    )


def _window(result: Any) -> Window:
    """Labels of one person, in any of the forms that detectron2 had for them."""
    if isinstance(result, (tuple, list)) and len(result) == 2:
        return window_of_bytes(bytes_of_png(result[1], result[0]))
    fields = _fields(result)
    if "labels_uv_str" in fields:
        return window_of_bytes(bytes_of_png(fields["labels_uv_str"], fields.get("shape_chw")))
    if "labels_uv_uint8" in fields:
        iuv = _array(fields["labels_uv_uint8"])
        if iuv.ndim != 3 or len(iuv) != 3 or iuv.dtype != np.uint8:
            raise InputError(
                f"its labels_uv_uint8 is {iuv.dtype} {iuv.shape}; wanted uint8 3, h, w"
            )
        return window_of_bytes(iuv)
    if missing := [name for name in ("labels", "uv") if fields.get(name) is None]:
        raise InputError(f"its chart result has no {', '.join(missing)}")
    labels, uv = _array(fields["labels"]), _array(fields["uv"])
    if labels.ndim != 2 or uv.shape != (2, *labels.shape) or labels.dtype.kind not in "iu":
        raise InputError(
            f"its labels are {labels.dtype} {labels.shape} and its uv {uv.shape}; wanted h, w and "
            f"2, h, w"
        )
    sigma, *kappas = (
        _confidence(fields, name, labels) for name in ("sigma_2", "kappa_u", "kappa_v")
    )
    return window_of_floats(labels, uv, sigma, [kappa for kappa in kappas if kappa is not None])


def _confidence(
    fields: Mapping[str, Any], name: str, labels: Shaped[np.ndarray, "h w"]
) -> Shaped[np.ndarray, "h w"] | None:
    if fields.get(name) is None:
        return None
    values = _array(fields[name])
    if values.shape != labels.shape:
        raise InputError(f"its {name} is {values.shape}; wanted {labels.shape}, as its labels")
    return values


def _fields(value: Any) -> Mapping[str, Any]:
    if isinstance(value, _Foreign):
        return vars(value)
    return value if isinstance(value, dict) else {}


def _shape(value: Any) -> tuple[int, ...]:
    return value.shape if isinstance(value, (StoredTensor, np.ndarray)) else np.shape(value)


def _array(value: Any) -> Shaped[np.ndarray, "..."]:
    """A tensor, an array or a list of numbers, as an array."""
    if isinstance(value, StoredTensor):
        return value.read()
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        return value
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"a {type(value).__name__} stands where numbers should be") from error


def _rows(values: Shaped[np.ndarray, "..."], count: int, name: str) -> list[Any]:
    if values.ndim < 1 or len(values) != count:
        raise InputError(f"{name} has the shape {values.shape} for {count} people")
    return list(values)
