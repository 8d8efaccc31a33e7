"""The cGAN that gives joints a depth, trained on 2D poses alone (Kudo et al. 2018).

A generator maps a 2D pose to depths; the 3D pose is turned by a random angle about the vertical and
projected again; a discriminator tells such views from real 2D poses. Architecture, normalisation and
losses as its authors coded them; what we added is off in the `paper` preset (docs/decisions/0009).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, softplus

from deformlearn import runtime
from deformlearn.config import LifterConfig
from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.observations import Observations
from deformlearn.skeleton import JointSet, convert_keypoints, joint_set, same_places

CHUNK = 250
"""Steps between two checkpoints; each chunk has a random stream of its own."""

_SLOPE = 0.2
"""Of the leaky ReLU."""
_THROTTLE = (0.1, 0.9)
"""The generator learns unless the discriminator is hopeless, the discriminator unless it is winning."""


class PoseNetwork(nn.Module):
    """Kudo's MLP: four layers, one residual added before the third activation."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        sizes = [inputs, width, width, width]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.last = nn.Linear(width, outputs)
        for layer in [*self.hidden, self.last]:
            # 0.02 at Kudo's width of 1024; narrower layers need more to pass on the same variance.
            nn.init.normal_(layer.weight, std=0.02 * math.sqrt(1024 / width))
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        first = leaky_relu(self.hidden[0](x), _SLOPE)
        second = leaky_relu(self.hidden[1](first), _SLOPE)
        third = leaky_relu(self.hidden[2](second) + first, _SLOPE)
        return self.last(third)


@dataclass(frozen=True, eq=False)
class NormalisedPoses:
    """2D poses about their root, of mean root distance one."""

    poses: Float[Tensor, "batch joints 2"]
    visible: Bool[Tensor, "batch joints"]
    size: Float[Tensor, "batch"]
    """The mean distance that was divided out; depths times this are in the poses' own unit."""


def normalise(
    keypoints: Float[Tensor, "batch joints 2"],
    weights: Float[Tensor, "batch joints"],
    joints: JointSet,
) -> NormalisedPoses:
    """Root at the origin, mean distance of the other visible key points to it one; hidden at 0."""
    visible = weights > 0
    root = keypoints[:, joints.root_indices].mean(1, keepdim=True)
    centred = torch.where(visible[..., None], keypoints - root, 0.0)
    others = torch.ones(len(joints), device=keypoints.device)
    if len(joints.root_indices) == 1:
        others[joints.root_indices[0]] = 0
    counted = visible * others
    size = (centred.norm(dim=-1) * counted).sum(-1) / counted.sum(-1).clamp_min(1)
    size = size.clamp_min(1e-6)
    return NormalisedPoses(centred / size[:, None, None], visible, size)


class Lifter(nn.Module):
    """2D poses to depths."""

    def __init__(
        self, joints: str, width: int, *, sees_hidden: bool = False, symmetric: bool = False
    ) -> None:
        super().__init__()
        self.joints = joints
        self.sees_hidden = sees_hidden
        self.symmetric = symmetric
        count = len(joint_set(joints))
        self.network = PoseNetwork(count * (3 if sees_hidden else 2), count, width)

    def forward(
        self, poses: Float[Tensor, "batch joints 2"], visible: Bool[Tensor, "batch joints"]
    ) -> Float[Tensor, "batch joints"]:
        """Depth of normalised poses, relative to the root."""
        inputs = poses.flatten(1)
        if self.sees_hidden:
            inputs = torch.cat([inputs, visible.to(inputs)], 1)
        depths = self.network(inputs)
        roots = joint_set(self.joints).root_indices
        return depths - depths[:, roots].mean(1, keepdim=True)

    @torch.no_grad()
    def lift(self, seen: Observations) -> Observations:
        """The same observations with lifted depths, in image units, of the key points we know.

        Key points of another joint set are converted by place. A person whose root is not seen, or
        with hidden key points that this lifter was not trained to miss, gets no depth.
        """
        own, theirs = joint_set(self.joints), seen.joint_set
        keypoints, weights = seen.keypoints, seen.keypoint_weights
        if own.name != theirs.name:
            keypoints, weights = convert_keypoints(keypoints, weights, theirs, own)
        normal = normalise(keypoints, weights, own)
        depths = self(normal.poses, normal.visible)
        if self.symmetric:
            # A mirrored pose has the mirrored depths; the mean of both readings is the better one.
            swap = own.mirror
            flipped = normal.poses[:, swap, :] * normal.poses.new_tensor([-1.0, 1.0])
            depths = (depths + self(flipped, normal.visible[:, swap])[:, swap]) / 2
        depths = depths * normal.size[:, None]
        usable = (weights[:, own.root_indices] > 0).all(-1)
        if not self.sees_hidden:
            usable = usable & normal.visible.all(-1)
        weights = (weights > 0).to(depths) * usable[:, None]
        back = same_places(own, theirs)
        index = torch.tensor(back, device=depths.device)
        known = (index >= 0) * (seen.keypoint_weights > 0)
        chosen = index.clamp_min(0)
        return seen.with_depths(depths[:, chosen] * known, weights[:, chosen] * known)


