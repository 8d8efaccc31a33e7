"""What `deformlearn body` prints and draws (anatomy)."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from deformlearn import templates
from deformlearn.anatomy import describe, draw, segment_colours
from deformlearn.skeleton import SEGMENTS, mirrored_name
from rig_files import MIXAMO, rig_of, write_glb


def printed(template, report=None) -> str:
    out = io.StringIO()
    describe(template, Console(file=out, width=200), report)
    return out.getvalue()


def test_a_template_is_described_by_its_segments_and_landmarks(template):
    text = printed(template)
    assert "144 vertices, 192 faces" in text
    assert all(name in text for name in SEGMENTS)
    assert "coco_left_big_toe" in text
    assert "found by" not in text


def test_the_skin_of_a_segment_is_told_by_its_area_not_by_how_fine_its_mesh_is(template):
    head = template.faces[
        template.weights.argmax(1)[template.faces[:, 0]] == SEGMENTS.index("head")
    ]
    a, b, c = (template.vertices[head[:, corner]] for corner in range(3))
    count = len(template.vertices)
    middle = torch.arange(count, count + len(head))
    # Each face of the head as three.
    split = [torch.stack([head[:, i], head[:, (i + 1) % 3], middle], 1) for i in range(3)]
    kept = template.faces[~(template.faces[:, None] == head[None]).all(-1).any(1)]
    finer = replace(
        template,
        vertices=torch.cat([template.vertices, (a + b + c) / 3]),
        weights=torch.cat([template.weights, template.weights[head[:, 0]]]),
        mirror=torch.cat([template.mirror, middle]),
        faces=torch.cat([kept, *split]),
    )
    rows = [
        [line for line in printed(body).splitlines() if "│" in line] for body in (template, finer)
    ]
    assert rows[0] == rows[1]


def test_a_rig_is_described_by_its_bones_and_what_was_guessed(anny, tmp_path):
    names = {s: f"[x]{n}" for s, n in MIXAMO.items() if not s.endswith("foot")}
    body, report = templates.load_with_report(write_glb(rig_of(anny, names), tmp_path / "my.glb"))
    text = printed(body, report)
    rows = {line.split()[1]: line.split() for line in text.splitlines() if line.startswith("│")}
    assert "[x]LeftArm" in text
    assert text.count("placed") >= 3  # two feet, and the note
    assert "note: joints placed by proportion: left_foot, right_foot" in text
    assert rows


@pytest.mark.parametrize(
    ("view", "edge", "segment"),
    [(0, -1, "left_hand"), (0, 0, "right_hand"), (2, 0, "left_hand"), (2, -1, "right_hand")],
)
def test_the_drawing_has_each_side_where_it_is(template, tmp_path, view, edge, segment):
    """From the front the left hand is farthest right in the picture; from behind farthest left."""
    draw(template, tmp_path / "body.png")
    pixels = np.asarray(Image.open(tmp_path / "body.png").convert("RGB"), float) / 255
    assert pixels.shape == (480, 1440, 3)
    picture = pixels[:, 480 * view : 480 * (view + 1)]
    rows, columns = (picture.min(-1) < 0.9).nonzero()
    at = np.argsort(columns, kind="stable")[[3, -4][edge]]  # a little inside the outline
    colour = picture[rows[at], columns[at]]
    wanted = segment_colours()[SEGMENTS.index(segment)].numpy()
    other = segment_colours()[SEGMENTS.index(mirrored_name(segment))].numpy()
    # Shading darkens a colour and keeps its proportions.
    alike = [colour @ c / np.linalg.norm(colour) / np.linalg.norm(c) for c in (wanted, other)]
    assert alike[0] > 0.99
    assert alike[0] > alike[1] + 0.02
