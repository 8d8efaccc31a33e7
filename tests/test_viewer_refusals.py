"""Bad input of `deformlearn view`: one clear line each, and whatever is whole is shown."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from conftest import octahedra, plant
from deformlearn.data.estimates import Estimates, write_estimates
from deformlearn.errors import InputError
from deformlearn.local_pages import address
from deformlearn.viewer.command import _chosen, serving, view, welcome
from deformlearn.viewer.page import write_page
from deformlearn.viewer.people import People
from deformlearn.viewer.people_window import Shown
from deformlearn.viewer.roll import Choice
from deformlearn.viewer.screenshot import find_browser
from deformlearn.viewer.source import open_source
from viewer_people import body_of_run, name, opened_run, run_on_disk, saved, write_data, write_run  # noqa: F401 (fixtures)


@pytest.fixture
def copied(run, tmp_path):
    """A run that may be damaged, with data of its own."""
    shutil.copytree(run.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / "run"
    config = json.loads((copy / "config.json").read_text())
    config["data"]["path"] = str(copy.parent / "data")
    (copy / "config.json").write_text(json.dumps(config))
    return copy


# ---- bad input: one clear line each


def refuse(*words, **changes):
    """The one line that the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "deformlearn", "view", *map(str, words)], capture_output=True,
        text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"} | changes,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = (text for text in done.stderr.splitlines() if text.startswith("deformlearn:"))
    return line


@pytest.mark.parametrize(
    ("option", "file", "ending"),
    [("--screenshot", "x.jpg", ".png"), ("--html", "x.txt", ".html"), ("--html", "x", ".html")],
)
def test_a_name_of_another_kind_of_file_is_refused(tmp_path, run, option, file, ending):
    assert f"give a name that ends with {ending}" in refuse(run, option, tmp_path / file)
    assert not (tmp_path / file).exists()


def test_the_command_refuses_in_one_line(tmp_path, run, body):
    (tmp_path / "empty.parquet").write_bytes(b"")
    assert "is empty" in refuse(tmp_path / "empty.parquet")
    assert "give its file with --template" in refuse(run)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refuse(run, "--template", body, "--port", port)
    assert f"port {port} is in use; choose another with --port" in line


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("no such host at all", 0, "cannot serve at"),
        ("203.0.113.7", 0, "cannot serve at"),
        ("127.0.0.1", -1, "there is no port -1"),
        ("127.0.0.1", 99999, "there is no port 99999"),
    ],
)
def test_addresses_that_are_none_are_refused(source, host, port, reason):
    with pytest.raises(InputError, match=reason), serving(source, host=host, port=port):
        pass


def test_another_template_is_named(run):
    with pytest.raises(InputError, match="was made with the template 'octahedra'"):
        open_source(str(run), template="anny")


def test_a_network_is_no_picture(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"layer": torch.zeros(1)}, tmp_path / "network.safetensors")
    with pytest.raises(InputError, match="is a network; give its run folder"):
        open_source(str(tmp_path / "network.safetensors"))


def test_estimates_without_their_images_show_bodies_and_say_what_is_missing(copied, body):
    shutil.rmtree(copied.parent / "data")
    config = json.loads((copied / "config.json").read_text())
    config["data"]["path"] = "/gone/data"
    (copied / "config.json").write_text(json.dumps(config))
    source = open_source(str(copied), template=body)
    person = People(source.found, source.template).read(name("train", 0), "train", 0)
    assert person.photo is None
    assert person.seen is None
    assert len(person.bodies) == 5
    assert person.notes == (
        "the data set /gone/data is not there; name where it is now with --data",
    )
    with serving(source, port=0) as (_, window):
        assert "name where it is now with --data" in window._card.content
        assert window._meshes["/body"].visible


def test_a_data_set_can_be_named(copied, body):
    shutil.move(copied.parent / "data", copied.parent / "photos – neu")  # noqa: RUF001
    source = open_source(str(copied), data=str(copied.parent / "photos – neu"), template=body)  # noqa: RUF001
    person = People(source.found, source.template).read(name("test", 1), "test", 1)
    assert person.photo is not None
    assert source.found.notes == ()
    with pytest.raises(InputError, match="is not a data set"):
        open_source(str(copied), data=str(copied), template=body)
    moved = str(source.found.data)
    with pytest.raises(InputError, match="is a data set; --data is for runs and estimates"):
        open_source(moved, data=moved, template=body)


