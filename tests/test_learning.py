import io
import logging
import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from deformlearn import head_only, learning, regressor
from deformlearn.config import AugmentConfig, RegressorConfig
from deformlearn.errors import InputError, NotFiniteError
from deformlearn.head_only import train_head
from deformlearn.learning import Training
from deformlearn.lessons import one_cycle
from deformlearn.progress import Watch
from deformlearn.regressor import build_network, predict_dataset
from deformlearn.supervision import TrainingSet, all_losses, body_losses, training_examples
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
PAIRS = replace(TINY, batch=2)
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
        TINY, auxiliary=auxiliary, epochs=120, batch=8, augment=STILL,
        heatmap_weight=3.0, joint_weight=2.0, coordinate_weight=5.0,
    )  # fmt: skip
    net = network(template, config)
    history = []
    Training(net, data, template, config).run(lambda _, means: history.append(means))
    # Six first weights gave 0.29 to 0.48, 0.03 to 0.07, 0.31 to 0.32 and 0.04 to 0.05. Where a run ends
    # depends on rounding, and so on the machine.
    assert history[-1].joints < 0.65 * history[0].joints
    assert history[-1].keypoint < 0.2 * history[0].keypoint
    if auxiliary:
        assert history[-1].heatmap < 0.5 * history[0].heatmap
        assert history[-1].coordinates < 0.2 * history[0].coordinates
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


def test_a_round_killed_within_an_epoch_goes_on_to_the_same_bits(template, data, monkeypatch):
    monkeypatch.setattr(learning, "_LEG", 2 * PAIRS.batch)
    config = PAIRS
    assert len(data) // config.batch == 4
    reported = []
    whole = Training(network(template), data, template, config)
    whole.run(lambda now, means: reported.append((now.epoch, now.step, means)))
    assert [(epoch, step) for epoch, step, _ in reported] == [(0, 2), (1, 0), (1, 2), (2, 0)]
    assert [means is None for *_, means in reported] == [True, False, True, False]

    killed = Training(network(template), data, template, config)
    assert killed.run_leg() is None
    assert killed.seen == 2 * config.batch
    file = io.BytesIO()
    torch.save(killed.state_dict(), file)
    file.seek(0)
    resumed = Training(network(template, seed=5), data, template, config)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.seen == killed.seen
    again = []
    resumed.run(lambda now, means: again.append(means))
    assert_equal(resumed.network, whole.network)
    for (*_, means), same in zip(reported[1:], again, strict=True):
        assert (means is None) == (same is None)
        if means is not None:
            assert list(means.tensors()) == list(same.tensors())


def test_legs_leave_no_image_out_and_see_none_twice(template, data, monkeypatch):
    monkeypatch.setattr(learning, "_LEG", 3 * PAIRS.batch)
    training = Training(network(template), data, template, PAIRS)
    step, seen = training.stepper.step, []

    def watched(examples, rows, rate):
        seen.append((rows.tolist(), rate))
        return step(examples, rows, rate)

    training.stepper.step = watched
    told = []
    training.run(progress=told.append)
    for epoch in (0, 1):
        rows = [row for some, _ in seen[4 * epoch : 4 * epoch + 4] for row in some]
        assert sorted(rows) == list(range(len(data)))
    rates = [rate for _, rate in seen]
    assert rates == [training._rate(step) for step in range(-8, 0)]
    assert told == [PAIRS.batch * (step + 1) for step in range(8)]
    assert told[-1] == training.images == training.seen


def test_an_epoch_means_its_legs(template, data, monkeypatch):
    """Steps that change nothing: the mean losses are then those of every image once."""
    still = replace(PAIRS, learning_rate=0.0, weight_decay=0.0, augment=STILL)
    means = []
    for leg in (100, 3 * PAIRS.batch):
        monkeypatch.setattr(learning, "_LEG", leg)
        net = network(template).eval()
        net.train = lambda mode=True, net=net: net
        means.append(Training(net, data, template, still).run_epoch())
    for one, other in zip(*(each.tensors() for each in means), strict=True):
        torch.testing.assert_close(one, other)


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


def test_the_head_phase_tells_how_far_it_is(template, data, monkeypatch):
    told = []

    class Told(Watch):
        @contextmanager
        def stage(self, text, total):
            yield lambda done: told.append((text, done, total))

    monkeypatch.setattr(head_only, "BETWEEN_CHECKS", 4)
    train_head(network(template), data, template, TINY, watch=Told(quiet=True), text="head")
    assert told == [
        *[("head, features", done, 16) for done in (8, 16)],
        *[("head", done, 10) for done in (4, 8, 10)],
    ]


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


def broken_at(data, row):
    """One person's key points are not numbers."""
    keypoints = data.observations.keypoints.clone()
    keypoints[row] = math.nan
    return replace(data, observations=replace(data.observations, keypoints=keypoints))


def test_a_head_that_cannot_learn_stops_with_the_step_and_the_rows(template, data):
    """Steps that are not finite change nothing: an untrained head would be saved."""
    config = replace(TINY, head_views=3, head_batch=2)
    with pytest.raises(
        NotFiniteError, match=r"head alone, .* in step [1-9] of 10, at training rows 5: "
    ) as error:
        train_head(network(template), broken_at(data, 5), template, config)
    assert error.value.rows == [5]


