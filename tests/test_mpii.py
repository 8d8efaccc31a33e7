import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from deformlearn.data.mpii import Mpii
from deformlearn.errors import InputError
from mutations import broken_bytes, broken_json
from readers import everyone, read_damaged


def structs(rows):
    """A MATLAB struct array of these dicts; fields that one lacks are []."""
    fields = dict.fromkeys(name for row in rows for name in row)
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in fields])
    for number, row in enumerate(rows):
        for name in fields:
            array[name][0, number] = row.get(name, np.zeros((0, 0)))
    return array


def points(joints=range(16), hidden=()):
    """Point structs as the official file has them: flags as text, none at the head's two."""
    return {
        "point": structs(
            [
                {
                    "x": 30.0 + joint,
                    "y": 20.0 + joint,
                    "id": joint,
                    "is_visible": np.zeros((0, 0))
                    if joint in (8, 9)
                    else str(int(joint not in hidden)),
                }
                for joint in joints
            ]
        )
    }


def head(**rest):
    return {
        "x1": 40,
        "y1": 20,
        "x2": 50,
        "y2": 30,
        "scale": 1.2,
        "objpos": {"x": 40, "y": 40},
        **rest,
    }


def picture(name, *people):
    row = {"image": {"name": name}, "frame_sec": 1.0, "vididx": 1.0}
    return row | ({"annorect": structs(list(people))} if people else {})


class Official:
    """mpii_human_pose_v1_u12_1.mat and its images, small."""

    def __init__(self, folder):
        self.path, self.images = folder / "mpii_human_pose_v1_u12_1.mat", folder / "images"
        self.images.mkdir()
        for name in ("015601864.jpg", "000000001.jpg", "000000002.jpg"):
            Image.new("RGB", (100, 80)).save(self.images / name)

    def write(self, pictures, training, *, compressed=True):
        release = {
            "annolist": structs(pictures),
            "img_train": np.array([training], np.uint8),
            "version": "12",
            "single_person": np.array([[1]]),
            "video_list": np.array(["a"], object),
        }
        file = io.BytesIO()
        savemat(file, {"RELEASE": release}, do_compression=compressed)
        self.path.write_bytes(file.getvalue())

    def people(self, **options):
        return list(everyone(Mpii(self.path, self.images, **options)))


@pytest.fixture
def official(tmp_path):
    return Official(tmp_path)


def test_people_of_the_official_file_are_read_with_pixels_counted_from_one(official):
    whole = head(annopoints=points(hidden=(0,)))
    official.write(
        [
            picture("015601864.jpg", whole, head(annopoints=points(range(12)))),
            picture("000000001.jpg", whole),
            picture("000000002.jpg"),
            picture("test.jpg", head()),
        ],
        [1, 1, 1, 0],
    )
    first, second, third, unlabelled = official.people()
    assert [one.key for one in (first, second, third)] == [
        "015601864-00",
        "015601864-01",
        "000000001-00",
    ]
    np.testing.assert_allclose(first.keypoints[3], [32.5, 22.5])
    assert first.keypoint_weights.tolist() == [0.5] + [1] * 15
    assert second.keypoint_weights.tolist() == [1] * 12 + [0] * 4
    assert not second.keypoints[12:].any()
    # a hull of 15 px and a tenth of that on every side
    assert first.box == pytest.approx((28, 18, 18, 18))
    assert first.image == official.images / "015601864.jpg"
    assert unlabelled.reason == "1 test images have no public key points"
    source = Mpii(official.path, official.images)
    assert source.joints == "mpii16"
    assert source.description.startswith("MPII key points of mpii_human_pose_v1_u12_1.mat")


def test_a_file_of_a_single_picture_and_person_is_read(official):
    official.write([picture("000000001.jpg", head(annopoints=points()))], [1])
    (person,) = official.people()
    assert person.keypoint_weights.all()


def bad_point(**changes):
    made = points()
    for name, value in changes.items():
        made["point"][name][0, 4] = value
    return made


@pytest.mark.parametrize(
    ("person", "reason"),
    [
        (head(), "has no key points (annopoints)"),
        (head(annopoints=np.zeros((0, 0))), "has no key points (annopoints)"),
        (head(annopoints=points(range(5))), "5 key points are labelled, 10 are needed"),
        (head(annopoints=bad_point(id=16)), "a key point has the id 16, wanted 0..15"),
        (head(annopoints=bad_point(id=-1)), "a key point has the id -1, wanted 0..15"),
        (head(annopoints=bad_point(x=np.nan)), "not a finite number"),
        (head(annopoints=bad_point(y="a")), "not a finite number"),
        (head(annopoints=bad_point(x=500.0)), "outside its image of 100x80"),
    ],
)
def test_a_bad_person_is_left_out_and_the_good_stay(official, person, reason):
    good = head(annopoints=points())
    official.write([picture("000000001.jpg", good, person, good)], [1])
    first, rejected, last = official.people()
    assert (first.key, last.key) == ("000000001-00", "000000001-02")
    assert reason in rejected.reason
    assert rejected.where.endswith("image 1 (000000001.jpg), person 2")


