"""Miniature data sets of the exact official layout, with people rendered by ourselves.

`write_h36m` makes a Human3.6M of a few frames: metadata.xml, poses as .cdf in the three official
kinds, videos. Every name and every field is as the official release has them; pictures, focal lengths
and principal points are a quarter of the real size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deformlearn.body import BodyParameters, BodyTemplate, skin
from deformlearn.data.h36m_metadata import ACTIONS, CAMERAS, LabCamera, Take, rotation_from_angles
from deformlearn.data.h36m_poses import RIGHT_FIRST
from deformlearn.data.video import VideoWriter
from deformlearn.raster import Fragments, interpolate, rasterise, vertex_normals
from deformlearn.render import surface_colours
from deformlearn.skeleton import joint_set, rotation_from_axis_angle
from deformlearn.triangles import TriangleSearch

SIDE = 250
"""Height and width of the pictures (px)."""

SUBJECTS = ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "S11")
_OLD_NAMES = {"Photo": "TakingPhoto", "WalkDog": "WalkingDog"}
_REPEATED = {4: 3, 5: 3, 9: 8, 10: 8, 11: 0, 16: 13, 24: 13}
"""Joints of the 32 that stand where others do; the rest are hands."""


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture of the miniature, and what is true of it."""

    take: Take
    camera: str
    frame: int
    vertices_mm: torch.Tensor
    """The body in camera axes."""
    lab: LabCamera

    @property
    def key(self) -> str:
        return self.take.key(self.camera, self.frame)


@dataclass(frozen=True, eq=False)
class Miniature:
    """A data set that was written, and the truth behind it."""

    folder: Path
    template: BodyTemplate
    shots: list[Shot]


def take_name(subject: str, action: str, trial: int) -> str:
    """The file name of a take; S5's photographs and dogs go by their older names, as in the release."""
    action = _OLD_NAMES.get(action, action) if subject == "S5" else action
    return f"{action} 1" if trial == 1 else action


def write_h36m(
    folder: Path,
    template: BodyTemplate,
    *,
    subjects: tuple[str, ...] = ("S1", "S5", "S9", "S11"),
    actions: tuple[str, ...] = ("Directions", "Photo"),
    cameras: tuple[str, ...] = (CAMERAS[0], CAMERAS[3]),
    frames: int = 6,
    seed: int = 0,
) -> Miniature:
    """Write a Human3.6M of one trial of each action; S11's Directions come twice, the second corrupt."""
    folder.mkdir(parents=True, exist_ok=True)
    labs = lab_cameras()
    (folder / "metadata.xml").write_text(metadata_xml(labs))
    shots = []
    generator = torch.Generator().manual_seed(seed)
    for subject in subjects:
        scales = (0.05 * torch.randn(len(template.parents), generator=generator)).exp()
        for action in actions:
            for trial in (1, 2) if (subject, action) == ("S11", "Directions") else (1,):
                take = Take(subject, take_name(subject, action, trial), action, trial)
                vertices, joints = _motion(template, scales, frames, generator)
                features = folder / subject / "MyPoseFeatures"
                write_cdf(features / "D3_Positions" / f"{take.name}.cdf", joints)
                for camera in cameras:
                    lab, stem = labs[camera], f"{take.name}.{camera}"
                    seen = lab.to_camera(joints)
                    write_cdf(features / "D3_Positions_mono" / f"{stem}.cdf", seen)
                    write_cdf(features / "D2_Positions" / f"{stem}.cdf", lab.to_pixels(seen))
                    several = [
                        Shot(take, camera, i, torch.from_numpy(lab.to_camera(v)).float(), lab)
                        for i, v in enumerate(vertices)
                    ]
                    _write_video(folder / subject / "Videos" / f"{stem}.mp4", template, several)
                    shots += several
    return Miniature(folder, template, shots)


def write_archive(path: Path, poses: dict[str, dict[str, np.ndarray]]) -> None:
    """VideoPose3D's data_3d_h36m.npz: metres, world, by subject and take."""
    np.savez_compressed(path, positions_3d=np.array(poses, dtype=object))


