"""Cloth: colours clothes come in, patterns, and the random waves that creases and blotches follow.

Colours are sRGB in [0, 1]; places are on the resting template (metres). What is drawn for one person
is NumPy; many people's are tensors whose last axis is people, or places on them, so that every
coordinate of many places lies together in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from deformlearn.raster import true_at
from deformlearn.tensors import TensorData

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

    directions: Float[np.ndarray, "waves 3"]
    """Radians a metre."""
    phases: Float[np.ndarray, "waves"]


def random_waves(random: Random, count: int, low: float, high: float) -> Waves:
    """Waves of `low` to `high` periods a metre in random directions."""
    directions = random.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    periods = np.exp(random.uniform(np.log(low), np.log(high), count))
    turns = directions * periods[:, None] * 2 * np.pi
    return Waves(turns, random.uniform(0, 2 * np.pi, count))


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


def columns(draws: Sequence[np.ndarray | float], device: torch.device) -> Float[Tensor, "..."]:
    """What was drawn for several people, side by side: the last axis is people (float32)."""
    one_a_row = np.array(draws, np.float32)
    side_by_side = one_a_row.reshape(len(draws), -1).T.copy()  # moveaxis takes longer than the rest
    return torch.from_numpy(side_by_side.reshape(*one_a_row.shape[1:], len(draws))).to(device)


def of_person(
    values: Shaped[Tensor, "*any people"], people: Int[Tensor, "n"]
) -> Shaped[Tensor, "*any one_or_n"]:
    """For each of `n` places the column of the person it belongs to.

    A single person's column is left to broadcasting, so its last axis stays 1.
    """
    return values if values.shape[-1] == 1 else values.index_select(-1, people)


def product(
    matrices: Float[Tensor, "rows 3 people"],
    vectors: Float[Tensor, "3 n"],
    people: Int[Tensor, "n"],
) -> Float[Tensor, "rows n"]:
    """Each of `n` vectors under the matrix of the person it belongs to."""
    if matrices.shape[-1] == 1:  # no copy of the matrix for every vector
        return matrices[..., 0] @ vectors
    return (of_person(matrices, people) * vectors).sum(1)


def choose(
    condition: Bool[Tensor, "n"], chosen: Float[Tensor, "*any"], otherwise: Float[Tensor, "rows n"]
) -> Float[Tensor, "rows n"]:
    """Column by column one or the other; four times as fast as torch.where, and as exact."""
    return torch.lerp(otherwise, chosen, condition.to(otherwise))


def length(vectors: Float[Tensor, "rows n"]) -> Float[Tensor, "n"]:
    """Length of each column; torch's own norm takes fifty times as long across rows on a CPU."""
    return vectors.square().sum(0).sqrt_()


