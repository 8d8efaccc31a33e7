"""SMPL's own files: the official .pkl of every version, and the same content as .npz.

Their arrays may be chumpy's (a package few can still install) and their joint regressor is a scipy
matrix; both are read as inert stand-ins, so that nothing in a file is run. We own no SMPL file: the
layout is Loper et al.'s (2015) as its users describe it (conventions D9), the tests write their own.
"""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse

from deformlearn.body import BodyPoints, BodyTemplate
from deformlearn.errors import InputError
from deformlearn.landmarks import ANNOTATED, collect
from deformlearn.rigs.reduce import Landmarks, template_of, weights_of_segments
from deformlearn.rigs.rig import Found, Rig, RigReport, checked
from deformlearn.rigs.upright import upright
from deformlearn.skeleton import PARENTS, SEGMENTS
from deformlearn.unpickle import Inert, load_npz, load_pickle

VERTEX_IDS = {
    "nose": 332, "left_eye": 2800, "right_eye": 6260, "left_ear": 583, "right_ear": 4071,
    "left_big_toe": 3216, "left_small_toe": 3226, "left_heel": 3387,
    "right_big_toe": 6617, "right_small_toe": 6624, "right_heel": 6787,
}  # fmt: skip
"""Vertices of SMPL's mesh at annotated points (smplx/vertex_ids.py of vchoutas/smplx)."""

_VERTICES = 6890

_NEEDED = ("v_template", "f", "weights", "kintree_table")

_WHAT = "an SMPL body (a dict with v_template, f, weights, kintree_table, J_regressor)"


class _Chumpy(Inert):
    """Any of chumpy's arrays, as far as SMPL's files need them: plain ones and selections."""

    def values(self, deep: int = 0) -> np.ndarray:
        if deep > 8:
            raise InputError(f"a chumpy array is made of itself; wanted {_WHAT}")
        if (x := getattr(self, "x", None)) is not None:
            return x.values(deep + 1) if isinstance(x, _Chumpy) else np.asarray(x)
        source, chosen = getattr(self, "a", None), getattr(self, "idxs", None)
        if source is None:
            raise InputError(f"a chumpy array without values; wanted {_WHAT}")
        values = source.values(deep + 1) if isinstance(source, _Chumpy) else np.asarray(source)
        if chosen is not None:
            values = values.ravel()[np.asarray(chosen, np.int64)]
        shape = getattr(self, "preferred_shape", getattr(self, "newshape", None))
        return values if shape is None else values.reshape(np.asarray(shape, np.int64))


class _Matrix(Inert):
    """A scipy.sparse matrix of which only the numbers are restored; `_layout` names its kind."""

    _layout = ""

    def dense(self) -> np.ndarray:
        shape = tuple(getattr(self, "_shape", getattr(self, "shape", ())))
        numbers = (self.data, self.indices, self.indptr)
        matrix = getattr(sparse, f"{self._layout}_matrix")(numbers, shape=shape)
        # Indices are not looked at before they are used, and then as addresses.
        matrix.check_format(full_check=True)
        return matrix.toarray()


def _layouts() -> dict[str, type[_Matrix]]:
    kinds = {kind: type(kind, (_Matrix,), {"_layout": kind}) for kind in ("csc", "csr")}
    return {
        f"scipy.sparse.{module}.{kind}_{noun}": made
        for kind, made in kinds.items()
        for module in (kind, f"_{kind}")  # scipy renamed its modules in 1.8
        for noun in ("matrix", "array")
    }


_ALLOWED: dict[str, Any] = {"chumpy.*": _Chumpy, **_layouts()}


def read_smpl(path: Path) -> tuple[BodyTemplate, RigReport]:
    """The mean body of an SMPL file as a template with its pose blend shapes, and what was left out.

    Joints are the regressor's. Shape blend shapes are left out (docs/decisions/0012).
    Files of its relatives (SMPL-H, SMPL-X, MANO, ...), of other kinds and damaged ones are
    InputErrors.
    """
    path = Path(path)
    archive = path.suffix.lower() == ".npz" or zipfile.is_zipfile(path)
    content = (load_npz if archive else load_pickle)(path, _ALLOWED, what=_WHAT)
    if not isinstance(content, dict) or not any(key in content for key in _NEEDED):
        raise InputError(f"{path} holds something else; wanted {_WHAT}")
    if missing := [key for key in _NEEDED if key not in content]:
        raise InputError(f"{path} has no {', '.join(missing)}; wanted {_WHAT}")
    try:
        rig = checked(_rig(path, content))
        blendshapes = _pose_blendshapes(path, content, len(rig.vertices))
    except InputError:
        raise
    # A damaged array may be of any type and shape.
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path} is damaged ({reason}); wanted {_WHAT}") from error
    found = tuple(Found(segment, (segment,), "SMPL") for segment in SEGMENTS)
    stood, found = upright(rig, found)
    weights = weights_of_segments(stood, np.arange(len(SEGMENTS)))
    notes = [*stood.notes, "shape blend shapes left out: the mean body"]
    if blendshapes is not None and not np.allclose(stood.vertices, rig.vertices):
        blendshapes = None
        notes.append("pose blend shapes left out: the body had to be turned or scaled")
    landmarks = None
    if len(stood.vertices) == _VERTICES:
        landmarks = _landmarks(stood, weights)
        notes.append(
            "annotated limbs are SMPL's joints: its hips and neck lie higher than people mark"
        )
    else:
        notes.append(
            f"{len(stood.vertices)} vertices where SMPL has {_VERTICES}: "
            f"annotated points are placed as on Anny"
        )
    template = template_of(stood, stood.joints, weights, landmarks)
    return replace(template, pose_blendshapes=blendshapes), RigReport(found, tuple(notes))


