"""A trained network and its template as one ONNX model: image in, theta and vertices out.

The model is checked against PyTorch before it is written; a file that exists agrees with the network.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from deformlearn.body import BodyTemplate, skin
from deformlearn.data.estimates import CONVENTIONS
from deformlearn.errors import InputError
from deformlearn.estimate import right_handed
from deformlearn.exports.axes import AXES, UPRIGHT, Axes
from deformlearn.files import write_atomically
from deformlearn.predict import require_template
from deformlearn.regressor import Regressor
from deformlearn.skeleton import SEGMENTS

OPSET = 20
"""Version of ONNX's operators; ONNX Runtime reads it from 1.17 on."""

LARGEST_DIFFERENCE = 1e-4
"""Between any number of ONNX Runtime and of PyTorch (radians, metres, image units)."""

FORMAT = 1
"""Version of the model's inputs, outputs and metadata."""

Pixels = Literal["float", "uint8"]
"""Type of the input: RGB in [0, 1], or bytes."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Outputs(NamedTuple):
    """What the model answers, in order and by these names."""

    pose: Float[Tensor, "people joints-1 3"]
    """Axis-angle of every segment but the root, relative to its parent (radians)."""
    scales: Float[Tensor, "people joints"]
    """Size of each segment; 1 is the template."""
    rotation: Float[Tensor, "people 3 3"]
    """Template axes to camera axes; orthonormal, right-handed."""
    translation: Float[Tensor, "people 2"]
    """Image units, added after the scale."""
    scale: Float[Tensor, "people"]
    """Image units per metre."""
    vertices: Float[Tensor, "people vertices 3"]
    """Metres, about the template's origin."""


class Deployed(nn.Module):
    """The network with its body: what an ONNX model computes."""

    def __init__(self, network: Regressor, template: BodyTemplate, axes: Axes) -> None:
        super().__init__()
        self.network, self.template, self.axes = network, template, axes

    def forward(
        self, image: Float[Tensor, "people 3 size size"] | UInt8[Tensor, "people 3 size size"]
    ) -> Outputs:
        """RGB crops in [0, 1], or bytes."""
        estimate = right_handed(self.network(image).estimate)
        body, camera = estimate.body, estimate.camera
        # Naming the points avoids the sparse product that is fast in PyTorch and unknown to ONNX;
        # a template with pose blend shapes never takes it.
        points = self.template.all_points() if self.template.pose_blendshapes is None else None
        vertices = skin(self.template, body, points)
        if self.axes == "camera":
            vertices = vertices @ camera.matrix.mT * vertices.new_tensor(UPRIGHT)
        return Outputs(
            body.pose, body.scales, camera.matrix, camera.translation, camera.scale, vertices
        )


def write_onnx(
    network: Regressor,
    template: BodyTemplate,
    path: Path,
    *,
    axes: Axes = "template",
    pixels: Pixels = "float",
) -> float:
    """Write the model; the largest difference of ONNX Runtime's answers from PyTorch's.

    Its one input, `image`, is (people, 3, size, size) with any number of people; `Outputs` says what it
    answers, and its metadata say axes and units. `axes` are those of the vertices. A network of another
    template, a difference above `LARGEST_DIFFERENCE` and missing packages are InputErrors, and then
    there is no file.
    """
    _require_packages()
    require_template(network, template)
    # In full precision and plain layout, whatever the network was trained in.
    plain = copy.deepcopy(network).to("cpu").to(memory_format=torch.contiguous_format).eval()
    model = Deployed(plain, template.to("cpu"), axes).eval()
    content = _converted(model, _images(network, pixels, 2), _notes(network, axes, pixels))
    largest = _difference(model, content, network, pixels)
    if not largest <= LARGEST_DIFFERENCE:
        raise InputError(
            f"ONNX Runtime differs from PyTorch by {largest:.1e}, more than {LARGEST_DIFFERENCE:g}; "
            f"no file was written: try another version of onnxruntime or torch"
        )
    write_atomically(path, content)
    return largest


@torch.no_grad()
def _converted(model: Deployed, images: Tensor, notes: dict[str, str]) -> bytes:
    # Trees of joints are cached: the first call must not be the tracer's, whose tensors hold no numbers.
    model(images)
    people = torch.export.Dim("people", min=1)
    level = logging.getLogger("onnxscript").level
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's and onnxscript's own insides
            program: Any = torch.onnx.export(
                model,
                (images,),
                input_names=["image"],
                output_names=list(Outputs._fields),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes={"image": {0: people}},
                verbose=False,
            )
    finally:
        logging.getLogger("onnxscript").setLevel(level)
    program.model.metadata_props.update(notes)
    return program.model_proto.SerializeToString()


@torch.no_grad()
def _difference(model: Deployed, content: bytes, network: Regressor, pixels: Pixels) -> float:
    """The largest difference for batches of several sizes, other than the one that was traced."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    largest = torch.zeros(())
    for count in (1, 3):
        images = _images(network, pixels, count)
        found = session.run(list(Outputs._fields), {"image": images.numpy()})
        for ours, theirs in zip(model(images), found, strict=True):
            # A NaN on either side stays one.
            largest = torch.maximum(largest, (ours - torch.from_numpy(theirs)).abs().max())
    return largest.item()


def _images(network: Regressor, pixels: Pixels, count: int) -> Tensor:
    size = network.info.size
    stream = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=stream)
    return images if pixels == "uint8" else images / 255


def _notes(network: Regressor, axes: Axes, pixels: Pixels) -> dict[str, str]:
    """What whoever opens the model must know."""
    info = network.info
    value = "RGB in [0, 1]" if pixels == "float" else "RGB bytes"
    notes = {
        "format": str(FORMAT),
        "deformlearn": metadata.version("deformlearn"),
        "backbone": info.backbone,
        "template": info.template,
        "fingerprint": info.fingerprint,
        "joint_set": info.joints,
        "input_size": str(info.size),
        "opset": str(OPSET),
        "image": f"(people, 3, {info.size}, {info.size}), {value}, the square crop about one person",
        "pose": "(people, 23, 3) axis-angle, radians, segments[1:]; the root's is `rotation`",
        "scales": "(people, 24), segments; 1 is the template",
        "rotation": "(people, 3, 3) template axes to camera axes, orthonormal",
        "translation": "(people, 2) image units, x = scale P(rotation X) + translation",
        "scale": "(people,) image units per metre",
        "vertices": f"(people, vertices, 3) metres; {axes} axes: {AXES[axes]}",
        "segments": json.dumps(list(SEGMENTS)),
    }
    return notes | {f"conventions: {name}": str(text) for name, text in CONVENTIONS.items()}


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"an ONNX model needs {', '.join(missing)}; pip install 'deformlearn[onnx]'"
        )
