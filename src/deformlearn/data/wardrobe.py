"""What people wear: skin, hair, clothes and shoes as a colour for every surface point.

Clothes are paint: the surface that is rendered is the body itself, so a label is the body point that
truly projects to its pixel. Where a garment ends is a function of the place on the resting template,
so patterns follow the body as it moves. Colours are sRGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.data.cloth import (
    Cloth,
    Waves,
    colour_of,
    fabric,
    random_cloth,
    random_waves,
    weave,
)
from deformlearn.skeleton import SEGMENTS

Random = np.random.Generator
Colour = tuple[float, float, float]

_PARTS = {
    "head": "neck head",
    "torso": "pelvis spine1 spine2 spine3 left_collar right_collar",
    "upper_arm": "left_shoulder right_shoulder",
    "forearm": "left_elbow right_elbow",
    "hand": "left_wrist right_wrist left_hand right_hand",
    "thigh": "left_hip right_hip",
    "shin": "left_knee right_knee",
    "foot": "left_ankle right_ankle left_foot right_foot",
}

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
class Paint:
    """The look of surface points."""

    albedo: Float[Tensor, "points 3"]
    bump: Float[Tensor, "points 3"]
    """Slope of creases, in template axes; takes part in the normal."""
    gloss: Float[Tensor, "points"]
    """Strength of the highlight."""


class Wardrobe:
    """Where on the template every garment goes."""

    def __init__(self, template: BodyTemplate) -> None:
        joints = dict(zip(SEGMENTS, template.joints, strict=True))
        rows = [[SEGMENTS.index(name) for name in names.split()] for names in _PARTS.values()]
        parts = torch.stack([template.weights[:, row].sum(1) for row in rows], 1)
        left = template.vertices[:, 0] >= 0
        arm, leg = (
            torch.where(
                left,
                _along(template.vertices, [joints[f"left_{name}"] for name in chain]),
                _along(template.vertices, [joints[f"right_{name}"] for name in chain]),
            )
            for chain in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
        )
        eyes, mouth = _separate_pieces(template)
        extra = torch.stack([arm, leg, eyes.float(), mouth.float()], 1)
        self.attributes = torch.cat([template.vertices, parts, extra], 1)
        """What `paint` needs at every vertex, to be interpolated to pixels."""
        self._neck = joints["neck"]
        self._hips = joints["left_hip"][1]
        self._floor = template.vertices[:, 1].min()
        place = dict(zip(template.landmark_names, template.landmarks.rest, strict=True))
        self._eye = place["coco_left_eye"]

    def paint(self, outfit: Outfit, attributes: Float[Tensor, "points 15"]) -> Paint:
        """Colour, creases and gloss of surface points from their interpolated attributes."""
        place, parts = attributes[:, :3], attributes[:, 3:11]
        arm, leg, eyes, mouth = attributes[:, 11:].unbind(1)
        named = dict(zip(_PARTS, parts.unbind(1), strict=True))
        x, y, z = place.unbind(1)
        arms = named["upper_arm"] + named["forearm"] + named["hand"]
        legs = named["thigh"] + named["shin"] + named["foot"]

        mottle = outfit.mottle.value(place)[:, None]
        colour = place.new_tensor(outfit.skin) * (1 + 0.1 * mottle)
        red = (named["hand"] + named["foot"]).clamp(0, 1)[:, None]
        colour = colour * (1 - red * place.new_tensor([0.0, 0.08, 0.08]))
        colour = self._face(outfit, colour, place, named["head"])

        around = (place - self._neck - place.new_tensor([0.0, -0.02, 0.02])).norm(dim=-1)
        opening = around < outfit.neckline
        if outfit.v_neck:
            depth = y - (self._neck[1] - 0.16)
            opening |= (z > self._neck[2]) & (depth > 0) & (x.abs() < 0.5 * depth)
        waist = self._hips + outfit.waist
        # No bare belly: a short top ends where the trousers begin.
        hem_height = self._hips + min(outfit.hem, outfit.waist - 0.015)
        trunk = (y > hem_height) & (named["head"] < 0.5)
        on_arm = arms > 0.5
        if outfit.sleeve < 0:
            shirt = trunk & (arms < 0.3) & (x.abs() < 0.16)
        else:
            shirt = torch.where(on_arm, (arm < outfit.sleeve) & (named["hand"] < 0.5), trunk)
        shirt &= ~opening
        pants = (y < waist) & (arms < 0.4) & (leg < outfit.trouser_length) & (named["foot"] < 0.6)
        cloth = torch.zeros_like(shirt)
        bump = torch.zeros_like(place)
        layers = [(pants, outfit.trousers)]
        tucked = outfit.hem > outfit.waist - 0.02
        layers.insert(0 if tucked else 1, (shirt, outfit.top))
        if outfit.jacket is not None:
            gap = 0.035 + 0.12 * (self._neck[1] - y).clamp_min(0)
            coat = torch.where(on_arm, (arm < 1.95) & (named["hand"] < 0.5), trunk & (around > 0.1))
            layers.append((coat & ~((z > 0.0) & (x.abs() < gap) & ~on_arm), outfit.jacket))
        for worn, garment in layers:
            colour = torch.where(worn[:, None], weave(garment, place, arm, leg, on_arm), colour)
            slope = garment.waves.slope(place * place.new_tensor([1.0, 0.45, 1.0]))
            bump = torch.where(worn[:, None], slope * outfit.creases, bump)
            cloth |= worn
        hem = (on_arm & ((arm - outfit.sleeve).abs() < 0.03)) | (
            (legs > 0.5) & ((leg - outfit.trouser_length).abs() < 0.025)
        )
        colour = torch.where((hem & cloth)[:, None], colour * 0.78, colour)
        if outfit.belt is not None:
            belt = pants & ((y - waist + 0.015).abs() < 0.017) & (legs < 0.6)
            colour = torch.where(belt[:, None], place.new_tensor(outfit.belt), colour)
        lower = (named["shin"] + named["foot"]) > 0.5
        sock = lower & (leg > outfit.sock) & ~(cloth & (leg < outfit.trouser_length))
        colour = torch.where(sock[:, None], place.new_tensor([0.9, 0.9, 0.88]), colour)
        if outfit.shoe is not None:
            shoe = (lower & (leg > outfit.shaft)) | (named["foot"] > 0.6)
            shoe &= ~(pants & (leg < outfit.trouser_length) & (named["foot"] < 0.5))
            colour = torch.where(shoe[:, None], place.new_tensor(outfit.shoe), colour)
            sole = shoe & (y < self._floor + 0.022)
            colour = torch.where(sole[:, None], place.new_tensor(outfit.sole), colour)
            bump = torch.where(shoe[:, None], torch.zeros_like(bump), bump)
            cloth |= shoe
        eye_white = eyes > 0.5
        colour = torch.where((mouth > 0.5)[:, None], place.new_tensor([0.36, 0.13, 0.12]), colour)
        gloss = torch.where(cloth, 0.02, 0.09) + 0.3 * eye_white
        return Paint(colour.clamp(0, 1), bump, gloss)

    def _face(
        self,
        outfit: Outfit,
        colour: Float[Tensor, "points 3"],
        place: Float[Tensor, "points 3"],
        head: Float[Tensor, "points"],
    ) -> Float[Tensor, "points 3"]:
        """Hair, brows, lips, beard and eyes over the skin."""
        new = place.new_tensor
        level = place[:, 1] - self._eye[1]
        across = place[:, 0].abs()
        depth = place[:, 2]
        is_head = head > 0.5
        front = is_head & (depth > 0.05)
        brow = front & ((level - 0.021 + 0.2 * (across - 0.032).abs()).abs() < 0.0045)
        brow &= (across > 0.012) & (across < 0.055)
        colour = torch.where(brow[:, None], new(outfit.hair) * 0.8 + 0.15 * colour, colour)
        lips = front & ((level + 0.068).abs() < 0.009) & (across < 0.024)
        colour = torch.where(lips[:, None], colour * new([0.86, 0.58, 0.58]), colour)
        if outfit.beard > 0:
            chin = is_head & (depth > 0.03) & (level < -0.045) & (level > -0.125) & ~lips
            blend = outfit.beard * chin[:, None]
            colour = colour * (1 - blend) + new(outfit.hair) * blend
        if outfit.hair_length > -0.5:
            # The edge runs from above the forehead, before the ear, down to the nape.
            edge = outfit.hairline - 0.9 * (0.095 - depth).clamp_min(0)
            edge = edge.clamp_min(-outfit.hair_length - 0.05)
            behind_ear = depth < 0.035 + 0.004 * torch.sin(level * 160)
            hair = is_head & (level > edge) & (behind_ear | (level > outfit.hairline - 0.035))
            if outfit.hair_length > 0.1:  # long hair also lies on the shoulders
                hair |= (depth < 0.0) & (level > -outfit.hair_length) & (across < 0.11)
            strands = 1 + 0.07 * torch.sin(place[:, 0] * 260 + 70 * depth)[:, None]
            colour = torch.where(hair[:, None], new(outfit.hair) * strands, colour)
        from_pupil = ((across - self._eye[0]) ** 2 + level**2).sqrt()
        iris, white = from_pupil < 0.0065, new([0.9, 0.89, 0.87])
        ball = torch.where(iris[:, None], new([0.13, 0.09, 0.07]), white)
        in_socket = front & (from_pupil < 0.016) & (level.abs() < 0.0085)
        return torch.where(in_socket[:, None], ball, colour)


def _along(points: Float[Tensor, "points 3"], chain: list[Tensor]) -> Float[Tensor, "points"]:
    """How far along a limb each point is: 0 at the first joint, 1 at the second, 2 at the third."""
    (start, middle, end) = chain
    upper, lower = middle - start, end - middle
    first = ((points - start) @ upper / (upper @ upper)).clamp(-0.5, 1)
    second = ((points - middle) @ lower / (lower @ lower)).clamp(0, 1.5)
    near_first = (points - start - first[:, None] * upper).norm(dim=-1)
    near_second = (points - middle - second[:, None] * lower).norm(dim=-1)
    return torch.where(near_first < near_second, first, 1 + second)


def _separate_pieces(template: BodyTemplate) -> tuple[Bool[Tensor, "v"], Bool[Tensor, "v"]]:
    """Vertices of the eyeballs, and of what is in the mouth: the small closed pieces of the mesh."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = torch.cat([template.faces[:, :2], template.faces[:, 1:]]).numpy()
    count = len(template.vertices)
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count))
    _, piece = connected_components(graph, directed=False)
    sizes = np.bincount(piece)
    off_centre = np.abs([template.vertices[piece == k, 0].mean() for k in range(len(sizes))]) > 0.01
    small = sizes < count / 2
    return (
        torch.from_numpy((small & off_centre)[piece]),
        torch.from_numpy((small & ~off_centre)[piece]),
    )
