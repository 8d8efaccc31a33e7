"""LEARN, the network: image -> theta (section 5).

The paper pools a ResNet-50 to one vector and regresses theta from it; `auxiliary=False` is that. From a
random start, in the time a laptop has, such a network learns nothing, so by default two heads read a
fine feature map: a heat map for each key point and the template coordinates of each pixel. Both
learn from the 2D labels alone, and what they find at each joint is what theta is regressed from
(docs/decisions/0008).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deformlearn.allocation import keep_freed_memory
from deformlearn.backbone import Backbone, folded
from deformlearn.body import BodyParameters, BodyTemplate
from deformlearn.camera import FACING_CAMERA, Camera
from deformlearn.config import RegressorConfig
from deformlearn.data.augment import pixel_centres
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, right_handed
from deformlearn.files import write_atomically
from deformlearn.memory import Portion
from deformlearn.prefetch import ahead, sent
from deformlearn.runtime import autocast
from deformlearn.skeleton import SEGMENTS, joint_set
from deformlearn.tensors import TensorData, concatenate, fixed, not_finite

FORMAT = 2
"""Version of the network file."""

PYRAMID_WIDTH = 64
"""Channels of the merged feature maps."""

LOCAL_WIDTH = 16
"""Learned features read at each joint."""

HEAD_WIDTH = 512
"""Units of the two hidden layers that regress theta."""

HEAD_DROPOUT = 0.2
"""Share of hidden units left out in training: cached features are few, and a head learns them by heart."""

_THETA = {
    "pose": 3 * (len(SEGMENTS) - 1),
    "scales": len(SEGMENTS),
    "matrix": 9,
    "root": 2,
    "size": 1,
}
"""What the head's numbers are, in order."""


@dataclass(frozen=True)
class NetworkInfo:
    """What a network file says about itself."""

    backbone: str
    """timm model."""
    size: int
    """Side of the input (px)."""
    auxiliary: bool
    """Whether it has the 2D heads."""
    cells: int
    """Least cells of their maps across the image."""
    joints: str
    """Joint set of the heat maps."""
    template: str
    """Name of the template its parameters are about."""
    fingerprint: str
    """That template's content hash."""
    format: int = FORMAT


@dataclass(frozen=True, eq=False)
class Prediction(TensorData):
    """What the network says of a batch of images."""

    estimate: Estimate
    """theta; the camera's nine numbers are raw."""
    features: Float[Tensor, "batch features"]
    """What theta was regressed from."""
    heatmaps: Float[Tensor, "batch joints rows columns"] | None = None
    """Logarithm of each pixel's likelihood to show each key point; a map's likelihoods sum to one."""
    coordinates: Float[Tensor, "batch 3 rows columns"] | None = None
    """Rest position of the surface point each pixel shows, relative to the template's root (metres)."""


class Pyramid(nn.Module):
    """Features of all strides merged, coarse to fine, at the finest (Lin et al. 2017)."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, PYRAMID_WIDTH, 1) for count in channels)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(PYRAMID_WIDTH, PYRAMID_WIDTH, 3, padding=1, bias=False),
                nn.BatchNorm2d(PYRAMID_WIDTH),
                nn.ReLU(inplace=True),
            )
            for _ in channels[1:]
        )

    def forward(self, stages: list[Tensor]) -> Float[Tensor, "batch channels rows columns"]:
        merged = self.lateral[-1](stages[-1])
        for level in reversed(range(len(stages) - 1)):
            finer = self.lateral[level](stages[level])
            merged = functional.interpolate(merged, size=finer.shape[-2:], mode="nearest")
            merged = self.smooth[level](finer + merged)
        return merged


class PixelHeads(nn.Module):
    """Heat maps and template coordinates of every pixel, and what they say at each joint."""

    def __init__(self, joints: int) -> None:
        super().__init__()
        self.heatmaps = nn.Conv2d(PYRAMID_WIDTH, joints, 1)
        self.coordinates = nn.Conv2d(PYRAMID_WIDTH, 3, 1)
        self.local = nn.Conv2d(PYRAMID_WIDTH, LOCAL_WIDTH, 1)

    def forward(self, pixels: Float[Tensor, "batch channels rows columns"]) -> tuple[Tensor, ...]:
        """Heat maps, coordinates, and per image the evidence: all joints' means under their maps."""
        # The loss needs the logarithms: one softmax serves it and the evidence.
        logs = self.heatmaps(pixels).float().flatten(2).log_softmax(-1)
        coordinates = self.coordinates(pixels).float()
        rows, columns = (pixel_centres(count, coordinates) for count in coordinates.shape[-2:])
        places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
        # The coordinates learn from their labels only; as evidence they are detached.
        evidence = torch.cat(
            [
                # Not len(): it would fix the batch of an exported network.
                places.expand(pixels.shape[0], -1, -1, -1),
                coordinates.detach(),
                self.local(pixels).float(),
            ],
            1,
        )
        heatmaps = logs.unflatten(-1, coordinates.shape[-2:])
        return heatmaps, coordinates, (logs.exp() @ evidence.flatten(2).mT).flatten(1)


