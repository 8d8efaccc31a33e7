"""Training by two real processes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed as group
from torch import multiprocessing

from conftest import octahedra, plant
from deformlearn import head_only, learning, stepping
from deformlearn.config import RegressorConfig
from deformlearn.distributed import ALONE, Team
from deformlearn.errors import InputError
from deformlearn.head_only import train_head
from deformlearn.learning import Training
from deformlearn.regressor import build_network
from deformlearn.supervision import TrainingSet

TINY = RegressorConfig(
    backbone="test_resnet", pretrained=False, size=32, batch=7, epochs=2, learning_rate=1e-3,
    head_steps=20, head_views=3, head_batch=8,
)  # fmt: skip


def a_training_set(count=16):
    template = octahedra()
    truth, seen, _ = plant(template, count)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=g)
    return template, TrainingSet.of(images, seen, truth, template)


def batch_statistics(team):
    """An ordinary round: two epochs of two batches."""
    template, data = a_training_set()
    training = Training(
        build_network(TINY, template, "skeleton25"), data, template, TINY, team=team
    )
    means = []
    training.run(lambda _, losses: means.append(torch.stack(list(losses.tensors()))))
    return {"state": training.state_dict(), "means": torch.stack(means)}


def one_leg(team):
    """What is left to others when a round is killed within an epoch."""
    template, data = a_training_set()
    training = Training(
        build_network(TINY, template, "skeleton25"), data, template, TINY, team=team
    )
    whole, learning._LEG = learning._LEG, TINY.batch
    assert training.run_leg() is None
    learning._LEG = whole
    return training.state_dict()


def one_gradient(team):
    """The gradient of one step of seven images, by a network without batch statistics and dropout."""
    template, data = a_training_set(7)
    network = build_network(TINY, template, "skeleton25").eval()
    network.train = lambda mode=True: network
    training = Training(network, data, template, replace(TINY, epochs=1), seed=3, team=team)
    means = training.run_epoch()
    found = {name: p.grad.clone() for name, p in network.named_parameters()}
    return {"gradient": found, "means": torch.stack(list(means.tensors()))}


def new_head(team):
    template, data = a_training_set()
    network = build_network(TINY, template, "skeleton25")
    means = train_head(network, data, template, TINY, team=team)
    return {"head": network.head.state_dict(), "means": torch.stack(list(means.tensors()))}


def not_a_number(team):
    """Everyone stops at the same step, whoever's image it was."""
    template, data = a_training_set()
    seen = data.observations
    bad = torch.arange(16) == 4
    keypoints = torch.where(bad[:, None, None], torch.nan, seen.keypoints)
    data = replace(data, observations=replace(seen, keypoints=keypoints))
    config = replace(TINY, batch=16)
    training = Training(
        build_network(TINY, template, "skeleton25"), data, template, config, team=team
    )
    try:
        training.run()
    except InputError as error:
        return {"message": str(error)}
    return {}


PIECES = (batch_statistics, one_leg, one_gradient, new_head, not_a_number)


def full_precision():
    """bfloat16 rounds sums of other parts differently, which is not what is tested here."""
    off = torch.autocast("cpu", enabled=False)
    stepping.autocast = head_only.autocast = lambda _: off


def work(rank, folder):
    torch.set_num_threads(1)
    full_precision()
    group.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    found = {piece.__name__: piece(Team(rank, 2)) for piece in PIECES}
    torch.save(found, Path(folder) / f"{rank}.pt")
    group.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("team")
    multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture
def alone(monkeypatch):
    off = torch.autocast("cpu", enabled=False)
    monkeypatch.setattr(stepping, "autocast", lambda _: off)
    monkeypatch.setattr(head_only, "autocast", lambda _: off)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as theirs: sums round by the number of threads
    yield ALONE
    torch.set_num_threads(threads)


def same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_both_processes_have_learned_the_same_weights_and_statistics(both):
    first, second = (found["batch_statistics"] for found in both)
    same(first["state"]["network"], second["state"]["network"])
    assert torch.equal(first["means"], second["means"])


def test_what_two_processes_learned_one_goes_on_with(both, alone):
    template, data = a_training_set()
    state = both[0]["batch_statistics"]["state"]
    fresh = build_network(TINY, template, "skeleton25", seed=4)
    training = Training(fresh, data, template, replace(TINY, epochs=3))
    training.load_state_dict(state)
    same(fresh.state_dict(), state["network"])
    training.run()
    assert training.epoch == 3


def test_within_an_epoch_both_processes_could_tell_others_how_to_go_on(both, alone, monkeypatch):
    monkeypatch.setattr(learning, "_LEG", TINY.batch)
    first, second = (found["one_leg"] for found in both)
    same(first["network"], second["network"])
    assert first["losses"] == second["losses"]
    template, data = a_training_set()
    training = Training(build_network(TINY, template, "skeleton25", seed=4), data, template, TINY)
    training.load_state_dict(first)
    assert (training.epoch, training.step, training.seen) == (0, 1, TINY.batch)
    means = training.run_epoch()
    assert training.epoch == 1
    assert all(mean.isfinite() for mean in means.tensors())


def test_two_processes_learn_about_what_one_does(both, alone):
    """Each normalises by its own half of a batch, and drops out other units."""
    means = both[0]["batch_statistics"]["means"]
    torch.testing.assert_close(means, batch_statistics(alone)["means"], rtol=0.3, atol=0.05)


def test_without_batch_statistics_the_gradient_is_that_of_one_process(both, alone):
    expected = one_gradient(alone)
    for found in both:
        torch.testing.assert_close(
            found["one_gradient"]["means"], expected["means"], rtol=1e-5, atol=1e-6
        )
        for name, gradient in expected["gradient"].items():
            torch.testing.assert_close(
                found["one_gradient"]["gradient"][name], gradient, rtol=1e-3, atol=1e-5, msg=name
            )


def test_the_head_alone_is_exactly_that_of_one_process(both, alone):
    expected = new_head(alone)
    for found in both:
        same(found["new_head"]["head"], expected["head"])
        assert torch.equal(found["new_head"]["means"], expected["means"])


def test_all_stop_at_a_loss_that_is_not_a_number_and_name_the_row(both):
    first, second = (found["not_a_number"]["message"] for found in both)
    assert first == second
    assert "step 1 of 1 of epoch 1, at training rows 4;" in first


def test_more_processes_than_a_batch_can_feed_are_refused():
    template, data = a_training_set(7)
    network = build_network(TINY, template, "skeleton25")
    with pytest.raises(InputError, match="4 processes cannot share a batch of 7 images"):
        Training(network, data, template, TINY, team=Team(0, 4))
