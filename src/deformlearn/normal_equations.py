"""The derivatives of Eq. 2 as least squares: gradient and Gauss-Newton matrix, in closed form.

Every residual but the regularisers' is a blended point: x_p = sum_j w_pj T_j X_p. Turning joint k moves
all that hangs on it about the joint, so the arms r_k(p) = sum over descendants j of w_pj (T_j X_p - the
joint) say how every joint moves every point. No graph is recorded and nothing walks the tree backwards.
`tests/test_normal_equations.py` compares all of it with `losses` and with autograd.

The unknown turns of all joints are about the same three axes, the camera's. Then a turn about y moves
a point's x by its arm's z, one about -x moves its y by the same, and neither moves the other: a quarter
of the matrix is zero, another stands in it twice, and the derivatives are the arms as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor

from deformlearn.body import BodyTemplate
from deformlearn.compiling import constant
from deformlearn.energy import Weights
from deformlearn.least_squares import Problem, Theta, View, scale_differences
from deformlearn.skeleton import left_jacobian, tree_of
from deformlearn.tensors import TensorData

# Made here, since torch 2.11 cannot trace these functions.
_UPPER = tuple(combinations_with_replacement(range(3), 2))
_ABOVE = tuple(combinations(range(3), 2))
"""Places of a 3 x 3 matrix: the upper triangle, with and without its diagonal."""


@dataclass(frozen=True, eq=False)
class NormalEquations(TensorData):
    """Energy, half its gradient, and half its Gauss-Newton matrix.

    The unknowns stand as in `Theta.moved`, but with turns of the joints about the camera's y, -x and z
    instead of changes of their pose vectors.
    """

    energy: Float[Tensor, "batch"]
    gradient: Float[Tensor, "batch unknowns"]
    matrix: Float[Tensor, "batch unknowns unknowns"]
    """The upper triangle; what is below it means nothing."""
    diagonal: Float[Tensor, "batch unknowns"]
    """Of the matrix, if pose vectors were the unknowns."""
    rates: Float[Tensor, "batch below 3 3"]
    """How pose vectors change as joints turn about y, -x and z."""

    def damped(
        self, added: Float[Tensor, "batch unknowns"]
    ) -> Float[Tensor, "batch unknowns unknowns"]:
        """The matrix after something is added to its diagonal, if pose vectors were the unknowns."""
        matrix = self.matrix.clone()
        matrix.diagonal(dim1=1, dim2=2).add_(added)
        # The joints' own blocks, less what has been added there already.
        poses = _of_joints(added)
        blocks = (self.rates.mT * poses[..., None, :]) @ self.rates - torch.diag_embed(poses)
        _add_to_blocks(matrix, blocks)
        return matrix

    def step(self, solution: Float[Tensor, "batch unknowns"]) -> Float[Tensor, "batch unknowns"]:
        """The step of `Theta.moved` that turns every joint as a solution says."""
        poses = (self.rates @ _of_joints(solution)[..., None])[..., 0]
        step = solution.clone()
        for number, column in enumerate(_turns(self.rates.shape[1])):
            step[:, column] = poses[..., number]
        return step


def _turns(below: int) -> tuple[slice, slice, slice]:
    """Where the turns about y, -x and z of all joints but the first stand."""
    starts = (2, below + 4, 3 * below + 7)
    y, x, z = (slice(start, start + below) for start in starts)
    return y, x, z


def _of_joints(values: Float[Tensor, "batch unknowns"]) -> Float[Tensor, "batch below 3"]:
    """Those of the turns of all joints but the first."""
    columns = _turns((values.shape[-1] - 7) // 4)
    return torch.stack([values[:, column] for column in columns], -1)


def _add_to_blocks(
    matrix: Float[Tensor, "batch unknowns unknowns"], blocks: Float[Tensor, "batch below 3 3"]
) -> None:
    """Add to what a joint's own turns have to do with each other (in the upper triangle)."""
    columns = _turns(blocks.shape[1])
    for i, j in _UPPER:
        matrix[:, columns[i], columns[j]].diagonal(dim1=1, dim2=2).add_(blocks[..., i, j])


@dataclass(frozen=True, eq=False)
class Scratch(TensorData):
    """Memory that `normal_equations` writes over: new pages each time would cost it a sixth more."""

    rows: Float[Tensor, "batch columns points"]
    parts: Float[Tensor, "batch parts points"]

    @staticmethod
    def of(problem: Problem) -> Scratch:
        """Enough for a problem, or for any part of its people."""
        batch, joints, points = problem.segments.shape
        new = problem.rest.new_empty
        return Scratch(new(batch, 5 * joints + 5, points), new(batch, 3 * joints, points))


