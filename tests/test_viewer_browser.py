"""The viewer, its pages and its pictures in a real headless Chromium, against what torch computes."""

import base64
import io
import json
import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import octahedra
from deformlearn import templates
from deformlearn.body import BodyParameters, skin
from deformlearn.local_pages import address
from deformlearn.raster import rasterise
from deformlearn.skeleton import SEGMENTS
from deformlearn.viewer import cards
from deformlearn.viewer.canvas import FAR_FOV
from deformlearn.viewer.command import serving, view
from deformlearn.viewer.page import write_page
from deformlearn.viewer.people import People, in_view
from deformlearn.viewer.screenshot import SIDE
from deformlearn.viewer.source import open_source
from viewer_people import (  # noqa: F401 (fixtures)
    astray,
    body_of_run,
    name,
    opened_run,
    run_on_disk,
    silhouette,
    write_data,
    write_run,
)


class Visitor:
    """Someone who opens a page; every address that it asks is kept."""

    def __init__(self, browser, url, width=1280, height=800):
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.problems, self.asked = [], []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))
        self.page.goto(url)

    def until(self, condition):
        """Wait for something that the page or the server will do."""
        end = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < end, "never came true"
            self.page.wait_for_timeout(30)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def close(self, *own):
        """Leave; the page had no trouble, and asked nobody but these."""
        self.page.close()
        assert self.problems == []
        assert [url for url in self.asked if not url.startswith((*own, "data:", "blob:"))] == []


class Live:
    """A visitor of a running viewer."""

    def __init__(self, browser, source):
        self._context = serving(source, port=0)
        self.server, self.window = self._context.__enter__()
        port = self.server.get_port()
        self.own = (address("127.0.0.1", port), f"ws://127.0.0.1:{port}")
        self.visitor = Visitor(browser, self.own[0])
        self.visitor.until(lambda: self.server.get_clients())
        (self.client,) = self.server.get_clients().values()
        self.settle()

    def settle(self):
        """Until the page shows what the window says, which takes it a few frames."""
        self.visitor.page.wait_for_timeout(700)

    def front(self, side=200):
        """What the page shows across the crop, RGB and coverage in [0, 1]."""
        return self.render(
            side, (0.0, 0.0, 1 / math.tan(FAR_FOV / 2)), (0.0, 1.0, 0.0, 0.0), FAR_FOV
        )

    def render(self, side, position, wxyz, fov):
        # The page answers while its own loop runs, which playwright's does only when it is asked.
        found = []
        asking = threading.Thread(
            target=lambda: found.append(
                self.client.get_render(
                    side, side, wxyz=np.array(wxyz), position=np.array(position), fov=fov,
                    transport_format="png", timeout=60,
                )
            )
        )  # fmt: skip
        asking.start()
        self.visitor.until(lambda: not asking.is_alive())
        return found[0] / 255

    def close(self):
        self.visitor.close(*self.own)
        self._context.__exit__(None, None, None)


@pytest.fixture
def live(browser, source):
    someone = Live(browser, source)
    yield someone
    someone.close()


def only(window, *layers):
    """Show these layers alone."""
    controls = {
        "photo": window._photo, "body": window._solid, "points": window._points,
        "keypoints": window._keypoints, "lines": window._lines,
    }  # fmt: skip
    for layer, control in controls.items():
        control.value = layer in layers


def test_the_page_shows_the_body_that_torch_computes_over_its_photograph(live, source):
    window, template = live.window, source.template
    truth = window._person.body(2, "after").estimate
    expected = silhouette(template, truth, 200)
    only(window, "body")
    live.settle()
    assert astray(live.front()[..., 3] > 0.5, expected, 1) < 0.001
    only(window, "photo")
    live.settle()
    photo = live.front()
    assert (photo[..., 3] > 0.5).mean() > 0.97
    # The photograph is the planted person, white on black; it stands behind, and lines up all the same.
    assert astray(photo[..., :3].mean(-1) > 0.5, expected, 2) < 0.01


def test_keys_and_controls_change_the_person_the_round_and_the_step(live, source):
    window, visitor, template = live.window, live.visitor, source.template
    only(window, "body")
    first = window._person.key
    visitor.press("n")
    visitor.until(lambda: window._person.key != first)
    visitor.press("1")
    visitor.until(lambda: window.shown.round == 1)
    visitor.press("b")
    visitor.until(lambda: window.shown.step == "before")
    live.settle()
    wanted = window._person.body(1, "before").estimate
    assert astray(live.front()[..., 3] > 0.5, silhouette(template, wanted, 200), 1) < 0.001
    assert visitor.page.get_by_text(window._person.key).count() > 0
    visitor.press("p")
    visitor.until(lambda: window._person.key == first)
    row = visitor.page.get_by_role(
        "button", name=cards.row_label(window._roll, int(window._listed[2]))
    )
    row.click()
    visitor.until(lambda: window.shown.number == window._listed[2])


