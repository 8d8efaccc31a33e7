import json

import numpy as np
import pytest
from PIL import ExifTags, Image

from deformlearn.data.openpose import OpenPose
from deformlearn.data.sources import Frame
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set
from mutations import broken_bytes, broken_json
from readers import everyone, read_damaged


def person(joints=25, spelling="pose_keypoints_2d", shift=0.0):
    values = [n for joint in range(joints) for n in (30 + shift + joint, 20.25 + joint, 0.5)]
    return {
        "person_id": [-1],
        spelling: values,
        "face_keypoints_2d": [],
        "hand_left_keypoints_2d": [],
        "hand_right_keypoints_2d": [],
    }


class Written:
    """What OpenPose's --write_json leaves behind, and the images."""

    def __init__(self, folder):
        self.keypoints, self.images = folder / "json", folder / "images"
        self.keypoints.mkdir()
        self.images.mkdir()

    def file(self, stem, people, version=1.3, suffix=".jpg"):
        Image.new("RGB", (100, 80)).save(self.images / f"{stem}{suffix}")
        path = self.keypoints / f"{stem}_keypoints.json"
        path.write_text(json.dumps({"version": version, "people": people}))
        return path

    def people(self, **options):
        return list(everyone(OpenPose(self.keypoints, self.images, **options)))


@pytest.fixture
def written(tmp_path):
    return Written(tmp_path)


def test_everyone_of_an_image_is_found_with_their_confidences(written):
    written.file("b", [person(), person(shift=20.0)])
    written.file("a", [person()], suffix=".PNG")
    written.file("empty", [])
    found = written.people()
    assert [one.key for one in found] == ["a-00", "b-00", "b-01"]
    assert found[0].image == written.images / "a.PNG"
    np.testing.assert_allclose(found[0].keypoints[3], [33, 23.25])
    assert (found[0].keypoint_weights == 0.5).all()
    # the hull of 24 x 24 px and a tenth of that on every side
    assert found[0].box == pytest.approx((27.6, 17.85, 28.8, 28.8))
    source = OpenPose(written.keypoints, written.images)
    assert source.joints == "body25"
    assert source.description == "OpenPose's key points of json, people with at least 10"


@pytest.mark.parametrize("spelling", ["pose_keypoints", "pose_keypoints_2d"])
@pytest.mark.parametrize(("count", "joints"), [(18, "openpose18"), (25, "body25")])
def test_both_spellings_and_bodies_are_read(written, spelling, count, joints):
    written.file("a", [person(count, spelling)])
    assert OpenPose(written.keypoints, written.images).joints == joints
    (found,) = written.people()
    assert len(found.keypoints) == len(joint_set(joints)) == count


def test_zeros_are_missing(written):
    one = person()
    one["pose_keypoints_2d"][:6] = [0, 0, 0.9, 50, 40, 0]
    written.file("a", [one])
    (found,) = written.people()
    assert found.keypoint_weights[:3].tolist() == [0, 0, 0.5]
    assert not found.keypoints[:2].any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pose_keypoints_2d": [1] * 54}, "has 54 numbers (openpose18), wanted 75 (body25)"),
        ({"pose_keypoints_2d": [1] * 45}, "has 45 numbers (no body known here)"),
        ({"pose_keypoints_2d": ["x"] * 75}, "is not a number"),
        ({"pose_keypoints_2d": [float("nan")] * 75}, "not a finite number"),
        ({"pose_keypoints_2d": [30, 20, -1] * 25}, "confidence is negative"),
        ({"pose_keypoints_2d": [300, 20, 1] * 25}, "outside its image of 100x80"),
        ({"pose_keypoints_2d": [0] * 75}, "0 key points were found, 10 are needed"),
        ({"pose_keypoints_2d": None}, "neither pose_keypoints_2d nor pose_keypoints"),
    ],
)
def test_a_bad_person_is_left_out_and_the_others_stay(written, change, reason):
    path = written.file("a", [person(), {**person(), **change}, person()])
    first, rejected, last = written.people()
    assert (first.key, last.key) == ("a-00", "a-02")
    assert reason in rejected.reason
    assert rejected.where == f"{path}: person 1"


