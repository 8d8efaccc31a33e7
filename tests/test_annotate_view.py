"""The body's panel: pictures, clicks and places from one z-buffer (annotate.view)."""

import math

import numpy as np
import pytest
import torch

from deformlearn.annotate.view import BodyPanel, View, part_names, spread_pose
from deformlearn.body import BodyParameters, skin
from deformlearn.errors import InputError
from deformlearn.raster import rasterise
from deformlearn.skeleton import SEGMENTS, joint_set


@pytest.fixture(scope="module")
def panel(anny):
    return BodyPanel(anny)


VIEWS = [
    View(300, 400),
    View(400, 300, yaw=130.0, pitch=35.0, zoom=2.5, x=0.1, y=-0.2),
    View(251, 333, yaw=-90.0, pose="spread"),
    View(320, 320, pitch=-80.0, zoom=0.7),
]


@pytest.mark.parametrize("view", VIEWS)
def test_a_click_means_what_the_z_buffer_shows_there(panel, anny, view):
    screen, depth = panel._on_screen(view)
    shown = rasterise(screen[None], depth[None], anny.faces, (view.height, view.width))
    for index in range(0, len(shown.faces), len(shown.faces) // 25):
        pixel = int(shown.pixels[index])
        picked = panel.pick(view, pixel % view.width + 0.5, pixel // view.width + 0.5)
        assert picked.face == shown.faces[index]
        np.testing.assert_allclose(picked.barycentric, shown.barycentric[index], atol=2e-3)


@pytest.mark.parametrize("view", VIEWS)
def test_the_point_of_a_click_is_projected_back_to_the_click(panel, view):
    clicks = [
        (view.width / 2 + dx, view.height / 2 + dy) for dx in (-9.0, 4.3) for dy in (-31.7, 8.0)
    ]
    found = [(at, panel.pick(view, *at)) for at in clicks]
    hits = [(at, point) for at, point in found if point is not None]
    assert hits
    places, seen = panel.locate(
        view,
        torch.tensor([point.face for _, point in hits]),
        torch.tensor([point.barycentric for _, point in hits]),
    )
    assert all(seen)
    np.testing.assert_allclose(places, [at for at, _ in hits], atol=0.02)


@pytest.mark.parametrize("view", VIEWS)
def test_the_picture_shows_the_body_where_clicks_hit_it(panel, view):
    drawn = panel.draw(view)
    assert drawn.shape == (view.height, view.width, 4)
    for y in range(5, view.height, 40):
        for x in range(5, view.width, 40):
            hit = panel.pick(view, x + 0.5, y + 0.5) is not None
            # Between fully covered and empty lies the soft edge, where either answer is right.
            if drawn[y, x, 3] in (0, 255):
                assert hit == (drawn[y, x, 3] == 255), (x, y)


def test_a_coarse_picture_is_half_as_large(panel):
    assert panel.draw(View(301, 400), coarse=True).shape == (200, 150, 4)


def test_a_click_beside_the_body_means_nothing(panel):
    assert panel.pick(View(300, 400), 2.0, 2.0) is None
    assert panel.pick(View(300, 400), -1e5, 1e5) is None


def test_a_point_on_the_back_is_hidden_from_the_front(panel):
    back = panel.pick(View(300, 400, yaw=180.0), 150.0, 170.0)
    face, weights = torch.tensor([back.face]), torch.tensor([back.barycentric])
    _, seen = panel.locate(View(300, 400), face, weights)
    assert seen == [False]


@pytest.mark.parametrize(("yaw", "segment"), [(90.0, "left_shoulder"), (-90.0, "right_shoulder")])
def test_the_view_from_the_left_shows_the_persons_left(panel, anny, yaw, segment):
    view = View(300, 400, yaw=yaw)
    x, y = panel._placed(view, anny.joints[SEGMENTS.index(segment)][None])[0, :2].tolist()
    side = segment.split("_")[0]
    assert panel.part(panel.pick(view, x, y)).startswith(side)


@pytest.mark.parametrize("pose", ["rest", "spread"])
def test_a_view_towards_a_point_of_the_trunk_shows_it(panel, pose):
    for yaw in (0.0, 60.0, 180.0, 250.0):
        point = panel.pick(View(300, 400, yaw=yaw, pose=pose), 150.0, 160.0)
        new_yaw, pitch = panel.towards(pose, point)
        view = View(300, 400, yaw=new_yaw, pitch=pitch, pose=pose)
        _, seen = panel.locate(view, torch.tensor([point.face]), torch.tensor([point.barycentric]))
        assert seen == [True]


def test_a_zoom_keeps_the_place_under_the_middle(panel):
    near, far = View(300, 400, zoom=8.0), View(300, 400)
    assert panel.pixels_per_metre(near) == pytest.approx(8 * panel.pixels_per_metre(far))
    close, wide = panel.pick(near, 150.0, 200.0), panel.pick(far, 150.0, 200.0)
    assert close.face == wide.face


def test_the_whole_body_is_in_the_panel_from_every_side(panel):
    for pose in ("rest", "spread"):
        for yaw in np.arange(0.0, 360, 45).tolist():
            screen, _ = panel._on_screen(View(300, 400, yaw=yaw, pose=pose))
            assert (screen >= 0).all()
            assert (screen <= torch.tensor([300, 400])).all()


@pytest.mark.parametrize("name", ["template", "anny"])
def test_spread_arms_are_level_and_straight_whatever_the_rest_pose(request, name):
    body = request.getfixturevalue(name)
    pose = spread_pose(body)
    landmarks = body.landmarks[[body.landmark_names.index(one) for one in SEGMENTS]]
    posed = skin(body, BodyParameters(body.rest_parameters().scales, pose), landmarks)
    for side, sign in (("left", 1), ("right", -1)):
        shoulder, elbow, wrist = (
            posed[SEGMENTS.index(f"{side}_{joint}")] for joint in ("shoulder", "elbow", "wrist")
        )
        for bone in (elbow - shoulder, wrist - elbow):
            direction = (bone / bone.norm()).tolist()
            assert direction[0] * sign > 0.99
        assert abs((wrist - shoulder)[2]) < 0.02


def test_in_the_spread_pose_more_of_the_body_can_be_seen(panel, anny):
    def seen(pose):
        found = set()
        for yaw in np.arange(0.0, 360, 30).tolist():
            for pitch in (-40.0, 0.0, 40.0):
                screen, depth = panel._on_screen(View(200, 200, yaw=yaw, pitch=pitch, pose=pose))
                shown = rasterise(screen[None], depth[None], anny.faces, (200, 200))
                found |= set(shown.faces.tolist())
        return len(found)

    assert seen("spread") > seen("rest")


def test_key_points_stand_where_the_template_has_them(panel, anny):
    view = View(300, 400)
    places = panel.keypoints(view, joint_set("coco17"))
    nose, left, right = places[0], places[5], places[6]
    assert nose[1] < left[1]
    assert left[0] > nose[0] > right[0]  # seen from the front, the person's left is on the right
    assert panel.part(panel.pick(view, *nose.tolist())) == "head"


def test_the_back_of_the_chest_is_called_the_back(panel, anny):
    chest = anny.joints[SEGMENTS.index("spine3")][None] + torch.tensor([[0.03, 0.05, 0.0]])
    for yaw, name in ((0.0, "chest"), (180.0, "upper back")):
        x, y = panel._placed(View(300, 400, yaw=yaw), chest)[0, :2].tolist()
        assert panel.part(panel.pick(View(300, 400, yaw=yaw), x, y)) == name


def test_every_segment_has_a_name_people_use():
    assert len(part_names()) == len(SEGMENTS)
    assert part_names()[SEGMENTS.index("left_elbow")] == "left forearm"
    assert not [name for name in part_names() if "_" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"yaw": math.nan}, "finite"),
        ({"width": 0}, "a panel of 1 to"),
        ({"height": 100_000}, "a panel of 1 to"),
        ({"zoom": 0.0}, "a zoom from"),
        ({"pose": "sitting"}, "unknown pose 'sitting'; known are rest, spread"),
    ],
)
def test_a_view_that_cannot_be_drawn_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        View(**{"width": 300, "height": 400, **change})
