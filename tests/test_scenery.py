"""scenery.py: cameras, rooms, shadows and light."""

from dataclasses import replace

import numpy as np
import torch

from deformlearn.data.darkroom import ShadowMap
from deformlearn.data.scenery import (
    MARGIN,
    Lamps,
    Light,
    Place,
    Rooms,
    Scene,
    View,
    background,
    box,
    framed,
    looking,
    random_light,
    random_place,
)

CPU = torch.device("cpu")


def test_a_frontal_camera_looks_a_person_in_the_face_and_left_is_right():
    rotation = looking(0.0, 0.0)
    np.testing.assert_allclose(rotation, np.diag([1.0, -1.0, -1.0]), atol=1e-12)
    from_left = looking(90.0, 0.0)
    np.testing.assert_allclose(from_left[2], [-1.0, 0.0, 0.0], atol=1e-12)
    from_above = looking(0.0, 30.0)
    np.testing.assert_allclose(from_above[2], [0.0, -0.5, -np.sqrt(0.75)], atol=1e-12)
    points = torch.from_numpy(box((0.0, 1.0, 0.0), (0.5, 2.0, 0.5))[0])[None]
    camera = torch.from_numpy(from_above)[None]
    view = framed(points, camera, -8 * camera[:, 2], 100)
    (seen,) = view.to_pixels(view.to_camera(points))
    torch.testing.assert_close((seen.amax(0) - seen.amin(0)).max().item(), 100 / MARGIN)
    rays = view.rays(100).view(3, 100, 100)
    along = (seen[0] - 0.5).round().long()
    direction = (points[0, 0] - view.position[0]).float()
    cosine = torch.cosine_similarity(rays[:, along[1], along[0]], direction, dim=0)
    assert cosine > 0.9999


def bare_room(**changes):
    """A grey floor at height 0 and one wall 2 metres beyond the world's origin, towards -z."""
    room = Place(
        floor=np.full((2, 3), 0.5),
        tiles=0.0,
        walls=np.array([[0.0, -1.0, 2.0, 3.0]]),
        wall_colours=np.array([[0.9, 0.1, 0.1]]),
        panels=np.array([[0.0, -0.2, 0.2, 0.5, 1.5]]),
        panel_colours=np.array([[0.1, 0.1, 0.9]]),
        sky=np.array([[0.8, 0.8, 0.8], [0.2, 0.2, 1.0]]),
        seed=0,
    )
    return replace(room, **changes)


def rooms(*places, ground=0.0):
    """Places side by side, all with a floor at the same height."""
    return Rooms.of(places, torch.full((len(places),), ground))


def seen_from_the_front(place):
    """Background, floor and points of a place, as pictures (channels first)."""
    colour, is_floor, points = background(rooms(place), FRONT, 40)
    return colour.view(3, 40, 40), is_floor.view(40, 40), points.view(3, 40, 40)


FRONT = View(
    torch.from_numpy(looking(0.0, 0.0))[None],
    torch.tensor([[0.0, 1.0, 6.0]], dtype=torch.float64),
    torch.tensor([40.0], dtype=torch.float64),
    torch.tensor([[20.0, 20.0]], dtype=torch.float64),
)
"""Forty pixels that see 8 metres across the wall of `bare_room`."""


def test_a_room_has_a_floor_below_a_wall_behind_and_a_picture_on_it():
    colour, is_floor, points = seen_from_the_front(bare_room())
    assert is_floor[-1].all()
    assert not is_floor[:20].any()
    assert points[1][is_floor].abs().max() < 1e-5
    middle = colour[:, 20, 20]
    assert middle[2] > middle[0]
    beside = colour[:, 20, 5]
    assert beside[0] > 2 * beside[1]


def test_above_a_wall_is_sky_and_from_outside_a_wall_cannot_be_seen():
    none = {"panels": np.zeros((0, 5)), "panel_colours": np.zeros((0, 3))}
    low = bare_room(walls=np.array([[0.0, -1.0, 2.0, 0.2]]), **none)
    colour, is_floor, _ = seen_from_the_front(low)
    assert (colour[2, 2] > colour[0, 2]).all()
    behind = bare_room(walls=np.array([[0.0, 1.0, 2.0, 3.0]]), **none)
    colour, is_floor, _ = seen_from_the_front(behind)
    assert is_floor[25].all()
    tiled, _, _ = seen_from_the_front(replace(behind, tiles=0.5, floor=np.eye(3)[:2]))
    assert tiled[:, 35].std(1).max() > 0.2


def test_rooms_side_by_side_are_painted_as_each_alone():
    """Also rooms with fewer walls, panels and tiles than others."""
    random = np.random.default_rng(2)
    places = [random_place(random, looking(20.0 * k, 5.0)[2]) for k in range(4)] + [bare_room()]
    together = View(*(x.expand(len(places), *x.shape[1:]).clone() for x in FRONT.tensors()))
    colour, is_floor, points = background(rooms(*places), together, 40)
    for person, place in enumerate(places):
        own = slice(1600 * person, 1600 * (person + 1))
        alone = background(rooms(place), FRONT, 40)
        assert torch.equal(is_floor[own], alone[1])
        torch.testing.assert_close(points[:, own], alone[2], atol=1e-5, rtol=0)
        torch.testing.assert_close(colour[:, own], alone[0], atol=1e-4, rtol=0)


def test_a_table_shades_the_ground_beneath_it_and_nothing_else():
    corners, faces = box((0.0, 1.0, 0.0), (1.0, 0.1, 1.0))
    light = Light(np.array([0.0, 1.0, 1e-3]), np.ones(3), np.ones(3))
    table = torch.from_numpy(corners)[None]
    scene = Scene(table, torch.from_numpy(faces), FRONT, rooms(bare_room()), Lamps.of([light], CPU))
    spots = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.2, -0.3], [0.9, 0.0, 0.0], [0.0, 1.5, 0.0]])
    blocked = ShadowMap(scene, 64).shade(spots.T, torch.zeros(4, dtype=torch.long), 0.01)
    assert blocked.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_lamps_are_above_and_places_are_around():
    random = np.random.default_rng(0)
    for _ in range(30):
        facing = looking(random.uniform(-180, 180), random.uniform(-10, 30))[2]
        light, place = random_light(random, facing), random_place(random, facing)
        assert light.towards[1] > 0.1
        assert light.lamp.min() > 0
        assert (place.walls[:, 2] > 0.5).all()
        assert (place.floor >= 0).all()
