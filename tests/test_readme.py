"""What the README and the docs say in passing, holds: commands in a line of text, links, targets of make.

Their fenced blocks are run by tests/test_docs_commands.py.
"""

import contextlib
import io
import re
import shlex
from functools import lru_cache
from pathlib import Path

import pytest

from deformlearn import cli
from deformlearn.config import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
)
COMMANDS = {*cli.commands(PRESETS["laptop"]), *cli.GROUPS}


def text_of(page):
    """A page without its fenced blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@lru_cache
def help_of(*words):
    """What `--help` prints of a command."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main([*words, "--help"])
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_named_in_passing_exists_with_its_options(page):
    for command in re.findall(r"`(?:python -m )?deformlearn ([^`]+)`", text_of(page)):
        words = [word for word in shlex.split(command) if word not in ("--help", "--version")]
        if not words or words[:2] == [
            "import",
            "KIND",
        ]:  # of all kinds, each of which is shown elsewhere
            continue
        assert words[0] in COMMANDS, command
        chosen = tuple(words[:1])
        if words[0] == "import" and len(words) > 1:
            chosen = tuple(words[:2])
        elif words[0] == "body":
            chosen = ("body", "map" if "map" in words[1:2] else "show")
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in help_of(*chosen), f"{word} of `deformlearn {command}`"


def test_the_targets_that_are_printed_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page):
    here = ROOT / page
    for target in re.findall(r"\]\(([^)#\s]+)", text_of(page)):
        path = here.parent / target
        if target.startswith("http") or "generated/" in target:  # written when the site is built
            continue
        assert path.exists(), target


def test_no_number_was_left_blank():
    assert not re.search(r"@[A-Z_]+@", (ROOT / "README.md").read_text())
