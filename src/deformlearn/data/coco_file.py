"""Files laid out like COCO's (images, annotations, categories), read as a stream.

Only the table of images is held; annotations pass by one at a time, wherever in the file they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from deformlearn.data.json_stream import read_sections
from deformlearn.data.person_boxes import finite, image_size
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry
from deformlearn.errors import InputError
from deformlearn.skeleton import JOINT_SETS

_NOT_NEEDED = ("segmentation",)
"""Large fields of an annotation that do not travel to the workers."""


@dataclass(frozen=True)
class KeypointOrder:
    """Which joint set a file's key points are, and where in the file each of them stands."""

    joints: str
    columns: tuple[int, ...]
    """columns[i] is the file's number of the joint set's key point i."""


@dataclass(frozen=True)
class Labelled:
    """One annotation with its image, as it travels to a worker."""

    identity: str
    """Its id."""
    annotation: dict[str, Any]
    image: dict[str, Any]
    order: KeypointOrder
    copy: int = 1
    """2 for the second annotation of the same id, and so on."""

    @property
    def key(self) -> str:
        """Unique within the file."""
        stem = Path(self.image["file_name"]).stem
        return f"{stem}-{self.identity}" + (f"+{self.copy}" if self.copy > 1 else "")


@dataclass(frozen=True, eq=False)
class Header:
    """What must be known of a file before its annotations can be read."""

    images: Mapping[str, dict[str, Any]]
    """By id; only the fields that readers ask for."""
    order: KeypointOrder
    category: str | None
    """Id of the category that people are of; None where the file has no categories."""


def header(path: Path, *, assumed: str | None) -> Header:
    """The file's table of images and its order of key points.

    `assumed` is the joint set of files whose categories name no key points; None refuses those. Files
    that cannot be read to their end, or that hold no annotations, are InputErrors.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error
    return _header(path, stat.st_mtime_ns, stat.st_size, assumed)


@lru_cache(2)
def _header(path: Path, modified: int, length: int, assumed: str | None) -> Header:
    wanted = "wanted a json like COCO's person_keypoints (images, annotations, categories)"
    images: dict[str, dict[str, Any]] = {}
    categories: list[Any] = []
    listed = dict.fromkeys(("images", "annotations", "categories"), 0)
    try:
        for section, element in read_sections(path, listed):
            listed[section] += 1
            if section == "categories":
                categories.append(element)
            elif section == "images" and isinstance(element, dict):
                _add_image(images, element)
    except InputError as error:
        raise InputError(f"{error}; {wanted}") from error
    for section in ("images", "annotations"):
        if not listed[section]:
            raise InputError(f"{path} has no {section}: the list is missing or empty; {wanted}")
    category = _person_category(categories)
    names = category.get("keypoints") if category else None
    if names is None and assumed is None:
        raise InputError(
            f"{path} has categories without key-point names, so nobody can tell which point is which; "
            f"add the list `keypoints` to its category"
        )
    order = (
        match_joints(names, path)
        if names is not None
        else KeypointOrder(str(assumed), tuple(range(len(JOINT_SETS[str(assumed)]))))
    )
    identity = None if category is None else identity_of(category.get("id"))
    return Header(images, order, identity)


_IMAGE_FIELDS = (
    "file_name width height has_no_densepose vid_id frame_id ignore_regions_x ignore_regions_y"
).split()


def _add_image(images: dict[str, dict[str, Any]], element: dict[str, Any]) -> None:
    """Into the table, under its id; two different images of one id make that id unusable."""
    identity = identity_of(element.get("id"))
    if identity is None:
        return
    image = {name: element[name] for name in _IMAGE_FIELDS if element.get(name) is not None}
    known = images.get(identity)
    if known is not None and known.get("file_name") != image.get("file_name"):
        image = {"conflict": [known.get("file_name"), image.get("file_name")]}
    images[identity] = image


def _person_category(categories: Sequence[Any]) -> dict[str, Any] | None:
    """The category with key points, or the one called person, or the only one."""
    sound = [category for category in categories if isinstance(category, dict)]
    for category in sound:
        if category.get("keypoints") is not None:
            return category
    people = [category for category in sound if category.get("name") == "person"]
    return next(iter(people or sound), None)


def match_joints(names: Any, path: Path) -> KeypointOrder:
    """The joint set whose names these are, in any order."""
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        listed = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in names]
        for known in JOINT_SETS.values():
            if len(listed) == len(known) and set(listed) == set(known.names):
                return KeypointOrder(known.name, tuple(listed.index(name) for name in known.names))
        shown = ", ".join(map(str, names))[:400]
    else:
        shown = repr(names)[:400]
    raise InputError(
        f"{path} has key points {shown}; these are no joint set known here: wanted the names of "
        f"{', '.join(JOINT_SETS)} (docs/joint_sets.md)"
    )


def identity_of(value: Any) -> str | None:
    """An id as text: 7, 7.0 and "7" are one; None for what is no id."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value) or None


