"""The tree of a rig's bones: ancestors, what hangs below, and the trunk between legs and arms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from jaxtyping import Bool, Float

from deformlearn.rigs.rig import Rig


class Tree:
    """A rig's bones by index, and how much skin hangs on each."""

    def __init__(self, rig: Rig) -> None:
        self.parents = rig.parents
        self.own: Float[np.ndarray, "bones"] = np.bincount(
            rig.influences.ravel(), rig.weights.ravel(), len(rig.bones)
        )
        self.below: Float[np.ndarray, "bones"] = self.own.copy()
        for bone in reversed(range(len(rig.bones))):
            if rig.parents[bone] >= 0:
                self.below[rig.parents[bone]] += self.below[bone]
        self.children: list[list[int]] = [[] for _ in rig.bones]
        for bone, parent in enumerate(rig.parents):
            if parent >= 0:
                self.children[parent].append(bone)

    @property
    def skinned(self) -> Bool[np.ndarray, "bones"]:
        """Bones on which, or below which, there is skin: targets and handles have none."""
        return self.below > 0

    def upwards(self, bone: int) -> list[int]:
        """The bone, its parent and so on to the root."""
        line = []
        while bone >= 0:
            line.append(bone)
            bone = self.parents[bone]
        return line

    def downwards(self, bone: int) -> list[int]:
        """The bone and all that hangs on it, parents first as everywhere."""
        found = [bone]
        for above in found:
            found += self.children[above]
        return sorted(found)

    def common(self, bones: Sequence[int]) -> int:
        """The lowest bone that is an ancestor of all (or one of them); -1 where there is none."""
        lines = [self.upwards(bone) for bone in bones]
        shared = reduce(lambda left, right: [b for b in left if b in right], lines)
        return shared[0] if shared else -1

    def between(self, top: int, bottom: int) -> list[int]:
        """Bones from below `top` down to `bottom`; empty where it does not hang on `top`."""
        line = self.upwards(bottom)
        return line[: line.index(top)][::-1] if top in line else []
