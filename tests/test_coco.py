import copy
import json

import numpy as np
import pytest
from PIL import Image

from conftest import UNKNOWN_TEXTURE
from deformlearn.data.coco import CocoKeypoints, read_keypoints
from deformlearn.data.coco_file import identity_of
from deformlearn.data.person_boxes import box_in_image, finite, given_box, hull_box
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set
from mutations import broken_bytes, broken_json
from readers import everyone, read_damaged

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

    def write(self):
        self.path.write_text(json.dumps(self.content))

    def read(self, **options):
        self.write()
        return read_keypoints(self.path, self.images, **options)

    def people(self, **options):
        """Everyone of the source, the rejected as such."""
        self.write()
        return list(everyone(CocoKeypoints(self.path, self.images, **options)))

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
def test_without_a_sound_box_it_is_about_the_keypoints_with_a_margin(coco, box):
    coco.annotation["bbox"] = box
    (person,) = coco.people()
    assert person.box == pytest.approx((30.5 - 3.2, 20.5 - 3.2, 16 + 6.4, 32 + 6.4))
    assert person.notes == ("has no sound box: taken from its key points",)
    ((row,), _) = coco.read()
    assert row.crop == (38.5, 36.5, pytest.approx(19.2 * 1.1))


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
        ({"keypoints": [30, 20, 2] * 17}, "its key points all lie in one place"),
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
        ({"id": "6"}, "its id occurs more than once"),
        ({"id": 6.0}, "its id occurs more than once"),
        ({"id": None}, "has no id"),
        ({"id": 6.5}, "has no id"),
        ({"image_id": [1]}, "its image [1] is not in the list of images"),
    ],
)
def test_a_bad_annotation_is_left_out_with_its_reason_and_the_good_go_on(coco, changes, reason):
    coco.annotation.update(changes)
    assert reason in coco.reason()


def test_an_annotation_that_is_no_object_is_left_out(coco):
    coco.content["annotations"] = ["nonsense"]
    assert coco.reason() == "is not an annotation"


@pytest.mark.parametrize("content", [None, b"", b"not an image", UNKNOWN_TEXTURE])
def test_a_missing_or_unreadable_image_costs_its_people_only(coco, content):
    path = coco.images / "one.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert coco.reason().endswith("is missing" if content is None else "cannot be read")


def test_an_image_of_sixteen_bits_costs_its_people_only(coco):
    with Image.open(coco.images / "one.png") as image:
        size = image.size
    Image.new("I;16", size).save(coco.images / "one.png")
    assert coco.reason().endswith("has 16 or 32-bit pixels; save it with 8 bits a channel")


def test_fewer_keypoints_may_be_asked_for(coco):
    coco.annotation["keypoints"] = [30, 20, 2] * 8 + [31, 20, 2] + [0] * 24
    rows, _ = coco.read(min_keypoints=9)
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not json"),
        ("", "is not json"),
        ("[]", "is not json, or not of the wanted kind"),
        ('{"images": []}', "has no images: the list is missing or empty"),
        ('{"images": [{"id": 1}]}', "has no annotations: the list is missing or empty"),
        ('{"images": [], "annotations": {}}', "has no list of annotations: it is dict"),
        ('{"images": [{"id": 1}], "annotations": []}', "has no annotations"),
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


@pytest.mark.parametrize("names", [NAMES[:-1], ["nose", "head_bottom"], "nose", [1], [[]]])
def test_joints_that_nobody_knows_are_refused(coco, names):
    coco.content["categories"][0]["keypoints"] = names
    with pytest.raises(InputError, match=r"no joint set known here: wanted the names of .*coco17"):
        coco.read()


def test_other_known_joints_are_a_source_but_no_coco_rows(coco):
    coco.content["categories"][0]["keypoints"] = list(joint_set("posetrack17").names)
    with pytest.raises(InputError, match="has key points of posetrack17; wanted COCO's 17"):
        coco.read()
    assert CocoKeypoints(coco.path, coco.images).joints == "posetrack17"


def test_key_points_are_found_by_their_names_in_any_order(coco):
    ((straight,), _) = coco.read()
    values = coco.annotation["keypoints"]
    backwards = [values[3 * joint : 3 * joint + 3] for joint in range(16, -1, -1)]
    coco.annotation["keypoints"] = [number for triple in backwards for number in triple]
    coco.content["categories"][0]["keypoints"] = [name.replace("_", " ") for name in NAMES[::-1]]
    ((row,), _) = coco.read()
    np.testing.assert_array_equal(row.keypoints, straight.keypoints)


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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"category_id": 3}, "is of the category 3, not a person (1)"),
        ({"bbox": [200, 10, 20, 20]}, "its box [200, 10, 20, 20] lies outside its image of 100x80"),
    ],
)
def test_other_things_and_boxes_elsewhere_are_left_out(coco, changes, reason):
    coco.annotation.update(changes)
    (rejected,) = coco.people()
    assert rejected.reason.startswith(reason)


