"""A run that is killed anywhere ends with the results of one that was not (tests/kill_anywhere.py)."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import kill_anywhere as script
from deformlearn.config import SyntheticConfig
from deformlearn.data.synthetic import synthesize


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """Six people: what a run does with them takes a second or two."""
    folder = tmp_path_factory.mktemp("people")
    synthesize(folder, SyntheticConfig(train=6, val=0, test=2, size=64, points=30))
    return folder


def miniature(people: Path) -> script.Command:
    """The whole tiny run on six people, with one step of everything."""

    def command(out: Path) -> list[str]:
        return [
            sys.executable, "-m", "deformlearn", "run", str(people), "--out", str(out),
            "--preset", "tiny", "--device", "cpu", "--workers", "1",
            "--registration.first-iterations", "2", "--registration.iterations", "3",
            "--lifter.steps", "200", "--lifter.width", "32",
            "--regressor.batch", "3", "--regressor.epochs", "2", "--regressor.head-steps", "4",
        ]  # fmt: skip

    return command


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_as_an_undisturbed_one(people, tmp_path, capsys):
    differences = script.kill_anywhere(miniature(people), tmp_path, kills=3, seed=0)
    assert differences == []
    assert "kill 3" in capsys.readouterr().out


def write(folder: Path, *, loss: float, seconds: float, weight: float) -> Path:
    folder.mkdir()
    record = {"stage": "learn", "round": 1, "seconds": seconds, "scores": {"raw": loss}}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    about = {f"name {i}": str(i) for i in range(8)}
    save_file({"weight": torch.tensor([weight])}, folder / "network.safetensors", about)
    return folder


def test_runs_that_differ_in_seconds_alone_are_equal(tmp_path):
    first = write(tmp_path / "a", loss=1.0, seconds=1.0, weight=1.0)
    second = write(tmp_path / "b", loss=1.0, seconds=2.0, weight=1.0)
    assert script.compare(first, second) == []


def test_a_metric_a_weight_and_a_file_that_differ_are_each_named(tmp_path):
    first = write(tmp_path / "a", loss=1.0, seconds=1.0, weight=1.0)
    second = write(tmp_path / "b", loss=1.0000001, seconds=1.0, weight=1.0000001)
    (second / ".metrics.jsonl.7.part").touch()
    (first / "report.html").touch()
    assert script.compare(first, second) == [
        ".metrics.jsonl.7.part is left behind",
        "metrics.jsonl differs",
        "network.safetensors differs",
        "report.html is missing",
    ]


def test_a_command_is_killed_at_its_moment_with_everything_it_started(tmp_path):
    started = tmp_path / "started"
    child = f"import time; open({str(started)!r}, 'w'); time.sleep(60); open({str(started)!r}, 'a')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert not script.run_until([sys.executable, "-c", parent], 1.5, tmp_path / "log")


def test_a_command_that_fails_by_itself_ends_the_script_with_what_it_said(tmp_path):
    with pytest.raises(SystemExit, match="no such thing"):
        script.run_until(
            [sys.executable, "-c", "raise SystemExit('no such thing')"], None, tmp_path / "log"
        )