def test_the_last_steps_of_a_head_are_looked_at_too(template, data, monkeypatch):
    """Where the loss is a number and its gradient none, the whole batch is named."""
    monkeypatch.setattr(head_only, "BETWEEN_CHECKS", 3)
    steps = []

    def clipped_step(optimizer, rate):
        steps.append(rate)
        return torch.tensor(math.inf if len(steps) == 10 else 1.0)

    monkeypatch.setattr(head_only, "clipped_step", clipped_step)
    with pytest.raises(NotFiniteError, match=r"in step 10 of 10, at training rows \d, \d, "):
        train_head(network(template), data, template, TINY)
    assert len(steps) == 10


def test_features_that_are_not_finite_name_their_images(template, data, monkeypatch):
    forward = regressor.Regressor.forward

    def broken(net, images):
        found = forward(net, images)
        features = found.features.clone()
        features[[2, 6]] = math.nan
        return replace(found, features=features)

    monkeypatch.setattr(regressor.Regressor, "forward", broken)
    with pytest.raises(NotFiniteError, match="is not finite at training rows 2, 6: "):
        train_head(network(template), data, template, TINY)


@pytest.fixture
def cramped(monkeypatch):
    """A device on which the ConvNet takes at most `room` images; how many it was asked for."""

    def limit(room):
        sizes, forward = [], regressor.Regressor.forward

        def small(net, images):
            sizes.append(len(images))
            if len(images) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(net, images)

        monkeypatch.setattr(regressor.Regressor, "forward", small)
        return sizes

    return limit


def test_the_head_s_features_are_the_same_where_memory_is_short(
    template, data, cramped, monkeypatch, caplog
):
    config = replace(TINY, head_steps=2)
    whole, parts = network(template), network(template)
    train_head(whole, data, template, config)
    monkeypatch.setattr(head_only, "_BLOCK", 8)
    sizes = cramped(room=3)
    with caplog.at_level(logging.WARNING):
        train_head(parts, data, template, config)
    assert sizes == [8, 4, *[2] * 8]
    assert "out of memory: from now on 2 images at a time (CUDA out of memory)" in caplog.text
    torch.testing.assert_close(parts.head.mean, whole.head.mean, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(parts.head.deviation, whole.head.deviation, atol=1e-2, rtol=1e-2)


def test_a_step_of_the_head_has_the_same_gradient_in_parts(template, data):
    net = network(template).eval()
    labels = training_examples(data, template).labels
    optimizer = torch.optim.SGD(net.head.parameters())
    with torch.no_grad():
        features = net(data.images).features
    found = []
    for size in (8, 3):
        terms = head_only._head_gradients(net, optimizer, template, TINY, features, labels, size)
        found.append([*terms.tensors(), *(weight.grad for weight in net.head.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)


def test_a_step_of_the_head_that_does_not_fit_is_taken_in_parts(
    template, data, monkeypatch, caplog
):
    sizes = []

    def cramped(template, estimate, labels):
        sizes.append(len(labels))
        if len(labels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return body_losses(template, estimate, labels)

    monkeypatch.setattr(head_only, "body_losses", cramped)
    train_head(network(template), data, template, replace(TINY, head_steps=2))
    assert sizes == [8, 4, *[2] * 8]
    assert "out of memory: from now on 2 images at a time (CUDA out of memory)" in caplog.text


def test_a_head_without_room_for_one_image_is_refused(template, data, cramped):
    cramped(room=0)
    with pytest.raises(InputError, match="out of memory for one of the images"):
        train_head(network(template), data, template, TINY)


def test_features_too_large_for_the_device_stay_in_ordinary_memory(
    template, data, monkeypatch, caplog
):
    whole, sent = network(template), network(template)
    train_head(whole, data, template, TINY)
    to = head_only.Labels.to

    def full(labels, device):
        if len(labels) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return to(labels, device)

    monkeypatch.setattr(head_only.Labels, "to", full)
    train_head(sent, data, template, TINY)
    assert "the head's features stay in ordinary memory (CUDA out of memory)" in caplog.text
    assert_equal(sent, whole)


def test_a_batch_is_made_again_when_a_full_device_has_room(template, data, monkeypatch, caplog):
    whole, parts = network(template), network(template)
    Training(whole, data, template, TINY).run_epoch()
    made, calls = learning.make_examples, []

    def full(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made(*arguments)

    monkeypatch.setattr(learning, "make_examples", full)
    Training(parts, data, template, TINY).run_epoch()
    assert len(calls) == 3
    assert "no batch is made before the last is used" in caplog.text
    assert_equal(parts, whole)


def test_the_step_size_rises_to_its_peak_and_falls_to_nearly_nothing():
    rates = torch.tensor([one_cycle(done / 100) for done in range(101)])
    assert rates.argmax() == 20
    torch.testing.assert_close(rates.max().item(), 1.0)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(1e-3)
    assert (rates[:20].diff() > 0).all()
    assert (rates[20:].diff() < 0).all()


def test_the_step_size_of_the_paper_stays(template, data):
    constant = replace(TINY, schedule="constant", learning_rate=3e-4, later_rate=0.5)
    training = Training(network(template), data, template, constant, round_number=2)
    assert [training._rate(step) for step in (0, 1, 5)] == [1.5e-4] * 3


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
