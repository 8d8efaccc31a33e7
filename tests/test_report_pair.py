"""Two runs side by side: what is said of them, and when nothing can be."""

import json
from dataclasses import replace

import numpy as np
import pytest

from deformlearn.config import RegistrationConfig
from deformlearn.errors import InputError
from deformlearn.report import write_comparison
from deformlearn.reports.pair import SHOWN, Pair, change, pair_columns
from deformlearn.reports.people import measure
from deformlearn.reports.settings import compared
from report_runs import HOSTILE, Page, write_data, write_run


@pytest.fixture(autouse=True)
def _few_small_pictures(monkeypatch):
    monkeypatch.setattr("deformlearn.portraits.PANEL", 40)
    monkeypatch.setattr("deformlearn.report.PAIRED", dict.fromkeys(SHOWN, 1))
    monkeypatch.setattr("deformlearn.report.CURVES", ("raw",))


@pytest.fixture
def two(tmp_path):
    """Two runs on one data set: the second one's estimates are worse."""

    def make(name="second", *, truth=True, until=(99, 99), data=None, **second):
        info, exact = write_data(tmp_path / "data", people=12, truth=truth, **(data or {}))
        place = tmp_path / "data"
        settings = {"registration": RegistrationConfig(robust=0.3)}
        a = write_run(
            tmp_path / "first", place, info, exact, truth=truth, wrong=0.05, until=until[0]
        )
        b = write_run(
            tmp_path / name, place, info, exact,
            truth=truth, wrong=0.3, until=until[1], seed=1, settings=settings, **second,
        )  # fmt: skip
        return a, b

    return make


def read(runs, template, **options):
    text = write_comparison(*runs, template, **options).read_text("utf-8")
    return text, Page(text)


def edit(run, change_):
    path = run / "config.json"
    config = json.loads(path.read_text())
    change_(config)
    path.write_text(json.dumps(config))


def test_the_page_lies_in_the_first_run_under_the_seconds_name(two, template):
    runs = two()
    assert write_comparison(*runs, template) == runs[0] / "with-second.html"


def test_what_differs_in_the_settings_is_listed_and_nothing_else(two, template):
    text, page = read(two(), template)
    part = text.split('id="settings"')[1].split('id="results"')[0]
    assert "<code>seed</code>" in part
    assert "<code>registration.robust</code>" in part
    assert part.count("<code>") == 2
    assert "2 of " in page.text
    assert "no single one can be credited" in page.text


def test_two_runs_with_the_same_settings_differ_in_nothing(two, template, tmp_path):
    runs = two()
    (runs[1] / "config.json").write_text((runs[0] / "config.json").read_text())
    _, page = read(runs, template)
    assert "Nothing: both runs have the same settings" in page.text


def test_worse_estimates_of_the_same_people_are_called_worse(two, template):
    _, page = read(two(), template)
    assert "Over the same 12 people" in page.text
    assert "worse in second" in page.text
    assert "better in second" not in page.text


def test_people_are_told_one_by_one_with_their_difference(two, template):
    _, page = read(two(), template)
    data = [json.loads(body) for attributes, body in page.scripts if attributes.get("class")]
    assert len(data) == 3  # predictions, refined, fits
    titles = [column["title"] for column in data[0]["columns"]]
    first, second, difference = map(titles.index, ("raw, first", "raw, second", "difference, mm"))
    for row in data[0]["rows"]:
        assert row[difference] == pytest.approx(row[second] - row[first], abs=0.11)
    falling = [row[difference] for row in data[0]["rows"]]
    assert falling == sorted(falling, reverse=True)
    assert data[0]["sorted"] == difference


def test_both_curves_stand_in_one_chart_and_names_are_unique(two, template):
    text, page = read(two(), template)
    chart = text.split('class="chart wide"')[1].split("</svg>")[0]
    for name in ("A: registration", "B: registration", "A: regressor", "B: regressor"):
        assert name in chart
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    links = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    assert links <= set(names)


def test_runs_that_are_not_finished_are_compared_as_far_as_both_are(two, template):
    _, page = read(two(until=(99, 4)), template)
    assert "registration, round" in page.text
    assert "Test people, refined" not in page.text


def test_without_truth_the_2d_errors_are_compared(two, template):
    _, page = read(two(truth=False), template)
    assert "the distance from the image's 2D labels" in page.text
    assert "difference, px" in page.text


def test_a_name_that_is_no_name_for_a_page_is_shown_and_never_run(two, template):
    runs = two(name="<b>$x ключ {{ 1 }}")
    text, page = read(runs, template)
    assert "<b>$x ключ {{ 1 }}" in page.text
    assert "<b>$x" not in text


def test_hostile_people_are_only_text(two, template):
    text, page = read(two(data={"names": [HOSTILE, "a</script>"]}), template)
    assert "<script>alert" not in text
    assert sum(not attributes for attributes, _ in page.scripts) == 1


