import io
from dataclasses import fields, replace

import pytest
import torch

from deformlearn.config import AugmentConfig, RegressorConfig
from deformlearn.data.augment import SEGMENT_JOINTS, Correspondences, pixel_centres
from deformlearn.estimate import camera_joints
from deformlearn.learning import (
    Losses,
    Training,
    TrainingSet,
    all_losses,
    body_losses,
    coordinate_distance,
    heatmap_cross_entropy,
    one_cycle,
    train_head,
    training_examples,
)
from deformlearn.regressor import build_network, predict_dataset
from deformlearn.tensors import where

TINY = RegressorConfig(
    backbone="test_resnet",
    pretrained=False,
    size=32,
    batch=4,
    epochs=2,
    learning_rate=1e-3,
    head_steps=10,
    head_views=2,
    head_batch=8,
)
JOINTS = "skeleton25"
STILL = AugmentConfig(mirror=False, rotation=0.0, zoom=0.0, shift=0.0, colour=0.0, occlusion=0.0)


@pytest.fixture(scope="module")
def data(template, planted):
    truth, seen, _ = planted(template, 8)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    return TrainingSet.of(images, seen, truth, template)


def network(template, config=TINY, seed=0):
    return build_network(config, template, JOINTS, seed=seed)


def assert_equal(first, second):
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_the_true_bodies_have_no_loss(template, data):
    labels = training_examples(data, template).labels
    terms = body_losses(template, data.target, labels)
    for field in fields(terms):
        # joint_distance keeps its root away from zero.
        assert getattr(terms, field.name).max() < 2e-4


def test_every_part_of_the_network_receives_a_gradient(template, data):
    net = network(template)
    # timm starts residual branches at zero, behind which nothing has a gradient before one step.
    Training(net, data, template, replace(TINY, epochs=1)).run()
    net.zero_grad()
    examples = training_examples(data, template)
    terms = all_losses(template, net(examples.images), examples.labels, net.root)
    terms.total(TINY).sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("auxiliary", [True, False])
def test_a_few_images_are_learned_by_heart(template, data, auxiliary):
    config = replace(
        TINY, auxiliary=auxiliary, epochs=60, batch=8, augment=STILL,
        heatmap_weight=3.0, joint_weight=2.0, coordinate_weight=5.0,
    )  # fmt: skip
    net = network(template, config)
    history = []
    Training(net, data, template, config).run(lambda _, means: history.append(means))
    assert history[-1].joints < 0.5 * history[0].joints
    assert history[-1].keypoint < 0.2 * history[0].keypoint
    if auxiliary:
        assert history[-1].heatmap < 0.85 * history[0].heatmap
        assert history[-1].coordinates < 0.5 * history[0].coordinates
    else:
        assert history[-1].heatmap == 0


def test_a_killed_round_goes_on_to_the_same_bits(template, data):
    config = replace(TINY, epochs=3)
    whole = network(template)
    Training(whole, data, template, config, seed=7, round_number=2).run()

    killed = Training(network(template), data, template, config, seed=7, round_number=2)
    killed.run_epoch()
    file = io.BytesIO()
    torch.save(killed.state_dict(), file)
    file.seek(0)
    resumed = Training(network(template, seed=5), data, template, config, seed=7, round_number=2)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    resumed.run()
    assert_equal(resumed.network, whole)


@pytest.mark.parametrize("change", [{"seed": 1}, {"round_number": 2}])
def test_seed_and_round_choose_the_views(template, data, change):
    config = replace(TINY, epochs=1, later_rate=1.0)
    first, other = network(template), network(template)
    Training(first, data, template, config).run()
    Training(other, data, template, config, **change).run()
    last = "head.layers.8.weight"
    assert not torch.equal(first.state_dict()[last], other.state_dict()[last])


