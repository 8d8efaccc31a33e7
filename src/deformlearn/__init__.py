"""3D human body shape and pose from images, learned without any 3D supervision.

The public names below are imported when they are first used, so that `import deformlearn` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "BodyParameters": "body",
    "BodyTemplate": "body",
    "Camera": "camera",
    "Crop": "camera",
    "Estimate": "estimate",
    "Estimates": "data.estimates",
    "InputError": "errors",
    "Lifter": "lifter",
    "LifterConfig": "config",
    "Observations": "observations",
    "Quality": "estimate",
    "RegistrationConfig": "config",
    "Regressor": "regressor",
    "RegressorConfig": "config",
    "RunConfig": "config",
    "SyntheticConfig": "config",
    "camera_joints": "estimate",
    "deform_and_learn": "rounds",
    "fit_dataset": "fitting",
    "fit_keypoints": "fitting",
    "fit_photograph": "fitting",
    "load_lifter": "lifter",
    "load_network": "regressor",
    "load_template": "templates",
    "predict_images": "predict",
    "project_points": "estimate",
    "read_estimates": "data.estimates",
    "register": "registration",
    "skin": "body",
    "synthesize": "data.synthetic",
    "write_bvh": "exports.bvh",
    "write_estimates": "data.estimates",
    "write_glb": "exports.glb",
    "write_npz": "exports.npz",
    "write_obj": "exports.meshes",
    "write_onnx": "exports.onnx",
    "write_ply": "exports.meshes",
    "write_smpl": "exports.smpl",
}
_RENAMED = {"load_template": "load"}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'deformlearn' has no attribute {name!r}")
    return getattr(import_module(f"deformlearn.{_WHERE[name]}"), _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)
