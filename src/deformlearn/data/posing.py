"""The Anny rig as a puppet: bodies of a given build, forward kinematics, reaching with arms and legs.

Everything is in template axes (y up, facing +z, the person's left at +x), in metres, one person at a
time (`crowd` skins many). Rotations are relative to the parent, in those same axes: with all of them
the identity, the body stands in Anny's own A-pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.anny_body import ANNY_BONES, anny_model
from deformlearn.data.rotations import (
    FORWARD,
    LEFT,
    UP,
    Degrees,
    about,
    bend_towards,
    between,
    cross,
    euler,
    length,
    rotation,
    rotation_vector,
)
from deformlearn.skeleton import SEGMENTS

ANNY_TO_TEMPLATE = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Anny's axes (z up, facing -y) to ours."""

SIDES = (("L", 1.0), ("R", -1.0))
"""Suffix of a side's bones, and the sign of x on that side."""

SEGMENT_BONES = tuple(
    ANNY_BONES[name.removeprefix("left_").removeprefix("right_")]
    + (".L" if name.startswith("left_") else ".R" if name.startswith("right_") else "")
    for name in SEGMENTS
)
"""The Anny bone at which each of the 24 segments begins."""

Offset = Sequence[float] | np.ndarray
"""Three distances in metres on an average body."""

_TRAITS = ("age", "gender", "muscle", "weight", "height", "proportions")
"""What Anny tells bodies apart by, of all that it knows."""

_YEARS = ((18.0, 0.77), (64.0, 0.83), (110.0, 1.0))
"""Years of age and Anny's age parameter (anny.shape_distribution, calibrated to WHO data)."""


@dataclass(frozen=True)
class Build:
    """What a body is like; each parameter but the age in Anny's range [0, 1]."""

    years: float
    """Age; at least 18."""
    gender: float
    """0 is Anny's man, 1 its woman."""
    muscle: float
    weight: float
    height: float
    proportions: float

    def __post_init__(self) -> None:
        if self.years < 18:
            raise ValueError(f"synthetic people are adults (18 years or more), got {self.years}")

    def phenotype(self) -> dict[str, float]:
        """Anny's phenotype arguments."""
        years, parameters = zip(*_YEARS, strict=True)
        return {
            "age": float(np.interp(self.years, years, parameters)),
            "gender": self.gender,
            "muscle": self.muscle,
            "weight": self.weight,
            "height": self.height,
            "proportions": self.proportions,
        }


def random_build(random: np.random.Generator) -> Build:
    """A body of a random adult; heights spread by 8 cm around 1.83 m, about the template's."""
    return Build(
        years=random.uniform(18, 80),
        gender=random.uniform(),
        muscle=random.uniform(0.25, 0.85),
        weight=random.uniform(0.2, 0.85),
        height=float(np.clip(random.normal(0.5, 0.065), 0.33, 0.67)),
        proportions=random.uniform(0.2, 0.9),
    )


