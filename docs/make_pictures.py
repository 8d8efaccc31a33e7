"""The pictures of the README and the site: python docs/make_pictures.py runs/demo [NAME ...]

All people are synthetic (seed 11, none of them in the demo) and drawn by our own renderer. Numbers under a
picture are computed from what it shows.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from deformlearn.anatomy import segment_colours, views
from deformlearn.body import BodyParameters, BodyTemplate, skin
from deformlearn.config import RegistrationConfig, SyntheticConfig
from deformlearn.data.estimates import read_estimates
from deformlearn.data.images import decode_image
from deformlearn.data.labels import KEYPOINTS
from deformlearn.data.shards import DatasetInfo, People, Row, people_of
from deformlearn.data.synthetic import make_person
from deformlearn.data.truth import TruthRow
from deformlearn.estimate import Estimate, camera_joints, camera_vertices, project_points
from deformlearn.evaluation import canonical_mm
from deformlearn.fitting import fit_photograph
from deformlearn.lifter import load_lifter
from deformlearn.metrics import bone_sum, joint_errors, procrustes
from deformlearn.observations import no_points
from deformlearn.pictures import save_png
from deformlearn.predict import predict_crops
from deformlearn.raster import interpolate, rasterise, vertex_normals
from deformlearn.registration import register
from deformlearn.regressor import load_network
from deformlearn.render import compose, dots, overlay, shade, strip, surface_colours, turn
from deformlearn.skeleton import SEGMENTS, joint_set
from deformlearn.templates import load

FOLDER = Path(__file__).parent / "images"
SIZE = 300
FADE = 0.45
GREY, BLUE, RED = (0.62, 0.62, 0.62), (0.36, 0.46, 0.66), (0.80, 0.42, 0.32)
KEYPOINT_COLOURS = {"left": (0.15, 0.35, 0.9), "right": (0.95, 0.55, 0.1)}


@dataclass(frozen=True)
class Studio:
    """A finished demo, the body, and fresh people to photograph."""

    demo: Path

    @cached_property
    def template(self) -> BodyTemplate:
        return load()

    @cached_property
    def lifter(self):
        return load_lifter(self.demo / "run" / "lifter.safetensors")

    def person(self, index: int) -> tuple[Row, TruthRow]:
        return make_person(SyntheticConfig(size=384, seed=11), "test", index)

    def people(self, *indices: int) -> People:
        """Fresh people with the depths that the demo's lifter gives them."""
        info = DatasetInfo(self.template.name, self.template.fingerprint, "skeleton25", KEYPOINTS)
        people = people_of([self.person(index)[0] for index in indices], info)
        return replace(people, observations=self.lifter.lift(people.observations))

    def photo(self, index: int, size: int = SIZE) -> np.ndarray:
        return decode_image(self.person(index)[0].image, size).permute(1, 2, 0).numpy()

    def fit(self, people: People, **changes) -> Estimate:
        config = replace(RegistrationConfig(), **changes)
        return register(self.template, people.observations, people.crop, config)[0]

    def drawn(self, estimate: Estimate, degrees: float = 0.0, colour=BLUE) -> np.ndarray:
        """A body on white, turned about the vertical."""
        turned = turn(self.template, estimate, degrees)
        return overlay(white(), self.template, turned, opacity=1.0, colour=colour)


def white(width: int = SIZE, height: int = SIZE) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def faded(photo: np.ndarray) -> np.ndarray:
    return (photo * (1 - FADE) + 255 * FADE).astype(np.uint8)


