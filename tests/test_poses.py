"""rotations, posing, stances, gestures, poses: a puppet that reaches and never runs into itself."""

import numpy as np
import pytest
import torch

from deformlearn import templates
from deformlearn.anny_body import anny_model
from deformlearn.data.crowd import Crowd, Figure
from deformlearn.data.gestures import ARMS
from deformlearn.data.poses import (
    ACTIONS,
    SEATED,
    Pose,
    capsule_radii,
    collides,
    overturned,
    random_pose,
)
from deformlearn.data.posing import SEGMENT_BONES, SIDES, Build, Puppet, Rig, random_build
from deformlearn.data.rotations import (
    FORWARD,
    LEFT,
    UP,
    about,
    between,
    rotation,
    rotation_vector,
)
from deformlearn.data.stances import LEGS

TALL = Build(years=30.0, gender=0.2, muscle=0.6, weight=0.5, height=0.6, proportions=0.5)


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig()


@pytest.fixture(scope="module")
def template():
    return templates.load("anny")


@pytest.fixture(scope="module")
def body(rig):
    return rig.body(TALL)


@pytest.fixture
def puppet(body) -> Puppet:
    return Puppet(body)


@pytest.fixture(scope="module")
def crowd(rig, template):
    """Three people of every action, with the puppet that holds each pose."""
    people = []
    for number, action in enumerate(ACTIONS):
        for index in range(3):
            random = np.random.default_rng([5, number, index])
            person = rig.body(random_build(random))
            pose = random_pose(person, action, random, template)
            held = Puppet(person)
            held.rotations[:] = pose.rotations
            people.append((pose, held))
    return people


def random_rotations(rig, seed):
    vectors = np.random.default_rng(seed).normal(0, 0.3, (len(rig.labels), 3))
    return np.stack([rotation(vector) for vector in vectors])


def test_our_kinematics_are_annys(rig, body):
    puppet = Puppet(body)
    puppet.rotations[:] = random_rotations(rig, 0)
    _, (heads,) = Crowd(rig, torch.device("cpu")).skin([Figure.of(body, puppet.rotations)])
    ours = np.stack([puppet.position(bone) for bone in rig.labels])
    np.testing.assert_allclose(ours, heads.numpy(), atol=1e-12)


def test_a_body_without_rotations_stands_upright_and_faces_forward(rig, body):
    still = Figure.of(body, np.tile(np.eye(3), (len(rig.labels), 1, 1)))
    (vertices,), (heads,) = Crowd(rig, torch.device("cpu")).skin([still])
    eye, foot = heads[rig.index["eye.L"]], heads[rig.index["foot.L"]]
    assert eye[1] - foot[1] > 1.4
    assert eye[2] > heads[rig.index["neck01"]][2]
    assert heads[rig.index["wrist.L"]][0] > 0.3
    torch.testing.assert_close(vertices.numpy().shape, (13718, 3))


def test_the_rig_has_the_templates_mesh_and_skeleton(rig, template):
    assert torch.equal(rig.faces, template.faces)
    assert len(SEGMENT_BONES) == 24
    assert set(SEGMENT_BONES) <= set(rig.labels)


@pytest.mark.parametrize(("side", "sign"), SIDES)
def test_a_hand_reaches_its_goal_with_the_elbow_on_the_wanted_side(puppet, side, sign):
    puppet.bend(10.0, 5.0, 12.0)
    goal = puppet.beside(side, f"upperarm01.{side}", (0.1, -0.2, 0.3))
    for towards in (np.array([sign, -0.5, 0.0]), np.array([0.0, -1.0, -0.2])):
        puppet.reach(side, goal, towards)
        wrist, elbow = puppet.position(f"wrist.{side}"), puppet.position(f"lowerarm01.{side}")
        np.testing.assert_allclose(wrist, goal, atol=1e-9)
        middle = (puppet.position(f"upperarm01.{side}") + wrist) / 2
        assert (elbow - middle) @ towards > 0


@pytest.mark.parametrize(("side", "sign"), SIDES)
def test_a_foot_reaches_its_goal_with_the_knee_forward(puppet, side, sign):
    hip = puppet.position(f"upperleg01.{side}")
    goal = hip + np.array([sign * 0.1, -0.6, 0.2])
    puppet.step(side, goal, FORWARD)
    np.testing.assert_allclose(puppet.position(f"foot.{side}"), goal, atol=1e-9)
    assert puppet.position(f"lowerleg01.{side}")[2] > hip[2] + 0.2


