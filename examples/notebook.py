"""Show people in a notebook: a body that turns by itself, with nothing but what is installed already.

Every `# %%` begins a cell: VS Code, PyCharm and Jupyter (with jupytext) open this file as a notebook. Run
as a script it writes what the last cell shows to `notebook.html`.
"""

# %% Two people: the template as it is, and a taller one who waves. Yours come from a file:
# deformlearn.read_estimates(Path("my_run/round-1/estimates.parquet"), template).estimate
import base64
import io
from pathlib import Path

import torch
from PIL import Image

import deformlearn
from deformlearn.render import shade, turn
from deformlearn.skeleton import SEGMENTS

template = deformlearn.load_template()
people = deformlearn.Estimate.rest(template, 2)
for leg in ("left_hip", "right_hip", "left_knee", "right_knee"):
    people.body.scales[1, SEGMENTS.index(leg)] = 1.15
people.body.pose[1, SEGMENTS.index("left_shoulder") - 1] = torch.tensor([0.0, 0.0, 1.1])
people.body.pose[1, SEGMENTS.index("left_elbow") - 1] = torch.tensor([0.0, 0.0, 0.7])


# %% A body as a picture that moves: one turn, drawn by the package itself.
def turning(estimate: deformlearn.Estimate, size: int = 320, views: int = 36) -> str:
    """One person seen from all sides, as HTML that needs no other file."""
    frames = []
    for view in range(views):
        layer = shade(template, turn(template, estimate, 360 * view / views), size)[0]
        picture = layer[..., :3] + 1 - layer[..., 3:]  # on white
        frames.append(Image.fromarray((picture * 255).round().to(torch.uint8).numpy()))
    buffer = io.BytesIO()
    frames[0].save(buffer, "webp", save_all=True, append_images=frames[1:], duration=80, loop=0)
    return f'<img src="data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


# %% In a notebook the pictures appear below this cell; as a script they go into a file. To turn people by
# hand: `deformlearn view my_run --html page.html`, then IPython.display.IFrame("page.html", 900, 600).
html = "".join(turning(people[row : row + 1]) for row in range(len(people)))
try:
    from IPython.display import HTML, display

    display(HTML(html))
except ImportError:
    pass
Path("notebook.html").write_text(html)
print("open notebook.html")