def test_sections_may_come_in_any_order(coco):
    ((before,), _) = coco.read()
    coco.content = {name: coco.content[name] for name in ("annotations", "categories", "images")}
    ((row,), _) = coco.read()
    assert row.key == before.key
    assert row.crop == before.crop


def test_a_truncated_file_is_refused_before_anyone_is_read(coco):
    coco.write()
    text = coco.path.read_text()
    for cut in (len(text) - 1, len(text) // 2, 20, 1):
        coco.path.write_text(text[:cut])
        with pytest.raises(InputError, match="ends too early"):
            next(CocoKeypoints(coco.path, coco.images).entries())


@pytest.mark.parametrize(
    ("box", "expected", "notes"),
    [
        ([-0.4, 10, 60, 50], (0, 10, 59.6, 50), 0),
        ([25, 15, 90, 45], (25, 15, 75, 45), 1),
        ([-30, -30, 200, 200], (0, 0, 100, 80), 1),
    ],
)
def test_a_box_that_reaches_beyond_its_image_is_cut_and_said(coco, box, expected, notes):
    coco.annotation["bbox"] = box
    (person,) = coco.people()
    assert person.box == pytest.approx(expected)
    assert len(person.notes) == notes


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ([{"id": 1}], "has no file_name"),
        ([{"id": 1, "file_name": 3}], "has no file_name"),
        ([{"id": 1, "file_name": ".."}], "cannot be read"),
        ([{"id": 1, "file_name": "a\0b.png"}], "is missing"),
        ([{"id": 1, "file_name": "x" * 300}], "is missing"),
        ([{"id": 2, "file_name": "one.png"}], "is not in the list of images"),
        (["one.png"], "is not in the list of images"),
        (
            [{"id": 1, "file_name": "one.png"}, {"id": 1, "file_name": "two.png"}],
            "is listed twice, as 'one.png' and as 'two.png'",
        ),
        (
            [{"id": 1, "file_name": "one.png", "width": 640, "height": 480}],
            "is 100x80 pixels but its labels are for 640x480",
        ),
        (
            [{"id": 1, "file_name": "one.png", "width": "100", "height": 80}],
            "the width or height of its image in the file is no number: '100', 80",
        ),
    ],
)
def test_an_image_that_cannot_be_found_in_the_table_costs_its_people(coco, table, reason):
    coco.content["images"] = table
    (rejected,) = coco.people()
    assert reason in rejected.reason
    assert rejected.where == f"{coco.path}: annotation 7"


def test_images_of_2014_are_found_in_their_split(coco):
    name = "COCO_val2014_000000000001.png"
    (coco.images / "val2014").mkdir()
    (coco.images / "one.png").rename(coco.images / "val2014" / name)
    coco.content["images"] = [{"id": 1, "file_name": name, "width": 100, "height": 80}]
    (person,) = coco.people()
    assert person.image == coco.images / "val2014" / name


def test_a_changed_file_is_read_again(coco):
    assert len(coco.people()) == 1
    coco.content["annotations"].append({**coco.annotation, "id": 8})
    assert len(coco.people()) == 2


def test_the_protocol_card_names_file_and_rules(coco):
    said = CocoKeypoints(coco.path, coco.images, min_keypoints=7).description
    assert said == "key points of keypoints.json, people with at least 7; hidden ones weigh 0.5"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, "7"), (7.0, "7"), ("7", "7"), ("", None), (True, None), (None, None), ([7], None)],
)
def test_ids_are_compared_as_text(value, expected):
    assert identity_of(value) == expected


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), float("-inf"), 10**400, [1]])
def test_what_is_no_finite_number_is_none(value):
    assert finite(value) is None
    assert given_box([value, 0, 1, 1]) is None


def test_boxes_stand_about_points_and_inside_images():
    assert hull_box(np.array([[10.0, 10.0], [20.0, 30.0]])) == (8, 8, 14, 24)
    assert hull_box(np.array([[10.0, 10.0]])) == pytest.approx((9.9, 9.9, 0.2, 0.2))
    assert box_in_image((1.0, 2.0, 3.0, 4.0), (10, 10)) == ((1, 2, 3, 4), ())
    with pytest.raises(InputError, match="outside its image of 10x10"):
        box_in_image((10.0, 0.0, 5.0, 5.0), (10, 10))
    assert given_box([1, 2, 3, 1e8]) is None


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files_give_an_error_or_sound_people(coco, seed):
    coco.write()
    content = coco.path.read_bytes()
    source = CocoKeypoints(coco.path, coco.images, min_keypoints=1)
    read_damaged(source, coco.path, broken_bytes(content, seed))
    read_damaged(source, coco.path, broken_json(content, seed))
