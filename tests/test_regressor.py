import copy
import json
import logging
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn

from deformlearn import backbone
from deformlearn.backbone import Backbone, folded
from deformlearn.camera import FACING_CAMERA
from deformlearn.config import RegressorConfig
from deformlearn.data.augment import SEGMENT_JOINTS
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, project_points
from deformlearn.regressor import (
    Head,
    PixelHeads,
    Pyramid,
    build_network,
    load_network,
    predict_dataset,
    save_network,
)
from deformlearn.skeleton import joint_set

TINY = RegressorConfig(backbone="test_resnet", pretrained=False, size=32, batch=4, epochs=2)
PAPER = replace(TINY, auxiliary=False)
JOINTS = "skeleton25"


@pytest.fixture
def network(template):
    return build_network(TINY, template, JOINTS)


def images(count, size=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=g, dtype=torch.uint8)


@pytest.mark.parametrize("config", [TINY, PAPER], ids=["auxiliary", "paper"])
def test_a_fresh_network_answers_nearly_the_rest_pose_before_the_camera(config, template):
    estimate = predict_dataset(build_network(config, template, JOINTS), images(4))
    rest = Estimate.rest(template, 4)
    points = template.all_points()
    found, wanted = (project_points(template, e, points) for e in (estimate, rest))
    torch.testing.assert_close(found, wanted, atol=0.1, rtol=0)


def test_heads_have_the_shapes_their_labels_ask_for(network):
    prediction = network.eval()(images(2, 64).float() / 255)
    assert prediction.heatmaps.shape == (2, len(joint_set(JOINTS)), 16, 16)
    sums = prediction.heatmaps.exp().sum((-1, -2))
    torch.testing.assert_close(sums, torch.ones_like(sums))
    assert prediction.coordinates.shape == (2, 3, 16, 16)
    assert prediction.estimate.body.pose.shape == (2, 23, 3)
    assert prediction.features.shape == (2, network.head.mean.shape[0])


def test_the_papers_network_has_no_heads_and_pools_the_last_stage(template):
    network = build_network(PAPER, template, JOINTS).eval()
    prediction = network(images(2).float() / 255)
    assert prediction.heatmaps is None
    assert prediction.coordinates is None
    assert prediction.features.shape == (2, network.backbone.channels[-1])


def test_sizes_stay_positive_and_rotations_proper_whatever_the_head_says(template):
    network = build_network(PAPER, template, JOINTS).eval()
    network.head.layers[-1].weight.data.normal_(std=10)
    estimate = predict_dataset(network, images(16))
    assert estimate.body.scales.min() > 0
    assert estimate.camera.scale.min() > 0
    rotation = estimate.camera.rotation()
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(16))
    torch.testing.assert_close(estimate.camera.matrix, rotation, atol=1e-5, rtol=0)


def test_turning_the_head_numbers_of_the_camera_leaves_the_pelvis_in_its_place(template):
    network = build_network(PAPER, template, JOINTS).eval()
    features = torch.zeros(2, network.head.mean.shape[0])
    last = network.head.layers[-1]
    last.weight.data.zero_()
    matrix = slice(69 + 24, 69 + 24 + 9)
    last.bias.data[matrix] = (torch.eye(3) - torch.tensor(FACING_CAMERA)).flatten()
    turned = network.regress(features)
    rest = Estimate.rest(template, 2)
    pelvis = template.keypoints(joint_set(SEGMENT_JOINTS))[:1]
    found, wanted = (project_points(template, e, pelvis)[..., :2] for e in (turned, rest))
    torch.testing.assert_close(found, wanted)
    assert (turned.camera.translation - rest.camera.translation).abs().max() > 0.1


def test_evidence_is_read_where_the_heat_map_points():
    heads = PixelHeads(2)
    with torch.no_grad():
        heads.heatmaps.weight.zero_()
        heads.heatmaps.weight[0, 0] = 100.0
        heads.heatmaps.weight[1, 1] = 100.0
        pixels = torch.zeros(1, heads.heatmaps.in_channels, 4, 8)
        pixels[0, 0, 1, 2] = 1.0
        pixels[0, 1, 3, 7] = 1.0
        _, coordinates, evidence = heads(pixels)
    first, second = evidence.view(2, -1)
    torch.testing.assert_close(first[:2], torch.tensor([-0.375, -0.25]))
    torch.testing.assert_close(second[:2], torch.tensor([0.875, 0.75]))
    torch.testing.assert_close(first[2:5], coordinates[0, :, 1, 2])


