"""What a path is: runs, estimates, data sets, templates, networks, and everything that is none of them."""

import json
import shutil

import pytest
import safetensors.torch
import torch

from conftest import octahedra, plant
from deformlearn import templates
from deformlearn.data.estimates import Estimates, write_estimates
from deformlearn.data.shards import fingerprint
from deformlearn.errors import InputError
from deformlearn.findings import find
from tiny_runs import write_people


def write_fits(path, people=3, seed=0):
    template = octahedra()
    truth, _, crop = plant(template, people, seed)
    keys = [f"train-{row:03d}" for row in range(people)]
    write_estimates(path, Estimates(keys, truth, crop), template)
    return path


@pytest.fixture
def data(tmp_path):
    return write_people(tmp_path / "data", train=3, test=2)


@pytest.fixture
def run(tmp_path, data):
    """What a run leaves on disk, as far as a path tells."""
    folder, template = tmp_path / "run", octahedra()
    for round_ in (1, 2, 10):
        here = folder / f"round-{round_}"
        write_fits(here / "estimates.parquet")
        write_fits(here / "predictions-train.parquet")
        write_fits(here / "predictions-test.parquet", 2)
    write_fits(here / "refined-test.parquet", 2)
    write_fits(here / "alone.parquet")
    about = {"template": template.name, "fingerprint": template.fingerprint}
    config = {"config": {"rounds": 10}, "data": {"path": str(data), "template": about}}
    (folder / "config.json").write_text(json.dumps(config))
    shards = {f"observations/{name}": one for name, one in fingerprint(data, "train").items()}
    (folder / "shards.json").write_text(json.dumps(shards))
    return folder


def test_a_run_is_its_rounds_in_order_with_the_data_it_names(run, data):
    found = find(run)
    assert (found.kind, found.template, found.data) == ("run", "octahedra", data)
    assert found.fingerprint == octahedra().fingerprint
    assert found.rounds == (1, 2, 10)
    assert found.splits == ("train", "test")
    last = found.of("test", round_=10)
    assert [(file.stage, file.people) for file in last] == [("predicted", 2), ("refined", 2)]
    assert [file.round for file in found.of("train") if file.stage == "registered"] == [1, 2, 10]
    assert not any("alone" in file.path.name for file in found.files)
    assert found.notes == ()


def test_the_folder_of_a_demo_is_the_run_in_it(run):
    assert find(run.parent).path == run


def test_a_run_that_is_still_written_lists_what_is_whole(run):
    (run / "round-11").mkdir()
    (run / "round-11" / "estimates.parquet").write_bytes(b"PAR1 and then the power failed")
    parts = run / "round-12" / "estimates.parquet.parts"
    write_fits(parts / "000000.parquet")
    found = find(run)
    assert found.rounds == (1, 2, 10)
    assert found.notes == (
        "round-11/estimates.parquet is not whole and is left out",
        "round 12 is still being registered (1 blocks are finished)",
    )


def test_a_run_without_a_round_says_so_and_still_knows_its_data(run, data):
    for folder in run.glob("round-*"):
        shutil.rmtree(folder)
    found = find(run)
    assert (found.files, found.data) == ((), data)
    assert found.notes == (f"{run} has no estimates yet",)


