"""LEARN, the training: one round of teaching the network what registration found (Eqs. 5-6).

L = alpha L_regress + beta L_dense + gamma L_KP, to which we add the 3D joints of the registered body and
the two losses of the 2D heads (docs/decisions/0008). None of it is a 3D label, unless the caller gives
true joints on purpose, for the comparison with full 3D supervision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from deformlearn import losses
from deformlearn.body import BodyTemplate, blend
from deformlearn.config import RegressorConfig
from deformlearn.data.augment import SEGMENT_JOINTS, Correspondences, Examples, Labels, augment
from deformlearn.estimate import Estimate, camera_joints, view_transforms
from deformlearn.observations import Observations
from deformlearn.regressor import Head, Prediction, Regressor
from deformlearn.runtime import autocast, generator
from deformlearn.skeleton import joint_set
from deformlearn.tensors import TensorData, combine, concatenate

_CONVNET, _HEAD = 31, 32
"""Random streams of the two phases."""


@dataclass(frozen=True, eq=False)
class TrainingSet(TensorData):
    """Images and what registration found in them."""

    images: UInt8[Tensor, "people 3 size size"]
    observations: Observations
    target: Estimate
    joints_3d: Float[Tensor, "people segments 3"]
    """`SEGMENT_JOINTS` in camera axes, relative to their root (metres)."""

    @staticmethod
    def of(
        images: UInt8[Tensor, "people 3 size size"],
        observations: Observations,
        target: Estimate,
        template: BodyTemplate,
    ) -> TrainingSet:
        """A training set without 3D labels: the 3D joints are the registered body's own.

        For the full-3D baseline, replace its `joints_3d` by true ones.
        """
        target = target.detach()
        joints = camera_joints(template, target, SEGMENT_JOINTS)
        return TrainingSet(images, observations, target, joints)


@dataclass(frozen=True, eq=False)
class Losses(TensorData):
    """Every term of the loss, one number per image, not yet weighted."""

    regress: Float[Tensor, "*batch"]
    """Smooth L1 of pose, scales, rotation, translation and scale (Eq. 6)."""
    dense: Float[Tensor, "*batch"]
    """L_dense (Eq. 3), squared image units."""
    keypoint: Float[Tensor, "*batch"]
    """L_KP (Eq. 4, 2D part), squared image units."""
    joints: Float[Tensor, "*batch"]
    """Mean distance of the 3D joints (metres)."""
    heatmap: Float[Tensor, "*batch"]
    """Cross-entropy of the key points' heat maps (nats)."""
    coordinates: Float[Tensor, "*batch"]
    """Smooth L1 of the template coordinates at annotated pixels."""

    def total(self, config: RegressorConfig) -> Float[Tensor, "*batch"]:
        """The weighted sum (Eq. 5)."""
        return (
            config.regress_weight * self.regress
            + config.dense_weight * self.dense
            + config.keypoint_weight * self.keypoint
            + config.joint_weight * self.joints
            + config.heatmap_weight * self.heatmap
            + config.coordinate_weight * self.coordinates
        )

    def mean(self) -> Losses:
        """Every term averaged over the images."""
        return self.map(lambda term: term.mean())


class Training:
    """One round of learning: the network, its optimiser and how far it got.

    Epoch e of round r draws its views from (seed, r, e) alone, so a run that was killed continues from
    `state_dict` as if nothing had happened (to the bit on a CPU with the same number of threads).
    """

    def __init__(
        self,
        network: Regressor,
        data: TrainingSet,
        template: BodyTemplate,
        config: RegressorConfig,
        *,
        seed: int = 0,
        round_number: int = 1,
    ) -> None:
        """The network is trained where it is; `data` may stay on another device."""
        _check(network, data, template)
        self.network, self.data, self.config = network, data, config
        self.template = template.to(_device(network))
        self.seed, self.round_number = seed, round_number
        self.epoch = 0
        """Finished epochs."""
        self.optimizer = _optimizer(network, config)
        self.batch = min(config.batch, len(data))

    def run(self, on_epoch: Callable[[Training, Losses], None] | None = None) -> None:
        """Train what is left of the round; after each epoch, report its mean losses."""
        while self.epoch < self.config.epochs:
            means = self.run_epoch()
            if on_epoch is not None:
                on_epoch(self, means)

    def run_epoch(self) -> Losses:
        """One pass over the training set, in random order; an incomplete last batch is left out."""
        device = _device(self.network)
        stream = generator(self.seed, _CONVNET, self.round_number, self.epoch)
        order = torch.randperm(len(self.data), generator=stream)
        steps = len(self.data) // self.batch
        peak = self.config.learning_rate
        peak *= self.config.later_rate ** (self.round_number - 1)
        self.network.train()
        history = []
        with _seeded(stream):
            for step, rows in enumerate(order[: steps * self.batch].split(self.batch)):
                done = (self.epoch * steps + step) / (self.config.epochs * steps)
                _set_rate(self.optimizer, peak * one_cycle(done))
                examples = training_examples(self.data[rows].to(device), self.template)
                examples = augment(examples, self.template, self.config.augment, stream)
                with autocast(device):
                    prediction = self.network(
                        examples.images.contiguous(memory_format=torch.channels_last)
                    )
                terms = all_losses(self.template, prediction, examples.labels, self.network.root)
                _step(self.optimizer, terms.total(self.config).mean())
                history.append(terms.detach().mean())
        self.epoch += 1
        return combine(history, torch.stack).mean()

    def state_dict(self) -> dict[str, Any]:
        """All that a killed round needs to go on; loads with `torch.load(weights_only=True)`."""
        return {
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]


