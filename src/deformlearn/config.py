"""Every number a user may turn, with its unit, its reason and the paper's value (imports nothing heavy)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from deformlearn.errors import InputError

_AT_LEAST_TWO = frozenset({("RegressorConfig", "batch"), ("RegressorConfig", "head_batch")})
"""What batch normalisation looks at must be two images."""

_AT_LEAST_ONE = frozenset(
    "rounds batch head_batch width size cells epochs steps refit_steps workers head_views".split()
)
_AT_MOST = {"crops": 4096, "margin": 10.0}
"""Larger crops fill the memory; in wider ones nobody is seen."""


class _Checked:
    """Refuses numbers that cannot be meant, when they are given rather than an hour later."""

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                continue
            twice = (type(self).__name__, one.name) in _AT_LEAST_TWO
            least = 2 if twice else int(one.name in _AT_LEAST_ONE)
            if not (math.isfinite(value) and value >= least):
                raise InputError(
                    f"{type(self).__name__}: {one.name} must be a number of at least {least}, got {value}"
                )
            most = _AT_MOST.get(one.name, math.inf)
            if value > most:
                raise InputError(
                    f"{type(self).__name__}: {one.name} must be at most {most:g}, got {value}"
                )


@dataclass(frozen=True)
class SyntheticConfig(_Checked):
    """Synthetic people: Anny bodies, rendered, with exact labels."""

    people: Literal["wild", "lab"] = "wild"
    """wild: everyone different; lab: 7 subjects, 15 actions, 4 cameras, split as Human3.6M."""
    train: int = 4000
    """Training images."""
    val: int = 300
    """Validation images, for tuning."""
    test: int = 400
    """Test images, never used for tuning."""
    size: int = 128
    """Side of the square crops (px)."""
    points: int = 112
    """Dense correspondences a person."""
    quality: Literal["exact", "predicted"] = "exact"
    """exact: projected surface points; predicted: with a dense predictor's errors."""
    noise: float = 0.02
    """predicted: standard deviation of points and key points (half crops)."""
    outliers: float = 0.04
    """predicted: share of points that land on a random surface point."""
    swaps: float = 0.03
    """predicted: share of points labelled with the other side of the body."""
    holes: float = 0.1
    """predicted: share of body segments with no point at all."""
    seed: int = 0
    """Image i of a split depends on (seed, split, i) alone."""


@dataclass(frozen=True)
class ImportConfig(_Checked):
    """How other people's data sets become ours."""

    points: int = 150
    """Most dense correspondences taken from a dense prediction or a fitted body, for each person."""
    margin: float = 0.1
    """A crop is this much larger than the longer side of the person's box."""
    crops: int = 0
    """Side of the crops stored in the shards (px); 0 stores the paths of the images instead (and 256
    for the frames of videos)."""
    seed: int = 0
    """Which correspondences are taken."""


@dataclass(frozen=True)
class RegistrationConfig(_Checked):
    """Weights and schedule of one registration (sections 4 and 6).

    The first phase is led by the depths: the lifter decides which way every limb points. The second
    trusts them little and lets the pixels decide how far (docs/decisions/0010).
    """

    dense_weight: float = 1000.0
    """L_dense (paper: 1000)."""
    keypoint_weight: float = 10.0
    """2D part of L_KP (paper: 1)."""
    depth_weight: float = 0.05
    """Depth part of L_KP (paper: 1); a lifted depth deserves less trust than a pixel."""
    scale_weight: float = 30.0
    """L_scale (paper: 10)."""
    joint_weight: float = 0.02
    """L_joint (paper: 0.001)."""
    limit_weight: float = 1.0
    """Joint limits within L_joint (the paper states none)."""
    determinant_weight: float = 1.0
    """L_det (paper: 1)."""
    first_depth_weight: float = 10.0
    """Depth part of L_KP in the first phase (paper: 1)."""
    first_scale_weight: float = 30.0
    """L_scale in the first phase (paper: 100)."""
    first_joint_weight: float = 0.1
    """L_joint in the first phase (paper: 1)."""
    robust: float | None = 0.08
    """Geman-McClure distance of the dense term (half crops); None is the paper's squared term."""
    first_robust: float | None = 0.15
    """The same in the first phase, where limbs are still far from their points."""
    solver: Literal["gauss-newton", "adam"] = "gauss-newton"
    """Gauss-Newton finds better fits in a twentieth of the steps; adam is the paper's."""
    first_iterations: int = 4
    """Gauss-Newton steps of the first phase, which finds the global orientation and every limb."""
    iterations: int = 30
    """Most Gauss-Newton steps after it, and of later rounds; most people need ten."""
    tolerance: float = 1e-3
    """A person is done when a Gauss-Newton step gains less than this share of the loss."""
    first_steps: int = 60
    """Adam steps of the first phase."""
    steps: int = 140
    """Adam steps after it."""
    refit_steps: int = 200
    """Adam steps of a later round, which starts from predictions and has no first phase."""
    first_learning_rate: float = 0.1
    """Adam step size of the first phase (paper: 0.1)."""
    learning_rate: float = 0.05
    """Adam step size after it, and of later rounds (paper: 0.1)."""
    batch: int | None = None
    """People fitted at once; by default what suits the device: 128 for Gauss-Newton on a CPU, whose
    cache holds no more, 500 for Adam there, 8192 on a GPU, or as many as fit in its memory."""
    orient: bool = True
    """Start from the closed-form orientation (off: the rest pose facing the camera)."""
    compile: Literal["auto", "always", "never"] = "auto"
    """torch.compile of the solver's steps; auto: when the work outlasts the compilation, which on a CPU
    it does for Adam alone."""