def normal_equations(
    template: BodyTemplate,
    problem: Problem,
    theta: Theta,
    weights: Weights,
    scratch: Scratch | None = None,
) -> NormalEquations:
    """Eq. 2 and its second-order model at theta (Geman-McClure by its tangent parabola)."""
    batch, n = theta.log_scales.shape
    scratch = Scratch.of(problem) if scratch is None else scratch[:batch]
    view = View.of(template, problem, theta, weights)
    gradient = view.energy.new_empty(batch, 4 * n + 3)
    matrix = gradient.new_empty(batch, 4 * n + 3, 4 * n + 3)
    # What moves x first, then what moves y, then what moves both.
    first, second, both = slice(n + 1), slice(n + 1, 2 * n + 2), slice(2 * n + 2, 4 * n + 3)
    growing, moving = slice(2 * n + 2, 3 * n + 2), slice(1, 3 * n + 3)

    rows = _image_rows(scratch, template, problem, view)
    product = torch.bmm(rows[:, first], rows.mT)
    matrix[:, first, first] = matrix[:, second, second] = product[..., first]
    matrix[:, first, second] = 0
    crossed = product[..., n + 1 :].unflatten(-1, (-1, 2))
    matrix[:, first, both], matrix[:, second, both] = crossed[:, :, :-1].unbind(-1)
    gradient[:, first], gradient[:, second] = crossed[:, :, -1].unbind(-1)
    pairs = rows[:, n + 1 :].reshape(batch, 2 * n + 2, -1)
    product = torch.bmm(pairs, pairs.mT)
    matrix[:, both, both], gradient[:, both] = product[:, :-1, :-1], product[:, -1, :-1]

    rows = _depth_rows(template, problem, view)
    product = torch.bmm(rows, rows.mT)
    matrix[:, moving, moving] += product[:, :-1, :-1]
    gradient[:, moving] += product[:, -1, :-1]

    scale_gradient, scale_block = _scale_prior(template, theta, weights, view)
    gradient[:, growing] += scale_gradient
    matrix[:, growing, growing] += scale_block
    axes, rates = _turning(template, theta, view)
    pose_gradient, pose_block = _pose_prior(template, theta, weights, view)
    pose_gradient = (rates.mT @ pose_gradient[..., None])[..., 0]
    for number, column in enumerate(_turns(n - 1)):
        gradient[:, column] += pose_gradient[..., number]
    _add_to_blocks(matrix, rates.mT @ pose_block @ rates)
    diagonal = _diagonal(matrix, axes)
    return NormalEquations(view.energy, gradient, matrix, diagonal, rates)


def _diagonal(
    matrix: Float[Tensor, "batch unknowns unknowns"], axes: Float[Tensor, "batch below 3 3"]
) -> Float[Tensor, "batch unknowns"]:
    """The matrix's diagonal, if pose vectors were the unknowns."""
    columns = _turns(axes.shape[1])
    squares = axes.square()
    diagonal = matrix.diagonal(dim1=1, dim2=2).clone()
    poses = (squares * _of_joints(diagonal)[..., None]).sum(-2)
    for i, j in _ABOVE:
        mixed = matrix[:, columns[i], columns[j]].diagonal(dim1=1, dim2=2)[..., None]
        poses += 2 * mixed * axes[..., i, :] * axes[..., j, :]
    for number, column in enumerate(columns):
        diagonal[:, column] = poses[..., number]
    return diagonal


def _image_rows(
    scratch: Scratch, template: BodyTemplate, problem: Problem, view: View
) -> Float[Tensor, "batch columns points"]:
    """Weighted derivatives of correspondences and key points (in `scratch`).

    First 1 + joints rows: of x by its shift and by turns about y, which are those of y by its shift
    and by turns about -x. Then pairs of rows, of x and of y: by scales, size and turns about z; and
    the residuals.
    """
    n = len(template.parents)
    single, pairs = scratch.rows[:, : n + 1], scratch.rows[:, n + 1 :].unflatten(1, (-1, 2))
    weight = view.weight[:, None]
    hanging = problem.hanging * weight
    _write(scratch.parts, torch.bmm, view.maps.flatten(1, 2), problem.rest * weight)
    parts = scratch.parts.unflatten(1, (n, 3))
    parts *= problem.segments[:, :, None]
    pushed = _pushed(template, view.places[..., :2], hanging)
    _write(pairs[:, :n], torch.add, parts[:, :, :2], pushed)
    parts = _gathered(template, parts)
    pivots = _pivots(view)
    _write(single[:, 1:], torch.addcmul, parts[:, :, 2], hanging, -pivots[:, :, 2])
    turned = pairs[:, n + 1 : -1]
    _write(turned[:, :, 0], torch.mul, hanging, pivots[:, :, 1])
    turned[:, :, 0] -= parts[:, :, 1]
    _write(turned[:, :, 1], torch.addcmul, parts[:, :, 0], hanging, -pivots[:, :, 0])
    single[:, 0] = view.weight
    _write(pairs[:, n], torch.mul, view.seen, weight)
    _write(pairs[:, -1], torch.mul, view.offset, weight)
    return scratch.rows


