import json
from dataclasses import replace

import pytest
import torch

from deformlearn import cli_export, results
from deformlearn.body import BodyTemplate
from deformlearn.config import PRESETS, RegressorConfig
from deformlearn.errors import InputError
from deformlearn.exports import onnx as onnx_export
from deformlearn.exports.axes import estimate_mesh
from deformlearn.exports.onnx import LARGEST_DIFFERENCE, OPSET, Outputs, write_onnx
from deformlearn.regressor import build_network, predictions, save_network
from deformlearn.skeleton import SEGMENTS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TINY = RegressorConfig(backbone="test_resnet", pretrained=False, size=32)


def trained(template, **changes):
    """A network whose answers are far from the rest pose."""
    network = build_network(replace(TINY, **changes), template, "skeleton25", seed=1)
    torch.manual_seed(0)
    torch.nn.init.normal_(network.head.layers[-1].weight, std=0.05)
    return network.eval()


def with_blend_shapes(template: BodyTemplate) -> BodyTemplate:
    g = torch.Generator().manual_seed(0)
    shapes = 0.01 * torch.randn(len(template.vertices), 3, 23 * 9, generator=g)
    return replace(template, pose_blendshapes=shapes)


def run(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return Outputs(*map(torch.from_numpy, session.run(None, {"image": images.numpy()})))


def images(count):
    g = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=g)


CASES = {
    "heat maps": (True, "template", "float", False),
    "bytes in camera axes": (False, "camera", "uint8", False),
    "pose blend shapes": (False, "template", "float", True),
}


@pytest.fixture(scope="module")
def exported(template, tmp_path_factory):
    """Each case's network, template and file, written when first asked for."""
    made = {}

    def of(case):
        if case not in made:
            auxiliary, axes, pixels, shaped = CASES[case]
            body = with_blend_shapes(template) if shaped else template
            network = trained(body, auxiliary=auxiliary)
            path = tmp_path_factory.mktemp("onnx") / "new" / "network.onnx"
            largest = write_onnx(network, body, path, axes=axes, pixels=pixels)
            assert 0 <= largest <= LARGEST_DIFFERENCE
            made[case] = network, body, path
        return made[case]

    return of


@pytest.mark.parametrize("case", CASES)
def test_onnx_runtime_answers_as_pytorch_does_for_any_number_of_people(exported, monkeypatch, case):
    _, axes, pixels, _ = CASES[case]
    network, template, path = exported(case)
    monkeypatch.setattr(
        "deformlearn.regressor.autocast", lambda _: torch.autocast("cpu", enabled=False)
    )
    for count in (1, 4):
        crops = images(count)
        found = run(path, crops / 255 if pixels == "float" else crops)
        (expected,) = predictions(network, crops)
        estimate = expected.estimate
        close = {"atol": LARGEST_DIFFERENCE, "rtol": 0}
        torch.testing.assert_close(found.pose, estimate.body.pose, **close)
        torch.testing.assert_close(found.scales, estimate.body.scales, **close)
        torch.testing.assert_close(found.rotation, estimate.camera.rotation(), **close)
        torch.testing.assert_close(found.translation, estimate.camera.translation, **close)
        torch.testing.assert_close(found.scale, estimate.camera.scale, **close)
        mesh = estimate_mesh(template, estimate, axes=axes)
        torch.testing.assert_close(found.vertices, mesh, **close)
        assert mesh.std() > 0.1
    assert (found.pose[0] - found.pose[1]).abs().max() > 1e-3


def test_the_model_says_what_its_numbers_are(exported):
    _, template, path = exported("pose blend shapes")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    notes = {one.key: one.value for one in model.metadata_props}
    assert notes["fingerprint"] == template.fingerprint
    assert notes["joint_set"] == "skeleton25"
    assert notes["input_size"] == "32"
    assert json.loads(notes["segments"]) == list(SEGMENTS)
    assert "metres; template axes: x to the person's left" in notes["vertices"]
    assert "t added after the scale" in notes["conventions: camera"]
    assert {one.version for one in model.opset_import if one.domain == ""} == {OPSET}
    assert [one.name for one in model.graph.output] == list(Outputs._fields)
    (image,) = model.graph.input
    people, *shape = image.type.tensor_type.shape.dim
    assert people.dim_param
    assert [one.dim_value for one in shape] == [3, 32, 32]


def test_a_model_that_disagrees_is_not_written(template, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_converted", lambda *_: b"")
    path = tmp_path / "network.onnx"
    for difference in (2e-4, float("nan")):
        monkeypatch.setattr(onnx_export, "_difference", lambda *_, found=difference: found)
        with pytest.raises(InputError, match=r"differs from PyTorch by (2\.0e-04|nan), more than"):
            write_onnx(trained(template), template, path)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_and_another_template_are_refused(template, tmp_path, monkeypatch):
    network = trained(template)
    with pytest.raises(InputError, match="was trained on template 'octahedra'"):
        write_onnx(network, replace(template, name="other"), tmp_path / "network.onnx")
    monkeypatch.setattr(onnx_export, "_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(
        InputError, match=r"needs no_such_package; pip install 'deformlearn\[onnx\]'"
    ):
        write_onnx(network, template, tmp_path / "network.onnx")


def test_the_command_exports_the_last_network_of_a_run(template, tmp_path, monkeypatch, capsys):
    for round_ in (2, 10):
        save_network(trained(template), tmp_path / f"run/round-{round_}/network.safetensors")
    opened = []
    last = results.last_network
    monkeypatch.setattr(results, "last_network", lambda run: opened.append(last(run)) or opened[0])
    monkeypatch.setattr("deformlearn.templates.load", lambda name: template)
    monkeypatch.setattr(onnx_export, "write_onnx", lambda *_, **__: 1.5e-6)
    cli_export.commands(PRESETS["tiny"])["export"](tmp_path / "run", "onnx", tmp_path / "out")
    assert opened[0].parent.name == "round-10"
    assert "differs from PyTorch by at most 1.5e-06 (allowed: 0.0001)" in capsys.readouterr().out