def train_head(
    network: Regressor,
    data: TrainingSet,
    template: BodyTemplate,
    config: RegressorConfig,
    *,
    seed: int = 0,
    round_number: int = 1,
) -> Losses:
    """Replace the network's head by one trained alone, on cached features; its last mean losses.

    The ConvNet is run once over `head_views` views of each image, after which a step costs almost
    nothing. The new head stays in the network: it predicts, and the next round trains it on.
    """
    _check(network, data, template)
    device = _device(network)
    template = template.to(device)
    stream = generator(seed, _HEAD, round_number)
    features, labels = _cached_features(network, data, template, config, stream)
    batch = min(config.head_batch, len(features))
    history = []
    with _seeded(stream):
        head = Head(features.shape[1]).to(device)
        head.mean.copy_(features.mean(0))
        # A feature that never moves must not be blown up.
        head.deviation.copy_(features.std(0).clamp_min(1e-3))
        network.head = head
        optimizer = _optimizer(head, config)
        for step in range(config.head_steps):
            _set_rate(optimizer, config.head_learning_rate * one_cycle(step / config.head_steps))
            rows = torch.randint(len(features), (batch,), generator=stream).to(device)
            terms = body_losses(template, network.regress(features[rows]), labels[rows])
            _step(optimizer, terms.total(config).mean())
            history.append(terms.detach().mean())
    network.eval()
    return combine(history[-100:], torch.stack).mean()


def all_losses(
    template: BodyTemplate,
    prediction: Prediction,
    labels: Labels,
    origin: Float[Tensor, "3"],
) -> Losses:
    """Every term; those of the 2D heads are zero where the network has none.

    `origin` is the rest point that template coordinates are relative to.
    """
    terms = body_losses(template, prediction.estimate, labels)
    if prediction.heatmaps is None or prediction.coordinates is None:
        return terms
    return replace(
        terms,
        heatmap=heatmap_cross_entropy(
            prediction.heatmaps, labels.keypoints, labels.keypoint_weights
        ),
        coordinates=coordinate_distance(prediction.coordinates, labels.dense, origin),
    )


def body_losses(template: BodyTemplate, estimate: Estimate, labels: Labels) -> Losses:
    """The terms of Eq. 5, and the 3D joints."""
    target = labels.target
    view = view_transforms(template, estimate)
    keypoints = blend(view, template.keypoints(joint_set(labels.joints)))
    pixels = blend(view, labels.dense.surface)
    segments = joint_set(SEGMENT_JOINTS)
    joints = blend(view, template.keypoints(segments)) / estimate.camera.scale[:, None, None]
    joints = joints - joints[:, segments.root_indices].mean(1, keepdim=True)
    regress = (
        losses.smooth_l1(estimate.body.pose, target.body.pose)
        + losses.smooth_l1(estimate.body.scales, target.body.scales)
        + losses.rotation_l1(estimate.camera.matrix, target.camera.matrix)
        + losses.smooth_l1(estimate.camera.translation, target.camera.translation)
        + losses.smooth_l1(estimate.camera.scale, target.camera.scale)
    )
    nothing = torch.zeros_like(regress)
    return Losses(
        regress=regress,
        dense=losses.dense(pixels[..., :2], labels.dense.pixels, labels.dense.weights),
        keypoint=losses.keypoint(keypoints[..., :2], labels.keypoints, labels.keypoint_weights),
        joints=losses.joint_distance(joints, labels.joints_3d),
        heatmap=nothing,
        coordinates=nothing,
    )


