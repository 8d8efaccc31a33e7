"""Synthetic people: Anny bodies, posed, dressed, photographed, with exact labels and 3D truth.

A person depends on the configuration's seed, the split and the index alone: any image can be made
again by itself, on any number of processes (docs/decisions/0006).
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from deformlearn.config import SyntheticConfig
from deformlearn.data.labels import KEYPOINTS, annotate, predicted
from deformlearn.data.scenery import picture, sample_grid
from deformlearn.data.shards import (
    DatasetInfo,
    Row,
    TruthRow,
    write_atomically,
    write_info,
    write_rows,
    write_truth,
)
from deformlearn.data.staging import Shot, Studio, direct, random_stream
from deformlearn.data.wardrobe import Paint
from deformlearn.errors import InputError
from deformlearn.render import Fragments, interpolate, rasterise, vertex_normals
from deformlearn.runtime import start_worker

SPLITS = ("train", "val", "test")
SHARD = 250
"""People in a shard."""

RECIPE = 2
"""Number of this way of making people; a change that moves a pixel or a label raises it."""

_BATCH = 25
"""People a process makes before it reports."""

_JPEG_QUALITY = 92

Progress = Callable[[int, int], None]
"""Is told how many people are done, and of how many."""


@dataclass(frozen=True)
class _Task:
    """A run of people of one split."""

    config: SyntheticConfig
    split: str
    start: int
    stop: int


def synthesize(
    folder: Path,
    config: SyntheticConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> DatasetInfo:
    """Write the data set that `config` describes, and return what its rows share.

    Whole shards that are already there are kept, so a run that was stopped, however abruptly, goes on
    where it was and ends with the same bytes. A folder made with another configuration is refused.
    With `workers` above 1 the calling script must be importable (`if __name__ == "__main__"`).
    """
    _check(config)
    studio = Studio.open()
    info = DatasetInfo(
        template=studio.template.name,
        fingerprint=studio.template.fingerprint,
        joints="skeleton25",
        landmarks=KEYPOINTS,
        description=f"Synthetic people ({config.people}, {config.quality} labels), seed {config.seed}",
    )
    folder = Path(folder)
    _claim(folder, {"recipe": RECIPE, "template": info.fingerprint, **asdict(config)})
    write_info(folder, info)
    total = sum(getattr(config, split) for split in SPLITS)
    missing = [
        (split, shard)
        for split in SPLITS
        for shard in range(-(-getattr(config, split) // SHARD))
        if not all(path.exists() for path in _shard_paths(folder, split, shard))
    ]
    lengths = {part: _length(config, *part) for part in missing}
    done = total - sum(lengths.values())
    if progress is not None:
        progress(done, total)
    tasks = [
        _Task(config, split, first, min(first + _BATCH, shard * SHARD + lengths[split, shard]))
        for split, shard in missing
        for first in range(shard * SHARD, shard * SHARD + lengths[split, shard], _BATCH)
    ]
    people: list[tuple[Row, TruthRow]] = []
    waiting = iter(missing)
    part = next(waiting, None)
    with contextlib.closing(_made(tasks, workers)) as results:
        for made in results:
            people += made
            done += len(made)
            if part is not None and len(people) == lengths[part]:
                _write(folder, *part, people)
                people, part = [], next(waiting, None)
            if progress is not None:
                progress(done, total)
    return info


def make_person(
    config: SyntheticConfig, split: str, index: int, *, studio: Studio | None = None
) -> tuple[Row, TruthRow]:
    """One person: the image with its labels, and the truth that evaluation may see.

    The same bytes come out whenever, wherever and in whatever order the people of a split are made.
    """
    studio = Studio.open() if studio is None else studio
    with torch.no_grad(), _one_thread():
        shot = direct(config, split, index, studio)
        return _photograph(config, split, index, studio, shot)


def _photograph(
    config: SyntheticConfig, split: str, index: int, studio: Studio, shot: Shot
) -> tuple[Row, TruthRow]:
    scene, size = shot.scene, config.size
    count = len(studio.template.vertices)
    seen = scene.view.to_camera(scene.vertices)
    screen = scene.view.to_pixels(seen)
    depth = seen[None, :, 2]
    grid, side = sample_grid(screen, size)
    samples = rasterise(grid[None], depth, scene.faces, (side, side), perspective=True)
    paint, normals = _surface(studio, shot, samples)
    image = picture(
        scene, size, samples, paint, normals, random_stream(config, split, index, "picture")
    )

    rows, columns = samples.pixels // side, samples.pixels % side
    is_body = samples.faces < len(studio.rig.faces)
    visible = samples[(rows % 2 == 1) & (columns % 2 == 1) & is_body]
    pixels = torch.stack([visible.pixels % side, visible.pixels // side], 1) / 2
    joints = scene.view.to_camera(shot.joints)
    top = seen[studio.template.vertices[:, 1].argmax()]
    landmarks = torch.cat([joints, top[None]])
    labels = annotate(
        pixels.numpy(),
        visible.faces.numpy(),
        visible.barycentric.numpy(),
        scene.view.to_pixels(landmarks).numpy(),
        studio.surface,
        config.points,
        random_stream(config, split, index, "points"),
    )
    if config.quality == "predicted":
        random = random_stream(config, split, index, "errors")
        labels = predicted(labels, studio.surface, config, size / 2, random)
    key = f"{split}-{index:06d}"
    row = Row(
        key=key,
        crop=(size / 2, size / 2, size / 2),
        points=labels.points,
        faces=labels.faces,
        barycentric=labels.barycentric,
        point_weights=np.ones(len(labels.points)),
        keypoints=labels.keypoints,
        keypoint_weights=np.ones(len(labels.keypoints)),
        image=_jpeg(image),
        subject=shot.part.subject,
        action=shot.part.action,
        camera=shot.part.camera,
        frame=shot.part.frame,
    )
    landmarks = (landmarks - joints[0]) * 1000
    vertices = None if split == "train" else ((seen[:count] - joints[0]) * 1000).numpy()
    return row, TruthRow(key, landmarks.numpy(), vertices)


def _surface(studio: Studio, shot: Shot, samples: Fragments) -> tuple[Paint, Tensor]:
    """Paint and unit normals (world) of every sample: the dressed body, and flat furniture."""
    scene = shot.scene
    count = len(studio.template.vertices)
    body = samples.faces < len(studio.rig.faces)
    attributes = studio.wardrobe.attributes
    channels = torch.cat([attributes, vertex_normals(scene.vertices[:count], studio.rig.faces)], 1)
    furniture = channels.new_zeros(len(scene.vertices) - count, channels.shape[1])
    blended = interpolate(torch.cat([channels, furniture])[None], scene.faces, samples)
    values, normals = blended.split([attributes.shape[1], 3], 1)
    paint = studio.wardrobe.paint(shot.outfit, values)
    if bool(body.all()):
        return paint, torch.nn.functional.normalize(normals, dim=1)
    a, b, c = scene.vertices[scene.faces[samples.faces]].unbind(1)
    flat = torch.linalg.cross(b - a, c - a)
    normals = torch.where(body[:, None], normals, flat)
    plain = Paint(
        torch.where(body[:, None], paint.albedo, paint.albedo.new_tensor(shot.furniture)),
        paint.bump * body[:, None],
        paint.gloss * body,
    )
    return plain, torch.nn.functional.normalize(normals, dim=1)


def _check(config: SyntheticConfig) -> None:
    """Refuse numbers that no data set can be made with."""
    for name, least in (("size", 32), ("points", 1)):
        if getattr(config, name) < least:
            raise InputError(
                f"synthetic people need {name} of at least {least}, got {getattr(config, name)}"
            )
    if not any(getattr(config, split) for split in SPLITS):
        raise InputError("synthetic people need at least one image in train, val or test")
    for name in ("outliers", "swaps", "holes"):
        if getattr(config, name) > 1:
            raise InputError(f"{name} is a share between 0 and 1, got {getattr(config, name)}")


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    """Note in the folder what is made there; refuse a folder of anything else."""
    recipe = folder / "synthetic.json"
    try:
        if recipe.exists():
            found = json.loads(recipe.read_text())
            differing = [
                f"{key} {found.get(key)!r} instead of {value!r}"
                for key, value in wanted.items()
                if found.get(key) != value
            ]
            if differing:
                raise InputError(
                    f"{folder} was made with another configuration ({', '.join(differing)}); "
                    f"give another folder, or delete this one"
                )
        elif folder.exists() and any(folder.iterdir()):
            raise InputError(
                f"{folder} is not empty and not a synthetic data set; give another folder"
            )
        else:
            write_atomically(recipe, json.dumps(wanted, indent=2).encode())
        for stale in folder.glob("*/.*.part"):  # of a run that was killed while it wrote
            stale.unlink()
    except json.JSONDecodeError as error:
        raise InputError(f"{recipe} is damaged ({error}); delete {folder}") from error
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error


def _write(folder: Path, split: str, shard: int, people: list[tuple[Row, TruthRow]]) -> None:
    """Write a shard of people and of their truth."""
    try:
        write_truth(folder, split, shard, [truth for _, truth in people])
        write_rows(folder, split, shard, [row for row, _ in people])
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error.strerror or error}; "
            f"run again to go on with the shards that are missing"
        ) from error


def _shard_paths(folder: Path, split: str, shard: int) -> list[Path]:
    name = f"{split}-{shard:05d}.parquet"
    return [folder / kind / name for kind in ("observations", "truth")]


def _length(config: SyntheticConfig, split: str, shard: int) -> int:
    """People in a shard: the last one of a split may be short."""
    return min(SHARD, getattr(config, split) - shard * SHARD)


def _made(tasks: list[_Task], workers: int) -> Generator[list[tuple[Row, TruthRow]]]:
    """The people of each task, in order, made by this process or by several."""
    if workers <= 1:
        yield from map(_make, tasks)
        return
    # Fork would copy locked thread pools; spawn starts clean, on every system.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=start_worker
    ) as pool:
        ahead: deque[Future[list[tuple[Row, TruthRow]]]] = deque()
        try:
            for task in tasks:
                ahead.append(pool.submit(_make, task))
                if len(ahead) > 4 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _make(task: _Task) -> list[tuple[Row, TruthRow]]:
    return [make_person(task.config, task.split, i) for i in range(task.start, task.stop)]


def _jpeg(image: Float[Tensor, "size size 3"]) -> bytes:
    pixels = (image * 255).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=_JPEG_QUALITY)
    return file.getvalue()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums must be taken in one order: their rounding depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
