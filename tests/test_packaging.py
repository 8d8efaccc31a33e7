"""What is installed: one version everywhere, a command that completes, wheels with the right contents.

`make package` (tests/package.py) goes on where this ends: it installs the wheel into an empty environment.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import deformlearn

ROOT = Path(__file__).parents[1]


def run(*words, **changes):
    return subprocess.run(
        [sys.executable, "-m", "deformlearn", *words],
        capture_output=True, text=True, env=os.environ | changes,
    )  # fmt: skip


def test_the_version_is_written_once_and_said_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]
    version = deformlearn.__version__
    assert run("--version").stdout == f"deformlearn {version}\n"
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert metadata.version("deformlearn").split("+")[0] == version
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == version


def test_the_module_is_the_command():
    by_module = run("--help", COLUMNS="100").stdout
    command = Path(sys.executable).with_name("deformlearn")
    if not command.exists():
        pytest.skip("deformlearn is not installed as a command here")
    by_command = subprocess.run(
        [command, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}
    ).stdout
    assert by_module == by_command
    assert "usage: deformlearn" in by_module


def test_a_reader_who_has_seen_enough_is_no_error():
    shell = f"{sys.executable} -m deformlearn demo --help | head -n 2; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "usage: deformlearn demo" in done.stdout


COMPLETER = """
source <("$0" -m deformlearn completion bash)
try() {
  COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
  $(complete -p deformlearn | sed -E 's/.*-F (\\S+) .*/\\1/')
  echo "${COMPREPLY[*]}"
}
try deformlearn regis
try deformlearn import densepose-
try deformlearn import coco --cro
try deformlearn body m
try deformlearn demo --preset ti
try deformlearn register --out photo
try deformlearn register photo
complete -p deformlearn
"""


def test_bash_completes_commands_their_commands_options_choices_and_files(tmp_path):
    (tmp_path / "photo.jpg").touch()
    done = subprocess.run(
        ["bash", "-c", COMPLETER, sys.executable], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert not done.stderr
    command, kinds, option, inner, choice, file, nothing, how = done.stdout.splitlines()
    assert command == "register"
    assert kinds.split() == ["densepose-coco", "densepose-posetrack"]
    assert option == "--crops"
    assert inner == "map"
    assert choice == "tiny"
    assert file == "photo.jpg"
    assert nothing == ""
    assert "-o default" in how, "where we have nothing to say, bash completes files"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_given_a_script_that_knows_the_commands(shell):
    done = run("completion", shell)
    assert done.returncode == 0
    assert "deformlearn" in done.stdout
    assert "densepose-posetrack" in done.stdout


def test_wheel_and_sdist_hold_the_package_and_nothing_else(tmp_path):
    pytest.importorskip("build")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "package.py", "--out", tmp_path / "dist", "--contents-only"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
