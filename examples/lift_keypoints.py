"""The lifter alone: train it on 2D poses, and give 2D joints a depth.

Nothing here knows of bodies or pictures: 2D poses in, depths out (Kudo et al. 2018). Look at
`lift_keypoints/lifted.png`: each pose as it was seen, and the lifted one from the side.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import deformlearn
from deformlearn.data.shards import read_people
from deformlearn.data.truth import read_truth
from deformlearn.evaluation import true_joints
from deformlearn.lifter import save_lifter, train
from deformlearn.skeleton import PARENTS, SEGMENTS

OUT = Path("lift_keypoints")


def main() -> None:
    template = deformlearn.load_template()
    # Poses could be any (people, joints, 2) array. These are the key points of synthetic people.
    config = deformlearn.SyntheticConfig(train=300, val=0, test=40, size=32, points=8)
    deformlearn.synthesize(OUT / "data", config)
    known = read_people(OUT / "data", "train", template).observations
    settings = deformlearn.LifterConfig(width=128, steps=1500, learning_rate=1e-3, average=0.99)
    lifter = train(known.keypoints, known.keypoint_weights, known.joints, settings)
    save_lifter(lifter, OUT / "lifter.safetensors")

    people = read_people(OUT / "data", "test", template)
    seen = lifter.lift(people.observations)
    truth = true_joints(read_truth(OUT / "data", "test", people.keys), seen.joint_set)[..., 2]
    # Depths are in image units; the 2D pose against the truth's size tells how long one is.
    across = true_joints(read_truth(OUT / "data", "test", people.keys), seen.joint_set)[..., :2]
    unit = across.std(1).mean(-1) / seen.keypoints.std(1).mean(-1)
    error = (seen.depths * unit[:, None] - truth).abs().mean(1)
    flat = truth.abs().mean()
    print(
        f"lifted depths are {error.mean():.0f} mm off; no depth at all would be {flat:.0f} mm off"
    )
    draw(seen, OUT / "lifted.png")
    print(f"look at {OUT / 'lifted.png'}")


def draw(seen: deformlearn.Observations, path: Path) -> None:
    """Six people: as seen, and lifted from the side."""
    joints = seen.joint_set
    figure, axes = plt.subplots(2, 6, figsize=(12, 5), layout="constrained")
    for row in range(6):
        pose = torch.cat([seen.keypoints[row], seen.depths[row, :, None]], -1)
        pose = pose - pose[list(joints.root_indices)].mean(0)
        for axis, (x, name) in zip(
            axes[:, row], ((0, "as seen"), (2, "from the side")), strict=True
        ):
            for segment, parent in list(zip(SEGMENTS, PARENTS, strict=True))[1:]:
                ends = pose[[joints.index(SEGMENTS[parent]), joints.index(segment)]]
                side = (
                    "tab:blue"
                    if "left" in segment
                    else "tab:orange"
                    if "right" in segment
                    else "gray"
                )
                axis.plot(ends[:, x], -ends[:, 1], color=side, linewidth=3)
            axis.set(title=name, aspect="equal", xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[])
    figure.savefig(path)


if __name__ == "__main__":
    main()
