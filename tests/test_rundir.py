import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from deformlearn.config import RunConfig
from deformlearn.distributed import Team
from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.progress import Watch
from deformlearn.rundir import RunFolder, read_config

DATA = {"path": "data", "template": {"template": "anny", "fingerprint": "0123456789ab"}}


def _flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _no_space(descriptor):
    raise OSError(28, "No space left on device")


@pytest.fixture
def run(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.begin(RunConfig(), DATA)
        yield folder


def test_the_same_configuration_goes_on_and_another_is_refused(tmp_path):
    for config in (RunConfig(), RunConfig(), RunConfig(device="cpu", workers=7)):
        with RunFolder(tmp_path) as folder:
            folder.begin(config, DATA)
            folder.save_checkpoint("lifter", 0, {"step": 1})
    with RunFolder(tmp_path) as folder, pytest.raises(InputError, match="rounds: 3 became 5"):
        folder.begin(RunConfig(rounds=5), DATA)
    lifter = replace(RunConfig().lifter, width=7)
    with (
        RunFolder(tmp_path) as folder,
        pytest.raises(InputError, match=r"lifter.width: 1024 became 7"),
    ):
        folder.begin(RunConfig(lifter=lifter), DATA)
    with RunFolder(tmp_path) as folder, pytest.raises(InputError, match=r"data\.path"):
        folder.begin(RunConfig(), {**DATA, "path": "other"})


def test_a_run_that_has_kept_nothing_may_become_another(tmp_path):
    old, new = ({"train.parquet": {"rows": rows, "bytes": 9}} for rows in (1, 2))
    for config, shards in ((RunConfig(), old), (RunConfig(rounds=5), old), (RunConfig(), new)):
        with RunFolder(tmp_path) as folder:
            folder.begin(config, DATA, shards)
        assert read_config(tmp_path)["config"]["rounds"] == config.rounds
        assert json.loads((tmp_path / "shards.json").read_text()) == shards
    for kept in ("lifter.safetensors", "round-1/estimates.parquet.parts/000000.parquet"):
        path = tmp_path / kept
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with RunFolder(tmp_path) as folder, pytest.raises(InputError, match="another config"):
            folder.begin(RunConfig(rounds=5), DATA, new)
        with RunFolder(tmp_path) as folder, pytest.raises(InputError, match="2 rows became 1"):
            folder.begin(RunConfig(), DATA, old)
        path.unlink()


def test_the_config_of_another_program_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"theirs": 1}')
    with RunFolder(tmp_path) as folder, pytest.raises(InputError, match="give another folder"):
        folder.begin(RunConfig(), DATA)
    assert (tmp_path / "config.json").read_text() == '{"theirs": 1}'


def test_finished_stages_are_remembered_in_order(run):
    run.finish("lifter", steps=3)
    run.finish("learn", 1, scores={"raw": 1.5})
    assert [record["stage"] for record in run.records()] == ["lifter", "learn"]
    assert run.record("learn", 1)["scores"] == {"raw": 1.5}
    assert run.record("learn", 2) is None


def test_a_folder_that_is_only_looked_at_knows_its_records(run):
    run.finish("learn", 1, scores=[1.5])
    looked_at = RunFolder(run.path)
    assert looked_at.record("learn", 1) == run.record("learn", 1)
    assert looked_at.record("learn", 1)["scores"] == [1.5]
    assert looked_at.record("learn", 2) is None


def test_a_checkpoint_lives_until_its_stage_is_finished(run):
    state = {"weights": torch.arange(3.0), "epoch": 2, "losses": [{"a": 1.0}]}
    run.save_checkpoint("learn", 1, state)
    back = run.load_checkpoint("learn", 1)
    assert torch.equal(back["weights"], state["weights"])
    assert back["losses"] == state["losses"]
    run.finish("learn", 1)
    assert run.load_checkpoint("learn", 1) is None


@pytest.mark.parametrize("damage", [lambda content: content[:-30], lambda content: b"", _flipped])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path, damage, monkeypatch):
    said = io.StringIO()
    with RunFolder(tmp_path, watch=Watch(console=Console(file=said, width=400))) as run:
        for epoch in (1, 2):
            run.save_checkpoint("learn", 1, {"epoch": epoch})
        now = tmp_path / "checkpoints" / "learn-1.pt"
        now.write_bytes(damage(now.read_bytes()))
        assert run.load_checkpoint("learn", 1) == {"epoch": 1}
        assert f"{now} was damaged" in said.getvalue()
        # What is written next does not push the good one out before it is whole.
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", _no_space)
            with pytest.raises(InputError, match="No space left"):
                run.save_checkpoint("learn", 1, {"epoch": 2})
        assert run.load_checkpoint("learn", 1) == {"epoch": 1}
        before = tmp_path / "checkpoints" / "learn-1.before.pt"
        before.write_bytes(b"x")
        assert run.load_checkpoint("learn", 1) is None, "the stage begins again"
        run.save_checkpoint("learn", 1, {"epoch": 3})
        assert run.load_checkpoint("learn", 1) == {"epoch": 3}
        run.finish("learn", 1)
    assert list(now.parent.iterdir()) == []


