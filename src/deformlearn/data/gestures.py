"""What legs and arms can do: each function brings one limb (or both legs) of a puppet into a pose.

Distances are metres on an average body and grow with the person; degrees for angles. Offsets of a
hand are (outward, up, forward) from its own shoulder, in the frame of the chest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deformlearn.data.posing import FORWARD, LEFT, SIDES, UP, Puppet, about, euler

Random = np.random.Generator
LegPose = Callable[[Puppet, Random], None]
ArmPose = Callable[[Puppet, str, float, Random], None]


def stand(puppet: Puppet, random: Random) -> None:
    """Both feet flat on the ground; weight on one leg, feet apart or staggered."""
    lean, sway = random.normal(0, 3), random.normal(0, 4)
    puppet.turn("root", euler(lean, sway, 0))
    width = random.uniform(0.0, 0.12) if random.random() < 0.7 else random.uniform(0.1, 0.35)
    stagger, shift = random.normal(0, 0.08), random.normal(0, 0.04)
    reach = random.uniform(0.95, 0.99)
    drop = min(_ankle_drop(puppet, side, reach, width, stagger) for side, _ in SIDES)
    for side, sign in SIDES:
        turnout = np.clip(random.normal(12, 9), -10, 40)
        hip = puppet.position(f"upperleg01.{side}")
        offset = (sign * (0.02 + width) + shift, 0.0, sign * stagger)
        ankle = hip + np.array(offset) * puppet.body.size
        ankle[1] = drop
        puppet.step(side, ankle, about(UP, sign * turnout * 0.7) @ FORWARD)
        puppet.plant(side, turnout)


def walk(puppet: Puppet, random: Random) -> None:
    """A moment of a walk: one leg swings while the other carries."""
    stride, phase = random.uniform(14, 36), random.uniform(0, 2 * np.pi)
    puppet.turn("root", euler(random.uniform(0, 6), random.normal(0, 2), 5 * np.sin(phase)))
    puppet.gait = {}
    for (side, _), start in zip(SIDES, (phase, phase + np.pi), strict=True):
        swing, lift = np.sin(start), max(0.0, np.cos(start))
        puppet.gait[side] = swing * stride
        puppet.leg(
            side,
            flexion=stride * swing + 4 + 0.5 * stride * lift,
            abduction=random.uniform(0, 4),
            twist=random.normal(5, 4),
            knee=6 + 1.5 * stride * lift,
        )
        if lift > 0.3:  # in the air
            puppet.turn(f"foot.{side}", about(LEFT, random.uniform(-5, 20)))
        else:
            heel = 28 * max(0.0, -swing) - 14 * max(0.0, swing)
            puppet.plant(side, np.clip(random.normal(8, 5), -5, 25), heel)


def sit(puppet: Puppet, random: Random) -> None:
    """On a chair: feet on the ground before it, knees bent."""
    puppet.turn("root", euler(random.uniform(-18, 8), random.normal(0, 3), 0))
    height, forward = random.uniform(0.34, 0.44), random.uniform(0.28, 0.55)
    spread = random.uniform(-0.03, 0.14)
    for side, sign in SIDES:
        hip = puppet.position(f"upperleg01.{side}")
        out, along = spread + random.normal(0, 0.03), forward + random.normal(0, 0.05)
        ankle = hip + np.array([sign * out, -height, along]) * puppet.body.size
        puppet.step(side, ankle, np.array([sign * random.uniform(0, 0.5), 1.0, 0.6]))
        puppet.plant(side, random.normal(12, 8), heel=max(0.0, random.normal(-5, 12)))


def long_sit(puppet: Puppet, random: Random) -> None:
    """On the ground, legs forward."""
    lean = random.uniform(-28, 0)
    puppet.turn("root", euler(lean, random.normal(0, 2), 0))
    for side, _ in SIDES:
        # Heels lie on the ground: a bent knee is raised, and the thigh with it.
        knee = abs(random.normal(8, 12))
        puppet.leg(
            side,
            flexion=84 + lean + knee / 2,
            abduction=random.uniform(6, 26),
            twist=random.normal(8, 8),
            knee=knee,
        )
        puppet.turn(f"foot.{side}", about(LEFT, random.uniform(0, 30)))


def knees_up(puppet: Puppet, random: Random) -> None:
    """On the ground, feet flat before the hips."""
    puppet.turn("root", euler(random.uniform(-30, 0), random.normal(0, 3), 0))
    for side, sign in SIDES:
        hip = puppet.position(f"upperleg01.{side}")
        out, along = random.uniform(0.0, 0.12), random.uniform(0.35, 0.65)
        ankle = hip + np.array([sign * out, -0.04, along]) * puppet.body.size
        puppet.step(side, ankle, np.array([sign * random.uniform(0, 0.7), 1.0, 0.0]))
        puppet.plant(side, random.normal(10, 8))


def kneel(puppet: Puppet, random: Random) -> None:
    """On both knees, upright or sitting on the heels."""
    sunk = random.uniform(0, 1)
    puppet.turn("root", euler(random.uniform(0, 8) + 8 * sunk, 0, 0))
    spread = random.uniform(4, 18)
    for side, _ in SIDES:
        puppet.leg(side, 3 + 72 * sunk, spread, random.normal(0, 3), 92 + 48 * sunk)
        puppet.turn(f"foot.{side}", about(LEFT, random.uniform(25, 45)))


def one_knee(puppet: Puppet, random: Random) -> None:
    """One knee on the ground, the other foot before it."""
    puppet.turn("root", euler(random.uniform(-5, 10), 0, 0))
    down = int(random.integers(2))
    side, _ = SIDES[down]
    puppet.leg(side, random.uniform(-5, 12), random.uniform(0, 8), 0, random.uniform(85, 105))
    puppet.turn(f"foot.{side}", about(LEFT, random.uniform(0, 40)))
    knee = puppet.position(f"lowerleg01.{side}")
    side, sign = SIDES[1 - down]
    hip = puppet.position(f"upperleg01.{side}")
    ankle = hip + np.array([sign * 0.06, 0.0, random.uniform(0.36, 0.5)]) * puppet.body.size
    ankle[1] = knee[1] + 0.03 * puppet.body.size
    puppet.step(side, ankle, np.array([sign * random.uniform(0, 0.6), 0.4, 1.0]))
    puppet.plant(side, random.normal(8, 8))


def squat(puppet: Puppet, random: Random) -> None:
    """Down on both feet, leaning forward."""
    low = random.uniform(0, 1)
    puppet.turn("root", euler(random.uniform(15, 40), random.normal(0, 4), 0))
    spread = random.uniform(0.02, 0.14)
    for side, sign in SIDES:
        hip = puppet.position(f"upperleg01.{side}")
        forward = 0.16 + 0.06 * low + random.normal(0, 0.04)
        offset = np.array([sign * spread, -0.55 + 0.3 * low, forward])
        puppet.step(side, hip + offset * puppet.body.size, FORWARD + sign * 0.5 * LEFT + 0.4 * UP)
        puppet.plant(side, random.normal(18, 8), heel=25 * low)


def kick(puppet: Puppet, random: Random) -> None:
    """On one leg, the other one raised."""
    raised = int(random.integers(2))
    puppet.turn("root", euler(random.normal(-4, 8), random.normal(0, 6), random.normal(0, 8)))
    side, _ = SIDES[raised]
    puppet.leg(
        side,
        random.uniform(25, 95),
        random.uniform(0, 32),
        random.normal(0, 10),
        random.uniform(5, 95),
    )
    puppet.turn(f"foot.{side}", about(LEFT, random.uniform(-5, 35)))
    side, _ = SIDES[1 - raised]
    puppet.leg(
        side,
        random.normal(0, 8),
        random.uniform(0, 10),
        random.normal(6, 6),
        random.uniform(2, 25),
    )
    puppet.plant(side, random.normal(10, 8))


def jump(puppet: Puppet, random: Random) -> None:
    """Off the ground, both legs bent or spread."""
    puppet.turn("root", euler(random.normal(5, 12), random.normal(0, 8), random.normal(0, 10)))
    bend = random.uniform(0, 80)
    for side, _ in SIDES:
        puppet.leg(
            side,
            bend * random.uniform(0.3, 0.9) + random.normal(0, 10),
            random.uniform(2, 32),
            random.normal(5, 8),
            bend * random.uniform(0.7, 1.3) + random.uniform(0, 10),
        )
        puppet.turn(f"foot.{side}", about(LEFT, random.uniform(10, 40)))


def free(puppet: Puppet, random: Random) -> None:
    """Any angles hips and knees can have."""
    puppet.turn("root", euler(random.normal(8, 14), random.normal(0, 10), random.normal(0, 10)))
    for side, _ in SIDES:
        puppet.leg(
            side,
            random.uniform(-18, 85),
            random.uniform(0, 36),
            random.normal(5, 12),
            random.uniform(2, 105),
        )
        puppet.turn(f"foot.{side}", euler(random.uniform(-15, 35), random.normal(0, 4), 0))


LEGS: dict[str, LegPose] = {
    "stand": stand,
    "walk": walk,
    "sit": sit,
    "long_sit": long_sit,
    "knees_up": knees_up,
    "kneel": kneel,
    "one_knee": one_knee,
    "squat": squat,
    "kick": kick,
    "jump": jump,
    "free": free,
}
"""Leg poses by name; each also sets the direction of the pelvis."""


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
    puppet: Puppet, side: str, sign: float, forward: float, outward: float, bend: float
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


def _ankle_drop(puppet: Puppet, side: str, reach: float, width: float, stagger: float) -> float:
    """Height at which an ankle stands when the leg is stretched to a share of its length."""
    sideways = puppet.body.size * np.hypot(0.02 + width, stagger)
    length = reach * puppet.leg_length(side)
    below = np.sqrt(max(length**2 - sideways**2, (0.5 * length) ** 2))
    # The other hip may be lower: a leg can bend but not stretch, so the higher ankle counts.
    return puppet.position(f"upperleg01.{side}")[1] - below
