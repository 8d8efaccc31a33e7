"""A template posed and scaled so that its surface lies on another: registration in 3D.

What is searched: 24 segment scales, the pose, a similarity, and how much thicker the flesh of each
segment is (without it a stout surface would make the bones long). The reasons: docs/decisions/0013.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from deformlearn import losses
from deformlearn.body import BodyParameters, BodyPoints, BodyTemplate, skin
from deformlearn.errors import InputError
from deformlearn.extremities import matching, tips_of
from deformlearn.meshes import Surface, blended, closest, spread_vertices, vertex_normals
from deformlearn.skeleton import SEGMENTS, rotation_from_axis_angle
from deformlearn.tensors import TensorData

_ELEVATIONS = (0.0, -45.0, -80.0)
"""Arms out, slanted, down (degrees above the horizon): where a body without joints is started from."""

_LIMBS = ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
"""Joints that every maker of rigs puts at one place; others tell a tenth of what these do."""

_COARSE, _FINE = 0.028, 0.014
"""Spacing of the samples, in heights: 5 and 2.5 cm on a grown person."""

_START = (0.16, 0.16, 0.11)
_FAR = (0.08, 0.055, 0.055, 0.04, 0.04, 0.03)
_NEAR = (0.055,) * 4 + (0.04,) * 4 + (0.03,) * 4 + (0.022,) * 6
"""How far, in heights, closest points are believed, round by round: in search of the pose from a
start, from the landmarks or the best start on, and once the fingers are known."""

_STEPS, _LANDMARK_STEPS = 40, 200
_RATE, _LANDMARK_RATE = 0.02, 0.05
"""Steps and rate (metres, radians, logarithms of scales) of Adam in one round."""

_LANDMARKS, _TIPS = 0.02, 0.1
"""Weights of landmarks and finger tips beside closest points."""

_SCALES, _ANGLES, _LIMITS, _FLESH = 1e-4, 3e-6, 3e-3, 1e-2
"""Weights of the priors: scales of neighbours alike, small angles, joint limits, little more flesh."""

_TANGENT = 0.1
"""What a sideways distance counts beside one off the surface."""

_APART, _SHARE_APART = 0.05, 0.06
"""A body does not fit if more than this share of the two surfaces is farther apart than that, in
heights. Skirts, hair and mittens leave up to 4 % apart, a lost head or arm 8 %, a horse 70 %."""


@dataclass(frozen=True, eq=False)
class SkinPoints(TensorData):
    """Points of a template's surface and their normals at rest."""

    points: BodyPoints
    outward: Float[Tensor, "points 3"]


@dataclass(frozen=True, eq=False)
class Pairs(TensorData):
    """Points of the template and where each of them should be."""

    skin: SkinPoints
    targets: Float[Tensor, "pairs 3"]
    normals: Float[Tensor, "pairs 3"]
    """Normals of the surface there; zero where all directions count alike."""
    weights: Float[Tensor, "pairs"]


@dataclass(frozen=True, eq=False)
class Body:
    """A template (float64, on the CPU) with its surface."""

    template: BodyTemplate

    @staticmethod
    def of(template: BodyTemplate) -> Body:
        """The template as the fit needs it."""
        return Body(template.detach().to("cpu", torch.float64))

    @cached_property
    def surface(self) -> Surface:
        """The mesh at rest."""
        return Surface.of(self.template)

    @cached_property
    def outward(self) -> Float[Tensor, "vertices 3"]:
        """Normals at rest."""
        return torch.from_numpy(vertex_normals(self.surface))

    @property
    def vertices(self) -> SkinPoints:
        """Every vertex."""
        return SkinPoints(self.template.all_points(), self.outward)

    def points(
        self, faces: Int[np.ndarray, "n"], barycentric: Float[np.ndarray, "n 3"]
    ) -> SkinPoints:
        """Points of the surface."""
        blend = torch.from_numpy(barycentric)
        corners = self.template.faces[torch.from_numpy(faces)]
        return SkinPoints(
            self.template.surface_points(torch.from_numpy(faces), blend),
            (self.outward[corners] * blend[..., None]).sum(1),
        )


@dataclass(frozen=True, eq=False)
class Placement(TensorData):
    """A body in the other surface's space: x = size R(turn) X(scales, pose) + shift."""

    log_scales: Float[Tensor, "24"]
    pose: Float[Tensor, "23 3"]
    flesh: Float[Tensor, "24"]
    """How far the skin of each segment is moved outwards at rest (metres)."""
    turn: Float[Tensor, "3"]
    shift: Float[Tensor, "3"]
    log_size: Float[Tensor, ""]

    @staticmethod
    def rest(template: BodyTemplate) -> Placement:
        """The template as it is."""
        zeros = template.vertices.new_zeros
        return Placement(zeros(24), zeros(23, 3), zeros(24), zeros(3), zeros(3), zeros(()))

    def place(self, body: Body, skin_points: SkinPoints) -> Float[Tensor, "points 3"]:
        """Where points of the template are."""
        points = skin_points.points
        thicker = (points.weights @ self.flesh)[:, None] * skin_points.outward
        parameters = BodyParameters(self.log_scales.exp(), self.pose)
        posed = skin(body.template, parameters, replace(points, rest=points.rest + thicker))
        turned = posed @ rotation_from_axis_angle(self.turn).T
        return turned * self.log_size.exp() + self.shift

    def surface(self, body: Body) -> Surface:
        """The whole mesh in its place."""
        return body.surface.moved(self.place(body, body.vertices).numpy())


