"""What would fail on a GPU for tensors on two devices, found without one: a device that is pretended."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from deformlearn import fitting, least_squares, normal_equations, regressor, skeleton, tensors
from deformlearn.config import PRESETS, RegistrationConfig, SyntheticConfig
from deformlearn.data import darkroom
from deformlearn.data.augment import augment, draw
from deformlearn.data.photographs import Stage, photograph
from deformlearn.data.shards import DatasetInfo, people_of
from deformlearn.data.staging import Studio, direct
from deformlearn.data.truth import Truth
from deformlearn.evaluation import score_estimates
from deformlearn.lifter import Lifter
from deformlearn.observations import no_points
from deformlearn.protocols import PROTOCOLS
from deformlearn.registration import register
from deformlearn.regressor import build_network, predict_dataset
from deformlearn.scoring import measure
from deformlearn.supervision import TrainingSet, all_losses, training_examples
from tiny_runs import planted_rows

THERE, HERE = torch.device("cuda", 0), torch.device("cpu")
CROSSING = ("aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put_")
"""What may have operands on both: copies, and a GPU's tensor under an index of the CPU."""

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the device is real")


class Distant(torch.Tensor):
    """A tensor that says it is on THERE; `near` are its numbers."""

    @staticmethod
    def __new__(cls, near):
        laid_out = {"strides": near.stride()} if near.layout is torch.strided else {}
        return torch.Tensor._make_wrapper_subclass(
            cls, near.size(), dtype=near.dtype, device=THERE, **laid_out
        )

    def __init__(self, near):
        self.near = near

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return computed(operator, args, kwargs or {})


