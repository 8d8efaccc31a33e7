"""Pickles through the allow-list: what data files hold comes back, and nothing is ever run."""

import collections
import contextlib
import io
import pickle
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from deformlearn.errors import InputError
from deformlearn.unpickle import Inert, load_npz, load_pickle, load_pickles
from hostile import attacks, exhausting

NAMES = sorted(attacks("canary"))


class Sparse(Inert):
    """Stands for a matrix of scipy's."""


# What data files hold


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_containers_come_back_as_they_were(protocol):
    plain = {
        "list": [1, 2.5, True, None, 1j, "text", b"bytes", bytearray(b"more")],
        "tuple": (1, (2, 3)),
        "set": {1, 2},
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, {1: [2]}),
        "number": np.float32(3),
    }
    arrays = {
        "matrix": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "fields": np.ones(3, [("a", "<i4"), ("b", "f8")]),
        "text": np.array(["ab", "c"]),
        "empty": np.zeros((0, 3)),
        "scalar": np.zeros((), int),
    }
    assert load_pickle(pickle.dumps(plain, protocol)) == plain
    back = load_pickle(pickle.dumps(arrays, protocol))
    for name, array in arrays.items():
        assert type(back[name]) is np.ndarray
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_arrays_within_containers_and_object_arrays_are_plain_arrays():
    objects = np.empty((2, 2), object, order="F")
    objects[:] = [[np.ones(2), None], [{"a": np.zeros(1)}, (1, np.ones(3))]]
    shared = np.arange(3)
    back = load_pickle(pickle.dumps({"objects": objects, "twice": (shared, [shared])}))
    assert back["objects"].shape == (2, 2)
    assert back["objects"][0, 1] is None
    for array in (back["objects"][0, 0], back["objects"][1, 0]["a"], back["objects"][1, 1][1]):
        assert type(array) is np.ndarray
    first, (second,) = back["twice"]
    assert first is second


def test_a_list_that_holds_itself_is_read():
    endless = [1]
    endless.append(endless)
    back = load_pickle(pickle.dumps(endless))
    assert back[1] is back


def test_arrays_of_python_2_keep_their_bytes():
    # numpy.array([1.0, 2.0]) as Python 2 wrote it, protocol 0: bytes are text there.
    old = (
        b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n"
        b"(I1\n(I2\ntp6\ncnumpy\ndtype\np7\n(S'f8'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'<'\np11\nNNNI-1\nI-1\n"
        b"I0\ntp12\nbI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\xf0?\\x00\\x00\\x00\\x00\\x00\\x00\\x00@'\n"
        b"p13\ntp14\nb."
    )
    np.testing.assert_array_equal(load_pickle(old), [1.0, 2.0])


def test_a_stand_in_keeps_the_state_of_a_foreign_class():
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    back = load_pickle(pickle.dumps(matrix, 2), {"scipy.sparse.*": Sparse})
    assert isinstance(back, Sparse)
    np.testing.assert_array_equal(back.indices, [0, 1, 2])
    assert type(back.data) is np.ndarray
    with pytest.raises(AttributeError):
        _ = back.missing


def test_pickles_one_after_another_and_what_they_keep_outside(tmp_path):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return 7 if value == "x" else None

    stream = io.BytesIO()
    pickle.dump(1, stream)
    Pickler(stream).dump(["x"])
    (tmp_path / "two.pkl").write_bytes(stream.getvalue() + b"behind")
    found, end = load_pickles(tmp_path / "two.pkl", 2, persistent=lambda identity: identity * 2)
    assert found == [1, [14]]
    assert end == len(stream.getvalue())
    with pytest.raises(InputError, match="refers to data outside itself"):
        load_pickles(tmp_path / "two.pkl", 2)


def test_an_npz_with_objects_is_read(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.arange(3), two=np.array({"a": np.ones(2)}, object))
    back = load_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(back["one"], [0, 1, 2])
    np.testing.assert_array_equal(back["two"]["a"], [1, 1])


