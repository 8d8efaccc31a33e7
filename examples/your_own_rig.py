"""Your own character: load a rigged human, bend and stretch it, and fit it to key points.

    python examples/your_own_rig.py my.glb

Any glTF, GLB, VRM or SMPL file will do; without one, the default body plays the part.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import deformlearn
from deformlearn.anatomy import views
from deformlearn.observations import no_points
from deformlearn.pictures import save_png
from deformlearn.render import overlay, turn
from deformlearn.skeleton import SEGMENTS, joint_set

OUT = Path("your_own_rig")


def main(file: str) -> None:
    template = deformlearn.load_template(file)
    print(f"{template.name}: {len(template.vertices)} vertices, {template.height:.2f} m tall")
    save_png(OUT / "segments.png", views(template))

    # Pose and proportions of one person: 23 rotations (axis times angle), 24 scales.
    wanted = deformlearn.Estimate.rest(template, 1)
    wanted.body.pose[0, SEGMENTS.index("left_shoulder") - 1] = torch.tensor([0.0, 0.0, 0.9])
    wanted.body.pose[0, SEGMENTS.index("right_hip") - 1] = torch.tensor([-0.7, 0.0, 0.0])
    wanted.body.pose[0, SEGMENTS.index("right_knee") - 1] = torch.tensor([1.1, 0.0, 0.0])
    for name in ("left_elbow", "right_elbow"):
        wanted.body.scales[0, SEGMENTS.index(name)] = 1.3

    # What a key-point detector would see of it, and the body fitted to that. Depths come from a
    # lifter in real life; here they are known.
    joints = joint_set("smpl24")
    seen = deformlearn.project_points(template, wanted, template.keypoints(joints))
    ones = torch.ones(1, len(joints))
    depths = seen[..., 2] - seen[:, joints.root_indices, 2].mean(1, keepdim=True)
    observations = deformlearn.Observations(
        *no_points(1, seen), seen[..., :2], ones, depths, ones, joints.name
    )
    crop = deformlearn.Crop(torch.tensor([[256.0, 256.0]]), torch.tensor([256.0]))
    # Exact labels deserve trust, and few regularisers.
    config = replace(
        deformlearn.RegistrationConfig(),
        keypoint_weight=100.0,
        depth_weight=100.0,
        scale_weight=0.1,
        joint_weight=1e-4,
    )
    found, quality = deformlearn.register(template, observations, crop, config)
    print(f"key points are met to {quality.reprojection_px.item():.2f} px of 512")
    # One view shows proportions, never size: the forearm against the upper arm.
    upper, forearm = SEGMENTS.index("left_shoulder"), SEGMENTS.index("left_elbow")
    ratio = found.body.scales[0, forearm] / found.body.scales[0, upper]
    print(f"forearm to upper arm: {ratio:.2f} times the template's; planted: 1.30")

    white = np.full((400, 400, 3), 255, np.uint8)
    panels = [
        overlay(white, template, turn(template, body, degrees), opacity=1.0)
        for body in (wanted, found)
        for degrees in (0.0, 90.0)
    ]
    save_png(OUT / "planted_and_found.png", np.concatenate(panels, 1))
    print(f"look at {OUT / 'segments.png'} and {OUT / 'planted_and_found.png'}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "anny")
