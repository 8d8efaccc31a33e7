"""People planted on rigs of every format are found again by registration."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deformlearn import templates
from deformlearn.body import BodyParameters
from deformlearn.config import RegistrationConfig
from deformlearn.estimate import Estimate, camera_joints, project_points
from deformlearn.metrics import joint_errors
from deformlearn.observations import Observations
from deformlearn.registration import register
from deformlearn.skeleton import JOINT_SETS, SEGMENTS
from rig_files import rig_of, smpl_content, write_glb, write_smpl

RIGS = ("CesiumMan", "quaternius_modular_men_Casual", "quaternius_modular_women_Formal")

EXACT = RegistrationConfig(
    depth_weight=1000.0,
    keypoint_weight=1000.0,
    joint_weight=0.001,
    scale_weight=1.0,
    iterations=100,
)
"""Key points and depths without error are trusted as much as pixels."""


def people_on(template, planted, count=12, points=100, seed=0):
    """People whose joints stay within their limits, and the exact observations they would give."""
    truth, observations, crop = planted(template, count, seed, points)
    g = torch.Generator().manual_seed(seed)
    pose = 0.4 * torch.randn(count, 23, 3, generator=g)
    angles = torch.einsum("jac,njc->nja", template.limit_axes, pose)
    angles = torch.maximum(torch.minimum(angles, template.limits[..., 1]), template.limits[..., 0])
    pose = torch.einsum("jac,nja->njc", template.limit_axes, angles)
    truth = Estimate(BodyParameters(truth.body.scales, pose), truth.camera)
    return truth, seen(template, truth, observations), crop


def seen(template, truth, observations) -> Observations:
    """The observations of other people with the same correspondences on the surface."""
    surface = template.surface_points(observations.faces, observations.barycentric)
    joints = observations.joint_set
    keypoints = project_points(template, truth, template.keypoints(joints))
    depths = keypoints[..., 2] - keypoints[:, joints.root_indices, 2].mean(1, keepdim=True)
    return replace(
        observations,
        points=project_points(template, truth, surface)[..., :2],
        keypoints=keypoints[..., :2],
        depths=depths,
    )


def errors_mm(template, truth, observations, crop, config=EXACT):
    estimate, _ = register(template, observations, crop, config)
    poses = [1000 * camera_joints(template, value) for value in (estimate, truth)]
    return joint_errors(*poses, JOINT_SETS["h36m17"], 4000.0).true_size


@pytest.mark.parametrize("name", RIGS)
def test_a_real_rig_registers_to_correspondences_of_itself(shared, planted, name):
    template = templates.load(shared / "rigs" / f"{name}.glb")
    assert errors_mm(template, *people_on(template, planted)).mean() <= 10


def test_a_rig_without_bones_for_many_segments_registers_too(anny, planted, tmp_path):
    """Placed joints move skin: they are found again as well."""
    gone = ("spine2", "head", "foot", "hand", "collar")
    names = {name: name for name in SEGMENTS if not name.endswith(gone)}
    template = templates.load(write_glb(rig_of(anny, names), tmp_path / "few.glb"))
    assert errors_mm(template, *people_on(template, planted)).mean() <= 10


def test_anny_from_an_smpl_file_registers_the_same_people_as_anny(anny, planted, tmp_path):
    content = smpl_content(anny, np.random.default_rng(0))
    smpl = templates.load(write_smpl(content, tmp_path / "SMPL_NEUTRAL.pkl"))
    truth, observations, crop = people_on(anny, planted)
    config = RegistrationConfig(depth_weight=1.0)
    ours, theirs = (errors_mm(body, truth, observations, crop, config) for body in (anny, smpl))
    assert theirs.mean() == pytest.approx(ours.mean().item(), rel=0.1)
