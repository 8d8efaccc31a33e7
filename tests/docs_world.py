"""The files that the pages of the documentation speak of, small: made once for all pages.

People are synthetic and labelled through miniature DensePose files (planted_densepose.py); data sets of
others come from the fixtures of their own tests.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from deformlearn.config import PRESETS, DemoConfig, LifterConfig, RegressorConfig, SyntheticConfig
from deformlearn.data.labels import KEYPOINTS
from deformlearn.data.video import VideoWriter
from deformlearn.skeleton import joint_set
from densepose_files import planted_people, write_dump
from planted_densepose import SIZE, photographed, write_charts, write_photo
from rig_files import MIXAMO, rig_of, write_glb

PEOPLE = range(6)


def small_presets() -> dict[str, DemoConfig]:
    """Every preset with the least numbers that still do everything: commands run as they are printed."""
    tiny = PRESETS["tiny"]
    regressor = RegressorConfig(
        backbone="test_resnet", pretrained=False, size=32, batch=8, epochs=1, learning_rate=1e-3,
        head_steps=4, head_views=1, head_batch=8,
    )  # fmt: skip
    run = replace(
        tiny.run, rounds=1, workers=1, regressor=regressor,
        lifter=LifterConfig(width=16, steps=40, batch=16),
        registration=replace(tiny.run.registration, iterations=8),
    )  # fmt: skip
    small = DemoConfig(SyntheticConfig(train=16, val=2, test=4, size=64), run)
    return dict.fromkeys(PRESETS, small)


def make(folder: Path, template) -> None:
    """Fill a folder with everything that a page takes for granted."""
    shots = [photographed(index, template) for index in PEOPLE]
    write_charts(folder / "UV_Processed.mat", template)
    write_photo(folder, "photo", (0, 1), template)
    _photos(folder, shots)
    _coco(folder, shots)
    _densepose_coco(folder, shots)
    _others(folder)
    _poses(folder, shots)
    names = {**MIXAMO, "left_shoulder": "Arm_A", "left_elbow": "Arm_B"}
    write_glb(rig_of(template, names), folder / "my.glb")
    shutil.copy(folder / "my.glb", folder / "my_character.glb")


def _photos(folder: Path, shots) -> None:
    for name in ("photos", "predictions"):
        (folder / name).mkdir()
    dumped = {}
    for number, (picture, labels, _, _) in enumerate(shots):
        Image.fromarray(picture).save(folder / "photos" / f"{number}.jpg", quality=92)
        Image.fromarray(labels[..., ::-1].copy()).save(folder / "predictions" / f"{number}_IUV.png")
        part, u, v = (labels[..., channel].astype(int) for channel in range(3))
        dumped[f"{number}.jpg"] = planted_people(part, u, v, np.zeros_like(part))
    write_dump(folder / "results.pkl", "plain", dumped)
    for name in ("images", "train2014", "train2017", "test_photos"):
        shutil.copytree(folder / "photos", folder / name)
    Image.fromarray(shots[0][0]).save(folder / "new_photo.jpg")
    Image.fromarray(np.concatenate([shots[0][0], shots[1][0]], 1)).save(folder / "group.jpg")
    box = f"5,{SIZE - 40},{SIZE - 10}"
    (folder / "group.csv").write_text(
        f"image,x,y,w,h\ngroup.jpg,20,{box}\ngroup.jpg,{SIZE + 20},{box}\n"
    )
    (folder / "boxes.csv").write_text(
        "frame,x,y,w,h,track\n" + "".join(f"{frame},20,{box},1\n" for frame in range(3))
    )
    for name in ("dance.mp4", "video.mp4"):
        with VideoWriter(folder / name, Fraction(25)) as video:
            for picture, *_ in shots[:3]:
                video.add(picture)


def _coco(folder: Path, shots) -> None:
    """Key points as COCO has them, for the photographs."""
    order = joint_set("coco17")
    where = [KEYPOINTS.index(_nearest(name)) for name in order.landmarks]
    images, annotations = [], []
    for number, (_, _, row, _) in enumerate(shots):
        marks = row.keypoints[where]
        low, high = marks.min(0) - 8, marks.max(0) + 8
        images.append({"id": number, "file_name": f"{number}.jpg", "width": SIZE, "height": SIZE})
        annotations.append(
            {
                "id": number + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                "bbox": [*low.tolist(), *(high - low).tolist()], "num_keypoints": len(where),
                "keypoints": [n for x, y in marks.tolist() for n in (x, y, 2)],
            }
        )  # fmt: skip
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(order.names)}],
    }
    for name in ("person_keypoints", "person_keypoints_train2017", "test_keypoints"):
        (folder / f"{name}.json").write_text(json.dumps(content))


def _nearest(landmark: str) -> str:
    """The landmark of our synthetic people that stands for one of COCO's."""
    plain = landmark.removeprefix("coco_")
    return plain if plain in KEYPOINTS else "head"


