"""People with random bodies and exact observations, to time with: nobody has to be rendered for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from deformlearn.body import BodyParameters, BodyTemplate
from deformlearn.camera import Crop
from deformlearn.data.shards import DatasetInfo, Row, write_info, write_rows
from deformlearn.estimate import Estimate, project_points
from deformlearn.files import whole_file
from deformlearn.observations import Observations
from deformlearn.skeleton import joint_set

JOINTS = "smpl24"
HALF = 64.0
"""Half a crop (px)."""


def planted(
    template: BodyTemplate, people: int, points: int = 128, seed: int = 0
) -> tuple[Observations, Crop]:
    """Random poses on the template, and what a perfect detector would see: 24 joints, some points."""
    draw = torch.Generator().manual_seed(seed)
    rest = Estimate.rest(template, people)
    pose = 0.3 * torch.randn(rest.body.pose.shape, generator=draw)
    truth = replace(rest, body=BodyParameters(rest.body.scales, pose))
    faces = torch.randint(len(template.faces), (people, points), generator=draw)
    barycentric = torch.rand(people, points, 3, generator=draw)
    barycentric = barycentric / barycentric.sum(-1, keepdim=True)
    seen = project_points(template, truth, template.surface_points(faces, barycentric))
    joints = project_points(template, truth, template.keypoints(joint_set(JOINTS)))
    ones = torch.ones(joints.shape[:2])
    observations = Observations(
        seen[..., :2], faces, barycentric, torch.ones(people, points), joints[..., :2], ones,
        joints[..., 2] - joints[:, :1, 2], ones, JOINTS,
    )  # fmt: skip
    return observations, Crop(torch.full((people, 2), HALF), torch.full((people,), HALF))


def planted_folder(folder: Path, template: BodyTemplate, people: int) -> Path:
    """A data set of that many people without images, made once; a thousand bodies take turns.

    Whoever is stopped meanwhile goes on with the next shard.
    """
    shard = min(people, 1000)
    if people % shard:
        raise ValueError(f"people must be a multiple of {shard}, got {people}")
    if (folder / "dataset.json").exists():
        return folder
    paths = [
        folder / "observations" / f"train-{number:05d}.parquet" for number in range(people // shard)
    ]
    if not paths[0].exists():
        write_rows(folder, "train", 0, _rows(planted(template, shard)[0]))
    table = pq.read_table(paths[0])
    for number, path in enumerate(paths):
        if path.exists():
            continue
        keys = pa.array([f"{number * shard + index:09d}" for index in range(shard)])
        renamed = table.set_column(table.schema.get_field_index("key"), "key", keys)
        with whole_file(path) as file:
            pq.write_table(renamed.replace_schema_metadata(table.schema.metadata), file)
    info = DatasetInfo(template.name, template.fingerprint, JOINTS, description="planted people")
    write_info(folder, info)
    return folder


def _rows(observations: Observations) -> list[Row]:
    """As they are stored: pixels, and no depths, which the lifter gives or nothing does."""
    return [
        Row(
            key=f"{index:09d}",
            crop=(HALF, HALF, HALF),
            points=(observations.points[index].numpy() + 1) * HALF,
            faces=observations.faces[index].numpy(),
            barycentric=observations.barycentric[index].numpy(),
            point_weights=observations.point_weights[index].numpy(),
            keypoints=(observations.keypoints[index].numpy() + 1) * HALF,
            keypoint_weights=observations.keypoint_weights[index].numpy(),
        )
        for index in range(len(observations.points))
    ]