@dataclass(frozen=True)
class LifterConfig(_Checked):
    """The cGAN that gives joints a depth (Kudo et al. 2018)."""

    width: int = 1024
    """Units a layer (Kudo: 1024)."""
    steps: int = 20000
    """Updates of the generator and the discriminator."""
    batch: int = 256
    """2D poses a step (Kudo: 16)."""
    learning_rate: float = 2e-4
    """Adam step size (Kudo: 2e-4)."""
    heuristic_weight: float = 1.0
    """Weight of the facing heuristic, which rules out the mirror solution (Kudo: 1)."""
    mirror: bool = True
    """Also train on left-right mirrored poses."""
    elevation: float = 0.12
    """Standard deviation of a random camera elevation of the fake views (radians; Kudo: 0)."""
    hidden: float = 0.0
    """Share of key points hidden from the generator in training, so that it can lift half poses."""
    average: float = 0.999
    """Decay of the running mean of the generator's weights that is kept (0 keeps the last)."""


@dataclass(frozen=True)
class AugmentConfig(_Checked):
    """Random changes of training images, which their labels follow exactly (the paper states none)."""

    mirror: bool = True
    """Flip half of the images left to right."""
    rotation: float = 0.15
    """Standard deviation of the turn in the image plane (radians)."""
    zoom: float = 0.08
    """Standard deviation of the logarithm of the zoom."""
    shift: float = 0.05
    """Standard deviation of the shift in x and in y (half crops)."""
    colour: float = 0.2
    """Standard deviation of the contrast factor; half of it for each channel and the brightness."""
    occlusion: float = 0.3
    """Share of images in which a rectangle hides a part."""


@dataclass(frozen=True)
class RegressorConfig(_Checked):
    """The ConvNet and its training (section 5)."""

    backbone: str = "resnet50"
    """Any timm model (paper: resnet50)."""
    pretrained: bool = True
    """ImageNet weights, when they can be had; else a random start with a message."""
    size: int = 224
    """Side of the network's input (px; paper: 224)."""
    epochs: int = 30
    """Passes over the training set a round (paper: 30)."""
    batch: int = 30
    """Images a step (paper: 30)."""
    learning_rate: float = 1e-4
    """Largest Adam step size of a round (paper: 1e-4)."""
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    """The step size within a round: up, then down to nearly nothing; or the same (paper: constant)."""
    later_rate: float = 0.5
    """Factor on the step size from one round to the next (paper: 1)."""
    regress_weight: float = 1.0
    """alpha of Eq. 5 (paper: 1)."""
    dense_weight: float = 10.0
    """beta of Eq. 5 (paper: 10)."""
    keypoint_weight: float = 1.0
    """gamma of Eq. 5 (paper: 1)."""
    joint_weight: float = 30.0
    """3D joints of the registered body (not in the paper; still no 3D label)."""
    auxiliary: bool = True
    """2D heads (joint heat maps, template coordinates) that make a random start learn."""
    cells: int = 24
    """Least cells of the 2D heads' maps across the image, if the backbone has so many: finer maps learn a
    little more from an image and cost more (docs/decisions/0018)."""
    heatmap_weight: float = 10.0
    """Cross-entropy of the joint heat maps (not in the paper)."""
    coordinate_weight: float = 15.0
    """Smooth L1 of the template coordinates at the annotated pixels (not in the paper)."""
    weight_decay: float = 1e-2
    """Decoupled weight decay (paper: none)."""
    compile: Literal["auto", "always", "never"] = "auto"
    """torch.compile of the network; auto: where it pays, which is on CUDA in a long round."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How training images are varied."""
    head_steps: int = 0
    """Steps of a head-only phase on cached features that ends each round (0: none)."""
    head_views: int = 4
    """Augmented views of each image that the head-only phase caches."""
    head_learning_rate: float = 2e-3
    """Largest Adam step size of the head-only phase."""
    head_batch: int = 128
    """Cached features a step."""


