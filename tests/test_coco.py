import copy
import json

import numpy as np
import pytest
from PIL import Image

from deformlearn.data.coco import read_keypoints
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set

NAMES = list(joint_set("coco17").names)


class Coco:
    """One image and one whole person, to be changed by each test."""

    def __init__(self, path):
        self.path, self.images = path / "keypoints.json", path / "images"
        self.images.mkdir()
        Image.new("RGB", (100, 80)).save(self.images / "one.png")
        points = [[30 + joint, 20 + 2 * joint, 2] for joint in range(17)]
        self.annotation = {
            "id": 7,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [25, 15, 30, 45],
            "keypoints": [number for point in points for number in point],
        }
        self.content = {
            "images": [{"id": 1, "file_name": "one.png"}],
            "annotations": [self.annotation],
            "categories": [{"id": 1, "name": "person", "keypoints": NAMES}],
        }

    def read(self, **options):
        self.path.write_text(json.dumps(self.content))
        return read_keypoints(self.path, self.images, **options)

    def reason(self, **options):
        """Why the second annotation is refused; the first must pass."""
        good = {**copy.deepcopy(self.annotation), "id": 6, "image_id": 2, "iscrowd": 0}
        good["keypoints"] = [number for joint in range(17) for number in (30, 20 + joint, 2)]
        Image.new("RGB", (100, 80)).save(self.images / "two.png")
        self.content["images"].append({"id": 2, "file_name": "two.png"})
        self.content["annotations"].insert(0, good)
        rows, rejected = self.read(**options)
        assert [row.key for row in rows] == ["two-6"]
        ((_, reason),) = rejected
        return reason


@pytest.fixture
def coco(tmp_path):
    return Coco(tmp_path)


def test_a_whole_person_becomes_a_row(coco):
    ((row,), rejected) = coco.read()
    assert rejected == []
    assert row.key == "one-7"
    np.testing.assert_allclose(row.keypoints[0], [30.5, 20.5])
    np.testing.assert_allclose(row.keypoints[16], [46.5, 52.5])
    assert (row.keypoint_weights == 1).all()
    assert row.crop == (40, 37.5, pytest.approx(22.5 * 1.1))
    assert row.image_path == str(coco.images / "one.png")
    assert row.image is None
    shapes = [row.points, row.faces, row.barycentric, row.point_weights]
    assert [array.shape for array in shapes] == [(0, 2), (0,), (0, 3), (0,)]


def test_hidden_keypoints_count_half_and_missing_ones_nothing(coco):
    coco.annotation["keypoints"][2] = 1
    coco.annotation["keypoints"][3:6] = [0, 0, 0]
    ((row,), _) = coco.read()
    assert row.keypoint_weights[:3].tolist() == [0.5, 0, 1]
    assert row.keypoints[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    "box", [None, [1, 2], [0, 0, 0, 0], ["a", 0, 1, 1], [float("nan"), 0, 1, 1]]
)
def test_without_a_sound_box_the_crop_is_about_the_keypoints(coco, box):
    coco.annotation["bbox"] = box
    ((row,), _) = coco.read()
    assert row.crop == (38.5, 36.5, pytest.approx(16 * 1.1))


def test_keypoints_outside_the_box_stay_in_the_crop(coco):
    coco.annotation["bbox"] = [40, 40, 4, 4]
    ((row,), _) = coco.read()
    x, y, half = row.crop
    assert (np.abs(row.keypoints - [x, y]) <= half).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iscrowd": 1}, "marks a crowd"),
        ({"keypoints": [0] * 51}, "no key point is labelled"),
        ({"keypoints": [30, 20, 2] * 9 + [0] * 24}, "9 key points are labelled, 10 are needed"),
        ({"keypoints": [30, 20, 2] * 16}, "has 48 numbers"),
        ({"keypoints": None}, "has no key points"),
        ({"keypoints": ["x"] * 51}, "a key point is not a number"),
        ({"keypoints": [None] * 51}, "not a finite number"),
        ({"keypoints": [float("nan"), 20, 2] * 17}, "not a finite number"),
        ({"keypoints": [float("inf"), 20, 2] * 17}, "not a finite number"),
        ({"keypoints": [30, 20, 3] * 17}, "none of 0, 1, 2"),
        ({"keypoints": [300, 20, 2] * 17}, "outside its image of 100x80"),
        ({"keypoints": [30, -5, 2] * 17}, "outside its image of 100x80"),
        ({"image_id": 99}, "its image 99 is not in the list of images"),
        ({"id": 6}, "its id occurs more than once"),
    ],
)
def test_a_bad_annotation_is_left_out_with_its_reason_and_the_good_go_on(coco, changes, reason):
    coco.annotation.update(changes)
    assert reason in coco.reason()


def test_an_annotation_that_is_no_object_is_left_out(coco):
    coco.content["annotations"] = ["nonsense"]
    assert coco.reason() == "is not an annotation"


@pytest.mark.parametrize("content", [None, b"", b"not an image"])
def test_a_missing_or_unreadable_image_costs_its_people_only(coco, content):
    path = coco.images / "one.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert coco.reason().endswith("is missing" if content is None else "cannot be read")


def test_fewer_keypoints_may_be_asked_for(coco):
    coco.annotation["keypoints"] = [30, 20, 2] * 9 + [0] * 24
    rows, _ = coco.read(min_keypoints=9)
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not json"),
        ("", "is not json"),
        ("[]", "has no list of images"),
        ('{"images": []}', "has no list of annotations"),
        ('{"images": [], "annotations": {}}', "has no list of annotations"),
        ('{"images": [], "annotations": []}', "has no annotations"),
    ],
)
def test_a_file_without_coco_keypoints_is_refused(coco, content, message):
    coco.path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_keypoints(coco.path, coco.images)


def test_a_file_that_is_not_there_or_no_text_is_refused(coco, tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        read_keypoints(tmp_path / "none.json", coco.images)
    coco.path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="is not json"):
        read_keypoints(coco.path, coco.images)


@pytest.mark.parametrize("names", [NAMES[::-1], NAMES[:-1], ["nose", "head_bottom"], "nose"])
def test_other_joints_than_cocos_are_refused(coco, names):
    coco.content["categories"][0]["keypoints"] = names
    with pytest.raises(InputError, match=r"wanted COCO's 17 in COCO's order: nose, left_eye"):
        coco.read()


@pytest.mark.parametrize("categories", [None, [], [{"id": 1, "name": "person"}]])
def test_categories_may_be_absent(coco, categories):
    coco.content["categories"] = categories
    assert len(coco.read()[0]) == 1


def test_real_photographs_have_people(shared):
    photos = shared / "photos"
    rows, rejected = read_keypoints(photos / "person_keypoints.json", photos)
    content = json.loads((photos / "person_keypoints.json").read_text())
    assert len(rows) + len(rejected) == len(content["annotations"])
    assert len(rows) >= 10
    for row in rows:
        labelled = row.keypoint_weights > 0
        assert labelled.sum() >= 10
        x, y, half = row.crop
        assert (np.abs(row.keypoints[labelled] - [x, y]) <= half).all()
