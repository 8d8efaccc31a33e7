"""The command that hands a trained network to other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro

from deformlearn.config import DemoConfig


def commands(default: DemoConfig) -> dict[str, Callable]:
    """Each command by name; none has numbers of the preset."""
    del default
    return {"export": export}


def export(
    run: tyro.conf.Positional[Path],
    out: Path,
    to: Literal["onnx"] = "onnx",
    template: str = "anny",
    axes: Literal["template", "camera"] = "template",
    pixels: Literal["float", "uint8"] = "float",
) -> None:
    """Write a run's last network for other programs (onnx: image in, theta and vertices out).

    Args:
        run: Run folder, or a network.safetensors.
        out: Folder to write into.
        to: Format.
        template: Rigged human the run was made with.
        axes: Axes of the vertices: the template's, or as the photograph shows the person.
        pixels: What the model takes: RGB in [0, 1], or bytes.

    """
    from deformlearn.onnx_export import LARGEST_DIFFERENCE, write_onnx
    from deformlearn.regressor import load_network
    from deformlearn.results import last_network
    from deformlearn.templates import load

    path = out / f"network.{to}"
    network = load_network(last_network(run))
    largest = write_onnx(network, load(template), path, axes=axes, pixels=pixels)
    print(
        f"{path}: ONNX Runtime differs from PyTorch by at most {largest:.1e} "
        f"(allowed: {LARGEST_DIFFERENCE:g})"
    )
