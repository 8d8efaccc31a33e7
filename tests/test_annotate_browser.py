"""The annotation page in a real headless Chromium: everything a user clicks, and what is saved of it."""

import io
import json
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from deformlearn.annotate.command import serving
from deformlearn.annotate.view import POSES, Picked, View
from deformlearn.body import BodyParameters, skin
from deformlearn.camera import Camera, Crop
from deformlearn.config import RegistrationConfig
from deformlearn.data.check import check_dataset
from deformlearn.data.shards import read_people
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate, camera_joints, project_points
from deformlearn.raster import rasterise
from deformlearn.registration import register
from deformlearn.render import overlay
from deformlearn.skeleton import SEGMENTS, joint_set, rotation_from_axis_angle

SIDE = 480
"""Side of the planted photo (px)."""

IDLE = (
    "!!photo.image && !!marks && saving + waiting === 0 && !body.busy && body.drawn === body.wanted"
)


@pytest.fixture(scope="module")
def truth(anny):
    """A person seen from the side of the front, one arm raised and one leg out."""
    rest = Estimate.rest(anny, 1)
    pose = torch.zeros(1, 23, 3)
    pose[0, SEGMENTS.index("left_shoulder") - 1, 2] = 0.7
    pose[0, SEGMENTS.index("right_hip") - 1, 2] = -0.35
    turned = rest.camera.matrix @ rotation_from_axis_angle(torch.tensor([[0.0, 0.5, 0.0]]))
    return Estimate(
        BodyParameters(rest.body.scales, pose),
        Camera(turned, rest.camera.translation, rest.camera.scale * 0.9),
    )


