"""outfits.py, wardrobe.py, cloth.py: every garment is where it should be."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deformlearn.data.cloth import fraction
from deformlearn.data.outfits import Looks, random_outfit
from deformlearn.data.staging import Studio


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.open()


@pytest.fixture(scope="module")
def dressing(studio):
    """The wardrobe at every vertex of the body, and an outfit to change."""
    outfit = random_outfit(np.random.default_rng(3), 0.9)
    plain = replace(outfit.top, pattern="plain", colours=np.array([[0.1, 0.8, 0.1]] * 2))
    outfit = replace(outfit, top=plain, jacket=None, sleeve=1.93, shoe=np.array([0.1, 0.1, 0.8]))
    return studio.wardrobe, replace(outfit, skin=np.array([0.8, 0.6, 0.5]), belt=None, hem=0.05)


def painted(wardrobe, *outfits):
    """The paint of every vertex, of one person after the other."""
    looks = Looks.of(outfits, torch.device("cpu"))
    people = torch.arange(len(outfits)).repeat_interleave(len(wardrobe.attributes))
    return wardrobe.paint(looks, wardrobe.attributes.T.repeat(1, len(outfits)), people)


def test_the_fraction_of_a_number_is_to_the_bit_its_remainder():
    random = torch.Generator().manual_seed(0)
    values = torch.randn(5, 2000, generator=random) * torch.tensor(
        [[1e-9], [1e-3], [1.0], [30], [1e4]]
    )
    assert (values < 0).any()
    assert torch.equal(fraction(values), values % 1)


def colour_at(studio, dressing, outfit, landmark):
    """Colour of the skin nearest to a landmark of the resting body."""
    wardrobe, _ = dressing
    names = studio.template.landmark_names
    place = studio.template.landmarks.rest[names.index(landmark)]
    vertex = (studio.template.vertices - place).norm(dim=-1).argmin()
    return painted(wardrobe, outfit).albedo[:, vertex].numpy()


def test_sleeves_end_where_the_outfit_says(studio, dressing):
    _, outfit = dressing
    green = [0.1, 0.8, 0.1]
    np.testing.assert_allclose(colour_at(studio, dressing, outfit, "left_elbow"), green, atol=1e-6)
    short = replace(outfit, sleeve=0.5)
    assert colour_at(studio, dressing, short, "left_elbow")[0] > 0.6
    tank = replace(outfit, sleeve=-1.0)
    assert colour_at(studio, dressing, tank, "left_elbow")[0] > 0.6
    np.testing.assert_allclose(colour_at(studio, dressing, tank, "spine3"), green, atol=1e-6)


def test_shoes_are_on_the_feet_unless_barefoot(studio, dressing):
    _, outfit = dressing
    blue = [0.1, 0.1, 0.8]
    np.testing.assert_allclose(colour_at(studio, dressing, outfit, "left_foot"), blue, atol=1e-6)
    bare = replace(outfit, shoe=None, sock=2.0, trouser_length=0.7)
    assert colour_at(studio, dressing, bare, "left_foot")[0] > 0.5


def test_a_jacket_covers_the_back_but_not_the_middle_of_the_front(studio, dressing):
    wardrobe, outfit = dressing
    red = replace(outfit.top, colours=np.array([[0.9, 0.0, 0.0]] * 2))
    colour = painted(wardrobe, replace(outfit, jacket=red)).albedo.T
    is_red = (colour - torch.tensor([0.9, 0.0, 0.0])).abs().amax(1) < 1e-5
    x, y, z = studio.template.vertices.unbind(1)
    trunk = (y > 0.2) & (y < 0.4) & (x.abs() < 0.1)
    assert is_red[trunk & (z < -0.05)].all()
    assert not is_red[trunk & (z > 0.05) & (x.abs() < 0.02)].any()


@pytest.mark.parametrize(
    "pattern",
    ["plain", "heather", "hoops", "pinstripes", "checks", "dots", "blotches", "print"],
)
def test_every_pattern_shows_its_first_colour_and_stays_a_colour(studio, dressing, pattern):
    wardrobe, outfit = dressing
    colours = np.array([[0.1, 0.8, 0.1], [0.9, 0.1, 0.9]])
    outfit = replace(outfit, top=replace(outfit.top, pattern=pattern, colours=colours))
    paint = painted(wardrobe, outfit)
    assert paint.albedo.min() >= 0
    assert paint.albedo.max() <= 1
    assert paint.bump.isfinite().all()
    x, y, _ = studio.template.vertices.unbind(1)
    chest = paint.albedo.T[(y > 0.2) & (y < 0.45) & (x.abs() < 0.15)]
    assert (chest[:, 1] > 0.4).any()
    mixed = (chest[:, 0] > 0.45) & (chest[:, 1] < 0.5)
    assert bool(mixed.any()) == (pattern != "plain") or pattern == "heather"


def test_people_side_by_side_wear_what_each_wears_alone(studio):
    """Every pattern, with and without jacket, belt, shoes and beard."""
    random = np.random.default_rng(5)
    outfits = [random_outfit(random, random.uniform()) for _ in range(24)]
    assert {outfit.jacket is None for outfit in outfits} == {True, False}
    together = painted(studio.wardrobe, *outfits)
    count = len(studio.wardrobe.attributes)
    for person, outfit in enumerate(outfits):
        alone, own = painted(studio.wardrobe, outfit), slice(count * person, count * (person + 1))
        torch.testing.assert_close(together.gloss[own], alone.gloss)
        torch.testing.assert_close(together.bump[:, own], alone.bump, atol=1e-5, rtol=1e-5)
        # Rounding may move a vertex from one stripe of a pattern to the next.
        differ = (together.albedo[:, own] - alone.albedo).abs().amax(0) > 1e-3
        assert differ.float().mean() < 1e-3