def test_data_that_moved_with_the_run_are_found_beside_it(run, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.move(run.parent / "data", moved / "data")
    shutil.move(run, moved / "run")
    found = find(moved / "run")
    assert found.data == moved / "data"
    assert found.notes == ()


def test_other_data_beside_a_run_are_not_taken_for_its_own(run, data, tmp_path):
    shutil.move(run, tmp_path / "elsewhere" / "run")
    shutil.rmtree(data)
    other = write_people(tmp_path / "elsewhere" / "data", train=4)
    found = find(tmp_path / "elsewhere" / "run")
    assert found.data is None
    assert found.notes == (
        f"the data set {data} is not there, and {other} is another one; name it with --data",
    )


def test_other_data_at_the_recorded_place_are_not_taken_for_its_own(run, data):
    shutil.rmtree(data)
    write_people(data, train=4, test=2)
    found = find(run)
    assert found.data is None
    assert found.notes == (
        f"the data set {data} is not the one that the run began with, or cannot be read; "
        f"name its own with --data",
    )


def test_a_data_set_whose_description_is_cut_off_costs_itself_alone(run, data):
    (data / "dataset.json").write_text("{")
    found = find(run)
    assert found.data is None
    assert len(found.files) == 10


def test_missing_data_are_named(run, data):
    shutil.rmtree(data)
    found = find(run)
    assert (found.data, found.named_data) == (None, str(data))
    assert found.notes == (f"the data set {data} is not there; name where it is now with --data",)


def test_estimates_are_a_file_or_the_folder_it_is_in(tmp_path):
    path = write_fits(tmp_path / "fitted folder, 人 ü" / "estimates.parquet", 4)
    for where in (path, path.parent, str(path)):
        found = find(where)
        assert (found.kind, found.template, found.data) == ("estimates", "octahedra", None)
        (file,) = found.files
        assert (file.path, file.people, file.round, file.split) == (path, 4, 0, "")


def test_one_file_of_a_run_knows_its_split_and_the_data(run, data):
    found = find(run / "round-2" / "predictions-test.parquet")
    (file,) = found.files
    assert (file.stage, file.round, file.split, found.data) == ("predicted", 2, "test", data)


def test_a_data_set_is_itself(data):
    found = find(data)
    assert (found.kind, found.data, found.template) == ("data", data, "octahedra")


def test_templates_by_name_and_by_file(tmp_path):
    assert find("anny").kind == "template"
    path = tmp_path / "mine.safetensors"
    templates.save(octahedra(), path)
    found = find(path)
    assert (found.kind, found.template) == ("template", str(path))
    assert found.fingerprint == octahedra().fingerprint
    (tmp_path / "rig.glb").write_bytes(b"glTF")
    assert find(tmp_path / "rig.glb").kind == "template"


def test_weights_that_are_no_template_are_a_network(tmp_path):
    path = tmp_path / "network.safetensors"
    safetensors.torch.save_file({"layer": torch.zeros(2)}, path)
    assert find(path).kind == "network"


def refuse(path):
    with pytest.raises(InputError) as refused:
        find(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_is_nothing_of_ours_is_refused_with_what_can_be_given(tmp_path, data):
    assert "there is nothing at" in refuse(tmp_path / "nowhere")
    assert "is no folder of ours; give a run folder" in refuse(tmp_path)
    for name, content, reason in (
        ("empty.parquet", b"", "is empty"),
        ("half.parquet", b"PAR1 half", "is not a whole Parquet shard"),
        ("half.safetensors", b"half", "is not a whole file of weights"),
        ("notes.txt", b"hello", "is no file of ours"),
    ):
        (tmp_path / name).write_bytes(content)
        assert reason in refuse(tmp_path / name)
    shard = next((data / "observations").glob("*.parquet"))
    assert "not one of estimates" in refuse(shard)
    (tmp_path / "config.json").write_text("{}")
    assert "was not written by `run`" in refuse(tmp_path)
    assert "no dataset.json" in refuse("memory://nothing/here")


def test_estimates_that_are_not_whole_or_hold_nobody_are_refused(tmp_path):
    template = octahedra()
    truth, _, crop = plant(template, 1)
    nobody = Estimates([], truth[:0], crop[:0])
    write_estimates(tmp_path / "estimates.parquet", nobody, template)
    assert "holds nobody" in refuse(tmp_path)
    write_fits(tmp_path / "fitted" / "estimates.parquet.parts" / "000000.parquet")
    assert "are not whole yet (1 finished blocks)" in refuse(tmp_path / "fitted")
