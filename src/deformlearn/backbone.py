"""A timm model as a pyramid of feature maps, with ImageNet weights when they can be had."""

from __future__ import annotations

import difflib
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from huggingface_hub import constants as hub
from jaxtyping import Float, UInt8
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from deformlearn.errors import InputError

FINEST = 4
"""Stride of the finest feature map; finer ones cost much and say little about the body."""

NARROW: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18_half": ("resnet18", {"channels": (32, 64, 128, 256)}),
}
"""Models of our own: a timm model with fewer channels, for a random start on few CPU cores."""


class Backbone(nn.Module):
    """A timm model's feature maps of stride 4 and more."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, *, pretrained: bool) -> None:
        super().__init__()
        self.name = name
        self.model = _timm_model(name, pretrained)
        info: Any = self.model.feature_info
        self.strides: list[int] = [stride for stride in info.reduction() if stride >= FINEST]
        self.channels: list[int] = info.channels()[-len(self.strides) :]
        # What its weights were trained on, or would have been.
        colours: Any = self.model.default_cfg
        self.register_buffer("mean", torch.tensor(colours["mean"])[:, None, None])
        self.register_buffer("deviation", torch.tensor(colours["std"])[:, None, None])

    def forward(
        self, images: Float[Tensor, "batch 3 rows columns"] | UInt8[Tensor, "batch 3 rows columns"]
    ) -> list[Tensor]:
        """Feature maps from fine to coarse, of `channels` channels; images are RGB in [0, 1] or bytes."""
        factor, shift = 1 / self.deviation, -self.mean / self.deviation
        if not images.is_floating_point():
            images, factor = images.to(factor.dtype), factor / 255
        # One pass over the pixels, where subtracting and dividing would be two.
        return self.model(torch.addcmul(shift, images, factor))[-len(self.strides) :]

    def finest_level(self, size: int, cells: int) -> int:
        """The coarsest level with at least so many cells across an image; if there is none, the finest."""
        if self.strides[0] != FINEST:
            raise InputError(
                f"{self.name} has no feature map of stride {FINEST}, which the 2D heads need "
                f"(it has {', '.join(map(str, self.strides))}); choose a ResNet, ConvNeXt or the like"
            )
        return max(sum(size / stride >= cells for stride in self.strides) - 1, 0)


def folded(network: nn.Module) -> nn.Module:
    """The same, where each convolution does the batch normalisation after it; for prediction only.

    It computes the same, but for rounding. `network` itself is used up, unless torch.fx cannot trace it:
    then it is what comes back.
    """
    if network.training:
        raise ValueError("only in eval mode can batch normalisation be folded")
    try:
        return fuse(network, inplace=True)
    except fx.proxy.TraceError:
        return network


def classifier(name: str, outputs: int) -> nn.Module:
    """The model as timm has it, with one linear layer at its end: a measure for what we add."""
    full, options = NARROW.get(name, (name, {}))
    return timm.create_model(full, num_classes=outputs, **options)


def _timm_model(name: str, pretrained: bool) -> nn.Module:
    if name in NARROW:
        full, options = NARROW[name]
        return timm.create_model(full, features_only=True, **options)
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, [*NARROW, *timm.list_models()], cutoff=0.5)
        raise InputError(f"timm has no model {name!r}; close are {', '.join(close) or 'none'}")
    if pretrained:
        try:
            with _without_waiting():
                return timm.create_model(name, features_only=True, pretrained=True)
        except Exception as error:  # whatever the hub, the cache or the file may raise
            reason = str(error).splitlines()[0]
            logging.getLogger(__name__).warning(
                "%s starts from random weights: its ImageNet weights cannot be had (%s)",
                name,
                reason,
            )
    return timm.create_model(name, features_only=True)


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Without a network, the hub's client uses its cache at once; it would retry for a minute."""
    try:
        # urlopen obeys the proxy settings of the environment; any answer will do.
        urllib.request.urlopen(urllib.request.Request(hub.ENDPOINT, method="HEAD"), timeout=10)
    except urllib.error.HTTPError:
        reachable = True
    except OSError:
        reachable = False
    else:
        reachable = True
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or not reachable
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before
