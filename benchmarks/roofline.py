"""What each stage could do at most on this machine, and what it does: the table of docs/performance.md.

Operations and bytes are counted by hand (the page says how); the limits are the matrix product and the
copy that the group `machine` measured on the same machine, on all threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deformlearn.config import PRESETS
from learning_speed import backbone_gflop, head_mflop, lifter_mflop
from table import markdown_table, number

ADAM_STEP = 0.24
"""MFLOP of one Adam step of a person: 24 segments, 24 joints and 128 points, forward and backward."""

NEWTON_STEP, NEWTON_STEPS = 4.0, 13
"""MFLOP of one Gauss-Newton step of the 99 unknowns, and about how many a person needs."""


@dataclass(frozen=True)
class Stage:
    """One item of work of a stage (a person, an image, a body), counted by hand."""

    name: str
    metric: str
    """The measured rate, in items a second: the beginning of its name."""
    mflop: float
    """Millions of multiplications and additions for an item."""
    megabytes: float
    """Millions of bytes that an item must move to and from memory at least."""
    precision: str = "float32"


def stages() -> list[Stage]:
    """The counts; `docs/performance.md` derives them."""
    laptop, paper = PRESETS["laptop"].run.regressor, PRESETS["paper"].run.regressor
    thin, thick = backbone_gflop(laptop) * 1e3, backbone_gflop(paper) * 1e3
    return [
        Stage("registration, 150 Adam steps", "150 Adam steps, ours", 150 * ADAM_STEP, 0.01),
        Stage("registration, as it comes", "as it comes", NEWTON_STEPS * NEWTON_STEP, 0.01),
        # Weights are read once a batch of 256; what stays is the pose itself.
        Stage("lifter, width 256", "lifter, width 256", lifter_mflop(256), 0.01),
        # Backward costs twice the forward pass: once for the inputs and once for the weights.
        Stage("training, laptop", "training, laptop", 3 * thin, 3 * 96 * 96 / 1e6, "bfloat16"),
        Stage("training, paper", "training, paper", 3 * thick, 3 * 224 * 224 / 1e6, "bfloat16"),
        # The head alone, three times its forward pass; a row of features is read, its labels too.
        Stage("head-only phase", "head-only phase", 3 * head_mflop(laptop), 0.004),
        Stage("prediction, laptop", "prediction, laptop", thin, 3 * 96 * 96 / 1e6, "bfloat16"),
        Stage("prediction, paper", "prediction, paper", thick, 3 * 224 * 224 / 1e6, "bfloat16"),
        # As skinning; the mesh is written once, and the true one read.
        Stage(
            "evaluation, with meshes", "evaluation", 13718 * 1.6 * 24 / 1e6, 2 * 13718 * 12 / 1e6
        ),
        # 512 x 512 samples of some 30 float32 numbers, each written and read twice, on one core of all.
        Stage("synthetic, 256 px", "synthetic people, 256 px", 0, 4 * 512 * 512 * 30 * 4 / 1e6),
        # 13,718 vertices, each moved by 1.6 bones of 3 x 4 numbers; vertices and the map once.
        Stage("skinning, full mesh", "skinning", 13718 * 1.6 * 24 / 1e6, 13718 * 12 / 1e6),
        # 128 points of 7 numbers and 24 joints of 3: read, unpacked and padded.
        Stage("Parquet in", "Parquet: read observations", 0, 3 * (128 * 7 + 24 * 3) * 4 / 1e6),
        # 256 x 256 x 3 bytes decoded, read again to be resized, and 224 x 224 x 3 written.
        Stage("pictures, 256 px JPEG", "pictures, 256 px", 0, 3 * (2 * 256**2 + 224**2) / 1e6),
        Stage("Parquet out", "Parquet: write estimates", 0, 3 * 120 * 4 / 1e6),
    ]


def latest(folder: Path) -> list[dict[str, Any]]:
    """What was last measured of everything on each kind of machine, newest first.

    Groups that were run one by one lie in files of their own, or in one that holds them all
    (`experiment.py collect`). A machine that lacks its limits or registration is left out.
    """
    results = sorted(_results(folder), key=lambda one: one["time"], reverse=True)
    kinds: dict[str, dict[str, Any]] = {}
    for kept in results:
        kind = kinds.setdefault(kept["kind"], {"kind": kept["kind"], "measured": {}})
        for one in kept["measured"]:
            kind["measured"].setdefault(one["metric"], (one["value"], kept["commit"]))
    return [kind for kind in kinds.values() if _suffices(" ".join(kind["measured"]))]


def _results(folder: Path) -> Iterator[dict[str, Any]]:
    """Every result of `run.py` in a folder and those in it, with its time or at least its day."""
    for path in sorted(folder.rglob("*.json")):
        found = json.loads(path.read_text())
        several = {path.stem: found} if "measured" in found else found
        for name, one in several.items():
            # The oldest say neither machine nor commit.
            if isinstance(one, dict) and {"measured", "kind", "commit"} <= one.keys():
                yield {"time": name[: len("2026-01-31")], **one}


def _suffices(metrics: str) -> bool:
    return "machine: copy" in metrics and "150 Adam steps, ours" in metrics


def tables(folder: Path) -> str:
    """The roofline of every machine of which there are results."""
    found = [markdown(kept) for kept in latest(folder)]
    if not found:
        raise SystemExit(
            f"no results of the groups machine and registration of one kind of machine in {folder}; "
            f"run `python benchmarks/run.py` first"
        )
    return "\n\n".join(found)


def markdown(kept: dict[str, Any]) -> str:
    """The roofline of one machine."""
    measured = {metric: value for metric, (value, _) in kept["measured"].items()}
    peaks = {name: measured[f"machine: matrix product, {name}"] for name in ("float32", "bfloat16")}
    copy = measured["machine: copy, read + written"]
    used = dict.fromkeys(
        commit for metric, (_, commit) in kept["measured"].items() if metric.startswith("machine: ")
    )
    rows = []
    for stage in stages():
        name = next((name for name in measured if _names(stage.metric, name)), None)
        rate = None if name is None else measured[name]
        if name is not None:
            used[kept["measured"][name][1]] = None
        by_flop = peaks[stage.precision] * 1e3 / stage.mflop if stage.mflop else float("inf")
        by_byte = copy * 1e3 / stage.megabytes
        limit = min(by_flop, by_byte)
        rows.append(
            [
                stage.name,
                number(stage.mflop),
                number(stage.megabytes),
                f"{number(limit)} ({'arithmetic' if by_flop < by_byte else 'memory'})",
                "not measured" if rate is None else number(rate),
                "" if rate is None else f"{rate / limit:.1%}",
            ]
        )
    headings = ["stage", "MFLOP / item", "MB / item", "limit, items/s", "measured", "share"]
    head = (
        f"{kept['kind']}, commit {', '.join(used)}: {number(peaks['float32'])} GFLOP/s float32, "
        f"{number(peaks['bfloat16'])} bfloat16, {number(copy)} GB/s\n\n"
    )
    if kept["kind"].endswith("miniature"):
        head += "(At miniature size networks are smaller than those counted: no share means anything.)\n\n"
    return head + markdown_table(headings, rows)


def _names(wanted: str, metric: str) -> bool:
    """Whether a metric is the rate that a stage asks for: by its start, or by its last part."""
    if "share of" in metric or "times" in metric:
        return False
    return metric.startswith(wanted) or metric.endswith(f": {wanted}")