def fit_body(
    body: Body, surface: Surface
) -> tuple[Placement, tuple[Int[np.ndarray, "tips"], Int[np.ndarray, "tips"]]]:
    """The placement that puts the body on the surface, and vertices of both at the tips of fingers.

    The surface must be upright, facing +z and about as tall as the template. Shared landmarks start
    the fit; without any, several poses of the arms are tried. A surface that the body cannot be put
    on, or that faces away, is an InputError.
    """
    known = _landmark_pairs(body, surface)
    terms = []
    if known is not None:
        rest = Placement.rest(body.template)
        start = _descend(body, rest, [(known, 1.0)], _LANDMARK_STEPS, _LANDMARK_RATE)
        terms.append((known, _LANDMARKS))
    else:
        start = _best_start(body, surface)
    found = _approach(body, surface, start, terms, _FAR, _FINE)
    apart = float((_gaps(body, surface, found) > _APART).mean())
    if not apart <= _SHARE_APART:  # NaN is no fit either
        raise InputError(
            f"the body {body.template.name!r} does not fit the surface {surface.name!r}: "
            f"{100 * apart:.0f} % of the two is over {100 * _APART:.0f} % of the height apart (at most "
            f"{100 * _SHARE_APART:.0f} % is a fit); wanted one human, y up, facing +z, standing, and not "
            f"inside out"
        )
    ours, theirs = _finger_tips(body, surface, found)
    if len(ours):
        terms.append((_tip_pairs(body, surface, ours, theirs), _TIPS))
    return _approach(body, surface, found, terms, _NEAR, _FINE), (ours, theirs)


def _best_start(body: Body, surface: Surface) -> Placement:
    """Of several ways to hold the arms the one that is nearest; one that faces +z, or an InputError."""

    def tried(start: Placement) -> tuple[float, Placement]:
        found = _approach(body, surface, start, [], _START, _COARSE)
        return float(_gaps(body, surface, found).clip(max=0.1).mean()), found

    starts = [_arms_at(body, elevation) for elevation in _ELEVATIONS]
    trials = [tried(start) for start in starts]
    best = min(range(len(trials)), key=lambda index: trials[index][0])
    gap, found = trials[best]
    half_turn = found.turn.new_tensor([0.0, math.pi, 0.0])
    if tried(replace(starts[best], turn=half_turn))[0] < 0.8 * gap:
        raise InputError(
            f"the surface {surface.name!r} seems to face -z; turn it about y so that it faces +z"
        )
    return found


def _gaps(body: Body, surface: Surface, placement: Placement) -> Float[np.ndarray, "pairs"]:
    """Distances between the two surfaces, both ways, in heights; infinite where nothing is near."""
    pairs = _closest_pairs(body, surface, placement, _COARSE, 1.0)
    with torch.no_grad():
        apart = (placement.place(body, pairs.skin) - pairs.targets).norm(dim=-1) / surface.height
    return torch.where(pairs.weights > 0, apart, torch.inf).numpy()


def _landmark_pairs(body: Body, surface: Surface) -> Pairs | None:
    template = body.template
    shared = [name for name in template.landmark_names if name in surface.landmarks]
    if not shared:
        return None
    points = template.landmarks[[template.landmark_names.index(name) for name in shared]]
    targets = torch.from_numpy(np.stack([surface.landmarks[name] for name in shared]))
    nowhere = torch.zeros_like(targets)
    limb = [name in SEGMENTS and name.partition("_")[2] in _LIMBS for name in shared]
    weights = torch.where(torch.tensor(limb), 1.0, 0.1).double()
    return Pairs(SkinPoints(points, nowhere), targets, nowhere, weights)


def _finger_tips(
    body: Body, surface: Surface, placement: Placement
) -> tuple[Int[np.ndarray, "tips"], Int[np.ndarray, "tips"]]:
    """Vertices of body and surface at the tips of fingers, where both show as many."""
    placed = placement.surface(body).vertices
    weights = body.template.weights.numpy()
    beside = cKDTree(placed).query(surface.vertices)[1]
    ours, theirs = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for side in ("left", "right"):
        columns = [SEGMENTS.index(f"{side}_{joint}") for joint in ("wrist", "hand")]
        hand = weights[:, columns].sum(1) > 0.5
        mine, other = tips_of(body.surface, hand), tips_of(surface, hand[beside])
        if len(mine) == len(other) > 1:
            ours.append(mine)
            theirs.append(other[matching(placed[mine], surface.vertices[other])])
    return np.concatenate(ours), np.concatenate(theirs)