class Pretence(TorchDispatchMode):
    """Whatever is made on THERE is Distant; `sent` are the operators that took numbers there."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        found = computed(operator, args, kwargs or {})
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        near = [one for one in tensors if not isinstance(one, Distant)]
        if operator._schema.name in CROSSING and near and isinstance(found, Distant):
            self.sent.append(str(operator))
        return found


def computed(operator, args, kwargs):
    """What an operator gives on the CPU, where its operands say they are; refused if they disagree."""
    leaves = tree_leaves((args, kwargs))
    tensors = [one for one in leaves if isinstance(one, torch.Tensor)]
    distant = [one for one in tensors if isinstance(one, Distant)]
    # A number of the CPU is welcome everywhere.
    if distant and any(one.ndim for one in tensors if not isinstance(one, Distant)):
        assert operator._schema.name in CROSSING, f"{operator} of tensors on two devices"
        if "index" in operator._schema.name:
            assert isinstance(args[0], Distant), f"{operator} of a CPU tensor by one on a GPU"
    is_there = kwargs["device"] == THERE if kwargs.get("device") else bool(distant)
    for one in leaves:
        assert not (isinstance(one, torch.Generator) and is_there), f"{operator} by a CPU generator"
    near_args, near_kwargs = tree_map_only(Distant, lambda one: one.near, (args, kwargs))
    if near_kwargs.get("device"):
        near_kwargs = {**near_kwargs, "device": HERE}
    found = operator(*near_args, **near_kwargs)
    if not is_there:
        return found
    # What was written in place is still the same tensor.
    same = {id(one.near): one for one in distant}
    return tree_map_only(
        torch.Tensor, lambda one: same[id(one)] if id(one) in same else Distant(one), found
    )


@pytest.fixture
def pretence(monkeypatch):
    torch._C._ensureCUDADeviceGuardSet()
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(
        torch.Tensor, "tolist", lambda x: tolist(x.near if isinstance(x, Distant) else x)
    )
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    # Another thread would not know of the pretence.
    monkeypatch.setattr(regressor, "ahead", lambda items, where: items)
    off = torch.autocast("cpu", enabled=False)
    monkeypatch.setattr(regressor, "autocast", lambda where: off)
    # cuDNN's operators know no CPU.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        yield Pretence()
    torch.__future__.set_overwrite_module_params_on_conversion(False)
    torch._C._set_only_lift_cpu_tensors(before)
    for cached in (
        skeleton.tree_of.kept,
        tensors._made_once.kept,
        least_squares.scale_differences.kept,
        normal_equations._reach.kept,
        Stage.on,
    ):
        cached.cache_clear()


def test_the_pretence_notices_what_a_gpu_would_refuse(pretence):
    near = torch.arange(4)
    with pretence:
        far = near.to(THERE)
        assert (far + near.sum())[near].sum().item() == 30
        for mistake in (
            lambda: far + near,
            lambda: near[far],
            lambda: torch.cat([far, near]),
            lambda: torch.randn(3, device=THERE, generator=torch.Generator()),
        ):
            with pytest.raises(AssertionError):
                mistake()
        with pytest.raises(RuntimeError, match="numpy"):
            far.numpy()


def test_registration_stays_on_its_device(pretence, template, planted):
    _, seen, crop = planted(template, 3)
    blank = no_points(3, seen.keypoints)
    bare = replace(
        seen, **dict(zip(("points", "faces", "barycentric", "point_weights"), blank, strict=True))
    )
    config = RegistrationConfig(batch=2, iterations=4)
    for observations in (seen, bare):
        expected, _ = register(template, observations, crop, config)
        with pretence:
            there = template.to(THERE), observations.to(THERE), crop.to(THERE)
            found, quality = register(*there, config)
            register(*there, config, start=found)
            assert quality.loss.device == THERE
            torch.testing.assert_close(found.to(HERE).body.pose, expected.body.pose)


def test_a_photograph_is_fitted_on_the_device_that_is_named(pretence, template, planted):
    rows = planted_rows(planted(template, 2, joints="coco17")[1])
    info = DatasetInfo(template.name, template.fingerprint, "coco17")
    config = RegistrationConfig(first_iterations=1, iterations=2)
    lifter = Lifter("h36m17", 8)

    def fitted(device):
        people = people_of(rows, info)
        lifted = fitting._lifted(template, people, config, lifter, device)
        people = replace(people, observations=lifted)
        return lifted, fitting._registered(template, people, config, device)

    expected, (estimate, quality) = fitted(HERE)
    with pretence:
        lifted, (found, same) = fitted(THERE)
    assert pretence.sent
    torch.testing.assert_close(lifted.depths, expected.depths)
    torch.testing.assert_close(found.body.pose, estimate.body.pose, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(same.loss, quality.loss, rtol=1e-3, atol=1e-3)


def test_learning_and_scoring_stay_on_their_device(pretence, template, planted):
    truth, seen, _ = planted(template, 4)
    config = replace(PRESETS["tiny"].run.regressor, size=64, auxiliary=True, pretrained=False)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8, generator=random)
    network = build_network(config, template, seen.joints).eval()
    data = TrainingSet.of(images, seen, truth, template)
    views = draw(4, config.augment, random)
    actions, keys = list("abab"), [str(row) for row in range(4)]
    names = template.landmark_names
    places, vertices = (
        torch.randn(4, count, 3, generator=random) for count in (len(names), len(template.vertices))
    )
    known = Truth(keys, names, places, vertices)

    def everything(data, views, template):
        examples = augment(training_examples(data, template), template, views)
        losses = all_losses(template, network(examples.images), examples.labels, network.root)
        predicted = predict_dataset(network, images, batch=3)
        scores = score_estimates(template, predicted, known, actions)
        there = predicted.to(template.vertices.device)
        measured = [measure(PROTOCOLS[name], template, there, known) for name in PROTOCOLS]
        return losses.mean().to(HERE), scores, measured

    expected, scores, measured = everything(data, views, template)
    with pretence:
        network.to(THERE)
        found, others, protocols = everything(data.to(THERE), views.to(THERE), template.to(THERE))
    torch.testing.assert_close(vars(found), vars(expected))
    for one, other in zip(protocols, measured, strict=True):
        assert one.names == other.names
        torch.testing.assert_close(one.values, other.values, rtol=1e-3, atol=1e-2)
    assert others.raw == pytest.approx(scores.raw, rel=1e-4)
    assert others.vertices == pytest.approx(scores.vertices, rel=1e-4)


def test_a_batch_is_made_and_learned_from_without_sending_constants_again(
    pretence, template, planted
):
    """The host would wait for each: a batch is made beside a step."""
    truth, seen, _ = planted(template, 4)
    config = replace(PRESETS["tiny"].run.regressor, size=64, pretrained=False)
    network = build_network(config, template, seen.joints).eval()
    data = TrainingSet.of(torch.zeros(4, 3, 64, 64, dtype=torch.uint8), seen, truth, template)
    views = draw(4, config.augment, torch.Generator().manual_seed(0))
    with pretence:
        network, template = network.to(THERE), template.to(THERE)
        data, views = data.to(THERE), views.to(THERE)
        for _ in range(2):
            pretence.sent.clear()
            examples = augment(training_examples(data, template), template, views)
            all_losses(template, network(examples.images), examples.labels, network.root)
        assert not pretence.sent
        views.to(HERE).to(THERE)
        assert len(pretence.sent) == len(list(views.tensors()))


def test_a_network_made_ready_on_its_device_predicts_there(pretence, template):
    config = replace(PRESETS["tiny"].run.regressor, size=64, auxiliary=True, pretrained=False)
    network = build_network(config, template, "skeleton25").eval()
    images = torch.arange(4 * 3 * 64 * 64).view(4, 3, 64, 64).to(torch.uint8)
    expected = predict_dataset(network, images)
    with pretence:
        ready = network.to(THERE).for_prediction()
        assert next(ready.parameters()).device == THERE
        found = predict_dataset(ready, images, batch=3)
        assert ready.for_prediction() is ready
    for one, other in zip(found.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("people", ["wild", "lab"])
def test_photographs_are_taken_on_their_device(pretence, monkeypatch, people):
    # Its noise comes from a generator of the device, which cannot be pretended.
    monkeypatch.setattr(darkroom, "_grain", lambda films, pictures: torch.zeros_like(pictures))
    config, studio = SyntheticConfig(people=people, size=64), Studio.open()
    scripts = [direct(config, "train", index, studio) for index in range(3)]
    expected = photograph(scripts, 64, Stage.on(HERE))
    with pretence:
        found = photograph(scripts, 64, Stage.on(THERE))
    for one, other in zip(found, expected, strict=True):
        for name, value in vars(one).items():
            assert np.array_equal(value, getattr(other, name)), name