@dataclass
class LifterTraining:
    """Everything that changes during training, so that it can be stopped and gone on with."""

    lifter: Lifter
    average: Lifter
    discriminator: PoseNetwork
    optimisers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
    step: int = 0
    accuracy: float = 0.5

    def state(self) -> dict[str, object]:
        """A checkpoint that `torch.load(weights_only=True)` reads."""
        return {
            "lifter": self.lifter.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "accuracy": self.accuracy,
        }

    def restore(self, state: dict) -> None:
        """Go back to a checkpoint."""
        self.lifter.load_state_dict(state["lifter"])
        self.average.load_state_dict(state["average"])
        self.discriminator.load_state_dict(state["discriminator"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.accuracy = state["step"], state["accuracy"]


def start_training(
    joints: str, config: LifterConfig, seed: int, device: torch.device
) -> LifterTraining:
    """A new lifter and its opponent, from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lifter, average = (
            Lifter(joints, config.width, sees_hidden=config.hidden > 0, symmetric=config.mirror).to(
                device
            )
            for _ in range(2)
        )
        opponent = PoseNetwork(2 * len(joint_set(joints)), 1, config.width).to(device)
    average.load_state_dict(lifter.state_dict())
    optimisers = tuple(
        torch.optim.Adam(
            network.parameters(),
            config.learning_rate,
            betas=(0.5, 0.999),
            weight_decay=1e-5,
            fused=True,
        )
        for network in (lifter, opponent)
    )
    return LifterTraining(lifter, average, opponent, optimisers)  # type: ignore[arg-type]


def train(
    keypoints: Float[Tensor, "people joints 2"],
    weights: Float[Tensor, "people joints"],
    joints: str,
    config: LifterConfig,
    *,
    seed: int = 0,
    resume: dict | None = None,
    after_chunk: Callable[[LifterTraining], None] | None = None,
) -> Lifter:
    """A lifter trained on 2D poses alone; poses with a missing key point are left out.

    Raises an InputError when fewer than two whole poses are left.
    """
    whole = (weights > 0).all(-1)
    if int(whole.sum()) < 2:
        raise InputError(
            f"the lifter needs 2D poses with all {len(joint_set(joints))} key points of {joints!r}; "
            f"{int(whole.sum())} of {len(whole)} people have them: give a lifter trained elsewhere "
            f"(--lifter FILE)"
        )
    poses = normalise(keypoints[whole], weights[whole], joint_set(joints)).poses
    if config.mirror:
        flip = poses.new_tensor([-1.0, 1.0])
        poses = torch.cat([poses, poses[:, joint_set(joints).mirror, :] * flip])
    training = start_training(joints, config, seed, poses.device)
    if resume is not None:
        training.restore(resume)
    while training.step < config.steps:
        chunk = runtime.generator(seed, training.step)
        for _ in range(min(CHUNK, config.steps - training.step)):
            _step(training, poses, config, chunk)
        if after_chunk is not None:
            after_chunk(training)
    return training.average if config.average > 0 else training.lifter


def _step(
    training: LifterTraining, poses: Tensor, config: LifterConfig, generator: torch.Generator
) -> None:
    """One update of the generator and the discriminator, each unless the throttle holds it."""
    joints = joint_set(training.lifter.joints)
    rows = torch.randint(len(poses), (config.batch,), generator=generator).to(poses.device)
    real = poses[rows]
    seen = _hide(real, joints, config.hidden, generator)
    depths = training.lifter(seen.poses, seen.visible) * seen.size[:, None]
    turns = torch.rand(config.batch, generator=generator).to(poses) * 2 * math.pi
    tilts = torch.randn(config.batch, generator=generator).to(poses) * config.elevation
    fake = turned_view(real, depths, turns, tilts)

    optimise_lifter, optimise_opponent = training.optimisers
    judged_fake = training.discriminator(fake.flatten(1))
    judged_real = training.discriminator(real.flatten(1))
    accuracy = ((judged_real > 0).float().mean() + (judged_fake < 0).float().mean()).item() / 2
    lowest, highest = _THROTTLE
    if accuracy >= lowest:
        loss = softplus(-judged_fake).mean()
        loss = loss + config.heuristic_weight * backwards(real, depths, joints).mean()
        optimise_lifter.zero_grad(set_to_none=True)
        loss.backward(inputs=list(training.lifter.parameters()))
        optimise_lifter.step()
    if accuracy <= highest:
        judged_fake = training.discriminator(fake.detach().flatten(1))
        loss = softplus(-judged_real).mean() + softplus(judged_fake).mean()
        optimise_opponent.zero_grad(set_to_none=True)
        loss.backward(inputs=list(training.discriminator.parameters()))
        optimise_opponent.step()
    training.step += 1
    training.accuracy = accuracy
    # A young mean must forget its start: the usual warm-up of the decay.
    decay = min(config.average, (1 + training.step) / (10 + training.step))
    with torch.no_grad():
        for mean, now in zip(
            training.average.parameters(), training.lifter.parameters(), strict=True
        ):
            mean.lerp_(now, 1 - decay)


def turned_view(
    poses: Float[Tensor, "batch joints 2"],
    depths: Float[Tensor, "batch joints"],
    turns: Float[Tensor, "batch"],
    tilts: Float[Tensor, "batch"],
) -> Float[Tensor, "batch joints 2"]:
    """The lifted pose seen after a turn about the vertical (and a tilt about the horizontal) axis."""
    x, y = poses.unbind(-1)
    cosine, sine = turns.cos()[:, None], turns.sin()[:, None]
    across, away = x * cosine + depths * sine, depths * cosine - x * sine
    return torch.stack([across, y * tilts.cos()[:, None] - away * tilts.sin()[:, None]], -1)


def backwards(
    poses: Float[Tensor, "batch joints 2"], depths: Float[Tensor, "batch joints"], joints: JointSet
) -> Float[Tensor, "batch"]:
    """How far a lifted person faces the wrong way for their shoulders (Kudo's heuristic), 0 to 1.

    It rules out the mirrored solution, which every other term likes as well.
    """
    ground = torch.stack([depths, poses[..., 0]], -1)
    start = [joints.index(a) for a, _ in joints.facing]
    end = [joints.index(b) for _, b in joints.facing]
    forward = (ground[:, end] - ground[:, start]).sum(1)
    across = ground[:, joints.index("right_shoulder")] - ground[:, joints.index("left_shoulder")]
    cross = forward[:, 0] * across[:, 1] - forward[:, 1] * across[:, 0]
    lengths = (forward.square().sum(-1) + 1e-6).sqrt() * (across.square().sum(-1) + 1e-6).sqrt()
    return (-cross / lengths).clamp_min(0)


def _hide(
    poses: Tensor, joints: JointSet, share: float, generator: torch.Generator
) -> NormalisedPoses:
    """Poses with some key points hidden, normalised over the rest; the root always stays."""
    visible = torch.ones(poses.shape[:2], device=poses.device)
    if share <= 0:
        return NormalisedPoses(poses, visible > 0, torch.ones_like(poses[:, 0, 0]))
    # Half of the poses stay whole: they are what most images show.
    rate = share * (torch.rand(len(poses), 1, generator=generator) < 0.5)
    visible = (torch.rand(poses.shape[:2], generator=generator) >= rate).to(poses)
    visible[:, joints.root_indices] = 1
    return normalise(poses, visible, joints)


def save_lifter(lifter: Lifter, path: Path) -> None:
    """Write weights and what they mean as safetensors."""
    metadata = {
        "kind": "deformlearn lifter",
        "joints": lifter.joints,
        "width": str(lifter.network.last.in_features),
        "sees_hidden": str(int(lifter.sees_hidden)),
        "symmetric": str(int(lifter.symmetric)),
    }
    tensors = {name: value.contiguous() for name, value in lifter.state_dict().items()}
    write_atomically(path, save(tensors, metadata))


def load_lifter(path: Path) -> Lifter:
    """Read a lifter; any other file is an InputError."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != "deformlearn lifter":
                raise InputError(f"{path} is not a lifter written by deformlearn")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read a lifter from {path}: {error}") from error
    lifter = Lifter(
        metadata["joints"],
        int(metadata["width"]),
        sees_hidden=metadata["sees_hidden"] == "1",
        symmetric=metadata.get("symmetric") == "1",
    )
    lifter.load_state_dict(tensors)
    return lifter.eval()


def read_poses(poses: Path, joints: str) -> tuple[Tensor, Tensor]:
    """2D poses of an .npy file and their weights; NaN is missing.

    The file holds pixels as (people, joints, 2) or flat as (people, 2 joints), in the joint set's order.
    """
    import numpy as np

    try:
        array = np.load(poses, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read 2D poses from {poses}: {error}") from error
    count = len(joint_set(joints))
    if array.shape[1:] not in ((count, 2), (2 * count,)) or array.dtype.kind not in "fiu":
        raise InputError(
            f"{poses} must hold numbers of shape (people, {count}, 2) for the joint set {joints!r}, "
            f"got {array.shape} of {array.dtype}"
        )
    keypoints = torch.from_numpy(array.reshape(-1, count, 2).astype(np.float32))
    known = keypoints.isfinite().all(-1)
    return torch.where(known[..., None], keypoints, 0.0), known.float()