class Head(nn.Module):
    """Features -> the numbers of theta, as departures from the rest pose before the camera."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        layers: list[nn.Module] = []
        for width in (features, HEAD_WIDTH):
            layers += [
                nn.Linear(width, HEAD_WIDTH),
                nn.BatchNorm1d(HEAD_WIDTH),
                nn.ReLU(inplace=True),
                nn.Dropout(HEAD_DROPOUT),
            ]
        last = nn.Linear(HEAD_WIDTH, sum(_THETA.values()))
        nn.init.normal_(last.weight, std=0.005)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch theta"]:
        return self.layers((features - self.mean) / self.deviation)


class Regressor(nn.Module):
    """A ConvNet from person crops to theta. Build one with `build_network` or `load_network`."""

    root: Tensor
    rest_place: Tensor
    rest_size: Tensor

    def __init__(self, info: NetworkInfo, *, pretrained: bool = False) -> None:
        super().__init__()
        self.info = info
        self.is_for_prediction = False
        self.backbone = Backbone(info.backbone, pretrained=pretrained)
        features = self.backbone.channels[-1]
        self.pyramid: Pyramid | None = None
        if info.auxiliary:
            joints = len(joint_set(info.joints))
            self.finest = self.backbone.finest_level(info.size, info.cells)
            self.pyramid = Pyramid(self.backbone.channels[self.finest :])
            self.pixel_heads = PixelHeads(joints)
            # The global feature is narrowed so that it cannot drown what was found at the joints.
            self.summary = nn.Sequential(nn.Linear(features, 128), nn.ReLU(inplace=True))
            features = 128 + joints * (2 + 3 + LOCAL_WIDTH)
        self.head = Head(features)
        for name, shape in (("root", 3), ("rest_place", 2), ("rest_size", ())):
            self.register_buffer(name, torch.zeros(shape))

    def forward(
        self, images: Float[Tensor, "batch 3 rows columns"] | UInt8[Tensor, "batch 3 rows columns"]
    ) -> Prediction:
        """Images are RGB in [0, 1] or bytes; what the backbone makes of them is its own affair."""
        stages = self.backbone(images)
        features = stages[-1].mean((-1, -2))
        heatmaps = coordinates = None
        if self.pyramid is not None:
            heatmaps, coordinates, evidence = self.pixel_heads(self.pyramid(stages[self.finest :]))
            features = torch.cat([self.summary(features).float(), evidence], 1)
        features = features.float()
        return Prediction(self.regress(features), features, heatmaps, coordinates)

    def for_prediction(self) -> Regressor:
        """A copy that answers the same (but for rounding) sooner, and cannot be trained.

        A network that is such a copy already is given back as it is.
        """
        if self.is_for_prediction:
            return self
        faster = copy.deepcopy(self).eval()
        faster.is_for_prediction = True
        faster.backbone.model = folded(faster.backbone.model)
        if faster.pyramid is not None:
            several: Any = faster.pyramid.smooth
            faster.pyramid.smooth = nn.ModuleList(
                nn.Sequential(fuse_conv_bn_eval(convolution, norm), relu)
                for convolution, norm, relu in several
            )
        return faster

    def regress(self, features: Float[Tensor, "batch features"]) -> Estimate:
        """Theta from the head's input, in full precision."""
        with torch.autocast(features.device.type, enabled=False):
            numbers = self.head(features)
        pose, scales, matrix, root, size = numbers.split(list(_THETA.values()), -1)
        facing = fixed(FACING_CAMERA, matrix.device, matrix.dtype)
        camera = Camera(
            facing + matrix.unflatten(-1, (3, 3)),
            self.rest_place + root,
            self.rest_size * (0.5 * size[:, 0]).exp(),
        )
        # The network says where the pelvis is; t belongs to the template's origin, which may be at
        # the feet, where every turn of the body would move it. (Autocast would round a product `@`.)
        turned = (camera.rotation() * self.root).sum(-1)[:, :2]
        translation = camera.translation - camera.scale[:, None] * turned
        return Estimate(
            BodyParameters((0.3 * scales).exp(), pose.unflatten(-1, (-1, 3))),
            Camera(camera.matrix, translation, camera.scale),
        )


