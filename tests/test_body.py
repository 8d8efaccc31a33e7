import pickle
from dataclasses import replace

import pytest
import torch

from deformlearn.body import BodyParameters, BodyPoints, bone_transforms, skin
from deformlearn.camera import Camera
from deformlearn.estimate import Estimate, mirrored, project_points
from deformlearn.skeleton import JOINT_SETS, PARENTS, SEGMENTS, rotation_from_axis_angle


def random_parameters(people=3, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return BodyParameters(
        (0.2 * torch.randn(people, 24, generator=g)).exp().to(dtype),
        0.5 * torch.randn(people, 23, 3, generator=g).to(dtype),
    )


def turned(template, segment, vector):
    """The rest parameters with one joint turned."""
    parameters = template.rest_parameters(1)
    parameters.pose[0, SEGMENTS.index(segment) - 1] = torch.tensor(vector)
    return parameters


def scaled(template, segment, factor):
    """The rest parameters with one segment scaled."""
    parameters = template.rest_parameters(1)
    parameters.scales[0, SEGMENTS.index(segment)] = factor
    return parameters


def of(template, segment):
    """The vertices of one segment (each octahedron is rigid with its own)."""
    return template.weights[:, SEGMENTS.index(segment)] == 1


def test_rest_parameters_return_the_template(template):
    torch.testing.assert_close(
        skin(template, template.rest_parameters(2)), template.vertices.expand(2, -1, -1)
    )


def test_rest_parameters_return_the_default_body(anny):
    moved = skin(anny, anny.rest_parameters(1))[0]
    torch.testing.assert_close(moved, anny.vertices, atol=1e-5, rtol=0)


def test_skinning_agrees_with_one_bone_after_the_other(template):
    parameters = random_parameters(1)
    turn = rotation_from_axis_angle(parameters.pose[0])
    scales, rest = parameters.scales[0], template.joints
    frames, places = [torch.eye(3)], [rest[0]]
    for joint in range(1, 24):
        parent = PARENTS[joint]
        offset = scales[parent] * (rest[joint] - rest[parent])
        places.append(places[parent] + frames[parent] @ offset)
        frames.append(frames[parent] @ turn[joint - 1])
    slow = [
        places[joint] + frames[joint] @ (scales[joint] * (vertex - rest[joint]))
        for vertex, joint in zip(template.vertices, template.weights.argmax(1), strict=True)
    ]
    torch.testing.assert_close(skin(template, parameters)[0], torch.stack(slow))


def test_scaling_the_upper_arm_carries_the_forearm_without_resizing_it(template):
    before = template.vertices
    after = skin(template, scaled(template, "left_shoulder", 2.0))[0]
    joints = [template.joints[SEGMENTS.index(f"left_{name}")] for name in ("shoulder", "elbow")]
    for carried in ("left_elbow", "left_wrist", "left_hand"):
        shift = (after - before)[of(template, carried)]
        torch.testing.assert_close(shift, (joints[1] - joints[0]).expand_as(shift))
    upper = of(template, "left_shoulder")
    torch.testing.assert_close(after[upper] - joints[0], 2 * (before[upper] - joints[0]))
    for unmoved in ("left_collar", "right_shoulder", "head", "pelvis"):
        torch.testing.assert_close(after[of(template, unmoved)], before[of(template, unmoved)])


def test_turning_the_elbow_moves_the_forearm_about_the_elbow_and_nothing_else(template):
    after = skin(template, turned(template, "left_elbow", [0.0, 0.0, torch.pi / 2]))[0]
    elbow = template.joints[SEGMENTS.index("left_elbow")]
    wrist = of(template, "left_wrist")
    arm = template.vertices[wrist] - elbow
    quarter_turn = torch.stack([-arm[:, 1], arm[:, 0], arm[:, 2]], -1)
    torch.testing.assert_close(after[wrist] - elbow, quarter_turn)
    still = of(template, "left_shoulder")
    torch.testing.assert_close(after[still], template.vertices[still])


def test_uniform_scales_grow_the_body_about_the_pelvis(template):
    parameters = replace(template.rest_parameters(1), scales=torch.full((1, 24), 1.3))
    about = template.joints[0]
    torch.testing.assert_close(
        skin(template, parameters)[0], about + 1.3 * (template.vertices - about)
    )


def test_a_subset_of_points_lands_where_the_full_mesh_has_them(anny):
    parameters = random_parameters(2)
    chosen = torch.randint(len(anny.vertices), (50,), generator=torch.Generator().manual_seed(1))
    subset = BodyPoints(anny.vertices[chosen], anny.weights[chosen])
    torch.testing.assert_close(
        skin(anny, parameters, subset), skin(anny, parameters)[:, chosen], atol=1e-5, rtol=0
    )


def test_surface_points_at_corners_are_vertices_and_differ_between_people(template):
    faces = torch.tensor([[0, 5, 9], [1, 2, 3]])
    corner = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2], [2, 1, 0]]), 3).float()
    points = template.surface_points(faces, corner)
    parameters = random_parameters(2)
    vertices = skin(template, parameters)
    expected = torch.stack(
        [
            vertices[person, template.faces[faces[person], corner[person].argmax(-1)]]
            for person in (0, 1)
        ]
    )
    torch.testing.assert_close(skin(template, parameters, points), expected)


