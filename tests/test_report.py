"""The report of fabricated runs: whole, half done, without truth, with hostile names, of many people."""

import base64
import hashlib
import io
import json
import os
import re
import stat

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from deformlearn.curve import Line, _spread, curve_svg, draw_curve
from deformlearn.errors import InputError
from deformlearn.portraits import BEST, RANDOM, WORST, choose
from deformlearn.report import write_figure_curve, write_report
from deformlearn.reports.page import duration, signed
from deformlearn.reports.sections import TABLE, Column, rows_shown
from deformlearn.reports.tables import PUBLISHED, curve, print_results, results_table
from deformlearn.rundir import RunFolder
from report_runs import HOSTILE, Page, scores, write_data, write_run


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    monkeypatch.setattr("deformlearn.portraits.PANEL", 40)
    monkeypatch.setattr("deformlearn.report.CURVES", ("raw", "aligned"))


@pytest.fixture
def fabricate(tmp_path):
    """Writes a data set and a run of two rounds; arguments leave parts out."""

    def make(*, truth=True, until=99, wrong=0.0, **data):
        info, exact = write_data(tmp_path / "data", truth=truth, **data)
        return write_run(
            tmp_path / "run", tmp_path / "data", info, exact, truth=truth, until=until, wrong=wrong
        )

    return make


def read(run, template):
    path = write_report(run, template)
    assert path == run / "report.html"
    return path.read_text("utf-8"), Page(path.read_text("utf-8"))


def table(page, number=0):
    """The data of a table of people."""
    found = [text for attributes, text in page.scripts if "data" in attributes.get("class", "")]
    return json.loads(found[number])


def test_the_page_asks_nothing_of_anybody_and_runs_only_its_own_script(fabricate, template):
    text, page = read(fabricate(), template)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/jpeg;base64,")), (tag, name, value[:80])
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    own = [body for attributes, body in page.scripts if attributes.get("type") is None]
    digest = base64.b64encode(hashlib.sha256(own[0].encode()).digest()).decode()
    assert len(own) == 1
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_numbers_of_the_records_stand_on_the_page(fabricate, template):
    _, page = read(fabricate(), template)
    for number in ("79.5", "78.5", "149.8", "148.8", "70.1", "244.0", "140.0", "99.5", "37 %"):
        assert number in page.text, number
    for number in ("87.97", "60.27", "49.6", "131.7", "106.84", "173.2", "96.99", "115.3"):
        assert f"{number} as printed" in page.text, number
    assert PUBLISHED in page.text
    assert "What this page cannot show" not in page.text


def test_means_of_very_many_actions_are_cut_and_counted(fabricate, template):
    run = fabricate()
    path = run / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    (last,) = (one for one in records if (one["stage"], one["round"]) == ("learn", 2))
    means = last["scores"]["by_action"]
    means |= {f"action {number:03d}": means["Walking"] for number in range(204)}
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    _, page = read(run, template)
    assert "action 199" in page.text
    assert "action 200" not in page.text
    assert "5 more actions are in metrics.jsonl" in page.text


def test_everyone_of_a_small_run_has_pictures_of_every_stage(fabricate, template):
    _, page = read(fabricate(), template)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    tested, fitted = 6 * 8, 6 * 5  # photo, correspondences, and three views of each body
    assert len(pictures) == tested + fitted
    assert all(picture["alt"] for picture in pictures)


def test_the_sections_that_the_page_links_to_exist(fabricate, template):
    _, page = read(fabricate(), template)
    names = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 7
    assert {link[1:] for link in links} <= names


def test_no_two_things_on_the_page_have_one_name(fabricate, template):
    _, page = read(fabricate(), template)
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))


def test_the_table_holds_the_errors_of_single_people_the_worst_first(fabricate, template):
    _, page = read(fabricate(wrong=0.2), template)
    data = table(page)
    titles = [column["title"] for column in data["columns"]]
    assert titles[:4] == ["name", "action", "raw, prediction", "raw, refined"]
    errors = [row[2] for row in data["rows"]]
    assert data["sorted"] == 2
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 1
    assert len(data["rows"]) == 6
    assert all(data["cards"])


