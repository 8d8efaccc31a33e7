"""Textures: a photograph whose every pixel says where it is, found again on the surface."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deformlearn.camera import Crop, project
from deformlearn.data.estimates import Estimates
from deformlearn.errors import InputError
from deformlearn.estimate import Estimate
from deformlearn.exports.atlas import COLUMNS, GUTTER, atlas_of
from deformlearn.exports.people import file_names
from deformlearn.exports.photos import NewPhotos, StoredPhotos
from deformlearn.exports.texture import NEUTRAL, Painter
from deformlearn.render import turn
from deformlearn.skeleton import SEGMENTS
from tiny_runs import write_people

CHEST = SEGMENTS.index("spine3")


@pytest.fixture(scope="module")
def atlas(anny):
    return atlas_of(anny, tile=64)


@pytest.fixture(scope="module")
def ramp():
    """Red says how far right a pixel is, green how far down."""
    across = (torch.arange(256) * 1.0).expand(256, 256)
    return torch.stack([across, across.T, torch.full_like(across, 99)]).to(torch.uint8)


@pytest.fixture(scope="module")
def rest(anny):
    return Estimate.rest(anny, 1)


def texel_points(anny, atlas):
    """Where on the body at rest each texel is."""
    corners = anny.vertices[anny.faces[atlas.shown.faces]]
    return (corners * atlas.shown.barycentric[..., None]).sum(1)


def near_chest(anny, points):
    return ((points - anny.joints[CHEST])[:, :2].abs() < 0.1).all(-1)


def test_a_texel_lies_in_the_tile_of_its_segment_at_the_place_its_uv_says(anny, atlas):
    rows, columns = atlas.size
    assert (rows, columns) == (4 * 64, COLUMNS * 64)
    uv = torch.from_numpy(atlas.uv)[atlas.shown.faces].float()
    place = (uv * atlas.shown.barycentric[..., None]).sum(1) * torch.tensor([columns, rows])
    texel = torch.stack([atlas.shown.pixels % columns, atlas.shown.pixels // columns], -1) + 0.5
    torch.testing.assert_close(place, texel, atol=1e-3, rtol=0)
    owner = anny.weights[anny.faces[atlas.shown.faces]].sum(1).argmax(1)
    tile = (texel / 64).floor().long()
    assert torch.equal(tile[:, 1] * COLUMNS + tile[:, 0], owner)
    within = texel % 64
    assert within.min() > GUTTER
    assert within.max() < 64 - GUTTER
    assert atlas.areas.sum() == pytest.approx(1.9, abs=0.3)  # square metres of a person


def test_the_layout_depends_on_the_template_alone(anny, atlas):
    again = atlas_of(anny, tile=64)
    assert np.array_equal(again.uv, atlas.uv)
    assert torch.equal(again.shown.pixels, atlas.shown.pixels)


def test_what_a_photograph_shows_is_found_on_the_surface_and_nothing_else(anny, atlas, ramp, rest):
    painter = Painter(anny, atlas)
    painter.add(ramp, rest)
    texture = painter.texture()
    image = torch.from_numpy(texture.image.reshape(-1, 4))[atlas.shown.pixels].float()
    points = texel_points(anny, atlas)
    expected = (project(rest.camera, points[None])[0, :, :2] + 1) * 128 - 0.5
    known = image[:, 3] == 255
    torch.testing.assert_close(image[known, :2], expected[known], atol=1.0, rtol=0)
    assert (image[known, 2] - 99).abs().max() <= 1
    assert (image[image[:, 3] == 0, :3] == NEUTRAL).all()
    # The front of the chest is seen, its back is not.
    chest = near_chest(anny, points)
    front = points[:, 2] > anny.joints[CHEST, 2] + 0.04
    assert known[chest & front].float().mean() > 0.95
    assert not known[chest & (points[:, 2] < anny.joints[CHEST, 2] - 0.04)].any()
    assert 0.2 < texture.seen < 0.5


def test_a_view_from_behind_colours_the_back_and_together_they_see_more(anny, atlas, ramp, rest):
    front, both = Painter(anny, atlas), Painter(anny, atlas)
    front.add(ramp, rest)
    both.add(ramp, rest)
    both.add(ramp, turn(anny, rest, 180.0))
    assert both.texture().seen > 1.7 * front.texture().seen


def test_an_arm_before_the_chest_hides_it(anny, atlas, rest):
    white = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    pose = rest.body.pose.clone()
    pose[0, 15:19, :] = torch.tensor(
        [[0.0, -1.5, 0.0], [0.0, 1.5, 0.0], [0.0, -1.2, 0.0], [0.0, 1.2, 0.0]]
    )
    folded = replace(rest, body=replace(rest.body, pose=pose))
    seen = []
    for estimate in (rest, folded):
        painter = Painter(anny, atlas)
        painter.add(white, estimate)
        image = painter.texture().image.reshape(-1, 4)
        points = texel_points(anny, atlas)
        chest = near_chest(anny, points) & (points[:, 2] > anny.joints[CHEST, 2])
        seen.append(int((image[atlas.shown.pixels[chest], 3] == 255).sum()))
    assert seen[1] < 0.8 * seen[0]


def test_colours_are_carried_beyond_the_edges_of_charts(anny, atlas, rest):
    red = torch.zeros(3, 64, 64, dtype=torch.uint8)
    red[0] = 255
    painter = Painter(anny, atlas)
    painter.add(red, rest)
    painter.add(red, turn(anny, rest, 180.0))
    image = painter.texture().image
    shown = np.zeros(image.shape[:2], bool)
    shown.reshape(-1)[atlas.shown.pixels.numpy()] = True
    rows, columns = np.nonzero(shown[:, :-1] & ~shown[:, 1:] & (image[:, :-1, 3] == 255))
    beyond = image[rows, columns + 1]
    assert len(beyond) > 100
    assert (np.abs(beyond[:, :3].astype(int) - [255, 0, 0]).max(1) < 150).mean() > 0.9
    assert (beyond[:, 3] == 0).all()


def test_what_lies_outside_the_photograph_stays_grey(anny, atlas, ramp, rest):
    near = replace(rest, camera=replace(rest.camera, scale=3 * rest.camera.scale))
    painter, whole = Painter(anny, atlas), Painter(anny, atlas)
    painter.add(ramp, near)
    whole.add(ramp, rest)
    assert painter.texture().seen < 0.8 * whole.texture().seen


@pytest.fixture
def person(template):
    def of(key, x=16.0, y=16.0, half=8.0):
        crop = Crop(torch.tensor([[x, y]]), torch.tensor([half]))
        return Estimates([key], Estimate.rest(template, 1), crop)

    return of


def test_photographs_of_a_data_set_are_found_in_any_order(person, tmp_path):
    data = write_people(tmp_path / "data", train=9, test=1, shard=4)
    keys = ["train-007", "train-001", "train-004"]
    photos = StoredPhotos(data, "train", keys)
    found = {key: photos.of(person(key)) for key in keys}
    again = StoredPhotos(data, "train", keys[::-1])
    for key in keys[::-1]:
        assert torch.equal(again.of(person(key)), found[key])
    assert not torch.equal(found[keys[0]], found[keys[1]])
    with pytest.raises(InputError, match="holds no photograph of 'nobody'"):
        photos.of(person("nobody"))


def test_new_pictures_are_found_by_name_and_cut_to_the_crop(person, tmp_path):
    picture = np.zeros((32, 40, 3), np.uint8)
    picture[8:24, 8:24] = 255
    for name in ("anna.png", "日本 1.png"):
        Image.fromarray(picture).save(tmp_path / name)
    photos = NewPhotos(tmp_path, ["bert", "anna"])
    for key in ("anna", "anna_p0", "日本 1", "日本 1_p12", "anna-03"):
        found = photos.of(person(key))
        assert found.shape == (3, 16, 16)
        assert found.min() == 255
    with pytest.raises(InputError, match=r"no picture of 'bert', and no video that it is from"):
        photos.of(person("bert"))
    with pytest.raises(InputError, match="there is nothing at"):
        NewPhotos(tmp_path / "missing", ["anna"])
    (tmp_path / "carl.txt").touch()
    with pytest.raises(InputError, match="no picture of 'bert' or of anyone else who is wanted"):
        NewPhotos(tmp_path, ["bert", "carl"])


def test_a_picture_is_found_by_what_predict_calls_its_person(person, tmp_path):
    strange = tmp_path / f"{'y' * 200}: 1.png"
    Image.new("RGB", (32, 32), (9, 9, 9)).save(strange)
    (key,) = file_names([strange.stem])
    assert NewPhotos(tmp_path, [key]).of(person(key)).max() == 9


def test_a_picture_called_as_another_ones_person_never_lends_its_colours(person, tmp_path):
    for name, level in (("anna", 200), ("anna_p1", 50)):
        Image.new("RGB", (32, 24), (level,) * 3).save(tmp_path / f"{name}.png")
    photos = NewPhotos(tmp_path, ["anna_p1"])
    # Who fills a picture is called as the picture; who was in a box may be of either.
    assert photos.of(person("anna_p1", y=12.0, half=16.0))[:, 8, 8].tolist() == [50, 50, 50]
    with pytest.raises(
        InputError, match=r"anna_p1\.png and anna\.png, and either may show 'anna_p1'"
    ):
        photos.of(person("anna_p1"))
    assert photos.of(person("anna_p2")).min() == 200


def test_a_frame_of_a_video_is_its_photograph(person, tmp_path):
    from fractions import Fraction

    from deformlearn.data.video import VideoWriter

    with VideoWriter(tmp_path / "walk.mp4", Fraction(10)) as writer:
        for level in (20, 90, 160, 230):
            writer.add(np.full((32, 32, 3), level, np.uint8))
    photos = NewPhotos(tmp_path / "walk.mp4", ["walk_000000"])
    for frame, level in ((2, 160), (0, 20)):
        found = photos.of(person(f"walk_{frame:06d}_p1"))
        assert (found.float() - level).abs().max() < 8
    with pytest.raises(InputError, match=r"walk\.mp4 has 4 frames"):
        photos.of(person("walk_000009"))
