from dataclasses import replace

import pytest
import torch

from deformlearn import losses
from deformlearn.config import AugmentConfig
from deformlearn.data.augment import (
    SEGMENT_JOINTS,
    Correspondences,
    Examples,
    Labels,
    Warp,
    augment,
    draw,
    flipped,
    occluded,
    pixel_centres,
    recoloured,
    warped,
)
from deformlearn.estimate import camera_joints, project_points
from deformlearn.skeleton import joint_set

SIZE = 64
STILL = AugmentConfig(mirror=False, rotation=0.0, zoom=0.0, shift=0.0, colour=0.0, occlusion=0.0)


@pytest.fixture(scope="module")
def examples(template, planted):
    truth, seen, _ = planted(template, 6)
    images = torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    surface = template.surface_points(seen.faces, seen.barycentric)
    dense = Correspondences(seen.points, surface, seen.point_weights)
    joints = camera_joints(template, truth, SEGMENT_JOINTS)
    labels = Labels(dense, seen.keypoints, seen.keypoint_weights, truth, joints, seen.joints)
    return Examples(images, labels)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_same(a, b, **tolerance):
    for one, other in zip(a.tensors(), b.tensors(), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def assert_perfect(template, examples):
    """The target explains every label without error."""
    labels = examples.labels
    pixels = project_points(template, labels.target, labels.dense.surface)[..., :2]
    keypoints = template.keypoints(joint_set(labels.joints))
    projected = project_points(template, labels.target, keypoints)[..., :2]
    assert losses.dense(pixels, labels.dense.pixels, labels.dense.weights).max() < 1e-9
    assert losses.keypoint(projected, labels.keypoints, labels.keypoint_weights).max() < 1e-9
    joints = camera_joints(template, labels.target, SEGMENT_JOINTS)
    torch.testing.assert_close(joints, labels.joints_3d, atol=1e-5, rtol=0)


def with_dot(examples, joint):
    """The examples as black images with a soft white dot at one key point."""
    at = examples.labels.keypoints[:, joint]
    along = pixel_centres(SIZE, at)
    squared = (along - at[:, :1]).square()[:, None, :] + (along - at[:, 1:]).square()[:, :, None]
    dot = (-squared / (2 * 0.06**2)).exp()
    return replace(examples, images=dot[:, None].expand(-1, 3, -1, -1))


def centroid(images):
    weight = images.mean(1)
    along = pixel_centres(images.shape[-1], images)
    total = weight.sum((1, 2))
    x = (weight.sum(1) * along).sum(1) / total
    y = (weight.sum(2) * along).sum(1) / total
    return torch.stack([x, y], -1)


def random_warp(count):
    g = generator(3)
    return Warp.of(
        torch.randn(count, generator=g) * 0.3,
        1 + 0.1 * torch.randn(count, generator=g),
        0.05 * torch.randn(count, 2, generator=g),
    )


def test_a_perfect_estimate_stays_perfect_under_every_augmentation(examples, template):
    for seed in range(4):
        changed = augment(examples, template, draw(len(examples), AugmentConfig(), generator(seed)))
        assert_perfect(template, changed)
        assert not torch.equal(changed.images, examples.images)


def test_flipping_twice_changes_nothing(examples, template):
    assert_same(flipped(flipped(examples, template), template), examples)


def test_a_mirror_image_exchanges_left_and_right(examples, template):
    wrists = [
        joint_set(examples.labels.joints).index(f"{side}_wrist") for side in ("left", "right")
    ]
    weights = torch.rand(examples.labels.keypoint_weights.shape)
    examples = replace(examples, labels=replace(examples.labels, keypoint_weights=weights))
    mirror = flipped(examples, template)
    left, right = (examples.labels.keypoints[:, wrist] for wrist in wrists)
    torch.testing.assert_close(mirror.labels.keypoints[:, wrists[0]], right * torch.tensor([-1, 1]))
    torch.testing.assert_close(mirror.labels.keypoints[:, wrists[1]], left * torch.tensor([-1, 1]))
    torch.testing.assert_close(mirror.labels.keypoint_weights[:, wrists[0]], weights[:, wrists[1]])
    torch.testing.assert_close(mirror.images, examples.images.flip(-1))
    assert_perfect(template, mirror)


def test_a_dot_on_a_wrist_stays_on_the_wrist_in_the_warped_image(examples):
    joint = joint_set(examples.labels.joints).index("left_wrist")
    moved = warped(with_dot(examples, joint), random_warp(6))
    inside = moved.labels.keypoints[:, joint].abs().amax(-1) < 0.75
    assert inside.sum() >= 3
    found = centroid(moved.images)[inside]
    torch.testing.assert_close(found, moved.labels.keypoints[inside, joint], atol=0.01, rtol=0)


def test_a_dot_on_the_left_wrist_is_on_the_right_wrist_of_the_mirror_image(examples, template):
    joint = joint_set(examples.labels.joints).index("left_wrist")
    mirror = flipped(with_dot(examples, joint), template)
    other = joint_set(examples.labels.joints).index("right_wrist")
    inside = mirror.labels.keypoints[:, other].abs().amax(-1) < 0.75
    found = centroid(mirror.images)[inside]
    torch.testing.assert_close(found, mirror.labels.keypoints[inside, other], atol=0.01, rtol=0)


def test_a_quarter_turn_takes_x_to_y(examples):
    quarter = Warp.of(torch.full((6,), torch.pi / 2), torch.ones(6), torch.zeros(6, 2))
    turned = warped(examples, quarter)
    x, y, z = examples.labels.joints_3d.unbind(-1)
    expected = torch.stack([-y, x, z], -1)
    torch.testing.assert_close(turned.labels.joints_3d, expected, atol=1e-6, rtol=0)
    expected = examples.images.transpose(-1, -2).flip(-1)
    torch.testing.assert_close(turned.images, expected, atol=1e-4, rtol=0)


def test_a_warp_zooms_before_it_shifts():
    warp = Warp.of(torch.zeros(1), torch.tensor([2.0]), torch.tensor([[0.1, 0.2]]))
    torch.testing.assert_close(warp(torch.tensor([[[0.3, -0.1]]])), torch.tensor([[[0.7, 0.0]]]))


def test_without_any_augmentation_the_examples_are_unchanged(examples, template):
    assert_same(
        augment(examples, template, draw(len(examples), STILL, generator())),
        examples,
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("field", ["mirror", "rotation", "zoom", "shift"])
def test_each_geometric_augmentation_moves_the_labels(examples, template, field):
    config = replace(STILL, **{field: getattr(AugmentConfig(), field)})
    changed = augment(examples, template, draw(len(examples), config, generator())).labels
    assert not torch.allclose(changed.keypoints, examples.labels.keypoints, atol=1e-3)


@pytest.mark.parametrize("field", ["colour", "occlusion"])
def test_each_photometric_augmentation_leaves_the_labels_alone(examples, template, field):
    config = replace(STILL, **{field: 0.9})
    changed = augment(examples, template, draw(len(examples), config, generator()))
    assert not torch.allclose(changed.images, examples.images, atol=1e-2)
    assert_same(changed.labels, examples.labels, atol=1e-5, rtol=0)


def test_the_same_generator_gives_the_same_views(examples, template):
    first, second, other = (
        augment(examples, template, draw(len(examples), AugmentConfig(), generator(seed)))
        for seed in (5, 5, 6)
    )
    assert_same(first, second, atol=0, rtol=0)
    assert not torch.equal(first.images, other.images)


def test_an_occluder_hides_its_rectangle_and_nothing_else(examples):
    centre, half = torch.tensor([[0.5, -0.5]] * 6), torch.tensor([[0.5, 0.25]] * 6)
    colour = torch.tensor([[1.0, 0.0, 0.5]] * 6)
    hidden = occluded(examples.images, centre, half, colour)
    rectangle = hidden[:, :, SIZE // 8 : 3 * SIZE // 8, SIZE // 2 :]
    torch.testing.assert_close(rectangle, colour[..., None, None].expand_as(rectangle))
    assert (hidden != examples.images).any(1).sum() == 6 * SIZE // 4 * SIZE // 2


def test_recolouring_keeps_grey_under_contrast_and_tints_each_channel():
    grey = torch.full((1, 3, 2, 2), 0.5)
    one, none = torch.ones(1), torch.zeros(1)
    tint = torch.tensor([[1.0, 0.5, 1.2]])
    high = recoloured(grey, contrast=2 * one, tint=torch.ones(1, 3), brightness=none)
    torch.testing.assert_close(high, grey)
    warm = recoloured(grey, contrast=3 * one, tint=tint, brightness=none)[0, :, 0, 0]
    torch.testing.assert_close(warm, torch.tensor([0.5, 0.25, 0.6]))
    bright = recoloured(grey, contrast=one, tint=torch.ones(1, 3), brightness=one)
    torch.testing.assert_close(bright, torch.ones_like(grey))
