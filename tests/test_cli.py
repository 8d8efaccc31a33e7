"""The command line as a person uses it: real files, exit codes, one clear line for bad input."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deformlearn.cli import main
from deformlearn.config import RunConfig
from deformlearn.rundir import RunFolder

COMMANDS = (
    "demo synth import annotate register run predict evaluate report view export body check".split()
)


def call(*words, **changes):
    """Run the command in a process of its own, as a shell would."""
    done = subprocess.run(
        [sys.executable, "-m", "deformlearn", *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "160"} | changes,
    )
    return done.returncode, done.stdout, done.stderr


def refused(capsys, *words):
    """The one line that a refusal prints, in this process: each start of another takes seconds."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 2
    return one_line(capsys.readouterr().err)


def refuse(*words):
    """The one line that a refusal prints."""
    code, _, errors = call(*words)
    assert code == 2, errors
    return one_line(errors)


def one_line(errors):
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("deformlearn:")]
    assert len(lines) == 1, errors
    return lines[0]


def test_help_lists_every_command():
    code, text, _ = call("--help")
    assert code == 0
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    code, text, _ = call(command, "--help")
    assert code == 0
    assert "--help" in text


def test_a_preset_gives_the_defaults_and_one_number_may_change():
    _, laptop, _ = call("demo", "--help")
    _, tiny, _ = call("demo", "--preset", "tiny", "--help")
    assert "(default: 4000)" in laptop
    assert "(default: 160)" in tiny


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """The whole method, smaller than tiny, from the command line."""
    out = tmp_path_factory.mktemp("demo")
    words = [
        "demo", "--preset", "tiny", "--out", out, "--data.train", 24, "--data.val", 2, "--data.test", 6,
        "--data.size", 64, "--run.lifter.steps", 40, "--run.lifter.width", 16,
        "--run.registration.first-steps", 4, "--run.registration.steps", 8,
        "--run.registration.refit-steps", 4, "--run.regressor.batch", 8,
        "--run.regressor.head-steps", 5, "--run.baselines",
    ]  # fmt: skip
    code, text, errors = call(*words)
    assert code == 0, errors
    return out, words, text


def test_the_demo_prints_a_table_and_leaves_a_report(tiny_run):
    out, _, text = tiny_run
    assert "mean training pose" in text
    assert str(out / "report.html") in text
    assert (out / "report.html").stat().st_size > 10_000
    for name in ("config.json", "versions.json", "metrics.jsonl", "lifter.safetensors"):
        assert (out / "run" / name).exists()
    for round_ in (1, 2):
        assert (out / "run" / f"round-{round_}" / "estimates.parquet").exists()
        assert (out / "run" / f"round-{round_}" / "network.safetensors").exists()


def test_the_same_command_resumes_what_is_missing_bit_for_bit(tiny_run, tmp_path):
    out, words, _ = tiny_run
    copy = tmp_path / "again"
    shutil.copytree(out, copy)
    run = copy / "run"
    config = (run / "config.json").read_text().replace(str(out), str(copy))
    (run / "config.json").write_text(config)
    records = (run / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in records if '"round": 2' not in line and "control" not in line]
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    shutil.rmtree(run / "round-2")
    code, _, errors = call(*[copy if word == out else word for word in words])
    assert code == 0, errors
    for name in ("estimates.parquet", "network.safetensors", "predictions-test.parquet"):
        assert (run / "round-2" / name).read_bytes() == (
            out / "run" / "round-2" / name
        ).read_bytes()


def test_another_configuration_in_the_same_folder_is_refused(tiny_run):
    _, words, _ = tiny_run
    assert "another configuration" in refuse(*words, "--run.lifter.batch", 17)
    assert refuse(*words[:5], "--data.train", 25)


