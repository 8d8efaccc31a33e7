import json
import math
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deformlearn.data import json_stream
from deformlearn.data.json_stream import read_list, read_object, read_sections
from deformlearn.errors import InputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.json"


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text(max_size=3), st.lists(VALUES, max_size=5) | VALUES, max_size=5),
    st.sampled_from([None, 1]),
    st.integers(1, 30),
)
def test_a_file_in_small_bites_gives_what_json_gives(tmp_path_factory, content, indent, chunk):
    path = tmp_path_factory.mktemp("json") / "file.json"
    path.write_text(json.dumps(content, indent=indent))
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    found = {name: [] for name in lists}
    patch = pytest.MonkeyPatch()
    patch.setattr(json_stream, "_CHUNK", chunk)
    for name, element in read_sections(path, lists):
        found[name].append(element)
    assert read_object(path) == content
    patch.undo()
    assert found == lists


@settings(max_examples=50, deadline=None)
@given(st.lists(VALUES, max_size=8), st.integers(1, 9))
def test_a_list_in_small_bites_gives_what_json_gives(tmp_path_factory, content, chunk):
    path = tmp_path_factory.mktemp("json") / "file.json"
    path.write_text(json.dumps(content))
    patch = pytest.MonkeyPatch()
    patch.setattr(json_stream, "_CHUNK", chunk)
    assert list(read_list(path)) == content
    patch.undo()


def test_only_wanted_lists_are_given_and_null_is_an_empty_one(path):
    path.write_text('\ufeff {"info": {"a": [1]}, "a": [1, 2], "b": [3], "c": null, "d": [NaN]}')
    assert list(read_sections(path, ("a", "c"))) == [("a", 1), ("a", 2)]
    assert math.isnan(dict(read_sections(path, ("d",)))["d"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty or ends too early"),
        (b"  ", "empty or ends too early"),
        (b"[1]", r"wanted '\{', got '\['"),
        (b'{"a": [1, 2', "ends too early"),
        (b'{"a": [1, {"b": 2', "ends too early"),
        (b'{"a": [1, 2,]}', "Expecting value"),
        (b'{"a": [1 2]}', r"wanted ',' or ']'"),
        (b'{"a": [1]} x', "something follows"),
        (b'{"a": [1], }', "a name is missing"),
        (b'{"a" [1]}', "wanted ':'"),
        (b'{"a": {"b": 1}}', "no list of a: it is dict"),
        (b'{"a": [' + b"9" * 5000 + b"]}", "cannot be read as json"),
        (b'{"a": [' + b"[" * 200_000 + b"]" * 200_000 + b"]}", "cannot be read as json"),
        (b"\xff\xfe\x00", "is not json"),
        (b'{"a": ["\xff"]}', "is not json"),
        (b"\x89PNG\r\n\x1a\n", "is not json"),
    ],
)
def test_what_is_no_json_object_with_lists_is_refused_with_the_place(path, content, message):
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        list(read_sections(path, ("a",)))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_element_that_never_ends_is_not_read_into_memory(path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 10)
    monkeypatch.setattr(json_stream, "LONGEST", 100)
    path.write_text('{"a": ["' + "x" * 1000 + '"]}')
    with pytest.raises(InputError, match="an element of over"):
        list(read_sections(path, ("a",)))


def test_missing_files_and_other_kinds_are_refused(path, tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        list(read_list(path))
    with pytest.raises(InputError, match="Is a directory"):
        list(read_list(tmp_path))
    path.write_text("[1]")
    with pytest.raises(InputError, match="is no json object"):
        read_object(path)


def test_memory_does_not_grow_with_the_file(path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 14)
    row = json.dumps({"keypoints": [1.5] * 200})
    path.write_text('{"annotations": [' + ",".join([row] * 3000) + "]}")
    assert path.stat().st_size > 180 * json_stream._CHUNK
    tracemalloc.start()
    count = sum(1 for _ in read_sections(path, ("annotations",)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 3000
    assert peak < 10 * json_stream._CHUNK
