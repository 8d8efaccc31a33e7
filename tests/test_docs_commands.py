"""Every command and every piece of Python that a page shows is run, in the order in which it stands there.

A page is a session in a folder of its own, with the small files of docs_world.py under the names that the
pages use. `deformlearn ...` runs in this process as printed; only the presets' numbers are small
(docs_world.small_presets). What cannot run as printed stands in STAND_INS or APPENDED, what cannot run
at all in NOT_RUN, each with its reason; what neither runs nor stands there fails the test.

Fences: `bash` and `python` are run, `sh` and `yaml` (for other machines) are parsed, `text` is no code.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

import docs_world
from deformlearn import cli
from deformlearn.config import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]
)

ELSEWHERE = {
    "docs/reproduce.md": "from end to end in tests/test_reproduce.py, on a miniature Human3.6M",
}
"""Pages whose commands another test runs."""

SHARED = "deformlearn demo --out runs/demo"
"""What made the run that all pages share; it is not made again."""

STAND_INS = {
    r"torchrun .*? -m deformlearn ": (
        "deformlearn ",
        "by one process; teams of processes are tested in tests/test_distributed.py",
    ),
    r"make demo.*": (SHARED, "what the Makefile runs after its set-up"),
    r"deformlearn body map anny \S+ ": (
        "deformlearn body map anny anny ",
        "a map takes 20 s; tests/test_surfaces.py makes them, and `register --template` makes one here",
    ),
}
"""What is run instead of what matches, and why it may be."""

APPENDED = {
    r"deformlearn import ": (
        "--workers 1",
        "to start two processes takes 3 s each time; tests/test_importing.py has two",
    ),
    r"deformlearn (annotate|view) (?!.*--(html|screenshot))": (
        "--no-browser",
        "it would open the browser of whoever runs the tests",
    ),
}
"""Options that are added to what is printed, and why."""

NOT_RUN = {
    r"python3? -m venv .*|source \.venv/bin/activate|pip install \.": (
        "tests/package.py installs into an empty environment and tries it there"
    ),
    r"make test": "this is what `make test` does",
    r"make (check|format|docs|docs-serve|package|bench|kill)\b.*": (
        "targets of the Makefile, whose programs have tests of their own or are run by .ci/run"
    ),
    r"python benchmarks/.*|benchmarks/gpu\.sh": ".ci/run runs every benchmark, small",
    r"blender .*": "Blender is not on every machine",
}
"""Commands that are not run here, and where else they are, or why nowhere."""

GIVEN = {
    "DATA": "runs/demo/data", "my_people": "runs/demo/data",
    "MOVED/DATA": "runs/demo/data", "RUN": "runs/demo/run", "my_run": "runs/demo/run",
    "FIRST": "runs/demo/run", "SECOND": "runs/demo/run",
    "lifter.safetensors": "runs/demo/run/lifter.safetensors",
}  # fmt: skip
"""Names that pages use for what the reader has made before, and what stands for them."""


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    before: str
    """The last line of text before it."""


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        above = text[: match.start()].strip().splitlines()
        found.append(Block(match[1], match[2], above[-1] if above else ""))
    return found


def commands_of(code: str) -> list[str]:
    """The commands of a block: one a line, comments taken off."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines) if line]


@pytest.fixture(scope="module", autouse=True)
def small():
    """The presets of this process, small."""
    presets, groups = dict(PRESETS), dict(cli.GROUPS)
    PRESETS.update(docs_world.small_presets())
    # tyro does not see through the shape checker's wrapping of functions whose annotations are made at run
    # time, so this module is read once more, plain.
    plain = importlib.util.spec_from_file_location("plain_cli_import", cli.cli_import.__file__)
    module = importlib.util.module_from_spec(plain)
    sys.modules[plain.name] = module  # where its dataclasses look for their types
    plain.loader.exec_module(module)
    cli.GROUPS["import"] = (module.commands, groups["import"][1])
    yield
    PRESETS.update(presets)
    cli.GROUPS.update(groups)
    del sys.modules[plain.name]


@pytest.fixture(scope="module")
def world(anny, tmp_path_factory, small) -> Path:
    """Everything that pages take for granted, and the one run that they share."""
    folder = tmp_path_factory.mktemp("world")
    docs_world.make(folder, anny)
    with contextlib.chdir(folder):
        cli.main(SHARED.split()[1:])
    (folder / "MOVED").mkdir()
    for name, target in GIVEN.items():
        copy = shutil.copytree if (folder / target).is_dir() else shutil.copy
        copy(folder / target, folder / name)
    return folder


