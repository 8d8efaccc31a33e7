"""The tables and comparisons of the benchmarks. Nothing is timed here; CI sees that every workload runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import accuracy  # noqa: E402 (found by the line above)
import experiment  # noqa: E402
import gather  # noqa: E402
import learning_speed  # noqa: E402
import machine  # noqa: E402
import peer_fit  # noqa: E402
import peers_skinning  # noqa: E402
import people_speed  # noqa: E402
import planted  # noqa: E402
import registration_speed  # noqa: E402
import roofline  # noqa: E402
import run  # noqa: E402
from deformlearn import compiling, runtime, templates  # noqa: E402
from deformlearn.data.estimates import read_estimates  # noqa: E402
from deformlearn.data.shards import read_images, read_people  # noqa: E402
from deformlearn.data.truth import read_truth  # noqa: E402
from deformlearn.errors import InputError  # noqa: E402
from machine import Bench, peak_megabytes  # noqa: E402
from table import Baseline, Measured, cells, markdown_table, regressions, text_table  # noqa: E402


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(torch.device("cpu"), "miniature", tmp_path)


@pytest.fixture
def pretended(bench, monkeypatch) -> Bench:
    """A CPU that the benchmarks take for a GPU."""
    monkeypatch.setattr(Bench, "gpu", True)
    monkeypatch.setattr(Bench, "wait", lambda self: None)
    return bench


def speed(value: float, **options) -> Measured:
    return Measured("speed", value, "people/s", **options)


def write_config(run_folder: Path, rounds: int) -> None:
    """What says that a folder is a run's."""
    about = {"path": "data", "template": {"template": "any", "fingerprint": "f"}}
    config = json.dumps({"config": {"rounds": rounds}, "data": about})
    (run_folder / "config.json").write_text(config)


def error(value: float, **options) -> Measured:
    return Measured("error", value, "mm", "lower", **options)


def test_a_higher_speed_is_better_and_so_is_a_lower_error():
    assert speed(20.0, peer=5.0).times_peer == 4
    assert error(20.0, peer=80.0).times_peer == 4
    assert speed(20.0, goal=10.0).met
    assert not error(20.0, goal=10.0).met
    assert speed(1.0).met is None
    assert speed(1.0).times_peer is None


def test_only_what_is_worse_than_accepted_by_more_than_its_tolerance_is_a_regression():
    accepted = {"speed": 100.0, "error": 100.0}
    assert regressions([speed(86.0), error(114.0)], accepted) == []
    assert regressions([speed(1000.0), error(1.0)], accepted) == []
    found = regressions([speed(84.0), error(116.0)], accepted)
    assert found == [
        "speed: 84 people/s, accepted 100 (-16%, tolerance 15%)",
        "error: 116 mm, accepted 100 (-16%, tolerance 15%)",
    ]
    assert regressions([speed(1.0)], {}) == []


def test_a_baseline_changes_only_when_it_is_told_to_and_only_what_was_measured(tmp_path):
    path = tmp_path / "baseline.json"
    baseline = Baseline(path)
    assert baseline.of("laptop") == {}
    assert not path.exists()
    baseline.accept("laptop", [speed(10.0), error(5.0)])
    baseline.accept("server", [speed(99.0)])
    Baseline(path).accept("laptop", [speed(11.0)])
    assert Baseline(path).of("laptop") == {"speed": 11.0, "error": 5.0}
    assert Baseline(path).of("server") == {"speed": 99.0}


def test_a_row_says_what_was_measured_what_was_accepted_and_what_it_means():
    row = cells(speed(80.0, goal=50.0, peer=40.0), {"speed": 100.0})
    assert row == [
        "speed", "80", "people/s", "higher", "15%", "100", "-20%", "40", "2", ">= 50", "met WORSE",
    ]  # fmt: skip


def test_columns_of_a_table_stand_under_their_headings():
    assert text_table(["metric", "value"], [["a", "1"], ["bcdefgh", "100"]]) == (
        "metric   value\na            1\nbcdefgh    100"
    )
    assert markdown_table(["a"], [["b"]]) == "| a |\n| --- |\n| b |"


def test_jobs_take_turns_and_the_first_turn_is_not_counted(bench):
    calls = []
    found = bench.seconds(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2
    )
    assert calls == ["a", "b"] * 3
    assert [len(times) for times in found.values()] == [2, 2]