def test_data_of_other_people_with_the_same_names_are_told(run, body, tmp_path):
    write_data(tmp_path / "others", octahedra(), train=7)
    others, own = str(tmp_path / "others"), str(run.parent / "data")
    source = open_source(str(run), data=others, template=body)
    (note,) = source.found.notes
    assert note.startswith(f"the labels of train in {others} are not those that {run} began with")
    assert open_source(str(run), data=own, template=body).found.notes == ()


def test_estimates_alone_find_their_people_in_any_split(run, body, tmp_path):
    shutil.copy(run / "round-2" / "estimates.parquet", tmp_path / "fits.parquet")
    source = open_source(
        str(tmp_path / "fits.parquet"), data=str(run.parent / "data"), template=body
    )
    person = People(source.found, source.template).read(name("train", 3), "", 3)
    assert person.photo is not None
    assert [(b.round, b.step) for b in person.bodies] == [(0, "after")]
    with serving(source, port=0) as (_, window):
        assert window._body().quality is not None


def test_predictions_of_new_pictures_are_shown_over_them(tmp_path):
    template = octahedra()
    truth, _, crop = plant(template, 2, 0)
    keys = ["holiday_p3", "portrait"]
    write_estimates(tmp_path / "estimates.parquet", Estimates(keys, truth, crop), template)
    grey = np.full((200, 128, 3), 90, np.uint8)
    grey[:64, :64] = 250
    Image.fromarray(grey).save(tmp_path / "holiday.png")
    source = open_source(str(tmp_path), images=tmp_path, template=saved(template, tmp_path))
    person = source.people.read("holiday_p3", "", 0)
    assert person.photo.shape == (512, 512, 3)
    # The crop is the upper 128 x 128 px of the picture.
    assert (person.photo[:250, :250] == 250).all()
    assert (person.photo[262:, 262:] == 90).all()
    assert person.bodies[0].origin == "estimate"
    other = source.people.read("portrait", "", 1)
    assert other.photo is None
    assert "holds no picture of 'portrait'" in other.notes[0]


def test_a_run_that_is_still_written_is_shown_as_far_as_it_is_whole(copied, body):
    (copied / "round-2" / "estimates.parquet").write_bytes(b"PAR1 cut off")
    (copied / "round-2" / "predictions-train.parquet").unlink()
    source = open_source(str(copied), template=body)
    assert "round-2/estimates.parquet is not whole and is left out" in source.found.notes
    person = People(source.found, source.template).read(name("train", 0), "train", 0)
    assert [(b.round, b.step) for b in person.bodies] == [
        (1, "before"),
        (1, "after"),
        (1, "network"),
    ]


def spoil(path, column, row, value):
    """Another value in one row of a file."""
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    at = table.schema.get_field_index(column)
    changed = pa.array(values, table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), changed), path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_body_that_is_no_number_is_left_out_and_harms_nobody_else(copied, body, value, tmp_path):
    file = copied / "round-2" / "estimates.parquet"
    spoil(file, "translation", 0, [value, 0.0])
    source = open_source(str(copied), template=body)
    person = People(source.found, source.template).read(name("train", 0), "train", 0)
    assert person.body(2, "after") is None
    assert person.body(1, "after") is not None
    (note,) = person.notes
    assert note.startswith("estimates.parquet of round 2 has no body of this person")
    write_page(tmp_path / "page.html", source, [0, 1])
    with serving(source, port=0) as (_, window):
        window.show(Shown(0, 2, "after"))
        assert np.isfinite(window._meshes["/body"].vertices).all()


def test_someone_without_any_body_leaves_the_window_as_it_was(run, body, tmp_path):
    file = tmp_path / "fits.parquet"
    shutil.copy(run / "round-2" / "estimates.parquet", file)
    spoil(file, "scale", 1, np.nan)
    source = open_source(str(file), template=body)
    with serving(source, port=0) as (_, window):
        for number in (0, 1, 2):
            window.show(Shown(number, 0, "after"))
            assert (window._painted is not None) == (number == 1)
            assert window._meshes["/body"].visible == (number != 1)


def test_a_file_that_changes_while_it_is_looked_at_does_not_stop_the_walk(run, body, tmp_path):
    file = tmp_path / "fits.parquet"
    shutil.copy(run / "round-2" / "estimates.parquet", file)
    with serving(open_source(str(file), template=body), port=0) as (_, window):
        whole = file.read_bytes()
        file.write_bytes(b"PAR1 cut off")
        window.step(1)
        second = window.shown.number
        assert "nothing is known of" in window._card.content
        file.write_bytes(whole)
        window.step(1)
        assert window.shown.number != second
        assert "nothing is known of" not in window._card.content


