"""The 24 segments in a rig: what its user, its format, its names and its shape say, in that order."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deformlearn.errors import InputError
from deformlearn.rigs import shape
from deformlearn.rigs.names import is_finger, is_toe, limbs_by_name, thumb_number, trunk_word
from deformlearn.rigs.rig import Found, Rig
from deformlearn.rigs.tree import Tree
from deformlearn.skeleton import SEGMENTS

NEEDED = tuple(
    f"{side}_{joint}"
    for side in ("left", "right")
    for joint in ("hip", "knee", "shoulder", "elbow")
)
"""Segments without which there is no body to move; all others can be placed."""

SPINE_HEIGHTS = {"spine1": 0.145, "spine2": 0.275, "spine3": 0.42}
"""How far up from pelvis to neck a person's spine segments begin (Anny's)."""


def find_segments(rig: Rig, mapping: Path | None = None) -> tuple[Found, ...]:
    """The bones of each segment; a rig without a person's limbs is an InputError."""
    tree = Tree(rig)
    said = _read_mapping(mapping, rig) if mapping is not None else {}
    declared = {segment: rig.bones.index(bone) for segment, bone in rig.declared.items()}
    how = dict.fromkeys(said, "JSON")
    bones = {segment: bone for segment, bone in said.items() if bone is not None}

    def take(found: Mapping[str, int], source: str) -> None:
        for segment, bone in found.items():
            if segment not in how and bone not in bones.values():
                bones[segment], how[segment] = bone, source

    take(declared, "VRM")
    take(limbs_by_name(rig.bones, tree), "name")
    _refuse_crowds(rig, tree, bones)
    if any(segment not in bones for segment in NEEDED):
        guessed = shape.limbs_by_shape(rig, tree)
        if guessed is None:
            raise InputError(_not_found(rig, [s for s in NEEDED if s not in bones]))
        if mapping is None:  # names that found a part of a body may have found the wrong part
            bones, how = {}, {}
        take(guessed, "geometry")
    if missing := [segment for segment in NEEDED if segment not in bones]:
        raise InputError(_not_found(rig, missing))
    for segment, bone in _trunk(rig, tree, bones).items():
        take({segment: bone}, "name" if trunk_word(rig.bones[bone]) == segment else "chain")
    return tuple(
        Found(segment, _with_their_like(rig, tree, segment, bones), how.get(segment, "placed"))
        if segment in bones
        else Found(segment, (), "placed")
        for segment in SEGMENTS
    )


def _not_found(rig: Rig, missing: list[str]) -> str:
    some = ", ".join(rig.bones[:6])
    return (
        f"{rig.name} is not a person's rig as far as its names and shape tell: no bone found for "
        f"{', '.join(missing)} (its bones: {some}, ...); name them in a JSON file, see docs/rigs.md"
    )


def _refuse_crowds(rig: Rig, tree: Tree, bones: Mapping[str, int]) -> None:
    """An InputError where the bones that are not this person's make up another one."""
    mine = set(bones.values())
    others = ["" if mine & set(tree.upwards(bone)) else name for bone, name in enumerate(rig.bones)]
    if set(NEEDED) <= set(limbs_by_name(others, tree)):
        raise InputError(
            f"{rig.name} holds more than one person, or one with two skeletons; export them apart"
        )


def _trunk(rig: Rig, tree: Tree, limbs: Mapping[str, int]) -> dict[str, int]:
    """Pelvis, spine, neck and head: the bones between the legs, the arms and the top."""
    words = {bone: trunk_word(name) for bone, name in enumerate(rig.bones) if tree.skinned[bone]}
    arms = [limbs.get(f"{s}_collar", limbs[f"{s}_shoulder"]) for s in ("left", "right")]
    chest = tree.common([tree.parents[bone] for bone in arms])
    legs = tree.common([tree.parents[limbs[f"{s}_hip"]] for s in ("left", "right")])
    called = [
        bone
        for bone, word in words.items()
        if word == "pelvis" and (chest < 0 or bone in tree.upwards(chest))
    ]
    pelvis = limbs.get("pelvis", called[0] if called else tree.common([b for b in (legs, chest)]))
    found = {"pelvis": pelvis} if pelvis >= 0 else {}
    if pelvis < 0 or chest < 0:
        return found
    # What moves most skin comes first: a head with all its hair, not the headphones.
    inside = [bone for bone in words if pelvis in tree.upwards(bone) and bone != pelvis]
    inside.sort(key=lambda bone: -tree.below[bone])
    heads = [bone for bone in inside if words[bone] == "head"]
    necks = [bone for bone in inside if words[bone] == "neck"]
    necks = [bone for bone in necks if necks[0] in tree.upwards(bone)]  # no necklace
    if not (heads or necks):
        necks = shape.neck_above(rig, tree, chest, set(limbs.values()))
    head = limbs.get("head", heads[0] if heads else necks[-1] if len(necks) > 1 else -1)
    line = tree.between(chest, head) if head >= 0 else []
    neck = limbs.get("neck", next((b for b in necks if b != head), next(iter(line[:-1]), -1)))
    found |= {"neck": neck} if neck >= 0 else {}
    found |= {"head": head} if head >= 0 else {}
    spine = [
        bone
        for bone in tree.between(pelvis, chest)
        if words.get(bone) not in ("neck", "head") and bone not in (neck, head)
    ]
    return found | _spine(rig, spine, rig.joints[pelvis], _top(rig, found, limbs))