def test_without_truth_people_have_their_2d_error_and_the_page_says_so(fabricate, template):
    _, page = read(fabricate(truth=False, wrong=0.1), template)
    assert "This run has measured no error in millimetres." in page.text
    assert "its bodies are 11.2 % of the crop's side away" in page.text  # the second round's
    assert "62 % of these points are within 5 %" in page.text
    assert PUBLISHED not in page.text  # alone in a table it tells nothing of this run
    assert "The data set has no 3D truth" in page.text
    assert "a body can be right in the image and wrong in depth" in page.text
    assert "Nobody's error in 3D is known" in page.text
    titles = [column["title"] for column in table(page)["columns"]]
    assert "2D, prediction" in titles
    assert not any("raw" in title or "PA" in title for title in titles)
    assert "Which joints are wrong" not in page.text
    assert any(tag == "img" for tag, _ in page.tags)


def test_with_broken_images_the_page_keeps_its_numbers_and_says_why(fabricate, template):
    _, page = read(fabricate(broken=True), template)
    assert "cannot be decoded" in page.text
    assert "and of 5 more" in page.text
    assert "img" not in {tag for tag, _ in page.tags}
    assert len(table(page)["rows"]) == 6
    assert "78.5" in page.text


def test_without_its_data_set_the_page_keeps_what_the_run_recorded(fabricate, template):
    run = fabricate()
    (run.parent / "data").rename(run.parent / "elsewhere")
    _, page = read(run, template)
    assert "is not a data set" in page.text
    assert "78.5" in page.text
    rows = table(page, 1)["rows"]  # registration recorded how far each fit is from its labels
    assert sorted(row[1] for row in rows) == [0.25, 1.25, 2.25, 3.25, 4.25, 5.25]


def test_images_beside_the_data_set_that_are_gone_cost_only_the_pictures(fabricate, template):
    from deformlearn.data import shards

    run = fabricate()
    (run / "shards.json").unlink()
    path = run.parent / "data" / "observations" / "test-00000.parquet"
    rows = shards.read_table(path, shards.OBSERVATION_SCHEMA.names).to_pylist()
    for row in rows:
        row["image"], row["image_path"] = None, "gone/photo.jpg"
    shards.write_table(path, shards.pa.Table.from_pylist(rows, shards.OBSERVATION_SCHEMA))
    _, page = read(run, template)
    assert "No picture of test-0: " in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 6 * 5  # the training fits'


@pytest.mark.parametrize("sort", ["names", "actions"])
def test_texts_of_the_data_are_shown_as_they_are_and_never_run(fabricate, template, sort):
    hostile = [
        HOSTILE,
        "ключ-ё",
        "人物 1",
        'a"b',
        "x & y",
        "{{ 7 * 7 }}",
        "</script><b>",
        "a\u2028b",
    ]
    about = f"{HOSTILE} данные"
    text, page = read(fabricate(**{sort: hostile[:6], "description": about}), template)
    assert "<script>alert" not in text
    assert about in page.text
    column = 0 if sort == "names" else 1
    assert {row[column] for row in table(page)["rows"]} == set(hostile[:6])
    assert all(one in page.text for one in hostile[:6])
    assert "49" not in {word for word in page.words if word.strip() == "49"}


def test_a_tag_in_a_name_does_not_end_the_data_of_the_table(fabricate, template):
    names = ["</script><b>x</b>", "<!--<script>", "a\u2028b", "\\", "p", "q"]
    text, page = read(fabricate(names=names), template)
    assert {row[0] for row in table(page)["rows"]} == set(names)
    assert "b" not in {tag for tag, _ in page.tags} or "<b>x</b>" not in text


def test_a_folder_that_cannot_be_written_is_refused_and_another_place_is_taken(
    fabricate, template, tmp_path
):
    run = fabricate()
    out = write_report(run, template, out=tmp_path / "pages" / "of ключ.html")
    assert out.read_text("utf-8").startswith("<!doctype html>")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="choose another place"):
        write_report(run, template, out=blocked / "report.html")


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write")
def test_a_read_only_run_is_refused_in_one_line(fabricate, template):
    run = fabricate()
    run.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(InputError, match="cannot write"):
            write_report(run, template)
    finally:
        run.chmod(stat.S_IRWXU)


def test_a_file_of_estimates_that_is_not_whole_costs_only_its_section(fabricate, template):
    run = fabricate()
    path = run / "round-2" / "predictions-test.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    _, page = read(run, template)
    assert "is not a whole Parquet shard" in page.text
    assert "Training fits" in page.text
    assert "148.8" in page.text


