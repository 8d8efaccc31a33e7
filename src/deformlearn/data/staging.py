"""Who stands where, drawn at random: body, pose, clothes, place, camera and light of each image.

`wild` images show a new person each, seen from anywhere. `lab` images show seven people who keep their
bodies and clothes, in one room, doing fifteen actions before four fixed cameras, as in Human3.6M.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float

from deformlearn import templates
from deformlearn.body import BodyTemplate
from deformlearn.config import SyntheticConfig
from deformlearn.data.cloth import fabric
from deformlearn.data.crowd import Figure
from deformlearn.data.darkroom import Film, random_film
from deformlearn.data.labels import Surface
from deformlearn.data.outfits import Outfit, random_outfit
from deformlearn.data.poses import ACTIONS, SEATED, random_pose
from deformlearn.data.posing import Rig, random_build
from deformlearn.data.rotations import UP, about
from deformlearn.data.scenery import Light, Place, looking, random_light, random_place
from deformlearn.data.wardrobe import Wardrobe

TRAIN_SUBJECTS = ("S1", "S5", "S6", "S7", "S8")
TEST_SUBJECTS = ("S9", "S11")
LAB_ACTIONS = tuple(action for action in ACTIONS if action != "Free")
LAB_CAMERAS = {"54138969": 45.0, "55011271": -45.0, "58860488": 135.0, "60457274": -135.0}
"""Cameras and the direction from which each looks into the room (degrees; Human3.6M's names)."""


@dataclass(frozen=True)
class Part:
    """Who does what, seen by which camera: the place of an image in the data set."""

    subject: str
    action: str
    camera: str
    frame: int


@dataclass(frozen=True, eq=False)
class Studio:
    """Everything that people share; built once a process."""

    template: BodyTemplate
    rig: Rig
    wardrobe: Wardrobe
    surface: Surface

    @staticmethod
    @cache
    def open() -> Studio:
        """The studio of this process."""
        template = templates.load("anny")
        return Studio(template, Rig(), Wardrobe(template), Surface(template))


def part_of(config: SyntheticConfig, split: str, index: int, stream: np.random.Generator) -> Part:
    """What image `index` of a split shows.

    lab goes through cameras, then subjects, then actions, so that four images in a row are four views
    of one moment; wild draws an action.
    """
    if config.people == "wild":
        action = str(stream.choice(list(ACTIONS)))
        return Part(f"{split}-{index:06d}", action, "", 0)
    subjects = TEST_SUBJECTS if split == "test" else TRAIN_SUBJECTS
    rest, camera = divmod(index, len(LAB_CAMERAS))
    rest, subject = divmod(rest, len(subjects))
    frame, number = divmod(rest, len(LAB_ACTIONS))
    return Part(subjects[subject], LAB_ACTIONS[number], list(LAB_CAMERAS)[camera], frame)


def random_stream(config: SyntheticConfig, *key: str | int) -> np.random.Generator:
    """A stream of random numbers that belongs to the seed and the words and numbers given."""
    words = [int.from_bytes(str(word).encode(), "little") for word in key]
    return np.random.default_rng([config.seed % 2**63, *words])


@dataclass(frozen=True)
class Chair:
    """What a seated person sits on (metres)."""

    width: float
    depth: float
    solid: bool
    """A crate, not a stool."""
    back: float
    """Height of its back; 0 without one."""


def random_chair(random: np.random.Generator) -> Chair:
    """A stool, crate or chair."""
    width, depth = random.uniform(0.38, 0.52), random.uniform(0.36, 0.44)
    solid = bool(random.random() < 0.35)
    return Chair(width, depth, solid, random.uniform(0.25, 0.5) if random.random() < 0.5 else 0.0)


@dataclass(frozen=True, eq=False)
class Script:
    """Everything that is drawn at random for one image, before anything is computed from it."""

    part: Part
    legs: str
    """Name of the leg pose, such as stand or sit."""
    figure: Figure
    outfit: Outfit
    jump: float
    """How far the person is above the floor (metres)."""
    chair: Chair | None
    turn: Float[np.ndarray, "3 3"]
    """Of the person in the world."""
    spot: Float[np.ndarray, "2"] | None
    """Where in the lab the person is (x and z, metres, on its floor); None stays where the rig is."""
    rotation: Float[np.ndarray, "3 3"]
    """World to camera axes."""
    camera: Float[np.ndarray, "3"] | None
    """The lab's camera (world); None stands as far away as the focal length asks for."""
    place: Place
    light: Light
    furniture: Float[np.ndarray, "3"]
    """Colour of what stands around."""
    film: Film


def direct(config: SyntheticConfig, split: str, index: int, studio: Studio) -> Script:
    """Body, pose, clothes, place, camera and light of one image."""

    def stream(*words: str | int) -> np.random.Generator:
        return random_stream(config, *words)

    part = part_of(config, split, index, stream(split, index, "part"))
    who: tuple[str | int, ...] = (split, index)
    moment = who
    if config.people == "lab":
        who, moment = (part.subject,), (split, part.subject, part.action, part.frame)
    build = random_build(stream(*who, "build"))
    outfit = random_outfit(stream(*who, "outfit"), build.gender)
    body = studio.rig.body(build)
    pose = random_pose(body, part.action, stream(*moment, "pose"), studio.template)
    random = stream(*moment, "stage")
    jump = random.uniform(0.03, 0.25) if pose.legs == "jump" else 0.0
    chair = random_chair(random) if pose.legs in SEATED else None
    if config.people == "lab":
        turn = about(UP, random.uniform(-180, 180))
        spot = np.array([random.uniform(-1, 1), random.uniform(-1, 1)])
        rotation = looking(LAB_CAMERAS[part.camera], 7.0)
        # 5 m from the middle of the room, at eye height.
        camera = np.array([0.0, 0.95, 0.0]) - 5.2 * rotation[2]
        place, light = _lab_room(config), _lab_light()
    else:
        turn, spot, camera = np.eye(3), None, None
        rotation = _wild_direction(random)
        place = random_place(random, rotation[2])
        light = random_light(random, rotation[2])
    return Script(
        part=part,
        legs=pose.legs,
        figure=Figure.of(body, pose.rotations),
        outfit=outfit,
        jump=jump,
        chair=chair,
        turn=turn,
        spot=spot,
        rotation=rotation,
        camera=camera,
        place=place,
        light=light,
        furniture=fabric(random),
        film=random_film(stream(split, index, "picture")),
    )


def _wild_direction(random: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Rotation of a camera anywhere around, half of the time in front."""
    azimuth = random.uniform(-180, 180) if random.random() < 0.5 else random.normal(0, 35)
    elevation = float(np.clip(random.normal(5, 9), -15, 40))
    return looking(azimuth, elevation, random.normal(0, 3))


def _lab_room(config: SyntheticConfig) -> Place:
    """The one room of the lab: four walls, a carpet, a few panels."""
    random = random_stream(config, "room")
    angles = np.arange(4) * np.pi / 2
    walls = np.stack([np.cos(angles), np.sin(angles), np.full(4, 4.6), np.full(4, 20.0)], 1)
    panels, colours = [], []
    for wall in range(4):
        for left in (-3.2, -0.9, 1.4):
            low = random.choice([0.0, 0.9])
            panels.append([wall, left, left + random.uniform(0.9, 1.7), low, 2.1])
            colours.append(random.uniform(0.15, 0.85) * np.array([1, 0.97, 0.92]))
    return Place(
        floor=np.array([[0.42, 0.3, 0.24], [0.5, 0.37, 0.3]]),
        tiles=0.0,
        walls=walls,
        wall_colours=np.array([[0.72, 0.7, 0.66], [0.66, 0.66, 0.68], [0.7, 0.68, 0.66]] * 2)[:4],
        panels=np.array(panels),
        panel_colours=np.array(colours),
        sky=np.array([[0.8, 0.8, 0.8], [0.7, 0.7, 0.7]]),
        seed=int(random.integers(2**31)),
    )


def _lab_light() -> Light:
    """Lamps on the ceiling."""
    return Light(np.array([0.25, 0.95, 0.18]), np.array([0.75, 0.73, 0.7]), np.full(3, 0.85))
