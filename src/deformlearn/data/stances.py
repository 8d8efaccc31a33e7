"""What legs can do: each function brings both legs of a puppet, and its pelvis, into a pose.

Distances are metres on an average body and grow with the person; degrees for angles.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deformlearn.data.posing import SIDES, Puppet
from deformlearn.data.rotations import FORWARD, LEFT, UP, about, euler

Random = np.random.Generator
LegPose = Callable[[Puppet, Random], None]


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


def _ankle_drop(puppet: Puppet, side: str, reach: float, width: float, stagger: float) -> float:
    """Height at which an ankle stands when the leg is stretched to a share of its length."""
    sideways = puppet.body.size * np.hypot(0.02 + width, stagger)
    length = reach * puppet.leg_length(side)
    below = np.sqrt(max(length**2 - sideways**2, (0.5 * length) ** 2))
    # The other hip may be lower: a leg can bend but not stretch, so the higher ankle counts.
    return puppet.position(f"upperleg01.{side}")[1] - below
