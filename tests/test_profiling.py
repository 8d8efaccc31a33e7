from dataclasses import replace

import pytest
import torch

from deformlearn.config import RegressorConfig
from deformlearn.profiling import Profile, profile_prediction, profile_training
from deformlearn.regressor import build_network
from deformlearn.supervision import TrainingSet

TINY = RegressorConfig(backbone="test_resnet", pretrained=False, size=32, batch=4, epochs=2)


@pytest.fixture(scope="module")
def data(template, planted):
    truth, seen, _ = planted(template, 9)
    images = torch.zeros(9, 3, 32, 32, dtype=torch.uint8)
    return TrainingSet.of(images, seen, truth, template)


def test_a_profile_of_training_names_every_phase_and_leaves_the_network_alone(template, data):
    network = build_network(TINY, template, "skeleton25").eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = profile_training(network, data, template, TINY, steps=2, repeats=2)
    assert list(found.phases) == ["data", "forward", "backward", "optimiser"]
    assert all(seconds > 0 for seconds in (*found.phases.values(), found.seconds, found.bare))
    assert found.images == 4
    assert not network.training
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_profile_of_prediction_counts_the_images_there_are(template, data):
    network = build_network(replace(TINY, auxiliary=False), template, "skeleton25")
    found = profile_prediction(network, data.images, batch=64, repeats=2)
    assert found.images == 9
    assert found.lines()[0].startswith("prediction: ")
    assert len(found.lines()) == 1


def test_a_profile_says_speed_and_shares():
    found = Profile("training", "resnet50", 30, 2.0, 1.5, {"data": 0.5, "forward": 1.5})
    assert found.share == 0.75
    assert found.lines() == [
        "training: 15.0 images/s, 0.75 of the bare resnet50 (20.0); 2000.0 ms for 30 images",
        "  data: 500.0 ms, 25%",
        "  forward: 1500.0 ms, 75%",
    ]
