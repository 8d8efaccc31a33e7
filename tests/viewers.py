"""Programs that exported files are opened with, where they are at hand: Node's packages and Blender.

DEFORMLEARN_NODE_MODULES names a folder with the packages of tests/node/package.json (by default
tests/node/node_modules), DEFORMLEARN_BLENDER a `blender`, or a python that has the package bpy.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent


def node(script, *arguments):
    """What a script of tests/node prints, as JSON."""
    modules = Path(os.environ.get("DEFORMLEARN_NODE_MODULES", HERE / "node" / "node_modules"))
    if shutil.which("node") is None or not (modules / "three").is_dir():
        pytest.skip("needs Node and: npm install --prefix tests/node (or DEFORMLEARN_NODE_MODULES)")
    command = ["node", HERE / "node" / script, modules, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def issues(*paths):
    """What Khronos' validator finds: [] where it finds nothing, not even a hint."""
    return [issue for report in node("validate.mjs", *paths) for issue in report["messages"]]


def in_three(path, *seconds):
    """World vertices in three.js, and normalised device coordinates for both cameras."""
    found = node("skinned.mjs", path, *seconds)
    return np.array(found["world"]), np.array(found["seen"]), found["extras"]


def in_blender(path, out, *frames):
    """What tests/blender_vertices.py finds in Blender."""
    program = os.environ.get("DEFORMLEARN_BLENDER") or shutil.which("blender")
    if program is None:
        pytest.skip("needs Blender: DEFORMLEARN_BLENDER, or a python with bpy")
    script = str(HERE / "blender_vertices.py")
    start = [program, script] if "python" in Path(program).name else [
        program, "--background", "--factory-startup", "--python-exit-code", "1", "--python", script
    ]  # fmt: skip
    arguments = [*start, "--", str(path), str(out), *map(str, frames)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(out)