def test_later_rounds_take_smaller_steps(template, data):
    config = replace(TINY, epochs=1, later_rate=0.0)
    start, later = network(template), network(template)
    Training(later, data, template, config, round_number=2).run()
    pairs = zip(start.parameters(), later.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_an_epoch_reports_how_far_it_is_and_its_mean_losses(template, data):
    seen = []
    training = Training(network(template), data, template, TINY)
    training.run(lambda now, means: seen.append((now.epoch, means)))
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert all(value.ndim == 0 and value > 0 for _, means in seen for value in means.tensors())
    training.run(lambda *_: pytest.fail("a finished round has nothing left to train"))


def test_true_joints_replace_the_registered_ones_in_the_full_3d_baseline(template, data):
    truth = replace(data, joints_3d=data.joints_3d + 0.3)
    means = Training(network(template), truth, template, TINY).run_epoch()
    without = Training(network(template), data, template, TINY).run_epoch()
    assert means.joints > without.joints + 0.1


def test_the_registered_bodys_joints_are_the_3d_joints(template, data):
    torch.testing.assert_close(data.joints_3d, camera_joints(template, data.target, SEGMENT_JOINTS))
    assert not data.joints_3d.requires_grad


def test_the_head_phase_replaces_the_head_and_nothing_else(template, data):
    net = network(template)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    means = train_head(net, data, template, TINY)
    changed = {
        name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert {name.split(".")[0] for name in changed} == {"head"}
    assert {"head.mean", "head.deviation"} <= changed
    assert means.joints.isfinite()
    again = network(template)
    train_head(again, data, template, TINY)
    assert_equal(again, net)


@pytest.mark.parametrize("change", [{"seed": 1}, {"round_number": 2}])
def test_seed_and_round_choose_the_new_head(template, data, change):
    first, other = network(template), network(template)
    train_head(first, data, template, TINY)
    train_head(other, data, template, TINY, **change)
    assert not torch.equal(first.head.layers[0].weight, other.head.layers[0].weight)


def test_the_head_phase_learns_and_the_next_round_goes_on_from_it(template, data):
    config = replace(TINY, epochs=10, head_steps=300, head_learning_rate=5e-3, augment=STILL)
    net = network(template)
    labels = training_examples(data, template).labels

    def error():
        return body_losses(template, predict_dataset(net, data.images), labels).joints.mean()

    Training(net, data, template, config).run()
    before = error()
    train_head(net, data, template, config)
    after = error()
    assert after < 0.8 * before
    Training(net, data, template, replace(config, learning_rate=1e-5)).run()
    assert error() < 0.9 * before


def test_heat_maps_are_best_with_their_peak_at_the_key_point():
    at = torch.tensor([[[0.25, -0.5]]])
    rows, columns = pixel_centres(4, at), pixel_centres(8, at)
    squared = (columns - at[0, 0, 0]).square() + (rows - at[0, 0, 1]).square()[:, None]
    logits = torch.zeros(1, 1, 4, 8, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.3)
    for _ in range(300):
        optimizer.zero_grad()
        heatmap_cross_entropy(logits, at, torch.ones(1, 1)).sum().backward()
        optimizer.step()
    likely = logits.detach().flatten(2).softmax(-1).view(4, 8)
    torch.testing.assert_close((likely.sum(0) * columns).sum(), at[0, 0, 0], atol=0.01, rtol=0)
    torch.testing.assert_close((likely.sum(1) * rows).sum(), at[0, 0, 1], atol=0.01, rtol=0)
    # All that is likely are the four pixels around the point.
    assert likely[squared < 0.2].sum() > 0.99


def test_an_even_heat_map_costs_the_logarithm_of_its_pixels():
    loss = heatmap_cross_entropy(torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 2), torch.ones(2, 3))
    torch.testing.assert_close(loss, torch.full((2,), 32.0).log())


def test_missing_key_points_and_those_outside_teach_nothing():
    heatmaps = torch.randn(1, 3, 4, 4, requires_grad=True)
    points = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [1.2, 0.0]]])
    heatmap_cross_entropy(heatmaps, points, torch.tensor([[1.0, 0.0, 1.0]])).sum().backward()
    assert heatmaps.grad[:, 0].any()
    assert not heatmaps.grad[:, 1:].any()
    assert heatmap_cross_entropy(heatmaps, points, torch.zeros(1, 3)).item() == 0


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


def test_the_step_size_rises_to_its_peak_and_falls_to_nearly_nothing():
    rates = torch.tensor([one_cycle(done / 100) for done in range(101)])
    assert rates.argmax() == 20
    torch.testing.assert_close(rates.max().item(), 1.0)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(1e-3)
    assert (rates[:20].diff() > 0).all()
    assert (rates[20:].diff() < 0).all()


def test_what_cannot_be_learned_is_refused(template, data):
    net = network(template)
    with pytest.raises(ValueError, match=r"about template 'octahedra'.*about 'other'"):
        Training(net, data, replace(template, name="other"), TINY)
    with pytest.raises(ValueError, match="sees 32 px, the images are 16"):
        Training(net, replace(data, images=data.images[..., ::2, ::2]), template, TINY)
    with pytest.raises(ValueError, match="finds key points 'coco17', the data have 'skeleton25'"):
        Training(build_network(TINY, template, "coco17"), data, template, TINY)
    with pytest.raises(ValueError, match="at least 2 training images"):
        Training(net, data[:1], template, TINY)
    first = torch.arange(len(data)) == 0
    broken = where(first, data.target.map(lambda x: x * torch.nan), data.target)
    with pytest.raises(ValueError, match="not finite; leave that image out"):
        train_head(net, replace(data, target=broken), template, TINY)
