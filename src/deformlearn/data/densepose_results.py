"""Photographs with DensePose's predictions, read as a data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deformlearn.data.densepose import MIN_PIXELS, photo_size
from deformlearn.data.predictions import dense_points, open_predictions
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Person, Source
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class DensePoseResults(Source):
    """Photographs with DensePose's predictions: people of dense points and no key points."""

    images: Path
    """Folder of the photographs (or one of them)."""
    predictions: Path
    """See `open_predictions`."""
    inds: Path | None = None
    image_list: Path | None = None
    points: int = 400
    """Pixels drawn of each person."""
    min_pixels: int = MIN_PIXELS
    seed: int = field(default=0, kw_only=True)

    @property
    def joints(self) -> str:
        """No key point of it is seen."""
        return "coco17"

    @property
    def description(self) -> str:
        """What it was read from."""
        return f"DensePose predictions of {self.predictions}, {self.points} pixels a person"

    def entries(self) -> Iterator[Entry | Rejected]:
        """One for each photograph that has a prediction; predictions without a photograph are rejected."""
        predictions = open_predictions(self.predictions, self.inds, self.image_list)
        yield from predictions.rejected
        named = set()
        for photo, name in self._photos():
            try:
                prediction = predictions.of(photo)
            except InputError as error:
                yield Rejected(str(photo), str(error))
                continue
            if prediction is not None:
                named.add(id(prediction))
                yield Entry(str(photo), (photo, name, prediction))
        for name, prediction in predictions.images.items():
            if id(prediction) not in named:
                yield Rejected(f"{self.predictions}: {name}", f"no such image in {self.images}")

    def people(self, entry: Entry) -> list[Person | Rejected]:
        """Everyone large enough in a photograph."""
        photo, name, prediction = entry.content
        seen, rejected = prediction.people(photo_size(photo), self.min_pixels)
        people: list[Person | Rejected] = list(rejected)
        count = len(joint_set(self.joints))
        for one in seen:
            key = f"{name}-{one.index:02d}"
            if not one.usable:
                people.append(Rejected(key, "; ".join(one.notes)))
                continue
            left, top, right, bottom = one.box
            people.append(
                Person(
                    key=key,
                    image=photo,
                    box=(left, top, right - left, bottom - top),
                    keypoints=np.zeros((count, 2)),
                    keypoint_weights=np.zeros(count),
                    dense=dense_points(one, self.points, self.seed),
                    notes=one.notes,
                )
            )
        return people

    def _photos(self) -> Iterator[tuple[Path, str]]:
        """Every photograph and its name in the data set."""
        root = self.images.absolute()
        if root.is_file():
            yield root, root.stem
            return
        if not root.is_dir():
            raise InputError(f"{root} is no folder of images")
        for file in sorted(root.rglob("*")):
            own = file.stem.endswith(("_IUV", "_INDS")) and file.suffix == ".png"
            if file.suffix.lower() in _IMAGES and not own and file.is_file():
                yield file, file.relative_to(root).with_suffix("").as_posix()