def heatmap_cross_entropy(
    heatmaps: Float[Tensor, "batch joints rows columns"],
    keypoints: Float[Tensor, "batch joints 2"],
    weights: Float[Tensor, "batch joints"],
) -> Float[Tensor, "batch"]:
    """Weighted mean of -log p at the key points, interpolated between pixels (nats).

    A key point outside the image, or missing, teaches nothing.
    """
    batch, joints, rows, columns = heatmaps.shape
    logs = heatmaps.float().flatten(2).log_softmax(-1).view(batch * joints, 1, rows, columns)
    at = keypoints.reshape(batch * joints, 1, 1, 2)
    log_p = functional.grid_sample(logs, at, align_corners=False).view(batch, joints)
    used = weights * _inside(keypoints)
    return -(log_p * used).sum(-1) / weights.sum(-1).clamp_min(1e-6)


def coordinate_distance(
    coordinates: Float[Tensor, "batch 3 rows columns"],
    dense: Correspondences,
    origin: Float[Tensor, "3"],
) -> Float[Tensor, "batch"]:
    """Weighted mean smooth L1 of the coordinates at annotated pixels (quadratic below 10 cm)."""
    at = dense.pixels[:, :, None]
    found = functional.grid_sample(coordinates.float(), at, align_corners=False)[..., 0].mT
    wanted = dense.surface.rest - origin
    distance = functional.smooth_l1_loss(found, wanted, beta=0.1, reduction="none").mean(-1)
    used = dense.weights * _inside(dense.pixels)
    return (distance * used).sum(-1) / dense.weights.sum(-1).clamp_min(1e-6)


def one_cycle(done: float) -> float:
    """Step size as a share of the largest, `done` of the way through a round (Smith & Topin 2018).

    Up from a tenth in the first fifth, then down to nearly nothing, both along half a cosine.
    """
    warm, start, end = 0.2, 0.1, 1e-3
    if done < warm:
        return start + (1 - start) * (1 - math.cos(math.pi * done / warm)) / 2
    return end + (1 - end) * (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2


def training_examples(data: TrainingSet, template: BodyTemplate) -> Examples:
    """The images as numbers, and their labels with the correspondences looked up on the template."""
    seen = data.observations
    surface = template.surface_points(seen.faces, seen.barycentric)
    return Examples(
        data.images.float() / 255,
        Labels(
            dense=Correspondences(seen.points, surface, seen.point_weights),
            keypoints=seen.keypoints,
            keypoint_weights=seen.keypoint_weights,
            target=data.target,
            joints_3d=data.joints_3d,
            joints=seen.joints,
        ),
    )


@torch.no_grad()
def _cached_features(
    network: Regressor,
    data: TrainingSet,
    template: BodyTemplate,
    config: RegressorConfig,
    stream: torch.Generator,
) -> tuple[Tensor, Labels]:
    """The head's input for every view of every image, and the labels that moved with it."""
    device = _device(network)
    network.eval()
    cached: list[Tensor] = []
    kept: list[Labels] = []
    for _ in range(config.head_views):
        for rows in torch.arange(len(data)).split(256):
            examples = training_examples(data[rows].to(device), template)
            examples = augment(examples, template, config.augment, stream)
            with autocast(device):
                images = examples.images.contiguous(memory_format=torch.channels_last)
                cached.append(network(images).features)
            # The correspondences are most of the memory, and key points say as much to a head.
            dense = examples.labels.dense.map(lambda values: values[:, :0])
            kept.append(replace(examples.labels, dense=dense))
    return torch.cat(cached), concatenate(kept)


def _check(network: Regressor, data: TrainingSet, template: BodyTemplate) -> None:
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


def _optimizer(network: torch.nn.Module, config: RegressorConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # One body turned the wrong way must not undo a batch.
    torch.nn.utils.clip_grad_norm_(parameters, 5.0)
    optimizer.step()


@contextmanager
def _seeded(stream: torch.Generator) -> Iterator[None]:
    """Dropout and fresh weights know only the global generator: seed it, and put it back."""
    with torch.random.fork_rng():
        torch.manual_seed(stream.initial_seed())
        yield


def _inside(points: Float[Tensor, "batch points 2"]) -> Float[Tensor, "batch points"]:
    return (points.abs() <= 1).all(-1).to(points.dtype)


def _device(network: Regressor) -> torch.device:
    return next(network.parameters()).device
