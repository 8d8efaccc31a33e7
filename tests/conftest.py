"""A body you can draw on paper, people planted on it, and the real data where it is at hand."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from deformlearn.body import BodyParameters, BodyPoints, BodyTemplate
from deformlearn.camera import Camera, Crop
from deformlearn.estimate import Estimate, project_points
from deformlearn.landmarks import ANNOTATED, collect
from deformlearn.observations import Observations
from deformlearn.skeleton import (
    JOINT_SETS,
    PARENTS,
    SEGMENTS,
    mirrored_name,
    rotation_from_axis_angle,
)

# A shell's background jobs inherit that Ctrl-C is ignored; tests press it in processes of their own.
signal.signal(signal.SIGINT, signal.default_int_handler)

UNKNOWN_TEXTURE = b"DDS " + bytes([124]) + bytes(123)
"""An image that Pillow refuses by an error of its own kind, neither OSError nor ValueError."""

_HALF = {  # joints on the left and the midline, metres: x left, y up, z forward
    "pelvis": (0, 1.0, 0), "left_hip": (0.1, 0.95, 0), "spine1": (0, 1.1, 0),
    "left_knee": (0.12, 0.5, 0.02), "spine2": (0, 1.2, 0), "left_ankle": (0.13, 0.1, 0),
    "spine3": (0, 1.3, 0), "left_foot": (0.13, 0.03, 0.12), "neck": (0, 1.5, 0),
    "left_collar": (0.06, 1.45, 0), "head": (0, 1.6, 0.02), "left_shoulder": (0.18, 1.45, 0),
    "left_elbow": (0.4, 1.3, 0), "left_wrist": (0.6, 1.15, 0.02), "left_hand": (0.68, 1.1, 0.03),
    # What only annotators mark.
    "nose": (0, 1.65, 0.1), "left_eye": (0.03, 1.68, 0.08), "left_ear": (0.07, 1.66, 0),
    "left_big_toe": (0.12, 0.02, 0.2), "left_small_toe": (0.16, 0.02, 0.16),
    "left_heel": (0.13, 0.02, -0.05),
}  # fmt: skip


def _position(name: str) -> torch.Tensor:
    if name in _HALF:
        return torch.tensor(_HALF[name], dtype=torch.float32)
    return torch.tensor(_HALF[mirrored_name(name)]) * torch.tensor([-1.0, 1, 1])


def _owner(name: str) -> int:
    """The segment that carries a point annotators mark: its own, the head or a foot."""
    if name in SEGMENTS:
        return SEGMENTS.index(name)
    side, _, part = name.partition("_")
    foot = "foot" if part.endswith("toe") else "ankle"
    return SEGMENTS.index(f"{side}_{foot}" if part.endswith(("toe", "heel")) else "head")


def octahedra() -> BodyTemplate:
    """24 octahedra, each rigid with its segment, at a person's joints."""
    joints = torch.stack([_position(name) for name in SEGMENTS])
    corners = (
        torch.tensor([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]]) * 0.06
    )
    sides = [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
    vertices = (joints[:, None] + corners).flatten(0, 1)
    faces = torch.cat([torch.tensor(sides) + 6 * joint for joint in range(24)])
    weights = torch.eye(24).repeat_interleave(6, 0)
    swap = [SEGMENTS.index(mirrored_name(name)) for name in SEGMENTS]
    mirror = torch.tensor([6 * swap[v // 6] + [1, 0, 2, 3, 4, 5][v % 6] for v in range(144)])
    limits = torch.tensor([-torch.inf, torch.inf]).expand(23, 3, 2).clone()
    knee = SEGMENTS.index("left_knee") - 1
    limits[knee, 0] = torch.tensor([-0.1, 2.4])
    owner = [_owner(name) for name in ANNOTATED]
    marked = BodyPoints(torch.stack([_position(name) for name in ANNOTATED]), torch.eye(24)[owner])
    landmarks, names = collect(joints, torch.tensor([0, 1.75, 0.0]), marked)
    return BodyTemplate(
        name="octahedra", vertices=vertices, faces=faces, joints=joints, weights=weights, mirror=mirror,
        limit_axes=torch.eye(3).expand(23, 3, 3).clone(), limits=limits,
        landmarks=landmarks, landmark_names=names, parents=PARENTS,
    )  # fmt: skip


@pytest.fixture(scope="session")
def template() -> BodyTemplate:
    return octahedra()


@pytest.fixture(scope="session")
def anny() -> BodyTemplate:
    """The real default body, from the cache (built once)."""
    from deformlearn import templates

    return templates.load("anny")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; where there is none, what needs it is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright package")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    without_graphics_card = (
        "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
    )  # fmt: skip
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", *without_graphics_card]
        )
        yield found
        found.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data that is never committed; tests that need it skip where it is absent."""
    root = Path(os.environ.get("DEFORMLEARN_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"real test data are absent: no {root / 'data'} (set DEFORMLEARN_SHARED)")
    return root / "data"


def plant(
    template: BodyTemplate, people: int, seed: int = 0, points: int = 60, joints: str = "skeleton25"
):
    """People with known estimates, and the exact observations they would give."""
    g = torch.Generator().manual_seed(seed)
    rest = Estimate.rest(template, people)
    turn = torch.zeros(people, 3)
    turn[:, 1] = (torch.rand(people, generator=g) - 0.5) * 5
    camera = Camera(
        rest.camera.matrix @ rotation_from_axis_angle(turn),
        rest.camera.translation + 0.05 * torch.randn(people, 2, generator=g),
        rest.camera.scale * (0.9 + 0.2 * torch.rand(people, generator=g)),
    )
    body = BodyParameters(
        (0.05 * torch.randn(people, 24, generator=g)).exp(),
        0.25 * torch.randn(people, 23, 3, generator=g),
    )
    truth = Estimate(body, camera)
    faces = torch.randint(len(template.faces), (people, points), generator=g)
    barycentric = torch.rand(people, points, 3, generator=g)
    barycentric = barycentric / barycentric.sum(-1, keepdim=True)
    annotated = project_points(template, truth, template.surface_points(faces, barycentric))[
        ..., :2
    ]
    seen = project_points(template, truth, template.keypoints(JOINT_SETS[joints]))
    roots = JOINT_SETS[joints].root_indices
    observations = Observations(
        annotated, faces, barycentric, torch.ones(people, points),
        seen[..., :2], torch.ones(people, seen.shape[1]),
        seen[..., 2] - seen[:, roots, 2].mean(1, keepdim=True), torch.ones(people, seen.shape[1]), joints,
    )  # fmt: skip
    crop = Crop(torch.full((people, 2), 64.0), torch.full((people,), 64.0))
    return truth, observations, crop


@pytest.fixture(scope="session")
def planted():
    return plant
