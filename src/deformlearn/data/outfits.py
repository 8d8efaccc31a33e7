"""What people wear: skin, hair, clothes and shoes, drawn for one person or side by side for many.

Lengths and places are on the resting template (metres); colours are sRGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deformlearn.data.cloth import (
    Cloth,
    Garments,
    Ripples,
    Waves,
    colour_of,
    columns,
    fabric,
    random_cloth,
    random_waves,
)

Random = np.random.Generator

_SKIN = ("f3d3bd", "eabf9f", "d9a57e", "bf8a63", "98694a", "6f4a35", "4e3327")
_DENIM = ("1f2a40", "2d4467", "3f5f8a", "6a88ab", "24262b")
_HAIR = ("17120f", "2e1f16", "4f3420", "7b5732", "b08a52", "7a3b1e", "9b9895", "d0cdc8")
_SHIRTS = {
    "plain": 38,
    "heather": 12,
    "hoops": 14,
    "pinstripes": 6,
    "checks": 8,
    "dots": 5,
    "blotches": 7,
    "print": 10,
}
_TROUSERS = {"plain": 72, "heather": 10, "hoops": 2, "pinstripes": 6, "checks": 4, "blotches": 6}
_JACKETS = {"plain": 7, "heather": 2, "checks": 1}
"""Patterns, and how often a garment has them (per cent or per ten)."""


@dataclass(frozen=True, eq=False)
class Outfit:
    """One person's looks. Lengths along a limb count joints: 1 is the elbow or knee, 2 wrist or ankle."""

    skin: np.ndarray
    mottle: Waves
    hair: np.ndarray
    hairline: float
    """Height of the hair's edge above the eyes (metres)."""
    hair_length: float
    """How far the hair reaches down the back of the head from eye level (metres); negative: bald."""
    beard: float
    """Strength of a beard's colour, 0 for none."""
    top: Cloth
    sleeve: float
    """Where sleeves end; negative: a tank top."""
    neckline: float
    """Radius of the opening around the neck (metres)."""
    v_neck: bool
    hem: float
    """Height of the top's lower edge above the hip joints (metres)."""
    jacket: Cloth | None
    """Worn open over the top."""
    trousers: Cloth
    trouser_length: float
    waist: float
    """Height of the trousers' edge above the hip joints (metres)."""
    belt: np.ndarray | None
    shoe: np.ndarray | None
    """None: barefoot."""
    sole: np.ndarray
    shaft: float
    """Where shoes end up the leg."""
    sock: float
    """Where socks end up the leg; 2 hides them in the shoe."""
    creases: float
    """How deep folds in the cloth look."""