def test_a_nameless_row_is_listed(run, body, tmp_path):
    file = tmp_path / "fits.parquet"
    shutil.copy(run / "round-2" / "estimates.parquet", file)
    spoil(file, "key", 1, None)
    with serving(open_source(str(file), template=body), port=0) as (_, window):
        window.show(Shown(1, 0, "after"))
        assert window._meshes["/body"].visible


def test_without_the_shards_of_a_split_its_bodies_are_shown(copied, body):
    (copied / "shards.json").unlink()
    (copied.parent / "data" / "observations" / "train-00000.parquet").unlink()
    source = open_source(str(copied), template=body)
    person = People(source.found, source.template).read(name("train", 0), "train", 0)
    assert person.bodies
    assert person.notes == ("the data set has no such person",)


def test_more_people_than_a_page_holds_are_refused(source, tmp_path):
    with pytest.raises(InputError, match="a page holds 200 people at the most, and 201"):
        write_page(tmp_path / "page.html", source, [0] * 201)


def test_a_run_without_anyone_is_refused(copied, body):
    for folder in copied.glob("round-*"):
        shutil.rmtree(folder)
    shutil.rmtree(copied.parent / "data" / "observations")
    with pytest.raises(InputError, match=r"has nobody to show: .* has no estimates yet"):
        open_source(str(copied), template=body)


def test_a_run_before_its_first_round_shows_its_data(copied, body):
    for folder in copied.glob("round-*"):
        shutil.rmtree(folder)
    source = open_source(str(copied), template=body)
    assert len(source.roll) == 7
    assert source.found.notes == (f"{copied} has no estimates yet",)


def test_a_photograph_that_cannot_be_read_costs_itself_alone(tmp_path):
    template = octahedra()
    data = write_data(tmp_path, template, images=False)
    source = open_source(str(data), template=saved(template, tmp_path))
    person = People(source.found, template).read(name("train", 0), "train", 0)
    assert person.photo is None
    assert person.seen is not None
    assert person.notes == ("it has no image",)


def test_people_are_named_or_refused(source):
    assert _chosen(source, [name("test", 1), name("train", 0)]) == [5, 0]
    assert _chosen(source, ["5", "1-2", "6-"]) == [5, 1, 2, 6]
    assert _chosen(source, None) == source.roll.choose(Choice())[:6].tolist()
    with pytest.raises(InputError, match=r"nobody in .* is called 'nobody'; there are 7 people"):
        _chosen(source, ["nobody"])


def test_without_a_browser_a_screenshot_says_what_to_do(monkeypatch):
    monkeypatch.delenv("DEFORMLEARN_BROWSER", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("deformlearn.viewer.screenshot._PLACES", ())
    with pytest.raises(InputError, match="no Chromium, Chrome or Edge was found; install one"):
        find_browser()
    monkeypatch.setenv("DEFORMLEARN_BROWSER", "/no/such/browser")
    with pytest.raises(InputError, match="which is no program; correct it"):
        find_browser()


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands in for a browser")
def test_a_browser_that_cannot_draw_is_named_with_its_reason(run, body, tmp_path, monkeypatch):
    fake = tmp_path / "browser"
    fake.write_text("#!/bin/sh\necho 'no display' >&2\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("DEFORMLEARN_BROWSER", str(fake))
    with pytest.raises(InputError, match=r"could not draw the picture \(no display\)"):
        view(str(run), template=body, screenshot=tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_where_nothing_can_be_written_is_said(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_page(tmp_path / "file" / "page.html", source, [0])


def test_a_headless_server_is_told_how_to_tunnel(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    lines = welcome("127.0.0.1", 8123)
    assert lines[0].endswith("http://127.0.0.1:8123")
    assert f"ssh -L 8123:127.0.0.1:8123 {socket.gethostname()}" in lines[-1]
    monkeypatch.setenv("DISPLAY", ":0")
    assert len(welcome("127.0.0.1", 8123)) == 2
    assert address("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert address("::1", 80) == "http://[::1]:80"


def test_the_viewer_prints_nothing_of_its_own(source, capsys):
    with serving(source, port=0):
        pass
    assert capsys.readouterr() == ("", "")