def test_labels_are_seen_where_they_were_made(live, source):
    window = live.window
    only(window, "keypoints")
    pixels = ((window._person.seen.keypoints[0].numpy() + 1) * 200).astype(int)
    inside = [(x, y) for x, y in pixels.tolist() if 5 < x < 395 and 5 < y < 395]
    assert len(inside) > 15

    def drawn():
        covered = live.front(400)[..., 3] > 0.5
        return all(covered[y, x] for x, y in inside) and covered.mean() < 0.1

    live.visitor.until(drawn)


def test_a_slider_of_the_template_moves_the_page_as_torch_moves_the_body(browser, body):
    someone = Live(browser, open_source(body))
    try:
        window, page = someone.window, someone.visitor.page
        window._which.value = "left shoulder"
        window._skeleton.value = False
        someone.settle()
        field = page.locator("input:visible").nth(2)
        texts = page.locator("input[type='text']:visible, input[inputmode]:visible")
        for place in range(texts.count()):
            if texts.nth(place).input_value() == "0":
                field = texts.nth(place)
                break
        field.fill("50")
        field.press("Enter")
        joint = SEGMENTS.index("left_shoulder") - 1
        someone.visitor.until(lambda: float(window.angles[joint, 0]) == 50)
        someone.server.scene.get_handle_by_name("/floor").remove()
        someone.settle()
        template = window._template
        pose = torch.zeros(1, 23, 3)
        pose[0, joint] = template.limit_axes[joint, 0] * math.radians(50)
        vertices = skin(template, BodyParameters(torch.ones(1, 24), pose))
        # A pinhole 5 m before the body's middle, looking at it.
        fov, away, middle = math.radians(30), 5.0, torch.tensor([0.0, 0.9, 0.0])
        relative = (vertices - middle) * torch.tensor([1.0, -1.0, -1.0])
        depth = relative[..., 2] + away
        screen = relative[..., :2] / depth[..., None] / math.tan(fov / 2)
        fragments = rasterise((screen + 1) * 100, depth, template.faces, (200, 200))
        expected = np.zeros(200 * 200, bool)
        expected[fragments.pixels.numpy()] = True
        shown = someone.render(200, (0.0, 0.9, away), (0.0, 1.0, 0.0, 0.0), fov)
        assert astray(shown[..., 3] > 0.5, expected.reshape(200, 200), 1) < 0.001
    finally:
        someone.close()


def test_a_data_set_is_shown_without_estimates(browser, run, body):
    someone = Live(browser, open_source(str(run.parent / "data"), template=body))
    try:
        assert someone.window._painted is not None
        assert someone.visitor.page.get_by_text("1 to 7 of 7").count() == 1
        assert someone.visitor.page.get_by_text("Round").count() == 0
    finally:
        someone.close()


# ---- the page without a server


@pytest.fixture(scope="module")
def written(tmp_path_factory, source):
    path = tmp_path_factory.mktemp("page to share 人") / "people.html"
    numbers = [source.roll.keys.index(name(*who)) for who in (("train", 1), ("test", 2))]
    write_page(path, source, numbers)
    return path


@pytest.fixture
def reader(browser, written):
    someone = Visitor(browser, written.as_uri())
    someone.until(lambda: someone.page.evaluate("document.body.dataset.ready === 'true'"))
    yield someone
    someone.close(written.as_uri())


def shape(reader, mesh="body"):
    values = reader.page.evaluate(f"Array.from(scene.meshes.{mesh}.vertices)")
    return np.array(values).reshape(-1, 3)


def canvas(reader, **show):
    """What the page draws across the crop of a square canvas, RGB in [0, 1]."""
    layers = dict.fromkeys(("photo", "body", "start", "points", "keypoints", "lines"), False)
    view = {"yaw": 0, "pitch": 0, "target": [0, 0, 0], "extent": 1, "pan": [0, 0]}
    wanted = json.dumps({**layers, "opacity": 1, **show})
    script = f"""(() => {{
        const box = document.getElementById("scene");
        box.width = box.height = 200;
        scene.clear([0, 1, 0]);
        scene.draw({json.dumps(view)}, {wanted}, {{x: 0, y: 0, width: 200, height: 200}});
        return box.toDataURL("image/png");
    }})()"""
    data = reader.page.evaluate(script).split(",")[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) / 255