def fraction(values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """How far each number is above a whole one: `% 1` to the bit, in a tenth of its time on a CPU."""
    return values - values.floor()


def unit(vectors: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
    """Each column at length one; zero stays zero."""
    return vectors / length(vectors).clamp_min_(1e-12)


@dataclass(frozen=True, eq=False)
class Ripples(TensorData):
    """The waves of several people."""

    directions: Float[Tensor, "waves 3 people"]
    phases: Float[Tensor, "waves people"]

    @staticmethod
    def of(waves: Sequence[Waves], device: torch.device) -> Ripples:
        """Waves side by side."""
        return Ripples(
            columns([each.directions for each in waves], device),
            columns([each.phases for each in waves], device),
        )

    def value(
        self, place: Float[Tensor, "3 n"], people: Int[Tensor, "n"], scale: float = 1.0
    ) -> Float[Tensor, "n"]:
        """The waves' mean at each place, of the person it belongs to."""
        return torch.sin_(self._phase(place, people, scale)).mean(0)

    def slope(self, place: Float[Tensor, "3 n"], people: Int[Tensor, "n"]) -> Float[Tensor, "3 n"]:
        """Gradient of the value, in units of the mean wave number."""
        size = self.directions.norm(dim=1).mean(0) * len(self.phases)
        wave = torch.cos_(self._phase(place, people, 1.0))
        along = self.directions / size
        if along.shape[-1] == 1:
            return along[..., 0].T @ wave
        return (of_person(along, people) * wave[:, None]).sum(0)

    def _phase(
        self, place: Float[Tensor, "3 n"], people: Int[Tensor, "n"], scale: float
    ) -> Float[Tensor, "waves n"]:
        phase = product(self.directions * scale, place, people)
        return phase.add_(of_person(self.phases, people))


@dataclass(frozen=True, eq=False)
class Garments:
    """One garment of each of several people."""

    patterns: tuple[str, ...]
    colours: Float[Tensor, "2 3 people"]
    pitch: Float[Tensor, "people"]
    duty: Float[Tensor, "people"]
    ripples: Ripples

    @staticmethod
    def of(cloths: Sequence[Cloth], device: torch.device) -> Garments:
        """Garments side by side."""
        return Garments(
            tuple(cloth.pattern for cloth in cloths),
            columns([cloth.colours for cloth in cloths], device),
            columns([cloth.pitch for cloth in cloths], device),
            columns([cloth.duty for cloth in cloths], device),
            Ripples.of([cloth.waves for cloth in cloths], device),
        )


@dataclass(frozen=True, eq=False)
class Spots(TensorData):
    """Places on resting bodies, one column each."""

    people: Int[Tensor, "n"]
    """Whose body."""
    place: Float[Tensor, "3 n"]
    arm: Float[Tensor, "n"]
    """How far along the arm: 1 is the elbow, 2 the wrist."""
    on_arm: Bool[Tensor, "n"]

    def at(self, index: Int[Tensor, "some"]) -> Spots:
        """Some of them."""
        return self.map(lambda values: values.index_select(-1, index))


def weave(garments: Garments, spots: Spots) -> Float[Tensor, "3 n"]:
    """Colour of a garment; stripes go around trunk and limbs alike."""
    first, second = of_person(garments.colours, spots.people)
    kinds = sorted(set(garments.patterns))
    if kinds == ["plain"]:
        return first.expand(3, len(spots.arm))
    if len(kinds) == 1:
        share = _share(kinds[0], garments, spots)
    else:
        share = torch.zeros_like(spots.arm)
        for kind in kinds:
            has_it = [pattern == kind for pattern in garments.patterns]
            mine = true_at(torch.tensor(has_it, device=share.device)[spots.people])
            share[mine] = _share(kind, garments, spots.at(mine))
    return first + (second - first) * share


def _share(pattern: str, garments: Garments, spots: Spots) -> Float[Tensor, "n"]:
    """How much of the second colour each place has (0 to 1)."""
    place, arm, on_arm = spots.place, spots.arm, spots.on_arm
    if pattern == "plain":
        return torch.zeros_like(arm)
    if pattern == "heather":
        grain = torch.sin(place.new_tensor([831.0, 397.0, 613.0]) @ place)
        share = 0.25 + 0.2 * grain + 0.35 * garments.ripples.value(place, spots.people)
        return share.clamp(0, 1)
    if pattern == "blotches":
        return (garments.ripples.value(place, spots.people) * 6 + 0.5).clamp(0, 1)
    if pattern == "print":
        badge = (place[0].abs() < 0.09) & ((place[1] - 0.36).abs() < 0.08) & (place[2] > 0)
        return (badge & (garments.ripples.value(place, spots.people, 4.0) > -0.1)).float()

    pitch = of_person(garments.pitch, spots.people)
    duty = of_person(garments.duty, spots.people)
    # Metres along the limb or the trunk, so that hoops stay hoops on a hanging arm.
    down = torch.where(on_arm, 0.28 * arm, -place[1])
    across = torch.where(on_arm, place[2], place[0] + 0.4 * place[2])

    def stripe(along: Tensor, pitch: Tensor) -> Tensor:
        return (fraction(along / pitch) < duty).float()

    if pattern == "hoops":
        return stripe(down, pitch)
    if pattern == "pinstripes":
        return stripe(across, pitch * 0.5)
    if pattern == "checks":
        return 0.5 * (stripe(down, pitch) + stripe(across, pitch))
    assert pattern == "dots", pattern
    cell = fraction(torch.stack([down / pitch, across / pitch])) - 0.5
    return (length(cell) < 0.3).float()