def _tip_pairs(
    body: Body, surface: Surface, ours: Int[np.ndarray, "tips"], theirs: Int[np.ndarray, "tips"]
) -> Pairs:
    targets = torch.from_numpy(surface.vertices[theirs])
    points = body.vertices[torch.from_numpy(ours)]
    return Pairs(points, targets, torch.zeros_like(targets), targets.new_ones(len(targets)))


def _closest_pairs(
    body: Body, surface: Surface, placement: Placement, spacing: float, reach: float
) -> Pairs:
    """Closest points that face the same way, from samples of the body and back from the surface's.

    Pairs count less the farther apart they are, by half at about 0.6 `reach` (Geman-McClure's
    weights). Both distances are in heights.
    """
    spacing, reach = spacing * surface.height, reach * surface.height
    with torch.no_grad():
        placed = placement.surface(body)
    mine = spread_vertices(body.surface, spacing)
    other = spread_vertices(surface, spacing)
    normals = vertex_normals(surface)
    faces, blend, apart = closest(surface, placed.vertices[mine], vertex_normals(placed)[mine])
    my_faces, my_blend, back = closest(placed, surface.vertices[other], normals[other])
    there = blended(normals, surface.faces, faces, blend)
    skin_points = [body.vertices[torch.from_numpy(mine)], body.points(my_faces, my_blend)]
    distance = np.concatenate([apart, back])
    weights = (1 + (distance / reach) ** 2) ** -2.0
    return Pairs(
        SkinPoints(
            BodyPoints(
                torch.cat([skins.points.rest for skins in skin_points]),
                torch.cat([skins.points.weights for skins in skin_points]),
            ),
            torch.cat([skins.outward for skins in skin_points]),
        ),
        torch.from_numpy(np.concatenate([surface.at(faces, blend), surface.vertices[other]])),
        torch.from_numpy(np.concatenate([there, normals[other]])),
        torch.from_numpy(weights),
    )


def _approach(
    body: Body,
    surface: Surface,
    placement: Placement,
    terms: Sequence[tuple[Pairs, float]],
    reaches: Sequence[float],
    spacing: float,
) -> Placement:
    """Closest points and descent in turn."""
    for reach in reaches:
        pairs = _closest_pairs(body, surface, placement, spacing, reach)
        rate = _RATE if reach > 0.05 else _RATE / 2
        placement = _descend(body, placement, [(pairs, 1.0), *terms], _STEPS, rate)
    return placement


def _descend(
    body: Body,
    start: Placement,
    terms: Sequence[tuple[Pairs, float]],
    steps: int,
    rate: float,
) -> Placement:
    """Adam on the weighted distances of all pairs and the priors, in heights."""
    template = body.template
    found = start.map(lambda x: x.detach().clone().requires_grad_(True))
    optimiser = torch.optim.Adam(list(found.tensors()), lr=rate, fused=True)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * (1.0 if step < 0.6 * steps else 0.2)
        optimiser.zero_grad(set_to_none=True)
        prior = (
            _SCALES * losses.scale_smoothness(found.log_scales.exp(), template.parents)
            + _ANGLES * losses.joint_angles(found.pose)
            + _LIMITS * losses.joint_limits(found.pose, template.limit_axes, template.limits)
            + _FLESH * found.flesh.square().sum() / template.height**2
        )
        data = sum(weight * _squared(body, found, pairs) for pairs, weight in terms)
        (prior + data / template.height**2).backward()
        optimiser.step()
    return found.detach()


def _squared(body: Body, placement: Placement, pairs: Pairs) -> Float[Tensor, ""]:
    """Weighted mean squared distance of pairs; along a surface it counts a tenth."""
    offset = placement.place(body, pairs.skin) - pairs.targets
    squared = offset.square().sum(-1)
    off = (offset * pairs.normals).sum(-1).square()
    on_surface = pairs.normals.square().sum(-1) > 0
    squared = torch.where(on_surface, (1 - _TANGENT) * off + _TANGENT * squared, squared)
    return (squared * pairs.weights).sum() / pairs.weights.sum().clamp_min(1e-6)


def _arms_at(body: Body, elevation: float) -> Placement:
    """The body at rest but for its arms, which point sideways at an angle above the horizon."""
    template = body.template
    start = Placement.rest(template)
    pose = start.pose.clone()
    for side, sign in (("left", 1.0), ("right", -1.0)):
        shoulder, wrist = (SEGMENTS.index(f"{side}_{joint}") for joint in ("shoulder", "wrist"))
        arm = template.joints[wrist] - template.joints[shoulder]
        now = math.atan2(float(arm[1]), sign * float(arm[0]))
        pose[shoulder - 1, 2] = sign * (math.radians(elevation) - now)
    return replace(start, pose=pose)
