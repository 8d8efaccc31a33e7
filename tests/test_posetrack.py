import json

import numpy as np
import pytest
from PIL import Image

from deformlearn.data.densepose_annotations import PointRules
from deformlearn.data.posetrack import DensePosePoseTrack, frame_number
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set
from mutations import broken_bytes, broken_json
from readers import everyone, read_damaged

NAMES = list(joint_set("posetrack17").names)


class PoseTrack:
    """densepose_only_posetrack_train2017.json with one person in the first of two frames."""

    def __init__(self, folder):
        self.path, self.root = folder / "densepose_only_posetrack_train2017.json", folder / "root"
        self.frames = self.root / "images" / "train" / "000342_mpii_train"
        self.frames.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (100, 80)).save(self.frames / f"{number:06d}.jpg")
        self.images = [
            {
                "id": 10003420000 + number,
                "frame_id": 10003420000 + number,
                "vid_id": "000342",
                "nframes": 2,
                "is_labeled": True,
                "file_name": f"images/train/000342_mpii_train/{number:06d}.jpg",
                "width": 100,
                "height": 80,
                "ignore_regions_x": [],
                "ignore_regions_y": [],
            }
            for number in range(2)
        ]
        self.person = {
            "id": 1000342000001,
            "image_id": 10003420000,
            "track_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [20, 10, 60, 60],
            "bbox_head": [30, 10, 10, 10],
            "scores": [],
            "keypoints": [n for joint in range(17) for n in (30 + joint, 20 + joint, 1)],
            "dp_I": [1.0] * 20,
            "dp_U": [0.5] * 20,
            "dp_V": [0.5] * 20,
            "dp_x": [10.0 * n for n in range(20)],
            "dp_y": [10.0 * n for n in range(20)],
            "dp_masks": [[]] * 14,
        }
        self.content = {
            "images": self.images,
            "annotations": [self.person],
            "categories": [
                {"id": 1, "name": "person", "supercategory": "person", "keypoints": NAMES}
            ],
        }

    def source(self, **options):
        self.path.write_text(json.dumps(self.content))
        return DensePosePoseTrack(self.path, self.root, PointRules(**options))

    def people(self, **options):
        return list(everyone(self.source(**options)))


@pytest.fixture
def posetrack(tmp_path):
    return PoseTrack(tmp_path)


def test_a_person_is_one_of_a_track_of_a_video(posetrack):
    posetrack.content["annotations"].append(
        {**posetrack.person, "id": 1000342000101, "image_id": 10003420001}
    )
    first, second = posetrack.people()
    assert first.subject == second.subject == "000342/1"
    assert (first.frame, second.frame) == (0, 1)
    assert first.key == "000342_000000-1000342000001"
    assert first.image == posetrack.frames / "000000.jpg"
    np.testing.assert_allclose(first.dense.pixels[0], [20, 10])
    assert posetrack.source().joints == "posetrack17"


def test_labelled_key_points_are_whole_although_v_is_one(posetrack):
    posetrack.person["keypoints"][9:12] = [0, 0, 0]
    (person,) = posetrack.people()
    assert person.keypoint_weights.tolist() == [1, 1, 1, 0] + [1] * 13
    np.testing.assert_allclose(person.keypoints[1], [31.5, 21.5])


def test_names_decide_which_key_point_is_which(posetrack):
    swapped = [NAMES[0], NAMES[2], NAMES[1], *NAMES[3:]]
    posetrack.content["categories"][0]["keypoints"] = swapped
    (person,) = posetrack.people()
    np.testing.assert_allclose(person.keypoints[NAMES.index("head_bottom"), 0], 32.5)


@pytest.mark.parametrize("categories", [None, [], [{"id": 1, "name": "person"}], ["person"]])
def test_without_names_of_key_points_the_file_is_refused(posetrack, categories):
    posetrack.content["categories"] = categories
    with pytest.raises(InputError, match="categories without key-point names"):
        next(posetrack.source().entries())


