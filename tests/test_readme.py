"""What the README and the docs print, runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/data_format.md")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, tmp_path):
    (tmp_path / "photo-1.jpg").touch()
    for code in blocks(page, "python"):
        script = tmp_path / "page.py"
        script.write_text(code)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_every_command_that_is_printed_exists_with_its_options():
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    deformlearn (.*)$", text, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        words = command.split()
        done = subprocess.run(
            [sys.executable, "-m", "deformlearn", words[0], "--help"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        for word in words:
            if word.startswith("--"):
                assert word in done.stdout, f"{word} of `deformlearn {command}`"


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, "docs/design.md", "docs/results.md", "CONTRIBUTING.md"])
def test_links_and_pictures_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_no_number_was_left_blank():
    assert not re.search(r"@[A-Z_]+@", (ROOT / "README.md").read_text())