def test_an_npz_that_unfolds_to_more_than_the_memory_is_refused(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("v_template.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(1025):
            member.write(bytes(1 << 20))
    with pytest.raises(InputError, match="unfolds to 1074790400 bytes, more than"):
        load_npz(tmp_path / "a.npz")


# What hostile files hold


@pytest.fixture
def canary(tmp_path):
    """A file that must never appear."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


def test_a_bytearray_takes_no_memory_before_it_is_there():
    import tracemalloc

    content = b"\x80\x05\x96" + (200 << 20).to_bytes(8, "little") + b"."
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            load_pickle(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_there_are_fifty_attacks_and_they_are_real(tmp_path):
    """In a process of its own, Python's unpickler runs most of them (some need what is not there).

    The one that has torch build an extension is left out: it compiles for twenty seconds.
    """
    code = (
        "import os, pickle, sys\n"
        f"sys.path.insert(0, {str(tmp_path.parent)!r})\n"
        "from hostile import attacks\n"
        f"ran = 0\ncanary = {str(tmp_path / 'canary')!r}\n"
        "for name, content in attacks(canary).items():\n"
        "    if 'extension builder' in name: continue\n"
        "    try:\n        pickle.loads(content)\n    except BaseException:\n        pass\n"
        "    for _ in range(20):\n"
        "        if os.path.lexists(canary): break\n"
        "        __import__('time').sleep(0.005)\n"
        "    else:\n        continue\n"
        "    ran += 1\n"
        "    os.rmdir(canary) if os.path.isdir(canary) and not os.path.islink(canary) "
        "else os.unlink(canary)\n"
        "print(ran)"
    )
    from pathlib import Path

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    assert len(NAMES) >= 50
    assert int(done.stdout.split()[-1]) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_is_refused_and_not_run(name, canary, tmp_path):
    content = attacks(str(canary))[name]
    with pytest.raises(InputError) as told:
        load_pickle(content)
    assert "\n" not in str(told.value)
    file = tmp_path / "body.pkl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"body\.pkl"):
        load_pickle(file, {"densepose.*": Inert})
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr.npy", header.getvalue() + content)
    with pytest.raises(InputError, match=r"a\.npz"):
        load_npz(tmp_path / "a.npz")


def test_a_refused_global_is_named_and_the_message_says_that_nothing_was_run():
    with pytest.raises(InputError, match=r"asks to import os\.system.*nothing in it was run"):
        load_pickle(attacks("canary")["os.system"])


def test_nothing_is_left_behind_in_the_reader(canary):
    """Attacks that set attributes must not change what the next file meets."""
    for content in attacks(str(canary)).values():
        with pytest.raises(InputError):
            load_pickle(content)
    assert load_pickle(pickle.dumps(b"\xff\x00", 2)) == b"\xff\x00"
    assert not hasattr(Inert, "poisoned")


@pytest.mark.parametrize("name", sorted(exhausting()))
def test_a_small_file_cannot_use_up_memory_or_time(name):
    import resource

    content = exhausting()[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = []

    def read():
        try:
            outcome.append(load_pickle(content))
        except InputError as error:
            outcome.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert outcome, "it is still being read after 20 s"
    assert isinstance(outcome[0], InputError) or name.startswith(("a memo", "a frame"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000  # kB


SAMPLE = pickle.dumps(
    [{"name": "a", "array": np.arange(4.0), "objects": np.array([None, 1], object)}] * 2, 4
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), max_size=6),
       st.integers(0, len(SAMPLE)))  # fmt: skip
def test_damaged_bytes_are_read_or_refused(changes, length):
    content = bytearray(SAMPLE)
    for place, value in changes:
        content[place] = value
    with contextlib.suppress(InputError):
        load_pickle(bytes(content[:length] if length < len(SAMPLE) // 2 else content))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04", b"\x80\xff.", b"]"])
def test_what_is_no_pickle_is_refused(content, tmp_path):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as a pickle.*wanted a body"):
        load_pickle(tmp_path / "a.pkl", what="a body")
    with pytest.raises(InputError, match="wanted a body"):
        load_npz(tmp_path / "a.pkl", what="a body")
    with pytest.raises(InputError, match="cannot read"):
        load_pickle(tmp_path / "gone.pkl")
