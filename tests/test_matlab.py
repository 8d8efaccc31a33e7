import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from deformlearn import matlab
from deformlearn.errors import InputError
from deformlearn.matlab import read_variable

DTYPES = "f8 f4 i1 u1 i2 u2 i4 u4 i8 u8".split()


@pytest.fixture
def write(tmp_path):
    def write(compressed=False, **variables):
        path = tmp_path / "file.mat"
        file = io.BytesIO()
        savemat(file, variables, do_compression=compressed)
        path.write_bytes(file.getvalue())
        return path

    return write


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_those_that_scipy_reads(write, dtype, compressed):
    values = np.random.default_rng(0).integers(0, 100, (3, 4, 2)).astype(dtype)
    path = write(compressed, first=1.0, a=values)
    np.testing.assert_array_equal(read_variable(path, "a").numbers(), loadmat(path)["a"])
    np.testing.assert_array_equal(read_variable(path, "a").numbers(), values)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.sampled_from(DTYPES), st.booleans())
def test_numbers_of_every_shape_come_back(tmp_path_factory, rows, columns, dtype, compressed):
    path = tmp_path_factory.mktemp("mat") / "file.mat"
    values = np.arange(rows * columns).reshape(rows, columns).astype(dtype)
    savemat(path, {"a": values}, do_compression=compressed)
    found = read_variable(path, "a")
    assert found.size == values.size
    np.testing.assert_array_equal(found.numbers().ravel(), values.ravel())


@pytest.mark.parametrize("text", ["", "a", "abcdefghij", "Grüße"])
def test_text_comes_back(write, text):
    found = read_variable(write(a=text), "a")
    assert found.is_text
    assert found.text() == text


def test_structs_of_structs_are_looked_into(write):
    inner = np.empty((1, 2), dtype=[("x", object), ("name", object)])
    inner["x"][0] = [1.5, 2.5]
    inner["name"][0] = ["one", "two"]
    path = write(a={"people": inner, "count": 2, "nothing": np.zeros((0, 0))})
    (fields,) = read_variable(path, "a").structs()
    assert [one["x"].numbers().item() for one in fields["people"].structs()] == [1.5, 2.5]
    assert [one["name"].text() for one in fields["people"].structs()] == ["one", "two"]
    assert fields["count"].numbers().item() == 2
    assert fields["nothing"].size == 0


def test_a_file_of_the_other_byte_order_is_read(tmp_path):
    """Two doubles as a big-endian machine writes them, element by element."""

    def element(kind, data):
        padded = data + b"\0" * (-len(data) % 8)
        return kind.to_bytes(4, "big") + len(data).to_bytes(4, "big") + padded

    head = [
        element(6, (6).to_bytes(4, "big") + bytes(4)),
        element(5, (1).to_bytes(4, "big") + (2).to_bytes(4, "big")),
        element(1, b"a"),
        element(9, np.array([1.5, -2.0], ">f8").tobytes()),
    ]
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    path = tmp_path / "file.mat"
    path.write_bytes(header + element(14, b"".join(head)))
    assert read_variable(path, "a").numbers().tolist() == [[1.5, -2.0]]
    np.testing.assert_array_equal(loadmat(path)["a"], [[1.5, -2.0]])


def test_other_files_and_other_variables_are_refused(write, tmp_path):
    path = write(a=1.0)
    with pytest.raises(InputError, match="it has no variable b"):
        read_variable(path, "b")
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        read_variable(tmp_path / "none.mat", "a")
    for content, message in (
        (b"", "no header of version 5"),
        (b"x" * 200, "no header of version 5"),
        (b"MATLAB 7.3 MAT-file".ljust(512), "version 7.3; save it with -v7"),
        (b"\x89HDF\r\n\x1a\n", "version 7.3"),
        (path.read_bytes()[:-4], "ends"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_variable(path, "a").numbers()


def test_an_array_is_not_taken_for_another_kind(write):
    path = write(a=1.0, b="text", c={"x": 1})
    for name, ask in (("a", "text"), ("b", "numbers"), ("c", "numbers"), ("c", "text")):
        with pytest.raises(InputError, match=f"the MATLAB array '{name}'"):
            getattr(read_variable(path, name), ask)()
    with pytest.raises(InputError, match="is no struct"):
        next(read_variable(path, "a").structs())


def test_a_bomb_is_not_unfolded(write, monkeypatch):
    monkeypatch.setattr(matlab, "_LARGEST", 1000)
    path = write(compressed=True, a=np.zeros(100_000))
    with pytest.raises(InputError, match="or is too large"):
        read_variable(path, "a")


def visit(matrix):
    """Everything in an array, however deep."""
    if matrix.is_text:
        matrix.text()
    elif matrix.kind == 2:
        for fields in matrix.structs():
            for inner in fields.values():
                visit(inner)
    else:
        matrix.numbers()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("mat") / "file.mat"
    savemat(path, {"a": {"x": [1.0, 2.0], "name": "abc", "deep": {"y": 3}}})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(100, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] or content)
    try:
        visit(read_variable(path, "a"))
    except InputError:
        return
