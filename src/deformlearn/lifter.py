"""The cGAN that gives joints a depth, trained on 2D poses alone (Kudo et al. 2018).

A generator maps a 2D pose to depths; the 3D pose is turned by a random angle about the vertical and
projected again; a discriminator tells such views from real 2D poses. Architecture, normalisation and
losses as its authors coded them; what we added is off in the `paper` preset (docs/decisions/0009).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, softplus

from deformlearn import runtime
from deformlearn.config import LifterConfig
from deformlearn.errors import InputError, NotFiniteError, listed
from deformlearn.files import write_atomically
from deformlearn.flat_poses import NormalisedPoses, backwards, hide, normalise, turned_view
from deformlearn.memory import Portion
from deformlearn.observations import Observations
from deformlearn.skeleton import convert_keypoints, joint_set, same_places
from deformlearn.tensors import not_finite

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
        seen = seen.seen_alone()
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
    portion: Portion
    """Poses of a batch that fit in memory at once; no part of a checkpoint."""
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
    portion = Portion(config.batch, "2D poses")
    return LifterTraining(lifter, average, opponent, optimisers, portion)  # type: ignore[arg-type]


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

    Raises an InputError when fewer than two whole poses are left, and a NotFiniteError, whose rows are
    people, before a chunk with a loss that is not finite is reported.
    """
    whole = (weights > 0).all(-1)
    if int(whole.sum()) < 2:
        raise InputError(
            f"the lifter needs at least 2 people with all {len(joint_set(joints))} key points of "
            f"{joints!r}; {int(whole.sum())} of {len(whole)} people have them: give a lifter trained "
            f"elsewhere (--lifter FILE)"
        )
    poses = normalise(keypoints[whole], weights[whole], joint_set(joints)).poses
    people = whole.nonzero()[:, 0]
    if config.mirror:
        people = people.repeat(2)
        flip = poses.new_tensor([-1.0, 1.0])
        poses = torch.cat([poses, poses[:, joint_set(joints).mirror, :] * flip])
    training = start_training(joints, config, seed, poses.device)
    if resume is not None:
        training.restore(resume)
    while training.step < config.steps:
        chunk = runtime.generator(seed, training.step)
        count = min(CHUNK, config.steps - training.step)
        taken = [_step(training, poses, config, chunk) for _ in range(count)]
        _check_finite(training, taken, people, config.steps)
        if after_chunk is not None:
            after_chunk(training)
    return training.average if config.average > 0 else training.lifter


