"""The README's two pictures, from a finished demo: python docs/make_pictures.py runs/demo

The strips show fresh synthetic people at 384 px (seed 11), registered with the demo's lifter; the curve
shows the demo's own numbers.
"""

import sys
from pathlib import Path

import numpy as np

from deformlearn.config import RegistrationConfig, SyntheticConfig
from deformlearn.data.images import decode_image
from deformlearn.data.labels import KEYPOINTS
from deformlearn.data.shards import DatasetInfo, people_of
from deformlearn.data.synthetic import make_person
from deformlearn.lifter import load_lifter
from deformlearn.pictures import save_png
from deformlearn.registration import register
from deformlearn.render import strip
from deformlearn.report import write_figure_curve
from deformlearn.templates import load

SIZE = 300
PEOPLE = (int(i) for i in (sys.argv[2:] or ("0", "7", "10")))


def main(demo: Path) -> None:
    template = load()
    config = SyntheticConfig(size=384, seed=11)
    rows = [make_person(config, "test", index)[0] for index in PEOPLE]
    info = DatasetInfo(template.name, template.fingerprint, "skeleton25", KEYPOINTS)
    people = people_of(rows, info)
    seen = load_lifter(demo / "run" / "lifter.safetensors").lift(people.observations)
    estimate, quality = register(template, seen, people.crop, RegistrationConfig())
    print(
        "median reprojection, px of 384:", [round(v, 2) for v in quality.reprojection_px.tolist()]
    )
    strips = []
    for row, source in enumerate(rows):
        photo = decode_image(source.image, 384).permute(1, 2, 0).numpy()
        used = seen.point_weights[row] > 0
        strips.append(
            strip(
                photo, template, estimate[row : row + 1], seen.points[row, used],
                seen.faces[row, used], seen.barycentric[row, used], size=SIZE,
            )
        )  # fmt: skip
    folder = Path(__file__).parent / "images"
    save_png(folder / "strip.png", np.concatenate(strips))
    write_figure_curve(folder / "curve.png", demo / "run")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
