"""Disks that are full and folders that may not be written: one clear line, and nothing is lost."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from conftest import octahedra
from deformlearn import cli
from deformlearn.cli import main
from deformlearn.data.synthetic import synthesize
from deformlearn.errors import InputError, told
from deformlearn.registering import register_split
from deformlearn.rounds import deform_and_learn
from deformlearn.rundir import RunFolder, read_config
from disks import leave, no_larger_file, small_disk, somebody_else
from kill_anywhere import compare
from team_checks import PEOPLE
from tiny_runs import TINY, write_people


@pytest.fixture(scope="module")
def root():
    """A folder that every user may look into."""
    folder = Path(tempfile.mkdtemp(prefix="disks"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def data(root) -> Path:
    return write_people(root / "data")


@pytest.fixture(scope="module")
def whole(root, data) -> Path:
    """An undisturbed run."""
    run(data, root / "whole")
    return root / "whole"


@pytest.fixture(scope="module")
def people(root) -> Path:
    """Undisturbed synthetic people."""
    synthesize(root / "people", PEOPLE, device="cpu")
    return root / "people"


def run(data: Path, out: Path) -> None:
    deform_and_learn(data, out, TINY, octahedra())


def fit(data: Path, out: Path) -> None:
    register_split(data, "train", octahedra(), out / "estimates.parquet", TINY.registration)


def make(data: Path, out: Path) -> None:
    """People who come from no data."""
    synthesize(out, PEOPLE, device="cpu")


def content(folder: Path) -> dict[str, bytes]:
    """Every file by its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


# Full disks --------------------------------------------------------------------------------------


def out_of_space(work: Callable[[], None], out: Path) -> str:
    """The file that there was no room for. Nothing is half-written, and nothing of before is lost."""
    before = content(out) if out.exists() else {}
    with pytest.raises(InputError) as refusal:
        work()
    line = re.fullmatch(
        rf"cannot write {re.escape(str(out))}/(\S+): (File too large; |No space left on device; free "
        rf"space or )choose another place(; the same command goes on .*)?",
        str(refusal.value),
    )
    assert line, str(refusal.value)
    after = content(out)
    assert not [name for name in after if name.endswith(".part")]
    for name, old in before.items():
        joined, _, part = name.partition(".parts/")
        if name.startswith("checkpoints/"):
            stage, round_ = Path(name).name.split(".")[0].split("-")
            assert has_a_state(out, stage, int(round_))
        elif name == "metrics.jsonl":
            assert after[name].startswith(old)
        elif not (part and joined in after):  # parts go when they have been joined
            assert after[name] == old
    return re.sub(r"\d{6}\.parquet", "N.parquet", line[1])


def has_a_state(out: Path, stage: str, round_: int) -> bool:
    """Whether a stage that had begun is done, or goes on from a whole checkpoint."""
    folder = RunFolder(out)
    return bool(folder.record(stage, round_) or folder.load_checkpoint(stage, round_))


def test_where_no_file_may_grow_a_run_stops_and_ends_as_an_undisturbed_one(root, data, whole):
    out, files = root / "limited", []
    for most in (0, 1000, 6000, 20_000, 1_000_000):
        with no_larger_file(most):
            files.append(out_of_space(lambda: run(data, out), out))
    assert files == [
        "versions.json", "config.json", "lifter.safetensors", "round-1/estimates.parquet",
        "checkpoints/learn-1.pt",
    ]  # fmt: skip
    run(data, out)
    assert compare(whole, out) == []


def test_on_a_full_disk_a_run_stops_and_ends_as_an_undisturbed_one(root, data, whole):
    with small_disk(root / "disk") as disk:
        out, files = disk / "run", []
        for free in (0, 4096, 10_000, 16_000, 24_000, 34_000, 1_000_000, 16_500_000, 20_000_000):
            leave(disk, free)
            files.append(out_of_space(lambda: run(data, out), out))
        leave(disk, 64 << 20)
        run(data, out)
        (disk / "ballast").unlink()
        assert compare(whole, out) == []
    assert {
        "versions.json", "config.json", "lifter.safetensors", "metrics.jsonl",
        "round-1/estimates.parquet.parts/N.parquet", "round-1/estimates.parquet",
        "checkpoints/learn-1.pt", "round-2/network.safetensors",
    } <= set(files)  # fmt: skip


def test_synthetic_people_stop_and_go_on(root, people):
    out, files = root / "fewer", []
    for most in (0, 500, (people / "truth" / "train-00000.parquet").stat().st_size):
        with no_larger_file(most):
            files.append(out_of_space(lambda: make(people, out), out))
    assert files == [
        "synthetic.json",
        "truth/train-00000.parquet",
        "observations/train-00000.parquet",
    ]
    make(people, out)
    assert compare(people, out) == []


def test_the_command_says_in_one_line_that_there_is_no_space(root, capsys):
    words = ["synth", "--out", str(root / "commanded"), "--preset", "tiny", "--device", "cpu"]
    with no_larger_file(0), pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deformlearn")]
    file = root / "commanded" / "synthetic.json"
    assert said == [f"deformlearn: cannot write {file}: File too large; choose another place"]


# Folders of others -------------------------------------------------------------------------------


WORK = {"run": run, "register": fit, "synth": make}
READ_ONLY, CLOSED = 0o755, 0o700


