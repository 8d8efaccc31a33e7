"""Places on disk and in object stores, and files that are whole or absent."""

import os
from pathlib import Path

import pytest
from fsspec.registry import known_implementations

from deformlearn.errors import InputError
from deformlearn.files import clear_parts, place, require_local, whole_file, write_atomically


def test_a_path_is_a_path(tmp_path):
    assert place("some/folder") == Path("some/folder")
    assert place(tmp_path) is tmp_path
    for url in (f"file://{tmp_path}/set", f"local://{tmp_path}/set"):
        assert place(url) == tmp_path / "set"
        assert isinstance(place(url), Path)


def test_a_url_is_a_place_in_a_store():
    folder = place("memory://files/set")
    assert not isinstance(folder, Path)
    write_atomically(folder / "deep" / "a.txt", b"old")
    write_atomically(folder / "deep" / "a.txt", b"new")
    assert (folder / "deep" / "a.txt").read_bytes() == b"new"
    assert str(folder / "deep") == "memory://files/set/deep"


@pytest.mark.parametrize(
    ("implementation", "package"),
    [("none_such.FileSystem", "none_such"), ("fsspec.implementations.none.Such", "fsspec[tape]")],
)
def test_a_missing_package_is_named(implementation, package, monkeypatch):
    about = {"class": implementation, "err": "not there"}
    monkeypatch.setitem(known_implementations, "tape", about)
    with pytest.raises(InputError) as refusal:
        place("tape://bucket/set")
    assert str(refusal.value) == f"tape:// needs the package {package}; pip install {package}"


def test_an_unknown_protocol_is_refused():
    with pytest.raises(InputError, match="nothing is known of telepathy://"):
        place("telepathy://my/thoughts")


@pytest.mark.parametrize("url", ["memory://abc/d", "s3://bucket", "file:///tmp/set"])
def test_a_url_where_a_folder_must_be_local_is_refused(url, tmp_path):
    with pytest.raises(InputError, match="is a URL, but this is written to a folder"):
        require_local(Path(url))
    for path in (tmp_path, Path("some/memory:/d"), Path("C:/people")):
        require_local(path)


def test_a_streamed_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "a" / "file"
    with whole_file(path) as file:
        file.write(b"one ")
        assert not path.exists()
        file.write(b"two")
    assert path.read_bytes() == b"one two"
    with pytest.raises(TypeError), whole_file(path) as file:
        file.write("no bytes")
    assert path.read_bytes() == b"one two"
    assert os.listdir(path.parent) == ["file"]


def test_only_our_own_half_files_are_cleared_and_none_of_other_work(tmp_path):
    ours = [tmp_path / ".a.json.12.part", tmp_path / "round-1" / ".network.safetensors.7.part"]
    theirs = [
        tmp_path / "round-1" / ".film.mp4.part",
        tmp_path / "other run" / "checkpoints" / ".learn-1.pt.7.part",
        tmp_path / "labels" / ".observations.7.part",
    ]
    locks = [tmp_path / ".lock", tmp_path / "other run/.lock", tmp_path / "labels/.annotate.lock"]
    for path in (*ours, *theirs, *locks):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    clear_parts(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*.part")) == sorted(theirs)


def test_a_name_that_is_too_long_is_to_be_made_shorter(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*: File name too long; give it a shorter"):
        write_atomically(tmp_path / ("x" * 300), b"")