def _pose_blendshapes(
    path: Path, content: dict[str, Any], vertices: int
) -> Float[torch.Tensor, "vertices 3 207"] | None:
    """`posedirs`; None where the file has none or nothing in them."""
    if "posedirs" not in content:
        return None
    values = _array(content["posedirs"]).astype(np.float32)
    wanted = (vertices, 3, 9 * (len(SEGMENTS) - 1))
    if values.shape != wanted:
        raise InputError(f"{path}: posedirs are {values.shape}, not {wanted}")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: a number of posedirs is NaN or infinite")
    return torch.from_numpy(values) if values.any() else None


def _rig(path: Path, content: dict[str, Any]) -> Rig:
    tree = _array(content["kintree_table"])
    if tree.ndim != 2 or len(tree) != 2:
        raise InputError(f"{path}: kintree_table is {tree.shape}, not 2 x 24; wanted {_WHAT}")
    if tree.shape[1] != len(SEGMENTS):
        raise InputError(
            f"{path} has {tree.shape[1]} joints, SMPL has {len(SEGMENTS)}; bodies with hands or a "
            f"face (SMPL-H, SMPL-X) come in as glTF, see docs/rigs.md"
        )
    # The root's parent is 2^32 - 1 in the files: -1 that lost its sign.
    if tuple(tree[0, 1:].astype(np.int64)) != PARENTS[1:]:
        raise InputError(f"{path}: its joints hang together in another way than SMPL's")
    vertices = _array(content["v_template"]).astype(np.float64)
    weights = _array(content["weights"]).astype(np.float64)
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise InputError(f"{path}: v_template is {vertices.shape}, not vertices x 3")
    if weights.shape != (len(vertices), len(SEGMENTS)):
        raise InputError(
            f"{path}: weights are {weights.shape}, not {len(vertices)} x {len(SEGMENTS)}"
        )
    notes: tuple[str, ...] = ()
    if "J_regressor" in content:
        regressor = _array(content["J_regressor"]).astype(np.float64)
        if regressor.shape != (len(SEGMENTS), len(vertices)):
            raise InputError(
                f"{path}: J_regressor is {regressor.shape}, not {len(SEGMENTS)} x {len(vertices)}"
            )
        joints = regressor @ vertices
    elif "J" in content:
        joints, notes = _array(content["J"]).astype(np.float64), ("no J_regressor: joints from J",)
    else:
        raise InputError(f"{path} has no J_regressor; wanted {_WHAT}")
    name = path.stem.lower()
    return Rig(
        name=name if name.startswith("smpl") else f"smpl-{name}",
        vertices=vertices,
        faces=_array(content["f"]).astype(np.int64).reshape(-1, 3),
        bones=tuple(SEGMENTS),
        parents=PARENTS,
        joints=joints.reshape(len(SEGMENTS), 3),
        influences=np.tile(np.arange(len(SEGMENTS)), (len(vertices), 1)),
        weights=weights,
        notes=notes,
    )


def _array(value: Any) -> np.ndarray:
    if isinstance(value, _Chumpy):
        return value.values()
    if isinstance(value, _Matrix):
        return value.dense()
    if isinstance(value, np.ndarray) and value.dtype == object and value.shape == ():
        return _array(value.item())
    return np.asarray(value)


def _landmarks(rig: Rig, weights: Float[np.ndarray, "n 24"]) -> Landmarks:
    """Face and feet at SMPL's known vertices, limbs at its joints, the highest skin of the head."""
    points, shares = [], []
    for name in ANNOTATED:
        if name in VERTEX_IDS:
            points.append(rig.vertices[VERTEX_IDS[name]])
            shares.append(weights[VERTEX_IDS[name]])
        else:
            points.append(rig.joints[SEGMENTS.index(name)])
            shares.append(np.eye(len(SEGMENTS))[SEGMENTS.index(name)])
    head = rig.vertices[weights.argmax(1) == SEGMENTS.index("head")]
    top = head[head[:, 1].argmax()]
    top = np.array([rig.joints[SEGMENTS.index("head"), 0], top[1], top[2]])
    annotated = BodyPoints(torch.from_numpy(np.stack(points)), torch.from_numpy(np.stack(shares)))
    return collect(torch.from_numpy(rig.joints), torch.from_numpy(top), annotated)