def test_peak_memory_of_a_process_is_its_own_not_its_parents():
    code = "import machine; print(machine.peak_megabytes())"
    heavy = bytearray(1200 * 2**20)
    heavy[::4096] = b"x" * len(heavy[::4096])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=BENCHMARKS)
    assert float(done.stdout) < 1200 < peak_megabytes()


def test_planted_people_are_read_back_as_they_were_planted(template, tmp_path):
    folder = planted.planted_folder(tmp_path / "people", template, 2000)
    people = read_people(folder, "train", template)
    wanted, _ = planted.planted(template, 1000)
    assert len(set(people.keys)) == 2000
    torch.testing.assert_close(people.observations.points[1000:], wanted.points, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        people.observations.keypoints[:1000], wanted.keypoints, rtol=0, atol=1e-5
    )


def test_planting_that_was_stopped_goes_on_with_the_next_shard(template, tmp_path):
    whole = planted.planted_folder(tmp_path / "whole", template, 3000)
    cut = planted.planted_folder(tmp_path / "cut", template, 3000)
    shards = sorted((cut / "observations").iterdir())
    (cut / "dataset.json").unlink()
    shards[1].unlink()
    written = shards[2].stat().st_mtime_ns
    planted.planted_folder(cut, template, 3000)
    assert shards[2].stat().st_mtime_ns == written
    for one in (path.relative_to(whole) for path in whole.rglob("*") if path.is_file()):
        assert (cut / one).read_bytes() == (whole / one).read_bytes(), one


def test_a_fit_that_was_stopped_goes_on_and_its_calls_are_added_up(bench):
    folder = planted.planted_folder(bench.folder / "people", templates.load(), 8)
    out = bench.folder / "people-fitted"
    about = {"kind": machine.kind(bench), "device": "cpu", "commit": machine.commit()}
    before = {"seconds": 1000.0, "start": 7.0, "megabytes": 1e6, "calls": 2, "finished": False}

    def cost_after(about: dict) -> dict:
        out.mkdir()
        (out / "about.json").write_text(json.dumps(about))
        (out / "cost.json").write_text(json.dumps(before))
        return registration_speed.fit_folder(folder, bench)

    cost = cost_after(about)
    assert 1000 < cost["seconds"] < 1100
    assert cost == {**before, "seconds": cost["seconds"], "calls": 3, "finished": True}
    assert not out.exists(), "whoever asks again measures again"
    anew = cost_after({**about, "commit": "another"})
    assert anew["seconds"] < 100
    assert anew["megabytes"] < 1e5
    assert (anew["calls"], anew["finished"]) == (1, True)


def test_what_a_killed_fit_took_is_known(bench):
    """`kill -9` in the middle: what it took is kept, and so is what it had fitted."""
    folder = planted.planted_folder(bench.folder / "people", templates.load(), 2000)
    out = bench.folder / "out"
    script = str(BENCHMARKS / "fit_folder.py")
    command = [sys.executable, script, str(folder), str(out), "cpu"]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as fitting:
        while not ((out / "cost.json").exists() and list(out.rglob("0*.parquet"))):
            assert fitting.poll() is None, "it ended too soon"
            time.sleep(0.01)
        fitting.kill()
    first = json.loads((out / "cost.json").read_text())
    assert (first["calls"], first["finished"]) == (1, False)
    assert 0 < first["seconds"] < 100
    parts = {path: path.stat().st_mtime_ns for path in out.rglob("0*.parquet")}
    subprocess.run(command, check=True)
    both = json.loads((out / "cost.json").read_text())
    assert (both["calls"], both["finished"], both["start"]) == (2, True, first["start"])
    assert both["seconds"] > first["seconds"]
    assert parts
    assert len(read_estimates(out / "estimates.parquet", templates.load()).keys) == 2000


def test_the_peer_fits_what_was_planted_in_its_own_body(template, tmp_path):
    pytest.importorskip("body_models")
    path = peer_fit.write_smpl_layout(template, tmp_path / "body.npz")
    fit = peer_fit.FullMeshFit(path, people=3, points=40, device=torch.device("cpu"))
    first, last = fit.fit(1), fit.fit(100)
    assert last < 0.02 * first


