"""Which bone begins which segment, read from the bones' names.

Rigs agree on words, not on spelling or meaning: "LeftArm" is the upper arm for Mixamo, and three bones
are called "arm" elsewhere; "shoulder" is a collar bone where there is an arm below it and the upper
arm where there is none. So each name becomes a word and a side, each word has a taste for some
segments, and along each limb the assignment with the best total taste wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from deformlearn.rigs.tree import Tree

ARM = ("collar", "shoulder", "elbow", "wrist", "hand")
LEG = ("hip", "knee", "ankle", "foot")

_LIMB_WORDS = (
    # pattern in the name without side, numbers and separators; word. The first that fits counts.
    (r"metacarpal", ""), (r"thumb", "thumb"), (r"middle|mid$", "middle finger"), (r"index", "index finger"),
    (r"ring", "ring finger"), (r"pinky|pinkie|little", "little finger"), (r"finger", "finger"),
    (r"forearm|lowerarm|lowarm|armlower|armlow|elbow", "forearm"),
    (r"upperarm|uparm|armupper|armup|shldr|bicep|humerus", "upper arm"),
    (r"clav|collar", "collar"), (r"shoulder", "shoulder"),
    (r"wrist", "wrist"), (r"hand|palm", "hand"), (r"arm", "arm"),
    (r"thigh|upleg|upperleg|legupper|legup|femur", "thigh"),
    (r"shin|calf|lowerleg|lowleg|leglower|leglow|knee|tibia", "shin"),
    (r"ankle", "ankle"), (r"toe|ball", "toe"), (r"foot|feet", "foot"),
    (r"leg", "leg"), (r"hip", "hip"),
)  # fmt: skip

_TRUNK_WORDS = (
    (r"headtop", ""), (r"head|skull", "head"), (r"neck", "neck"),
    (r"hip|pelvis", "pelvis"),
)  # fmt: skip

_TASTES = {
    "collar": {"collar": 2.0}, "shoulder": {"collar": 1.0, "shoulder": 0.9},
    "upper arm": {"shoulder": 2.0},
    "arm": {"collar": 0.1, "shoulder": 1.0, "elbow": 0.4, "wrist": 0.3, "hand": 0.1},
    "forearm": {"elbow": 2.0}, "wrist": {"wrist": 1.4}, "hand": {"wrist": 1.0, "hand": 0.6},
    "middle finger": {"hand": 1.0}, "index finger": {"hand": 0.9}, "ring finger": {"hand": 0.8},
    "little finger": {"hand": 0.7}, "finger": {"hand": 0.75},
    "thigh": {"hip": 2.0}, "hip": {"hip": 1.6}, "shin": {"knee": 2.0},
    "leg": {"hip": 0.9, "knee": 0.9, "ankle": 0.3, "foot": 0.1},
    "ankle": {"ankle": 2.0}, "foot": {"ankle": 1.0, "foot": 0.6}, "toe": {"foot": 2.0},
}  # fmt: skip
"""How well a word fits a segment. A hand and its fingers fit better than a lone wrist: a corrective."""

_NEEDED = {"shoulder", "elbow", "wrist", "hip", "knee", "ankle"}
_NEED = 0.5
"""Added where a segment that no body can do without is filled."""

_HELPERS = {
    "ik", "fk", "pole", "target", "ctrl", "control", "helper", "nub", "end", "tip", "twist", "roll",
    "jiggle", "breast", "bust", "skirt", "hair", "cloth", "weapon", "prop", "socket", "share", "dummy",
    "mch", "wgt", "sec", "adj", "heel", "sleeve", "corrective", "muscle", "eye", "jaw",
    "bone", "effector",
}  # fmt: skip
"""Words of bones that help others, or hang on them."""

_FINGER_NUMBER = re.compile(r"finger[ _.-]?(\d)")

_SIDES = {
    "l": "left",
    "left": "left",
    "lft": "left",
    "r": "right",
    "right": "right",
    "rgt": "right",
}


def limbs_by_name(names: Sequence[str], tree: Tree) -> dict[str, int]:
    """Segment -> bone for the segments of arms and legs whose bones' names say so."""
    thumb = thumb_number(names)
    read = [_read(name, thumb) for name in names]
    found: dict[str, int] = {}
    for side in ("left", "right"):
        for limb in (ARM, LEG):
            tastes = {
                bone: {s: t for s, t in _TASTES[word].items() if s in limb}
                for bone, (of_side, word) in enumerate(read)
                if of_side == side and word in _TASTES and tree.skinned[bone]
            }
            for segment, bone in _best_line(tastes, limb, tree).items():
                found[f"{side}_{segment}"] = bone
    return found


