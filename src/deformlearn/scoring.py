"""Estimates to the numbers of a protocol, with all a reader must know to compare them (section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.body import BodyTemplate, skin
from deformlearn.data.shards import People
from deformlearn.data.truth import Truth
from deformlearn.errors import InputError, listed
from deformlearn.estimate import Estimate
from deformlearn.evaluation import (
    PROTOCOL_JOINTS,
    canonical_mm,
    mean_over_actions,
    means_by_action,
    vertex_errors,
)
from deformlearn.metrics import bone_sum, procrustes
from deformlearn.protocols import (
    H36M17,
    MEASURES,
    ZHOU_BONES,
    ZHOU_JOINTS,
    ZHOU_ROOT,
    ZHOU_SPINE,
    ZHOU_SUM_MM,
    ZHOU_THORAX,
    Protocol,
)
from deformlearn.skeleton import joint_set
from deformlearn.tensors import TensorData

_AUC_MM = tuple(5.0 * step for step in range(31))
"""Limits of the area under the curve of MPI-INF-3DHP's own evaluation."""


@dataclass(frozen=True)
class ProtocolScores:
    """The numbers of one protocol, and all a reader must know to compare them."""

    protocol: Protocol
    data: str
    values: dict[str, float]
    """By measure, the protocol's mean of it; measures the truth has no joints for are left out."""
    by_action: dict[str, dict[str, float]]
    """The same and the number of people for each action."""
    people: int
    absent: tuple[str, ...]
    """Subjects, actions, cameras and videos the protocol wants and the data set lacks."""
    step: int | None
    """Every how many frames one is scored (0: the first alone); None where keys do not tell."""
    canonical_mm: float

    @property
    def headline(self) -> float:
        """The number that is quoted."""
        return self.values[self.protocol.headline]

    def record(self) -> dict:
        """Plain numbers for a metrics file."""
        return {**asdict(self), "protocol": self.protocol.name}

    def lines(self) -> list[str]:
        """The protocol card as `name: value` lines, each number with what it means."""
        protocol = self.protocol
        means = {"actions": "over the people of an action, then over the actions"}
        said = [
            f"protocol: {protocol.name} ({protocol.origin})",
            f"data: {self.data}",
            f"rows: {protocol.selection()}: {self.people} people",
            f"joints: {len(protocol.landmarks)}: {' '.join(protocol.landmarks)}",
            f"root: {' and '.join(protocol.root)}; both poses relative to it",
            f"mean: {means.get(protocol.mean, 'over all people alike')}",
            f"canonical sum: {self.canonical_mm:.0f} mm (the template's own); Zhou's constant "
            f"{ZHOU_SUM_MM:.0f} mm",
        ]
        if self.absent:
            said.append(f"INCOMPLETE, not comparable: the data lack {listed(self.absent, 24)}")
        if self.step is not None and self.step != protocol.every:
            scored = f"every {self.step}th frame" if self.step else "the first frame"
            wanted = "every frame" if protocol.every == 1 else f"every {protocol.every}th"
            said.append(f"THINNED: only {scored} of a video is scored; the protocol takes {wanted}")
        for name in protocol.measures:
            mark = "* " if name == protocol.headline else "  "
            number = (
                f"{self.values[name]:.1f}" if name in self.values else "unknown (no truth for it)"
            )
            said.append(f"{mark}{name}: {number}: {MEASURES[name]}")
        return said


@dataclass(frozen=True, eq=False)
class Measured(TensorData):
    """Each measure of a protocol that the truth allows, for each person."""

    names: tuple[str, ...]
    values: Float[Tensor, "people measures"]
    """Millimetres, or per cent."""


def score_protocol(
    protocol: Protocol,
    template: BodyTemplate,
    estimate: Estimate,
    people: People,
    truth: Truth,
    *,
    data: str = "",
) -> ProtocolScores:
    """What a protocol says of estimates of a split's people, whose truth is in the same order.

    The truth needs the protocol's own joints and roots; measures that need more are left out.
    """
    rows = protocol.rows(people)
    index = torch.tensor(rows).to(estimate.camera.scale.device)
    measured = measure(protocol, template, estimate[index], truth.take(rows))
    return summary(protocol, template, measured, people, rows, data=data)


def summary(
    protocol: Protocol,
    template: BodyTemplate,
    measured: Measured,
    people: People,
    rows: Sequence[int],
    *,
    data: str = "",
) -> ProtocolScores:
    """A protocol's means of what was measured of these rows of a split's people."""
    columns = dict(zip(measured.names, measured.values.unbind(1), strict=True))
    by_action = means_by_action(columns, [people.actions[row] for row in rows])
    if protocol.mean == "actions":
        values = mean_over_actions(by_action, columns)
    else:
        values = {name: value.mean().item() for name, value in columns.items()}
    return ProtocolScores(
        protocol,
        data,
        values,
        by_action,
        len(rows),
        protocol.absent(people),
        protocol.step(people, rows),
        canonical_mm(template),
    )


