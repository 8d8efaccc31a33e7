"""What arms can do: each function brings one arm of a puppet into a pose.

Distances are metres on an average body and grow with the person; degrees for angles. Offsets of a
hand are (outward, up, forward) from its own shoulder, in the frame of the chest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deformlearn.data.posing import Puppet
from deformlearn.data.rotations import FORWARD, LEFT, UP, Degrees, about

Random = np.random.Generator
ArmPose = Callable[[Puppet, str, float, Random], None]


def swing(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """An arm that swings against its leg in a walk."""
    forward = -puppet.gait.get(side, random.normal(0, 12)) * random.uniform(0.5, 1.1)
    bend = random.uniform(8, 35) + max(0.0, forward)
    _hang(puppet, side, sign, forward, random.uniform(7, 14), bend)


def relaxed(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """An arm that hangs down."""
    forward = random.normal(3, 9)
    _hang(puppet, side, sign, forward, random.uniform(6, 18), random.uniform(6, 38))


def carry(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """An arm straightened by what it carries."""
    _hang(puppet, side, sign, random.normal(2, 5), random.uniform(8, 16), random.uniform(3, 10))


def hip(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand on the hip."""
    wrist = puppet.beside(side, f"upperleg01.{side}", (random.uniform(0.1, 0.15), 0.14, -0.02))
    puppet.reach(side, wrist, _pole(sign, 1.0, 0.1, random.uniform(-1.0, -0.3)), pronation=20)


