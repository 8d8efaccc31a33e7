"""Poses a person could take: Human3.6M's fifteen actions and a free family, with hands where they belong.

A pose is drawn as goals (hands on the hips, a phone at the ear, feet on the ground) that the puppet's
arms and legs reach, and is drawn again while a hand or forearm is inside the body, limbs cross, or a
joint is turned further than joints go. Ranges are our own choice (docs/decisions/0006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from deformlearn.body import BodyTemplate
from deformlearn.data.gestures import ARMS
from deformlearn.data.posing import SEGMENT_BONES, SIDES, Puppet, RestBody
from deformlearn.data.rotations import rotation_vector
from deformlearn.data.stances import LEGS
from deformlearn.skeleton import PARENTS

Random = np.random.Generator
Arms = tuple[str, str]
"""What the hand of choice and the other hand do (names in `gestures.ARMS`)."""


@dataclass(frozen=True)
class Action:
    """How people move in one action: weighted choices for legs and arms, and how much trunks bend."""

    legs: dict[str, float]
    arms: dict[Arms, int]
    flexion: tuple[float, float] = (4.0, 6.0)
    """Mean and standard deviation of bending forward (degrees)."""
    turn: float = 8.0
    """Standard deviation of turning and of bending sideways (degrees; half as much sideways)."""
    look_down: float = 0.0
    """Mean of how far the head looks down (degrees)."""


_STAND = {"stand": 1.0}
_WALKS = {"walk": 1.0}

ACTIONS: dict[str, Action] = {
    "Directions": Action(
        {"stand": 0.8, "walk": 0.2},
        {("point", "relaxed"): 3, ("point", "point"): 1, ("point", "hip"): 1, ("gesture", "point"): 1},
        turn=14.0,
    ),
    "Discussion": Action(
        {"stand": 0.85, "walk": 0.15},
        {("gesture", "gesture"): 3, ("gesture", "relaxed"): 2, ("crossed", "crossed"): 1,
         ("gesture", "hip"): 1, ("relaxed", "relaxed"): 1},
        turn=10.0,
    ),
    "Eating": Action(
        {"sit": 0.75, "stand": 0.25},
        {("mouth", "table"): 3, ("mouth", "relaxed"): 1, ("table", "table"): 2, ("mouth", "lap"): 1},
        flexion=(10.0, 8.0), look_down=10.0,
    ),
    "Greeting": Action(
        {"stand": 0.8, "walk": 0.2},
        {("wave", "relaxed"): 3, ("front", "relaxed"): 2, ("wave", "wave"): 1, ("front", "front"): 1,
         ("wave", "hip"): 1},
        flexion=(6.0, 10.0),
    ),
    "Phoning": Action(
        {"stand": 0.55, "walk": 0.2, "sit": 0.25},
        {("phone", "relaxed"): 3, ("phone", "hip"): 1, ("phone", "pocket"): 1, ("phone", "gesture"): 1},
    ),
    "Photo": Action(
        {"stand": 0.8, "kneel": 0.1, "squat": 0.1},
        {("photo", "photo"): 4, ("photo", "relaxed"): 1},
        flexion=(8.0, 8.0),
    ),
    "Posing": Action(
        {"stand": 0.9, "one_knee": 0.1},
        {("hip", "hip"): 2, ("hip", "relaxed"): 2, ("head", "hip"): 1, ("head", "head"): 1,
         ("up", "up"): 1, ("up", "hip"): 1, ("crossed", "crossed"): 1, ("wide", "wide"): 1,
         ("behind", "behind"): 1},
        flexion=(0.0, 8.0), turn=14.0,
    ),
    "Purchases": Action(
        {"stand": 0.5, "walk": 0.3, "squat": 0.2},
        {("push", "push"): 2, ("front", "carry"): 2, ("carry", "carry"): 1, ("low", "relaxed"): 1,
         ("up", "carry"): 1},
        flexion=(16.0, 12.0), turn=14.0, look_down=8.0,
    ),
    "Sitting": Action(
        {"sit": 1.0},
        {("lap", "lap"): 3, ("lap", "gesture"): 2, ("table", "table"): 1, ("mouth", "lap"): 1,
         ("gesture", "gesture"): 1, ("crossed", "crossed"): 1, ("relaxed", "lap"): 1},
        flexion=(10.0, 10.0),
    ),
    "SittingDown": Action(
        {"long_sit": 0.3, "knees_up": 0.3, "kneel": 0.2, "squat": 0.1, "one_knee": 0.1},
        {("lap", "lap"): 3, ("floor", "floor"): 2, ("floor", "lap"): 2, ("gesture", "lap"): 1},
        flexion=(15.0, 12.0), turn=12.0,
    ),
    "Smoking": Action(
        {"stand": 0.6, "sit": 0.25, "walk": 0.15},
        {("mouth", "relaxed"): 2, ("mouth", "pocket"): 1, ("smoke", "relaxed"): 2,
         ("smoke", "pocket"): 1, ("mouth", "crossed"): 1},
    ),
    "Waiting": Action(
        {"stand": 0.8, "sit": 0.2},
        {("relaxed", "relaxed"): 2, ("crossed", "crossed"): 2, ("pocket", "pocket"): 2,
         ("hip", "relaxed"): 1, ("hip", "hip"): 1, ("watch", "relaxed"): 1, ("behind", "behind"): 1},
        turn=12.0,
    ),
    "WalkDog": Action(
        {"walk": 0.75, "stand": 0.15, "squat": 0.1},
        {("leash", "swing"): 3, ("leash", "relaxed"): 1, ("leash", "leash"): 1},
        flexion=(8.0, 7.0), look_down=8.0,
    ),
    "Walking": Action(_WALKS, {("swing", "swing"): 6, ("swing", "pocket"): 1, ("carry", "swing"): 1}),
    "WalkTogether": Action(
        {"walk": 0.9, "stand": 0.1},
        {("swing", "swing"): 3, ("gesture", "swing"): 1, ("partner", "swing"): 2},
        turn=12.0,
    ),
    "Free": Action(
        {"free": 0.4, "kick": 0.2, "jump": 0.15, "stand": 0.25},
        {("any", "any"): 5, ("up", "any"): 1, ("wide", "wide"): 1, ("low", "any"): 1},
        flexion=(8.0, 14.0), turn=16.0,
    ),
}  # fmt: skip
"""Fifteen actions under their Human3.6M names, and `Free` for everything else."""

SEATED = ("sit",)
"""Leg poses that need something to sit on."""


@dataclass(frozen=True, eq=False)
class Pose:
    """One person's pose, in the rig's bones."""

    action: str
    legs: str
    """Name of the leg pose, such as stand or sit."""
    rotations: Float[np.ndarray, "bones 3 3"]
    """Rotation of each bone relative to its parent, template axes."""


def random_pose(
    body: RestBody, action: str, random: Random, template: BodyTemplate, *, attempts: int = 60
) -> Pose:
    """A pose of this action in which nothing collides and no joint is overturned.

    Hard goals on an unusual body may fail `attempts` times; then the person just stands.
    """
    if action not in ACTIONS:
        raise ValueError(f"unknown action {action!r}; known are {', '.join(ACTIONS)}")
    radii = capsule_radii(body)
    for _ in range(attempts):
        puppet, legs = _draw(body, ACTIONS[action], random)
        if not collides(puppet, radii) and overturned(puppet, template) < _TOLERANCE:
            return Pose(action, legs, puppet.rotations)
    puppet = Puppet(body)
    LEGS["stand"](puppet, random)
    for side, sign in SIDES:
        ARMS["relaxed"](puppet, side, sign, random)
    return Pose(action, "stand", puppet.rotations)


_TOLERANCE = 12.0
"""Degrees by which a joint may pass the template's limits, which are stated per axis and cut corners."""