def write_cdf(path: Path, positions: np.ndarray) -> None:
    """Positions (frames, joints, axes) as MATLAB's writer leaves them: Pose, 1 x frames x numbers."""
    from cdflib.cdfwrite import CDF

    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    flat = positions.reshape(len(positions), -1)
    # The file stores columns first; the writer takes the bytes as they should lie.
    stored = np.ascontiguousarray(flat.T).reshape(1, *flat.shape)
    spec = {
        "Variable": "Pose", "Data_Type": CDF.CDF_DOUBLE, "Num_Elements": 1, "Rec_Vary": True,
        "Dim_Sizes": list(flat.shape),
    }  # fmt: skip
    file = CDF(path, cdf_spec={"Majority": "column_major"})
    file.write_var(spec, var_data=stored)
    file.close()


def write_densepose_predictions(folder: Path, miniature: Miniature, charts) -> list[Path]:
    """A `<key>_IUV.png` for each picture, as DensePose would label it: B = part, G = U, R = V.

    A rendered surface point is looked up on the nearest chart triangle, SMPL's vertices standing where
    they are on the template.
    """
    from deformlearn.surfaces import smpl_points_on

    template = miniature.template
    triangles = template.vertices[template.faces].double().numpy()
    faces, barycentric = smpl_points_on(template)
    smpl = np.einsum("sc,scd->sd", barycentric, triangles[faces])
    search = TriangleSearch(smpl[charts.corners])
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for shot in miniature.shots:
        seen = _fragments(template, shot)
        blend = seen.barycentric.double().numpy()
        face = seen.faces.numpy()
        points = np.einsum("nc,ncd->nd", blend, triangles[face])
        outward = np.cross(
            triangles[face, 1] - triangles[face, 0], triangles[face, 2] - triangles[face, 0]
        )
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        nearest, place, _ = search.nearest(points, outward)
        part, u, v = charts.surface_to_chart(nearest, place)
        picture = np.zeros((SIDE * SIDE, 3), np.uint8)
        picture[seen.pixels.numpy()] = np.stack([np.round(255 * v), np.round(255 * u), part], 1)
        written.append(folder / f"{shot.key}_IUV.png")
        Image.fromarray(picture.reshape(SIDE, SIDE, 3)).save(written[-1])
    return written


def visible_points(template: BodyTemplate, shot: Shot) -> Fragments:
    """Which surface point each pixel of a picture shows."""
    return _fragments(template, shot)