def test_a_stage_in_work_is_named_with_its_last_checkpoint(fabricate, template):
    run = fabricate(until=3)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "learn-1.pt").write_bytes(b"")
    (run / "checkpoints" / "learn-1.before.pt").write_bytes(b"")
    _, page = read(run, template)
    assert page.text.count("In work, or stopped: learn, round 1; its last checkpoint is of 2") == 1


def test_a_run_that_only_began_has_a_page(fabricate, template):
    _, page = read(fabricate(until=0), template)
    assert "The lifter is not trained yet." in page.text
    assert "This run has measured no error" in page.text


def test_settings_that_differ_from_the_paper_are_told_apart(fabricate, template):
    text, _ = read(fabricate(), template)
    settings = text.split('id="settings"')[1]
    changed, same = settings.split("<details>")
    assert "registration.robust" in changed
    assert "registration.robust" not in same
    assert "registration.dense_weight" in same


def test_a_page_of_thousands_with_long_names_stays_under_15_mb(fabricate, template):
    people = 2 * TABLE
    names = [f"{'名' * 300}{row}" for row in range(people)]
    text, page = read(fabricate(people=people, names=names, test=False), template)
    assert len(text.encode()) < 15_000_000
    data = table(page)
    assert len(data["rows"]) < TABLE
    assert f"{len(data['rows']):,} of {people:,} people" in page.text
    assert all(len(row[0]) < 200 for row in data["rows"])


def test_pictures_stop_before_they_make_the_page_too_large(fabricate, template, monkeypatch):
    monkeypatch.setattr("deformlearn.reports.sections.PICTURES", 20_000)
    _, page = read(fabricate(), template)
    assert 0 < sum(tag == "img" for tag, _ in page.tags) < 6 * 13
    assert "their pictures would have made this page too large" in page.text


def test_a_capped_table_holds_the_first_some_at_random_and_everyone_with_pictures():
    order = np.arange(100.0)
    order[7] = np.nan
    assert rows_shown(order, [], 100).tolist() == [*range(99, 7, -1), *range(6, -1, -1), 7]
    shown = rows_shown(order, [3, 7], 20).tolist()
    assert shown[:15] == list(range(99, 84, -1))
    assert {3, 7} <= set(shown)
    assert 20 <= len(shown) <= 22
    assert shown == sorted(shown, key=lambda row: -row if row != 7 else 1)


def test_numbers_are_written_for_readers():
    assert Column("d", np.array([1.25, np.nan]), 1, signed=True).text(1.3) == "+1.3"
    assert signed(-2.34) == "\N{MINUS SIGN}2.3"
    assert signed(-0.001) == "0.0"
    assert [duration(s) for s in (61.5, 600.0, 8000.0)] == ["61.5 s", "10 min", "2 h 13 min"]


@pytest.mark.parametrize(
    ("until", "line"),
    [
        (0, "The lifter is not trained yet."),
        (2, "Round 1 of 2 is not registered yet."),
        (3, "The regressor of round 1 of 2 is not trained yet."),
        (4, "Round 2 of 2 is not registered yet."),
        (6, "The test predictions are not refined yet."),
    ],
)
def test_an_unfinished_run_has_a_page_that_says_what_is_missing(fabricate, template, until, line):
    _, page = read(fabricate(until=until), template)
    assert line in page.text


def test_without_a_test_split_the_page_shows_the_registrations(fabricate, template):
    _, page = read(fabricate(test=False), template)
    assert "no test split" in page.text
    assert "78.5 mm" in page.text
    assert "The test predictions are not refined yet" not in page.text


def test_a_run_that_moved_with_its_data_finds_them(fabricate, template, tmp_path):
    run = fabricate()
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "data").rename(moved / "data")
    text, _ = read(run.rename(moved / "run"), template)
    assert "What this page cannot show" not in text
    assert "<img" in text


def test_a_moved_data_set_can_be_named(fabricate, template):
    run = fabricate()
    moved = (run.parent / "data").rename(run.parent / "elsewhere")
    text = write_report(run, template, data=moved).read_text("utf-8")
    assert "What this page cannot show" not in text
    assert "<img" in text