def overturned(puppet: Puppet, template: BodyTemplate) -> float:
    """The most any joint is beyond its limits (degrees; 0 within them)."""
    world = np.stack([puppet.frame(bone)[0] for bone in SEGMENT_BONES])
    above = world[[max(parent, 0) for parent in PARENTS]]
    relative = np.swapaxes(above[1:], 1, 2) @ world[1:]
    vectors = _rotation_vectors(relative)
    turns = np.einsum("jkc,jc->jk", template.limit_axes.numpy(), vectors)
    low, high = np.moveaxis(template.limits.numpy(), -1, 0)
    return float(np.rad2deg(np.maximum(low - turns, turns - high).clip(0).max()))


def _rotation_vectors(matrices: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "n 3"]:
    return np.stack([rotation_vector(matrix) for matrix in matrices])


_CAPSULES = (
    # bones at the ends, bones whose skin gives the radius, its quantile
    ("root", "spine03", ("root", "spine05", "spine04", "pelvis"), 0.35),
    ("spine03", "neck01", ("spine03", "spine02", "spine01"), 0.35),
    ("upperleg01.L", "lowerleg01.L", ("upperleg",), 0.3),
    ("upperleg01.R", "lowerleg01.R", ("upperleg",), 0.3),
)
_HEAD_RADIUS, _HEAD_TOP, _NECK_RADIUS = 0.085, (0.0, 0.09, 0.02), 0.06
"""Metres on an average body, whose neck the skinning weights do not tell from the shoulders."""