def test_the_pyramid_merges_odd_sizes_at_the_finest():
    stages = [torch.rand(2, 3, 7, 5), torch.rand(2, 4, 4, 3), torch.rand(2, 5, 2, 2)]
    assert Pyramid([3, 4, 5])(stages).shape[2:] == (7, 5)
    assert Pyramid([3])(stages[:1]).shape[2:] == (7, 5)


@pytest.mark.parametrize(
    ("size", "wanted", "cells"),
    [(32, 24, 8), (96, 24, 24), (188, 24, 47), (192, 24, 24), (224, 24, 28), (224, 56, 56)],
)
def test_the_2d_heads_have_as_few_cells_as_suffice(size, wanted, cells, template):
    config = replace(TINY, size=size, cells=wanted)
    network = build_network(config, template, JOINTS).eval()
    prediction = network(images(1, size))
    assert prediction.heatmaps.shape[-2:] == prediction.coordinates.shape[-2:] == (cells, cells)


def test_the_head_sees_standardised_features_and_drops_some_in_training():
    head = Head(3).eval()
    features = torch.rand(4, 3)
    before = head(features)
    head.mean.fill_(1.0)
    head.deviation.fill_(2.0)
    torch.testing.assert_close(head(features * 2 + 1), before)
    head.train()
    assert not torch.equal(head(features), head(features))


def test_a_prediction_tells_how_many_images_are_done(network):
    told = []
    predict_dataset(network, images(5), batch=2, progress=told.append)
    assert told == [2, 4, 5]


def test_predictions_do_not_depend_on_the_batch_and_leave_the_mode_alone(network):
    people = images(5)
    whole = predict_dataset(network.train(), people)
    parts = predict_dataset(network, people, batch=2, device=torch.device("cpu"))
    assert not any(value.requires_grad for value in whole.tensors())
    assert network.training
    for one, other in zip(whole.tensors(), parts.tensors(), strict=True):
        # bfloat16 rounds sums that are ordered differently in another batch.
        torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("config", [TINY, PAPER], ids=["auxiliary", "paper"])
