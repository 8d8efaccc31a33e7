"""The viewer's windows and pages without a browser: controls, who may look, and what is refused."""

import json

import numpy as np
import pytest
import torch

from conftest import octahedra
from deformlearn.skeleton import SEGMENTS
from deformlearn.viewer import cards, drawing
from deformlearn.viewer.canvas import Patchwork
from deformlearn.viewer.command import serving
from deformlearn.viewer.guard import is_own
from deformlearn.viewer.page import write_page
from deformlearn.viewer.people import in_view
from deformlearn.viewer.people_window import PAGE, Shown
from deformlearn.viewer.source import open_source
from viewer_people import body_of_run, name, opened_run, run_on_disk, saved, write_data, write_run  # noqa: F401 (fixtures)

# ---- the windows, moved as their controls move them


@pytest.fixture
def window(source):
    with serving(source, port=0) as (_, window):
        yield window


def test_the_window_opens_on_the_worst_fit_after_the_last_round(window):
    assert window.shown == Shown(3, 2, "after")
    assert np.array_equal(
        window._meshes["/body"].vertices,
        in_view(window._template, window._person.body(2, "after").estimate),
    )


def test_stepping_walks_the_list_and_stops_at_its_ends(window):
    listed = window._listed.tolist()
    window.step(-1)
    assert window.shown.number == listed[0]
    for number in listed[1:]:
        window.step(1)
        assert window.shown.number == number
        assert window._person.key == window._roll.key(number)
    window.step(1)
    assert window.shown.number == listed[-1]


def test_controls_follow_and_move_what_is_shown(window):
    window._round.value = 1
    assert window.shown.round == 1
    window._step.value = cards.STEP_NAMES["before"]
    expected = in_view(window._template, window._person.body(1, "before").estimate)
    assert np.array_equal(window._meshes["/body"].vertices, expected)
    window._toggle_step()
    assert window._step.value == cards.STEP_NAMES["after"]
    window._ghost.value = True
    assert window._meshes["/ghost"].visible
    window._photo.value = False
    assert not window._plane.visible
    window._split.value = "test"
    assert window._roll.split(window.shown.number) == "test"
    window._text.value = "nobody is called this"
    assert not any(button.visible for button in window._rows)
    assert "nobody" in window._count.content


def test_a_step_that_a_round_has_not_is_replaced_and_said(window):
    window.show(Shown(window._roll.keys.index(name("test", 0)), 1, "after"))
    assert window._body().step == "before"
    assert "there is none after the fit in this round" in window._card.content


def test_names_are_shown_as_they_are_and_never_as_markup(window):
    assert "&lt;b&gt;&amp;" in window._card.content
    assert "<b>&" not in window._card.content


def test_the_card_holds_the_numbers_of_every_body(window):
    for body in window._person.bodies:
        assert f"{body.quality.reprojection_px.item():.2f}" in window._card.content
    assert "seen from inside" in window._card.content


def test_long_lists_are_paged(tmp_path):
    template = octahedra()
    data = write_data(tmp_path, template, train=PAGE + 2, test=1)
    source = open_source(str(data), template=saved(template, tmp_path))
    with serving(source, port=0) as (_, window):
        window._turn_page(">|")
        assert [button.visible for button in window._rows] == [True] * 3 + [False] * (PAGE - 3)
        window.pick(2)
        assert window.shown.number == PAGE + 2
        window._turn_page("|<")
        assert all(button.visible for button in window._rows)


@pytest.fixture
def mannequin(body):
    with serving(open_source(body), port=0) as (_, window):
        yield window


def drawn(window):
    """All vertices of the patches, each where the mesh has it."""
    vertices = np.full((len(window._template.vertices), 3), np.nan, np.float32)
    for used, handle in window._mesh._parts:
        vertices[used] = handle.vertices
    return vertices


def test_sliders_pose_the_template_as_torch_does(mannequin):
    mannequin._which.value = "left knee"
    assert mannequin._turns[0].max == np.ceil(np.degrees(2.4))
    mannequin._turns[0].value = 40.0
    mannequin._size.value = 1.5
    parameters = mannequin.parameters()
    knee = SEGMENTS.index("left_knee")
    turn = mannequin._template.limit_axes[knee - 1, 0] * np.radians(40)
    torch.testing.assert_close(parameters.pose[0, knee - 1], turn)
    assert parameters.scales[0, knee] == 1.5
    assert mannequin._all[knee].value == 1.5
    np.testing.assert_array_equal(drawn(mannequin), mannequin._vertices())
    mannequin._reset()
    np.testing.assert_allclose(drawn(mannequin), mannequin._template.vertices, atol=1e-6)
    assert mannequin._turns[0].value == 0