def session(world: Path, page: str, folder: Path) -> None:
    """The page's own folder: copies of the world's files, but for those that its commands make."""
    made = set()
    for block in blocks(page):
        made |= set(re.findall(r"--(?:out|save|html)[ =](\S+?)/?(?:\s|$)", block.code))
    for path in world.iterdir():
        if path.name == "runs":  # a run knows where its data are
            (folder / path.name).symlink_to(path)
        elif path.name not in made:
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, folder / path.name)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_everything_that_a_page_shows_runs(page, world, tmp_path, monkeypatch, capsys):
    shown = [one for one in blocks(page) if one.language in ("bash", "python", "json")]
    if not shown:
        pytest.skip("a page without commands")
    session(world, page, tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in shown:
        if block.language == "python":
            exec(compile(block.code, page, "exec"), {"__name__": "__main__"})
        elif block.language == "json":
            content = json.loads(block.code)
            if named := re.search(r"file `(\S+\.json)`", block.before):
                Path(named[1]).write_text(json.dumps(content))
        else:
            for command in commands_of(block.code):
                capsys.readouterr()
                try:
                    do(command, world)
                except SystemExit as error:
                    said = capsys.readouterr()
                    pytest.fail(f"{command!r} ended with {error.code}:\n{said.out}\n{said.err}")


def do(command: str, world: Path) -> None:
    """Run one command as its reader would."""
    if any(re.fullmatch(pattern, command) for pattern in NOT_RUN):
        return
    for pattern, (instead, _) in STAND_INS.items():
        command = re.sub(f"^{pattern}", instead, command)
    if command == SHARED:
        return
    words = shlex.split(command)
    words += [
        word
        for pattern, (more, _) in APPENDED.items()
        if re.match(pattern, command)
        for word in more.split()
        if more.split()[0] not in words
    ]
    if words[0] != "deformlearn" or {">", "|"} & set(words):
        in_a_shell(command)
    elif words[1] == "annotate" or (
        words[1] == "view" and not {"--html", "--screenshot"} & set(words)
    ):
        served(words[1:], world)
    else:
        cli.main(words[1:])


def in_a_shell(command: str) -> None:
    folder = Path(sys.executable).parent
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    # Pages that write to the reader's own files must not write to those of whoever runs the tests.
    home = os.environ | {"PATH": path, "HOME": os.getcwd()}
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, env=home)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def served(words: list[str], world: Path) -> None:
    """Start a page, ask for it once, and stop it as Ctrl-C does."""
    words = [*words, *(() if "--port" in words else ("--port", "0"))]  # a port that is free
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "deformlearn", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )  # fmt: skip
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(iter(process.stdout.readline, "")))
    reader.start()
    try:
        end = time.monotonic() + 60
        while not (found := re.search(r"http://[\w.:-]+/\S*|http://[\w.:-]+", "".join(said))):
            assert process.poll() is None, "".join(said)
            assert time.monotonic() < end, "".join(said)
            time.sleep(0.05)
        with urllib.request.urlopen(found[0], timeout=30) as answer:
            assert b"<html" in answer.read().lower()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()  # nothing, if it has stopped
            reader.join()
            process.stdout.close()
    if words[0] == "annotate":  # what somebody would have clicked by now
        out = Path(words[words.index("--out") + 1])
        shutil.rmtree(out)
        shutil.copytree(world / "runs" / "demo" / "data", out)


# ------------------------------------------------------------------ what is not run is at least sound


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_says_what_it_holds(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in blocks(page):
        assert block.language in ("bash", "sh", "python", "json", "yaml", "text"), block.code
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    # An indented block would be code that no test sees.
    assert not re.search(r"^    (?:deformlearn|python|torchrun|make|pip) ", outside, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_scripts_for_other_machines_are_sound(page):
    yaml = pytest.importorskip("yaml")
    for block in blocks(page):
        if block.language == "yaml":
            assert list(yaml.safe_load_all(block.code))
        if block.language in ("sh", "bash"):
            done = subprocess.run(
                ["bash", "-n"], input=block.code, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ELSEWHERE)
def test_what_another_test_runs_is_what_the_page_shows(page):
    source = (ROOT / re.search(r"tests/\w+\.py", ELSEWHERE[page])[0]).read_text()
    run_here = {
        tuple(shlex.split(command)[:2])
        for other in PAGES
        if other not in ELSEWHERE
        for command in shown_on(other)
    }
    for command in shown_on(page):
        words = shlex.split(command)
        if words[0] == "deformlearn" and tuple(words[:2]) not in run_here - {
            ("deformlearn", "import")
        }:
            assert f'"{words[1]}", "{words[2]}"' in source, command


def shown_on(page: str) -> list[str]:
    """The commands of a page."""
    return [
        command
        for block in blocks(page)
        if block.language == "bash"
        for command in commands_of(block.code)
    ]


def test_every_reason_for_not_running_is_still_needed():
    shown = [command for page in PAGES for command in shown_on(page)]
    for pattern in (*NOT_RUN, *STAND_INS, *APPENDED):
        assert any(re.match(pattern, command) for command in shown), f"no page shows {pattern}"
