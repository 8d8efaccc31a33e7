"""A trained network on photographs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.camera import Crop
from deformlearn.data.augment import pixel_centres
from deformlearn.data.images import Unreadable, open_image, to_pixels
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.regressor import Regressor, predictions
from deformlearn.tensors import concatenate

MARGIN = 1.12
"""Side of a crop over the longer side of the person's box, as in the synthetic training images."""


@dataclass(frozen=True)
class PredictedPeople:
    """What the network says of each readable image."""

    paths: list[Path]
    """Source of each row."""
    estimate: Estimate
    crop: Crop
    """The square that the estimate's image units span (source pixels, after EXIF orientation)."""
    unreadable: tuple[Unreadable, ...]
    """Images without a row, and why."""
    keypoints: Float[Tensor, "people joints 2"] | None = None
    """Means of the network's heat maps (image units); None where it has none."""
    confidence: Float[Tensor, "people joints"] | None = None
    """Share of each heat map that lies within a tenth of the crop of its mean."""


def predict_images(
    network: Regressor,
    template: BodyTemplate,
    images: Sequence[Path],
    boxes: Float[Tensor, "images 4"] | None = None,
    *,
    device: torch.device | None = None,
    workers: int | None = None,
) -> PredictedPeople:
    """One body for each image, in order; `workers` threads decode.

    `boxes` holds the left, top, width and height of each person (px); without it each image is taken to
    show one person who fills it. An unreadable image costs its row; if none can be read, or the network
    is about another template, it is an InputError.
    """
    require_template(network, template)
    if boxes is not None and len(boxes) != len(images):
        raise InputError(f"{len(images)} images need as many boxes, got {len(boxes)}")

    def read(row: int) -> tuple[Tensor, Crop] | Unreadable:
        try:
            image = open_image(images[row], upright=True)
            crop = whole_image(image) if boxes is None else around_box(boxes[row])
            return to_pixels(image, network.info.size, crop), crop
        except InputError as error:
            return Unreadable(str(images[row]), str(error))

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(read, range(len(images))))
    unreadable = tuple(result for result in results if isinstance(result, Unreadable))
    readable = [
        (path, *result)
        for path, result in zip(images, results, strict=True)
        if not isinstance(result, Unreadable)
    ]
    if not readable:
        raise InputError(
            f"no image to predict from: {unreadable[0].reason}" if unreadable else "no image given"
        )
    paths, pixels, crops = zip(*readable, strict=True)
    crop = concatenate([crop[None] for crop in crops])
    found = predict_crops(network, torch.stack(pixels), device=device)
    return PredictedPeople(list(paths), found[0], crop, unreadable, *found[1:])


def require_template(network: Regressor, template: BodyTemplate) -> None:
    """Refuse a network that was trained on another template."""
    if network.info.fingerprint != template.fingerprint:
        raise InputError(
            f"this network was trained on template {network.info.template!r} "
            f"({network.info.fingerprint}), not on {template.name!r} ({template.fingerprint}); "
            f"load the template it names"
        )


def predict_crops(
    network: Regressor, pixels: UInt8[Tensor, "people 3 size size"], *, device: torch.device | None
) -> tuple[
    Estimate, Float[Tensor, "people joints 2"] | None, Float[Tensor, "people joints"] | None
]:
    """Bodies, and what `seen_keypoints` says, of people that are cut out already."""
    estimates, means, confidences = [], [], []
    for found in predictions(network, pixels, device=device):
        estimates.append(found.estimate)
        if found.heatmaps is not None:
            mean, confidence = seen_keypoints(found.heatmaps)
            means.append(mean)
            confidences.append(confidence)
    estimate = concatenate(estimates).to("cpu")
    if not means:
        return estimate, None, None
    return estimate, torch.cat(means).cpu(), torch.cat(confidences).cpu()


def seen_keypoints(
    heatmaps: Float[Tensor, "people joints rows columns"],
) -> tuple[Float[Tensor, "people joints 2"], Float[Tensor, "people joints"]]:
    """Where a network sees each key point (image units), and how sure it is."""
    likely = heatmaps.flatten(2).exp()
    rows, columns = (pixel_centres(count, likely) for count in heatmaps.shape[-2:])
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)
    mean = likely @ places
    near = (places - mean[:, :, None]).norm(dim=-1) < 0.2
    return mean, (likely * near).sum(-1)


def whole_image(image: Image.Image) -> Crop:
    """The smallest square about the whole image."""
    width, height = image.size
    return Crop(torch.tensor([width / 2, height / 2]), torch.tensor(max(width, height) / 2))


def around_box(box: Float[Tensor, "4"]) -> Crop:
    """The square about a person's box (left, top, width, height in px), with the usual margin."""
    corner, sides = box[:2], box[2:]
    return Crop(corner + sides / 2, MARGIN / 2 * sides.max())
