"""The report of fabricated runs: whole, half done, without truth, with hostile names."""

import html
import io
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from deformlearn.config import RunConfig
from deformlearn.curve import Line, _spread, curve_svg, draw_curve
from deformlearn.data.estimates import Estimates, write_estimates
from deformlearn.data.shards import DatasetInfo, Row, TruthRow, write_info, write_rows, write_truth
from deformlearn.errors import InputError
from deformlearn.estimate import Quality, camera_joints
from deformlearn.portraits import GOOD, MEDIAN, TEST_PANELS, TRAIN_PANELS, WORST, choose
from deformlearn.report import (
    PUBLISHED,
    curve,
    print_results,
    results_table,
    write_figure_curve,
    write_figure_strip,
    write_report,
)
from deformlearn.rundir import RunFolder
from deformlearn.skeleton import JOINT_SETS

HOSTILE = "<script>alert('x')</script>"


def jpeg():
    buffer = io.BytesIO()
    gradient = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    Image.fromarray(gradient).save(buffer, "JPEG")
    return buffer.getvalue()


def scores(raw, action="Walking"):
    numbers = {"raw": raw, "bone_sum": raw + 1.25, "true_size": raw - 2.5, "aligned": raw / 2}
    numbers["vertices"] = None
    return {**numbers, "people": 6, "by_action": {action: {**numbers, "people": 6}}}


@pytest.fixture
def fabricate(template, planted, tmp_path):
    """Writes a data set and a run of two rounds; arguments leave parts out."""

    def make(*, truth=True, test=True, until=99, names=(), broken=False, description="planted"):
        data, run = tmp_path / "data", tmp_path / "run"
        landmarks = template.landmark_names
        info = DatasetInfo("octahedra", template.fingerprint, "skeleton25", landmarks, description)
        write_info(data, info)
        splits = {}
        for split in ("train", "test") if test else ("train",):
            estimate, seen, crop = planted(template, 6, seed=len(split))
            keys = [*names, *(f"{split}-{row}" for row in range(6))][:6]
            pixels, joints = crop.to_pixels(seen.points), crop.to_pixels(seen.keypoints)
            rows = [
                Row(
                    key=keys[i], crop=(64.0, 64.0, 64.0), points=pixels[i].numpy(),
                    faces=seen.faces[i].numpy(), barycentric=seen.barycentric[i].numpy(),
                    point_weights=np.ones(60, np.float32), keypoints=joints[i].numpy(),
                    keypoint_weights=seen.keypoint_weights[i].numpy(), action="Walking",
                    image=b"no image" if broken else jpeg(),
                )
                for i in range(6)
            ]  # fmt: skip
            write_rows(data, split, 0, rows)
            if truth:
                true = torch.zeros(6, len(landmarks), 3)
                joints = camera_joints(template, estimate) * 1000
                for joint, name in enumerate(JOINT_SETS["h36m17"].landmarks):
                    true[:, landmarks.index(name)] = joints[:, joint]
                write_truth(
                    data, split, 0,
                    [TruthRow(key, one.numpy()) for key, one in zip(keys, true, strict=True)],
                )  # fmt: skip
            splits[split] = keys, estimate, crop
        with RunFolder(run) as folder:
            folder.begin(RunConfig(rounds=2), {"path": str(data), "template": asdict(info)})
            _stages(folder, template, splits, truth, until)
        return run

    return make


def _stages(folder, template, splits, truth, until):
    ones = torch.ones(6)
    quality = Quality(ones, ones, ones, torch.arange(6.0) + 0.25, ones, ones > 0)
    maybe = (lambda raw: scores(raw)) if truth else (lambda raw: None)

    def register(round_):
        keys, estimate, crop = splits["train"]
        path = folder.round_path(round_, "estimates.parquet")
        write_estimates(path, Estimates(keys, estimate, crop, quality), template)
        extra = {"replaced": 0.37, "alone": maybe(99.5)} if round_ > 1 else {}
        folder.finish("register", round_, split="train", scores=maybe(80.5 - round_), seconds=61.5,
                      reprojection_px=1.5, flagged=2, **extra)  # fmt: skip

    def learn(round_):
        extra = {}
        if "test" in splits:
            keys, estimate, crop = splits["test"]
            path = folder.round_path(round_, "predictions-test.parquet")
            write_estimates(path, Estimates(keys, estimate, crop), template)
            extra["scores"] = maybe(150.75 - round_)
        folder.finish("learn", round_, split="test", losses=[], seconds=200.0, **extra)

    def refine():
        if "test" in splits:
            keys, estimate, crop = splits["test"]
            path = folder.round_path(2, "refined-test.parquet")
            write_estimates(path, Estimates(keys, estimate, crop, quality), template)
            folder.finish("refine", 2, split="test", scores=maybe(70.125))

    references = {"mean_pose": scores(244.0), "lifter_only": scores(140.0)} if truth else {}
    steps = [
        lambda: folder.finish("lifter", steps=10, seconds=5.0),
        lambda: folder.finish("references", **references),
        lambda: register(1), lambda: learn(1), lambda: register(2), lambda: learn(2), refine,
    ]  # fmt: skip
    for step in steps[:until]:
        step()


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self._style = [], [], False
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag):
        self._style = False

    def handle_data(self, data):
        if not self._style:
            self.words.append(data)