def labels(
    path: Path, head: Header, *, copies: bool = False
) -> Iterator[tuple[str, Labelled | Rejected]]:
    """(where, annotation) of every annotation of a person, the unusable ones with their reason.

    A second annotation of an id is refused, or with `copies` kept under a key of its own.
    """
    seen: set[int] = set()
    repeated: dict[str, int] = {}
    rows = (element for _, element in read_sections(path, ("annotations",)))
    for number, annotation in enumerate(rows):
        identity = identity_of(annotation.get("id")) if isinstance(annotation, dict) else None
        where = f"{path}: annotation {identity or f'number {number}'}"
        reason = None
        if not isinstance(annotation, dict):
            reason = "is not an annotation"
        elif identity is None:
            reason = "has no id"
        elif hash(identity) in seen:
            repeated[identity] = repeated.get(identity, 1) + 1
            reason = _unusable(annotation, head) if copies else "its id occurs more than once"
        else:
            seen.add(
                hash(identity)
            )  # an id costs some 70 bytes, an image in the table several times that
            reason = _unusable(annotation, head)
        if reason is not None:
            yield where, Rejected(where, reason)
            continue
        image = head.images[str(identity_of(annotation["image_id"]))]
        kept = {name: value for name, value in annotation.items() if name not in _NOT_NEEDED}
        copy = repeated.get(str(identity), 1)
        yield where, Labelled(str(identity), kept, image, head.order, copy)


def _unusable(annotation: dict[str, Any], head: Header) -> str | None:
    category = identity_of(annotation.get("category_id"))
    if head.category is not None and category is not None and category != head.category:
        return f"is of the category {category}, not a person ({head.category})"
    if annotation.get("iscrowd"):
        return "marks a crowd"
    image_id = annotation.get("image_id")
    image = head.images.get(str(identity_of(image_id)))
    if image is None:
        return f"its image {repr(image_id)[:80]} is not in the list of images"
    if "conflict" in image:
        return f"its image {image_id!r} is listed twice, as {' and as '.join(map(repr, image['conflict']))}"
    if not isinstance(image.get("file_name"), str) or not Path(image["file_name"]).name:
        return f"its image {image_id!r} has no file_name"
    return None


def entries(stream: Iterator[tuple[str, Labelled | Rejected]]) -> Iterator[Entry | Rejected]:
    """The stream of `labels` as a source gives it."""
    for where, label in stream:
        yield label if isinstance(label, Rejected) else Entry(where, label)


def image_of(label: Labelled, folder: Path) -> tuple[Path, tuple[int, int]]:
    """Absolute path and size of a label's image.

    COCO 2014's images may lie in `folder` or in its train2014 and val2014. An image of another size
    than the file says would move every label: refused.
    """
    name = label.image["file_name"]
    parts = Path(name).name.split("_")
    places = [folder / name]
    if parts[0] == "COCO" and len(parts) > 2:
        places.append(folder / parts[1] / name)
    found = next((place for place in places if _is_file(place)), places[0])
    path = Path(found).absolute()
    size = image_size(path)
    told = label.image.get("width"), label.image.get("height")
    if None in told:
        return path, size
    if None in map(finite, told):
        raise InputError(
            f"the width or height of its image in the file is no number: {told[0]!r}, {told[1]!r}"
        )
    if told != size:
        raise InputError(
            f"its image {path} is {size[0]}x{size[1]} pixels but its labels are for "
            f"{told[0]}x{told[1]}; give the images at their original size"
        )
    return path, size


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def keypoints_of(
    annotation: dict[str, Any], order: KeypointOrder, *, hidden: float
) -> tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, "k"]]:
    """Key points in the joint set's order and their weights; `hidden` is that of v = 1.

    Annotators clicked pixels by their index; ours are continuous, and a pixel's middle is half a pixel
    from its corner.
    """
    count = len(order.columns)
    values = annotation.get("keypoints")
    if not isinstance(values, list):
        raise InputError("has no key points: no list `keypoints`")
    if len(values) != 3 * count:
        raise InputError(
            f"has {len(values)} numbers for its key points, wanted {count} x (x, y, v)"
        )
    try:
        triples = np.array(values, np.float64).reshape(count, 3)[list(order.columns)]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("a key point is not a number") from error
    if not np.isfinite(triples).all():
        raise InputError("a key point is not a finite number")
    if not np.isin(triples[:, 2], (0, 1, 2)).all():
        raise InputError("a key point's visibility is none of 0, 1, 2")
    labelled = triples[:, 2] > 0
    positions = np.where(labelled[:, None], triples[:, :2] + 0.5, 0.0)
    return positions, np.select([triples[:, 2] == 1, labelled], [hidden, 1.0], 0.0)