def is_background(picture):
    return (picture[..., 1] > 0.98) & (picture[..., 0] < 0.02) & (picture[..., 2] < 0.02)


def test_the_page_holds_the_vertices_that_torch_computes(reader, source):
    person = People(source.found, source.template).read(name("train", 1), "train", 1)
    for step, round_ in (("after", 2), ("before", 1), ("network", 2)):
        wanted = f"(b) => b.round === {round_} && b.step === '{step}'"
        reader.page.evaluate(f"showBody(person().bodies.findIndex({wanted}), false)")
        expected = in_view(source.template, person.body(round_, step).estimate)
        np.testing.assert_allclose(shape(reader), expected, atol=5e-5)


def test_the_page_draws_the_body_over_its_photograph(reader, source):
    person = People(source.found, source.template).read(name("train", 1), "train", 1)
    expected = silhouette(source.template, person.body(2, "after").estimate, 200)
    assert astray(~is_background(canvas(reader, body=True)), expected, 1) < 0.001
    photo = canvas(reader, photo=True)
    assert not is_background(photo).any()
    assert astray(photo.mean(-1) > 0.5, expected, 2) < 0.01
    dots = ~is_background(canvas(reader, keypoints=True))
    pixels = ((person.seen.keypoints[0].numpy() + 1) * 100).astype(int)
    assert all(dots[y, x] for x, y in pixels.tolist() if 3 < x < 197 and 3 < y < 197)


def test_the_page_is_walked_by_keys_and_buttons(reader):
    title = reader.page.locator("#name")
    assert title.inner_text() == name("train", 1)
    assert reader.page.evaluate("person().bodies[state.body].round") == 2
    reader.press("1")
    assert reader.page.evaluate("person().bodies[state.body].round") == 1
    reader.press("b")
    assert reader.page.evaluate("person().bodies[state.body].step") == "before"
    assert "resting body" in reader.page.locator("#origin").inner_text()
    reader.press("n")
    reader.until(lambda: title.inner_text() == name("test", 2))
    assert "seen from inside" in reader.page.locator("#flag").inner_text()
    reader.press("PageUp")
    reader.until(lambda: title.inner_text() == name("train", 1))
    reader.press("PageDown")
    reader.until(lambda: title.inner_text() == name("test", 2))
    reader.page.locator("#people button").first.click()
    reader.until(lambda: title.inner_text() == name("train", 1))
    cells = reader.page.locator("#bodies td button")
    cells.nth(2).click()
    assert reader.page.evaluate("person().bodies[state.body].step") == "network"
    assert cells.nth(2).get_attribute("aria-pressed") == "true"


def test_quick_keys_count_from_who_was_asked_for_last(reader):
    """Before the next photograph is decoded, the key back is pressed as well."""
    title = reader.page.locator("#name")
    reader.page.evaluate(
        "['n', 'p'].forEach((key) => document.dispatchEvent(new KeyboardEvent('keydown', "
        "{key, bubbles: true})))"
    )
    reader.page.wait_for_timeout(300)
    assert title.inner_text() == name("train", 1)
    reader.press("n")
    reader.until(lambda: title.inner_text() == name("test", 2))


def test_the_page_plays_the_rounds_and_ends_at_the_last_fit(reader):
    # The page itself notes what it shows: who asks again and again may come too late.
    reader.page.evaluate(
        "() => { window.shown = new Set([state.body]); const draw = showBody; "
        "showBody = (number, ...how) => { shown.add(number); return draw(number, ...how); }; }"
    )
    reader.press("Space")
    reader.until(lambda: not reader.page.evaluate("playing"))
    reader.until(lambda: reader.page.evaluate("scene.meshes.body.vertices.length > 0"))
    assert reader.page.evaluate("person().bodies[state.body].step") == "after"
    assert reader.page.evaluate("shown.size") == 4


def test_the_space_key_presses_the_control_that_has_the_focus(reader):
    reader.page.locator("#photo").focus()
    reader.press("Space")
    assert not reader.page.locator("#photo").is_checked()
    assert not reader.page.evaluate("playing")


def test_dragging_turns_the_body_and_scrolling_zooms(reader):
    box = reader.page.locator("#scene").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    reader.page.mouse.move(x, y)
    reader.page.mouse.down()
    reader.page.mouse.move(x + 100, y + 20, steps=4)
    reader.page.mouse.up()
    view = reader.page.evaluate("state.view")
    assert view["yaw"] == pytest.approx(-40, abs=0.1)
    assert view["pitch"] == pytest.approx(8, abs=0.1)
    before = view["extent"]
    reader.page.mouse.wheel(0, -300)
    reader.until(lambda: reader.page.evaluate("state.view.extent") < before)