def test_missing_images_cost_their_people_only(official):
    whole = head(annopoints=points())
    nameless = picture("", whole)
    official.write([picture("none.jpg", whole), picture("000000001.jpg", whole), nameless], [1] * 3)
    missing, person, unnamed = official.people()
    assert missing.reason.endswith("none.jpg is missing")
    assert person.key == "000000001-00"
    assert unnamed.reason == "has no image name"


def test_other_matlab_files_are_refused(official):
    savemat(official.path, {"other": 1})
    with pytest.raises(
        InputError, match=r"it has no variable RELEASE; wanted MPII's mpii_human_pose_v1_u12_1\.mat"
    ):
        official.people()
    official.path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"cannot be read as a MATLAB file: .*; wanted MPII's"):
        official.people()
    savemat(official.path, {"RELEASE": {"version": "12"}})
    with pytest.raises(InputError, match=r"wanted MPII's mpii_human_pose_v1_u12_1\.mat"):
        official.people()
    official.path.unlink()
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        official.people()
    official.write([picture("a.jpg"), picture("b.jpg")], [1])
    with pytest.raises(InputError, match="lists 2 images but 1 flags"):
        official.people()


class Json:
    """The list that HRNet and many others read: annot/train.json."""

    def __init__(self, folder):
        self.path, self.images = folder / "train.json", folder / "images"
        self.images.mkdir()
        Image.new("RGB", (100, 80)).save(self.images / "000000001.jpg")
        self.person = {
            "image": "000000001.jpg",
            "joints": [[30.0 + joint, 20.0 + joint] for joint in range(16)],
            "joints_vis": [1] * 16,
            "center": [40.0, 30.0],
            "scale": 0.4,
        }

    def people(self, *people):
        self.path.write_text(json.dumps(people))
        return list(everyone(Mpii(self.path, self.images)))


@pytest.fixture
def listed(tmp_path):
    return Json(tmp_path)


def test_people_of_the_json_list_are_those_of_the_official_file(listed, tmp_path):
    (tmp_path / "mat").mkdir()
    official = Official(tmp_path / "mat")
    official.write([picture("000000001.jpg", head(annopoints=points()))], [1])
    (expected,) = official.people()
    (person,) = listed.people(listed.person)
    np.testing.assert_array_equal(person.keypoints, expected.keypoints)
    np.testing.assert_array_equal(person.keypoint_weights, expected.keypoint_weights)
    assert person.box == expected.box
    assert person.key == "000000001-000000"


@pytest.mark.parametrize("missing", [[-1, -1], [0, 0]])
def test_missing_points_are_told_by_flag_or_by_place(listed, missing):
    listed.person["joints"][0] = missing
    listed.person["joints_vis"][1] = 0
    (person,) = listed.people(listed.person)
    assert person.keypoint_weights.tolist() == [0, 0] + [1] * 14
    del listed.person["joints_vis"]
    (person,) = listed.people(listed.person)
    assert person.keypoint_weights.tolist() == [0, 1] + [1] * 14


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"joints": [[1, 1]] * 15}, "joints must be a list of 16"),
        ({"joints": {}}, "joints must be a list of 16"),
        ({"joints_vis": [1] * 17}, "joints_vis must be a list of 16"),
        ({"joints": [[1]] * 16}, "not a finite number"),
        ({"joints": [["a", 1]] * 16}, "not a finite number"),
        ({"joints_vis": [None] * 16}, "not a finite number"),
        ({"image": 7}, "its image is no file name"),
        ({"image": "other.jpg"}, "other.jpg is missing"),
        ({"joints_vis": [0] * 16}, "0 key points are labelled, 10 are needed"),
    ],
)
def test_a_bad_row_of_the_list_is_left_out_and_the_good_stay(listed, changes, reason):
    first, rejected, last = listed.people(
        listed.person, {**listed.person, **changes}, listed.person
    )
    assert (first.key, last.key) == ("000000001-000000", "000000001-000002")
    assert reason in rejected.reason
    assert rejected.where == f"{listed.path}: person 1"


def test_rows_of_the_test_list_and_other_things_say_what_is_missing(listed):
    del listed.person["joints"]
    test, other = listed.people(listed.person, 7)
    assert test.reason == "has no joints (test images have no public key points)"
    assert other.reason.startswith("is not a person")


def test_a_json_that_is_no_list_is_refused(listed):
    listed.path.write_text('{"images": []}')
    with pytest.raises(InputError, match=r"wanted '\[', got"):
        list(everyone(Mpii(listed.path, listed.images)))


@pytest.mark.parametrize("seed", range(40))
def test_damaged_lists_give_an_error_or_sound_people(listed, seed):
    listed.path.write_text(json.dumps([listed.person] * 3))
    content = listed.path.read_bytes()
    source = Mpii(listed.path, listed.images, min_keypoints=1)
    read_damaged(source, listed.path, broken_bytes(content, seed))
    read_damaged(source, listed.path, broken_json(content, seed))


@pytest.mark.parametrize("seed", range(100))
def test_damaged_matlab_files_give_an_error_or_sound_people(official, seed):
    whole = picture("000000001.jpg", head(annopoints=points()))
    official.write([whole] * 2, [1, 0], compressed=seed % 4 == 0)
    content = official.path.read_bytes()
    source = Mpii(official.path, official.images, min_keypoints=1)
    read_damaged(source, official.path, broken_bytes(content, seed))