def _motion(
    template: BodyTemplate, scales: torch.Tensor, frames: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and 32 joints of a person who moves a little, in the laboratory's axes (mm, z up)."""
    joints = len(template.parents)
    start, end = 0.18 * torch.randn(2, joints - 1, 3, generator=generator)
    way = torch.linspace(0, 0.5, frames)[:, None, None]
    body = BodyParameters(scales.expand(frames, -1), start + way * (end - start))
    turn = torch.zeros(3)
    turn[2] = 6.28 * torch.rand((), generator=generator)
    upright = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    to_world = (rotation_from_axis_angle(turn) @ upright).double()
    middle = template.joints[0].double()

    def placed(points) -> np.ndarray:
        inside = skin(template, body, points).double() - middle
        return (1000 * inside @ to_world.T + torch.tensor([0, 0, 950.0])).numpy()

    seventeen = placed(template.keypoints(joint_set("h36m17")))
    hands = placed(template.keypoints(joint_set("smpl24")))[:, -2:]
    everything = np.empty((frames, 32, 3))
    everything[:, 20:24], everything[:, 28:32] = hands[:, :1], hands[:, 1:]
    everything[:, list(RIGHT_FIRST)] = seventeen
    for joint, other in _REPEATED.items():
        everything[:, joint] = everything[:, other]
    return placed(template.all_points()), everything


def lab_cameras() -> dict[str, LabCamera]:
    """Four cameras in the corners of the laboratory, with the real lenses' order of numbers."""
    labs = {}
    for index, camera in enumerate(CAMERAS):
        x, y = (2200, 4400) if index < 2 else (2000, -4200)
        position = np.array([x if index % 2 else -x, y, 1500.0 + 50 * index])
        ahead = np.array([0, 0, 900.0]) - position
        ahead /= np.linalg.norm(ahead)
        right = np.cross(ahead, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        angles = _angles(np.stack([right, np.cross(ahead, right), ahead]))
        labs[camera] = LabCamera(
            rotation_from_angles(angles), position,
            np.array([1145.0, 1143.5 + index]) * SIDE / 1000, np.array([512.5, 508.0]) * SIDE / 1000,
            np.array([-0.207, 0.2477, -0.003]), np.array([-0.0014, -0.00098]),
        )  # fmt: skip
    return labs


def _angles(rotation: np.ndarray) -> np.ndarray:
    """The three angles of Rx(a) Ry(b) Rz(c)."""
    return np.array([
        np.arctan2(-rotation[1, 2], rotation[2, 2]),
        np.arcsin(rotation[0, 2]),
        np.arctan2(-rotation[0, 1], rotation[0, 0]),
    ])  # fmt: skip


def metadata_xml(labs: dict[str, LabCamera]) -> str:
    def row(cells) -> str:
        return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"

    rows = [row(["", "", *SUBJECTS]), row([1, 1, *["_ALL 1"] * 11]), row([1, 2, *["_ALL"] * 11])]
    for number, action in enumerate(ACTIONS, 2):
        rows += [row([number, t, *(take_name(s, action, t) for s in SUBJECTS)]) for t in (1, 2)]
    rows.append(row(["", "", *["[1000 1002;1000 1000;1000 1000;1000 1002]"] * 11]))
    placed = [[*_angles(lab.rotation), *lab.position] for lab in labs.values() for _ in SUBJECTS]
    lenses = [[*lab.focal, *lab.centre, *lab.radial, *lab.tangential] for lab in labs.values()]
    numbers = " ".join(repr(float(number)) for row in placed + lenses for number in row)
    names = "".join(f"<action>{name}</action>" for name in ("_ALL", *ACTIONS))
    ids = "".join(f"<dbcamera>{camera}</dbcamera>" for camera in labs)
    return (
        f"<?xml version='1.0' encoding='UTF-8'?><metadata><mapping>{''.join(rows)}</mapping>"
        f"<actionnames>{names}</actionnames><dbcameras><index2id>{ids}</index2id></dbcameras>"
        f"<w0>[{numbers}]</w0></metadata>"
    )


def _write_video(path: Path, template: BodyTemplate, shots: list[Shot]) -> None:
    with VideoWriter(path, Fraction(50)) as video:
        for picture in _pictures(template, shots):
            video.add(picture)


def _pictures(template: BodyTemplate, shots: list[Shot]) -> Iterator[np.ndarray]:
    colours = surface_colours(template)
    floor = torch.linspace(0.35, 0.6, SIDE)[:, None, None].expand(SIDE, SIDE, 3)
    for shot in shots:
        seen = _fragments(template, shot)
        normals = vertex_normals(shot.vertices_mm, template.faces)
        values = torch.cat([normals, colours], 1)[None]
        normal, colour = interpolate(values, template.faces, seen).split(3, 1)
        light = 0.4 + 0.6 * (-torch.nn.functional.normalize(normal, dim=1)[:, 2:]).clamp_min(0)
        canvas = floor.reshape(-1, 3).clone()
        canvas[seen.pixels] = colour * light
        yield (255 * canvas.reshape(SIDE, SIDE, 3)).round().byte().numpy()


def _fragments(template: BodyTemplate, shot: Shot) -> Fragments:
    pixels = torch.from_numpy(shot.lab.to_pixels(shot.vertices_mm.double().numpy())).float()
    depth = shot.vertices_mm[None, :, 2]
    return rasterise(pixels[None], depth, template.faces, (SIDE, SIDE), perspective=True)
