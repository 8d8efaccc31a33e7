"""`deformlearn export`: what a user types, what comes out, and what is refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import viewers
from conftest import octahedra
from deformlearn import cli, templates
from deformlearn.camera import Crop
from deformlearn.config import RunConfig
from deformlearn.data.estimates import Estimates, write_estimates
from deformlearn.errors import InputError
from deformlearn.exports import command
from deformlearn.exports.axes import estimate_mesh
from deformlearn.exports.command import ExportOptions, choose_file, export_people
from deformlearn.findings import find
from deformlearn.rigs.gltf import read_gltf
from deformlearn.rundir import RunFolder
from tiny_runs import write_people

KEYS = ["anna 1", "日本/太郎", "a.b", "carl"]


@pytest.fixture(scope="module")
def template_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "octahedra.safetensors"
    templates.save(octahedra(), path)
    return str(path)


@pytest.fixture
def estimates(template, planted):
    estimate, _, _ = planted(template, 4, seed=3)
    crop = Crop(torch.full((4, 2), 16.0), torch.full((4,), 12.0))
    return Estimates(list(KEYS), estimate, crop)


@pytest.fixture
def file(template, estimates, tmp_path):
    path = tmp_path / "in put" / "estimates.parquet"
    path.parent.mkdir()
    write_estimates(path, estimates, template)
    return path


@pytest.fixture(scope="module")
def run(template, planted, tmp_path_factory):
    """A run of two rounds, the second of which is still being written, and its data set."""
    folder = tmp_path_factory.mktemp("run")
    data = write_people(folder / "data", train=5, test=3, shard=4)
    info = json.loads((data / "dataset.json").read_text())
    with RunFolder(folder / "run") as made:
        made.begin(RunConfig(), {"path": str(data), "template": info}, {})
    for name, count, seed in (
        ("round-1/estimates", 5, 0), ("round-1/predictions-test", 3, 1), ("round-2/estimates", 5, 2)
    ):  # fmt: skip
        split = "test" if "test" in name else "train"
        estimate, _, crop = planted(template, count, seed=seed)
        people = Estimates([f"{split}-{row:03d}" for row in range(count)], estimate, crop)
        write_estimates(folder / "run" / f"{name}.parquet", people, template)
    (folder / "run/round-2/predictions-test.parquet").write_bytes(b"PAR1 half")
    return folder / "run"


def export(*words):
    cli.main(["export", *map(str, words)])


def refused(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        export(*words)
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("deformlearn: ")
    return said


def names(folder):
    return sorted(path.name for path in folder.iterdir())


ENDINGS = {
    "glb": ["glb"],
    "bvh": ["bvh", "bvh.json"],
    "obj": ["obj"],
    "ply": ["ply"],
    "npz": ["npz"],
}


@pytest.mark.parametrize("to", ENDINGS)
def test_everyone_gets_a_file_under_a_name_of_their_own(file, template_file, tmp_path, capsys, to):
    out = tmp_path / "new" / "out put"
    export(file, "--to", to, "--out", out, "--template", template_file)
    people = ["anna 1", "日本_太郎", "a.b", "carl"]
    assert names(out) == sorted(f"{name}.{end}" for name in people for end in ENDINGS[to])
    assert f"{out}: 4 {to} files of {file}" in capsys.readouterr().out


def test_a_run_gives_its_last_whole_registration_and_says_what_is_not_whole(
    run, template_file, tmp_path, capsys
):
    words = ("--to", "npz", "--template", template_file)
    export(run, *words, "--out", tmp_path / "a", "--people", "train-001", "3-")
    assert names(tmp_path / "a") == ["train-001.npz", "train-003.npz", "train-004.npz"]
    said = capsys.readouterr().out
    assert f"3 npz files of the registered people (train) of round 2 of {run}" in said
    assert "round-2/predictions-test.parquet is not whole and is left out" in said
    export(run, *words, "--out", tmp_path / "b", "--split", "test")
    assert names(tmp_path / "b") == [f"test-{row:03d}.npz" for row in range(3)]
    assert "the predicted people (test) of round 1" in capsys.readouterr().out
    export(run, *words, "--out", tmp_path / "c", "--round", 1, "--people", "0")
    assert "of round 1" in capsys.readouterr().out
    export(run, *words, "--out", tmp_path / "d", "--people", "0")
    first, last = (np.load(tmp_path / which / "train-000.npz")["pose"] for which in "cd")
    assert not np.array_equal(first, last)


def test_damaged_fits_of_the_last_round_never_change_who_is_exported(
    run, template_file, tmp_path, capsys
):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "round-2/predictions-test.parquet").write_bytes(
        (run / "round-1/predictions-test.parquet").read_bytes()
    )
    fits = copy / "round-2/estimates.parquet"
    fits.write_bytes(fits.read_bytes()[:3000])
    words = (copy, "--to", "npz", "--template", template_file, "--people", "0")
    export(*words, "--out", tmp_path / "a")
    assert names(tmp_path / "a") == ["train-000.npz"]
    said = capsys.readouterr().out
    assert "the registered people (train) of round 1" in said
    assert "round-2/estimates.parquet is not whole and is left out" in said
    export(*words, "--out", tmp_path / "b", "--stage", "predicted")
    assert "the predicted people (test) of round 2" in capsys.readouterr().out


def test_what_a_run_does_not_have_is_refused_with_what_it_has(run, template_file, tmp_path, capsys):
    words = (run, "--to", "obj", "--out", tmp_path / "out", "--template", template_file)
    said = refused(capsys, *words, "--round", 7)
    assert (
        "has no estimates of round 7; it has registered train, predicted test of round 1, 2" in said
    )
    assert "has no estimates of refined val" in refused(
        capsys, *words, "--stage", "refined", "--split", "val"
    )
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_whole_round_is_refused(run, template_file, tmp_path, capsys):
    empty = tmp_path / "run"
    empty.mkdir()
    (empty / "config.json").write_bytes((run / "config.json").read_bytes())
    said = refused(capsys, empty, "--to", "obj", "--out", tmp_path / "out")
    assert "nothing to export yet" in said
    assert "has no estimates yet" in said


def test_other_paths_are_refused_with_what_to_give(run, file, template_file, tmp_path, capsys):
    words = ("--to", "glb", "--out", tmp_path / "out", "--template", template_file)
    data = run.parent / "data"
    assert "is a data set: photographs and labels without bodies" in refused(capsys, data, *words)
    assert "is a template, not people" in refused(capsys, template_file, *words, "--people", 0)
    assert "does not move" in refused(capsys, template_file, *words, "--animate")
    assert "there is nothing at" in refused(capsys, tmp_path / "none", *words)
    (tmp_path / "empty.parquet").touch()
    assert "is empty" in refused(capsys, tmp_path / "empty.parquet", *words)
    (tmp_path / "half.parquet").write_bytes(file.read_bytes()[:900])
    assert "is not a whole Parquet" in refused(capsys, tmp_path / "half.parquet", *words)


def test_a_template_is_exported_at_rest(template, template_file, tmp_path, capsys):
    for to in ("glb", "bvh", "obj", "npz"):
        export(template_file, "--to", to, "--out", tmp_path / "out")
    assert names(tmp_path / "out") == [
        f"octahedra.{end}" for end in ("bvh", "bvh.json", "glb", "npz", "obj")
    ]
    assert "octahedra.safetensors at rest as glb" in capsys.readouterr().out
    rig = read_gltf(tmp_path / "out/octahedra.glb")
    np.testing.assert_allclose(rig.vertices, template.vertices, atol=1e-6)
    assert np.load(tmp_path / "out/octahedra.npz")["vertices"].shape[0] == 1


def test_people_of_another_template_are_refused(file, anny, tmp_path, capsys):
    said = refused(capsys, file, "--to", "glb", "--out", tmp_path / "out")
    assert "holds estimates of the template 'octahedra'" in said
    assert "smpl" not in said
    said = refused(capsys, file, "--to", "smpl", "--out", tmp_path / "out")
    assert "whose template is SMPL's" in said
    assert not list((tmp_path / "out").glob("*"))


def test_nobody_nobodys_number_and_nonsense_are_refused(file, template_file, tmp_path, capsys):
    words = (file, "--out", tmp_path / "out", "--template", template_file)
    assert "is called 'ana'" in refused(capsys, *words, "--to", "obj", "--people", "ana")
    assert "numbered 0 to 3" in refused(capsys, *words, "--to", "obj", "--people", "4")
    assert "obj holds no motion" in refused(capsys, *words, "--to", "obj", "--animate")
    assert "a texture goes into a GLB" in refused(
        capsys, *words, "--to", "obj", "--texture", "--images", tmp_path
    )
    assert "leave out --axes camera" in refused(capsys, *words, "--to", "npz", "--axes", "camera")
    assert "for --texture" in refused(capsys, *words, "--to", "glb", "--images", tmp_path)
    assert "--unit is for bvh" in refused(capsys, *words, "--to", "glb", "--unit", "cm")
    assert "--fps must be above zero" in refused(
        capsys, *words, "--to", "glb", "--animate", "--fps", 0
    )
    for idle, said in (
        (("--to", "npz", "--influences", 8), "--influences is for glb"),
        (("--to", "npz", "--focal-px", 900), "leave out --focal-px"),
        (("--to", "glb", "--pixels", "uint8"), "--pixels is for onnx"),
        (("--to", "glb", "--fps", 25), "give --animate too"),
        (("--to", "bvh", "--motion", "none"), "give --animate too"),
        (("--to", "onnx", "--round", 1), "onnx is a network and no people"),
    ):
        assert said in refused(capsys, *words, *idle)
    assert "--focal-px must be above zero" in refused(
        capsys, *words, "--to", "glb", "--focal-px", "nan"
    )
    assert "--texture needs the photographs" in refused(capsys, *words, "--to", "glb", "--texture")


def test_a_place_that_takes_no_file_is_refused_before_any_work(
    file, template_file, tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "keys_of", lambda path: pytest.fail("began to work"))
    said = refused(
        capsys, file, "--to", "glb", "--out", tmp_path / "file", "--template", template_file
    )
    assert f"cannot write in {tmp_path / 'file'}" in said


def test_broken_rows_are_left_out_and_said(estimates, template, template_file, tmp_path, capsys):
    estimates.estimate.body.pose[1, 0, 0] = torch.nan
    write_estimates(tmp_path / "estimates.parquet", estimates, template)
    words = (tmp_path, "--to", "glb", "--out", tmp_path / "out", "--template", template_file)
    export(*words)
    assert len(names(tmp_path / "out")) == 3
    said = capsys.readouterr().out
    assert "left out: 日本/太郎: its numbers are not those of a person" in said
    assert "nobody of" in refused(capsys, *words, "--people", 1)


def test_a_video_is_one_file_of_motion_for_each_person(
    template, planted, template_file, tmp_path, capsys
):
    estimate, _, crop = planted(template, 7, seed=5)
    keys = ["walk_000003_p1", "walk_000000_p1", "walk_000001_p1", "walk_000001_p0", "walk_000002_p0",
            "run_000000", "run_000001"]  # fmt: skip
    people = Estimates(keys, estimate, crop)
    people.estimate.body.scales[6, 0] = -1.0  # broken
    write_estimates(tmp_path / "estimates.parquet", people, template)
    words = ("--template", template_file, "--animate", "--fps", 10)
    export(tmp_path, "--to", "glb", "--out", tmp_path / "glb", *words, "--motion", "none")
    assert names(tmp_path / "glb") == ["run.glb", "walk_p0.glb", "walk_p1.glb"]
    assert "left out: run_000001" in capsys.readouterr().out
    # The frames of one person, in their order and at their times; frame 2 was not seen.
    for seconds, row in ((0.0, 1), (0.1, 2), (0.29999, 0)):
        world, _, extras = viewers.in_three(tmp_path / "glb/walk_p1.glb", seconds)
        expected = estimate_mesh(template, people.estimate[row], axes="camera")
        assert np.abs(world - expected.numpy()).max() < 1e-3
    assert extras["frames"] == {"first": "walk_000000_p1", "last": "walk_000003_p1", "count": 3}
    assert viewers.issues(*(tmp_path / "glb").iterdir()) == []


def test_persons_of_one_frame_are_not_mixed_up(template, planted, template_file, tmp_path):
    estimate, _, crop = planted(template, 3, seed=5)
    people = Estimates(["nobody's frame", "w_000001_p1", "w_000001_p0"], estimate, crop)
    write_estimates(tmp_path / "estimates.parquet", people, template)
    out = tmp_path / "out"
    export(tmp_path, "--to", "npz", "--out", out, "--template", template_file, "--animate")
    for name, key in (
        ("people", "nobody's frame"),
        ("w_p1", "w_000001_p1"),
        ("w_p0", "w_000001_p0"),
    ):
        assert np.load(out / f"{name}.npz")["key"].tolist() == [key]


def test_npz_of_a_video_says_when_each_row_was_seen(template, planted, template_file, tmp_path):
    estimate, _, crop = planted(template, 2, seed=5)
    write_estimates(
        tmp_path / "estimates.parquet",
        Estimates(["w_000007", "w_000004"], estimate, crop),
        template,
    )
    out = tmp_path / "out"
    words = ("--template", template_file, "--animate", "--fps", 10)
    export(tmp_path, "--to", "npz", "--out", out, *words)
    track = np.load(out / "w.npz")
    assert track["key"].tolist() == ["w_000004", "w_000007"]
    np.testing.assert_allclose(track["times"], [0.0, 0.3], atol=1e-6)


def test_a_bvh_of_a_video_has_every_frame(template, planted, template_file, tmp_path, capsys):
    estimate, _, crop = planted(template, 3, seed=5)
    people = Estimates(["w_000004", "w_000002", "w_000007"], estimate, crop)
    write_estimates(tmp_path / "estimates.parquet", people, template)
    export(
        tmp_path, "--to", "bvh", "--out", tmp_path / "out", "--template", template_file, "--animate"
    )
    lines = (tmp_path / "out/w.bvh").read_text().splitlines()
    frames = lines[lines.index("Frames: 6") + 2 :]
    assert frames[0] == frames[1] != frames[2]
    assert frames[2] == frames[3] == frames[4] != frames[5]
    assert "bones of one length: joints move by at most" in capsys.readouterr().out


def test_textures_come_from_the_photographs_of_the_data_set(run, template_file, tmp_path, capsys):
    words = ("--to", "glb", "--texture", "--template", template_file, "--people", 0)
    export(run, *words, "--out", tmp_path / "a")
    assert "texture: photographs colour" in capsys.readouterr().out
    assert b"image/png" in (tmp_path / "a/train-000.glb").read_bytes()
    moved = run.parent / "data"
    export(run, *words, "--out", tmp_path / "b", "--data", moved)
    assert (tmp_path / "a/train-000.glb").read_bytes() == (
        tmp_path / "b/train-000.glb"
    ).read_bytes()


def test_a_file_of_estimates_takes_its_photographs_from_a_data_set_that_is_named(
    run, template_file, tmp_path, capsys
):
    source = run / "round-1/predictions-test.parquet"
    (tmp_path / "estimates.parquet").write_bytes(source.read_bytes())
    words = ("--to", "glb", "--texture", "--template", template_file, "--data", run.parent / "data")
    export(tmp_path, *words, "--out", tmp_path / "out", "--split", "test", "--people", "test-001")
    assert b"image/png" in (tmp_path / "out/test-001.glb").read_bytes()
    export(tmp_path, *words, "--out", tmp_path / "other", "--people", "test-001")
    assert "holds no photograph of 'test-001'" in capsys.readouterr().out


def test_people_without_a_photograph_are_written_grey_and_named(
    file, template_file, tmp_path, capsys
):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(pictures / "carl.png")
    words = ("--to", "glb", "--texture", "--images", pictures, "--template", template_file)
    export(file, *words, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert "left out: texture of anna 1:" in said
    assert b"image/png" in (tmp_path / "out/carl.glb").read_bytes()
    assert b"image/png" not in (tmp_path / "out/a.b.glb").read_bytes()


def test_estimates_whose_photographs_are_gone_are_refused(run, template_file, tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / "round-1").mkdir(parents=True)
    config = json.loads((run / "config.json").read_text())
    config["data"]["path"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(config))
    source = run / "round-1/estimates.parquet"
    (folder / "round-1/estimates.parquet").write_bytes(source.read_bytes())
    words = ("--to", "glb", "--texture", "--out", tmp_path / "out", "--template", template_file)
    said = refused(capsys, folder, *words)
    assert "needs the photographs" in said
    assert "gone is not there" in said


def test_files_that_are_there_are_replaced_whole(file, estimates, template_file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "carl.glb").write_bytes(b"old")
    (out / ".carl.glb.1234.part").write_bytes(b"half")  # of a killed export
    (out / ".a.b.glb.1234.part").write_bytes(b"half")
    (out / "mine.txt").write_text("stays")
    export(file, "--to", "glb", "--out", out, "--template", template_file, "--people", "carl")
    (out / ".a.b.glb.1234.part").unlink()  # another export may be at it: it is not cleared
    assert names(out) == ["carl.glb", "mine.txt"]
    before = (out / "carl.glb").read_bytes()
    export(file, "--to", "glb", "--out", out, "--template", template_file, "--people", "carl")
    assert (out / "carl.glb").read_bytes() == before
    found = read_gltf(out / "carl.glb").vertices
    expected = estimate_mesh(octahedra(), estimates.estimate)[3]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_killed_export_leaves_whole_files_and_the_same_command_finishes(
    template, planted, template_file, tmp_path
):
    estimate, _, crop = planted(template, 60, seed=6)
    people = Estimates([f"k{row:02d}" for row in range(60)], estimate, crop)
    write_estimates(tmp_path / "estimates.parquet", people, template)
    out = tmp_path / "out"
    words = [tmp_path, "--to", "ply", "--out", out, "--template", template_file]
    process = subprocess.Popen(
        [sys.executable, "-m", "deformlearn", "export", *map(str, words)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and len(list(out.glob("*.ply"))) < 5:
        pass
    process.kill()
    process.wait()
    before = {path: path.read_bytes() for path in out.glob("*.ply")}
    export(*words)
    assert names(out) == [f"k{row:02d}.ply" for row in range(60)]
    assert before
    assert all(path.read_bytes() == content for path, content in before.items())


def test_rows_are_never_all_in_memory(template, planted, tmp_path, monkeypatch):
    estimate, _, crop = planted(template, 40, seed=6)
    people = Estimates([f"k{row:02d}" for row in range(40)], estimate, crop)
    write_estimates(tmp_path / "estimates.parquet", people, template)
    monkeypatch.setattr("deformlearn.exports.people.AT_ONCE", 8)
    most = []
    original = Estimates.select
    monkeypatch.setattr(
        Estimates,
        "select",
        lambda several, rows: most.append(len(several)) or original(several, rows),
    )
    file = choose_file(find(tmp_path))
    outcome = export_people(file, template, "npz", tmp_path / "out", ExportOptions())
    assert (outcome.files, outcome.rows, max(most)) == (40, 40, 8)


def test_a_wrong_number_of_influences_is_refused(file, template, tmp_path):
    with pytest.raises(InputError, match="a vertex has 4 or 8 influences, got 5"):
        export_people(
            choose_file(find(file)), template, "glb", tmp_path, ExportOptions(influences=5)
        )


def test_the_cost_of_four_influences_is_told(anny, planted, tmp_path, capsys):
    estimate, _, crop = planted(anny, 1, seed=2)
    write_estimates(tmp_path / "estimates.parquet", Estimates(["a"], estimate, crop), anny)
    export(tmp_path, "--to", "glb", "--out", tmp_path / "out")
    assert "with 4 bones a vertex it is at most" in (said := capsys.readouterr().out)
    assert "--influences 8 keeps more" in said
    export(tmp_path, "--to", "glb", "--out", tmp_path / "out", "--influences", 8)
    assert "keeps more" not in capsys.readouterr().out