@pytest.mark.parametrize("size", [(390, 800), (1024, 700), (1920, 1080)])
def test_the_page_fits_phones_and_desktops(browser, written, size):
    someone = Visitor(browser, written.as_uri(), *size)
    someone.until(lambda: someone.page.evaluate("document.body.dataset.ready === 'true'"))
    wide = someone.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= size[0]
    box = someone.page.locator("#scene").bounding_box()
    assert box["height"] > 0.4 * size[1]
    assert box["width"] > 0.5 * size[0]
    someone.close(written.as_uri())


def test_a_damaged_page_says_so(browser, written, tmp_path):
    text = written.read_text("utf-8")
    start = text.index('"arrays":"') + len('"arrays":"')
    path = tmp_path / "damaged.html"
    path.write_text(text[:start] + "AAAA" + text[start + 4000 :], "utf-8")
    someone = Visitor(browser, path.as_uri())
    someone.until(lambda: "cannot be shown" in someone.page.locator("#name").inner_text())
    someone.close(path.as_uri())


# ---- pictures from the command line


def views(path):
    picture = np.asarray(Image.open(path).convert("RGB")) / 255
    assert picture.shape[0] == SIDE
    return np.split(picture, picture.shape[1] // SIDE, 1)


def cut(picture, edge):
    """What is within the edge, as large as the whole was."""
    inside = (255 * picture[edge : SIDE - edge, edge : SIDE - edge]).astype(np.uint8)
    return np.asarray(Image.fromarray(inside).resize((SIDE, SIDE))) / 255


@pytest.mark.usefixtures("browser")
def test_a_screenshot_shows_the_person_as_torch_does(run, body, source, tmp_path):
    path = tmp_path / "shots 人" / "someone.png"
    view(str(run), template=body, screenshot=path, people=[name("train", 2)])
    photo, over, marked, *turned = views(path)
    person = People(source.found, source.template).read(name("train", 2), "train", 2)
    expected = silhouette(source.template, person.body(2, "after").estimate, SIDE)
    # The views are a little larger than the crop.
    edge = round(SIDE * (1 - 1 / 1.03) / 2)
    inner = [cut(one, edge) for one in (photo, over)]
    blue = inner[1][..., 2] - inner[1][..., 0] > 0.04
    assert astray(blue, expected, 2) < 0.01
    white = np.pad((inner[0].min(-1) > 0.5)[8:-8, 8:-8], 8)  # the picture's ground is white too
    assert astray(white, expected, 6) < 0.01
    assert np.abs(marked - over).mean() > 1e-4
    assert len(turned) == 2


@pytest.mark.usefixtures("browser")
@pytest.mark.parametrize(("what", "count"), [("template", 3), ("data", 2)])
def test_templates_and_data_sets_have_pictures_too(run, body, tmp_path, what, count):
    path = tmp_path / "picture.png"
    if what == "template":
        view(body, screenshot=path, dark=True)
    else:
        view(str(run.parent / "data"), template=body, screenshot=path)
    found = views(path)
    assert len(found) == count
    assert all(one.std() > 0.05 for one in found)


@pytest.mark.usefixtures("browser")
def test_no_view_of_a_screenshot_cuts_a_body_that_is_deeper_than_wide(tmp_path):
    flat = octahedra()
    deep = replace(flat, vertices=flat.vertices * torch.tensor([1.0, 1.0, 9.0]))
    templates.save(deep, tmp_path / "deep.safetensors")
    view(str(tmp_path / "deep.safetensors"), screenshot=tmp_path / "picture.png")
    for one in views(tmp_path / "picture.png"):
        assert one.min() < 0.7
        assert all(edge.min() > 0.99 for edge in (one[0], one[-1], one[:, 0], one[:, -1]))


def test_people_without_photographs_are_drawn_alone(tmp_path, browser, body, run):
    data = write_data(tmp_path / "data", octahedra(), images=False)
    source = open_source(str(data), template=body)
    path = tmp_path / "page.html"
    write_page(path, source, [0])
    someone = Visitor(browser, path.as_uri())
    someone.until(lambda: someone.page.evaluate("document.body.dataset.ready === 'true'"))
    assert "it has no image" in someone.page.locator("#notes").inner_text()
    someone.close(path.as_uri())
