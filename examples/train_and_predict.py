"""Train a network and use it: one round of deform-and-learn on a small set, then new pictures.

So small a set teaches next to nothing (the network ends near the mean pose), but every step is the real
one: give your own data set and the preset `gpu`, and this is the whole program. Look at the overlays.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import deformlearn
from deformlearn.config import PRESETS
from deformlearn.data.shards import read_images
from deformlearn.files import write_atomically
from deformlearn.pictures import save_png
from deformlearn.render import overlay
from deformlearn.report import write_report

OUT = Path("train_and_predict")


def main() -> None:
    template = deformlearn.load_template()
    tiny = PRESETS["tiny"]
    deformlearn.synthesize(OUT / "data", replace(tiny.data, train=96, val=0, test=16))

    run = replace(tiny.run, rounds=1, workers=1)
    for record in deformlearn.deform_and_learn(OUT / "data", OUT / "run", run, template):
        if "scores" in record:
            error = record["scores"]["raw"]
            print(f"{record['stage']} (round {record['round']}, {record['split']}): {error:.0f} mm")

    network = deformlearn.load_network(OUT / "run" / "round-1" / "network.safetensors")
    paths = []
    for key, image, _ in read_images(OUT / "data", "test"):
        paths.append(OUT / "new" / f"{key.replace('/', '_')}.jpg")
        write_atomically(paths[-1], image)
    found = deformlearn.predict_images(network, template, paths)
    panels = []
    for row, path in enumerate(found.paths[:5]):
        photo = np.asarray(Image.open(path).convert("RGB").resize((256, 256)))
        panels.append(overlay(photo, template, found.estimate[row : row + 1]))
    save_png(OUT / "predictions.png", np.concatenate(panels, 1))
    page = write_report(OUT / "run", template)
    print(f"look at {OUT / 'predictions.png'} and {page}")


if __name__ == "__main__":
    main()