def test_what_is_named_as_data_must_be_the_run_s(fabricate, template):
    """A good page is not replaced by one without people."""
    run = fabricate()
    write_report(run, template)
    before = (run / "report.html").read_bytes()
    with pytest.raises(InputError, match="is not a data set: it has no"):
        write_report(run, template, data=run)
    info = run.parent / "data" / "dataset.json"
    info.write_text(info.read_text().replace(template.fingerprint, "0123456789ab"))
    with pytest.raises(InputError, match=r"another template .* give the run's own data set"):
        write_report(run, template, data=run.parent / "data")
    assert (run / "report.html").read_bytes() == before


def test_a_folder_that_is_not_a_run_is_refused(template, tmp_path):
    with pytest.raises(InputError, match="is not a run folder"):
        write_report(tmp_path, template)
    (tmp_path / "config.json").write_text(json.dumps({"model": "something else"}))
    with pytest.raises(InputError, match=r"its config\.json was not written by `run`"):
        write_report(tmp_path, template)


def test_another_template_is_refused(fabricate, template):
    run = fabricate(until=0)
    config = json.loads((run / "config.json").read_text())
    config["data"]["template"]["fingerprint"] = "0123456789ab"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="load the template it names"):
        write_report(run, template)


def test_results_are_grouped_and_the_papers_rows_carry_only_the_printed_number():
    records = [
        {"stage": "register", "round": 1, "scores": scores(80.0)},
        {"stage": "learn", "round": 1, "scores": None},
        {"stage": "register", "round": 2, "scores": scores(70.0), "alone": scores(75.0)},
        {"stage": "control: second start", "round": 0, "scores": scores(72.0)},
        {"stage": "no iteration", "round": 0, "scores": scores(160.0)},
        {"stage": "no iteration, round", "round": 1, "scores": scores(160.0)},
    ]
    rows = results_table(records)
    assert [row.name for row in rows if row.group != PUBLISHED] == [
        "registration, round 1",
        "registration, round 2",
        "regressor, no iteration, round 1",
        "control: second start",
        "registration, new fits only, round 2",
    ]
    published = [row for row in rows if row.group == PUBLISHED]
    assert len(published) == 8
    assert all(row.errors == [None] * 5 and row.people is None for row in published)


def test_the_table_is_printed_with_the_papers_rows_marked():
    out = io.StringIO()
    records = [{"stage": "register", "round": 1, "scores": scores(80.0)}]
    print_results(Console(file=out, width=110), records)
    assert "registration, round 1" in out.getvalue()
    assert "81.2" in out.getvalue()
    assert "87.97*" in out.getvalue()
    assert "not comparable" in out.getvalue()


def test_errors_in_the_image_stand_in_a_table_of_their_own(fabricate, template):
    _, page = read(fabricate(), template)
    for number in ("0.38", "12.25", "11.25", "0.50", "62.50"):
        assert number in page.text, number
    assert "its bodies are" not in page.text  # where there are millimetres, they lead


def test_where_only_dense_points_were_labelled_the_page_leads_with_them(fabricate, template):
    run = fabricate(truth=False)
    records = RunFolder(run).records()
    for record in records:
        if "image" in record:
            record["image"] = {"keypoints": None, "found": None, "points": 3.75, "people": 6}
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    _, page = read(run, template)
    assert "its bodies are 3.8 % of the crop's side away from the dense points of 6" in page.text


def test_without_truth_what_is_printed_is_measured_in_the_image(fabricate):
    out = io.StringIO()
    records = RunFolder(fabricate(truth=False)).records()
    print_results(Console(file=out, width=110), records)
    assert "No 3D truth to measure an error in mm by" in out.getvalue()
    assert "87.97" not in out.getvalue()
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert "registration, round 1 train 0.38 62.50 6".split() in rows
    assert "regressor, round 2 test 11.25 62.50 6".split() in rows
    assert "regressor + refinement test 0.50 62.50 6".split() in rows


def test_a_run_from_before_there_were_errors_in_the_image_prints_its_millimetres():
    out = io.StringIO()
    records = [{"stage": "register", "round": 1, "scores": scores(80.0)}]
    print_results(Console(file=out, width=110), records)
    assert "in the image" not in out.getvalue()


