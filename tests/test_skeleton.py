import importlib.util
from pathlib import Path

import pytest
import roma
import torch

from deformlearn import lifter
from deformlearn.joint_orders import MADE_OF, mixture
from deformlearn.skeleton import (
    JOINT_SETS,
    PARENTS,
    SEGMENTS,
    convert_keypoints,
    forward_kinematics,
    joint_set,
    mirrored_name,
    place,
    rotation_from_axis_angle,
    same_places,
)


def one_joint_after_the_other(rotations, offsets, parents):
    """Forward kinematics as the equation says it, with no cleverness."""
    turns, places = [], []
    for joint, parent in enumerate(parents):
        if parent < 0:
            turns.append(rotations[joint])
            places.append(offsets[joint])
        else:
            turns.append(turns[parent] @ rotations[joint])
            places.append(places[parent] + turns[parent] @ offsets[joint])
    return torch.cat([torch.stack(turns), torch.stack(places)[..., None]], -1)


def random_rotations(*shape, seed=0):
    return rotation_from_axis_angle(torch.randn(*shape, 3, generator=generator(seed)).double())


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "parents", [PARENTS, (-1,), (-1, 0, 1, 2), (-1, 0, 0, 0), (-1, 0, 1, 0, 3)]
)
def test_kinematics_agree_with_composing_one_joint_after_the_other(parents):
    rotations = random_rotations(5, len(parents))
    offsets = torch.randn(5, len(parents), 3, generator=generator(1)).double()
    slow = torch.stack(
        [one_joint_after_the_other(*pair, parents) for pair in zip(rotations, offsets, strict=True)]
    )
    torch.testing.assert_close(forward_kinematics(rotations, offsets, parents), slow)


def test_kinematics_have_the_gradient_of_the_slow_ones():
    vector = torch.randn(1, 24, 3, generator=generator(2)).double().requires_grad_()
    offsets = torch.randn(1, 24, 3, generator=generator(3)).double().requires_grad_()
    weights = torch.randn(24, 3, 4, generator=generator(4)).double()

    fast = forward_kinematics(rotation_from_axis_angle(vector), offsets, PARENTS)[0]
    slow = one_joint_after_the_other(rotation_from_axis_angle(vector)[0], offsets[0], PARENTS)
    for ours, theirs in zip(
        torch.autograd.grad((fast * weights).sum(), (vector, offsets)),
        torch.autograd.grad((slow * weights).sum(), (vector, offsets)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_kinematics_refuse_a_child_before_its_parent():
    with pytest.raises(ValueError, match="sort the joints"):
        forward_kinematics(random_rotations(1, 3), torch.zeros(1, 3, 3).double(), (-1, 2, 0))


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-5, 0.9e-4, 1.1e-4, 1e-2, 1.0, 3.0, 6.0])
def test_rotations_agree_with_roma_at_every_size_of_angle(size):
    vector = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator(0)).double())
    vector = vector * size
    torch.testing.assert_close(
        rotation_from_axis_angle(vector), roma.rotvec_to_rotmat(vector), atol=1e-12, rtol=0
    )


def test_the_gradient_of_a_rotation_is_exact_and_finite_at_zero():
    zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation_from_axis_angle, zero)
    some = torch.randn(4, 3, generator=generator(0)).double().requires_grad_()
    assert torch.autograd.gradcheck(rotation_from_axis_angle, some)


def test_parents_come_before_their_children_and_one_segment_is_the_root():
    assert PARENTS[0] == -1
    assert all(0 <= parent < joint for joint, parent in enumerate(PARENTS) if joint)
    assert len(PARENTS) == len(SEGMENTS) == len(set(SEGMENTS)) == 24


def test_the_tree_is_its_own_mirror_image():
    for name, parent in zip(SEGMENTS, PARENTS, strict=True):
        other = PARENTS[SEGMENTS.index(mirrored_name(name))]
        assert other == (-1 if parent < 0 else SEGMENTS.index(mirrored_name(SEGMENTS[parent])))


@pytest.mark.parametrize("name", JOINT_SETS)
def test_a_joint_set_is_consistent(name):
    chosen = JOINT_SETS[name]
    assert chosen.name == name
    assert len(chosen) == len(chosen.names) == len(chosen.landmarks) == len(set(chosen.names))
    assert [chosen.mirror[i] for i in chosen.mirror] == list(range(len(chosen)))
    mentioned = {*chosen.root, *(joint for pair in chosen.facing + chosen.bones for joint in pair)}
    assert mentioned <= set(chosen.names)
    mirrored_landmarks = [mirrored_name(landmark) for landmark in chosen.landmarks]
    assert [chosen.landmarks[i] for i in chosen.mirror] == mirrored_landmarks


