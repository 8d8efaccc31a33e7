"""Human3.6M's .cdf files and VideoPose3D's .npz (data/h36m_poses.py)."""

import contextlib
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deformlearn.data.h36m_poses import (
    LEFT_FIRST,
    RIGHT_FIRST,
    archive_poses,
    count_frames,
    read_positions,
)
from deformlearn.errors import InputError
from deformlearn.skeleton import JOINT_SETS
from miniature import write_archive, write_cdf


@pytest.fixture
def positions():
    return np.random.default_rng(1).normal(size=(7, 32, 3)) * 1000


@pytest.fixture
def file(tmp_path, positions):
    path = tmp_path / "Directions 1.cdf"
    write_cdf(path, positions)
    return path


def test_positions_come_back_as_they_were_written(file, positions):
    np.testing.assert_array_equal(read_positions(file, 3), positions)
    assert count_frames(file) == 7


@pytest.mark.parametrize(
    ("sizes", "varies", "shape"),
    [([1, 7, 96], False, (1, 1, 7, 96)), ([96], True, (7, 96)), ([7, 96], False, (1, 7, 96))],
)
def test_other_ways_of_writing_the_same_table_are_read(tmp_path, positions, sizes, varies, shape):
    from cdflib.cdfwrite import CDF

    path = tmp_path / "Walking.cdf"
    spec = {
        "Variable": "Pose", "Data_Type": CDF.CDF_DOUBLE, "Num_Elements": 1, "Rec_Vary": varies,
        "Dim_Sizes": sizes,
    }  # fmt: skip
    file = CDF(path, cdf_spec={"Majority": "row_major"})
    file.write_var(spec, var_data=positions.reshape(shape))
    file.close()
    np.testing.assert_array_equal(read_positions(path, 3), positions)
    assert count_frames(path) == 7


def test_a_table_of_something_else_is_refused(tmp_path):
    path = tmp_path / "Walking.cdf"
    write_cdf(path, np.zeros((2, 50, 3)))
    with pytest.raises(InputError, match="holds a Pose of 1 x 2 x 150, wanted 1 x frames x 96"):
        read_positions(path, 3)


def test_the_two_orders_of_17_differ_by_the_legs_only():
    right, left = JOINT_SETS["h36m17"], JOINT_SETS["h36m17_left_first"]
    same_place = {11: 0, 24: 13}
    for name in right.names:
        ours, theirs = RIGHT_FIRST[right.index(name)], LEFT_FIRST[left.index(name)]
        assert ours == same_place.get(theirs, theirs), name


def test_a_replaced_file_is_read_again(file, positions):
    read_positions(file, 3)
    write_cdf(file, positions[:3])
    assert len(read_positions(file, 3)) == 3


def test_pixels_are_not_taken_for_positions(file):
    with pytest.raises(InputError, match="has 96 numbers a frame, wanted 64"):
        read_positions(file, 2)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_positions(tmp_path / "a.cdf", 3)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9])
def test_a_truncated_file_is_said_to_be(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="is no CDF, or is cut short"):
        read_positions(file, 3)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2000), byte=st.integers(0, 255))
def test_a_damaged_header_is_an_error_in_words_or_harmless(tmp_path, file, place, byte):
    content = bytearray(file.read_bytes())
    content[place % len(content)] = byte
    damaged = tmp_path / "damaged.cdf"
    damaged.write_bytes(content)
    with contextlib.suppress(InputError):
        assert read_positions(damaged, 3).shape[1:] == (32, 3)
        assert count_frames(damaged) > 0


def test_the_archive_gives_takes_by_subject(tmp_path, positions):
    path = tmp_path / "data_3d_h36m.npz"
    write_archive(path, {"S1": {"Directions 1": positions.astype(np.float32) / 1000}})
    poses = archive_poses(path)
    np.testing.assert_allclose(poses["S1"]["Directions 1"] * 1000, positions, rtol=1e-5)


def test_an_archive_of_other_arrays_is_refused(tmp_path, positions):
    path = tmp_path / "data_2d_h36m_gt.npz"
    np.savez(path, positions_2d=positions)
    with pytest.raises(InputError, match="no positions_3d by subject"):
        archive_poses(path)
    write_archive(path, {"S1": {"Directions": positions[:, :17]}})
    with pytest.raises(InputError, match=r"\(7, 17, 3\), wanted frames x 32 x 3"):
        archive_poses(path)


def test_an_archive_that_would_run_something_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    path = tmp_path / "data_3d_h36m.npz"
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("positions_3d.npy", header + b"\n" + pickle.dumps(Hostile()))
    with pytest.raises(InputError, match="open"):
        archive_poses(path)
    assert not (tmp_path / "run").exists()