def require_backbone(config: RegressorConfig) -> None:
    """Refuse a backbone that no network can be built on; nothing is computed or downloaded for that."""
    with torch.device("meta"):
        backbone = Backbone(config.backbone, pretrained=False)
    if config.auxiliary:
        backbone.finest_level(config.size, config.cells)


def build_network(
    config: RegressorConfig, template: BodyTemplate, joints: str, *, seed: int = 0
) -> Regressor:
    """A network that answers the rest pose facing the camera, until it is trained.

    `joints` names the joint set of the key points it will learn to find. Random weights depend on
    `seed` alone.
    """
    info = NetworkInfo(
        config.backbone,
        config.size,
        config.auxiliary,
        config.cells,
        joints,
        template.name,
        template.fingerprint,
    )
    with torch.random.fork_rng([]):  # made on the CPU: GPUs are not touched
        torch.manual_seed(seed)
        network = Regressor(info, pretrained=config.pretrained)
    rest = Estimate.rest(template, 1).camera
    root = template.joints[0].cpu()
    network.root.copy_(root)
    network.rest_size.copy_(rest.scale[0])
    turned = (rest.rotation()[0].cpu() @ root)[:2]
    network.rest_place.copy_(rest.translation[0].cpu() + rest.scale[0].cpu() * turned)
    return network.to(memory_format=torch.channels_last)


def predict_dataset(
    network: Regressor,
    images: UInt8[Tensor, "people 3 size size"],
    *,
    device: torch.device | None = None,
    batch: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Estimate:
    """Theta of every image, on the CPU; rotations are orthonormal and right-handed.

    `progress` is told how many images are done.
    """
    found: list[Estimate] = []
    done = 0
    for prediction in predictions(network, images, device=device, batch=batch):
        found.append(prediction.estimate)
        progress(done := done + len(prediction.estimate))
    return concatenate(found).to("cpu")


def predictions(
    network: Regressor,
    images: UInt8[Tensor, "people 3 size size"],
    *,
    device: torch.device | None = None,
    batch: int | None = None,
) -> Iterator[Prediction]:
    """What the network says of the images, at most `batch` at a time, where it runs.

    Rotations are orthonormal and right-handed. A device whose memory is too small gets half as many
    images at a time, and a line in the log says so.
    """
    where = device or next(network.parameters()).device
    batch = batch or at_once(where)
    keep_freed_memory()
    network = network.for_prediction().to(where)
    portion = Portion(batch, "images")
    for pixels in ahead((sent(several, where) for several in images.split(batch)), where):
        yield from portion.over(pixels, partial(_predicted, network))


def at_once(where: torch.device) -> int:
    """Images that a device predicts fastest together: on a CPU no more than its caches help with."""
    return 64 if where.type == "cpu" else 256


@torch.no_grad()  # not on `predictions`: whatever wraps a generator hides that it is one
def _predicted(network: Regressor, pixels: Tensor) -> Prediction:
    with autocast(pixels.device):
        found = network(pixels.contiguous(memory_format=torch.channels_last))
    return replace(found, estimate=right_handed(found.estimate))


def save_network(network: Regressor, path: Path) -> None:
    """Write the network and what it is about as one safetensors file; complete or not at all."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"deformlearn": json.dumps(asdict(network.info))}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_network(path: Path) -> Regressor:
    """The network that `save_network` wrote; any other file, or a damaged one, is an InputError."""
    wanted = f"{path} is not a deformlearn network; give the network.safetensors of a run"
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            stored = (file.metadata() or {}).get("deformlearn")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(stored or "")
        version = about["format"]
        info = NetworkInfo(**about) if version == FORMAT else None
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{wanted} ({error})") from error
    if info is None:
        raise InputError(
            f"{path} has format {version}; this version reads format {FORMAT}: train it again"
        )
    network = Regressor(info)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{wanted} (its weights do not fit {info.backbone})") from error
    if (name := not_finite(tensors)) is not None:
        raise InputError(
            f"{path} is damaged: its weights {name} are not all finite; restore the file, or train again"
        )
    return network.to(memory_format=torch.channels_last).eval()