def test_what_predicts_says_what_was_trained_without_batch_normalisation(config, template):
    network = build_network(config, template, JOINTS)
    crops = images(8)
    with torch.no_grad():
        for _ in range(20):  # running statistics far from those of a fresh network
            network.train()(crops)
        before = copy.deepcopy(network.state_dict())
        faster = network.for_prediction()
        assert faster is not network
        assert faster.for_prediction() is faster
        wanted, found = network.eval()(crops), faster(crops)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in faster.modules())
    for one, other in zip(found.tensors(), wanted.tensors(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        for weights in faster.parameters():
            weights.zero_()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_model_that_cannot_be_traced_is_not_folded():
    class Doubtful(nn.Module):
        def forward(self, values):
            return values if values.sum() > 0 else -values

    doubtful = Doubtful().eval()
    assert folded(doubtful) is doubtful
    with pytest.raises(ValueError, match="eval mode"):
        folded(Doubtful())


def test_random_weights_depend_on_the_seed_alone(template):
    first, again, other = (build_network(TINY, template, JOINTS, seed=s) for s in (1, 1, 2))
    same = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(first.head.layers[0].weight, other.head.layers[0].weight)


@pytest.mark.parametrize("config", [TINY, PAPER], ids=["auxiliary", "paper"])
def test_a_saved_network_predicts_the_same_when_loaded(config, template, tmp_path):
    network = build_network(config, template, JOINTS, seed=3)
    save_network(network, tmp_path / "network.safetensors")
    loaded = load_network(tmp_path / "network.safetensors")
    assert loaded.info == network.info
    people = images(3)
    pairs = zip(
        predict_dataset(network, people).tensors(),
        predict_dataset(loaded, people).tensors(),
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_other_files_are_refused_as_networks(network, tmp_path):
    path = tmp_path / "network.safetensors"
    with pytest.raises(InputError, match="does not exist"):
        load_network(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="is not a deformlearn network"):
        load_network(path)
    safetensors.torch.save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(InputError, match="is not a deformlearn network"):
        load_network(path)
    save_network(network, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is not a deformlearn network"):
        load_network(path)


def test_a_network_with_weights_that_are_no_numbers_is_refused_by_their_name(network, tmp_path):
    path = tmp_path / "network.safetensors"
    network.head.layers[0].weight.data[3, 5] = torch.inf
    save_network(network, path)
    with pytest.raises(
        InputError, match=r"damaged: its weights head\.layers\.0\.weight are not all"
    ):
        load_network(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": 99}, "format 99"), ({"joints": "coco17"}, "weights do not fit test_resnet")],
)
def test_a_network_of_another_format_or_with_other_weights_is_refused(
    network, tmp_path, change, message
):
    path = tmp_path / "network.safetensors"
    network.info = replace(network.info, **change)
    save_network(network, path)
    with pytest.raises(InputError, match=message):
        load_network(path)


def test_a_network_of_an_earlier_version_is_refused_by_its_format(network, tmp_path):
    path = tmp_path / "network.safetensors"
    about = {**vars(network.info), "format": 1}
    del about["cells"]  # it knew nothing of them
    weights = {name: one.contiguous() for name, one in network.state_dict().items()}
    safetensors.torch.save_file(weights, path, {"deformlearn": json.dumps(about)})
    with pytest.raises(InputError, match="has format 1; this version reads format 2: train it"):
        load_network(path)


def test_an_unknown_backbone_is_refused_with_close_names(template):
    with pytest.raises(InputError, match=r"no model 'resnet51'.*resnet50"):
        build_network(replace(TINY, backbone="resnet51"), template, JOINTS)


def test_a_backbone_without_fine_features_is_refused_only_by_the_heads(template):
    coarse = replace(TINY, backbone="test_vit")
    with pytest.raises(InputError, match="stride 4, which the 2D heads need"):
        build_network(coarse, template, JOINTS)


def test_missing_imagenet_weights_cost_one_message(monkeypatch, caplog):
    monkeypatch.setattr(backbone.hub, "ENDPOINT", "http://127.0.0.1:9")
    offline = backbone.hub.HF_HUB_OFFLINE
    with caplog.at_level(logging.WARNING):
        model = Backbone("resnet10t", pretrained=True)
    assert [record.name for record in caplog.records] == ["deformlearn.backbone"]
    assert "resnet10t starts from random weights" in caplog.text
    assert model.channels[-1] == 512
    assert offline == backbone.hub.HF_HUB_OFFLINE


def test_a_narrow_model_has_half_the_channels_of_the_full_one():
    half, full = (Backbone(name, pretrained=False) for name in ("resnet18_half", "resnet18"))
    assert [2 * count for count in half.channels] == full.channels
    assert half.strides == full.strides


def test_pretrained_weights_are_asked_for_only_when_wanted(monkeypatch):
    asked = []
    create = backbone.timm.create_model

    def spy(name, **options):
        asked.append(options.get("pretrained", False))
        return create(name, features_only=True)

    monkeypatch.setattr(backbone.timm, "create_model", spy)
    Backbone("test_resnet", pretrained=False)
    Backbone("test_resnet", pretrained=True)
    assert asked == [False, True]


def test_a_device_too_small_for_a_batch_predicts_half_as_many_at_a_time(
    network, monkeypatch, caplog
):
    people = images(7)
    expected = predict_dataset(network, people)
    seen = []
    forward = type(network).forward

    def small(self, pixels):
        seen.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore")
        return forward(self, pixels)

    monkeypatch.setattr(type(network), "forward", small)
    with caplog.at_level(logging.WARNING):
        found = predict_dataset(network, people, batch=6)
    # What was found to fit is used for the rest.
    assert seen == [6, 3, *[1] * 7]
    assert "from now on 3 images at a time (CUDA out of memory.)" in caplog.text
    for one, other in zip(found.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-2)


def test_a_device_without_room_for_one_image_is_refused(network, monkeypatch):
    def full(self, pixels):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(network), "forward", full)
    with pytest.raises(InputError, match="out of memory for one of the images"):
        predict_dataset(network.train(), images(3), batch=2)
    assert network.training


def test_bytes_and_numbers_are_the_same_image_to_a_network(network):
    crops = images(2)
    with torch.no_grad():
        one, other = network.eval()(crops), network(crops.float() / 255)
    for first, second in zip(one.tensors(), other.tensors(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