@pytest.mark.parametrize("name", JOINT_SETS)
def test_the_default_body_has_the_landmarks_of_every_joint_set(anny, name):
    assert len(anny.keypoints(JOINT_SETS[name])) == len(JOINT_SETS[name])


def test_public_orders_are_as_published():
    assert joint_set("h36m17").names[1:4] == ("right_hip", "right_knee", "right_ankle")
    assert joint_set("h36m17_left_first").names[1:4] == ("left_hip", "left_knee", "left_ankle")
    assert joint_set("coco17").names[:3] == ("nose", "left_eye", "right_eye")
    assert joint_set("coco17").names[15:] == ("left_ankle", "right_ankle")
    assert len(joint_set("h36m17").bones) == 16
    # LSP_to_COCO and the places where others' orders are mixed up (docs of each data set)
    coco, lsp = joint_set("coco17"), joint_set("lsp14")
    assert same_places(coco, lsp)[:12] == [16, 14, 12, 11, 13, 15, 10, 8, 6, 5, 7, 9]
    assert joint_set("posetrack17").names[1:3] == ("head_bottom", "head_top")
    assert joint_set("posetrack17").names[3:] == coco.names[3:]
    assert joint_set("mpii16").names[6:10] == ("pelvis", "thorax", "upper_neck", "head_top")
    assert joint_set("mpii16").names[12:14] == ("right_shoulder", "left_shoulder")
    body, old = joint_set("body25"), joint_set("openpose18")
    assert body.names[8] == "mid_hip"
    assert body.names[15:19] == ("right_eye", "left_eye", "right_ear", "left_ear")
    assert body.names[19:22] == ("left_big_toe", "left_small_toe", "left_heel")
    assert old.names == body.names[:8] + body.names[9:19]
    assert joint_set("mpi_inf_3dhp17").names[14:] == ("pelvis", "spine", "head")
    # Human3.6M, left leg first, to LSP as SPIN numbers it; neck is its thorax, head top its head
    left_first = joint_set("h36m17_left_first")
    assert same_places(left_first, lsp) == [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]


def test_an_unknown_joint_set_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown joint set 'h37m'.*coco17"):
        joint_set("h37m")


@pytest.mark.parametrize(
    ("name", "other"), [("left_hip", "right_hip"), ("head", "head"), ("coco_right_eye", None)]
)
def test_mirroring_a_name_twice_returns_it(name, other):
    assert other is None or mirrored_name(name) == other
    assert mirrored_name(mirrored_name(name)) == name


def test_converted_keypoints_keep_names_and_are_missing_where_a_part_is_missing():
    coco, h36m = joint_set("coco17"), joint_set("h36m17")
    keypoints = torch.randn(2, 17, 2, generator=generator(0))
    weights = torch.ones(2, 17)
    weights[1, coco.index("left_hip")] = 0
    made, made_weights = convert_keypoints(keypoints, weights, coco, h36m)
    knee = keypoints[:, coco.index("left_knee")]
    torch.testing.assert_close(made[:, h36m.index("left_knee")], knee)
    hips = (keypoints[:, coco.index("left_hip")] + keypoints[:, coco.index("right_hip")]) / 2
    torch.testing.assert_close(made[:, h36m.index("pelvis")], hips)
    assert made_weights[:, h36m.index("pelvis")].tolist() == [1, 0]
    assert made_weights[:, h36m.index("left_knee")].tolist() == [1, 1]


def test_key_points_are_converted_by_place_not_by_name(template):
    source, target = JOINT_SETS["skeleton25"], JOINT_SETS["h36m17"]
    here, there = (template.keypoints(joints).rest[None, :, :2] for joints in (source, target))
    found, weights = convert_keypoints(here, torch.ones(1, 25), source, target)
    assert (weights == 1).all()
    torch.testing.assert_close(found, there)  # "head" is the joint in one, the top in the other


@pytest.mark.parametrize("name", JOINT_SETS)
def test_every_pose_of_a_whole_person_can_be_lifted_by_human36m(template, name):
    source, target = JOINT_SETS[name], JOINT_SETS["h36m17"]
    here = template.keypoints(source).rest[None, :, :2]
    there = template.keypoints(target).rest[:, :2]
    found, weights = convert_keypoints(here, torch.ones(1, len(source)), source, target)
    assert (weights == 1).all()
    limbs = [i for i, joint in enumerate(target.names) if joint.startswith(("left_", "right_"))]
    torch.testing.assert_close(found[0, limbs], there[limbs])
    assert (found[0] - there).norm(dim=-1).max() < 0.15  # metres, at the trunk's made-up points


