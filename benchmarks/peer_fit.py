"""The peer of registration: fit a whole posed mesh with `body-models`, pick points, step Adam.

What a user of a SMPL library would write: a mesh of SMPL's 6,890 vertices and layout (a licence-free file
made of Anny's vertices), shape, pose, global rotation and a weak-perspective camera, all at once, eagerly.
The kinematics and the skinning are the library's; the loss has the terms of ours that it can have.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deformlearn.body import BodyTemplate

VERTICES = 6890
"""SMPL's."""


def write_smpl_layout(template: BodyTemplate, path: Path) -> Path:
    """A file with SMPL's fields and sizes: every second vertex of the template, small random bases."""
    random = np.random.default_rng(0)
    count = min(VERTICES, len(template.vertices))
    rows = np.linspace(0, len(template.vertices) - 1, count).astype(int)
    vertices = template.vertices.numpy()[rows]
    joints = template.joints.numpy()
    # Each joint is regressed from the vertices about it, as in SMPL; near enough for a peer's own body.
    regressor = np.zeros((24, count))
    for row, joint in enumerate(joints):
        near = np.argsort(np.linalg.norm(vertices - joint, axis=1))[:40]
        regressor[row, near] = 1 / len(near)
    tree = np.array([template.parents, range(24)], np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        v_template=vertices,
        f=np.array([[0, 1, 2]], np.uint32),
        weights=template.weights.numpy()[rows],
        kintree_table=tree,
        J_regressor=regressor,
        shapedirs=0.01 * random.standard_normal((count, 3, 10)),
        posedirs=0.001 * random.standard_normal((count, 3, 207)),
    )
    return path


class FullMeshFit:
    """A batch of people, planted in the peer's own body, and the fit to what is seen of them."""

    def __init__(self, path: Path, people: int, points: int, device: torch.device) -> None:
        from body_models.smpl.torch import SMPL

        self.model = SMPL(model_path=path).to(device)
        draw = torch.Generator().manual_seed(0)
        count = self.model.rest_vertices.shape[-2]
        self.picked = torch.randint(count, (people, points), generator=draw).to(device)
        self.device, self.people = device, people
        pose = (0.3 * torch.randn(people, 23, 3, generator=draw)).to(device)
        with torch.no_grad():
            start = self._start()
            self.points, self.joints = self._project({**start, "pose": pose})

    def fit(self, steps: int) -> float:
        """Mean loss after so many Adam steps from the rest pose."""
        variables = {name: value.requires_grad_() for name, value in self._start().items()}
        adam = torch.optim.Adam(variables.values(), lr=0.1)
        for _ in range(steps):
            adam.zero_grad()
            points, joints = self._project(variables)
            loss = (
                1000 * (points - self.points).square().sum(-1).mean(-1)
                + 10 * (joints - self.joints)[..., :2].square().sum(-1).mean(-1)
                + 10 * (joints - self.joints)[..., 2].square().mean(-1)
                + 0.02 * variables["pose"].square().sum((1, 2))
                + variables["shape"].square().sum(1)
            )
            loss.sum().backward()
            adam.step()
        return loss.mean().item()

    def _start(self) -> dict[str, Tensor]:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(self.people, *shape, device=self.device)

        turn = zeros(3)
        turn[:, 0] = torch.pi  # image y points down
        return {
            "shape": zeros(10), "pose": zeros(23, 3), "turn": turn,
            "translation": zeros(2), "log_scale": zeros(),
        }  # fmt: skip

    def _project(self, variables: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Picked points (2D) and joints (2D and depth) in the image."""
        identity = self.model.prepare_identity(variables["shape"])
        arguments = {"pelvis_rotation": variables["turn"], "identity": identity}
        vertices = self.model.forward_vertices(variables["pose"], **arguments)
        joints = self.model.forward_skeleton(variables["pose"], **arguments)[..., :3, 3]
        scale = variables["log_scale"].exp()[:, None, None]
        points = vertices.take_along_dim(self.picked[..., None], 1)
        points = scale * points[..., :2] + variables["translation"][:, None]
        joints = scale * joints + torch.nn.functional.pad(variables["translation"], (0, 1))[:, None]
        return points, joints
