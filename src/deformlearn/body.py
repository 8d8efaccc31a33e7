"""The body of section 3: a rigged template, 24 segment scales, joint angles, linear blend skinning.

T_j = A_j S_j: a segment grows about its joint (S_j), then moves with its bone (A_j). Growing a segment
carries its children's joints along, so limbs get longer, but the children keep their own size
(docs/decisions/0002).
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deformlearn.skeleton import (
    SEGMENTS,
    JointSet,
    forward_kinematics,
    mirrored_name,
    rotation_from_axis_angle,
    tree_of,
)
from deformlearn.tensors import TensorData, fixed


@dataclass(frozen=True, eq=False)
class BodyParameters(TensorData):
    """What registration estimates about a body: its proportions and its pose."""

    scales: Float[Tensor, "*batch joints"]
    """One size factor per segment; 1 is the template."""
    pose: Float[Tensor, "*batch joints-1 3"]
    """Axis-angle rotation of every joint but the root, relative to its parent (radians)."""


@dataclass(frozen=True, eq=False)
class BodyPoints(TensorData):
    """Points attached to the template: surface points, vertices, joints or landmarks alike."""

    rest: Float[Tensor, "*batch points 3"]
    """Where the points are on the template at rest (metres)."""
    weights: Float[Tensor, "*batch points joints"]
    """How much each segment moves each point; rows sum to one."""


@dataclass(frozen=True, eq=False)
class BodyTemplate(TensorData):
    """A rigged human at rest: y up, facing +z, the person's left at +x, metres."""

    name: str
    vertices: Float[Tensor, "vertices 3"]
    faces: Int[Tensor, "faces 3"]
    joints: Float[Tensor, "joints 3"]
    """Rest position of the joint each segment begins at."""
    weights: Float[Tensor, "vertices joints"]
    """Skinning weights; rows sum to one."""
    mirror: Int[Tensor, "vertices"]
    """Index of each vertex's mirror image."""
    limit_axes: Float[Tensor, "joints-1 3 3"]
    """Rows: flexion, abduction and twist axis of each joint, in template axes."""
    limits: Float[Tensor, "joints-1 3 2"]
    """Lowest and highest rotation about each of those axes (radians; infinite where unknown)."""
    landmarks: BodyPoints
    """Named points that data sets annotate, `landmark_names` in order."""
    landmark_names: tuple[str, ...]
    parents: tuple[int, ...]
    pose_blendshapes: Float[Tensor, "vertices 3 features"] | None = None
    """How far the skin at rest moves (metres) with each entry of R - I, row by row, of every joint but
    the root: SMPL's `posedirs`. The whole mesh has them; points of a fit do not."""

    @cached_property
    def fingerprint(self) -> str:
        """Short content hash: files made for one template are refused by another."""
        digest = hashlib.sha256(self.name.encode())
        for tensor in (
            self.vertices, self.faces, self.joints, self.weights, self.pose_blendshapes,
        ):  # fmt: skip
            if tensor is not None:
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    @cached_property
    def folded(self) -> Float[Tensor, "vertices columns"]:
        """The mesh as a sparse (CSR) linear map: the bones' affine maps, column by column, to vertices.

        Row v holds weight times rest position (homogeneous) for each bone that moves vertex v, so that
        skinning is one product; a vertex follows a few bones, and zeros cost nothing.
        """
        homogeneous = torch.nn.functional.pad(self.vertices, (0, 1), value=1.0)
        dense = self.weights[:, :, None] * homogeneous[:, None, :]
        with warnings.catch_warnings():  # says once that torch's CSR tensors are young
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            return dense.flatten(1).detach().to_sparse_csr()

    @cached_property
    def mirror_segments(self) -> tuple[int, ...]:
        """Index of each segment's mirror image."""
        return tuple(SEGMENTS.index(mirrored_name(name)) for name in SEGMENTS)

    @property
    def height(self) -> float:
        """Height at rest (metres)."""
        return (self.vertices[:, 1].max() - self.vertices[:, 1].min()).item()

    def all_points(self) -> BodyPoints:
        """Every vertex of the mesh."""
        return BodyPoints(self.vertices, self.weights)

    def joint_points(self) -> BodyPoints:
        """Where each segment begins, carried by the segment itself."""
        return BodyPoints(self.joints, torch.eye(len(self.joints)).to(self.joints))

    def surface_points(
        self, faces: Int[Tensor, "*batch points"], barycentric: Float[Tensor, "*batch points 3"]
    ) -> BodyPoints:
        """Points on the surface: face index and barycentric coordinates."""
        corners = self.faces[faces]
        blend = barycentric[..., None]
        return BodyPoints(
            (self.vertices[corners] * blend).sum(-2), (self.weights[corners] * blend).sum(-2)
        )

    def keypoints(self, joint_set: JointSet) -> BodyPoints:
        """The template's landmarks in the order of a joint set."""
        missing = [name for name in joint_set.landmarks if name not in self.landmark_names]
        if missing:
            raise ValueError(
                f"template {self.name!r} has no landmark {', '.join(missing)} "
                f"for the joint set {joint_set.name!r}; it has {', '.join(self.landmark_names)}"
            )
        rows = tuple(self.landmark_names.index(name) for name in joint_set.landmarks)
        return self.landmarks[fixed(rows, self.landmarks.rest.device)]

    def rest_parameters(self, *batch: int) -> BodyParameters:
        """Parameters that leave the template as it is."""
        joints = len(self.parents)
        return BodyParameters(
            self.vertices.new_ones(*batch, joints), self.vertices.new_zeros(*batch, joints - 1, 3)
        )