@pytest.mark.parametrize("name", JOINT_SETS)
def test_lifted_depths_come_back_to_the_limbs_of_every_joint_set(name):
    back = same_places(JOINT_SETS["h36m17"], JOINT_SETS[name])
    for joint, index in zip(JOINT_SETS[name].names, back, strict=True):
        if joint.endswith(("hip", "knee", "ankle", "shoulder", "elbow", "wrist")) and "_" in joint:
            assert index >= 0, joint


@pytest.mark.parametrize("name", JOINT_SETS)
def test_a_joint_set_converted_to_itself_stays_as_it_is(name):
    joints = JOINT_SETS[name]
    keypoints = torch.randn(2, len(joints), 2, generator=generator(0))
    weights = torch.rand(2, len(joints), generator=generator(1))
    found, kept = convert_keypoints(keypoints, weights, joints, joints)
    torch.testing.assert_close(found, keypoints)
    torch.testing.assert_close(kept, weights)


@pytest.mark.parametrize("source", JOINT_SETS)
@pytest.mark.parametrize("target", JOINT_SETS)
def test_conversions_move_with_the_person(source, target):
    """Shares of every made point sum to one, or it would not follow a person across the image."""
    source, target = JOINT_SETS[source], JOINT_SETS[target]
    keypoints = torch.randn(1, len(source), 2, generator=generator(0))
    weights = torch.ones(1, len(source))
    found, made = convert_keypoints(keypoints, weights, source, target)
    moved, _ = convert_keypoints(keypoints + torch.tensor([5.0, -3.0]), weights, source, target)
    torch.testing.assert_close(moved, found + torch.tensor([5.0, -3.0]) * (made > 0)[..., None])


@pytest.mark.parametrize("name", JOINT_SETS)
def test_conversions_do_not_favour_a_side(name):
    source, target = JOINT_SETS[name], JOINT_SETS["h36m17"]
    keypoints = torch.randn(1, len(source), 2, generator=generator(0))
    weights = torch.rand(1, len(source), generator=generator(1))
    flip = torch.tensor([-1.0, 1.0])
    swapped = keypoints[:, source.mirror, :] * flip, weights[:, source.mirror]
    found, made = convert_keypoints(keypoints, weights, source, target)
    mirrored, mirrored_made = convert_keypoints(*swapped, source, target)
    torch.testing.assert_close(mirrored, found[:, target.mirror, :] * flip)
    torch.testing.assert_close(mirrored_made, made[:, target.mirror])


def test_kudos_head_is_beyond_the_nose_as_far_as_the_thorax_is_before_it():
    coco = ["nose", "left_shoulder", "right_shoulder"]
    assert mixture("head_top", coco) == {"nose": 2.0, "left_shoulder": -0.5, "right_shoulder": -0.5}
    assert mixture("head", ["neck", "head_top"]) == {"neck": 0.5, "head_top": 0.5}


def test_what_cannot_be_made_is_nothing_and_asking_in_a_circle_ends():
    assert mixture("head", ["left_knee"]) == {}
    assert mixture("left_knee", ["right_knee"]) == {}
    assert mixture("head", ["head", "nose"]) == {"head": 1.0}
    for options in MADE_OF.values():
        assert all(sum(parts.values()) == 1 for parts in options)


def test_means_of_limbs_stand_for_the_joints_between_them():
    assert place("coco_mid_hip") == place("pelvis") == "pelvis"
    assert place("coco_neck") == place("neck")
    assert place("coco_left_hip") == "left_hip"


@pytest.mark.parametrize("name", ["lsp14", "mpii16", "mpi_inf_3dhp17", "posetrack17"])
def test_bent_knees_tell_front_from_back_where_no_face_is_marked(template, name):
    joints = JOINT_SETS[name]
    points = template.keypoints(joints).rest.clone()
    for side in ("left", "right"):
        points[joints.index(f"{side}_knee"), 2] += 0.2
    points = points - points[list(joints.root_indices)].mean(0)
    yaw = rotation_from_axis_angle(torch.tensor([[0.0, angle, 0.0] for angle in (0.0, 1.0, 2.5)]))
    poses = points @ yaw.mT * torch.tensor([1.0, -1, -1])  # camera axes
    assert lifter.backwards(poses[..., :2], poses[..., 2], joints).max() < 1e-3
    assert lifter.backwards(poses[..., :2], -poses[..., 2], joints).max() > 0.5


def test_the_page_of_joint_sets_is_current():
    script = Path(__file__).parents[1] / "docs" / "make_joint_sets.py"
    spec = importlib.util.spec_from_file_location("make_joint_sets", script)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.PAGE.read_text() == made.page(), "run python docs/make_joint_sets.py"
