"""Outfits on bodies: skin, hair, clothes and shoes as a colour for every surface point.

Clothes are paint: the surface that is rendered is the body itself, so a label is the body point that
truly projects to its pixel. Where a garment ends is a function of the place on the resting template,
so patterns follow the body as it moves. Colours are sRGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.data.cloth import Spots, choose, of_person, weave
from deformlearn.data.outfits import Looks
from deformlearn.raster import true_at
from deformlearn.skeleton import SEGMENTS
from deformlearn.tensors import TensorData

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


@dataclass(frozen=True, eq=False)
class Paint(TensorData):
    """The look of surface points, one column each."""

    albedo: Float[Tensor, "3 points"]
    bump: Float[Tensor, "3 points"]
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
        self._neck = joints["neck"].tolist()
        self._hips = float(joints["left_hip"][1])
        self._floor = float(template.vertices[:, 1].min())
        place = dict(zip(template.landmark_names, template.landmarks.rest, strict=True))
        self._eye = place["coco_left_eye"].tolist()

    def paint(
        self, looks: Looks, attributes: Float[Tensor, "15 points"], people: Int[Tensor, "points"]
    ) -> Paint:
        """Colour, creases and gloss of surface points from their interpolated attributes."""
        place, (arm, leg, eyes, mouth) = attributes[:3], attributes[11:]
        part = dict(zip(_PARTS, attributes[3:11], strict=True))
        y, new = place[1], place.new_tensor

        def of(values: Tensor) -> Tensor:
            return of_person(values, people)

        arms = part["upper_arm"] + part["forearm"] + part["hand"]
        legs = part["thigh"] + part["shin"] + part["foot"]
        spots = Spots(people, place, arm, arms > 0.5)
        shirt, pants = self._worn(looks, spots, part, arms, leg)
        below = torch.where(of(looks.tucked), pants, pants & ~shirt)
        # Which garment lies on top: 0 is bare skin, then top, trousers and jacket.
        outer = torch.where(below, 2, torch.where(shirt, 1, 0))
        if looks.jacket is not None:
            outer = torch.where(self._coat(looks, spots, part), 3, outer)
        cloth = outer > 0

        bare = true_at(outer == 0)
        pieces = [bare]
        colours = [
            self._skin(looks, attributes.index_select(1, bare), people.index_select(0, bare))
        ]
        slopes = [torch.zeros_like(colours[0])]
        for number, garment in enumerate((looks.top, looks.trousers, looks.jacket), 1):
            if garment is not None:
                mine = true_at(outer == number)
                some = spots.at(mine)
                pieces.append(mine)
                colours.append(weave(garment, some))
                slope = garment.ripples.slope(some.place * new([[1.0], [0.45], [1.0]]), some.people)
                slopes.append(slope * of_person(looks.creases, some.people))
        order = torch.cat(pieces)
        back = torch.empty_like(order)
        back.scatter_(0, order, torch.arange(len(order), device=order.device))
        colour = torch.cat(colours, 1).index_select(1, back)
        bump = torch.cat(slopes, 1).index_select(1, back)

        cuff = (legs > 0.5) & ((leg - of(looks.trouser_length)).abs() < 0.025)
        cuff |= spots.on_arm & ((arm - of(looks.sleeve)).abs() < 0.03)
        colour *= 1 - 0.22 * (cuff & cloth)
        if looks.has_belt.any():
            belt = pants & ((y - of(looks.waist + self._hips) + 0.015).abs() < 0.017)
            belt &= (legs < 0.6) & of(looks.has_belt)
            colour = choose(belt, of(looks.belt), colour)
        lower = (part["shin"] + part["foot"]) > 0.5
        covered = leg < of(looks.trouser_length)
        sock = lower & (leg > of(looks.sock)) & ~(cloth & covered)
        colour = choose(sock, new([[0.9], [0.9], [0.88]]), colour)
        shoe = (lower & (leg > of(looks.shaft))) | (part["foot"] > 0.6)
        shoe &= of(looks.has_shoe) & ~(pants & covered & (part["foot"] < 0.5))
        leather = choose(y < self._floor + 0.022, of(looks.sole), of(looks.shoe).expand_as(colour))
        colour = choose(shoe, leather, colour)
        bump = bump * ~shoe
        colour = choose(mouth > 0.5, new([[0.36], [0.13], [0.12]]), colour)
        gloss = torch.where(cloth | shoe, 0.02, 0.09) + 0.3 * (eyes > 0.5)
        return Paint(colour.clamp_(0, 1), bump, gloss)

    def _worn(
        self,
        looks: Looks,
        spots: Spots,
        part: dict[str, Tensor],
        arms: Float[Tensor, "points"],
        leg: Float[Tensor, "points"],
    ) -> tuple[Bool[Tensor, "points"], Bool[Tensor, "points"]]:
        """Where top and trousers are."""
        (x, y, z), on_arm, arm = spots.place, spots.on_arm, spots.arm

        def of(values: Tensor) -> Tensor:
            return of_person(values, spots.people)

        across = x.abs()
        opening = self._from_neck(spots) < of(looks.neckline)
        if looks.v_neck.any():
            depth = y - (self._neck[1] - 0.16)
            cut = (z > self._neck[2]) & (depth > 0) & (across < 0.5 * depth)
            opening |= cut & of(looks.v_neck)
        trunk = self._trunk(looks, spots, part)
        sleeved = torch.where(on_arm, (arm < of(looks.sleeve)) & (part["hand"] < 0.5), trunk)
        if looks.tank.any():
            vest = trunk & (arms < 0.3) & (across < 0.16)
            sleeved = torch.where(of(looks.tank), vest, sleeved)
        shirt = sleeved & ~opening
        pants = (y < of(looks.waist + self._hips)) & (arms < 0.4)
        pants &= (leg < of(looks.trouser_length)) & (part["foot"] < 0.6)
        return shirt, pants

    def _coat(self, looks: Looks, spots: Spots, part: dict[str, Tensor]) -> Bool[Tensor, "points"]:
        """Where a jacket is, open in front."""
        (x, y, z), on_arm = spots.place, spots.on_arm
        body = self._trunk(looks, spots, part) & (self._from_neck(spots) > 0.1)
        coat = torch.where(on_arm, (spots.arm < 1.95) & (part["hand"] < 0.5), body)
        gap = 0.035 + 0.12 * (self._neck[1] - y).clamp_min(0)
        coat &= ~((z > 0.0) & (x.abs() < gap) & ~on_arm)
        return coat & of_person(looks.has_jacket, spots.people)

    def _trunk(self, looks: Looks, spots: Spots, part: dict[str, Tensor]) -> Bool[Tensor, "points"]:
        """What lies above a top's hem; no bare belly: a short top ends where the trousers begin."""
        hem = self._hips + torch.minimum(looks.hem, looks.waist - 0.015)
        return (spots.place[1] > of_person(hem, spots.people)) & (part["head"] < 0.5)

    def _from_neck(self, spots: Spots) -> Float[Tensor, "points"]:
        """Distance from the middle of the opening around the neck (metres)."""
        (x, y, z), (neck_x, neck_y, neck_z) = spots.place, self._neck
        return ((x - neck_x) ** 2 + (y - neck_y + 0.02) ** 2 + (z - neck_z - 0.02) ** 2).sqrt()

    def _skin(
        self, looks: Looks, attributes: Float[Tensor, "15 points"], people: Int[Tensor, "points"]
    ) -> Float[Tensor, "3 points"]:
        """Colour where nothing is worn: skin, and the face."""
        place, part = attributes[:3], dict(zip(_PARTS, attributes[3:11], strict=True))
        mottle = looks.mottle.value(place, people)
        red = (part["hand"] + part["foot"]).clamp(0, 1)
        colour = of_person(looks.skin, people) * (1 + 0.1 * mottle)
        colour[1:] *= 1 - 0.08 * red
        # Long hair reaches 0.2 m below the eyes.
        near = true_at((part["head"] > 0.5) | (place[1] > self._eye[1] - 0.21))
        seen = torch.cat([colour, place, part["head"][None]]).index_select(1, near)
        face = self._face(looks, seen[:3], seen[3:6], seen[6], people.index_select(0, near))
        return colour.scatter_(1, near.expand(3, -1), face)

    def _face(
        self,
        looks: Looks,
        colour: Float[Tensor, "3 points"],
        place: Float[Tensor, "3 points"],
        head: Float[Tensor, "points"],
        people: Int[Tensor, "points"],
    ) -> Float[Tensor, "3 points"]:
        """Hair, brows, lips, beard and eyes over the skin."""
        new = place.new_tensor
        level, across, depth = place[1] - self._eye[1], place[0].abs(), place[2]
        hair_colour = of_person(looks.hair, people)
        is_head = head > 0.5
        front = is_head & (depth > 0.05)
        brow = front & ((level - 0.021 + 0.2 * (across - 0.032).abs()).abs() < 0.0045)
        brow &= (across > 0.012) & (across < 0.055)
        colour = torch.where(brow, hair_colour * 0.8 + 0.15 * colour, colour)
        lips = front & ((level + 0.068).abs() < 0.009) & (across < 0.024)
        colour = torch.where(lips, colour * new([[0.86], [0.58], [0.58]]), colour)
        chin = is_head & (depth > 0.03) & (level < -0.045) & (level > -0.125) & ~lips
        blend = of_person(looks.beard, people) * chin
        colour = colour * (1 - blend) + hair_colour * blend
        # The edge runs from above the forehead, before the ear, down to the nape.
        length, hairline = of_person(looks.hair_length, people), of_person(looks.hairline, people)
        edge = hairline - 0.9 * (0.095 - depth).clamp_min(0)
        edge = torch.maximum(edge, -length - 0.05)
        behind_ear = depth < 0.035 + 0.004 * torch.sin(level * 160)
        hair = is_head & (level > edge) & (behind_ear | (level > hairline - 0.035))
        # Long hair also lies on the shoulders.
        hair |= (depth < 0.0) & (level > -length) & (across < 0.11) & (length > 0.1)
        hair &= length > -0.5
        strands = 1 + 0.07 * torch.sin(place[0] * 260 + 70 * depth)
        colour = torch.where(hair, hair_colour * strands, colour)
        from_pupil = ((across - self._eye[0]) ** 2 + level**2).sqrt()
        iris, white = new([[0.13], [0.09], [0.07]]), new([[0.9], [0.89], [0.87]])
        in_socket = front & (from_pupil < 0.016) & (level.abs() < 0.0085)
        return torch.where(in_socket, torch.where(from_pupil < 0.0065, iris, white), colour)


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