def lettering(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def captioned(panels: list[np.ndarray], captions: list[str], columns: int = 4) -> np.ndarray:
    """Panels in rows of `columns`, a caption under each."""
    if len(panels) > columns:
        rows = [
            captioned(panels[first : first + columns], captions[first : first + columns], columns)
            for first in range(0, len(panels), columns)
        ]
        return np.concatenate(rows)
    font = lettering(18)
    shown = []
    for panel, caption in zip(panels, captions, strict=True):
        lines = caption.split("\n")
        picture = Image.fromarray(
            np.concatenate([panel, white(panel.shape[1], 12 + 24 * len(lines))])
        )
        pen = ImageDraw.Draw(picture)
        for row, line in enumerate(lines):
            place = (panel.shape[1] / 2, panel.shape[0] + 6 + 24 * row)
            pen.text(place, line, fill=(40, 40, 40), font=font, anchor="ma")
        shown.append(np.asarray(picture))
    height = max(len(picture) for picture in shown)
    shown = [
        np.concatenate([picture, white(picture.shape[1], height - len(picture))])
        for picture in shown
    ]
    return np.concatenate(shown, 1)


def strip_png(studio: Studio) -> np.ndarray:
    """Three people: photo, correspondences, overlay, front and side."""
    indices = (0, 7, 10)
    people = studio.people(*indices)
    estimate, seen = studio.fit(people), people.observations
    strips = []
    for row, index in enumerate(indices):
        used = seen.point_weights[row] > 0
        strips.append(
            strip(
                studio.photo(index, 384), studio.template, estimate[row : row + 1],
                seen.points[row, used], seen.faces[row, used], seen.barycentric[row, used], size=SIZE,
            )
        )  # fmt: skip
    return np.concatenate(strips)


def correspondences(studio: Studio, people: People, index: int) -> np.ndarray:
    """A photo with its correspondences, each in the colour of its place on the body."""
    seen = people.observations
    used = seen.point_weights[0] > 0
    corners = surface_colours(studio.template)[studio.template.faces[seen.faces[0, used]]]
    colours = (corners * seen.barycentric[0, used][..., None]).sum(-2)
    return dots(faded(studio.photo(index)), (seen.points[0, used] + 1) * SIZE / 2, colours)


def stages_png(studio: Studio) -> np.ndarray:
    """One registration, from the labels to the fit."""
    index = 7
    people = studio.people(index)
    photo = studio.photo(index)
    panels = [photo, correspondences(studio, people, index)]
    captions = ["the photograph", "what it is labelled with"]
    for steps, caption in (
        ((0, 0), "start: orientation alone"),
        ((4, 0), "phase 1: the depths lead"),
        ((4, 30), "phase 2: the pixels decide"),
    ):
        fit = studio.fit(people, first_iterations=steps[0], iterations=steps[1])
        panels.append(overlay(photo, studio.template, fit, opacity=0.9))
        captions.append(caption)
    panels.append(studio.drawn(studio.fit(people), 90.0))
    return captioned(panels, [*captions, "the fit from the side"], columns=3)


def loop_png(studio: Studio) -> np.ndarray:
    """Deform and learn: labels, fit, what the network says of the pixels alone."""
    index = 14
    people = studio.people(index)
    photo = studio.photo(index)
    fit = studio.fit(people)
    network = load_network(studio.demo / "run" / "round-3" / "network.safetensors")
    size = network.info.size
    pixels = decode_image(studio.person(index)[0].image, size)[None]
    guess, _, _ = predict_crops(network, pixels, device=None)
    again, _ = register(
        studio.template, people.observations, people.crop, RegistrationConfig(), start=guess
    )
    panels = [correspondences(studio, people, index)]
    panels += [overlay(photo, studio.template, body) for body in (fit, guess, again)]
    captions = [
        "2D labels",
        "DEFORM: a body is\nregistered to them",
        "LEARN: what the network\nsays of the pixels",
        "the next fit, which\nbegan at that",
    ]
    return captioned(panels, captions)


def segments_png(studio: Studio) -> np.ndarray:
    """The template's 24 segments: front, side, back."""
    return views(studio.template)


def densepose_png(studio: Studio) -> np.ndarray:
    """A photo, its IUV image, and the body registered to that, in DensePose's own formats."""
    sys.path.insert(0, str(FOLDER.parents[1] / "tests"))
    from planted_densepose import photographed, write_charts, write_photo

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_charts(folder / "UV_Processed.mat", studio.template)
        write_photo(folder, "photo", (3,), studio.template)
        fit_photograph(
            folder / "photo.jpg", folder / "photo_IUV.png", None, folder / "UV_Processed.mat",
            folder / "out", studio.template, RegistrationConfig(), lifter=studio.lifter,
        )  # fmt: skip
        found = read_estimates(folder / "out" / "estimates.parquet", studio.template)
    picture, labels, _, _ = photographed(3, studio.template)
    photo, iuv = (
        np.asarray(Image.fromarray(one).resize((SIZE, SIZE), how))
        for one, how in ((picture, Image.Resampling.LANCZOS), (labels[..., ::-1] * 1, 0))
    )
    bright = np.where(iuv[..., 2:] > 0, iuv * np.uint8([1, 1, 9]), 40)  # parts are small numbers
    panels = [photo, bright.astype(np.uint8)]
    scale = torch.tensor(SIZE / picture.shape[0])
    crop = replace(found.crop, centre=found.crop.centre * scale, half=found.crop.half * scale)
    panels.append(overlay(photo, studio.template, found.estimate, crop))
    panels.append(studio.drawn(found.estimate, 90.0))
    captions = [
        "the photograph",
        "its IUV png\n(part brightened)",
        "the fitted body",
        "from the side",
    ]
    return captioned(panels, captions)


def scales_png(studio: Studio) -> np.ndarray:
    """What the scale of a segment moves."""
    colours = segment_colours()[studio.template.weights.argmax(1)]
    panels, captions = [], []
    for grown, factor, caption in (
        ((), 1.0, "all 1: the template"),
        (("left_hip", "right_hip"), 1.25, "thighs 1.25: longer legs"),
        (("left_elbow", "right_elbow"), 1.5, "forearms 1.5: hands move,\nbut do not grow"),
        (("head",), 1.35, "head 1.35"),
    ):
        rest = Estimate.rest(studio.template, 1)
        scales = rest.body.scales.clone()
        scales[:, [SEGMENTS.index(name) for name in grown]] = factor
        body = Estimate(BodyParameters(scales, rest.body.pose), rest.camera)
        smaller = Estimate(body.body, replace(body.camera, scale=0.85 * body.camera.scale))
        layer = shade(studio.template, turn(studio.template, smaller, 0.0), SIZE, colour=colours)[0]
        panels.append((compose(torch.ones(SIZE, SIZE, 3), layer) * 255).byte().numpy())
        captions.append(caption)
    return captioned(panels, captions)


def twins_png(studio: Studio) -> np.ndarray:
    """The same 2D key points, two bodies: what lifted depths are for."""
    index = 0
    people = studio.people(index)
    seen = people.observations
    fields = ("points", "faces", "barycentric", "point_weights")
    nothing = dict(zip(fields, no_points(1, seen.points), strict=True))
    bare = replace(seen, **nothing)
    photo, bodies = studio.photo(index), []
    for sign in (1.0, -1.0):
        turned = bare.with_depths(sign * bare.depths, bare.depth_weights)
        # Depths are trusted to the end here, so that both bodies are what their depths ask for.
        config = RegistrationConfig(depth_weight=10.0)
        bodies.append(register(studio.template, turned, people.crop, config)[0])
    names = seen.joint_set.names
    colours = torch.tensor(
        [KEYPOINT_COLOURS.get(name.partition("_")[0], (0.3, 0.3, 0.3)) for name in names]
    )
    marks = (seen.keypoints[0] + 1) * SIZE / 2
    panels, captions = [dots(faded(photo), marks, colours)], ["25 key points"]
    for body, colour, name in zip(bodies, (BLUE, RED), ("one body", "its twin"), strict=True):
        off = project_points(studio.template, body, studio.template.keypoints(seen.joint_set))[
            0, :, :2
        ]
        mean = ((off - seen.keypoints[0]).norm(dim=-1).mean() * 192).item()
        panels.append(overlay(photo, studio.template, body, colour=colour))
        panels.append(studio.drawn(body, 90.0, colour))
        captions += [f"{name}: off by\n{mean:.1f} px of 384", "... from the side"]
    return captioned(panels, captions, columns=5)


def alignments_png(studio: Studio) -> np.ndarray:
    """One prediction against the truth under the four alignments, with the error of each."""
    index = 7
    row, truth = studio.person(index)
    network = load_network(studio.demo / "run" / "round-3" / "network.safetensors")
    pixels = decode_image(row.image, network.info.size)[None]
    guess, _, _ = predict_crops(network, pixels, device=None)
    joints = joint_set("h36m17")
    origin = camera_origin(studio.template, guess, joints.name)
    ours = (camera_vertices(studio.template, guess)[0] - origin) * 1000
    poses = camera_joints(studio.template, guess, joints.name) * 1000
    names = list(KEYPOINTS)
    target = torch.from_numpy(truth.landmarks_mm)[[names.index(one) for one in joints.landmarks]]
    target = (target - target[list(joints.root_indices)].mean(0))[None].float()
    theirs = torch.from_numpy(truth.vertices_mm).float()
    errors = joint_errors(poses, target, joints, canonical_mm(studio.template))
    length = bone_sum(poses, joints)
    panels, captions = [], []
    for name, error, moved in (
        ("raw", errors.raw, ours),
        ("bone-sum", errors.bone_sum, ours * (canonical_mm(studio.template) / length)),
        ("true size", errors.true_size, ours * (bone_sum(target, joints) / length)),
        ("PA", errors.aligned, similar(poses[0], target[0], ours)),
    ):
        panels.append(two_meshes(studio.template, theirs, moved))
        captions.append(f"{name}: {error.item():.0f} mm")
    return captioned(panels, captions)


def camera_origin(template: BodyTemplate, estimate: Estimate, joints: str) -> torch.Tensor:
    """Where the root of a joint set lies in the axes of `camera_vertices` (metres)."""
    chosen = joint_set(joints)
    placed = (
        skin(template, estimate.body, template.keypoints(chosen)) @ estimate.camera.rotation().mT
    )
    return placed[0, list(chosen.root_indices)].mean(0)


def similar(points: torch.Tensor, target: torch.Tensor, mesh: torch.Tensor) -> torch.Tensor:
    """A mesh after the similarity that takes `points` to `target` best."""
    # Four points about the mesh's origin carry the similarity over to every other point.
    frame = torch.cat([torch.zeros(1, 3), 1000 * torch.eye(3)])
    moved = procrustes(points, target)
    solve = torch.linalg.lstsq(torch.cat([points, torch.ones(len(points), 1)], 1), moved).solution
    carried = torch.cat([frame, torch.ones(4, 1)], 1) @ solve
    return mesh / 1000 @ (carried[1:] - carried[0]) + carried[0]


def two_meshes(template: BodyTemplate, truth: torch.Tensor, guess: torch.Tensor) -> np.ndarray:
    """Truth in grey, guess in blue through it: both in camera axes, mm, relative to the pelvis."""
    scale = 0.42 * SIZE / truth.abs().max()
    layers = []
    for mesh, colour in ((truth, GREY), (guess, BLUE)):
        pixels = mesh[None, :, :2] * scale * 2 + SIZE
        seen = rasterise(pixels, mesh[None, :, 2], template.faces, (2 * SIZE, 2 * SIZE))
        normals = vertex_normals(mesh, template.faces)[None]
        (normal,) = interpolate(normals, template.faces, seen).split(3, 1)
        light = 0.45 + 0.55 * (-torch.nn.functional.normalize(normal, dim=1)[:, 2:]).clamp_min(0)
        layer = torch.zeros(4 * SIZE * SIZE, 4)
        layer[seen.pixels] = torch.cat([torch.tensor(colour) * light, torch.ones_like(light)], 1)
        layer = layer.reshape(SIZE, 2, SIZE, 2, 4).mean((1, 3))
        layers.append(layer)
    canvas = compose(torch.ones(SIZE, SIZE, 3), layers[0])
    canvas = compose(canvas, layers[1], 0.6)
    return (canvas.clamp(0, 1) * 255).round().byte().numpy()


def size_png(studio: Studio) -> np.ndarray:
    """A child near the camera and a giant far away make the same picture."""
    width, height, eye = 1200, 420, (30, 190)
    canvas = Image.fromarray(white(width, height))
    pen = ImageDraw.Draw(canvas)
    side = turn(studio.template, Estimate.rest(studio.template, 1), -90.0)
    slope = 0.185  # half of what the camera sees, over the distance
    near = 640
    for distance, colour, name in (
        (near, RED, "1.3 m tall, near"),
        ((near - eye[0]) * 1.9 / 1.3 + eye[0], BLUE, "1.9 m tall, farther away"),
    ):
        tall = 2 * slope * (distance - eye[0])
        span = round(tall / 0.9)  # at rest a body fills 0.9 of its crop
        layer = shade(studio.template, side, span, colour=colour)[0]
        body = compose(torch.ones(span, span, 3), layer)
        body, mask = (Image.fromarray((one * 255).byte().numpy()) for one in (body, layer[..., 3]))
        canvas.paste(body, (round(distance - span / 2), round(eye[1] - span / 2)), mask)
        # It ends below the feet: farther right the line of sight would cross it.
        place = (distance + 10, eye[1] + tall / 2 + 10)
        pen.text(place, name, fill=(40, 40, 40), font=lettering(20), anchor="ra")
    for sign in (-1, 1):
        end = (width - 60, eye[1] + sign * slope * (width - 60 - eye[0]))
        pen.line([eye, end], fill=(120, 120, 120), width=2)
    x, y = eye
    pen.polygon([(x - 24, y - 16), (x, y - 6), (x, y + 6), (x - 24, y + 16)], fill=(40, 40, 40))
    return np.asarray(canvas)


def main(demo: Path, names: list[str]) -> None:
    studio = Studio(demo)
    made = {
        "strip": strip_png, "stages": stages_png, "loop": loop_png, "segments": segments_png,
        "scales": scales_png, "twins": twins_png, "alignments": alignments_png, "size": size_png,
        "densepose": densepose_png,
    }  # fmt: skip
    for name in names or [*made, "curve"]:
        if name == "curve":
            from deformlearn.report import write_figure_curve

            write_figure_curve(FOLDER / "curve.png", demo / "run")
        else:
            save_png(FOLDER / f"{name}.png", made[name](studio))
        print(f"written: {FOLDER / name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
