"""Evaluation protocols as values: which rows, which joints, which root, what is measured, which mean.

"Protocol #1" means three things in print, and "#2" three others: Martinez et al. 2017 count
alignments (#1 root, #2 Procrustes, #3 scale) on 17 joints of all cameras; HMR counts selections (P1 all
cameras and trials, P2 the frontal camera and first trial) on 14 joints; SPIN and its followers take
every fifth frame of HMR's and average over frames. All train on S1 S5 S6 S7 S8 and test on S9 S11
(docs/decisions/0015).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from deformlearn.data.h36m_metadata import ACTIONS, CAMERAS, CORRUPT, TRIALS, parse_key
from deformlearn.data.shards import People
from deformlearn.errors import InputError
from deformlearn.skeleton import SEGMENTS, joint_set

MEASURES = {
    "raw": "MPJPE (mm) after moving the roots together; the prediction's own size",
    "bone_sum": "MPJPE (mm), root-aligned, after scaling the 16 bones to the canonical sum",
    "zhou": "MPJPE (mm) of Zhou et al.'s 16 joints, after scaling their 14 bones to the constant sum",
    "true_size": "MPJPE (mm), root-aligned, after scaling the 16 bones to the truth's sum",
    "scaled": "N-MPJPE (mm), root-aligned, after the best scale",
    "aligned": "PA-MPJPE (mm) after the best rotation, scale and shift (Procrustes)",
    "pck": "joints within 150 mm, root-aligned (%; more is better)",
    "auc": "mean share of joints within 0, 5, ... 150 mm, root-aligned (%; a perfect one has 96.8)",
    "aligned_pck": "joints within 150 mm after Procrustes (%; more is better)",
    "aligned_auc": "mean share within 0, 5, ... 150 mm after Procrustes (%; a perfect one has 96.8)",
    "vertices": "PVE (mm): mean over all vertices of the mesh, root-aligned",
}
"""What can be measured, and what the number means."""

H36M17 = joint_set("h36m17").landmarks
"""Human3.6M's 17 joints as landmarks of a template."""

LSP14 = tuple(
    "right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow "
    "right_shoulder left_shoulder left_elbow left_wrist neck head_top".split()
)
"""The 14 joints HMR and its followers score; on Human3.6M the neck is its thorax, the top its head."""

ZHOU_JOINTS = (3, 2, 1, 4, 5, 6, 0, 7, 8, 10, 16, 15, 14, 11, 12, 13)
"""Zhou et al.'s 16 joints among Human3.6M's 17 (right leg first), in MPII's order."""

