import json
import os
from dataclasses import replace

import pytest
import torch

from deformlearn.config import RunConfig
from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.rundir import RunFolder, read_config


@pytest.fixture
def run(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.begin(RunConfig(), {"path": "data"})
        yield folder


def test_the_same_configuration_goes_on_and_another_is_refused(tmp_path):
    for config in (RunConfig(), RunConfig(), RunConfig(device="cpu", workers=7)):
        with RunFolder(tmp_path) as folder:
            folder.begin(config, {"path": "data"})
    with RunFolder(tmp_path) as folder, pytest.raises(InputError, match="rounds: 3 became 5"):
        folder.begin(RunConfig(rounds=5), {"path": "data"})
    lifter = replace(RunConfig().lifter, width=7)
    with (
        RunFolder(tmp_path) as folder,
        pytest.raises(InputError, match=r"lifter.width: 1024 became 7"),
    ):
        folder.begin(RunConfig(lifter=lifter), {"path": "data"})
    with RunFolder(tmp_path) as folder, pytest.raises(InputError, match=r"data\.path"):
        folder.begin(RunConfig(), {"path": "other"})


def test_finished_stages_are_remembered_in_order(run):
    run.finish("lifter", steps=3)
    run.finish("learn", 1, scores={"raw": 1.5})
    assert [record["stage"] for record in run.records()] == ["lifter", "learn"]
    assert run.record("learn", 1)["scores"] == {"raw": 1.5}
    assert run.record("learn", 2) is None


def test_a_checkpoint_lives_until_its_stage_is_finished(run):
    state = {"weights": torch.arange(3.0), "epoch": 2, "losses": [{"a": 1.0}]}
    run.save_checkpoint("learn", 1, state)
    back = run.load_checkpoint("learn", 1)
    assert torch.equal(back["weights"], state["weights"])
    assert back["losses"] == state["losses"]
    run.finish("learn", 1)
    assert run.load_checkpoint("learn", 1) is None


def test_two_processes_do_not_share_a_folder(run):
    with pytest.raises(InputError, match="another process"), RunFolder(run.path):
        pass


def test_versions_and_configuration_are_kept(run):
    assert read_config(run.path)["config"]["rounds"] == 3
    assert "torch" in json.loads((run.path / "versions.json").read_text())


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot read"):
        read_config(tmp_path)


def test_a_damaged_metrics_file_is_named(run):
    (run.path / "metrics.jsonl").write_text('{"stage": "a"}\n{"sta')
    with pytest.raises(InputError, match="is damaged"):
        run.records()


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file"
    write_atomically(path, b"old")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [child.name for child in path.parent.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        write_atomically(tmp_path / "file" / "inside", b"x")
    with pytest.raises(InputError, match="cannot write in"), RunFolder(tmp_path / "file" / "run"):
        pass
