import pytest
import torch

from deformlearn.body import skin
from deformlearn.limits import joint_limits
from deformlearn.skeleton import JOINT_SETS, SEGMENTS, mirrored_name

SWAP = [SEGMENTS.index(mirrored_name(name)) for name in SEGMENTS]
REFLECT = torch.tensor([-1.0, 1.0, 1.0])
FLEXION, ABDUCTION, TWIST = range(3)


def joint(template, name):
    return template.joints[SEGMENTS.index(name)]


def limits_of(template, name):
    """Lowest and highest angle in degrees, rows flexion, abduction, twist."""
    return torch.rad2deg(template.limits[SEGMENTS.index(name) - 1])


def moved(template, name, row, carried, degrees=30.0):
    """How a joint moves when another turns about one of its anatomical axes."""
    parameters = template.rest_parameters(1)
    below = SEGMENTS.index(name) - 1
    parameters.pose[0, below] = template.limit_axes[below, row] * torch.deg2rad(
        torch.tensor(degrees)
    )
    points = template.keypoints(JOINT_SETS["smpl24"])
    after = skin(template, parameters, points)[0]
    return (after - points.rest)[SEGMENTS.index(carried)]


@pytest.mark.parametrize("name", SEGMENTS[1:])
def test_axes_are_orthonormal_and_the_rest_pose_is_within_the_limits(anny, name):
    axes = anny.limit_axes[SEGMENTS.index(name) - 1]
    torch.testing.assert_close(axes @ axes.T, torch.eye(3), atol=1e-5, rtol=0)
    assert (limits_of(anny, name)[:, 0] < 0).all()
    assert (limits_of(anny, name)[:, 1] > 0).all()


def test_limits_are_the_same_on_both_sides_about_mirrored_axes(anny):
    below = [index - 1 for index in SWAP[1:]]
    torch.testing.assert_close(anny.limits[below], anny.limits)
    # An axis of rotation is a pseudo-vector; the midline's own turn about reversed axes.
    sided = [i for i, name in enumerate(SEGMENTS[1:]) if mirrored_name(name) != name]
    mirrored_axes = anny.limit_axes[below] * -REFLECT
    torch.testing.assert_close(anny.limit_axes[sided], mirrored_axes[sided], atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", ["left_", "right_"])
def test_positive_angles_flex_and_abduct_as_anatomy_says(anny, side):
    outward = 1 if side == "left_" else -1
    up_and_down, forward = 1, 2
    assert moved(anny, side + "hip", FLEXION, side + "knee")[forward] > 0.1
    assert moved(anny, side + "hip", ABDUCTION, side + "knee")[0] * outward > 0.1
    assert moved(anny, side + "knee", FLEXION, side + "ankle")[forward] < -0.1
    assert moved(anny, side + "ankle", FLEXION, side + "foot")[up_and_down] > 0.05
    assert moved(anny, side + "shoulder", FLEXION, side + "elbow")[forward] > 0.1
    assert moved(anny, side + "shoulder", ABDUCTION, side + "elbow")[up_and_down] > 0.05
    assert moved(anny, side + "elbow", FLEXION, side + "wrist")[forward] > 0.05
    # Turning the upper arm inwards takes a bent forearm across the body.
    assert moved(anny, side + "shoulder", TWIST, side + "wrist")[0] * outward < -0.03
    assert moved(anny, "spine1", FLEXION, "head")[forward] > 0.1


def test_what_is_bent_at_rest_is_taken_off_the_range(anny):
    upper = joint(anny, "left_elbow") - joint(anny, "left_shoulder")
    fore = joint(anny, "left_wrist") - joint(anny, "left_elbow")
    bent = torch.rad2deg(torch.acos(torch.cosine_similarity(upper, fore, dim=0)))
    low, high = limits_of(anny, "left_elbow")[FLEXION]
    assert 35 < bent < 50
    torch.testing.assert_close(-low, bent + 10, atol=1, rtol=0)
    torch.testing.assert_close(high, 160 - bent, atol=1, rtol=0)


def test_a_body_with_straight_raised_arms_has_nothing_taken_off_the_elbow(anny):
    joints = anny.joints.double().clone()
    for side, outward in (("left_", 1.0), ("right_", -1.0)):
        shoulder = joints[SEGMENTS.index(side + "shoulder")]
        for name, along in (("elbow", 0.3), ("wrist", 0.55), ("hand", 0.63)):
            place = shoulder + shoulder.new_tensor([outward * along, 0, 0])
            joints[SEGMENTS.index(side + name)] = place
    axes, limits = joint_limits(joints)
    elbow, shoulder = SEGMENTS.index("left_elbow") - 1, SEGMENTS.index("left_shoulder") - 1
    low_high = torch.rad2deg(limits[elbow, FLEXION])
    torch.testing.assert_close(low_high, low_high.new_tensor([-10.0, 160.0]))
    # An arm raised by 90 degrees can be raised by 90 more, and lowered by 90 and then adducted.
    low_high = torch.rad2deg(limits[shoulder, ABDUCTION])
    torch.testing.assert_close(low_high, low_high.new_tensor([-150.0, 100.0]))
    torch.testing.assert_close(axes[elbow, FLEXION], axes.new_tensor([0.0, -1.0, 0.0]))
