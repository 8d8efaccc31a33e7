from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from deformlearn.config import RegistrationConfig
from deformlearn.data.estimates import Estimates, flags_of, read_estimates, write_estimates
from deformlearn.errors import InputError
from deformlearn.registration import quality_of


@pytest.fixture
def fitted(template, planted):
    truth, observations, crop = planted(template, 3)
    quality = quality_of(template, truth, observations, crop, RegistrationConfig())
    return Estimates(["a", "b", "ü"], truth, crop, quality)


def test_estimates_come_back(template, fitted, tmp_path):
    write_estimates(tmp_path / "e.parquet", fitted, template)
    back = read_estimates(tmp_path / "e.parquet", template)
    assert back.keys == fitted.keys
    torch.testing.assert_close(back.estimate.body.pose, fitted.estimate.body.pose)
    torch.testing.assert_close(back.estimate.body.scales, fitted.estimate.body.scales)
    torch.testing.assert_close(back.estimate.camera.matrix, fitted.estimate.camera.rotation())
    torch.testing.assert_close(back.estimate.camera.translation, fitted.estimate.camera.translation)
    torch.testing.assert_close(back.crop.half, fitted.crop.half)
    torch.testing.assert_close(back.quality.loss, fitted.quality.loss)


def test_predictions_have_no_quality(template, fitted, tmp_path):
    write_estimates(tmp_path / "e.parquet", replace(fitted, quality=None), template)
    assert read_estimates(tmp_path / "e.parquet", template).quality is None


def test_the_file_states_its_conventions(template, fitted, tmp_path):
    write_estimates(tmp_path / "e.parquet", fitted, template)
    meta = pq.read_schema(tmp_path / "e.parquet").metadata[b"deformlearn"].decode()
    for word in ("s P(R X) + t", "metres", "x right, y down", template.fingerprint):
        assert word in meta


def test_flags_name_what_is_wrong(fitted):
    quality = replace(
        fitted.quality,
        facing=torch.tensor([0.9, 0.1, 0.9]),
        reprojection_px=torch.tensor([0.1, 0.1, 30.0]),
        converged=torch.tensor([True, True, False]),
    )
    flags = flags_of(quality, fitted.crop)
    assert flags[0] == "ok"
    assert "left and right" in flags[1]
    assert "far from" in flags[2]
    assert "not converged" in flags[2]


def test_another_template_and_a_foreign_file_are_refused(template, fitted, tmp_path):
    path = tmp_path / "e.parquet"
    write_estimates(path, fitted, template)
    other = replace(template, name="other", vertices=2 * template.vertices)
    with pytest.raises(InputError, match="of the template 'octahedra'"):
        read_estimates(path, other)
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a whole Parquet shard"):
        read_estimates(path, template)
