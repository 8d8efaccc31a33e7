"""docs/reproduce.md from end to end, on a miniature Human3.6M of the exact official layout."""

import json
import re
from pathlib import Path

import pytest

import miniature
from deformlearn.data.h36m import TEST_SUBJECTS, TRAIN_SUBJECTS, Human36M, extract_frames
from deformlearn.data.shards import read_people
from deformlearn.densepose_charts import read_densepose_charts
from test_cli import call, refuse

SMALL = (
    "--rounds 2 --regressor.backbone resnet18_half --regressor.no-pretrained --regressor.size 48 "
    "--regressor.epochs 1 --lifter.steps 60 --lifter.width 16 --registration.first-steps 20 "
    "--registration.steps 60 --registration.refit-steps 20"
).split()
"""The presets with everything that takes time made small; weights and terms stay the paper's."""


@pytest.fixture(scope="module")
def h36m(anny, tmp_path_factory):
    return miniature.write_h36m(tmp_path_factory.mktemp("h36m"), anny)


@pytest.fixture(scope="module")
def mosh(h36m, tmp_path_factory):
    """The data set of the first way."""
    out = tmp_path_factory.mktemp("mosh") / "data"
    code, text, errors = call("import", "h36m", h36m.folder, "--out", out, "--surface", "fitted")
    assert code == 0, errors
    return out, text


def learn_and_judge(data, preset, out):
    code, text, errors = call("run", data, "--preset", preset, "--out", out, *SMALL)
    assert code == 0, errors
    code, card, errors = call("evaluate", out, "--protocol", "h36m-1")
    assert code == 0, errors
    return text, card


def test_correspondences_by_a_fitted_body_from_the_archives_to_the_number(mosh, anny, tmp_path):
    data, text = mosh
    assert "train: 48 people (0 of them without dense points)" in text
    assert "summary.html" in text
    assert len(read_people(data, "test", anny)) == 54
    assert "corrupt" in (data / "rejects-test.csv").read_text()
    text, card = learn_and_judge(data, "paper-mosh", tmp_path / "run")
    assert "regressor, round 2" in text
    number = float(re.search(r"\* bone_sum: ([\d.]+)", card)[1])
    assert 20 < number < 1000
    assert "INCOMPLETE, not comparable" in card
    assert "cameras 54138969 55011271 58860488 60457274" in card
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["registration"]["dense_weight"] == 1000
    assert config["registration"]["robust"] is None


def test_the_same_import_again_changes_nothing(mosh, h36m):
    data, _ = mosh
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*.parquet")}
    code, text, errors = call("import", "h36m", h36m.folder, "--out", data, "--surface", "fitted")
    assert code == 0, errors
    assert "train: already imported: 48 people" in text
    assert before == {path: path.stat().st_mtime_ns for path in data.rglob("*.parquet")}


def test_correspondences_by_densepose_from_extracted_frames_to_the_number(
    h36m, anny, shared, tmp_path
):
    charts = shared / "densepose" / "UV_Processed.mat"
    source = Human36M(h36m.folder, subjects=TRAIN_SUBJECTS + TEST_SUBJECTS)
    frames = h36m.folder / "frames"
    for _ in extract_frames(source, frames):
        pass
    predictions = tmp_path / "predictions"
    miniature.write_densepose_predictions(predictions, h36m, read_densepose_charts(charts))
    data = tmp_path / "data"
    code, text, errors = call(
        "import", "h36m", h36m.folder, "--out", data, "--images", "frames/{key}.jpg",
        "--densepose", predictions, "--charts", charts,
    )  # fmt: skip
    assert code == 0, errors
    assert "train: 48 people (0 of them without dense points)" in text
    people = read_people(data, "train", anny)
    assert (people.observations.point_weights > 0).sum(1).min() > 100
    text, card = learn_and_judge(data, "paper-densepose", tmp_path / "run")
    assert "regressor, round 2" in text
    assert float(re.search(r"\* bone_sum: ([\d.]+)", card)[1]) < 1000


def test_a_run_can_be_judged_on_another_data_set(mosh, tmp_path):
    data, _ = mosh
    learn_and_judge(data, "paper-mosh", tmp_path / "run")
    code, card, errors = call(
        "evaluate", tmp_path / "run", "--protocol", "hmr-2", "--data", data, "--split", "test"
    )
    assert code == 0, errors
    assert "camera" in card
    assert re.search(r"\* aligned: [\d.]+", card)
    assert "unknown protocol" in refuse("evaluate", tmp_path / "run", "--protocol", "p1")
    assert "needs --protocol" in refuse("evaluate", tmp_path / "run", "--data", data)


def test_wishes_that_exclude_one_another_are_refused(h36m, tmp_path):
    out = ("--out", tmp_path / "data")
    both = ("--surface", "fitted", "--densepose", tmp_path, "--charts", tmp_path)
    assert "give one" in refuse("import", "h36m", h36m.folder, *out, *both)
    assert "needs --charts" in refuse("import", "h36m", h36m.folder, *out, "--densepose", tmp_path)
    assert "--split" in refuse("import", "h36m", h36m.folder, *out, "--subjects", "S9")
    assert "metadata.xml" in refuse("import", "h36m", tmp_path, *out)
    coco = ("import", "coco", Path("none.json"), tmp_path, *out, "--surface", "fitted")
    assert "needs 3D joints" in refuse(*coco)