def read(run, template):
    path = write_report(run, template)
    assert path == run / "report.html"
    return path.read_text("utf-8"), Page(path.read_text("utf-8"))


def test_the_page_fetches_nothing_and_stays_small(fabricate, template):
    text, page = read(fabricate(), template)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/jpeg;base64,")), (tag, name, value[:80])
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    assert len(text) < 15_000_000


def test_the_numbers_of_the_records_stand_on_the_page(fabricate, template):
    _, page = read(fabricate(), template)
    for number in ("79.5", "78.5", "149.8", "148.8", "70.1", "244.0", "140.0", "99.5", "37 %"):
        assert number in page.text, number
    for number in ("87.97", "60.27", "49.6", "131.7", "106.84", "173.2", "96.99", "115.3"):
        assert f"{number} as printed" in page.text, number
    assert PUBLISHED in page.text
    assert "What this page cannot show" not in page.text
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    people = 4  # of six: the best, the median and the two worst
    assert len(pictures) == people * (len(TEST_PANELS) + len(TRAIN_PANELS))
    assert all(picture["alt"] for picture in pictures)


def test_the_sections_that_the_page_links_to_exist(fabricate, template):
    _, page = read(fabricate(), template)
    names = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 8
    assert {link[1:] for link in links} <= names


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


def test_without_truth_there_is_a_page_without_errors_in_mm(fabricate, template):
    _, page = read(fabricate(truth=False), template)
    assert "This run has measured no error in millimetres." in page.text
    assert "The data set has no 3D truth" in page.text
    assert "svg" not in {tag for tag, _ in page.tags}
    assert "distance from the 2D labels" in page.text
    assert any(tag == "img" for tag, _ in page.tags)


def test_without_a_test_split_the_page_shows_the_registrations(fabricate, template):
    _, page = read(fabricate(test=False), template)
    assert "no test split" in page.text
    assert "78.5 mm" in page.text
    assert "The test predictions are not refined yet" not in page.text


def test_without_its_data_set_or_with_broken_images_the_page_keeps_its_numbers(fabricate, template):
    run = fabricate(broken=True)
    _, page = read(run, template)
    assert "cannot be decoded" in page.text
    assert "78.5" in page.text
    (run.parent / "data").rename(run.parent / "elsewhere")
    _, page = read(run, template)
    assert "is not a data set" in page.text
    assert "78.5" in page.text


def test_a_moved_data_set_can_be_named(fabricate, template):
    run = fabricate()
    moved = (run.parent / "data").rename(run.parent / "elsewhere")
    text = write_report(run, template, data=moved).read_text("utf-8")
    assert "What this page cannot show" not in text
    assert "<img" in text


def test_names_are_shown_as_they_are_and_never_run(fabricate, template):
    names = [HOSTILE, "ключ-ё", "人物", 'a"b', "x & y", "{{ 7 * 7 }}"]
    text, page = read(fabricate(names=names, description=f"{HOSTILE} данные"), template)
    assert "<script" not in text
    assert f"{HOSTILE} данные" in page.text
    shown = [name for name in names if name in html.unescape(text)]
    assert len(shown) >= 4
    assert "49" not in {word for word in page.words if word.strip() == "49"}


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


def test_settings_that_differ_from_the_paper_are_told_apart(fabricate, template):
    text, _ = read(fabricate(), template)
    changed, same = text.split("<details>")[0], text.split("<details>")[1]
    assert "registration.robust" in changed
    assert "registration.robust" not in same
    assert "registration.dense_weight" in same


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


def test_an_error_that_is_not_a_number_is_left_out_of_the_curve():
    assert curve([{"stage": "register", "round": 1, "scores": scores(float("nan"))}]) == []


def test_people_are_chosen_by_rank_and_nobody_twice():
    ranking = torch.arange(100.0).flip(0)
    chosen = choose(ranking, 2)
    assert [kind for kind, _ in chosen] == [GOOD, GOOD, MEDIAN, MEDIAN, WORST, WORST]
    assert [ranking[row].item() for _, row in chosen] == [5, 10, 48, 50, 98, 99]
    for people in range(8):
        rows = [row for _, row in choose(torch.rand(people), 2)]
        assert len(rows) == len(set(rows)) <= people
    assert choose(torch.tensor([torch.nan, 1.0]), 2) == [(WORST, 1)]


def test_figures_are_saved_as_png(fabricate, template, tmp_path):
    run = fabricate()
    write_figure_curve(tmp_path / "curve.png", run)
    write_figure_strip(tmp_path / "strip.png", run, template)
    for name in ("curve.png", "strip.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"
            assert picture.width > 1000


def test_a_run_that_measured_nothing_has_no_figures(fabricate, template, tmp_path):
    run = fabricate(until=1)
    with pytest.raises(InputError, match="no curve to draw"):
        write_figure_curve(tmp_path / "curve.png", run)
    with pytest.raises(InputError, match="no person to show"):
        write_figure_strip(tmp_path / "strip.png", run, template)