def test_runs_of_one_folder_name_are_told_apart(two, template, tmp_path):
    runs = two(name="x/same")
    (tmp_path / "y").mkdir()
    moved = runs[0].rename(tmp_path / "y" / "same")
    pair = Pair.open(moved, runs[1], template)
    assert pair.names == ("y/same", "x/same")


def test_a_demos_run_folder_is_called_by_the_demo(two, template):
    runs = two(name="demo-b/run")
    assert Pair.open(*runs, template).names == ("first", "demo-b")


def test_a_run_is_not_compared_with_itself(two, template):
    run = two()[0]
    with pytest.raises(InputError, match="are the same run; give two"):
        write_comparison(run, run / ".." / "first", template)


def test_other_people_are_not_compared_whatever_their_names(two, template, tmp_path):
    runs = two()
    info, exact = write_data(tmp_path / "other", people=13)
    other = write_run(tmp_path / "third", tmp_path / "other", info, exact)
    with pytest.raises(InputError, match=r"nothing is comparable: .* other people in every split"):
        write_comparison(runs[0], other, template)


def test_where_only_the_test_people_are_the_same_only_they_are_compared(two, template):
    runs = two()
    path = runs[1] / "shards.json"
    found = json.loads(path.read_text())
    found["observations/train-00000.parquet"]["footer"] = 1
    path.write_text(json.dumps(found))
    _, page = read(runs, template)
    assert "The train people of the two runs are not the same" in page.text
    assert "Training fits" not in page.text
    assert "registration, round" not in page.text
    assert "regressor, round" in page.text


def test_another_truth_of_the_same_images_is_another_protocol(two, template):
    runs = two()
    path = runs[1] / "shards.json"
    found = json.loads(path.read_text())
    for name in found:
        if name.startswith("truth/"):
            found[name]["footer"] = 1
    path.write_text(json.dumps(found))
    with pytest.raises(InputError, match="nothing is comparable"):
        write_comparison(*runs, template)


def test_runs_of_two_templates_have_two_protocols(two, template):
    runs = two()

    def other(config):
        config["data"]["template"]["fingerprint"] = "0123456789ab"

    edit(runs[1], other)
    with pytest.raises(InputError, match=r"the protocols differ: .* compare runs of one template"):
        write_comparison(*runs, template)
    edit(runs[0], other)
    with pytest.raises(InputError, match="load the template it names"):
        write_comparison(*runs, template)


def test_two_runs_that_only_began_are_not_comparable_yet(two, template):
    with pytest.raises(InputError, match="nothing is comparable yet"):
        write_comparison(*two(until=(1, 1)), template)


def test_a_folder_that_is_not_a_run_is_refused(two, template, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty is not a run folder: it has no config\.json"):
        write_comparison(two()[0], tmp_path / "empty", template)


def test_a_moved_data_set_is_named_once_for_both(two, template, tmp_path):
    runs = two()
    moved = (tmp_path / "data").rename(tmp_path / "elsewhere")
    _, page = read(runs, template, data=moved)
    assert "What this page cannot show" not in page.text
    assert any(tag == "img" for tag, _ in page.tags)


def test_the_interval_of_a_paired_difference(two, template):
    pair = Pair.open(*two(), template)
    first = measure(pair.first, "test", pair.first.predictions())
    more = np.linspace(1, 3, len(first), dtype=np.float32)
    second = replace(first, raw_joints=first.raw_joints + more[:, None])
    found = change("x", first, second)
    assert found.mean == pytest.approx(2.0, abs=1e-4)
    spread = np.linspace(1, 3, 12).std(ddof=1)
    # Twelve people: Student's t of eleven degrees of freedom.
    assert found.half == pytest.approx(2.201 * spread / np.sqrt(12), rel=1e-3)
    assert found.stands_out
    assert found.better == 0
    more[0] = np.nan
    lacking = replace(first, raw_joints=first.raw_joints + more[:, None])
    assert change("x", first, lacking).people == 11
    assert not change("x", first.take([1]), second.take([1])).stands_out


def test_nobody_in_common_is_said_instead_of_shown(two, template):
    pair = Pair.open(*two(), template)
    first = measure(pair.first, "test", pair.first.predictions())
    nothing = np.full_like(first.raw_joints, np.nan)
    first = replace(
        first, raw_joints=nothing, aligned_joints=nothing, pixels=np.full_like(first.pixels, np.nan)
    )
    assert change("x", first, first) is None
    assert pair_columns(("a", "b"), first, first)[-1].value(0) is None


def test_settings_of_either_side_are_compared():
    found = compared({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}})
    assert [(one.name, one.first, one.second, one.same) for one in found] == [
        ("a.b", 1, 1, True),
        ("a.c", 2, None, False),
        ("a.d", None, 3, False),
    ]
