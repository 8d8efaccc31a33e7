"""The miniature data sets themselves: what they show is what they say (miniature.py)."""

import numpy as np
import torch

from deformlearn.data.attach import WithPredictions
from deformlearn.data.h36m import Human36M, extract_frames
from deformlearn.data.h36m_metadata import CAMERAS
from deformlearn.data.sources import Person
from deformlearn.densepose_charts import densepose_to_template, read_densepose_charts
from miniature import write_densepose_predictions, write_h36m


def test_rendered_densepose_predictions_lead_back_to_the_surface(anny, shared, tmp_path):
    """IUV images of rendered people, read, attached and carried to the template: the same points."""
    charts = shared / "densepose" / "UV_Processed.mat"
    mini = write_h36m(
        tmp_path / "h36m",
        anny,
        subjects=("S1",),
        actions=("Directions",),
        cameras=CAMERAS[:1],
        frames=2,
    )
    written = write_densepose_predictions(tmp_path / "iuv", mini, read_densepose_charts(charts))
    assert [path.name for path in written][1] == "S1_Directions_1.54138969_000001_IUV.png"
    source = Human36M(
        mini.folder, subjects=("S1",), actions=("Directions",), trials=(1,), cameras=CAMERAS[:1],
        images=f"{tmp_path}/frames/{{key}}.jpg",
    )  # fmt: skip
    list(
        extract_frames(
            Human36M(mini.folder, subjects=("S1",), cameras=CAMERAS[:1]), tmp_path / "frames"
        )
    )
    people = [one for entry in source.entries() for one in source.people(entry)]
    assert all(isinstance(person, Person) for person in people)
    errors, trusted = [], []
    for person, shot in zip(WithPredictions(tmp_path / "iuv")(people), mini.shots, strict=True):
        dense = person.dense
        faces, barycentric, ok = densepose_to_template(
            read_densepose_charts(charts), anny, dense.part, dense.uv[:, 0], dense.uv[:, 1]
        )
        corners = shot.vertices_mm[anny.faces[torch.from_numpy(faces)]].double().numpy()
        pixels = shot.lab.to_pixels(np.einsum("nc,ncd->nd", barycentric, corners))
        errors.append(np.linalg.norm(pixels - dense.pixels, axis=1)[ok])
        trusted.append(ok)
    # The people are some 100 px tall: half a pixel is a centimetre.
    assert np.median(np.concatenate(errors)) < 0.6
    assert np.percentile(np.concatenate(errors), 90) < 2.5
    assert np.concatenate(trusted).mean() > 0.9
