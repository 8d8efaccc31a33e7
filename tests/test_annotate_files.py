"""Annotations on disk: photographs, journals, our data set, DensePose's json (annotate.archive ...)."""

import io
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from conftest import UNKNOWN_TEXTURE
from deformlearn.annotate.archive import Archive
from deformlearn.annotate.labels import (
    ChartLabels,
    box,
    densepose_annotation,
    is_enough,
    observed_row,
)
from deformlearn.annotate.marks import ImageMarks, KeyPoint, Pair, PersonMarks
from deformlearn.annotate.photos import UPRIGHT, encoded, find_photos
from deformlearn.charts import template_charts
from deformlearn.data.check import check_dataset
from deformlearn.data.densepose_annotations import DensePoseCoco, PointRules
from deformlearn.data.images import open_image
from deformlearn.data.shards import read_people
from deformlearn.densepose_charts import densepose_to_template, read_densepose_charts
from deformlearn.errors import InputError
from deformlearn.files import write_atomically

SIZE = (80, 60)


@pytest.fixture
def photos(tmp_path):
    """Two images, one of them in a sub-folder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    Image.fromarray(noise).save(folder / "b.png")
    Image.fromarray(noise[::-1]).save(folder / "more" / "a.jpg", quality=95)
    return folder


def person(pairs=0, keypoints=(), number=1):
    points = tuple(
        Pair(i + 1, 10.0 + 7 * i, 20.0 + 3 * i, 5 * i, (0.25, 0.5, 0.25)) for i in range(pairs)
    )
    keys = [None] * 17
    for joint, key in keypoints:
        keys[joint] = key
    return PersonMarks(number, points, tuple(keys), pairs + 1)


def opened(folder, template, photos, joints="coco17"):
    archive = Archive(folder, template, joints, ChartLabels.of(template, None))
    found, _ = find_photos(photos)
    return archive, found, archive.open(found)


# ---- photographs


def test_photos_are_found_in_sub_folders_and_not_among_the_results(photos):
    shutil.copytree(photos, photos / "out")
    Image.new("RGB", (4, 4)).save(photos / ".hidden.png")
    (photos / "notes.txt").write_text("no image")
    found, rejected = find_photos(photos, besides=photos / "out")
    assert [photo.name for photo in found] == ["b.png", "more/a.jpg"]
    assert [photo.key for photo in found] == ["b.png", "more--a.jpg"]
    assert (found[0].width, found[0].height) == SIZE
    assert rejected == []


@pytest.mark.parametrize("content", [b"not a jpeg", UNKNOWN_TEXTURE])
def test_a_file_that_is_no_image_is_listed_and_passed_over(photos, content):
    (photos / "c.jpg").write_bytes(content)
    found, rejected = find_photos(photos)
    assert len(found) == 2
    assert [one.where for one in rejected] == ["c.jpg"]
    assert "cannot be read as an image" in rejected[0].reason


def test_a_photograph_of_sixteen_bits_is_listed_and_passed_over(photos):
    Image.new("I;16", (4, 4)).save(photos / "c.png")
    _, rejected = find_photos(photos)
    assert "16 or 32-bit pixels" in rejected[0].reason


def test_a_photo_whose_name_is_no_text_is_listed_and_passed_over(photos):
    shutil.copy(os.fsencode(photos / "b.png"), os.fsencode(photos) + b"/caf\xe9.png")
    found, rejected = find_photos(photos)
    assert [photo.name for photo in found] == ["b.png", "more/a.jpg"]
    assert [one.where for one in rejected] == ["caf\\udce9.png"]
    assert "is not UTF-8; rename it" in rejected[0].reason


def test_a_photo_whose_name_leaves_its_journal_no_room_is_listed_and_passed_over(photos):
    for length in (230, 231):
        shutil.copy(photos / "b.png", photos / f"{'n' * (length - 4)}.png")
    found, rejected = find_photos(photos)
    assert [len(photo.name) for photo in found] == [5, 10, 230]
    write_atomically(photos / f"{found[-1].name}.json", b"{}")  # as its journal is
    assert "its name has more than 230 bytes; rename it" in rejected[0].reason


@pytest.mark.parametrize(
    ("files", "message"),
    [({}, "has no readable image"), ({"a.png": b"no png"}, "no readable image.*; a.png: cannot")],
)
def test_a_folder_without_a_readable_image_is_refused(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        find_photos(tmp_path)


def test_results_over_the_photographs_themselves_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    for out in (tmp_path / "photos", tmp_path):
        with pytest.raises(InputError, match="holds the photographs; give another --out"):
            find_photos(tmp_path / "photos", besides=out)


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        find_photos(tmp_path / "nowhere")


def test_two_images_with_one_key_are_refused(photos):
    Image.new("RGB", (4, 4)).save(photos / "more--a.jpg")
    with pytest.raises(InputError, match=r"two images that would be called more--a.jpg"):
        find_photos(photos)


def test_an_ordinary_photo_is_sent_as_it_is(photos):
    found, _ = find_photos(photos)
    assert encoded(found[1]) == ("image/jpeg", (photos / "more" / "a.jpg").read_bytes())


def test_the_browser_gets_the_stored_pixels_of_a_turned_photo(photos):
    stored = Image.open(io.BytesIO((photos / "b.png").read_bytes()))
    tag = Image.Exif()
    tag[0x0112] = 6
    stored.save(photos / "turned.png", exif=tag)
    photo = find_photos(photos)[0][-1]
    assert (photo.width, photo.height) == SIZE
    assert photo.upright == UPRIGHT[6]
    kind, content = encoded(photo)
    sent = Image.open(io.BytesIO(content))
    assert kind == "image/png"
    assert 0x0112 not in sent.getexif()
    np.testing.assert_array_equal(np.asarray(sent), np.asarray(stored))


@pytest.mark.parametrize("tag", [3, 6])
def test_a_turned_tiff_is_shown_as_it_is_trained_on(tmp_path, tag):
    turned = Image.Exif()
    turned[0x0112] = tag
    pixels = np.random.default_rng(0).integers(0, 255, (5, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.tif", exif=turned)
    photo = find_photos(tmp_path)[0][0]
    trained = open_image(photo.path)
    assert (photo.width, photo.height) == trained.size
    assert photo.upright == UPRIGHT[1]
    sent = Image.open(io.BytesIO(encoded(photo)[1]))
    np.testing.assert_array_equal(np.asarray(sent), np.asarray(trained))
    np.testing.assert_array_equal(
        np.asarray(trained), np.asarray(open_image(photo.path, upright=True))
    )


@pytest.mark.parametrize("tag", list(UPRIGHT))
def test_the_matrix_of_an_orientation_shows_the_photo_as_pillow_turns_it(tag):
    from PIL import ImageOps

    pixels = np.random.default_rng(tag).integers(0, 255, (5, 8), np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = tag
    shown = np.asarray(ImageOps.exif_transpose(image))
    a, b, c, d = UPRIGHT[tag]
    for y in range(5):
        for x in range(8):
            dx, dy = x + 0.5 - 4, y + 0.5 - 2.5
            column = a * dx + b * dy + shown.shape[1] / 2 - 0.5
            row = c * dx + d * dy + shown.shape[0] / 2 - 0.5
            assert shown[round(row), round(column)] == pixels[y, x]


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "CMYK"])
def test_photos_in_other_colours_are_converted(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new(mode, (9, 7)).save(tmp_path / f"x.{suffix}")
    kind, content = encoded(find_photos(tmp_path)[0][0])
    assert kind == "image/png"
    assert Image.open(io.BytesIO(content)).mode == "RGB"


def test_a_truncated_photo_is_refused_when_it_is_opened(photos):
    path = photos / "more" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    photo = find_photos(photos)[0][1]
    with pytest.raises(InputError, match="cannot be decoded"):
        encoded(photo)


# ---- rows and annotations


def test_a_row_is_the_marks_with_the_crop_of_their_box():
    marked = person(pairs=3, keypoints=[(0, KeyPoint(60.0, 10.0, 2)), (4, KeyPoint(30.0, 50.0, 1))])
    row = observed_row("key", "photo.jpg", marked)
    assert box(marked) == (10.0, 10.0, 50.0, 40.0)
    assert row.crop == pytest.approx((35.0, 30.0, 25 * 1.1))
    np.testing.assert_allclose(row.points, [[10, 20], [17, 23], [24, 26]])
    assert row.faces.tolist() == [0, 5, 10]
    assert row.keypoints[4].tolist() == [30, 50]
    assert row.keypoint_weights[[0, 1, 4]].tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("marked", "enough"),
    [
        (person(), False),
        (person(pairs=5), False),
        (person(pairs=6), True),
        (person(keypoints=[(1, KeyPoint(1.0, 1.0, 1))]), True),
        (person(keypoints=[(1, KeyPoint(0.0, 0.0, 0))]), False),
    ],
)
def test_a_person_enters_the_data_set_with_six_pairs_or_a_key_point(marked, enough):
    assert is_enough(marked) == enough


def test_densepose_points_give_their_pixels_back(template):
    marked = person(pairs=6)
    labels = ChartLabels.of(template, None)
    annotation = densepose_annotation(marked, SIZE, labels)
    x, y, width, height = annotation["bbox"]
    part, u, v = template_charts(template).surface_to_chart(
        np.array([pair.face for pair in marked.pairs]),
        np.array([pair.barycentric for pair in marked.pairs]),
    )
    kept = part > 0
    pixels = np.array(marked.pixels)[kept]
    np.testing.assert_allclose(
        x + np.array(annotation["dp_x"]) * width / 256, pixels[:, 0], atol=1e-3
    )
    np.testing.assert_allclose(
        y + np.array(annotation["dp_y"]) * height / 256, pixels[:, 1], atol=1e-3
    )
    assert annotation["dp_I"] == part[kept].tolist()
    np.testing.assert_allclose(annotation["dp_U"], u[kept], atol=1e-6)
    np.testing.assert_allclose(annotation["dp_V"], v[kept], atol=1e-6)
    assert annotation.get("points_in_no_chart", 0) == (~kept).sum()
    assert min(annotation["dp_x"]) >= 0
    assert max(annotation["dp_x"]) <= 256


def test_densepose_keypoints_are_those_coco_would_count(template):
    marked = person(keypoints=[(0, KeyPoint(60.5, 10.5, 2)), (1, KeyPoint(0.0, 0.0, 0))])
    annotation = densepose_annotation(marked, SIZE, ChartLabels.of(template, None))
    assert annotation["keypoints"][:6] == [60.0, 10.0, 2, 0, 0, 0]
    assert annotation["num_keypoints"] == 1
    assert "dp_x" not in annotation
    assert annotation["bbox"][2] > 0


def test_points_carried_to_densepose_charts_come_back(anny, shared):
    charts = shared / "densepose" / "UV_Processed.mat"
    labels = ChartLabels.of(anny, charts)
    random = np.random.default_rng(0)
    faces = random.integers(0, len(anny.faces), 400)
    blend = random.dirichlet([1, 1, 1], 400)
    part, u, v = labels(faces, blend)
    known = part > 0
    assert known.mean() > 0.8  # the rest is inside the mouth, behind the eyes
    back, weights, ok = densepose_to_template(
        read_densepose_charts(charts), anny, part[known], u[known], v[known]
    )
    triangles = anny.vertices.double().numpy()[anny.faces.numpy()]
    here = np.einsum("nc,ncd->nd", blend[known], triangles[faces[known]])
    there = np.einsum("nc,ncd->nd", weights, triangles[back])
    apart = np.linalg.norm(here - there, axis=1)[ok]
    assert np.median(apart) < 0.002
    assert np.quantile(apart, 0.9) < 0.012


# ---- the archive


def test_what_is_saved_is_read_again(tmp_path, template, photos):
    archive, found, marks = opened(tmp_path / "out", template, photos)
    assert marks == {}
    new = ImageMarks((person(pairs=6), person(pairs=2, number=2)), 3)
    archive.save(found, found[1], new)
    assert opened(tmp_path / "out", template, photos)[2] == {"more/a.jpg": new}


def test_what_no_file_can_hold_comes_into_no_journal(tmp_path, template, photos):
    archive, found, _ = opened(tmp_path / "out", template, photos)
    before = sorted((tmp_path / "out").rglob("*"))
    strange = replace(found[0], name="caf\udce9.png")
    with pytest.raises(UnicodeEncodeError):
        archive.save(found, strange, ImageMarks((person(pairs=6),), 2))
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_the_data_set_is_accepted_by_check_and_holds_whole_people_only(tmp_path, template, photos):
    archive, found, _ = opened(tmp_path / "out", template, photos)
    archive.save(found, found[0], ImageMarks((person(pairs=6), person(pairs=5, number=2)), 3))
    archive.save(found, found[1], ImageMarks((person(keypoints=[(0, KeyPoint(3.0, 4.0, 2))]),), 2))
    quiet = Console(quiet=True)
    assert not check_dataset(tmp_path / "out", template, console=quiet)
    people = read_people(tmp_path / "out", "train", template)
    assert people.keys == ["b.png-1", "more--a.jpg-1"]
    pixels = people.crop.to_pixels(people.observations.points)[0]
    torch.testing.assert_close(pixels, torch.tensor(person(pairs=6).pixels))
    assert people.observations.faces[0].tolist() == [0, 5, 10, 15, 20, 25]


def test_the_json_names_its_charts_and_refers_to_its_images(tmp_path, template, photos):
    archive, found, _ = opened(tmp_path / "out", template, photos)
    archive.save(found, found[1], ImageMarks((person(pairs=6), person(pairs=2, number=2)), 3))
    content = json.loads((tmp_path / "out" / "densepose.json").read_text())
    assert "NOT DensePose's charts" in content["info"]["charts"]
    (image,) = content["images"]
    assert (image["file_name"], image["width"], image["height"]) == ("more/a.jpg", *SIZE)
    assert [one["image_id"] for one in content["annotations"]] == [image["id"]] * 2
    assert [one["id"] for one in content["annotations"]] == [1, 2]
    assert len(content["categories"][0]["keypoints"]) == 17


def test_our_reader_of_densepose_annotations_reads_the_json(tmp_path, template, photos):
    archive, found, _ = opened(tmp_path / "out", template, photos)
    key = [(0, KeyPoint(30.5, 12.25, 2)), (5, KeyPoint(22.0, 40.0, 1))]
    archive.save(found, found[1], ImageMarks((person(pairs=6, keypoints=key),), 2))
    rules = PointRules(min_points=1)
    source = DensePoseCoco(tmp_path / "out" / "densepose.json", photos, rules)
    (entry,) = source.entries()
    (read,) = source.people(entry)
    assert read.image == photos / "more" / "a.jpg"
    np.testing.assert_allclose(read.keypoints[[0, 5]], [[30.5, 12.25], [22, 40]])
    assert read.keypoint_weights[[0, 1, 5]].tolist() == [1.0, 0.0, 0.5]
    pixels = np.array([pair[:2] for pair in person(pairs=6).pixels])
    nearest = np.abs(read.dense.pixels[:, None] - pixels).sum(-1).min(1)
    assert nearest.max() < 1e-3


def test_the_last_row_taken_back_takes_the_shard_with_it(tmp_path, template, photos):
    archive, found, _ = opened(tmp_path / "out", template, photos)
    shard = tmp_path / "out" / "observations" / "train-00000.parquet"
    archive.save(found, found[0], ImageMarks((person(pairs=6),), 2))
    assert shard.exists()
    archive.save(found, found[0], ImageMarks((person(),), 2))
    assert not shard.exists()


def test_images_inside_the_data_set_are_named_relative_to_it(tmp_path, template, photos):
    out = photos.parent / "set"
    archive, _, _ = opened(out, template, photos)
    shutil.move(photos, out / "photos")
    found, _ = find_photos(out / "photos")
    archive.save(found, found[0], ImageMarks((person(pairs=6),), 2))
    shutil.move(out, photos.parent / "moved")
    assert not check_dataset(photos.parent / "moved", template, console=Console(quiet=True))


def test_a_folder_with_other_data_is_refused_and_left_alone(tmp_path, template, photos):
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset.json").write_text("precious")
    with pytest.raises(InputError, match=r"holds other files and no annotate\.json"):
        opened(out, template, photos)
    assert [path.name for path in out.iterdir()] == ["dataset.json"]
    assert (out / "dataset.json").read_text() == "precious"


def test_a_folder_of_another_template_or_joint_set_is_refused(tmp_path, template, anny, photos):
    opened(tmp_path / "out", template, photos)
    with pytest.raises(InputError, match="annotated with template 'octahedra', not 'anny'"):
        opened(tmp_path / "out", anny, photos)
    with pytest.raises(InputError, match="annotated with joints 'coco17', not 'smpl24'"):
        opened(tmp_path / "out", template, photos, joints="smpl24")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, template, photos):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="is a file; give a folder"):
        opened(tmp_path / "out", template, photos)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not json"),
        (b"\xff\xfe", "is not json"),
        (b"[1]", "not a json object"),
        (b'{"format": 9}', "its format is 9, not 1"),
        (b'{"format": 1, "width": 1, "height": 1}', "1x1 pixels and b.png now has 80x60"),
        (b'{"format": 1, "width": 80, "height": 60}', "wanted the marks"),
        (b"[" * 100_000, "is not json"),
    ],
)
def test_a_broken_journal_is_named_and_never_overwritten(
    tmp_path, template, photos, content, message
):
    opened(tmp_path / "out", template, photos)
    journal = tmp_path / "out" / "journal" / "b.png.json"
    journal.parent.mkdir()
    journal.write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        opened(tmp_path / "out", template, photos)
    assert "move it away" in str(refusal.value)
    assert journal.read_bytes() == content


def test_a_journal_without_its_image_is_named(tmp_path, template, photos):
    archive, found, _ = opened(tmp_path / "out", template, photos)
    archive.save(found, found[0], ImageMarks((person(pairs=6),), 2))
    (photos / "b.png").unlink()
    with pytest.raises(InputError, match=r"b.png.json belongs to an image that is not among"):
        opened(tmp_path / "out", template, photos)
