"""Protocol to table: what the errors are, over whom, after which alignment (section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.data.truth import Truth
from deformlearn.distributed import ALONE, Team, by_blocks
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, camera_joints, camera_vertices
from deformlearn.memory import Portion
from deformlearn.metrics import JointErrors, bone_sum, joint_errors, vertex_error
from deformlearn.observations import Observations
from deformlearn.skeleton import JointSet, joint_set
from deformlearn.tensors import TensorData, concatenate

PROTOCOL_JOINTS = "h36m17"
_CHUNK = 256
"""Meshes of this many people are in memory at once."""


@dataclass(frozen=True)
class Scores:
    """Mean errors in millimetres: over the people of each action, then over the actions."""

    raw: float
    """MPJPE, root-aligned."""
    bone_sum: float
    """MPJPE after scaling the bone lengths to the template's sum (the paper's protocol)."""
    true_size: float
    """MPJPE after scaling the bone lengths to the truth's sum: pose without body size."""
    aligned: float
    """PA-MPJPE, after a similarity."""
    vertices: float | None
    """PVE: mean error of the mesh's vertices, root-aligned; None where no true mesh is known."""
    people: int
    by_action: dict[str, dict[str, float]]
    """The same four joint errors and the number of people for each action."""

    def record(self) -> dict:
        """Plain numbers for a metrics file."""
        return asdict(self)


@dataclass(frozen=True)
class ProtocolCard:
    """Everything a reader must know to compare a number with another."""

    data: str
    joints: str = "Human3.6M's 17 joints, right leg first (the same joints in the left-first order)"
    root: str = "pelvis; both poses relative to it"
    frames: str = "every image of the split, one person each"
    cameras: str = "all"
    mean: str = "over the people of an action, then over the actions"
    canonical_mm: float = 0.0

    def lines(self) -> list[str]:
        """The card as `name: value` lines."""
        values = {
            "data": self.data,
            "joints": self.joints,
            "root": self.root,
            "frames": self.frames,
            "cameras": self.cameras,
            "mean": self.mean,
            "raw": "root-aligned, the template's own size",
            "bone-sum": f"scaled so that the 16 bones sum to the template's {self.canonical_mm:.0f} mm",
            "true-size": "scaled so that the 16 bones sum to the truth's (pose without body size)",
            "PA": "Procrustes: after the best rotation, scale and shift",
            "PVE": "mean over all vertices of the mesh, root-aligned",
        }
        return [f"{name}: {value}" for name, value in values.items()]


def canonical_mm(template: BodyTemplate) -> float:
    """Sum of the template's bone lengths at rest: our canonical skeleton needs no 3D label."""
    joints = joint_set(PROTOCOL_JOINTS)
    return 1000 * bone_sum(template.keypoints(joints).rest, joints).item()


def missing_joints(truth: Truth, joints: JointSet | None = None) -> list[str]:
    """Landmarks of a joint set (as a rule the protocol's) that a truth does not have."""
    chosen = joints or joint_set(PROTOCOL_JOINTS)
    return [name for name in chosen.landmarks if name not in truth.landmark_names]


def true_joints(truth: Truth, joints: JointSet | None = None) -> Float[Tensor, "people joints 3"]:
    """The true joints of a joint set, mm, camera axes."""
    chosen = joints or joint_set(PROTOCOL_JOINTS)
    if missing := missing_joints(truth, chosen):
        raise InputError(
            f"the truth of this data set has no {', '.join(missing)}; {chosen.name} needs "
            f"{', '.join(chosen.landmarks)}"
        )
    return truth.landmarks_mm[:, [truth.landmark_names.index(name) for name in chosen.landmarks]]


@dataclass(frozen=True, eq=False)
class Errors(TensorData):
    """Errors of each person (mm)."""

    joints: JointErrors
    vertices: Float[Tensor, "people"] | None
    """PVE; None where no true mesh is known."""


def score_estimates(
    template: BodyTemplate,
    estimate: Estimate,
    truth: Truth,
    actions: Sequence[str],
    *,
    team: Team = ALONE,
) -> Scores:
    """Errors of estimates against the truth, where the template is; a team shares the people."""
    device = template.vertices.device
    portion = Portion(_CHUNK, "people")

    def errors_of(several: Int[Tensor, "rows"]) -> Errors:
        guess, true = estimate[several].to(device), truth.take(several.tolist())
        joints = camera_joints(template, guess, PROTOCOL_JOINTS) * 1000
        vertices = None
        if true.vertices_mm is not None:
            vertices = _vertex_errors(template, guess, true.vertices_mm)
        return Errors(_joint_errors(template, joints, true), vertices).to("cpu")

    def errors(rows: Int[Tensor, "rows"]) -> Errors:
        return concatenate(list(portion.over(rows, errors_of)))

    return _scores(by_blocks(team, len(actions), _CHUNK, errors), actions)