def test_a_root_rotation_turns_the_whole_body_about_the_origin(template):
    parameters = random_parameters(2)
    root = rotation_from_axis_angle(torch.tensor([[0.3, 1.0, -0.4], [0.0, 2.0, 0.1]]))
    plain, both = bone_transforms(template, parameters), bone_transforms(template, parameters, root)
    torch.testing.assert_close(both, root[:, None] @ plain, atol=1e-5, rtol=1e-5)


def test_the_gradient_of_skinning_is_exact(template):
    double = template.to(dtype=torch.float64)
    points = double.keypoints(JOINT_SETS["coco17"])
    parameters = random_parameters(1, dtype=torch.float64)

    def positions(scales, pose):
        return skin(double, BodyParameters(scales, pose), points)

    values = [value.clone().requires_grad_() for value in (parameters.scales, parameters.pose)]
    assert torch.autograd.gradcheck(positions, values)


def test_the_gradient_is_finite_at_rest(template):
    rest = template.rest_parameters(1)
    scales, pose = rest.scales.clone().requires_grad_(), rest.pose.clone().requires_grad_()
    skin(template, BodyParameters(scales, pose)).square().sum().backward()
    assert torch.isfinite(scales.grad).all()
    assert torch.isfinite(pose.grad).all()


def test_no_people_are_skinned_to_no_people(template):
    assert skin(template, template.rest_parameters(0)).shape == (0, 144, 3)


@pytest.mark.parametrize("body", ["template", "anny"])
def test_a_mirrored_estimate_is_the_reflected_body_in_the_reflected_image(body, request):
    chosen = request.getfixturevalue(body)
    parameters = random_parameters(2)
    g = torch.Generator().manual_seed(5)
    camera = Camera(
        torch.randn(2, 3, 3, generator=g),
        torch.randn(2, 2, generator=g),
        torch.rand(2, generator=g) + 0.5,
    )
    estimate = Estimate(parameters, camera)
    other = mirrored(chosen, estimate)
    reflect = torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(
        skin(chosen, other.body),
        skin(chosen, parameters)[:, chosen.mirror] * reflect,
        atol=1e-5,
        rtol=0,
    )
    everything = chosen.all_points()
    torch.testing.assert_close(
        project_points(chosen, other, everything),
        project_points(chosen, estimate, everything)[:, chosen.mirror] * reflect,
        atol=1e-5,
        rtol=0,
    )


def test_mirroring_twice_returns_the_estimate(template):
    estimate = replace(Estimate.rest(template, 2), body=random_parameters(2))
    twice = mirrored(template, mirrored(template, estimate))
    for value, again in zip(estimate.tensors(), twice.tensors(), strict=True):
        torch.testing.assert_close(value, again)


def test_the_fingerprint_follows_the_content(template):
    assert template.fingerprint == replace(template, limits=template.limits + 1).fingerprint
    moved = replace(template, vertices=template.vertices + 1e-3)
    assert template.fingerprint != moved.fingerprint
    assert template.fingerprint != replace(template, name="other").fingerprint


def test_a_missing_landmark_is_refused_by_name(template):
    poor = replace(template, landmarks=template.landmarks[:24], landmark_names=tuple(SEGMENTS))
    with pytest.raises(ValueError, match=r"has no landmark head_top .*'h36m17'"):
        poor.keypoints(JOINT_SETS["h36m17"])


def test_the_folded_mesh_moves_as_dense_blending_does_with_its_gradient(anny):
    double = anny.to(dtype=torch.float64)
    parameters = random_parameters(3, dtype=torch.float64)
    pull = torch.randn(3, len(anny.vertices), 3, generator=torch.Generator().manual_seed(2))
    results = []
    for points in (None, double.all_points()):
        values = [v.clone().requires_grad_() for v in (parameters.scales, parameters.pose)]
        vertices = skin(double, BodyParameters(*values), points)
        (vertices * pull).sum().backward()
        results.append((vertices.detach(), *(value.grad for value in values)))
    for quick, slow in zip(*results, strict=True):
        torch.testing.assert_close(quick, slow, atol=1e-9, rtol=1e-9)


def test_a_body_without_a_batch_is_skinned_like_one_of_many(template):
    parameters = random_parameters(2)
    torch.testing.assert_close(
        skin(template, parameters[1]), skin(template, parameters)[1], atol=1e-6, rtol=0
    )


def test_a_template_travels_without_what_was_computed_from_it(template):
    skin(template, template.rest_parameters(1))
    assert "folded" in vars(template)
    again = pickle.loads(pickle.dumps(template))
    assert "folded" not in vars(again)
    assert again.fingerprint == template.fingerprint