def scaled(to):
    one = person()
    values = np.array(one["pose_keypoints_2d"]).reshape(-1, 3)
    values[:, :2] = to(values[:, :2] / [100, 80])
    one["pose_keypoints_2d"] = values.ravel().tolist()
    return one


@pytest.mark.parametrize(
    ("scale", "to", "named"), [(3, lambda x: x, "3 (or 4)"), (4, lambda x: 2 * x - 1, "4")]
)
def test_normalised_output_is_told_from_pixels_and_read_when_asked_for(written, scale, to, named):
    written.file("a", [scaled(to)])
    (rejected,) = written.people()
    assert f"in [-1, 1], as --keypoint_scale {named} writes them" in rejected.reason
    (found,) = written.people(keypoint_scale=scale)
    np.testing.assert_allclose(found.keypoints[3], [33, 23.25])


def test_people_of_a_video_are_of_its_frames(written, tmp_path):
    video = tmp_path / "dance.mp4"
    video.write_bytes(b"")
    written.file("dance_000000000012", [person()])
    written.file("other", [person()])
    found, rejected = everyone(OpenPose(written.keypoints, video))
    assert found.image == Frame(video, 12)
    assert found.frame == 12
    assert rejected.reason == "its name is not of a frame of the video dance.mp4"
    (_, cannot) = everyone(OpenPose(written.keypoints, video, keypoint_scale=3))
    assert "other" in cannot.where


def test_scaled_key_points_of_a_video_are_refused(written, tmp_path):
    video = tmp_path / "dance.mp4"
    video.write_bytes(b"")
    written.file("dance_000000000012", [person()])
    (rejected,) = everyone(OpenPose(written.keypoints, video, keypoint_scale=3))
    assert "run OpenPose with --keypoint_scale 0" in rejected.reason


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_a_photograph_that_is_stored_turned_costs_its_people(written, suffix):
    for orientation in (0, 1, 6):
        written.file(f"a{orientation}", [person()], suffix=suffix)
        image = Image.new("RGB", (100, 80))
        image.getexif()[ExifTags.Base.Orientation] = orientation
        image.save(written.images / f"a{orientation}{suffix}", exif=image.getexif())
    first, second, rejected = written.people()
    assert (first.key, second.key) == ("a0-00", "a1-00")
    assert "a6" in rejected.where
    assert "stored turned (EXIF orientation)" in rejected.reason


def test_a_missing_image_and_a_broken_file_cost_their_people_only(written):
    written.file("a", [person()])
    written.file("b", [person()])
    (written.images / "b.jpg").unlink()
    written.file("c", [person()]).write_text('{"people": [')
    written.file("d", [person()]).write_text('{"version": 1.3}')
    written.file("e", [person()]).write_text("[]")
    found, *rejected = written.people()
    assert found.key == "a-00"
    reasons = [one.reason for one in rejected]
    assert "is missing" in reasons[0]
    assert "ends too early" in reasons[1]
    assert "has no list of people" in reasons[2]
    assert "is no json object" in reasons[3]


def test_the_first_person_decides_the_body_whatever_stands_before(written):
    written.file("a", []).write_text("nonsense")
    written.file("b", [])
    written.file("c", [person(18)])
    assert OpenPose(written.keypoints, written.images).joints == "openpose18"


def test_folders_without_openpose_files_or_people_are_refused(written, tmp_path):
    source = OpenPose(written.keypoints, written.images)
    with pytest.raises(InputError, match=r"holds no \*_keypoints.json"):
        list(source.entries())
    written.file("a", [])
    with pytest.raises(InputError, match="nobody with 75 or 54 numbers"):
        list(source.entries())
    with pytest.raises(InputError, match="no folder of OpenPose's"):
        list(OpenPose(tmp_path / "none", written.images).entries())
    written.file("a", [person()])
    with pytest.raises(InputError, match="no folder of images, and no video"):
        list(OpenPose(written.keypoints, tmp_path / "none").entries())


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_give_an_error_or_sound_people(written, seed):
    written.file("good", [person()])
    path = written.file("bad", [person(), person(18)])
    content = path.read_bytes()
    source = OpenPose(written.keypoints, written.images, min_keypoints=1)
    read_damaged(source, path, broken_bytes(content, seed))
    read_damaged(source, path, broken_json(content, seed))