def test_a_checkpoint_that_cannot_be_read_is_kept_and_nothing_begins_anew(run, monkeypatch):
    run.save_checkpoint("learn", 1, {"epoch": 1})

    def unreadable(path):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as denied:
        denied.setattr(Path, "read_bytes", unreadable)
        with pytest.raises(InputError, match=r"cannot read .*learn-1\.pt: Permission denied"):
            run.load_checkpoint("learn", 1)
    assert run.load_checkpoint("learn", 1) == {"epoch": 1}


def test_a_run_killed_when_a_stage_was_done_keeps_no_checkpoint_of_it(tmp_path):
    with RunFolder(tmp_path) as run:
        run.save_checkpoint("learn", 1, {"epoch": 1})
        kept = (tmp_path / "checkpoints" / "learn-1.pt").read_bytes()
        run.finish("learn", 1)
        run.save_checkpoint("learn", 2, {"epoch": 1})
    for name in ("learn-1.pt", "learn-1.before.pt"):
        (tmp_path / "checkpoints" / name).write_bytes(kept)
    with RunFolder(tmp_path) as run:
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["learn-2.pt"]
        assert run.load_checkpoint("learn", 2) == {"epoch": 1}


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(run, monkeypatch):
    run.save_checkpoint("learn", 1, {"epoch": 1})
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", _no_space)
        for _ in range(2):
            with pytest.raises(InputError, match="No space left on device"):
                run.save_checkpoint("learn", 1, {"epoch": 2})
    assert run.load_checkpoint("learn", 1) == {"epoch": 1}


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    inside = tmp_path / "round-1" / ".network.safetensors.77.part"
    inside.parent.mkdir()
    inside.touch()
    kept = tmp_path / "round-1" / "network.safetensors"
    kept.touch()
    with RunFolder(tmp_path):
        assert not inside.exists()
        assert kept.exists()


SHARDS = {"observations/train-00000.parquet": {"bytes": 9, "rows": 4, "footer": 1}}


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({}, r"observations/train-00000.parquet \(4 rows\) has gone since"),
        (
            {"observations/train-00000.parquet": {"bytes": 8, "rows": 3, "footer": 1}},
            "was changed .4 rows became 3, 9 bytes became 8. since",
        ),
        (SHARDS | {"truth/train-00000.parquet": {}}, "truth/train-00000.parquet was added since"),
    ],
)
def test_shards_that_change_during_a_run_are_refused(tmp_path, now, message):
    with RunFolder(tmp_path) as folder:
        folder.begin(RunConfig(), DATA, SHARDS)
        folder.check_shards(SHARDS)
        with pytest.raises(InputError, match=message):
            folder.check_shards(now)
        folder.save_checkpoint("lifter", 0, {"step": 1})
    with RunFolder(tmp_path) as folder, pytest.raises(InputError, match=message):
        folder.begin(RunConfig(), DATA, now)


class Pretended(Team):
    """One of two processes; the other has data of joints "a", and no complaint."""

    def gather(self, value):
        return [value, None] if self.leads else [None, value]

    def tell(self, value):
        told = isinstance(value, dict) and "data" in value and not self.leads
        return {**value, "data": {"path": "elsewhere", "joints": "a"}} if told else value


def test_processes_must_be_given_the_same_but_may_have_copies_of_the_data(tmp_path):
    with RunFolder(tmp_path, team=Pretended(1, 2)) as run:
        run.begin(RunConfig(), {"path": "here", "joints": "a"})
        with pytest.raises(InputError, match=r"process 1 was given .* .data.joints: a became b.;"):
            run.begin(RunConfig(), {"path": "here", "joints": "b"})


def test_only_the_first_process_writes(tmp_path):
    with RunFolder(tmp_path / "run", team=Pretended(1, 2)) as run:
        run.begin(RunConfig(), {"path": "here", "joints": "a"})
        run.save_checkpoint("learn", 1, {"epoch": 1})
        run.finish("lifter", steps=1)
        assert run.record("lifter") == {"stage": "lifter", "round": 0, "steps": 1}
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_share_a_folder(run):
    with pytest.raises(InputError, match="another process"), RunFolder(run.path):
        pass


def test_versions_and_configuration_are_kept(run):
    assert read_config(run.path)["config"]["rounds"] == 3
    assert "torch" in json.loads((run.path / "versions.json").read_text())


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        read_config(tmp_path)
    for damaged in ("{", "[]", "null", '"run"'):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(InputError, match="cannot read"):
            read_config(tmp_path)


@pytest.mark.parametrize(
    ("data", "config"),
    [
        (None, {"rounds": 3}),
        ([], {"rounds": 3}),
        ({**DATA, "path": 3}, {"rounds": 3}),
        ({**DATA, "template": "anny"}, {"rounds": 3}),
        ({**DATA, "template": {"template": "anny"}}, {"rounds": 3}),
        (DATA, None),
        (DATA, {}),
        (DATA, {"rounds": "three"}),
    ],
)
def test_a_configuration_that_no_run_wrote_is_refused(tmp_path, data, config):
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "data": data}))
    with pytest.raises(InputError, match=r"its config\.json was not written by `run`"):
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


@pytest.mark.parametrize(
    "line", ["{", "[1]", '"words"', '{"stage": "learn"}', '{"stage": 3, "round": 1}']
)
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    good = '{"stage": "lifter", "round": 0}'
    (tmp_path / "metrics.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(InputError, match=r"line 2 is no record of a stage; delete that line"):
        RunFolder(tmp_path).records()