class Rig:
    """Anny's bones, mesh and skinning weights, in template axes; makes bodies to be posed.

    Float64 throughout: then every device puts every vertex at the same float32 position, and a pixel
    sees the same face wherever it is drawn (docs/decisions/0006).
    """

    def __init__(self) -> None:
        model = anny_model()
        self.labels: tuple[str, ...] = tuple(model.bone_labels)
        self.parents: tuple[int, ...] = tuple(model.bone_parents)
        self.index = {label: bone for bone, label in enumerate(self.labels)}
        below = [{bone} for bone in range(len(self.parents))]
        for bone in reversed(range(len(self.parents))):  # parents come before children
            if self.parents[bone] >= 0:
                below[self.parents[bone]] |= below[bone]
        self.below: tuple[tuple[int, ...], ...] = tuple(tuple(sorted(bones)) for bones in below)
        """Each bone with all that hang on it."""
        self.faces = model.faces.long()
        self.weights = model.dense_vertex_bone_weights
        self._owner = self.weights.argmax(1).numpy()
        self._owned: dict[tuple[str, ...], np.ndarray] = {}
        axes = torch.from_numpy(ANNY_TO_TEMPLATE)
        # Anny interpolates linearly in every trait: an adult is a mixture of the extreme ones, who
        # need but half as many coefficients as everybody does.
        self._anchors = {name: model.anchors[name].numpy() for name in _TRAITS}
        self._anchors["age"] = self._anchors["age"][-2:]  # its young adult and its old one
        grid = torch.cartesian_prod(*(torch.from_numpy(each) for each in self._anchors.values()))
        extremes = model.get_phenotype_blendshape_coefficients(
            **dict(zip(_TRAITS, grid.unbind(1), strict=True))
        )
        _, sizes, directions = torch.linalg.svd(extremes, full_matrices=False)
        directions = directions[sizes > 1e-9 * sizes[0]]
        self._extremes = (extremes @ directions.T).numpy()

        def by_shape(blendshapes: Tensor) -> Tensor:
            return torch.tensordot(directions, blendshapes, 1)

        self.mean = model.template_vertices @ axes.T
        """Vertices of the body without any blend shape (vertices, 3)."""
        self.blendshapes = by_shape(model.blendshapes) @ axes.T
        """What each coefficient adds to it (coefficients, vertices, 3)."""
        self._heads = (model.template_bone_heads @ axes.T).numpy()
        self._heads_by_shape = (by_shape(model.bone_heads_blendshapes) @ axes.T).numpy()
        self._turns = model.bone_template_orientation_matrices.flatten(-3).numpy()
        self._turns_by_shape = by_shape(model.bone_orientation_blendshapes.flatten(-3)).numpy()
        self._stance = model.reference_bone_orientations.numpy()
        self._parts: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}

    def owned_by(self, names: tuple[str, ...]) -> np.ndarray:
        """Indices of the vertices that follow most a bone whose label begins with one of `names`."""
        if names not in self._owned:
            bones = [bone for bone, label in enumerate(self.labels) if label.startswith(names)]
            self._owned[names] = np.isin(self._owner, bones).nonzero()[0]
        return self._owned[names]

    def body(self, build: Build) -> RestBody:
        """A person of this build, at rest."""
        shape = self._mixture(build) @ self._extremes
        rest = self._heads + np.tensordot(shape, self._heads_by_shape, 1)
        # How Anny turns each bone with the shape of the flesh around it: the rotation nearest to a
        # matrix that is linear in the shape (its `special_procrustes`).
        moved = (self._turns + shape @ self._turns_by_shape).reshape(-1, 3, 3)
        left, _, right = np.linalg.svd(moved)
        left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
        flesh = self._stance @ np.swapaxes(left @ right, 1, 2)
        stance = ANNY_TO_TEMPLATE @ flesh @ ANNY_TO_TEMPLATE.T
        above = np.maximum(self.parents, 0)
        reach = rest - rest[above]
        turned = (stance[above] @ reach[..., None])[..., 0]
        heads = rest.copy()
        for bone, parent in enumerate(self.parents):
            if parent >= 0:
                heads[bone] = heads[parent] + (turned[bone] if parent else reach[bone])
        heads -= heads[0]
        return RestBody(self, shape, rest, stance, heads)

    def _mixture(self, build: Build) -> Float[np.ndarray, "extremes"]:
        """How much of each extreme adult a body is; the shares sum to one."""
        shares, values = np.ones(1), build.phenotype()
        for trait, anchors in self._anchors.items():
            near = [np.interp(values[trait], anchors, one) for one in np.eye(len(anchors))]
            shares = np.outer(shares, near).ravel()
        return shares

    def part(
        self, names: tuple[str, ...], shape: Float[np.ndarray, "coefficients"]
    ) -> Float[np.ndarray, "some 3"]:
        """Vertices at rest of a body of this shape that follow the named bones most (`owned_by`)."""
        if names not in self._parts:
            mine = torch.from_numpy(self.owned_by(names))
            by_shape = self.blendshapes[:, mine].flatten(1).contiguous().numpy()
            self._parts[names] = self.mean[mine].numpy(), by_shape
        mean, by_shape = self._parts[names]
        return mean + (shape @ by_shape).reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class RestBody:
    """One person before posing."""

    rig: Rig
    shape: Float[np.ndarray, "coefficients"]
    """Coefficients of the rig's blend shapes."""
    rest: Float[np.ndarray, "bones 3"]
    """Where each bone begins in the mesh at rest."""
    stance: Float[np.ndarray, "bones 3 3"]
    """How each bone turns from the mesh at rest to the A-pose."""
    heads: Float[np.ndarray, "bones 3"]
    """Where each bone begins in the A-pose."""

    @cached_property
    def size(self) -> float:
        """Length of a leg relative to an average one: what distances between body parts scale with."""
        hip, knee, ankle = (self.head(bone) for bone in _LEG_BONES["L"])
        return (length(knee - hip) + length(ankle - knee)) / 0.91

    def head(self, bone: str) -> Float[np.ndarray, "3"]:
        return self.heads[self.rig.index[bone]]


