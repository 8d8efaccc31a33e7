"""Public orders of key points as their data sets publish them, and what a missing place is made of.

Names only; what a name marks on our body is the business of `skeleton.JOINT_SETS`. Sources: COCO (Lin
et al. 2014), LSP (Johnson & Everingham 2010), MPII (Andriluka et al. 2014), PoseTrack (Andriluka et al.
2018), OpenPose (Cao et al. 2019), MPI-INF-3DHP (Mehta et al. 2017; the 17 joints of its test set).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

COCO = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow "
    "left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle"
)
LSP = (
    "right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow "
    "right_shoulder left_shoulder left_elbow left_wrist neck head_top"
)
MPII = (
    "right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck head_top "
    "right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist"
)
POSETRACK = (
    "nose head_bottom head_top left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow "
    "left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle"
)
_OPENPOSE_ARMS = (
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist"
)
_OPENPOSE_LEGS = "right_hip right_knee right_ankle left_hip left_knee left_ankle"
_OPENPOSE_FACE = "right_eye left_eye right_ear left_ear"
OPENPOSE_18 = f"{_OPENPOSE_ARMS} {_OPENPOSE_LEGS} {_OPENPOSE_FACE}"
BODY_25 = (
    f"{_OPENPOSE_ARMS} mid_hip {_OPENPOSE_LEGS} {_OPENPOSE_FACE} left_big_toe left_small_toe left_heel "
    "right_big_toe right_small_toe right_heel"
)
MPI_INF_3DHP = (
    "head_top neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
    "right_hip right_knee right_ankle left_hip left_knee left_ankle pelvis spine head"
)

KNEES = "left_hip-left_knee left_ankle-left_knee right_hip-right_knee right_ankle-right_knee"
"""Where nothing of the face is marked: a bent knee stands before the line from hip to ankle."""

_BONES = "hip-knee knee-ankle shoulder-elbow elbow-wrist ankle-heel ankle-big_toe ankle-small_toe"


_OPENPOSE_TRUNK = (
    "neck-nose nose-right_eye nose-left_eye right_eye-right_ear left_eye-left_ear "
    "neck-right_shoulder neck-left_shoulder"
)
TRUNKS = {
    "coco17": "nose-left_eye nose-right_eye left_eye-left_ear right_eye-right_ear "
    "left_shoulder-right_shoulder left_hip-right_hip left_shoulder-left_hip right_shoulder-right_hip",
    "lsp14": "head_top-neck neck-left_shoulder neck-right_shoulder neck-left_hip neck-right_hip",
    "mpii16": "head_top-upper_neck upper_neck-thorax thorax-pelvis thorax-left_shoulder "
    "thorax-right_shoulder pelvis-left_hip pelvis-right_hip",
    "posetrack17": "head_top-nose nose-head_bottom head_bottom-left_shoulder "
    "head_bottom-right_shoulder left_shoulder-left_hip right_shoulder-right_hip left_hip-right_hip",
    "openpose18": f"{_OPENPOSE_TRUNK} neck-right_hip neck-left_hip",
    "body25": f"{_OPENPOSE_TRUNK} neck-mid_hip mid_hip-right_hip mid_hip-left_hip",
    "mpi_inf_3dhp17": "pelvis-spine spine-neck neck-head head-head_top pelvis-right_hip "
    "pelvis-left_hip neck-right_shoulder neck-left_shoulder",
}
"""Bones of head and trunk; those of the limbs are the same everywhere (`bones`)."""


def bones(names: Collection[str], trunk: str) -> str:
    """The bones of both sides whose ends are among the names, after those of the `trunk`."""
    pairs = (bone.split("-") for bone in _BONES.split())
    limbs = [
        f"{side}_{start}-{side}_{end}"
        for start, end in pairs
        for side in ("right", "left")
        if f"right_{start}" in names and f"right_{end}" in names
    ]
    return " ".join([trunk, *limbs])


MADE_OF: Mapping[str, tuple[Mapping[str, float], ...]] = {
    "pelvis": ({"left_hip": 0.5, "right_hip": 0.5},),
    "neck": ({"left_shoulder": 0.5, "right_shoulder": 0.5},),
    "spine2": ({"pelvis": 0.5, "neck": 0.5},),
    "head": ({"nose": 1.0}, {"neck": 0.5, "head_top": 0.5}),
    "head_top": ({"head": 2.0, "neck": -1.0},),
    "nose": ({"head": 1.0},),
}
"""What stands in for a place that a joint set does not mark, the first that can be had.

Means, and Kudo et al.'s constructions from OpenPose's points: their head top is
thorax + 2 (nose - thorax), so Human3.6M's "nose" (our head joint) is half way from neck to head top.
"""


def mixture(place: str, known: Collection[str], asked: tuple[str, ...] = ()) -> dict[str, float]:
    """Shares of known places that make up `place`; empty where nothing does."""
    if place in known:
        return {place: 1.0}
    for parts in MADE_OF.get(place, ()):
        if any(part in (*asked, place) for part in parts):
            continue
        made = {part: mixture(part, known, (*asked, place)) for part in parts}
        if all(made.values()):
            total: dict[str, float] = {}
            for part, share in parts.items():
                for basis, amount in made[part].items():
                    total[basis] = total.get(basis, 0.0) + share * amount
            return total
    return {}
