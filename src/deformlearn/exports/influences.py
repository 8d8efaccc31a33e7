"""Skin weights for readers that let few bones move a vertex, and what cutting them costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.body import BodyParameters, BodyPoints, BodyTemplate, blend, bone_transforms
from deformlearn.exports.about import Loss

SET = 4
"""Bones in one set of influences; three.js, Unity and most engines read one set."""


@dataclass(frozen=True, eq=False)
class Influences:
    """The bones that move each vertex, the strongest first."""

    joints: Int[np.ndarray, "vertices bones"]
    """0 where there is no further bone."""
    weights: Float[np.ndarray, "vertices bones"]
    """float32; rows sum to one, 0 where there is no further bone."""

    def dense(self, joints: int) -> Float[Tensor, "vertices {joints}"]:
        """The weights as a template has them."""
        full = np.zeros((len(self.weights), joints), np.float32)
        np.add.at(full, (np.arange(len(full))[:, None], self.joints), self.weights)
        return torch.from_numpy(full)


def most_influences(template: BodyTemplate) -> int:
    """The most bones that move any one vertex."""
    return int((template.weights > 0).sum(1).max())


def strongest(template: BodyTemplate, count: int) -> Influences:
    """The `count` strongest bones of each vertex, their weights divided by what is left of their sum."""
    weights = template.weights.double().cpu().numpy()
    # Stable: of equal weights the first bone wins, on every machine.
    order = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    kept = np.take_along_axis(weights, order, 1)
    single = (kept / kept.sum(1, keepdims=True)).astype(np.float32)
    # What rounding takes or adds is put on the strongest, so that rows sum to one again.
    single[:, 0] += (1 - single.sum(1, dtype=np.float64)).astype(np.float32)
    return Influences(np.where(single > 0, order, 0), single)


def cut_loss(template: BodyTemplate, influences: Influences, body: BodyParameters) -> Loss:
    """How far these influences carry the skin from where all its bones would."""
    weights = influences.dense(len(template.parents)).to(template.weights)
    # Skinning is linear in the weights, so that of their differences is the difference.
    points = BodyPoints(template.vertices, template.weights - weights)
    return Loss.of(blend(bone_transforms(template, body), points))
