"""Writes docs/joint_sets.md from the joint sets themselves: python docs/make_joint_sets.py"""

from collections.abc import Mapping
from pathlib import Path

import torch

from deformlearn.joint_orders import MADE_OF
from deformlearn.skeleton import JOINT_SETS, JointSet, convert_keypoints

PAGE = Path(__file__).parent / "joint_sets.md"

USED_BY = {
    "smpl24": "SMPL bodies, 3DPW",
    "skeleton25": "our synthetic people: SMPL's joints and the top of the head",
    "h36m17": "Human3.6M as Martinez et al. order it; the poses that a lifter is trained on",
    "h36m17_left_first": "Human3.6M as SPIN orders it",
    "mpi_inf_3dhp17": "MPI-INF-3DHP's test set",
    "coco17": "COCO key points, DensePose-COCO",
    "lsp14": "Leeds Sports Pose",
    "mpii16": "MPII Human Pose",
    "posetrack17": "PoseTrack, DensePose-PoseTrack (by the names in `categories`)",
    "openpose18": "OpenPose's COCO body (54 numbers a person)",
    "body25": "OpenPose's BODY_25 (75 numbers a person)",
}

INTRODUCTION = """# Joint sets

A joint set is the list of key points of a data set: their order, and what each one marks on the body.
Data sets disagree about the second as much as about the first. COCO's annotators clicked hips on the
outside of the body, a skeleton has them inside; "head" is the top of the head in Human3.6M and a joint
in SMPL. So every key point names a *landmark*: `left_hip` is the body model's joint, `coco_left_hip` the
point that annotators click, and a template carries both. Fitting compares like with like; nothing is
renamed.

This page is written by `python docs/make_joint_sets.py`; a test compares it with the code.
"""

CONVERSION = """## From one set to another

A lifter trained on poses of one set serves observations of every other: key points at the same *place*
are taken over (an annotator's limb point stands for the joint beside it), and missing places are made as
Kudo et al. (2018) made Human3.6M's from OpenPose's. Human3.6M's thorax, MPII's and LSP's neck are the
place `neck`; Human3.6M's nose, MPII's upper neck and PoseTrack's head bottom the place `head`; spines
`spine2`.

{made}
A point is worth as much as the least of those it is made of. How many of the key points of a set (row)
can be had of another (column):

"""


def page() -> str:
    """The whole page."""
    parts = [
        INTRODUCTION,
        "## The sets\n",
        _overview(),
        CONVERSION.format(made=_made()) + _conversions(),
        "\n## Landmarks\n",
    ]
    parts += [_table(joints) for joints in JOINT_SETS.values()]
    return "\n".join(parts)


def _overview() -> str:
    rows = [
        f"| `{joints.name}` | {len(joints)} | {USED_BY[joints.name]} | {', '.join(joints.root)} |"
        for joints in JOINT_SETS.values()
    ]
    header = ["| name | key points | used by | root: mean of |", "|---|---|---|---|"]
    return "\n".join([*header, *rows, ""])


def _made() -> str:
    rows = [
        f"| `{place}` | {', else '.join(_sum(parts) for parts in options)} |"
        for place, options in MADE_OF.items()
    ]
    return "\n".join(["| missing place | made of |", "|---|---|", *rows, ""])


def _sum(parts: Mapping[str, float]) -> str:
    return " + ".join(f"{share:g} {place}" for place, share in parts.items()).replace("+ -", "- ")


def _conversions() -> str:
    names = list(JOINT_SETS)
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for target in JOINT_SETS.values():
        counts = [str(_reached(source, target)) for source in JOINT_SETS.values()]
        lines.append(f"| **{target.name}** ({len(target)}) | {' | '.join(counts)} |")
    return "\n".join([*lines, ""])


def _reached(source: JointSet, target: JointSet) -> int:
    """Key points of `target` that can be had of a person whose every key point of `source` is seen."""
    count = len(source)
    _, weights = convert_keypoints(torch.zeros(1, count, 2), torch.ones(1, count), source, target)
    return int((weights > 0).sum())


def _table(joints: JointSet) -> str:
    rows = [
        f"| {number} | {name} | `{landmark}` |"
        for number, (name, landmark) in enumerate(zip(joints.names, joints.landmarks, strict=True))
    ]
    return "\n".join(
        [f"### {joints.name}\n", "| | key point | landmark |", "|---|---|---|", *rows, ""]
    )


if __name__ == "__main__":
    PAGE.write_text(page())