def test_the_curve_has_lines_by_round_and_levels_without():
    records = [
        {"stage": "references", "round": 0, "mean_pose": scores(244.0)},
        {"stage": "register", "round": 1, "scores": scores(80.0)},
        {"stage": "register", "round": 2, "scores": scores(70.0), "alone": scores(75.0)},
        {"stage": "control: second start", "round": 0, "scores": scores(72.0)},
    ]
    lines = {line.name: line for line in curve(records)}
    assert lines["registration"].by_round == {1: 80.0, 2: 70.0}
    assert lines["mean training pose"].is_level
    assert lines["control: second start"].is_level
    assert len(lines) == 3


@pytest.mark.parametrize("wide", [True, False])
def test_the_chart_names_every_line_and_takes_the_colours_of_the_page(wide):
    lines = [
        Line("registration", "train", {1: 80.0, 2: 70.0}, True),
        Line("mean training pose", "test", {0: 244.0}, False),
    ]
    drawn = curve_svg(lines, wide=wide)
    assert drawn.startswith("<svg")
    assert "var(--fit)" in drawn
    assert "http" not in drawn
    words = " ".join(re.sub(r"<[^>]+>", " ", drawn).split())
    assert "70 registration" in re.sub(r"\s+", " ", words)
    assert "80" in words
    assert "244" in words


def test_labels_are_pushed_apart_and_keep_their_order():
    placed = _spread([100.0, 101.0, 100.5, 3.0], 10.0)
    ordered = placed[[3, 0, 2, 1]]
    assert (np.diff(ordered) >= 10 - 1e-6).all()
    np.testing.assert_allclose(_spread([200.0, 50.0], 10.0), [200.0, 50.0])
    assert _spread([0.0, 0.0], 10.0).min() >= 5.0


def test_the_axis_starts_at_zero():
    figure = draw_curve([Line("regressor", "test", {1: 150.0}, True)], wide=True)
    low, high = figure.axes[0].get_ylim()
    assert low == 0
    assert high > 150


@pytest.mark.parametrize(("other", "above"), [(145.0, False), (120.0, True), (134.2, True)])
def test_a_number_keeps_clear_of_the_dot_of_another_line(other, above):
    """Above its own dot, unless another line has one there; dots lie over the patches of numbers."""
    ours = Line("regressor", "test", {1: 134.0, 2: 131.0}, True)
    theirs = Line("no iteration", "test", {1: other, 2: 128.0}, False)
    axes = draw_curve([ours, theirs, Line("mean", "test", {0: 245.0}, False)], wide=True).axes[0]
    (number,) = [one for one in axes.texts if one.get_text() == "134"]
    assert (number.xyann[1] > 0) == above
    dots = [one for one in axes.lines if one.get_marker() == "o"]
    assert len(dots) == 2
    assert min(one.get_zorder() for one in dots) > number.get_zorder()


def test_an_error_that_is_not_a_number_is_left_out_of_the_curve():
    assert curve([{"stage": "register", "round": 1, "scores": scores(float("nan"))}]) == []


def test_people_are_chosen_by_rank_the_worst_first_and_nobody_twice():
    ranking = np.arange(100.0)
    chosen = choose(ranking, {WORST: 2, BEST: 2, RANDOM: 3})
    assert [kind for kind, _ in chosen] == [WORST] * 2 + [BEST] * 2 + [RANDOM] * 3
    assert [row for _, row in chosen[:4]] == [99, 98, 0, 1]
    for people in range(8):
        some = np.random.default_rng(people).random(people)
        rows = [row for _, row in choose(some, {WORST: 2, BEST: 2, RANDOM: 2})]
        assert len(rows) == len(set(rows)) == min(people, 6)
    assert choose(np.array([np.nan, 1.0]), {WORST: 2, RANDOM: 2}) == [(WORST, 1)]


def test_random_people_show_what_is_usual():
    ranking = np.arange(10_000.0)
    rows = [row for kind, row in choose(ranking, {WORST: 5, RANDOM: 50}) if kind == RANDOM]
    assert 3500 < np.mean(rows) < 6500


def test_fig_2_is_saved_as_png(fabricate, tmp_path):
    write_figure_curve(tmp_path / "curve.png", fabricate())
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_a_run_that_measured_nothing_has_no_figure(fabricate, tmp_path):
    with pytest.raises(InputError, match="no curve to draw"):
        write_figure_curve(tmp_path / "curve.png", fabricate(until=1))