def trunk_word(name: str) -> str:
    """What a bone of the midline calls itself: head, neck, pelvis, or nothing of these."""
    side, _, tokens = _split(name)
    if side or _HELPERS & set(tokens):
        return ""
    joined = "".join(tokens)
    return next((word for pattern, word in _TRUNK_WORDS if re.search(pattern, joined)), "")


def thumb_number(names: Sequence[str]) -> int:
    """The number of the thumb where fingers are counted: 0 for biped, 1 for MakeHuman."""
    counted = [_FINGER_NUMBER.search(name.lower()) for name in names]
    return 0 if any(found and found[1] == "0" for found in counted) else 1


def is_finger(name: str, thumb: int = 1) -> bool:
    """A finger that bends with the hand: not the thumb, which is finger number `thumb`."""
    return _read(name, thumb)[1].endswith("finger")


def is_toe(name: str) -> bool:
    return _read(name)[1] == "toe"


def _read(name: str, thumb: int = 1) -> tuple[str, str]:
    """Side and word of a bone of a limb; an empty word where it is none, or only helps one."""
    side, _, tokens = _split(name)
    if not side or _HELPERS & set(tokens):
        return side, ""
    joined = "".join(tokens)
    word = next((word for pattern, word in _LIMB_WORDS if re.search(pattern, joined)), "")
    number = _FINGER_NUMBER.search(name.lower())
    if word == "finger" and number:
        word = {thumb: "thumb", thumb + 2: "middle finger"}.get(int(number[1]), "finger")
    return side, word


def _split(name: str) -> tuple[str, list[str], list[str]]:
    """Side, numbers and lower-case words of a name, without its name space."""
    last = re.split(r"[:|]", name)[-1]
    parts = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+", last)
    tokens = [part.lower() for part in parts if not part.isdigit()]
    numbers = [part for part in parts if part.isdigit()]
    sides = [token for token in tokens if token in _SIDES]
    if sides:
        tokens = [token for token in tokens if token not in _SIDES]
        return _SIDES[sides[0]], numbers, tokens
    for index, token in enumerate(tokens):  # "leftupleg", "upleg_left" without a break
        for side in ("left", "right"):
            if token != side and (token.startswith(side) or token.endswith(side)):
                tokens[index] = token.removeprefix(side).removesuffix(side)
                return side, numbers, tokens
    return "", numbers, tokens


def _best_line(
    tastes: Mapping[int, Mapping[str, float]], limb: tuple[str, ...], tree: Tree
) -> dict[str, int]:
    """The assignment of bones, each below the one before, to segments in order, of best total."""
    best: dict[tuple[int, str], tuple[float, dict[str, int]]] = {}
    winner: tuple[float, dict[str, int]] = (0.0, {})
    for bone in sorted(tastes):  # parents come first, so that of equals the uppermost wins
        above = set(tree.upwards(bone)[1:])
        for segment, taste in tastes[bone].items():
            start: tuple[float, dict[str, int]] = (0.0, {})
            for (other, before), line in best.items():
                earlier = limb.index(before) < limb.index(segment)
                if other in above and earlier and line[0] > start[0]:
                    start = line
            total = start[0] + taste + (_NEED if segment in _NEEDED else 0)
            best[bone, segment] = (total, {**start[1], segment: bone})
            if total > winner[0] + 1e-9:
                winner = best[bone, segment]
    return winner[1]