def pocket(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand in a trouser pocket."""
    offset = (random.uniform(0.11, 0.14), 0.08, random.uniform(-0.06, 0.06))
    wrist = puppet.beside(side, f"upperleg01.{side}", offset)
    puppet.reach(side, wrist, _pole(sign, 0.5, 0.0, -1.0))


def crossed(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A forearm across the chest; the left one lies above the right one."""
    up, forward = (0.05, 0.24) if sign > 0 else (-0.04, 0.19)
    offset = (-random.uniform(0.04, 0.1), up, forward + random.uniform(0, 0.05))
    wrist = puppet.beside(side, "spine02", offset)
    puppet.reach(side, wrist, _pole(sign, 1.0, -0.7, 0.3))


def phone(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand at the ear."""
    offset = (random.uniform(0.12, 0.15), random.uniform(-0.1, -0.05), random.uniform(0.04, 0.09))
    wrist = puppet.beside(side, "head", offset)
    puppet.reach(side, wrist, _pole(sign, random.uniform(0.3, 1.0), -1.0, 0.2), pronation=-40)
    turned, _ = puppet.frame("head")
    puppet.aim_hand(side, turned @ np.array([-sign * 0.05, 0.8, -0.5]))


def mouth(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand before the mouth."""
    offset = (random.uniform(0.02, 0.09), random.uniform(-0.15, -0.08), random.uniform(0.17, 0.24))
    wrist = puppet.beside(side, "head", offset)
    puppet.reach(side, wrist, _pole(sign, random.uniform(0.4, 1.0), -1.0, 0.0))
    puppet.aim_hand(side, puppet.place("head", (0.0, -0.02, 0.16)) - wrist)


def smoke(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand held beside the chest."""
    _reach_from_shoulder(puppet, side, sign, random, (0.05, 0.2), (-0.25, 0.0), (0.2, 0.35))


def photo(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand that holds a camera before the eyes, or a telephone at some distance."""
    away = random.choice([random.uniform(0.2, 0.26), random.uniform(0.3, 0.45)])
    wrist = puppet.beside(side, "head", (random.uniform(0.06, 0.1), random.uniform(-0.1, 0), away))
    puppet.reach(side, wrist, _pole(sign, random.uniform(0.3, 1.0), -1.0, 0.0), pronation=-20)
    turned, _ = puppet.frame("head")
    puppet.aim_hand(side, turned @ np.array([-sign * 0.5, 1.0, 0.2]))


def lap(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand on the thigh or the knee."""
    top, knee = puppet.position(f"upperleg01.{side}"), puppet.position(f"lowerleg01.{side}")
    share = random.uniform(0.45, 1.0)
    wrist = top + share * (knee - top) + (0.13 - 0.03 * share) * puppet.body.size * UP
    puppet.reach(side, wrist, _pole(sign, 0.8, -0.3, -0.6), pronation=15)
    puppet.aim_hand(side, knee - top - 0.06 * UP)


def table(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand on a table."""
    _reach_from_shoulder(puppet, side, sign, random, (-0.12, 0.08), (-0.34, -0.22), (0.3, 0.42))


def gesture(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand that talks, somewhere before the body."""
    _reach_from_shoulder(puppet, side, sign, random, (-0.12, 0.28), (-0.34, 0.1), (0.18, 0.42))


def front(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand stretched forward, as to shake another."""
    _reach_from_shoulder(puppet, side, sign, random, (-0.1, 0.1), (-0.25, 0.1), (0.38, 0.5))


def push(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand on the handle of a shopping cart."""
    _reach_from_shoulder(puppet, side, sign, random, (-0.04, 0.06), (-0.32, -0.22), (0.3, 0.42))


def low(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand that reaches down before the body."""
    _reach_from_shoulder(puppet, side, sign, random, (-0.1, 0.15), (-0.5, -0.3), (0.15, 0.4))


def watch(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A wrist held up before the chest, to see the time."""
    _reach_from_shoulder(puppet, side, sign, random, (-0.18, -0.05), (-0.2, -0.08), (0.25, 0.33))


def leash(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand pulled forward and down by a dog."""
    _reach_from_shoulder(puppet, side, sign, random, (-0.05, 0.15), (-0.45, -0.25), (0.15, 0.4))


def partner(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """An arm around, or a hand towards, whoever walks beside."""
    _reach_from_shoulder(puppet, side, sign, random, (0.3, 0.5), (-0.3, 0.05), (-0.1, 0.15))


def wave(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand that waves."""
    _reach_from_shoulder(puppet, side, sign, random, (0.1, 0.32), (0.1, 0.4), (0.0, 0.2))


def wide(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """An arm stretched sideways."""
    _reach_from_shoulder(puppet, side, sign, random, (0.4, 0.54), (-0.15, 0.25), (-0.1, 0.15))


def up(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """An arm stretched upward."""
    _reach_from_shoulder(puppet, side, sign, random, (-0.05, 0.2), (0.4, 0.53), (-0.05, 0.2))


def head(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand on or behind the head."""
    offset = (random.uniform(0.11, 0.15), random.uniform(0.04, 0.12), random.uniform(-0.06, 0.04))
    puppet.reach(side, puppet.beside(side, "head", offset), _pole(sign, 1.0, 0.2, 0.2))


def behind(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand behind the back."""
    offset = (random.uniform(0.04, 0.1), random.uniform(0.0, 0.08), random.uniform(-0.26, -0.2))
    puppet.reach(side, puppet.beside(side, "root", offset), _pole(sign, 1.0, 0.0, -0.4))


def floor(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand on the ground beside the hips."""
    offset = (random.uniform(0.18, 0.34), 0.0, random.uniform(-0.3, 0.0))
    wrist = puppet.beside(side, f"upperleg01.{side}", offset)
    wrist[1] = puppet.position(f"upperleg01.{side}")[1] - 0.04 * puppet.body.size
    puppet.reach(side, wrist, _pole(sign, 0.5, 0.0, -1.0))


def point(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A straight arm that shows the way."""
    away = np.array([random.uniform(-0.3, 1), random.uniform(-0.25, 0.5), random.uniform(0.1, 1)])
    away *= random.uniform(0.47, 0.54) / np.linalg.norm(away)
    wrist = puppet.beside(side, f"upperarm01.{side}", away)
    puppet.reach(side, wrist, _pole(sign, 0.3, -1.0, -0.2))


def anywhere(puppet: Puppet, side: str, sign: float, random: Random) -> None:
    """A hand wherever an arm reaches, but hardly behind the body."""
    away = random.normal(size=3) + np.array([0.4, 0.0, 0.5])
    away *= random.uniform(0.22, 0.54) / np.linalg.norm(away)
    wrist = puppet.beside(side, f"upperarm01.{side}", away)
    pole = _pole(sign, random.uniform(0, 1), random.uniform(-1, 0.2), random.uniform(-1, 0.2))
    puppet.reach(side, wrist, pole, random.normal(0, 25))


ARMS: dict[str, ArmPose] = {
    "swing": swing,
    "relaxed": relaxed,
    "carry": carry,
    "hip": hip,
    "pocket": pocket,
    "crossed": crossed,
    "phone": phone,
    "mouth": mouth,
    "smoke": smoke,
    "photo": photo,
    "lap": lap,
    "table": table,
    "gesture": gesture,
    "front": front,
    "push": push,
    "low": low,
    "watch": watch,
    "leash": leash,
    "partner": partner,
    "wave": wave,
    "wide": wide,
    "up": up,
    "head": head,
    "behind": behind,
    "floor": floor,
    "point": point,
    "any": anywhere,
}
"""Arm poses by name."""


def _hang(
    puppet: Puppet, side: str, sign: float, forward: Degrees, outward: Degrees, bend: Degrees
) -> None:
    """An arm below its shoulder: swung forward and outward, the elbow bent (degrees)."""
    direction = about(FORWARD, sign * outward) @ about(LEFT, -forward) @ -UP
    ahead = about(LEFT, -bend) @ direction
    length = 0.28 * puppet.body.size
    shoulder = puppet.position(f"upperarm01.{side}")
    wrist = shoulder + length * direction + 0.92 * length * ahead
    puppet.reach(side, wrist, _pole(sign, 0.35, 0.0, -1.0))


def _reach_from_shoulder(
    puppet: Puppet,
    side: str,
    sign: float,
    random: Random,
    outward: tuple[float, float],
    upward: tuple[float, float],
    forward: tuple[float, float],
) -> None:
    """The wrist anywhere in a box beside its shoulder, elbow down and out, hand turned a little."""
    offset = [random.uniform(*bounds) for bounds in (outward, upward, forward)]
    wrist = puppet.beside(side, f"upperarm01.{side}", offset)
    pole = _pole(sign, random.uniform(0.2, 1.0), -1.0, random.uniform(-0.5, 0.1))
    puppet.reach(side, wrist, pole, random.normal(0, 20))


def _pole(sign: float, outward: float, upward: float, forward: float) -> np.ndarray:
    return np.array([sign * outward, upward, forward])