def test_results_are_kept_with_their_machine_and_a_regression_is_the_exit_code(
    tmp_path, monkeypatch, capsys
):
    folders = ["--out", str(tmp_path / "out"), "--baseline", str(tmp_path / "baseline.json")]

    def exit_code(*more: str) -> int:
        words = ["run.py", "--miniature", "--only", "machine", *folders, *more]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            run.main()
        return end.value.code

    assert exit_code("--accept") == 0
    accepted = json.loads((tmp_path / "baseline.json").read_text())
    (kind,) = accepted
    (kept,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json"))
    assert kept["kind"] == kind
    assert {"device", "versions", "commit", "load", "measured"} <= kept.keys()
    accepted[kind]["machine: copy, read + written"] *= 1e9
    (tmp_path / "baseline.json").write_text(json.dumps(accepted))
    assert exit_code() == 1
    assert "WORSE  machine: copy" in capsys.readouterr().out


def test_a_workload_that_breaks_costs_its_own_numbers_alone(tmp_path, monkeypatch, capsys):
    def broken(bench: Bench) -> list[Measured]:
        raise RuntimeError("out of order")

    monkeypatch.setitem(run.GROUPS, "start", broken)
    folders = ["--out", str(tmp_path / "out"), "--baseline", str(tmp_path / "baseline.json")]
    words = ["run.py", "--miniature", "--only", "start", "--only", "machine", "--accept", *folders]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="1"):
        run.main()
    out = capsys.readouterr().out
    assert "FAILED start: RuntimeError: out of order" in out
    assert "machine: copy" in out
    assert not (tmp_path / "baseline.json").exists()


def test_what_was_measured_is_written_before_the_next_is(tmp_path, monkeypatch):
    folders = ["--out", str(tmp_path / "out"), "--baseline", str(tmp_path / "baseline.json")]
    folders += ["--gather", str(tmp_path / "gathered")]
    monkeypatch.setattr(sys, "argv", ["run.py", "--miniature", "--only", "start", *folders])
    seen = []

    def kept() -> dict:
        (path,) = (tmp_path / "out").iterdir()
        found = json.loads(path.read_text())
        together = json.loads((tmp_path / "gathered" / "benchmarks.json").read_text())
        assert together == {path.stem: found}
        return found

    def stopped(bench: Bench):
        yield speed(2.0)
        seen.append(kept())
        raise KeyboardInterrupt

    def whole(bench: Bench):
        yield speed(2.0)
        yield error(3.0)

    monkeypatch.setitem(run.GROUPS, "start", stopped)
    with pytest.raises(SystemExit, match="stopped in start; what was measured until then, if any"):
        run.main()
    for found in (*seen, kept()):
        assert [row["metric"] for row in found["measured"]] == ["speed"]
        assert found["failed"] == {"start": run.UNFINISHED}

    def stopped_at_once(bench: Bench):
        raise KeyboardInterrupt

    monkeypatch.setitem(run.GROUPS, "start", stopped_at_once)
    with pytest.raises(SystemExit, match="stopped in start"):
        run.main()
    assert len(kept()["measured"]) == 1, "nothing takes the place of something"
    monkeypatch.setitem(run.GROUPS, "start", whole)
    with pytest.raises(SystemExit, match="0"):
        run.main()
    assert [row["metric"] for row in kept()["measured"]] == ["speed", "error"]
    assert kept()["failed"] == {}


def test_a_group_that_was_stopped_before_its_first_number_is_named_beside_those_that_ended(
    tmp_path, monkeypatch
):
    def stopped(bench: Bench):
        raise KeyboardInterrupt

    monkeypatch.setitem(run.GROUPS, "machine", lambda bench: [speed(2.0)])
    monkeypatch.setitem(run.GROUPS, "start", stopped)
    words = ["run.py", "--miniature", "--only", "machine", "--only", "start"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="stopped in start"):
        run.main()
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())
    assert len(found["measured"]) == 1
    assert found["failed"] == {"start": run.UNFINISHED}


def test_a_gpu_predicts_with_a_network_that_comes_ready_and_a_cpu_makes_it_ready(
    bench, monkeypatch
):
    ready = []

    def predict(network, images):
        ready.append(network.is_for_prediction)

    monkeypatch.setattr(learning_speed, "predict_dataset", predict)
    assert len(list(learning_speed.prediction(bench))) == 2 * 3
    assert not any(ready)
    monkeypatch.setattr(Bench, "gpu", True)
    monkeypatch.setattr(Bench, "wait", lambda self: None)
    ready.clear()
    assert len(list(learning_speed.prediction(bench))) == 2 * 2
    assert all(ready)


