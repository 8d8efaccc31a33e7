"""The examples run as they stand, in processes of their own, and leave what they promise."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from planted_densepose import write_charts, write_photo
from rig_files import rig_of, write_glb

FOLDER = Path(__file__).parents[1] / "examples"

FILES = {
    "densepose_to_body.py": ("photo.jpg", "photo_IUV.png", "UV_Processed.mat"),
    "your_own_rig.py": ("my.glb",),
}
"""What an example is given."""

ELSEWHERE = {
    "blender_load.py": "tests of the GLB export run it where Blender is installed",
    "notebook.py": "tests of the exports run it",
}
"""Examples that another test runs."""


@pytest.fixture(scope="module")
def files(anny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_charts(folder / "UV_Processed.mat", anny)
    write_photo(folder, "photo", (2,), anny)
    write_glb(rig_of(anny), folder / "my.glb")
    return folder


@pytest.mark.parametrize(
    "name", sorted(path.name for path in FOLDER.glob("*.py") if path.name not in ELSEWHERE)
)
def test_an_example_runs_and_leaves_something_to_look_at(name, files, tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / name, *(files / one for one in FILES.get(name, ()))],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    promised = re.findall(r"[\w./-]+\.(?:png|html|obj|glb)", done.stdout.splitlines()[-1])
    assert promised, done.stdout
    for file in promised:
        path = tmp_path / file
        assert path.stat().st_size > 1000
        if path.suffix == ".png":
            picture = Image.open(path).convert("L")
            low, high = picture.getextrema()
            assert high - low > 100, f"{file} is blank"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_an_example_says_in_a_line_what_it_shows(path):
    about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert about
    assert len(about.splitlines()[0]) <= 108