@dataclass(frozen=True)
class RunConfig(_Checked):
    """Deform-and-learn: lift, register, train, evaluate, again."""

    rounds: int = 3
    """Rounds of deform and learn."""
    seed: int = 0
    """Seed of everything random in a run."""
    keep_best: bool = True
    """Replace a registration only by one with a lower loss under the same weights."""
    baselines: bool = False
    """Also train the comparisons that cost as much as the run itself."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    workers: int = 2
    """Processes that make or decode images."""
    registration: RegistrationConfig = field(default_factory=RegistrationConfig)
    lifter: LifterConfig = field(default_factory=LifterConfig)
    regressor: RegressorConfig = field(default_factory=RegressorConfig)


@dataclass(frozen=True)
class DemoConfig(_Checked):
    """The whole method on synthetic people."""

    data: SyntheticConfig = field(default_factory=SyntheticConfig)
    run: RunConfig = field(default_factory=RunConfig)


PAPER_REGISTRATION = RegistrationConfig(
    keypoint_weight=1.0,
    depth_weight=1.0,
    scale_weight=10.0,
    joint_weight=0.001,
    limit_weight=0.0,
    first_depth_weight=1.0,
    first_scale_weight=100.0,
    first_joint_weight=1.0,
    robust=None,
    first_robust=None,
    solver="adam",
    orient=False,
    learning_rate=0.1,
)
"""Section 6 of the paper, with the number of Adam steps it leaves open filled in by us."""

PAPER = RunConfig(
    rounds=4,
    registration=PAPER_REGISTRATION,
    lifter=LifterConfig(batch=16, average=0.0, mirror=False, elevation=0.0, steps=200000),
    regressor=RegressorConfig(
        joint_weight=0.0, auxiliary=False, later_rate=1.0, weight_decay=0.0, schedule="constant"
    ),
)

_LAPTOP_REGRESSOR = RegressorConfig(
    backbone="resnet18_half",
    pretrained=False,
    size=96,
    epochs=8,
    batch=32,
    learning_rate=1e-3,
    head_steps=1000,
)

PRESETS: dict[str, DemoConfig] = {
    "tiny": DemoConfig(
        SyntheticConfig(train=160, val=16, test=32, size=96),
        RunConfig(
            rounds=2,
            registration=RegistrationConfig(),
            lifter=LifterConfig(width=128, steps=600, learning_rate=5e-4, average=0.99),
            regressor=replace(_LAPTOP_REGRESSOR, size=64, epochs=1, batch=16, head_steps=60),
        ),
    ),
    "laptop": DemoConfig(
        SyntheticConfig(),
        RunConfig(
            lifter=LifterConfig(width=256, steps=9000, learning_rate=5e-4),
            regressor=_LAPTOP_REGRESSOR,
        ),
    ),
    "gpu": DemoConfig(
        SyntheticConfig(train=50000, val=2000, test=4000, size=256),
        RunConfig(
            rounds=4,
            workers=12,
            lifter=LifterConfig(steps=60000),
            regressor=RegressorConfig(epochs=12, batch=128, learning_rate=5e-4),
        ),
    ),
    "paper": DemoConfig(SyntheticConfig(people="lab", train=50000, test=4000, size=256), PAPER),
    "paper-mosh": DemoConfig(
        SyntheticConfig(people="lab", train=50000, test=4000, size=256), PAPER
    ),
    "paper-densepose": DemoConfig(
        SyntheticConfig(people="lab", train=50000, test=4000, size=256, quality="predicted"), PAPER
    ),
}
"""Named configurations. `paper` is the paper's own, as far as it states it; `paper-mosh` and
`paper-densepose` are its two experiments (Table 1's last two columns), which differ in their data."""