@pytest.fixture
def photos(tmp_path, anny, truth):
    folder = tmp_path / "photos"
    folder.mkdir()
    ground = np.full((SIDE, SIDE, 3), (96, 110, 102), np.uint8)
    half = torch.tensor([SIDE / 2])
    crop = Crop(torch.full((1, 2), SIDE / 2), half)
    picture = overlay(ground, anny, truth, crop, opacity=1.0, colour=(0.8, 0.6, 0.5))
    Image.fromarray(picture).save(folder / "a.png")
    # The second one is stored turned, as phones do.
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.fromarray(picture[:, : SIDE // 2]).save(folder / "b.jpg", exif=tag)
    Image.fromarray(picture).save(folder / "c.jpg")
    (folder / "c.jpg").write_bytes((folder / "c.jpg").read_bytes()[:-2000])
    return folder


class Annotator:
    """Someone at the page."""

    def __init__(self, browser, server, width=1280, height=720):
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.problems, self.requests = [], []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda line: self._console(line))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.server = server

    def _console(self, line):
        # The browser itself reports the status of the unreadable photo's answer.
        if line.type == "error" and "422" not in line.text:
            self.problems.append(line.text)

    def open(self, hash_=""):
        self.page.goto(self.server.address + hash_)
        self.idle()
        return self

    def idle(self, condition=IDLE):
        """Wait; the page's policy forbids the evaluation that playwright's own waiting needs."""
        end = time.monotonic() + 30
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"never came true: {condition}"
            self.page.wait_for_timeout(15)

    def click(self, panel, at, **options):
        box = self.page.locator(panel).bounding_box()
        self.page.mouse.click(box["x"] + at[0], box["y"] + at[1], **options)

    def drag(self, panel, start, end, **options):
        box = self.page.locator(panel).bounding_box()
        self.page.mouse.move(box["x"] + start[0], box["y"] + start[1])
        self.page.mouse.down(**options)
        self.page.mouse.move(box["x"] + end[0], box["y"] + end[1], steps=4)
        self.page.mouse.up(**options)
        self.idle()

    def on_screen(self, pixel):
        return self.page.evaluate(f"photo.toScreen([{pixel[0]}, {pixel[1]}])")

    def click_pixel(self, pixel, **options):
        self.click("#photo", self.on_screen(pixel), **options)
        self.page.wait_for_timeout(10)
        self.idle()

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
            self.page.wait_for_timeout(10)
        self.idle()

    def view(self):
        """The view of the body as the server knows it."""
        values = self.page.evaluate("body.request()")
        return View(
            **{k: v if k in ("pose", "width", "height") else float(v) for k, v in values.items()}
        )

    def click_body(self, face, barycentric):
        """Turn the body until the point is in sight, then click it."""
        panel = self.server.session._panel
        point = torch.tensor([face]), torch.tensor([barycentric])
        picked = Picked(face, tuple(barycentric))
        straight = [(pose, *panel.towards(pose, picked)) for pose in POSES]
        around = [(pose, float(yaw), 0.0) for pose in POSES for yaw in range(0, 360, 30)]
        for pose, yaw, pitch in (*straight, *around):
            view = f"{{yaw: {yaw}, pitch: {pitch}, pose: '{pose}'}}"
            self.page.evaluate(f"body.turning = null, Object.assign(body.view, {view})")
            self.page.evaluate("body.render()")
            self.idle()
            places, seen = panel.locate(self.view(), *point)
            found = panel.pick(self.view(), *places[0].tolist())
            if seen[0] and found is not None and found.face == face:
                self.click("#body", places[0].tolist())
                self.page.wait_for_timeout(10)
                return self.idle()
        raise AssertionError("the point cannot be seen from anywhere")

    def people(self):
        return self.page.evaluate("marks.people")

    def hint(self):
        return self.page.inner_text("#hint")


@pytest.fixture
def server(tmp_path, anny, photos):
    with serving(photos, tmp_path / "out", anny, port=0) as running:
        yield running


@pytest.fixture
def annotator(browser, server):
    someone = Annotator(browser, server)
    yield someone.open()
    someone.page.close()
    assert someone.problems == []
    outside = [
        url
        for url in someone.requests
        if not url.startswith((server.address, "data:", f"blob:http://127.0.0.1:{server.port}/"))
    ]
    assert outside == []


def visible(anny, truth):
    vertices = skin(anny, truth.body)[0] @ truth.camera.rotation()[0].T
    screen = (vertices[:, :2] * truth.camera.scale + truth.camera.translation + 1) * (SIDE / 2)
    return rasterise(screen[None], vertices[None, :, 2], anny.faces, (SIDE, SIDE))


def true_pairs(anny, truth, count):
    """Pixels of different segments, at least 30 px apart, and the surface points they show."""
    seen = visible(anny, truth)
    owner = anny.weights[anny.faces[seen.faces]].sum(1).argmax(1).numpy()
    random = np.random.default_rng(3)
    pairs, taken = [], np.zeros((0, 2))
    for segment in random.permutation(np.unique(owner)).tolist() * 3:
        index = random.choice(np.flatnonzero(owner == segment))
        pixel = seen.pixels[index].item() % SIDE + 0.5, seen.pixels[index].item() // SIDE + 0.5
        # A body clicked at 1280 x 720 shows small fingers: leave out what is hardly wider than a click.
        clear = (np.linalg.norm(taken - pixel, axis=1) > 30).all() and (
            owner == segment
        ).sum() > 250
        if clear and len(pairs) < count:
            taken = np.vstack([taken, pixel])
            pairs.append((pixel, seen.faces[index].item(), seen.barycentric[index].tolist()))
    return pairs


def rest_point(anny, face, barycentric):
    return (anny.vertices[anny.faces[face]] * torch.as_tensor(barycentric)[:, None]).sum(0)


@pytest.mark.slow
def test_twelve_clicked_pairs_are_saved_exactly_and_give_the_pose_back(
    annotator, anny, truth, tmp_path
):
    pairs = true_pairs(anny, truth, 12)
    assert len(pairs) == 12
    for pixel, face, barycentric in pairs:
        annotator.click_pixel(pixel)
        annotator.click_body(face, barycentric)
    quiet = Console(quiet=True)
    assert not check_dataset(tmp_path / "out", anny, console=quiet)
    people = read_people(tmp_path / "out", "train", anny)
    observed = people.observations
    pixels = people.crop.to_pixels(observed.points)[0]
    np.testing.assert_allclose(pixels, [pixel for pixel, _, _ in pairs], atol=0.01)
    for row, (_, face, barycentric) in enumerate(pairs):
        saved = rest_point(anny, observed.faces[0, row], observed.barycentric[0, row])
        # A mouse clicks whole pixels of the page: up to half of one away from the true point.
        half_pixel = 0.75 / annotator.page.evaluate("body.metre")
        assert (saved - rest_point(anny, face, barycentric)).norm() < 4 * half_pixel
    config = RegistrationConfig(compile="never", joint_weight=0.2, scale_weight=100.0)
    found, quality = register(anny, observed, people.crop, config)
    joints = joint_set("h36m17")
    error = (camera_joints(anny, found, joints) - camera_joints(anny, truth, joints)).norm(dim=-1)
    assert error.mean() < 0.08
    assert quality.facing.item() > 0.8


def test_a_click_is_saved_as_the_point_the_z_buffer_shows(annotator, server, anny, tmp_path):
    places = [(300.0, 120.0), (180.5, 300.0), (240.0, 400.0)]
    clicked = []
    for number, pixel in enumerate(places):
        annotator.press("1" if number < 2 else "2")
        annotator.page.wait_for_timeout(400)
        annotator.idle()
        # The body first, then the pixel: either order makes a pair.
        view = annotator.view()
        at = (view.width // 2 + 4, view.height // 3 + 40 * number)
        annotator.click("#body", at)
        annotator.idle("point !== null && !body.busy")
        clicked.append(server.session._panel.pick(view, float(at[0]), float(at[1])))
        annotator.click_pixel(pixel)
    saved = json.loads((tmp_path / "out" / "journal" / "a.png.json").read_text())
    pairs = saved["marks"]["people"][0]["pairs"]
    assert [pair["face"] for pair in pairs] == [point.face for point in clicked]
    for pair, point, pixel in zip(pairs, clicked, places, strict=True):
        np.testing.assert_allclose(pair["barycentric"], point.barycentric, atol=1e-4)
        np.testing.assert_allclose((pair["x"], pair["y"]), pixel, atol=0.01)


def test_pairs_are_undone_redone_selected_deleted_and_moved(annotator, anny, truth):
    pairs = true_pairs(anny, truth, 3)
    for pixel, face, barycentric in pairs:
        annotator.click_pixel(pixel)
        annotator.click_body(face, barycentric)
    before = annotator.people()
    annotator.press("Control+z")
    assert [pair["number"] for pair in annotator.people()[0]["pairs"]] == [1, 2]
    annotator.press("Control+Shift+Z")
    assert annotator.people() == before
    annotator.click_pixel(pairs[1][0])
    assert annotator.page.evaluate("selected") == 2
    start = annotator.on_screen(pairs[1][0])
    annotator.drag("#photo", start, (start[0] + 40, start[1] - 25))
    moved = annotator.people()[0]["pairs"][1]
    scale = annotator.page.evaluate("photo.scale")
    np.testing.assert_allclose(moved["x"] - pairs[1][0][0], 40 / scale, atol=0.01)
    assert moved["face"] == before[0]["pairs"][1]["face"]
    annotator.press("Delete")
    assert [pair["number"] for pair in annotator.people()[0]["pairs"]] == [1, 3]
    mark = annotator.page.evaluate("body.placed.find((one) => one.seen)")
    annotator.drag("#body", mark["at"], (mark["at"][0] + 8, mark["at"][1] + 14))
    after = next(p for p in annotator.people()[0]["pairs"] if p["number"] == mark["id"])
    assert after["face"] != mark["face"]


def test_a_click_beside_the_body_is_ignored_with_a_hint(annotator):
    annotator.click_pixel((240, 240))
    annotator.click("#body", (4, 4))
    annotator.page.wait_for_timeout(100)
    assert "beside the body" in annotator.hint()
    assert annotator.people()[0]["pairs"] == []
    annotator.press("Escape")
    annotator.click("#photo", (2, 2))
    assert "beside the photo" in annotator.hint()


def test_the_body_turns_by_dragging_and_zooms_by_the_wheel(annotator):
    annotator.drag("#body", (30, 60), (130, 60))
    assert annotator.page.evaluate("body.view.yaw") == -50
    annotator.drag("#body", (30, 60), (30, 80), button="middle")
    assert annotator.page.evaluate("body.view.y") > 0
    annotator.page.mouse.wheel(0, -300)
    annotator.page.wait_for_timeout(250)
    annotator.idle()
    assert annotator.page.evaluate("body.view.zoom") > 1.3
    annotator.press("3")
    annotator.idle("body.view.yaw === 90 && body.view.zoom === 1")
    annotator.press("t")
    assert annotator.page.evaluate("body.view.pose") == "spread"


def test_the_place_under_the_mouse_stays_when_the_body_is_zoomed(annotator, server):
    view = annotator.view()
    at = (view.width / 2 + 5, view.height / 3)
    before = server.session._panel.pick(view, *at)
    box = annotator.page.locator("#body").bounding_box()
    annotator.page.mouse.move(box["x"] + at[0], box["y"] + at[1])
    annotator.page.mouse.wheel(0, -400)
    annotator.page.wait_for_timeout(300)
    annotator.idle()
    after = server.session._panel.pick(annotator.view(), *at)
    apart = rest_point(server.session._panel.template, before.face, before.barycentric)
    apart = apart - rest_point(server.session._panel.template, after.face, after.barycentric)
    assert apart.norm() < 0.002


def test_hovering_the_body_names_the_part(annotator):
    view = annotator.view()
    box = annotator.page.locator("#body").bounding_box()
    annotator.page.mouse.move(box["x"] + view.width / 2, box["y"] + view.height * 0.12)
    annotator.idle("document.getElementById('body-chip').textContent === 'head'")


def test_key_points_are_set_hidden_and_missing_by_keyboard(annotator, tmp_path):
    annotator.press("k")
    annotator.click_pixel((240, 60))  # nose
    annotator.page.keyboard.down("Shift")
    annotator.click_pixel((262, 50))  # left eye, hidden
    annotator.page.keyboard.up("Shift")
    annotator.press("x")  # right eye: not there
    annotator.press("Tab", "Tab")
    annotator.click_pixel((280, 150))  # left shoulder
    annotator.press("Shift+Tab", "v")
    keys = annotator.people()[0]["keypoints"]
    assert [key and key["visibility"] for key in keys[:6]] == [2, 1, 0, None, None, 1]
    people = read_people(tmp_path / "out", "train")
    assert people.observations.keypoint_weights[0, :6].tolist() == [1.0, 0.5, 0, 0, 0, 0.5]
    pixels = people.crop.to_pixels(people.observations.keypoints)[0]
    np.testing.assert_allclose(pixels[[0, 5]], [[240, 60], [280, 150]], atol=0.5)


def test_a_reload_and_a_new_server_go_on_where_it_was_left(
    annotator, browser, anny, truth, photos, tmp_path, server
):
    (pixel, face, barycentric), *_ = true_pairs(anny, truth, 1)
    annotator.click_pixel(pixel)
    annotator.click_body(face, barycentric)
    annotator.press("a")
    annotator.click_pixel((100, 100))
    annotator.press("k")
    annotator.click_pixel((100, 100))
    before = annotator.people()
    assert [len(person["pairs"]) for person in before] == [1, 0]
    annotator.page.reload()
    annotator.idle()
    assert annotator.people() == before
    server.stop()
    # The lock is the process's own: a copy stands for the next morning.
    shutil.copytree(tmp_path / "out", tmp_path / "later")
    with serving(photos, tmp_path / "later", anny, port=0) as again:
        someone = Annotator(browser, again).open("#1")
        assert someone.people() == before
        someone.page.close()


def test_the_next_image_and_a_photo_that_cannot_be_shown(annotator):
    annotator.press("ArrowRight")
    assert annotator.page.inner_text("#name") == "b.jpg"
    annotator.page.keyboard.press("PageDown")
    annotator.idle("document.getElementById('hint').textContent.includes('cannot be decoded')")
    assert annotator.page.evaluate("photo.image") is None
    annotator.page.keyboard.press("ArrowLeft")
    annotator.page.wait_for_timeout(50)
    annotator.idle()
    assert annotator.page.inner_text("#place") == "image 2 of 3"
    assert annotator.page.evaluate("location.hash") == "#2"


def test_clicks_on_a_turned_photo_are_saved_in_stored_pixels(annotator, photos, tmp_path):
    annotator.press("ArrowRight")
    annotator.press("k")
    # Shown upright it is wider than tall; stored it is taller than wide.
    corners = [annotator.on_screen(at) for at in ((0, 0), (SIDE / 2, 0), (0, SIDE))]
    assert abs(corners[2][0] - corners[0][0]) > abs(corners[1][1] - corners[0][1])
    annotator.click_pixel((30, 400))
    saved = json.loads((tmp_path / "out" / "journal" / "b.jpg.json").read_text())
    nose = saved["marks"]["people"][0]["keypoints"][0]
    np.testing.assert_allclose((nose["x"], nose["y"]), (30, 400), atol=0.6)
    # What is drawn under the click is what is stored there.
    annotator.page.evaluate("photo.marks = [], photo.draw()")
    x, y = annotator.on_screen((120, 240))
    data = annotator.page.locator("#photo").screenshot()
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[int(y), int(x)]
    with Image.open(photos / "b.jpg") as stored:
        kept = np.asarray(stored.convert("RGB"))[240, 120]
    np.testing.assert_allclose(shown.astype(int), kept, atol=12)


def test_a_second_person_has_marks_and_a_row_of_their_own(annotator, tmp_path):
    annotator.press("k")
    annotator.click_pixel((240, 60))
    annotator.press("a")
    annotator.click_pixel((100, 300))
    assert read_people(tmp_path / "out", "train").keys == ["a.png-1", "a.png-2"]
    annotator.press("[")
    assert annotator.page.evaluate("person") == 1
    annotator.page.click("#delete-person")
    annotator.page.wait_for_timeout(30)
    annotator.idle()
    assert read_people(tmp_path / "out", "train").keys == ["a.png-2"]
    annotator.page.click("#undo")
    annotator.page.wait_for_timeout(30)
    annotator.idle()
    assert read_people(tmp_path / "out", "train").keys == ["a.png-1", "a.png-2"]


def test_after_key_points_a_clicked_pixel_has_a_suggestion_that_enter_accepts(
    annotator, anny, truth
):
    annotator.press("k")
    places = project_points(anny, truth, anny.keypoints(joint_set("coco17")))[0, :, :2]
    body_points = ((places + 1) * (SIDE / 2)).tolist()
    for joint, pixel in enumerate(body_points):
        annotator.page.evaluate(f"joint = {joint}, refresh()")
        if joint >= 5:  # face and ears are nearer together than a click is wide
            annotator.click_pixel(pixel)
    annotator.press("k")
    seen = visible(anny, truth)
    knee = SEGMENTS.index("left_knee")
    owner = anny.weights[anny.faces[seen.faces]].sum(1).argmax(1)
    shin = (owner == knee).nonzero()[:, 0]
    index = shin[len(shin) // 2].item()
    pixel = seen.pixels[index].item() % SIDE + 0.5, seen.pixels[index].item() // SIDE + 0.5
    annotator.click_pixel(pixel)
    annotator.idle("ghost !== null")
    annotator.idle()
    assert annotator.hint().startswith("Suggested: left lower leg. Enter accepts it")
    # The body turned until the suggestion can be seen.
    annotator.page.wait_for_timeout(400)
    annotator.idle()
    assert annotator.page.evaluate("body.placed.find((one) => one.ghost).seen")
    annotator.press("Enter")
    (pair,) = annotator.people()[0]["pairs"]
    np.testing.assert_allclose((pair["x"], pair["y"]), pixel, atol=0.6)
    true = rest_point(anny, seen.faces[index], seen.barycentric[index])
    assert (rest_point(anny, pair["face"], pair["barycentric"]) - true).norm() < 0.12


def test_the_fitted_body_lies_over_the_person(annotator, anny, truth):
    annotator.press("o")
    annotator.idle("document.getElementById('hint').textContent.includes('from 6 pairs')")
    annotator.press("k")
    places = project_points(anny, truth, anny.keypoints(joint_set("coco17")))[0, 5:, :2]
    for joint, pixel in enumerate(((places + 1) * (SIDE / 2)).tolist(), 5):
        annotator.page.evaluate(f"joint = {joint}, refresh()")
        annotator.click_pixel(pixel)
    annotator.idle("photo.body !== null")
    x, y, side = annotator.page.evaluate("photo.body.square")
    assert x < SIDE / 2 < x + side
    assert y < SIDE / 2 < y + side
    annotator.press("o")
    assert annotator.page.evaluate("photo.body") is None


def test_a_stopped_server_is_said_in_plain_words(browser, anny, photos, tmp_path):
    with serving(photos, tmp_path / "other", anny, port=0) as short:
        someone = Annotator(browser, short).open()
        someone.press("k")
    box = someone.page.locator("#photo").bounding_box()
    someone.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    someone.idle("document.getElementById('hint').textContent.includes('does not answer')")
    assert someone.page.inner_text("#saved") == "The last change was not saved"
    # Screen readers say it too.
    assert "does not answer" in someone.page.get_by_role("status").first.inner_text()
    someone.page.close()


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (1024, 700)])
def test_nothing_is_cut_off_at_usual_window_sizes(annotator, size):
    annotator.page.set_viewport_size({"width": size[0], "height": size[1]})
    annotator.page.wait_for_timeout(100)
    annotator.idle()
    for selector in ("header button", ".bar button", "aside", "footer", "#photo", "#body"):
        for one in annotator.page.query_selector_all(selector):
            box = one.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= size[0] + 0.5, selector
            assert box["y"] + box["height"] <= size[1] + 0.5, selector
    assert annotator.page.locator("#photo").bounding_box()["height"] > 0.6 * size[1]


def slowly(answer, seconds=0.15):
    """As a server answers at the far end of a slow line."""

    def late(*request):
        time.sleep(seconds)
        return answer(*request)

    return late


def middle_of_body(annotator):
    view = annotator.view()
    return view.width // 2 + 4, view.height // 3


def test_a_late_answer_meets_no_later_click(annotator, server, monkeypatch):
    at = middle_of_body(annotator)
    monkeypatch.setattr(server.session, "pick", slowly(server.session.pick))
    annotator.click_pixel((240, 120))
    annotator.click("#body", at)
    annotator.click("#photo", annotator.on_screen((300, 300)))
    annotator.page.wait_for_timeout(10)
    annotator.idle()
    assert [(pair["x"], pair["y"]) for pair in annotator.people()[0]["pairs"]] == [(240, 120)]
    np.testing.assert_allclose(annotator.page.evaluate("pixel"), (300, 300), atol=0.01)
    # The second pair is still the first image's.
    annotator.click("#body", (at[0], at[1] + 40))
    annotator.page.keyboard.press("ArrowRight")
    annotator.page.wait_for_timeout(10)
    annotator.idle()
    assert annotator.page.evaluate("image") == 1
    assert annotator.page.evaluate("point") is None
    assert len(server.session.image(0)["people"][0]["pairs"]) == 2
    annotator.press("ArrowLeft")
    # A point that is dragged is the person's who was shown, whoever is chosen meanwhile.
    annotator.press("a")
    annotator.click_pixel((100, 120))
    annotator.click("#body", at)
    annotator.press("[")
    before = server.session.image(0)["people"]
    mark = annotator.page.evaluate("body.placed.find((one) => one.seen && one.id === 1)")
    box = annotator.page.locator("#body").bounding_box()
    annotator.page.mouse.move(box["x"] + mark["at"][0], box["y"] + mark["at"][1])
    annotator.page.mouse.down()
    annotator.page.mouse.move(box["x"] + mark["at"][0] + 30, box["y"] + mark["at"][1], steps=3)
    annotator.page.mouse.up()
    annotator.press("]")
    after = server.session.image(0)["people"]
    assert after[0]["pairs"][0]["face"] != before[0]["pairs"][0]["face"]
    assert after[1] == before[1]


def test_a_click_after_adding_a_person_is_theirs_and_the_page_asks_before_one_is_lost(
    annotator, server, monkeypatch
):
    annotator.press("k")
    annotator.click_pixel((240, 60))
    monkeypatch.setattr(server.session, "edit", slowly(server.session.edit, 0.4))
    annotator.page.keyboard.press("a")
    annotator.click("#photo", annotator.on_screen((300, 300)))
    annotator.page.wait_for_timeout(10)
    annotator.idle()
    assert [person["keypoints"][0]["y"] for person in annotator.people()] == [60, 300]
    annotator.click("#photo", annotator.on_screen((200, 200)))
    questions = []
    annotator.page.on("dialog", lambda one: (questions.append(one.type), one.accept()))
    annotator.page.reload()
    assert questions == ["beforeunload"]
    annotator.idle()
    annotator.page.reload()  # nothing is on its way any more
    assert len(questions) == 1


def test_a_key_point_that_could_not_be_saved_is_asked_for_again(annotator, server, monkeypatch):
    annotator.press("k")
    with monkeypatch.context() as full:
        full.setattr(server.session._archive, "save", lambda *_: fail("the disk is full"))
        annotator.click_pixel((240, 60))
        assert annotator.hint() == "the disk is full"
        assert annotator.page.inner_text("#saved") == "The last change was not saved"
    annotator.click_pixel((240, 60))
    assert annotator.people()[0]["keypoints"][0] == {"x": 240, "y": 60, "visibility": 2}
    assert annotator.page.inner_text("#saved") == "Saved"


def fail(message):
    raise InputError(message)


def test_a_second_page_changes_nothing_under_the_hands_of_the_first(annotator, browser, server):
    other = Annotator(browser, server).open()
    other.press("k", "a")
    annotator.press("k")
    annotator.click_pixel((240, 60))
    annotator.click_pixel((250, 50))
    assert annotator.page.evaluate("person") == 1
    other.press("[")
    other.page.click("#delete-person")
    other.page.wait_for_timeout(10)
    other.idle()
    annotator.click_pixel((260, 50))
    assert annotator.hint() == "person 1 is not on this image (any more)"
    annotator.click_pixel((260, 50))
    assert [person["number"] for person in annotator.people()] == [2]
    assert [point is not None for point in annotator.people()[0]["keypoints"]].count(True) == 1
    other.page.close()


def test_a_click_means_the_picture_that_was_seen(annotator, server, monkeypatch):
    panel, view, at = server.session._panel, annotator.view(), middle_of_body(annotator)
    seen = panel.pick(view, *map(float, at))
    annotator.click_pixel((240, 120))
    monkeypatch.setattr(server.session, "body", slowly(server.session.body, 0.6))
    annotator.page.keyboard.press("2")  # the back is on its way
    annotator.idle("Math.abs(body.view.yaw) === 180")
    annotator.click("#body", at)
    annotator.page.wait_for_timeout(10)
    annotator.idle()
    (pair,) = annotator.people()[0]["pairs"]
    assert pair["face"] == seen.face