def _densepose_coco(folder: Path, shots) -> None:
    """densepose_train2014.json: the labels at some pixels, relative to the box in 256ths."""
    content = json.loads((folder / "person_keypoints.json").read_text())
    for one, (_, labels, _, _) in zip(content["annotations"], shots, strict=True):
        y, x = np.nonzero(labels[..., 0])
        chosen = np.random.default_rng(0).choice(len(x), 80, replace=False)
        y, x = y[chosen], x[chosen]
        left, top, width, height = one["bbox"] = [0.0, 0.0, float(SIZE), float(SIZE)]
        part, u, v = labels[y, x].T
        one |= {
            "dp_x": ((x + 0.5 - left) * 256 / width).tolist(),
            "dp_y": ((y + 0.5 - top) * 256 / height).tolist(),
            "dp_I": part.astype(float).tolist(),
            "dp_U": (u / 255).tolist(),
            "dp_V": (v / 255).tolist(),
            "dp_masks": [[]] * 14,
        }
    (folder / "densepose_train2014.json").write_text(json.dumps(content))


def _others(folder: Path) -> None:
    """Data sets whose miniatures the tests of their readers keep."""
    import test_mpi_inf_3dhp
    import test_mpii
    import test_openpose
    import test_posetrack
    import test_pw3d

    openpose = folder / "openpose"
    openpose.mkdir()
    written = test_openpose.Written(openpose)
    for number in PEOPLE:
        written.file(str(number), [test_openpose.person()])
    (openpose / "json").rename(folder / "keypoints")
    posetrack = folder / "posetrack_files"
    posetrack.mkdir()
    made = test_posetrack.PoseTrack(posetrack)
    made.source()
    made.path.rename(folder / "densepose_posetrack_train2018.json")
    made.root.rename(folder / "posetrack")
    mpii = folder / "mpii_files"
    mpii.mkdir()
    official = test_mpii.Official(mpii)
    whole = test_mpii.head(annopoints=test_mpii.points())
    official.write([test_mpii.picture("015601864.jpg", whole)], [1])
    official.path.rename(folder / official.path.name)
    for path in official.images.iterdir():
        path.rename(folder / "images" / path.name)
    sequence = folder / "mpi_inf_3dhp_test_set" / "TS1"
    test_mpi_inf_3dhp.write_test_file(sequence / "annot_data.mat")
    (sequence / "imageSequence").mkdir()
    for number in range(1, 9):
        Image.new("RGB", (512, 512)).save(sequence / "imageSequence" / f"img_{number:06d}.jpg")
    test_pw3d.write(folder / "3DPW")


def _poses(folder: Path, shots) -> None:
    """2D poses to train a lifter on: the same people, each a little different many times."""
    order = joint_set("h36m17")
    known = [KEYPOINTS.index(name) for name in order.landmarks]
    poses = np.stack([row.keypoints[known] for _, _, row, _ in shots])
    noise = np.random.default_rng(0).normal(0, 3, (10, *poses.shape))
    np.save(folder / "poses.npy", (poses + noise).reshape(-1, len(known), 2).astype(np.float32))
