"""HDF5 files are read by a child whose memory is bounded."""

import h5py
import numpy as np
import pytest

from deformlearn.data.hdf5 import read_arrays
from deformlearn.errors import InputError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "annot data.mat"
    with h5py.File(path, "w") as file:
        file["pixels"] = np.arange(12.0).reshape(2, 3, 2)
        file["valid"] = np.array([1, 0], np.uint8)
        file["words"] = ["a", "b"]
        file.create_dataset("huge", shape=(10**10,), dtype="f8")  # claimed, never written
    return path


def test_arrays_arrive_as_they_were_written(path):
    found = read_arrays(path, ["pixels", "valid"])
    np.testing.assert_array_equal(found["pixels"], np.arange(12.0).reshape(2, 3, 2))
    assert found["valid"].dtype == np.uint8


def test_a_file_that_was_written_again_is_read_again(path):
    read_arrays(path, ["valid"])
    with h5py.File(path, "r+") as file:
        file["valid"][...] = [7, 8]
    assert read_arrays(path, ["valid"])["valid"].tolist() == [7, 8]


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent", "has no field absent"), ("words", "no array of numbers"), ("huge", "more memory")],
)
def test_fields_that_cannot_be_had_are_named(path, name, message):
    with pytest.raises(InputError, match=message):
        read_arrays(path, ["valid", name])


def test_foreign_truncated_and_missing_files_are_refused(path, tmp_path):
    whole = path.read_bytes()
    for content in (b"", b"no hdf5", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as MATLAB"):
            read_arrays(path, ["valid"])
    with pytest.raises(InputError, match="there is no"):
        read_arrays(tmp_path / "none.mat", ["valid"])


def test_no_python_file_beside_the_data_is_run(path, tmp_path, monkeypatch):
    (tmp_path / "h5py.py").write_text("open('run', 'w')")
    monkeypatch.chdir(tmp_path)
    assert read_arrays(path, ["valid"])["valid"].tolist() == [1, 0]
    assert not (tmp_path / "run").exists()