_LEG_BONES = {
    side: (f"upperleg01.{side}", f"lowerleg01.{side}", f"foot.{side}") for side, _ in SIDES
}
_ARM_BONES = {
    side: (f"upperarm01.{side}", f"lowerarm01.{side}", f"wrist.{side}") for side, _ in SIDES
}
_SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
_NECK = ("neck01", "neck02", "neck03", "head")


class Puppet:
    """A pose being made: set joints by angle or by where a hand or foot should go."""

    def __init__(self, body: RestBody) -> None:
        self.body = body
        self.rig = body.rig
        self.rotations = np.tile(np.eye(3), (len(self.rig.labels), 1, 1))
        self._frames: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.gait: dict[str, float] = {}
        """How far each leg swings forward in a walk (degrees): arms swing against it."""

    def turn(self, bone: str, rotation: Float[np.ndarray, "3 3"]) -> None:
        """Set one bone's rotation relative to its parent."""
        number = self.rig.index[bone]
        self.rotations[number] = rotation
        for moved in self.rig.below[number]:
            self._frames.pop(moved, None)

    def frame(self, bone: str) -> tuple[np.ndarray, np.ndarray]:
        """World rotation (3, 3) and position (3,) of a bone."""
        return self._frame(self.rig.index[bone])

    def _frame(self, bone: int) -> tuple[np.ndarray, np.ndarray]:
        if bone not in self._frames:
            parent, heads = self.rig.parents[bone], self.body.heads
            if parent < 0:
                self._frames[bone] = self.rotations[bone], heads[bone]
            else:
                turned, position = self._frame(parent)
                position = position + turned @ (heads[bone] - heads[parent])
                self._frames[bone] = turned @ self.rotations[bone], position
        return self._frames[bone]

    def position(self, bone: str) -> Float[np.ndarray, "3"]:
        return self.frame(bone)[1]

    def place(self, bone: str, offset: Offset) -> Float[np.ndarray, "3"]:
        """A point at `offset` (metres on an average body) from a bone, turning with it."""
        turned, position = self.frame(bone)
        return position + turned @ (np.asarray(offset) * self.body.size)

    def beside(self, side: str, bone: str, offset: Offset) -> Float[np.ndarray, "3"]:
        """A point (outward, up, forward) from a bone; limbs are measured in the frame they hang on."""
        outward, up, forward = offset
        carrier = {"upperarm01": "spine01", "upperleg01": "root"}.get(bone.split(".")[0], bone)
        turned, _ = self.frame(carrier)
        away = np.array([dict(SIDES)[side] * outward, up, forward])
        return self.position(bone) + turned @ away * self.body.size

    def leg_length(self, side: str) -> float:
        """From hip to ankle along the bones (metres)."""
        hip, knee, ankle = (self.body.head(bone) for bone in _LEG_BONES[side])
        return length(knee - hip) + length(ankle - knee)

    def bend(self, flexion: Degrees, side: Degrees, twist: Degrees) -> None:
        """Bend the spine forward, to the left and turn it to the left (degrees in all)."""
        share = euler(flexion / 5, side / 5, twist / 5)
        for bone in _SPINE:
            self.turn(bone, share)

    def look(self, down: Degrees, tilt: Degrees, left: Degrees) -> None:
        """Turn the head relative to the chest (degrees in all)."""
        share = euler(down / 4, tilt / 4, left / 4)
        for bone in _NECK:
            self.turn(bone, share)

    def leg(
        self, side: str, flexion: Degrees, abduction: Degrees, twist: Degrees, knee: Degrees
    ) -> None:
        """Set a leg by the angles of hip and knee (degrees; outward twist is positive)."""
        sign = dict(SIDES)[side]
        hip, shin, _ = _LEG_BONES[side]
        swing = about(FORWARD, sign * abduction) @ about(LEFT, -flexion)
        self.turn(hip, swing @ about(UP, sign * twist))
        self.turn(shin, about(LEFT, knee))

    def step(self, side: str, ankle: np.ndarray, knee_towards: np.ndarray) -> None:
        """Put an ankle at a point (or as near as the leg reaches), the knee pointing some way."""
        hip, shin, foot = _LEG_BONES[side]
        upper = self.body.head(shin) - self.body.head(hip)
        lower = self.body.head(foot) - self.body.head(shin)
        parent, start = self._above(hip)
        hinge, thigh = bend_towards(upper, lower, LEFT, ankle - start, knee_towards)
        self.turn(hip, parent.T @ thigh)
        self.turn(shin, hinge)

    def plant(
        self, side: str, turnout: Degrees, heel: Degrees = 0.0, limit: Degrees = 45.0
    ) -> None:
        """Turn a foot flat to the ground, toes `turnout` degrees outward, heel raised by an angle."""
        sign = dict(SIDES)[side]
        foot = f"foot.{side}"
        parent, _ = self._above(foot)
        wanted = about(UP, sign * turnout) @ about(LEFT, heel)
        vector = rotation_vector(parent.T @ wanted)
        angle = length(vector)
        self.turn(foot, rotation(vector * min(1.0, np.deg2rad(limit) / max(angle, 1e-9))))

    def reach(
        self, side: str, wrist: np.ndarray, elbow_towards: np.ndarray, pronation: Degrees = 0.0
    ) -> None:
        """Put a wrist at a point (or as near as the arm reaches), the elbow pointing some way."""
        shoulder, elbow, hand = _ARM_BONES[side]
        upper = self.body.head(elbow) - self.body.head(shoulder)
        lower = self.body.head(hand) - self.body.head(elbow)
        hinge = cross(upper, lower)
        # The shoulder girdle takes part of the arm's swing; then the arm itself goes all the way.
        for bone in (f"clavicle.{side}", f"shoulder01.{side}"):
            self.turn(bone, np.eye(3))
        parent, start = self._above(shoulder)
        swing = between(parent @ (upper + lower), wrist - start)
        local = rotation_vector(parent.T @ swing @ parent)
        for bone, part in ((f"clavicle.{side}", 0.12), (f"shoulder01.{side}", 0.18)):
            self.turn(bone, rotation(local * part))
        parent, start = self._above(shoulder)
        bent, arm = bend_towards(upper, lower, hinge, wrist - start, elbow_towards)
        self.turn(shoulder, parent.T @ arm)
        twist = about(lower / length(lower), dict(SIDES)[side] * pronation / 2)
        self.turn(elbow, bent @ twist)
        self.turn(f"lowerarm02.{side}", twist)

    def hand(self, side: str, curl: Degrees, flexion: Degrees, deviation: Degrees) -> None:
        """Curl the fingers and bend the wrist (degrees)."""
        sign = dict(SIDES)[side]
        along = self.body.head(f"finger3-1.{side}") - self.body.head(f"wrist.{side}")
        along = along / length(along)
        thumb = self.body.head(f"finger2-1.{side}") - self.body.head(f"finger5-1.{side}")
        across = cross(along, thumb) * sign
        palm = across / length(across)
        knuckles = cross(along, palm)
        self.turn(f"wrist.{side}", about(knuckles, flexion) @ about(palm, sign * deviation))
        curled = about(knuckles, curl)
        for finger in "2345":
            for joint in "123":
                self.turn(f"finger{finger}-{joint}.{side}", curled)

    def aim_hand(self, side: str, towards: np.ndarray, limit: Degrees = 60.0) -> None:
        """Bend the wrist so that the hand points some way, as far as wrists bend (degrees)."""
        wrist = f"wrist.{side}"
        parent, _ = self._above(wrist)
        along = self.body.head(f"finger3-1.{side}") - self.body.head(wrist)
        vector = rotation_vector(between(along, parent.T @ towards))
        angle = length(vector)
        self.turn(wrist, rotation(vector * min(1.0, np.deg2rad(limit) / max(angle, 1e-9))))

    def _above(self, bone: str) -> tuple[np.ndarray, np.ndarray]:
        """World rotation of a bone's parent, and where the bone itself begins."""
        parent = self.rig.parents[self.rig.index[bone]]
        turned, position = self.frame(self.rig.labels[parent])
        return turned, position + turned @ (self.body.head(bone) - self.body.heads[parent])