def random_outfit(random: Random, gender: float) -> Outfit:
    """Clothes, skin and hair of a random person; `gender` (Anny's, 0 to 1) only moves the odds."""
    tone = int(random.integers(len(_SKIN)))
    skin = colour_of(_SKIN[tone])

    def fabrics() -> np.ndarray:
        """Two colours for a garment, neither of them like the skin: the person is dressed."""
        colours: list[np.ndarray] = []
        while len(colours) < 2:
            colour = fabric(random)
            if np.linalg.norm(colour - skin) > 0.35:
                colours.append(colour)
        return np.stack(colours)

    hair = _HAIR[random.integers(len(_HAIR) if tone < 3 else 3)]
    length = random.choice(
        [0.02, 0.07, 0.2], p=[0.75, 0.2, 0.05] if gender < 0.5 else [0.3, 0.3, 0.4]
    )
    top = random_cloth(random, fabrics(), _SHIRTS)
    if random.random() < 0.4:
        denim = colour_of(_DENIM[random.integers(len(_DENIM))]) * random.uniform(0.85, 1.15)
        trousers = random_cloth(random, np.stack([denim, denim * 1.25]), {"heather": 1})
    else:
        trousers = random_cloth(random, fabrics(), _TROUSERS)
    jacket = random_cloth(random, fabrics(), _JACKETS) if random.random() < 0.18 else None
    kind = random.choice(4, p=[0.05, 0.6, 0.2, 0.15])
    leather = fabric(random) if random.random() < 0.5 else np.full(3, random.uniform(0.05, 0.3))
    return Outfit(
        skin=skin * random.uniform(0.93, 1.05),
        mottle=random_waves(random, 8, 4.0, 30.0),
        hair=colour_of(hair) * random.uniform(0.8, 1.2),
        hairline=random.uniform(0.045, 0.075),
        hair_length=-1.0 if random.random() < 0.07 * (1.5 - gender) else float(length),
        beard=random.uniform(0.3, 0.9) if gender < 0.4 and random.random() < 0.35 else 0.0,
        top=top,
        sleeve=random.choice([-1.0, 0.5, 0.8, 1.3, 1.93], p=[0.1, 0.35, 0.15, 0.08, 0.32])
        + random.normal(0, 0.03),
        neckline=random.uniform(0.085, 0.125),
        v_neck=bool(random.random() < 0.3),
        hem=random.choice([0.12, 0.06, -0.02, -0.08]) + random.normal(0, 0.015),
        jacket=jacket,
        trousers=trousers,
        trouser_length=random.choice([0.35, 0.75, 1.2, 1.96], p=[0.1, 0.18, 0.07, 0.65])
        + random.normal(0, 0.03),
        waist=random.uniform(0.07, 0.13),
        belt=fabric(random) * 0.5 if random.random() < 0.35 else None,
        shoe=None if kind == 0 else leather,
        sole=np.full(3, random.choice([0.92, 0.1, 0.55])),
        shaft=1.6 if kind == 2 else 1.94,
        sock=random.uniform(1.55, 1.85) if kind == 3 else 2.0,
        creases=random.uniform(0.15, 0.5),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Looks:
    """The outfits of several people (the last axis is people)."""

    skin: Float[Tensor, "3 people"]
    mottle: Ripples
    hair: Float[Tensor, "3 people"]
    hairline: Float[Tensor, "people"]
    hair_length: Float[Tensor, "people"]
    beard: Float[Tensor, "people"]
    top: Garments
    trousers: Garments
    jacket: Garments | None
    """None where nobody has one; who has none lends the top."""
    has_jacket: Bool[Tensor, "people"]
    tank: Bool[Tensor, "people"]
    """Whose top has no sleeves."""
    sleeve: Float[Tensor, "people"]
    neckline: Float[Tensor, "people"]
    v_neck: Bool[Tensor, "people"]
    hem: Float[Tensor, "people"]
    tucked: Bool[Tensor, "people"]
    """Whose trousers lie over the top."""
    trouser_length: Float[Tensor, "people"]
    waist: Float[Tensor, "people"]
    belt: Float[Tensor, "3 people"]
    has_belt: Bool[Tensor, "people"]
    shoe: Float[Tensor, "3 people"]
    has_shoe: Bool[Tensor, "people"]
    sole: Float[Tensor, "3 people"]
    shaft: Float[Tensor, "people"]
    sock: Float[Tensor, "people"]
    creases: Float[Tensor, "people"]

    @staticmethod
    def of(outfits: Sequence[Outfit], device: torch.device) -> Looks:
        """Outfits side by side."""

        def side_by_side(name: str) -> Tensor:
            black = np.zeros(3)
            drawn = [getattr(outfit, name) for outfit in outfits]
            return columns([black if value is None else value for value in drawn], device)

        def truth(told: Callable[[Outfit], bool]) -> Tensor:
            return torch.tensor([told(outfit) for outfit in outfits], device=device)

        jackets = [outfit.jacket or outfit.top for outfit in outfits]
        worn = any(outfit.jacket is not None for outfit in outfits)
        numbers = ("skin hair hairline hair_length beard sleeve neckline hem trouser_length waist belt "
                   "shoe sole shaft sock creases").split()  # fmt: skip
        return Looks(
            mottle=Ripples.of([outfit.mottle for outfit in outfits], device),
            top=Garments.of([outfit.top for outfit in outfits], device),
            trousers=Garments.of([outfit.trousers for outfit in outfits], device),
            jacket=Garments.of(jackets, device) if worn else None,
            has_jacket=truth(lambda outfit: outfit.jacket is not None),
            tank=truth(lambda outfit: outfit.sleeve < 0),
            v_neck=truth(lambda outfit: outfit.v_neck),
            tucked=truth(lambda outfit: outfit.hem > outfit.waist - 0.02),
            has_belt=truth(lambda outfit: outfit.belt is not None),
            has_shoe=truth(lambda outfit: outfit.shoe is not None),
            **{name: side_by_side(name) for name in numbers},
        )
