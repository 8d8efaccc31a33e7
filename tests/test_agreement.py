"""What all processes must be given alike; people and fits made by two real ones (tests/team_checks.py)."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

import team_checks as script
from deformlearn.agreement import agree, differences, said
from deformlearn.distributed import ALONE, Team
from deformlearn.errors import InputError
from kill_anywhere import compare
from tiny_runs import one_thread, torchrun

# Descriptions ------------------------------------------------------------------------------------


def test_what_differs_is_named_at_any_depth():
    first = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}}
    second = {"a": 1, "b": {"c": [1, 3], "d": {"e": {}}}, "f": 0}
    assert differences(first, second) == [
        "b.c: [1, 2] became [1, 3]", "b.d.e: None became {}", "f: None became 0",
    ]  # fmt: skip
    assert differences(first, first) == []


def test_what_may_differ_is_passed_over_at_any_depth():
    assert differences({"a": {"device": 1}}, {"a": {"device": 2}}, ignored=("device",)) == []
    assert differences({"a": {"device": 1}}, {"a": {}}, ignored=("device", "a")) == []


def test_of_many_differences_the_first_are_said():
    assert said([f"a{i}: 0 became 1" for i in range(9)]).endswith("; a3: 0 became 1")


class Told(Team):
    """A process of two; process 0 was given `size: 3`."""

    def tell(self, value):
        return {"size": 3, "workers": 1}

    def gather(self, value):
        return [None, value]


def test_a_process_by_itself_and_processes_that_were_given_the_same_agree():
    agree(ALONE, {"size": 3})
    agree(Told(1, 2), {"size": 3, "workers": 2}, ignored=("workers",))


def test_a_process_that_was_given_something_else_is_refused():
    with pytest.raises(InputError, match=r"process 1 was .* process 0 \(size: 3 became 4\); give"):
        agree(Told(1, 2), {"size": 4, "workers": 1})


# Two processes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> tuple[Path, list[dict]]:
    """What two processes made, and what each of them had to say."""
    out = tmp_path_factory.mktemp("together")
    words = [*torchrun(2), script.__file__, str(out)]
    done = subprocess.run(words, capture_output=True, text=True, env=one_thread(), timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    said_by = [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]
    assert all(list(one) == list(script.CHECKS) for one in said_by)
    return out, said_by


@pytest.fixture(scope="module")
def alone(together, tmp_path_factory) -> Path:
    """The same work by this process alone, in one thread as theirs."""
    out, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        script.synth(out / "synth", ALONE)
        script.fit(together[0] / "few", out / "few", ALONE)
        script.fit(together[0] / "many", out / "many", ALONE)
    finally:
        torch.set_num_threads(threads)
    return out


def test_two_processes_share_the_shards_and_make_the_same_bytes_as_one(together, alone):
    out, said_by = together
    assert [one["synth"] for one in said_by] == [2, 1], "people that each has made"
    assert compare(alone / "synth", out / "synth") == []


def test_with_fewer_shards_than_processes_one_has_nothing_to_make(together, alone):
    out, said_by = together
    assert [one["synth, one shard"] for one in said_by] == [2, 0]
    shard = "observations/train-00000.parquet"
    assert (out / "synth, one shard" / shard).read_bytes() == (alone / "synth" / shard).read_bytes()
    assert (out / "synth, one shard" / "dataset.json").exists()


def test_with_fewer_blocks_than_processes_one_has_nothing_to_fit(together, alone):
    out, said_by = together
    assert {one["register, one block"] for one in said_by} == {script.ONE_BLOCK}
    assert compare(alone / "few", out / "register, one block") == []


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (
            "synth, other seed and size",
            "process 1 was given something else than process 0 (seed: 0 became 7; size: 32 became "
            "48); give all the same options and data",
        ),
        ("synth, impossible for one", "synthetic people need size of at least 32, got 8"),
        ("demo, other seed", "than process 0 (data.seed: 0 became 1); give"),
        ("register, other settings", "than process 0 (config.iterations: 3 became 4); give"),
        ("register, other split", "than process 0 (split: train became test; the split's shards."),
        ("register, other people", "(the split's shards.train-00000.parquet.bytes: "),
    ],
)
def test_what_one_was_given_otherwise_is_named_before_anything_is_written(together, work, reason):
    out, said_by = together
    assert reason in said_by[0][work]
    assert said_by[0][work] == said_by[1][work]
    assert not (out / work).exists()


def test_what_one_process_alone_cannot_read_ends_all(together):
    out, said_by = together
    for one in said_by:
        wanted = f"{out / 'nothing'} is not a data set: it has no dataset.json"
        assert one["run, nothing for one"].startswith(wanted)
    assert not (out / "run, nothing for one" / "config.json").exists()


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (
            "run, a damaged picture for one",
            "process 0 (unreadable images.train-0",
        ),
        (
            "run, a damaged shard for one",
            "process 0 (people: 22 became 14; unusable.train-00001.parquet: None became left out; ",
        ),
    ],
)
def test_people_whom_one_process_cannot_read_end_all_before_any_is_taken_for_another(
    together, work, reason
):
    _, said_by = together
    assert reason in said_by[0][work]
    assert said_by[0][work] == said_by[1][work]


@pytest.mark.parametrize(
    ("work", "missing"),
    [
        ("synth, elsewhere", "here/observations/test-00000.parquet"),
        ("register, elsewhere", "here/e.parquet.parts/000001.parquet"),
        ("run, elsewhere", "elsewhere/lifter.safetensors"),
    ],
)
def test_a_folder_that_is_not_shared_is_refused(together, work, missing):
    out, said_by = together
    wanted = f"{out / work / missing} is not there though a process has written it; --out must be"
    assert all(one[work].startswith(wanted) for one in said_by)


@pytest.mark.parametrize(
    ("work", "file", "undisturbed", "result"),
    [
        ("synth", "truth/test-00000.parquet", "synth", [2, 1]),
        ("register", "e.parquet.parts/000001.parquet", "many", [10, 10]),
    ],
)
def test_where_one_finds_no_space_all_stop_and_then_go_on(
    together, alone, work, file, undisturbed, result
):
    out, said_by = together
    folder = out / f"{work}, no space for one"
    for one in said_by:
        assert one[folder.name].startswith(f"cannot write {folder / file}: File too large; ")
    assert [one[f"{work}, space again"] for one in said_by] == result
    assert compare(alone / undisturbed, folder) == []