def measure(
    protocol: Protocol, template: BodyTemplate, estimate: Estimate, truth: Truth
) -> Measured:
    """Each measure of the protocol that this truth allows, person by person, on the CPU.

    Template and estimate are on one device, where the work is done.
    """
    target = _about(protocol, truth.landmark_names, truth.landmarks_mm, protocol.landmarks)
    everything = skin(template, estimate.body, template.landmarks)
    everything = 1000 * everything @ estimate.camera.rotation().mT
    predicted = _about(protocol, template.landmark_names, everything, protocol.landmarks)
    target = target.to(predicted)
    lab = joint_set(PROTOCOL_JOINTS)
    ours = _about(protocol, template.landmark_names, everything, H36M17)
    length = bone_sum(ours, lab)[:, None, None]
    aligned = procrustes(predicted, target)
    best = (predicted * target).sum((1, 2)) / predicted.square().sum((1, 2)).clamp_min(1e-9)
    found = {
        "raw": _distances(predicted, target),
        "bone_sum": _distances(predicted * canonical_mm(template) / length, target),
        "scaled": _distances(predicted * best[:, None, None], target),
        "aligned": _distances(aligned, target),
    }
    hits = {
        "pck": _share_within(found["raw"], (150.0,)),
        "auc": _share_within(found["raw"], _AUC_MM),
        "aligned_pck": _share_within(found["aligned"], (150.0,)),
        "aligned_auc": _share_within(found["aligned"], _AUC_MM),
    }
    columns = {name: distances.mean(1) for name, distances in found.items()} | hits
    if set(H36M17) <= set(truth.landmark_names):
        theirs = _about(protocol, truth.landmark_names, truth.landmarks_mm, H36M17).to(ours)
        sized = predicted * bone_sum(theirs, lab)[:, None, None] / length
        columns["true_size"] = _distances(sized, target).mean(1)
        columns["zhou"] = zhou_error(ours, theirs)
    if truth.vertices_mm is not None and truth.vertices_mm.shape[1] == len(template.vertices):
        columns["vertices"] = vertex_errors(template, estimate, truth.vertices_mm)
    names = tuple(name for name in protocol.measures if name in columns)
    return Measured(names, torch.stack([columns[name] for name in names], 1).cpu())


def zhou_error(
    predicted_mm: Float[Tensor, "people 17 3"], target_mm: Float[Tensor, "people 17 3"]
) -> Float[Tensor, "people"]:
    """Zhou et al.'s MPJPE: 16 joints, the bones' sum scaled to their constant, the spine midway.

    Both in Human3.6M's order, right leg first; the code is xingyizhou/pytorch-pose-hg-3d, eval.py.
    """
    poses = []
    for pose in (predicted_mm, target_mm):
        chosen = pose[:, list(ZHOU_JOINTS)]
        poses.append(chosen - chosen[:, ZHOU_ROOT, None])
    predicted, target = poses
    start, end = (list(ends) for ends in zip(*ZHOU_BONES, strict=True))
    length = (predicted[:, start] - predicted[:, end]).norm(dim=-1).sum(-1)
    predicted = predicted * (ZHOU_SUM_MM / length)[:, None, None]
    spine = (predicted[:, ZHOU_ROOT] + predicted[:, ZHOU_THORAX]) / 2
    predicted = predicted.index_copy(
        1, torch.tensor([ZHOU_SPINE], device=predicted.device), spine[:, None]
    )
    return _distances(predicted, target).mean(1)


def _about(
    protocol: Protocol, names: Sequence[str], landmarks_mm: Tensor, wanted: Sequence[str]
) -> Float[Tensor, "people wanted 3"]:
    """Landmarks by name, relative to the protocol's root."""
    missing = [name for name in (*wanted, *protocol.root) if name not in names]
    if missing:
        raise InputError(
            f"the truth of this data set has no {', '.join(missing)}, which protocol {protocol.name} "
            f"scores; choose a protocol of its joints"
        )
    root = landmarks_mm[:, [names.index(name) for name in protocol.root]].mean(1, keepdim=True)
    return landmarks_mm[:, [names.index(name) for name in wanted]] - root


def _distances(
    predicted_mm: Float[Tensor, "people joints 3"], target_mm: Float[Tensor, "people joints 3"]
) -> Float[Tensor, "people joints"]:
    return (predicted_mm - target_mm).norm(dim=-1)


def _share_within(
    distances_mm: Float[Tensor, "people joints"], limits_mm: Sequence[float]
) -> Float[Tensor, "people"]:
    """Percent of joints closer than a limit, averaged over the limits (mpii_compute_3d_pck.m)."""
    limits = distances_mm.new_tensor(limits_mm)
    return 100 * (distances_mm[..., None] < limits).float().mean((1, 2))
