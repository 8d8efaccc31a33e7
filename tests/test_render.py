"""render.py: which face each pixel sees, and pictures that show it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deformlearn import templates
from deformlearn.body import BodyPoints, BodyTemplate
from deformlearn.camera import Camera, Crop
from deformlearn.estimate import Estimate
from deformlearn.raster import divided, interpolate_columns
from deformlearn.render import (
    compose,
    dots,
    interpolate,
    overlay,
    rasterise,
    shade,
    strip,
    surface_colours,
    turn,
    vertex_normals,
)
from deformlearn.tensors import concatenate

SQUARE = torch.tensor([[1.0, 1.0], [5.0, 1.0], [5.0, 4.0], [1.0, 4.0]])
TWO_FACES = torch.tensor([[0, 3, 1], [3, 2, 1]])
"""Seen from their outside: clockwise where y points down is counter-clockwise in space."""


@pytest.fixture(scope="module")
def box() -> BodyTemplate:
    """A box 0.4 wide, 2 high and 0.8 deep that one segment moves."""
    corner = torch.tensor([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    vertices = corner * torch.tensor([0.2, 1.0, 0.4])
    quads = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    faces = torch.tensor([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))])
    joints = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    weights = torch.tensor([[1.0, 0.0]]).repeat(8, 1)
    return BodyTemplate(
        name="box",
        vertices=vertices,
        faces=faces,
        joints=joints,
        weights=weights,
        mirror=torch.tensor([4, 5, 6, 7, 0, 1, 2, 3]),
        limit_axes=torch.eye(3)[None],
        limits=torch.full((1, 3, 2), torch.inf),
        landmarks=BodyPoints(joints, torch.eye(2)),
        landmark_names=("pelvis", "head"),
        parents=(-1, 0),
    )


@pytest.fixture(scope="module")
def anny() -> BodyTemplate:
    return templates.load("anny")


def before_camera(template: BodyTemplate, distance: float) -> torch.Tensor:
    """The resting template in camera axes, seen half from the side and a little from above."""
    yaw, pitch = torch.tensor(0.6), torch.tensor(0.2)
    turned = torch.tensor([[yaw.cos(), 0, yaw.sin()], [0, 1, 0], [-yaw.sin(), 0, yaw.cos()]])
    tilted = torch.tensor(
        [[1, 0, 0], [0, pitch.cos(), -pitch.sin()], [0, pitch.sin(), pitch.cos()]]
    )
    flip = torch.tensor([1.0, -1.0, -1.0])
    return (template.vertices @ turned.T @ tilted.T) * flip + torch.tensor([0.0, 0.0, distance])


def centres(fragments, width):
    return torch.stack([fragments.pixels % width, fragments.pixels // width], -1) + 0.5


def test_two_faces_cover_every_pixel_of_their_square_once():
    fragments = rasterise(SQUARE[None], torch.ones(1, 4), TWO_FACES, (6, 7))
    rows, columns = fragments.pixels // 7, fragments.pixels % 7
    assert len(fragments) == 12
    assert rows.unique().tolist() == [1, 2, 3]
    assert columns.unique().tolist() == [1, 2, 3, 4]
    assert fragments.pixels.tolist() == sorted(fragments.pixels.tolist())


def test_barycentric_coordinates_give_the_pixel_back():
    fragments = rasterise(SQUARE[None], torch.ones(1, 4), TWO_FACES, (6, 7))
    place = interpolate(SQUARE[None], TWO_FACES, fragments)
    torch.testing.assert_close(place, centres(fragments, 7))


def test_faces_seen_from_behind_are_dropped_unless_both_sides_count():
    away = TWO_FACES.flip(1)
    depth = torch.ones(1, 4)
    assert len(rasterise(SQUARE[None], depth, away, (6, 7))) == 0
    assert len(rasterise(SQUARE[None], depth, away, (6, 7), both_sides=True)) == 12


def test_the_nearer_face_wins_and_a_tie_goes_to_the_lower_index():
    twice = torch.cat([SQUARE, SQUARE])[None]
    faces = torch.cat([TWO_FACES, TWO_FACES + 4])
    depth = torch.tensor([[2.0] * 4 + [1.0] * 4])
    assert (rasterise(twice, depth, faces, (6, 7)).faces >= 2).all()
    assert (rasterise(twice, -depth, faces, (6, 7)).faces < 2).all()
    assert (rasterise(twice, torch.ones(1, 8), faces, (6, 7)).faces < 2).all()


def test_depth_is_that_of_the_surface_point():
    depth = torch.tensor([[1.0, 5.0, 5.0, 1.0]])
    flat = rasterise(SQUARE[None], depth, TWO_FACES, (6, 7))
    torch.testing.assert_close(flat.depth, centres(flat, 7)[:, 0])


def test_perspective_undoes_foreshortening():
    """On a face that recedes, the middle of the screen is not the middle of the face."""
    points = torch.tensor([[-1.0, -1.0, 2.0], [3.0, -1.0, 6.0], [3.0, 1.0, 6.0], [-1.0, 1.0, 2.0]])
    screen = 10 * points[None, :, :2] / points[None, :, 2:] + 8
    fragments = rasterise(screen, points[None, :, 2], TWO_FACES, (16, 16), perspective=True)
    assert len(fragments) > 20
    place = interpolate(points[None], TWO_FACES, fragments)
    torch.testing.assert_close(place[:, :2] / place[:, 2:] * 10 + 8, centres(fragments, 16))
    torch.testing.assert_close(place[:, 2], fragments.depth)


def test_faces_that_reach_behind_the_camera_are_left_out():
    depth = torch.tensor([[1.0, -1.0, 1.0, 1.0]])
    fragments = rasterise(SQUARE[None], depth, TWO_FACES, (6, 7), perspective=True)
    assert len(fragments) == 0
    depth = torch.tensor([[-1.0, 1.0, 1.0, 1.0]])
    fragments = rasterise(SQUARE[None], depth, TWO_FACES, (6, 7), perspective=True)
    assert fragments.faces.unique().tolist() == [1]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_a_vertex_that_is_no_number_or_far_away_does_no_harm(value):
    screen = SQUARE[None].clone()
    screen[0, 0, 0] = value
    fragments = rasterise(screen, torch.ones(1, 4), TWO_FACES, (6, 7))
    assert (fragments.faces == 1).all() or value == 1e30
    assert fragments.barycentric.isfinite().all()


def test_nothing_in_the_picture_gives_no_fragments():
    away = SQUARE[None] + 100
    assert len(rasterise(away, torch.ones(1, 4), TWO_FACES, (6, 7))) == 0
    assert len(rasterise(SQUARE[None], torch.ones(1, 4), TWO_FACES[:0], (6, 7))) == 0


def test_neighbouring_faces_leave_no_crack():
    """A fan of thin faces around odd points covers its square without a hole."""
    generator = torch.Generator().manual_seed(0)
    side = 40
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    points = grid.flip(-1).reshape(-1, 2).float() * 2.05
    inner = torch.rand(side, side, 2, generator=generator) - 0.5
    inner[0] = inner[-1] = inner[:, 0] = inner[:, -1] = 0
    points = points + inner.reshape(-1, 2)
    corner = (grid[:-1, :-1] * torch.tensor([side, 1])).sum(-1).reshape(-1, 1)
    faces = torch.cat(
        [corner + torch.tensor([0, side, 1]), corner + torch.tensor([side, side + 1, 1])]
    )
    fragments = rasterise(points[None], torch.ones(1, len(points)), faces, (79, 79))
    assert len(fragments) == 79 * 79


def test_a_person_alone_and_in_a_batch_look_the_same(anny):
    near, far = before_camera(anny, 5.0), before_camera(anny, 7.0)
    both = torch.stack([near, far])
    screen = 120 * both[..., :2] / both[..., 2:] + 32
    together = rasterise(screen, both[..., 2], anny.faces, (64, 64), perspective=True)
    alone = rasterise(screen[1:], both[1:, :, 2], anny.faces, (64, 64), perspective=True)
    second = together[together.images == 1]
    assert torch.equal(second.faces, alone.faces)
    assert torch.equal(second.pixels, alone.pixels)
    assert torch.equal(second.barycentric, alone.barycentric)


def test_points_of_a_body_project_to_their_pixels(anny):
    points = before_camera(anny, 12.0)
    screen = 8 * 128 * points[None, :, :2] / points[None, :, 2:] + 64
    fragments = rasterise(screen, points[None, :, 2], anny.faces, (128, 128), perspective=True)
    place = interpolate(points[None], anny.faces, fragments)
    again = 8 * 128 * place[:, :2] / place[:, 2:] + 64
    assert len(fragments) > 1500
    assert (again - centres(fragments, 128)).abs().max() < 1e-3


@pytest.mark.parametrize("perspective", [False, True])
def test_the_same_face_as_embree_in_every_pixel_but_on_edges(anny, perspective):
    rtcore_scene = pytest.importorskip("embreex.rtcore_scene")
    from embreex.mesh_construction import TriangleMesh

    size, focal = 160, 420.0
    points = before_camera(anny, 5.0)
    lens = points[:, 2:] if perspective else torch.full_like(points[:, 2:], 5.0)
    screen = focal * points[:, :2] / lens + size / 2
    ours = rasterise(
        screen[None], points[None, :, 2], anny.faces, (size, size), perspective=perspective
    )
    steps = (torch.arange(size) + 0.5 - size / 2) / focal
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    if perspective:
        directions = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)
        origins = torch.zeros_like(directions)
    else:
        origins = torch.stack([5 * x, 5 * y, torch.zeros_like(x)], -1).view(-1, 3)
        directions = torch.tensor([0.0, 0.0, 1.0]).repeat(len(origins), 1)
    scene = rtcore_scene.EmbreeScene()
    mesh = TriangleMesh(scene, points[anny.faces].numpy())
    assert mesh is not None
    hits = scene.run(origins.numpy(), directions.numpy(), output=True)
    theirs = torch.from_numpy(hits["primID"].astype(np.int64))
    mine = torch.full((size * size,), -1).index_put((ours.pixels,), ours.faces)
    differing = (mine != theirs).nonzero()[:, 0]
    assert (mine >= 0).sum() > 2000
    # Embree sees both sides; where a ray grazes an edge either neighbour may be reported.
    blend = torch.ones(size * size).index_put((ours.pixels,), ours.barycentric.amin(1))
    edge = (blend < 1e-3) | (mine < 0) | (theirs < 0)
    assert edge[differing].all()
    assert len(differing) < 10


def test_values_come_by_column_to_the_bit_as_they_come_by_row(box):
    screen = torch.stack([box.vertices[:, 2], -box.vertices[:, 1]], 1) * 50 + 60
    seen = rasterise(screen[None], box.vertices[None, :, 0], box.faces, (120, 120), both_sides=True)
    assert len(seen) == 4000  # twice as many are not a whole number of blocks
    several = concatenate([seen, replace(seen, images=seen.images + 1)])
    values = torch.rand(2, 8, 5, generator=torch.Generator().manual_seed(0))
    columns = interpolate_columns(values, box.faces, several)
    assert torch.equal(columns, interpolate(values, box.faces, several).T)
    assert not torch.equal(columns[:, : len(seen)], columns[:, len(seen) :])


def test_places_and_quotients_are_those_of_whole_numbers(box):
    whole = torch.tensor([0, 1, 6, 7, 8, 13, 14, 2**40 + 3])
    assert divided(whole, 7).tolist() == [each // 7 for each in whole.tolist()]
    seen = rasterise(SQUARE[None], torch.ones(1, 4), TWO_FACES, (6, 7))
    row, column = seen.places(7)
    assert torch.equal(row * 7 + column, seen.pixels)
    assert (row.min(), row.max(), column.min(), column.max()) == (1, 3, 1, 4)


def test_normals_point_out_of_a_box_and_have_unit_length(box):
    normals = vertex_normals(box.vertices, box.faces)
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(8))
    assert ((normals * box.vertices).sum(-1) > 0).all()
    twice = vertex_normals(torch.stack([box.vertices, -box.vertices]), box.faces)
    torch.testing.assert_close(twice[0], normals)


def test_a_shaded_box_is_opaque_inside_and_clear_outside(box):
    picture = shade(box, Estimate.rest(box, 2), 40)
    assert picture.shape == (2, 40, 40, 4)
    assert picture[0, 20, 20, 3] == 1
    assert picture[0, 20, 2].abs().max() == 0
    assert (picture[..., :3] <= picture[..., 3:] + 1e-6).all()
    # 0.4 of 2 metres wide, and 2 metres are 0.9 of the picture.
    covered = picture[0, ..., 3].sum() / 40**2
    torch.testing.assert_close(covered.item(), 0.18 * 0.9, atol=0.01, rtol=0)


def test_colours_may_be_given_by_vertex_and_supersampling_smooths(box):
    estimate = Estimate.rest(box, 1)
    red = torch.tensor([1.0, 0.0, 0.0]).repeat(8, 1)
    picture = shade(box, estimate, 41, colour=red, supersample=1)
    assert set(picture[..., 3].unique().tolist()) == {0.0, 1.0}
    assert picture[0, 20, 20, 0] > 2 * picture[0, 20, 20, 1]
    assert len(shade(box, estimate, 41, supersample=3)[..., 3].unique()) > 2


def test_a_quarter_turn_shows_the_side(box):
    side = shade(box, turn(box, Estimate.rest(box, 1), 90.0), 60)[0, ..., 3]
    front = shade(box, turn(box, Estimate.rest(box, 1), 0.0), 60)[0, ..., 3]
    torch.testing.assert_close((side.sum() / front.sum()).item(), 2.0, atol=0.15, rtol=0)


def test_a_turned_body_stays_inside_the_picture(box):
    near = Estimate.rest(box, 1)
    near = replace(near, camera=replace(near.camera, scale=near.camera.scale * 4))
    picture = shade(box, turn(box, near, 30.0), 50)[0, ..., 3]
    assert picture[0].max() == 0
    assert picture[:, 0].max() == 0
    assert picture.sum() > 0


def test_composing_keeps_the_photograph_where_the_layer_is_clear():
    photo, layer = torch.rand(4, 5, 3), torch.zeros(4, 5, 4)
    layer[1, 2] = torch.tensor([0.5, 0.0, 0.0, 1.0])
    result = compose(photo, layer, 0.5)
    torch.testing.assert_close(result[0], photo[0])
    torch.testing.assert_close(result[1, 2], photo[1, 2] * 0.5 + torch.tensor([0.25, 0, 0]))


def test_an_overlay_changes_only_the_pixels_of_the_body(box):
    photo = np.full((80, 80, 3), 90, np.uint8)
    result = overlay(photo, box, Estimate.rest(box, 1))
    assert result.shape == photo.shape
    assert result.dtype == np.uint8
    assert (result[:, :20] == 90).all()
    assert (result[40, 40] != 90).any()
    assert (photo == 90).all()


def test_several_people_are_drawn_on_a_full_photograph(box):
    photo = np.zeros((60, 200, 3), np.uint8)
    crop = Crop(torch.tensor([[40.0, 30.0], [150.0, 30.0]]), torch.tensor([28.0, 28.0]))
    result = overlay(photo, box, Estimate.rest(box, 2), crop, opacity=1.0)
    assert result[30, 40].min() > 0
    assert result[30, 150].min() > 0
    assert result[30, 95].max() == 0


def test_someone_beyond_the_photograph_is_cut_or_skipped(box):
    photo = np.zeros((50, 50, 3), np.uint8)
    crop = Crop(torch.tensor([[0.0, 25.0], [500.0, 25.0]]), torch.tensor([24.0, 24.0]))
    result = overlay(photo, box, Estimate.rest(box, 2), crop)
    assert result[25, 1].max() > 0
    assert result[:, 10:].max() == 0
    broken = Estimate.rest(box, 1)
    lost = Camera(broken.camera.matrix, broken.camera.translation * torch.nan, broken.camera.scale)
    assert overlay(photo, box, replace(broken, camera=lost)).max() == 0


def test_the_nearer_of_two_people_covers_the_other(box):
    photo = np.zeros((60, 60, 3), np.uint8)
    crop = Crop(torch.full((2, 2), 30.0), torch.tensor([28.0, 14.0]))
    both = overlay(photo, box, Estimate.rest(box, 2), crop, opacity=1.0)
    one = overlay(photo, box, Estimate.rest(box, 1), crop[:1], opacity=1.0)
    assert (both == one).all()


def test_dots_lie_where_they_should_and_may_leave_the_picture():
    photo = np.full((30, 30, 3), 255, np.uint8)
    pixels = torch.tensor([[10.5, 20.5], [-50.0, 3.0], [29.9, 0.1]])
    result = dots(photo, pixels, torch.tensor([[1.0, 0.0, 0.0]] * 3), radius=2.0)
    assert result[20, 10].tolist() == [255, 0, 0]
    assert (result[5:15, 20:] == 255).all()


def test_colours_tell_left_from_right_and_stay_colours(anny):
    colours = surface_colours(anny)
    assert colours.min() >= 0
    assert colours.max() <= 1
    hand = anny.vertices[:, 0].argmax()
    assert (colours[hand] - colours[anny.mirror[hand]]).norm() > 0.5


def test_a_strip_has_five_pictures(box):
    photo = np.full((32, 32, 3), 128, np.uint8)
    points = torch.tensor([[0.0, 0.0], [0.1, -0.5]])
    faces, middle = torch.tensor([0, 3]), torch.full((2, 3), 1 / 3)
    row = strip(photo, box, Estimate.rest(box, 1), points, faces, middle, size=64)
    assert row.shape == (64, 320, 3)
    assert row.dtype == np.uint8
    assert (row[:, :64] == 128).all()
    assert (row[:, 192:200] == 255).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_sees_the_same_faces(anny):
    points = before_camera(anny, 5.0)[None]
    screen = 400 * points[..., :2] / points[..., 2:] + 64
    arguments = (screen, points[..., 2], anny.faces)
    here = rasterise(*arguments, (128, 128), perspective=True)
    there = rasterise(*(x.cuda() for x in arguments), (128, 128), perspective=True).to("cpu")
    assert (here.faces != there.faces).float().mean() < 1e-3
