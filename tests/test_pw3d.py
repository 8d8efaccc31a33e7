"""Sequence files written as Python 2 wrote the official ones."""

import io
import pickle
import struct
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deformlearn.data.pw3d import Pw3d, Pw3dDetected
from deformlearn.data.soundness import Rejected
from deformlearn.errors import InputError
from deformlearn.skeleton import SEGMENTS, joint_set
from readers import sorted_out

FRAMES, WIDTH, HEIGHT = 6, 270, 480


class Python2Pickler(pickle._Pickler):
    """Protocol 2 with the strings of Python 2: text and bytes are one type."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_string(self, text):
        raw = text.encode("latin1") if isinstance(text, str) else text
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string


def dumped(content):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


def joints(number, frame):
    """A person 1.7 m tall who stands at a place of the world that tells who and when."""
    rng = np.random.default_rng(7)
    places = rng.uniform(-0.3, 0.3, (24, 3))
    places[:, 1] = np.linspace(-0.7, 0.7, 24)
    return places + np.array([3 + 0.4 * number, 1 + 0.01 * frame, 2])


def camera(frame):
    """World to camera: turned about y and moved."""
    angle = 0.3 + 0.02 * frame
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)],
    ]  # fmt: skip
    matrix[:3, 3] = [-3.5, -1, 4]
    return matrix


def sequence(name="downtown_walking_00", people=2, **changes):
    content = {
        "sequence": name,
        "genders": ["m", "f"][:people],
        "poses": [np.zeros((FRAMES, 72)) for _ in range(people)],
        "betas": [np.zeros(10) for _ in range(people)],
        "trans": [np.zeros((FRAMES, 3)) for _ in range(people)],
        "jointPositions": [
            np.stack([joints(number, frame).reshape(72) for frame in range(FRAMES)])
            for number in range(people)
        ],
        "campose_valid": [np.ones(FRAMES, dtype=np.uint32) for _ in range(people)],
        "poses2d": [
            np.stack([np.full((3, 18), number + frame / 10) for frame in range(FRAMES)])
            for number in range(people)
        ],
        "cam_poses": np.stack([camera(frame) for frame in range(FRAMES)]),
        "cam_intrinsics": np.array([[400.0, 0, 130], [0, 410, 250], [0, 0, 1]]),
        "img_frame_ids": np.arange(FRAMES) * 2,
    } | changes
    return {name: value for name, value in content.items() if value is not None}


def write(folder, content=None, split="test", name="downtown_walking_00"):
    path = folder / "sequenceFiles" / split / f"{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dumped(sequence(name) if content is None else content))
    images = folder / "imageFiles" / name
    images.mkdir(parents=True, exist_ok=True)
    for frame in range(FRAMES):
        Image.new("RGB", (WIDTH, HEIGHT)).save(images / f"image_{frame:05d}.jpg")
    return path


@pytest.mark.parametrize("run", [1, 4, 32])
def test_everybody_of_every_frame_is_read(tmp_path, run):
    write(tmp_path)
    write(tmp_path, sequence("office_00", people=1), name="office_00")
    people, rejected = sorted_out(Pw3d(tmp_path, run=run))
    assert not rejected
    assert [one.key for one in people[:3]] == [
        "downtown_walking_00_00000_p0", "downtown_walking_00_00000_p1",
        "downtown_walking_00_00001_p0",
    ]  # fmt: skip
    assert len(people) == 2 * FRAMES + FRAMES
    assert people[2].image == tmp_path / "imageFiles/downtown_walking_00/image_00001.jpg"
    assert people[2].image.is_file()
    assert (people[3].subject, people[3].frame) == ("downtown_walking_00_p1", 1)


def test_truth_is_in_the_axes_of_the_camera_and_key_points_are_its_projection(tmp_path):
    write(tmp_path)
    people, _ = sorted_out(Pw3d(tmp_path))
    one = people[2 * 3 + 1]
    place = np.append(joints(1, 3)[5], 1.0)
    expected = (camera(3) @ place)[:3]
    np.testing.assert_allclose(one.joints_mm[5], 1000 * expected)
    x, y = 400 * expected[0] / expected[2] + 130, 410 * expected[1] / expected[2] + 250
    np.testing.assert_allclose(one.keypoints[5], [x, y])
    assert one.joints_mm.shape == (24, 3)
    assert (one.keypoint_weights == 1).all()


def test_the_box_holds_all_joints_and_reaches_above_the_head(tmp_path):
    upright = sequence(people=1)
    places = np.zeros((24, 3))
    places[:, 1] = np.linspace(0.8, -0.5, 24)
    places[:, 0] = np.linspace(-0.3, 0.3, 24)
    # Image axes: y down.
    places[SEGMENTS.index("neck")] = [0, -0.5, 0]
    places[SEGMENTS.index("head")] = [0, -0.6, 0]
    upright["jointPositions"] = [np.tile(places.reshape(72), (FRAMES, 1))]
    upright["cam_poses"] = np.tile(np.eye(4), (FRAMES, 1, 1))
    upright["cam_poses"][:, 2, 3] = 5
    write(tmp_path, upright)
    (one, *_), _ = sorted_out(Pw3d(tmp_path))
    x, y, width, height = one.box
    assert (one.keypoints > [x, y]).all()
    assert (one.keypoints < [x + width, y + height]).all()
    top_of_head = 410 * -0.8 / 5 + 250
    assert y < top_of_head < one.keypoints[:, 1].min()


def test_frames_without_an_aligned_camera_are_listed(tmp_path):
    valid = np.ones(FRAMES, dtype=np.uint32)
    valid[2] = 0
    write(tmp_path, sequence(campose_valid=[valid, np.ones(FRAMES, dtype=bool)]))
    people, rejected = sorted_out(Pw3d(tmp_path))
    assert len(people) == 2 * FRAMES - 1
    assert [one.where for one in rejected] == ["downtown_walking_00.pkl person 0 frame 2"]
    assert "campose_valid" in rejected[0].reason


def test_steps_and_splits(tmp_path):
    write(tmp_path, split="validation")
    people, _ = sorted_out(Pw3d(tmp_path, "validation", every=4))
    assert [one.frame for one in people] == [0, 0, 4, 4]
    assert "validation" in Pw3d(tmp_path, "validation", every=4).description
    with pytest.raises(InputError, match=r"holds no \.pkl"):
        list(Pw3d(tmp_path, "train").entries())
    with pytest.raises(InputError, match=r"no split 'tset'; it has train, validation, test"):
        Pw3d(tmp_path, "tset")
    with pytest.raises(InputError, match="every 1 or more"):
        Pw3d(tmp_path, every=0)


def test_detections_may_be_the_key_points(tmp_path):
    write(tmp_path)
    source = Pw3dDetected(tmp_path)
    people, rejected = sorted_out(source)
    assert len(joint_set(source.joints)) == 18
    assert not source.has_truth
    one = people[2 * 3]
    np.testing.assert_allclose(one.keypoints, np.full((18, 2), 1.3))
    np.testing.assert_allclose(one.keypoint_weights, np.full(18, 1.3))
    assert one.joints_mm is None
    (unseen,) = rejected
    assert unseen.where == "downtown_walking_00.pkl person 0 frame 0"
    assert "OpenPose did not see" in unseen.reason


def test_bad_rows_are_named_and_the_others_kept(tmp_path):
    content = sequence()
    content["jointPositions"][0][1, 7] = np.nan
    content["cam_poses"][2, 0, 3] = np.inf
    content["jointPositions"][1][3] *= -20
    content["jointPositions"][1][4, 1::3] += 500
    write(tmp_path, content)
    images = tmp_path / "imageFiles" / "downtown_walking_00"
    (images / "image_00005.jpg").unlink()
    people, rejected = sorted_out(Pw3d(tmp_path))
    assert len(people) == 2 * FRAMES - 7
    told = {one.where.partition(" ")[2]: one.reason for one in rejected}
    assert "NaN" in told["person 0 frame 1"]
    assert "NaN" in told["person 0 frame 2"]
    assert "NaN" in told["person 1 frame 2"]
    assert "behind the camera" in told["person 1 frame 3"]
    assert "outside the image of 270 x 480" in told["person 1 frame 4"]
    assert "is missing" in told["person 0 frame 5"]


def test_frame_counts_that_differ_are_said_and_the_common_frames_used(tmp_path):
    content = sequence()
    content["poses2d"][1] = content["poses2d"][1][:4]
    path = write(tmp_path, content)
    Image.new("RGB", (WIDTH, HEIGHT)).save(
        tmp_path / "imageFiles" / "downtown_walking_00" / "image_00006.jpg"
    )
    people, (uneven, images) = sorted_out(Pw3d(tmp_path))
    assert len(people) == 8
    assert uneven == Rejected(
        str(path),
        "frame counts differ (6 in cam_poses, 6 in jointPositions, 6 in campose_valid, 4 in poses2d)",
    )
    assert "7 images but 4 frames" in images.reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cam_poses": None, "poses2d": None}, "has no field poses2d, cam_poses"),
        ({"cam_poses": np.zeros((6, 3, 4))}, "cam_poses is float64 of the shape (6, 3, 4); wanted"),
        ({"cam_intrinsics": np.full((3, 3), np.nan)}, "cam_intrinsics is NaN"),
        ({"jointPositions": [np.zeros((6, 66))] * 2}, "jointPositions of person 0 is float64"),
        ({"jointPositions": 5}, "jointPositions is no list"),
        ({"jointPositions": [[[0.0] * 72, [0.0]]] * 2}, "is no array of numbers"),
        ({"jointPositions": [np.zeros((6, 72))]}, "different numbers of people: 1 in jointPosi"),
        ({"jointPositions": [], "campose_valid": [], "poses2d": []}, "0 in jointPositions"),
        ({"campose_valid": ["yes", "no"]}, "campose_valid of person 0 is"),
        ({"sequence": "../../etc"}, "which is no folder"),
    ],
)
def test_a_sequence_with_wrong_fields_is_left_out_and_named(tmp_path, changes, words):
    path = write(tmp_path, sequence(**changes))
    write(tmp_path, sequence("office_00"), name="office_00")
    people, (rejected,) = sorted_out(Pw3d(tmp_path))
    assert len(people) == 2 * FRAMES
    assert rejected.where == str(path)
    assert words in rejected.reason


def test_truncated_foreign_and_hostile_files_are_left_out(tmp_path):
    whole = write(tmp_path)
    folder = whole.parent
    (folder / "cut.pkl").write_bytes(whole.read_bytes()[:-500])
    (folder / "list.pkl").write_bytes(dumped([1, 2]))
    (folder / "text.pkl").write_text("no pickle")
    (folder / "evil.pkl").write_bytes(
        b"cos\nsystem\n(S'touch " + str(tmp_path / "x").encode() + b"'\ntR."
    )
    people, rejected = sorted_out(Pw3d(tmp_path))
    assert len(people) == 2 * FRAMES
    told = {one.where.rpartition("/")[2]: one.reason for one in rejected}
    assert set(told) == {"cut.pkl", "list.pkl", "text.pkl", "evil.pkl"}
    assert "system" in told["evil.pkl"]
    assert "holds list; wanted a sequence of 3DPW" in told["list.pkl"]
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    path = write(folder)
    return folder, path, path.read_bytes()


@pytest.mark.filterwarnings("default")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_file_gives_sound_people_or_says_why_not(whole, data):
    folder, path, original = whole
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    people, rejected = sorted_out(data.draw(st.sampled_from([Pw3d, Pw3dDetected]))(folder))
    assert not any("\n" in one.reason for one in rejected)
    for one in people:
        assert np.isfinite(one.keypoints).all()
        assert np.isfinite(one.box).all()
        assert one.joints_mm is None or np.isfinite(one.joints_mm).all()
