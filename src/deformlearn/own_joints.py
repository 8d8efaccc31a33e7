"""Depths for people without key points: the joints of a first fit are lifted as if they were seen."""

from __future__ import annotations

from dataclasses import replace

import torch

from deformlearn.body import BodyTemplate
from deformlearn.camera import Crop
from deformlearn.config import RegistrationConfig
from deformlearn.estimate import project_points
from deformlearn.lifter import Lifter
from deformlearn.observations import Observations
from deformlearn.registration import register
from deformlearn.skeleton import JointSet, joint_set, same_places
from deformlearn.tensors import combine

OWN_JOINT_WEIGHT = 1e-3
"""Confidence of a first fit's own joints as key points: enough to carry a depth, no more."""


def with_own_joints(
    template: BodyTemplate,
    seen: Observations,
    crop: Crop,
    config: RegistrationConfig,
    lifter: Lifter | None,
) -> Observations:
    """The observations with lifted depths; those of people without key points are of a first fit.

    Such a person gets the joints of the first fit as key points, so light that they move nothing. Without
    a lifter nothing is changed.
    """
    if lifter is None:
        return seen
    lifted = lifter.lift(seen)
    rows = (~(seen.keypoint_weights > 0).any(-1)).nonzero()[:, 0]
    if len(rows) == 0:
        return lifted
    own = _own_joints(template, seen[rows], crop[rows], config, lifter)
    return combine([lifted, own], lambda pair: pair[0].index_copy(0, rows, pair[1].to(pair[0])))


def _own_joints(
    template: BodyTemplate,
    seen: Observations,
    crop: Crop,
    config: RegistrationConfig,
    lifter: Lifter,
) -> Observations:
    first, _ = register(template, seen, crop, config)

    def project(joints: JointSet) -> Observations:
        places = project_points(template, first, template.keypoints(joints))[..., :2]
        weights = torch.full_like(places[..., 0], OWN_JOINT_WEIGHT)
        blank = torch.zeros_like(weights)
        return replace(
            seen, keypoints=places, keypoint_weights=weights, depths=blank, depth_weights=blank,
            joints=joints.name,
        )  # fmt: skip

    # The lifter reads the joints it was trained on, all of them; the depths go to the joints we have.
    lifted = lifter.lift(project(joint_set(lifter.joints)))
    index = torch.tensor(same_places(lifted.joint_set, seen.joint_set), device=lifted.depths.device)
    known, chosen = index >= 0, index.clamp_min(0)
    return project(seen.joint_set).with_depths(
        lifted.depths[:, chosen] * known, lifted.depth_weights[:, chosen] * known
    )


def without_keypoints(seen: Observations, joints: str) -> Observations:
    """The same correspondences with no key point seen, in another joint set."""
    blank = seen.points.new_zeros(len(seen), len(joint_set(joints)))
    return replace(
        seen, keypoints=blank[..., None].expand(-1, -1, 2), keypoint_weights=blank, depths=blank,
        depth_weights=blank, joints=joints,
    )  # fmt: skip
