"""Anny, the default body, reduced to the 24 segments (docs/decisions/0004)."""

from __future__ import annotations

import tempfile
from importlib import metadata
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.body import BodyPoints, BodyTemplate
from deformlearn.errors import InputError
from deformlearn.landmarks import ANNOTATED, collect
from deformlearn.limits import joint_limits
from deformlearn.skeleton import PARENTS, SEGMENTS, mirrored_name

if TYPE_CHECKING:
    import anny

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


def anny_version() -> str:
    """The installed version of the package anny; without it, an InputError."""
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
    top = vertices[vertices[:, 1].argmax()] * vertices.new_tensor([0.0, 1.0, 1.0])
    regression = regression[[labels.index(name) for name in ANNOTATED]]
    rest, share = regression @ vertices, regression @ weights
    opposite = [ANNOTATED.index(mirrored_name(name)) for name in ANNOTATED]
    swap = [SEGMENTS.index(mirrored_name(name)) for name in SEGMENTS]
    rest = (rest + _reflected(rest)[opposite]) / 2
    share = share.clamp_min(0)
    share = (share + share[opposite][:, swap]) / 2
    return collect(joints, top, BodyPoints(rest, share / share.sum(-1, keepdim=True)))
