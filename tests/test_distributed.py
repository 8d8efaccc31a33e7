"""Runs by two processes: torchrun and gloo, as a user would start them."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from conftest import octahedra
from deformlearn import cli, distributed
from deformlearn.distributed import ALONE, Team, by_blocks, together
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.templates import save
from kill_anywhere import compare
from tiny_runs import command, mark_of_death, one_thread, run, torchrun, write_people

# Lone processes ----------------------------------------------------------------------------------


def test_a_process_by_itself_is_a_team_of_one_that_never_waits():
    ALONE.wait()
    assert ALONE.leads
    assert list(ALONE.share(3)) == [0, 1, 2]
    assert ALONE.gather("a") == ["a"]
    assert ALONE.tell("b") == "b"
    with pytest.raises(InputError, match="ill"), ALONE.refuse_together():
        raise InputError("ill")


def test_every_item_is_one_process_s():
    shares = [Team(rank, 3).share(8) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(8))


def test_without_torchrun_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with together("cpu") as team:
        assert team is ALONE


def test_a_rank_that_no_torchrun_has_set_is_one_line(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with (
        pytest.raises(InputError, match=r"RANK is set, .*WORLD_SIZE.*; start with torchrun, or"),
        together("cpu"),
    ):
        raise AssertionError("nobody is there")


def test_what_the_system_refuses_is_told_and_an_error_of_our_own_is_not(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(InputError, match=r"cannot use /a/file: Permission denied; "),
        together("cpu"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "/a/file")
    with pytest.raises(KeyError), together("cpu"):
        raise KeyError("joint")


@pytest.mark.parametrize(("people", "size"), [(1, 4), (8, 4), (11, 4), (3, 1)])
@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_blocks_come_back_in_order_whoever_did_them(template, people, size, processes):
    """Every process in turn, with what the others gathered: the rows are those of one process."""
    rest = Estimate.rest(template, people)
    marked = rest.map(
        lambda x: torch.arange(people, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1)) + x
    )
    done: list = []

    class Pretended(Team):
        def gather(self, value):
            done.append(value)
            return done if len(done) == processes else [*done, *[None] * (processes - len(done))]

    for rank in range(processes):
        blocks = []

        def work(rows, blocks=blocks):
            blocks.append(rows)
            return marked[rows]

        if rank < processes - 1:
            # Only the last process sees everything; the others cannot put it together.
            with contextlib.suppress(RuntimeError, IndexError, ValueError):
                by_blocks(Pretended(rank, processes), people, size, work)
        else:
            found = by_blocks(Pretended(rank, processes), people, size, work)
    for one, other in zip(found.tensors(), marked.tensors(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "here", "problem"),
    [("cuda", 3, "3 processes on one machine need as many GPUs, and this PyTorch sees 2"),
     ("cuda:1", 2, "'cuda:1' is one GPU for 2 processes"),
     ("cuda", 2, ""), ("auto", 2, ""), ("cuda:1", 1, ""), ("cpu", 9, "")],
)  # fmt: skip
def test_every_process_has_a_gpu_of_its_own(monkeypatch, name, here, problem):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    backend, found = distributed._backend(name)
    assert backend == ("gloo" if name == "cpu" else "cpu:gloo,cuda:nccl")
    assert (
        found.startswith(problem) if problem and not problem.startswith("'") else problem in found
    )
    assert bool(found) == bool(problem)


# Two processes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def alone(people, tmp_path_factory) -> Path:
    """A run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    done = run(people, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def both(people, tmp_path_factory) -> Path:
    """The same by two processes."""
    out = tmp_path_factory.mktemp("both") / "run"
    done = run(people, out, processes=2)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert sum("round 1: registration" in line for line in lines) == 1, "only one tells"
    return out


def records(out: Path) -> dict:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return {(one["stage"], one["round"]): one for one in map(json.loads, lines)}


def test_two_processes_register_exactly_as_one_does(alone, both):
    for name in ("lifter.safetensors", "round-1/estimates.parquet", "config.json", "shards.json"):
        if name.endswith(".safetensors"):
            one, two = (load_file(out / name) for out in (alone, both))
            assert all(torch.equal(one[key], two[key]) for key in one)
        else:
            assert (alone / name).read_bytes() == (both / name).read_bytes(), name
    for stage in (("references", 0), ("register", 1)):
        one, two = (records(out)[stage] for out in (alone, both))
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_two_processes_learn_nearly_as_one_does(alone, both):
    """Each normalises its own half of a batch (docs/scale.md): the losses agree to a tenth."""
    one, two = (records(out) for out in (alone, both))
    assert one.keys() == two.keys()
    for round_ in (1, 2):
        mine, theirs = (found["learn", round_] for found in (one, two))
        for a, b in zip(mine["losses"], theirs["losses"], strict=True):
            assert b["heatmap"] == pytest.approx(a["heatmap"], rel=0.1)
            assert b["joints"] == pytest.approx(a["joints"], rel=0.1)
        assert theirs["scores"]["raw"] == pytest.approx(mine["scores"]["raw"], rel=0.25)


def evaluate(run_folder: Path, *words: str) -> list[str]:
    """The words of `deformlearn evaluate`."""
    body = run_folder.parent / "octahedra.safetensors"
    save(octahedra(), body)
    return ["evaluate", str(run_folder), "--template", str(body), *words, "--device", "cpu"]


def by_two(words: list[str]) -> subprocess.CompletedProcess[str]:
    """A command as a shell would start it, by two processes."""
    line = [*torchrun(2), "-m", "deformlearn", *words]
    return subprocess.run(line, capture_output=True, text=True, env=one_thread())


def test_two_processes_score_by_a_protocol_as_one_does(alone, tmp_path, capsys):
    """Blocks of 256 people: three for one process, or two and one for two."""
    data = write_people(tmp_path / "data", train=0, test=600, shard=100)
    words = evaluate(alone, "--protocol", "mpi-inf-3dhp", "--data", str(data))
    both = by_two(words)
    assert both.returncode == 0, both.stderr
    cli.main(words)
    card = capsys.readouterr().out
    assert "all cameras, every frame: 600 people" in card
    assert both.stdout == card


def test_people_without_a_readable_image_are_told_and_left_out_of_a_protocol(
    alone, tmp_path, capsys
):
    data = write_people(tmp_path / "data", train=0, test=5)
    (shard,) = (data / "observations").glob("test-*.parquet")
    table = pq.read_table(shard)
    column = table.schema.get_field_index("image")

    def spoil(rows: list[int]) -> None:
        stored = table["image"].to_pylist()
        broken = [b"no image" if row in rows else image for row, image in enumerate(stored)]
        field = table.schema.field(column)
        pq.write_table(table.set_column(column, field, [pa.array(broken, field.type)]), shard)

    words = evaluate(alone, "--protocol", "mpi-inf-3dhp", "--data", str(data))
    spoil([1])
    cli.main(words)
    said = capsys.readouterr()
    assert "every frame: 4 people" in said.out
    assert "left out: test-001: the image cannot be decoded" in said.err
    spoil([0, 1, 2, 3, 4])
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "has no readable image to score: test-000" in capsys.readouterr().err


def test_of_two_processes_one_prints_what_a_run_has_measured(alone):
    both = by_two(evaluate(alone))
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("lifter alone") == 1


def test_two_processes_refuse_to_score_what_one_refuses(alone, tmp_path):
    data = write_people(tmp_path / "data", train=0, test=3)
    shutil.rmtree(data / "truth")
    done = by_two(evaluate(alone, "--protocol", "3dpw", "--data", str(data)))
    assert done.returncode != 0
    assert done.stderr.count("has no 3D truth for the split 'test'") == 1


def test_what_one_process_does_alone_is_not_started_by_two(tmp_path):
    done = by_two(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")])
    assert done.returncode != 0
    assert done.stderr.count("report is the work of one process: start it without torchrun") == 1
    assert not any(tmp_path.iterdir())


def test_what_one_process_began_two_go_on_with(people, alone, tmp_path):
    """From the same predictions, the second round's fits and the refinement are the same to the bit."""
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["stage"] != "refine"]
    kept = [line for line in kept if '"stage": "register", "round": 2' not in line]
    assert len(kept) == len(lines) - 2
    (out / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    for name in (
        "round-2/estimates.parquet",
        "round-2/alone.parquet",
        "round-2/refined-test.parquet",
    ):
        (out / name).unlink()
    (out / ".estimates.parquet.123.part").touch()
    done = run(people, out, processes=2)
    assert done.returncode == 0, done.stderr
    differing = [line for line in compare(alone, out) if "metrics" not in line]
    assert differing == []
    for stage in (("register", 2), ("refine", 2)):
        one, two = (records(folder)[stage] for folder in (alone, out))
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_whoever_is_killed_the_run_ends_the_same(people, both, tmp_path):
    """A process: torchrun starts all again. Torchrun itself: its processes end, the command goes on."""
    out = tmp_path / "run"
    log = tmp_path / "log"
    # By themselves, so that it is there and nowhere else: one in the midst of its blocks, with those of
    # the other beside them, and the one that writes, after a checkpoint that is not the last.
    moments = ("round-1/estimates.parquet.parts/000001.parquet", "checkpoints/learn-1.pt")
    with open(log, "w") as file:
        words = command(
            people, out, f"1:kill={moments[0]}", f"0:kill={moments[1]}", processes=2, restarts=3
        )
        launcher = subprocess.Popen(words, stdout=file, stderr=file, env=one_thread())
        try:
            for moment in moments:
                wait_for(mark_of_death(out, moment), launcher)
            wait_for(out / "checkpoints" / "learn-2.pt", launcher)
            os.kill(process_of(launcher.pid, 1), signal.SIGKILL)
            wait_for(out / "round-2" / "network.safetensors", launcher)
        finally:
            launcher.kill()
            launcher.wait()
        again = subprocess.run(words, stdout=file, stderr=file, env=one_thread())
    assert again.returncode == 0, log.read_text()
    assert compare(both, out) == []


def wait_for(path: Path, launcher: subprocess.Popen) -> None:
    end = time.monotonic() + 100
    while not path.exists():
        assert launcher.poll() is None, "it ended too soon"
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.01)


def process_of(launcher: int, rank: int) -> int:
    """The process of a rank that a launcher started."""
    for folder in Path("/proc").iterdir():
        try:
            status = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            words = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if int(status[1]) == launcher and f"RANK={rank}".encode() in words:
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


# Refusals ----------------------------------------------------------------------------------------


def refusal(*words, **options) -> str:
    """The one line that two processes end with."""
    done = run(*words, processes=2, **options)
    assert done.returncode != 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("refused by")]
    assert len(lines) == 1, done.stdout + done.stderr
    assert lines[0].startswith("refused by 0: "), "rank 0 alone speaks"
    return lines[0]