def test_check_likes_a_good_data_set_and_names_a_bad_row(tiny_run, tmp_path):
    out, _, _ = tiny_run
    code, text, errors = call("check", out / "data")
    assert code == 0, errors
    assert "24 good rows, 0 bad" in text
    shutil.copytree(out / "data", tmp_path / "data")
    shard = next((tmp_path / "data" / "observations").glob("val-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-400])
    assert "bad rows" in refuse("check", tmp_path / "data")


def test_register_fits_a_data_set(tiny_run, tmp_path):
    out, _, _ = tiny_run
    code, text, errors = call(
        "register", out / "data", "--split", "test", "--out", tmp_path, "--steps", 5,
        "--lifter", out / "run" / "lifter.safetensors",
    )  # fmt: skip
    assert code == 0, errors
    assert "test-000000" in text
    assert (tmp_path / "estimates.parquet").exists()


@pytest.mark.parametrize("refine", [False, True])
def test_predict_writes_three_files_a_person(tiny_run, tmp_path, refine):
    out, _, _ = tiny_run
    picture = np.random.default_rng(0).integers(0, 255, (90, 60, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "päivä 1.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    code, _, errors = call(
        "predict", out / "run", tmp_path / "päivä 1.png", tmp_path / "broken.jpg", "--out", tmp_path / "r",
        *(["--refine"] if refine else []),
    )  # fmt: skip
    assert code == 0, errors
    assert "broken.jpg" in errors
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        "estimates.parquet", "päivä 1.npz", "päivä 1.obj", "päivä 1.png",
    ]  # fmt: skip


def test_evaluate_and_report_read_a_run(tiny_run):
    out, _, _ = tiny_run
    code, text, errors = call("evaluate", out / "run")
    assert code == 0, errors
    assert "PA" in text
    assert "by action" in text
    assert "scaled so that the 16 bones sum to" in text
    code, text, errors = call("report", out / "run")
    assert code == 0, errors
    assert "report.html" in text


def test_the_folder_of_a_demo_stands_for_the_run_in_it(tiny_run, tmp_path, capsys):
    out, _, _ = tiny_run
    before = sorted(path.name for path in (out / "run").iterdir())
    (out / "report.html").unlink()
    for words in (["evaluate", out], ["report", out]):
        main([str(word) for word in words])
    said = capsys.readouterr().out
    assert "by action" in said
    assert f"report: {out / 'report.html'}" in said
    assert (out / "report.html").exists()
    assert sorted(path.name for path in (out / "run").iterdir()) == before
    picture = np.random.default_rng(0).integers(0, 255, (90, 60, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    main(["predict", str(out), str(tmp_path / "a.png"), "--out", str(tmp_path / "r")])
    assert (tmp_path / "r" / "a.npz").exists()


def test_evaluate_prints_nothing_of_a_run_that_has_measured_nothing(tmp_path, capsys):
    about = {"path": "data", "template": {"template": "anny", "fingerprint": "0"}}
    with RunFolder(tmp_path) as run:
        run.begin(RunConfig(), about)
        assert "nothing has been measured in" in refused(capsys, "evaluate", tmp_path)
        run.finish("lifter", steps=3)
    assert "nothing has been measured in" in refused(capsys, "evaluate", tmp_path)


@pytest.mark.parametrize("option", ["--data", "--split"])
def test_evaluate_takes_what_says_how_to_score_only_with_a_protocol(tmp_path, capsys, option):
    assert f"{option} needs --protocol" in refused(capsys, "evaluate", tmp_path, option, "train")
    assert "unknown device 'banana'" in refused(capsys, "evaluate", tmp_path, "--device", "banana")


def test_annotate_takes_the_template_by_the_name_of_every_command_or_its_old_one(capsys, tmp_path):
    for option in ("--template", "--body"):
        said = refused(capsys, "annotate", tmp_path, "--out", tmp_path / "o", option, "gone.glb")
        assert "gone.glb does not exist" in said


def test_body_prints_and_draws_the_template(tmp_path):
    code, text, errors = call("body", "--out", tmp_path / "body.png")
    assert code == 0, errors
    assert "left_knee" in text
    drawn = np.asarray(Image.open(tmp_path / "body.png"))
    assert (drawn < 250).any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("body", "my.glb", "--out", "my.glb"), "one that ends in .png"),
        (("body", "my.glb", "--save", "my.glb"), "one that ends in .safetensors"),
        (("body", "my.safetensors", "--save", "my.safetensors"), "is what is read"),
        (("body", "map", "my.glb", "anny", "--out", "my.glb"), "one that ends in .safetensors"),
        (("body", "map", "anny", "my.safetensors", "--out", "./my.safetensors"), "is what is read"),
    ],
)
def test_a_body_is_never_replaced_by_what_is_made_of_it(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    for name in ("my.glb", "my.safetensors"):
        (tmp_path / name).write_bytes(b"weeks of work")
    assert said in refused(capsys, *words)
    assert all(path.read_bytes() == b"weeks of work" for path in tmp_path.iterdir())


def test_bad_input_is_one_clear_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    photo, text = tmp_path / "photo.png", tmp_path / "text.png"
    assert "no dataset.json" in refused(capsys, "check", tmp_path / "empty")
    assert "not a run folder" in refused(capsys, "evaluate", tmp_path / "empty")
    assert "no dataset.json" in refused(
        capsys, "run", tmp_path / "empty", "--out", tmp_path / "run"
    )
    assert "needs --charts" in refused(
        capsys, "register", photo, "--densepose", text, "--out", tmp_path / "o"
    )
    assert "one of them" in refused(
        capsys, "register", photo, "--densepose", text, "--keypoints", text, "--out", tmp_path / "o"
    )
    assert "not json" in refused(
        capsys, "register", tmp_path, "--keypoints", text, "--out", tmp_path / "o"
    )
    assert refused(capsys, "register", photo, "--lifter", text, "--out", tmp_path / "o")
    assert refused(capsys, "predict", tmp_path / "empty", photo, "--out", tmp_path / "o")
    assert refused(capsys, "body", tmp_path / "text.png")
    assert refused(capsys, "synth", "--out", Path(text) / "below")
    code, _, errors = call("predict")
    assert code == 2
    assert "Traceback" not in errors


def test_no_process_that_a_command_starts_takes_modules_from_the_current_folder(monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # is put back afterwards
    monkeypatch.setattr(sys, "argv", ["deformlearn", "--version"])
    main()
    assert os.environ["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--charts", "c.mat", "--inds", "i.png"], "--charts and --inds are for --densepose"),
        (["--points", 9], "--points is for --densepose"),
        (["--pose-joints", "coco17"], "--pose-joints is for --poses"),
        (["--keypoints", "k.json", "--charts", "c.mat"], "--charts is for --densepose"),
        (["--keypoints", "k.json", "--split", "test"], "--split is for a data set"),
        (["--densepose", "i.png", "--split", "test"], "--split is for a data set"),
        (["--keypoints", "k.json", "--device", "banana"], "unknown device 'banana'"),
        (["--densepose", "i.png", "--device", "banana"], "unknown device 'banana'"),
        (["--lifter", "l", "--poses", "p"], "--lifter and --poses both say how deep joints are"),
    ],
)
def test_an_option_of_register_that_would_do_nothing_is_refused(tmp_path, capsys, options, said):
    out = tmp_path / "out"
    assert said in refused(capsys, "register", tmp_path, "--out", out, *options)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["--densepose", "--keypoints", "run"])
def test_results_are_not_written_among_the_files_of_a_data_set(tmp_path, capsys, kind):
    data = tmp_path / "data"
    data.mkdir()
    (data / "dataset.json").write_text("{}")
    words = ["run", data] if kind == "run" else ["register", data, kind, data]
    assert "is a data set, and results would mix with it" in refused(capsys, *words, "--out", data)
    assert "is a data set" in refused(capsys, "register", data, "--out", data)
    assert [path.name for path in data.iterdir()] == ["dataset.json"]


@pytest.mark.parametrize("kind", ["--densepose", "--keypoints"])
def test_a_photograph_is_the_work_of_one_process(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = refused(capsys, "register", tmp_path, kind, tmp_path, "--out", tmp_path / "out")
    assert f"register {kind} is the work of one process: start it without torchrun" in said
    assert not (tmp_path / "out").exists()