@pytest.fixture(scope="module")
def theirs(root, data, whole, people) -> Path:
    """A folder with a run that goes on, people of whom some are missing, and other fits."""
    folder = root / "theirs"
    folder.mkdir()
    shutil.copytree(whole, folder / "run", ignore=shutil.ignore_patterns("network.*"))
    shutil.copytree(people, folder / "synth")
    (folder / "synth" / "observations" / "train-00000.parquet").unlink()
    (folder / "run" / "metrics.jsonl").write_text("")
    (folder / "register").mkdir()
    shutil.copy(whole / "round-2" / "estimates.parquet", folder / "register")
    return folder


@pytest.mark.parametrize("mode", [READ_ONLY, CLOSED])
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("new", [True, False])
def test_a_folder_that_may_not_be_written_stays_as_it_was(theirs, data, work, mode, new):
    out, before = theirs / ("new" if new else work), content(theirs)
    with somebody_else(theirs, mode), pytest.raises(InputError) as refusal:
        WORK[work](data, out)
    assert re.match(rf"cannot write (in |to )?{out}\S*: Permission denied; ", str(refusal.value))
    assert content(theirs) == before


def test_a_checkpoint_that_may_not_be_written_leaves_the_one_before(theirs):
    folder = RunFolder(theirs / "run")
    for epoch in (1, 2):
        folder.save_checkpoint("learn", 1, {"epoch": epoch})
        with (
            somebody_else(theirs, READ_ONLY),
            pytest.raises(InputError, match=r"cannot write .*learn-1\.pt: Permission denied; "),
        ):
            folder.save_checkpoint("learn", 1, {"epoch": 3})
        assert folder.load_checkpoint("learn", 1) == {"epoch": epoch}


@pytest.mark.parametrize(
    ("look", "file"),
    [
        (lambda theirs, data: RunFolder(theirs / "run").records(), "run/metrics.jsonl"),
        (lambda theirs, data: read_config(theirs / "run"), "run/config.json"),
        (lambda theirs, data: run(theirs / "synth", data.parent / "never"), "synth/dataset.json"),
    ],
)
def test_what_may_not_be_read_is_named(theirs, data, look, file):
    wanted = rf"cannot read {theirs / file}: Permission denied; see that it can be read"
    (data.parent / "never").mkdir(exist_ok=True)
    (data.parent / "never").chmod(0o777)
    with somebody_else(theirs, CLOSED), pytest.raises(InputError, match=wanted):
        look(theirs, data)


def test_a_disk_that_became_read_only_is_one_clear_line(root, data, whole):
    with small_disk(root / "mounted") as disk:
        shutil.copytree(whole, disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for work, name in ((run, "new"), (run, "run"), (fit, "new"), (fit, "run"), (make, "new")):
            with pytest.raises(InputError, match=r"cannot write .*: Read-only file system; "):
                work(data, disk / name)


def test_what_the_system_refuses_anywhere_is_one_line_of_the_command(monkeypatch, capsys):
    def refuse(words):
        raise PermissionError(errno.EACCES, "Permission denied", "/a/file")

    monkeypatch.setattr(cli, "_run", refuse)
    with pytest.raises(SystemExit) as end:
        main(["check", "/a"])
    assert end.value.code == 2
    wanted = "deformlearn: cannot use /a/file: Permission denied; choose another place\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.parametrize(
    ("take", "said"),
    [
        (lambda: torch.empty(2**50), "you tried to allocate 4503599627370496 bytes"),
        (lambda: np.empty(2**50), "Unable to allocate 8.00 PiB for an array"),
        (lambda: pa.allocate_buffer(2**56), "malloc of size 72057594037927936 failed"),
    ],
    ids=["torch", "numpy", "pyarrow"],
)
def test_ordinary_memory_that_is_full_is_one_line_of_the_command(monkeypatch, capsys, take, said):
    monkeypatch.setattr(cli, "_run", lambda words: take())
    with pytest.raises(SystemExit) as end:
        main(["check", "/a"])
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"deformlearn: out of memory ({said}")
    assert line.endswith("end other programs, or take fewer people or images at a time\n")
    assert line.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_folder_whose_name_is_not_utf_8_is_one_line_of_the_command(tmp_path, capsys):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9t\xe9")
    write_people(Path(folder), train=2)
    for words in (["check", folder], ["register", folder, "--out", str(tmp_path / "out")]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert re.fullmatch(
            r"deformlearn: '.*udce9t.udce9' is not UTF-8; rename that file or folder",
            line,
        )


def test_an_error_of_our_own_keeps_its_traceback(monkeypatch):
    assert told(FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/file")) is None
    assert told(KeyError("joint")) is None
    assert told(RuntimeError("shape mismatch")) is None
    # A console adds advice of its own to the reason.
    printed = UnicodeEncodeError("utf-8", "a \udce9", 2, 3, "surrogates not allowed\n*** advice")
    assert told(printed) == r"'a \udce9' is not UTF-8; rename that file or folder"
    assert told(InputError("ill")) == "ill"
    full = OSError(errno.ENOSPC, "No space left on device")
    assert told(full) == "cannot go on: No space left on device; free space or choose another place"

    def fail(words):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/file")

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(FileNotFoundError):
        main(["check", "/a"])