def test_more_images_than_are_drawn_are_the_same_again(monkeypatch):
    monkeypatch.setattr(learning_speed, "DISTINCT_IMAGES", 2)
    config = learning_speed.RegressorConfig(size=32)
    one, two, three = learning_speed._pixels(config, 3)
    assert torch.equal(one, three)
    assert not torch.equal(one, two)
    assert torch.equal(learning_speed._pixels(config, 2), torch.stack([one, two]))


class Still:
    """A training that does nothing."""

    def run_epoch(self) -> None:
        pass


def test_a_gpu_trains_each_network_beside_its_backbone_alone_and_gives_rows_one_by_one(
    pretended, monkeypatch
):
    stepped = []
    monkeypatch.setattr(
        learning_speed, "bare_training", lambda *given: lambda: stepped.append(type(given[-1]))
    )
    asked = []
    monkeypatch.setattr(
        learning_speed, "Training", lambda *given: asked.append(given[-1].compile) or Still()
    )
    rows = learning_speed.training(pretended)
    first = [next(rows), next(rows)]
    assert "training eagerly, paper" in first[0].metric
    assert "share of the bare backbone" in first[1].metric
    assert set(stepped) == {learning_speed._Bare}
    names = [row.metric.split(" (")[0] for row in rows]
    eager, compiled = ["training eagerly, with 2D heads"] * 2, ["training, paper"] * 2
    assert names == [*eager, *compiled, *["training, with 2D heads"] * 2]
    assert asked == ["never", "never", "auto", "auto"]


def test_a_gpu_skins_many_bodies_in_batches_that_every_library_holds_and_few_without_a_goal(
    pretended, monkeypatch
):
    calls = []

    def compare(people, device, repeats, *, batches):
        calls.append((people, batches))
        return {"deformlearn": 10.0, "peer": 20.0}

    monkeypatch.setattr(people_speed, "compare_skinning", compare)
    many, few = people_speed.skinning(Bench(pretended.device, "full"))
    assert calls == [(1024, 2), (256, 1)]
    assert (many.value, many.peer, many.goal) == (204_800, 102_400, 204_800)
    assert (few.value, few.peer, few.goal) == (25_600, 12_800, None)
    assert few.metric == "skinning, GPU: full meshes, 256 at once, against peer"


@pytest.mark.parametrize(
    ("found", "names"),
    [(None, ["anny", "body-models"]),
     ("there", ["anny", "body-models", "anny with warp", "body-models with warp"])],
)  # fmt: skip
def test_peers_skin_also_by_the_kernels_they_would_take_by_themselves(monkeypatch, found, names):
    asked = []
    for library in ("_ours", "_anny", "_body_models"):
        monkeypatch.setattr(peers_skinning, library, lambda *given: lambda: asked.append(given[2:]))
    monkeypatch.setattr(peers_skinning, "find_spec", lambda name: found)
    assert list(peers_skinning.compare_skinning(2, repeats=1)) == ["deformlearn", *names]
    assert set(asked) == {(), ("torch",), *([("warp",)] if found else [])}


def test_a_synthetic_data_set_says_how_long_its_first_people_took(bench, monkeypatch):
    def synthesize(folder, config, *, workers, device, progress):
        progress(0, 2)
        time.sleep(0.02)
        progress(1, 2)
        time.sleep(0.05)
        progress(2, 2)

    monkeypatch.setattr(people_speed, "synthesize", synthesize)
    rate, start = people_speed.data_set(bench)
    assert 0.02 <= start.value <= 2 / rate.value - 0.05
    assert (rate.goal, start.goal) == (1000, None)


def test_a_gpu_makes_a_data_set_before_one_core_is_timed(pretended, monkeypatch):
    monkeypatch.setattr(people_speed, "data_set", lambda bench: [speed(1000.0)])
    assert next(people_speed.synthetic(pretended)) == speed(1000.0)


def test_a_synthetic_data_set_that_takes_too_long_is_timed_by_what_was_made(bench, monkeypatch):
    def synthesize(folder, config, *, workers, device, progress):
        progress(0, 50)
        time.sleep(0.02)
        progress(5, 50)
        raise AssertionError("it goes on")

    monkeypatch.setattr(people_speed, "synthesize", synthesize)
    monkeypatch.setattr(people_speed, "MOST_SECONDS", 0.01)
    rate, start = people_speed.data_set(bench)
    assert rate.value == pytest.approx(5 / start.value)
    assert rate.value < 5 / 0.02


