"""DensePose's predictions as a data set, and for the people of other data sets."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deformlearn.data.attach import WithPredictions, attach
from deformlearn.data.densepose_results import DensePoseResults
from deformlearn.data.predictions import open_predictions
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Frame, Person
from deformlearn.errors import InputError
from densepose_files import Planted, write_challenge, write_dump

SIZE = (160, 120)


def person(left, top, width=40, height=70, score=0.9) -> Planted:
    labels = np.repeat(1 + np.arange(height)[:, None] * 24 // height, width, axis=1)
    uv = np.stack([np.tile(np.arange(width) * 3, (height, 1)), np.full((height, width), 200)])
    return Planted(left, top, labels, uv, score)


LEFT, RIGHT, SMALL = person(10, 20, score=0.9), person(90, 30, score=0.8), person(60, 5, 9, 24)


def photo(path: Path, size=SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def iuv(path: Path, people, size=SIZE) -> Path:
    planes = np.zeros((4, size[1], size[0]), np.uint8)
    for number, one in enumerate(people):
        window = np.s_[
            one.top : one.top + len(one.labels), one.left : one.left + one.labels.shape[1]
        ]
        for plane, values in zip(planes, [one.uv[1], one.uv[0], one.labels, number], strict=True):
            plane[window] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.moveaxis(planes[:3], 0, -1).copy()).save(
        path.with_name(path.name + "_IUV.png")
    )
    Image.fromarray(planes[3]).save(path.with_name(path.name + "_INDS.png"))
    return path


def somebody(key, image, box, **more) -> Person:
    return Person(key, image, tuple(map(float, box)), np.zeros((17, 2)), np.ones(17), **more)


# As a data set


@pytest.mark.parametrize("kind", ["pngs", "json", "dump"])
def test_photos_with_predictions_are_a_data_set(tmp_path, kind):
    images = {"a/001": [LEFT, RIGHT], "b/001": [RIGHT], "c/002": [SMALL, LEFT]}
    for name in images:
        photo(tmp_path / "images" / f"{name}.jpg")
    if kind == "pngs":
        for name, people in images.items():
            iuv(tmp_path / "dp" / name, people[::-1] if len(people) > 1 else people)
        path = tmp_path / "dp"
    elif kind == "json":
        path = write_challenge(tmp_path / "r.json", {f"{n}.jpg": p for n, p in images.items()})
    else:
        named = {f"/data/{name}.jpg": people for name, people in images.items()}
        path = write_dump(tmp_path / "d.pkl", "plain", named)
    source = DensePoseResults(tmp_path / "images", path, points=50)
    assert source.joints == "coco17"
    entries = list(pickle.loads(pickle.dumps(source)).entries())
    assert [one.where for one in entries] == [
        str(tmp_path / "images" / f"{name}.jpg") for name in images
    ]
    found = [one for entry in entries for one in source.people(pickle.loads(pickle.dumps(entry)))]
    people = [one for one in found if isinstance(one, Person)]
    assert len({one.key for one in people}) == 4
    small = [one for one in found if isinstance(one, Rejected)]
    assert [one.reason.split(":")[0] for one in small] == ["skipped"]
    first = next(one for one in people if one.key == "a/001-01")
    assert first.box == (10, 20, 40, 70)
    assert first.image == (tmp_path / "images" / "a" / "001.jpg").absolute()
    assert first.keypoints.shape == (17, 2)
    assert not first.keypoint_weights.any()
    dense = first.dense
    assert dense.pixels.shape == dense.uv.shape == (50, 2)
    assert (dense.pixels % 1 == 0.5).all()
    x, y = (dense.pixels - 0.5 - [LEFT.left, LEFT.top]).T.astype(int)
    np.testing.assert_array_equal(dense.part, LEFT.labels[y, x])
    np.testing.assert_allclose(dense.uv * 255, LEFT.uv[:, y, x].T, atol=1e-4)
    again = {one.key: one for one in source.people(entries[0]) if isinstance(one, Person)}
    np.testing.assert_array_equal(again["a/001-01"].dense.pixels, dense.pixels)
    other = {one.key: one for one in replace(source, seed=1).people(entries[0])}
    assert not np.array_equal(other["a/001-01"].dense.pixels, dense.pixels)


def test_predictions_without_a_photo_are_rejected_and_photos_without_a_prediction_passed_over(
    tmp_path,
):
    photo(tmp_path / "images" / "a.jpg")
    photo(tmp_path / "images" / "plain.jpg")
    (tmp_path / "images" / "notes.txt").write_text("x")
    path = write_dump(tmp_path / "d.pkl", "plain", {"a.jpg": [LEFT], "gone.jpg": [LEFT]})
    entry, gone = DensePoseResults(tmp_path / "images", path).entries()
    assert isinstance(entry, Entry)
    assert gone.where.endswith("gone")
    assert "no such image" in gone.reason
    with pytest.raises(InputError, match="no folder of images"):
        list(DensePoseResults(tmp_path / "nowhere", path).entries())


def test_one_photo_and_its_iuv_image_are_a_data_set(tmp_path):
    here = photo(tmp_path / "a.png")
    iuv(tmp_path / "a", [LEFT, RIGHT])
    source = DensePoseResults(here, tmp_path / "a_IUV.png")
    (entry,) = source.entries()
    assert [one.key for one in source.people(entry)] == ["a-00", "a-01"]
    # The folder has both kinds of png in it: only one of them is a photo.
    (entry,) = DensePoseResults(tmp_path, tmp_path).entries()
    assert entry.where == str(here)


def test_inds_images_may_lie_in_a_folder_of_their_own(tmp_path):
    iuv(tmp_path / "iuv" / "s" / "a", [LEFT, RIGHT])
    inds = tmp_path / "inds" / "s" / "a_INDS.png"
    inds.parent.mkdir(parents=True)
    (tmp_path / "iuv" / "s" / "a_INDS.png").rename(inds)
    for path, folder, people in (
        (tmp_path / "iuv", None, 1),
        (tmp_path / "iuv", tmp_path / "inds", 2),
        (tmp_path / "iuv" / "s" / "a_IUV.png", inds.parent, 2),
        (tmp_path / "iuv" / "s" / "a_IUV.png", inds, 2),
    ):
        prediction = open_predictions(path, folder).of(Path("s/a.jpg"))
        assert len(prediction.people(SIZE)[0]) == people
    with pytest.raises(InputError, match="is no folder of INDS images"):
        open_predictions(tmp_path / "iuv", inds)


def test_an_iuv_image_of_another_size_rejects_its_entry(tmp_path):
    photo(tmp_path / "images" / "a.jpg", (80, 60))
    iuv(tmp_path / "dp" / "a", [LEFT])
    source = DensePoseResults(tmp_path / "images", tmp_path / "dp")
    (entry,) = source.entries()
    with pytest.raises(InputError, match="160x120 pixels but the photo is 80x60"):
        source.people(entry)


def test_two_images_that_could_be_the_photo_are_an_error_that_names_them(tmp_path):
    path = write_dump(tmp_path / "d.pkl", "plain", {"x/a/1.jpg": [LEFT], "y/a/1.jpg": [RIGHT]})
    opened = open_predictions(path)
    assert opened.of(Path("/data/y/a/1.jpg")) is opened.images["y/a/1"]
    with pytest.raises(InputError, match=r"2 images that could be .*a/1 \(x/a/1, y/a/1\)"):
        opened.of(Path("/data/a/1.jpg"))
    photo(tmp_path / "a" / "1.jpg")
    found = list(DensePoseResults(tmp_path / "a", path).entries())
    assert all(isinstance(one, Rejected) for one in found)


# For other people


def test_people_get_the_prediction_that_overlaps_them_best(tmp_path):
    image = photo(tmp_path / "a.jpg")
    path = write_dump(tmp_path / "d.pkl", "plain", {"a.jpg": [LEFT, RIGHT, person(94, 30)]})
    people = [
        somebody("right", image, (95, 31, 40, 70)),
        somebody("left", image, (8, 18, 44, 74), notes=("cut",)),
        somebody("nobody", image, (60, 5, 20, 20)),
        somebody("second right", image, (91, 29, 40, 70)),
        somebody("third right", image, (91, 29, 40, 70)),
        somebody("elsewhere", photo(tmp_path / "b.jpg"), (8, 18, 44, 74)),
    ]
    found = attach(people, open_predictions(path), points=30)
    assert [one.key for one in found] == [one.key for one in people]
    left = {one.key: one.dense.pixels[:, 0].min() for one in found if one.dense is not None}
    assert set(left) == {"right", "left", "second right"}
    assert 94 <= left["right"] < 97
    assert 90 <= left["second right"] < 93
    assert found[1].notes == ("cut",)
    assert len(found[1].dense.part) == 30
    assert found[1].keypoint_weights.all()
    for one, reason in ((2, "overlaps the box by 50%"), (4, "overlaps"), (5, "no DensePose")):
        assert found[one].dense is None
        assert reason in found[one].notes[-1]
    assert attach([], open_predictions(path)) == []
    loose = attach(people[:1], open_predictions(path), min_overlap=1.0)
    assert loose[0].dense is None


def test_frames_of_a_video_are_known_by_their_names(tmp_path):
    path = write_dump(
        tmp_path / "d.pkl", "plain", {"S1/walk_000007.jpg": [LEFT], "S2/walk_000007.jpg": [RIGHT]}
    )
    frame = Frame(tmp_path / "S2" / "walk.mp4", 7)
    people = [
        somebody("a", frame, (90, 30, 40, 70)),
        somebody("b", replace(frame, index=8), (90, 30, 40, 70)),
    ]
    first, second = WithPredictions(path, points=20)(people)
    assert first.dense.pixels[:, 0].min() >= 90
    assert "no DensePose prediction of walk_000008" in second.notes[0]


def test_an_image_whose_predictions_cannot_be_read_costs_only_its_own_people(tmp_path):
    bad, good = photo(tmp_path / "bad.jpg", (80, 60)), photo(tmp_path / "good.jpg")
    for name in ("bad", "good"):
        iuv(tmp_path / "dp" / name, [LEFT])
    people = [somebody(str(n), image, (10, 20, 40, 70)) for n, image in enumerate([bad, good])]
    first, second = pickle.loads(pickle.dumps(WithPredictions(tmp_path / "dp")))(people)
    assert first.dense is None
    assert "pixels but the photo is" in first.notes[0]
    assert second.dense is not None


def test_nobody_large_enough_is_said(tmp_path):
    image = photo(tmp_path / "a.jpg")
    path = write_dump(tmp_path / "d.pkl", "plain", {"a.jpg": [SMALL]})
    (one,) = attach([somebody("a", image, (60, 5, 9, 24))], open_predictions(path))
    assert one.notes == ("DensePose saw nobody large enough in the image",)