def bone_transforms(
    template: BodyTemplate,
    parameters: BodyParameters,
    root: Float[Tensor, "*batch 3 3"] | None = None,
) -> Float[Tensor, "*batch joints 3 4"]:
    """T_j of every segment: takes a rest point to where the segment carries it.

    With `root`, the whole body is turned by it about the template's origin: a camera folded in at
    the root of the tree costs nothing more.
    """
    scales = parameters.scales
    if root is None:
        root = torch.eye(3, dtype=scales.dtype, device=scales.device).expand(
            *scales.shape[:-1], 3, 3
        )
    rotations = torch.cat([root[..., None, :, :], rotation_from_axis_angle(parameters.pose)], -3)
    tree = tree_of(template.parents, scales.device)
    rest = template.joints
    offsets = torch.where(tree.is_root[:, None], torch.zeros_like(rest), rest - rest[tree.parents])
    # A child's offset grows with its parent segment.
    growth = scales.index_select(-1, tree.parents)
    world = forward_kinematics(rotations, offsets * growth[..., None], template.parents)
    start = (root @ rest[0])[..., None, :]
    grown = world[..., :3] * scales[..., None, None]
    shift = world[..., 3] + start - (grown @ rest[:, :, None])[..., 0]
    return torch.cat([grown, shift[..., None]], -1)


def blend(
    transforms: Float[Tensor, "*batch joints rows 4"], points: BodyPoints
) -> Float[Tensor, "*batch points rows"]:
    """Linear blend skinning: each point under the weighted mean of its bones' affine maps.

    With `rows` = 3 the maps give positions; maps that already contain the camera may have 2 rows.
    """
    rows = transforms.shape[-2]
    blended = (points.weights @ transforms.flatten(-2)).unflatten(-1, (rows, 4))
    homogeneous = torch.nn.functional.pad(points.rest, (0, 1), value=1.0)
    return (blended * homogeneous[..., None, :]).sum(-1)


def skin(
    template: BodyTemplate, parameters: BodyParameters, points: BodyPoints | None = None
) -> Float[Tensor, "*batch points 3"]:
    """Posed and scaled points in template axes (metres): the full mesh, or only those given.

    The full mesh of a template with pose blend shapes has them; a fit to points is plain linear
    blend skinning, as in the paper (docs/decisions/0012).
    """
    transforms = bone_transforms(template, parameters)
    if points is None:
        if template.pose_blendshapes is None:
            return _blend_mesh(transforms, template)
        points = template.all_points()
        rest = points.rest + _pose_offsets(template.pose_blendshapes, parameters.pose)
        points = BodyPoints(rest, points.weights.expand(*rest.shape[:-1], -1))
    return blend(transforms, points)


def _blend_mesh(
    transforms: Float[Tensor, "*batch joints 3 4"], template: BodyTemplate
) -> Float[Tensor, "*batch vertices 3"]:
    """`blend` for every vertex at once, some ten times faster (see `BodyTemplate.folded`)."""
    batch = transforms.shape[:-3]
    people, (joints, rows, columns) = batch.numel(), transforms.shape[-3:]
    maps = transforms.reshape(people, joints, rows, columns).permute(1, 3, 0, 2)
    maps = maps.reshape(joints * columns, people * rows)
    vertices = (template.folded @ maps).view(len(template.vertices), people, rows)
    return vertices.transpose(0, 1).reshape(*batch, len(template.vertices), 3)


def _pose_offsets(
    blendshapes: Float[Tensor, "vertices 3 features"], pose: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch vertices 3"]:
    """SMPL's correction of the rest surface for a pose (Loper et al. 2015, Eq. 9)."""
    identity = torch.eye(3, dtype=pose.dtype, device=pose.device)
    features = (rotation_from_axis_angle(pose) - identity).flatten(-3)
    return torch.einsum("vdf,...f->...vd", blendshapes, features)
