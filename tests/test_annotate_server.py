"""The annotation server over plain HTTP: who is let in, and what malformed requests get."""

import http.client
import json
import socket
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from deformlearn import local_pages
from deformlearn.annotate.command import annotate, serving, welcome
from deformlearn.data.shards import read_people
from deformlearn.errors import InputError

PAIR = {"edit": "add_pair", "person": 1, "x": 10.0, "y": 20.0, "face": 3, "barycentric": [1, 0, 0]}
VIEW = {"width": 120, "height": 160}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        Image.new("RGB", (64, 48), (number * 80, 90, 90)).save(folder / f"{number}.png")
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "3.png").write_bytes(b"nothing")
    return folder


@pytest.fixture
def server(tmp_path, template, photos):
    with serving(photos, tmp_path / "out", template, port=0) as running:
        yield running


def ask(server, path, body=None, *, token=None, headers=None, raw=None):
    """Status and content (read as json where it is) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    wanted = {} if body is None else {"Content-Type": "application/json"}
    wanted |= headers or {}
    content = raw if raw is not None else None if body is None else json.dumps(body)
    try:
        connection.request(
            "GET" if content is None else "POST",
            f"/{server.token if token is None else token}/{path}",
            content,
            wanted,
        )
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.headers.get_content_type() == "application/json":
        answer = json.loads(answer)
    return response.status, answer


# ---- who is let in


@pytest.mark.parametrize("path", ["", "api/session", "photo/0", "annotate.js"])
@pytest.mark.parametrize("token", ["", "wrong", "..", "%00"])
def test_without_the_token_nothing_is_told(server, path, token):
    status, answer = ask(server, path, token=token)
    assert status == 403
    assert "token and all" in answer["error"]


def test_without_the_token_nothing_is_changed(server):
    assert ask(server, "api/edit/0", PAIR, token="wrong")[0] == 403
    assert ask(server, "api/image/0")[1]["people"][0]["pairs"] == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", ""]
)
def test_a_foreign_host_name_is_refused(server, host):
    assert ask(server, "api/session", headers={"Host": host})[0] == 403


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:80", "LOCALHOST"])
def test_a_tunnel_may_come_from_another_port(server, host):
    assert ask(server, "api/session", headers={"Host": host})[0] == 200


def test_a_request_from_another_page_is_refused(server):
    headers = {"Origin": "http://evil.example"}
    assert ask(server, "api/edit/0", PAIR, headers=headers)[0] == 403
    own = {"Origin": f"http://127.0.0.1:{server.port}"}
    assert ask(server, "api/edit/0", PAIR, headers=own)[0] == 200


def test_it_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.address.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    "path",
    ["../../pyproject.toml", "photo/../annotate.js", "annotate/", "photo/-1", "photo/1e3", "api"],
)
def test_only_known_files_are_served(server, path):
    assert ask(server, path)[0] == 404


def test_the_page_may_load_from_its_own_server_only(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", f"/{server.token}/")
    response = connection.getresponse()
    page = response.read().decode()
    connection.close()
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "://" not in page


# ---- malformed requests


@pytest.mark.parametrize(
    ("raw", "headers", "status"),
    [
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"\xff", {"Content-Type": "application/json"}, 400),
        (b"[" * 50_000, {"Content-Type": "application/json"}, 400),
        (b"1" * 5_000, {"Content-Type": "application/json"}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {}, 415),
        (b"x" * ((1 << 20) + 1), {"Content-Type": "application/json"}, 413),
        (b"", {"Content-Type": "application/json", "Content-Length": "-5"}, 411),
        (b"", {"Content-Type": "application/json", "Content-Length": "9" * 40}, 411),
    ],
)
def test_a_malformed_body_gets_a_clear_status(server, raw, headers, status):
    try:
        got, answer = ask(server, "api/pick", headers=headers, raw=raw)
    except ConnectionError:
        assert status == 413  # refused unread, while the client was still sending
        return
    assert got == status
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("api/edit/0", {"edit": "nonsense"}, "unknown edit"),
        ("api/edit/0", [1], "json object"),
        ("api/edit/99", PAIR, "there is no image 99; there are 3"),
        ("api/edit/0", {"edit": "undo"}, "nothing to undo"),
        ("api/edit/0", {**PAIR, "x": 65}, "outside the image of 64x48"),
        ("api/edit/0", {**PAIR, "face": 192}, "from 0 to 191"),
        ("api/body", {}, "number for width"),
        ("api/body", {**VIEW, "yaw": "north"}, "number for yaw"),
        ("api/body", {**VIEW, "pose": 3}, "name of a pose"),
        ("api/body", {**VIEW, "points": 3}, "list of at most"),
        ("api/body", {**VIEW, "points": [{"face": -1}]}, "face as a whole number"),
        ("api/body", [], "a view as a json object"),
        ("api/pick", {**VIEW, "at_x": 1}, "number for at_y"),
        ("api/pick", {**VIEW, "at_x": 1, "at_y": 1, "zoom": 1e300}, "finite number for zoom"),
        ("api/suggest/0", {"person": 7, "x": 1, "y": 1}, "person 7 is not on this image"),
        ("api/suggest/0", {"person": "1"}, "number for person"),
        ("api/overlay/0", None, None),
    ],
)
def test_a_request_that_cannot_be_meant_gets_one_clear_line(server, path, body, message):
    if message is None:
        body, message = [], "a request as a json object"
    status, answer = ask(server, path, body)
    assert status == 422
    assert message in answer["error"]


# ---- what is said and saved


def test_the_overview_lists_images_and_what_was_left_out(server):
    _, overview = ask(server, "api/session")
    assert [one["name"] for one in overview["images"]] == ["0.png", "1.png", "2.png"]
    assert [one["where"] for one in overview["skipped"]] == ["3.png"]
    assert len(overview["joints"]) == 17


def test_a_photo_that_ends_early_is_an_answer_not_a_crash(server):
    assert ask(server, "photo/0")[0] == 200
    status, answer = ask(server, "photo/2")
    assert status == 422
    assert "cannot be decoded" in answer["error"]


def test_undo_and_redo_are_saved_like_any_change(server, tmp_path):
    def pairs():
        journal = json.loads((tmp_path / "out" / "journal" / "1.png.json").read_text())
        return [pair["number"] for pair in journal["marks"]["people"][0]["pairs"]]

    for number in range(7):
        ask(server, "api/edit/1", {**PAIR, "x": 10.0 + number, "y": 20.0 - number})
    assert pairs() == [1, 2, 3, 4, 5, 6, 7]
    assert len(read_people(tmp_path / "out", "train").keys) == 1
    for _ in range(3):
        _, state = ask(server, "api/edit/1", {"edit": "undo"})
    assert (state["can_undo"], state["can_redo"], state["ready"]) == (True, True, 0)
    assert pairs() == [1, 2, 3, 4]
    assert not list((tmp_path / "out" / "observations").glob("*.parquet"))
    ask(server, "api/edit/1", {"edit": "redo"})
    assert pairs() == [1, 2, 3, 4, 5]
    _, state = ask(server, "api/edit/1", PAIR)
    assert state["can_redo"] is False


def test_clicks_from_many_threads_are_all_saved(server, tmp_path):
    def add():
        for _ in range(4):
            assert ask(server, "api/edit/0", PAIR)[0] == 200

    threads = [threading.Thread(target=add) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, state = ask(server, "api/image/0")
    assert [pair["number"] for pair in state["people"][0]["pairs"]] == list(range(1, 21))


def test_a_picked_point_and_its_place_in_the_picture_agree(server):
    _, session = ask(server, "api/session")
    at = (60.0, 60.0)
    found = {"face": None}
    for y in range(10, 150, 4):
        at = (60.0, float(y))
        _, found = ask(server, "api/pick", {**VIEW, "at_x": at[0], "at_y": at[1]})
        if found["face"] is not None:
            break
    point = {"face": found["face"], "barycentric": found["barycentric"]}
    _, drawn = ask(server, "api/body", {**VIEW, "points": [point]})
    x, y, seen, _, _ = drawn["points"][0]
    assert seen
    np.testing.assert_allclose((x, y), at, atol=0.02)
    assert drawn["picture"].startswith("data:image/png;base64,")
    assert len(drawn["keypoints"]) == len(session["joints"])


def test_a_failed_save_is_said_and_changes_nothing(server, monkeypatch):
    def full(path, content):
        raise InputError(f"cannot write {path.name}: No space left on device")

    monkeypatch.setattr("deformlearn.annotate.archive.write_atomically", full)
    status, answer = ask(server, "api/edit/0", PAIR)
    assert (status, "No space left" in answer["error"]) == (422, True)
    assert ask(server, "api/image/0")[1]["people"][0]["pairs"] == []


# ---- starting and stopping


def test_a_port_in_use_says_what_to_do(tmp_path, template, photos):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} is in use; choose another with --port"):
            annotate(photos, tmp_path / "out", template, port=port, open_browser=False)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 99999)])
def test_an_address_that_cannot_be_served_is_refused(tmp_path, template, photos, host, port):
    with (
        pytest.raises(InputError, match="cannot serve at"),
        serving(photos, tmp_path / "out", template, host=host, port=port),
    ):
        pass


def test_two_servers_never_share_a_folder(tmp_path, template, photos, server):
    with (
        pytest.raises(InputError, match="is being annotated by another"),
        serving(photos, tmp_path / "out", template, port=0),
    ):
        pass


def test_what_a_server_that_was_killed_left_half_written_is_cleared(tmp_path, template, photos):
    for _ in range(2):
        with serving(photos, tmp_path / "out", template, port=0):
            assert not list((tmp_path / "out").rglob("*.part"))
        (tmp_path / "out" / "observations").mkdir(exist_ok=True)
        (tmp_path / "out" / "observations" / ".train-00000.parquet.7.part").touch()


def test_a_template_without_the_landmarks_is_refused(tmp_path, template, photos):
    from dataclasses import replace

    bare = replace(template, landmark_names=tuple(f"x{n}" for n in template.landmark_names))
    with (
        pytest.raises(InputError, match="has no landmark coco_nose for the joint set 'coco17'"),
        serving(photos, tmp_path / "out", bare, port=0),
    ):
        pass


def test_the_welcome_tells_how_to_tunnel_where_there_is_no_display(server, tmp_path, monkeypatch):
    monkeypatch.setattr(local_pages, "has_display", lambda: False)
    text = "\n".join(welcome(server, tmp_path))
    assert server.address in text
    assert f"ssh -L {server.port}:127.0.0.1:{server.port}" in text


def test_stopping_says_where_the_work_is(tmp_path, template, photos, monkeypatch, capsys):
    monkeypatch.setattr(local_pages, "wait_for_interrupt", lambda: None)
    annotate(photos, tmp_path / "out", template, port=0, open_browser=False)
    said = capsys.readouterr().err
    assert "0 people on 0 images" in said
    assert "skipped 3.png" in said


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_a_stopped_server_lets_its_port_go(tmp_path, template, photos):
    with serving(photos, tmp_path / "out", template, port=0) as first:
        ask(first, "api/session")
        port = first.port
    with serving(photos, tmp_path / "out", template, port=port) as second:
        assert ask(second, "api/session")[0] == 200
