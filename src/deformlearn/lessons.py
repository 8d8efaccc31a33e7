"""What both phases of learning go by: the size of a step, examples with their views, random numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from deformlearn.body import BodyTemplate
from deformlearn.data.augment import Examples, Views, augment
from deformlearn.prefetch import sent
from deformlearn.regressor import Regressor
from deformlearn.supervision import TrainingSet, training_examples


def one_cycle(done: float) -> float:
    """Step size as a share of the largest, `done` of the way through a round (Smith & Topin 2018).

    Up from a tenth in the first fifth, then down to nearly nothing, both along half a cosine.
    """
    warm, start, end = 0.2, 0.1, 1e-3
    if done < warm:
        return start + (1 - start) * (1 - math.cos(math.pi * done / warm)) / 2
    return end + (1 - end) * (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2


@torch.no_grad()
def make_examples(data: TrainingSet, template: BodyTemplate, views: Views) -> Examples:
    """The views of these images as a batch the network can take, where the template is."""
    where = template.vertices.device
    here = training_examples(data.map(lambda x: sent(x, where)), template)
    examples = augment(here, template, views.map(lambda x: sent(x, where)))
    images = examples.images.contiguous(memory_format=torch.channels_last)
    return replace(examples, images=images)


def check_lesson(network: Regressor, data: TrainingSet, template: BodyTemplate) -> None:
    """Refuse what would train in vain."""
    info = network.info
    if info.fingerprint != template.fingerprint:
        raise ValueError(
            f"the network is about template {info.template!r} ({info.fingerprint}), "
            f"the data about {template.name!r} ({template.fingerprint})"
        )
    if info.joints != data.observations.joints:
        raise ValueError(
            f"the network finds key points {info.joints!r}, "
            f"the data have {data.observations.joints!r}"
        )
    if data.images.shape[-1] != info.size:
        raise ValueError(f"the network sees {info.size} px, the images are {data.images.shape[-1]}")
    if len(data) < 2:
        raise ValueError("batch normalisation needs at least 2 training images")
    for tensor in (*data.target.tensors(), data.joints_3d):
        broken = ~tensor.isfinite().flatten(1 if tensor.ndim > 1 else 0)
        if broken.any():
            raise ValueError("a registered body is not finite; leave that image out of training")


@contextmanager
def seeded(stream: torch.Generator, device: torch.device, rank: int = 0) -> Iterator[None]:
    """Dropout and fresh weights know only the global generator: seed it, and put it back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(stream.initial_seed() + rank)
        yield


def device_of(network: Regressor) -> torch.device:
    """Where a network is."""
    return next(network.parameters()).device