def vertex_errors(
    template: BodyTemplate, estimate: Estimate, vertices_mm: Float[Tensor, "people vertices 3"]
) -> Float[Tensor, "people"]:
    """PVE of each person (mm), against true vertices relative to the pelvis."""

    def errors(rows: Int[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        here = rows.to(estimate.camera.scale.device)
        return _vertex_errors(template, estimate[here], vertices_mm[rows.to(vertices_mm.device)])

    everyone = torch.arange(len(vertices_mm))
    return torch.cat(list(Portion(_CHUNK, "people").over(everyone, errors)))


def _vertex_errors(
    template: BodyTemplate, estimate: Estimate, vertices_mm: Float[Tensor, "people vertices 3"]
) -> Float[Tensor, "people"]:
    root = camera_joints_origin(template, estimate)
    mesh = (camera_vertices(template, estimate) - root) * 1000
    return vertex_error(mesh, vertices_mm.to(mesh))


def camera_joints_origin(template: BodyTemplate, estimate: Estimate) -> Float[Tensor, "people 1 3"]:
    """Where the pelvis is in camera axes (the root segment's own joint)."""
    return (estimate.camera.rotation() @ template.joints[0])[:, None]


def score_joints(
    template: BodyTemplate,
    predicted_mm: Float[Tensor, "people joints 3"],
    truth: Truth,
    actions: Sequence[str],
) -> Scores:
    """Errors of 3D joints (Human3.6M's 17, mm, camera axes) from anywhere."""
    return _scores(Errors(_joint_errors(template, predicted_mm, truth), None), actions)


def _joint_errors(template: BodyTemplate, predicted_mm: Tensor, truth: Truth) -> JointErrors:
    joints = joint_set(PROTOCOL_JOINTS)
    target = true_joints(truth).to(predicted_mm)
    return joint_errors(predicted_mm, target, joints, canonical_mm(template))


def _scores(errors: Errors, actions: Sequence[str]) -> Scores:
    columns = dict(vars(errors.joints))
    if errors.vertices is not None:
        columns["vertices"] = errors.vertices
    by_action = means_by_action(columns, actions)
    means: dict[str, Any] = {"vertices": None, **mean_over_actions(by_action, columns)}
    return Scores(**means, people=len(actions), by_action=by_action)


def means_by_action(
    columns: Mapping[str, Float[Tensor, "people"]], actions: Sequence[str]
) -> dict[str, dict[str, float]]:
    """The mean of every measure over the people of each action, and how many they are."""
    by_action: dict[str, dict[str, float]] = {}
    for action in sorted(set(actions)):
        rows = torch.tensor([name == action for name in actions])
        by_action[action] = {
            name: value[rows.to(value.device)].mean().item() for name, value in columns.items()
        }
        by_action[action]["people"] = int(rows.sum())
    return by_action


def mean_over_actions(
    by_action: Mapping[str, Mapping[str, float]], measures: Iterable[str]
) -> dict[str, float]:
    """Every measure's mean over the actions, however many people each has."""
    return {
        name: sum(row[name] for row in by_action.values()) / len(by_action) for name in measures
    }


def mean_pose(template: BodyTemplate, train: Truth, test: Truth, actions: Sequence[str]) -> Scores:
    """The baseline that looks at no image: the mean true pose of the training set."""
    mean = true_joints(train).mean(0, keepdim=True)
    return score_joints(template, mean.expand(len(test.keys), -1, -1), test, actions)


def lifter_only(
    template: BodyTemplate, lifted: Observations, truth: Truth, actions: Sequence[str]
) -> Scores:
    """Kudo's row: 2D key points with lifted depths, no body; sized by the canonical bone sum."""
    chosen, theirs = joint_set(PROTOCOL_JOINTS), lifted.joint_set
    missing = [name for name in chosen.landmarks if name not in theirs.landmarks]
    if missing:
        raise InputError(f"the joint set {theirs.name!r} has no {', '.join(missing)} to be scored")
    order = [theirs.landmarks.index(name) for name in chosen.landmarks]
    blind = int((lifted.depth_weights[:, order] == 0).any(-1).sum())
    if blind:
        raise InputError(
            f"{blind} of {len(lifted)} people have joints without a lifted depth, and cannot be scored"
        )
    pose = torch.cat([lifted.keypoints, lifted.depths[..., None]], -1)[:, order]
    size = canonical_mm(template) / bone_sum(pose, chosen)
    return score_joints(template, pose * size[:, None, None], truth, actions)


def true_depths(observations: Observations, truth: Truth) -> Observations:
    """Observations with true depths, mm to image units: an upper bound, and full 3D supervision.

    The scale is the one that best takes the true joints' x, y to the key points that are seen. Who has a
    root that is not seen gets no depth.
    """
    target = true_joints(truth, observations.joint_set).to(observations.keypoints)
    roots = observations.joint_set.root_indices
    target = target - target[:, roots].mean(1, keepdim=True)
    seen = observations.keypoints - observations.keypoints[:, roots].mean(1, keepdim=True)
    known = observations.keypoint_weights > 0
    known = known & known[:, roots].all(1, keepdim=True)
    flat, seen = (torch.where(known[..., None], one[..., :2], 0.0) for one in (target, seen))
    scale = (flat * seen).sum((1, 2)) / flat.square().sum((1, 2)).clamp_min(1e-9)
    return observations.with_depths(target[..., 2] * scale[:, None], known.to(seen))