@pytest.fixture
def nothing_compiles(monkeypatch):
    def refuse(*given: object) -> None:
        raise RuntimeError("no compiler today")

    monkeypatch.setattr(runtime, "has_compiler", lambda: True)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: refuse)
    compiling.compiled.cache_clear()
    yield
    compiling.compiled.cache_clear()  # what failed here is eager for good


@pytest.mark.parametrize("solver", ["adam", "gauss-newton"])
def test_what_could_not_be_compiled_is_not_called_compiled(
    solver, bench, template, nothing_compiles, capsys
):
    observations, crop = planted.planted(template, 3, points=5)
    config = registration_speed.RegistrationConfig(solver=solver, first_steps=2, steps=2)
    with pytest.warns(UserWarning, match="registration runs eagerly: no compiler today"):
        rows = registration_speed.compiled_beside_eager(
            bench, "fast, compiled", config, template, observations, crop
        )
    assert rows == []
    out = capsys.readouterr().out
    assert out == "left out: fast, compiled: it could not be compiled, and ran eagerly\n"


def test_compiled_solvers_run_in_miniature_but_for_the_compiler(pretended):
    compiling.compiled.cache_clear()
    rows = list(registration_speed.compiled_registration(pretended))
    compiling.compiled.cache_clear()
    whole = "registration, GPU: {}, compiled".format
    assert [row.metric for row in rows] == [whole("150 Adam steps"), whole("as it comes")]


@pytest.mark.parametrize("solver", ["adam", "gauss-newton"])
def test_what_was_compiled_stands_beside_the_same_eager(solver, bench, template, monkeypatch):
    observations, crop = planted.planted(template, 3, points=5)
    config = registration_speed.RegistrationConfig(solver=solver, first_steps=2, steps=2)
    monkeypatch.setattr(runtime, "has_compiler", lambda: True)
    # Compiling takes half a minute, and changes nothing here.
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    compiling.compiled.cache_clear()
    monkeypatch.setattr(compiling.Compiled, "failed", False)
    (row,) = registration_speed.compiled_beside_eager(
        bench, "fast, compiled", config, template, observations, crop
    )
    compiling.compiled.cache_clear()
    assert (row.metric, row.peer_name) == ("fast, compiled", "the same, eager")


LIMITS = {
    "machine: matrix product, float32": 100.0,
    "machine: matrix product, bfloat16": 200.0,
    "machine: copy, read + written": 10.0,
}
ADAM = "registration, GPU: 150 Adam steps, ours"


def result(measured: dict[str, float], kind: str = "a GPU, full", commit: str = "abc", **more):
    rows = [{"metric": metric, "value": value} for metric, value in measured.items()]
    return {"kind": kind, "commit": commit, "measured": rows, **more}


