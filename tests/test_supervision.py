import math
from dataclasses import fields

import pytest
import torch

from deformlearn.config import RegressorConfig
from deformlearn.data.augment import SEGMENT_JOINTS, Correspondences, pixel_centres
from deformlearn.estimate import camera_joints
from deformlearn.supervision import (
    Losses,
    TrainingSet,
    body_losses,
    coordinate_distance,
    heatmap_cross_entropy,
    training_examples,
)


@pytest.fixture(scope="module")
def data(template, planted):
    truth, seen, _ = planted(template, 8)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    return TrainingSet.of(images, seen, truth, template)


def test_the_true_bodies_have_no_loss(template, data):
    labels = training_examples(data, template).labels
    terms = body_losses(template, data.target, labels)
    for field in fields(terms):
        # joint_distance keeps its root away from zero.
        assert getattr(terms, field.name).max() < 2e-4


def test_the_registered_bodys_joints_are_the_3d_joints(template, data):
    torch.testing.assert_close(data.joints_3d, camera_joints(template, data.target, SEGMENT_JOINTS))
    assert not data.joints_3d.requires_grad


def likely(logits):
    """Logarithms of likelihoods, as the network gives them."""
    return logits.flatten(2).log_softmax(-1).view_as(logits)


def test_heat_maps_are_best_with_their_peak_at_the_key_point():
    at = torch.tensor([[[0.25, -0.5]]])
    rows, columns = pixel_centres(4, at), pixel_centres(8, at)
    squared = (columns - at[0, 0, 0]).square() + (rows - at[0, 0, 1]).square()[:, None]
    logits = torch.zeros(1, 1, 4, 8, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.3)
    for _ in range(300):
        optimizer.zero_grad()
        heatmap_cross_entropy(likely(logits), at, torch.ones(1, 1)).sum().backward()
        optimizer.step()
    found = likely(logits.detach()).exp().view(4, 8)
    torch.testing.assert_close((found.sum(0) * columns).sum(), at[0, 0, 0], atol=0.01, rtol=0)
    torch.testing.assert_close((found.sum(1) * rows).sum(), at[0, 0, 1], atol=0.01, rtol=0)
    # All that is likely are the four pixels around the point.
    assert found[squared < 0.2].sum() > 0.99


@pytest.mark.parametrize("x", [0.0, 0.93, -1.0, 1.0])
def test_an_even_heat_map_costs_the_logarithm_of_its_pixels_up_to_the_border(x):
    at = torch.tensor([x, -x]).expand(2, 3, 2)
    loss = heatmap_cross_entropy(likely(torch.zeros(2, 3, 4, 8)), at, torch.ones(2, 3))
    torch.testing.assert_close(loss, torch.full((2,), 32.0).log())


def test_key_points_that_are_no_numbers_teach_nothing_and_read_nothing_outside_the_maps():
    heatmaps = torch.randn(1, 3, 4, 4, requires_grad=True)
    points = torch.tensor([[[math.nan, 0.0], [math.inf, -math.inf], [-3e38, math.nan]]])
    loss = heatmap_cross_entropy(likely(heatmaps), points, torch.ones(1, 3))
    loss.sum().backward()
    assert loss.item() == 0
    assert not heatmaps.grad.any()


def test_missing_key_points_and_those_outside_teach_nothing():
    heatmaps = torch.randn(1, 3, 4, 4, requires_grad=True)
    points = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [1.2, 0.0]]])
    heatmap_cross_entropy(
        likely(heatmaps), points, torch.tensor([[1.0, 0.0, 1.0]])
    ).sum().backward()
    assert heatmaps.grad[:, 0].any()
    assert not heatmaps.grad[:, 1:].any()
    assert heatmap_cross_entropy(likely(heatmaps), points, torch.zeros(1, 3)).item() == 0


def dense_at(template, x, y, weights=1.0):
    face = torch.zeros(1, 1, dtype=torch.long)
    surface = template.surface_points(face, torch.tensor([[[1.0, 0.0, 0.0]]]))
    return Correspondences(torch.tensor([[[x, y]]]), surface, torch.full((1, 1), weights))


def test_template_coordinates_are_taught_at_the_annotated_pixel(template):
    coordinates = torch.zeros(1, 3, 4, 8, requires_grad=True)
    dense = dense_at(template, 0.375, -0.25)
    coordinate_distance(coordinates, dense, template.joints[0]).sum().backward()
    touched = coordinates.grad.abs().sum((0, 1)).nonzero().tolist()
    assert touched == [[1, 5]]
    with torch.no_grad():
        coordinates[0, :, 1, 5] = template.vertices[template.faces[0, 0]] - template.joints[0]
    assert coordinate_distance(coordinates, dense, template.joints[0]).item() < 1e-10


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.97, -0.9), (-1.0, 1.0)])
def test_right_template_coordinates_cost_nothing_up_to_the_border(template, x, y):
    dense = dense_at(template, x, y)
    right = dense.surface.rest[0, 0] - template.joints[0]
    coordinates = right[:, None, None].expand(1, 3, 4, 8)
    assert coordinate_distance(coordinates, dense, template.joints[0]).item() < 1e-10


@pytest.mark.parametrize(("x", "weight"), [(1.1, 1.0), (0.1, 0.0)])
def test_correspondences_outside_or_without_weight_teach_no_coordinates(template, x, weight):
    dense = dense_at(template, x, 0.0, weight)
    assert coordinate_distance(torch.ones(1, 3, 4, 4), dense, template.joints[0]).item() == 0


def test_the_total_weighs_each_term_once():
    config = RegressorConfig(
        regress_weight=1.0,
        dense_weight=2.0,
        keypoint_weight=4.0,
        joint_weight=8.0,
        heatmap_weight=16.0,
        coordinate_weight=32.0,
    )
    terms = Losses(*(torch.tensor(10.0**power) for power in range(6)))
    torch.testing.assert_close(terms.total(config).item(), 1 + 20 + 400 + 8e3 + 16e4 + 32e5)