def test_limits_are_kept_or_else_told(mannequin):
    mannequin._which.value = "left knee"
    mannequin.set("left_knee", "flexion", 170.0)
    highest = np.degrees(2.4)
    assert mannequin.angles[SEGMENTS.index("left_knee") - 1, 0] == pytest.approx(highest)
    mannequin._keep.value = False
    mannequin.set("left_knee", "flexion", 160.0)
    assert "beyond limits: left knee" in mannequin._card.content
    mannequin._keep.value = True
    assert mannequin.angles[SEGMENTS.index("left_knee") - 1, 0] == pytest.approx(highest)
    assert "beyond limits" not in mannequin._card.content


def test_choosing_a_joint_never_moves_the_body(mannequin):
    before = drawn(mannequin)
    for segment in SEGMENTS:
        mannequin._which.value = segment.replace("_", " ")
        np.testing.assert_array_equal(drawn(mannequin), before)


def test_weights_are_painted_for_the_chosen_segment(mannequin):
    mannequin._paint.value = "weights of the chosen"
    mannequin._which.value = "head"
    assert len(mannequin._mesh._parts) == 2
    (used, _), (head, _) = mannequin._mesh._parts
    weights = mannequin._template.weights[:, SEGMENTS.index("head")].numpy()
    assert (weights[used] == 0).all()
    assert (weights[head] == 1).all()


def test_patches_cover_every_face_once(source):
    template = source.template
    owner, colours = drawing.patches(template)
    assert (owner == np.repeat(np.arange(24), 8)).all()
    assert len(np.unique(colours, axis=0)) == 24
    with serving(source, port=0) as (server, _):
        patchwork = Patchwork(
            server, "/x", template.vertices.numpy(), template.faces.numpy(), owner, colours
        )
        assert sum(len(handle.faces) for _, handle in patchwork._parts) == len(template.faces)


# ---- who may look


@pytest.mark.parametrize(
    ("origin", "asked", "host", "own"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1", True),
        ("http://localhost:9000", "localhost:9000", "127.0.0.1", True),
        ("http://[::1]:8080", "[::1]:8080", "127.0.0.1", True),
        (None, "127.0.0.1:8080", "127.0.0.1", True),
        ("https://evil.example", "127.0.0.1:8080", "127.0.0.1", False),
        ("http://evil.example:8080", "evil.example:8080", "127.0.0.1", False),
        ("null", "127.0.0.1:8080", "127.0.0.1", False),
        ("http://192.168.1.5:8080", "192.168.1.5:8080", "127.0.0.1", False),
        ("http://192.168.1.5:8080", "192.168.1.5:8080", "0.0.0.0", True),
        ("http://evil.example:8080", "evil.example:8080", "0.0.0.0", False),
    ],
)
def test_only_pages_of_an_honest_name_of_this_machine_are_answered(origin, asked, host, own):
    assert is_own(origin, asked, host) is own


def heard(port, origin):
    """What a page of some origin is sent when it opens a socket to the viewer."""
    import viser
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    protocol = f"viser-v{viser.__version__}"
    with connect(
        f"ws://127.0.0.1:{port}", origin=origin, subprotocols=[protocol], max_size=None
    ) as ws:
        try:
            return len(ws.recv(timeout=10))
        except ConnectionClosed:
            return 0


def test_a_page_of_another_site_is_sent_nothing(source):
    with serving(source, port=0) as (server, _):
        port = server.get_port()
        assert heard(port, f"http://127.0.0.1:{port}") > 0
        assert heard(port, "https://evil.example") == 0


# ---- the page


def test_the_page_of_a_run_is_one_file_that_forbids_any_request(source, tmp_path):
    path = tmp_path / "people, gezeigt 人.html"
    size = write_page(path, source, [0, 5])
    page = path.read_text("utf-8")
    assert size == path.stat().st_size
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page
    # A name may be "<!--<script>", in which no </script> ends the element.
    data = page.split('id="data">')[1].split("</script>")[0]
    assert "<" not in data
    assert json.loads(data)["people"][0]["key"] == source.roll.key(0)
