from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from deformlearn.config import RegistrationConfig
from deformlearn.data.estimates import (
    Estimates,
    flags_of,
    iterate_estimates,
    join_estimates,
    read_about,
    read_estimates,
    write_estimates,
)
from deformlearn.errors import InputError
from deformlearn.files import place
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
    unseen = replace(quality, reprojection_px=torch.full((3,), torch.nan))
    assert flags_of(unseen, fitted.crop)[0] == "nothing of it was seen"
    flags = flags_of(quality, fitted.crop)
    assert flags[0] == "ok"
    assert "left and right" in flags[1]
    assert "far from" in flags[2]
    assert "not converged" in flags[2]


def test_files_of_earlier_versions_are_read(template, fitted, tmp_path):
    """Until 0.1 every column had a dictionary, and the file one row group."""
    path = tmp_path / "e.parquet"
    write_estimates(path, fitted, template)
    wanted = read_estimates(path, template)
    pq.write_table(pq.read_table(path), path, compression="zstd", use_dictionary=True)
    back = read_estimates(path, template)
    assert (back.keys, back.flags) == (wanted.keys, wanted.flags)
    for a, b in zip(back.estimate.tensors(), wanted.estimate.tensors(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("rows", [1, 2, 5, [range(0, 1), range(2, 3)], [range(1, 3)]])
def test_pieces_are_the_whole(template, fitted, tmp_path, rows):
    path = tmp_path / "e.parquet"
    write_estimates(path, fitted, template)
    whole = read_estimates(path, template)
    pieces = list(iterate_estimates(path, template, rows))
    ranges = rows
    if isinstance(rows, int):
        ranges = [range(first, min(first + rows, 3)) for first in range(0, 3, rows)]
    assert len(pieces) == len(ranges)
    for piece, one in zip(pieces, ranges, strict=True):
        here = slice(one.start, one.stop)
        assert piece.keys == whole.keys[here]
        assert piece.flags == whole.flags[here]
        for a, b in zip(piece.estimate.tensors(), whole.estimate.tensors(), strict=True):
            assert torch.equal(a, b[here])
        for a, b in zip(piece.quality.tensors(), whole.quality.tensors(), strict=True):
            assert torch.equal(a, b[here])


def test_rows_that_are_not_there_are_refused(template, fitted, tmp_path):
    write_estimates(tmp_path / "e.parquet", fitted, template)
    with pytest.raises(InputError, match="has 3 rows, row 4 was wanted"):
        list(iterate_estimates(tmp_path / "e.parquet", template, [range(2), range(2, 5)]))
    other = replace(template, name="other", vertices=2 * template.vertices)
    with pytest.raises(InputError, match="of the template 'octahedra'"):
        next(iterate_estimates(tmp_path / "e.parquet", other, 2))


def test_joined_parts_are_the_whole_a_row_group_each(template, fitted, tmp_path):
    parts = []
    for number, one in enumerate((slice(0, 2), slice(2, 3))):
        parts.append(tmp_path / f"{number}.parquet")
        some = Estimates(
            fitted.keys[one], fitted.estimate[one], fitted.crop[one], fitted.quality[one]
        )
        write_estimates(parts[-1], some, template)
    write_estimates(tmp_path / "whole.parquet", fitted, template)
    join_estimates(parts, tmp_path / "joined.parquet", template, notes={"made_of": "abc"})
    joined = pq.ParquetFile(tmp_path / "joined.parquet")
    assert joined.num_row_groups == 2
    assert joined.read().equals(pq.read_table(tmp_path / "whole.parquet"))
    assert read_about(tmp_path / "joined.parquet")["made_of"] == "abc"


def test_flags_of_notes_are_kept(template, fitted, tmp_path):
    noted = replace(fitted, flags=("ok", "cut by the image", "ok"))
    write_estimates(tmp_path / "e.parquet", noted, template)
    assert read_estimates(tmp_path / "e.parquet", template).flags == noted.flags


def test_estimates_may_lie_in_an_object_store(template, fitted, tmp_path):
    path = place("memory://estimates/e.parquet")
    write_estimates(path, fitted, template)
    write_estimates(tmp_path / "e.parquet", fitted, template)
    assert path.read_bytes() == (tmp_path / "e.parquet").read_bytes()
    assert read_estimates(path, template).keys == fitted.keys


def test_rows_with_too_few_numbers_are_refused(template, fitted, tmp_path):
    path = tmp_path / "e.parquet"
    write_estimates(path, fitted, template)
    table = pq.read_table(path)
    for pose in ([0.0] * 3, None):
        poses = [pose, *table["pose"].to_pylist()[1:]]
        at = table.schema.get_field_index("pose")
        field = table.schema.field(at)
        pq.write_table(table.set_column(at, field, pa.array(poses, field.type)), path)
        with pytest.raises(InputError, match="not every row has 69 numbers in pose"):
            read_estimates(path, template)


def test_another_template_and_a_foreign_file_are_refused(template, fitted, tmp_path):
    path = tmp_path / "e.parquet"
    write_estimates(path, fitted, template)
    other = replace(template, name="other", vertices=2 * template.vertices)
    with pytest.raises(InputError, match="of the template 'octahedra'"):
        read_estimates(path, other)
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a whole Parquet shard"):
        read_estimates(path, template)