def write_results(folder: Path, **results: dict) -> Path:
    """Files as `run.py` writes them: their names begin with the day."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kept in results.items():
        day, _, rest = name.removeprefix("on_").partition("_")
        path = folder / f"2026-01-{day}-{rest}.json"
        path.write_text(json.dumps(kept))
    return folder


@pytest.mark.parametrize(
    ("measured", "problem"),
    [([speed(1.0), speed(2.0)], "speed is measured twice"),
     ([speed(float("nan"))], "speed is nan"),
     ([error(1.0)], "error is measured twice"),
     ([], "nothing was measured")],
)  # fmt: skip
def test_a_workload_that_measures_no_number_or_one_twice_has_failed(measured, problem):
    with pytest.raises(ValueError, match=problem):
        list(run._sound(measured, [error(3.0)]))
    assert list(run._sound([speed(1.0)], [error(3.0)])) == [speed(1.0)]


def test_the_roofline_is_the_lower_of_arithmetic_and_memory(tmp_path):
    (kept,) = roofline.latest(write_results(tmp_path, on_01_all=result({**LIMITS, ADAM: 500.0})))
    text = roofline.markdown(kept)
    # 36 MFLOP a person at 100 GFLOP/s: 2,778 people a second at most.
    assert "| registration, 150 Adam steps | 36 | 0.01 | 2,778 (arithmetic) | 500 | 18.0% |" in text
    assert "| Parquet in |" in text
    assert "(memory)" in text


def test_the_roofline_takes_the_newest_of_each_group_of_one_kind_of_machine(tmp_path):
    folder = write_results(
        tmp_path,
        on_01_machine=result(LIMITS, commit="first"),
        on_02_registration=result({ADAM: 400.0}, commit="second"),
        on_03_registration=result({ADAM: 500.0}, commit="third"),
        on_04_elsewhere=result({ADAM: 900.0}, kind="a CPU, full"),
        on_05_small=result({ADAM: 7.0}, kind="a GPU, miniature"),
        on_06_nameless={"measured": [{"metric": ADAM, "value": 1.0}]},
    )
    (kept,) = roofline.latest(folder)
    assert {metric: value for metric, (value, _) in kept["measured"].items()} == {
        **LIMITS, ADAM: 500.0,
    }  # fmt: skip
    text = roofline.tables(folder)
    assert text.startswith("a GPU, full, commit first, third: 100 GFLOP/s float32, 200 bfloat16")
    assert "| 500 | 18.0% |" in text


def test_the_roofline_knows_which_of_one_day_s_results_is_newer(tmp_path):
    folder = write_results(
        tmp_path,
        on_01_a=result({**LIMITS, ADAM: 500.0}, time="2026-01-01T12:00:01"),
        on_01_b=result({ADAM: 400.0}, time="2026-01-01T12:00:00"),
    )
    assert roofline.latest(folder)[0]["measured"][ADAM] == (500.0, "abc")


def test_every_machine_has_a_roofline_of_its_own_also_where_one_file_holds_its_groups(tmp_path):
    several = {
        "2026-01-02-gpu-full-machine": result(LIMITS),
        "2026-01-02-gpu-full-registration": result({ADAM: 500.0}),
    }
    write_results(tmp_path, on_01_all=result({**LIMITS, ADAM: 500.0}, kind="a CPU, full"))
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "benchmarks.json").write_text(json.dumps(several))
    assert [kept["kind"] for kept in roofline.latest(tmp_path)] == ["a GPU, full", "a CPU, full"]


def test_without_limits_or_registration_there_is_no_roofline(tmp_path):
    folder = write_results(tmp_path, on_01_machine=result(LIMITS))
    with pytest.raises(SystemExit, match="no results of the groups machine and registration"):
        roofline.tables(folder)


def write_people(folder: Path, description: str, template) -> Path:
    from deformlearn.data.shards import DatasetInfo, Row, write_info, write_rows
    from deformlearn.data.truth import TruthRow, write_truth

    numbers = torch.zeros(2, 3).numpy()
    row = Row(
        "train-0", (1.0, 1.0, 1.0), numbers[:, :2], numbers[:, 0].astype(int), numbers + 1 / 3,
        numbers[:, 0] + 1, torch.zeros(24, 2).numpy(), torch.ones(24).numpy(), image=folder.name.encode(),
    )  # fmt: skip
    write_rows(folder, "train", 0, [row])
    write_truth(folder, "train", 0, [TruthRow("train-0", numbers)])
    info = DatasetInfo(template.name, template.fingerprint, "smpl24", ("a", "b"), description)
    write_info(folder, info)
    return folder


def test_mixed_data_sets_hold_everyone_with_their_own_truth(template, tmp_path):
    sources = [write_people(tmp_path / name, name, template) for name in ("wild", "lab")]
    experiment.mix(tmp_path / "both", sources)
    people = read_people(tmp_path / "both", "train", template)
    assert people.keys == ["wild-train-0", "lab-train-0"]
    assert read_truth(tmp_path / "both", "train", people.keys).keys == people.keys
    images = {key: image for key, image, _ in read_images(tmp_path / "both", "train", people.keys)}
    assert images == {"wild-train-0": b"wild", "lab-train-0": b"lab"}


def test_data_sets_of_two_templates_are_not_mixed(template, anny, tmp_path):
    sources = [
        write_people(tmp_path / name, name, body)
        for name, body in (("wild", template), ("lab", anny))
    ]
    with pytest.raises(InputError, match="cannot be mixed"):
        experiment.mix(tmp_path / "both", sources)


def test_what_an_unfinished_experiment_has_measured_is_collected(tmp_path):
    state, out = tmp_path / "state", tmp_path / "out"
    run_folder = state / "run-exact"
    run_folder.mkdir(parents=True)
    (state / "done").mkdir()
    (state / "done" / "people").touch()
    (state / "done" / "try-tests").write_text("failed: try-tests (exit code 1): one failed\n")
    scores = {"raw": 51.25, "bone_sum": 52.0, "true_size": 40.0, "aligned": 30.0, "people": 9}
    record = {
        "stage": "register", "round": 1, "seconds": 3.0,
        "scores": {**scores, "vertices": None, "by_action": {"Walking": scores}},
    }  # fmt: skip
    (run_folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    write_config(run_folder, rounds=1)
    (run_folder / "versions.json").write_text('{"torch": "2.99", "gpu": "Abacus"}')
    row = {"unit": "people/s", "better": "higher", "tolerance": 0.15, "goal": 400, "peer": None}
    kept = result({**LIMITS, ADAM: 500.0}, failed={"storage": "out of order"})
    kept["measured"] = [{**row, **one, "met": None, "peer_name": ""} for one in kept["measured"]]
    write_results(state / "results", on_01_all=kept)
    experiment.collect(state, out)
    page = (out / "results.md").read_text()
    assert "Abacus, torch 2.99; 1 rounds; 9 people registered.\n" in page
    assert "![Errors over the rounds, exact](fig2-exact.png)" in page
    assert "a GPU, full, commit abc\n\n| metric | value |" in page
    assert f"| {ADAM} | 500 | people/s | higher | 15% |  |  | >= 400 | met |" in page
    assert "- failed: storage: out of order" in page
    assert "| registration, 150 Adam steps | 36 | 0.01 | 2,778 (arithmetic) | 500 | 18.0% |" in page
    assert json.loads((out / "benchmarks.json").read_text()) == {"2026-01-01-all": kept}
    assert "| registration, round 1 | train | 51.2 | 52.0 | 40.0 | 30.0 |  |  |" in page
    assert "| no 3D: the paper, MoSh correspondences | test |  |  |  |  |  | 96.99 |" in page
    assert "Steps done: people.\n- failed: try-tests (exit code 1): one failed" in page
    assert "by_action" not in (out / "experiment.json").read_text()
    assert (out / "fig2-exact.png").stat().st_size > 0


def write_demo(folder, rounds: int, planned: int = 2) -> Path:
    """A demo of two rounds as it stands after some of them."""
    (folder / "run").mkdir(parents=True)
    write_config(folder / "run", rounds=planned)
    records = [{"stage": "references", "round": 0, "mean_pose": {"raw": 250.0}}]
    for round_ in range(1, rounds + 1):
        for stage, mm in (("register", 50.0), ("learn", 130.0)):
            scores = {"raw": mm - 2 * round_}
            records.append({"stage": stage, "round": round_, "scores": scores})
    records.append({"stage": "control: second start", "round": 0, "scores": {"raw": 47.0}})
    records.append({"stage": "full 3D supervision", "round": 0, "scores": {"raw": 120.0}})
    lines = "\n".join(json.dumps(record) for record in records)
    (folder / "run" / "metrics.jsonl").write_text(lines + "\n")
    return folder


def test_goals_of_a_demo_are_judged_by_what_its_run_recorded(tmp_path):
    found = {row.metric: row.value for row in accuracy.demo(write_demo(tmp_path, 2))}
    assert found == {
        "demo: registration, last round less round 1, raw": -2,
        "demo: regressor, test, raw": 126,
        "demo: regressor, largest rise between rounds, raw": -2,
        "demo: registration, last round less control: second start, raw": -1,
        "demo: regressor / full 3D supervision, raw": 1.05,
    }


def test_a_demo_of_one_round_is_not_compared_with_itself(tmp_path):
    found = [row.metric for row in accuracy.demo(write_demo(tmp_path, 1, planned=1))]
    assert found == [
        "demo: regressor, test, raw",
        "demo: registration, last round less control: second start, raw",
        "demo: regressor / full 3D supervision, raw",
    ]


def test_an_unfinished_demo_has_no_goals_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "--demo", str(write_demo(tmp_path, 1))])
    with pytest.raises(SystemExit, match="is not a finished demo; `deformlearn demo --out"):
        run.main()


def test_results_are_gathered_in_one_file_by_what_needs_none_of_our_packages(tmp_path):
    state = tmp_path / "state"
    command = [
        sys.executable,
        "-I",
        str(BENCHMARKS / "gather.py"),
        str(state / "results"),
        str(tmp_path),
    ]
    subprocess.run(command, check=True)
    assert list(tmp_path.iterdir()) == []
    write_results(state / "results", on_01_a=result({"a": 1.0}), on_02_b=result({"b": 2.0}))
    subprocess.run(command, check=True)
    found = json.loads((tmp_path / "benchmarks.json").read_text())
    assert found == {"2026-01-01-a": result({"a": 1.0}), "2026-01-02-b": result({"b": 2.0})}
    assert gather.gather(state / "results", tmp_path) == found


def gpu_script(folder: Path, **settings: str) -> dict:
    """Arguments of a process that runs the script."""
    environment = {
        **os.environ, "SIZE": "miniature", "DEVICE": "cpu", "STATE": str(folder / "state"),
        "OUT": str(folder / "out"), "PYTHON": sys.executable, **settings,
    }  # fmt: skip
    command = ["bash", str(BENCHMARKS / "gpu.sh")]
    return {"args": command, "env": environment, "text": True}


def python_that(folder: Path, benchmarks_do: str) -> str:
    """A Python whose `run.py` does something else."""
    path = folder / "python"
    path.write_text(
        f'#!/usr/bin/env bash\nif [ "$1" = benchmarks/run.py ]; then {benchmarks_do}; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


def test_gpu_script_says_what_is_left_and_goes_on(tmp_path):
    """With no time at all, it stops before its first step and asks to be called again."""
    done = subprocess.run(**gpu_script(tmp_path, LIMIT="0"), capture_output=True)
    assert done.returncode == 75, done.stderr
    assert "stopped in try-bench-machine" in done.stdout
    assert "Steps done: none." in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.slow
def test_gpu_script_ends_in_time_though_a_step_will_not_stop(tmp_path):
    """A step that ignores being asked to stop is killed; what it measured until then is kept."""
    results = tmp_path / "state" / "results"
    measured = json.dumps(result({"a": 1.0}, failed={"machine": run.UNFINISHED}))
    stubborn = python_that(
        tmp_path, f"trap '' INT; echo '{measured}' > {results}/a.json; while :; do sleep 1; done"
    )
    # Twenty seconds of it are for collecting.
    settings = gpu_script(tmp_path, LIMIT="36", GRACE="1", PYTHON=stubborn)
    done = subprocess.run(**settings, capture_output=True, timeout=120)
    assert "given up: try-bench-machine does not end in 36 s" in done.stdout
    assert done.returncode == 75, done.stderr
    assert "stopped in try-bench-prediction" in done.stdout
    found = json.loads((tmp_path / "out" / "benchmarks.json").read_text())
    assert found["a"]["failed"] == {"machine": "stopped before its end"}


def test_gpu_script_fills_a_call_with_what_can_be_gone_on_with(tmp_path):
    """A step with too little time to end waits for the next call; the people do not wait for it."""
    skipped = "try-bench-machine try-tests try-team"
    path = tmp_path / "python"
    path.write_text(
        f'#!/bin/bash\ncase "$*" in *million*) exit 4 ;; *wild*) exit 3 ;; *collect*) exit ;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    path.chmod(0o755)
    # It believes that 105 s are over.
    settings = gpu_script(tmp_path, PYTHON=str(path), LIMIT="150", SECONDS="105", SKIP=skipped)
    call = subprocess.run(**settings, capture_output=True, timeout=100)
    assert call.returncode == 1, call.stderr
    said = [line.split(" (")[0] for line in call.stdout.splitlines()]
    begun, failed, people = "== bench-million", "failed: bench-million", "== people-wild-exact"
    assert said[:4] == [begun, failed, people, "failed: people-wild-exact"]


def test_gpu_script_has_the_results_of_a_step_out_before_the_next_begins(tmp_path):
    """Whatever ends the call then, `kill -9` included."""
    results = tmp_path / "state" / "results"
    once = python_that(
        tmp_path,
        f"if [ -e {results}/a.json ]; then exec sleep 5; fi; "
        f"echo '{json.dumps(result({'a': 1.0}))}' > {results}/a.json; exit",
    )
    settings = gpu_script(tmp_path, PYTHON=once)
    with subprocess.Popen(**settings, stdout=subprocess.PIPE, start_new_session=True) as script:
        assert script.stdout is not None
        assert [script.stdout.readline()[:20] for _ in range(2)] == [
            "== try-bench-machine",
            "== try-bench-predict",
        ]
        os.killpg(script.pid, signal.SIGKILL)
    assert json.loads((tmp_path / "out" / "benchmarks.json").read_text()).keys() == {"a"}
    assert "== try-bench-machine" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_gpu_script_at_full_size_refuses_a_machine_without_one(tmp_path):
    settings = gpu_script(tmp_path, SIZE="full", DEVICE="")
    done = subprocess.run(**settings, capture_output=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {sys.executable} sees no CUDA device; "
        f"to see whether all runs, give SIZE=miniature DEVICE=cpu\n"
    )
