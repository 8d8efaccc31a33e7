"""The paper's numbers, pinned; and that every number is documented."""

import ast
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from deformlearn import config
from deformlearn.config import PAPER, PRESETS
from deformlearn.errors import InputError


def test_the_paper_preset_holds_the_paper_s_numbers():
    fit, net, gan = PAPER.registration, PAPER.regressor, PAPER.lifter
    assert (fit.dense_weight, fit.keypoint_weight, fit.depth_weight) == (1000, 1, 1)
    assert (fit.scale_weight, fit.joint_weight, fit.determinant_weight) == (10, 0.001, 1)
    assert (fit.first_scale_weight, fit.first_joint_weight) == (100, 1)
    assert fit.learning_rate == fit.first_learning_rate == 0.1
    assert fit.robust is None
    assert not fit.orient
    assert (net.backbone, net.size, net.batch, net.epochs) == ("resnet50", 224, 30, 30)
    assert (net.regress_weight, net.dense_weight, net.keypoint_weight) == (1, 10, 1)
    assert (net.learning_rate, net.schedule, net.later_rate) == (1e-4, "constant", 1)
    assert net.weight_decay == 0
    assert net.joint_weight == 0
    assert not net.auxiliary
    assert (gan.width, gan.batch, gan.learning_rate, gan.heuristic_weight) == (1024, 16, 2e-4, 1)
    assert not gan.mirror
    assert gan.elevation == gan.hidden == gan.average == 0


def test_presets_differ_in_size_and_run_the_same_rounds():
    assert set(PRESETS) == {"tiny", "laptop", "gpu", "paper", "paper-mosh", "paper-densepose"}
    assert PRESETS["tiny"].data.train < PRESETS["laptop"].data.train < PRESETS["gpu"].data.train
    assert PRESETS["laptop"].run.registration == config.RegistrationConfig()


def test_every_number_says_what_it_is():
    tree = ast.parse(Path(config.__file__).read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for field, text in zip(node.body[1:], node.body[2:], strict=False):
                if isinstance(field, ast.AnnAssign):
                    documented = isinstance(text, ast.Expr) or node.name in (
                        "RunConfig",
                        "DemoConfig",
                    )
                    assert documented, f"{node.name}.{field.target.id}"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_made_of_plain_numbers(preset):
    def check(value):
        for field in fields(value):
            inside = getattr(value, field.name)
            if is_dataclass(inside):
                check(inside)
            else:
                assert inside is None or isinstance(inside, (int, float, str, bool))

    check(PRESETS[preset])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (config.RunConfig, {"rounds": 0}),
        (config.RegistrationConfig, {"batch": 0}),
        (config.RegistrationConfig, {"dense_weight": float("nan")}),
        (config.LifterConfig, {"learning_rate": -1.0}),
        (config.SyntheticConfig, {"train": -5}),
        (config.RegressorConfig, {"batch": 1}),
        (config.RegressorConfig, {"head_batch": 1}),
        (config.ImportConfig, {"crops": 200_000}),
        (config.ImportConfig, {"margin": 1e9}),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(kind, changes):
    name = next(iter(changes))
    with pytest.raises(InputError, match=name):
        kind(**changes)