def capsule_radii(body: RestBody) -> Float[np.ndarray, "capsules"]:
    """How thick this person is around the axis of each capsule (metres)."""
    radii: list[float] = []
    for start, end, owners, quantile in _CAPSULES:
        if start.endswith(".R"):  # as thick as the left one, the capsule before
            radii.append(radii[-1])
            continue
        mine = body.rig.part(owners, body.shape)
        if start.endswith(".L"):
            mine = mine[mine[:, 0] > 0]
        away = _distance(mine, body.head(start), body.head(end))
        radii.append(float(np.quantile(away, quantile)))
    return np.array(radii)


def collides(puppet: Puppet, radii: Float[np.ndarray, "capsules"]) -> bool:
    """Whether a forearm or hand is inside torso, head or thigh, or two limbs are in one another."""
    size = puppet.body.size
    at = puppet.position
    arms, legs = {}, {}
    for side, _ in SIDES:
        elbow, wrist = at(f"lowerarm01.{side}"), at(f"wrist.{side}")
        knuckle, tip = at(f"finger3-1.{side}"), at(f"finger3-3.{side}")
        arms[side] = np.stack([0.4 * elbow + 0.6 * wrist, wrist, knuckle, tip])
        hip, knee, ankle = at(f"upperleg01.{side}"), at(f"lowerleg01.{side}"), at(f"foot.{side}")
        legs[side] = (hip, knee, ankle, at(f"toe1-1.{side}"))
    hands = np.concatenate([arms["L"], arms["R"]])
    for (start, end, *_), radius in zip(_CAPSULES, radii, strict=True):
        if (_distance(hands, at(start), at(end)) < radius).any():
            return True
    crown = puppet.place("head", _HEAD_TOP)
    if (_distance(hands, at("head"), crown) < _HEAD_RADIUS * size).any():
        return True
    if (_distance(hands, at("neck01"), at("head")) < _NECK_RADIUS * size).any():
        return True
    if _apart(arms["L"][0], arms["L"][2], arms["R"][0], arms["R"][2]) < 0.075 * size:
        return True
    left, right = legs["L"], legs["R"]
    thin = (0.12, 0.10, 0.075)
    return any(
        _apart(left[i], left[i + 1], right[j], right[j + 1]) < thin[max(i, j)] * size
        for i, j in ((1, 1), (2, 2), (1, 2), (2, 1))
    ) or bool(np.linalg.norm(left[1] - right[1]) < thin[0] * size)


def _distance(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of each point from a segment."""
    along = end - start
    share = np.clip((points - start) @ along / (along @ along), 0, 1)
    return np.linalg.norm(points - start - share[:, None] * along, axis=1)


def _apart(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    """Distance of two segments, to the accuracy of nine points on each."""
    share = np.linspace(0, 1, 9)[:, None]
    return float(_distance(a + share * (b - a), c, d).min())


def _draw(body: RestBody, action: Action, random: Random) -> tuple[Puppet, str]:
    """One attempt at a pose, and the name of its leg pose."""
    puppet = Puppet(body)
    legs = _choose(action.legs, random)
    LEGS[legs](puppet, random)
    flexion = random.normal(*action.flexion)
    side, twist = random.normal(0, action.turn / 2), random.normal(0, action.turn)
    puppet.bend(flexion, side, twist)
    down = random.normal(action.look_down, 9) - 0.4 * flexion
    puppet.look(down, random.normal(0, 5), np.clip(random.normal(0, 20), -55, 55))
    for side_name, _ in SIDES:
        _relax_hand(puppet, side_name, random)
    first, second = _choose(action.arms, random)
    order = random.permutation(len(SIDES))
    for hand, goal in zip(order, (first, second), strict=True):
        side_name, sign = SIDES[hand]
        ARMS[goal](puppet, side_name, sign, random)
    return puppet, legs


def _choose(weights: dict, random: Random):
    options = list(weights)
    share = np.array([weights[option] for option in options], dtype=float)
    return options[int(random.choice(len(options), p=share / share.sum()))]


def _relax_hand(puppet: Puppet, side: str, random: Random) -> None:
    puppet.hand(side, random.uniform(5, 40), random.normal(0, 12), random.normal(0, 8))