def test_processes_with_other_options_and_data_are_refused_with_what_differs(people, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(people, other)
    shards = other / "observations"
    shutil.copy(shards / "test-00000.parquet", shards / "train-00002.parquet")
    line = refusal(people, tmp_path / "run", f"1:data={other}", "1:rounds=5")
    assert "process 1 was given something else than process 0 (config.rounds: 2 became 5; " in line
    assert "shards.observations/train-00002.parquet.bytes: " in line
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_disk_that_is_full_for_the_one_that_writes_ends_all(people, tmp_path):
    """In the midst of learning, when the others wait for its gradients."""
    line = refusal(people, tmp_path / "run", "0:most=1000000")
    file = tmp_path / "run" / "checkpoints" / "learn-1.pt"
    assert line == f"refused by 0: cannot write {file}: File too large; choose another place"


def test_where_nobody_can_leave_before_all_do_the_one_that_fails_says_why_and_ends(
    people, tmp_path
):
    """As by NCCL: the other process waits in its kernels, and could never be woken to say it."""
    done = run(people, tmp_path / "run", "nccl=1", "0:most=1000000", processes=2, patience=60)
    assert done.returncode != 0
    file = tmp_path / "run" / "checkpoints" / "learn-1.pt"
    lines = [line for line in done.stderr.splitlines() if line.startswith("deformlearn: ")]
    assert lines == [f"deformlearn: cannot write {file}: File too large; choose another place"]


def test_the_command_says_once_that_a_gpu_is_missing(tmp_path):
    """As a user starts it; every process refuses, rank 0 says why, and nothing is begun."""
    if torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    words = [*command(tmp_path, tmp_path, processes=2)[:-3], "-m", "deformlearn", "run"]
    done = subprocess.run(
        [*words, tmp_path, "--out", tmp_path / "run", "--device", "cuda"],
        capture_output=True, text=True, env=one_thread(),
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("deformlearn: ")]
    assert lines == [
        "deformlearn: 2 processes on one machine need as many GPUs, and this PyTorch sees 0; "
        "start fewer (--nproc-per-node), or give --device cpu"
    ]
    assert "exitcode  : 2 " in done.stderr
    assert not (tmp_path / "run").exists()
