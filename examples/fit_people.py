"""Fit bodies to labels: make synthetic people, register the template to them, and see how far off it is.

Shows the heart of the package: observations in, estimates out, and what an estimate is good for. Look at
`fit_people/strip.png` and open `fit_people/first.obj` in any 3D program.
"""

from pathlib import Path

import numpy as np

import deformlearn
from deformlearn.data.images import decode_image
from deformlearn.data.shards import read_images, read_people
from deformlearn.data.truth import read_truth
from deformlearn.evaluation import score_estimates
from deformlearn.pictures import save_png
from deformlearn.render import strip

OUT = Path("fit_people")


def main() -> None:
    template = deformlearn.load_template()
    config = deformlearn.SyntheticConfig(train=12, val=0, test=0, size=256)
    deformlearn.synthesize(OUT / "data", config)
    people = read_people(OUT / "data", "train", template)

    estimate, quality = deformlearn.register(
        template, people.observations, people.crop, deformlearn.RegistrationConfig()
    )
    print(
        f"median distance of labels from the fits: {quality.reprojection_px.median():.2f} px of 256"
    )

    # Truth is for measuring alone. Without a lifter nothing says how deep a limb is: these are large.
    truth = read_truth(OUT / "data", "train", people.keys)
    scores = score_estimates(template, estimate, truth, people.actions)
    print(f"MPJPE {scores.raw:.0f} mm as it is, {scores.aligned:.0f} mm after Procrustes")

    seen = people.observations
    photos = [decode_image(image, 256) for _, image, _ in read_images(OUT / "data", "train")]
    strips = []
    for row in range(3):
        used = seen.point_weights[row] > 0
        strips.append(
            strip(
                photos[row].permute(1, 2, 0).numpy(), template, estimate[row : row + 1],
                seen.points[row, used], seen.faces[row, used], seen.barycentric[row, used],
            )
        )  # fmt: skip
    save_png(OUT / "strip.png", np.concatenate(strips))
    vertices = deformlearn.skin(template, estimate.body)  # (12, 13718, 3) metres
    deformlearn.write_obj(OUT / "first.obj", vertices[0], template.faces)
    print(f"look at {OUT / 'strip.png'} and {OUT / 'first.obj'}")


if __name__ == "__main__":
    main()