ZHOU_BONES = (
    (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (10, 11), (11, 12), (12, 8), (8, 13), (13, 14),
    (14, 15), (6, 8), (8, 9),
)  # fmt: skip
"""The bones their sum is taken over."""

ZHOU_ROOT, ZHOU_SPINE, ZHOU_THORAX = 6, 7, 8
"""The spine is scored where it should be: midway between root and thorax."""

ZHOU_SUM_MM = 4296.99233013
"""The sum they scale to. It comes from Human3.6M's 3D labels, unlike our canonical sum."""

_LAB = ("raw", "bone_sum", "zhou", "true_size", "scaled", "aligned", "vertices")
_SIZED = ("raw", "bone_sum", "true_size", "aligned", "vertices")
_HITS = ("pck", "auc", "aligned_pck", "aligned_auc")


@dataclass(frozen=True)
class Protocol:
    """One way of turning estimates into a number. Empty selections mean all there are."""

    name: str
    origin: str
    """Whose protocol it is."""
    headline: str
    """The measure that is quoted."""
    landmarks: tuple[str, ...]
    """The joints that are scored."""
    root: tuple[str, ...]
    """Poses are relative to the mean of these."""
    measures: tuple[str, ...]
    """Everything that is printed beside it."""
    subjects: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    trials: tuple[int, ...] = ()
    every: int = 1
    """Every n-th frame of a video, from its first."""
    mean: Literal["actions", "people"] = "actions"
    """actions: over the people of an action, then over the actions; people: over all alike."""

    def rows(self, people: People) -> list[int]:
        """The rows that are scored; none is an InputError."""
        chosen = [row for row in range(len(people)) if self._takes(people, row)]
        if not chosen:
            raise InputError(
                f"protocol {self.name} scores {self.selection()}; this data set has none of it "
                f"(subjects {_some(people.subjects)}; cameras {_some(people.cameras)})"
            )
        return chosen

    def absent(self, people: People) -> tuple[str, ...]:
        """What the protocol scores and the data set lacks: subjects, actions and cameras that are nowhere,
        then videos of those that are there.
        """
        wanted = (
            (self.subjects, people.subjects),
            (self.actions, people.actions),
            (self.cameras, people.cameras),
        )
        if not all(names for names, _ in wanted):
            return ()
        found = [(names, set(there)) for names, there in wanted]
        nowhere = [name for names, there in found for name in names if name not in there]
        parsed = [one[0] for key in people.keys if (one := parse_key(key))]
        # Trials are told by keys alone; keys that tell none leave them unchecked.
        told = len(parsed) == len(people)
        trials = (self.trials or TRIALS) if told else (0,)
        of_each = parsed if told else [0] * len(people)
        there = set(zip(people.subjects, people.actions, people.cameras, of_each, strict=True))
        known = ([name for name in names if name not in nowhere] for names, _ in wanted)
        missing = [
            f"{subject} {action}{f' {trial}' if trial else ''} {camera}"
            for subject, action, camera, trial in product(*known, trials)
            if (subject, action, camera, trial) not in there
            and (subject, action, camera) != CORRUPT
        ]
        return (*nowhere, *missing)

    def step(self, people: People, rows: Sequence[int]) -> int | None:
        """Every how many frames of a video one of these rows comes (0: the first alone), if keys tell."""
        parsed = [parse_key(people.keys[row]) for row in rows]
        return math.gcd(*(one[1] for one in parsed if one)) if all(parsed) else None

    def selection(self) -> str:
        """Which rows, in words."""
        parts = [
            f"subjects {' '.join(self.subjects)}" if self.subjects else "all subjects",
            f"cameras {' '.join(self.cameras)}" if self.cameras else "all cameras",
        ]
        if self.trials:
            parts.append(f"trial {' '.join(map(str, self.trials))} of each action")
        parts.append("every frame" if self.every == 1 else f"every {self.every}th frame")
        return ", ".join(parts)

    def _takes(self, people: People, row: int) -> bool:
        kept = (
            (not self.subjects or people.subjects[row] in self.subjects)
            and (not self.actions or people.actions[row] in self.actions)
            and (not self.cameras or people.cameras[row] in self.cameras)
        )
        if not kept or not (self.trials or self.every > 1):
            return kept
        parsed = parse_key(people.keys[row])
        if parsed is None:
            raise InputError(
                f"protocol {self.name} selects trials or frames, which are told by keys like "
                f"'S9_Directions_1.60457274_000005'; this data set has {people.keys[row]!r}"
            )
        trial, frame = parsed
        return (not self.trials or trial in self.trials) and frame % self.every == 0


def _some(names: list[str]) -> str:
    found = sorted(set(names))
    return ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") or "unnamed"


def _human36m(name: str, origin: str, headline: str, **options) -> Protocol:
    given = {"landmarks": H36M17, "root": ("pelvis",), "measures": _LAB, "cameras": CAMERAS}
    return Protocol(
        name, origin, headline, subjects=("S9", "S11"), actions=ACTIONS, **(given | options)
    )


_FRONTAL = {"cameras": CAMERAS[3:]}
_HMR = {"landmarks": LSP14, "root": ("left_hip", "right_hip"), "measures": _SIZED}
_SPIN = {"landmarks": LSP14, "measures": _SIZED, "every": 5, "mean": "people"}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _human36m("h36m-1", "Martinez et al. #1, scaled as in the paper's Table 1", "bone_sum"),
        _human36m("h36m-1-zhou", "the same rows, sized as Zhou et al. 2017 do", "zhou"),
        _human36m("h36m-2", "Martinez et al. #2 (P-MPJPE)", "aligned"),
        _human36m("h36m-3", "Martinez et al. #3 (N-MPJPE)", "scaled"),
        _human36m("hmr-1", "HMR's P1", "raw", **_HMR),
        _human36m("hmr-2", "HMR's P2", "aligned", trials=(1,), **(_HMR | _FRONTAL)),
        _human36m("spin-1", "P1 of SPIN, DecoMR, mmhuman3d", "raw", **_SPIN),
        _human36m("spin-2", "P2 of SPIN, DecoMR, mmhuman3d", "aligned", **(_SPIN | _FRONTAL)),
        Protocol(
            "mpi-inf-3dhp", "Mehta et al. 2017: 14 joints, PCK at 150 mm and AUC", "pck",
            LSP14, ("pelvis",), (*_HITS, "raw", "bone_sum", "aligned"), mean="people",
        ),
        Protocol(
            "3dpw", "the 3DPW challenge: SMPL's 24 joints", "aligned",
            tuple(SEGMENTS), ("pelvis",), ("raw", "bone_sum", "aligned", "vertices"), mean="people",
        ),
        Protocol(
            "3dpw-14", "SPIN on 3DPW: 14 joints, which need a top of the head", "aligned",
            LSP14, ("pelvis",), ("raw", "bone_sum", "aligned", "vertices"), mean="people",
        ),
    )
}  # fmt: skip
"""Every protocol known by name."""


def protocol(name: str) -> Protocol:
    """The protocol called `name`; an unknown name is an InputError that lists the known ones."""
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}; known are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
