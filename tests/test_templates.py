import json
import os
import subprocess
import sys
from dataclasses import fields

import pytest
import safetensors.torch
import torch

from deformlearn import anny_body, templates
from deformlearn.body import BodyTemplate
from deformlearn.errors import InputError


def assert_same(left: BodyTemplate, right: BodyTemplate):
    for ours, theirs in zip(left.tensors(), right.tensors(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    static = [field.name for field in fields(left) if field.name in ("name", "landmark_names")]
    assert all(getattr(left, name) == getattr(right, name) for name in static)
    assert left.parents == right.parents


def test_a_saved_template_is_read_back_as_it_was(template, tmp_path):
    path = tmp_path / "folder" / "mine.safetensors"
    templates.save(template, path)
    assert_same(templates.read(path), template)
    assert_same(templates.load(path), template)
    assert os.listdir(path.parent) == [path.name]


def test_an_unknown_template_is_refused_with_what_is_known():
    with pytest.raises(InputError, match=r"unknown template 'smpl'.*'anny'.*\.safetensors.*\.glb"):
        templates.load("smpl")


@pytest.mark.parametrize("name", ["body.fbx", "photo.jpg", "all.zip", "body"])
def test_a_file_of_another_kind_is_refused_with_the_kinds_that_are_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 or whatever")
    with pytest.raises(InputError, match=rf"{name} is no body .*\.glb \(glTF\).*\.pkl \(SMPL\)"):
        templates.load(tmp_path / name)


@pytest.mark.parametrize("name", ["anny", "mine.safetensors", "smpl.pkl"])
def test_a_mapping_is_refused_where_segments_are_known_already(tmp_path, name, template):
    if name == "mine.safetensors":
        templates.save(template, tmp_path / name)
    elif name != "anny":
        (tmp_path / name).write_bytes(b"")
    given = name if name == "anny" else tmp_path / name
    with pytest.raises(InputError, match=r"has its segments already; .*my\.json.*glTF"):
        templates.load(given, tmp_path / "my.json")


def test_a_template_of_ours_has_no_report_of_a_rig(template, tmp_path):
    templates.save(template, tmp_path / "mine.safetensors")
    loaded, report = templates.load_with_report(tmp_path / "mine.safetensors")
    assert report is None
    assert_same(loaded, template)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_file_is_refused(template, tmp_path, keep):
    path = tmp_path / "mine.safetensors"
    templates.save(template, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="is not a whole template file"):
        templates.read(path)


def test_a_file_whose_numbers_changed_is_refused(template, tmp_path):
    path = tmp_path / "mine.safetensors"
    templates.save(template, path)
    content = bytearray(path.read_bytes())
    place = content.index(template.vertices.numpy().tobytes())
    content[place + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        templates.read(path)


def rewritten(path, *, about=(), tensors=()):
    """The file with other words and numbers in some places, and the checksum it had."""
    with safetensors.safe_open(path, "pt") as file:
        words, numbers = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    path.write_bytes(safetensors.torch.save(numbers | dict(tensors), words | dict(about)))


@pytest.mark.parametrize(
    "about", [("parents", "[9, 9]"), ("landmark_names", "[]"), ("name", "other")]
)
def test_a_file_whose_words_changed_is_refused(template, tmp_path, about):
    path = tmp_path / "mine.safetensors"
    templates.save(template, path)
    rewritten(path, about=[about])
    with pytest.raises(InputError, match="is damaged"):
        templates.read(path)


@pytest.mark.parametrize(
    "name", ["mirror", "limits", "limit_axes", "landmarks_rest", "landmarks_weights"]
)
@pytest.mark.parametrize("change", ["number", "shape"])
def test_a_file_that_changed_where_no_fingerprint_looks_is_refused(
    template, tmp_path, name, change
):
    path = tmp_path / "mine.safetensors"
    templates.save(template, path)
    landmarks = {
        f"landmarks_{key}": getattr(template.landmarks, key) for key in ("rest", "weights")
    }
    values = landmarks.get(name, getattr(template, name, None)).clone()
    if change == "number":
        values.view(-1)[0] = 7  # also where there is no limit
    rewritten(path, tensors=[(name, values if change == "number" else values.flatten()[:5])])
    with pytest.raises(InputError, match="is damaged"):
        templates.read(path)


def test_a_file_of_before_there_was_a_checksum_is_read(template, tmp_path):
    path = tmp_path / "mine.safetensors"
    templates.save(template, path)
    rewritten(path, about=[("checksum", "")])
    assert_same(templates.read(path), template)


@pytest.mark.parametrize("about", [("parents", "5"), ("parents", "null"), ("landmark_names", "7")])
def test_a_file_whose_words_are_of_another_kind_is_refused(template, tmp_path, about):
    path = tmp_path / "mine.safetensors"
    templates.save(template, path)
    rewritten(path, about=[about, ("checksum", "")])
    with pytest.raises(InputError, match="is not a whole template file"):
        templates.read(path)


def test_foreign_and_old_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(3)}))
    with pytest.raises(InputError, match=f"is not a template of format {templates.FORMAT}"):
        templates.read(path)
    about = {"format": str(templates.FORMAT), "name": "x", "landmark_names": json.dumps([])}
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(3)}, about))
    with pytest.raises(InputError, match="is not a whole template file"):
        templates.read(path)


@pytest.fixture
def cache(tmp_path, monkeypatch, template):
    """An empty cache, and a quick stand-in for the real build that counts its calls."""
    monkeypatch.setenv("DEFORMLEARN_CACHE", str(tmp_path / "cache"))
    calls = []

    def build():
        calls.append(1)
        return template

    monkeypatch.setattr(templates, "build_anny", build)
    return tmp_path / "cache", calls


def test_the_template_is_built_once(cache, template, capsys):
    folder, calls = cache
    assert_same(templates.load("anny"), template)
    assert_same(templates.load(), template)
    assert len(calls) == 1
    (file,) = folder.rglob("*.safetensors")
    assert f"format{templates.FORMAT}" in file.name
    assert capsys.readouterr() == ("", "")


def test_a_damaged_cache_is_built_again_with_one_line(cache, template, capsys):
    folder, calls = cache
    templates.load()
    (file,) = folder.rglob("*.safetensors")
    file.write_bytes(b"nonsense")
    assert_same(templates.load(), template)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Building the cached template again" in err
    assert_same(templates.load(), template)
    assert len(calls) == 2


def test_an_unwritable_cache_is_done_without_with_one_line(
    cache, template, capsys, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DEFORMLEARN_CACHE", str(tmp_path / "file"))
    assert_same(templates.load(), template)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("Warning: cannot write")


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("DEFORMLEARN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert templates.cache_folder() == tmp_path / "deformlearn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert templates.cache_folder() == tmp_path / ".cache" / "deformlearn"


@pytest.mark.usefixtures("anny")
def test_the_cached_template_loads_without_importing_anny():
    code = (
        "import sys; from deformlearn import templates; templates.load('anny'); "
        "sys.exit('anny' in sys.modules or 'warp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.slow
def test_building_again_gives_the_cached_template_and_writes_nothing_to_stdout(anny, capfd):
    built = anny_body.build_anny()
    assert built.fingerprint == anny.fingerprint
    assert_same(built, anny)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Building the Anny template" in err