def _step(
    training: LifterTraining, poses: Tensor, config: LifterConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One update of the generator and the discriminator, each unless the throttle holds it.

    Returns the poses' rows, and of each what the discriminator said: of its fake view and of itself.
    """
    rows = torch.randint(len(poses), (config.batch,), generator=generator).to(poses.device)
    real = poses[rows]
    seen = hide(real, joint_set(training.lifter.joints), config.hidden, generator)
    turns = torch.rand(config.batch, generator=generator).to(poses) * 2 * math.pi
    tilts = torch.randn(config.batch, generator=generator).to(poses) * config.elevation
    judged = training.portion.fitting(
        lambda size: _gradients(training, config, real, seen, turns, tilts, size)
    )
    accuracy = ((judged[:, 1] > 0).float().mean() + (judged[:, 0] < 0).float().mean()).item() / 2
    lowest, highest = _THROTTLE
    optimise_lifter, optimise_opponent = training.optimisers
    if accuracy >= lowest:
        optimise_lifter.step()
    if accuracy <= highest:
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
    return rows, judged


def _gradients(
    training: LifterTraining,
    config: LifterConfig,
    real: Tensor,
    seen: NormalisedPoses,
    turns: Tensor,
    tilts: Tensor,
    size: int,
) -> Float[Tensor, "batch 2"]:
    """Those of both networks' mean losses, `size` poses at a time; what the discriminator said."""
    for optimiser in training.optimisers:
        optimiser.zero_grad(set_to_none=True)
    joints, judged = joint_set(training.lifter.joints), []
    for first in range(0, len(real), size):
        part = slice(first, first + size)
        poses = real[part]
        depths = training.lifter(seen.poses[part], seen.visible[part]) * seen.size[part, None]
        fake = turned_view(poses, depths, turns[part], tilts[part])
        judged_fake = training.discriminator(fake.flatten(1))[:, 0]
        loss = softplus(-judged_fake) + config.heuristic_weight * backwards(poses, depths, joints)
        (loss.sum() / len(real)).backward(inputs=list(training.lifter.parameters()))
        judged_fake = training.discriminator(fake.detach().flatten(1))[:, 0]
        judged_real = training.discriminator(poses.flatten(1))[:, 0]
        loss = softplus(-judged_real) + softplus(judged_fake)
        (loss.sum() / len(real)).backward(inputs=list(training.discriminator.parameters()))
        judged.append(torch.stack([judged_fake, judged_real], 1).detach())
    return torch.cat(judged)


def _check_finite(
    training: LifterTraining, taken: list[tuple[Tensor, Tensor]], people: Tensor, steps: int
) -> None:
    """Stop where a step was not finite. A device is waited for: once a chunk, before it is kept."""
    broken = ~torch.stack([judged for _, judged in taken]).isfinite().all(-1)
    weights = [*training.lifter.parameters(), *training.discriminator.parameters()]
    last = torch.zeros_like(broken)
    last[-1] = ~nn.utils.get_total_norm(weights).isfinite()  # its update is not judged yet
    found = (broken | last).nonzero()
    if len(found) == 0:
        return
    step = int(found[0, 0])
    rows = taken[step][0][(broken | last)[step]]
    guilty = sorted(set(people[rows].tolist()))
    raise NotFiniteError(
        f"the lifter's loss or its gradient is not finite in step "
        f"{training.step - len(taken) + step + 1} of {steps}, at the key points of people "
        f"{listed(guilty)}: look at what these rows say, or take a smaller learning rate",
        guilty,
    )


def save_lifter(lifter: Lifter, path: Path, *, made_of: str = "") -> None:
    """Write weights and what they mean as safetensors; `made_of` is what `made_of` then says of it."""
    metadata = {
        "kind": "deformlearn lifter",
        "joints": lifter.joints,
        "width": str(lifter.network.last.in_features),
        "sees_hidden": str(int(lifter.sees_hidden)),
        "symmetric": str(int(lifter.symmetric)),
    }
    if made_of:
        metadata["made_of"] = made_of
    tensors = {name: value.contiguous() for name, value in lifter.state_dict().items()}
    write_atomically(path, save(tensors, metadata))


def load_lifter(path: Path) -> Lifter:
    """Read a lifter; any other file, or a damaged one, is an InputError."""
    with _opened(path) as (file, metadata):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if (name := not_finite(tensors)) is not None:
        raise InputError(
            f"{path} is damaged: its weights {name} are not all finite; restore the file, or train again"
        )
    lifter = Lifter(
        metadata["joints"],
        int(metadata["width"]),
        sees_hidden=metadata["sees_hidden"] == "1",
        symmetric=metadata.get("symmetric") == "1",
    )
    lifter.load_state_dict(tensors)
    return lifter.eval()


def made_of(path: Path) -> str:
    """A short name for what a lifter's file was made of; "" where nobody said it."""
    with _opened(path) as (_, metadata):
        return metadata.get("made_of", "")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A lifter's file and what it says of itself; any other file is an InputError."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != "deformlearn lifter":
                raise InputError(f"{path} is not a lifter; give the lifter.safetensors of a run")
            yield file, metadata
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"cannot read a lifter from {path}: {getattr(error, 'strerror', None) or error}; "
            f"give the lifter.safetensors of a run"
        ) from error


def read_poses(poses: Path, joints: str) -> tuple[Tensor, Tensor]:
    """2D poses of an .npy file and their weights; NaN is missing.

    The file holds pixels as (people, joints, 2) or flat as (people, 2 joints), in the joint set's order.
    """
    import numpy as np

    count = len(joint_set(joints))
    try:
        array = np.load(poses, allow_pickle=False)
    except (OSError, ValueError) as error:
        # NumPy takes what is not its own for a pickle, and advises to trust it.
        why = error if isinstance(error, OSError) else "it is no .npy file of numbers"
        raise InputError(
            f"cannot read 2D poses from {poses}: {why}; wanted an .npy of shape (people, {count}, 2) for "
            f"the joint set {joints!r}"
        ) from error
    if array.shape[1:] not in ((count, 2), (2 * count,)) or array.dtype.kind not in "fiu":
        raise InputError(
            f"{poses} must hold numbers of shape (people, {count}, 2) for the joint set {joints!r}, "
            f"got {array.shape} of {array.dtype}"
        )
    keypoints = torch.from_numpy(array.reshape(-1, count, 2).astype(np.float32))
    known = keypoints.isfinite().all(-1)
    return torch.where(known[..., None], keypoints, 0.0), known.float()