def test_frames_without_densepose_are_left_out_unless_key_points_will_do(posetrack):
    posetrack.images[0]["has_no_densepose"] = True
    for name in ("dp_I", "dp_U", "dp_V", "dp_x", "dp_y", "dp_masks"):
        del posetrack.person[name]
    (rejected,) = posetrack.people()
    assert rejected.reason == "its frame has no DensePose annotations (has_no_densepose)"
    (person,) = posetrack.people(keypoints_only=True)
    assert person.dense is None
    posetrack.images[0]["has_no_densepose"] = False
    (rejected,) = posetrack.people()
    assert rejected.reason == "has no DensePose annotation: no dp_x"


def test_two_people_of_one_track_in_one_frame_are_one_too_many(posetrack):
    posetrack.content["annotations"].append({**posetrack.person, "id": 2})
    first, rejected = posetrack.people()
    assert first.subject == "000342/1"
    assert rejected.reason == "its track 1 occurs more than once in its frame"
    for annotation in posetrack.content["annotations"]:
        del annotation["track_id"]
    first, second = posetrack.people()
    assert first.subject == second.subject == "000342"


@pytest.mark.parametrize("nested", [True, False])
def test_people_in_regions_to_be_ignored_are_left_out(posetrack, nested):
    around, beside = ([15, 90, 90, 15], [5, 5, 75, 75]), ([0, 5, 5, 0], [0, 0, 79, 79])
    for (x, y), kept in ((around, False), (beside, True)):
        image = posetrack.images[0]
        image["ignore_regions_x"] = [x] if nested else x
        image["ignore_regions_y"] = [y] if nested else y
        (found,) = posetrack.people()
        assert hasattr(found, "dense") == kept
        if not kept:
            assert "marked to be ignored" in found.reason


def test_a_region_is_its_polygon_and_not_its_box(posetrack):
    """The person lies on the diagonal, the region's corner of the box is empty there."""
    posetrack.images[0]["ignore_regions_x"] = [[0, 99, 99, 97, 97, 0]]
    posetrack.images[0]["ignore_regions_y"] = [[0, 0, 79, 79, 2, 2]]
    (person,) = posetrack.people()
    assert person.dense is not None


@pytest.mark.parametrize(
    "regions",
    [([[1, 2, 3]], [[1, 2]]), ([[1, 2, 3]], []), ("a", "b"), ([["x"] * 3], [["y"] * 3]), (7, 8)],
)
def test_regions_that_are_no_polygons_are_refused(posetrack, regions):
    posetrack.images[0]["ignore_regions_x"], posetrack.images[0]["ignore_regions_y"] = regions
    (rejected,) = posetrack.people()
    assert "are no polygons" in rejected.reason


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"frame_id": 10003420017, "file_name": "a/000003.jpg"}, 17),
        ({"file_name": "a/000003.jpg"}, 3),
        ({"frame_id": None, "file_name": "a/00000012.jpg"}, 12),
        ({"frame_id": [], "file_name": "a/frame.jpg"}, 0),
    ],
)
def test_a_frame_is_numbered_in_its_video(image, expected):
    assert frame_number(image) == expected


def test_a_missing_frame_costs_its_people_only(posetrack):
    posetrack.content["annotations"].append({**posetrack.person, "id": 2, "image_id": 10003420001})
    (posetrack.frames / "000001.jpg").unlink()
    person, rejected = posetrack.people()
    assert person.frame == 0
    assert rejected.reason.endswith("000001.jpg is missing")


def test_without_a_video_id_the_folder_names_the_video(posetrack):
    del posetrack.images[0]["vid_id"]
    (person,) = posetrack.people()
    assert person.subject == "000342_mpii_train/1"
    assert "densepose_only_posetrack_train2017.json" in posetrack.source().description


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_give_an_error_or_sound_people(posetrack, seed):
    posetrack.images[0]["ignore_regions_x"] = [[0, 5, 5]]
    posetrack.images[0]["ignore_regions_y"] = [[0, 0, 5]]
    source = posetrack.source(min_points=1, keypoints_only=True)
    content = posetrack.path.read_bytes()
    read_damaged(source, posetrack.path, broken_bytes(content, seed))
    read_damaged(source, posetrack.path, broken_json(content, seed))
