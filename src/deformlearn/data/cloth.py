"""Cloth: colours clothes come in, patterns, and the random waves that creases and blotches follow.

Colours are sRGB in [0, 1]; places are on the resting template (metres).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

Random = np.random.Generator

_FABRIC = (
    "1b1d22 f2f0ea 8d9094 5a5e64 25324d 3f5878 6d8fb5 a9c2d8 7a2430 b23a3a d9765a e7c9a0 c2a878 "
    "8a7550 5f6b3e 3f5a46 7fa38a 2f6f73 59426e a2809e e3b7bf d8b13b e9e1c6 433a33"
).split()


def colour_of(code: str) -> Float[np.ndarray, "3"]:
    """The colour a six-digit hexadecimal code names."""
    return np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 255


def fabric(random: Random) -> np.ndarray:
    """A colour clothes come in: mostly quiet ones, sometimes anything."""
    if random.random() < 0.15:
        return random.uniform(0.05, 0.95, 3)
    shade = colour_of(_FABRIC[random.integers(len(_FABRIC))])
    return np.clip(shade * random.uniform(0.85, 1.15) + random.normal(0, 0.03, 3), 0.02, 0.97)


@dataclass(frozen=True, eq=False)
class Waves:
    """A smooth random function of place: a mean of plane waves, without seams."""

    directions: Float[Tensor, "waves 3"]
    """Radians a metre."""
    phases: Float[Tensor, "waves"]

    def value(self, place: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        return torch.sin(place @ self.directions.T + self.phases).mean(-1)

    def slope(self, place: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Gradient of the value, in units of the mean wave number."""
        size = self.directions.norm(dim=-1).mean()
        wave = torch.cos(place @ self.directions.T + self.phases)
        return wave @ self.directions / (len(self.phases) * size)


def random_waves(random: Random, count: int, low: float, high: float) -> Waves:
    """Waves of `low` to `high` periods a metre in random directions."""
    directions = random.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    periods = np.exp(random.uniform(np.log(low), np.log(high), count))
    turns = torch.from_numpy(directions * periods[:, None] * 2 * np.pi).float()
    return Waves(turns, torch.from_numpy(random.uniform(0, 2 * np.pi, count)).float())


@dataclass(frozen=True, eq=False)
class Cloth:
    """Two colours and the pattern they make."""

    pattern: str
    colours: Float[np.ndarray, "2 3"]
    pitch: float
    """Distance from one stripe or dot to the next (metres)."""
    duty: float
    """Share of the pitch that has the second colour."""
    waves: Waves
    """Where blotches lie and creases run."""


def random_cloth(random: Random, colours: Float[np.ndarray, "2 3"], odds: dict[str, int]) -> Cloth:
    """A garment in these colours; `odds` says how often it has which pattern."""
    chances = np.array(list(odds.values())) / sum(odds.values())
    return Cloth(
        str(random.choice(list(odds), p=chances)),
        colours,
        pitch=random.uniform(0.03, 0.1),
        duty=random.uniform(0.25, 0.6),
        waves=random_waves(random, 6, 3.0, 10.0),
    )


def weave(
    cloth: Cloth,
    place: Float[Tensor, "points 3"],
    arm: Float[Tensor, "points"],
    leg: Float[Tensor, "points"],
    on_arm: Bool[Tensor, "points"],
) -> Float[Tensor, "points 3"]:
    """Colour of a garment; stripes go around trunk and limbs alike."""
    first, second = (place.new_tensor(colour) for colour in cloth.colours)
    # Metres along the limb or the trunk, so that hoops stay hoops on a hanging arm.
    down = torch.where(on_arm, 0.28 * arm, -place[:, 1])
    across = torch.where(on_arm, place[:, 2], place[:, 0] + 0.4 * place[:, 2])

    def stripe(along: Tensor, pitch: float) -> Tensor:
        return ((along / pitch) % 1 < cloth.duty).float()

    if cloth.pattern == "plain":
        share = torch.zeros_like(down)
    elif cloth.pattern == "heather":
        grain = torch.sin(place @ place.new_tensor([831.0, 397.0, 613.0]))
        share = 0.25 + 0.2 * grain + 0.35 * cloth.waves.value(place)
    elif cloth.pattern == "hoops":
        share = stripe(down, cloth.pitch)
    elif cloth.pattern == "pinstripes":
        share = stripe(across, cloth.pitch * 0.5)
    elif cloth.pattern == "checks":
        share = 0.5 * (stripe(down, cloth.pitch) + stripe(across, cloth.pitch))
    elif cloth.pattern == "dots":
        cell = torch.stack([down / cloth.pitch, across / cloth.pitch], -1) % 1 - 0.5
        share = (cell.norm(dim=-1) < 0.3).float()
    elif cloth.pattern == "blotches":
        share = (cloth.waves.value(place) * 6 + 0.5).clamp(0, 1)
    else:
        badge = (place[:, 0].abs() < 0.09) & ((place[:, 1] - 0.36).abs() < 0.08) & (place[:, 2] > 0)
        share = (badge & (cloth.waves.value(place * 4) > -0.1)).float()
    return first + (second - first) * share.clamp(0, 1)[:, None]
