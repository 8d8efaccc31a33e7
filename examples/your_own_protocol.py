"""Evaluate by your own rules: another set of joints, another root, another measure.

A protocol is a value. This one scores arms alone, relative to the neck; and because no measure of the
package is the one we want, a second number is computed from the joints directly. Look at
`your_own_protocol/elbows.png`, a histogram.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import deformlearn
from deformlearn.data.shards import read_people
from deformlearn.data.truth import read_truth
from deformlearn.evaluation import true_joints
from deformlearn.protocols import Protocol
from deformlearn.scoring import score_protocol
from deformlearn.skeleton import joint_set

OUT = Path("your_own_protocol")

ARMS = Protocol(
    name="arms",
    origin="this example",
    headline="raw",
    landmarks=tuple(
        "left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist".split()
    ),
    root=("neck",),
    measures=("raw", "aligned", "pck"),
    mean="people",
)


def main() -> None:
    template = deformlearn.load_template()
    deformlearn.synthesize(
        OUT / "data", deformlearn.SyntheticConfig(train=48, val=0, test=0, size=128)
    )
    people = read_people(OUT / "data", "train", template)
    truth = read_truth(OUT / "data", "train", people.keys)
    estimate, _ = deformlearn.register(
        template, people.observations, people.crop, deformlearn.RegistrationConfig()
    )
    scores = score_protocol(ARMS, template, estimate, people, truth, data="48 synthetic people")
    print("\n".join(scores.lines()))

    # Anything else is one line of tensors: joints in camera axes, metres, relative to the root.
    joints = joint_set("h36m17")
    ours = deformlearn.camera_joints(template, estimate, joints) * 1000
    theirs = true_joints(truth, joints)
    theirs = theirs - theirs[:, joints.root_indices].mean(1, keepdim=True)
    elbow = joints.landmarks.index("left_elbow")
    across = (ours - theirs)[:, elbow, :2].norm(dim=-1)
    depth = (ours - theirs)[:, elbow, 2].abs()
    print(
        f"left elbow: {across.median():.0f} mm off in the picture, {depth.median():.0f} mm in depth"
    )
    figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axis.hist([across.tolist(), depth.tolist()], bins=20, label=["in the picture", "in depth"])
    axis.set(xlabel="error of the left elbow, mm", ylabel="people")
    axis.legend()
    figure.savefig(OUT / "elbows.png")
    print(f"look at {OUT / 'elbows.png'}")


if __name__ == "__main__":
    main()