def test_a_bone_that_turns_takes_along_all_that_hangs_on_it(rig, body):
    turned, random = Puppet(body), np.random.default_rng(2)
    for bone in random.choice(rig.labels, 60):
        turned.turn(str(bone), rotation(random.normal(0, 0.5, 3)))
        for seen in random.choice(rig.labels, 8):
            fresh = Puppet(body)
            fresh.rotations[:] = turned.rotations
            for ours, theirs in zip(turned.frame(str(seen)), fresh.frame(str(seen)), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_what_is_too_far_is_approached_as_far_as_the_limb_stretches(puppet):
    shoulder = puppet.position("upperarm01.L")
    puppet.reach("L", shoulder + 5 * LEFT, -UP)
    shoulder = puppet.position("upperarm01.L")
    arm = puppet.position("wrist.L") - shoulder
    assert np.linalg.norm(arm) < 0.7
    assert arm[0] / np.linalg.norm(arm) > 0.99


def test_a_planted_foot_is_flat_whatever_the_leg_does(puppet):
    puppet.leg("L", flexion=20, abduction=5, twist=0, knee=30)
    puppet.plant("L", turnout=0.0)
    turned, _ = puppet.frame("foot.L")
    np.testing.assert_allclose(turned, np.eye(3), atol=1e-9)


def test_a_hand_can_be_aimed(puppet):
    hand = puppet.position("finger3-1.R") - puppet.position("wrist.R")
    puppet.aim_hand("R", hand + 0.03 * UP)
    aimed = puppet.position("finger3-1.R") - puppet.position("wrist.R")
    np.testing.assert_allclose(between(aimed, hand + 0.03 * UP), np.eye(3), atol=1e-6)


def test_rotation_vectors_go_there_and_back():
    vector = np.array([0.3, -1.2, 0.7])
    np.testing.assert_allclose(rotation_vector(rotation(vector)), vector, atol=1e-12)
    np.testing.assert_allclose(rotation_vector(np.eye(3)), 0)
    np.testing.assert_allclose(rotation(np.zeros(3)), np.eye(3))
    np.testing.assert_allclose(about(UP, 90) @ FORWARD, LEFT, atol=1e-12)
    np.testing.assert_allclose(between(UP, UP), np.eye(3))


def test_everybody_is_an_adult_on_annys_own_scale():
    from anny.shape_distribution import SimpleShapeDistribution

    ages = SimpleShapeDistribution(anny_model()).morphological_age_mapping
    random = np.random.default_rng(0)
    builds = [random_build(random) for _ in range(200)]
    parameters = torch.tensor([build.phenotype()["age"] for build in builds])
    years = ages.to(torch.float32).anny_to_morphological_age(parameters)
    assert years.min() >= 18 - 1e-3
    np.testing.assert_allclose(years.numpy(), [build.years for build in builds], atol=0.1)
    assert max(build.years for build in builds) > 70


def test_a_child_is_refused():
    with pytest.raises(ValueError, match="adults"):
        Build(years=12.0, gender=0.5, muscle=0.5, weight=0.5, height=0.5, proportions=0.5)


def test_people_have_the_heights_of_people(rig):
    random = np.random.default_rng(1)
    everyone = ("",)  # every bone's name begins with nothing
    bodies = [rig.body(random_build(random)) for _ in range(40)]
    heights = [np.ptp(rig.part(everyone, body.shape)[:, 1]) for body in bodies]
    assert min(heights) > 1.5
    assert max(heights) < 2.15
    assert 0.06 < np.std(heights) < 0.13


def test_all_fifteen_actions_and_a_free_one_can_be_taken():
    assert len(ACTIONS) == 16
    assert "Free" in ACTIONS
    used = {arm for action in ACTIONS.values() for pair in action.arms for arm in pair}
    assert used == set(ARMS)
    assert {leg for action in ACTIONS.values() for leg in action.legs} == set(LEGS)
    assert set(SEATED) <= set(LEGS)


def test_nobody_runs_into_themselves(crowd):
    for pose, held in crowd:
        assert not collides(held, capsule_radii(held.body)), pose.action


def test_no_joint_is_overturned(crowd, template):
    assert max(overturned(held, template) for _, held in crowd) < 12


def test_hands_in_the_belly_on_the_head_or_through_each_other_are_noticed(body):
    radii = capsule_radii(body)
    relaxed = Puppet(body)
    assert not collides(relaxed, radii)
    for bone, offset in (
        ("spine04", (0.0, 0.0, 0.0)),
        ("head", (0.0, 0.05, 0.0)),
        ("lowerleg01.R", 3 * [0.0]),
    ):
        pierced = Puppet(body)
        pierced.reach("R", pierced.place(bone, offset), -LEFT)
        assert collides(pierced, radii), bone
    clasped = Puppet(body)
    for side, _ in SIDES:
        clasped.reach(side, clasped.place("spine01", (0.0, -0.1, 0.4)), -UP)
    assert collides(clasped, radii)


def test_crossed_legs_are_noticed(body):
    crossed = Puppet(body)
    crossed.leg("L", flexion=0, abduction=-30, twist=0, knee=0)
    assert collides(crossed, capsule_radii(body))


def test_an_elbow_bent_backward_is_overturned(body, template):
    broken = Puppet(body)
    broken.turn("lowerarm01.L", about(LEFT, 120))
    assert overturned(broken, template) > 12
    assert overturned(Puppet(body), template) == 0


def test_a_telephone_is_at_the_ear_and_feet_are_on_the_ground(rig, body, template):
    for seed in range(4):
        pose = random_pose(body, "Phoning", np.random.default_rng(seed), template)
        held = Puppet(body)
        held.rotations[:] = pose.rotations
        ear = min(
            np.linalg.norm(held.position(f"finger3-1.{side}") - held.position("head"))
            for side, _ in SIDES
        )
        assert ear < 0.25
        if pose.legs == "stand":
            heights = [held.position(f"foot.{side}")[1] for side, _ in SIDES]
            assert abs(heights[0] - heights[1]) < 0.01


def test_goals_that_fail_every_time_end_in_a_person_who_stands(body, template):
    pose = random_pose(body, "Posing", np.random.default_rng(0), template, attempts=0)
    assert pose.legs == "stand"
    held = Puppet(body)
    held.rotations[:] = pose.rotations
    assert held.position("wrist.L")[1] < held.position("upperarm01.L")[1] - 0.3


def test_an_unknown_action_is_named_in_the_refusal(body, template):
    with pytest.raises(ValueError, match="unknown action 'Flying'"):
        random_pose(body, "Flying", np.random.default_rng(0), template)


def test_the_same_numbers_give_the_same_pose(body, template):
    first, again = (
        random_pose(body, "Greeting", np.random.default_rng(3), template) for _ in range(2)
    )
    assert isinstance(first, Pose)
    np.testing.assert_array_equal(first.rotations, again.rotations)
