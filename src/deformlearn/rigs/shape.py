"""What a rig's shape says: where up and forward are, and which chains of bones are arms and legs."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from deformlearn.errors import InputError
from deformlearn.rigs.rig import Rig
from deformlearn.rigs.tree import Tree

_APART = 0.06
"""How far a bone may be from its mirror image, and a midline bone from the middle: share of size."""

_ON_THE_GROUND = 0.15
"""Chains that end within this share of the height from the ground stand on it."""

_LEG = 0.25
"""A leg is at least this long, as a share of the height."""

_UPPER_ARM, _FOREARM = 0.155, 0.14
"""Lengths of a person's arm bones, as shares of the height (Anny's)."""


def neck_above(rig: Rig, tree: Tree, chest: int, limbs: Collection[int]) -> list[int]:
    """Neck and head of a rig whose names do not say.

    Of what hangs on the chest and is neither arm nor leg, the chain with most skin: its first bone,
    and below that the one that moves most.
    """
    free = [
        child
        for child in tree.children[chest]
        if tree.skinned[child] and not any(child in tree.upwards(bone) for bone in limbs)
    ]
    line: list[int] = []
    while free:
        line.append(max(free, key=lambda bone: tree.below[bone]))
        free = [child for child in tree.children[line[-1]] if tree.own[child] > 0]
    return [*line[:1], max(line[1:], key=lambda bone: tree.own[bone])] if len(line) > 1 else line


def limbs_by_shape(rig: Rig, tree: Tree) -> dict[str, int] | None:
    """Segment -> bone of arms and legs, from symmetry, chains and height; None where none fit.

    A pair of chains, mirror images of each other, stands on the ground; another pair branches off
    higher up. An animal on four legs is an InputError that says so.
    """
    bones = np.flatnonzero(tree.skinned)
    size = float(np.ptp(rig.vertices, 0).max())
    for side, up in _likely_axes(rig, bones, size):
        pairs = _pairs(rig, tree, bones, side, size)
        heights = rig.joints @ up
        low, high = (rig.vertices @ up).min(), (rig.vertices @ up).max()
        line = {bone: _chain(rig, tree, bone, size) for bone in {b for pair in pairs for b in pair}}
        chains = [(line[a], line[b]) for a, b in pairs if len(line[a]) > 1 and len(line[b]) > 1]
        ground = low + _ON_THE_GROUND * (high - low)
        standing = [
            pair
            for pair in chains
            if len(pair[0]) > 2
            and heights[pair[0]].min() < ground
            and np.ptp(heights[pair[0]]) > _LEG * (high - low)
        ]
        if not standing:
            continue
        legs = max(standing, key=lambda pair: heights[pair[0][0]] - heights[pair[0]].min())
        attached = tree.parents[legs[0][0]]
        others = [p for p in chains if p is not legs and _reach(rig, p[0]) > 0.15 * (high - low)]
        arms = [p for p in others if heights[p[0][0]] > heights[legs[0][0]] + 0.1 * (high - low)]
        if len(standing) > 1 and not arms:
            raise InputError(
                f"{rig.name} stands on four legs: no person; wanted the rig of one human"
            )
        if not arms or attached < 0:
            continue
        arms_pair = max(arms, key=lambda pair: _reach(rig, pair[0]))
        found: dict[str, int] = {}
        forward = _forward(rig, legs, up)
        left = np.cross(up, forward)
        for leg, arm in zip(legs, arms_pair, strict=True):
            name = "left" if rig.joints[leg[0]] @ left > rig.joints[attached] @ left else "right"
            found |= {f"{name}_{s}": bone for s, bone in _leg(rig, leg, up, low).items()}
            name = "left" if rig.joints[arm[-1]] @ left > rig.joints[attached] @ left else "right"
            found |= {f"{name}_{s}": bone for s, bone in _arm(rig, tree, arm, high - low).items()}
        return found
    return None


def _likely_axes(
    rig: Rig, bones: Int[np.ndarray, "few"], size: float
) -> list[tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]]:
    """(side, up) directions to try, the most symmetric side and the tallest up first."""
    extent = np.ptp(rig.vertices, 0)
    ranked = sorted(range(3), key=lambda axis: _asymmetry(rig, bones, axis))
    tries = []
    for axis in ranked[:2]:
        for up in sorted(set(range(3)) - {axis}, key=lambda other: -extent[other]):
            tries += [(np.eye(3)[axis], np.eye(3)[up]), (np.eye(3)[axis], -np.eye(3)[up])]
    return tries


def _asymmetry(rig: Rig, bones: Int[np.ndarray, "few"], axis: int) -> float:
    joints = rig.joints[bones]
    if np.ptp(joints[:, axis]) < 0.05 * np.ptp(rig.vertices, 0).max():
        return np.inf
    flipped = joints * np.where(np.arange(3) == axis, -1, 1)
    flipped[:, axis] += 2 * np.median(joints[:, axis])
    apart = np.linalg.norm(joints[:, None] - flipped[None], axis=-1).min(0)
    return float(apart.mean())


def _pairs(
    rig: Rig, tree: Tree, bones: Int[np.ndarray, "few"], side: Float[np.ndarray, "3"], size: float
) -> list[tuple[int, int]]:
    """Bones that begin mirrored chains: images of each other, below bones of the middle."""
    across = rig.joints @ side
    middle = float(np.median(across[bones]))
    flipped = rig.joints - 2 * np.outer(across - middle, side)
    pairs = []
    for a, b in itertools.combinations(bones.tolist(), 2):
        if np.linalg.norm(flipped[a] - rig.joints[b]) > _APART * size:
            continue
        if abs(across[a] - middle) < 0.01 * size or (across[a] > middle) == (across[b] > middle):
            continue
        above = (tree.parents[a], tree.parents[b])
        if -1 in above or any(abs(across[bone] - middle) > 0.02 * size for bone in above):
            continue
        pairs.append((a, b))
    return pairs


def _chain(rig: Rig, tree: Tree, bone: int, size: float) -> list[int]:
    """From a bone down to the farthest end below it that carries skin; joints at one place once."""
    ends = [b for b in tree.downwards(bone) if tree.own[b] > 0]
    if not ends:
        return [bone]
    end = max(ends, key=lambda b: np.linalg.norm(rig.joints[b] - rig.joints[bone]))
    line = [bone, *tree.between(bone, end)]
    return [line[0]] + [
        b for a, b in itertools.pairwise(line)
        if np.linalg.norm(rig.joints[a] - rig.joints[b]) > 0.005 * size
    ]  # fmt: skip


def _reach(rig: Rig, chain: Sequence[int]) -> float:
    return float(np.linalg.norm(rig.joints[chain[-1]] - rig.joints[chain[0]]))


def _forward(
    rig: Rig, legs: tuple[list[int], list[int]], up: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3"]:
    ends = [leg[-1] for leg in legs]
    ankles = [
        leg[-2] if _reach(rig, leg[-2:]) < 0.3 * _reach(rig, leg) else leg[-1] for leg in legs
    ]
    return feet_forward(rig, dict(zip(ankles, ends, strict=True)), up)


def feet_forward(
    rig: Rig, feet: Mapping[int, int], up: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3"]:
    """How far, and where to, the skin of the feet lies from the ankles: a horizontal vector.

    `feet` are the bones of ankles and of the toes below them. Zero where there is no such skin.
    """
    moved = np.zeros(3)
    for ankle, end in feet.items():
        share = (rig.weights * np.isin(rig.influences, [ankle, end])).sum(1)
        low = share * (rig.vertices @ up < rig.joints[ankle] @ up)
        if low.sum() > 0:
            moved += low @ (rig.vertices - rig.joints[ankle]) / low.sum() / len(feet)
    return moved - (moved @ up) * up


def _leg(
    rig: Rig, chain: Sequence[int], up: Float[np.ndarray, "3"], ground: float
) -> dict[str, int]:
    """Hip, knee, ankle and toes of a chain that reaches the ground."""
    heights = rig.joints[list(chain)] @ up - ground
    tall = heights[0]
    low = [i for i in range(2, len(chain)) if heights[i] < 0.25 * tall]
    ankle = low[0] if low else len(chain) - 1
    inner = range(1, ankle)
    middle = (heights[0] + heights[ankle]) / 2
    knee = min(inner, key=lambda i: abs(heights[i] - middle))
    found = {"hip": chain[0], "knee": chain[knee], "ankle": chain[ankle]}
    return found | ({"foot": chain[ankle + 1]} if ankle + 1 < len(chain) else {})


def _arm(rig: Rig, tree: Tree, chain: Sequence[int], height: float) -> dict[str, int]:
    """Collar, shoulder, elbow, wrist and knuckles of a chain from the trunk to the fingers.

    The wrist is where fingers branch off, if they do. Three joints up to it are an arm and four
    have a collar bone. Of more, some are twists: then the upper arm and forearm are the stretches
    nearest to a person's.
    """
    places = rig.joints[list(chain)]
    length = lambda a, b: float(np.linalg.norm(places[b] - places[a]))  # noqa: E731 (a measure)
    branch = [i for i, bone in enumerate(chain) if len(tree.children[bone]) > 2 and i > 1]
    if branch:
        count, wrists = branch[0] + 1, branch[:1]
    else:
        # Of four, the first is a collar bone if it is much shorter than what follows; five have a
        # hand as well.
        first = len(chain) > 3 and length(0, 1) < 0.8 * length(1, 2)
        count = {3: 3, 4: 4 if first else 3, 5: 4}.get(len(chain), len(chain))
        wrists = list(range(2, len(chain)))
    if len(chain) < 3:
        return dict(zip(("shoulder", "elbow"), chain[-2:], strict=True))
    if count <= 4:
        start, bend, end = count - 3, count - 2, count - 1
    else:
        triples = [t for t in itertools.combinations(range(len(chain)), 3) if t[2] in wrists]
        start, bend, end = min(
            triples,
            key=lambda t: (
                abs(length(t[0], t[1]) - _UPPER_ARM * height)
                + abs(length(t[1], t[2]) - _FOREARM * height)
            ),
        )
    found = {"shoulder": chain[start], "elbow": chain[bend], "wrist": chain[end]}
    if start > 0:
        found["collar"] = chain[0]
    if end + 1 < len(chain):
        found["hand"] = chain[end + 1]
    return found
