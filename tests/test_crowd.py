"""crowd.py: many people are skinned as Anny skins each."""

import numpy as np
import pytest
import torch

from deformlearn.anny_body import anny_model
from deformlearn.data.crowd import Crowd, Figure
from deformlearn.data.posing import ANNY_TO_TEMPLATE, Build, Rig, random_build
from deformlearn.data.rotations import rotation


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig()


@pytest.fixture(scope="module")
def anny():
    """The model itself, for which the rig stands."""
    return anny_model()


@pytest.fixture(scope="module")
def people(rig):
    """Three builds, and a pose of each."""
    random = np.random.default_rng(0)
    builds = [random_build(random) for _ in range(3)]
    vectors = random.normal(0, 0.3, (3, len(rig.labels), 3))
    return builds, np.array([[rotation(vector) for vector in person] for person in vectors])


def test_a_posed_mesh_is_the_one_anny_makes(rig, anny, people):
    axes = torch.from_numpy(ANNY_TO_TEMPLATE)
    crowd = Crowd(rig, torch.device("cpu"))
    for build, rotations in zip(*people, strict=True):
        (ours,), (heads,) = crowd.skin([Figure.of(rig.body(build), rotations)])
        pose = torch.eye(4, dtype=torch.float64).repeat(1, len(rig.labels), 1, 1)
        pose[0, :, :3, :3] = axes.T @ torch.from_numpy(rotations) @ axes
        made = anny(pose_parameters=pose, phenotype_kwargs=build.phenotype())
        torch.testing.assert_close(ours, made["vertices"][0] @ axes.T, atol=1e-12, rtol=0)
        places = made["bone_poses"][0, :, :3, 3] @ axes.T
        torch.testing.assert_close(heads, places, atol=1e-12, rtol=0)


def test_many_people_are_skinned_as_each_alone(rig, people):
    crowd = Crowd(rig, torch.device("cpu"))
    figures = [Figure.of(rig.body(build), pose) for build, pose in zip(*people, strict=True)]
    vertices, heads = crowd.skin(figures)
    for person, figure in enumerate(figures):
        (alone,), (bones,) = crowd.skin([figure])
        torch.testing.assert_close(vertices[person], alone, atol=1e-13, rtol=0)
        torch.testing.assert_close(heads[person], bones, atol=1e-13, rtol=0)


def test_part_of_a_body_at_rest_is_annys(rig, anny, people):
    names = ("upperleg",)
    # Between Anny's extremes, and at the very ends and middles of its ranges.
    least, most = Build(18.0, 0.0, 0.0, 0.0, 0.0, 0.0), Build(110.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    for build in (*people[0], least, most, Build(64.0, 0.5, 0.5, 0.5, 0.5, 0.5)):
        coefficients = anny.get_phenotype_blendshape_coefficients(**build.phenotype())
        whole = anny.get_rest_vertices(coefficients)[0].numpy() @ ANNY_TO_TEMPLATE.T
        part = rig.part(names, rig.body(build).shape)
        np.testing.assert_allclose(part, whole[rig.owned_by(names)], atol=1e-12)
