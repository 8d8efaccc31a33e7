"""What the README and the docs print, runs."""

import os
import re
import subprocess
import sys
from functools import lru_cache
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


GUIDES = tuple(
    f"docs/{name}.md"
    for name in (
        "importing",
        "reproduce",
        "annotate",
        "rigs",
        "videos",
        "joint_sets",
        "scale",
        "performance",
    )
)


@lru_cache
def options_of(words):
    """What `--help` prints of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "deformlearn", *words, "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("page", ["README.md", *GUIDES])
def test_every_command_that_is_printed_exists_with_its_options(page):
    text = (ROOT / page).read_text().replace("\\\n", " ")
    commands = re.findall(r"^    (?:torchrun .* -m )?deformlearn (.*)$", text, re.MULTILINE)
    commands += re.findall(r"`deformlearn ([a-z][^`]*)`", text)
    assert commands or page in ("docs/joint_sets.md", "docs/videos.md", "docs/performance.md")
    for command in commands:
        words = command.split("#")[0].split()
        chosen = tuple(words[:1])
        if words[0] == "import" and len(words) > 1 and words[1] != "KIND":
            chosen = tuple(words[:2])
        elif words[0] == "body":
            chosen = ("body", "map" if "map" in words[1:2] else "show")
        if words[0] == "import" and len(chosen) == 1:
            continue  # speaks of all kinds
        printed = options_of(chosen)
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in printed, f"{word} of `deformlearn {command}`"


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize(
    "page", [*PAGES, *GUIDES, "docs/design.md", "docs/results.md", "CONTRIBUTING.md"]
)
def test_links_and_pictures_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_no_number_was_left_blank():
    assert not re.search(r"@[A-Z_]+@", (ROOT / "README.md").read_text())