def _top(rig: Rig, found: Mapping[str, int], limbs: Mapping[str, int]) -> np.ndarray:
    """Where the spine ends: at the neck, or between the shoulders and the head."""
    if "neck" in found:
        return rig.joints[found["neck"]]
    shoulders = rig.joints[[limbs["left_shoulder"], limbs["right_shoulder"]]].mean(0)
    return (shoulders + rig.joints[found["head"]]) / 2 if "head" in found else shoulders


def _spine(rig: Rig, line: list[int], start: np.ndarray, end: np.ndarray) -> dict[str, int]:
    """The bones of the spine nearest to where ours begin, in order; three are all of ours."""
    along = (rig.joints[line] - start) @ (end - start) / max(((end - start) ** 2).sum(), 1e-12)
    count = min(len(line), len(SPINE_HEIGHTS))
    choices = itertools.product(
        itertools.combinations(range(len(line)), count),
        itertools.combinations(SPINE_HEIGHTS, count),
    )
    rows, names = min(
        choices,
        key=lambda choice: sum(
            abs(along[row] - SPINE_HEIGHTS[name]) for row, name in zip(*choice, strict=True)
        ),
    )
    return {name: line[row] for row, name in zip(rows, names, strict=True)}


def _with_their_like(
    rig: Rig, tree: Tree, segment: str, bones: Mapping[str, int]
) -> tuple[str, ...]:
    """A segment's bone, and those beside it: fingers bend together, and so do toes.

    Without names, whatever branches off the same bone at least half as far out is a finger too.
    """
    main = bones[segment]
    if not segment.endswith(("_hand", "_foot")):
        return (rig.bones[main],)
    thumb = thumb_number(rig.bones)
    like = {
        name
        for name in rig.bones
        if (is_finger(name, thumb) if segment.endswith("hand") else is_toe(name))
    }
    above = segment.replace("hand", "wrist").replace("foot", "ankle")
    start = bones.get(above, tree.parents[main])
    others = [
        bone
        for bone, name in enumerate(rig.bones)
        if name in like and bone != main and start in tree.upwards(bone)
    ]
    if not others and rig.bones[main] not in like and start >= 0:
        reach = np.linalg.norm(rig.joints[main] - rig.joints[start])
        others = [
            bone
            for bone in tree.children[tree.parents[main]]
            if np.linalg.norm(rig.joints[bone] - rig.joints[start]) > 0.75 * reach and bone != main
        ]
    beside = {main, *others}
    tops = [bone for bone in others if not beside & set(tree.upwards(bone)[1:])]
    return (rig.bones[main], *(rig.bones[bone] for bone in tops))


def _read_mapping(path: Path, rig: Rig) -> dict[str, int | None]:
    """A user's {"segment": "bone"}; a bone of null means: place that joint."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the mapping {path}: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"the mapping {path} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f'the mapping {path} must be one object {{"segment": "bone", ...}}')
    if unknown := sorted(set(content) - set(SEGMENTS)):
        raise InputError(
            f"the mapping {path} names unknown segments {', '.join(unknown)}; "
            f"known are {', '.join(SEGMENTS)}"
        )
    wrong = {s: b for s, b in content.items() if b is not None and b not in rig.bones}
    if wrong:
        raise InputError(
            f"the mapping {path} names bones that {rig.name} does not have: "
            f"{', '.join(map(str, wrong.values()))}; it has {', '.join(rig.bones)}"
        )
    named = [bone for bone in content.values() if bone is not None]
    if twice := sorted({bone for bone in named if named.count(bone) > 1}):
        raise InputError(f"the mapping {path} gives {', '.join(twice)} to more than one segment")
    return {s: None if b is None else rig.bones.index(b) for s, b in content.items()}