def _depth_rows(
    template: BodyTemplate, problem: Problem, view: View
) -> Float[Tensor, "batch columns keypoints"]:
    """Weighted derivatives of (minus) the depths of the key points.

    By turns about y, shift in y (none), turns about -x, scales and size; and the residuals.
    """
    n = len(template.parents)
    weight = view.depth_weight[:, None]
    # The marks are the same for everyone: one product a joint.
    maps = view.maps.transpose(0, 1).flatten(1, 2)
    parts = torch.bmm(maps, problem.marks[0]).unflatten(1, (-1, 3)).transpose(0, 1)
    parts = parts * weight[:, None]
    descendants = tree_of(template.parents, parts.device).descendants.to(parts.dtype)
    hanging = descendants @ problem.marks[0, :, 3] * weight
    rows = parts.new_zeros(parts.shape[0], 3 * n + 3, parts.shape[-1])
    pushed = _pushed(template, view.places[..., 2:], hanging)[:, :, 0]
    rows[:, 2 * n + 1 : -2] = -parts[:, :, 2] - pushed
    parts = _gathered(template, parts)
    arms = parts[:, :, :2] - hanging[:, :, None] * _pivots(view)[:, :, :2]
    rows[:, :n], rows[:, n + 1 : 2 * n + 1] = arms.unbind(2)
    rows[:, -2], rows[:, -1] = -view.deep, -view.depth_offset
    return rows


def _pushed(
    template: BodyTemplate,
    places: Float[Tensor, "batch joints shown"],
    hanging: Float[Tensor, "batch joints points"],
) -> Float[Tensor, "batch joints shown points"]:
    """How growing segments moves points besides stretching what is their own: that is held at the
    segment's joint, and what hangs on its children goes where their joints go.
    """
    reach = _reach(template.parents, hanging.device).to(hanging.dtype)
    pushes = reach[:, None] * places.mT[:, None]
    return torch.bmm(pushes.flatten(1, 2), hanging).unflatten(1, (-1, places.shape[-1]))


def _gathered(
    template: BodyTemplate, parts: Float[Tensor, "batch joints 3 points"]
) -> Float[Tensor, "batch joints 3 points"]:
    """Sums over everything that hangs on each joint; `parts` is used up."""
    if torch.compiler.is_compiling():
        # One product: a compiler would make a kernel of every step down the tree.
        descendants = tree_of(template.parents, parts.device).descendants.to(parts.dtype)
        return (descendants @ parts.flatten(2)).unflatten(2, parts.shape[2:])
    for joint in reversed(range(1, len(template.parents))):
        parts[:, template.parents[joint]] += parts[:, joint]
    return parts


def _write(place: Tensor, function: Callable[..., Tensor], *operands: Tensor) -> None:
    """Write what a function of torch finds into a part of a tensor, without a copy between."""
    # Compilers know no `out=` with gaps, and older ones none of any size; and they copy nothing.
    if torch.compiler.is_compiling():
        place.copy_(function(*operands))
    else:
        function(*operands, out=place)


def _pivots(view: View) -> Float[Tensor, "batch joints 3 1"]:
    """What turns are about: the joints, but the origin for the whole body."""
    return torch.cat([torch.zeros_like(view.places[:, :1]), view.places[:, 1:]], 1)[..., None]


def _scale_prior(
    template: BodyTemplate, theta: Theta, weights: Weights, view: View
) -> tuple[Float[Tensor, "batch joints"], Float[Tensor, "batch joints joints"]]:
    """L_scale: half its gradient and its block of the matrix."""
    scales = theta.log_scales.exp()
    differences = scale_differences(template.parents, scales.device).to(scales.dtype)
    block = differences.T @ differences * scales[:, None] * scales[:, :, None]
    return weights.scale * (view.unequal @ differences) * scales, weights.scale * block


def _pose_prior(
    template: BodyTemplate, theta: Theta, weights: Weights, view: View
) -> tuple[Float[Tensor, "batch below 3"], Float[Tensor, "batch below 3 3"]]:
    """L_joint and the joint limits, by pose vectors: half their gradient and their blocks."""
    axes = template.limit_axes
    gradient = weights.joint * theta.pose + weights.limit * (view.excess[..., None] * axes).sum(-2)
    beyond = (view.excess != 0)[..., None] * axes
    identity = torch.eye(3, dtype=axes.dtype, device=axes.device)
    return gradient, weights.joint * identity + weights.limit * (axes.mT @ beyond)


def _turning(
    template: BodyTemplate, theta: Theta, view: View
) -> tuple[Float[Tensor, "batch below 3 3"], Float[Tensor, "batch below 3 3"]]:
    """How joints turn about the camera's y, -x and z as their pose vectors change; and the inverse."""
    above = view.turned.index_select(1, tree_of(template.parents, theta.pose.device).parents[1:])
    x, y, z = (above @ left_jacobian(theta.pose)).unbind(-2)
    axes = torch.stack([y, -x, z], -2)
    return axes, _inverse(axes)


def _inverse(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Inverses by the cross products of columns; infinite where there is none."""
    a, b, c = matrix.unbind(-1)
    rows = torch.stack([torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b))], -2)
    return rows / (a * rows[..., 0, :]).sum(-1)[..., None, None]


@constant
def _reach(parents: tuple[int, ...], device: torch.device) -> Float[Tensor, "joints joints"]:
    """-1 on the diagonal, and 1 in a parent's row for each of its children."""
    reach = -torch.eye(len(parents), device=device)
    for joint, parent in enumerate(parents):
        if parent >= 0:
            reach[parent, joint] = 1
    return reach
