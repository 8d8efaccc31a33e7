"""COCO key point annotations (person_keypoints json) as rows of our data set."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from deformlearn.data.shards import Row
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set

_MARGIN = 0.1
"""A crop is this much larger than the longer side of the person's box."""

_HIDDEN = 0.5
"""Confidence of a key point that is labelled but not visible (v = 1): placed by a guess."""

_OUTSIDE_PX = 1.0
"""A key point farther outside its image than this is a wrong label."""


def read_keypoints(
    annotations: Path, images: Path, *, min_keypoints: int = 10
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Rows of all good annotations, and (annotation id, reason) of those that are not.

    `annotations` is a json like COCO's person_keypoints_val2017.json, `images` the folder its file
    names are in. A person needs `min_keypoints` labelled key points and an image that is there.
    Rows have no dense correspondences. A file that holds no COCO key points at all is an InputError.
    """
    content = _read_json(annotations)
    sources = {
        str(image.get("id")): image for image in content["images"] if isinstance(image, dict)
    }
    sizes: dict[Path, tuple[int, int]] = {}
    rows: list[Row] = []
    rejected: list[tuple[str, str]] = []
    seen: set[str] = set()
    for number, annotation in enumerate(content["annotations"]):
        identity = f"number {number}"
        try:
            if not isinstance(annotation, dict):
                raise _RejectedError("is not an annotation")
            identity = str(annotation.get("id", identity))
            if identity in seen:
                raise _RejectedError("its id occurs more than once")
            seen.add(identity)
            rows.append(_row(annotation, identity, sources, images, sizes, min_keypoints))
        except _RejectedError as reason:
            rejected.append((identity, str(reason)))
    return rows, rejected


class _RejectedError(Exception):
    """Why one annotation is left out."""


def _read_json(path: Path) -> dict[str, Any]:
    """The file's content, with images, annotations and the joints we know."""
    wanted = "wanted COCO's person_keypoints json (images, annotations, categories)"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {wanted}") from error
    except ValueError as error:  # also raised by bytes that are no text
        raise InputError(f"{path} is not json ({error}); {wanted}") from error
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{path} has no list of {key}; {wanted}")
    if not content["annotations"]:
        raise InputError(f"{path} has no annotations: its list is empty; {wanted}")
    expected = list(joint_set("coco17").names)
    categories = content.get("categories") or [{}]
    names = categories[0].get("keypoints", expected) if isinstance(categories[0], dict) else None
    if names != expected:
        found = ", ".join(map(str, names)) if isinstance(names, list) else repr(names)
        raise InputError(
            f"{path} has key points {found}; wanted COCO's 17 in COCO's order: "
            f"{', '.join(expected)}"
        )
    return content


def _row(
    annotation: dict[str, Any],
    identity: str,
    sources: dict[str, dict[str, Any]],
    images: Path,
    sizes: dict[Path, tuple[int, int]],
    min_keypoints: int,
) -> Row:
    """The annotation as a row, or a _RejectedError that says why not."""
    if annotation.get("iscrowd"):
        raise _RejectedError("marks a crowd")
    triples = _triples(annotation)
    labelled = triples[:, 2] > 0
    if not labelled.any():
        raise _RejectedError("no key point is labelled")
    if labelled.sum() < min_keypoints:
        raise _RejectedError(
            f"{labelled.sum()} key points are labelled, {min_keypoints} are needed"
        )
    # COCO's annotators clicked pixels by their index; ours are continuous, and a pixel's middle is
    # half a pixel from its corner.
    positions = np.where(labelled[:, None], triples[:, :2] + 0.5, 0.0)

    source = sources.get(str(annotation.get("image_id")))
    if source is None or not isinstance(source.get("file_name"), str):
        raise _RejectedError(
            f"its image {annotation.get('image_id')!r} is not in the list of images"
        )
    path = Path(images) / source["file_name"]
    width, height = _image_size(path, sizes)
    beyond = np.maximum(-positions, positions - [width, height]).max(-1)
    if (beyond[labelled] > _OUTSIDE_PX).any():
        raise _RejectedError(f"a key point lies outside its image of {width}x{height} pixels")

    low, high = positions[labelled].min(0), positions[labelled].max(0)
    if box := _box(annotation.get("bbox")):
        low = np.minimum(low, box[:2])
        high = np.maximum(high, box[2:])
    half = max(float((high - low).max()) / 2, 1.0) * (1 + _MARGIN)
    centre = (low + high) / 2
    return Row(
        key=f"{path.stem}-{identity}",
        crop=(float(centre[0]), float(centre[1]), half),
        points=np.zeros((0, 2)),
        faces=np.zeros(0, np.int64),
        barycentric=np.zeros((0, 3)),
        point_weights=np.zeros(0),
        keypoints=positions,
        keypoint_weights=np.select([triples[:, 2] == 1, labelled], [_HIDDEN, 1.0], 0.0),
        image_path=str(path.absolute()),
    )


def _triples(annotation: dict[str, Any]) -> Float[np.ndarray, "17 3"]:
    """x, y and visibility of the 17 key points."""
    values = annotation.get("keypoints")
    if not isinstance(values, list):
        raise _RejectedError("has no key points")
    if len(values) != 51:
        raise _RejectedError(f"has {len(values)} numbers for its key points, wanted 17 x (x, y, v)")
    try:
        triples = np.array(values, np.float64).reshape(17, 3)
    except (TypeError, ValueError, OverflowError) as error:
        raise _RejectedError("a key point is not a number") from error
    if not np.isfinite(triples).all():
        raise _RejectedError("a key point is not a finite number")
    if not np.isin(triples[:, 2], (0, 1, 2)).all():
        raise _RejectedError("a key point's visibility is none of 0, 1, 2")
    return triples


def _box(values: Any) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of [x, y, width, height]; None for what is no box with an extent."""
    if not isinstance(values, list) or len(values) != 4:
        return None
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        return None
    x, y, width, height = map(float, values)
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None


def _image_size(path: Path, sizes: dict[Path, tuple[int, int]]) -> tuple[int, int]:
    """Width and height of an image; decoding all of a large set only to check it would take hours."""
    if path not in sizes:
        if not path.is_file():
            raise _RejectedError(f"its image {path} is missing")
        try:
            with Image.open(path) as image:
                sizes[path] = image.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _RejectedError(f"its image {path} cannot be read") from error
    return sizes[path]
